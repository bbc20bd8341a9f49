"""Errors: how long they are cached, what a viewer gets in their place, and when the second origin is tried."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from keyfront.model.snapshot import Behavior, ErrorResponse, KeyGroup, OriginGroup, PublicKey, Select
from tests.origin import (
    CLOSE,
    LEAVE_BODY,
    READ_BODY,
    RESET,
    ReceivedRequest,
    ScriptedOrigin,
    Wire,
    answer,
    closed_port,
    deaf_port,
)
from tests.sites import ALICE, site
from tests.viewer import Clock, EdgeHarness, Seen

ALL = ("GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE")
SIGNER = ALICE


@pytest.fixture
async def origin() -> AsyncIterator[ScriptedOrigin]:
    async with ScriptedOrigin() as origin:
        yield origin
    assert not origin.faults


@pytest.fixture
async def spare() -> AsyncIterator[ScriptedOrigin]:
    async with ScriptedOrigin() as origin:
        yield origin
    assert not origin.faults


def quick(origin: ScriptedOrigin, **members: Any) -> Any:
    """An origin that is tried once."""
    terms = {"connection_attempts": 1, "connection_timeout": 5.0, "read_timeout": 5.0}
    return origin.origin(**(terms | members))


def request_id(seen: Seen) -> bytes:
    found = re.search(rb"Request ID: (\S+)", seen.body)
    assert found is not None
    return found[1]


# How an origin can fail before its head is complete, and what the viewer gets.
FAILURES = [
    ("hangs up", [CLOSE], 502),
    ("resets", [RESET], 502),
    ("no HTTP", [b"nonsense\r\n\r\n", CLOSE], 502),
    ("says nothing", [], 504),
    ("two framings", [b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"], 502),
    ("endless headers", [b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000], 502),
    ("101", [b"HTTP/1.1 101 Switching Protocols\r\n\r\n"], 502),
]


class TestFailuresAreRemembered:
    @pytest.mark.parametrize(("script", "status"), [f[1:] for f in FAILURES], ids=[f[0] for f in FAILURES])
    async def test_for_the_error_caching_minimum_ttl(
        self, origin: ScriptedOrigin, script: list[Any], status: int
    ) -> None:
        clock = Clock()
        origin.on("/a", script, answer(200, b"well again"))
        patience = 5.0 if script else 0.5
        async with EdgeHarness(site(quick(origin, read_timeout=patience)), clock=clock) as harness:
            first = await harness.get("/a")
            assert (first.status, first.x_cache) == (status, "Error")
            clock.forward(9.9)
            second = await harness.get("/a")
            assert (second.status, second.x_cache) == (status, "Error")
            assert len(origin.requests) == 1
            # Each viewer gets its own request id.
            for seen in (first, second):
                assert request_id(seen).decode() == seen.header("x-amz-cf-id")
            records = [await harness.recorded(1), await harness.recorded(2)]
            assert records[0]["detail"] == records[1]["detail"] != "Error"
            clock.forward(0.1)
            assert (await harness.get("/a")).body == b"well again"
            clock.forward(5)
            assert (await harness.get("/a")).x_cache == "Hit"

    async def test_until_the_next_snapshot_at_the_latest(
        self, origin: ScriptedOrigin, spare: ScriptedOrigin
    ) -> None:
        origin.on("/a", [CLOSE])
        spare.on("/a", answer(200, b"mended"))
        async with EdgeHarness(site(quick(origin), error_responses=(ErrorResponse(502, 86400),))) as harness:
            assert (await harness.get("/a")).status == 502
            harness.edge.use(site(quick(spare)))
            assert (await harness.get("/a")).body == b"mended"

    @pytest.mark.parametrize(
        ("rules", "seconds"),
        [
            ((ErrorResponse(502, 30),), 30),
            ((ErrorResponse(502, 0),), 0),
            ((ErrorResponse(504, 30), ErrorResponse(404, 99)), 10),
        ],
        ids=["longer", "not at all", "other codes' rules"],
    )
    async def test_for_the_ttl_of_the_rule_for_their_code(
        self, origin: ScriptedOrigin, rules: tuple[ErrorResponse, ...], seconds: int
    ) -> None:
        clock = Clock()
        origin.on("/a", [CLOSE])
        async with EdgeHarness(site(quick(origin), error_responses=rules), clock=clock) as harness:
            for _ in range(3):
                assert (await harness.get("/a")).status == 502
            assert len(origin.requests) == (1 if seconds else 3)
            if seconds:
                clock.forward(seconds - 0.1)
                await harness.get("/a")
                assert len(origin.requests) == 1
                clock.forward(0.1)
                await harness.get("/a")
                assert len(origin.requests) == 2

    async def test_per_key_and_heads_and_ranges_fail_along(self, origin: ScriptedOrigin) -> None:
        for path in ("/a", "/b"):
            origin.on(path, [CLOSE])
        async with EdgeHarness(
            site(quick(origin), Behavior("*", "scripted", allowed_methods=ALL))
        ) as harness:
            assert (await harness.get("/a")).status == 502
            head = await harness.get("/a", method="HEAD")
            assert (head.status, head.body) == (502, b"")
            assert (await harness.get("/a", headers=[("Range", "bytes=0-1")])).status == 502
            assert len(origin.requests) == 1
            assert (await harness.get("/b")).status == 502
            assert len(origin.requests) == 2
            # A response that is not cacheable is not cached as an error either.
            for _ in range(2):
                assert (await harness.get("/a", method="POST", body=b"x")).status == 502
            assert len(origin.requests) == 4

    async def test_a_head_or_range_that_fails_at_the_origin_blocks_no_other_viewer(
        self, origin: ScriptedOrigin
    ) -> None:
        async def choke(asked: ReceivedRequest, wire: Wire) -> None:
            if asked.method == "HEAD" or asked.header("range"):
                wire.reset()
            else:
                await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

        origin.on("/a", [choke])
        async with EdgeHarness(site(quick(origin))) as harness:
            assert (await harness.get("/a", method="HEAD")).status == 502
            assert (await harness.get("/a", headers=[("Range", "bytes=0-1")])).status == 502
            assert (await harness.get("/a")).body == b"ok"

    async def test_an_unreachable_origin_is_unreachable_for_all(self, origin: ScriptedOrigin) -> None:
        port = closed_port()
        async with EdgeHarness(site(quick(origin, http_port=port))) as harness:
            assert (await harness.get("/a", method="HEAD")).status == 502
            late = ScriptedOrigin()
            late.port = port
            async with late:
                assert (await harness.get("/a")).status == 502
            assert not late.requests

    async def test_not_where_caching_is_disabled(self, origin: ScriptedOrigin) -> None:
        origin.on("/a", [CLOSE])
        behavior = Behavior("*", "scripted", min_ttl=0, default_ttl=0, max_ttl=0)
        async with EdgeHarness(site(quick(origin), behavior)) as harness:
            for _ in range(3):
                assert (await harness.get("/a")).status == 502
        assert len(origin.requests) == 3

    async def test_many_at_once_ask_a_dead_origin_once(self, origin: ScriptedOrigin) -> None:
        gate = asyncio.Event()
        origin.on("/a", [gate, CLOSE])
        async with EdgeHarness(site(quick(origin))) as harness:
            asking = [asyncio.create_task(harness.get("/a")) for _ in range(20)]
            await origin.received(1)
            while len(harness.listener.connections) < 20:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            gate.set()
            seen = await asyncio.gather(*asking)
        assert {s.status for s in seen} == {502}
        assert len({s.header("x-amz-cf-id") for s in seen} | {request_id(s).decode() for s in seen}) == 20
        assert len(origin.requests) == 1

    async def test_an_answer_that_breaks_off_is_not_an_error_to_remember(
        self, origin: ScriptedOrigin
    ) -> None:
        rest = asyncio.Event()
        origin.on(
            "/a", [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\none", rest, CLOSE], answer(200, b"complete")
        )
        async with EdgeHarness(site(quick(origin))) as harness:
            async with await harness.viewer() as viewer:
                await viewer.send(b"GET /a HTTP/1.1\r\nHost: d.test\r\n\r\n")
                asyncio.get_running_loop().call_later(0.05, rest.set)
                with pytest.raises(asyncio.IncompleteReadError):
                    await viewer.answer()
            assert (await harness.get("/a")).body == b"complete"


class TestErrorsOfTheOrigin:
    @pytest.mark.parametrize(
        ("status", "control", "rule", "seconds"),
        [
            (404, None, None, 10),
            (404, "max-age=60", None, 60),
            (404, "max-age=5", None, 10),
            (404, "max-age=60", 99, 99),
            (404, "no-store", None, 0),
            (410, None, None, 10),
            (500, "no-store", None, 10),
            (503, None, 0, 0),
            (503, "max-age=20", 0, 20),
            (403, None, None, 0),
            (403, None, 30, 0),
            (403, "max-age=20", None, 20),
            (429, "max-age=20", None, 0),
        ],
    )
    async def test_how_long_they_are_stored(
        self, origin: ScriptedOrigin, status: int, control: str | None, rule: int | None, seconds: int
    ) -> None:
        clock = Clock()
        origin.on("/a", answer(status, b"oh", [("Cache-Control", control)] if control else []))
        rules = () if rule is None else (ErrorResponse(status, rule),)
        async with EdgeHarness(site(origin.origin(), error_responses=rules), clock=clock) as harness:
            for _ in range(2):
                seen = await harness.get("/a")
                assert (seen.status, seen.body, seen.x_cache) == (status, b"oh", "Error")
            assert len(origin.requests) == (1 if seconds else 2)
            if seconds:
                clock.forward(seconds - 0.5)
                await harness.get("/a")
                assert len(origin.requests) == 1
                clock.forward(1)
                await harness.get("/a")
                assert len(origin.requests) == 2


def paged(origin: ScriptedOrigin, *rules: ErrorResponse, **members: Any) -> Any:
    return site(
        origin.origin(), Behavior("*", "scripted", allowed_methods=ALL), error_responses=rules, **members
    )


PAGE = answer(200, b"<h1>pretty</h1>", {"Content-Type": "text/html", "Cache-Control": "max-age=60"})


class TestCustomErrorResponses:
    @pytest.mark.parametrize("status", [400, 403, 404, 405, 414, 416, 500, 501, 502, 503, 504])
    @pytest.mark.parametrize("code", [200, 404, 503])
    async def test_a_page_for_every_code_under_every_code(
        self, origin: ScriptedOrigin, status: int, code: int
    ) -> None:
        origin.on("/a", answer(status, b"plain"))
        origin.on("/page", PAGE)
        async with EdgeHarness(paged(origin, ErrorResponse(status, 10, "/page", code))) as harness:
            for _ in range(2):
                seen = await harness.get("/a")
                assert (seen.status, seen.body, seen.x_cache) == (code, b"<h1>pretty</h1>", "Error")
                assert seen.header("content-type") == "text/html"
            assert (await harness.recorded(2))["result"] == "Error"
        assert [request.target for request in origin.requests].count("/page") == 1

    async def test_only_for_its_own_code(self, origin: ScriptedOrigin) -> None:
        origin.on("/a", answer(500, b"plain"))
        async with EdgeHarness(
            paged(origin, ErrorResponse(503, 10, "/page", 200), ErrorResponse(500, 9))
        ) as harness:
            assert (await harness.get("/a")).body == b"plain"

    async def test_of_a_502_that_the_edge_made_once(
        self, origin: ScriptedOrigin, spare: ScriptedOrigin
    ) -> None:
        spare.on("/pages/502.html", PAGE)
        snapshot = site(
            quick(origin, id="dead", http_port=closed_port()),
            Behavior("/pages/*", "scripted"),
            Behavior("*", "dead"),
            more_origins=(spare.origin(),),
            error_responses=(ErrorResponse(502, 10, "/pages/502.html", 503),),
        )
        async with EdgeHarness(snapshot) as harness:
            for _ in range(2):
                seen = await harness.get("/a")
                assert (seen.status, seen.body, seen.x_cache) == (503, b"<h1>pretty</h1>", "Error")
            assert (await harness.recorded(1))["detail"] == "OriginConnectError"
        assert len(spare.requests) == 1

    async def test_head_gets_the_pages_head(self, origin: ScriptedOrigin) -> None:
        origin.on("/a", [b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\n"])
        origin.on("/page", PAGE)
        async with EdgeHarness(paged(origin, ErrorResponse(404, 10, "/page", 404))) as harness:
            async with await harness.viewer() as viewer:
                seen = await viewer.ask("/a", "d.test", method="HEAD")
                assert (seen.status, seen.header("content-length")) == (404, "15")
                # The connection is intact.
                assert (await viewer.ask("/page", "d.test")).body == b"<h1>pretty</h1>"
        assert [request.method for request in origin.requests] == ["HEAD", "GET"]

    async def test_of_a_post(self, origin: ScriptedOrigin) -> None:
        origin.on("/in", answer(500, b"plain"))
        origin.on("/page", PAGE)
        async with EdgeHarness(paged(origin, ErrorResponse(500, 10, "/page", 500))) as harness:
            headers = [("Content-Type", "text/csv"), ("Range", "bytes=0-1"), ("If-None-Match", "*")]
            seen = await harness.get("/in", method="POST", body=b"x", headers=headers)
            assert (seen.status, seen.body) == (500, b"<h1>pretty</h1>")
        page = origin.requests[1]
        assert (page.method, page.body) == ("GET", b"")
        for name in ("content-type", "content-length", "range", "if-none-match"):
            assert page.header(name) is None

    async def test_a_missing_error_page_yields_its_own_error_and_no_further_page(
        self, origin: ScriptedOrigin
    ) -> None:
        origin.on("/a", answer(500, b"plain"))
        origin.on("/page", answer(404, b"no page here"))
        rules = (ErrorResponse(500, 10, "/page", 200), ErrorResponse(404, 10, "/page", 200))
        async with EdgeHarness(paged(origin, *rules)) as harness:
            for _ in range(2):
                seen = await harness.get("/a")
                assert (seen.status, seen.body, seen.x_cache) == (404, b"no page here", "Error")
            # An error page that itself fails is requested once.
            seen = await harness.get("/page")
            assert (seen.status, seen.body) == (404, b"no page here")
        assert [request.target for request in origin.requests] == ["/a", "/page"]

    async def test_a_page_whose_origin_is_dead_leaves_the_error(self, origin: ScriptedOrigin) -> None:
        origin.on("/a", answer(500, b"plain", close=True))
        origin.on("/page", [CLOSE])
        snapshot = site(quick(origin), error_responses=(ErrorResponse(500, 10, "/page", 200),))
        async with EdgeHarness(snapshot) as harness:
            for _ in range(3):
                assert (await harness.get("/a")).body == b"plain"
        assert [request.target for request in origin.requests] == ["/a", "/page"]

    async def test_the_pages_own_behavior_rules_its_ttl_and_its_origin(
        self, origin: ScriptedOrigin, spare: ScriptedOrigin
    ) -> None:
        clock = Clock()
        origin.on("/a", answer(500, b"plain"))
        spare.on("/p/page", answer(200, b"one"), answer(200, b"two"))
        snapshot = site(
            origin.origin(),
            Behavior("/p/*", "pages", default_ttl=25),
            Behavior("/p/page", "scripted"),
            Behavior("*", "scripted"),
            more_origins=(spare.origin(id="pages"),),
            error_responses=(ErrorResponse(500, 100, "/p/page", 500),),
        )
        async with EdgeHarness(snapshot, clock=clock) as harness:
            assert (await harness.get("/a")).body == b"one"
            clock.forward(24)
            assert (await harness.get("/a")).body == b"one"
            clock.forward(2)
            assert (await harness.get("/a")).body == b"two"
            assert len(origin.requests) == 1

    async def test_the_edges_own_403s_get_the_page_and_it_needs_no_signature(
        self, origin: ScriptedOrigin
    ) -> None:
        origin.on("/page", PAGE)
        snapshot = site(
            origin.origin(),
            Behavior("*", "scripted", restricted=True, trusted_key_groups=("g",), key_cookies=Select("all")),
            public_keys=(PublicKey("KALICE1", SIGNER.public_key.pem),),
            key_groups=(KeyGroup("g", "g", ("KALICE1",)),),
            error_responses=(ErrorResponse(403, 10, "/page", 200),),
        )
        async with EdgeHarness(snapshot) as harness:
            for number, (target, reason) in enumerate(
                [("/a", "missing_key_pair_id"), ("/page?Key-Pair-Id=KX", "unknown_key")], 1
            ):
                seen = await harness.get(target, headers=[("Cookie", "CloudFront-Signature=secret; a=b")])
                assert (seen.status, seen.body, seen.x_cache) == (200, b"<h1>pretty</h1>", "Error")
                assert (await harness.recorded(number))["reason"] == reason
            # Also for a method that is not allowed.
            assert (await harness.get("/a", method="POST", body=b"x")).body == b"<h1>pretty</h1>"
        # The page was requested without the viewer's cookies, once.
        assert [request.header("cookie") for request in origin.requests] == [None]

    async def test_a_disabled_distribution_asks_for_no_page(self, origin: ScriptedOrigin) -> None:
        async with EdgeHarness(paged(origin, ErrorResponse(403, 10, "/page", 200), enabled=False)) as harness:
            assert (await harness.get("/a")).status == 403
        assert not origin.requests


def failing_over(
    first: ScriptedOrigin,
    second: ScriptedOrigin,
    *codes: int,
    behavior: dict[str, Any] | None = None,
    **first_is: Any,
) -> Any:
    return site(
        quick(first, id="first", **first_is),
        Behavior("*", "group", allowed_methods=ALL, **(behavior or {})),
        more_origins=(quick(second, id="second"),),
        origin_groups=(OriginGroup("group", ("first", "second"), codes),),
    )


class TestFailover:
    @pytest.mark.parametrize("code", [400, 403, 404, 416, 500, 502, 503, 504])
    async def test_by_status(self, origin: ScriptedOrigin, spare: ScriptedOrigin, code: int) -> None:
        origin.on("/a", answer(code, b"down"))
        spare.on("/a", answer(200, b"spare"))
        async with EdgeHarness(failing_over(origin, spare, code)) as harness:
            seen = await harness.get("/a")
            assert (seen.status, seen.body, seen.x_cache) == (200, b"spare", "Miss")
            assert (await harness.get("/a")).x_cache == "Hit"
        assert len(origin.requests) == len(spare.requests) == 1
        # Each origin is addressed by its own name.
        assert [request.header("host") for request in (*origin.requests, *spare.requests)] == [
            f"127.0.0.1:{origin.port}",
            f"127.0.0.1:{spare.port}",
        ]

    async def test_other_statuses_go_out(self, origin: ScriptedOrigin, spare: ScriptedOrigin) -> None:
        origin.on("/a", answer(404, b"missing"))
        async with EdgeHarness(failing_over(origin, spare, 500, 503)) as harness:
            assert (await harness.get("/a")).body == b"missing"
        assert not spare.requests

    @pytest.mark.parametrize(("script", "status"), [f[1:] for f in FAILURES], ids=[f[0] for f in FAILURES])
    async def test_by_failure(
        self, origin: ScriptedOrigin, spare: ScriptedOrigin, script: list[Any], status: int
    ) -> None:
        origin.on("/a", script)
        spare.on("/a", answer(200, b"spare"))
        async with EdgeHarness(failing_over(origin, spare, read_timeout=5.0 if script else 0.2)) as harness:
            assert (await harness.get("/a")).body == b"spare"

    async def test_by_refused_and_by_deaf_ports(self, origin: ScriptedOrigin, spare: ScriptedOrigin) -> None:
        spare.on("/a", answer(200, b"spare"))
        with deaf_port() as deaf:
            for port in (closed_port(), deaf):
                snapshot = failing_over(origin, spare, http_port=port, connection_timeout=0.2)
                async with EdgeHarness(snapshot) as harness:
                    assert (await harness.get("/a")).body == b"spare"

    async def test_every_request_begins_at_the_first(
        self, origin: ScriptedOrigin, spare: ScriptedOrigin
    ) -> None:
        origin.on("/a", answer(503, b"down"), answer(200, b"back"))
        spare.on("/a", answer(200, b"spare"))
        async with EdgeHarness(
            failing_over(origin, spare, 503, behavior={"max_ttl": 0, "default_ttl": 0})
        ) as harness:
            assert [(await harness.get("/a")).body for _ in range(2)] == [b"spare", b"back"]

    async def test_both_fail(self, origin: ScriptedOrigin, spare: ScriptedOrigin) -> None:
        origin.on("/a", answer(503, b"down"))
        origin.on("/b", answer(503, b"down"))
        spare.on("/a", answer(500, b"down too"))
        spare.on("/b", [CLOSE])
        async with EdgeHarness(failing_over(origin, spare, 503, 500)) as harness:
            seen = await harness.get("/a")
            assert (seen.status, seen.body) == (500, b"down too")
            for _ in range(2):
                assert (await harness.get("/b")).status == 502
        assert [request.target for request in origin.requests] == ["/a", "/b"]

    @pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
    async def test_safe_methods_cross(
        self, origin: ScriptedOrigin, spare: ScriptedOrigin, method: str
    ) -> None:
        head = b"HTTP/1.1 %b\r\nContent-Length: 0\r\n\r\n"
        origin.on("/a", [head % b"503 Down"])
        spare.on("/a", [head % b"200 OK"])
        async with EdgeHarness(failing_over(origin, spare, 503)) as harness:
            assert (await harness.get("/a", method=method)).status == 200

    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
    async def test_other_methods_do_not_cross(
        self, origin: ScriptedOrigin, spare: ScriptedOrigin, method: str
    ) -> None:
        origin.on("/a", answer(503, b"down"), [CLOSE])
        async with EdgeHarness(failing_over(origin, spare, 503)) as harness:
            assert (await harness.get("/a", method=method, body=b"x")).status == 503
            assert (await harness.get("/a", method=method, body=b"x")).status == 502
        assert not spare.requests

    @pytest.mark.parametrize(
        "script",
        [
            answer(503, b"down"),
            [LEAVE_BODY, *answer(503, b"down", close=True)],
            [READ_BODY, CLOSE],
            [LEAVE_BODY, RESET],
        ],
        ids=["answered", "unread", "closed", "reset"],
    )
    async def test_a_request_with_a_body_is_for_the_first_alone(
        self, origin: ScriptedOrigin, spare: ScriptedOrigin, script: list[Any]
    ) -> None:
        origin.on("/a", script)
        spare.on("/a", answer(200, b"would have got half a body"))
        async with EdgeHarness(failing_over(origin, spare, 503)) as harness:
            assert (await harness.get("/a", method="OPTIONS", body=b"x" * 1000)).status in (502, 503)
        assert not spare.requests

    async def test_what_the_second_gave_is_validated_at_the_first(
        self, origin: ScriptedOrigin, spare: ScriptedOrigin
    ) -> None:
        clock = Clock()
        origin.on("/a", [CLOSE], [CLOSE], answer(304, headers={"ETag": '"1"'}))
        spare.on("/a", answer(200, b"spare", {"ETag": '"1"', "Cache-Control": "max-age=5"}), answer(304))
        async with EdgeHarness(failing_over(origin, spare), clock=clock) as harness:
            words = []
            for _ in range(3):
                words.append((await harness.get("/a")).x_cache)
                clock.forward(6)
        assert words == ["Miss", "RefreshHit", "RefreshHit"]
        assert [request.header("if-none-match") for request in origin.requests] == [None, '"1"', '"1"']
        assert [request.header("if-none-match") for request in spare.requests] == [None, '"1"']

    async def test_a_custom_page_for_what_the_second_answers(
        self, origin: ScriptedOrigin, spare: ScriptedOrigin
    ) -> None:
        origin.on("/a", answer(503, b"down"))
        origin.on("/page", PAGE)
        spare.on("/a", answer(503, b"down too"))
        snapshot = failing_over(origin, spare, 503)
        distribution = msgspec.structs.replace(
            snapshot.distributions[0], error_responses=(ErrorResponse(503, 10, "/page", 200),)
        )
        async with EdgeHarness(msgspec.structs.replace(snapshot, distributions=(distribution,))) as harness:
            assert (await harness.get("/a")).body == b"<h1>pretty</h1>"
