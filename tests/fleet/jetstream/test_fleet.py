"""Several control planes, restored ones, new keys and certificates, and revocation, over NATS."""

from __future__ import annotations

import time

import pytest

from keyfront.fleet.jetstream import bucket, follower, hub
from keyfront.fleet.jetstream.bucket import Bucket
from keyfront.fleet.jetstream.connection import connected
from keyfront.fleet.jetstream.head import Head
from keyfront.fleet.remote import authority
from keyfront.model.residency import for_region
from tests.fleet.jetstream.conftest import NatsFleet
from tests.fleet.jetstream.harness import NatsControl
from tests.fleet.remote.harness import until
from tests.fleet.snapshots import snapshot


def stored(control: NatsControl, region: str = "") -> Head | None:
    return control.hub._current.get(region)


async def test_control_planes_share_a_bucket(fleet: NatsFleet) -> None:
    one, two = await fleet.control(), await fleet.control()
    machine = await fleet.following(one)
    for number in range(1, 6):
        one.hub.publish(snapshot(number, created=float(number)))
        two.hub.publish(snapshot(number, created=float(number)))
        await machine.reaches(number)
    machine.work({"run": "r", "keys": [["K1", "SHA1", "E0", 9]]})
    for control in (one, two):
        await until(lambda: "paris/worker-1" in control.reports())  # noqa: B023 - awaited here
    # One of them is behind, and does not take the edges back.
    two.hub.publish(snapshot(6, created=6.0))
    await machine.reaches(6)
    await until(lambda: one.hub.number() == 6)
    one.hub.publish(snapshot(6, created=6.0))
    await until(lambda: one.hub.number() == 0)
    await one.kill()
    two.hub.publish(snapshot(7, created=7.0))
    await machine.reaches(7)
    machine.feed.remove_report("worker-1")
    await until(two.hub.ended)
    for path, _ in two.hub.ended():
        two.hub.forget(path)
    await until(lambda: not machine.feed.ended())


async def test_a_restored_control_plane_goes_on_above_what_edges_have(fleet: NatsFleet) -> None:
    control = await fleet.control()
    machine = await fleet.following(control)
    control.hub.publish(snapshot(5, created=5.0))
    await machine.reaches(5)
    await control.kill()
    again = await fleet.control()
    again.hub.publish(snapshot(3, created=3.0))
    await until(lambda: again.hub.number() == 5)
    assert machine.number() == 5
    again.hub.publish(snapshot(5, created=9.0))  # the same number, after another history
    await until(lambda: again.hub.number() == 6)
    again.hub.publish(snapshot(7, created=9.0))
    await machine.reaches(7)


async def test_an_edge_proves_what_it_has_if_the_bucket_is_lost_too(fleet: NatsFleet) -> None:
    control = await fleet.control()
    machine = await fleet.following(control)
    control.hub.publish(snapshot(5, created=5.0))
    await machine.reaches(5)
    await machine.stop()
    await control.kill()
    async with connected(fleet.access, fleet.access.servers[0], "i") as operator:
        for name in (f"KV_{fleet.access.bucket}", f"{fleet.access.bucket}_reports"):
            await operator.js.delete_stream(name)
    again = await fleet.control()
    again.hub.publish(snapshot(3, created=3.0))
    await until(lambda: stored(again))
    machine.follow()
    await until(lambda: again.hub.number() == 5)
    assert machine.number() == 5


async def test_the_snapshot_key_is_replaced(fleet: NatsFleet) -> None:
    control = await fleet.control()
    here, away = await fleet.following(control), await fleet.following(control, "rome")
    control.hub.publish(snapshot(1))
    await here.reaches(1)
    await away.reaches(1)
    await away.stop()
    first = here.files.edge().key
    for number in (2, 3):
        control.registry.rotate_snapshot_key(time.time())
        key = control.registry.keys().chain[-1].public.hex()
        await until(lambda: here.files.edge().key == key)  # noqa: B023 - awaited here
        control.hub.publish(snapshot(number))
        await here.reaches(number)
    assert away.files.edge().key == first
    away.follow()
    await away.reaches(3)
    assert away.files.edge().key == here.files.edge().key != first
    new = await fleet.following(control, "oslo")
    await new.reaches(3)


