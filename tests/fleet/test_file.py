"""The feed through files: whole snapshots or none, each delivered once, and what was accepted survives a restart."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from keyfront.errors import SnapshotRefused
from keyfront.fleet.file_feed import FileFeed
from keyfront.model.snapshot import Snapshot, from_bytes
from tests.fleet.snapshots import snapshot

ROOT = Path(__file__).parent.parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
NOW = 1_800_000_000.0


def spoil(folder: Path, data: bytes) -> None:
    """Write `data` in place of the snapshot, without an atomic rename."""
    (folder / "snapshot").write_bytes(data)


def test_what_is_published_is_polled(tmp_path: Path) -> None:
    control, edge = FileFeed(tmp_path), FileFeed(tmp_path)
    assert edge.poll(None) is None
    control.publish(snapshot(1))
    one = edge.poll(None)
    assert one == snapshot(1)
    assert edge.poll(one) is None
    control.publish(snapshot(2))
    two = edge.poll(one)
    assert two == snapshot(2)
    assert edge.poll(two) is None


def test_the_folder_is_created_readable_by_its_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "data"
    feed = FileFeed(folder)
    os.umask(before := os.umask(0))
    os.umask(0)
    try:
        feed.publish(snapshot(1))
        feed.poll(None)
        feed.report("edge-1", 1, at=NOW)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in ("snapshot", "snapshot.accepted", "reports/edge-1.json"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert sorted(path.name for path in folder.iterdir()) == ["reports", "snapshot", "snapshot.accepted"]


def test_a_poll_without_news_opens_nothing(tmp_path: Path) -> None:
    feed = FileFeed(tmp_path)
    feed.publish(snapshot(1))
    one = feed.poll(None)
    (tmp_path / "snapshot").chmod(0)  # a change to the inode that does not change the file's content
    assert feed.poll(one) is None


def test_the_same_snapshot_put_there_again_is_no_news(tmp_path: Path) -> None:
    feed = FileFeed(tmp_path)
    feed.publish(snapshot(1))
    one = feed.poll(None)
    spoil(tmp_path, snapshot(1).to_bytes())
    assert feed.poll(one) is None


def test_only_a_newer_snapshot_can_be_published(tmp_path: Path) -> None:
    feed = FileFeed(tmp_path)
    feed.publish(snapshot(2))
    feed.publish(snapshot(2))  # the same once more: nothing to do
    with pytest.raises(SnapshotRefused, match="not newer"):
        feed.publish(snapshot(2, created=1.0))
    with pytest.raises(SnapshotRefused, match="not newer"):
        feed.publish(snapshot(1))
    assert FileFeed(tmp_path).poll(None) == snapshot(2)


def test_the_number_to_go_on_from(tmp_path: Path) -> None:
    feed = FileFeed(tmp_path)
    assert feed.number() == 0
    feed.publish(snapshot(5))
    assert feed.number() == 5
    feed.poll(None)
    spoil(tmp_path, b"garbage")
    assert feed.number() == 5
    feed.publish(snapshot(6))
    assert feed.number() == 6


@pytest.mark.parametrize("spoilt", [b"", b"garbage", snapshot(3).to_bytes()[:-1], snapshot(1).to_bytes()])
def test_a_refused_snapshot_is_reported_once_and_the_old_one_stays(tmp_path: Path, spoilt: bytes) -> None:
    feed = FileFeed(tmp_path)
    feed.publish(snapshot(2))
    two = feed.poll(None)
    spoil(tmp_path, spoilt)
    with pytest.raises(SnapshotRefused):
        feed.poll(two)
    assert feed.poll(two) is None
    assert feed.poll(two) is None
    (tmp_path / "snapshot").unlink()
    assert feed.poll(two) is None
    feed.publish(snapshot(3))
    assert feed.poll(two) == snapshot(3)


def test_a_file_with_two_faults_is_reported_twice(tmp_path: Path) -> None:
    feed = FileFeed(tmp_path)
    feed.publish(snapshot(2))
    two = feed.poll(None)
    for spoilt in (b"garbage", b"rubbish, and more of it"):
        spoil(tmp_path, spoilt)
        with pytest.raises(SnapshotRefused):
            feed.poll(two)


@pytest.mark.parametrize("spoilt", [b"garbage", snapshot(1).to_bytes(), None])
def test_an_edge_starts_from_what_was_accepted(tmp_path: Path, spoilt: bytes | None) -> None:
    before = FileFeed(tmp_path)
    before.publish(snapshot(2))
    before.poll(None)
    if spoilt is None:
        (tmp_path / "snapshot").unlink()
    else:
        spoil(tmp_path, spoilt)
    feed = FileFeed(tmp_path)
    two = feed.poll(None)
    assert two == snapshot(2)
    if spoilt is not None:
        with pytest.raises(SnapshotRefused):
            feed.poll(two)
    assert feed.poll(two) is None
    feed.publish(snapshot(3))
    assert feed.poll(two) == snapshot(3)


def test_a_restart_brings_back_nothing_older(tmp_path: Path) -> None:
    """An attacker puts an old snapshot back, key included, and waits for a restart."""
    feed = FileFeed(tmp_path)
    feed.publish(snapshot(1))
    old = (tmp_path / "snapshot").read_bytes()
    one = feed.poll(None)
    feed.publish(snapshot(2))
    assert feed.poll(one) == snapshot(2)
    spoil(tmp_path, old)
    assert FileFeed(tmp_path).poll(None) == snapshot(2)


def test_garbage_and_nothing_accepted_yet(tmp_path: Path) -> None:
    spoil(tmp_path, b"garbage")
    feed = FileFeed(tmp_path)
    with pytest.raises(SnapshotRefused):
        feed.poll(None)
    assert feed.poll(None) is None
    feed.publish(snapshot(1))
    assert feed.poll(None) == snapshot(1)


def test_garbage_among_the_accepted_is_overlooked(tmp_path: Path) -> None:
    (tmp_path / "snapshot.accepted").write_bytes(b"garbage")
    feed = FileFeed(tmp_path)
    assert feed.poll(None) is None
    feed.publish(snapshot(1))
    assert feed.poll(None) == snapshot(1)
    assert from_bytes((tmp_path / "snapshot.accepted").read_bytes()) == snapshot(1)


def test_a_slow_edge_does_not_put_the_accepted_one_back(tmp_path: Path) -> None:
    control, slow, quick = FileFeed(tmp_path), FileFeed(tmp_path), FileFeed(tmp_path)
    control.publish(snapshot(1))
    one = slow.poll(None)
    control.publish(snapshot(2))
    assert quick.poll(None) == snapshot(2)
    slow._store_accepted(snapshot(1), snapshot(1).to_bytes())
    assert from_bytes((tmp_path / "snapshot.accepted").read_bytes()) == snapshot(2)
    assert slow.poll(one) == snapshot(2)


def test_a_snapshot_that_cannot_be_read_for_now_is_tried_again(tmp_path: Path) -> None:
    feed = FileFeed(tmp_path)
    feed.publish(snapshot(1))
    one = feed.poll(None)
    held = tmp_path / "held"
    FileFeed(held).publish(snapshot(2))
    (tmp_path / "snapshot").unlink()
    (tmp_path / "snapshot").mkdir()  # it can be examined but not read, even by root
    with pytest.raises(SnapshotRefused, match="cannot be read"):
        feed.poll(one)
    assert feed.poll(one) is None
    (tmp_path / "snapshot").rmdir()
    (held / "snapshot").rename(tmp_path / "snapshot")
    assert feed.poll(one) == snapshot(2)


def test_what_cannot_be_written_leaves_what_was(tmp_path: Path) -> None:
    feed = FileFeed(tmp_path)
    feed.publish(snapshot(1))
    one = msgspec.structs.replace(snapshot(2).distributions[0], id="\ud800")
    bad = msgspec.structs.replace(snapshot(2), distributions=(one,))
    with pytest.raises(UnicodeEncodeError):
        feed.publish(bad)
    assert sorted(os.listdir(tmp_path)) == ["snapshot"]
    assert feed.poll(None) == snapshot(1)


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    feed = FileFeed(tmp_path)
    (tmp_path / "snapshot").mkdir()
    with pytest.raises(OSError, match="directory"):
        feed.publish(snapshot(1))
    assert os.listdir(tmp_path) == ["snapshot"]


def test_what_is_published(tmp_path: Path) -> None:
    feed = FileFeed(tmp_path)
    assert feed.published() is None
    feed.publish(snapshot(1))
    assert feed.published() == snapshot(1)
    spoil(tmp_path, b"garbage")
    assert feed.published() is None


def test_nothing_published_but_something_accepted_once(tmp_path: Path) -> None:
    FileFeed(tmp_path).publish(snapshot(1))
    FileFeed(tmp_path).poll(None)
    (tmp_path / "snapshot").unlink()
    feed = FileFeed(tmp_path)
    one = feed.poll(None)
    assert one == snapshot(1)
    assert feed.poll(one) is None


def test_what_killed_publishers_left_is_swept_away(tmp_path: Path) -> None:
    feed = FileFeed(tmp_path)
    feed.report("edge-1", 0, at=NOW)
    old, new = tmp_path / ".snapshot.abc.tmp", tmp_path / ".snapshot.def.tmp"
    older = tmp_path / "reports" / ".edge-1.json.abc.tmp"
    for path in (old, new, older):
        path.write_bytes(b"half")
    for path in (old, older):
        os.utime(path, (time.time() - 100, time.time() - 100))
    feed.publish(snapshot(1))
    assert (old.exists(), older.exists(), new.exists()) == (False, False, True)


def test_a_restart_sees_what_was_published_meanwhile(tmp_path: Path) -> None:
    feed = FileFeed(tmp_path)
    feed.publish(snapshot(1))
    feed.poll(None)
    feed.publish(snapshot(2))
    assert FileFeed(tmp_path).poll(None) == snapshot(2)


# Reports


def test_reports(tmp_path: Path) -> None:
    feed = FileFeed(tmp_path)
    assert feed.reports(NOW) == []
    feed.report("edge-2", 7, at=NOW, counters={"requests": [["E1", 200, 5]], "bytes": 10})
    feed.report("edge-1", 6, at=NOW - 4, refused="older")
    one, two = feed.reports(NOW)
    assert (one.name, one.number, one.refused, one.at, one.counters) == ("edge-1", 6, "older", NOW - 4, {})
    assert (two.name, two.number, two.refused) == ("edge-2", 7, "")
    assert two.counters == {"requests": [["E1", 200, 5]], "bytes": 10}
    assert one.pid == two.pid == os.getpid()


def test_counters_may_be_a_struct(tmp_path: Path) -> None:
    class Sums(msgspec.Struct):
        requests: int

    feed = FileFeed(tmp_path)
    feed.report("edge", 1, at=NOW, counters=Sums(3))
    assert feed.reports(NOW)[0].counters == {"requests": 3}


def test_a_report_replaces_the_one_before(tmp_path: Path) -> None:
    feed = FileFeed(tmp_path)
    for number in range(5):
        feed.report("edge", number, at=NOW)
    assert [report.number for report in feed.reports(NOW)] == [4]
    assert os.listdir(tmp_path / "reports") == ["edge.json"]


def test_stale_torn_and_foreign_reports_do_not_count(tmp_path: Path) -> None:
    feed = FileFeed(tmp_path)
    feed.report("live", 1, at=NOW)
    feed.report("stale", 1, at=NOW - 5.1)
    feed.report("from-the-future", 1, at=NOW + 5.1)
    feed.report("a", 1, at=NOW)
    whole = (tmp_path / "reports" / "a.json").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "reports" / f"torn-{length}.json").write_bytes(whole[:length])
    (tmp_path / "reports" / "renamed.json").write_bytes(whole)
    (tmp_path / "reports" / "other.json").write_text(json.dumps({"name": "other", "number": "7"}))
    (tmp_path / "reports" / "folder.json").mkdir()
    assert [report.name for report in feed.reports(NOW)] == ["a", "live"]


def test_the_clock_is_read_without_a_given_time(tmp_path: Path) -> None:
    feed = FileFeed(tmp_path)
    feed.report("edge", 1, at=time.time())
    feed.report("old", 1, at=time.time() - 6)
    assert [report.name for report in feed.reports()] == ["edge"]


def test_an_edge_that_ends_is_forgotten(tmp_path: Path) -> None:
    feed = FileFeed(tmp_path)
    feed.report("edge", 1, at=NOW)
    feed.remove_report("edge")
    feed.remove_report("edge")
    assert feed.reports(NOW) == []


def test_what_an_edge_has_counted_outlives_it(tmp_path: Path) -> None:
    feed = FileFeed(tmp_path)
    feed.report("edge", 1, at=NOW, counters={"run": "a"})
    feed.remove_report("edge")
    feed.report("edge", 1, at=NOW, counters={"run": "b"})
    assert [report.counters["run"] for report in feed.last_reports()] == ["b"]
    feed.remove_report("edge")
    ended = feed.ended()
    assert [report.counters["run"] for _, report in ended] == ["a", "b"]
    feed.forget(ended[0][0])
    feed.forget(ended[0][0])
    assert [report.counters["run"] for _, report in feed.ended()] == ["b"]


def test_counts_that_are_not_collected_are_deleted_after_a_month(tmp_path: Path) -> None:
    feed = FileFeed(tmp_path)
    feed.report("edge", 1, at=NOW)
    feed.remove_report("edge")
    ((path, _),) = feed.ended()
    os.utime(path, (1, 1))
    feed.publish(snapshot(1))
    assert feed.ended() == []


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".x", "-x", "../x", "a/b", "a\0", "a\n", "x" * 65, "\xe9", "a b"]
)
def test_names_that_cannot_be(tmp_path: Path, name: str) -> None:
    feed = FileFeed(tmp_path)
    with pytest.raises(ValueError, match="cannot be the name"):
        feed.report(name, 1, at=NOW)
    with pytest.raises(ValueError, match="cannot be the name"):
        feed.remove_report(name)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["edge-1", "A.b_c", "9", "x" * 64])
def test_names_that_can_be(tmp_path: Path, name: str) -> None:
    feed = FileFeed(tmp_path)
    feed.report(name, 1, at=NOW)
    assert [report.name for report in feed.reports(NOW)] == [name]


# Several processes


async def test_readers_see_whole_snapshots_while_others_are_published(tmp_path: Path) -> None:
    last = 60
    readers = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.fleet.reader", str(tmp_path), str(last)),
            cwd=ROOT,
            env=ENVIRONMENT,
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(2)
    ]
    feed = FileFeed(tmp_path)
    current: Snapshot | None = None
    for number in range(1, last + 1):
        await asyncio.to_thread(feed.publish, snapshot(number, size=20))
        current = feed.poll(current) or current
        assert current is not None
        assert current.number == number
    for reader in readers:
        out, _ = await asyncio.wait_for(reader.communicate(), 60)
        seen, refused, at = map(int, out.split())
        assert refused == 0
        assert at == last
        assert seen >= 1
    assert from_bytes((tmp_path / "snapshot.accepted").read_bytes()).number == last


def test_kill_9_while_publishing_loses_nothing_that_was_safe(tmp_path: Path) -> None:
    acknowledged = 0
    for round_ in range(4):
        with subprocess.Popen(
            [sys.executable, "-m", "tests.fleet.publisher", str(tmp_path)],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
        ) as publisher:
            assert publisher.stdout is not None
            for _ in range(3 + 4 * round_):
                acknowledged = int(publisher.stdout.readline())
            publisher.kill()
            for line in publisher.stdout.readlines():
                if line.endswith(b"\n"):
                    acknowledged = int(line)
        found = FileFeed(tmp_path).poll(None)
        assert found is not None
        assert acknowledged <= found.number <= acknowledged + 1
        assert found == snapshot(found.number, size=50)
