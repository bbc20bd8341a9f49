"""The feed's files on a disk that fails at every call: nothing acknowledged is lost, nothing torn is accepted."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import pytest

from keyfront.errors import SnapshotRefused
from keyfront.fleet.file_feed import FileFeed
from tests.faults import failing_disks, left_over
from tests.fleet.snapshots import snapshot


def test_publishing(tmp_path: Path) -> None:
    turns = 0
    for disk in failing_disks():
        turns += 1
        folder = tmp_path / "data"
        shutil.rmtree(folder, ignore_errors=True)
        FileFeed(folder).publish(snapshot(1))
        feed = FileFeed(folder)
        acknowledged = False
        with disk, contextlib.suppress(OSError):
            feed.publish(snapshot(2))
            acknowledged = True
        assert acknowledged or disk.struck
        found = FileFeed(folder).published()
        assert found in (snapshot(1), snapshot(2))
        assert found == snapshot(2) or not acknowledged
        # The next attempt succeeds, whichever process makes it.
        (feed if turns % 2 else FileFeed(folder)).publish(snapshot(2))
        assert FileFeed(folder).published() == snapshot(2)
        assert left_over(folder) == []
    assert turns > 20


def test_the_first_publication(tmp_path: Path) -> None:
    for disk in failing_disks():
        folder = tmp_path / "new" / "data"
        shutil.rmtree(folder.parent, ignore_errors=True)
        feed = FileFeed(folder)
        with disk, contextlib.suppress(OSError):
            feed.publish(snapshot(1))
        assert FileFeed(folder).published() in (None, snapshot(1))
        feed.publish(snapshot(1))
        assert FileFeed(folder).published() == snapshot(1)


def test_an_edge_that_polls(tmp_path: Path) -> None:
    """It obeys what is published whether or not it can write what it has accepted; it never goes back."""
    for disk in failing_disks(reads=True):
        folder = tmp_path / "data"
        shutil.rmtree(folder, ignore_errors=True)
        FileFeed(folder).publish(snapshot(1))
        edge = FileFeed(folder)
        first = edge.poll(None)
        assert first == snapshot(1)
        FileFeed(folder).publish(snapshot(2))
        found = first
        with disk, contextlib.suppress(SnapshotRefused):
            found = edge.poll(first) or first
        if found is first:
            found = edge.poll(first) or first
        assert found == snapshot(2)
        again = FileFeed(folder).poll(None)
        assert again == snapshot(2)


@pytest.mark.parametrize("there", [True, False])
def test_reports(tmp_path: Path, there: bool) -> None:
    for disk in failing_disks():
        folder = tmp_path / "data"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        feed = FileFeed(folder)
        if there:
            feed.report("edge-1", 1, at=1.0)
        acknowledged = False
        with disk, contextlib.suppress(OSError):
            feed.report("edge-1", 2, at=2.0)
            acknowledged = True
        numbers = [report.number for report in feed.last_reports()]
        assert numbers in ([2],) if acknowledged else numbers in ([1], [2], [])
        feed.report("edge-1", 3, at=3.0)
        assert [report.number for report in feed.last_reports()] == [3]
        assert left_over(folder) == []


def test_an_edge_that_ends_is_counted_once(tmp_path: Path) -> None:
    for disk in failing_disks():
        folder = tmp_path / "data"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        feed = FileFeed(folder)
        feed.report("edge-1", 1, at=1.0, counters={"bytes": 5})
        with disk, contextlib.suppress(OSError):
            feed.remove_report("edge-1")
        feed.remove_report("edge-1")
        assert feed.last_reports() == []
        assert [report.counters for _, report in feed.ended()] == [{"bytes": 5}]


def test_what_supersedes(tmp_path: Path) -> None:
    for disk in failing_disks():
        folder = tmp_path / "data"
        shutil.rmtree(folder, ignore_errors=True)
        feed = FileFeed(folder)
        feed.publish(snapshot(1))
        assert FileFeed(folder).poll(None) == snapshot(1)
        feed.publish(snapshot(2))
        with disk, contextlib.suppress(OSError):
            feed.supersede(snapshot(2))
        feed.supersede(snapshot(2))
        os.unlink(folder / "snapshot")
        assert FileFeed(folder).poll(None) == snapshot(2)
