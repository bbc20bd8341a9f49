"""Where origins may be: the rule in isolation, and at an edge's connections."""

from __future__ import annotations

import logging
import socket
from typing import Any

import pytest

from keyfront.edge.origin.client import Origins
from keyfront.edge.origin.connect import is_own
from keyfront.edge.origin.egress import Egress, EgressSettings
from keyfront.edge.origin.request import OriginRequest
from keyfront.edge.serving.settings import EdgeSettings
from keyfront.errors import OriginFailure
from keyfront.model.snapshot import Behavior, ErrorResponse, Origin, OriginGroup
from tests.origin import ScriptedOrigin, answer
from tests.sites import site
from tests.viewer import EdgeHarness

INWARD = EgressSettings(public=True)


def test_whether_an_address_is_this_machine_s() -> None:
    assert is_own("127.0.0.1")
    assert is_own("127.8.8.8")
    assert not is_own("192.0.2.1")
    assert not is_own("2001:db8::1")


# -- at an edge's connections ----------------------------------------------------------------------------------


async def status_of(origins: Origins, origin: Origin) -> int | str:
    try:
        reply = await origins.fetch(origin, OriginRequest("http", "GET", "/", [(b"host", b"o.example")]))
    except OriginFailure as failure:
        return failure.reason or failure.kind
    assert b"".join([chunk async for chunk in reply.body]) == b"inside"
    return reply.status


# What getaddrinfo accepts as 127.0.0.1 (inet_aton), and names of this machine.
SPELLINGS = [
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "017700000001",
    "0",
    "0.0.0.0",
    "localhost",
    "::1",
    "::",
    "[::1]",
    "::ffff:127.0.0.1",
    "::ffff:7f00:1",
]


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_no_spelling_leads_to_this_machine(spelling: str) -> None:
    async with ScriptedOrigin() as scripted:
        scripted.on("/", answer(200, b"inside"))
        origins = Origins(egress=Egress(INWARD))
        try:
            assert await status_of(origins, scripted.origin(domain_name=spelling)) == "origin_address_refused"
            assert origins.reached.counts == {"origin_address_refused": 1}
            assert scripted.requests == []
        finally:
            await origins.aclose()


