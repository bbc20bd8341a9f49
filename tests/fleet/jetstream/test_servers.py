"""Servers that restart, log in, encrypt, restrict, and lead to others."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest
import trustme
from nkeys import encode_seed, from_seed

from keyfront.errors import SettingsError
from keyfront.fleet.jetstream import connection
from keyfront.fleet.jetstream.access import NatsAccess, server_url
from keyfront.fleet.jetstream.connection import connected
from keyfront.fleet.jetstream.names import Names
from tests.fleet.jetstream.conftest import NatsFleet
from tests.fleet.jetstream.harness import NatsControl, client
from tests.fleet.remote.harness import until
from tests.fleet.snapshots import snapshot
from tests.nats_server import NatsServer, accepts_leaves, leaf_of, unable
from tests.rows import rows

GUIDE = Path(__file__).parents[3] / "docs" / "guide" / "nats.md"

pytestmark = pytest.mark.skipif(bool(unable()), reason=unable())

Serve = Callable[..., NatsServer]


@pytest.fixture
async def held() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def serve(tmp_path: Path, held: AsyncExitStack) -> Serve:
    """Makes servers, and stops them at the end."""

    def make(name: str, config: str = "", **options: object) -> NatsServer:
        made = NatsServer(tmp_path / name, config, **options)  # type: ignore[arg-type]
        held.callback(made.kill)
        return made

    return make


def fleet_at(tmp_path: Path, held: AsyncExitStack, url: str) -> NatsFleet:
    return NatsFleet(tmp_path, held, url, "keyfront")


async def test_a_restart_of_the_server_interrupts_nothing_for_long(
    tmp_path: Path, held: AsyncExitStack, serve: Serve
) -> None:
    server = serve("one")
    server.start()
    fleet = fleet_at(tmp_path, held, server.url)
    control = await fleet.control()
    machine = await fleet.following(control)
    control.hub.publish(snapshot(1))
    await machine.reaches(1)
    server.kill()
    await until(lambda: control.hub.trouble)
    control.hub.publish(snapshot(2))
    await asyncio.sleep(0.3)
    assert machine.number() == 1
    link = machine.files.link()
    assert link is not None
    assert link.control == ""
    server.start()
    await machine.reaches(2)
    machine.work()
    await until(lambda: "paris/worker-1" in control.reports())
    await until(lambda: not control.hub.trouble)


async def test_an_edge_gets_what_is_in_the_bucket_without_a_control_plane(
    tmp_path: Path, held: AsyncExitStack, serve: Serve
) -> None:
    server = serve("one")
    server.start()
    fleet = fleet_at(tmp_path, held, server.url)
    control = await fleet.control()
    machine = await fleet.following(control)
    control.hub.publish(snapshot(1))
    await machine.reaches(1)
    await machine.stop()
    control.hub.publish(snapshot(2))
    old = machine.nats._good.proof
    await until(lambda: control.hub._current[""].signed != old)
    await control.kill()
    machine.follow()
    await machine.is_current()
    assert machine.number() == 2


def guides_permissions() -> str:
    (block,) = re.findall(r"```\n(authorization.*?)```", GUIDE.read_text(), re.DOTALL)
    config: str = block.replace("$CONTROL", '"c0ntrol"').replace("$PARIS", '"par1s"')
    return config


def login(folder: Path, access: NatsAccess, text: str) -> NatsAccess:
    file = folder / f"login-{text.partition(':')[0]}"
    file.write_text(text + "\n")
    return msgspec.structs.replace(access, credentials=str(file)).check()


async def test_the_guides_permissions_suffice_and_separate_regions(
    tmp_path: Path, held: AsyncExitStack, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve("one", guides_permissions())
    server.start()
    fleet = fleet_at(tmp_path, held, server.url)
    control = await fleet.control(access=login(tmp_path, fleet.access, "control:c0ntrol"))
    await control.is_connected()
    machine = fleet.machine()
    access = login(tmp_path, fleet.access, "paris:par1s")
    await machine.join_nats(access, control.token(region="eu"))
    machine.follow()
    control.hub.publish(snapshot(1))
    await machine.reaches(1)
    machine.work({"run": "r"})
    await until(
        lambda: control.reports().get("paris/worker-1") and control.reports()["paris/worker-1"].counters
    )
    assert not [one for one in caplog.records if "efuses" in one.getMessage()]

    names = Names(access.bucket)
    async with connected(access, server.url, names.inbox("paris")) as own:
        assert (await own.last(names.stream, names.head("eu")))[0]
        monkey = pytest.MonkeyPatch()
        monkey.setattr(own.js, "_timeout", 0.5)
        for key in (names.head("us"), names.head(""), names.owner):
            with pytest.raises(connection.Unreachable, match="ermissions violation"):
                await own.last(names.stream, key)
        for subject in (names.head("eu"), names.announce("eu"), names.edge("rome", "status")):
            own.refusals.clear()
            await own.client.publish(subject, b"x")
            await own.client.flush()
            await until(lambda: own.refusals)
        for subject in (names.announce("us"), names.control("rome"), names.inbox("rome") + ".>", names.edges):
            own.refusals.clear()
            await own.client.subscribe(subject)
            await own.client.flush()
            await until(lambda: own.refusals)
    with pytest.raises(SettingsError, match="Authorization Violation"):
        await fleet.machine("rome").join_nats(fleet.access, control.token(), "rome")


async def followed_at_a_leaf(
    fleet: NatsFleet, control: NatsControl, access: NatsAccess, hub: NatsServer, leaf: NatsServer
) -> None:
    machine = fleet.machine()
    await control.is_connected()
    await until(lambda: hub.monitor("leafz")["leafs"])
    await machine.join_nats(access, control.token(region="eu"))
    machine.follow()
    control.hub.publish(snapshot(1, size=50))
    await machine.reaches(1)
    began = time.monotonic()
    control.hub.publish(snapshot(2, size=50))
    await machine.reaches(2)
    assert time.monotonic() - began < 30
    machine.work({"run": "r"})
    await until(lambda: "paris/worker-1" in control.reports())
    leaf.kill()
    control.hub.publish(snapshot(3, size=50))
    leaf.start()
    await machine.reaches(3)
    await machine.stop()


@rows("domain", ["", "site"])
async def test_an_edge_at_a_leaf_node(domain: str, tmp_path: Path) -> None:
    """:param domain: the leaf node's JetStream domain; empty: it has no JetStream."""
    async with AsyncExitStack() as held:
        folder = tmp_path / (domain or "none")
        folder.mkdir()
        hub = NatsServer(folder / "hub", domain="hub")
        hub.configure(accepts_leaves(hub))
        held.callback(hub.kill)
        hub.start()
        leaf = NatsServer(folder / "leaf", leaf_of(hub), jetstream=bool(domain), domain=domain)
        held.callback(leaf.kill)
        leaf.start()
        fleet = fleet_at(folder, held, hub.url)
        control = await fleet.control()
        access = msgspec.structs.replace(fleet.access, servers=(leaf.url,), domain="hub")
        async with connected(msgspec.structs.replace(access, domain=""), leaf.url, "i") as plain:
            with pytest.raises(connection.Unreachable, match="--nats-domain must name the hub's domain"):
                await plain.last("KV_keyfront", "x")
        await followed_at_a_leaf(fleet, control, access, hub, leaf)


