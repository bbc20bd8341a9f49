"""Evaluation of all alarms, by the control plane that leads."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterator

import msgspec

from keyfront.control.alarms import history, minutes, queries, transitions
from keyfront.control.alarms.actions import ActionRunner
from keyfront.control.alarms.definition import KIND, metric_of, rule_of
from keyfront.control.alarms.sampler import LAG
from keyfront.control.alarms.transitions import StateChange
from keyfront.control.audit import records as audit
from keyfront.control.call import local_call
from keyfront.control.store.rows import Row
from keyfront.control.store.store import Store
from keyfront.control.store.transaction import Transaction
from keyfront.model.kinds import RandomSource
from keyfront.monitoring.alarms import Verdict, evaluate
from keyfront.monitoring.metric_series import MINUTE

log = logging.getLogger("keyfront.control")

SOURCE = "keyfront"
"""The source of audit records of transitions."""
PAGE = 500
SETTLE = 2.0
"""Seconds between sampling and evaluation if several control planes sample."""
MANY = 20
"""Alarms from which on the minutes of all are read at once."""
AT_ONCE = 1800
"""Seconds before now that are read at once; alarms that look further back read by themselves."""
PRUNE = 3600.0
"""Seconds between two prunings of the history."""


class AlarmEvaluator:
    """Evaluates alarms. Safe to use from several threads.

    :param leads: whether this control plane leads.
    :param rng: the source of ids.

    `lag` is the number of seconds after the end of a minute at which it is evaluated: later than it is sampled if other
    control planes sample it as well.
    """

    def __init__(
        self, store: Store, account: str, leads: Callable[[], bool], runner: ActionRunner, rng: RandomSource
    ) -> None:
        self.lag = LAG + SETTLE if store.shared else LAG
        self._store = store
        self._account = account
        self._leads = leads
        self._runner = runner
        self._rng = rng
        self._lock = threading.Lock()
        self._pruned = 0.0

    def evaluate(self, now: float) -> None:
        """Evaluate every alarm, store and record the transitions, and start the actions that wait.

        The last period of an alarm ends with the minute that was just sampled.

        :param now: epoch seconds.
        :raises ApiError: ServiceUnavailable if the store does not respond.
        """
        if not self._leads():
            return
        with self._lock:
            changed: list[tuple[Row, Verdict]] = []
            waiting: list[Row] = []
            with self._store.read() as transaction:
                rows = list(all_alarms(transaction))
                end = minutes.minute_of(now - self.lag - 0.5) + MINUTE
                recent = _recent(transaction, rows, end)
                for row in rows:
                    verdict = _verdict(recent, row, end, now)
                    if verdict.state != row.attributes["StateValue"]:
                        changed.append((row, verdict))
                    elif row.attributes["Pending"]:
                        waiting.append(row)
            prune = not 0 <= now - self._pruned < PRUNE
            if changed or prune:
                with self._store.write() as transaction:
                    for row, verdict in changed:
                        waiting += self._transition(transaction, row, verdict, now)
                    if prune:
                        history.prune(transaction, now)
                        self._pruned = now
            for row in waiting:
                self._runner.submit(row, now)

    def submit_waiting(self, now: float) -> None:
        """Start the actions that wait, after a change of a state by a call.

        :param now: epoch seconds.
        :raises ApiError: ServiceUnavailable if the store does not respond.
        """
        if not self._leads():
            return
        with self._store.read() as transaction:
            waiting = [row for row in all_alarms(transaction) if row.attributes["Pending"]]
        for row in waiting:
            self._runner.submit(row, now)

    def _transition(self, transaction: Transaction, row: Row, verdict: Verdict, now: float) -> list[Row]:
        """Store a new state, unless the alarm was changed since it was read. Returns its row if actions wait."""
        current = transaction.get(KIND, row.id)
        if current is None or _version(current) != _version(row):
            return []
        data = msgspec.json.encode(verdict.data).decode()
        new = transitions.change(
            transaction, current, StateChange(verdict.state, verdict.reason, data, now), self._rng
        )
        old = row.attributes["StateValue"]
        log.warning("the alarm %r changed from %s to %s: %s", row.id, old, verdict.state, verdict.reason)
        call = local_call(
            "AlarmStateChange",
            {
                "AlarmName": row.id,
                "OldState": old,
                "NewState": verdict.state,
                "Reason": verdict.reason[:1000],
            },
            account=self._account,
            by="keyfront up, alarms",
            request_id=str(uuid.UUID(int=self._rng.getrandbits(128), version=4)),
            now=now,
            source=SOURCE,
        )
        audit.append(transaction, audit.entry(call, {}, self._rng))
        return [new] if new.attributes["Pending"] else []


def _version(row: Row) -> tuple[str, object]:
    """What an evaluation depends on. The actions that wait may change meanwhile."""
    return row.etag, row.attributes["StateValue"]


def all_alarms(transaction: Transaction) -> Iterator[Row]:
    """Every alarm, in order of name."""
    after = ""
    while rows := transaction.page(KIND, after, PAGE):
        yield from rows
        after = rows[-1].id


def _recent(transaction: Transaction, rows: list[Row], end: int) -> minutes.Recent:
    """What most alarms ask for, read at once if there are many of them."""
    spans = (rule.period * rule.range_periods for rule in (rule_of(row.config) for row in rows))
    longest = max((span for span in spans if span <= AT_ONCE), default=0)
    return minutes.Recent(transaction, end - longest if len(rows) >= MANY else end, end)


def _verdict(recent: minutes.Recent, row: Row, end: int, now: float) -> Verdict:
    rule, metric = rule_of(row.config), metric_of(row.config)
    if rule.period < MINUTE:
        end = min(end, int(now) // rule.period * rule.period)
    found = queries.periods(recent, metric, rule.period, rule.range_periods, end)
    return evaluate(rule, found, end, row.attributes["StateValue"], now)
