"""What the edges of one region get: the region's part of a snapshot, signed, and sent whole or as the difference from
what an edge has."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from keyfront.fleet.remote import content, manifest, messages
from keyfront.fleet.remote.identity import Keys
from keyfront.fleet.remote.manifest import Manifest, Signed
from keyfront.model.residency import for_region
from keyfront.model.snapshot import Snapshot

HISTORY = 32
"""Snapshots of a region for which differences can be computed."""

InThread = Callable[..., Awaitable[Any]]


class Version(msgspec.Struct, frozen=True):
    """A region's part of a snapshot, ready to be sent."""

    manifest: Manifest
    signed: Signed
    pieces: list[bytes]

    @property
    def digest(self) -> bytes:
        return self.manifest.digest


class Channel:
    """What the edges of one region get."""

    def __init__(self, region: str) -> None:
        self.region = region
        self.whole: Snapshot | None = None
        self.current: Version | None = None
        self.history: OrderedDict[bytes, list[bytes]] = OrderedDict()
        self.bodies: dict[bytes, asyncio.Future[list[bytes]]] = {}
        self.lock = asyncio.Lock()
        self.encoder = content.Encoder()

    def advance(self, whole: Snapshot, version: Version) -> None:
        self.whole, self.current = whole, version
        self.bodies.clear()
        self.history[version.digest] = version.pieces
        self.history.move_to_end(version.digest)
        while len(self.history) > HISTORY:
            self.history.popitem(last=False)

    async def messages(self, version: Version, have: bytes, in_thread: InThread) -> list[bytes]:
        """The messages that bring an edge with the payload `have` to `version`. They are made once for all edges.

        :param in_thread: runs a function outside the event loop.
        """
        base = have if have in self.history else b""
        future = self.bodies.get(base)
        if future is None or (future.done() and (future.cancelled() or future.exception())):
            # A task of its own: the edge for which it is made first may disconnect meanwhile.
            future = asyncio.ensure_future(in_thread(_pack, version, base, self.history.get(base)))
            self.bodies[base] = future
        return await asyncio.shield(future)


def prepare(whole: Snapshot, region: str, keys: Keys, encoder: content.Encoder) -> Version:
    """The region's part of `whole`.

    :param encoder: of the region.
    """
    part = for_region(whole, region)
    found = encoder.pieces(part)
    size = sum(map(len, found))
    made = Manifest(part.number, part.created, region, part.magic, content.digest(found), size)
    return Version(made, manifest.sign(made, keys.signer), found)


def _pack(version: Version, base: bytes, old: list[bytes] | None) -> list[bytes]:
    """The messages that bring an edge to `version`."""
    body = b""
    if old is not None:
        operations = content.difference(old, version.pieces)
        inserted = sum(len(one) for one in operations if isinstance(one, bytes))
        if inserted * 2 < version.manifest.size:
            body = content.pack_difference(operations)
    if not body:
        base, body = b"", content.pack_whole(version.pieces)
    part = messages.PART
    update = messages.Update(version.signed, base, len(body), body[:part])
    rest = (messages.Part(body[start : start + part]) for start in range(part, len(body), part))
    return [messages.encode(update), *map(messages.encode, rest)]
