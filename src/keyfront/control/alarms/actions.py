"""Carrying out the actions of alarms: those that wait in the store (`transitions.py`), by the control plane that leads.

An action that succeeded, or failed in all its attempts, is recorded in the alarm's history and no longer waits. A
control plane that ends in the middle leaves it waiting, and the next leader carries it out; so an action can be carried
out twice, with the same delivery id, but none is lost.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import msgspec

from keyfront.control.alarms import transitions
from keyfront.control.alarms.definition import KIND
from keyfront.control.alarms.notices import notice_of
from keyfront.control.alarms.transitions import PendingAction
from keyfront.control.store.rows import Row
from keyfront.control.store.store import Store
from keyfront.errors import ApiError
from keyfront.lifecycle.alarm_actions import AlarmAction, Notice, action_of, carry_out
from keyfront.lifecycle.outgoing import Outgoing, Undelivered
from keyfront.monitoring.metric_series import Measurement

log = logging.getLogger("keyfront.control")

LONGEST_WAIT = 86_400.0
"""Seconds after which an action that still waits is recorded as failed: after a restored backup, it would report what
happened long ago."""
MOST_RECORDED = 10_000
"""Actions that are known to be recorded, so that a row that was read before is not taken for one that waits."""
AT_ONCE = 4
"""Actions that are carried out at the same time."""


class ActionRunner:
    """Carries out actions in its own threads. Safe to use from several threads.

    `done` counts actions by result: `succeeded`, `failed`, or `unknown` (no action has that name).

    :param actions: the operator's.
    :param environment: the source of commands' variables.
    """

    def __init__(
        self, store: Store, account: str, actions: Iterable[AlarmAction], environment: Mapping[str, str]
    ) -> None:
        self._store = store
        self._account = account
        self._actions = {action.name: action for action in actions}
        self._stopping = threading.Event()
        self._outgoing = Outgoing(environment, self._stopping, user_agent="keyfront-alarms")
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="alarm-action")
        self._lock = threading.Lock()
        self._in_progress: set[str] = set()
        self._recorded: dict[str, None] = {}
        self._failures = 0
        self.done: Counter[str] = Counter()

    def submit(self, row: Row, now: float) -> None:
        """Carry out the actions of an alarm that wait and are not in progress.

        :param now: epoch seconds.
        """
        for action in transitions.pending(row):
            with self._lock:
                if action.id in self._in_progress or action.id in self._recorded or self._stopping.is_set():
                    continue
                self._in_progress.add(action.id)
            self._pool.submit(self._carry_out, row, action, now)

    def stop(self) -> None:
        """Stop soon. What is in progress keeps waiting in the store."""
        self._stopping.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def measurements(self, now: float) -> Iterator[Measurement]:
        """See `MeasurementSource`."""
        with self._lock:
            failures, self._failures = self._failures, 0
        yield Measurement("AlarmActionsFailed", failures)

    def _carry_out(self, row: Row, action: PendingAction, now: float) -> None:
        try:
            known = self._actions.get(action_of(action.arn))
            if now - action.at > LONGEST_WAIT:
                result, error = "failed", "it waited for more than a day"
            elif known is None:
                result = "unknown"
                error = f"no action is named {action_of(action.arn)!r}: add it to hooks.toml"
            else:
                error = self._attempts(known, notice_of(row, action, self._account))
                result = "failed" if error else "succeeded"
            if error and self._stopping.is_set():
                return
            if error:
                log.error("the action %s of the alarm %r failed: %s", action.arn, row.id, error)
            with self._lock:
                self.done[result] += 1
                self._failures += bool(error)
            self._record(row.id, action, error, now)
            with self._lock:
                self._recorded[action.id] = None
                if len(self._recorded) > MOST_RECORDED:
                    del self._recorded[next(iter(self._recorded))]
        except ApiError:
            pass  # it keeps waiting, and is carried out again
        except Exception:
            log.exception("this is a bug in Keyfront")
        finally:
            with self._lock:
                self._in_progress.discard(action.id)

    def _attempts(self, known: AlarmAction, notice: Notice) -> str:
        """Why all attempts failed; empty if one succeeded."""
        pause = 1.0
        for left in range(known.retries, -1, -1):
            try:
                carry_out(known, notice, self._outgoing)
                return ""
            except Undelivered as error:
                if not left or self._stopping.wait(pause):
                    return str(error)
                pause *= 2
        return ""

    def _record(self, name: str, action: PendingAction, error: str, now: float) -> None:
        with self._store.write() as transaction:
            row = transaction.get(KIND, name)
            if row is not None:
                left = [
                    msgspec.to_builtins(each) for each in transitions.pending(row) if each.id != action.id
                ]
                state = {**row.attributes, "Pending": left}
                transaction.update(msgspec.structs.replace(row, attributes=state))
            transitions.record_action(transaction, name, action, error, now)
