"""Invalidations through the service: what is accepted, what is refused, what edges receive, and when one
completes."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from keyfront.control.audit import records as audit
from keyfront.fleet.file_feed import FileFeed
from keyfront.model.kinds import INVALIDATION, Quotas
from keyfront.model.snapshot import Invalidation, Snapshot
from tests.control.harness import BOTH, Config, Harness, bring_back, many, save
from tests.rows import rows

STORES = BOTH

REUSED = (
    "Your request contains a caller reference that was used for a previous invalidation batch for the same "
    "distribution."
)


def batch(*paths: str, reference: str = "one") -> Config:
    return {"Paths": many(*paths), "CallerReference": reference}


def create(harness: Harness, id_: str, *paths: str, reference: str = "one") -> Config:
    found: Config = harness.call(
        "CreateInvalidation", DistributionId=id_, InvalidationBatch=batch(*paths, reference=reference)
    )["Invalidation"]
    return found


def get(harness: Harness, id_: str, invalidation: str) -> Config:
    found: Config = harness.call("GetInvalidation", DistributionId=id_, Id=invalidation)["Invalidation"]
    return found


def carried(harness: Harness, id_: str) -> tuple[Invalidation, ...]:
    published = harness.feed.published()
    assert published is not None
    return {value.id: value for value in published.distributions}[id_].invalidations


def test_the_way_of_an_invalidation(harness: Harness) -> None:
    id_ = harness.distribution()["Id"]
    harness.report()
    etag, before = harness.etag("Distribution", id_), harness.number()
    made = harness.call(
        "CreateInvalidation", DistributionId=id_, InvalidationBatch=batch("/b/*", "/a", reference="r")
    )
    one = made["Invalidation"]
    assert INVALIDATION.fits(one["Id"])
    assert made["Location"] == f"/2020-05-31/distribution/{id_}/invalidation/{one['Id']}"
    assert "ETag" not in made
    assert one["Status"] == "InProgress"
    assert one["CreateTime"].timestamp() == harness.now
    assert one["InvalidationBatch"] == {
        "Paths": {"Quantity": 2, "Items": ["/b/*", "/a"]},
        "CallerReference": "r",
    }
    assert harness.number() == before + 1
    assert carried(harness, id_) == (Invalidation(before + 1, ("/b/*", "/a")),)
    assert get(harness, id_, one["Id"]) == one
    distribution = harness.call("GetDistribution", Id=id_)
    assert distribution["Distribution"]["InProgressInvalidationBatches"] == 1
    # It does not change the distribution, whose status depends on its config alone.
    assert distribution["Distribution"]["Status"] == "Deployed"
    assert distribution["ETag"] == etag

    harness.report()
    assert get(harness, id_, one["Id"]) == one | {"Status": "Completed"}
    assert harness.call("GetDistribution", Id=id_)["Distribution"]["InProgressInvalidationBatches"] == 0
    # Later snapshots still carry it.
    harness.distribution("other")
    assert carried(harness, id_) == (Invalidation(before + 1, ("/b/*", "/a")),)


def test_every_live_edge_must_have_obeyed_it(harness: Harness) -> None:
    id_ = harness.distribution()["Id"]
    harness.report("edge-1")
    harness.report("edge-2")
    one = create(harness, id_, "/a")["Id"]
    assert get(harness, id_, one)["Status"] == "InProgress"
    harness.report("edge-1")
    assert get(harness, id_, one)["Status"] == "InProgress"
    harness.report("edge-2")
    assert get(harness, id_, one)["Status"] == "Completed"


def test_what_is_completed_stays_so(harness: Harness, tmp_path: Path) -> None:
    id_ = harness.distribution()["Id"]
    one = create(harness, id_, "/a")["Id"]
    assert get(harness, id_, one)["Status"] == "InProgress"  # no edge is live to obey it
    harness.report()
    assert harness.service.follow(
        harness.now
    )  # called every second: no client needs to read the status while the edge lives
    harness.feed.remove_report("edge-1")
    assert get(harness, id_, one)["Status"] == "Completed"
    two = create(harness, id_, "/b", reference="two")["Id"]
    harness.close()
    again = Harness(tmp_path, seed=2)
    assert get(again, id_, one)["Status"] == "Completed"
    assert get(again, id_, two)["Status"] == "InProgress"
    again.close()


def test_the_same_reference(harness: Harness) -> None:
    id_, other = harness.distribution()["Id"], harness.distribution("two")["Id"]
    one = create(harness, id_, "/a", "/b")
    number = harness.number()
    assert create(harness, id_, "/b", "/a") == one
    assert create(harness, id_, "/a", "/b", "/a") == one
    assert harness.number() == number
    for paths in (("/a",), ("/a", "/b", "/c"), ("/a", "/B")):
        error = harness.refused("CreateInvalidation", DistributionId=id_, InvalidationBatch=batch(*paths))
        assert (error.code, error.status, error.message) == ("InvalidArgument", 400, REUSED)
    assert create(harness, other, "/c")["Id"] != one["Id"]


@rows(
    ("path", "message"),
    [
        ("a", "does not begin with a slash"),
        ("", "does not begin with a slash"),
        ("*", "does not begin with a slash"),
        ("https://d.test/a", "does not begin with a slash"),
        ("/" + "a" * 4000, "has more than 4000 characters"),
        ("/*/a", "not its last character"),
        ("/a**", "not its last character"),
        ("/a?x=*&y=1", "not its last character"),
        ("/caf\u00e9", "has '\\xe9', which must be URL-encoded"),
        ("/\u65e5", "has '\\u65e5', which must be URL-encoded"),
        ("/a b", "has ' ', which must be URL-encoded"),
        ("/a[1]", "has '[', which must be URL-encoded"),
        ("/~a", "has '~', which must be URL-encoded"),
        ("/a#b", "has '#', which must be URL-encoded"),
        ('/"', "must be URL-encoded"),
        ("/a\\b", "must be URL-encoded"),
        ("/a\n", "must be URL-encoded"),
        ("/a%", "has '%', which must be URL-encoded"),
        ("/a%4", "has '%', which must be URL-encoded"),
        ("/a%4*", "has '%', which must be URL-encoded"),
        ("/a%zz", "has '%', which must be URL-encoded"),
        ("#", "is a cache tag, which has 1 to 256 characters"),
        ("#" + "a" * 257, "is a cache tag, which has 1 to 256 characters"),
        ("#a,b", "is a cache tag with ','"),
        ("#a b", "is a cache tag with ' '"),
        ("#caf\u00e9", "is a cache tag with '\\xe9'"),
    ],
)
def test_paths_that_are_refused(harness: Harness, existing: Config, path: str, message: str) -> None:
    id_ = existing["Id"]
    number = harness.number()
    error = harness.refused("CreateInvalidation", DistributionId=id_, InvalidationBatch=batch("/ok", path))
    assert (error.code, error.status) == ("InvalidArgument", 400)
    assert error.message.startswith("Your request contains one or more invalid invalidation paths. Paths[1] ")
    assert message in error.message
    assert harness.number() == number
    assert harness.call("ListInvalidations", DistributionId=id_)["InvalidationList"]["Quantity"] == 0


@rows(
    "path",
    ["/", "/*", "/a/", "/a*", "/a?x=1&y=%20", "/a?*", "/" + "a" * 3999, "/caf%c3%A9", "/!$&'()+,;=:@-._/A9"]
    + ["#product:1", "#A*", "#" + "a" * 256, "#!\"#$%&'()*+-./"],
)
def test_paths_that_are_accepted(harness: Harness, existing: Config, path: str) -> None:
    created = create(harness, existing["Id"], path, reference=path[:100])
    assert created["InvalidationBatch"]["Paths"]["Items"] == [path]


def test_what_else_is_refused(harness: Harness) -> None:
    id_ = harness.distribution()["Id"]
    other = harness.distribution("two")["Id"]
    one = create(harness, id_, "/a")["Id"]
    cases: list[tuple[str, Config, str, int]] = [
        ("CreateInvalidation", {"DistributionId": "ENONE12345678"}, "NoSuchDistribution", 404),
        ("GetInvalidation", {"DistributionId": "ENONE12345678", "Id": one}, "NoSuchDistribution", 404),
        ("ListInvalidations", {"DistributionId": "ENONE12345678"}, "NoSuchDistribution", 404),
        ("GetInvalidation", {"DistributionId": id_, "Id": "INONE12345678"}, "NoSuchInvalidation", 404),
        ("GetInvalidation", {"DistributionId": other, "Id": one}, "NoSuchInvalidation", 404),
        ("GetInvalidation", {"DistributionId": id_, "Id": ""}, "NoSuchInvalidation", 404),
        ("ListInvalidations", {"DistributionId": id_, "Marker": "INONE12345678"}, "InvalidArgument", 400),
        ("ListInvalidations", {"DistributionId": other, "Marker": one}, "InvalidArgument", 400),
        ("ListInvalidations", {"DistributionId": id_, "Marker": "x"}, "InvalidArgument", 400),
        ("ListInvalidations", {"DistributionId": id_, "MaxItems": "0"}, "InvalidArgument", 400),
    ]
    for operation, params, code, status in cases:
        if operation == "CreateInvalidation":
            params["InvalidationBatch"] = batch("/a")
        error = harness.refused(operation, **params)
        assert (error.code, error.status) == (code, status), (operation, params)
    for wrong in (batch(), batch("/a", reference=""), batch("/a", reference="r" * 257)):
        error = harness.refused("CreateInvalidation", DistributionId=id_, InvalidationBatch=wrong)
        assert (error.code, error.status) == ("InvalidArgument", 400)
    for quantity, items in ((2, ["/a"]), (0, ["/a"]), (1, []), (-1, [])):
        wrong = {"Paths": {"Quantity": quantity, "Items": items}, "CallerReference": "q"}
        error = harness.refused("CreateInvalidation", DistributionId=id_, InvalidationBatch=wrong)
        assert (error.code, error.status) == ("InconsistentQuantities", 400)


def test_quotas_count_what_is_in_progress(tmp_path: Path) -> None:
    harness = Harness(tmp_path, quotas=Quotas(invalidation_paths=3, invalidation_wildcards=2))
    id_, other = harness.distribution()["Id"], harness.distribution("two")["Id"]

    def refused(*paths: str, where: str = id_) -> tuple[str, int]:
        error = harness.refused(
            "CreateInvalidation", DistributionId=where, InvalidationBatch=batch(*paths, reference="new")
        )
        return error.code, error.status

    assert refused("/1", "/2", "/3", "/4") == ("BatchTooLarge", 413)
    assert refused("/1*", "/2*", "/3*") == ("TooManyInvalidationsInProgress", 400)
    create(harness, id_, "/1", "/2", "/1*", reference="1")
    create(harness, id_, "/3", "/3*", reference="2")
    assert refused("/4") == ("TooManyInvalidationsInProgress", 400)
    assert refused("/4*") == ("TooManyInvalidationsInProgress", 400)
    assert create(harness, id_, "/3", "/3*", reference="2")["Status"] == "InProgress"  # nothing new
    create(harness, other, "/1", "/2", "/3", "/1*")  # each distribution has its own quota
    harness.report()
    create(harness, id_, "/4", "/5", "/6", "/7*", "/8*", reference="3")
    assert refused("/9") == ("TooManyInvalidationsInProgress", 400)
    harness.close()


def test_the_list_is_newest_first_and_pages(harness: Harness) -> None:
    id_, other = harness.distribution()["Id"], harness.distribution("two")["Id"]
    empty = harness.call("ListInvalidations", DistributionId=id_)["InvalidationList"]
    assert empty == {"Marker": "", "MaxItems": 100, "IsTruncated": False, "Quantity": 0}
    made: list[str] = []
    for number in range(7):
        made.insert(0, create(harness, id_, f"/{number}", reference=str(number))["Id"])
        create(harness, other, f"/{number}", reference=str(number))
        if number == 3:
            harness.report()
    found, marker = [], ""
    while True:
        more = {"Marker": marker} if marker else {}
        page = harness.call("ListInvalidations", DistributionId=id_, MaxItems="3", **more)["InvalidationList"]
        assert (page["Marker"], page["MaxItems"], page["Quantity"]) == (marker, 3, len(page["Items"]))
        found += page["Items"]
        if not page["IsTruncated"]:
            assert "NextMarker" not in page
            break
        marker = page["NextMarker"]
        assert marker == page["Items"][-1]["Id"]
        create(
            harness, id_, "/late", reference=f"late {marker}"
        )  # newer ones neither shift nor repeat a page
    assert [item["Id"] for item in found] == made
    assert [item["Status"] for item in found] == ["InProgress"] * 3 + ["Completed"] * 4
    assert all(item.keys() == {"Id", "CreateTime", "Status"} for item in found)


def test_what_is_carried_is_replaced_by_what_covers_it(harness: Harness) -> None:
    id_, other = harness.distribution()["Id"], harness.distribution("two")["Id"]
    create(harness, id_, "/a/1", "/b", reference="1")
    create(harness, other, "/a/1", reference="1")
    create(harness, id_, "/a/*", reference="2")
    number = harness.number()
    assert carried(harness, id_) == (Invalidation(number - 2, ("/b",)), Invalidation(number, ("/a/*",)))
    assert carried(harness, other) == (Invalidation(number - 1, ("/a/1",)),)
    config, etag = harness.config(id_)
    harness.call("UpdateDistribution", Id=id_, IfMatch=etag, DistributionConfig=config | {"Enabled": False})
    assert len(carried(harness, id_)) == 2
    harness.report()
    harness.call("DeleteDistribution", Id=id_, IfMatch=harness.etag("Distribution", id_))
    assert harness.refused("ListInvalidations", DistributionId=id_).code == "NoSuchDistribution"
    with harness.store.read() as transaction:
        assert transaction.carried_versions().keys() == {other}
        assert transaction.invalidations(id_, "", 10) == []


def test_the_audit_log_tells_of_it(harness: Harness) -> None:
    id_ = harness.distribution()["Id"]
    one = create(harness, id_, "/a/*", reference="r")
    harness.refused("CreateInvalidation", DistributionId=id_, InvalidationBatch=batch("a"))
    harness.call("ListInvalidations", DistributionId=id_)
    with harness.store.read() as transaction:
        records = [msgspec.json.decode(row.record) for row in transaction.audit()][-3:]
    made, refused, listed = records
    assert made["eventName"] == "CreateInvalidation"
    assert made["readOnly"] is False
    assert made["requestParameters"] == {
        "distributionId": id_,
        "invalidationBatch": {"paths": {"quantity": 1, "items": ["/a/*"]}, "callerReference": "r"},
    }
    assert made["responseElements"]["invalidation"] == {"id": one["Id"], "status": "InProgress"}
    assert refused["errorCode"] == "InvalidArgument"
    assert (listed["eventName"], listed["readOnly"]) == ("ListInvalidations", True)


def test_a_crash_between_commit_and_publication(harness: Harness, tmp_path: Path) -> None:
    id_ = harness.distribution()["Id"]
    harness.report()

    def fail(snapshot: Snapshot) -> None:
        raise OSError("no room")

    harness.feed.publish = fail  # type: ignore[method-assign]
    one = create(harness, id_, "/a")["Id"]
    harness.report()
    assert get(harness, id_, one)["Status"] == "InProgress"
    assert carried(harness, id_) == ()
    harness.close()
    again = Harness(tmp_path, seed=2)
    assert carried(again, id_) == (Invalidation(again.number(), ("/a",)),)
    again.report()
    assert get(again, id_, one)["Status"] == "Completed"
    again.close()


def test_what_was_undone_leaves_nothing_behind(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next invalidation gets the number of the failed one, and none of its paths."""
    id_ = harness.distribution()["Id"]
    with monkeypatch.context() as patched:
        patched.setattr(audit, "encode", lambda _: 1 / 0)  # the last step before the commit
        with pytest.raises(ZeroDivisionError):
            create(harness, id_, "/lost", reference="lost")
    create(harness, id_, "/a")
    assert carried(harness, id_) == (Invalidation(harness.number(), ("/a",)),)


