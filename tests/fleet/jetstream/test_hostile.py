"""What somebody achieves who may write to NATS, or read there: nothing but delay."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from nats.aio.client import Client
from nats.aio.msg import Msg

from keyfront.errors import SettingsError
from keyfront.fleet.jetstream import sealed
from keyfront.fleet.jetstream.head import Base, Head
from keyfront.fleet.jetstream.names import Names
from keyfront.fleet.remote import authority
from keyfront.fleet.remote.authority import Authority
from keyfront.fleet.remote.channel import prepare
from keyfront.fleet.remote.content import Encoder
from keyfront.fleet.remote.manifest import Endorsement
from tests.fleet.jetstream.conftest import NatsFleet
from tests.fleet.jetstream.harness import NatsControl, NatsMachine, client
from tests.fleet.remote.harness import until
from tests.fleet.snapshots import snapshot


class Attacker:
    """Has all permissions in NATS."""

    def __init__(self, fleet: NatsFleet, connection: Client) -> None:
        self.names = Names(fleet.access.bucket)
        self.client = connection
        self.js = connection.jetstream()

    async def read(self, key: str) -> bytes:
        return (await self.js.get_last_msg(self.names.stream, key, direct=True)).data or b""

    async def put(self, data: bytes, region: str = "") -> None:
        """Replace a region's head, and announce it."""
        await self.js.publish(self.names.head(region), data)
        await self.client.publish(self.names.announce(region), data)


async def served(fleet: NatsFleet, number: int = 2) -> tuple[NatsControl, NatsMachine]:
    """A control plane, and an edge that has snapshot `number`."""
    control = await fleet.control()
    machine = await fleet.following(control)
    control.hub.publish(snapshot(number))
    await machine.reaches(number)
    return control, machine


def has(caplog: pytest.LogCaptureFixture, *words: str) -> bool:
    return any(all(word in one.getMessage() for word in words) for one in caplog.records)


async def test_an_older_snapshot_is_refused_and_replaced(
    fleet: NatsFleet, caplog: pytest.LogCaptureFixture
) -> None:
    control, machine = await served(fleet, 1)
    async with client(fleet.access.servers[0]) as connection:
        attacker = Attacker(fleet, connection)
        old = await attacker.read(attacker.names.head(""))
        control.hub.publish(snapshot(2))
        await machine.reaches(2)
        await attacker.put(old)
        await until(lambda: has(caplog, "is refused", "snapshot 1 is older than 2, which is in use"))
        assert machine.number() == 2

        async def restored() -> None:
            while await attacker.read(attacker.names.head("")) == old:
                await asyncio.sleep(0.05)

        await asyncio.wait_for(restored(), 60)
    await until(lambda: has(caplog, "edge paris refuses a snapshot", "older"))


OTHER = Ed25519PrivateKey.generate()


def forged_head(number: int) -> bytes:
    """A head of an authority of the attacker's own."""
    chain = (Endorsement(OTHER.public_key().public_bytes_raw()),)
    keys = _Keys(OTHER, chain)
    version = prepare(snapshot(number), "", keys, Encoder())  # type: ignore[arg-type]
    base = Base(version.digest, version.manifest.size, "0" * 32, 10, 1)
    return sealed.seal(Head(version.signed, base), OTHER, chain)


class _Keys(msgspec.Struct):
    signer: Ed25519PrivateKey
    chain: tuple[Endorsement, ...]


async def test_what_is_overwritten_or_deleted_is_written_again(
    fleet: NatsFleet, caplog: pytest.LogCaptureFixture
) -> None:
    control, machine = await served(fleet)
    async with client(fleet.access.servers[0]) as connection:
        attacker = Attacker(fleet, connection)
        head = attacker.names.head("")
        for bad in (b"\xff garbage", forged_head(9)):
            await attacker.put(bad)
            await until(lambda: has(caplog, "in NATS", "is refused"))
            await until(lambda: has(caplog, f"the key {head} in NATS", "is written again"))
            caplog.clear()
        assert machine.number() == 2
        await attacker.js.purge_stream(attacker.names.stream)
        control.hub.publish(snapshot(3))
        await machine.reaches(3)
        await attacker.js.delete_stream(attacker.names.stream)
        await attacker.js.delete_stream(attacker.names.reports)
        control.hub.publish(snapshot(4))
        await machine.reaches(4)
    machine.work()
    await until(lambda: "paris/worker-1" in control.reports())


async def test_a_damaged_content_is_uploaded_again_when_an_edge_needs_it(
    fleet: NatsFleet, caplog: pytest.LogCaptureFixture
) -> None:
    control, _ = await served(fleet)
    async with client(fleet.access.servers[0]) as connection:
        attacker = Attacker(fleet, connection)
        info = await attacker.js.stream_info(attacker.names.stream, subjects_filter=">")
        (part,) = [one for one in info.state.subjects or {} if ".part." in one]
        await attacker.js.publish(part, b"damaged")
        rome = await fleet.following(control, "rome")
        await rome.reaches(2)
    assert has(caplog, "a snapshot in NATS is refused", "the stored content is damaged")


async def test_a_snapshot_of_another_region_is_refused(
    fleet: NatsFleet, caplog: pytest.LogCaptureFixture
) -> None:
    control = await fleet.control()
    here = await fleet.following(control, "paris", "eu")
    there = await fleet.following(control, "newyork", "us")
    control.hub.publish(snapshot(1))
    await here.reaches(1)
    await there.reaches(1)
    async with client(fleet.access.servers[0]) as connection:
        attacker = Attacker(fleet, connection)
        foreign = await attacker.read(attacker.names.head("us"))
        await attacker.put(foreign, "eu")
        await until(lambda: has(caplog, "is refused", "snapshot 1 is for us, and this edge is in eu"))
        await until(lambda: has(caplog, "not signed for this region"))
    found = here.snapshot()
    assert found is not None
    assert found.region == "eu"


