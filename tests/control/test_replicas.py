"""Control planes that share a store: what one commits, the others publish, and of two conflicting changes, one wins.

Each harness has its own folder, as each machine has: its own feed, its own edges.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from keyfront.control.audit import records as audit
from keyfront.control.store.store import Store
from keyfront.errors import ApiError
from keyfront.model.snapshot import Snapshot
from tests.control.harness import BOTH, Harness, bring_back, minimal, save, trusting, where
from tests.keys import rsa_pem

STORES = BOTH

Fleet = Callable[[int], list[Harness]]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Creates that many control planes on one store."""
    houses: list[Harness] = []

    def make(number: int) -> list[Harness]:
        store = where(tmp_path)
        made = []
        for _ in range(number):
            seed = len(houses) + 1
            folder = tmp_path / f"machine-{seed}"
            folder.mkdir()
            (folder / "store").write_text(str(store))
            made.append(Harness(folder, seed=seed, replica=True))
            houses.append(made[-1])
        return made

    yield make
    for harness in houses:
        harness.close()


def follow(*houses: Harness) -> None:
    for harness in houses:
        assert harness.service.follow(harness.now)


def published(harness: Harness) -> Snapshot:
    found = harness.feed.published()
    assert found is not None
    return found


def status(harness: Harness, id_: str) -> str:
    return str(harness.call("GetDistribution", Id=id_)["Distribution"]["Status"])


# ---- what one commits


def test_the_others_publish_the_very_same_snapshot(fleet: Fleet) -> None:
    one, other, third = fleet(3)
    key = one.key()
    group = one.group(key)
    id_ = one.distribution(
        DefaultCacheBehavior=minimal()["DefaultCacheBehavior"] | {"TrustedKeyGroups": trusting(group)}
    )["Id"]
    one.call(
        "CreateInvalidation",
        DistributionId=id_,
        InvalidationBatch={"CallerReference": "1", "Paths": {"Quantity": 1, "Items": ["/a"]}},
    )
    follow(other, third)
    assert published(other).to_bytes() == published(third).to_bytes() == published(one).to_bytes()
    assert published(one).distributions[0].invalidations

    other.call(
        "UpdateKeyGroup",
        Id=group,
        IfMatch=one.etag("KeyGroup", group),
        KeyGroupConfig={"Name": "group", "Items": [key, other.key("second")]},
    )
    follow(one, third)
    assert published(other).to_bytes() == published(third).to_bytes() == published(one).to_bytes()
    assert len(published(one).public_keys) == 2


def test_who_starts_later_begins_with_what_the_others_have(fleet: Fleet) -> None:
    (one,) = fleet(1)
    one.distribution()
    (late,) = fleet(1)
    assert published(late).to_bytes() == published(one).to_bytes()
    assert one.number() == late.number()  # without a new decision


def test_numbers_grow_over_all_of_them_and_only_for_what_edges_notice(fleet: Fleet) -> None:
    one, other = fleet(2)
    numbers = [one.number()]
    ids = []
    for number in range(3):
        for harness in (one, other):  # neither follows: each write applies what the other has committed
            ids.append(harness.distribution(f"{number}-{harness.folder.name}")["Id"])
            numbers.append(harness.number())
    assert numbers == list(range(numbers[0], numbers[0] + 7))
    config, etag = one.config(ids[0])
    one.call("UpdateDistribution", Id=ids[0], IfMatch=etag, DistributionConfig=config | {"Comment": "new"})
    assert one.number() == numbers[-1]
    assert other.number() == numbers[-1]


def test_what_another_made_is_in_use_is_taken_and_is_found(fleet: Fleet) -> None:
    one, other = fleet(2)
    key = one.key()
    group = other.group(key)
    assert one.refused("DeletePublicKey", Id=key, IfMatch=one.etag("PublicKey", key)).code == "PublicKeyInUse"
    same = {"CallerReference": "key", "Name": "x", "EncodedKey": rsa_pem()}
    assert other.refused("CreatePublicKey", PublicKeyConfig=same).code == "PublicKeyAlreadyExists"
    other.call("DeleteKeyGroup", Id=group, IfMatch=one.etag("KeyGroup", group))
    one.call("DeletePublicKey", Id=key, IfMatch=other.etag("PublicKey", key))
    assert other.refused("GetPublicKey", Id=key).code == "NoSuchPublicKey"


