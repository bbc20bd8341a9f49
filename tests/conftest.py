"""Configuration that all tests share: the tiers, and uvloop as the event loop, as in the edge.

`--tier unit` runs only the files of that tier (`tests/tiers.py`). A module that must also work on asyncio's own loop
sets `EVENT_LOOPS = ("uvloop", "asyncio")`; its tests that the loop does not matter to are marked `uvloop`. Tests that
take minutes run only with `--long`. A module that takes a minute sets `FIRST = True`, so that it does not start last
and delay the end of the run; the stories follow, then the other tiers. Bytecode is written: without it, each of the
hundreds of processes that tests start would compile all of Keyfront. Property tests try the same cases on every
run, so that a failure points to a code change; with `--hypothesis-profile=searching` they look for new cases.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import urllib3.util.connection  # noqa: F401 its first import binds a socket, which fails a unit test
import uvloop
from hypothesis import HealthCheck, settings

from tests.scheduling import FileScheduling
from tests.tiers import TIERS, Guard, tier

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
os.environ["XDG_DATA_HOME"] = os.devnull  # no test finds, or makes, a Keyfront in the developer's data folder
for _name in ("KEYFRONT_DATA", "KEYFRONT_RECORDS"):
    os.environ.pop(_name, None)
_patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", _patient, derandomize=True)
settings.register_profile("searching", _patient, derandomize=False)
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


def pytest_configure(config: pytest.Config) -> None:
    """Tests sign what has expired. In pyproject.toml, this line would import Keyfront before its coverage is
    measured."""
    config.addinivalue_line("filterwarnings", "ignore::keyfront.errors.ExpiredWarning")
    config.addinivalue_line(
        "markers", "uvloop: run this test on uvloop only, whatever EVENT_LOOPS of its module"
    )


def pytest_report_header(config: pytest.Config) -> str:
    return f"tiers: {', '.join(config.getoption('--tier') or TIERS)}"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not collect the files of the other tiers."""
    wanted = config.getoption("--tier")
    if not wanted or not collection_path.match("test_*.py"):
        return None
    return tier(collection_path) not in wanted or None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Exclude the many thousands of collected items from garbage collection, both during collection and while they
    run."""
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
    """Order the tests: what takes long must not start last."""
    for item in items:
        if tier(item.path) == "stories" and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(STORY))
    items.sort(
        key=lambda item: (
            not getattr(getattr(item, "module", None), "FIRST", False),
            -TIERS.index(tier(item.path)),
        )
    )


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FileScheduling:
    config.option.loadscopereorder = False  # the order is that of pytest_collection_modifyitems
    return FileScheduling(config, log)


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    module = getattr(item, "module", None)
    if item.get_closest_marker("uvloop"):
        module = None
    return {name: LOOPS[name] for name in getattr(module, "EVENT_LOOPS", ("uvloop",))}
