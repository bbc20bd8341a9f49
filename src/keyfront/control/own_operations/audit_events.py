"""LookupEvents: the audit log, the last records first."""

from __future__ import annotations

from datetime import UTC, datetime

from keyfront.cloudfront.audit_events import PAGE, PATH, Event, Events
from keyfront.control.audit.search import AuditQuery, newest
from keyfront.control.call import Call
from keyfront.control.own_operations.contract import OwnOperation
from keyfront.control.store.store import Store
from keyfront.errors import ApiError

MEMBERS = ("User", "Event", "Resource", "Since", "Until", "Errors", "Writes", "Marker")
WINDOW = 5000
"""Records that one call looks at."""


def lookup_events(store: Store) -> OwnOperation:
    """The operation."""

    def run(call: Call) -> Events:
        given = {name: str(value) for name, value in call.params.items()}
        query = AuditQuery(
            since=_time(given.get("Since", "")),
            until=_time(given.get("Until", "")),
            user=given.get("User", ""),
            event=given.get("Event", ""),
            resource=given.get("Resource", ""),
            errors=given.get("Errors", "") == "true",
            writes=given.get("Writes", "") == "true",
        )
        found = newest(store, query, before=_marker(given.get("Marker", "")), limit=PAGE, window=WINDOW)
        items = tuple(Event(each.row.number, each.record) for each in found.matches)
        return Events(items, str(found.following or ""))

    return OwnOperation("LookupEvents", "GET", PATH, run, MEMBERS)


def _time(text: str) -> float | None:
    """Epoch seconds of an ISO 8601 time, UTC unless it says otherwise; None for none.

    :raises ApiError: InvalidArgument.
    """
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ApiError(
            "InvalidArgument", f"{text[:40]!r} is not a time, such as 2026-11-30T12:00:00Z."
        ) from None


def _marker(text: str) -> int:
    if text and not (text.isascii() and text.isdecimal() and len(text) < 18):
        raise ApiError("InvalidArgument", "The marker is not one that this operation returned.")
    return int(text or 0)
