"""Reading the audit log: search, and verification of the hash chain.

The log is read in pages, each in its own transaction, so a long search does not block other transactions.
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
    """Criteria of a search; those left out match everything.

    :param since: epoch seconds, inclusive.
    :param until: epoch seconds, exclusive.
    :param user: a user's name, ARN, or access key id.
    :param event: an operation.
    :param resource: an id or an ARN.
    :param errors: only calls that were refused or failed.
    :param writes: only calls of operations that change something.
    """

    since: float | None = None
    until: float | None = None
    user: str = ""
    event: str = ""
    resource: str = ""
    errors: bool = False
    writes: bool = False


class AuditMatch(msgspec.Struct, frozen=True):
    """A row with its decoded record; the record is empty if it is unreadable."""

    row: AuditRow
    record: dict[str, Any]


def search(store: Store, criteria: AuditQuery, *, newest_first: bool = False) -> Iterator[AuditMatch]:
    """The records that match the query, oldest first by default.

    :raises ApiError: ServiceUnavailable if the store does not respond.
    """
    number, order = _audit.c.number, _audit.c.number.desc() if newest_first else _audit.c.number
    query = sa.select(number, _audit.c.record, _audit.c.digest).where(*_clauses(criteria)).order_by(order)
    last: int | None = None
    while True:
        page = query if last is None else query.where(number < last if newest_first else number > last)
        with store.read() as transaction:
            found = transaction.connection.execute(page.limit(PAGE))
            rows = [AuditRow(number_, _bytes(record), digest) for number_, record, digest in found]
        for row in rows:
            record = _decoded(row)
            if _fits(record, criteria):
                yield AuditMatch(row, record)
        if len(rows) < PAGE:
            return
        last = rows[-1].number


class AuditPage(msgspec.Struct, frozen=True):
    """Records, newest first. The search goes on before the number `following`; 0: there are no more."""

    matches: list[AuditMatch]
    following: int


def newest(store: Store, criteria: AuditQuery, *, before: int = 0, limit: int, window: int) -> AuditPage:
    """The newest records that match, at most `limit`. Looks at no more than `window` records, so that a search without
    matches costs no more than that, however long the log is.

    :param before: only records with smaller numbers; 0: all.
    :raises ApiError: ServiceUnavailable if the store does not respond.
    """
    number = _audit.c.number
    with store.read() as transaction:
        connection = transaction.connection
        top = before
        if not top and criteria.until is not None:
            last = sa.select(number).where(_audit.c.time < criteria.until).order_by(_audit.c.time.desc())
            found = connection.execute(last.limit(1)).scalar_one_or_none()
            top = 1 if found is None else found + 1
        if not top:
            head = transaction.audit_head()
            top = head.number + 1 if head is not None else 1
        low = max(1, top - window)
        rows = connection.execute(
            sa.select(number, _audit.c.record, _audit.c.digest)
            .where(number < top, number >= low, *_clauses(criteria))
            .order_by(number.desc())
        ).all()
        lowest = connection.execute(sa.select(_audit.c.time).where(number == low)).scalar_one_or_none()
    matches: list[AuditMatch] = []
    for number_, record, digest in rows:
        row = AuditRow(number_, _bytes(record), digest)
        content = _decoded(row)
        if _fits(content, criteria):
            if len(matches) == limit:
                return AuditPage(matches, matches[-1].row.number)
            matches.append(AuditMatch(row, content))
    over = low == 1 or (criteria.since is not None and lowest is not None and lowest < criteria.since)
    return AuditPage(matches, 0 if over else low)


def _clauses(criteria: AuditQuery) -> Iterator[sa.ColumnElement[bool]]:
    if criteria.since is not None:
        yield _audit.c.time >= criteria.since
    if criteria.until is not None:
        yield _audit.c.time < criteria.until
    if criteria.event:
        yield sa.func.lower(_audit.c.name) == criteria.event.lower()
    if criteria.resource:
        # A distribution is named by its id or, where it is tagged, by its ARN.
        yield sa.or_(
            _audit.c.resource == criteria.resource,
            _audit.c.resource.endswith(f"/{criteria.resource}", autoescape=True),
            _audit.c.resource == criteria.resource.rpartition("/")[2],
        )
    if criteria.errors:
        yield _audit.c.error != ""


def _bytes(record: Any) -> bytes:
    """A record's bytes. A record that was tampered with may have another type: SQLite stores any type in any column."""
    return record if isinstance(record, bytes) else str(record).encode()


def _decoded(row: AuditRow) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(row.record, type=dict[str, Any])
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found.get("userIdentity"), dict) else {}


def _fits(record: dict[str, Any], criteria: AuditQuery) -> bool:
    """The criteria that no column covers."""
    if criteria.writes and record.get("readOnly"):
        return False
    who = record.get("userIdentity") or {}
    names = (who.get("userName"), who.get("arn"), who.get("accessKeyId"), who.get("type"))
    return not criteria.user or criteria.user in names


class Verdict(msgspec.Struct, frozen=True):
    """The result of a verification.

    :param count: the number of intact records, counted from the start.
    :param digest: the digest of the last intact record.
    :param fault: what is wrong with the record after it; empty if the chain is intact.
    :param expected: whether the expected anchor is among the intact records.
    """

    count: int
    digest: bytes
    fault: str
    expected: bool

    @property
    def anchor(self) -> str:
        """The number and digest of the last intact record: store it elsewhere, and pass it as `expect` later."""
        return f"{self.count}:{self.digest.hex()}"


def verify(store: Store, expect: str = "") -> Verdict:
    """Verify the chain from its first record to its last.

    :param expect: an anchor, or a digest in hexadecimal, that the log once had. Without one, a log whose last records
        were removed looks intact.
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

    return verify_rows(rows(), expect)


def verify_rows(rows: Iterable[AuditRow], expect: str = "") -> Verdict:
    """Like `verify`, for the rows of a log from its first."""
    head: AuditRow | None = None
    found = _is_expected(head, expect)
    for row in rows:
        expected_row = following(head, _bytes(row.record))
        if row.number != expected_row.number:
            fault = f"record {expected_row.number} is missing: record {row.number} follows"
            return Verdict(expected_row.number - 1, _digest_of(head), fault, found)
        if row != expected_row:
            fault = f"record {row.number} was altered, or a record before it is missing"
            return Verdict(expected_row.number - 1, _digest_of(head), fault, found)
        head = row
        found = found or _is_expected(head, expect)
    return Verdict(head.number if head else 0, _digest_of(head), "", found)


def _digest_of(head: AuditRow | None) -> bytes:
    return START if head is None else head.digest


def _is_expected(head: AuditRow | None, expect: str) -> bool:
    number, colon, digest = expect.rpartition(":")
    head_number, head_digest = head.number if head else 0, _digest_of(head).hex()
    return head_digest == digest.lower() and (not colon or str(head_number) == number)


def exported(lines: Iterable[bytes]) -> Iterator[AuditRow]:
    """The rows of a whole log that was exported as lines. Their digests are computed from the lines themselves, so only
    an expected digest can show whether they were altered."""
    digest = START
    for number, line in enumerate(lines, start=1):
        record = line.rstrip(b"\r\n")
        digest = hashlib.sha256(digest + record).digest()
        yield AuditRow(number, record, digest)
