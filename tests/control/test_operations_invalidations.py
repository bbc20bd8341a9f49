"""Invalidations through the service: what is taken, what is refused, what edges are told, and when it is done."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from keyfront.control import audit
from keyfront.fleet.file import FileFeed
from keyfront.model.kinds import INVALIDATION, Quotas
from keyfront.model.snapshot import Invalidation, Snapshot
from tests.control.house import BOTH, Config, House, bring_back, many, save

STORES = BOTH

REUSED = (
    "Your request contains a caller reference that was used for a previous invalidation batch for the same "
    "distribution."
)


def batch(*paths: str, reference: str = "one") -> Config:
    return {"Paths": many(*paths), "CallerReference": reference}


def create(house: House, id_: str, *paths: str, reference: str = "one") -> Config:
    found: Config = house.call(
        "CreateInvalidation", DistributionId=id_, InvalidationBatch=batch(*paths, reference=reference)
    )["Invalidation"]
    return found


def get(house: House, id_: str, invalidation: str) -> Config:
    found: Config = house.call("GetInvalidation", DistributionId=id_, Id=invalidation)["Invalidation"]
    return found


def carried(house: House, id_: str) -> tuple[Invalidation, ...]:
    published = house.feed.published()
    assert published is not None
    return {value.id: value for value in published.distributions}[id_].invalidations


def test_the_way_of_an_invalidation(house: House) -> None:
    id_ = house.distribution()["Id"]
    house.report()
    etag, before = house.etag("Distribution", id_), house.number()
    made = house.call(
        "CreateInvalidation", DistributionId=id_, InvalidationBatch=batch("/b/*", "/a", reference="r")
    )
    one = made["Invalidation"]
    assert INVALIDATION.fits(one["Id"])
    assert made["Location"] == f"/2020-05-31/distribution/{id_}/invalidation/{one['Id']}"
    assert "ETag" not in made
    assert one["Status"] == "InProgress"
    assert one["CreateTime"].timestamp() == house.now
    assert one["InvalidationBatch"] == {
        "Paths": {"Quantity": 2, "Items": ["/b/*", "/a"]},
        "CallerReference": "r",
    }
    assert house.number() == before + 1
    assert carried(house, id_) == (Invalidation(before + 1, ("/b/*", "/a")),)
    assert get(house, id_, one["Id"]) == one
    distribution = house.call("GetDistribution", Id=id_)
    assert distribution["Distribution"]["InProgressInvalidationBatches"] == 1
    # It changes nothing of the distribution, whose status counts its config alone.
    assert distribution["Distribution"]["Status"] == "Deployed"
    assert distribution["ETag"] == etag

    house.report()
    assert get(house, id_, one["Id"]) == one | {"Status": "Completed"}
    assert house.call("GetDistribution", Id=id_)["Distribution"]["InProgressInvalidationBatches"] == 0
    # What comes later carries it still.
    house.distribution("other")
    assert carried(house, id_) == (Invalidation(before + 1, ("/b/*", "/a")),)


def test_every_live_edge_must_have_obeyed_it(house: House) -> None:
    id_ = house.distribution()["Id"]
    house.report("edge-1")
    house.report("edge-2")
    one = create(house, id_, "/a")["Id"]
    assert get(house, id_, one)["Status"] == "InProgress"
    house.report("edge-1")
    assert get(house, id_, one)["Status"] == "InProgress"
    house.report("edge-2")
    assert get(house, id_, one)["Status"] == "Completed"


def test_what_is_completed_stays_so(house: House, tmp_path: Path) -> None:
    id_ = house.distribution()["Id"]
    one = create(house, id_, "/a")["Id"]
    assert get(house, id_, one)["Status"] == "InProgress"  # nobody is there to obey it
    house.report()
    assert house.service.follow(
        house.now
    )  # asked every second: nobody need have asked for the status while the edge lived
    house.feed.remove_report("edge-1")
    assert get(house, id_, one)["Status"] == "Completed"
    two = create(house, id_, "/b", reference="two")["Id"]
    house.close()
    again = House(tmp_path, seed=2)
    assert get(again, id_, one)["Status"] == "Completed"
    assert get(again, id_, two)["Status"] == "InProgress"
    again.close()


def test_the_same_reference(house: House) -> None:
    id_, other = house.distribution()["Id"], house.distribution("two")["Id"]
    one = create(house, id_, "/a", "/b")
    number = house.number()
    assert create(house, id_, "/b", "/a") == one
    assert create(house, id_, "/a", "/b", "/a") == one
    assert house.number() == number
    for paths in (("/a",), ("/a", "/b", "/c"), ("/a", "/B")):
        error = house.refused("CreateInvalidation", DistributionId=id_, InvalidationBatch=batch(*paths))
        assert (error.code, error.status, error.message) == ("InvalidArgument", 400, REUSED)
    assert create(house, other, "/c")["Id"] != one["Id"]


@pytest.mark.parametrize(
    ("path", "said"),
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
def test_paths_that_are_refused(house: House, path: str, said: str) -> None:
    id_ = house.distribution()["Id"]
    number = house.number()
    error = house.refused("CreateInvalidation", DistributionId=id_, InvalidationBatch=batch("/ok", path))
    assert (error.code, error.status) == ("InvalidArgument", 400)
    assert error.message.startswith("Your request contains one or more invalid invalidation paths. Paths[1] ")
    assert said in error.message
    assert house.number() == number
    assert house.call("ListInvalidations", DistributionId=id_)["InvalidationList"]["Quantity"] == 0


@pytest.mark.parametrize(
    "path",
    ["/", "/*", "/a/", "/a*", "/a?x=1&y=%20", "/a?*", "/" + "a" * 3999, "/caf%c3%A9", "/!$&'()+,;=:@-._/A9"]
    + ["#product:1", "#A*", "#" + "a" * 256, "#!\"#$%&'()*+-./"],
)
def test_paths_that_are_taken(house: House, path: str) -> None:
    id_ = house.distribution()["Id"]
    assert create(house, id_, path)["InvalidationBatch"]["Paths"]["Items"] == [path]


def test_what_else_is_refused(house: House) -> None:
    id_ = house.distribution()["Id"]
    other = house.distribution("two")["Id"]
    one = create(house, id_, "/a")["Id"]
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
        error = house.refused(operation, **params)
        assert (error.code, error.status) == (code, status), (operation, params)
    for wrong in (batch(), batch("/a", reference=""), batch("/a", reference="r" * 257)):
        error = house.refused("CreateInvalidation", DistributionId=id_, InvalidationBatch=wrong)
        assert (error.code, error.status) == ("InvalidArgument", 400)
    for quantity, items in ((2, ["/a"]), (0, ["/a"]), (1, []), (-1, [])):
        wrong = {"Paths": {"Quantity": quantity, "Items": items}, "CallerReference": "q"}
        error = house.refused("CreateInvalidation", DistributionId=id_, InvalidationBatch=wrong)
        assert (error.code, error.status) == ("InconsistentQuantities", 400)


def test_quotas_count_what_is_in_progress(tmp_path: Path) -> None:
    house = House(tmp_path, quotas=Quotas(invalidation_paths=3, invalidation_wildcards=2))
    id_, other = house.distribution()["Id"], house.distribution("two")["Id"]

    def refused(*paths: str, where: str = id_) -> tuple[str, int]:
        error = house.refused(
            "CreateInvalidation", DistributionId=where, InvalidationBatch=batch(*paths, reference="new")
        )
        return error.code, error.status

    assert refused("/1", "/2", "/3", "/4") == ("BatchTooLarge", 413)
    assert refused("/1*", "/2*", "/3*") == ("TooManyInvalidationsInProgress", 400)
    create(house, id_, "/1", "/2", "/1*", reference="1")
    create(house, id_, "/3", "/3*", reference="2")
    assert refused("/4") == ("TooManyInvalidationsInProgress", 400)
    assert refused("/4*") == ("TooManyInvalidationsInProgress", 400)
    assert create(house, id_, "/3", "/3*", reference="2")["Status"] == "InProgress"  # nothing new
    create(house, other, "/1", "/2", "/3", "/1*")  # each distribution has its own quota
    house.report()
    create(house, id_, "/4", "/5", "/6", "/7*", "/8*", reference="3")
    assert refused("/9") == ("TooManyInvalidationsInProgress", 400)
    house.close()


def test_the_list_is_newest_first_and_pages(house: House) -> None:
    id_, other = house.distribution()["Id"], house.distribution("two")["Id"]
    empty = house.call("ListInvalidations", DistributionId=id_)["InvalidationList"]
    assert empty == {"Marker": "", "MaxItems": 100, "IsTruncated": False, "Quantity": 0}
    made: list[str] = []
    for number in range(7):
        made.insert(0, create(house, id_, f"/{number}", reference=str(number))["Id"])
        create(house, other, f"/{number}", reference=str(number))
        if number == 3:
            house.report()
    found, marker = [], ""
    while True:
        more = {"Marker": marker} if marker else {}
        page = house.call("ListInvalidations", DistributionId=id_, MaxItems="3", **more)["InvalidationList"]
        assert (page["Marker"], page["MaxItems"], page["Quantity"]) == (marker, 3, len(page["Items"]))
        found += page["Items"]
        if not page["IsTruncated"]:
            assert "NextMarker" not in page
            break
        marker = page["NextMarker"]
        assert marker == page["Items"][-1]["Id"]
        create(house, id_, "/late", reference=f"late {marker}")  # newer ones neither shift nor repeat a page
    assert [item["Id"] for item in found] == made
    assert [item["Status"] for item in found] == ["InProgress"] * 3 + ["Completed"] * 4
    assert all(item.keys() == {"Id", "CreateTime", "Status"} for item in found)


def test_what_is_carried_is_replaced_by_what_covers_it(house: House) -> None:
    id_, other = house.distribution()["Id"], house.distribution("two")["Id"]
    create(house, id_, "/a/1", "/b", reference="1")
    create(house, other, "/a/1", reference="1")
    create(house, id_, "/a/*", reference="2")
    number = house.number()
    assert carried(house, id_) == (Invalidation(number - 2, ("/b",)), Invalidation(number, ("/a/*",)))
    assert carried(house, other) == (Invalidation(number - 1, ("/a/1",)),)
    config, etag = house.config(id_)
    house.call("UpdateDistribution", Id=id_, IfMatch=etag, DistributionConfig=config | {"Enabled": False})
    assert len(carried(house, id_)) == 2
    house.report()
    house.call("DeleteDistribution", Id=id_, IfMatch=house.etag("Distribution", id_))
    assert house.refused("ListInvalidations", DistributionId=id_).code == "NoSuchDistribution"
    with house.store.read() as transaction:
        assert transaction.carried_versions().keys() == {other}
        assert transaction.invalidations(id_, "", 10) == []


def test_the_audit_log_tells_of_it(house: House) -> None:
    id_ = house.distribution()["Id"]
    one = create(house, id_, "/a/*", reference="r")
    house.refused("CreateInvalidation", DistributionId=id_, InvalidationBatch=batch("a"))
    house.call("ListInvalidations", DistributionId=id_)
    with house.store.read() as transaction:
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


def test_a_crash_between_commit_and_publication(house: House, tmp_path: Path) -> None:
    id_ = house.distribution()["Id"]
    house.report()

    def fail(snapshot: Snapshot) -> None:
        raise OSError("no room")

    house.feed.publish = fail  # type: ignore[method-assign]
    one = create(house, id_, "/a")["Id"]
    house.report()
    assert get(house, id_, one)["Status"] == "InProgress"
    assert carried(house, id_) == ()
    house.close()
    again = House(tmp_path, seed=2)
    assert carried(again, id_) == (Invalidation(again.number(), ("/a",)),)
    again.report()
    assert get(again, id_, one)["Status"] == "Completed"
    again.close()


def test_what_was_undone_leaves_nothing_behind(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next invalidation gets the number of the one that failed, and none of its paths."""
    id_ = house.distribution()["Id"]
    with monkeypatch.context() as patched:
        patched.setattr(audit, "encode", lambda _: 1 / 0)  # the last step before the commit
        with pytest.raises(ZeroDivisionError):
            create(house, id_, "/lost", reference="lost")
    create(house, id_, "/a")
    assert carried(house, id_) == (Invalidation(house.number(), ("/a",)),)


