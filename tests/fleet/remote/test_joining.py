"""Enrollment: tokens, the pinned authority, names, and proxies."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from keyfront.errors import SettingsError
from keyfront.fleet.remote import authority, is_enrolled
from keyfront.fleet.remote.authority import Authority, Token, token_of
from keyfront.fleet.remote.connect import (
    SYSTEM,
    NotAccepted,
    Unreachable,
    control_url,
    open_connection,
    pinned,
)
from keyfront.fleet.remote.own_certificate import OwnCertificate
from tests.fleet.remote.conftest import Fleet
from tests.fleet.remote.harness import Control, Machine, until
from tests.fleet.snapshots import snapshot


async def test_a_token_enrolls_once(fleet: Fleet) -> None:
    control = await fleet.control()
    token = control.token(region="eu")
    edge = await fleet.machine().join(control, token=token)
    assert (edge.name, edge.region) == ("paris", "eu")
    with pytest.raises(SettingsError, match="has been used"):
        await fleet.machine("rome").join(control, token=token, name="rome")
    assert [one.name for one in control.registry.edges()] == ["paris"]


async def test_a_killed_enrollment_is_repeated_with_the_same_token(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = await fleet.control()
    token, machine = control.token(), fleet.machine()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("keyfront.fleet.remote.enrollment.EdgeFiles.enrolled", killed)
        with pytest.raises(KeyboardInterrupt):
            await machine.join(control, token=token)
    assert not is_enrolled(machine.data)
    await machine.join(control, token=token)
    assert len(control.registry.edges()) == 1
    machine.follow()
    control.hub.publish(snapshot(1))
    await machine.reaches(1)


async def test_tokens_that_do_not_enroll(fleet: Fleet) -> None:
    control = await fleet.control()
    machine = fleet.machine()
    expired = control.registry.create_token(time.time() - 100, 50)
    with pytest.raises(SettingsError, match="has expired"):
        await machine.join(control, token=str(expired))
    unknown = Token(bytes(16), expired.authority)
    with pytest.raises(SettingsError, match="not known"):
        await machine.join(control, token=str(unknown))
    token = control.token()
    await machine.join(control, token=token)
    control.registry.revoke("paris", time.time())
    with pytest.raises(SettingsError, match="has been used"):
        await machine.join(control, token=token)


async def test_a_token_goes_to_its_own_control_plane_only(fleet: Fleet) -> None:
    control, other = await fleet.control(), await fleet.control(place="other")
    with pytest.raises(SettingsError, match="not the control plane that the token is from"):
        await fleet.machine().join(other, token=control.token())
    assert other.registry.edges() == []


async def test_an_impostor_is_not_followed(fleet: Fleet) -> None:
    """Neither another authority, nor an edge that passes its certificate off as a control plane's."""
    control, other = await fleet.control(), await fleet.control(place="other")
    machine = fleet.machine()
    edge = await machine.join(control)
    with pytest.raises(Unreachable, match="authority"):
        await open_connection(other.url, "/feed", pinned(edge.authority), "")
    import ssl

    impostor = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    impostor.load_cert_chain(machine.files.credentials)
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=impostor)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(Unreachable, match="authority"):
        await open_connection(f"https://127.0.0.1:{port}", "/feed", pinned(edge.authority), "")
    server.close()


async def test_strangers_get_nothing(fleet: Fleet) -> None:
    control, other = await fleet.control(), await fleet.control(place="other")
    machine, stranger = fleet.machine(), fleet.machine("stranger")
    edge = await machine.join(control)
    await stranger.join(other)
    with pytest.raises(NotAccepted):
        await open_connection(control.url, "/feed", pinned(edge.authority), "")  # no certificate
    with pytest.raises(Unreachable):
        await open_connection(control.url, "/feed", pinned(edge.authority, stranger.files.credentials), "")
    with pytest.raises(Unreachable, match="404"):
        await open_connection(control.url, "/other", pinned(edge.authority), "")