@pytest.mark.parametrize("spelling", ["127.0.0.1", "127.1", "2130706433", "0x7f.1"])
async def test_on_a_laptop_this_machine_is_where_origins_are(spelling: str) -> None:
    async with ScriptedOrigin() as scripted:
        scripted.on("/", answer(200, b"inside"))
        origins = Origins(egress=Egress())
        try:
            assert await status_of(origins, scripted.origin(domain_name=spelling)) == 200
        finally:
            await origins.aclose()


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "169.254.170.2", "169.254.0.1", "2852039166", "0xa9fea9fe", "169.254.43518"],
)
async def test_metadata_is_never_connected_to(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def connect(*_: object) -> None:
        raise AssertionError("a connection was begun")

    monkeypatch.setattr("keyfront.edge.origin.connect.first_connected", connect)
    origins = Origins(egress=Egress())
    try:
        assert await status_of(origins, Origin("o", address)) == "origin_address_refused"
    finally:
        await origins.aclose()


def resolves(monkeypatch: pytest.MonkeyPatch, name: str, answers: list[list[str]]) -> None:
    """Make the resolver return these addresses for `name`, one answer after the other."""
    resolver = socket.getaddrinfo

    def resolve(host: str, port: int, *given: Any, **named: Any) -> Any:
        if host != name:
            return resolver(host, port, *given, **named)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in answers.pop(0)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


async def test_of_several_addresses_the_permitted_ones_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that resolves to a forbidden address and a good one, in either order."""
    async with ScriptedOrigin() as scripted:
        scripted.on("/", answer(200, b"inside"))
        for found in (["127.0.0.1", "169.254.169.254"], ["169.254.169.254", "127.0.0.1"]):
            origins = Origins(egress=Egress())
            resolves(monkeypatch, "two.test", [found])
            try:
                assert await status_of(origins, scripted.origin(domain_name="two.test")) == 200
            finally:
                await origins.aclose()
        assert len(scripted.requests) == 2


async def test_a_name_that_is_bound_again_is_judged_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: first a permitted answer, then an internal one once the first has expired."""
    async with ScriptedOrigin() as scripted:
        scripted.on("/", answer(200, b"inside", [("Connection", "close")]))
        monkeypatch.setattr("keyfront.edge.origin.connect.NAME_TTL", 0.0)
        resolves(monkeypatch, "rebound.test", [["127.0.0.1"], ["169.254.169.254"], ["127.0.0.1"]])
        origins = Origins(egress=Egress())
        try:
            origin = scripted.origin(domain_name="rebound.test")
            got = [await status_of(origins, origin) for _ in range(3)]
            assert got == [200, "origin_address_refused", 200]
        finally:
            await origins.aclose()


async def test_a_connection_of_the_operator_s_own_is_not_given_away() -> None:
    """An unchecked connection and one that must be checked belong to different pools."""
    async with ScriptedOrigin() as scripted:
        origins = Origins(egress=Egress(INWARD))
        try:
            own = origins.pools.get(scripted.origin(), "http", [], judged=False)
            theirs = origins.pools.get(scripted.origin(), "http", [], judged=True)
            assert own is not theirs
        finally:
            await origins.aclose()


def harness(snapshot: Any) -> EdgeHarness:
    return EdgeHarness(snapshot, settings=EdgeSettings(memory=1 << 22, max_object=1 << 20, egress=INWARD))


async def test_a_viewer_gets_502_and_the_access_record_has_the_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    async with ScriptedOrigin() as scripted:
        scripted.on("/", answer(200, b"inside"))
        async with harness(site(scripted.origin())) as edge:
            seen = [await edge.get("/"), await edge.get("/?again")]
            assert [each.status for each in seen] == [502, 502]
            assert b"inside" not in seen[0].body
            record = await edge.recorded(2)
            assert record["reason"] == "origin_address_refused"
            assert record["detail"] == "OriginConnectError"
            assert "loopback" in record["explanation"]
            assert scripted.requests == []
    said = [r.getMessage() for r in caplog.records if "no connection to the origin" in r.getMessage()]
    assert len(said) == 1
    assert "--allow-origins" in said[0]


async def test_an_origin_group_goes_on_to_its_second_origin() -> None:
    async with ScriptedOrigin() as scripted:
        scripted.on("/", answer(200, b"inside"))
        outside = Origin("first", "169.254.169.254", protocol_policy="http-only")
        snapshot = site(
            outside,
            Behavior("*", "group"),
            more_origins=(scripted.origin(),),
            origin_groups=(OriginGroup("group", ("first", "scripted"), (502,)),),
        )
        async with EdgeHarness(snapshot) as edge:
            seen = await edge.get("/")
            assert (seen.status, seen.body) == (200, b"inside")


async def test_a_custom_error_page_is_not_fetched_from_there() -> None:
    async with ScriptedOrigin() as scripted, ScriptedOrigin(host="127.0.0.2") as other:
        scripted.on("/missing", answer(404, b"no"))
        other.on("/errors/404.html", answer(200, b"inside"))
        settings = EgressSettings(public=True, allow=("127.0.0.1",))
        snapshot = site(
            scripted.origin(),
            Behavior("/errors/*", "pages"),
            Behavior("*", "scripted"),
            more_origins=(other.origin(id="pages"),),
            error_responses=(ErrorResponse(404, 10, "/errors/404.html", 404),),
        )
        async with EdgeHarness(
            snapshot, settings=EdgeSettings(memory=1 << 22, max_object=1 << 20, egress=settings)
        ) as edge:
            seen = await edge.get("/missing")
            assert (seen.status, seen.body) == (404, b"no")
            assert other.requests == []