async def test_small_messages_are_enough(tmp_path: Path, held: AsyncExitStack, serve: Serve) -> None:
    server = serve("one", "max_payload: 16KB")
    server.start()
    fleet = fleet_at(tmp_path, held, server.url)
    control = await fleet.control()
    machine = await fleet.following(control)
    control.hub.publish(snapshot(1, size=3000))
    await machine.reaches(1)
    assert control.hub._current[""].base.parts > 1
    server.kill()
    server.configure("max_payload: 4KB")
    server.start()
    await until(lambda: "raise max_payload" in control.hub.trouble)


async def test_a_report_larger_than_a_message_gets_through(
    tmp_path: Path, held: AsyncExitStack, serve: Serve
) -> None:
    server = serve("one", "max_payload: 16KB")
    server.start()
    fleet = fleet_at(tmp_path, held, server.url)
    control = await fleet.control()
    machine = await fleet.following(control)
    rng = random.Random(1)
    keys = [[f"K{rng.getrandbits(64):X}", "SHA256", "E1", rng.getrandbits(20)] for _ in range(5000)]

    def counted() -> object:
        return [one.counters.get("keys") for one in control.hub.last_reports()]

    def is_counted_while_it_works() -> bool:
        machine.work({"run": "r", "keys": keys})
        return counted() == [keys]

    await until(is_counted_while_it_works)
    # Another control plane finds all pieces in NATS.
    await machine.kill()
    await control.kill()
    control = await fleet.control()
    await until(lambda: counted() == [keys])
    machine.follow()
    machine.feed.remove_report("worker-1")
    await until(control.hub.ended)
    ((path, report),) = control.hub.ended()
    assert report.counters["keys"] == keys

    async with client(server.url) as nats:

        async def stored() -> int:
            info = await nats.jetstream().stream_info(
                "keyfront_reports", subjects_filter="keyfront.edge.paris.ended.*"
            )
            return len(info.state.subjects or {})

        assert await stored() > 1
        control.hub.forget(path)
        await until(lambda: not machine.feed.ended())
        while await stored():
            await asyncio.sleep(0.01)


