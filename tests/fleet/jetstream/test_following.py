"""Edges that follow over NATS: snapshots there, reports back, and what is refused."""

from __future__ import annotations

import msgspec
import pytest

from keyfront.fleet.jetstream import head
from tests.fleet.jetstream.conftest import NatsFleet
from tests.fleet.remote.harness import until
from tests.fleet.snapshots import snapshot


async def test_the_last_report_of_a_worker_is_kept_until_it_is_stored(fleet: NatsFleet) -> None:
    control = await fleet.control()
    machine = await fleet.following(control)
    machine.work({"run": "r", "keys": [["K1", "SHA1", "E0", 9]]})
    machine.feed.remove_report("worker-1")
    await until(control.hub.ended)
    await control.kill()  # it is lost before the report is stored
    assert len(machine.feed.ended()) == 1
    again = await fleet.control()
    await until(again.hub.ended)
    ((_, report),) = again.hub.ended()
    assert report.counters["keys"] == [["K1", "SHA1", "E0", 9]]

    def gather() -> bool:
        for path, _ in again.hub.ended():
            again.hub.forget(path)
        return not machine.feed.ended()

    await until(gather)


async def test_a_change_is_one_message_and_a_new_edge_gets_the_base(
    fleet: NatsFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "PART", 1 << 12)
    control = await fleet.control()
    machine = await fleet.following(control)
    old = snapshot(1, size=1000)
    control.hub.publish(old)
    await machine.reaches(1)
    some = list(old.distributions)
    some[7] = msgspec.structs.replace(some[7], enabled=False)
    new = msgspec.structs.replace(old, number=2, distributions=tuple(some))
    control.hub.publish(new)
    await machine.reaches(2)
    assert machine.snapshot() == new
    rome = await fleet.following(control, "rome")
    await rome.reaches(2)
    assert rome.snapshot() == new
