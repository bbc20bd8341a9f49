"""What all tests share: the edge's event loop is uvloop's here too.

A module that must work on asyncio's own loop as well says `EVENT_LOOPS = ("uvloop", "asyncio")`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    module = getattr(item, "module", None)
    return {name: LOOPS[name] for name in getattr(module, "EVENT_LOOPS", ("uvloop",))}
