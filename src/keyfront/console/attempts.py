"""The limit on failed log-ins, for each address and for each access key. Pure: times are arguments.

A bucket holds the failures that are still allowed, and refills slowly. A secret access key has 240 random bits, so the
limit protects no secret; it bounds the work and the audit records that an attacker causes.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

import msgspec

MOST = 4096
"""Buckets of each kind. A new one replaces the one that was used least recently."""


class Rate(msgspec.Struct, frozen=True):
    """`burst` failures at once, and one more every `every` seconds."""

    burst: int
    every: float


PER_ADDRESS = Rate(10, 15.0)
PER_KEY = Rate(30, 5.0)
"""More for an access key than for an address, so that no one address can lock a user out."""


class Attempts:
    """Counts failed log-ins."""

    def __init__(self, per_address: Rate = PER_ADDRESS, per_key: Rate = PER_KEY) -> None:
        self._buckets = (_Buckets(per_address), _Buckets(per_key))

    def wait(self, address: str, key_id: str, now: float) -> float:
        """Seconds until another log-in may be attempted; 0.0: now.

        :param now: monotonic seconds.
        """
        names = (network_of(address), key_id)
        return max(
            buckets.wait(name, now) for buckets, name in zip(self._buckets, names, strict=True) if name
        )

    def begun(self, address: str, key_id: str, now: float) -> None:
        """Count a log-in as failed while it is not known better, so that many at once are limited as well."""
        for buckets, name in zip(self._buckets, (network_of(address), key_id), strict=True):
            buckets.take(name, now)

    def succeeded(self, address: str, key_id: str) -> None:
        """Take back what `begun` counted."""
        for buckets, name in zip(self._buckets, (network_of(address), key_id), strict=True):
            buckets.put_back(name)


class _Buckets:
    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._full_at: OrderedDict[str, float] = OrderedDict()
        """When each bucket will be full again."""

    def wait(self, name: str, now: float) -> float:
        until_full = self._full_at.get(name, now) - now
        return max(0.0, until_full - (self._rate.burst - 1) * self._rate.every)

    def take(self, name: str, now: float) -> None:
        self._full_at[name] = max(self._full_at.pop(name, now), now) + self._rate.every
        if len(self._full_at) > MOST:
            self._full_at.popitem(last=False)

    def put_back(self, name: str) -> None:
        if name in self._full_at:
            self._full_at[name] -= self._rate.every


def network_of(address: str) -> str:
    """The address itself for IPv4, its /64 for IPv6, whose owner has all of it."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64] or "-"
    mapped = getattr(found, "ipv4_mapped", None)
    if isinstance(found, ipaddress.IPv6Address) and mapped is None:
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(mapped or found)
