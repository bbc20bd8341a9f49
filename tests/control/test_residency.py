"""Ties to regions, from the API's tags to the feeds: who gets what, what it changes, and what is refused."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from keyfront.control.store import Store
from keyfront.errors import SettingsError
from keyfront.fleet.file import FileFeed
from keyfront.model.residency import for_region
from keyfront.model.snapshot import Snapshot
from tests.control.house import ACCOUNT, BOTH, House, bring_back, ec_pem, many, minimal, save, trusting, where
from tests.control.test_guard import allow, denied, holder, told

STORES = BOTH

Make = Callable[..., House]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes control planes on one store, each in a folder of its own, with the regions that it serves."""
    houses: list[House] = []

    def one(region: str = "", *others: str, name: str = "") -> House:
        folder = tmp_path / (name or region or "plain")
        folder.mkdir(exist_ok=True)
        (folder / "store").write_text(str(where(tmp_path)))
        feeds = [FileFeed(tmp_path / f"feed-{other}", other) for other in others]
        for other in others:
            (tmp_path / f"feed-{other}").mkdir(exist_ok=True)
        made = House(folder, seed=len(houses) + 1, region=region, elsewhere=feeds, replica=True)
        houses.append(made)
        return made

    yield one
    for house in houses:
        house.close()


def of(house: House, region: str = "") -> Snapshot:
    """What is published for the region, by default for the house's own."""
    feed = next(
        feed for feed in (house.feed, *house.elsewhere) if feed.region == (region or house.feed.region)
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


def tie(house: House, kind: str, id_: str, regions: str) -> None:
    house.call("TagResource", Resource=arn(kind, id_), Tags=tags(keyfront__regions=regions))


def untie(house: House, kind: str, id_: str) -> None:
    house.call("UntagResource", Resource=arn(kind, id_), TagKeys={"Items": ["keyfront:regions"]})


def trusted(house: House, *groups: str, reference: str = "one") -> str:
    behavior = minimal()["DefaultCacheBehavior"] | {"TrustedKeyGroups": trusting(*groups)}
    return str(house.distribution(reference, DefaultCacheBehavior=behavior)["Id"])


def status(house: House, id_: str) -> str:
    return str(house.call("GetDistribution", Id=id_)["Distribution"]["Status"])


# ---- who gets what


def test_a_key_group_is_tied_moved_and_untied(make: Make) -> None:
    house = make("eu", "us")
    key = house.key()
    group = house.group(key)
    id_ = trusted(house, group)
    all_of_it: tuple[list[str], list[str], list[str]] = ([id_], [group], [key])
    without: tuple[list[str], list[str], list[str]] = ([id_], [], [])
    assert (ids(of(house)), ids(of(house, "us"))) == (all_of_it, all_of_it)
    for regions, eu, us in (
        ("eu", all_of_it, without),
        ("us", without, all_of_it),
        ("us eu", all_of_it, all_of_it),
        ("asia", without, without),
    ):
        tie(house, "key-group", group, regions)
        assert (ids(of(house)), ids(of(house, "us"))) == (eu, us)
        assert of(house).number == of(house, "us").number
        assert of(house, "us").distributions[0].behaviors[0].restricted
    untie(house, "key-group", group)
    assert (ids(of(house)), ids(of(house, "us"))) == (all_of_it, all_of_it)


def test_a_distribution_is_tied_from_its_first_moment(make: Make) -> None:
    house = make("eu", "us")
    whole = {"DistributionConfig": minimal(), "Tags": tags(keyfront__regions="us")}
    made = house.call("CreateDistributionWithTags", DistributionConfigWithTags=whole)["Distribution"]
    assert (ids(of(house)), ids(of(house, "us"))) == (([], [], []), ([made["Id"]], [], []))
    assert of(house).number == of(house, "us").number


def test_an_edge_in_no_region_gets_what_is_tied_to_none(make: Make) -> None:
    house = make("", "us")
    key = house.key()
    tied, free = house.group(key, name="tied"), house.group(house.key("two", ec_pem()), name="free")
    tie(house, "key-group", tied, "us eu")
    trusted(house, tied, free)
    assert ids(of(house))[1] == [free]
    assert sorted(ids(of(house, "us"))[1]) == sorted([tied, free])


def test_a_staging_copy_is_tied_as_what_it_was_made_from(make: Make) -> None:
    house = make("eu", "us")
    whole = {"DistributionConfig": minimal(), "Tags": tags(keyfront__regions="eu", team="a")}
    made = house.call("CreateDistributionWithTags", DistributionConfigWithTags=whole)
    copied = house.call(
        "CopyDistribution",
        PrimaryDistributionId=made["Distribution"]["Id"],
        IfMatch=made["ETag"],
        CallerReference="copy",
        Staging=True,
    )["Distribution"]
    assert ids(of(house, "us"))[0] == []
    assert house.call("ListTagsForResource", Resource=copied["ARN"])["Tags"] == tags(keyfront__regions="eu")


def test_an_invalidation_is_nobodys_business_elsewhere(make: Make) -> None:
    house = make("eu", "us")
    id_ = house.distribution()["Id"]
    tie(house, "distribution", id_, "eu")
    house.call(
        "CreateInvalidation",
        DistributionId=id_,
        InvalidationBatch={"CallerReference": "1", "Paths": many("/secret-film")},
    )
    assert b"secret-film" not in of(house, "us").to_bytes()
    tie(house, "distribution", id_, "us")  # whoever gets it later ends what was ended meanwhile
    assert b"secret-film" in of(house, "us").to_bytes()


# ---- what the API says


def test_tags_of_a_key_group_are_as_those_of_a_distribution(make: Make) -> None:
    house = make()
    group = house.group(house.key())
    named = arn("key-group", group)
    assert house.call("ListTagsForResource", Resource=named)["Tags"] == {"Items": []}
    house.call("TagResource", Resource=named, Tags=tags(team="films", keyfront__regions="eu"))
    assert house.call("ListTagsForResource", Resource=named)["Tags"] == tags(
        keyfront__regions="eu", team="films"
    )
    house.call("UntagResource", Resource=named, TagKeys={"Items": ["team"]})
    assert house.call("ListTagsForResource", Resource=named)["Tags"] == tags(keyfront__regions="eu")
    assert (
        house.refused("TagResource", Resource=arn("key-group", "no"), Tags=tags(a="b")).code
        == "NoSuchResource"
    )
    found = house.call("GetKeyGroup", Id=group)["KeyGroup"]
    assert "ARN" not in found
    house.call("DeleteKeyGroup", Id=group, IfMatch=house.etag("KeyGroup", group))
    assert house.refused("ListTagsForResource", Resource=named).code == "NoSuchResource"


@pytest.mark.parametrize("value", ["", "EU", "eu us!", "eu_1", "x" * 40])
def test_a_tie_that_makes_no_sense_is_refused(make: Make, value: str) -> None:
    house = make("eu", "us")
    id_ = house.distribution()["Id"]
    tie(house, "distribution", id_, "eu")
    before = of(house, "us")
    error = house.refused(
        "TagResource", Resource=arn("distribution", id_), Tags=tags(keyfront__regions=value)
    )
    assert error.code == "InvalidTagging"
    whole = {"DistributionConfig": minimal("two"), "Tags": tags(keyfront__regions=value)}
    assert (
        house.refused("CreateDistributionWithTags", DistributionConfigWithTags=whole).code == "InvalidTagging"
    )
    assert of(house, "us") == before


def test_a_key_that_was_meant_to_tie_is_refused_and_can_be_taken_away(make: Make) -> None:
    house = make()
    id_ = house.distribution()["Id"]
    for key in ("Keyfront:Regions", "keyfront:region"):
        given = {"Items": [{"Key": key, "Value": "eu"}]}
        error = house.refused("TagResource", Resource=arn("distribution", id_), Tags=given)
        assert (error.code, "keyfront:regions" in error.message) == ("InvalidTagging", True)
    house.call("UntagResource", Resource=arn("distribution", id_), TagKeys={"Items": ["Keyfront:Regions"]})


def test_a_tag_from_before_it_meant_anything_ties_to_nowhere(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    house = make("eu", "us")
    id_ = house.distribution()["Id"]
    with house.store.write() as transaction:
        transaction.set_tags("Distribution", id_, {"keyfront:regions": "Frankfurt!"})
    house.distribution("two")
    assert id_ not in ids(of(house))[0] + ids(of(house, "us"))[0]
    assert f"no edge gets Distribution {id_}" in caplog.text


def test_a_tie_changes_no_version_and_is_in_progress_until_all_edges_have_it(make: Make) -> None:
    house = make("eu", "us")
    group = house.group(house.key())
    id_ = trusted(house, group)
    other = house.distribution("other")["Id"]

    def report(*regions: str) -> None:
        for feed in (house.feed, *house.elsewhere):
            if feed.region in regions:
                feed.report("edge-1", of(house, feed.region).number, at=time.time())

    report("eu", "us")
    assert [status(house, one) for one in (id_, other)] == ["Deployed", "Deployed"]
    etag = house.etag("Distribution", id_)
    tie(house, "key-group", group, "eu")
    assert house.etag("Distribution", id_) == etag
    assert [status(house, one) for one in (id_, other)] == ["InProgress", "Deployed"]
    report("eu")
    assert status(house, id_) == "InProgress"  # us still has the key
    report("us")
    assert status(house, id_) == "Deployed"
    tie(house, "key-group", group, " eu ")  # says the same
    house.call("TagResource", Resource=arn("key-group", group), Tags=tags(team="films"))
    assert status(house, id_) == "Deployed"
    tie(house, "distribution", other, "us")
    assert [status(house, one) for one in (id_, other)] == ["Deployed", "InProgress"]


def test_a_key_that_is_in_two_groups_is_tied_by_either(make: Make) -> None:
    house = make("eu", "us")
    key = house.key()
    tied, free = house.group(key, name="tied"), house.group(key, name="free")
    id_ = trusted(house, free)
    for feed in (house.feed, *house.elsewhere):
        feed.report("edge-1", of(house).number, at=time.time())
    assert status(house, id_) == "Deployed"
    tie(house, "key-group", tied, "eu")
    assert (ids(of(house))[2], ids(of(house, "us"))[2]) == ([key], [])
    assert status(house, id_) == "InProgress"  # though nobody touched what it trusts
    for feed in (house.feed, *house.elsewhere):
        feed.report("edge-1", of(house).number, at=time.time())
    assert status(house, id_) == "Deployed"
    house.call("DeleteKeyGroup", Id=tied, IfMatch=house.etag("KeyGroup", tied))
    assert ids(of(house, "us"))[2] == [key]
    assert status(house, id_) == "InProgress"


def test_who_may_untie_is_a_matter_of_policies(make: Make) -> None:
    """A key group's tags are conditions as a distribution's are."""
    house = make("eu", "us")
    group = house.group(house.key())
    tie(house, "key-group", group, "eu")
    named, keys = arn("key-group", group), {"Items": ["keyfront:regions"]}
    tied = {"Null": {"aws:ResourceTag/keyfront:regions": "false"}}
    deny = {
        "Effect": "Deny",
        "Action": "cloudfront:UntagResource",
        "Resource": arn("key-group", "*"),
        "Condition": tied,
    }
    caller = holder(allow("*"), deny)
    assert "explicit deny" in denied(house, caller, "UntagResource", Resource=named, TagKeys=keys)
    assert told(house, holder(allow("*")), "UntagResource", Resource=named, TagKeys=keys) is None


# ---- several feeds, crashes, and what is away


def test_a_region_that_is_away_holds_up_nobody_and_catches_up(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    house = make("eu", "us")
    before = of(house, "us")
    folder = tmp_path / "feed-us"
    shutil.rmtree(folder)
    with caplog.at_level(logging.WARNING):
        id_ = house.distribution()["Id"]
        assert ids(of(house))[0] == [id_]
        assert house.service.follow(house.now)
        assert house.service.follow(house.now)
    assert caplog.text.count("region us does not get snapshot") == 1
    folder.mkdir()
    assert house.service.follow(house.now)
    assert ids(of(house, "us"))[0] == [id_]
    assert of(house, "us").number == of(house).number > before.number
    assert "region us has snapshot" in caplog.text


def test_a_restart_publishes_nothing_anew(make: Make) -> None:
    house = make("eu", "us")
    tie(house, "distribution", house.distribution()["Id"], "eu")
    before = of(house), of(house, "us")
    again = make("eu", "us")
    assert (of(again), of(again, "us")) == before


def test_a_region_that_is_new_gets_what_there_is(make: Make) -> None:
    house = make("eu")
    id_ = house.distribution()["Id"]
    again = make("eu", "us")
    assert ids(of(again, "us"))[0] == [id_]
    assert of(again, "us").number == of(house).number


def test_a_machine_that_changes_its_region_publishes_under_a_new_number(make: Make) -> None:
    house = make("eu", name="m")
    tie(house, "distribution", house.distribution()["Id"], "eu")
    number = of(house).number
    edge = FileFeed(house.folder, "eu")
    assert edge.poll(None) is not None
    again = make("us", name="m")
    assert (of(again).number, ids(of(again))) == (number + 1, ([], [], []))
    moved = FileFeed(house.folder, "us").poll(None)
    assert moved is not None
    assert moved == of(again)
    assert FileFeed(house.folder, "eu").published() is None


def test_a_store_that_went_back_goes_out_above_what_any_region_has_seen(make: Make, tmp_path: Path) -> None:
    house = make("eu", "us")
    id_ = house.distribution()["Id"]
    house.close()
    save(tmp_path)
    house = make("eu", "us")
    tie(house, "distribution", id_, "us")
    house.call(
        "CreateInvalidation",
        DistributionId=id_,
        InvalidationBatch={"CallerReference": "1", "Paths": many("/gone")},
    )
    number = of(house, "us").number
    assert of(house, "us").distributions[0].invalidations
    house.close()
    bring_back(tmp_path)
    again = make("eu", "us")
    assert of(again).number == of(again, "us").number == number + 1
    (carried,) = (
        of(again, "us").distributions[0].invalidations
    )  # its edges' copies end, though nobody remembers why
    assert (carried.number, carried.paths) == (number + 1, ("/gone",))


def test_a_store_that_is_lost_does_not_empty_another_region(make: Make, tmp_path: Path) -> None:
    house = make("eu", "us")
    tie(house, "distribution", house.distribution()["Id"], "us")
    house.close()
    shutil.rmtree(house.folder)
    empty = tmp_path / "eu"
    empty.mkdir()
    feed = FileFeed(tmp_path / "feed-us", "us")
    with pytest.raises(SettingsError, match="the store is new"):
        House(empty, region="eu", elsewhere=[feed])
    assert feed.published() is not None


def test_a_number_that_somebody_made_up_in_another_region_moves_nobody(make: Make, tmp_path: Path) -> None:
    house = make("eu", "us")
    number = of(house).number
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
    for house in (eu, us):
        house.report()
        assert house.service.follow(house.now)
    assert status(eu, id_) == "Deployed"
    tie(us, "key-group", group, "us")
    us.report()
    assert us.service.follow(us.now)
    assert status(us, id_) == "InProgress"  # eu has the key until it is told
    assert eu.service.follow(eu.now)
    assert (ids(of(eu))[1], ids(of(us))[1]) == ([], [group])
    eu.report()
    assert eu.service.follow(eu.now)
    assert [status(house, id_) for house in (eu, us)] == ["Deployed", "Deployed"]
    with eu.store.read() as transaction:
        assert sorted(edge.region for edge in transaction.edges()) == ["eu", "us"]


def test_two_control_planes_serve_the_same_regions(make: Make) -> None:
    one, other = make("eu", "us", name="one"), make("eu", "us", name="other")
    made = []
    for number in range(3):
        for house in (one, other):  # neither follows: what the other has published is ahead of it
            made.append(house.distribution(f"{number}-{house.folder.name}")["Id"])
            assert sorted(ids(of(house, "us"))[0]) == sorted(made)
    for house in (one, other, one):
        assert house.service.follow(house.now)
    assert of(one).number == of(other).number == of(one, "us").number
    assert one.service.follow(one.now)
    assert not one.service._replica._feed.behind


def test_a_region_that_came_back_with_more_than_the_store_knows(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The store came from a backup, and this region could not be reached when the control plane began."""
    house = make("eu", "us")
    id_ = house.distribution()["Id"]
    before = of(house)
    shutil.move(tmp_path / "feed-us", tmp_path / "away")
    assert house.service.follow(house.now)
    (tmp_path / "feed-us").mkdir()
    later = msgspec.structs.replace(before, number=before.number + 7, region="us")
    FileFeed(tmp_path / "feed-us", "us").publish(later)
    assert house.service.follow(house.now)
    assert house.service.follow(house.now)
    assert of(house).number == of(house, "us").number == before.number + 8
    assert ids(of(house, "us"))[0] == [id_]
    assert "the store has gone back" in caplog.text


def test_the_parts_are_those_of_one_whole(make: Make, tmp_path: Path) -> None:
    eu, us = make("eu", "asia"), make("us")
    tie(eu, "distribution", eu.distribution()["Id"], "asia eu")
    assert us.service.follow(us.now)
    store = Store(where(tmp_path))
    with store.read() as transaction:
        whole = us.service._replica._compiler.snapshot(
            transaction, transaction.snapshot_number(), transaction.decided()
        )
    store.close()
    for house, region in ((eu, "eu"), (eu, "asia"), (us, "us")):
        assert of(house, region) == for_region(whole, region)


# ---- what may not be meant


def test_who_ties_a_group_away_from_its_distribution_is_told_once(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    house = make("eu", "us")
    group = house.group(house.key())
    id_ = trusted(house, group)
    with caplog.at_level(logging.WARNING):
        tie(house, "key-group", group, "eu")
        house.distribution("another")
    told_ = f"distribution {id_}, behavior *: none of the key groups that it trusts has a key for edges in region us"
    assert caplog.text.count(told_) == 1
