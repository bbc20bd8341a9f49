"""Key usage: how often and until when each key's signatures are used, totaled over all edges, restarts, and control
planes.

An edge reports what it has counted since its process started (`fleet/key_counters.py`). The control plane adds what a
run has counted since the previous report, and stores that position in the same transaction. So nothing is counted
twice, whichever process restarts, and the last report of an edge that has exited is still added. Only what a killed
edge had not yet reported is lost: about one second.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec
import sqlalchemy as sa

from keyfront.cloudfront.key_usage import Counted, KeyUse, KeyUses
from keyfront.control.store.schema import counter as _counter
from keyfront.control.store.schema import key_end as _end
from keyfront.control.store.schema import key_hour as _hour
from keyfront.control.store.schema import key_run as _run
from keyfront.control.store.schema import key_use as _use
from keyfront.control.store.store import Store
from keyfront.control.store.transaction import Transaction
from keyfront.fleet.feed import Report
from keyfront.fleet.key_counters import ExpiryStats, KeyCounts
from keyfront.signing.policy import MAX_EPOCH

HOUR = 3600
DAY_HOURS = 24
RUN_RETENTION = 40 * 86_400.0
"""Seconds for which the position of a run is stored: longer than a feed keeps the last report of an exited edge."""
KEY_RETENTION = 400 * 86_400.0
"""Seconds after its last use for which a key's usage is stored."""
MAX_ROWS = 20_000
MAX_NAME = 128
"""Maximum number of rows in one report, and of characters in a name; no genuine edge exceeds either."""


class Reports(Protocol):
    """The part of a feed that the collector uses; see `fleet/file_feed.py`."""

    def last_reports(self) -> list[Report]: ...

    def ended(self) -> list[tuple[Path, Report]]: ...

    def forget(self, ended: Path) -> None: ...


class RunPosition(msgspec.Struct, frozen=True):
    """How far a run has been counted: its counters in the last report."""

    keys: list[tuple[str, str, str, int]]


_position_decoder = msgspec.json.Decoder(RunPosition)


class KeyUsageCollector:
    """Adds up the reports of the edges of these feeds. Safe to use from several threads.

    :param before_forgetting: called with the time before reports of exited edges are deleted, for others that add them
        up.
    """

    def __init__(
        self, store: Store, *feeds: Reports, before_forgetting: Callable[[float], object] = lambda _: None
    ) -> None:
        self._before_forgetting = before_forgetting
        self._store = store
        self._feeds = feeds
        self._lock = threading.Lock()
        self._known: dict[str, KeyCounts] = {}

    def gather(self, now: float) -> None:
        """Add what has been counted since the last call. Writes only if there is something new.

        :param now: epoch seconds.
        :raises ApiError: ServiceUnavailable if the store does not respond. Nothing is lost then.
        """
        with self._lock:
            found: dict[str, tuple[KeyCounts, float]] = {}
            ended: list[tuple[Reports, Path]] = []
            for feed in self._feeds:
                for report in feed.last_reports():
                    self._read(report, now, found)
                for path, report in feed.ended():
                    self._read(report, now, found)
                    ended.append((feed, path))
            changed = {run: each for run, each in found.items() if self._known.get(run) != each[0]}
            if changed:
                with self._store.write_relaxed() as transaction:
                    add(transaction, changed, now)
            self._known = {run: counts for run, (counts, _) in found.items()}
            if ended:
                self._before_forgetting(now)
            for feed, path in ended:
                feed.forget(path)

    @staticmethod
    def _read(report: Report, now: float, found: dict[str, tuple[KeyCounts, float]]) -> None:
        try:
            counts = msgspec.convert(report.counters, KeyCounts)
        except msgspec.ValidationError:
            return  # from another version of Keyfront
        if counts.run and (counts.keys or counts.ends) and _plausible(counts):
            found[counts.run] = (counts, report.at if now - RUN_RETENTION < report.at <= now else now)


def _plausible(counts: KeyCounts) -> bool:
    """True if the counts can be stored. Reports from other regions come through folders that others can write to; a bad
    report must not prevent good ones from being added."""
    texts = [
        counts.run,
        *(text for *name, _ in counts.keys for text in name),
        *(id_ for id_, *_ in counts.ends),
    ]
    times = [time for _, latest, longest, until in counts.ends for time in (latest, longest, until)]
    return (
        len(counts.keys) <= MAX_ROWS
        and len(counts.ends) <= MAX_ROWS
        and all(len(text) <= MAX_NAME and text.isascii() and text.isprintable() for text in texts)
        and all(0 <= n < 1 << 53 for *_, n in counts.keys)
        and all(0 <= time <= MAX_EPOCH for time in times)
    )