async def test_an_expired_certificate_is_not_accepted(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    control = await fleet.control()
    machine = fleet.machine()
    await machine.join(control)
    edge, key = machine.files.edge(), authority.new_key()
    id_ = control.registry.edges()[0].id
    old = control.registry.keys().authority.issue_edge(authority.request(key), id_, time.time() - 1000, 500)
    machine.files.renewed(key, old)
    with pytest.raises(Unreachable):
        await open_connection(control.url, "/feed", pinned(edge.authority, machine.files.credentials), "")
    machine.follow()
    await until(lambda: "has expired; it serves snapshot 0 from its disk" in caplog.text)


async def test_names(fleet: Fleet) -> None:
    control = await fleet.control()
    await fleet.machine().join(control)
    with pytest.raises(SettingsError, match="keyfront edge revoke paris"):
        await fleet.machine("other").join(control)
    with pytest.raises(SettingsError, match="cannot be the name"):
        await fleet.machine("other").join(control, name="../x")
    edge = await fleet.machine("other").join(control, token=control.token(name="lyon"), name="ignored")
    assert edge.name == "lyon"
    control.registry.revoke("paris", time.time())
    await fleet.machine("third").join(control)
    assert [(one.name, one.revoked is None) for one in control.registry.edges()] == [
        ("lyon", True),
        ("paris", True),
        ("paris", False),
    ]


async def test_a_control_plane_that_is_away_is_passed_over(fleet: Fleet) -> None:
    away, control = await fleet.control(), await fleet.control()
    await away.__aexit__()
    edge = await fleet.machine().join(away, control)
    assert edge.controls == (away.url, control.url)
    await control.__aexit__()
    with pytest.raises(SettingsError, match="no control plane can be reached"):
        await fleet.machine("rome").join(away, control, token=str(Token(bytes(16), bytes(32))))


# ---- proxies


class Proxy:
    """An HTTP proxy that only knows CONNECT, and can stop forwarding without closing anything, as a partition does."""

    def __init__(self) -> None:
        self.port = 0
        self.connected: list[str] = []
        self.flowing = asyncio.Event()
        self.flowing.set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.split(b" ", 2)
        assert method == b"CONNECT"
        self.connected.append(target.decode())
        host, _, port = target.decode().rpartition(":")
        there, away = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for one, other in ((reader, away), (there, writer)):
            self._tasks.add(asyncio.create_task(self._pump(one, other)))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                await self.flowing.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    async with Proxy() as made:
        yield made


async def through(proxy: Proxy, control: Control, machine: Machine) -> None:
    await machine.join(control, proxy=f"http://127.0.0.1:{proxy.port}")
    machine.follow()
    control.hub.publish(snapshot(1))
    await machine.reaches(1)


async def test_everything_goes_through_a_proxy(fleet: Fleet, proxy: Proxy) -> None:
    control = await fleet.control()
    machine = fleet.machine()
    await through(proxy, control, machine)
    assert set(proxy.connected) == {f"127.0.0.1:{control.port}"}
    assert len(proxy.connected) == 3  # the authority, the enrollment, the feed
    await machine.stop()


async def test_a_silent_partition_is_noticed(
    fleet: Fleet, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PING", "PONG"):
        monkeypatch.setattr(f"keyfront.fleet.remote.follower.{name}", 0.5)
    control = await fleet.control()
    machine = fleet.machine()
    await through(proxy, control, machine)
    proxy.flowing.clear()
    before = len(proxy.connected)
    await until(lambda: len(proxy.connected) > before)  # it has given the connection up, and tries again
    control.hub.publish(snapshot(2))
    assert machine.number() == 1
    proxy.flowing.set()
    await machine.reaches(2)
    await machine.stop()


# ---- texts


@pytest.mark.parametrize(
    "text", ["", "x", "kfe1.", "kfe1.AAAA", "kfe2." + "A" * 64, "kfe1." + "A" * 63, "kfe1." + "é" * 64]
)
def test_what_is_not_a_token_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="enroll-token"):
        token_of(text)


def test_a_token_is_read_back() -> None:
    token = Token(b"s" * 16, authority.fingerprint(Authority.create(0.0).certificate))
    assert token_of(f" {token}\n") == token


@pytest.mark.parametrize(
    "text",
    [
        "",
        "http://a",
        "https://",
        "https://a/x",
        "https://a?b",
        "https://a:0",
        "https://a:99999",
        "https://u@a",
        "https://[::1",
    ],
)
def test_what_is_not_a_control_plane_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="URL of a control plane"):
        control_url(text)


