"""Metrics by minute in the store: what edges counted, added up over edges, restarts, and control planes.

As with key usage (`control/keys/usage.py`), each control plane adds what a run of an edge has counted since its
previous report, and stores that position in the same transaction. So nothing is counted twice, whichever process
restarts, and no count falls when an edge vanishes.

A run that was not seen for several minutes, because no control plane was running, is added in equal shares to these
minutes, an hour at most. One that no control plane has ever seen counts from zero, unless nothing at all was seen for
an hour: then its counts say nothing about this minute, and it only gets a position.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
import sqlalchemy as sa

from keyfront.control.store.queries.base import BATCH
from keyfront.control.store.schema import counter as _counter
from keyfront.control.store.schema import metric_minute as _minute
from keyfront.control.store.schema import metric_run as _run
from keyfront.control.store.transaction import Transaction
from keyfront.monitoring.metric_series import (
    MINUTE,
    NOTHING,
    WHOLE,
    Counts,
    Gauge,
    MinuteData,
    added,
    is_empty,
    merged,
    share,
    since,
    total_of,
)

RETENTION = 15 * 86_400
"""Seconds for which minutes are stored: as long as CloudWatch stores them."""
MOST_ROWS = 1_500_000
"""Minutes of all subjects that are stored; the oldest are dropped. A thousand distributions that always have traffic
reach it in a day."""
RUN_RETENTION = 40 * 86_400.0
"""Seconds for which the position of a run is stored; see `usage.RUN_RETENTION`."""
LONGEST_GAP = 60
"""Minutes over which what was counted meanwhile is spread."""

_SAMPLED = ""
"""The run whose position is the last minute that any control plane sampled. A restored backup has no positions, so it
begins like a new store."""

_encoder = msgspec.msgpack.Encoder()
_minutes = msgspec.msgpack.Decoder(MinuteData)
_positions = msgspec.msgpack.Decoder(dict[str, Counts])


def minute_of(at: float) -> int:
    """The minute that contains the moment: its first second."""
    return int(at // MINUTE) * MINUTE


def add(
    transaction: Transaction,
    runs: Mapping[str, Mapping[str, Counts]],
    gauges: Mapping[str, Gauge],
    minute: int,
) -> None:
    """Add to the minutes up to `minute` what these runs have counted beyond their stored positions, and the gauges.

    :param runs: for each run, its counters by distribution.
    :param minute: the minute that ends, or is in progress; see `minute_of`.
    """
    connection = transaction.connection
    # One writer at a time, because each must see what others have added. SQLite guarantees this anyway.
    connection.execute(sa.select(_counter.c.value).where(_counter.c.name == "metrics").with_for_update())
    before = _stored_positions(connection, (_SAMPLED, *runs))
    last = before.pop(_SAMPLED, (0.0, {}))[0]
    known = minute - last <= LONGEST_GAP * MINUTE
    found: dict[int, dict[str, Counts]] = {}
    idle: list[str] = []
    for run, counts in runs.items():
        seen, old = before.get(run, (minute, {} if known else counts))
        more = {
            name: difference
            for name, each in counts.items()
            if not is_empty(difference := since(each, old.get(name, NOTHING)))
        }
        if not more and run in before:
            idle.append(run)
            continue
        minutes = range(
            max(min(int(seen) + MINUTE, minute), minute - (LONGEST_GAP - 1) * MINUTE), minute + 1, MINUTE
        )
        for part, at in enumerate(minutes):
            there = found.setdefault(at, {})
            for name, each in more.items():
                there[name] = added(there.get(name, NOTHING), share(each, part, len(minutes)))
        _set_position(connection, run, minute, counts, new=run not in before)
    if minute > last:
        _set_position(connection, _SAMPLED, minute, {}, new=not last)
    for start in range(0, len(idle), BATCH):
        some = _run.c.run.in_(idle[start : start + BATCH])
        connection.execute(sa.update(_run).where(some).values(seen=float(minute)))
    found.setdefault(minute, {})
    for at, there in sorted(found.items()):
        rows = {name: MinuteData(counts) for name, counts in there.items() if name and not is_empty(counts)}
        if there or gauges:
            rows[WHOLE] = MinuteData(total_of(there), dict(gauges) if at == minute else {})
        _store(connection, at, rows)


def _stored_positions(
    connection: sa.Connection, runs: Iterable[str]
) -> dict[str, tuple[float, dict[str, Counts]]]:
    names = list(runs)
    found: dict[str, tuple[float, dict[str, Counts]]] = {}
    for start in range(0, len(names), BATCH):
        query = sa.select(_run).where(_run.c.run.in_(names[start : start + BATCH]))
        for row in connection.execute(query):
            found[row.run] = (row.seen, _positions.decode(row.counted))
    return found


def _set_position(
    connection: sa.Connection, run: str, minute: int, counts: Mapping[str, Counts], *, new: bool
) -> None:
    row = {"seen": float(minute), "counted": _encoder.encode(counts)}
    if new:
        connection.execute(sa.insert(_run).values(run=run, **row))
    else:
        connection.execute(sa.update(_run).where(_run.c.run == run).values(**row))


def _store(connection: sa.Connection, at: int, rows: Mapping[str, MinuteData]) -> None:
    there = {
        row.subject: _minutes.decode(row.data)
        for row in connection.execute(sa.select(_minute.c.subject, _minute.c.data).where(_minute.c.at == at))
        if row.subject in rows
    }
    new = [
        {"at": at, "subject": subject, "data": _encoder.encode(data)}
        for subject, data in rows.items()
        if subject not in there
    ]
    old = [
        {"name": subject, "new": _encoder.encode(merged(data, rows[subject]))}
        for subject, data in there.items()
    ]
    if new:
        connection.execute(sa.insert(_minute), new)
    if old:
        connection.execute(
            sa.update(_minute)
            .where(_minute.c.at == at, _minute.c.subject == sa.bindparam("name"))
            .values(data=sa.bindparam("new")),
            old,
        )


def prune(transaction: Transaction, now: float) -> None:
    """Drop minutes and positions that are too old, and the oldest minutes if there are too many.

    :param now: epoch seconds.
    """
    connection = transaction.connection
    connection.execute(sa.delete(_minute).where(_minute.c.at < now - RETENTION))
    connection.execute(sa.delete(_run).where(_run.c.seen < now - RUN_RETENTION))
    excess = connection.execute(sa.select(sa.func.count()).select_from(_minute)).scalar_one() - MOST_ROWS
    if excess > 0:
        oldest = connection.execute(
            sa.select(_minute.c.at).order_by(_minute.c.at).offset(excess).limit(1)
        ).scalar_one()
        connection.execute(sa.delete(_minute).where(_minute.c.at <= oldest))


def read(transaction: Transaction, subject: str, start: int, end: int) -> dict[int, MinuteData]:
    """The stored minutes of a subject from `start` up to, and without, `end`, by their first second."""
    wanted = list(range(minute_of(start), end, MINUTE))
    found: dict[int, MinuteData] = {}
    for first in range(0, len(wanted), BATCH):
        # Each minute is looked up by the primary key, which begins with the minute so that writing is cheap.
        query = sa.select(_minute.c.at, _minute.c.data).where(
            _minute.c.at.in_(wanted[first : first + BATCH]), _minute.c.subject == subject
        )
        found |= {row.at: _minutes.decode(row.data) for row in transaction.connection.execute(query)}
    return dict(sorted(found.items()))


class Recent:
    """The minutes of all subjects in a range, read with one statement, for many questions about the same time.

    :param start: epoch seconds, as is `end`.
    """

    def __init__(self, transaction: Transaction, start: int, end: int) -> None:
        self._transaction = transaction
        self._start = minute_of(start)
        self._end = end
        self._rows: dict[str, list[tuple[int, bytes]]] = {}
        if start < end:
            query = (
                sa.select(_minute.c.subject, _minute.c.at, _minute.c.data)
                .where(_minute.c.at >= self._start, _minute.c.at < end)
                .order_by(_minute.c.at)
            )
            for subject, at, data in transaction.connection.execute(query):
                self._rows.setdefault(subject, []).append((at, data))

    def read(self, subject: str, start: int, end: int) -> dict[int, MinuteData]:
        """Like `read` of the module; what is outside of the range is read from the store."""
        if start < self._start or end > self._end:
            return read(self._transaction, subject, start, end)
        first = minute_of(start)
        return {at: _minutes.decode(data) for at, data in self._rows.get(subject, ()) if first <= at < end}


def subjects(transaction: Transaction, start: int) -> list[str]:
    """The subjects that have a minute since `start` (epoch seconds), in order."""
    query = sa.select(_minute.c.subject).distinct().where(_minute.c.at >= start).order_by(_minute.c.subject)
    return list(transaction.connection.scalars(query))
