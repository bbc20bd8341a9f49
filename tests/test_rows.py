"""Tests of `@rows`: that every row runs, and that a failure says which rows failed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from tests.rows import rows


def test_every_row_runs_after_one_that_fails() -> None:
    seen = []

    @rows(("number", "text"), [(1, "one"), (2, "two"), (3, "three")])
    def test(number: int, text: str) -> None:
        seen.append(number)
        assert text == "two", f"{text} is not two"

    with pytest.raises(
        ExceptionGroup, match=r"2 of 3 rows failed:\n  row: 1-one\n  row: 3-three\n"
    ) as caught:
        test()
    assert seen == [1, 2, 3]
    assert [str(failure).partition("\n")[0] for failure in caught.value.exceptions] == [
        "one is not two",
        "three is not two",
    ]


def test_two_tables_give_every_combination_and_fixtures_remain() -> None:
    seen = []

    @rows("letter", "ab")
    @rows("number", [1, 2])
    def test(fixture: str, letter: str, number: int) -> None:
        seen.append((fixture, letter, number))

    assert list(inspect.signature(test).parameters) == ["fixture"]
    test(fixture="x")
    assert sorted(seen) == [("x", "a", 1), ("x", "a", 2), ("x", "b", 1), ("x", "b", 2)]


def test_every_kind_of_failure_counts() -> None:
    stop: list[Callable[[], Any]] = [
        lambda: pytest.fail("failed"),
        lambda: pytest.skip("skipped"),
        lambda: int("no number"),
        lambda: None,
    ]

    @rows("how", stop, ids=["fail", "skip", "raise", "pass"])
    def test(how: Callable[[], Any]) -> None:
        how()

    with pytest.raises(
        BaseExceptionGroup, match=r"3 of 4 rows failed:\n  row: fail\n  row: skip\n  row: raise"
    ):
        test()


async def test_a_test_that_is_a_coroutine_is_awaited_for_each_row() -> None:
    seen = []

    @rows("number", [1, 2, 3])
    async def test(number: int) -> None:
        seen.append(number)
        assert number != 2

    with pytest.raises(ExceptionGroup, match="1 of 3 rows failed"):
        await test()
    assert seen == [1, 2, 3]


@pytest.mark.parametrize(
    ("names", "table", "message"),
    [("number", [], "is empty"), ("nmuber", [1], "takes no nmuber")],
)
def test_a_table_that_would_test_nothing_is_an_error(names: str, table: list[int], message: str) -> None:
    with pytest.raises(AssertionError, match=message):

        @rows(names, table)
        def test(number: int) -> None: ...


@rows("text", ["a", "b"])
@pytest.mark.parametrize("number", [1, 2])
def test_parametrize_goes_with_it(text: str, number: int) -> None:
    assert text in "ab"
    assert number in {1, 2}