def test_urls_of_control_planes() -> None:
    assert control_url("https://a.example:9443/") == "https://a.example:9443"
    assert control_url("https://[::1]:9443") == "https://[::1]:9443"


# ---- a certificate of the operator's


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyfront.fleet.remote.own_certificate.CHECK", 0.05)


class OwnAuthority:
    """A company's authority, and certificates of it."""

    def __init__(self, folder: Path) -> None:
        self.made = authority.Authority.create(time.time())
        self.pem = self.made.pem.decode()
        self.chain, self.key = folder / "fullchain.pem", folder / "privkey.pem"

    def issue(self, host: x509.GeneralName) -> OwnCertificate:
        key = authority.new_key()
        issued = self.made._issue(
            key.public_key(), "control", ExtendedKeyUsageOID.SERVER_AUTH, host, time.time(), 3600.0
        )
        self.chain.write_bytes(authority.certificate_to_pem(issued))
        self.key.write_bytes(authority.key_to_pem(key))
        return OwnCertificate(self.chain, self.key)


LOCALHOST = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))


async def test_a_certificate_of_the_operators(fleet: Fleet, tmp_path: Path) -> None:
    company = OwnAuthority(tmp_path)
    control = await fleet.control(certificate=company.issue(LOCALHOST))
    machine = fleet.machine()
    with pytest.raises(SettingsError, match="keyfront edge join --ca"):
        await machine.join(control)
    with pytest.raises(SettingsError, match="not of the authority that this edge trusts"):
        await machine.join(control, ca=SYSTEM)
    await machine.join(control, ca=company.pem)
    machine.follow()
    control.hub.publish(snapshot(1))
    await machine.reaches(1)
    # It is replaced while the control plane runs, and edges notice a wrong host name.
    await machine.stop()
    company.issue(x509.DNSName("other.example.com"))
    edge = machine.files.edge()
    context = pinned(edge.authority, machine.files.credentials, edge.ca)

    async def refused() -> bool:
        try:
            connection = await open_connection(control.url, "/feed", context, "")
        except Unreachable as error:
            return "127.0.0.1" in str(error)
        await connection.close()
        return False

    async with asyncio.timeout(60):
        while not await refused():
            await asyncio.sleep(0.05)
    # Files that cannot be used change nothing.
    company.key.write_text("garbage")
    with pytest.raises(SettingsError, match="cannot be used"):
        OwnCertificate(company.chain, company.key).load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    assert await refused()


async def test_the_operators_certificate_needs_the_token_of_the_same_control_plane(
    fleet: Fleet, tmp_path: Path
) -> None:
    company = OwnAuthority(tmp_path)
    control = await fleet.control(certificate=company.issue(LOCALHOST))
    other = await fleet.control(place="other")
    with pytest.raises(SettingsError, match="Nothing was sent to it"):
        await fleet.machine().join(control, token=other.token(), ca=company.pem)


def test_an_encrypted_key_is_refused_without_a_question(tmp_path: Path) -> None:
    company = OwnAuthority(tmp_path)
    company.issue(LOCALHOST)
    key = authority.key_from_pem(company.key.read_bytes())
    encryption = serialization.BestAvailableEncryption(b"secret")
    pkcs8 = serialization.PrivateFormat.PKCS8
    company.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, pkcs8, encryption))
    with pytest.raises(SettingsError, match="the private key is encrypted"):
        OwnCertificate(company.chain, company.key).load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
