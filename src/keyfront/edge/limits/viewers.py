"""Limits on viewers' concurrent connections and requests, per address and in total. Pure.

Counts are per worker. An address is an IPv4 address or an IPv6 /64: anyone who has one IPv6 address has its whole /64
(RFC 6177), so a finer count would limit nothing. A site may get up to a /48, and some tunnel brokers give one to
anyone, so each /48 as a whole counts as `SITE` addresses.
"""

from __future__ import annotations

from typing import Final

import msgspec

_IPV6: Final = "::/64"
_IPV4_INSIDE: Final = ("::ffff:", "64:ff9b:")
SITE: Final = 4
"""Number of addresses that an IPv6 /48 counts as."""
PRESSURE: Final = 0.9
"""Fraction of the connection limit at or above which idle connections are closed early."""


class ViewerLimits(msgspec.Struct, frozen=True):
    """How many of each one worker accepts at a time; 0 means no limit. Connections count from the first packet, so a
    slow TLS handshake counts as one. Requests are those in progress, except those answered from memory at once."""

    connections: int = 10_000
    connections_per_address: int = 1_000
    requests: int = 5_000
    requests_per_address: int = 500


class Gauge:
    """A count per address and in total, with a limit on each."""

    __slots__ = ("_by_address", "_by_site", "_limit", "_name", "_per_address", "total")

    def __init__(self, name: str, limit: int, per_address: int) -> None:
        self._name = name
        self._limit = limit
        self._per_address = per_address
        self._by_address: dict[str, int] = {}
        self._by_site: dict[str, int] = {}
        self.total = 0

    def enter(self, address: str) -> str:
        """Count one more for this address; an empty address counts toward the total only. Returns the name of the
        limit that forbids it, in which case nothing is counted, or an empty string."""
        if self.total >= self._limit > 0:
            return self._name
        if address:
            held = self._by_address.get(address, 0)
            if held >= self._per_address > 0:
                return f"{self._name}_per_address"
            if address.endswith(_IPV6):
                site = _site_of(address)
                of_site = self._by_site.get(site, 0)
                if of_site >= SITE * self._per_address > 0:
                    return f"{self._name}_per_address"
                self._by_site[site] = of_site + 1
            self._by_address[address] = held + 1
        self.total += 1
        return ""

    def leave(self, address: str) -> None:
        """Count one less for this address, which must have entered before."""
        self.total -= 1
        if address:
            _one_less(self._by_address, address)
            if address.endswith(_IPV6):
                _one_less(self._by_site, _site_of(address))

    @property
    def addresses(self) -> int:
        """Number of addresses with a count of at least one."""
        return len(self._by_address)

    @property
    def pressed(self) -> bool:
        """Whether the total has reached `PRESSURE` of the limit."""
        return self.total >= self._limit * PRESSURE > 0


def _one_less(counts: dict[str, int], name: str) -> None:
    held = counts[name] - 1
    if held:
        counts[name] = held
    else:
        del counts[name]


def _site_of(network: str) -> str:
    """The /48 that contains a /64, given as returned by `network_of`."""
    return network.removesuffix(_IPV6).rpartition(":")[0]


class Viewers:
    """The counts of one worker."""

    __slots__ = ("connections", "limits", "requests")

    def __init__(self, limits: ViewerLimits) -> None:
        self.limits = limits
        self.connections = Gauge("connections", limits.connections, limits.connections_per_address)
        self.requests = Gauge("requests", limits.requests, limits.requests_per_address)


def network_of(address: str) -> str:
    """The unit that an address counts toward: an IPv4 address itself, also when embedded in IPv6; the /64 of an IPv6
    address."""
    if ":" not in address or address.startswith(_IPV4_INSIDE):
        return address
    address = address.partition("%")[0]
    head, gap, tail = address.partition("::")
    groups = head.split(":") if head else []
    if gap:
        rest = tail.split(":") if tail else []
        width = len(groups) + len(rest) + (1 if "." in tail else 0)
        groups = groups + ["0"] * (8 - width) + rest
    return ":".join([group.lstrip("0").lower() or "0" for group in groups[:4]]) + _IPV6
