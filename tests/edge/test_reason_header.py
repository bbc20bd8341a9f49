"""X-Keyfront-Reason: why a request failed, for the viewers that the operator lists."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from keyfront.edge.rules.error_pages import denied_reply
from keyfront.edge.serving.reason_header import NAME, ReasonHeader
from keyfront.edge.serving.settings import EdgeSettings
from keyfront.edge.types.messages import Reply, Request
from keyfront.errors import Denial
from keyfront.model.snapshot import Behavior, ErrorResponse, KeyGroup
from tests.origin import CLOSE, ScriptedOrigin, answer
from tests.rows import rows
from tests.sites import ALICE, keys, site
from tests.viewer import EdgeHarness

PROXY = "127.0.0.1/32"
SETTINGS = EdgeSettings(memory=1 << 22, max_object=1 << 20, explain_to=("192.0.2.0/24",))
LISTED, OTHER = "192.0.2.7", "198.51.100.7"


@pytest.fixture
async def origin() -> AsyncIterator[ScriptedOrigin]:
    async with ScriptedOrigin() as origin:
        origin.on("/broken", [CLOSE])
        origin.on("/missing", answer(404, b"no"))
        origin.on("/page", answer(200, b"a page", {"Cache-Control": "max-age=60"}))
        origin.on("/ranged", answer(200, b"text", {"Cache-Control": "max-age=60"}))
        yield origin


def edge_for(origin: ScriptedOrigin, *, http2: bool = False, **members: Any) -> EdgeHarness:
    reached = origin.origin(connection_attempts=1)
    behaviors = (
        Behavior("/a/*", "scripted", restricted=True, trusted_key_groups=("group-a",)),
        Behavior("/secure/*", "scripted", viewer_protocol_policy="https-only"),
        Behavior("/moved/*", "scripted", viewer_protocol_policy="redirect-to-https"),
        Behavior("*", "scripted"),
    )
    members = {
        "public_keys": keys(ALICE),
        "key_groups": (KeyGroup("group-a", "a", (ALICE.key_pair_id,)),),
    } | members
    snapshot = site(reached, *behaviors, **members)
    return EdgeHarness(snapshot, settings=SETTINGS, trusted=(PROXY,), http2=http2)


CASES = [
    ("/a/film", {}, 403, "missing_key_pair_id"),
    ("/a/film?Expires=1&Signature=x&Key-Pair-Id=KNONE", {}, 403, "unknown_key"),
    ("/secure/page", {}, 403, "https_only"),
    ("/moved/page", {}, 301, "redirect_to_https"),
    ("/page", {"method": "DELETE"}, 403, "method_not_allowed"),
    ("/page", {"host": "other.test"}, 403, "no_distribution"),
    ("/broken", {}, 502, "OriginCommError"),
    ("/ranged", {"headers": [("Range", "bytes=9-")]}, 416, "range_not_satisfiable"),
]


@pytest.mark.parametrize(("target", "request_", "status", "reason"), CASES)
async def test_a_listed_viewer_gets_the_reason_that_is_logged(
    origin: ScriptedOrigin, target: str, request_: dict[str, Any], status: int, reason: str
) -> None:
    async with edge_for(origin) as harness:
        headers = request_.pop("headers", [])
        if status == 416:
            await harness.get(target)
            harness.records.clear()
        for viewer in (LISTED, OTHER):
            seen = await harness.get(target, headers=[*headers, ("X-Forwarded-For", viewer)], **request_)
            assert seen.status == status
            assert seen.header("x-keyfront-reason") == (reason if viewer == LISTED else None)
            assert (seen.header("cache-control") == "no-store") is (viewer == LISTED)
        assert (await harness.recorded(2))["reason"] == harness.records[0]["reason"] == reason


async def test_a_success_and_an_origins_own_error_have_none(origin: ScriptedOrigin) -> None:
    async with edge_for(origin) as harness:
        for target in ("/page", "/page", "/missing"):
            seen = await harness.get(target, headers=[("X-Forwarded-For", LISTED)])
            assert seen.header("x-keyfront-reason") is None


async def test_it_is_on_a_custom_error_page_and_is_not_cached_with_it(origin: ScriptedOrigin) -> None:
    pages = (ErrorResponse(403, page_path="/page", response_code=200),)
    async with edge_for(origin, error_responses=pages) as harness:
        for viewer, reason in (
            (LISTED, "missing_key_pair_id"),
            (OTHER, None),
            (LISTED, "missing_key_pair_id"),
        ):
            seen = await harness.get("/a/film", headers=[("X-Forwarded-For", viewer)])
            assert (seen.status, seen.body) == (200, b"a page")
            assert seen.header("x-keyfront-reason") == reason
        assert (await harness.get("/page")).header("x-keyfront-reason") is None


async def test_over_http_2(origin: ScriptedOrigin) -> None:
    async with (
        edge_for(origin, http2=True) as harness,
        httpx.AsyncClient(http1=False, http2=True) as client,
    ):
        for viewer, reason in ((LISTED, "missing_key_pair_id"), (OTHER, None)):
            headers = {"Host": "d.test", "X-Forwarded-For": viewer}
            seen = await client.get(f"http://127.0.0.1:{harness.port}/a/film", headers=headers)
            assert (seen.status_code, seen.headers.get("x-keyfront-reason")) == (403, reason)


async def test_a_request_that_cannot_be_parsed(origin: ScriptedOrigin) -> None:
    """Nothing says on whose behalf a proxy sent it: its viewer is the peer."""
    for listed, expected in (((PROXY,), b"\r\nx-keyfront-reason: bad_request\r\n"), ((), None)):
        settings = EdgeSettings(memory=1 << 22, max_object=1 << 20, explain_to=listed)
        async with EdgeHarness(site(origin.origin()), settings=settings) as harness:
            async with await harness.viewer() as viewer:
                await viewer.send(b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n")
                seen = (await viewer.at_end()).lower()
            assert seen.startswith(b"http/1.1 400 ")
            assert (expected in seen) if expected else (b"x-keyfront-reason" not in seen)


@rows(
    ("networks", "address", "listed"),
    [
        ((), "192.0.2.1", False),
        (("192.0.2.0/24",), "192.0.2.255", True),
        (("192.0.2.0/24",), "192.0.3.0", False),
        (("192.0.2.0/24",), "::ffff:192.0.2.1", True),
        (("192.0.2.9/24",), "192.0.2.1", True),
        (("2001:db8::/32",), "2001:db8::1", True),
        (("2001:db8::/32",), "2001:db9::1", False),
        (("0.0.0.0/0", "::/0"), "no address", False),
    ],
)
def test_who_is_listed(networks: tuple[str, ...], address: str, listed: bool) -> None:
    reply = denied_reply(Denial.MISSING_KEY_PAIR_ID)
    ReasonHeader(networks).add(Request("GET", "/", "d.test", [], "http", address), reply)
    assert (dict(reply.headers).get(NAME) == b"missing_key_pair_id") is listed


def test_an_origin_cannot_give_another_reason() -> None:
    reply = Reply(502, [(NAME, b"forged"), (b"cache-control", b"max-age=9")], reason="OriginDnsError")
    ReasonHeader(("192.0.2.1",)).add(Request("GET", "/", "d.test", [], "http", "192.0.2.1"), reply)
    assert reply.headers == [(b"cache-control", b"no-store"), (NAME, b"OriginDnsError")]
