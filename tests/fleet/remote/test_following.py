"""Edges that follow control planes over HTTPS: snapshots there, reports back, failover, and what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from websockets.exceptions import ConnectionClosed

from keyfront.errors import SnapshotRefused
from keyfront.fleet.remote import authority, content, follower, manifest, messages, publishing
from keyfront.fleet.remote.connect import open_connection, pinned
from keyfront.fleet.remote.enrollment import LastGood
from keyfront.fleet.remote.manifest import Manifest, Signed
from keyfront.model.snapshot import KeyGroup, PublicKey, Snapshot
from tests.fleet.remote.conftest import Fleet
from tests.fleet.remote.harness import PATIENCE, Control, Machine, until
from tests.fleet.snapshots import snapshot


async def following(fleet: Fleet, control: Control, name: str = "paris", region: str = "") -> Machine:
    """A machine that is enrolled and follows `control`."""
    machine = fleet.machine(name)
    await machine.join(control, token=control.token(region=region), name=name)
    machine.follow()
    return machine


async def test_a_change_is_sent_as_a_difference(fleet: Fleet) -> None:
    control = await fleet.control()
    machine = await following(fleet, control)
    old = snapshot(1, size=2000)
    control.hub.publish(old)
    await machine.reaches(1)
    some = list(old.distributions)
    some[7] = msgspec.structs.replace(some[7], enabled=False)
    new = msgspec.structs.replace(old, number=2, distributions=tuple(some))
    sent: list[int] = []
    accept = LastGood.accept

    def record(self: LastGood, signed: Signed, base: bytes, body: bytes) -> None:
        sent.append(len(body))
        accept(self, signed, base, body)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LastGood, "accept", record)
        control.hub.publish(new)
        await machine.reaches(2)
    assert machine.snapshot() == new
    assert sent
    assert max(sent) < 1000


async def test_a_change_right_after_a_restart_is_sent_as_a_difference(fleet: Fleet) -> None:
    control = await fleet.control()
    machine = await following(fleet, control)
    control.hub.publish(snapshot(1, size=300))
    await machine.reaches(1)
    await machine.stop()
    await control.__aexit__()
    bases: list[bytes] = []
    accept = LastGood.accept

    def record(self: LastGood, signed: Signed, base: bytes, body: bytes) -> None:
        bases.append(base)
        accept(self, signed, base, body)

    again = Control(control.registry)
    again.port = control.port
    again.hub.publish(snapshot(1, size=300))
    again.hub.publish(snapshot(2, size=300))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LastGood, "accept", record)
        async with again:
            machine.follow()
            await machine.reaches(2)
            await machine.stop()
    assert bases
    assert all(bases)


async def test_an_edge_that_has_lost_its_snapshot_gets_it_whole(fleet: Fleet) -> None:
    control = await fleet.control()
    machine = await following(fleet, control)
    control.hub.publish(snapshot(1, size=100))
    await machine.reaches(1)
    (machine.files.feed / "snapshot").write_bytes(b"damaged while the follower runs")
    control.hub.publish(snapshot(2, size=100))
    await machine.reaches(2)
    await machine.stop()
    (machine.files.feed / "snapshot").write_bytes(b"damaged while it does not run")
    machine.follow()
    await machine.reaches(2)


async def test_nothing_is_sent_to_an_edge_that_has_the_snapshot(fleet: Fleet) -> None:
    control = await fleet.control()
    control.hub.publish(snapshot(3))
    machine = await following(fleet, control)
    await machine.is_current()
    assert machine.number() == 3
    await machine.stop()
    before = os.stat(machine.files.feed / "snapshot").st_mtime_ns
    machine.follow()
    await machine.is_current()
    assert os.stat(machine.files.feed / "snapshot").st_mtime_ns == before


async def test_revocation_cuts_the_connection_and_the_edge_keeps_what_it_has(fleet: Fleet) -> None:
    control = await fleet.control()
    paris, rome = await following(fleet, control), await following(fleet, control, "rome")
    control.hub.publish(snapshot(1))
    for machine in (paris, rome):
        await machine.reaches(1)
        machine.work()
    await until(lambda: len(control.reports()) == 2)
    control.registry.revoke("paris", time.time())
    await until(lambda: list(control.reports()) == ["rome/worker-1"])
    control.hub.publish(snapshot(2))
    await rome.reaches(2)
    assert paris.number() == 1
    await paris.stop()
    edge = paris.files.edge()
    with pytest.raises(Exception, match="revoked"):
        await open_connection(control.url, "/feed", pinned(edge.authority, paris.files.credentials), "")


async def test_another_control_plane_takes_over(fleet: Fleet) -> None:
    one, two = await fleet.control(), await fleet.control()
    machine = fleet.machine()
    await machine.join(one, two)
    machine.follow()
    one.hub.publish(snapshot(1))
    two.hub.publish(snapshot(1))
    await machine.reaches(1)
    await one.__aexit__()
    two.hub.publish(snapshot(2))
    await machine.reaches(2)
    machine.work()
    await until(two.reports)


async def test_another_control_plane_accepts_an_edge_at_once(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "CHECK", 3600.0)
    one, two = await fleet.control(), await fleet.control()
    machine = fleet.machine()
    await machine.join(one)
    edge = machine.files.edge()
    connection = await open_connection(
        two.url, "/feed", pinned(edge.authority, machine.files.credentials), ""
    )
    await connection.close()


async def test_an_edge_serves_what_it_has_until_its_control_plane_is_back(fleet: Fleet) -> None:
    control = await fleet.control()
    machine = await following(fleet, control)
    control.hub.publish(snapshot(1))
    await machine.reaches(1)
    await control.__aexit__()
    await machine.kill()
    machine.follow()
    await asyncio.sleep(0.3)
    assert machine.feed.servable() == snapshot(1)
    back = Control(control.registry)
    back.port = control.port
    async with back:
        back.hub.publish(snapshot(2))
        await machine.reaches(2)
        await machine.stop()


async def test_a_restored_control_plane_learns_how_far_its_edges_are(fleet: Fleet) -> None:
    control = await fleet.control()
    machine = await following(fleet, control)
    control.hub.publish(snapshot(9, created=9.0))
    await machine.reaches(9)
    await machine.stop()
    restored = await fleet.control()
    restored.hub.publish(snapshot(4, created=4.0))
    machine.files.save(msgspec.structs.replace(machine.files.edge(), controls=(restored.url,)))
    machine.follow()
    await until(lambda: restored.hub.number() == 9)
    assert machine.number() == 9
    restored.hub.publish(snapshot(10, created=10.0))
    assert restored.hub.number() == 0
    await machine.reaches(10)
    await machine.stop()
    # The same number, but another state: the next one has to be above it.
    third = await fleet.control()
    third.hub.publish(snapshot(10, created=11.0))
    machine.files.save(msgspec.structs.replace(machine.files.edge(), controls=(third.url,)))
    machine.follow()
    await until(lambda: third.hub.number() == 11)
    assert machine.snapshot() == snapshot(10, created=10.0)


async def test_an_edge_renews_its_certificate_and_connects_with_it(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = await fleet.control()
    machine = fleet.machine()
    await machine.join(control)
    first = machine.files.credentials.read_bytes()
    monkeypatch.setattr(follower, "RENEW_AT", 0.0)
    machine.follow()
    await until(lambda: machine.files.credentials.read_bytes() != first)
    monkeypatch.undo()
    await machine.is_current()
    assert machine.follower is not None
    with_first, link = machine.follower.connection, machine.files.link()
    assert link is not None
    assert link.control == control.url
    # When the first one expires, the edge connects to the same control plane with the second one.
    (edge,) = control.hub._edges.values()
    assert edge.expires == authority.expiry(first)
    edge.expires = time.time()
    await until(lambda: machine.follower.connection not in (None, with_first))  # type: ignore[union-attr]
    control.hub.publish(snapshot(1))
    await machine.reaches(1)
    assert machine.files.link() == link
    (edge,) = control.hub._edges.values()
    assert edge.expires == authority.expiry(machine.files.credentials.read_bytes())


async def test_a_connection_ends_when_its_certificate_expires(fleet: Fleet) -> None:
    control = await fleet.control()
    machine = fleet.machine()
    await machine.join(control)
    connection = await raw(machine, control)
    await connection.send(messages.encode(messages.Hello(messages.VERSION, "test", "")))  # type: ignore[attr-defined]
    await until(lambda: control.hub._edges)
    (edge,) = control.hub._edges.values()
    edge.expires = time.time()
    with pytest.raises(ConnectionClosed) as closed:
        async with asyncio.timeout(PATIENCE):
            while True:
                await connection.recv()  # type: ignore[attr-defined]
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == messages.EXPIRED
    await until(lambda: edge.gone)


# ---- the control plane's bounds


async def raw(machine: Machine, control: Control) -> object:
    edge = machine.files.edge()
    return await open_connection(control.url, "/feed", pinned(edge.authority, machine.files.credentials), "")


async def test_a_slow_edge_skips_snapshots_and_delays_nobody(fleet: Fleet) -> None:
    control = await fleet.control()
    slow = fleet.machine("slow")
    await slow.join(control, name="slow")
    quick = await following(fleet, control, "quick")
    connection = await raw(slow, control)
    hello = messages.Hello(messages.VERSION, "test", slow.files.edge().key[:16])
    await connection.send(messages.encode(hello))  # type: ignore[attr-defined]
    numbers = []

    async def update() -> messages.Update:
        while True:
            message = messages.decode_to_edge(await connection.recv(decode=False))  # type: ignore[attr-defined]
            if isinstance(message, messages.Update):
                found = msgspec.msgpack.decode(message.signed.manifest, type=Manifest)
                numbers.append(found.number)
                return message

    control.hub.publish(snapshot(1, size=500))
    await update()
    for number in range(2, 9):
        control.hub.publish(snapshot(number, size=500))
        await quick.reaches(number)
    await connection.send(messages.encode(messages.Applied()))  # type: ignore[attr-defined]
    await update()
    assert numbers == [1, 8]
    await connection.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "first",
    [
        b"garbage",
        messages.encode(messages.Applied()),
        messages.encode(messages.Enroll(b"", b"", "")),
        messages.encode(messages.Hello(99, "", "")),
        messages.encode(messages.Hello(1, "", "k", Signed(b"x", b"y", "z"))),
        b"\x00" * (messages.MAX_TO_CONTROL + 1),
    ],
)
async def test_an_edge_that_violates_the_protocol_harms_only_itself(fleet: Fleet, first: bytes) -> None:
    control = await fleet.control()
    bad = fleet.machine("bad")
    await bad.join(control, name="bad")
    connection = await raw(bad, control)
    with contextlib.suppress(Exception):
        await connection.send(first)  # type: ignore[attr-defined]
        await connection.send(messages.encode(messages.Renew(b"no request")))  # type: ignore[attr-defined]
    async with asyncio.timeout(60):
        await connection.wait_closed()  # type: ignore[attr-defined]
    good = await following(fleet, control, "good")
    control.hub.publish(snapshot(1))
    await good.reaches(1)


async def test_too_many_workers_counters_or_renewals_are_refused(fleet: Fleet) -> None:
    control = await fleet.control()
    bad = fleet.machine("bad")
    await bad.join(control, name="bad")
    names = [f"w{n}" for n in range(300)]
    large = [messages.WorkerReport(f"w{n}", 1, "", b"1" * 3_000_000) for n in range(3)]
    strange = [messages.Status(["w\x1b[2J"])]
    labels = msgspec.json.encode({"series": [("requests", (f"E{n}", "", "", ""), (1,)) for n in range(5000)]})
    flood = messages.WorkerReport("w1", 1, "", labels)
    renewals = [messages.Renew(authority.request(authority.new_key()))] * 2
    for several in (
        strange,
        renewals,
        [messages.Status(["w1"], [flood])],
        [messages.Ended("e1", 1.0, flood)],
        [messages.Status(names)],
        [messages.Status(names[:9], [one]) for one in large],
    ):
        connection = await raw(bad, control)
        await connection.send(messages.encode(messages.Hello(1, "", "")))  # type: ignore[attr-defined]
        with contextlib.suppress(Exception):
            for message in several:
                await connection.send(messages.encode(message))  # type: ignore[attr-defined]
        async with asyncio.timeout(60):
            await connection.wait_closed()  # type: ignore[attr-defined]


# ---- what an edge refuses, and where it can be killed

KEY, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))
PUBLIC = KEY.public_key().public_bytes_raw()


def signed(one: Snapshot, key: Ed25519PrivateKey = KEY, **changed: object) -> tuple[Signed, bytes, bytes]:
    """The arguments of `LastGood.accept` for a whole snapshot."""
    pieces = content.pieces(one)
    made = Manifest(
        one.number, one.created, one.region, one.magic, content.digest(pieces), sum(map(len, pieces))
    )
    return manifest.sign(msgspec.structs.replace(made, **changed), key), b"", content.pack_whole(pieces)


@pytest.mark.parametrize(
    ("offer", "reason"),
    [
        (signed(snapshot(6), OTHER), "not trusted"),
        (signed(snapshot(4)), "older"),
        (signed(snapshot(5, created=1.0)), "different snapshot 5"),
        (signed(msgspec.structs.replace(snapshot(6), region="us")), "is for us"),
        (signed(snapshot(6), digest=bytes(32)), "not what its manifest says"),
        (signed(snapshot(6), size=10), "size"),
        ((signed(snapshot(6))[0], b"", content.pack_whole([b"x"])), "size"),
        ((signed(snapshot(6))[0], bytes(32), b""), "another snapshot"),
        ((msgspec.structs.replace(signed(snapshot(6))[0], signature=bytes(64)), b"", b""), "signature"),
    ],
)
def test_an_edge_refuses_what_is_forged_or_older_or_for_others(
    tmp_path: Path, offer: tuple[Signed, bytes, bytes], reason: str
) -> None:
    good = LastGood(tmp_path, "", PUBLIC)
    good.accept(*signed(snapshot(5)))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for each in (good, LastGood(tmp_path, "", PUBLIC)):  # also after a restart
        with pytest.raises(SnapshotRefused, match=reason):
            each.accept(*offer)
        assert each.number == 5
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_killed_between_snapshot_and_manifest(tmp_path: Path) -> None:
    good = LastGood(tmp_path, "", PUBLIC)
    good.accept(*signed(snapshot(5)))
    old = (tmp_path / "manifest").read_bytes()
    good.accept(*signed(snapshot(6)))
    (tmp_path / "manifest").write_bytes(old)
    again = LastGood(tmp_path, "", PUBLIC)
    assert (again.number, again.have) == (5, good.have)  # it claims less than it has
    again.accept(*signed(snapshot(6)))
    assert again.number == 6


def test_what_cannot_be_written_leaves_the_last_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = LastGood(tmp_path, "", PUBLIC)
    good.accept(*signed(snapshot(5)))
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        good.accept(*signed(snapshot(6)))
    monkeypatch.undo()
    assert LastGood(tmp_path, "", PUBLIC).number == 5
    good.accept(*signed(snapshot(6)))
    assert LastGood(tmp_path, "", PUBLIC).number == 6


def test_members_of_a_newer_version_survive(tmp_path: Path) -> None:
    """An edge passes on bytes that it does not understand; its workers, of the same machine, may."""

    class Later(Snapshot, frozen=True):
        added: str = "later"

    newer = Later(1, 0.0, public_keys=(PublicKey("K", "pem"),), key_groups=(KeyGroup("g", "n", ("K",)),))
    payload = msgspec.msgpack.encode(newer)
    made = Manifest(1, 0.0, "", newer.magic, content.digest([payload]), len(payload))
    LastGood(tmp_path, "", PUBLIC).accept(manifest.sign(made, KEY), b"", content.pack_whole([payload]))
    assert (tmp_path / "snapshot").read_bytes().endswith(payload)


async def test_a_connected_edge_confirms_its_snapshot(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "PING", 0.05)
    control = await fleet.control()
    machine = await following(fleet, control)
    control.hub.publish(snapshot(1))
    await machine.reaches(1)
    first = machine.feed.confirmed_at()
    assert first >= machine.feed.published_at()[1] - 1  # type: ignore[index]
    await until(lambda: machine.feed.confirmed_at() > first)  # by its pings
    await control.__aexit__()
    await until(lambda: (link := machine.files.link()) is not None and not link.control)
    last = machine.feed.confirmed_at()
    await asyncio.sleep(0.3)  # several pings
    assert machine.feed.confirmed_at() == last
