"""The use of credentials in the last hour, as all edges have reported it, within fixed memory. Pure.

Reports repeat what they have said before, arrive in any order, and may come from an edge that lies. Sets of hashes are
united, and of each worker's counts the highest counts, so a report may be added any number of times.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import nlargest
from typing import Final

from keyfront.fleet.credential_use import MOST_COUNTRIES, PANE, PANES, CredentialUse, Distinct
from keyfront.monitoring.anomalies import Evidence

MOST_CREDENTIALS: Final = 5000
"""Credentials per pane."""
MOST_RUNS: Final = 2000
"""Workers per credential and pane whose counts are told apart."""
MOST_NAMES: Final = 4
"""Keys, and distributions, that are named for a credential."""


class _Merged:
    __slots__ = ("agents", "countries", "distributions", "keys", "label", "networks", "runs")

    def __init__(self, label: str) -> None:
        self.label = label
        self.keys: set[str] = set()
        self.distributions: set[str] = set()
        self.networks = Distinct()
        self.agents = Distinct()
        self.countries: set[str] = set()
        self.runs: dict[str, tuple[int, int]] = {}

    def add(self, run: str, use: CredentialUse) -> None:
        before = self.runs.get(run, (0, 0))
        if use.requests <= before[0] or (not before[0] and len(self.runs) >= MOST_RUNS):
            return  # known already
        self.runs[run] = use.requests, max(use.bytes, before[1])
        for name, names in ((use.key_pair_id, self.keys), (use.distribution, self.distributions)):
            if len(names) < MOST_NAMES:
                names.add(name)
        for number in use.networks:
            self.networks.add(number)
        for number in use.agents:
            self.agents.add(number)
        if len(self.countries) < MOST_COUNTRIES:
            self.countries.update(use.countries[: MOST_COUNTRIES - len(self.countries)])


class WindowUse:
    """A credential's use within the last hour."""

    __slots__ = ("credential", "distributions", "evidence", "keys", "label")

    def __init__(self, credential: str, parts: list[_Merged]) -> None:
        self.credential = credential
        self.label = parts[0].label
        self.keys = sorted(set().union(*(part.keys for part in parts)))[:MOST_NAMES]
        self.distributions = sorted(set().union(*(part.distributions for part in parts)))[:MOST_NAMES]
        counts = [count for part in parts for count in part.runs.values()]
        self.evidence = Evidence(
            len(Distinct(number for part in parts for number in part.networks.hashes)),
            len(set().union(*(part.countries for part in parts))),
            len(Distinct(number for part in parts for number in part.agents.hashes)),
            sum(requests for requests, _ in counts),
            sum(sent for _, sent in counts),
        )


class Panes:
    """The panes of the last hour."""

    def __init__(self) -> None:
        self._panes: dict[int, dict[str, _Merged]] = {}

    def add(self, run: str, uses: Iterable[CredentialUse], now: float) -> None:
        """Add what a worker has reported.

        :param run: identifies the worker's process.
        :param now: epoch seconds. Panes that are over for an hour, or begin later than the next one, are ignored.
        """
        current = int(now) // PANE
        for number in [number for number in self._panes if number <= current - PANES]:
            del self._panes[number]
        for use in uses:
            if not current - PANES < use.pane <= current + 1 or use.requests <= 0:
                continue
            pane = self._panes.setdefault(use.pane, {})
            merged = pane.get(use.id)
            if merged is None:
                if len(pane) >= MOST_CREDENTIALS:
                    shared = nlargest(
                        MOST_CREDENTIALS // 2, pane.items(), key=lambda each: len(each[1].networks)
                    )
                    pane = self._panes[use.pane] = dict(shared)
                merged = pane[use.id] = _Merged(use.label)
            merged.add(run, use)

    def uses(self) -> Iterator[WindowUse]:
        """The use of every credential within the window."""
        for credential in set().union(*self._panes.values()):
            yield WindowUse(
                credential, [pane[credential] for pane in self._panes.values() if credential in pane]
            )
