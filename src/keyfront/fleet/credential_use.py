"""How signed credentials are used, as part of the counters in an edge's report: from how many networks, countries, and
user agents, and how much.

Time is divided into panes of PANE seconds. A worker reports the current pane and the one before; the control plane
keeps as many as a window has. Everything merges in any order, and again without a difference: sets by union, and the
counts of a run of a worker by their maximum.

The number of distinct values is estimated from the smallest of their hashes (Bar-Yossef et al., "Counting distinct
elements in a data stream", 2002): exact below K values, and above with a standard error of about 1/sqrt(K - 2). Hashes
depend on the credential. They can be reversed by who knows its ID and tries all networks: they protect against reading
along, not against the operator of the control plane.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import nsmallest
from typing import Final

import msgspec

PANE: Final = 600
"""Seconds of a pane."""
PANES: Final = 6
"""Panes in a window: an hour, of which up to ten minutes are still to come."""
K: Final = 64
"""Hashes that a set of networks or user agents holds."""
HASH_BITS: Final = 52
"""Bits of a hash: what every JSON reader can represent."""
MOST_COUNTRIES: Final = 32
"""Countries of a credential that are told apart."""
MOST_REPORTED: Final = 64
"""Credentials per pane in a report: those with the most networks."""
_RANGE: Final = float(1 << HASH_BITS)


class Distinct:
    """A set of hashes of which only the K smallest are stored."""

    __slots__ = ("_greatest", "hashes")

    def __init__(self, hashes: Iterable[int] = ()) -> None:
        self.hashes: set[int] = set()
        self._greatest = 0
        for each in hashes:
            self.add(each)

    def add(self, number: int) -> None:
        """Add a hash of HASH_BITS bits."""
        hashes = self.hashes
        if number in hashes:
            return
        if len(hashes) < K:
            hashes.add(number)
            self._greatest = max(self._greatest, number)
        elif number < self._greatest:
            hashes.remove(self._greatest)
            hashes.add(number)
            self._greatest = max(hashes)

    def __len__(self) -> int:
        """The number of distinct hashes: exact below K, else estimated."""
        if len(self.hashes) < K:
            return len(self.hashes)
        return round((K - 1) * _RANGE / (self._greatest + 1))


class CredentialUse(msgspec.Struct, frozen=True, array_like=True):
    """What a worker has seen of a credential in a pane, from its second network on.

    :param id, label: see `signing.credential.Credential`.
    :param pane: epoch seconds divided by PANE.
    :param networks: hashes of the viewers' networks (/24 of IPv4, /48 of IPv6); `agents`: of their User-Agents.
    :param countries: their country codes.
    :param requests: that it allowed; `bytes`: sent in response.
    """

    id: str
    label: str
    key_pair_id: str
    distribution: str
    pane: int
    networks: list[int]
    agents: list[int]
    countries: list[str]
    requests: int
    bytes: int


def most_shared(uses: Iterable[CredentialUse], number: int) -> list[CredentialUse]:
    """Those with the most networks, and of these with the most requests."""
    return nsmallest(number, uses, key=lambda use: (-len(use.networks), -use.requests, use.id))