def test_a_store_from_a_backup_forgets_no_invalidation(tmp_path: Path) -> None:
    """Edges have obeyed more than the store knows: all that was invalidated, here or there, ends once more."""
    house = House(tmp_path)
    id_ = house.distribution()["Id"]
    create(house, id_, "/old", reference="1")
    house.close()
    save(tmp_path)
    house = House(tmp_path, seed=2)
    late = create(house, id_, "/late", reference="2")["Id"]
    house.report()
    last = house.number()
    house.close()
    bring_back(tmp_path)

    again = House(tmp_path, seed=3)
    assert again.number() == last + 1
    assert carried(again, id_) == (Invalidation(last + 1, ("/old", "/late")),)
    assert again.refused("GetInvalidation", DistributionId=id_, Id=late).code == "NoSuchInvalidation"
    (item,) = again.call("ListInvalidations", DistributionId=id_)["InvalidationList"]["Items"]
    assert item["Status"] == "InProgress"
    again.report()
    assert get(again, id_, item["Id"])["Status"] == "Completed"
    again.close()


def test_a_snapshot_stays_small_whatever_is_invalidated(tmp_path: Path) -> None:
    house = House(tmp_path, audit_reads=False)
    id_ = house.distribution()["Id"]
    for number in range(12):
        paths = [f"/{number}/{index:04}{'x' * 60}" for index in range(1000)]
        create(house, id_, *paths, reference=str(number))
        house.report()
    published = FileFeed(tmp_path).published()
    assert published is not None
    assert len(published.to_bytes()) < 512 * 1024
    first, *rest = carried(house, id_)
    assert first.paths[0].endswith("*")
    assert rest[-1].paths == tuple(paths)
    house.close()
