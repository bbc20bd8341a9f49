"""Where origins may be: which addresses an edge refuses to connect to."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyfront.edge.origin.egress import NEVER, Egress, EgressSettings, embedded, is_public
from keyfront.errors import SettingsError
from tests.rows import rows

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
    rule = Egress(EgressSettings(allow=("127.0.0.0/8", "::1", "0.0.0.0/0", "::/0"), metrics_port=9145))
    assert refused(rule, address, 9145, own=("10.9.9.9",))
    assert not refused(rule, address, 0, own=("10.9.9.9",))


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
