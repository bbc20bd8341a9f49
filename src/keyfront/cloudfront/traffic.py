"""The traffic of the last hours, as the control plane stores it by minute.

Keyfront serves it at `PATH`, next to CloudFront's API and signed in the same way (docs/reference/control-api.md).
"""

from __future__ import annotations

import msgspec

PATH = "/keyfront/2026-11-22/traffic"
ACTION = "keyfront:GetTraffic"
"""The IAM action that the call requires."""


class TrafficPoint(msgspec.Struct, frozen=True, rename="pascal"):
    """What all edges counted from `time` (epoch seconds) for one period: requests, those that could be answered from
    the cache and those that were, refused signatures, and responses with a status of 5xx."""

    time: int
    requests: int = 0
    cacheable: int = 0
    hits: int = 0
    denials: int = 0
    failures: int = 0


class TrafficHistory(msgspec.Struct, frozen=True, rename="pascal"):
    """The points of consecutive periods of `period` seconds, the oldest first. The last one is not over yet."""

    period: int
    points: tuple[TrafficPoint, ...]
