"""The audit log's records, the last ones first.

Keyfront serves them at `PATH`, next to CloudFront's API and signed in the same way (docs/reference/control-api.md).
"""

from __future__ import annotations

from typing import Any

import msgspec

PATH = "/keyfront/2026-11-22/events"
ACTION = "keyfront:LookupEvents"
"""The IAM action that the call requires."""
PAGE = 50
"""Records in one answer."""


class Event(msgspec.Struct, frozen=True, rename="pascal"):
    """A record: its number in the log, and its content in CloudTrail's form."""

    number: int
    record: dict[str, Any]


class Events(msgspec.Struct, frozen=True, rename="pascal"):
    """Records, newest first. `next` is the marker of the page that follows, empty if this is the last. A page can be
    short, or empty, and not be the last: one call looks at a limited number of records."""

    items: tuple[Event, ...] = ()
    next: str = ""
