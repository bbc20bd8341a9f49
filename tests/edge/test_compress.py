"""Compression at the edge: what is compressed for whom, what the headers say then, and that the bytes come back."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor

import brotli
import pytest

from keyfront.edge import freshness, respond
from keyfront.edge.compress import (
    IDENTITY,
    INLINE,
    LARGEST,
    PIECE,
    SMALLEST,
    coding_for,
    compressible,
    encoded,
    entity_tag,
    represented,
)
from keyfront.edge.exchange import Headers, Meta, OriginReply, Request
from keyfront.edge.forward import accepted_encoding, key_suffix
from keyfront.errors import OriginFailure
from keyfront.model.snapshot import Behavior

BOTH = Behavior("*", "o", accept_gzip=True, accept_brotli=True, compress=True)
LEGACY = Behavior("*", "o", accept_gzip=True, legacy=True, compress=True)
HTML = (b"content-type", b"text/html")


def undo(coding: bytes, body: bytes) -> bytes:
    if coding == b"br":
        return bytes(brotli.decompress(body))
    return gzip.decompress(body) if coding == b"gzip" else body


def text(size: int) -> bytes:
    """So many bytes of something like text."""
    line = b"".join(b"%d bottles of beer on the wall, " % n for n in range(2000))
    return (line * (size // len(line) + 1))[:size]


class TestWhatIsCompressed:
    @pytest.mark.parametrize(
        ("what", "said", "changed"),
        [
            ("an ordinary page", True, {}),
            ("the smallest", True, {"length": SMALLEST}),
            ("smaller", False, {"length": SMALLEST - 1}),
            ("the largest", True, {"length": LARGEST}),
            ("larger", False, {"length": LARGEST + 1}),
            ("no Content-Length", False, {"length": None}),
            ("403", True, {"status": 403}),
            ("404", True, {"status": 404}),
            ("500", False, {"status": 500}),
            ("206", False, {"status": 206}),
            ("203", False, {"status": 203}),
            ("a redirect", False, {"status": 301}),
            ("compressed already", False, {"headers": [HTML, (b"content-encoding", b"gzip")]}),
            ("identity, but said", False, {"headers": [HTML, (b"content-encoding", b"identity")]}),
            ("no type", False, {"headers": []}),
            ("an image", False, {"headers": [(b"content-type", b"image/png")]}),
            ("wasm, which the list lacks", False, {"headers": [(b"content-type", b"application/wasm")]}),
            ("parameters", True, {"headers": [(b"content-type", b"text/html; charset=utf-8")]}),
            ("capitals", True, {"headers": [(b"content-type", b"Application/JSON ;x=y")]}),
            ("svg", True, {"headers": [(b"content-type", b"image/svg+xml")]}),
            ("a prefix of a type", False, {"headers": [(b"content-type", b"text/htm")]}),
            ("no-transform", False, {"headers": [HTML, (b"cache-control", b"max-age=5, No-Transform")]}),
            ("another directive", True, {"headers": [HTML, (b"cache-control", b"x-no-transform-ever")]}),
            ("Compress off", False, {"behavior": Behavior("*", "o", accept_gzip=True)}),
            ("legacy settings", True, {"behavior": LEGACY}),
        ],
    )
    def test_by_the_origins_answer(self, what: str, said: bool, changed: dict[str, object]) -> None:
        terms: dict[str, object] = {"behavior": BOTH, "status": 200, "headers": [HTML], "length": 5000}
        assert compressible(**(terms | changed)) is said  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("field", "version", "behavior", "coding"),
        [
            (b"gzip, deflate, br", "1.1", BOTH, b"br"),
            (b"gzip", "1.1", BOTH, b"gzip"),
            (b"GZIP;q=0.5", "2", BOTH, b"gzip"),
            (b"br", "1.1", BOTH, b"br"),
            (b"br;q=0, gzip", "1.1", BOTH, b"gzip"),
            (b"gzip;q=0", "1.1", BOTH, IDENTITY),
            (b"deflate, zstd", "1.1", BOTH, IDENTITY),
            (b"identity", "1.1", BOTH, IDENTITY),
            (b"*", "1.1", BOTH, IDENTITY),
            (None, "1.1", BOTH, IDENTITY),
            (b"gzip, br", "1.0", BOTH, IDENTITY),
            (b"gzip, br", "1.1", LEGACY, b"gzip"),
            (b"br", "1.1", LEGACY, IDENTITY),
        ],
    )
    def test_by_what_the_viewer_accepts_and_each_coding_under_its_own_key(
        self, field: bytes | None, version: str, behavior: Behavior, coding: bytes
    ) -> None:
        headers = [] if field is None else [(b"accept-encoding", field)]
        asked = Request("GET", "/", "d.test", headers, version=version)
        assert coding_for(accepted_encoding(behavior, asked)) == coding
        assert bool(key_suffix(behavior, asked, "")) is (coding != IDENTITY)


class TestHeaders:
    @pytest.mark.parametrize(
        ("sent", "coded", "seen"),
        [
            (b'"v1"', b"br", b'W/"v1"'),
            (b'W/"v1"', b"gzip", b'W/"v1"'),
            (b"v1", b"br", None),
            (b'"v', b"br", None),
            (b'"v1"', IDENTITY, b'"v1"'),
            (b"v1", IDENTITY, b"v1"),
            (b'"v1"', b"", b'"v1"'),
            (None, b"br", None),
        ],
    )
    def test_entity_tags(self, sent: bytes | None, coded: bytes, seen: bytes | None) -> None:
        assert entity_tag(sent, coded) == seen
        headers = [] if sent is None else [(b"etag", sent)]
        assert dict(represented(headers, coded)).get(b"etag") == seen

    def test_what_described_the_origins_bytes_is_left_out(self) -> None:
        described = [
            HTML,
            (b"content-length", b"5000"),
            (b"content-md5", b"x"),
            (b"digest", b"x"),
            (b"content-digest", b"x"),
            (b"repr-digest", b"x"),
            (b"x-other", b"kept"),
        ]
        assert represented(described, b"gzip") == [
            HTML,
            (b"x-other", b"kept"),
            (b"vary", b"Accept-Encoding"),
            (b"content-encoding", b"gzip"),
        ]
        assert represented(described, IDENTITY) == [*described, (b"vary", b"Accept-Encoding")]
        assert represented(described, b"") == described

    @pytest.mark.parametrize(
        ("sent", "seen"),
        [
            ([], b"Accept-Encoding"),
            ([b"Origin"], b"Origin, Accept-Encoding"),
            ([b"Origin", b"Cookie"], b"Origin, Cookie, Accept-Encoding"),
            ([b"accept-encoding, Origin"], b"accept-encoding, Origin"),
            ([b"*"], b"*"),
        ],
    )
    def test_vary(self, sent: list[bytes], seen: bytes) -> None:
        said = represented([(b"vary", value) for value in sent], b"br")
        assert [value for name, value in said if name == b"vary"] == [seen]
        assert represented(said, b"br") == said

    @pytest.mark.parametrize("coding", [b"br", b"gzip", IDENTITY])
    def test_a_304_renews_it_without_making_it_strong_again(self, coding: bytes) -> None:
        sent = [HTML, (b"etag", b'"v1"'), (b"cache-control", b"max-age=5"), (b"content-md5", b"x")]
        meta = freshness.admit(BOTH, None, "GET", [], 200, sent, 100.0, request_time=100.0, coding=coding)
        assert meta is not None
        tag = b'W/"v1"' if coding != IDENTITY else b'"v1"'
        assert dict(meta.headers)[b"etag"] == tag
        # The origin is asked with its own tag.
        assert freshness.revalidation_headers(meta) == [(b"if-none-match", b'"v1"')]
        for said in ([], [(b"etag", b'"v1"')], [(b"vary", b"Cookie"), (b"content-md5", b"y")]):
            renewed = freshness.revalidated(BOTH, meta, said, 200.0, 200.0, [])
            seen = dict(renewed.headers)
            assert seen[b"etag"] == tag
            assert b"accept-encoding" in seen[b"vary"].lower()
            assert seen.get(b"content-encoding") == (None if coding == IDENTITY else coding)
            assert (b"content-md5" in seen) is (coding == IDENTITY)
            assert freshness.revalidation_headers(renewed) == [(b"if-none-match", b'"v1"')]

    def test_its_own_directives_cannot_hide_the_coding(self) -> None:
        sent = [HTML, (b"cache-control", b'max-age=5, no-cache="content-encoding, vary"')]
        meta = freshness.admit(BOTH, None, "GET", [], 200, sent, 100.0, request_time=100.0, coding=b"br")
        assert meta is not None
        assert dict(meta.headers)[b"content-encoding"] == b"br"

    @pytest.mark.parametrize(
        ("field", "value", "status"),
        [
            (b"if-none-match", b'W/"v1"', 304),
            (b"if-none-match", b'"v1"', 304),
            (b"if-match", b'"v1"', 412),
            (b"if-match", b'W/"v1"', 412),
            (b"if-match", b"*", 200),
        ],
    )
    def test_preconditions_know_the_tag_as_weak(self, field: bytes, value: bytes, status: int) -> None:
        meta = Meta(200, (), stored_at=0, fresh_until=9, date=0, etag=b'"v1"', coding=b"br")
        asked = Request("GET", "/", "d.test", [(field, value)])
        assert respond.answer(asked, meta, b"x" * 100, 1).status == status

    @pytest.mark.parametrize(
        ("condition", "status"), [(None, 206), (b'"v1"', 200), (b'W/"v1"', 200)], ids=str
    )
    def test_a_range_with_if_range_gets_the_whole_for_a_weak_tag(
        self, condition: bytes | None, status: int
    ) -> None:
        meta = Meta(200, (), stored_at=0, fresh_until=9, date=0, etag=b'"v1"', coding=b"br")
        headers = [(b"range", b"bytes=2-5")]
        if condition is not None:
            headers.append((b"if-range", condition))
        assert respond.answer(Request("GET", "/", "d.test", headers), meta, b"0123456789", 1).status == status


async def chunks_of(parts: Iterable[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        await asyncio.sleep(0)
        yield part


def answer_of(parts: list[bytes], *, whole: bool = False) -> OriginReply:
    headers: Headers = [HTML]
    body = b"".join(parts)
    given = body if whole else None
    return OriginReply(200, "OK", headers, chunks_of(parts), length=len(body), whole=given)


class TestTheWork:
    @pytest.mark.parametrize("coding", [b"br", b"gzip"])
    @pytest.mark.parametrize("size", [SMALLEST, INLINE, INLINE + 1, PIECE, 5 * PIECE + 1, 1_000_000])
    @pytest.mark.parametrize("piece", [700, 65536, LARGEST], ids=["crumbs", "reads", "at once"])
    async def test_the_bytes_come_back(self, coding: bytes, size: int, piece: int) -> None:
        body = text(size)
        parts = [body[i : i + piece] for i in range(0, size, piece)]
        with ThreadPoolExecutor(1) as threads:
            made = encoded(answer_of(parts, whole=piece == LARGEST), coding, threads)
            out = b"".join([chunk async for chunk in made.body])
        assert undo(coding, out) == body
        assert len(out) < size / 2
        assert made.length in (None, len(out))
        if piece == LARGEST and size <= INLINE:
            assert made.whole == out

    async def test_what_the_origin_breaks_off_breaks_off(self) -> None:
        async def broken() -> AsyncIterator[bytes]:
            yield text(INLINE * 4)
            raise OriginFailure("OriginCommError", 502)

        with ThreadPoolExecutor(1) as threads:
            answer = OriginReply(200, "OK", [HTML], broken(), length=INLINE * 8)
            with pytest.raises(OriginFailure):
                async for _ in encoded(answer, b"br", threads).body:
                    pass

    async def test_big_bodies_leave_the_loop_free(self) -> None:
        body = text(LARGEST)
        turns = 0

        async def other_work() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        other = asyncio.create_task(other_work())
        with ThreadPoolExecutor(1) as threads:
            made = encoded(
                answer_of([body[i : i + 262144] for i in range(0, LARGEST, 262144)]), b"br", threads
            )
            out = b"".join([chunk async for chunk in made.body])
        other.cancel()
        assert undo(b"br", out) == body
        assert turns > LARGEST / PIECE
