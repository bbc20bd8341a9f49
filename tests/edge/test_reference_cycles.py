"""Objects are freed as soon as they are no longer used. Reference cycles stay until the garbage collector runs, which
a busy worker delays; after an origin's failure they can hold whole bodies."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trustme

from keyfront.edge.cache.fill import Fill
from keyfront.edge.http.connection import Connection
from keyfront.edge.http.request_parser import RequestParser
from keyfront.edge.http.response_writer import ResponseWriter
from keyfront.edge.net.tls import TlsTransport
from keyfront.edge.origin.response_reader import ResponseReader
from keyfront.edge.rules.routing import Route, Routing, Rule, Site
from keyfront.edge.serving.exchange import Exchange
from keyfront.edge.serving.settings import EdgeSettings
from keyfront.edge.types.messages import Reply, Request
from keyfront.errors import Denied, OriginFailure
from keyfront.model.snapshot import Behavior, KeyGroup, Origin, PublicKey
from keyfront.signing.verify import KeyRing
from tests.edge.film import Film, bytes_of
from tests.origin import RESET, Script, ScriptedOrigin, answer, closed_port
from tests.sites import site
from tests.viewer import EdgeHarness

ALL = ("GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE")
HALF: Script = [b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"x" * 100_000, RESET]
STALE = {"Cache-Control": "max-age=0", "ETag": '"1"'}
KEY = Path(__file__).resolve().parent.parent / "vectors" / "keys" / "rsa.pub"
OURS = (
    Connection,
    Denied,
    Fill,
    ResponseReader,
    KeyRing,
    OriginFailure,
    Reply,
    Request,
    RequestParser,
    ResponseWriter,
    Route,
    Routing,
    Rule,
    TlsTransport,
    Site,
    Exchange,
)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Objects from before the test are frozen: neither collected nor counted."""
    gc.freeze()
    gc.disable()
    yield
    gc.enable()


def alive() -> Counter[str]:
    return Counter(type(o).__name__ for o in gc.get_objects() if isinstance(o, OURS))


async def leave(harness: EdgeHarness, path: str) -> None:
    async with await harness.viewer() as viewer:
        await viewer.send(b"GET %b HTTP/1.1\r\nHost: d.test\r\n\r\n" % path.encode())
        await viewer.reader.readuntil(b"\r\n\r\n")
        viewer.writer.transport.abort()


CASES: dict[str, Callable[[EdgeHarness], Awaitable[object]]] = {
    "a body that breaks off": lambda harness: harness.get("/half"),
    "a body that breaks off, not to be stored": lambda harness: harness.get(
        "/half", method="POST", body=b"abc"
    ),
    "a part that breaks off": lambda harness: harness.get("/half", headers=[("Range", "bytes=0-")]),
    "no answer": lambda harness: harness.get("/reset"),
    "no answer to a body": lambda harness: harness.get("/reset", method="PUT", body=b"abc"),
    "what is stored in the place of an error": lambda harness: harness.get("/stale"),
    "nothing at all": lambda harness: leave(harness, "/stale"),
    "a refusal": lambda harness: harness.get("/signed/a"),
    "a signature that cannot be read": lambda harness: harness.get(
        "/signed/a?Expires=1&Signature=.&Key-Pair-Id=K"
    ),
    "a viewer who leaves": lambda harness: leave(harness, "/large"),
    "a viewer who leaves before the end is known": lambda harness: leave(harness, "/half"),
}


@pytest.mark.parametrize("name", CASES)
async def test_what_has_failed_leaves_nothing(origin: ScriptedOrigin, no_collector: None, name: str) -> None:
    origin.on("/half", HALF)
    origin.on("/reset", [RESET])
    origin.on("/stale", answer(200, b"old", STALE), [RESET])
    origin.on("/large", answer(200, b"x" * 3_000_000))
    snapshot = site(
        origin.origin(),
        Behavior("/signed/*", "scripted", restricted=True, trusted_key_groups=("g",)),
        Behavior("*", "scripted", allowed_methods=ALL),
        key_groups=(KeyGroup("g", "g", ("K",)),),
        public_keys=(PublicKey("K", KEY.read_text()),),
    )
    async with EdgeHarness(snapshot) as harness:
        await harness.get("/stale")

        async def once() -> None:
            done = len(harness.records)
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await CASES[name](harness)
            await harness.recorded(done + 1)
            harness.edge.fetcher.failures.clear()
            while harness.edge.fills:
                await asyncio.sleep(0)

        await once()
        before = alive()
        for _ in range(5):
            await once()
        # A connection that has just ended may still be closing.
        for _ in range(100):
            await asyncio.sleep(0)
            left = alive() - before
            if not left:
                break
        assert sum(left.values()) < 5, left


