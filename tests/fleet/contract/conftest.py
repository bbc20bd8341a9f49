"""The feeds over networks, each with a real control plane's store and real connections. A test that uses `fleet` runs
with each of them: what it shows holds whatever carries the snapshots."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

import pytest

from tests.fleet.jetstream.conftest import NatsFleet
from tests.fleet.jetstream.harness import NatsControl
from tests.fleet.remote.conftest import Fleet
from tests.fleet.remote.harness import Control, Machine
from tests.nats_server import NatsServer, unable

_numbers = itertools.count(1)


class AnyFleet(Protocol):
    """What both have in common."""

    folder: Path

    async def control(self) -> Control | NatsControl: ...

    async def following(
        self, control: Control | NatsControl, name: str = "paris", region: str = ""
    ) -> Machine:
        """A machine that is enrolled and follows."""


class HttpsFleet(Fleet):
    """Over HTTPS."""

    async def following(self, control: Control, name: str = "paris", region: str = "") -> Machine:
        machine = self.machine(name)
        await machine.join(control, token=control.token(region=region), name=name)
        machine.follow()
        return machine


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer | None]:
    """A NATS server; None if it cannot run here."""
    if unable():
        yield None
        return
    with NatsServer(tmp_path_factory.mktemp("nats") / "hub") as running:
        yield running


@pytest.fixture(params=["https", "nats"])
async def fleet(
    request: pytest.FixtureRequest, tmp_path: Path, server: NatsServer | None
) -> AsyncIterator[Fleet | NatsFleet]:
    async with AsyncExitStack() as held:
        if request.param == "https":
            yield HttpsFleet(tmp_path, held)
        elif server is None:
            pytest.skip(unable())
        else:
            yield NatsFleet(tmp_path, held, server.url, f"contract{next(_numbers)}")