# ---- what edges obey


def test_deployed_counts_the_edges_of_all(fleet: Fleet) -> None:
    one, other = fleet(2)
    one.report()
    other.report()
    follow(one, other)
    id_ = one.distribution()["Id"]
    one.report()
    follow(one)
    assert [status(harness, id_) for harness in (one, other)] == ["InProgress", "InProgress"]
    follow(other)  # publishes it for its own edges,
    assert status(one, id_) == "InProgress"
    other.report()  # which obey it,
    assert status(one, id_) == "InProgress"
    assert status(other, id_) == "Deployed"  # as their own control plane sees at once,
    follow(other)
    assert status(one, id_) == "Deployed"  # and the other one after its next poll


def test_whose_edges_are_gone_nobody_waits_for(fleet: Fleet) -> None:
    one, other = fleet(2)
    for harness in (one, other):
        harness.report()
    follow(one, other)
    id_ = one.distribution()["Id"]
    one.report()
    assert status(one, id_) == "InProgress"
    other.service.leave()
    assert status(one, id_) == "Deployed"


def test_a_control_plane_that_says_nothing_any_more_has_no_live_edges(fleet: Fleet) -> None:
    one, other = fleet(2)
    for harness in (one, other):
        harness.report()
    follow(one, other)
    id_ = one.distribution()["Id"]
    one.report()
    assert status(one, id_) == "InProgress"
    with one.store.write() as transaction:  # as if its last report were six seconds old
        transaction.connection.exec_driver_sql("UPDATE edge SET seen = seen - 6")
    assert status(one, id_) == "Deployed"
    follow(other)
    assert status(one, id_) == "Deployed"  # it is live, and has published it meanwhile; its edge has not
    with other.store.write_relaxed() as transaction:
        transaction.set_edges("other", {"edge-1": 1})
    assert status(one, id_) == "InProgress"


def test_completed_is_what_all_edges_have_and_stays_so(fleet: Fleet) -> None:
    one, other = fleet(2)
    id_ = one.distribution()["Id"]
    follow(other)
    for harness in (one, other):
        harness.report()
    follow(one, other)
    before = other.number()
    made = one.call(
        "CreateInvalidation",
        DistributionId=id_,
        InvalidationBatch={"CallerReference": "1", "Paths": {"Quantity": 1, "Items": ["/a"]}},
    )["Invalidation"]["Id"]

    def done(harness: Harness) -> str:
        return str(harness.call("GetInvalidation", DistributionId=id_, Id=made)["Invalidation"]["Status"])

    one.report()
    follow(one, other)
    assert (done(one), done(other)) == ("InProgress", "InProgress")
    other.report()
    follow(other)
    assert (done(one), done(other)) == ("Completed", "Completed")
    other.report(number=before)  # an edge that restarts
    follow(other, one)
    assert (done(one), done(other)) == ("Completed", "Completed")


def test_many_may_ask_at_the_same_time(fleet: Fleet) -> None:
    (one,) = fleet(1)
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            for number in range(20):
                one.report("edge-1", number)
                follow(one)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# ---- two at once


