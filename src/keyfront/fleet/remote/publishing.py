"""What the hubs of all feeds have in common: what is published, for which regions, and who is an edge.

A hub has an event loop in a thread of its own. `publish`, `regions`, and `number` can be called from any thread; the
rest belongs to the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from keyfront.errors import ApiError, SettingsError
from keyfront.fleet.remote import manifest
from keyfront.fleet.remote.channel import Channel, prepare
from keyfront.fleet.remote.edge_reports import EdgeReports, EdgeT
from keyfront.fleet.remote.identity import Registry, Seen
from keyfront.fleet.remote.manifest import Manifest, Signed
from keyfront.model.snapshot import Snapshot

log = logging.getLogger("keyfront.fleet")

CHECK = 0.25
"""Seconds between two checks of the registry."""
SEEN, SEEN_CHANGED = 10.0, 1.0
"""Seconds between two updates of what the registry shows of edges, without and with a new snapshot."""


class PublishingHub(EdgeReports[EdgeT], ABC):
    """A hub without its protocol.

    :param registry: who is an edge.
    :param clock: epoch seconds.
    :param thread: the name of the thread that prepares snapshots.
    :raises SettingsError: if the keys cannot be opened.
    :raises ApiError: if the store does not respond.
    """

    def __init__(self, registry: Registry, clock: Callable[[], float], thread: str) -> None:
        super().__init__()
        self._registry = registry
        self._clock = clock
        self._keys = registry.keys()
        self._identities = registry.identities()
        self._version = -1
        self._reloading = asyncio.Lock()
        self._whole: Snapshot | None = None
        self._first: Snapshot | None = None
        """What was published first, until it is prepared: most edges have it when the control plane starts again."""
        self._proven = 0
        self._channels: dict[str, Channel] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._published = asyncio.Event()
        self._executor = ThreadPoolExecutor(1, thread)
        self._tasks: set[asyncio.Task[None]] = set()

    # ---- for the control plane; any thread

    def publish(self, whole: Snapshot) -> None:
        """Publish each region's part of `whole`. Returns at once."""
        if self._whole is None:
            self._first = whole
        self._whole = whole
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has just ended
                self._loop.call_soon_threadsafe(self._published.set)

    @property
    def regions(self) -> set[str]:
        """The regions of the enrolled edges."""
        return {one.region for one in self._identities.values()}

    def number(self) -> int:
        """The highest number that was found elsewhere: that an edge has proven to have, or that another control plane
        has published. One more if that is a different snapshot of the number that this control plane has published. 0:
        none is above that one."""
        whole = self._whole
        return self._proven if whole is None or self._proven > whole.number else 0

    # ---- the event loop

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)

    def _channel(self, region: str) -> Channel:
        return self._channels.setdefault(region, Channel(region))

    async def _advance(self, channel: Channel) -> bool:
        """Bring the channel to the published snapshot. True if that is another one."""
        whole, keys = self._whole, self._keys
        if whole is None or whole is channel.whole:
            return False
        for one in (self._first, whole) if channel.whole is None else (whole,):
            if one is not None and one is not channel.whole:
                version = await self._in_thread(prepare, one, channel.region, keys, channel.encoder)
                channel.advance(one, version)
        return True

    def _proof(self, signed: Signed) -> Manifest | None:
        """What an edge has proven to have; None: nothing. If that is ahead of this control plane, it has to go on from
        there.

        :raises SnapshotRefused: if the proof is not genuine.
        """
        found, whole = manifest.recognize(signed, self._keys.chain), self._whole
        if found is not None and whole is not None and found.number >= whole.number:
            other = found.number == whole.number and found.created != whole.created
            self._proven = max(self._proven, found.number + other)
        return found

    # the registry

    async def _watch(self) -> None:
        """Follow the registry, and store in it which edges there are."""
        seen, failing = time.monotonic(), False
        stored: dict[str, int] = {}
        while True:
            await asyncio.sleep(CHECK)
            try:
                await self._check()
                elapsed = time.monotonic() - seen
                if elapsed >= SEEN_CHANGED:
                    present = self._present()
                    numbers = {one.id: one.number for one in present}
                    if elapsed >= SEEN or numbers != stored:
                        seen, stored = time.monotonic(), numbers
                        await self._in_thread(self._registry.seen, present, self._clock())
                failing = False
            except Exception as error:
                if not failing:
                    log.error(
                        "changes to the enrolled edges are not known: %s",
                        error,
                        exc_info=not isinstance(error, (ApiError, SettingsError)),
                    )
                failing = True
            self._tidy()

    async def _check(self) -> None:
        """Take in what has changed in the registry.

        :raises ApiError, SettingsError: if it cannot be read.
        """
        async with self._reloading:
            version = await self._in_thread(self._registry.version)
            if version != self._version:
                await self._reload()
                self._version = version

    async def _reload(self) -> None:
        self._identities = await self._in_thread(self._registry.identities)
        keys = await self._in_thread(self._registry.keys)
        if keys.chain != self._keys.chain:
            self._keys = keys
            for channel in self._channels.values():
                channel.whole = None  # signed anew
            self._on_new_key()
            self._published.set()
        for edge in list(self._edges.values()):
            if self._identities.get(edge.identity.id) != edge.identity:
                log.warning("edge %s is revoked", edge.identity.name)
                del self._edges[edge.identity.id]
                self._on_revoked(edge)

    @abstractmethod
    def _present(self) -> list[Seen]:
        """The edges that are connected, or report."""

    @abstractmethod
    def _tidy(self) -> None:
        """Forget edges that have been away for long."""

    @abstractmethod
    def _on_new_key(self) -> None:
        """There is a new snapshot key."""

    @abstractmethod
    def _on_revoked(self, edge: EdgeT) -> None:
        """An edge is not accepted any more, and has been removed."""
