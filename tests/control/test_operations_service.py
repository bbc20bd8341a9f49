"""What holds for every operation: lists, tags, publishing, races, and a clear answer to what is not built."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import pytest

from keyfront.control.operations import OPERATIONS, unsupported
from keyfront.errors import ApiError, SettingsError, SnapshotRefused
from keyfront.fleet.file import FileFeed
from keyfront.model import members
from keyfront.model.kinds import KINDS, Quotas
from keyfront.model.service import service
from keyfront.model.snapshot import Snapshot
from tests.control.calls import World
from tests.control.house import ACCOUNT, BOTH, House, bring_back, lose, many, minimal, rsa_pem, save

STORES = BOTH

# ---- the table of kinds against the model


def test_the_rows_of_the_kinds_are_the_models() -> None:
    operations = service().operations
    for kind in KINDS.values():
        create, listing = operations[f"Create{kind.name}"], operations[f"List{kind.plural}"]
        delete, get = operations[f"Delete{kind.name}"], operations[f"Get{kind.name}"]
        assert kind.missing in get.errors
        assert kind.too_many in create.errors
        assert kind.in_use in delete.errors
        for unique in kind.unique:
            assert unique.taken in create.errors
        assert not kind.fixed or kind.fixed_error in operations[f"Update{kind.name}"].errors
        for reference in kind.refers_to:
            assert reference.missing in create.errors
        for member in (*kind.fixed, *(unique.path[0] for unique in kind.unique)):
            assert member in create.input.members[kind.config].members
        assert not kind.time or kind.time in get.output.members[kind.name].members
        assert not kind.repeatable or "CallerReference" in create.input.members[kind.config].members
        assert kind.config in operations[f"Get{kind.config}"].output.members
        assert kind.marked == ("Marker" in listing.output.members[kind.list].members)
        assert hasattr(Quotas(), kind.quota)


def section(title: str) -> str:
    text = (Path(__file__).parents[2] / "docs" / "not-cloudfront.md").read_text()
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_the_page_of_differences_lists_what_the_code_does() -> None:
    missing = section("Operations that are not built")
    assert sorted(re.findall(r"`([A-Za-z0-9]+)`", missing)) == unsupported()
    assert f"the API's {len(service().operations)} operations {len(OPERATIONS)} are built" in missing
    refused = section("Members of a distribution that are refused")
    rows = re.findall(r"^\| `(.+?)` \| `(.+?)` \| (.+) \|$", refused, re.MULTILINE)
    assert {path: (code, why) for path, code, why in rows} == members.REFUSED
    without = section("Members of a distribution that are accepted without effect")
    assert dict(re.findall(r"^\| `(.+?)` \| (.+) \|$", without, re.MULTILINE)) == members.WITHOUT_EFFECT


def test_what_is_not_built_says_so(house: House) -> None:
    assert OPERATIONS.keys() <= service().operations.keys()
    for name in ("CreateFunction", "ListFunctions", "NoSuchThing"):
        error = house.refused(name)
        assert (error.code, error.status) == ("UnsupportedOperation", 400)
        assert name in error.message


# ---- lists


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_pages(tmp_path: Path, kind: Any) -> None:
    house = House(tmp_path, quotas=Quotas(public_keys=50, key_groups=50))
    world = World(house.call, house.report)
    for _ in range(4):
        world.make(kind.name)

    def page(**params: str) -> dict[str, Any]:
        found: dict[str, Any] = house.call(f"List{kind.plural}", **params)[kind.list]
        return found

    def ids(found: dict[str, Any]) -> list[str]:
        return [item.get("Id") or item[kind.name]["Id"] for item in found.get("Items", [])]

    everything = page()
    total = everything["Quantity"]
    assert everything["MaxItems"] == 100
    assert "NextMarker" not in everything
    assert len(ids(everything)) == total
    for size in (1, 2, 3, 100, 5000):
        seen: list[str] = []
        marker = ""
        while True:
            found = page(MaxItems=str(size), Marker=marker)
            assert found["MaxItems"] == min(size, 100)
            assert found["Quantity"] == len(ids(found)) <= size
            if kind.marked:
                assert found["Marker"] == marker
                assert found["IsTruncated"] == ("NextMarker" in found)
            else:
                assert not {"Marker", "IsTruncated"} & found.keys()
            seen += ids(found)
            if "NextMarker" not in found:
                break
            marker = found["NextMarker"]
            assert marker == seen[-1]
        assert seen == ids(everything)
    for params in ({"MaxItems": "0"}, {"MaxItems": "-1"}, {"MaxItems": "ten"}, {"MaxItems": "1.5"}):
        assert house.refused(f"List{kind.plural}", **params).code == "InvalidArgument"
    for marker in ("nonsense", "x" * 1000, "K'; --"):
        assert house.refused(f"List{kind.plural}", Marker=marker).code == "InvalidArgument"
    house.close()


def test_an_empty_list(house: House) -> None:
    assert house.call("ListKeyGroups") == {"KeyGroupList": {"MaxItems": 100, "Quantity": 0}}
    assert house.call("ListDistributions") == {
        "DistributionList": {"Marker": "", "MaxItems": 100, "IsTruncated": False, "Quantity": 0}
    }


# ---- tags


def pairs(**tags: str) -> dict[str, Any]:
    return {"Items": [{"Key": key, "Value": value} for key, value in tags.items()]}


def test_tags(house: House) -> None:
    created = house.call(
        "CreateDistributionWithTags",
        DistributionConfigWithTags={"DistributionConfig": minimal(), "Tags": pairs(team="media", env="dev")},
    )
    arn, etag = created["Distribution"]["ARN"], created["ETag"]
    assert created["Location"] == f"/2020-05-31/distribution/{created['Distribution']['Id']}"
    assert house.call("ListTagsForResource", Resource=arn) == {"Tags": pairs(env="dev", team="media")}
    house.call("TagResource", Resource=arn, Tags={"Items": [{"Key": "env", "Value": "prod"}, {"Key": "new"}]})
    assert house.call("ListTagsForResource", Resource=arn) == {
        "Tags": pairs(env="prod", new="", team="media")
    }
    house.call("UntagResource", Resource=arn, TagKeys={"Items": ["new", "env", "never there"]})
    assert house.call("ListTagsForResource", Resource=arn) == {"Tags": pairs(team="media")}
    assert house.etag("Distribution", created["Distribution"]["Id"]) == etag
    house.call("TagResource", Resource=arn, Tags={})
    house.call("UntagResource", Resource=arn, TagKeys={})
    assert house.call("ListTagsForResource", Resource=arn) == {"Tags": pairs(team="media")}


@pytest.mark.parametrize(
    "resource",
    [
        f"arn:aws:cloudfront::{ACCOUNT}:distribution/ENOTHING000000",
        f"arn:aws:cloudfront::{ACCOUNT}:distribution/",
        f"arn:aws:cloudfront::{ACCOUNT}:distribution",
        f"arn:aws:cloudfront::{ACCOUNT}:key-group/x",
        "arn:aws:cloudfront::999999999999:distribution/{id}",
    ],
)
def test_tags_of_what_is_not_there(house: House, resource: str) -> None:
    resource = resource.replace("{id}", house.distribution()["Id"])
    cases: dict[str, dict[str, Any]] = {
        "ListTagsForResource": {},
        "TagResource": {"Tags": pairs(a="b")},
        "UntagResource": {"TagKeys": {"Items": ["a"]}},
    }
    for operation, params in cases.items():
        error = house.refused(operation, Resource=resource, **params)
        assert (error.code, error.status) == ("NoSuchResource", 404)
    assert house.refused("ListTagsForResource", Resource="arn:aws:s3:::b").code == "InvalidArgument"


@pytest.mark.parametrize(
    "tags",
    [
        pairs(**{"": "x"}),
        pairs(**{"k" * 129: "x"}),
        pairs(k="v" * 257),
        pairs(k="<script>"),
        pairs(**{"aws:x": "y"}),
        pairs(**{str(number): "" for number in range(51)}),
        {"Items": [{"Key": "a", "Value": "1"}, {"Key": "a", "Value": "2"}]},
    ],
)
def test_tags_that_are_refused(house: House, tags: dict[str, Any]) -> None:
    arn = house.distribution()["ARN"]
    assert house.refused("TagResource", Resource=arn, Tags=tags).code == "InvalidTagging"
    config = {"DistributionConfig": minimal("tagged"), "Tags": tags}
    error = house.refused("CreateDistributionWithTags", DistributionConfigWithTags=config)
    assert (error.code, error.status) == ("InvalidTagging", 400)
    assert house.call("ListDistributions")["DistributionList"]["Quantity"] == 1


def test_fifty_tags_and_no_more(house: House) -> None:
    arn = house.distribution()["ARN"]
    house.call("TagResource", Resource=arn, Tags=pairs(**{f"k{n}": "" for n in range(50)}))
    house.call("TagResource", Resource=arn, Tags=pairs(k1="changed"))
    assert house.refused("TagResource", Resource=arn, Tags=pairs(one="more")).code == "InvalidTagging"
    words = "Bücher und Äpfel _.:/=+-@ 漢字"
    house.call("UntagResource", Resource=arn, TagKeys={"Items": ["k0"]})
    house.call("TagResource", Resource=arn, Tags=pairs(**{words: words}))


# ---- publishing


def test_the_first_start_publishes_so_that_edges_have_something_to_obey(house: House) -> None:
    published = house.feed.published()
    assert published is not None
    assert (published.number, published.distributions) == (1, ())


def test_only_what_an_edge_would_obey_is_published(house: House) -> None:
    first = house.number()
    key = house.key()
    group = house.group(key)
    assert house.number() == first  # nobody trusts the group yet
    config = minimal()
    config["DefaultCacheBehavior"]["TrustedKeyGroups"] = {"Enabled": True} | many(group)
    house.call("CreateDistribution", DistributionConfig=config)
    assert house.number() == first + 1
    published = house.feed.published()
    assert published is not None
    assert [found.pem for found in published.public_keys] == [rsa_pem()]
    assert [found.key_ids for found in published.key_groups] == [(key,)]
    house.call("TagResource", Resource=arn_of(house), Tags=pairs(a="b"))
    assert house.number() == first + 1


def arn_of(house: House) -> str:
    return str(house.call("ListDistributions")["DistributionList"]["Items"][0]["ARN"])


def test_a_restart_changes_nothing(house: House) -> None:
    id_ = house.distribution()["Id"]
    house.report()
    before = house.feed.published()
    again = House(house.folder, seed=2)
    assert again.feed.published() == before
    assert again.call("GetDistribution", Id=id_)["Distribution"]["Status"] == "Deployed"
    again.distribution("two")
    assert again.number() == house.number()
    again.close()


def test_a_crash_between_commit_and_publication_is_healed_at_the_start(house: House) -> None:
    snapshot = house.folder / "snapshot"
    old = snapshot.read_bytes()
    id_ = house.distribution()["Id"]
    number = house.number()
    snapshot.write_bytes(old)  # as if the process had died before it published
    again = House(house.folder, seed=2)
    published = again.feed.published()
    assert published is not None
    assert published.number == number
    assert [found.id for found in published.distributions] == [id_]
    again.close()


def test_a_store_from_a_backup_is_published_above_what_edges_have(house: House) -> None:
    house.distribution("kept")
    kept = house.number()
    house.close()
    save(house.folder)
    house = House(house.folder, seed=3)
    for reference in "abc":
        house.distribution(reference)
    ahead = house.number()
    assert ahead == kept + 3
    house.report()
    house.close()
    bring_back(house.folder)

    again = House(house.folder, seed=2)
    assert again.number() == ahead + 1
    (summary,) = again.call("ListDistributions")["DistributionList"]["Items"]
    assert summary["Status"] == "InProgress"  # edges still obey what was lost
    again.report()
    (summary,) = again.call("ListDistributions")["DistributionList"]["Items"]
    assert summary["Status"] == "Deployed"
    again.close()


def test_a_lost_snapshot_file_is_written_again(house: House) -> None:
    house.distribution()
    before = house.feed.published()
    edge = FileFeed(house.folder)
    obeyed = edge.poll(None)
    assert obeyed == before
    (house.folder / "snapshot").write_bytes(b"garbage")
    with pytest.raises(SnapshotRefused):
        edge.poll(obeyed)
    again = House(house.folder, seed=2)
    after = edge.poll(obeyed)
    assert after is not None
    assert obeyed is not None
    assert after.number == obeyed.number + 1
    assert after.distributions == obeyed.distributions
    again.close()


def test_a_lost_store_is_no_reason_to_take_everything_from_the_edges(house: House) -> None:
    house.distribution()
    before = house.feed.published()
    house.close()
    lose(house.folder)
    with pytest.raises(SettingsError, match="the store is new"):
        House(house.folder)
    assert house.feed.published() == before
    (house.folder / "snapshot").unlink()
    (house.folder / "snapshot.accepted").unlink(missing_ok=True)
    House(house.folder).close()


def test_what_another_control_plane_published_meanwhile_counts(house: House) -> None:
    from keyfront.control.operations import Service

    feed = FullDisk(house.folder)
    slow = House(house.folder, seed=3)
    slow.service = Service(slow.store, feed, account=ACCOUNT)
    slow.service.start(slow.now)
    feed.full = True
    slow.distribution("ours")
    house.distribution("theirs")
    published = house.feed.published()
    assert published is not None
    assert len(published.distributions) == 2
    feed.full = False
    assert slow.service.follow(slow.now) is True
    assert house.feed.published() == published
    slow.close()


def test_a_bug_is_recorded_too(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> dict[str, Any]:
        raise ZeroDivisionError

    monkeypatch.setitem(OPERATIONS, "ListPublicKeys", broken)
    with pytest.raises(ZeroDivisionError):
        house.call("ListPublicKeys")
    with house.store.read() as transaction:
        assert b'"errorCode":"InternalFailure"' in transaction.audit()[-1].record


class FullDisk(FileFeed):
    """A feed whose disk is full while `full` is true."""

    full = False

    def publish(self, snapshot: Snapshot) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        super().publish(snapshot)


def test_a_change_that_cannot_be_published_stands_stays_in_progress_and_is_published_later(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    from keyfront.control.operations import Service

    feed = FullDisk(house.folder)
    house.service = Service(house.store, feed, account=ACCOUNT)
    house.service.start(house.now)
    number = house.number()
    feed.full = True
    id_ = house.distribution("one")["Id"]  # acknowledged: it is durable
    assert "not published yet" in caplog.text
    assert house.number() == number
    house.report()
    assert house.call("GetDistribution", Id=id_)["Distribution"]["Status"] == "InProgress"
    assert house.service.follow(house.now) is False
    house.distribution("two")
    feed.full = False
    assert house.service.follow(house.now) is True
    assert house.number() == number + 2  # one snapshot with both: edges need not see every number
    house.report()
    assert house.call("GetDistribution", Id=id_)["Distribution"]["Status"] == "Deployed"
    assert house.service.follow(house.now) is True


def test_a_feed_that_refuses_is_no_reason_to_fail_a_call(house: House) -> None:
    from keyfront.control.operations import Service

    class Refusing(FileFeed):
        def publish(self, snapshot: Snapshot) -> None:
            raise SnapshotRefused("no")

    house.service = Service(house.store, Refusing(house.folder), account=ACCOUNT)
    house.service.start(house.now)
    assert house.distribution()["Status"] == "InProgress"
    assert house.service.follow(house.now) is False


def test_what_no_longer_compiles_goes_on_as_it_was_published(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    id_ = house.distribution("old")["Id"]
    with house.store.write() as transaction:  # as if it came from a Keyfront whose rules were laxer
        (row,) = transaction.some("Distribution", [id_])
        row.config["Origins"]["Items"][0]["DomainName"] = "http://app.example.com"
        transaction.update(row)
    again = House(house.folder, seed=2)
    assert "does not compile any more" in caplog.text
    again.distribution("new")
    published = again.feed.published()
    assert published is not None
    assert {found.id for found in published.distributions} >= {id_}
    assert len(published.distributions) == 2
    config, etag = again.config(id_)
    error = again.refused("UpdateDistribution", Id=id_, IfMatch=etag, DistributionConfig=config)
    assert error.code == "InvalidArgument"
    config["Origins"]["Items"][0]["DomainName"] = "app.example.com"
    again.call("UpdateDistribution", Id=id_, IfMatch=etag, DistributionConfig=config)
    again.close()


# ---- races


def test_of_two_updates_with_one_etag_one_wins(house: House) -> None:
    id_ = house.distribution()["Id"]
    for turn in range(5):
        etag = house.etag("Distribution", id_)
        outcomes: list[str] = []
        barrier = threading.Barrier(4)

        def race(name: str, etag: str = etag, outcomes: Any = outcomes, barrier: Any = barrier) -> None:
            mine = minimal() | {"Comment": name}
            barrier.wait()
            try:
                house.call("UpdateDistribution", Id=id_, IfMatch=etag, DistributionConfig=mine)
                outcomes.append("")
            except ApiError as error:
                outcomes.append(error.code)

        threads = [threading.Thread(target=race, args=(f"{turn}-{number}",)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == ["", *["PreconditionFailed"] * 3]


def test_of_two_processes_with_one_etag_one_wins(house: House) -> None:
    """Two services on one store, as two processes would have it."""
    other = House(house.folder, seed=2)
    key = house.key()
    group = house.group(key)
    etag = house.etag("KeyGroup", group)
    config = {"Name": "group", "Items": [key], "Comment": "mine"}
    other.call("UpdateKeyGroup", Id=group, IfMatch=etag, KeyGroupConfig=config)
    error = house.refused("UpdateKeyGroup", Id=group, IfMatch=etag, KeyGroupConfig=config)
    assert (error.code, error.status) == ("PreconditionFailed", 412)
    # What the one has compiled the other does not know, and it notices.
    trusts = minimal()
    trusts["DefaultCacheBehavior"]["TrustedKeyGroups"] = {"Enabled": True} | many(group)
    house.call("CreateDistribution", DistributionConfig=trusts)
    other.distribution("theirs")
    published = other.feed.published()
    assert published is not None
    assert len(published.distributions) == 2
    assert len(published.key_groups) == 1
    other.close()


def test_one_caller_reference_from_many_threads_makes_one_distribution(house: House) -> None:
    outcomes: list[str] = []

    def race() -> None:
        try:
            house.distribution("same")
            outcomes.append("")
        except ApiError as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=race) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["", *["DistributionAlreadyExists"] * 5]
    assert house.call("ListDistributions")["DistributionList"]["Quantity"] == 1
