"""`@rows`: a table that one test walks. It takes the same arguments as `pytest.mark.parametrize`.

An item costs milliseconds to collect, in each of pytest's processes, and more to run. Where a row costs less than that,
its table belongs in one test. Where rows do real work, or each needs fixtures of its own, `parametrize` is right: the
fixtures of a test with `@rows` are set up once for the whole table; `@fresh` below it gives each row its own.

All rows run, also after one has failed. The failure names every row that failed, with its traceback.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any, NamedTuple

import pytest

FAILURES = (Exception, pytest.fail.Exception, pytest.skip.Exception)
"""What fails a row. A row that wants to be skipped belongs in `parametrize`: here, nobody would see it."""


class Row(NamedTuple):
    id: str
    cells: dict[str, Any]


def rows(
    names: str | Sequence[str],
    table: Iterable[Any],
    ids: Iterable[str] | Callable[[Any], object] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Run the test for every row of `table`, whose cells are the arguments `names`. Several `@rows` above one test
    give every combination. `ids` names the rows, or is a function that names a cell."""
    columns = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    values = [_values(columns, each) for each in table]
    assert values, f"the table of {', '.join(columns)} is empty"
    if ids is None or callable(ids):
        labels = ["-".join(_label(cell, ids) for cell in each) for each in values]
    else:
        labels = list(ids)
    made = [
        Row(label, dict(zip(columns, each, strict=True))) for label, each in zip(labels, values, strict=True)
    ]

    def decorate(test: Callable[..., Any]) -> Callable[..., Any]:
        body = getattr(test, "rows_body", test)
        tables = [*getattr(test, "rows_tables", ()), made]

        @functools.wraps(body)
        def walk(*args: Any, **fixtures: Any) -> None:
            failures: list[BaseException] = []
            for combination in product(*tables):
                try:
                    body(*args, **fixtures, **_cells(combination))
                except FAILURES as failure:
                    failures.append(_named(failure, combination))
            _report(failures, tables)

        @functools.wraps(body)
        async def walk_async(*args: Any, **fixtures: Any) -> None:
            failures: list[BaseException] = []
            for combination in product(*tables):
                try:
                    await body(*args, **fixtures, **_cells(combination))
                except FAILURES as failure:
                    failures.append(_named(failure, combination))
            _report(failures, tables)

        walker: Any = walk_async if inspect.iscoroutinefunction(body) else walk
        signature = inspect.signature(test)
        missing = set(columns) - set(signature.parameters)
        assert not missing, f"{body.__qualname__} takes no {', '.join(sorted(missing))}"
        left = [each for name, each in signature.parameters.items() if name not in columns]
        walker.__signature__ = signature.replace(parameters=left)
        walker.rows_body, walker.rows_tables = body, tables
        result: Callable[..., Any] = walker
        return result

    return decorate


def fresh(
    **contexts: Callable[..., contextlib.AbstractAsyncContextManager[Any]],
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give each call of an asynchronous test, and so each row of `@rows` above it, objects of its own.

    Each of `contexts` returns an asynchronous context manager, and is the test's argument of that name. It may take
    those before it as arguments of their names: `@fresh(origin=ScriptedOrigin, harness=lambda origin: ...)`.
    """

    def decorate(test: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(test)
        async def call(*args: Any, **given: Any) -> None:
            async with contextlib.AsyncExitStack() as stack:
                made: dict[str, Any] = {}
                for name, context in contexts.items():
                    needs = inspect.signature(context).parameters
                    ready = {each: value for each, value in made.items() if each in needs}
                    made[name] = await stack.enter_async_context(context(**ready))
                wanted = inspect.signature(test).parameters
                await test(*args, **given, **{name: value for name, value in made.items() if name in wanted})

        signature = inspect.signature(test)
        left = [each for name, each in signature.parameters.items() if name not in contexts]
        result: Any = call
        result.__signature__ = signature.replace(parameters=left)
        return call

    return decorate


def _values(columns: list[str], row: Any) -> tuple[Any, ...]:
    return (row,) if len(columns) == 1 else tuple(row)


def _label(cell: Any, ids: Callable[[Any], object] | None) -> str:
    named = ids(cell) if ids else None
    if named is None:
        named = cell if isinstance(cell, str) else repr(cell)
    text = ascii(str(named))[1:-1]
    return text if len(text) <= 60 else f"{text[:57]}..."


def _cells(combination: tuple[Row, ...]) -> dict[str, Any]:
    return {name: cell for row in combination for name, cell in row.cells.items()}


def _named(failure: BaseException, combination: tuple[Row, ...]) -> BaseException:
    failure.add_note(f"row: {_id(combination)}")
    return failure


def _id(combination: tuple[Row, ...]) -> str:
    return "-".join(row.id for row in combination)


def _report(failures: list[BaseException], tables: list[list[Row]]) -> None:
    if failures:
        count = functools.reduce(lambda so_far, table: so_far * len(table), tables, 1)
        named = "".join(f"\n  {failure.__notes__[-1]}" for failure in failures)
        raise BaseExceptionGroup(f"{len(failures)} of {count} rows failed:{named}\n", failures)
