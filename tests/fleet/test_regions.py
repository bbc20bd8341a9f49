"""Feeds of regions: an edge accepts only its own region's snapshots, and a control plane gives each region its
part."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest

from keyfront.errors import SettingsError, SnapshotRefused
from keyfront.fleet.feed import accept
from keyfront.fleet.file_feed import FileFeed
from keyfront.fleet.regions import HIGHEST, Regions, open_regions, refuse_other_region, remember, remembered
from keyfront.model.residency import for_region
from keyfront.model.snapshot import Snapshot
from tests.fleet.snapshots import snapshot
from tests.rows import rows


def tied(number: int, *regions: str) -> Snapshot:
    """The first of two distributions is tied to these regions."""
    whole = snapshot(number, size=2)
    first, second = whole.distributions
    first = msgspec.structs.replace(first, regions=regions)
    return msgspec.structs.replace(whole, distributions=(first, second))


# ---- an edge


@rows(("made_for", "region"), [("eu", "us"), ("eu", ""), ("", "eu")], ids=["another", "none", "for none"])
def test_a_snapshot_for_another_region_is_refused(made_for: str, region: str) -> None:
    data = for_region(snapshot(3), made_for).to_bytes()
    with pytest.raises(SnapshotRefused, match="is not for this edge"):
        accept(None, data, region)
    mine = for_region(snapshot(2), region)
    with pytest.raises(SnapshotRefused, match="is not for this edge"):
        accept(mine, data, region)
    assert accept(None, data, made_for).region == made_for


def test_a_snapshot_of_everything_is_refused() -> None:
    """However it got there: a snapshot that names the right region must also contain only what is allowed there."""
    for region in ("", "us"):
        data = msgspec.structs.replace(tied(3, "eu"), region=region).to_bytes()
        with pytest.raises(SnapshotRefused, match="tied to eu"):
            accept(None, data, region)


def test_an_edge_starts_only_from_what_its_own_region_accepted(tmp_path: Path) -> None:
    FileFeed(tmp_path, "eu").publish(for_region(snapshot(5), "eu"))
    assert FileFeed(tmp_path, "eu").poll(None) == for_region(snapshot(5), "eu")
    (tmp_path / "snapshot").write_bytes(b"garbage")
    other = FileFeed(tmp_path, "us")
    with pytest.raises(SnapshotRefused):
        other.poll(None)
    assert other.poll(None) is None
    assert other.number() == 5  # which edges may have seen
    (tmp_path / "snapshot").unlink()
    assert FileFeed(tmp_path, "us").poll(None) is None
    assert FileFeed(tmp_path, "eu").poll(None) == for_region(snapshot(5), "eu")


def test_what_was_accepted_for_another_region_gives_way(tmp_path: Path) -> None:
    FileFeed(tmp_path, "eu").publish(for_region(snapshot(5), "eu"))
    FileFeed(tmp_path, "eu").poll(None)
    FileFeed(tmp_path / "new", "us").publish(for_region(snapshot(2), "us"))
    (tmp_path / "new" / "snapshot").rename(tmp_path / "snapshot")
    assert FileFeed(tmp_path, "us").poll(None) == for_region(snapshot(2), "us")
    (tmp_path / "snapshot").unlink()
    assert FileFeed(tmp_path, "us").poll(None) == for_region(snapshot(2), "us")


def test_an_edge_of_another_region_leaves_what_it_finds(tmp_path: Path) -> None:
    FileFeed(tmp_path, "eu").publish(for_region(snapshot(5), "eu"))
    FileFeed(tmp_path, "eu").poll(None)
    before = (tmp_path / "snapshot.accepted").read_bytes()
    stray = FileFeed(tmp_path, "us")
    with pytest.raises(SnapshotRefused):
        stray.poll(None)
    assert (tmp_path / "snapshot.accepted").read_bytes() == before


# ---- a control plane


def test_a_feed_takes_nothing_that_is_not_for_its_region(tmp_path: Path) -> None:
    for region, given in (
        ("", tied(3, "eu")),
        ("us", snapshot(3)),
        ("us", for_region(tied(3, "eu"), "eu")),
        ("us", msgspec.structs.replace(tied(3, "eu"), region="us")),
    ):
        with pytest.raises(SnapshotRefused, match="is not for this feed"):
            FileFeed(tmp_path, region).publish(given)
    assert not (tmp_path / "snapshot").exists()


def regions(tmp_path: Path) -> Regions:
    if not (tmp_path / "us").exists():
        (tmp_path / "us").mkdir()
    return open_regions(tmp_path / "own", "eu", [("us", str(tmp_path / "us"))])


def test_each_region_gets_its_part_under_one_number(tmp_path: Path) -> None:
    feeds = regions(tmp_path)
    feeds.publish(tied(4, "eu"))
    assert feeds.published() == for_region(tied(4, "eu"), "eu")
    assert feeds.elsewhere() == [for_region(tied(4, "eu"), "us")]
    assert [len(feed.poll(None).distributions) for feed in regions(tmp_path).feeds] == [2, 1]  # type: ignore[union-attr]
    assert feeds.number() == 4
    assert not feeds.contradicts(tied(4, "eu"))
    assert feeds.contradicts(tied(4, "us"))
    assert not feeds.contradicts(tied(5, "us"))
    with pytest.raises(SnapshotRefused):
        feeds.publish(tied(3, "eu"))


def test_what_a_region_may_not_have_any_more_leaves_its_folder(tmp_path: Path) -> None:
    """Also where no edge is up to take the new one, and its last accepted snapshot is there."""
    us = FileFeed(tmp_path / "us", "us")
    regions = Regions(FileFeed(tmp_path / "own", "eu"), [us])
    (tmp_path / "us").mkdir()
    regions.publish(tied(3))
    assert us.poll(None) is not None
    origin = tied(3).distributions[0].id.encode()
    held = tmp_path / "us" / "snapshot.accepted"
    assert origin in held.read_bytes()
    regions.publish(tied(4, "eu"))
    assert not [
        path for path in (tmp_path / "us").iterdir() if path.is_file() and origin in path.read_bytes()
    ]
    assert FileFeed(tmp_path / "us", "us").poll(None) == for_region(tied(4, "eu"), "us")
    assert regions.number() == 4


def test_the_same_again_and_by_another_process_changes_nothing(tmp_path: Path) -> None:
    regions(tmp_path).publish(tied(4, "eu"))
    before = [(tmp_path / name / "snapshot").stat().st_ino for name in ("own", "us")]
    again = regions(tmp_path)
    again.publish(tied(4, "eu"))
    again.publish(tied(4, "eu"))
    assert [(tmp_path / name / "snapshot").stat().st_ino for name in ("own", "us")] == before


def test_a_region_that_is_away(tmp_path: Path) -> None:
    feeds = regions(tmp_path)
    (tmp_path / "us").rmdir()
    feeds.publish(snapshot(1))
    assert feeds.behind
    assert not (tmp_path / "us").exists()  # something may yet be mounted there
    assert feeds.published() == for_region(snapshot(1), "eu")
    assert (feeds.elsewhere(), feeds.number(), feeds.reports(), feeds.last_reports()) == ([], 1, [], [])
    assert feeds.ended() == []
    (tmp_path / "us").mkdir()
    feeds.publish(snapshot(1))
    assert feeds.elsewhere() == [for_region(snapshot(1), "us")]


def test_a_region_whose_folder_is_another_one_now(tmp_path: Path) -> None:
    """As when a file system is mounted over files that were written while it was not mounted."""
    feeds = regions(tmp_path)
    feeds.publish(snapshot(1))
    behind = [feeds.behind]
    (tmp_path / "us" / "snapshot").unlink()
    behind.append(feeds.behind)
    feeds.publish(snapshot(1))
    assert [*behind, feeds.behind] == [False, True, False]
    assert feeds.elsewhere() == [for_region(snapshot(1), "us")]


def test_what_is_for_one_region_does_not_go_into_the_folder_of_another(tmp_path: Path) -> None:
    feeds = regions(tmp_path)
    feeds.publish(tied(1, "us"))
    (tmp_path / "us" / "snapshot").unlink()
    # Another region's folder mounted in its place, for example.
    FileFeed(tmp_path / "us", "asia").publish(for_region(snapshot(1), "asia"))
    for number in (1, 2):
        feeds.publish(tied(number, "us"))
        assert feeds.behind
        assert FileFeed(tmp_path / "us", "asia").published() == for_region(snapshot(1), "asia")
        assert feeds.published() == for_region(tied(number, "us"), "eu")
    other = FileFeed(tmp_path / "none")
    other.publish(snapshot(1))
    with pytest.raises(SettingsError, match="edges without a region"):
        refuse_other_region(FileFeed(tmp_path / "none", "us"))


def test_the_own_feed_is_not_done_without(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("no folder")
    feeds = regions(tmp_path)
    with pytest.raises(OSError, match=r"."):
        feeds.publish(snapshot(1))
    assert feeds.elsewhere() == [for_region(snapshot(1), "us")]  # the other regions need not wait for it


def test_reports_of_all_regions(tmp_path: Path) -> None:
    feeds = regions(tmp_path)
    now = time.time()
    for feed, name in ((feeds.feeds[0], "edge-1"), (feeds.feeds[1], "edge-1"), (feeds.feeds[1], "edge-2")):
        feed.report(name, 3, at=now)
    FileFeed(tmp_path / "us", "asia").report("lost", 1, at=now, refused="not mine")
    assert [(one.name, one.region) for one in feeds.reports(now)] == [
        ("edge-1", "eu"),
        ("us/edge-1", "us"),
        ("us/edge-2", "us"),
        ("us/lost", "us"),
    ]
    assert feeds.reports(now) == feeds.last_reports()
    feeds.feeds[1].remove_report("edge-2")
    ((path, report),) = feeds.ended()
    assert report.name == "edge-2"
    feeds.forget(path)
    assert feeds.ended() == []


def test_the_largest_snapshot_number_is_not_another_regions(tmp_path: Path) -> None:
    feeds = regions(tmp_path)
    feeds.publish(snapshot(1))
    FileFeed(tmp_path / "us", "us").publish(for_region(snapshot(HIGHEST), "us"))
    assert (feeds.number(), feeds.elsewhere()) == (1, [])


def test_two_feeds_of_one_region(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="the same region"):
        open_regions(tmp_path, "eu", [("eu", "a")])


def test_what_a_control_plane_serves_is_remembered(tmp_path: Path) -> None:
    assert [feed.region for feed in remembered(tmp_path).feeds] == [""]
    remember(tmp_path, "eu", [("us", str(tmp_path / "us"))])
    found = remembered(tmp_path)
    assert [feed.region for feed in found.feeds] == ["eu", "us"]
    (tmp_path / "regions.json").write_text("{")
    with pytest.raises(SettingsError):
        remembered(tmp_path)
    remember(tmp_path, "", ())
    assert not (tmp_path / "regions.json").exists()