def test_of_two_replicas_with_one_etag_one_wins(fleet: Fleet) -> None:
    houses = fleet(2)
    id_ = houses[0].distribution()["Id"]
    for turn in range(8):
        config, etag = houses[turn % 2].config(id_)
        outcomes: list[tuple[str, int]] = []
        ready = threading.Barrier(2)

        def update(harness: Harness, config: Any = config, etag: str = etag, ready: Any = ready) -> None:
            ready.wait()
            changed = config | {"Enabled": not config["Enabled"], "Comment": harness.folder.name}
            try:
                harness.call("UpdateDistribution", Id=id_, IfMatch=etag, DistributionConfig=changed)
            except ApiError as error:
                outcomes.append((error.code, error.status))  # noqa: B023 - read in the same turn
            else:
                outcomes.append((harness.folder.name, 200))  # noqa: B023

        threads = [threading.Thread(target=update, args=(harness,)) for harness in houses]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert ("PreconditionFailed", 412) in outcomes
        ((winner, _),) = set(outcomes) - {("PreconditionFailed", 412)}
        assert houses[0].config(id_)[0]["Comment"] == winner
    follow(*houses)
    assert published(houses[0]).to_bytes() == published(houses[1]).to_bytes()


WRITER = """
import json, sys
from pathlib import Path
from keyfront.errors import ApiError
from tests.control.harness import Harness

harness = Harness(Path(sys.argv[1]), seed=int(sys.argv[2]), replica=True)
sys.stdin.readline()
for turn in range(25):
    for _ in range(100):
        config, etag = harness.config(sys.argv[3])
        config["Comment"] = str(int(config["Comment"] or 0) + 1)
        config["Enabled"] = not config["Enabled"]
        try:
            harness.call("UpdateDistribution", Id=sys.argv[3], IfMatch=etag, DistributionConfig=config)
        except ApiError as error:
            assert error.code == "PreconditionFailed", error
            continue
        print(json.dumps({"etag": etag, "number": harness.number()}), flush=True)
        break
harness.close()
"""


def test_nothing_is_lost_and_no_number_is_used_twice_between_processes(fleet: Fleet) -> None:
    (harness,) = fleet(1)
    id_ = harness.distribution()["Id"]
    first = harness.number()
    writers = []
    for seed in (11, 12):
        folder = harness.folder.parent / f"process-{seed}"
        folder.mkdir()
        (folder / "store").write_text(str(where(harness.folder)))
        writers.append(
            subprocess.Popen(
                [sys.executable, "-c", WRITER, str(folder), str(seed), id_],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
            )
        )
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    written = [json.loads(line) for writer in writers for line in writer.communicate()[0].splitlines()]
    assert [writer.returncode for writer in writers] == [0, 0]
    # Each update was based on the previous one's result: none is lost, none was applied twice.
    assert len(written) == 50
    assert harness.config(id_)[0]["Comment"] == "50"
    assert len({one["etag"] for one in written}) == 50
    assert {one["number"] for one in written} == set(range(first + 1, first + 51))
    follow(harness)
    assert harness.number() == first + 50
    with harness.store.read() as transaction:
        assert audit.first_break(transaction.audit(limit=10_000)) is None


# ---- the store is rolled back


def test_a_store_that_comes_back_from_a_backup_under_all_of_them(tmp_path: Path, fleet: Fleet) -> None:
    one, other = fleet(2)
    id_ = one.distribution()["Id"]
    follow(other)
    for harness in (one, other):
        harness.store.close()
    save(tmp_path)
    lost = one.distribution("lost")["Id"]
    follow(other)
    ahead = other.number()
    for harness in (one, other):
        harness.store.close()
    bring_back(tmp_path)
    if isinstance(where(tmp_path), Path):  # a replaced file goes unnoticed while the old one is open
        for harness in (one, other):
            harness.store = harness.service._store = harness.service._replica._store = Store(where(tmp_path))

    refused = other.refused(
        "CreatePublicKey", PublicKeyConfig={"CallerReference": "k", "Name": "k", "EncodedKey": rsa_pem()}
    )
    assert (refused.code, refused.status) == ("ServiceUnavailable", 503)
    follow(one, other)
    assert one.number() == other.number() == ahead + 1
    assert published(one).to_bytes() == published(other).to_bytes()
    assert {found.id for found in published(other).distributions} == {id_}
    assert other.refused("GetDistribution", Id=lost).code == "NoSuchDistribution"
    other.key("k")
    other.distribution("new")
    assert other.number() == ahead + 2
