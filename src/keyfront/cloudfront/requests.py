"""The requests that the edges of the control plane's machine recorded, and the explanation of a request.

Keyfront serves them at `PATH` and `EXPLANATION_PATH`, next to CloudFront's API and signed in the same way
(docs/reference/control-api.md).
"""

from __future__ import annotations

from typing import Any

import msgspec

PATH = "/keyfront/2026-11-22/requests"
EXPLANATION_PATH = "/keyfront/2026-11-22/explanations"
PAGE = 50
"""Requests in one answer."""


class LoggedRequest(msgspec.Struct, frozen=True, rename="pascal"):
    """A request: its record in the form of the access log, and the place of the record, with which GetRequest finds it
    without a search."""

    record: dict[str, Any]
    place: str = ""


class LoggedRequests(msgspec.Struct, frozen=True, rename="pascal"):
    """Requests, newest first. `next` is the marker of the page that follows, empty if this is the last. A page can be
    short, or empty, and not be the last: one call looks at a limited part of the log."""

    items: tuple[LoggedRequest, ...] = ()
    next: str = ""


class ExplainedRequest(msgspec.Struct, frozen=True, rename="pascal"):
    """A recorded request, whether it was granted, and what its reason means and how to cure it (empty without one)."""

    record: dict[str, Any]
    granted: bool
    cause: str = ""
    cure: str = ""


class Explanation(msgspec.Struct, frozen=True, rename="pascal"):
    """What edges do with a request: `report` has the form of `keyfront explain --json`, and `source` says which
    configuration decided. Signature values are masked."""

    report: dict[str, Any]
    source: str