def add(transaction: Transaction, runs: Mapping[str, tuple[KeyCounts, float]], now: float) -> None:
    """Add what these runs have counted beyond their stored positions.

    :param runs: for each run, its counts and when it reported them (epoch seconds).
    :param now: epoch seconds.
    """
    connection = transaction.connection
    # One writer at a time, because each must see what others have added. SQLite guarantees this anyway.
    since = connection.execute(
        sa.select(_counter.c.value).where(_counter.c.name == "key_use").with_for_update()
    ).scalar_one()
    if not since:
        connection.execute(
            sa.update(_counter).where(_counter.c.name == "key_use").values(value=int(now * 1000))
        )
    before = {
        run: {tuple(name): n for *name, n in _position_decoder.decode(counted).keys}
        for run, counted in connection.execute(
            sa.select(_run.c.run, _run.c.counted).where(_run.c.run.in_(list(runs)))
        )
    }
    requests: defaultdict[tuple[str, str, str], int] = defaultdict(int)
    moments: defaultdict[tuple[str, str, str], list[float]] = defaultdict(list)
    by_hour: defaultdict[tuple[int, str], int] = defaultdict(int)
    for run, (counts, at) in runs.items():
        known = before.get(run, {})
        for *name, n in counts.keys:
            key = (name[0], name[1], name[2])
            more = n - known.get(key, 0)
            if more > 0:
                requests[key] += more
                moments[key].append(at)
                by_hour[int(at) // HOUR, key[0]] += more
        row = {"seen": now, "counted": msgspec.json.encode(RunPosition(counts.keys))}
        if run in before:
            connection.execute(sa.update(_run).where(_run.c.run == run).values(**row))
        else:
            connection.execute(sa.insert(_run).values(run=run, **row))
    for key, more in requests.items():
        _count(connection, key, more, min(moments[key]), max(moments[key]))
    for (hour, id_), more in by_hour.items():
        same = (_hour.c.hour == hour, _hour.c.key_pair_id == id_)
        done = connection.execute(
            sa.update(_hour).where(*same).values(requests=_hour.c.requests + more)
        ).rowcount
        if not done:
            connection.execute(sa.insert(_hour).values(hour=hour, key_pair_id=id_, requests=more))
    _extend(connection, (counts for counts, _ in runs.values()), now)
    connection.execute(sa.delete(_hour).where(_hour.c.hour < int(now) // HOUR - DAY_HOURS))
    connection.execute(sa.delete(_run).where(_run.c.seen < now - RUN_RETENTION))
    connection.execute(sa.delete(_use).where(_use.c.last_seen < now - KEY_RETENTION))
    connection.execute(sa.delete(_end).where(_end.c.latest < now - KEY_RETENTION))


def _count(
    connection: sa.Connection, key: tuple[str, str, str], more: int, first: float, last: float
) -> None:
    same = (_use.c.key_pair_id == key[0], _use.c.hash == key[1], _use.c.distribution == key[2])
    found = connection.execute(sa.select(_use).where(*same)).one_or_none()
    if found is None:
        row = {"key_pair_id": key[0], "hash": key[1], "distribution": key[2]}
        connection.execute(sa.insert(_use).values(**row, requests=more, first_seen=first, last_seen=last))
    else:
        row_ = {"first_seen": min(found.first_seen, first), "last_seen": max(found.last_seen, last)}
        connection.execute(sa.update(_use).where(*same).values(**row_, requests=found.requests + more))


def _extend(connection: sa.Connection, counted: Iterable[KeyCounts], now: float) -> None:
    """Store when the signatures in use expire."""
    changed: dict[str, ExpiryStats] = {}
    for counts in counted:
        for id_, latest, longest, until in counts.ends:
            known = changed.get(id_)
            if known is None:
                changed[id_] = ExpiryStats(latest, longest, until)
            else:
                known.add(latest, longest, until, now)
    for id_, ends in changed.items():
        found = connection.execute(sa.select(_end).where(_end.c.key_pair_id == id_)).one_or_none()
        if found is None:
            connection.execute(sa.insert(_end).values(key_pair_id=id_, **_columns(ends)))
            continue
        stats = ExpiryStats(found.latest, found.longest, found.until)
        if stats.add(ends.latest, ends.longest, ends.until, now):
            connection.execute(sa.update(_end).where(_end.c.key_pair_id == id_).values(**_columns(stats)))


def _columns(ends: ExpiryStats) -> dict[str, Any]:
    return {"latest": ends.latest, "longest": ends.longest, "until": ends.until}


def uses(transaction: Transaction, now: float) -> KeyUses:
    """The usage of all keys, in order of id."""
    connection = transaction.connection
    since = connection.execute(sa.select(_counter.c.value).where(_counter.c.name == "key_use")).scalar_one()
    rows: defaultdict[str, list[sa.Row[Any]]] = defaultdict(list)
    for row in connection.execute(sa.select(_use).order_by(_use.c.key_pair_id)):
        rows[row.key_pair_id].append(row)
    lately: dict[str, int] = {
        id_: int(n)
        for id_, n in connection.execute(
            sa.select(_hour.c.key_pair_id, sa.func.sum(_hour.c.requests))
            .where(_hour.c.hour > int(now) // HOUR - DAY_HOURS)
            .group_by(_hour.c.key_pair_id)
        )
    }
    everything = sum(lately.values())
    ends = {row.key_pair_id: row for row in connection.execute(sa.select(_end))}
    items = []
    for id_, parts in rows.items():
        end = ends.get(id_)
        good = end is not None and end.until > now
        items.append(
            KeyUse(
                key_pair_id=id_,
                first_seen=min(part.first_seen for part in parts),
                last_seen=max(part.last_seen for part in parts),
                requests=sum(part.requests for part in parts),
                requests_last_day=lately.get(id_, 0),
                share=lately.get(id_, 0) / everything if everything else 0.0,
                hashes=_by(parts, "hash"),
                distributions=_by(parts, "distribution"),
                signatures_end=float(end.latest) if end is not None else 0.0,
                longest_lifetime=end.longest if end is not None and good else 0.0,
                longest_ends=float(end.until) if end is not None and good else 0.0,
            )
        )
    return KeyUses(now, since / 1000, tuple(items))


def _by(parts: Iterable[sa.Row[Any]], column: str) -> dict[str, Counted]:
    found: dict[str, Counted] = {}
    for part in parts:
        name = getattr(part, column)
        before = found.get(name, Counted(0, 0.0))
        found[name] = Counted(before.requests + part.requests, max(before.last_seen, part.last_seen))
    return found