async def test_reports_that_are_forged_or_replayed_count_for_nobody(
    fleet: NatsFleet, caplog: pytest.LogCaptureFixture
) -> None:
    control, machine = await served(fleet)
    seen: list[Msg] = []
    async with client(fleet.access.servers[0]) as connection:
        attacker = Attacker(fleet, connection)

        async def listen(message: Msg) -> None:
            seen.append(message)

        await connection.subscribe(attacker.names.edges, cb=listen)
        await connection.flush()
        machine.work()
        await until(lambda: "paris/worker-1" in control.reports())
        await machine.kill()
        status = next(one for one in seen if one.subject.endswith(".status"))
        # Replayed: the edge's workers do not seem to live any longer than they do.
        at = control.hub._edges[next(iter(control.hub._edges))].at
        await connection.publish(status.subject, status.data)
        # As another edge, and signed with a certificate of an authority of the attacker's own.
        await connection.publish(attacker.names.edge("rome", "status"), status.data)
        await until(lambda: has(caplog, "as edge rome is refused", "edge paris has signed it"))
        key, other = authority.new_key(), Authority.create(time.time())
        pem = other.issue_edge(authority.request(key), "e" * 32, time.time())
        der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
        forged = sealed.Status(1 << 60, time.time(), "x", [sealed.Worker("worker-1", 99)])
        await connection.publish(attacker.names.edge("paris", "status"), sealed.sign(forged, key, der))
        await until(lambda: has(caplog, "as edge paris is refused", "not signed by an enrolled edge"))
        for bad in (b"", b"garbage", b"\x93\xc4\x00\xc4\x00\xc4\x00"):
            await connection.publish(attacker.names.edge("paris", "counters", "w"), bad)
        await connection.flush()
        await until(lambda: has(caplog, "not signed by an enrolled edge"))
        assert control.hub._edges[next(iter(control.hub._edges))].at == at
        assert control.hub.number() == 0


async def test_nobody_acts_for_a_control_plane(fleet: NatsFleet, caplog: pytest.LogCaptureFixture) -> None:
    control, machine = await served(fleet)
    id_ = next(iter(control.registry.identities()))
    async with client(fleet.access.servers[0]) as connection:
        attacker = Attacker(fleet, connection)
        chain = (Endorsement(OTHER.public_key().public_bytes_raw()),)
        for message in (
            sealed.Standing(id_, False, time.time()),
            sealed.Stored(id_, "x"),
            sealed.Renewed(id_, b"x"),
            sealed.Beacon("", 99, time.time()),
        ):
            await connection.publish(attacker.names.control("paris"), sealed.seal(message, OTHER, chain))
        await connection.flush()
        await connection.publish(attacker.names.control("paris"), b"garbage")
        await until(lambda: has(caplog, "a message in NATS", "it is not a message of Keyfront"))
    control.hub.publish(snapshot(3))
    await machine.reaches(3)  # not revoked


async def test_a_sender_of_too_much_hinders_only_itself(
    fleet: NatsFleet, caplog: pytest.LogCaptureFixture
) -> None:
    control, machine = await served(fleet)
    async with client(fleet.access.servers[0]) as connection:
        attacker = Attacker(fleet, connection)
        for _ in range(2000):
            await connection.publish(attacker.names.edge("mallory", "status"), b"garbage")
        await connection.flush()
        machine.work()
        await until(lambda: "paris/worker-1" in control.reports())
    assert has(caplog, "too many messages in NATS as edge mallory")


async def test_the_token_cannot_be_read_in_nats(fleet: NatsFleet) -> None:
    control = await fleet.control()
    await control.is_connected()
    heard = bytearray()
    async with client(fleet.access.servers[0]) as connection:

        async def listen(message: Msg) -> None:
            heard.extend(message.data)

        await connection.subscribe(">", cb=listen)
        await connection.flush()
        text = control.token()
        machine = fleet.machine()
        edge = await machine.join_nats(fleet.access, text)
        await connection.flush()
        await until(lambda: len(heard) > 1000)
    given = authority.token_of(text)
    assert given.secret not in heard
    assert given.digest not in heard
    assert bytes.fromhex(edge.key) == control.registry.keys().chain[-1].public


async def test_an_edge_recognizes_its_control_plane_before_it_sends_anything(fleet: NatsFleet) -> None:
    control = await fleet.control()
    await control.is_connected()
    elsewhere = await fleet.control(
        place="elsewhere", access=msgspec.structs.replace(fleet.access, bucket="other")
    )
    machine = fleet.machine()
    with pytest.raises(SettingsError, match="not the one that the token is from"):
        await machine.join_nats(fleet.access, elsewhere.token())
    token = control.token()
    first = await machine.join_nats(fleet.access, token)
    assert (first.name, first.region, first.nats) == ("paris", "", fleet.access)
    with pytest.raises(SettingsError, match="does not enroll this edge: the token has been used"):
        await fleet.machine("other").join_nats(fleet.access, token, "other")


async def test_a_bucket_of_another_installation_is_left_alone(fleet: NatsFleet) -> None:
    control, machine = await served(fleet)
    other = await fleet.control(place="elsewhere")
    await until(lambda: "belongs to another installation" in other.hub.trouble)
    other.hub.publish(snapshot(9))
    control.hub.publish(snapshot(3))
    await machine.reaches(3)
