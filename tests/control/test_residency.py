"""Ties to regions, from the API's tags to the feeds: which region gets what, what a tie changes, and what is
refused."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from keyfront.control.store.store import Store
from keyfront.errors import SettingsError
from keyfront.fleet.file_feed import FileFeed
from keyfront.model.residency import for_region
from keyfront.model.snapshot import Snapshot
from tests.control.harness import ACCOUNT, BOTH, Harness, bring_back, many, minimal, save, trusting, where
from tests.control.test_guard import allow, denied, holder, refusal_of
from tests.keys import ec_pem

STORES = BOTH

Make = Callable[..., Harness]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Creates control planes on one store, each in its own folder, with the regions that it serves."""
    houses: list[Harness] = []

    def one(region: str = "", *others: str, name: str = "") -> Harness:
        folder = tmp_path / (name or region or "plain")
        folder.mkdir(exist_ok=True)
        (folder / "store").write_text(str(where(tmp_path)))
        feeds = [FileFeed(tmp_path / f"feed-{other}", other) for other in others]
        for other in others:
            (tmp_path / f"feed-{other}").mkdir(exist_ok=True)
        made = Harness(folder, seed=len(houses) + 1, region=region, elsewhere=feeds, replica=True)
        houses.append(made)
        return made

    yield one
    for harness in houses:
        harness.close()


def of(harness: Harness, region: str = "") -> Snapshot:
    """The published snapshot for the region, by default the harness's own."""
    feed = next(
        feed for feed in (harness.feed, *harness.elsewhere) if feed.region == (region or harness.feed.region)
    )
    found = feed.published()
    assert found is not None
    return found


def ids(snapshot: Snapshot) -> tuple[list[str], list[str], list[str]]:
    return (
        [one.id for one in snapshot.distributions],
        [one.id for one in snapshot.key_groups],
        [one.id for one in snapshot.public_keys],
    )


def arn(kind: str, id_: str) -> str:
    return f"arn:aws:cloudfront::{ACCOUNT}:{kind}/{id_}"


def tags(**given: str) -> Any:
    return {"Items": [{"Key": key.replace("__", ":"), "Value": value} for key, value in given.items()]}


def tie(harness: Harness, kind: str, id_: str, regions: str) -> None:
    harness.call("TagResource", Resource=arn(kind, id_), Tags=tags(keyfront__regions=regions))


def untie(harness: Harness, kind: str, id_: str) -> None:
    harness.call("UntagResource", Resource=arn(kind, id_), TagKeys={"Items": ["keyfront:regions"]})


def trusted(harness: Harness, *groups: str, reference: str = "one") -> str:
    behavior = minimal()["DefaultCacheBehavior"] | {"TrustedKeyGroups": trusting(*groups)}
    return str(harness.distribution(reference, DefaultCacheBehavior=behavior)["Id"])


def status(harness: Harness, id_: str) -> str:
    return str(harness.call("GetDistribution", Id=id_)["Distribution"]["Status"])


# ---- which region gets what


def test_a_key_group_is_tied_moved_and_untied(make: Make) -> None:
    harness = make("eu", "us")
    key = harness.key()
    group = harness.group(key)
    id_ = trusted(harness, group)
    all_of_it: tuple[list[str], list[str], list[str]] = ([id_], [group], [key])
    without: tuple[list[str], list[str], list[str]] = ([id_], [], [])
    assert (ids(of(harness)), ids(of(harness, "us"))) == (all_of_it, all_of_it)
    for regions, eu, us in (
        ("eu", all_of_it, without),
        ("us", without, all_of_it),
        ("us eu", all_of_it, all_of_it),
        ("asia", without, without),
    ):
        tie(harness, "key-group", group, regions)
        assert (ids(of(harness)), ids(of(harness, "us"))) == (eu, us)
        assert of(harness).number == of(harness, "us").number
        assert of(harness, "us").distributions[0].behaviors[0].restricted
    untie(harness, "key-group", group)
    assert (ids(of(harness)), ids(of(harness, "us"))) == (all_of_it, all_of_it)


