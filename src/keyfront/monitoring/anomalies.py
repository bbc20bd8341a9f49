"""When the use of credentials means that they are shared. Pure: evidence in, findings out."""

from __future__ import annotations

from typing import Final

import msgspec


class Evidence(msgspec.Struct, frozen=True):
    """How a credential was used within a window: distinct networks, countries, and user agents, requests, and bytes."""

    networks: int
    countries: int
    agents: int
    requests: int
    bytes: int


class SharingThresholds(msgspec.Struct, frozen=True):
    """From which number within an hour on a credential counts as shared. 0: whatever the number."""

    networks: int = 20
    countries: int = 4
    agents: int = 40
    requests: int = 0
    bytes: int = 0


class Crossing(msgspec.Struct, frozen=True, rename="pascal"):
    """A threshold that is reached: `measure` names what was counted, in the words of `MEASURES`."""

    measure: str
    value: int
    threshold: int


MEASURES: Final = ("networks", "countries", "agents", "requests", "bytes")
"""What is counted, by the names of `Evidence`."""


def crossings(evidence: Evidence, thresholds: SharingThresholds) -> tuple[Crossing, ...]:
    """The thresholds that the evidence reaches; empty if the credential does not count as shared.

    A credential in only one network is never shared: everything in it may be one household, or one office.
    """
    if evidence.networks < 2:
        return ()
    return tuple(
        Crossing(name, value, threshold)
        for name in MEASURES
        if (threshold := getattr(thresholds, name)) and (value := getattr(evidence, name)) >= threshold
    )