async def test_a_revoked_edge_stops(
    fleet: NatsFleet, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "REVOKED_STATUS", 0.5)
    control = await fleet.control()
    machine, other = await fleet.following(control), await fleet.following(control, "rome")
    control.hub.publish(snapshot(1))
    await machine.reaches(1)
    machine.work()
    await until(lambda: "paris/worker-1" in control.reports())
    control.registry.revoke("paris", time.time())
    await until(lambda: any("this edge is revoked" in one.getMessage() for one in caplog.records))
    assert "paris/worker-1" not in control.reports()
    control.hub.publish(snapshot(2))
    await other.reaches(2)
    link = machine.files.link()
    assert link is not None
    assert (link.control, machine.number()) == ("", 1)
    # Also when it starts again while no control plane has told it.
    await machine.stop()
    caplog.clear()
    machine.follow()
    await until(lambda: any("this edge is revoked" in one.getMessage() for one in caplog.records))
    await machine.stop()
    await machine.join_nats(fleet.access, control.token(), "paris")
    machine.follow()
    await machine.reaches(2)


async def test_certificates_are_renewed_and_expire(
    fleet: NatsFleet, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "RENEW_AT", 0.0)
    control = await fleet.control()
    machine = await fleet.following(control)
    control.hub.publish(snapshot(1))
    await machine.reaches(1)
    before = machine.files.credentials.read_bytes()
    await until(lambda: machine.files.credentials.read_bytes() != before)
    machine.work()
    await until(lambda: "paris/worker-1" in control.reports())
    ends = authority.expiry(machine.files.credentials.read_bytes())
    control.hub._clock = lambda: ends + 1
    await until(lambda: any("edge that signed it has expired" in one.getMessage() for one in caplog.records))


async def test_a_snapshot_is_confirmed_while_a_control_plane_is_alive(
    fleet: NatsFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "BEACON", 0.2)
    monkeypatch.setattr(follower, "SILENT", 1.0)
    control = await fleet.control()
    machine = await fleet.following(control)
    control.hub.publish(snapshot(1))
    await machine.reaches(1)
    before = time.time()
    await until(lambda: machine.feed.confirmed_at() > before)
    await control.kill()
    await until(lambda: (link := machine.files.link()) and "no control plane has been heard" in link.trouble)
    await fleet.control()
    link = machine.files.link()
    assert link is not None


async def test_what_no_edge_reads_is_removed(fleet: NatsFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket, "UNUSED", 0.0)
    control = await fleet.control()
    machine = await fleet.following(control, "paris", "eu")
    control.hub.publish(snapshot(1, size=100))
    await machine.reaches(1)
    first = stored(control, "eu")
    control.hub.publish(snapshot(2, size=1000))
    await machine.reaches(2)
    second = stored(control, "eu")
    assert first is not None
    assert second is not None
    assert first.base.id != second.base.id
    names = control.hub._names
    async with connected(fleet.access, fleet.access.servers[0], "i") as operator:

        async def keys() -> set[str]:
            info = await operator.js.stream_info(names.stream, subjects_filter=names.snapshots)
            return set(info.state.subjects or {})

        assert names.part("eu", first.base.id, 0) in await keys()
        made = Bucket(operator, names, 1)
        await made.sweep({"eu"}, {"eu": second.base.id})
        assert await keys() == {names.head("eu"), names.part("eu", second.base.id, 0)}
        await made.sweep({"us"}, {})
        assert await keys() == set()
    # It is written again, because there is an edge of the region.
    control.hub.publish(snapshot(3, size=1000))
    await machine.reaches(3)
    assert machine.snapshot() == for_region(snapshot(3, size=1000), "eu")
