"""Where origins may be: the rule in isolation, and at an edge's connections."""

from __future__ import annotations

import logging
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyfront.edge.origin.client import Origins
from keyfront.edge.origin.connect import is_own
from keyfront.edge.origin.egress import NEVER, Egress, EgressSettings, embedded, is_public
from keyfront.edge.origin.request import OriginRequest
from keyfront.edge.serving.settings import EdgeSettings
from keyfront.errors import OriginFailure, SettingsError
from keyfront.model.snapshot import Behavior, ErrorResponse, Origin, OriginGroup
from tests.origin import ScriptedOrigin, answer
from tests.rows import rows
from tests.viewer import EdgeHarness, site

LAPTOP = Egress()
PUBLIC = Egress(EgressSettings(public=True))
INWARD = EgressSettings(public=True)


def refused(rule: Egress, address: str, port: int = 80, own: tuple[str, ...] = ()) -> bool:
    return rule.refuses(address, port, lambda each: each in own) is not None


THIS_MACHINE = [
    "127.0.0.1",
    "127.1.2.3",
    "127.255.255.255",
    "::1",
    "0.0.0.0",
    "0.1.2.3",
    "::",
    "::ffff:127.0.0.1",
    "::ffff:0.0.0.0",
    "::ffff:7f00:1",
    "::127.0.0.1",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::127.0.0.1",
    "64:ff9b:1::127.0.0.1",
    "64:ff9b:1:7f00:0:100::",
    "2002:7f00:1::",
    "2002:7f00:1::5",
    "2001:0:7f00:1::f5ff:fffe",
    "2001:0:506:708::80ff:fffe",
    "2001:db8::5efe:127.0.0.1",
    "2001:db8::200:5efe:7f00:1",
]
METADATA = [
    "169.254.169.254",
    "169.254.170.2",
    "169.254.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::",
    "::169.254.169.254",
    "fe80::1",
    "fe80::1%eth0",
    "fe80::a9fe:a9fe",
    "febf::1",
    "fd00:ec2::254",
    "fd00:ec2::23",
    "fd20:ce::254",
    "fd00:42::42",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "::ffff:168.63.129.16",
]
NOWHERE = ["224.0.0.1", "239.255.255.250", "ff02::1", "255.255.255.255", "240.0.0.1", "::ffff:224.0.0.1"]
ELSEWHERE = [
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "fd12:3456::1",
    "93.184.216.34",
    "2606:2800:220:1::1",
    "::ffff:10.0.0.1",
    "64:ff9b::a00:1",
    "2002:a00:1::",
    "1.1.1.1",
]


@rows("address", THIS_MACHINE)
def test_this_machine_is_refused_where_the_edge_is_public(address: str) -> None:
    assert refused(PUBLIC, address)
    assert not refused(LAPTOP, address)


@rows("address", METADATA + NOWHERE)
def test_metadata_link_local_and_multicast_are_always_refused(address: str) -> None:
    everything = EgressSettings(allow=("0.0.0.0/0", "::/0"))
    for rule in (PUBLIC, LAPTOP, Egress(everything)):
        assert refused(rule, address)


@rows("address", ELSEWHERE)
def test_private_and_public_networks_are_allowed(address: str) -> None:
    assert not refused(PUBLIC, address)
    assert not refused(LAPTOP, address)


@rows("address", ["", "localhost", "127.1", "2130706433", "0x7f.1", "::1::", "a%b"])
def test_what_is_no_address_is_refused(address: str) -> None:
    assert refused(LAPTOP, address)


