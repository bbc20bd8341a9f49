"""The content of a snapshot as it travels: whole, or as the difference from a snapshot that the edge has.

A snapshot's serialized form (`model/snapshot.py`) is a sequence of *pieces*: each resource is one piece, and so is what
lies between them. A difference lists what to copy from the bytes that the edge has and what to insert; it names byte
ranges only. So an edge applies a difference without knowing the format, and the digest in the signed manifest proves
that the result is exactly what the control plane has. Unknown members of a newer version survive.

Both forms are compressed with zlib, once for all edges that get them.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from keyfront.errors import SnapshotRefused
from keyfront.model.snapshot import MAGIC, Snapshot

MAX_SIZE = 1 << 29
"""Maximum size of a snapshot in bytes."""

SEAL = len(MAGIC) + 32
"""Size of what precedes the payload in a snapshot file: the magic, and the payload's SHA-256."""

_TIED = ("public_keys", "key_groups", "distributions", "response_headers_policies")
"""The members that are sequences of resources."""

_encode = msgspec.msgpack.Encoder().encode


class Copy(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A range of the bytes that the edge has."""

    start: int
    length: int


Operations = list[Copy | bytes]
_decoder = msgspec.msgpack.Decoder(Operations)


class Encoder:
    """Makes the pieces of one snapshot after another. A resource that is the same object as in the one before is not
    encoded again, and equal pieces share memory: there are ten thousand, and a change concerns few."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[object, bytes]] = {}
        """Each resource of the last snapshot, and its piece, by `id`, which no other object gets meanwhile."""

    def pieces(self, snapshot: Snapshot) -> list[bytes]:
        """The pieces of the payload of `snapshot.to_bytes()`, in order."""
        known, used = self._known, dict[int, tuple[object, bytes]]()
        equal: dict[bytes, bytes] | None = None

        def piece(resource: object) -> bytes:
            nonlocal equal
            found = known.get(id(resource))
            if found is None:
                made = _encode(resource)
                if equal is None:
                    equal = {each: each for _, each in known.values()}
                found = (resource, equal.get(made, made))
            used[id(resource)] = found
            return found[1]

        made = _pieces(snapshot, piece)
        self._known = used
        return made


def pieces(snapshot: Snapshot) -> list[bytes]:
    """The pieces of the payload of `snapshot.to_bytes()`, in order."""
    return _pieces(snapshot, _encode)


def _pieces(snapshot: Snapshot, encode: Callable[[object], bytes]) -> list[bytes]:
    """:param encode: makes the piece of a resource."""
    names = Snapshot.__struct_fields__
    found: list[bytes] = []
    pending = bytes([0x80 | len(names)])  # msgpack: a map of up to 15 members
    for name in names:
        value: Any = getattr(snapshot, name)
        pending += _encode(name)
        if name not in _TIED:
            pending += _encode(value)
            continue
        pending += _array_head(len(value))
        if value:
            found.append(pending)
            found += map(encode, value)
            pending = b""
    return [*found, pending] if pending else found


def _array_head(length: int) -> bytes:
    if length < 16:
        return bytes([0x90 | length])
    if length < 1 << 16:
        return b"\xdc" + length.to_bytes(2, "big")
    return b"\xdd" + length.to_bytes(4, "big")


def digest(parts: Iterable[bytes]) -> bytes:
    """The SHA-256 of a payload, given in pieces."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.digest()


def difference(old: Sequence[bytes], new: Sequence[bytes]) -> Operations:
    """The operations that make the payload with the pieces `new` from the one with the pieces `old`."""
    places: dict[bytes, int] = {}
    offset = 0
    for piece in old:
        places[piece] = offset
        offset += len(piece)
    found: Operations = []
    start = length = 0
    inserted: list[bytes] = []

    def end_copy() -> None:
        if length:
            found.append(Copy(start, length))

    def end_insert() -> None:
        if inserted:
            found.append(b"".join(inserted))
            inserted.clear()

    for piece in new:
        place = places.get(piece)
        if place is None:
            end_copy()
            length = 0
            inserted.append(piece)
        elif length and place == start + length:
            length += len(piece)
        else:
            end_copy()
            end_insert()
            start, length = place, len(piece)
    end_copy()
    end_insert()
    return found


def pack_difference(operations: Operations) -> bytes:
    """The operations as they travel."""
    return zlib.compress(msgspec.msgpack.encode(operations))


def pack_whole(parts: Iterable[bytes]) -> bytes:
    """A whole payload as it travels. Its size matters less than the control plane's time: level 1."""
    packer = zlib.compressobj(1)
    found = [packer.compress(part) for part in _blocks(parts)]
    return b"".join([*found, packer.flush()])


def _blocks(parts: Iterable[bytes], size: int = 1 << 18) -> Iterable[bytes]:
    """The same bytes in fewer parts: a call per block is cheaper than one per piece."""
    some: list[bytes] = []
    length = 0
    for part in parts:
        some.append(part)
        length += len(part)
        if length >= size:
            yield b"".join(some)
            some, length = [], 0
    yield b"".join(some)


def unpack_whole(body: bytes, size: int) -> bytes:
    """The payload of `size` bytes.

    :raises SnapshotRefused: if the body holds anything else.
    """
    return _unpack(body, size, exactly=True)


def apply(base: memoryview, body: bytes, size: int) -> bytes:
    """The payload of `size` bytes that the packed difference `body` makes from `base`.

    :raises SnapshotRefused: if it makes anything else.
    """
    # A list of operations is not larger than what it makes, except for its own encoding.
    packed = _unpack(body, 2 * size + 1024)
    try:
        operations = _decoder.decode(packed)
    except msgspec.MsgspecError as error:
        raise SnapshotRefused(f"the difference cannot be read: {error}") from error
    made: list[memoryview | bytes] = []
    length = 0
    for operation in operations:
        if isinstance(operation, bytes):
            part: memoryview | bytes = operation
        else:
            start, end = operation.start, operation.start + operation.length
            if not 0 <= start <= end <= len(base):
                raise SnapshotRefused("the difference copies what is not there")
            part = base[start:end]
        length += len(part)
        if length > size:
            raise SnapshotRefused("the difference makes more than the manifest says")
        made.append(part)
    if length != size:
        raise SnapshotRefused("the difference makes less than the manifest says")
    return b"".join(made)


def _unpack(body: bytes, most: int, *, exactly: bool = False) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(body, most + 1)
    except zlib.error as error:
        raise SnapshotRefused(f"the content cannot be decompressed: {error}") from error
    if len(data) > most or not unpacker.eof or unpacker.unused_data or (exactly and len(data) != most):
        raise SnapshotRefused("the content does not have the size that the manifest says")
    return data