def test_a_distribution_is_tied_from_its_first_moment(make: Make) -> None:
    harness = make("eu", "us")
    whole = {"DistributionConfig": minimal(), "Tags": tags(keyfront__regions="us")}
    made = harness.call("CreateDistributionWithTags", DistributionConfigWithTags=whole)["Distribution"]
    assert (ids(of(harness)), ids(of(harness, "us"))) == (([], [], []), ([made["Id"]], [], []))
    assert of(harness).number == of(harness, "us").number


def test_an_edge_in_no_region_gets_what_is_tied_to_none(make: Make) -> None:
    harness = make("", "us")
    key = harness.key()
    tied, free = harness.group(key, name="tied"), harness.group(harness.key("two", ec_pem()), name="free")
    tie(harness, "key-group", tied, "us eu")
    trusted(harness, tied, free)
    assert ids(of(harness))[1] == [free]
    assert sorted(ids(of(harness, "us"))[1]) == sorted([tied, free])


def test_a_staging_copy_is_tied_as_what_it_was_made_from(make: Make) -> None:
    harness = make("eu", "us")
    whole = {"DistributionConfig": minimal(), "Tags": tags(keyfront__regions="eu", team="a")}
    made = harness.call("CreateDistributionWithTags", DistributionConfigWithTags=whole)
    copied = harness.call(
        "CopyDistribution",
        PrimaryDistributionId=made["Distribution"]["Id"],
        IfMatch=made["ETag"],
        CallerReference="copy",
        Staging=True,
    )["Distribution"]
    assert ids(of(harness, "us"))[0] == []
    assert harness.call("ListTagsForResource", Resource=copied["ARN"])["Tags"] == tags(keyfront__regions="eu")


def test_an_invalidation_is_nobodys_business_elsewhere(make: Make) -> None:
    harness = make("eu", "us")
    id_ = harness.distribution()["Id"]
    tie(harness, "distribution", id_, "eu")
    harness.call(
        "CreateInvalidation",
        DistributionId=id_,
        InvalidationBatch={"CallerReference": "1", "Paths": many("/secret-film")},
    )
    assert b"secret-film" not in of(harness, "us").to_bytes()
    # A region that gets it later also gets the invalidations made meanwhile.
    tie(harness, "distribution", id_, "us")
    assert b"secret-film" in of(harness, "us").to_bytes()


# ---- what the API reports


def test_tags_of_a_key_group_are_as_those_of_a_distribution(make: Make) -> None:
    harness = make()
    group = harness.group(harness.key())
    named = arn("key-group", group)
    assert harness.call("ListTagsForResource", Resource=named)["Tags"] == {"Items": []}
    harness.call("TagResource", Resource=named, Tags=tags(team="films", keyfront__regions="eu"))
    assert harness.call("ListTagsForResource", Resource=named)["Tags"] == tags(
        keyfront__regions="eu", team="films"
    )
    harness.call("UntagResource", Resource=named, TagKeys={"Items": ["team"]})
    assert harness.call("ListTagsForResource", Resource=named)["Tags"] == tags(keyfront__regions="eu")
    assert (
        harness.refused("TagResource", Resource=arn("key-group", "no"), Tags=tags(a="b")).code
        == "NoSuchResource"
    )
    found = harness.call("GetKeyGroup", Id=group)["KeyGroup"]
    assert "ARN" not in found
    harness.call("DeleteKeyGroup", Id=group, IfMatch=harness.etag("KeyGroup", group))
    assert harness.refused("ListTagsForResource", Resource=named).code == "NoSuchResource"


@pytest.mark.parametrize("value", ["", "EU", "eu us!", "eu_1", "x" * 40])
def test_a_tie_that_makes_no_sense_is_refused(make: Make, value: str) -> None:
    harness = make("eu", "us")
    id_ = harness.distribution()["Id"]
    tie(harness, "distribution", id_, "eu")
    before = of(harness, "us")
    error = harness.refused(
        "TagResource", Resource=arn("distribution", id_), Tags=tags(keyfront__regions=value)
    )
    assert error.code == "InvalidTagging"
    whole = {"DistributionConfig": minimal("two"), "Tags": tags(keyfront__regions=value)}
    assert (
        harness.refused("CreateDistributionWithTags", DistributionConfigWithTags=whole).code
        == "InvalidTagging"
    )
    assert of(harness, "us") == before


