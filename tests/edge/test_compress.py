"""Compression at the edge: which responses are compressed for which viewers, the resulting headers, and that the
bytes decompress correctly."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Iterable
from typing import Any

import brotli
import msgspec
import pytest

from keyfront.edge.rules.encoding import (
    IDENTITY,
    LARGEST,
    SMALLEST,
)
from keyfront.edge.serving.settings import EdgeSettings
from keyfront.edge.transform.compressors import INLINE, MOST, PIECE, Compressors
from keyfront.edge.types.messages import Headers, OriginReply
from keyfront.errors import OriginFailure
from keyfront.model.snapshot import Behavior, ErrorResponse, Snapshot
from tests.origin import CLOSE, ReceivedRequest, ScriptedOrigin, Wire, answer
from tests.sites import site
from tests.viewer import Clock, EdgeHarness

BOTH = Behavior("*", "o", accept_gzip=True, accept_brotli=True, compress=True)
LEGACY = Behavior("*", "o", accept_gzip=True, legacy=True, compress=True)
HTML = (b"content-type", b"text/html")


def undo(coding: bytes, body: bytes) -> bytes:
    if coding == b"br":
        return bytes(brotli.decompress(body))
    return gzip.decompress(body) if coding == b"gzip" else body


def text(size: int) -> bytes:
    """That many bytes of text-like data."""
    line = b"".join(b"%d bottles of beer on the wall, " % n for n in range(2000))
    return (line * (size // len(line) + 1))[:size]


async def chunks_of(parts: Iterable[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        await asyncio.sleep(0)
        yield part


def answer_of(parts: list[bytes], *, whole: bool = False) -> OriginReply:
    headers: Headers = [HTML]
    body = b"".join(parts)
    given = body if whole else None
    return OriginReply(200, "OK", headers, chunks_of(parts), length=len(body), whole=given)


class TestCost:
    @pytest.mark.parametrize("coding", [b"br", b"gzip"])
    @pytest.mark.parametrize("size", [SMALLEST, INLINE, INLINE + 1, PIECE, 5 * PIECE + 1, 1_000_000])
    @pytest.mark.parametrize("piece", [700, 65536, LARGEST], ids=["crumbs", "reads", "at once"])
    async def test_the_bytes_come_back(self, coding: bytes, size: int, piece: int) -> None:
        body = text(size)
        parts = [body[i : i + piece] for i in range(0, size, piece)]
        compressors = Compressors()
        made, said = compressors.encoded(answer_of(parts, whole=piece == LARGEST), coding)
        out = b"".join([chunk async for chunk in made.body])
        await made.aclose()
        assert (said, compressors.under_way) == (coding, 0)
        compressors.close()
        assert undo(coding, out) == body
        assert len(out) < size / 2
        assert made.length in (None, len(out))
        if piece == LARGEST and size <= INLINE:
            assert made.whole == out

    async def test_what_the_origin_breaks_off_breaks_off(self) -> None:
        async def broken() -> AsyncIterator[bytes]:
            yield text(INLINE * 4)
            raise OriginFailure("OriginCommError", 502)

        answer, _ = Compressors().encoded(OriginReply(200, "OK", [HTML], broken(), length=INLINE * 8), b"br")
        with pytest.raises(OriginFailure):
            async for _ in answer.body:
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
        parts = [body[i : i + 262144] for i in range(0, LARGEST, 262144)]
        made, _ = Compressors().encoded(answer_of(parts), b"br")
        out = b"".join([chunk async for chunk in made.body])
        other.cancel()
        assert undo(b"br", out) == body
        assert turns > LARGEST / PIECE

    async def test_a_busy_worker_leaves_more_as_it_is(self) -> None:
        compressors = Compressors()
        body = [text(INLINE + 1)]
        made = [compressors.encoded(answer_of(body), b"br") for _ in range(MOST + 1)]
        assert [coding for _, coding in made] == [b"br"] * MOST + [IDENTITY]
        # A small body is compressed too.
        _, coding = compressors.encoded(answer_of([text(INLINE)]), b"br")
        assert coding == b"br"
        await made[0][0].aclose()
        await made[0][0].aclose()
        assert [compressors.encoded(answer_of(body), b"gzip")[1] for _ in range(2)] == [b"gzip", IDENTITY]


# -- through a whole edge ------------------------------------------------------------------------------------

BODY = text(20_000)
TYPED = {"Content-Type": "text/html", "ETag": '"v1"', "Cache-Control": "max-age=60"}


@pytest.fixture
async def origin() -> AsyncIterator[ScriptedOrigin]:
    async with ScriptedOrigin() as origin:
        origin.on("/a", answer(200, BODY, TYPED))
        yield origin
    assert not origin.faults


def compressing(origin: ScriptedOrigin, **members: Any) -> Snapshot:
    terms: dict[str, Any] = {"accept_gzip": True, "accept_brotli": True, "compress": True}
    return site(origin.origin(), Behavior("*", "scripted", **(terms | members)))


def accepting(coding: str, *more: tuple[str, str]) -> list[tuple[str, str]]:
    return [("Accept-Encoding", coding), *more]


class TestThroughTheEdge:
    @pytest.mark.parametrize("size", [SMALLEST, INLINE, INLINE + 1, 200_000, 2_000_000])
    async def test_each_coding_is_fetched_once_and_served_from_then_on(
        self, origin: ScriptedOrigin, size: int
    ) -> None:
        origin.on("/a", answer(200, text(size), TYPED))
        settings = EdgeSettings(memory=1 << 24, max_object=1 << 23)
        async with EdgeHarness(compressing(origin), settings=settings) as harness:
            for coding, sent in (
                ("br, gzip", "br,gzip"),
                ("gzip", "gzip"),
                ("br", "br"),
                ("deflate", "identity"),
            ):
                for word in ("Miss", "Hit", "Hit"):
                    seen = await harness.get("/a", headers=accepting(coding))
                    said = seen.header("content-encoding")
                    assert said == {"br, gzip": "br", "deflate": None}.get(coding, coding)
                    assert undo((said or "").encode(), seen.body) == text(size)
                    assert seen.x_cache == word
                    assert seen.header("vary") == "Accept-Encoding"
                    assert seen.header("etag") == ('W/"v1"' if said else '"v1"')
                    if word == "Hit":
                        assert seen.header("content-length") == str(len(seen.body))
                        assert seen.header("transfer-encoding") is None
                assert origin.requests[-1].header("accept-encoding") == sent
            assert len(origin.requests) == 4
            # A viewer without the header shares with one that accepts nothing.
            assert (await harness.get("/a")).x_cache == "Hit"

    async def test_legacy_settings_know_gzip_only(self, origin: ScriptedOrigin) -> None:
        async with EdgeHarness(compressing(origin, legacy=True, accept_brotli=False)) as harness:
            assert (await harness.get("/a", headers=accepting("br, gzip"))).header(
                "content-encoding"
            ) == "gzip"
            assert (await harness.get("/a", headers=accepting("br"))).header("content-encoding") is None

    async def test_http_1_0_gets_it_as_it_is(self, origin: ScriptedOrigin) -> None:
        async with EdgeHarness(compressing(origin)) as harness:
            for _ in range(2):
                async with await harness.viewer() as viewer:
                    await viewer.send(b"GET /a HTTP/1.0\r\nHost: d.test\r\nAccept-Encoding: gzip, br\r\n\r\n")
                    assert (await viewer.answer()).body == BODY
        assert [request.header("accept-encoding") for request in origin.requests] == [None]

    @pytest.mark.parametrize("status", [403, 404])
    async def test_errors_too_with_their_custom_page(self, origin: ScriptedOrigin, status: int) -> None:
        origin.on("/no", answer(status, BODY, {"Content-Type": "text/plain", "Cache-Control": "max-age=9"}))
        async with EdgeHarness(compressing(origin)) as harness:
            for _ in range(2):
                seen = await harness.get("/no", headers=accepting("gzip"))
                assert (seen.status, seen.header("content-encoding")) == (status, "gzip")
                assert gzip.decompress(seen.body) == BODY
            assert len(origin.requests) == 1
        snapshot = compressing(origin)
        rule = ErrorResponse(status, 10, "/a", status)
        distribution = msgspec.structs.replace(snapshot.distributions[0], error_responses=(rule,))
        async with EdgeHarness(msgspec.structs.replace(snapshot, distributions=(distribution,))) as harness:
            for _ in range(2):
                seen = await harness.get("/no", headers=accepting("br"))
                assert (seen.status, brotli.decompress(seen.body)) == (status, BODY)

    async def test_what_is_not_stored_is_compressed_all_the_same(self, origin: ScriptedOrigin) -> None:
        origin.on("/a", answer(200, BODY, {"Content-Type": "text/html", "Cache-Control": "no-store"}))
        async with EdgeHarness(compressing(origin)) as harness:
            for _ in range(2):
                seen = await harness.get("/a", headers=accepting("br"))
                assert (seen.x_cache, brotli.decompress(seen.body)) == ("Miss", BODY)

    async def test_nothing_is_compressed_where_caching_is_disabled(self, origin: ScriptedOrigin) -> None:
        # The compiler drops Compress there; the origin still receives the viewer's Accept-Encoding.
        async with EdgeHarness(compressing(origin, max_ttl=0, default_ttl=0, compress=False)) as harness:
            assert (await harness.get("/a", headers=accepting("br"))).body == BODY

    async def test_an_unsized_body_is_left_alone(self, origin: ScriptedOrigin) -> None:
        origin.on("/a", answer(200, headers=TYPED, chunks=[BODY, BODY]))
        async with EdgeHarness(compressing(origin)) as harness:
            for _ in range(2):
                seen = await harness.get("/a", headers=accepting("br"))
                assert (seen.body, seen.header("etag"), seen.header("vary")) == (BODY * 2, '"v1"', None)

    async def test_what_the_origin_compressed_is_stored_per_coding(self, origin: ScriptedOrigin) -> None:
        coded = {"br": brotli.compress(BODY), "gzip": gzip.compress(BODY)}

        async def negotiate(asked: ReceivedRequest, wire: Wire) -> None:
            best = (asked.header("accept-encoding") or "identity").split(",")[0]
            body = coded.get(best, BODY)
            head = {"Content-Type": "text/html", "ETag": f'"{best}"', "Vary": "Accept-Encoding"}
            if best in coded:
                head["Content-Encoding"] = best
            for step in answer(200, body, head):
                assert isinstance(step, bytes)
                await wire.send(step)

        origin.on("/a", [negotiate])
        async with EdgeHarness(compressing(origin, compress=False)) as harness:
            for word in ("Miss", "Hit"):
                for field, coding in (("br, gzip", "br"), ("gzip", "gzip"), ("identity", None)):
                    seen = await harness.get("/a", headers=accepting(field))
                    assert (seen.x_cache, seen.header("content-encoding")) == (word, coding)
                    assert seen.header("etag") == f'"{coding or "identity"}"'
                    assert undo((coding or "").encode(), seen.body) == BODY
        assert len(origin.requests) == 3

    async def test_head_has_the_headers_of_get(self, origin: ScriptedOrigin) -> None:
        origin.on(
            "/a",
            [b'HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nETag: "v1"\r\nContent-Length: 20000\r\n\r\n'],
        )
        origin.on("/b", answer(200, BODY, TYPED))
        async with EdgeHarness(compressing(origin)) as harness:
            head = await harness.get("/a", headers=accepting("br"), method="HEAD")
            assert head.header("content-encoding") == "br"
            assert head.header("etag") == 'W/"v1"'
            assert head.header("vary") == "Accept-Encoding"
            assert head.header("content-length") is None
            plain = await harness.get("/a", method="HEAD")
            assert (plain.header("content-length"), plain.header("vary")) == ("20000", "Accept-Encoding")
            whole = await harness.get("/b", headers=accepting("br"))
            head = await harness.get("/b", headers=accepting("br"), method="HEAD")
            assert head.x_cache == "Hit"
            assert head.header("content-length") == str(len(whole.body))

    async def test_ranges_of_a_compressed_variant_are_of_its_own_bytes(self, origin: ScriptedOrigin) -> None:
        async with EdgeHarness(compressing(origin)) as harness:
            whole = await harness.get("/a", headers=accepting("br"))
            part = await harness.get("/a", headers=accepting("br", ("Range", "bytes=10-19")))
            assert (part.status, part.body) == (206, whole.body[10:20])
            assert part.header("content-range") == f"bytes 10-19/{len(whole.body)}"
            assert part.header("content-encoding") == "br"
            # Weak tags cannot be used in If-Range: the whole body is sent.
            again = [("Range", "bytes=10-19"), ("If-Range", 'W/"v1"')]
            assert (await harness.get("/a", headers=accepting("br", *again))).body == whole.body
            plain = await harness.get("/a")
            part = await harness.get("/a", headers=[("Range", "bytes=10-19"), ("If-Range", '"v1"')])
            assert (part.status, part.body) == (206, plain.body[10:20])

    async def test_viewers_and_the_origin_validate_by_one_tag(self, origin: ScriptedOrigin) -> None:
        clock = Clock()
        origin.on("/a", answer(200, BODY, TYPED), answer(304, headers={"ETag": '"v1"'}))
        async with EdgeHarness(compressing(origin), clock=clock) as harness:
            first = await harness.get("/a", headers=accepting("br"))
            for tag in ('W/"v1"', '"v1"'):
                seen = await harness.get("/a", headers=accepting("br", ("If-None-Match", tag)))
                assert (seen.status, seen.header("etag"), seen.header("vary")) == (
                    304,
                    'W/"v1"',
                    "Accept-Encoding",
                )
            clock.forward(61)
            again = await harness.get("/a", headers=accepting("br"))
            assert (again.x_cache, again.body, again.header("etag")) == ("RefreshHit", first.body, 'W/"v1"')
            assert again.header("content-encoding") == "br"
            assert origin.requests[-1].header("if-none-match") == '"v1"'
            assert (await harness.get("/a", headers=accepting("br"))).x_cache == "Hit"

    async def test_a_body_that_breaks_off_is_cut_and_not_stored(self, origin: ScriptedOrigin) -> None:
        rest = asyncio.Event()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 500000\r\n\r\n"
        origin.on("/a", [head, text(300_000), rest, CLOSE], answer(200, BODY, TYPED))
        async with EdgeHarness(compressing(origin)) as harness:
            async with await harness.viewer() as viewer:
                await viewer.send(b"GET /a HTTP/1.1\r\nHost: d.test\r\nAccept-Encoding: br\r\n\r\n")
                asyncio.get_running_loop().call_later(0.1, rest.set)
                with pytest.raises(asyncio.IncompleteReadError):
                    await viewer.answer()
            seen = await harness.get("/a", headers=accepting("br"))
            assert brotli.decompress(seen.body) == BODY

    async def test_many_at_once_are_compressed_once(self, origin: ScriptedOrigin) -> None:
        gate = asyncio.Event()
        origin.on("/a", [gate, *answer(200, text(300_000), TYPED)])
        async with EdgeHarness(compressing(origin)) as harness:
            asking = [asyncio.create_task(harness.get("/a", headers=accepting("gzip"))) for _ in range(12)]
            await origin.received(1)
            gate.set()
            for seen in await asyncio.gather(*asking):
                assert gzip.decompress(seen.body) == text(300_000)
        assert len(origin.requests) == 1

    async def test_a_viewer_that_leaves_does_not_spoil_it(self, origin: ScriptedOrigin) -> None:
        gate = asyncio.Event()
        origin.on("/a", [*answer(200, text(300_000), TYPED)[:1], gate])
        async with EdgeHarness(compressing(origin)) as harness:
            async with await harness.viewer() as viewer:
                await viewer.send(b"GET /a HTTP/1.1\r\nHost: d.test\r\nAccept-Encoding: br\r\n\r\n")
                await viewer.reader.readuntil(b"\r\n\r\n")
            await harness.recorded(1)
            seen = await harness.get("/a", headers=accepting("br"))
            assert brotli.decompress(seen.body) == text(300_000)
        assert len(origin.requests) == 1
