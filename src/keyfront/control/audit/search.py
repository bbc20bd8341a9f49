"""The audit log as it is read: what is searched for in it, and whether its chain is whole.

The log is read in pages, each in a transaction of its own, so that a long search holds up nobody.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import sqlalchemy as sa

from keyfront.control.audit.records import START, following
from keyfront.control.store.rows import AuditRow
from keyfront.control.store.schema import audit as _audit
from keyfront.control.store.store import Store

PAGE = 1000


class AuditQuery(msgspec.Struct, frozen=True):
    """What is searched for; what is left out does not matter. `since` (included) and `until` (not) are epoch seconds,
    `user` is a user's name, ARN or access key id, `event` an operation, `resource` an id or an ARN, `errors` asks for
    calls that were refused or failed, `writes` for those that would change something."""

    since: float | None = None
    until: float | None = None
    user: str = ""
    event: str = ""
    resource: str = ""
    errors: bool = False
    writes: bool = False


class AuditMatch(msgspec.Struct, frozen=True):
    """A row, and its record decoded; empty if somebody has made it unreadable."""

    row: AuditRow
    record: dict[str, Any]


def search(store: Store, wanted: AuditQuery, *, newest_first: bool = False) -> Iterator[AuditMatch]:
    """The records that `wanted` describes, oldest first unless said otherwise.

    :raises ApiError: ServiceUnavailable if the store does not answer.
    """
    number, order = _audit.c.number, _audit.c.number.desc() if newest_first else _audit.c.number
    query = sa.select(number, _audit.c.record, _audit.c.digest).where(*_clauses(wanted)).order_by(order)
    last: int | None = None
    while True:
        page = query if last is None else query.where(number < last if newest_first else number > last)
        with store.read() as transaction:
            found = transaction.connection.execute(page.limit(PAGE))
            rows = [AuditRow(number_, _bytes(record), digest) for number_, record, digest in found]
        for row in rows:
            record = _decoded(row)
            if _fits(record, wanted):
                yield AuditMatch(row, record)
        if len(rows) < PAGE:
            return
        last = rows[-1].number


def _clauses(wanted: AuditQuery) -> Iterator[sa.ColumnElement[bool]]:
    if wanted.since is not None:
        yield _audit.c.time >= wanted.since
    if wanted.until is not None:
        yield _audit.c.time < wanted.until
    if wanted.event:
        yield sa.func.lower(_audit.c.name) == wanted.event.lower()
    if wanted.resource:
        # A distribution is named by its id or, where it is tagged, by its ARN.
        yield sa.or_(
            _audit.c.resource == wanted.resource,
            _audit.c.resource.endswith(f"/{wanted.resource}", autoescape=True),
            _audit.c.resource == wanted.resource.rpartition("/")[2],
        )
    if wanted.errors:
        yield _audit.c.error != ""


def _bytes(record: Any) -> bytes:
    """A record as it was written, or as somebody has changed it: SQLite keeps whatever type it is given."""
    return record if isinstance(record, bytes) else str(record).encode()


def _decoded(row: AuditRow) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(row.record, type=dict[str, Any])
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found.get("userIdentity"), dict) else {}


def _fits(record: dict[str, Any], wanted: AuditQuery) -> bool:
    """What no column tells."""
    if wanted.writes and record.get("readOnly"):
        return False
    who = record.get("userIdentity") or {}
    names = (who.get("userName"), who.get("arn"), who.get("accessKeyId"), who.get("type"))
    return not wanted.user or wanted.user in names


class Verdict(msgspec.Struct, frozen=True):
    """What became of a chain: `count` records are whole, the last of them with `digest`. `fault` says what is wrong
    with the one after it; empty if nothing is. `expected`: the digest that was asked for is among them."""

    count: int
    digest: bytes
    fault: str
    expected: bool

    @property
    def anchor(self) -> str:
        """What to keep outside, and to give as `expect` later: the number of the last record and its digest."""
        return f"{self.count}:{self.digest.hex()}"


def verify(store: Store, expect: str = "") -> Verdict:
    """Follow the chain from its first record to its last.

    :param expect: an anchor, or a digest in hexadecimal, that the log once had. Without one, records missing at the
        end cannot be told from records that never were.
    """

    def rows() -> Iterator[AuditRow]:
        last = 0
        while True:
            with store.read() as transaction:
                page = transaction.audit(after=last, limit=PAGE)
            yield from page
            if len(page) < PAGE:
                return
            last = page[-1].number

    return follow(rows(), expect)


def follow(rows: Iterable[AuditRow], expect: str = "") -> Verdict:
    """As `verify`, over the rows of a log from its first one on."""
    head: AuditRow | None = None
    met = _meets(head, expect)
    for row in rows:
        right = following(head, _bytes(row.record))
        if row.number != right.number:
            fault = f"record {right.number} is missing: record {row.number} follows"
            return Verdict(right.number - 1, right_digest(head), fault, met)
        if row != right:
            fault = f"record {row.number} is not what was written, or one before it is missing"
            return Verdict(right.number - 1, right_digest(head), fault, met)
        head = row
        met = met or _meets(head, expect)
    return Verdict(head.number if head else 0, right_digest(head), "", met)


def right_digest(head: AuditRow | None) -> bytes:
    return START if head is None else head.digest


def _meets(head: AuditRow | None, expect: str) -> bool:
    number, colon, digest = expect.rpartition(":")
    found = (head.number if head else 0), right_digest(head).hex()
    return found[1] == digest.lower() and (not colon or str(found[0]) == number)


def exported(lines: Iterable[bytes]) -> Iterator[AuditRow]:
    """The rows of a whole log that was exported as lines: each one's digest is reckoned from the one before, so that
    only an expected digest can tell whether they are what was written."""
    digest = START
    for number, line in enumerate(lines, start=1):
        record = line.rstrip(b"\r\n")
        digest = hashlib.sha256(digest + record).digest()
        yield AuditRow(number, record, digest)
