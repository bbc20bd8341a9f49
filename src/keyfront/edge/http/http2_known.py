"""HTTP/2 requests that resemble an earlier one, found by their bytes or by their header lists.

Finding one by its bytes spares the decoder, whose Huffman code takes longer than the rest of a hit. It works while the
viewer's compression table stays the same. After a change, the header list is decoded, and recognized apart from its
path; from then on, the bytes are known again.
"""

from __future__ import annotations

from typing import Final

from keyfront.edge.http.hpack import decode_path
from keyfront.edge.http.request_target import MAX_TARGET, in_origin_form
from keyfront.edge.serving.fast_path import CachedHeaderBlock, FastPath, section_bytes
from keyfront.edge.types.messages import Headers, Request
from keyfront.signing.tables import Budget, TwoGenerationCache

MAX_BLOCKS: Final = 8192
MAX_BLOCK_BYTES: Final = 16 << 20
MAX_TARGETS: Final = 8192
MAX_TARGET_BYTES: Final = 16 << 20
"""How many header blocks without their paths, and how many encoded paths, each of two generations holds, and how many
bytes of them."""

Found = tuple[CachedHeaderBlock, str]
"""The header section of an earlier request, and the target of this one."""


class KnownRequests:
    """What the HTTP/2 connections of a listener have in common.

    :param budget: of the worker's tables.
    """

    def __init__(self, fast_path: FastPath, budget: Budget) -> None:
        self._fast_path = fast_path
        self._blocks: TwoGenerationCache[CachedHeaderBlock] = TwoGenerationCache(
            MAX_BLOCKS, MAX_BLOCK_BYTES, section_bytes, budget
        )
        self._targets: TwoGenerationCache[str] = TwoGenerationCache(
            MAX_TARGETS, MAX_TARGET_BYTES, len, budget
        )

    def by_bytes(self, section: bytes, path: bytes) -> Found | None:
        """The request with these bytes, if it is known and acceptable: see `Sink.repeated`."""
        known = self._blocks.get(section)
        if known is None:
            return None
        target = self._target(path)
        return None if target is None else (known, target)

    def _target(self, path: bytes) -> str | None:
        """The target that is encoded in this way, None if `http2_request.parse` would refuse it."""
        target = self._targets.get(path)
        if target is None:
            raw = decode_path(path)
            if raw is None or len(raw) > MAX_TARGET or not in_origin_form(raw):
                return None
            target = raw.decode("ascii")
            self._targets.put(path, target)
        return target

    def by_headers(self, headers: Headers, about: bytes, section: bytes) -> Found | None:
        """The request with this header list, if it is known and acceptable. From then on, it is also found `by_bytes`
        with this section, unless that is empty.

        :param about: what else decides the meaning of the list.
        """
        raw, key = _without_path(headers, about)
        known = self._fast_path.sections.get(key) if raw else None
        if known is None or len(raw) > MAX_TARGET or not in_origin_form(raw):
            return None
        if section:
            self._blocks.put(section, known)
        return known, raw.decode("ascii")

    def learn(self, headers: Headers, about: bytes, request: Request, client: str) -> None:
        """Remember a request without a body that was not refused.

        :param client: the viewer's address, if a trusted proxy reports it.
        """
        if request.method == "GET":
            self._fast_path.learn(_without_path(headers, about)[1], request, client)


def _without_path(headers: Headers, about: bytes) -> tuple[bytes, tuple[bytes, ...]]:
    """The path of a header list, and the rest of it. The path is empty if there is not exactly one."""
    path, paths, rest = b"", 0, [about]
    for name, value in headers:
        if name == b":path":
            path, paths = value, paths + 1
        else:
            rest += (name, value)
    return (path if paths == 1 else b""), tuple(rest)
