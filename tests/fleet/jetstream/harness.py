"""Control planes and edges in one event loop, over a real NATS server."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from typing import Any

import nats
from nats.aio.client import Client

from keyfront.control.edges.registry import EdgeRegistry
from keyfront.fleet.feed import Report
from keyfront.fleet.file_feed import FileFeed
from keyfront.fleet.jetstream.access import NatsAccess
from keyfront.fleet.jetstream.follower import NatsFollower
from keyfront.fleet.jetstream.hub import NatsHub
from keyfront.fleet.jetstream.join import join
from keyfront.fleet.remote.authority import token_of
from keyfront.fleet.remote.enrollment import Edge
from tests.fleet.remote.harness import Machine, until


class NatsControl:
    """A control plane's hub. Use it as an asynchronous context manager."""

    def __init__(self, registry: EdgeRegistry, access: NatsAccess) -> None:
        self.registry = registry
        self.hub = NatsHub(access, registry, rng=random.Random(1))
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> NatsControl:
        ready = asyncio.Event()
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self.hub.run(self._stop, ready.set))
        await ready.wait()
        return self

    async def is_connected(self) -> None:
        await until(lambda: not self.hub.trouble)

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        if self._task is not None:
            await self._task

    async def kill(self) -> None:
        if self._task is not None:
            self._stop.set()
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def token(self, lifetime: float = 600.0, region: str = "", name: str = "") -> str:
        return str(self.registry.create_token(time.time(), lifetime, region=region, name=name))

    def reports(self) -> dict[str, Report]:
        return {one.name: one for one in self.hub.full_reports(time.time())}


class NatsMachine(Machine):
    """The machine of an edge that follows over NATS."""

    async def join_nats(self, access: NatsAccess, token: str, name: str = "paris") -> Edge:
        edge = await join(self.files, access, token_of(token), name)
        self.feed = FileFeed(self.files.feed, edge.region)
        return edge

    def follow(self) -> None:
        self._stop = asyncio.Event()
        self.nats = NatsFollower(self.files, random.Random(1))
        self.follower = self.nats  # type: ignore[assignment]
        self._task = asyncio.create_task(self.nats.run(self._stop))


@contextlib.asynccontextmanager
async def client(url: str, **options: Any) -> AsyncIterator[Client]:
    """A client of NATS with all that its server allows: an operator, or an attacker."""
    made: Client = await nats.connect(url, allow_reconnect=False, **options)
    try:
        yield made
    finally:
        await made.close()
