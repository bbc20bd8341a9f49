"""Edges that follow over a network: snapshots there, reports back, regions apart, and keys that succeed each other."""

from __future__ import annotations

import time

import msgspec

from tests.fleet.contract.conftest import AnyFleet
from tests.fleet.remote.harness import until
from tests.fleet.snapshots import snapshot


async def test_snapshots_go_there_and_reports_come_back(fleet: AnyFleet) -> None:
    control = await fleet.control()
    machine = await fleet.following(control)
    for number in (1, 2):
        control.hub.publish(snapshot(number))
        await machine.reaches(number)
    assert machine.snapshot() == snapshot(2)
    shared = ["0f6c61b0a1f7d2e4", "ada", "K1", "E0", 3, [1, 2], [3], ["DE"], 5, 99]
    machine.work({"run": "r", "keys": [["K1", "SHA1", "E0", 3]], "credentials": [shared]})
    await until(lambda: (one := control.reports().get("paris/worker-1")) and one.counters)
    report = control.reports()["paris/worker-1"]
    assert (report.number, report.region, report.refused) == (2, "", "")
    assert report.counters["keys"] == [["K1", "SHA1", "E0", 3]]
    assert report.counters["credentials"] == [shared]
    assert report.counters["run"] != "r"
    assert str(report.counters["run"]).endswith(":r")  # no edge can count for another
    (one,) = control.hub.reports(time.time())
    assert (one.name, one.number, one.counters) == ("paris/worker-1", 2, {})


async def test_the_last_report_of_a_worker_is_kept_until_it_is_stored(fleet: AnyFleet) -> None:
    control = await fleet.control()
    machine = await fleet.following(control)
    machine.work({"run": "r", "keys": [["K1", "SHA1", "E0", 9]]})
    machine.feed.remove_report("worker-1")
    await until(control.hub.ended)
    await machine.kill()  # the edge's machine crashes before the control plane has stored it
    assert len(machine.feed.ended()) == 1
    machine.follow()
    await until(control.hub.ended)
    ((_, report),) = control.hub.ended()
    assert report.counters["keys"] == [["K1", "SHA1", "E0", 9]]

    def gather() -> bool:
        for path, _ in control.hub.ended():
            control.hub.forget(path)
        return not machine.feed.ended()

    await until(gather)
    assert control.hub.ended() == []


async def test_each_region_gets_its_part(fleet: AnyFleet) -> None:
    control = await fleet.control()
    paris = await fleet.following(control, "paris", "eu")
    ohio = await fleet.following(control, "ohio", "us")
    moon = await fleet.following(control, "moon")
    whole = snapshot(5, size=2)
    tied = msgspec.structs.replace(whole.distributions[0], regions=("eu",))
    whole = msgspec.structs.replace(whole, distributions=(tied, whole.distributions[1]))
    control.hub.publish(whole)
    for machine in (paris, ohio, moon):
        await machine.reaches(5)
    names = {
        machine.data.name: [one.id for one in machine.snapshot().distributions]  # type: ignore[union-attr]
        for machine in (paris, ohio, moon)
    }
    assert names == {"paris": ["E0", "E1"], "ohio": ["E1"], "moon": ["E1"]}
    assert control.hub.regions == {"eu", "us", ""}
    for machine in (ohio, moon):
        everything = b"".join(path.read_bytes() for path in machine.data.rglob("*") if path.is_file())
        assert b"distribution/E0" not in everything


async def test_the_snapshot_key_can_be_replaced(fleet: AnyFleet) -> None:
    control = await fleet.control()
    machine = await fleet.following(control)
    control.hub.publish(snapshot(1))
    await machine.reaches(1)
    first = machine.files.edge().key
    control.registry.rotate_snapshot_key(time.time())
    await until(lambda: machine.files.edge().key != first)
    control.hub.publish(snapshot(2))
    await machine.reaches(2)
    await machine.stop()
    for _ in range(2):  # while it is away
        control.registry.rotate_snapshot_key(time.time())
    await until(lambda: len(control.hub._keys.chain) == 4)
    control.hub.publish(snapshot(3))
    machine.follow()
    await machine.reaches(3)
    # The proof of its number is signed with a key that is not the last one: it still counts.
    assert control.hub.number() == 0
