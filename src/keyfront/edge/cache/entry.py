"""The serialized form of a stored response outside a worker's own memory: on disk (`disk`) and in shared memory
(`shared_arena`)."""

from __future__ import annotations

from operator import attrgetter
from typing import Final

import msgspec
from msgspec.structs import astuple

from keyfront.edge.types.messages import Header
from keyfront.edge.types.stored import Meta, Slices, Stored


class MetaRow(msgspec.Struct, frozen=True, array_like=True):
    """A `Meta`, field by field."""

    status: int
    headers: tuple[Header, ...]
    stored_at: float
    fresh_until: float
    date: float
    initial_age: float
    length: int | None
    etag: bytes | None
    last_modified: bytes | None
    swr_until: float
    sie_until: float
    revalidate_always: bool
    conditional: bool
    vary: tuple[bytes, ...]
    vary_values: tuple[bytes, ...]
    reason: str
    coding: bytes
    snapshot: int
    tags: tuple[str, ...]


class Head(msgspec.Struct, frozen=True, array_like=True):
    """The head that precedes a body. Entries are looked up by `key`.

    With `meta`, the entry is a response: whole or, if `slices` is set, without its body, which is stored in separate
    entries. With `names`, it is a signpost: the response varies on these request headers, and each variant has an
    entry whose key ends in their values. `generation` is part of that key too, so a new signpost never leads to an old
    variant. With neither, the entry is a slice, or a marker that the content under a path changed at `requested_at`. In
    all other entries, `requested_at` is when the request went to the origin. Times are epoch seconds.
    """

    key: str
    requested_at: float = 0.0
    meta: MetaRow | None = None
    slices: tuple[int, int, str, bytes | None, bool] | None = None
    names: tuple[bytes, ...] = ()
    generation: str = ""


_FIELDS: Final = MetaRow.__struct_fields__
_members: Final = attrgetter(*_FIELDS)
encode_head = msgspec.msgpack.Encoder().encode
decode_head = msgspec.msgpack.Decoder(Head).decode


def row_of(meta: Meta) -> MetaRow:
    return MetaRow(*_members(meta))


def meta_of(row: MetaRow) -> Meta:
    return Meta(**dict(zip(_FIELDS, astuple(row), strict=True)))


def head_of(stored: Stored, key: str, requested_at: float = 0.0) -> Head | None:
    """The head for writing a response under `key`, or None while the length of its body is unknown.

    :param requested_at: when the request went to the origin, epoch seconds.
    """
    slices = stored.slices
    if slices is None:
        return Head(key, requested_at, row_of(stored.meta))
    if slices.total is None:
        return None
    sliced = (slices.total, slices.size, slices.generation, slices.validator, slices.ranged)
    return Head(key, requested_at, row_of(stored.meta), sliced)


def stored_of(key: str, head: Head, body: bytes) -> Stored | None:
    """The response that was written with this head and body, or None if the entry is not a response."""
    if head.meta is None:
        return None
    slices = Slices(key, *head.slices) if head.slices is not None else None
    return Stored(key, meta_of(head.meta), body, slices)
