"""Response headers policies at the edge (cloudfront-semantics §5.13), on real connections."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from keyfront.edge.serving.settings import EdgeSettings
from keyfront.model.compile import compile_snapshot, read_response_headers_policy
from keyfront.model.managed import RESPONSE_HEADERS_POLICIES
from keyfront.model.snapshot import (
    Behavior,
    Cors,
    ErrorResponse,
    Geo,
    ResponseHeader,
    ResponseHeadersPolicy,
    Select,
    Snapshot,
)
from tests.edge.test_asgi import served, viewer
from tests.origin import ScriptedOrigin, answer, closed_port
from tests.sites import site
from tests.viewer import EdgeHarness, Seen

ALL = ("GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE")

ANY = Cors(origins=("*",), headers=("*",), methods=("GET", "POST"))
H = ResponseHeader


def policy(**members: Any) -> ResponseHeadersPolicy:
    return ResponseHeadersPolicy("p", **members)


@pytest.fixture
async def origin() -> AsyncIterator[ScriptedOrigin]:
    async with ScriptedOrigin() as origin:
        yield origin
    assert not origin.faults


def under(snapshot: Snapshot, *policies: ResponseHeadersPolicy, number: int = 1) -> Snapshot:
    return msgspec.structs.replace(snapshot, response_headers_policies=policies, number=number)


def fields_of(seen: Seen, *names: str) -> dict[str, str]:
    return {name: value for name, value in seen.headers if name in names}


def behaves(origin: ScriptedOrigin, pattern: str = "*", policy_id: str = "p", **members: Any) -> Behavior:
    return Behavior(pattern, origin.origin().id, response_headers_policy_id=policy_id, **members)


BODY = bytes(range(256)) * 8


async def test_on_misses_hits_heads_ranges_and_304_and_at_once_when_it_changes(
    origin: ScriptedOrigin,
) -> None:
    cached = {"Cache-Control": "max-age=100", "ETag": '"1"', "X-Powered-By": "php", "X-Mine": "origin's"}
    origin.on("/a", answer(200, BODY, cached))
    first = policy(
        headers=(H("x-mine", "edge's", True), H("x-frame-options", "DENY", False)), remove=("x-powered-by",)
    )
    names = ("x-mine", "x-frame-options", "x-powered-by")
    plain = site(origin.origin(), behaves(origin))
    async with EdgeHarness(under(plain, first)) as harness, await harness.viewer() as viewer:
        expected = {"x-mine": "edge's", "x-frame-options": "DENY"}
        for headers, status, result in (
            ((), 200, "Miss"),
            ((), 200, "Hit"),
            ((), 200, "Hit"),
            ([("Range", "bytes=1-3")], 206, "Hit"),
            ([("Range", "bytes=1-3,9-9")], 206, "Hit"),
            ([("If-None-Match", '"1"')], 304, "Hit"),
            ([("Range", "bytes=9999-")], 416, "Error"),
            ([("If-Match", '"2"')], 412, "Error"),
        ):
            seen = await viewer.ask("/a", "d.test", headers)
            assert (seen.status, seen.x_cache) == (status, result)
            assert fields_of(seen, *names) == expected
        assert fields_of(await viewer.ask("/a", "d.test", method="HEAD"), *names) == expected
        # The same stored response under another policy, under none, and under the first one again.
        harness.edge.use(under(plain, policy(headers=(H("x-mine", "later", True),)), number=2))
        seen = await viewer.ask("/a", "d.test")
        assert (seen.x_cache, fields_of(seen, *names)) == ("Hit", {"x-mine": "later", "x-powered-by": "php"})
        harness.edge.use(site(origin.origin(), behaves(origin, policy_id="")))
        for _ in range(3):
            seen = await viewer.ask("/a", "d.test")
            assert (seen.x_cache, fields_of(seen, *names)) == (
                "Hit",
                {"x-mine": "origin's", "x-powered-by": "php"},
            )
        harness.edge.use(under(plain, first, number=4))
        for _ in range(3):
            seen = await viewer.ask("/a", "d.test")
            assert (seen.x_cache, fields_of(seen, *names)) == ("Hit", expected)
    assert len(origin.requests) == 1


async def test_the_behavior_decides(origin: ScriptedOrigin) -> None:
    for path in ("/a", "/img/a"):
        origin.on(path, answer(200, b"a", {"Cache-Control": "max-age=100"}))
    images = ResponseHeadersPolicy("i", headers=(H("x-images", "1", False),))
    snapshot = site(origin.origin(), behaves(origin, "/img/*", "i"), behaves(origin, policy_id=""))
    async with EdgeHarness(under(snapshot, images, policy(headers=(H("x-all", "1", False),)))) as harness:
        async with await harness.viewer() as viewer:
            for _ in range(3):
                assert fields_of(await viewer.ask("/a", "d.test"), "x-images", "x-all") == {}
                assert fields_of(await viewer.ask("/img/a", "d.test"), "x-images", "x-all") == {
                    "x-images": "1"
                }


async def test_on_errors_of_the_origin_and_of_the_edge(origin: ScriptedOrigin) -> None:
    origin.on("/no", answer(404, b"no"))
    origin.on("/page", answer(200, b"sorry"))
    rule = policy(headers=(H("x-frame-options", "DENY", False),), cors=ANY)
    names = ("x-frame-options", "access-control-allow-origin")
    asked = [("Origin", "https://app.test")]
    expected = {"x-frame-options": "DENY", "access-control-allow-origin": "*"}
    snapshot = site(
        origin.origin(),
        behaves(origin, "/private/*", restricted=True, trusted_key_groups=("g",)),
        behaves(origin, "/https/*", viewer_protocol_policy="https-only"),
        behaves(origin, "/redirect/*", viewer_protocol_policy="redirect-to-https"),
        Behavior("/gone/*", "gone", response_headers_policy_id="p"),
        behaves(origin),
        more_origins=(origin.origin(id="gone", http_port=closed_port(), connection_attempts=1),),
    )
    async with EdgeHarness(under(snapshot, rule)) as harness:
        for path, method, status in (
            ("/no", "GET", 404),
            ("/no", "GET", 404),
            ("/private/a", "GET", 403),
            ("/https/a", "GET", 403),
            ("/redirect/a", "GET", 301),
            ("/gone/a", "GET", 502),
            ("/a", "DELETE", 403),
        ):
            seen = await harness.get(path, headers=asked, method=method)
            assert (seen.status, fields_of(seen, *names)) == (status, expected), path
        # Without a matching behavior there is no policy: another host, a malformed request.
        for seen in (
            await harness.get("/a", host="other.test", headers=asked),
            await harness.get("/a", host="..", headers=asked),
        ):
            assert seen.status in (400, 403)
    paged = msgspec.structs.replace(
        snapshot.distributions[0], error_responses=(ErrorResponse(404, page_path="/page", response_code=200),)
    )
    async with EdgeHarness(under(msgspec.structs.replace(snapshot, distributions=(paged,)), rule)) as harness:
        seen = await harness.get("/no", headers=asked)
        assert (seen.status, seen.body, fields_of(seen, *names)) == (200, b"sorry", expected)
    blocked = msgspec.structs.replace(paged, geo=Geo("whitelist", ("JP",)), error_responses=())
    snapshot = msgspec.structs.replace(snapshot, distributions=(blocked,))
    async with EdgeHarness(under(snapshot, rule), trusted=("127.0.0.0/8",)) as harness:
        for _ in range(2):
            seen = await harness.get("/a", headers=[*asked, ("X-Forwarded-For", "8.8.8.8")])
            assert (seen.status, fields_of(seen, *names)) == (403, {})


async def test_a_preflight_reaches_the_origin_and_comes_back_with_permission(origin: ScriptedOrigin) -> None:
    origin.on("/api", answer(204, b""))
    origin.on("/get", answer(200, b"a"))
    rule = policy(cors=Cors(("https://app.test",), ("x-token",), ("GET", "PUT"), max_age=60, override=True))
    snapshot = site(
        origin.origin(),
        behaves(origin, "/api", allowed_methods=ALL, forward_headers=Select("whitelist", ("origin",))),
        behaves(origin),
    )
    preflight = [("Origin", "https://app.test"), ("Access-Control-Request-Method", "PUT")]
    async with EdgeHarness(under(snapshot, rule)) as harness:
        seen = await harness.get("/api", headers=preflight, method="OPTIONS")
        assert seen.status == 204
        assert fields_of(
            seen, "access-control-allow-origin", "access-control-allow-methods", "access-control-allow-headers",
            "access-control-max-age", "vary",
        ) == {
            "access-control-allow-origin": "https://app.test",
            "access-control-allow-methods": "GET, PUT",
            "access-control-allow-headers": "x-token",
            "access-control-max-age": "60",
            "vary": "Origin",
        }  # fmt: skip
        assert origin.requests[0].method == "OPTIONS"
        seen = await harness.get("/api", headers=[("Origin", "https://evil.test")], method="OPTIONS")
        assert fields_of(seen, "access-control-allow-origin", "access-control-allow-methods") == {}
        # A behavior that does not allow OPTIONS does not answer preflights.
        assert (await harness.get("/get", headers=preflight, method="OPTIONS")).status == 403


async def test_one_stored_answer_for_all_origins(origin: ScriptedOrigin) -> None:
    origin.on("/font", answer(200, b"font", {"Cache-Control": "max-age=100"}))
    rule = policy(cors=Cors(("*.app.test",), ("*",), ("GET",)))
    async with EdgeHarness(under(site(origin.origin(), behaves(origin)), rule)) as harness:
        for number, (asked, allowed) in enumerate(
            [
                ("", None),
                ("https://a.app.test", "https://a.app.test"),
                ("https://b.app.test", "https://b.app.test"),
                ("https://evil.test", None),
                ("", None),
            ]
        ):
            seen = await harness.get("/font", headers=[("Origin", asked)] if asked else [])
            assert seen.x_cache == ("Hit" if number else "Miss")
            assert seen.header("access-control-allow-origin") == allowed
            assert seen.header("vary") == "Origin"
    assert len(origin.requests) == 1


async def test_the_managed_policies(origin: ScriptedOrigin) -> None:
    origin.on("/a", answer(200, b"a", {"Cache-Control": "max-age=100", "X-Frame-Options": "DENY"}))
    for id_, config in RESPONSE_HEADERS_POLICIES.items():
        managed = read_response_headers_policy(id_, config)
        assert isinstance(managed, ResponseHeadersPolicy)
        plain = site(origin.origin(), behaves(origin, policy_id=id_, allowed_methods=ALL))
        (travels,) = compile_snapshot(plain.distributions, (), (), 1, 0.0).response_headers_policies
        assert travels == managed
        async with EdgeHarness(under(plain, travels)) as harness:
            seen = await harness.get("/a", headers=[("Origin", "https://a.test")])
            assert (seen.header("access-control-allow-origin") == "*") == ("CorsConfig" in config)
            secured = {
                "x-xss-protection": "1; mode=block",
                "x-frame-options": "DENY",
                "referrer-policy": "strict-origin-when-cross-origin",
                "x-content-type-options": "nosniff",
                "strict-transport-security": "max-age=31536000",
            }
            expected = secured if "SecurityHeadersConfig" in config else {"x-frame-options": "DENY"}
            assert fields_of(seen, *secured) == expected
            seen = await harness.get("/a", headers=[("Origin", "https://a.test")], method="OPTIONS")
            methods = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
            assert seen.header("access-control-allow-methods") == (
                methods if "CorsConfig" in config else None
            )


async def test_server_timing(origin: ScriptedOrigin) -> None:
    origin.on("/a", answer(200, b"a", {"Cache-Control": "max-age=100", "Server-Timing": "db;dur=5"}))
    origin.on("/no", answer(404, b"no"))
    snapshot = site(origin.origin(), behaves(origin))

    def metrics(seen: Seen) -> list[str]:
        assert f'cdn-rid;desc="{seen.header("x-amz-cf-id")}"' in (seen.header("server-timing") or "")
        return [part.partition(";")[0] for part in (seen.header("server-timing") or "").split(",")]

    upstream = ["cdn-upstream-layer", "cdn-upstream-connect", "cdn-upstream-fbl"]
    common = ["cdn-pop", "cdn-rid"]
    settings = EdgeSettings(memory=1 << 22, max_object=1 << 20, pop="KFR50-P1")
    async with EdgeHarness(under(snapshot, policy(server_timing=100.0)), settings=settings) as harness:
        seen = await harness.get("/a")
        assert metrics(seen) == ["db", *upstream, "cdn-cache-miss", *common, "cdn-downstream-fbl"]
        seen = await harness.get("/a")
        assert metrics(seen) == ["cdn-cache-hit", *common, "cdn-hit-layer", "cdn-downstream-fbl"]
        assert metrics(await harness.get("/no")) == [
            *upstream,
            "cdn-cache-miss",
            *common,
            "cdn-downstream-fbl",
        ]
        assert metrics(await harness.get("/no")) == [
            "cdn-cache-hit",
            *common,
            "cdn-hit-layer",
            "cdn-downstream-fbl",
        ]
        assert metrics(await harness.get("/a", method="DELETE")) == [*common, "cdn-downstream-fbl"]
        # Never unrequested, and always when requested.
        harness.edge.use(under(snapshot, policy(server_timing=0.0), number=2))
        assert (await harness.get("/a")).header("server-timing") == "db;dur=5"
        seen = await harness.get("/a", headers=[("Pragma", "server-timing")])
        assert metrics(seen) == ["cdn-cache-hit", *common, "cdn-hit-layer", "cdn-downstream-fbl"]
        harness.edge.use(under(snapshot, policy(), number=3))
        assert (await harness.get("/a", headers=[("Pragma", "server-timing")])).header(
            "server-timing"
        ) == "db;dur=5"


async def test_under_another_server(origin: ScriptedOrigin) -> None:
    origin.on("/a", answer(200, b"a", {"Cache-Control": "max-age=100", "X-Powered-By": "php"}))
    rule = policy(headers=(H("x-frame-options", "DENY", False),), remove=("x-powered-by",))
    async with served(under(site(origin.origin(), behaves(origin)), rule)) as (port, _):
        async with await viewer(port) as someone:
            for result in ("Miss", "Hit", "Hit"):
                seen = await someone.ask("/a", "d.test")
                assert seen.x_cache == result
                assert fields_of(seen, "x-frame-options", "x-powered-by") == {"x-frame-options": "DENY"}


async def test_a_policy_that_the_snapshot_lacks_changes_nothing(origin: ScriptedOrigin) -> None:
    origin.on("/a", answer(200, b"a", {"X-A": "1"}))
    async with EdgeHarness(site(origin.origin(), behaves(origin, policy_id="absent"))) as harness:
        assert (await harness.get("/a")).header("x-a") == "1"