def test_a_key_that_was_meant_to_tie_is_refused_and_can_be_taken_away(make: Make) -> None:
    harness = make()
    id_ = harness.distribution()["Id"]
    for key in ("Keyfront:Regions", "keyfront:region"):
        given = {"Items": [{"Key": key, "Value": "eu"}]}
        error = harness.refused("TagResource", Resource=arn("distribution", id_), Tags=given)
        assert (error.code, "keyfront:regions" in error.message) == ("InvalidTagging", True)
    harness.call("UntagResource", Resource=arn("distribution", id_), TagKeys={"Items": ["Keyfront:Regions"]})


def test_a_tag_from_before_it_meant_anything_ties_to_nowhere(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    harness = make("eu", "us")
    id_ = harness.distribution()["Id"]
    with harness.store.write() as transaction:
        transaction.set_tags("Distribution", id_, {"keyfront:regions": "Frankfurt!"})
    harness.distribution("two")
    assert id_ not in ids(of(harness))[0] + ids(of(harness, "us"))[0]
    assert f"no edge gets Distribution {id_}" in caplog.text
    caplog.clear()
    harness.distribution("three")
    assert "no edge gets" not in caplog.text  # reported once


def test_a_tie_changes_no_version_and_is_in_progress_until_all_edges_have_it(make: Make) -> None:
    harness = make("eu", "us")
    group = harness.group(harness.key())
    id_ = trusted(harness, group)
    other = harness.distribution("other")["Id"]

    def report(*regions: str) -> None:
        for feed in (harness.feed, *harness.elsewhere):
            if feed.region in regions:
                feed.report("edge-1", of(harness, feed.region).number, at=time.time())

    report("eu", "us")
    assert [status(harness, one) for one in (id_, other)] == ["Deployed", "Deployed"]
    etag = harness.etag("Distribution", id_)
    tie(harness, "key-group", group, "eu")
    assert harness.etag("Distribution", id_) == etag
    assert [status(harness, one) for one in (id_, other)] == ["InProgress", "Deployed"]
    report("eu")
    assert status(harness, id_) == "InProgress"  # us still has the key
    report("us")
    assert status(harness, id_) == "Deployed"
    tie(harness, "key-group", group, " eu ")  # the same meaning
    harness.call("TagResource", Resource=arn("key-group", group), Tags=tags(team="films"))
    assert status(harness, id_) == "Deployed"
    tie(harness, "distribution", other, "us")
    assert [status(harness, one) for one in (id_, other)] == ["Deployed", "InProgress"]


def test_a_key_that_is_in_two_groups_is_tied_by_either(make: Make) -> None:
    harness = make("eu", "us")
    key = harness.key()
    tied, free = harness.group(key, name="tied"), harness.group(key, name="free")
    id_ = trusted(harness, free)
    for feed in (harness.feed, *harness.elsewhere):
        feed.report("edge-1", of(harness).number, at=time.time())
    assert status(harness, id_) == "Deployed"
    tie(harness, "key-group", tied, "eu")
    assert (ids(of(harness))[2], ids(of(harness, "us"))[2]) == ([key], [])
    assert status(harness, id_) == "InProgress"  # although what it trusts did not change
    for feed in (harness.feed, *harness.elsewhere):
        feed.report("edge-1", of(harness).number, at=time.time())
    assert status(harness, id_) == "Deployed"
    harness.call("DeleteKeyGroup", Id=tied, IfMatch=harness.etag("KeyGroup", tied))
    assert ids(of(harness, "us"))[2] == [key]
    assert status(harness, id_) == "InProgress"


def test_who_may_untie_is_a_matter_of_policies(make: Make) -> None:
    """A key group's tags are checked like a distribution's."""
    harness = make("eu", "us")
    group = harness.group(harness.key())
    tie(harness, "key-group", group, "eu")
    named, keys = arn("key-group", group), {"Items": ["keyfront:regions"]}
    tied = {"Null": {"aws:ResourceTag/keyfront:regions": "false"}}
    deny = {
        "Effect": "Deny",
        "Action": "cloudfront:UntagResource",
        "Resource": arn("key-group", "*"),
        "Condition": tied,
    }
    caller = holder(allow("*"), deny)
    assert "explicit deny" in denied(harness, caller, "UntagResource", Resource=named, TagKeys=keys)
    assert refusal_of(harness, holder(allow("*")), "UntagResource", Resource=named, TagKeys=keys) is None


# ---- several feeds, crashes, and missing feeds


def test_a_region_that_is_away_holds_up_nobody_and_catches_up(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    harness = make("eu", "us")
    before = of(harness, "us")
    folder = tmp_path / "feed-us"
    shutil.rmtree(folder)
    with caplog.at_level(logging.WARNING):
        id_ = harness.distribution()["Id"]
        assert ids(of(harness))[0] == [id_]
        assert harness.service.follow(harness.now)
        assert harness.service.follow(harness.now)
    assert caplog.text.count("region us does not get snapshot") == 1
    folder.mkdir()
    assert harness.service.follow(harness.now)
    assert ids(of(harness, "us"))[0] == [id_]
    assert of(harness, "us").number == of(harness).number > before.number
    assert "region us has snapshot" in caplog.text


def test_a_restart_publishes_nothing_anew(make: Make) -> None:
    harness = make("eu", "us")
    tie(harness, "distribution", harness.distribution()["Id"], "eu")
    before = of(harness), of(harness, "us")
    again = make("eu", "us")
    assert (of(again), of(again, "us")) == before


def test_a_region_that_is_new_gets_what_there_is(make: Make) -> None:
    harness = make("eu")
    id_ = harness.distribution()["Id"]
    again = make("eu", "us")
    assert ids(of(again, "us"))[0] == [id_]
    assert of(again, "us").number == of(harness).number


def test_a_machine_that_changes_its_region_publishes_under_a_new_number(make: Make) -> None:
    harness = make("eu", name="m")
    tie(harness, "distribution", harness.distribution()["Id"], "eu")
    number = of(harness).number
    edge = FileFeed(harness.folder, "eu")
    assert edge.poll(None) is not None
    again = make("us", name="m")
    assert (of(again).number, ids(of(again))) == (number + 1, ([], [], []))
    moved = FileFeed(harness.folder, "us").poll(None)
    assert moved is not None
    assert moved == of(again)
    assert FileFeed(harness.folder, "eu").published() is None


def test_a_store_that_went_back_goes_out_above_what_any_region_has_seen(make: Make, tmp_path: Path) -> None:
    harness = make("eu", "us")
    id_ = harness.distribution()["Id"]
    harness.close()
    save(tmp_path)
    harness = make("eu", "us")
    tie(harness, "distribution", id_, "us")
    harness.call(
        "CreateInvalidation",
        DistributionId=id_,
        InvalidationBatch={"CallerReference": "1", "Paths": many("/gone")},
    )
    number = of(harness, "us").number
    assert of(harness, "us").distributions[0].invalidations
    harness.close()
    bring_back(tmp_path)
    again = make("eu", "us")
    assert of(again).number == of(again, "us").number == number + 1
    # Its edges' copies end, although the reason is no longer stored.
    (carried,) = of(again, "us").distributions[0].invalidations
    assert (carried.number, carried.paths) == (number + 1, ("/gone",))


def test_a_store_that_is_lost_does_not_empty_another_region(make: Make, tmp_path: Path) -> None:
    harness = make("eu", "us")
    tie(harness, "distribution", harness.distribution()["Id"], "us")
    harness.close()
    shutil.rmtree(harness.folder)
    empty = tmp_path / "eu"
    empty.mkdir()
    feed = FileFeed(tmp_path / "feed-us", "us")
    with pytest.raises(SettingsError, match="the store is new"):
        Harness(empty, region="eu", elsewhere=[feed])
    assert feed.published() is not None


def test_a_number_that_somebody_made_up_in_another_region_moves_nobody(make: Make, tmp_path: Path) -> None:
    harness = make("eu", "us")
    number = of(harness).number
    FileFeed(tmp_path / "feed-us", "us").publish(Snapshot(1 << 62, 0.0, region="us"))
    again = make("eu", "us")
    id_ = again.distribution()["Id"]
    assert (of(again).number, ids(of(again))[0]) == (number + 1, [id_])


# ---- control planes that share a store, each in its own region


def test_each_control_plane_publishes_its_own_regions_part(make: Make) -> None:
    eu, us = make("eu"), make("us")
    group = eu.group(eu.key())
    tie(eu, "key-group", group, "eu")
    id_ = trusted(eu, group)
    assert us.service.follow(us.now)
    assert of(eu).number == of(us).number
    assert (ids(of(eu))[1], ids(of(us))[1]) == ([group], [])
    for harness in (eu, us):
        harness.report()
        assert harness.service.follow(harness.now)
    assert status(eu, id_) == "Deployed"
    tie(us, "key-group", group, "us")
    us.report()
    assert us.service.follow(us.now)
    assert status(us, id_) == "InProgress"  # eu has the key until it receives the change
    assert eu.service.follow(eu.now)
    assert (ids(of(eu))[1], ids(of(us))[1]) == ([], [group])
    eu.report()
    assert eu.service.follow(eu.now)
    assert [status(harness, id_) for harness in (eu, us)] == ["Deployed", "Deployed"]
    with eu.store.read() as transaction:
        assert sorted(edge.region for edge in transaction.edges()) == ["eu", "us"]


def test_two_control_planes_serve_the_same_regions(make: Make) -> None:
    one, other = make("eu", "us", name="one"), make("eu", "us", name="other")
    made = []
    for number in range(3):
        for harness in (one, other):  # neither follows: what the other has published is ahead of it
            made.append(harness.distribution(f"{number}-{harness.folder.name}")["Id"])
            assert sorted(ids(of(harness, "us"))[0]) == sorted(made)
    for harness in (one, other, one):
        assert harness.service.follow(harness.now)
    assert of(one).number == of(other).number == of(one, "us").number
    assert one.service.follow(one.now)
    assert not one.service._replica._feed.behind


def test_a_region_that_came_back_with_more_than_the_store_knows(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The store was restored from a backup, and this region could not be reached when the control plane started."""
    harness = make("eu", "us")
    id_ = harness.distribution()["Id"]
    before = of(harness)
    shutil.move(tmp_path / "feed-us", tmp_path / "away")
    assert harness.service.follow(harness.now)
    (tmp_path / "feed-us").mkdir()
    later = msgspec.structs.replace(before, number=before.number + 7, region="us")
    FileFeed(tmp_path / "feed-us", "us").publish(later)
    assert harness.service.follow(harness.now)
    assert harness.service.follow(harness.now)
    assert of(harness).number == of(harness, "us").number == before.number + 8
    assert ids(of(harness, "us"))[0] == [id_]
    assert "the store has gone back" in caplog.text


def test_the_parts_are_those_of_one_whole(make: Make, tmp_path: Path) -> None:
    eu, us = make("eu", "asia"), make("us")
    tie(eu, "distribution", eu.distribution()["Id"], "asia eu")
    assert us.service.follow(us.now)
    store = Store(where(tmp_path))
    with store.read() as transaction:
        whole = us.service._replica._compiler.snapshot(
            transaction, transaction.snapshot_number(), transaction.snapshot_time()
        )
    store.close()
    for harness, region in ((eu, "eu"), (eu, "asia"), (us, "us")):
        assert of(harness, region) == for_region(whole, region)


# ---- refused values


def test_who_ties_a_group_away_from_its_distribution_is_told_once(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    harness = make("eu", "us")
    group = harness.group(harness.key())
    id_ = trusted(harness, group)
    with caplog.at_level(logging.WARNING):
        tie(harness, "key-group", group, "eu")
        harness.distribution("another")
    told_ = f"distribution {id_}, behavior *: none of its trusted key groups has a key for edges in region us"
    assert caplog.text.count(told_) == 1
