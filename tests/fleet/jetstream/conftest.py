"""A NATS server, control planes, and machines for the tests of the feed over NATS."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from keyfront.fleet.jetstream.access import NatsAccess
from tests.fleet.jetstream.harness import NatsControl, NatsMachine
from tests.fleet.remote.harness import registry_in
from tests.nats_server import NatsServer, unable

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server for a module; every test has a bucket of its own in it."""
    if reason := unable():
        pytest.skip(reason)
    with NatsServer(tmp_path_factory.mktemp("nats") / "hub") as running:
        yield running


class NatsFleet:
    """Makes machines and control planes, and stops them at the end."""

    def __init__(self, folder: Path, held: AsyncExitStack, url: str, bucket: str) -> None:
        self.folder = folder
        self.access = NatsAccess((url,), bucket)
        self._held = held

    async def control(
        self, lifetime: float = 86_400.0, place: str = "control", access: NatsAccess | None = None
    ) -> NatsControl:
        """A running control plane; those of the same place share a store."""
        made = NatsControl(registry_in(self.folder / place, lifetime), access or self.access)
        self._held.push_async_callback(made.kill)
        return await made.__aenter__()

    def machine(self, name: str = "paris") -> NatsMachine:
        made = NatsMachine(self.folder / name)
        made.data.mkdir(exist_ok=True)
        self._held.push_async_callback(made.kill)
        return made

    async def following(self, control: NatsControl, name: str = "paris", region: str = "") -> NatsMachine:
        """A machine that is enrolled and follows."""
        machine = self.machine(name)
        await control.is_connected()
        await machine.join_nats(self.access, control.token(region=region), name)
        machine.follow()
        return machine


@pytest.fixture
async def fleet(tmp_path: Path, server: NatsServer) -> AsyncIterator[NatsFleet]:
    async with AsyncExitStack() as held:
        yield NatsFleet(tmp_path, held, server.url, f"test{next(_numbers)}")