def test_a_store_from_a_backup_forgets_no_invalidation(tmp_path: Path) -> None:
    """Edges have obeyed a later state than the store knows: everything that was invalidated, here or there, is
    invalidated once more."""
    harness = Harness(tmp_path)
    id_ = harness.distribution()["Id"]
    create(harness, id_, "/old", reference="1")
    harness.close()
    save(tmp_path)
    harness = Harness(tmp_path, seed=2)
    late = create(harness, id_, "/late", reference="2")["Id"]
    harness.report()
    last = harness.number()
    harness.close()
    bring_back(tmp_path)

    again = Harness(tmp_path, seed=3)
    assert again.number() == last + 1
    assert carried(again, id_) == (Invalidation(last + 1, ("/old", "/late")),)
    assert again.refused("GetInvalidation", DistributionId=id_, Id=late).code == "NoSuchInvalidation"
    (item,) = again.call("ListInvalidations", DistributionId=id_)["InvalidationList"]["Items"]
    assert item["Status"] == "InProgress"
    again.report()
    assert get(again, id_, item["Id"])["Status"] == "Completed"
    again.close()


def test_a_snapshot_stays_small_whatever_is_invalidated(tmp_path: Path) -> None:
    harness = Harness(tmp_path, audit_reads=False)
    id_ = harness.distribution()["Id"]
    for number in range(12):
        paths = [f"/{number}/{index:04}{'x' * 60}" for index in range(1000)]
        create(harness, id_, *paths, reference=str(number))
        harness.report()
    published = FileFeed(tmp_path).published()
    assert published is not None
    assert len(published.to_bytes()) < 512 * 1024
    first, *rest = carried(harness, id_)
    assert first.paths[0].endswith("*")
    assert rest[-1].paths == tuple(paths)
    harness.close()