async def test_logging_in_with_an_nkey_over_tls(tmp_path: Path, held: AsyncExitStack, serve: Serve) -> None:
    company = trustme.CA()
    company.cert_pem.write_to_path(tmp_path / "ca.pem")
    issued = company.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    seed = encode_seed(bytes(range(32)), 20 << 3)
    public = from_seed(bytearray(seed)).public_key.decode()
    server = serve(
        "one",
        f'tls {{ cert_file: "{tmp_path}/cert.pem", key_file: "{tmp_path}/key.pem" }}\n'
        f"authorization {{ users: [ {{ nkey: {public} }} ] }}",
    )
    server.start()
    fleet = fleet_at(tmp_path, held, server.url.replace("nats://", "tls://"))
    (tmp_path / "seed").write_bytes(bytes(seed))
    fleet.access = msgspec.structs.replace(
        fleet.access, credentials=str(tmp_path / "seed"), ca=str(tmp_path / "ca.pem")
    ).check()
    control = await fleet.control()
    machine = await fleet.following(control)
    control.hub.publish(snapshot(1))
    await machine.reaches(1)
    stranger = msgspec.structs.replace(fleet.access, ca="")
    with pytest.raises(connection.Unreachable, match="certificate verify failed"):
        async with connected(stranger, stranger.servers[0], "i"):
            pass


async def test_no_password_goes_to_a_server_without_tls(tmp_path: Path) -> None:
    heard = bytearray()

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        info = (
            b'{"server_id":"x","version":"2.15.1","max_payload":1048576,"headers":true,"auth_required":true}'
        )
        writer.write(b"INFO " + info + b"\r\n")
        heard.extend(await reader.read(1000))
        writer.close()

    async with await asyncio.start_server(server, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        access = login(tmp_path, NatsAccess((f"tls://127.0.0.1:{port}",)), "me:s3cret")
        with pytest.raises(connection.Unreachable, match="does not offer TLS"):
            async with connected(access, access.servers[0], "i"):
                pass
    assert b"s3cret" not in heard


@rows(
    "text, expected",
    [
        ("nats.example.com", "nats://nats.example.com:4222"),
        ("nats://10.0.0.1:4223", "nats://10.0.0.1:4223"),
        ("tls://[::1]", "tls://[::1]:4222"),
        ("https://x", "is not the URL of a NATS server"),
        ("nats://", "is not the URL of a NATS server"),
        ("nats://x:99999", "is not the URL of a NATS server"),
        ("nats://x/path", "is not the URL of a NATS server"),
        ("nats://me:s3cret@x", "must not contain a password"),
        ("nats://me:s3cret@x/path", "'x/path' is not the URL"),
    ],
)
def test_urls_of_servers(text: str, expected: str) -> None:
    if expected.startswith(("nats:", "tls:")):
        assert server_url(text) == expected
        return
    with pytest.raises(SettingsError, match=expected) as caught:
        server_url(text)
    assert "s3cret" not in str(caught.value)


@rows(
    "changed, reason",
    [
        ({"bucket": "a.b"}, "--nats-bucket 'a.b'"),
        ({"bucket": ""}, "--nats-bucket"),
        ({"domain": "a>"}, "--nats-domain"),
        ({"credentials": "/nowhere"}, "--nats-creds: /nowhere cannot be read"),
        ({"ca": "/nowhere"}, "--nats-ca: /nowhere cannot be used"),
        ({"certificate": "/dev/null"}, "--nats-cert: /dev/null cannot be used"),
    ],
)
def test_access_that_cannot_be_used(changed: dict[str, str], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        msgspec.structs.replace(NatsAccess(("nats://x:4222",)), **changed).check()


def test_credentials_of_no_known_kind_are_not_quoted(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="contains neither") as caught:
        login(tmp_path, NatsAccess(("nats://x:4222",)), "s3cret")
    assert "s3cret" not in str(caught.value).replace("login-s3cret", "")
