"""What has ended is let go of at once. Objects that refer to each other in a circle stay until the garbage collector
comes by, which a worker that is busy keeps away; after an origin's failure there are whole bodies among them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trustme

from keyfront.edge.cache import Flight
from keyfront.edge.edge import EdgeSettings, Visit
from keyfront.edge.exchange import Reply, Request
from keyfront.edge.http1 import Connection
from keyfront.edge.origin_http1 import Incoming
from keyfront.edge.routing import Route, Routing, Rule, Site
from keyfront.edge.tls import Secured
from keyfront.errors import Denied, OriginFailure
from keyfront.model.snapshot import Behavior, KeyGroup, Origin, PublicKey
from keyfront.signing.verify import KeyRing
from tests.edge.film import Film, bytes_of
from tests.origin import RESET, Script, ScriptedOrigin, answer, closed_port
from tests.viewer import EdgeHouse, site

ALL = ("GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE")
HALF: Script = [b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"x" * 100_000, RESET]
STALE = {"Cache-Control": "max-age=0", "ETag": '"1"'}
KEY = Path(__file__).resolve().parent.parent / "vectors" / "keys" / "rsa.pub"
OURS = (
    Connection,
    Denied,
    Flight,
    Incoming,
    KeyRing,
    OriginFailure,
    Reply,
    Request,
    Route,
    Routing,
    Rule,
    Secured,
    Site,
    Visit,
)


@pytest.fixture
async def origin() -> AsyncIterator[ScriptedOrigin]:
    async with ScriptedOrigin() as origin:
        yield origin


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def alive() -> Counter[str]:
    return Counter(type(o).__name__ for o in gc.get_objects() if isinstance(o, OURS))


async def leave(house: EdgeHouse, path: str) -> None:
    async with await house.viewer() as viewer:
        await viewer.send(b"GET %b HTTP/1.1\r\nHost: d.test\r\n\r\n" % path.encode())
        await viewer.reader.readuntil(b"\r\n\r\n")
        viewer.writer.transport.abort()


CASES: dict[str, Callable[[EdgeHouse], Awaitable[object]]] = {
    "a body that breaks off": lambda house: house.get("/half"),
    "a body that breaks off, not to be stored": lambda house: house.get("/half", method="POST", body=b"abc"),
    "a part that breaks off": lambda house: house.get("/half", headers=[("Range", "bytes=0-")]),
    "no answer": lambda house: house.get("/reset"),
    "no answer to a body": lambda house: house.get("/reset", method="PUT", body=b"abc"),
    "what is stored in the place of an error": lambda house: house.get("/stale"),
    "nothing at all": lambda house: leave(house, "/stale"),
    "a refusal": lambda house: house.get("/signed/a"),
    "a signature that cannot be read": lambda house: house.get(
        "/signed/a?Expires=1&Signature=.&Key-Pair-Id=K"
    ),
    "a viewer who leaves": lambda house: leave(house, "/large"),
    "a viewer who leaves before the end is known": lambda house: leave(house, "/half"),
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
    async with EdgeHouse(snapshot) as house:
        await house.get("/stale")

        async def once() -> None:
            done = len(house.records)
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await CASES[name](house)
            await house.recorded(done + 1)
            house.edge.failures.clear()
            while house.edge.flights:
                await asyncio.sleep(0)

        await once()
        before = alive()
        for _ in range(5):
            await once()
        # A connection that has just ended may still be on its way out.
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
    async with EdgeHouse(snapshot, settings=settings) as house:

        async def once(number: int) -> None:
            film.fail, film.ranges, film.etag = 0, True, f'"{number}"'
            house.edge.tiers.drop("ETEST/film")
            house.edge.unsliced.clear()
            house.edge.failures.clear()
            assert (await house.get("/film", headers=[("Range", "bytes=0-99")])).status == 206
            if why == "another version":
                film.etag = '"other"'
            elif why == "an error":
                film.fail = 403
            elif why == "a break":
                film.break_at = 25 * 16384 + 100
            else:
                film.extra = ["Content-Range: bytes 0-0/1"]
            done = len(house.records)
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await house.get("/film", headers=[("Range", f"bytes={20 * 16384}-")])
            await house.recorded(done + 1)
            film.extra = []
            while house.edge.flights or house.edge.runs._flights:
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
    async with EdgeHouse(site(origin.origin(), Behavior("*", "scripted")), tls=ours) as house:

        async def once() -> None:
            async with await house.viewer(ssl=theirs, server_hostname="d.test") as viewer:
                assert (await viewer.ask("/a", "d.test")).status == 200
                if not goodbye:
                    viewer.writer.transport.abort()
            while house.listener.connections:
                await asyncio.sleep(0)

        await once()
        before = alive()
        for _ in range(5):
            await once()
        assert sum((alive() - before).values()) < 5, alive() - before


async def test_an_origin_that_cannot_be_reached_leaves_nothing(no_collector: None) -> None:
    async with ScriptedOrigin() as origin:
        nobody = origin.origin(http_port=closed_port())
        async with EdgeHouse(site(nobody, Behavior("*", "scripted"))) as house:
            await house.get("/a")
            before = alive()
            for _ in range(5):
                house.edge.failures.clear()
                assert (await house.get("/a")).status == 502
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
