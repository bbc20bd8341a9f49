"""What all tests share: the edge's event loop is uvloop's here too.

A module that must work on asyncio's own loop as well says `EVENT_LOOPS = ("uvloop", "asyncio")`. What takes minutes
runs with `--long` only; a module that takes a minute says `FIRST = True`, so that nobody waits for it in the end.
Bytecode is written: without it each of the hundreds of processes that tests start would compile all of Keyfront.
Property tests try the same cases at every run, so that a change is to blame for what fails; with
`--hypothesis-profile=searching` they look for new ones.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Mapping

import pytest
import uvloop
from hypothesis import settings

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
settings.register_profile("same", derandomize=True)
settings.register_profile("searching", derandomize=False)
settings.load_profile("same")

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--long", action="store_true", help="run also what takes minutes: more rounds, real waits"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not getattr(getattr(item, "module", None), "FIRST", False))


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    module = getattr(item, "module", None)
    return {name: LOOPS[name] for name in getattr(module, "EVENT_LOOPS", ("uvloop",))}
