"""Key warnings in the log and in the metrics of a control plane: each once, and again when it becomes more severe, or
after a day."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from keyfront.control.keys.usage import KeyUsageCollector
from keyfront.control.keys.watch import FRESH, KeyMetrics, KeyWatch
from keyfront.custody.key_record import DAY, Entry, KeyGroupRecord, RotationPolicy, Stage, load, save
from keyfront.custody.schemes import open_records
from keyfront.fleet.key_counters import KeyCounts
from tests.control.harness import Harness


def watched(harness: Harness, place: str = "") -> KeyWatch:
    return KeyWatch(harness.store, open_records(place) if place else None, {})


def rotated(harness: Harness, place: str, **terms: object) -> KeyGroupRecord:
    """A group of one key that has been signing for a day, under rotation."""
    key = harness.key("films-1")
    group = harness.group(key, name="films")
    records = open_records(place)
    entry = Entry(
        f"{place}films-1",
        Stage.SIGNING,
        harness.now - DAY,
        key,
        published=harness.now - DAY,
        signing=harness.now - DAY,
    )
    record = KeyGroupRecord("films", group, RotationPolicy(place, **terms), (entry,))  # type: ignore[arg-type]
    return save(records, record, None, now=harness.now).record


def test_a_warning_is_told_once_a_day(
    harness: Harness, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = f"file:{tmp_path}/custody/"
    rotated(harness, place, every="", application="player")
    watch = watched(harness, place)
    key_lost = [f"(key-lost): films-1 ({harness.call('ListPublicKeys')['PublicKeyList']['Items'][0]['Id']})"]

    def notified(now: float) -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            watch.check(now)
        return [line for line in caplog.messages if "key-lost" in line or "key-ends" in line]

    first = notified(harness.now)
    assert len(first) == 1
    assert key_lost[0] in first[0]
    assert first[0].startswith("critical ")
    assert notified(harness.now + 60) == []
    assert len(notified(harness.now + DAY)) == 1
    near = harness.now + 365 * DAY - 31 * DAY
    assert len(notified(near)) == 2
    assert notified(near + 60) == []
    # A note is not logged; a month before the date it is a warning, and again a week before.
    assert [len(notified(near + days * DAY)) for days in (0.5, 2, 23.5)] == [0, 2, 2]


def test_who_does_not_lead_says_nothing(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    leads = [False]
    harness.group(harness.key("one"))
    watch = KeyWatch(harness.store, None, {}, lambda: leads[0])
    with caplog.at_level(logging.WARNING):
        watch.check(harness.now)
    assert caplog.messages == []


def test_metrics(harness: Harness, tmp_path: Path) -> None:
    place = f"file:{tmp_path}/custody/"
    record = rotated(harness, place, every="", application="player")
    key = record.entries[0].key_pair_id
    import time

    now = time.time()
    harness.feed.report(
        "edge-1", 1, at=now, counters=KeyCounts("a", [(key, "SHA1", "E1", 4)], [(key, 9, 9.0, 9)])
    )
    KeyUsageCollector(harness.store, harness.feed).gather(now)
    registry = CollectorRegistry()
    registry.register(KeyMetrics(harness.store, watched(harness, place)))
    lines = generate_latest(registry).decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert values[f'keyfront_key_requests_total{{hash_algorithm="SHA1",key_pair_id="{key}"}}'] == "4.0"
    assert values[f'keyfront_key_share{{key_pair_id="{key}"}}'] == "1.0"
    assert float(values[f'keyfront_key_last_seen_timestamp_seconds{{key_pair_id="{key}"}}']) == pytest.approx(
        now
    )
    ends = f'keyfront_key_expiry_timestamp_seconds{{key_pair_id="{key}",name="films-1",stage="SIGNING"}}'
    assert float(values[ends]) == pytest.approx(harness.now + 364 * DAY)
    sha1 = f'{{code="sha1-in-use",kind="key",name="films-1",severity="note",subject="{key}"}}'
    assert values[f"keyfront_key_warning{sha1}"] == "1.0"


def test_a_record_that_cannot_be_read_is_told_once(
    harness: Harness, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = f"file:{tmp_path}/custody/"
    rotated(harness, place)
    records = open_records(place)
    records.write("broken", b"{", None)
    watch = watched(harness, place)
    with caplog.at_level(logging.ERROR):
        for number in range(3):
            found = watch.findings(harness.now + number * FRESH)
    assert len([line for line in caplog.messages if "broken" in line]) == 1
    assert "group-not-rotated" not in {each.code for each in found}
    loaded = load(records, "films")
    assert loaded is not None


def test_no_place_of_records(harness: Harness) -> None:
    harness.group(harness.key("one"))
    assert {each.code for each in watched(harness).findings(harness.now)} >= {"group-with-one-key"}
