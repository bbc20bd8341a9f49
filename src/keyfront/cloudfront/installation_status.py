"""The status of a Keyfront: what its edges apply and count, and what needs attention.

Keyfront serves this at `PATH`, next to CloudFront's API and signed in the same way (docs/reference/control-api.md).
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

PATH = "/keyfront/2026-11-22/status"
ACTION = "keyfront:GetStatus"
"""The IAM action that the call requires."""


class EdgeStatus(msgspec.Struct, frozen=True, rename="pascal"):
    """A live edge worker. `snapshot` is the number of the snapshot that it applies, 0 if none; `reported` the epoch
    second of its last report; `refused` why it refused a newer snapshot, empty if it did not."""

    name: str
    region: str
    snapshot: int
    reported: float
    refused: str = ""


class Traffic(msgspec.Struct, frozen=True, rename="pascal"):
    """What the live edges have counted since each of them started.

    `bytes_sent` are bodies sent to viewers. `statuses` counts requests by class (`2xx`), `results` by CloudFront's
    x-edge-result-type, `denials` refused signatures by reason; `signed` requests were allowed by a signature.
    """

    requests: int = 0
    bytes_sent: int = 0
    signed: int = 0
    statuses: Mapping[str, int] = {}
    results: Mapping[str, int] = {}
    denials: Mapping[str, int] = {}


class Attention(msgspec.Struct, frozen=True, rename="pascal"):
    """Something that needs attention: `severity` is NOTE, WARNING, or CRITICAL. `kind` and `subject` name what it
    concerns: `key`, `group`, or `edge` and its id; both are empty if it is the installation itself."""

    severity: str
    sentence: str
    advice: str = ""
    kind: str = ""
    subject: str = ""


class InstallationStatus(msgspec.Struct, frozen=True, rename="pascal"):
    """The status at `time` (epoch seconds). `snapshot` is the number of the published snapshot, None if there is none;
    `published` when it was published (epoch seconds)."""

    time: float
    version: str
    snapshot: int | None = None
    published: float = 0.0
    edges: tuple[EdgeStatus, ...] = ()
    traffic: Traffic = Traffic()
    attention: tuple[Attention, ...] = ()
