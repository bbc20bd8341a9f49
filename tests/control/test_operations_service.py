"""What holds for every operation: lists, tags, publishing, races, and a clear answer to unimplemented operations."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import pytest

from keyfront.control.operations.registry import OPERATIONS, unsupported
from keyfront.control.service import Service, ServiceSettings
from keyfront.errors import ApiError, SettingsError, SnapshotRefused
from keyfront.fleet.file_feed import FileFeed
from keyfront.fleet.regions import Regions
from keyfront.model import supported_members
from keyfront.model.kinds import KINDS, Quotas
from keyfront.model.service import service
from keyfront.model.snapshot import Snapshot
from tests.control.calls import World
from tests.control.harness import ACCOUNT, BOTH, Config, Harness, bring_back, lose, many, minimal, save
from tests.keys import rsa_pem
from tests.rows import rows

STORES = BOTH

# ---- the table of kinds, checked against the model


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
    assert {path: (code, why) for path, code, why in rows} == supported_members.REFUSED
    without = section("Members of a distribution that are accepted without effect")
    assert (
        dict(re.findall(r"^\| `(.+?)` \| (.+) \|$", without, re.MULTILINE))
        == supported_members.WITHOUT_EFFECT
    )


def test_what_is_not_built_says_so(harness: Harness) -> None:
    assert OPERATIONS.keys() <= service().operations.keys()
    for name in ("CreateFunction", "ListFunctions", "NoSuchThing"):
        error = harness.refused(name)
        assert (error.code, error.status) == ("UnsupportedOperation", 400)
        assert name in error.message


# ---- lists


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_pages(tmp_path: Path, kind: Any) -> None:
    harness = Harness(tmp_path, quotas=Quotas(public_keys=50, key_groups=50))
    world = World(harness.call, harness.report)
    for _ in range(4):
        world.make(kind.name)

    def page(**params: str) -> dict[str, Any]:
        found: dict[str, Any] = harness.call(f"List{kind.plural}", **params)[kind.list]
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
        assert harness.refused(f"List{kind.plural}", **params).code == "InvalidArgument"
    for marker in ("nonsense", "x" * 1000, "K'; --"):
        assert harness.refused(f"List{kind.plural}", Marker=marker).code == "InvalidArgument"
    harness.close()


def test_an_empty_list(harness: Harness) -> None:
    assert harness.call("ListKeyGroups") == {"KeyGroupList": {"MaxItems": 100, "Quantity": 0}}
    assert harness.call("ListDistributions") == {
        "DistributionList": {"Marker": "", "MaxItems": 100, "IsTruncated": False, "Quantity": 0}
    }


# ---- tags


def pairs(**tags: str) -> dict[str, Any]:
    return {"Items": [{"Key": key, "Value": value} for key, value in tags.items()]}


def test_tags(harness: Harness) -> None:
    created = harness.call(
        "CreateDistributionWithTags",
        DistributionConfigWithTags={"DistributionConfig": minimal(), "Tags": pairs(team="media", env="dev")},
    )
    arn, etag = created["Distribution"]["ARN"], created["ETag"]
    assert created["Location"] == f"/2020-05-31/distribution/{created['Distribution']['Id']}"
    assert harness.call("ListTagsForResource", Resource=arn) == {"Tags": pairs(env="dev", team="media")}
    harness.call(
        "TagResource", Resource=arn, Tags={"Items": [{"Key": "env", "Value": "prod"}, {"Key": "new"}]}
    )
    assert harness.call("ListTagsForResource", Resource=arn) == {
        "Tags": pairs(env="prod", new="", team="media")
    }
    harness.call("UntagResource", Resource=arn, TagKeys={"Items": ["new", "env", "never there"]})
    assert harness.call("ListTagsForResource", Resource=arn) == {"Tags": pairs(team="media")}
    assert harness.etag("Distribution", created["Distribution"]["Id"]) == etag
    harness.call("TagResource", Resource=arn, Tags={})
    harness.call("UntagResource", Resource=arn, TagKeys={})
    assert harness.call("ListTagsForResource", Resource=arn) == {"Tags": pairs(team="media")}


@rows(
    "resource",
    [
        f"arn:aws:cloudfront::{ACCOUNT}:distribution/ENOTHING000000",
        f"arn:aws:cloudfront::{ACCOUNT}:distribution/",
        f"arn:aws:cloudfront::{ACCOUNT}:distribution",
        f"arn:aws:cloudfront::{ACCOUNT}:key-group/x",
        "arn:aws:cloudfront::999999999999:distribution/{id}",
    ],
)
def test_tags_of_what_is_not_there(harness: Harness, existing: Config, resource: str) -> None:
    resource = resource.replace("{id}", existing["Id"])
    cases: dict[str, dict[str, Any]] = {
        "ListTagsForResource": {},
        "TagResource": {"Tags": pairs(a="b")},
        "UntagResource": {"TagKeys": {"Items": ["a"]}},
    }
    for operation, params in cases.items():
        error = harness.refused(operation, Resource=resource, **params)
        assert (error.code, error.status) == ("NoSuchResource", 404)
    assert harness.refused("ListTagsForResource", Resource="arn:aws:s3:::b").code == "InvalidArgument"


@rows(
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
def test_tags_that_are_refused(harness: Harness, existing: Config, tags: dict[str, Any]) -> None:
    arn = existing["ARN"]
    assert harness.refused("TagResource", Resource=arn, Tags=tags).code == "InvalidTagging"
    config = {"DistributionConfig": minimal("tagged"), "Tags": tags}
    error = harness.refused("CreateDistributionWithTags", DistributionConfigWithTags=config)
    assert (error.code, error.status) == ("InvalidTagging", 400)
    assert harness.call("ListDistributions")["DistributionList"]["Quantity"] == 1


def test_fifty_tags_and_no_more(harness: Harness) -> None:
    arn = harness.distribution()["ARN"]
    harness.call("TagResource", Resource=arn, Tags=pairs(**{f"k{n}": "" for n in range(50)}))
    harness.call("TagResource", Resource=arn, Tags=pairs(k1="changed"))
    assert harness.refused("TagResource", Resource=arn, Tags=pairs(one="more")).code == "InvalidTagging"
    words = "Bücher und Äpfel _.:/=+-@ 漢字"
    harness.call("UntagResource", Resource=arn, TagKeys={"Items": ["k0"]})
    harness.call("TagResource", Resource=arn, Tags=pairs(**{words: words}))


# ---- publishing


def test_the_first_start_publishes_so_that_edges_have_something_to_obey(harness: Harness) -> None:
    published = harness.feed.published()
    assert published is not None
    assert (published.number, published.distributions) == (1, ())


def test_only_what_an_edge_would_obey_is_published(harness: Harness) -> None:
    first = harness.number()
    key = harness.key()
    group = harness.group(key)
    assert harness.number() == first  # no distribution trusts the group yet
    config = minimal()
    config["DefaultCacheBehavior"]["TrustedKeyGroups"] = {"Enabled": True} | many(group)
    harness.call("CreateDistribution", DistributionConfig=config)
    assert harness.number() == first + 1
    published = harness.feed.published()
    assert published is not None
    assert [found.pem for found in published.public_keys] == [rsa_pem()]
    assert [found.key_ids for found in published.key_groups] == [(key,)]
    harness.call("TagResource", Resource=arn_of(harness), Tags=pairs(a="b"))
    assert harness.number() == first + 1


def arn_of(harness: Harness) -> str:
    return str(harness.call("ListDistributions")["DistributionList"]["Items"][0]["ARN"])


def test_a_restart_changes_nothing(harness: Harness) -> None:
    id_ = harness.distribution()["Id"]
    harness.report()
    before = harness.feed.published()
    again = Harness(harness.folder, seed=2)
    assert again.feed.published() == before
    assert again.call("GetDistribution", Id=id_)["Distribution"]["Status"] == "Deployed"
    again.distribution("two")
    assert again.number() == harness.number()
    again.close()


def test_a_crash_between_commit_and_publication_is_healed_at_the_start(harness: Harness) -> None:
    snapshot = harness.folder / "snapshot"
    old = snapshot.read_bytes()
    id_ = harness.distribution()["Id"]
    number = harness.number()
    snapshot.write_bytes(old)  # as if the process had died before it published
    again = Harness(harness.folder, seed=2)
    published = again.feed.published()
    assert published is not None
    assert published.number == number
    assert [found.id for found in published.distributions] == [id_]
    again.close()


def test_a_store_from_a_backup_is_published_above_what_edges_have(harness: Harness) -> None:
    harness.distribution("kept")
    restored = harness.number()
    harness.close()
    save(harness.folder)
    harness = Harness(harness.folder, seed=3)
    for reference in "abc":
        harness.distribution(reference)
    ahead = harness.number()
    assert ahead == restored + 3
    harness.report()
    harness.close()
    bring_back(harness.folder)

    again = Harness(harness.folder, seed=2)
    assert again.number() == ahead + 1
    (summary,) = again.call("ListDistributions")["DistributionList"]["Items"]
    assert summary["Status"] == "InProgress"  # edges still obey what was lost
    again.report()
    (summary,) = again.call("ListDistributions")["DistributionList"]["Items"]
    assert summary["Status"] == "Deployed"
    again.close()


def test_a_lost_snapshot_file_is_written_again(harness: Harness) -> None:
    harness.distribution()
    before = harness.feed.published()
    edge = FileFeed(harness.folder)
    obeyed = edge.poll(None)
    assert obeyed == before
    (harness.folder / "snapshot").write_bytes(b"garbage")
    with pytest.raises(SnapshotRefused):
        edge.poll(obeyed)
    again = Harness(harness.folder, seed=2)
    after = edge.poll(obeyed)
    assert after is not None
    assert obeyed is not None
    assert after.number == obeyed.number + 1
    assert after.distributions == obeyed.distributions
    again.close()


def test_a_lost_store_is_no_reason_to_take_everything_from_the_edges(harness: Harness) -> None:
    harness.distribution()
    before = harness.feed.published()
    harness.close()
    lose(harness.folder)
    with pytest.raises(SettingsError, match="the store is new"):
        Harness(harness.folder)
    assert harness.feed.published() == before
    (harness.folder / "snapshot").unlink()
    (harness.folder / "snapshot.accepted").unlink(missing_ok=True)
    Harness(harness.folder).close()


def test_what_another_control_plane_published_meanwhile_counts(harness: Harness) -> None:
    feed = FullDisk(harness.folder)
    slow = Harness(harness.folder, seed=3)
    slow.service = Service(slow.store, Regions(feed), ServiceSettings(account=ACCOUNT))
    slow.service.start(slow.now)
    feed.full = True
    slow.distribution("ours")
    harness.distribution("theirs")
    published = harness.feed.published()
    assert published is not None
    assert len(published.distributions) == 2
    feed.full = False
    assert slow.service.follow(slow.now) is True
    assert harness.feed.published() == published
    slow.close()


def test_a_bug_is_recorded_too(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> dict[str, Any]:
        raise ZeroDivisionError

    monkeypatch.setitem(OPERATIONS, "ListPublicKeys", broken)
    with pytest.raises(ZeroDivisionError):
        harness.call("ListPublicKeys")
    with harness.store.read() as transaction:
        assert b'"errorCode":"InternalFailure"' in transaction.audit()[-1].record


class FullDisk(FileFeed):
    """A feed whose disk is full while `full` is true."""

    full = False

    def publish(self, snapshot: Snapshot) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        super().publish(snapshot)


def test_a_change_that_cannot_be_published_stands_stays_in_progress_and_is_published_later(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    feed = FullDisk(harness.folder)
    harness.service = Service(harness.store, Regions(feed), ServiceSettings(account=ACCOUNT))
    harness.service.start(harness.now)
    number = harness.number()
    feed.full = True
    id_ = harness.distribution("one")["Id"]  # acknowledged, so it is durable
    assert "not published yet" in caplog.text
    assert harness.number() == number
    harness.report()
    assert harness.call("GetDistribution", Id=id_)["Distribution"]["Status"] == "InProgress"
    assert harness.service.follow(harness.now) is False
    harness.distribution("two")
    feed.full = False
    assert harness.service.follow(harness.now) is True
    assert harness.number() == number + 2  # one snapshot with both: edges need not see every number
    harness.report()
    assert harness.call("GetDistribution", Id=id_)["Distribution"]["Status"] == "Deployed"
    assert harness.service.follow(harness.now) is True


def test_a_snapshot_is_confirmed_while_it_is_the_latest(harness: Harness) -> None:
    feed = FullDisk(harness.folder)
    harness.service = Service(harness.store, Regions(feed), ServiceSettings(account=ACCOUNT))
    now = harness.now
    harness.service.start(now)
    assert harness.service.follow(now + 10)
    assert feed.confirmed_at() == now + 10
    feed.full = True
    harness.distribution("one")
    assert not harness.service.follow(now + 20)
    assert feed.confirmed_at() == now + 10  # edges lack what was committed
    feed.full = False
    assert harness.service.follow(now + 30)
    assert feed.confirmed_at() == now + 30


def test_a_feed_that_refuses_is_no_reason_to_fail_a_call(harness: Harness) -> None:
    class Refusing(FileFeed):
        def publish(self, snapshot: Snapshot) -> None:
            raise SnapshotRefused("no")

    harness.service = Service(
        harness.store, Regions(Refusing(harness.folder)), ServiceSettings(account=ACCOUNT)
    )
    harness.service.start(harness.now)
    assert harness.distribution()["Status"] == "InProgress"
    assert harness.service.follow(harness.now) is False


def test_what_no_longer_compiles_and_was_never_published_reaches_no_edge(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    id_ = harness.distribution("old")["Id"]
    with harness.store.write() as transaction:
        (row,) = transaction.get_many("Distribution", [id_])
        row.config["Origins"]["Items"][0]["DomainName"] = "http://app.example.com"
        transaction.update(row)
    for file in harness.folder.glob("snapshot*"):
        file.unlink()
    again = Harness(harness.folder, seed=2)
    assert f"Distribution {id_} no longer compiles" in caplog.text
    new = again.distribution("new")["Id"]
    published = again.feed.published()
    assert published is not None
    assert [each.id for each in published.distributions] == [new]


def test_what_no_longer_compiles_goes_on_as_it_was_published(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    id_ = harness.distribution("old")["Id"]
    with harness.store.write() as transaction:  # as if it came from a Keyfront with laxer rules
        (row,) = transaction.get_many("Distribution", [id_])
        row.config["Origins"]["Items"][0]["DomainName"] = "http://app.example.com"
        transaction.update(row)
    again = Harness(harness.folder, seed=2)
    assert "no longer compiles" in caplog.text
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


def test_of_two_updates_with_one_etag_one_wins(harness: Harness) -> None:
    id_ = harness.distribution()["Id"]
    for turn in range(5):
        etag = harness.etag("Distribution", id_)
        outcomes: list[str] = []
        barrier = threading.Barrier(4)

        def race(name: str, etag: str = etag, outcomes: Any = outcomes, barrier: Any = barrier) -> None:
            mine = minimal() | {"Comment": name}
            barrier.wait()
            try:
                harness.call("UpdateDistribution", Id=id_, IfMatch=etag, DistributionConfig=mine)
                outcomes.append("")
            except ApiError as error:
                outcomes.append(error.code)

        threads = [threading.Thread(target=race, args=(f"{turn}-{number}",)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == ["", *["PreconditionFailed"] * 3]


def test_of_two_processes_with_one_etag_one_wins(harness: Harness) -> None:
    """Two services on one store, as in two processes."""
    other = Harness(harness.folder, seed=2)
    key = harness.key()
    group = harness.group(key)
    etag = harness.etag("KeyGroup", group)
    config = {"Name": "group", "Items": [key], "Comment": "mine"}
    other.call("UpdateKeyGroup", Id=group, IfMatch=etag, KeyGroupConfig=config)
    error = harness.refused("UpdateKeyGroup", Id=group, IfMatch=etag, KeyGroupConfig=config)
    assert (error.code, error.status) == ("PreconditionFailed", 412)
    # One service's compiled config is unknown to the other, which notices.
    trusts = minimal()
    trusts["DefaultCacheBehavior"]["TrustedKeyGroups"] = {"Enabled": True} | many(group)
    harness.call("CreateDistribution", DistributionConfig=trusts)
    other.distribution("theirs")
    published = other.feed.published()
    assert published is not None
    assert len(published.distributions) == 2
    assert len(published.key_groups) == 1
    other.close()


def test_one_caller_reference_from_many_threads_makes_one_distribution(harness: Harness) -> None:
    outcomes: list[str] = []

    def race() -> None:
        try:
            harness.distribution("same")
            outcomes.append("")
        except ApiError as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=race) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["", *["DistributionAlreadyExists"] * 5]
    assert harness.call("ListDistributions")["DistributionList"]["Quantity"] == 1
