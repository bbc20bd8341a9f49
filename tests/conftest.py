"""What all tests share: their tiers, and the edge's event loop, which is uvloop's here too.

`--tier unit` runs the files of that tier alone (`tests/tiers.py`). A module that must work on asyncio's own loop too
says `EVENT_LOOPS = ("uvloop", "asyncio")`. What takes minutes runs with `--long` only; a module of a minute says
`FIRST = True`, so that nobody waits for it in the end; after it come the stories, then the many short tests. Bytecode
is written: without it each of the hundreds of processes that tests start would compile all of Keyfront. Property tests
try the same cases at every run, so that a change is to blame for what fails; with `--hypothesis-profile=searching` they
look for new ones.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import uvloop
from hypothesis import settings

from tests.tiers import TIERS, Guard, tier

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
settings.register_profile("same", derandomize=True)
settings.register_profile("searching", derandomize=False)
settings.load_profile("same")

STORY = 600
"""Seconds until a story is taken for stuck: on a quiet machine one takes ten, of which a busy one makes a hundred."""

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--long", action="store_true", help="run also what takes minutes: more rounds, real waits"
    )
    parser.addoption("--tier", choices=TIERS, action="append", help="run this tier alone; may be repeated")


def pytest_report_header(config: pytest.Config) -> str:
    return f"tiers: {', '.join(config.getoption('--tier') or TIERS)}"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the files of the other tiers unread."""
    wanted = config.getoption("--tier")
    if not wanted or not collection_path.match("test_*.py"):
        return None
    return tier(collection_path) not in wanted or None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Keep the garbage collector away from the many thousand items of a collection, now and while they run."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


_guard = Guard()
sys.addaudithook(_guard)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    _guard.test = item.nodeid if tier(item.path) == "unit" else None
    try:
        return (yield)
    finally:
        _guard.test = None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    stories = {path for path in {item.path for item in items} if tier(path) == "stories"}
    for item in items:
        if item.path in stories and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(STORY))
    items.sort(
        key=lambda item: (
            not getattr(getattr(item, "module", None), "FIRST", False),
            item.path not in stories,
        )
    )


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    module = getattr(item, "module", None)
    return {name: LOOPS[name] for name in getattr(module, "EVENT_LOOPS", ("uvloop",))}
