"""What an edge reads first: the signed manifest of its region's snapshot, and how to get the content.

The content is stored once as a whole, the *base*, in parts that are small enough for any server. The head itself
contains differences: from the base, and from the snapshots that edges probably have. So a change costs an edge one
message, and a new base is only uploaded when the difference from the last one has grown. An edge that has nothing gets
the base and applies the difference.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import msgspec

from keyfront.errors import SnapshotRefused
from keyfront.fleet.remote import content
from keyfront.fleet.remote.manifest import Manifest, Signed

PART = 1 << 17
"""Bytes of content in one part, if the server accepts messages of that size."""
RECENT = 8
"""Snapshots before the current one from which the head contains differences, if they fit."""
GROWN = 4
"""A difference from the base that is larger than this part of it makes a new base worth it: a quarter."""
SLACK = 1 << 20
"""Bytes by which a base may be larger than twice the snapshot that is made from it."""


class Base(msgspec.Struct, frozen=True):
    """A whole content, as stored.

    :param digest: the SHA-256 of the payload. :param size: its size in bytes.
    :param id: the first half of the SHA-256 of the packed content, in hexadecimal; it names the parts.
    :param length: of the packed content, in bytes. :param parts: their number.
    """

    digest: bytes
    size: int
    id: str
    length: int
    parts: int


class Difference(msgspec.Struct, frozen=True):
    """:param base: the digest of the payload that it is the difference from."""

    base: bytes
    body: bytes


class Head(msgspec.Struct, frozen=True, tag=True):
    """:param signed: the manifest of the snapshot.
    :param differences: those that make its payload; one of them is from `base`, unless that is the payload.
    """

    signed: Signed
    base: Base
    differences: list[Difference] = []

    def difference(self, digest: bytes) -> Difference | None:
        """The difference from the payload with this digest."""
        return next((one for one in self.differences if one.base == digest), None)


def pack(pieces: Sequence[bytes], digest: bytes, size: int, part: int = PART) -> tuple[Base, list[bytes]]:
    """A new base from the pieces of a payload, with its parts.

    :param part: bytes of one.
    """
    packed = content.pack_whole(pieces)
    parts = [packed[start : start + part] for start in range(0, len(packed), part)]
    return Base(digest, size, _id(packed), len(packed), len(parts)), parts


def unpack(base: Base, parts: Sequence[bytes]) -> bytes:
    """The payload of a base.

    :raises SnapshotRefused: if the parts are not those of the base.
    """
    packed = b"".join(parts)
    if len(packed) != base.length or _id(packed) != base.id:
        raise SnapshotRefused("the stored content is damaged")
    return content.unpack_whole(packed, base.size)


def _id(packed: bytes) -> str:
    return hashlib.sha256(packed).hexdigest()[:32]


def make(
    manifest: Manifest,
    signed: Signed,
    pieces: Sequence[bytes],
    history: Mapping[bytes, Sequence[bytes]],
    base: Base,
    room: int,
) -> Head | None:
    """The head of a snapshot; None if it needs a new base.

    :param history: the pieces of earlier snapshots by digest, the oldest first.
    :param base: the stored one.
    :param room: bytes for differences.
    """
    found: list[Difference] = []
    if base.digest != manifest.digest:
        old = history.get(base.digest)
        if old is None or base.size > 2 * manifest.size + SLACK:
            return None
        body = _difference(old, pieces)
        if len(body) > room or len(body) * GROWN > base.length + (SLACK >> 8):
            return None
        found.append(Difference(base.digest, body))
        room -= len(body)
    for digest in list(history)[-RECENT - 1 :][::-1]:
        if digest in (manifest.digest, base.digest):
            continue
        body = _difference(history[digest], pieces)
        if len(body) > room:
            break
        found.append(Difference(digest, body))
        room -= len(body)
    return Head(signed, base, found)


def _difference(old: Sequence[bytes], new: Sequence[bytes]) -> bytes:
    return content.pack_difference(content.difference(old, new))


def payload(head: Head, offered: Manifest, parts: Sequence[bytes]) -> bytes:
    """The payload that `head` describes, from the parts of its base.

    :param offered: the verified manifest.
    :raises SnapshotRefused: if something is damaged, or a size is impossible.
    """
    whole = unpack(head.base, parts)
    if head.base.digest == offered.digest:
        return whole
    step = head.difference(head.base.digest)
    if step is None:
        raise SnapshotRefused("the head lacks the difference from its base")
    return content.apply(memoryview(whole), step.body, offered.size)


def check(head: Head, offered: Manifest) -> None:
    """:raises SnapshotRefused: if following `head` would cost more than any snapshot does."""
    base = head.base
    if not (
        0 <= base.size <= min(content.MAX_SIZE, 2 * offered.size + SLACK)
        and 0 < base.length <= 2 * base.size + 1024
        and 0 < base.parts <= base.length
        and len(base.id) == 32
        and base.id.isalnum()
    ):
        raise SnapshotRefused("the head is malformed")
