"""Tests that the work caused by input stays proportional to its size. `fuzz/cost.py` has the input shapes and the
measure. With `--long`, larger inputs are compared."""

from __future__ import annotations

import pytest
import urllib3  # noqa: F401 - opens a socket when it is imported, which botocore does when it is first needed
from fuzz.cost import ANSWERS, COMPARED, LARGEST, READERS, RULES, SHAPES, case, costs

from tests.rows import rows

pytestmark = pytest.mark.skipif(
    "sys.gettrace() is not None", reason="tracing every line costs more than what is measured"
)


@pytest.fixture(scope="module")
def compared(pytestconfig: pytest.Config) -> tuple[int, int]:
    return LARGEST if pytestconfig.getoption("--long") else COMPARED


@pytest.mark.parametrize("rule", RULES)
def test_what_the_headers_of_a_request_cost(rule: str, compared: tuple[int, int]) -> None:
    wrong = {shape: found for shape in SHAPES if (found := costs(SHAPES[shape], RULES[rule], compared))}
    assert not wrong


@pytest.mark.parametrize("rule", ANSWERS)
def test_what_the_headers_of_an_origins_answer_cost(rule: str, compared: tuple[int, int]) -> None:
    wrong = {shape: found for shape in SHAPES if (found := costs(SHAPES[shape], ANSWERS[rule], compared))}
    assert not wrong


@rows("name", READERS)
def test_what_reading_costs(name: str, compared: tuple[int, int]) -> None:
    make, read = READERS[name]
    assert not costs(make, read, compared)


def test_what_random_shapes_cost(compared: tuple[int, int]) -> None:
    assert [wrong for number in range(100) for wrong in case(9, number, compared)] == []
