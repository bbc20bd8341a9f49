"""Control planes and edges in one event loop, with a real store, real TLS connections, and real files."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import Callable
from pathlib import Path

from keyfront.control.edges.registry import EdgeRegistry
from keyfront.control.identity.sealing import Sealer
from keyfront.control.store.store import Store
from keyfront.errors import SnapshotRefused
from keyfront.fleet.feed import Report
from keyfront.fleet.file_feed import FileFeed
from keyfront.fleet.remote.connect import join
from keyfront.fleet.remote.enrollment import Edge, EdgeFiles
from keyfront.fleet.remote.follower import Follower
from keyfront.fleet.remote.hub import EdgeHub
from keyfront.fleet.remote.own_certificate import OwnCertificate
from keyfront.model.snapshot import Snapshot, from_bytes

PATIENCE = 60.0
"""Seconds until a test gives up: a busy machine makes it slow, not red."""


async def until(true: Callable[[], object], within: float = PATIENCE) -> None:
    async with asyncio.timeout(within):
        while not true():
            await asyncio.sleep(0.01)


def registry_in(folder: Path, lifetime: float = 86_400.0) -> EdgeRegistry:
    """A registry in a store in `folder`; all of the same folder are one."""
    folder.mkdir(exist_ok=True)
    made = EdgeRegistry(
        Store(folder / "keyfront.db"), "000000000000", lambda: Sealer(b"k" * 32), by="test", lifetime=lifetime
    )
    made.prepare(time.time())
    return made


class Control:
    """A control plane's hub. Use it as an asynchronous context manager."""

    def __init__(self, registry: EdgeRegistry, certificate: OwnCertificate | None = None) -> None:
        self.registry = registry
        self.hub = EdgeHub(registry, certificate=certificate)
        self.port = 0
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Control:
        sock = socket.create_server(("127.0.0.1", self.port))
        self.port = sock.getsockname()[1]
        ready = asyncio.Event()
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self.hub.run(sock, self._stop, ready.set))
        await ready.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        if self._task is not None:
            await self._task

    def token(self, lifetime: float = 600.0, region: str = "", name: str = "") -> str:
        return str(self.registry.create_token(time.time(), lifetime, region=region, name=name))

    def reports(self) -> dict[str, Report]:
        return {one.name: one for one in self.hub.full_reports(time.time())}


class Machine:
    """The machine of an edge. `follow` starts its follower; `work` stands for a worker, which obeys at once."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.files = EdgeFiles(data)
        self._task: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self.feed = FileFeed(self.files.feed)
        self.follower: Follower | None = None

    async def join(
        self, *controls: Control, token: str = "", name: str = "paris", proxy: str = "", ca: str = ""
    ) -> Edge:
        from keyfront.fleet.remote.authority import token_of

        urls = tuple(one.url for one in controls)
        edge = await join(self.files, urls, token_of(token or controls[0].token()), name, proxy, ca)
        self.feed = FileFeed(self.files.feed, edge.region)
        return edge

    def follow(self) -> None:
        self._stop = asyncio.Event()
        self.follower = Follower(self.files, random.Random(1))
        self._task = asyncio.create_task(self.follower.run(self._stop))

    async def stop(self) -> None:
        """As SIGTERM does."""
        self._stop.set()
        if self._task is not None:
            await self._task
            self._task = None

    async def kill(self) -> None:
        """As SIGKILL does: nothing is sent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def snapshot(self) -> Snapshot | None:
        """What is on disk."""
        with contextlib.suppress(FileNotFoundError, SnapshotRefused):
            return from_bytes((self.files.feed / "snapshot").read_bytes())
        return None

    def number(self) -> int:
        found = self.snapshot()
        return 0 if found is None else found.number

    async def is_current(self) -> None:
        """Until the follower has stored what is published, and told its control plane."""
        assert self.follower is not None
        await asyncio.wait_for(self.follower.current.wait(), PATIENCE)

    async def reaches(self, number: int) -> None:
        """Until snapshot `number` is on disk, with its manifest."""
        await until(
            lambda: self.number() == number and (self.follower is None or self.follower.number == number)
        )

    def work(self, counters: dict[str, object] | None = None, number: int | None = None) -> None:
        at = self.number() if number is None else number
        self.feed.report("worker-1", at, at=time.time(), counters=counters)