@pytest.mark.parametrize("why", ["another version", "an error", "a part that is none", "a break"])
async def test_a_missing_slice_that_does_not_come_leaves_nothing(
    origin: ScriptedOrigin, no_collector: None, why: str
) -> None:
    film = Film(bytes_of(40 * 16384)).on(origin)
    settings = EdgeSettings(memory=8 << 20, max_object=16384, slice=16384)
    snapshot = site(origin.origin(connection_attempts=1), Behavior("*", "scripted"))
    async with EdgeHarness(snapshot, settings=settings) as harness:

        async def once(number: int) -> None:
            film.fail, film.ranges, film.etag = 0, True, f'"{number}"'
            harness.edge.tiers.drop("ETEST/film")
            harness.edge.filler._unsliced.clear()
            harness.edge.fetcher.failures.clear()
            assert (await harness.get("/film", headers=[("Range", "bytes=0-99")])).status == 206
            if why == "another version":
                film.etag = '"other"'
            elif why == "an error":
                film.fail = 403
            elif why == "a break":
                film.break_at = 25 * 16384 + 100
            else:
                film.extra = ["Content-Range: bytes 0-0/1"]
            done = len(harness.records)
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await harness.get("/film", headers=[("Range", f"bytes={20 * 16384}-")])
            await harness.recorded(done + 1)
            film.extra = []
            while harness.edge.fills or harness.edge.filler.slice_fills._fills:
                await asyncio.sleep(0)

        await once(0)
        before = alive()
        for number in range(1, 6):
            await once(number)
        for _ in range(100):
            await asyncio.sleep(0)
            left = alive() - before
            if not left:
                break
        assert sum(left.values()) < 5, left


@pytest.mark.parametrize("goodbye", [True, False])
async def test_a_connection_by_tls_that_has_ended_leaves_nothing(
    origin: ScriptedOrigin, no_collector: None, goodbye: bool
) -> None:
    origin.on("/a", answer(200, b"x" * 100_000))
    authority = trustme.CA()
    ours, theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("d.test").configure_cert(ours)
    authority.configure_trust(theirs)
    async with EdgeHarness(site(origin.origin(), Behavior("*", "scripted")), tls=ours) as harness:

        async def once() -> None:
            async with await harness.viewer(ssl=theirs, server_hostname="d.test") as viewer:
                assert (await viewer.ask("/a", "d.test")).status == 200
                if not goodbye:
                    viewer.writer.transport.abort()
            while harness.listener.connections:
                await asyncio.sleep(0)

        await once()
        before = alive()
        for _ in range(5):
            await once()
        assert sum((alive() - before).values()) < 5, alive() - before


async def test_an_origin_that_cannot_be_reached_leaves_nothing(no_collector: None) -> None:
    async with ScriptedOrigin() as origin:
        nobody = origin.origin(http_port=closed_port())
        async with EdgeHarness(site(nobody, Behavior("*", "scripted"))) as harness:
            await harness.get("/a")
            before = alive()
            for _ in range(5):
                harness.edge.fetcher.failures.clear()
                assert (await harness.get("/a")).status == 502
            assert sum((alive() - before).values()) < 5, alive() - before


def test_a_routing_that_is_replaced_goes_at_once(no_collector: None) -> None:
    snapshot = site(
        Origin("scripted", "origin.test"), Behavior("/a/*", "scripted"), Behavior("*", "scripted")
    )
    routing = Routing(snapshot)
    before = alive()
    for _ in range(5):
        routing = Routing(snapshot, routing)
        found = routing.site("d.test")
        assert found is not None
        assert found.route("/a/b").behavior.path_pattern == "/a/*"
    del found
    assert alive() == before
