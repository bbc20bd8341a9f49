"""Tests that the work caused by input stays proportional to its size. `fuzz/cost.py` has the input shapes and the
measure."""

from __future__ import annotations

import pytest
from fuzz.cost import ANSWERS, READERS, RULES, SHAPES, case, costs

from tests.rows import rows


@pytest.mark.parametrize("rule", RULES)
def test_what_the_headers_of_a_request_cost(rule: str) -> None:
    wrong = {shape: found for shape in SHAPES if (found := costs(SHAPES[shape], RULES[rule]))}
    assert not wrong


@pytest.mark.parametrize("rule", ANSWERS)
def test_what_the_headers_of_an_origins_answer_cost(rule: str) -> None:
    wrong = {shape: found for shape in SHAPES if (found := costs(SHAPES[shape], ANSWERS[rule]))}
    assert not wrong


@rows("name", READERS)
def test_what_reading_costs(name: str) -> None:
    make, read = READERS[name]
    assert not costs(make, read)


def test_what_random_shapes_cost() -> None:
    assert [wrong for number in range(100) for wrong in case(9, number)] == []
