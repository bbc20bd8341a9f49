"""The egress rule: which addresses the edge may connect to as an origin.

Anyone who may create a distribution chooses the origin's name. Without a rule, the edge would give access to the
operator's own network (server-side request forgery). The rule is applied to the address that a name resolved to, right
before the connection is made. A name with several addresses, a name whose DNS answer changes, and an address in an
unusual notation (`2130706433`, `0x7f.1`) are all judged by where the connection would go. Pure: no socket, no resolver,
no clock.

Three lists decide, the most specific network first (as in a routing table):

- `NEVER`: link-local and instance metadata addresses, multicast, broadcast. No setting allows them.
- the operator's `refuse` and `allow`; if both name the same network, `refuse` wins.
- `INWARD`: loopback and "this host", refused if the edge serves clients other than this machine
  (`EgressSettings.public`).

Private networks (RFC 1918, fc00::/7) are allowed unless the operator refuses them, because origins usually are there.
The control plane's own port on this machine is refused under all settings.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec

from keyfront.errors import SettingsError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

NEVER: Final = (
    ("169.254.0.0/16", "link-local, where clouds serve instance metadata"),
    ("fe80::/10", "link-local"),
    ("fec0::/10", "site-local"),
    ("100.100.100.200/32", "instance metadata (Alibaba Cloud)"),
    ("168.63.129.16/32", "the host's wire server (Azure)"),
    ("192.0.0.192/32", "instance metadata (Oracle Cloud)"),
    ("fd00:ec2::/32", "instance metadata (AWS)"),
    ("fd20:ce::254/128", "instance metadata (Google Cloud)"),
    ("fd00:42::42/128", "instance metadata (Scaleway)"),
    ("fd00:c1::a9fe:a9fe/128", "instance metadata (Oracle Cloud)"),
    ("224.0.0.0/4", "multicast"),
    ("ff00::/8", "multicast"),
    ("240.0.0.0/4", "reserved or broadcast"),
)
"""Networks that no origin may be in, with a description of each."""

INWARD: Final = (
    ("127.0.0.0/8", "loopback"),
    ("::1/128", "loopback"),
    ("0.0.0.0/8", "this host"),
    ("::/128", "this host"),
)
"""Networks whose connections stay on this machine."""

_SIIT: Final = ipaddress.ip_network("::ffff:0:0:0/96")
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_LOCAL_NAT64: Final = ipaddress.ip_network("64:ff9b:1::/48")
_ISATAP: Final = frozenset({0x00005EFE, 0x02005EFE})


class EgressSettings(msgspec.Struct, frozen=True):
    """The operator's egress settings. `refuse` and `allow` are networks in CIDR notation. `public` is true if the edge
    serves clients other than this machine; origins on this machine are then refused unless `allow` names them.
    `control_port` and `metrics_port` are the TCP ports of the control plane and of the edge's metrics on this machine,
    0 if there is none."""

    refuse: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    public: bool = False
    control_port: int = 0
    metrics_port: int = 0


class Egress:
    """The compiled egress rule.

    :raises SettingsError: if a text is not a network, or `allow` names one that is never allowed.
    """

    def __init__(self, settings: EgressSettings = EgressSettings()) -> None:
        never = [(ipaddress.ip_network(text), what) for text, what in NEVER]
        allowed = [_network(text) for text in settings.allow]
        for network in allowed:
            for out_of_bounds, what in never:
                if _within(network, out_of_bounds):
                    raise SettingsError(
                        f"origins in {network} cannot be allowed: {out_of_bounds} is {what}, and Keyfront never "
                        "connects to an origin there"
                    )
        own = {settings.control_port: "control plane", settings.metrics_port: "port for metrics"}
        self._own_ports = {port: what for port, what in own.items() if port}
        self._never = never
        # (prefix length, rank) decides: an explicit refusal outranks a permission, which outranks a default.
        rules: list[tuple[Network, int, str]] = []
        if settings.public:
            rules += [(ipaddress.ip_network(text), 0, what) for text, what in INWARD]
        rules += [(network, 1, "") for network in allowed]
        rules += [(_network(text), 2, "refused by the operator") for text in settings.refuse]
        self._rules = sorted(rules, key=lambda rule: (rule[0].prefixlen, rule[1]), reverse=True)

    def refuses(self, address: str, port: int, is_own: Callable[[str], bool]) -> str | None:
        """Why an origin may not be at this address, or None if it may.

        :param address: numeric, as returned by a resolver; an IPv6 zone (`%eth0`) is ignored.
        :param port: the TCP port of the connection.
        :param is_own: returns whether a numeric address belongs to this machine; called only for Keyfront's own ports.
        """
        try:
            ip = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return f"{address} is not an IP address"
        for each in (ip, *embedded(ip)):
            why = self._refuses(each)
            if why is not None:
                return f"{_shown(ip, each)} is in {why}"
            own = self._own_ports.get(port)
            if own is not None and (each.is_loopback or _is_this_host(each) or is_own(str(each))):
                return f"{_shown(ip, each)}, port {port}, is Keyfront's {own}"
        return None

    def _refuses(self, ip: Address) -> str | None:
        for network, what in self._never:
            if ip in network:
                return f"{network} ({what})"
        for network, rank, what in self._rules:
            if ip in network:
                return None if rank == 1 else f"{network} ({what})"
        return None


def embedded(ip: Address) -> Iterator[ipaddress.IPv4Address]:
    """The IPv4 addresses embedded in an IPv6 address by any translation or tunnel mechanism in use, because a gateway
    along the path may extract them (RFC 4291 §2.5.5, RFC 6052, RFC 8215, RFC 3056, RFC 4380, RFC 2765, RFC 5214)."""
    if isinstance(ip, ipaddress.IPv4Address):
        return
    number = int(ip)
    low = ipaddress.IPv4Address(number & 0xFFFFFFFF)
    if ip.ipv4_mapped is not None:
        yield ip.ipv4_mapped
    elif ip.sixtofour is not None:
        yield ip.sixtofour
    elif ip.teredo is not None:
        yield from ip.teredo
    elif ip in _SIIT or ip in _NAT64:
        yield low
    elif ip in _LOCAL_NAT64:
        # The prefix may be /48, /56, /64 or /96 (RFC 6052 §2.2); bits 64 to 71 are skipped.
        squeezed = (number >> 64) << 56 | (number & ((1 << 56) - 1))
        yield low
        for length in (48, 56, 64):
            yield ipaddress.IPv4Address(squeezed >> (120 - length - 32) & 0xFFFFFFFF)
    elif number >> 32 == 0 and number > 1:
        yield low  # IPv4-compatible
    if number >> 32 & 0xFFFFFFFF in _ISATAP:
        yield low


def _network(text: str) -> Network:
    try:
        found = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise SettingsError(f"{text!r} is not a network in CIDR form: {error}") from error
    if isinstance(found, ipaddress.IPv6Network) and found.prefixlen >= 96:
        mapped = found.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.ip_network(f"{mapped}/{found.prefixlen - 96}")
    return found


def _within(inner: Network, outer: Network) -> bool:
    return (
        inner.version == outer.version
        and inner.network_address in outer
        and inner.prefixlen >= outer.prefixlen
    )


def _is_this_host(ip: Address) -> bool:
    return ip.is_unspecified or (isinstance(ip, ipaddress.IPv4Address) and int(ip) >> 24 == 0)


def _shown(ip: Address, each: Address) -> str:
    return str(ip) if each == ip else f"{ip}, which stands for {each},"


def is_public(hosts: Iterable[Iterable[str]]) -> bool:
    """Whether an edge with these listeners serves clients other than this machine.

    :param hosts: for each listening socket, the numeric addresses that it may be bound to.
    """
    for addresses in hosts:
        for text in addresses:
            ip = ipaddress.ip_address(text.partition("%")[0])
            inner = next(iter(embedded(ip)), ip)
            if not inner.is_loopback:
                return True
    return False
