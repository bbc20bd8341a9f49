"""The fixtures of the edge's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.origin import ScriptedOrigin


@pytest.fixture
async def origin() -> AsyncIterator[ScriptedOrigin]:
    """An origin that answers as the test configures it."""
    async with ScriptedOrigin() as origin:
        yield origin
