"""The ledger of credentials: who uses the same signed URL or cookies from many places. Counted by each worker, within
fixed memory.

Nearly all credentials are used from one network. For these, a table of fixed size holds no more than a credential's
first network. A credential gets an entry with sketches only when a second network appears, or as long as there are few
entries. The first table forgets on collisions, and the entries with the fewest networks make way when there are too
many: a flood of other credentials can delay that sharing is noticed, but takes no memory. `evicted` counts entries that
made way.

A request only appends to a list. The rest happens when the access log is written; and a viewer that was seen with the
same grant in this pane is not hashed again.
"""

from __future__ import annotations

import socket
from array import array
from collections.abc import Callable
from hashlib import blake2b
from heapq import nlargest
from typing import Final

from keyfront.edge.types.messages import Request
from keyfront.fleet.credential_use import (
    HASH_BITS,
    MOST_COUNTRIES,
    MOST_REPORTED,
    PANE,
    PANES,
    CredentialUse,
    Distinct,
)
from keyfront.signing.credential import Credential, credential_id, credential_of
from keyfront.signing.verify import Grant

MOST_ENTRIES: Final = 2000
"""Entries per pane. One takes at most 5 KB, and most take less than 1 KB."""
EARLY_ENTRIES: Final = 32
"""Entries per pane up to which a credential gets one with its first network, so that workers that see one network each
find the others' together."""
SLOTS: Final = 1 << 16
"""Credentials whose first network is remembered. A power of two."""
MOST_KNOWN: Final = 16_384
"""Viewers of a credential that are recognized without hashing, by the grant's identity: one that the fast path
remembers is always the same object."""
LONGEST_KNOWN: Final = 1000
"""Characters of URL and User-Agent up to which a viewer is among them, so that they take at most 25 MB."""
_HASH_MASK: Final = (1 << HASH_BITS) - 1

Use = tuple[Grant, str, Request, str, int]
"""A request: its grant, the viewer's address, the request or another one with the same header section, the
distribution, and the bytes of the response's body."""


class _Entry:
    __slots__ = (
        "agents",
        "bytes",
        "countries",
        "credential",
        "distribution",
        "key_pair_id",
        "networks",
        "requests",
    )

    def __init__(self, credential: Credential, key_pair_id: str, distribution: str) -> None:
        self.credential = credential
        self.key_pair_id = key_pair_id
        self.distribution = distribution
        self.networks = Distinct()
        self.agents = Distinct()
        self.countries: set[str] = set()
        self.requests = self.bytes = 0

    def use(self, pane: int) -> CredentialUse:
        return CredentialUse(
            *self.credential, self.key_pair_id, self.distribution, pane, self.networks.hashes.tolist(),
            self.agents.hashes.tolist(), sorted(self.countries), self.requests, self.bytes,
        )  # fmt: skip


class CredentialLedger:
    """The credentials of one worker's requests.

    :param clock: returns epoch seconds.
    :param country: returns the country code of an address, empty if unknown.
    """

    def __init__(self, clock: Callable[[], float], country: Callable[[str], str]) -> None:
        self.pending: list[Use] = []
        """Requests that are not counted yet."""
        self.evicted = 0
        self._clock = clock
        self._country = country
        self._pane = 0
        self._entries: dict[str, _Entry] = {}
        self._before: dict[str, _Entry] = {}
        self._known: dict[tuple[Grant, str], tuple[str, bytes | None]] = {}
        self._ids = array("Q", bytes(8 * SLOTS))
        self._first = array("Q", bytes(8 * SLOTS))

    def count(self) -> None:
        """Count the pending requests."""
        pending, self.pending = self.pending, []
        if not pending:
            return
        self._turn()
        known = self._known
        for use in pending:
            grant, address, request, _, sent = use
            found = known.get((grant, address))
            if found is not None:
                name, agent = found
                entry = self._entries.get(name)
                if entry is None:
                    continue  # still in one network only
                if agent is not None and agent == _user_agent(request):
                    entry.requests += 1
                    entry.bytes += sent
                    continue
            self._add(use)

    def _turn(self) -> None:
        """Begin another pane, if it is time."""
        pane = int(self._clock()) // PANE
        if pane == self._pane:
            return
        self._before = self._entries if pane == self._pane + 1 else {}
        self._entries = {}
        if pane // PANES != self._pane // PANES:
            # What was seen hours ago is not combined with what is seen now.
            self._ids = array("Q", bytes(8 * SLOTS))
        self._pane = pane
        self._known.clear()

    def _add(self, use: Use) -> None:
        grant, address, request, distribution, sent = use
        digest = grant.policy_digest
        name = credential_id(digest)
        self._remember(grant, address, name, None)
        network = _hash(digest, network_of(address))
        entry = self._entries.get(name)
        if entry is None:
            first = network
            if len(self._entries) >= EARLY_ENTRIES and name not in self._before:
                number = int.from_bytes(digest[:8], "big")
                slot = number % SLOTS
                if self._ids[slot] != number:
                    self._ids[slot] = number
                    self._first[slot] = network
                    return
                if self._first[slot] == network:
                    return
                first = self._first[slot]
            entry = self._enter(_Entry(credential_of(grant), grant.key_pair_id, distribution))
            entry.networks.add(first)
        entry.networks.add(network)
        agent = _user_agent(request)
        entry.agents.add(_hash(digest, agent))
        if len(entry.countries) < MOST_COUNTRIES and (country := self._country(address)):
            entry.countries.add(country)
        entry.requests += 1
        entry.bytes += sent
        self._remember(grant, address, name, agent)

    def _remember(self, grant: Grant, address: str, name: str, agent: bytes | None) -> None:
        """Remember that a viewer's network, and its user agent unless it is None, are counted."""
        if len(grant.resource or "") + len(grant.own_query) + len(agent or b"") > LONGEST_KNOWN:
            return
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        self._known[grant, address] = name, agent

    def _enter(self, entry: _Entry) -> _Entry:
        if len(self._entries) >= MOST_ENTRIES:
            kept = nlargest(MOST_ENTRIES // 2, self._entries.values(), key=lambda each: len(each.networks))
            self.evicted += len(self._entries) - len(kept)
            self._entries = {each.credential.id: each for each in kept}
            self._known.clear()
        self._entries[entry.credential.id] = entry
        return entry

    def report(self) -> list[CredentialUse]:
        """What the worker reports: the credentials with the most networks, of this pane and the one before."""
        self._turn()
        found: list[CredentialUse] = []
        for pane, entries in ((self._pane - 1, self._before), (self._pane, self._entries)):
            most = nlargest(
                MOST_REPORTED, entries.values(), key=lambda each: (len(each.networks), each.requests)
            )
            found += [entry.use(pane) for entry in most]
        return found


def network_of(address: str) -> bytes:
    """The network of a viewer: the /24 of an IPv4 address, the /48 of an IPv6 address, as far as it is one."""
    if ":" not in address:
        return address.rpartition(".")[0].encode("latin-1", "replace")
    try:
        packed = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
    except (OSError, ValueError):
        return b""
    if packed[:12] == b"\0" * 10 + b"\xff\xff":
        return ".".join(map(str, packed[12:15])).encode()
    return packed[:6]


def _user_agent(request: Request) -> bytes:
    for name, value in request.headers:
        if name == b"user-agent":
            return value
    return b""


def _hash(policy_digest: bytes, value: bytes) -> int:
    digest = blake2b(value, digest_size=8, key=policy_digest).digest()
    return int.from_bytes(digest, "big") & _HASH_MASK
