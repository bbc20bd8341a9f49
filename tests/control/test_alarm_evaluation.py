"""Several control planes evaluate alarms on one store: one of them at a time, whoever comes and goes, and no transition
and no action is lost or repeated."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from keyfront.control.alarms import history, minutes
from keyfront.control.alarms.definition import KIND, definition
from keyfront.control.alarms.evaluator import MANY
from keyfront.control.alarms.plane import Alarms, AlarmSettings
from keyfront.control.alarms.sampler import LAG
from keyfront.control.alarms.transitions import MOST_PENDING, StateChange, change, initial_state, pending
from keyfront.control.audit.search import AuditQuery, search
from keyfront.control.audit.writer import AuditWriter
from keyfront.control.store.rows import Row
from keyfront.control.store.store import Store
from keyfront.lifecycle.alarm_actions import AlarmAction
from keyfront.monitoring.metric_series import counts_of
from tests.control.harness import ACCOUNT, BOTH, where

STORES = BOTH
MINUTE = 1_800_000_000
RNG = random.Random(5)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(where(tmp_path))
    yield made
    made.close()


Planes = Callable[..., Alarms]


@pytest.fixture
def planes(store: Store, tmp_path: Path) -> Iterator[Planes]:
    """Control planes on the store. The action `note` appends the new state to a file."""
    program = tmp_path / "note"
    said = "$KEYFRONT_ALARM_NAME $KEYFRONT_NEW_STATE $KEYFRONT_DELIVERY"
    program.write_text(f'#!/bin/sh\necho "{said}" >> {tmp_path}/notes\n')
    program.chmod(0o700)
    made: list[Alarms] = []

    def plane(*actions: AlarmAction) -> Alarms:
        known = actions or (AlarmAction("note", command=(str(program),)),)
        settings = AlarmSettings(actions=known, environment={"PATH": "/usr/bin:/bin"})
        made.append(Alarms(store, ACCOUNT, settings, AuditWriter(store, RNG), RNG, []))
        return made[-1]

    yield plane
    for each in made:
        each.stop()


def notes(tmp_path: Path) -> list[list[str]]:
    file = tmp_path / "notes"
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def until(true: Callable[[], object]) -> None:
    ends = time.monotonic() + 60
    while not true():
        assert time.monotonic() < ends, "it did not become true in time"
        time.sleep(0.02)


def put(store: Store, name: str, **others: Any) -> None:
    given: dict[str, Any] = {
        "AlarmName": name,
        "Namespace": "Keyfront",
        "MetricName": "Requests",
        "Statistic": "Sum",
        "Period": 60,
        "EvaluationPeriods": 1,
        "Threshold": 5.0,
        "ComparisonOperator": "GreaterThanThreshold",
        "AlarmActions": ["arn:aws:sns:us-east-1:1:note"],
        "OKActions": ["arn:aws:sns:us-east-1:1:note"],
    }
    with store.write() as transaction:
        config = definition(given | others)
        transaction.insert(Row(KIND, name, "E1", 0.0, 0.0, config, initial_state(MINUTE), 0))


def alarm(store: Store, name: str) -> Row:
    with store.read() as transaction:
        row = transaction.get(KIND, name)
    assert row is not None
    return row


def count(store: Store, minute: int, number: int) -> None:
    """A run that counts this many requests in a minute, and in no other."""
    with store.write_relaxed() as transaction:
        minutes.add(transaction, {"": {}} if minute < 0 else {}, {}, MINUTE + minute * 60)
        counted = counts_of([("requests", ("E1", "200", "Hit", ""), (number,))])
        minutes.add(transaction, {f"run {minute}": {}}, {}, MINUTE + minute * 60)
        minutes.add(transaction, {f"run {minute}": counted}, {}, MINUTE + minute * 60)


def after(minute: int) -> float:
    return MINUTE + (minute + 1) * 60 + LAG + 1


def recorded(store: Store, name: str, type_: str = "StateUpdate") -> list[str]:
    with store.read() as transaction:
        items = history.search(transaction, history.Search(alarm=name, type=type_, newest_first=False))
    return [item.summary for item in items]


def test_a_row_that_was_read_before_its_action_ended_carries_nothing_out(
    store: Store, planes: Planes, tmp_path: Path
) -> None:
    plane = planes()
    assert plane.lease.renew()
    put(store, "busy")
    count(store, 0, 9)
    plane.evaluator.evaluate(after(0))
    with store.read() as transaction:
        waiting = transaction.get(KIND, "busy")
    until(lambda: not pending(alarm(store, "busy")))
    done = plane.runner.done.copy()
    for _ in range(3):
        if waiting is not None:
            plane.runner.submit(waiting, after(0))
    plane.stop()
    assert (len(notes(tmp_path)), plane.runner.done) == (1, done)


def test_an_alarm_rings_once_whoever_evaluates(store: Store, planes: Planes, tmp_path: Path) -> None:
    one, two = planes(), planes()
    assert one.lease.renew()
    assert two.lease.renew() is not store.shared  # the only control plane on a file always leads
    put(store, "busy")
    for minute, number in enumerate((1, 9, 1)):
        count(store, minute, number)
        for plane in (one, two, one):
            if plane is one or store.shared:
                plane.evaluator.evaluate(after(minute))
    assert recorded(store, "busy") == [
        "Alarm updated from INSUFFICIENT_DATA to OK",
        "Alarm updated from OK to ALARM",
        "Alarm updated from ALARM to OK",
    ]
    until(lambda: len(notes(tmp_path)) == 3)
    assert sorted(state for _, state, _ in notes(tmp_path)) == ["ALARM", "OK", "OK"]
    until(lambda: not pending(alarm(store, "busy")))
    assert len(recorded(store, "busy", "Action")) == 3
    audited = [each.record for each in search(store, AuditQuery(event="AlarmStateChange"))]
    assert [each["requestParameters"]["newState"] for each in audited] == ["OK", "ALARM", "OK"]


def test_another_control_plane_carries_out_what_one_left(
    store: Store, planes: Planes, tmp_path: Path
) -> None:
    hanging = tmp_path / "hang"
    hanging.write_text("#!/bin/sh\nexec sleep 1000\n")
    hanging.chmod(0o700)
    first = planes(AlarmAction("note", command=(str(hanging),)))
    first.lease.renew()
    put(store, "busy")
    count(store, 0, 9)
    first.evaluator.evaluate(after(0))
    assert alarm(store, "busy").attributes["StateValue"] == "ALARM"
    first.stop()  # while the action runs: it is not recorded, and keeps waiting
    (left,) = pending(alarm(store, "busy"))
    second = planes()
    assert second.lease.renew()
    second.evaluator.evaluate(after(0) + 10)
    until(lambda: notes(tmp_path))
    assert notes(tmp_path) == [["busy", "ALARM", left.id]]
    until(lambda: not pending(alarm(store, "busy")))
    assert recorded(store, "busy", "Action") == ["Successfully executed action arn:aws:sns:us-east-1:1:note"]


def test_an_action_that_waited_for_days_is_not_carried_out(
    store: Store, planes: Planes, tmp_path: Path
) -> None:
    """As after a backup of last week is restored."""
    put(store, "busy")
    with store.write() as transaction:
        row = transaction.get(KIND, "busy")
        assert row is not None
        change(transaction, row, StateChange("ALARM", "long ago", None, after(0)), RNG)
    plane = planes()
    plane.lease.renew()
    plane.evaluator.submit_waiting(after(0) + 3 * 86_400)
    until(lambda: not pending(alarm(store, "busy")))
    assert notes(tmp_path) == []
    assert recorded(store, "busy", "Action") == ["Failed to execute action arn:aws:sns:us-east-1:1:note"]
    assert plane.ringing() == [("busy", "long ago")]


def test_a_change_during_the_evaluation_wins(store: Store, planes: Planes) -> None:
    plane = planes()
    plane.lease.renew()
    put(store, "busy")
    count(store, 0, 9)
    row = alarm(store, "busy")
    with store.write() as transaction:
        transaction.delete(KIND, "busy")
    # The evaluator has read the row before it was deleted.
    with store.write() as transaction:
        verdicts = plane.evaluator._transition(transaction, row, _ringing(), after(0))
    assert verdicts == []
    assert recorded(store, "busy") == []
    # An action that ends meanwhile is no such change.
    put(store, "other")
    row = alarm(store, "other")
    with store.write() as transaction:
        transaction.update(msgspec.structs.replace(row, attributes={**row.attributes, "Pending": [], "x": 1}))
        (changed,) = plane.evaluator._transition(transaction, row, _ringing(), after(0))
    assert changed.attributes["x"] == 1
    assert recorded(store, "other") == ["Alarm updated from INSUFFICIENT_DATA to ALARM"]


def _ringing() -> Any:
    from keyfront.monitoring.alarms import Verdict

    return Verdict("ALARM", "because", {})


def test_many_alarms_are_evaluated_like_few(store: Store, planes: Planes) -> None:
    """From `MANY` alarms on, the minutes are read at once, whatever the periods. The range of a period of 30 s contains
    the beginning of the minute, that of 10 s does not."""
    plane = planes()
    plane.lease.renew()
    spans = [60, 300, 3600, 7200, 10, 30]
    names = [f"a{number:03}" for number in range(MANY + 4)]
    for number, name in enumerate(names):
        put(store, name, Period=spans[number % len(spans)], AlarmActions=[], OKActions=[])
    for minute in range(4):
        count(store, minute, 3)
    plane.evaluator.evaluate(after(3))
    states = {name: alarm(store, name).attributes["StateValue"] for name in names}
    expected = {
        60: "OK",
        300: "ALARM",
        3600: "ALARM",
        7200: "ALARM",
        10: "INSUFFICIENT_DATA",
        30: "OK",
    }
    assert states == {name: expected[spans[number % len(spans)]] for number, name in enumerate(names)}


def test_what_waits_is_bounded(store: Store) -> None:
    put(store, "busy")
    with store.write() as transaction:
        row = transaction.get(KIND, "busy")
        for number in range(MOST_PENDING + 5):
            assert row is not None
            state = "ALARM" if number % 2 == 0 else "OK"
            row = change(transaction, row, StateChange(state, "r", None, MINUTE + number), RNG)  # type: ignore[arg-type]
        assert row is not None
        assert len(pending(row)) == MOST_PENDING
    assert len([each for each in recorded(store, "busy", "Action") if each.startswith("Failed")]) == 5


def test_the_history_is_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MOST_ITEMS", 10)
    with store.write() as transaction:
        for number in range(25):
            history.append(transaction, "a", MINUTE + number, "StateUpdate", str(number), {})
    assert recorded(store, "a") == [str(number) for number in range(15, 25)]
    with store.write() as transaction:
        history.prune(transaction, MINUTE + 24 + history.RETENTION + 1)
        history.append(transaction, "a", MINUTE + 30, "StateUpdate", "later", {})
        numbers = [item.number for item in history.search(transaction, history.Search(alarm="a"))]
    assert numbers == [26, 25]


def test_two_threads_never_carry_out_the_same_action(store: Store, planes: Planes, tmp_path: Path) -> None:
    plane = planes()
    plane.lease.renew()
    put(store, "busy")
    count(store, 0, 9)
    plane.evaluator.evaluate(after(0))
    threads = [threading.Thread(target=plane.evaluator.submit_waiting, args=(after(0),)) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    until(lambda: not pending(alarm(store, "busy")))
    assert len({delivery for *_, delivery in notes(tmp_path)}) == 1
