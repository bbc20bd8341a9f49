"""How signed credentials are used, as part of the counters in an edge's report: from how many networks, countries, and
user agents, and how much.

Time is divided into panes of PANE seconds. A worker reports the current pane and the one before; the control plane
keeps as many as a window has. Everything merges in any order, and again without a difference: sets by union, and the
counts of a run of a worker by their maximum.

The number of distinct values is estimated from the smallest of their hashes (Bar-Yossef et al., "Counting distinct
elements in a data stream", 2002): exact below K values, and above with a standard error of about 1/sqrt(K - 2).

Hashes are keyed with the digest of the whole policy, of which a report contains only the ID. Who knows the policy, from
a link or from an edge's access log, can find the networks of that credential by trying all of them. Who has only
reports cannot, nor tell whether two credentials were used from the same network.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable
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
    """A set of hashes of which only the K smallest are stored, in order: in at most 600 bytes.

    A hash has HASH_BITS bits.
    """

    __slots__ = ("hashes",)

    def __init__(self, hashes: Iterable[int] = ()) -> None:
        self.hashes = array("Q")
        for each in hashes:
            self.add(each)

    def add(self, number: int) -> None:
        """Add a hash."""
        hashes = self.hashes
        at = bisect_left(hashes, number)
        if at == K or (at < len(hashes) and hashes[at] == number):
            return
        if len(hashes) == K:
            hashes.pop()
        hashes.insert(at, number)

    def __len__(self) -> int:
        """The number of distinct hashes: exact below K, else estimated."""
        if len(self.hashes) < K:
            return len(self.hashes)
        return round((K - 1) * _RANGE / (self.hashes[-1] + 1))


class CredentialUse(msgspec.Struct, frozen=True, array_like=True):
    """What a worker has seen of a credential in a pane; if there are many, from its second network on.

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
