"""The fast path answers as the slow path does: every case runs on two edges, one of which never learns, and the
responses and access records are compared. Cases that send no bytes of their own run over HTTP/1.1 and over HTTP/2."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import random
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyfront import Policy, sign_cookies, sign_url
from keyfront.edge.http.hpack import Codec
from keyfront.edge.logs.access_log import AccessLog
from keyfront.edge.logs.spool import CURRENT, FOLDER, Spool, SpoolSettings
from keyfront.edge.rules.routing import Plan
from keyfront.edge.serving import fast_path
from keyfront.edge.serving.edge import Edge
from keyfront.edge.serving.settings import EdgeSettings
from keyfront.edge.types.messages import Headers, Request
from keyfront.model.snapshot import (
    Behavior,
    Cors,
    Geo,
    KeyGroup,
    Origin,
    ResponseHeader,
    ResponseHeadersPolicy,
    Select,
    Snapshot,
)
from tests.origin import ScriptedOrigin, answer
from tests.sites import ALICE, BOB, keys, site
from tests.viewer import Clock, EdgeHarness, Http2Viewer, Seen

VARYING = {"request_id", "time", "time_taken_us", "first_byte_us", "verify_us", "client_port"}
BIG = b"x" * 200_000


@pytest.fixture
async def origin() -> AsyncIterator[ScriptedOrigin]:
    async with ScriptedOrigin() as origin:
        kept = {"Cache-Control": "max-age=600", "Content-Type": "text/plain"}
        for path in ("/v/1", "/%C3%BC%25%20(1).jpg", "/100%25", "/a/1%3f.css", "/..%2fa/1"):
            origin.on(path, answer(200, b"the object " + path.encode(), kept))
        for path in ("/a/1", "/a/2", "/open", '/op"en', "/z/1", "/c/1", "/g/1"):
            origin.on(path, answer(200, b"the object " + path.encode(), kept))
        for path in (f"/{letter}/{number}" for letter in "sxtd" for number in range(5)):
            origin.on(path, answer(200, b"one for all", kept))
        origin.on("/big", answer(200, BIG, kept))
        origin.on("/short", answer(200, b"short", {"Cache-Control": "max-age=10"}))
        origin.on("/gone", answer(404, b"gone", kept))
        origin.on("/private", answer(200, b"mine", {"Cache-Control": "private"}))
        yield origin


def snapshot(origin: ScriptedOrigin, *, number: int = 1, key: bool = True, geo: str = "") -> Snapshot:
    made = site(
        origin.origin(),
        Behavior("/a/*", "scripted", restricted=True, trusted_key_groups=("group",)),
        Behavior("/z/*", "scripted", accept_gzip=True, accept_brotli=True, key_query=Select("all")),
        Behavior("/c/*", "scripted", key_cookies=Select("whitelist", ("who",))),
        Behavior("/h/*", "scripted", key_headers=Select("whitelist", ("origin",))),
        Behavior("/s/*", "scripted", response_headers_policy_id="secure"),
        Behavior("/x/*", "scripted", response_headers_policy_id="cors"),
        Behavior("/t/*", "scripted", response_headers_policy_id="timing"),
        Behavior("/d/*", "scripted", response_headers_policy_id="date"),
        Behavior("/v/*", "scripted", forward_headers=Select("all")),
        Behavior("*", "scripted"),
        public_keys=keys(ALICE, BOB),
        key_groups=(
            KeyGroup("group", "g", (ALICE.key_pair_id, BOB.key_pair_id) if key else (BOB.key_pair_id,)),
        ),
        geo=Geo("whitelist", (geo,)) if geo else Geo(),
    )
    return msgspec.structs.replace(made, number=number, response_headers_policies=POLICIES)


POLICIES = (
    ResponseHeadersPolicy(
        "secure", (ResponseHeader("x-frame-options", "DENY", True), ResponseHeader("etag", "no", False))
    ),
    ResponseHeadersPolicy("cors", cors=Cors(("http://a.test", "*.b.test"), ("*",), ("GET",))),
    ResponseHeadersPolicy("timing", server_timing=0.0),
    ResponseHeadersPolicy("date", remove=("date",)),
)


class Pair:
    """The same edge twice; `plain` never learns."""

    def __init__(
        self, origin: ScriptedOrigin, made: Snapshot, protocol: str = "HTTP/1.1", **settings: Any
    ) -> None:
        self.clock = Clock()
        self.http2 = protocol == "HTTP/2"
        self._folder = tempfile.TemporaryDirectory()
        self.spools = [Path(self._folder.name, name) for name in ("fast", "plain")]
        self.fast, self.plain = (
            EdgeHarness(
                made,
                clock=self.clock,
                http2=self.http2,
                spool=Spool(folder, SpoolSettings(everything=True)),
                **settings,
            )
            for folder in self.spools
        )
        self.plain.listener.shared.fast_path.learn = lambda *_: None  # type: ignore[method-assign]
        self.fast_hits = 0
        hit = self.fast.edge.log.hit

        def counted(record: str) -> None:
            self.fast_hits += 1
            hit(record)

        self.fast.edge.log.hit = counted  # type: ignore[method-assign]

    async def __aenter__(self) -> Pair:
        self._stack = contextlib.AsyncExitStack()
        for harness in (self.fast, self.plain):
            await self._stack.enter_async_context(harness)
        self.viewers = [
            await self._stack.enter_async_context(await h.viewer()) for h in (self.fast, self.plain)
        ]
        if self.http2:
            self.peers = [Http2Viewer(viewer) for viewer in self.viewers]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        self._folder.cleanup()

    def use(self, made: Snapshot) -> None:
        for harness in (self.fast, self.plain):
            harness.edge.use(made)

    async def ask(self, raw: bytes, answers: int = 1, method: str = "GET") -> list[Seen]:
        """Send the same bytes to both. Returns the responses, which must be alike, as must their records."""
        seen: list[list[Seen]] = []
        for harness, viewer in zip((self.fast, self.plain), self.viewers, strict=True):
            before = len(harness.records)
            await viewer.send(raw)
            seen.append([await viewer.answer(method) for _ in range(answers)])
            await harness.recorded(before + answers)
        return self._alike(seen, answers)

    def _alike(self, seen: list[list[Seen]], answers: int) -> list[Seen]:
        for one, other in zip(*seen, strict=True):
            assert one.status == other.status
            assert one.body.replace(identity(one), b"") == other.body.replace(identity(other), b"")
            assert stripped(one) == stripped(other)
        for one_record, other_record in zip(
            self.fast.records[-answers:], self.plain.records[-answers:], strict=True
        ):
            assert {k: v for k, v in one_record.items() if k not in VARYING} == {
                k: v for k, v in other_record.items() if k not in VARYING
            }
            assert set(other_record) - set(one_record) <= {"verify_us", "first_byte_us"}
        self._compare_log_records(answers)
        return seen[0]

    def _compare_log_records(self, answers: int) -> None:
        """The records for the standard log are alike too, apart from times and names of connections."""
        found: list[list[dict[str, Any]]] = []
        for harness, folder in zip((self.fast, self.plain), self.spools, strict=True):
            harness.log.flush()
            path = folder / FOLDER / CURRENT
            lines = path.read_text().splitlines()[-answers:] if path.exists() else []
            found.append([json.loads(line) for line in lines])
            if path.exists():
                path.unlink()
        assert len(found[0]) == len(found[1])
        for one, other in zip(*found, strict=True):
            assert one.pop("connection_id") and other.pop("connection_id")
            assert one["head_bytes"] > 0
            if self.http2:  # each edge has a name of its own in Via, whose Huffman code is shorter or longer
                assert abs(one["head_bytes"] - other.pop("head_bytes")) < 20
                one.pop("head_bytes")
            assert {k: v for k, v in one.items() if k not in VARYING | {"origin_first_us"}} == {
                k: v for k, v in other.items() if k not in VARYING | {"origin_first_us"}
            }

    async def get(self, target: str, *headers: str, host: str = "d.test", method: str = "GET") -> Seen:
        if self.http2:
            seen: list[list[Seen]] = []
            for harness, peer in zip((self.fast, self.plain), self.peers, strict=True):
                before = len(harness.records)
                seen.append([await peer.ask(target, host, headers, method)])
                await harness.recorded(before + 1)
            return self._alike(seen, 1)[0]
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *headers, "", ""]
        return (await self.ask("\r\n".join(lines).encode("latin-1"), method=method))[0]


def identity(seen: Seen) -> bytes:
    return str(seen.header("x-amz-cf-id")).encode()


def stripped(seen: Seen) -> list[tuple[str, str]]:
    return [(n, "" if n in ("x-amz-cf-id", "via") else v) for n, v in seen.headers]


@pytest.fixture(params=["HTTP/1.1", "HTTP/2"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def pair(origin: ScriptedOrigin, protocol: str) -> AsyncIterator[Pair]:
    async with Pair(origin, snapshot(origin), protocol) as pair:
        yield pair


@pytest.fixture
async def pair1(origin: ScriptedOrigin) -> AsyncIterator[Pair]:
    """Over HTTP/1.1, whose bytes the test sends."""
    async with Pair(origin, snapshot(origin)) as pair:
        yield pair


@pytest.fixture
async def pair2(origin: ScriptedOrigin) -> AsyncIterator[Pair]:
    """Over HTTP/2."""
    async with Pair(origin, snapshot(origin), "HTTP/2") as pair:
        yield pair


def signed(pair: Pair, path: str, signer: Any = ALICE, seconds: int = 600, **terms: Any) -> str:
    url = sign_url("http://d.test" + path, signer, expires=int(pair.clock.now) + seconds, **terms)
    return url.removeprefix("http://d.test")


async def taken(pair: Pair, ask: Callable[[], Any], times: int = 4) -> None:
    """Repeat the request until it takes the fast path, as it must."""
    for _ in range(times):
        await ask()
    assert pair.fast_hits > 0


class TestPathsThatReadTwoWays:
    @pytest.mark.parametrize("target", ["/%C3%BC%25%20(1).jpg", "/100%25"])
    async def test_a_valid_signature_is_served_from_memory(self, pair: Pair, target: str) -> None:
        async def ask() -> None:
            assert (await pair.get(target)).body == b"the object " + target.encode()

        await taken(pair, ask)

    @pytest.mark.parametrize(
        "target", ["/a/1%3f.css", "/..%2fa/1", "//a/1", "/a/1;x", "/%61/1", "/x/..%2Fa%2f1"]
    )
    async def test_a_guarded_one_never(self, pair: Pair, target: str) -> None:
        await taken(pair, lambda: pair.get("/open"))
        before = pair.fast_hits
        for _ in range(4):
            assert (await pair.get(target)).status == 403
        assert pair.fast_hits == before
        by_url = signed(pair, target, as_is=True)
        statuses = {(await pair.get(by_url)).status for _ in range(4)}
        assert statuses <= {200, 404}
        assert (await pair.get(target)).status == 403

    @pytest.mark.parametrize("query", ["Hash-Algorithm", "Hash-Algorithm=SHA256"])
    async def test_a_hash_algorithm_alone_signs(self, pair: Pair, query: str) -> None:
        policy = Policy("http://d.test/a/*", expires=int(pair.clock.now) + 600)
        cookie = "Cookie: " + sign_cookies(policy, ALICE, secure=False).header
        for _ in range(4):
            assert (await pair.get("/a/1", cookie)).status == 200
            assert (await pair.get(f"/a/1?{query}", cookie)).status == 403
        assert pair.fast_hits > 0

    async def test_headers_that_override_are_in_the_key(self, pair: Pair, origin: ScriptedOrigin) -> None:
        async def ask() -> None:
            assert (await pair.get("/v/1")).status == 200
            assert (await pair.get("/v/1", "X-Other: 1")).status == 200

        await taken(pair, ask)
        # The site restricts a path, so no viewer's override is forwarded; it still makes an entry of its own.
        for _ in range(3):
            seen = await pair.get("/v/1", "X-Original-URL: /a/1")
            assert seen.body == b"the object /v/1"
        asked = [request for request in origin.requests if request.target == "/v/1"]
        assert len(asked) == 4
        assert not any(one.header("x-original-url") for one in asked)


AGENTS = [
    ("User-Agent: curl/8", "Referer: http://d.test/page"),
    ('User-Agent: a "quoted" \\ one\t%s %d {0}', "Referer: http://d.test/?a=%41&b={}"),
    ("User-Agent: caf\xe9 \xff", "Accept: */*"),
    ("Referer: ", "User-Agent:"),
]


@pytest.mark.parametrize("headers", AGENTS, ids=range(len(AGENTS)))
async def test_user_agent_and_referer_are_in_the_record(pair: Pair, headers: tuple[str, ...]) -> None:
    await taken(pair, lambda: pair.get("/open", *headers))


async def test_signed_urls_by_both_keys(pair: Pair) -> None:
    for signer in (ALICE, BOB):
        before = pair.fast_hits
        target = signed(pair, "/a/1", signer)
        for _ in range(4):
            assert (await pair.get(target)).status == 200
        assert pair.fast_hits > before


async def test_a_path_that_json_must_escape(pair: Pair) -> None:
    await taken(pair, lambda: pair.get('/op"en'), 4)
    assert pair.fast.records[-1]["path"] == '/op"en'


async def test_own_parameters_are_logged_and_signing_ones_are_not(pair: Pair) -> None:
    target = signed(pair, "/a/1?page=2&x=%22")
    await taken(pair, lambda: pair.get(target), 4)
    assert pair.fast.records[-1]["query"] == "page=2&x=%22"
    await taken(pair, lambda: pair.get("/open?Signature=abc&Policy=x&mine=1"), 4)
    assert pair.fast.records[-1]["query"] == "mine=1"


async def test_a_signature_ends_in_the_second_it_names(pair: Pair) -> None:
    target = signed(pair, "/a/1", seconds=100)
    await taken(pair, lambda: pair.get(target), 4)
    pair.clock.forward(99.0 - pair.clock.now % 1)
    assert (await pair.get(target)).status == 200
    pair.clock.forward(1.5)
    assert (await pair.get(target)).status == 403


async def test_a_custom_policy_is_judged_by_address_and_date(pair: Pair) -> None:
    now = int(pair.clock.now)
    near = Policy("http://d.test/a/*", expires=now + 600, starts=now - 5, ip="127.0.0.1")
    far = Policy("http://d.test/a/*", expires=now + 600, ip="192.0.2.0/24")
    for policy, status in ((near, 200), (far, 403)):
        target = sign_url("http://d.test/a/1", ALICE, policy=policy).removeprefix("http://d.test")
        for _ in range(4):
            assert (await pair.get(target)).status == status
    assert pair.fast_hits > 0


@pytest.mark.parametrize("own", ["", "?page=1"])
async def test_cookies_are_judged_at_every_request(pair: Pair, own: str) -> None:
    policy = Policy("http://d.test/a/*", expires=int(pair.clock.now) + 100)
    cookies = sign_cookies(policy, ALICE, secure=False)
    header = "Cookie: " + "; ".join(f"{name}={value}" for name, value in cookies.values.items())
    for path in ("/a/1", "/a/2"):
        before = pair.fast_hits
        for _ in range(4):
            assert (await pair.get(path + own, header)).status == 200
        assert pair.fast_hits > before
    # Other viewers know the URL now, but have no cookie, or a corrupted one.
    for other in ("X-None: 1", header[:-3] + "AAA", "Cookie: a=b"):
        for _ in range(3):
            assert (await pair.get("/a/1" + own, other)).status == 403
    pair.clock.forward(101)
    assert (await pair.get("/a/1" + own, header)).status == 403


async def test_a_key_that_left_its_group(pair: Pair, origin: ScriptedOrigin) -> None:
    target = signed(pair, "/a/1")
    await taken(pair, lambda: pair.get(target), 4)
    pair.use(snapshot(origin, number=2, key=False))
    assert (await pair.get(target)).status == 403
    pair.use(snapshot(origin, number=3))
    assert (await pair.get(target)).status == 200


async def test_countries_from_a_trusted_proxy(origin: ScriptedOrigin, protocol: str) -> None:
    async with Pair(origin, snapshot(origin, geo="NL"), protocol, trusted=("127.0.0.1",)) as pair:
        dutch, american = "X-Forwarded-For: 194.109.6.66", "X-Forwarded-For: 8.8.8.8"
        for _ in range(4):
            assert (await pair.get("/open", dutch)).status == 200
        assert pair.fast_hits > 0
        assert pair.fast.records[-1]["country"] == "NL"
        for _ in range(3):
            assert (await pair.get("/open", american)).status == 403
        pair.use(snapshot(origin, number=2, geo="US"))
        for _ in range(3):
            assert (await pair.get("/open", dutch)).status == 403
            assert (await pair.get("/open", american)).status == 200


async def test_a_trusted_proxys_headers_apply_on_the_fast_path(origin: ScriptedOrigin, protocol: str) -> None:
    async with Pair(origin, snapshot(origin), protocol, trusted=("127.0.0.1",)) as pair:
        for address in ("198.51.100.7", "198.51.100.8"):
            before = pair.fast_hits
            for _ in range(3):
                await pair.get("/open", f"X-Forwarded-For: {address}")
            assert pair.fast_hits > before
            assert pair.fast.records[-1]["client_ip"] == address
        for _ in range(3):
            await pair.get("/open", "X-Forwarded-Proto: https")
        assert pair.fast.records[-1]["scheme"] == "https"
        assert (await pair.get("/open")).status == 200
        assert pair.fast.records[-1]["scheme"] == "http"


async def test_what_is_in_the_cache_key(pair: Pair, origin: ScriptedOrigin) -> None:
    for path, headers in (
        ("/z/1", ["Accept-Encoding: gzip", "Accept-Encoding: br", "Accept-Encoding: identity", "X: 1"]),
        ("/c/1", ["Cookie: who=me", "Cookie: who=you; b=c", "Cookie: b=c", "X: 1"]),
    ):
        for header in headers:
            before = pair.fast_hits
            for _ in range(3):
                assert (await pair.get(path, header)).status == 200
            assert pair.fast_hits > before, (path, header)
    for query in ("?a=1", "?a=2"):
        for _ in range(3):
            await pair.get("/z/1" + query, "Accept-Encoding: gzip")
    # For two edges: gzip, br, neither; with each query gzip; and three cookie variants, one of which is no cookie.
    assert len([request for request in origin.requests if request.target == "/z/1"]) == 2 * (3 + 2)
    assert len([request for request in origin.requests if request.target == "/c/1"]) == 2 * 3


async def test_what_is_no_plain_hit_goes_the_long_way(pair: Pair) -> None:
    for _ in range(4):
        await pair.get("/gone")
        await pair.get("/private")
        await pair.get("/h/none", "Origin: http://a.test")
        await pair.get("/open", "Range: bytes=0-3")
        await pair.get("/open", "If-None-Match: *")
        await pair.get("/open", method="HEAD")
    assert pair.fast_hits == 0


ORIGINS: tuple[list[str], ...] = (
    [],
    ["Origin: http://a.test"],
    ["Origin: https://www.b.test"],
    ["Origin: http://c.test"],
    ["Origin: http://a.test", "Origin: http://a.test"],
)


@pytest.mark.parametrize("prefix", ["/s/", "/x/", "/t/", "/d/"])
async def test_a_response_headers_policy_applies_on_fast_and_slow_path(
    pair: Pair, origin: ScriptedOrigin, prefix: str
) -> None:
    """A miss takes the slow path; the hits after it get the same headers, whatever was requested in between."""
    changing = ("age", "date", "x-cache", "x-amz-cf-id", "via")
    missed: list[list[tuple[str, str]]] = []
    for number, headers in enumerate(ORIGINS):
        seen = await pair.get(f"{prefix}{number}", *headers)
        assert seen.x_cache == "Miss"
        missed.append(sorted(each for each in seen.headers if each[0] not in changing))
    for _ in range(3):
        for headers, expected in zip(ORIGINS, missed, strict=True):
            seen = await pair.get(f"{prefix}0", *headers)
            assert seen.x_cache == "Hit"
            assert seen.header("date")
            assert sorted(each for each in seen.headers if each[0] not in changing) == expected
    assert (pair.fast_hits > 0) == (prefix in ("/s/", "/x/"))


async def test_stale_is_not_fresh_and_age_grows(pair: Pair) -> None:
    await taken(pair, lambda: pair.get("/short"))
    pair.clock.forward(7)
    before = pair.fast_hits
    assert (await pair.get("/short")).header("age") == "7"
    assert pair.fast_hits == before + 1
    pair.clock.forward(4)
    assert (await pair.get("/short")).x_cache in ("RefreshHit", "Miss")
    assert pair.fast_hits == before + 1


async def test_age_beyond_an_hour(origin: ScriptedOrigin, protocol: str) -> None:
    origin.on("/old", answer(200, b"old", {"Cache-Control": "max-age=900000", "Age": "86400"}))
    async with Pair(origin, snapshot(origin), protocol) as pair:
        await taken(pair, lambda: pair.get("/old"))
        pair.clock.forward(100)
        assert (await pair.get("/old")).header("age") == "86500"


async def test_a_large_body(pair: Pair) -> None:
    await taken(pair, lambda: pair.get("/big"))
    assert (await pair.get("/big")).body == BIG


class TestFraming:
    """The bytes of one read need not be one request, and must never be treated as one."""

    GET = b"GET /open HTTP/1.1\r\nHost: d.test\r\n\r\n"

    async def test_requests_in_one_packet(self, pair1: Pair) -> None:
        for _ in range(3):
            await pair1.ask(self.GET)
        before = pair1.fast_hits
        for many in (2, 5):
            await pair1.ask(self.GET * many, many)
        await pair1.ask(self.GET)
        assert pair1.fast_hits == before + 1

    async def test_a_section_is_not_learned_from_two_requests(self, pair1: Pair) -> None:
        both = b"GET /open HTTP/1.1\r\nHost: d.test\r\nX: 1\r\n\r\n" * 2
        for _ in range(3):
            await pair1.ask(both, 2)
        assert pair1.fast_hits == 0

    async def test_a_request_in_two_packets(self, pair1: Pair) -> None:
        for _ in range(3):
            await pair1.ask(self.GET)
        before = pair1.fast_hits
        for cut in (1, 4, 10, 19, 20, 21, len(self.GET) - 1):
            for harness, viewer in zip((pair1.fast, pair1.plain), pair1.viewers, strict=True):
                count = len(harness.records)
                await viewer.send(self.GET[:cut])
                await viewer.send(self.GET[cut:])
                assert (await viewer.answer()).status == 200
                await harness.recorded(count + 1)
        assert pair1.fast.listener.shared.fast_path.sections.get(b"\r\nHost: d.test\r\n\r\n") is not None
        await pair1.ask(self.GET)
        assert pair1.fast_hits > before

    async def test_the_rest_of_a_body_is_no_request(self, pair1: Pair, origin: ScriptedOrigin) -> None:
        """The body of a request looks like a request that the fast path knows, and arrives in its own packet."""
        for _ in range(3):
            await pair1.ask(self.GET)
        before = pair1.fast_hits
        for harness, viewer in zip((pair1.fast, pair1.plain), pair1.viewers, strict=True):
            count = len(harness.records)
            head = b"PUT /open HTTP/1.1\r\nHost: d.test\r\nContent-Length: %d\r\n\r\n" % len(self.GET)
            await viewer.send(head)
            await viewer.send(self.GET)
            assert (await viewer.answer()).status == 403  # the behavior does not allow PUT
            await harness.recorded(count + 1)
        assert pair1.fast_hits == before

    @pytest.mark.parametrize(
        "line",
        [
            b"GET /open HTTP/1.1\nX: HTTP/1.1",
            b"GET /open\tHTTP/1.1",
            b"GET /open HTTP/1.1 HTTP/1.1",
            b"GET /open\x00 HTTP/1.1",
            b"GET /open#x HTTP/1.1",
            b"get /open HTTP/1.1",
            b"GET /op\xc3\xa9n HTTP/1.1",
        ],
    )
    async def test_a_known_section_after_a_line_that_is_none(
        self, origin: ScriptedOrigin, line: bytes
    ) -> None:
        async with Pair(origin, snapshot(origin)) as pair:
            for _ in range(3):
                await pair.ask(self.GET)
            before = pair.fast_hits
            seen = await pair.ask(line + b"\r\nHost: d.test\r\n\r\n")
            assert seen[0].status == 400
            assert pair.fast_hits == before

    @pytest.mark.parametrize(
        ("line", "status"),
        [
            (b"GET /open  HTTP/1.1", 200),
            (b"GET /open HTTP/1.0", 200),
            (b"GET http://d.test/open HTTP/1.1", 200),
            (b"GET /other HTTP/1.1", 404),
        ],
    )
    async def test_a_known_section_after_another_line(
        self, origin: ScriptedOrigin, line: bytes, status: int
    ) -> None:
        origin.on("/other", answer(404, b"no"))
        async with Pair(origin, snapshot(origin)) as pair:
            for _ in range(3):
                await pair.ask(self.GET)
            seen = await pair.ask(line + b"\r\nHost: d.test\r\n\r\n")
            assert seen[0].status == status

    async def test_nothing_is_learned_of_a_connection_that_ends(self, pair1: Pair) -> None:
        for _ in range(2):
            await pair1.ask(self.GET)
        sections = len(pair1.fast.listener.shared.fast_path.sections)
        await pair1.ask(self.GET[:-2] + b"Connection: close\r\n\r\n")
        assert len(pair1.fast.listener.shared.fast_path.sections) == sections
        assert [await viewer.at_end() for viewer in pair1.viewers] == [b"", b""]

    async def test_a_viewer_that_sent_close_notify_is_answered_and_disconnected(self, pair1: Pair) -> None:
        for _ in range(3):
            await pair1.ask(self.GET)
        for viewer in pair1.viewers:
            viewer.writer.write(self.GET)
            viewer.writer.write_eof()
            assert (await viewer.answer()).status == 200
            assert await viewer.at_end() == b""

    async def test_a_worker_that_drains_closes(self, pair1: Pair) -> None:
        for _ in range(3):
            await pair1.ask(self.GET)
        for harness in (pair1.fast, pair1.plain):
            await harness.listener.drain()
        assert [await viewer.at_end() for viewer in pair1.viewers] == [b"", b""]


async def test_a_viewer_that_does_not_read_stops_the_edge(pair1: Pair) -> None:
    """The fast path does not get further ahead than the slow path when the viewer does not read."""
    get = b"GET /big HTTP/1.1\r\nHost: d.test\r\n\r\n"
    for _ in range(3):
        await pair1.ask(get)
    viewer = pair1.viewers[0]
    before = pair1.fast_hits
    (connection,) = pair1.fast.listener.connections
    for _ in range(200):
        viewer.writer.write(get)
        await asyncio.sleep(0)
    while connection._writer.writable:
        await asyncio.sleep(0)
    assert pair1.fast_hits - before < 200
    for _ in range(200):
        assert len((await viewer.answer()).body) == len(BIG)
    assert pair1.fast_hits > before


class TestHttp2:
    async def together(self, pair: Pair, *requests: tuple[str, tuple[str, ...]]) -> list[Seen]:
        """Send requests in one packet."""
        seen: list[list[Seen]] = []
        for harness, peer in zip((pair.fast, pair.plain), pair.peers, strict=True):
            before = len(harness.records)
            seen.append(await peer.together("d.test", requests))
            await harness.recorded(before + len(requests))
        return pair._alike(seen, len(requests))

    async def test_requests_in_one_packet(self, pair2: Pair) -> None:
        await taken(pair2, lambda: pair2.get("/open"))
        before = pair2.fast_hits
        for seen in await self.together(pair2, *[("/open", ())] * 5):
            assert seen.body == b"the object /open"
        assert pair2.fast_hits == before + 5
        bodies = [seen.body for seen in await self.together(pair2, ("/open", ()), ("/z/1", ()), ("/big", ()))]
        assert bodies == [b"the object /open", b"the object /z/1", BIG]

    async def test_only_repeated_bytes_are_not_decoded(
        self, pair2: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        decoded: list[bytes] = []
        decode = Codec.decode

        def counted(codec: Codec, block: bytes) -> tuple[Headers, bool]:
            decoded.append(block)
            return decode(codec, block)

        await taken(pair2, lambda: pair2.get("/open", "Cookie: who=me"))
        monkeypatch.setattr(Codec, "decode", counted)
        for _ in range(3):
            assert (await pair2.get("/open", "Cookie: who=me")).body == b"the object /open"
        assert (await pair2.get("/c/1", "Cookie: who=me")).body == b"the object /c/1"
        assert len(decoded) == 4  # by the edge that never learns
        decoded.clear()
        before = pair2.fast_hits
        for _ in range(4):  # the first changes the table
            assert (await pair2.get("/open", "Cookie: who=you")).body == b"the object /open"
        assert len(decoded) == 4 + 3
        decoded.clear()
        for _ in range(3):  # which has another state now
            assert (await pair2.get("/open", "Cookie: who=me")).body == b"the object /open"
        assert len(decoded) == 3 + 1
        assert pair2.fast_hits == before + 2 + 3

    async def test_equal_bytes_after_another_change_of_the_table_are_another_request(
        self, pair2: Pair
    ) -> None:
        """Two viewers whose requests are equal in all but the first, which decides what the later bytes mean."""
        for who in ("me", "you"):
            async with contextlib.AsyncExitStack() as stack:
                pair2.peers = [
                    Http2Viewer(await stack.enter_async_context(await harness.viewer()))
                    for harness in (pair2.fast, pair2.plain)
                ]
                for _ in range(5):
                    await pair2.get("/c/1", f"Cookie: who={who}", f"User-Agent: {who}")
                    assert pair2.fast.records[-1]["user_agent"] == who
        assert pair2.fast_hits > 4

    @pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
    async def test_paths_in_the_table_and_paths_that_are_not(self, pair2: Pair, share: float) -> None:
        """Whatever the table contains, a request is the one that its header block stands for."""
        chance = random.Random(f"paths {share}")
        targets = ["/open", "/z/1", "/c/1", "/", signed(pair2, "/a/1"), signed(pair2, "/a/2"), "/a/1", "/a/2"]
        paths = [target.partition("?")[0] for target in targets]
        expected = [(200, b"the object " + path.encode()) for path in paths]
        expected[3] = (404, b"")
        expected[6] = expected[7] = (403, b"")
        for _ in range(120):
            which = chance.randrange(len(targets))
            for peer in pair2.peers:
                peer.indexes_path = chance.random() < share
            headers = chance.choice([(), ("User-Agent: one",), ("User-Agent: two", "Accept: */*")])
            seen = await pair2.get(targets[which], *headers)
            status, body = expected[which]
            assert seen.status == status
            assert status != 200 or seen.body == body
        assert pair2.fast_hits > 20

    async def test_a_known_section_with_a_path_that_is_none(self, pair2: Pair) -> None:
        await taken(pair2, lambda: pair2.get("/open"))
        before = pair2.fast_hits
        for target in ("/op en", "/open#x", "open", "*", "/op\xe9n", "/" + "x" * 8192):
            for _ in range(3):
                assert (await pair2.get(target)).status in (400, 413, 414), target
        assert (await pair2.get("/open")).status == 200
        assert pair2.fast_hits == before + 1

    async def test_a_head_that_only_another_path_makes_too_large(self, pair2: Pair) -> None:
        headers = [f"X-{number}: {'e' * 3000}" for number in range(5)]
        for path in ("/open", "/open?" + "e" * 6000):
            for _ in range(4):
                seen = await pair2.get(path, *headers)
                assert (seen.status == 200) == (path == "/open")


TEXT = st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=30)


@functools.cache
def edge_of_nobody() -> Edge:
    edge = Edge(EdgeSettings(), AccessLog(None))
    edge.use(site(Origin("o", "127.0.0.1")))
    return edge


@given(
    agent=TEXT,
    referer=TEXT,
    path=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20),
    tls=TEXT,
)
def test_a_record_made_of_pieces_is_the_encoders(agent: str, referer: str, path: str, tls: str) -> None:
    """Whatever the fields contain, the pieces form a line that parses back to the original values."""
    edge = edge_of_nobody()
    target = "/" + path.replace("?", "").replace("#", "")
    headers = [(b"user-agent", agent.encode("latin-1")), (b"referer", referer.encode("latin-1"))]
    request = Request("GET", target, "d.test", headers, wire_bytes=len(target) + 50)
    exchange = edge.lookup(request)
    assert isinstance(exchange.plan, Plan)
    fast = fast_path.FastPath(edge)
    section = fast_path.CachedHeaderBlock(request, "")
    template = fast._prepare(exchange.plan, section, target)
    assert template is not None
    client = fast_path.Caller("192.0.2.1", 7, (tls, "x")).record_fields
    shown = "" if template.spelled else target
    line = (
        f'{{"time":1.5,{client}{template.first}{shown}{template.middle}0,"time_taken_us":0'
        f"{section.record_fields}{template.last}"
    )
    read = msgspec.json.decode(line)
    assert read["path"] == target
    assert read.get("user_agent", "") == agent
    assert read.get("referer", "") == referer
    assert read["host"] == "d.test"
    assert read.get("ssl_protocol", "") == tls
