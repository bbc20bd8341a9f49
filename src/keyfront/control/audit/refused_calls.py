"""Calls of the API whose caller is not known (a bad signature, an unknown key, a date that is over), for the audit log.

Anybody can send them, as many as the network carries, so not each becomes a record. The first of its kind becomes one
within FLUSH seconds; those like it within the next minute are counted, and one record says how many they were. A kind
is an address (of IPv6: its /64), an error code and an access key id. The budget bounds what a flood can write: BURST
records at once and PER_MINUTE in the long run, some 10 MB a day. What does not fit is counted in one record for all.

`Refusals` only counts; the control process asks it now and then for what to write (`due`), and writes that in one
transaction, so a flood of refusals takes no transaction of its own from other calls.
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
"""Seconds between two looks at what is due."""
WINDOW: Final = 60.0
"""Seconds for which what is alike is counted together."""
BURST: Final = 60
PER_MINUTE: Final = 10
"""Records of refusals that may be written at once, and per minute in the long run."""
KINDS: Final = 256
"""Kinds that are counted apart at one time."""

_KEY_ID = re.compile(r"[A-Z0-9_]{16,32}")
_LONGEST = 256


class Refusal(msgspec.Struct, frozen=True):
    """One such call. `access_key_id` is as it was sent, empty if there was none; `operation` is the model's name."""

    operation: str
    error: ApiError
    access_key_id: str
    source_ip: str
    user_agent: str
    request_id: str
    now: float
    source: str = CLOUDFRONT


class _Kind:
    """What is alike: the call that began it, and how many there have been that no record tells yet."""

    __slots__ = ("began", "count", "first", "last", "written")

    def __init__(self, first: Refusal) -> None:
        self.first = first
        self.last = first
        self.count = 0
        self.began = first.now
        self.written = False


class Refusals:
    """Safe to use from several threads. Times are epoch seconds; one that goes back ends no window early.

    :param rng: for the ids of records.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._lock = threading.Lock()
        self._kinds: dict[tuple[str, str, str], _Kind] = {}
        self._crowd: _Kind | None = None
        """Those for whom there was no room, all together."""
        self._budget = float(BURST)
        self._filled_at: float | None = None

    def add(self, refusal: Refusal) -> None:
        """Count the call. Takes no time worth telling, and never more memory than KINDS kinds do."""
        name = (network_of(refusal.source_ip), refusal.error.code, shown_key(refusal.access_key_id))
        with self._lock:
            kind = self._kinds.get(name)
            if kind is None:
                if len(self._kinds) < KINDS:
                    kind = self._kinds[name] = _Kind(refusal)
                else:
                    kind = self._crowd = self._crowd or _Kind(refusal)
            kind.count += 1
            kind.last = refusal

    def due(self, now: float, *, everything: bool = False) -> list[Entry]:
        """What is to be written at `now`, and is counted no more.

        :param everything: also what a window has not ended for: the process ends.
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
                        self._crowd = self._crowd or _Kind(kind.first)
                        self._crowd.count += kind.count
                        self._crowd.last = kind.last
                        kind.count = 0
                if over and not kind.count:
                    del self._kinds[name]
            crowd = self._crowd
            if crowd is not None and (everything or abs(now - crowd.began) >= WINDOW):
                self._crowd = None
                found.append(self._entry(crowd, now, crowd=True))
            return found

    def _fill(self, now: float) -> None:
        if self._filled_at is not None and now > self._filled_at:
            self._budget = min(BURST, self._budget + (now - self._filled_at) * PER_MINUTE / 60)
        self._filled_at = now

    def _entry(self, kind: _Kind, now: float, *, crowd: bool = False) -> Entry:
        record = _record(kind, now, uuid.UUID(int=self._rng.getrandbits(128), version=4), crowd)
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


def _record(kind: _Kind, now: float, id_: uuid.UUID, crowd: bool) -> dict[str, Any]:
    last = kind.last
    identity = {"type": "Unknown", "principalId": ""}
    if last.access_key_id and not crowd:
        identity["accessKeyId"] = shown_key(last.access_key_id)
    return {
        "eventVersion": "1.09",
        "userIdentity": identity,
        "eventTime": _time(last.now),
        "eventSource": last.source,
        "eventName": "RefusedCalls" if crowd else last.operation,
        "awsRegion": "us-east-1",
        "sourceIPAddress": "various" if crowd else last.source_ip[:_LONGEST],
        "userAgent": "" if crowd else last.user_agent[:_LONGEST],
        "errorCode": "AccessDenied" if crowd else last.error.code,
        "errorMessage": "Calls of unknown callers, too many to be told apart."
        if crowd
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
    """Whom an address stands for: itself, or its /64 if it is one of IPv6's, of which anybody has as many."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:_LONGEST]
    mapped = getattr(found, "ipv4_mapped", None)
    if isinstance(found, ipaddress.IPv6Address) and mapped is None:
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(mapped or found)


def shown_key(sent: str) -> str:
    """An access key id as records show it. What does not look like one may be a secret that was pasted by mistake."""
    return sent if not sent or _KEY_ID.fullmatch(sent) else HIDDEN


class RefusalLog:
    """Writes what is due into the audit log. What cannot be written now is kept for the next try, as far as there is
    room for it."""

    def __init__(self, store: Store, refusals: Refusals) -> None:
        self._store = store
        self._refusals = refusals
        self._pending: list[Entry] = []

    def write(self, now: float, *, everything: bool = False) -> None:
        """Write what is due at `now` (epoch seconds).

        :raises ApiError: ServiceUnavailable if the store does not answer.
        """
        self._pending += self._refusals.due(now, everything=everything)
        del self._pending[: -2 * BURST]
        if self._pending:
            with self._store.write() as transaction:
                audit.append(transaction, *self._pending)
            self._pending.clear()
