"""Audit records of API calls from unknown callers: a bad signature, an unknown key, an expired date.

Anyone can send any number of such calls, so they are aggregated. The first of its kind is recorded within FLUSH
seconds; those of the same kind within the next minute are counted and share one record. A kind is an address (for IPv6,
its /64), an error code, and an access key id. A budget limits what a flood can write: BURST records at once and
PER_MINUTE in the long run, about 10 MB a day. Calls beyond the budget share a single record.

`Refusals` only counts. The control process regularly writes the records that are due in one transaction, so a flood of
refused calls does not compete with other calls for transactions.
"""

from __future__ import annotations

import ipaddress
import random
import re
import threading
import uuid
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from keyfront.control.audit import records as audit
from keyfront.control.audit.records import CLOUDFRONT, HIDDEN, Entry, encode
from keyfront.control.store.rows import AuditIndex
from keyfront.control.store.store import Store
from keyfront.errors import ApiError

FLUSH: Final = 2.0
"""Seconds between two writes of the records that are due."""
WINDOW: Final = 60.0
"""Seconds for which calls of one kind are counted together."""
BURST: Final = 60
PER_MINUTE: Final = 10
"""Records of refused calls that can be written at once, and per minute in the long run."""
KINDS: Final = 256
"""Maximum number of kinds that are counted separately at the same time."""

_KEY_ID = re.compile(r"[A-Z0-9_]{16,32}")
_LONGEST = 256


class Refusal(msgspec.Struct, frozen=True):
    """One refused call.

    :param operation: the model's name.
    :param access_key_id: as sent; empty if there was none.
    :param now: epoch seconds.
    """

    operation: str
    error: ApiError
    access_key_id: str
    source_ip: str
    user_agent: str
    request_id: str
    now: float
    source: str = CLOUDFRONT


class _Kind:
    """The calls of one kind: the first and the last one, and how many are not recorded yet."""

    __slots__ = ("began", "count", "first", "last", "written")

    def __init__(self, first: Refusal) -> None:
        self.first = first
        self.last = first
        self.count = 0
        self.began = first.now
        self.written = False


class Refusals:
    """Counts refused calls by kind. Safe to use from several threads. Times are epoch seconds; setting the clock back
    ends no window early.

    :param rng: the source of record ids.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._lock = threading.Lock()
        self._kinds: dict[tuple[str, str, str], _Kind] = {}
        self._overflow: _Kind | None = None
        """All calls that exceed KINDS or the budget."""
        self._budget = float(BURST)
        self._filled_at: float | None = None

    def add(self, refusal: Refusal) -> None:
        """Count the call, in constant time; memory is limited by KINDS."""
        name = (network_of(refusal.source_ip), refusal.error.code, shown_key(refusal.access_key_id))
        with self._lock:
            kind = self._kinds.get(name)
            if kind is None:
                if len(self._kinds) < KINDS:
                    kind = self._kinds[name] = _Kind(refusal)
                else:
                    kind = self._overflow = self._overflow or _Kind(refusal)
            kind.count += 1
            kind.last = refusal

    def due(self, now: float, *, everything: bool = False) -> list[Entry]:
        """The records to write at `now`. Their calls are no longer counted afterward.

        :param everything: also include windows that have not ended, because the process is exiting.
        """
        with self._lock:
            self._fill(now)
            found = []
            for name, kind in list(self._kinds.items()):
                over = everything or abs(now - kind.began) >= WINDOW
                if kind.count and (over or not kind.written):
                    if self._budget >= 1:
                        self._budget -= 1
                        found.append(self._entry(kind, now))
                        kind.written, kind.count = True, 0
                    elif over:
                        self._overflow = self._overflow or _Kind(kind.first)
                        self._overflow.count += kind.count
                        self._overflow.last = kind.last
                        kind.count = 0
                if over and not kind.count:
                    del self._kinds[name]
            overflow = self._overflow
            if overflow is not None and (everything or abs(now - overflow.began) >= WINDOW):
                self._overflow = None
                found.append(self._entry(overflow, now, overflow=True))
            return found

    def _fill(self, now: float) -> None:
        if self._filled_at is not None and now > self._filled_at:
            self._budget = min(BURST, self._budget + (now - self._filled_at) * PER_MINUTE / 60)
        self._filled_at = now

    def _entry(self, kind: _Kind, now: float, *, overflow: bool = False) -> Entry:
        record = _record(kind, now, uuid.UUID(int=self._rng.getrandbits(128), version=4), overflow)
        return Entry(
            record=encode(record),
            index=AuditIndex(
                time=kind.last.now,
                name=str(record["eventName"]),
                principal="",
                resource="",
                error=str(record["errorCode"]),
            ),
        )


def _record(kind: _Kind, now: float, id_: uuid.UUID, overflow: bool) -> dict[str, Any]:
    last = kind.last
    identity = {"type": "Unknown", "principalId": ""}
    if last.access_key_id and not overflow:
        identity["accessKeyId"] = shown_key(last.access_key_id)
    return {
        "eventVersion": "1.09",
        "userIdentity": identity,
        "eventTime": _time(last.now),
        "eventSource": last.source,
        "eventName": "RefusedCalls" if overflow else last.operation,
        "awsRegion": "us-east-1",
        "sourceIPAddress": "various" if overflow else last.source_ip[:_LONGEST],
        "userAgent": "" if overflow else last.user_agent[:_LONGEST],
        "errorCode": "AccessDenied" if overflow else last.error.code,
        "errorMessage": "Calls from unknown callers, too many to be recorded separately."
        if overflow
        else last.error.message[:_LONGEST],
        "responseElements": None,
        "requestParameters": None,
        "additionalEventData": {"count": kind.count, "from": _time(kind.began), "to": _time(last.now)},
        "requestID": last.request_id,
        "eventID": str(id_),
        "readOnly": True,
        "eventType": "AwsApiCall",
        "managementEvent": True,
        "eventCategory": "Management",
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def network_of(address: str) -> str:
    """The address itself for IPv4, its /64 for IPv6: a host with one address of a /64 typically controls the whole
    /64."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:_LONGEST]
    mapped = getattr(found, "ipv4_mapped", None)
    if isinstance(found, ipaddress.IPv6Address) and mapped is None:
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(mapped or found)


def shown_key(sent: str) -> str:
    """An access key id as shown in records. Anything else is hidden, because it may be a secret pasted by mistake."""
    return sent if not sent or _KEY_ID.fullmatch(sent) else HIDDEN


class RefusalLog:
    """Writes the records that are due to the audit log. Records that cannot be written are retried; at most 2 * BURST
    are queued."""

    def __init__(self, store: Store, refusals: Refusals) -> None:
        self._store = store
        self._refusals = refusals
        self._pending: list[Entry] = []

    def write(self, now: float, *, everything: bool = False) -> None:
        """Write the records that are due at `now` (epoch seconds).

        :raises ApiError: ServiceUnavailable if the store does not respond.
        """
        self._pending += self._refusals.due(now, everything=everything)
        del self._pending[: -2 * BURST]
        if self._pending:
            with self._store.write() as transaction:
                audit.append(transaction, *self._pending)
            self._pending.clear()