@rows(
    ("said", "allowed", "forbidden"),
    [
        ({"refuse": ("10.0.0.0/8",)}, ["11.0.0.1"], ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::a01:203"]),
        ({"refuse": ("10.0.0.0/8",), "allow": ("10.1.0.0/16",)}, ["10.1.2.3"], ["10.2.0.1"]),
        ({"refuse": ("10.1.2.3",), "allow": ("10.0.0.0/8",)}, ["10.1.2.4"], ["10.1.2.3"]),
        ({"refuse": ("10.0.0.0/8",), "allow": ("10.0.0.0/8",)}, [], ["10.0.0.1"]),
        ({"refuse": ("0.0.0.0/0", "::/0"), "allow": ("10.0.0.0/8",)}, ["10.0.0.1"], ["1.1.1.1", "2606::1"]),
        ({"public": True, "allow": ("127.0.0.1",)}, ["127.0.0.1", "::ffff:127.0.0.1"], ["127.0.0.2", "::1"]),
        ({"public": True, "allow": ("127.0.0.0/8", "::1")}, ["127.9.9.9", "::1"], ["0.0.0.0", "::"]),
        ({"public": True, "allow": ("::ffff:127.0.0.1",)}, ["127.0.0.1"], ["127.0.0.2"]),
        ({"public": True, "allow": ("0.0.0.0/0",)}, ["1.1.1.1"], ["127.0.0.1"]),
        ({"refuse": ("::ffff:10.0.0.0/104",)}, ["11.0.0.1"], ["10.0.0.1"]),
        ({"refuse": ("fc00::/7",)}, ["2606::1"], ["fd12::1"]),
    ],
)
def test_the_most_specific_network_decides(
    said: dict[str, Any], allowed: list[str], forbidden: list[str]
) -> None:
    rule = Egress(EgressSettings(**said))
    assert [each for each in allowed if refused(rule, each)] == []
    assert [each for each in forbidden if not refused(rule, each)] == []


@rows(
    "address",
    ["127.0.0.1", "127.5.5.5", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1", "10.9.9.9", "::ffff:10.9.9.9"],
)
def test_the_control_plane_is_refused_whatever_is_allowed(address: str) -> None:
    rule = Egress(EgressSettings(allow=("127.0.0.0/8", "::1", "0.0.0.0/0", "::/0"), control_port=8081))
    assert refused(rule, address, 8081, own=("10.9.9.9",))
    assert not refused(rule, address, 8082, own=("10.9.9.9",))
    assert not refused(rule, "10.9.9.8", 8081, own=("10.9.9.9",))


@rows(
    "said",
    [
        EgressSettings(allow=("169.254.169.254",)),
        EgressSettings(allow=("169.254.0.0/16",)),
        EgressSettings(allow=("fe80::/10",)),
        EgressSettings(allow=("224.0.0.0/8",)),
        EgressSettings(allow=("10.0.0.0/33",)),
        EgressSettings(refuse=("everything",)),
    ],
)
def test_what_makes_no_sense(said: EgressSettings) -> None:
    with pytest.raises(SettingsError):
        Egress(said)


@given(st.ip_addresses(v=4), st.sampled_from(["::ffff:{}", "64:ff9b::{}", "::{}", "::ffff:0:{}"]))
def test_an_embedded_address_is_found(inner: Any, form: str) -> None:
    import ipaddress

    outer = ipaddress.ip_address(form.format(inner))
    if int(outer) > 1:
        assert inner in set(embedded(outer))


@given(st.ip_addresses(v=6))
def test_every_address_has_an_answer(address: Any) -> None:
    for rule in (LAPTOP, PUBLIC):
        answer = rule.refuses(str(address), 443, lambda _: False)
        assert answer is None or answer


def test_each_refused_network_has_a_description() -> None:
    assert all(what for _, what in NEVER)


@rows(
    ("hosts", "public"),
    [
        ([["127.0.0.1"]], False),
        ([["127.0.0.1", "::1"], ["::1"]], False),
        ([["::ffff:127.0.0.1"]], False),
        ([["0.0.0.0"]], True),
        ([["::"]], True),
        ([["127.0.0.1"], ["192.168.1.5"]], True),
        ([["fe80::1%eth0"]], True),
    ],
)
def test_when_an_edge_is_public(hosts: list[list[str]], public: bool) -> None:
    assert is_public(hosts) is public


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


@pytest.mark.parametrize("address", METADATA[:3] + ["2852039166", "0xa9fea9fe", "169.254.43518"])
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
