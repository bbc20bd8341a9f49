"""Control planes and machines for the tests of the feed over HTTPS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from keyfront.fleet.remote.own_certificate import OwnCertificate
from tests.fleet.remote.harness import Control, Machine, registry_in


class Fleet:
    """Makes machines and control planes, and stops them at the end."""

    def __init__(self, folder: Path, held: AsyncExitStack) -> None:
        self.folder = folder
        self._held = held

    async def control(
        self, lifetime: float = 86_400.0, place: str = "control", certificate: OwnCertificate | None = None
    ) -> Control:
        """A running control plane; those of the same place share a store."""
        return await self._held.enter_async_context(
            Control(registry_in(self.folder / place, lifetime), certificate)
        )

    def machine(self, name: str = "paris") -> Machine:
        made = Machine(self.folder / name)
        made.data.mkdir(exist_ok=True)
        self._held.push_async_callback(made.kill)
        return made


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as held:
        yield Fleet(tmp_path, held)
