"""TLS over real sockets: which certificate is served, when it changes, what is refused, and HTTP on top of it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import http.client
import http.server
import os
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from keyfront import sign_url
from keyfront.cli.edge_options import EdgeOptions
from keyfront.edge.http.timeouts import Limits
from keyfront.edge.net.certificates import Certificates, unraisable
from keyfront.edge.rules.routing import Routing
from keyfront.edge.serving.settings import EdgeSettings
from keyfront.errors import SettingsError
from keyfront.model.snapshot import Behavior, Distribution, Snapshot
from tests.edge.harness import signed_site
from tests.origin import ScriptedOrigin, answer
from tests.rows import rows
from tests.sites import ALICE, site
from tests.up import Up, distribution_config
from tests.viewer import EdgeHarness, Viewer

EVENT_LOOPS = ("uvloop", "asyncio")
NOW = time.time()
CA = trustme.CA()


def write(path: Path, data: bytes, mode: int = 0o600) -> None:
    """As a careful operator does it: atomically, by rename."""
    temporary = path.with_name("." + path.name)
    temporary.write_bytes(data)
    temporary.chmod(mode)
    temporary.rename(path)


class Folder:
    """A folder of certificates, `Certificates` reading it, and its messages."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.warnings: list[str] = []

    def put(
        self, name: str, *hosts: str, style: str = "crt", mode: int = 0o600, days: int = 90, **wrong: Any
    ) -> x509.Certificate:
        made = CA.issue_cert(
            *hosts, not_after=datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days), **wrong
        )
        chain = b"".join(pem.bytes() for pem in made.cert_chain_pems)
        key = made.private_key_pem.bytes()
        if style == "crt":
            write(self.path / f"{name}.crt", chain)
            write(self.path / f"{name}.key", key, mode)
        elif style == "mkcert":
            write(self.path / f"{name}.pem", chain)
            write(self.path / f"{name}-key.pem", key, mode)
        elif style == "one":
            write(self.path / f"{name}.pem", key + chain, mode)
        else:
            (self.path / name).mkdir(exist_ok=True)
            write(self.path / name / "fullchain.pem", chain)
            write(self.path / name / "privkey.pem", key, mode)
        return x509.load_pem_x509_certificate(chain)

    def read(self) -> Certificates:
        return Certificates(self.path, NOW, self.warnings.append)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def serial(certificates: Certificates, name: str | None) -> int:
    """The serial number of the certificate that answers a handshake for `name`, without a socket."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(to_client, to_server, server_hostname=name)
    server = certificates.context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(3):
        for side in (client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    der = client.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


def chosen(certificates: Certificates, name: str | None, *offered: str) -> str | None:
    """The protocol that a handshake for `name` chooses among those that the viewer offers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(offered)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(to_client, to_server, server_hostname=name)
    server = certificates.context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(3):
        for side in (client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    assert client.selected_alpn_protocol() == server.selected_alpn_protocol()
    return client.selected_alpn_protocol()


def handshake_error(certificates: Certificates, context: ssl.SSLContext, name: str) -> str:
    """Why a client with this context does not accept the certificate for `name`; empty if it does."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(to_client, to_server, server_hostname=name)
    server = certificates.context.wrap_bio(to_server, to_client, server_side=True)
    try:
        for _ in range(3):
            for side in (client, server):
                with contextlib.suppress(ssl.SSLWantReadError):
                    side.do_handshake()
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    return ""


class TestFolder:
    @pytest.mark.parametrize("style", ["crt", "mkcert", "one", "certbot"])
    def test_the_forms_that_people_have_them_in(self, folder: Folder, style: str) -> None:
        made = folder.put("any name", "a.test", "*.b.test", style=style)
        certificates = folder.read()
        assert certificates.names == {"a.test", "*.b.test"}
        assert serial(certificates, "a.test") == made.serial_number
        assert not folder.warnings

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("a.test", "exact"),
            ("A.Test", "exact"),
            ("x.wild.test", "wild"),
            ("X.WILD.test", "wild"),
            ("own.wild.test", "own"),
            ("x.y.wild.test", "default"),
            ("wild.test", "default"),
            ("elsewhere.test", "default"),
            ("test", "default"),
            (None, "default"),
        ],
    )
    def test_by_name(self, folder: Folder, name: str | None, expected: str) -> None:
        made = {
            "exact": folder.put("1", "a.test"),
            "wild": folder.put("2", "*.wild.test"),
            "own": folder.put("3", "own.wild.test"),
            "default": folder.put("default", "fallback.test"),
        }
        assert serial(folder.read(), name) == made[expected].serial_number

    def test_without_one_called_default_the_first_stands_in(self, folder: Folder) -> None:
        first = folder.put("a", "a.test")
        folder.put("b", "b.test")
        assert serial(folder.read(), "elsewhere.test") == first.serial_number

    def test_of_two_for_a_name_the_one_that_lasts_longer(self, folder: Folder) -> None:
        folder.put("a", "x.test", days=10)
        longest = folder.put("b", "x.test", days=90)
        folder.put("c", "x.test", days=30)
        assert serial(folder.read(), "x.test") == longest.serial_number

    @pytest.mark.parametrize("nothing", ["empty", "absent", "only a bad one"])
    def test_a_folder_without_a_usable_certificate_is_no_setting(self, folder: Folder, nothing: str) -> None:
        if nothing == "absent":
            folder.path = folder.path / "absent"
        elif nothing == "only a bad one":
            folder.put("a", "a.test")
            write(folder.path / "a.key", b"nonsense")
        with pytest.raises(SettingsError, match="certificate"):
            folder.read()

    def test_what_is_wrong_with_each(self, folder: Folder) -> None:
        folder.put("good", "a.test")
        folder.put("garbage", "g.test")
        write(folder.path / "garbage.crt", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        folder.put("mixed", "m.test")
        other = trustme.CA().issue_cert("m.test")
        write(folder.path / "mixed.key", other.private_key_pem.bytes())
        write(folder.path / "alone.crt", (folder.path / "good.crt").read_bytes())
        folder.put("nameless", common_name="nobody.test", style="crt")
        folder.put("locked", "l.test")
        key = serialization.load_pem_private_key((folder.path / "locked.key").read_bytes(), None)
        secret = serialization.BestAvailableEncryption(b"x")
        pkcs8 = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
        write(folder.path / "locked.key", key.private_bytes(*pkcs8, secret))
        (folder.path / "nowhere.pem").symlink_to("absent")
        (folder.path / "folder.pem").mkdir()
        certificates = folder.read()
        assert certificates.names == {"a.test"}
        said = {line.split()[2]: line for line in folder.warnings}
        assert said.keys() == {
            "garbage.crt", "mixed.crt", "alone.crt", "nameless.crt", "locked.crt", "folder.pem",
        }  # fmt: skip
        assert "no certificate in PEM form" in said["garbage.crt"]
        assert "mixed.key is not the key of mixed.crt" in said["mixed.crt"]
        assert "alone.crt with alone.crt cannot be used" in said["alone.crt"]
        assert "names no host" in said["nameless.crt"]
        assert "passphrase" in said["locked.crt"]
        # A message is not repeated until the file changes.
        for _ in range(3):
            assert not certificates.poll(NOW)
        assert len(folder.warnings) == len(said)

    def test_chains_in_the_wrong_order_and_weak_keys(self, folder: Folder) -> None:
        intermediate = CA.create_child_ca()
        made = intermediate.issue_cert("chain.test")
        leaf, issuer, key = (
            *(pem.bytes() for pem in made.cert_chain_pems[:1]),
            intermediate.cert_pem.bytes(),
            made.private_key_pem.bytes(),
        )
        write(folder.path / "last.pem", key + issuer + leaf)
        write(folder.path / "mixed.pem", key + leaf + CA.cert_pem.bytes() + issuer)
        write(folder.path / "right.pem", key + leaf + issuer)
        small = rsa.generate_private_key(65537, 1024)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "weak.test")])
        weak = (
            x509.CertificateBuilder(name, name, small.public_key(), 1)
            .not_valid_before(datetime.datetime.fromtimestamp(NOW - 60, datetime.UTC))
            .not_valid_after(datetime.datetime.fromtimestamp(NOW + 86400, datetime.UTC))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("weak.test")]), critical=False)
            .sign(small, hashes.SHA256())
        )
        pkcs8 = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
        pem = weak.public_bytes(serialization.Encoding.PEM)
        write(folder.path / "weak.pem", pem + small.private_bytes(*pkcs8, serialization.NoEncryption()))
        assert folder.read().names == {"chain.test"}
        found = {line.split()[2]: line for line in folder.warnings}
        assert found.keys() == {"last.pem", "mixed.pem", "weak.pem"}
        assert "the certificate of last.pem is not the first in last.pem: put it first" in found["last.pem"]
        assert "each certificate must be followed by the one that issued it" in found["mixed.pem"]
        assert "use RSA with 2048 bits or more" in found["weak.pem"]

    def test_without_a_usable_certificate_the_reasons_are_named(self, folder: Folder) -> None:
        folder.put("nameless", common_name="nobody.test", style="crt")
        with pytest.raises(SettingsError, match=r"no certificate that can be used in .*: .*it names no host"):
            folder.read()

    def test_a_key_readable_by_others_is_used_and_logged(self, folder: Folder) -> None:
        folder.put("a", "a.test", mode=0o644)
        folder.put("b", "b.test", mode=0o640)
        folder.read()
        assert folder.warnings == ["every user on this machine can read the private key a.key"]

    @pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
    def test_a_key_that_cannot_be_read(self, folder: Folder) -> None:
        folder.put("a", "a.test")
        folder.put("b", "b.test", mode=0o000)
        assert folder.read().names == {"a.test"}
        assert "Permission denied" in folder.warnings[0]

    def test_an_expired_one_is_used_only_where_there_was_none(self, folder: Folder) -> None:
        folder.put("a", "a.test", days=-1)
        certificates = folder.read()
        assert "viewers will not accept it: it expired on" in folder.warnings[0]
        good = folder.put("a", "a.test")
        certificates.poll(NOW)
        assert certificates.poll(NOW)
        folder.put("a", "a.test", days=-1)
        certificates.poll(NOW)
        assert not certificates.poll(NOW)
        assert "refused and the one before it stays: it expired on" in folder.warnings[-1]
        assert serial(certificates, "a.test") == good.serial_number


class TestChanges:
    def test_a_new_pair_is_taken_over_when_it_is_still(self, folder: Folder) -> None:
        folder.put("a", "a.test")
        certificates = folder.read()
        assert not certificates.poll(NOW)
        renewed = folder.put("a", "a.test", "www.a.test")
        assert not certificates.poll(NOW)  # it may still be being written
        assert certificates.poll(NOW)
        assert serial(certificates, "www.a.test") == renewed.serial_number
        assert not certificates.poll(NOW)
        assert not folder.warnings

    def test_chain_and_key_written_one_after_the_other(self, folder: Folder) -> None:
        before = folder.put("a", "a.test")
        certificates = folder.read()
        key = (folder.path / "a.key").read_bytes()
        renewed = folder.put("a", "a.test")
        new_key = (folder.path / "a.key").read_bytes()
        write(folder.path / "a.key", key)
        for _ in range(3):  # the key is very late: this is reported, and the old one stays
            assert not certificates.poll(NOW)
        assert folder.warnings == ["the certificate a.crt is refused and the one before it stays: "
                               "a.key is not the key of a.crt"]  # fmt: skip
        assert serial(certificates, "a.test") == before.serial_number
        write(folder.path / "a.key", new_key)
        certificates.poll(NOW)
        assert certificates.poll(NOW)
        assert serial(certificates, "a.test") == renewed.serial_number

    def test_one_more_and_one_less(self, folder: Folder) -> None:
        folder.put("a", "a.test")
        certificates = folder.read()
        folder.put("b", "b.test", style="certbot")
        certificates.poll(NOW)
        assert certificates.poll(NOW)
        assert certificates.names == {"a.test", "b.test"}
        (folder.path / "a.crt").unlink()
        certificates.poll(NOW)
        assert certificates.poll(NOW)
        assert certificates.names == {"b.test"}
        assert folder.warnings == ["the certificate a.crt is no longer used: its files are gone"]
        (folder.path / "b" / "fullchain.pem").unlink()
        for _ in range(3):
            assert not certificates.poll(NOW)
        assert certificates.names == {"b.test"}  # the last one stays

    def test_a_folder_that_is_swapped_as_a_whole(self, folder: Folder, tmp_path: Path) -> None:
        """As Kubernetes mounts secrets: a symlink to a folder, replaced by another symlink."""
        root = tmp_path
        mounts = []
        for number in ("1", "2"):
            (root / number).mkdir()
            folder.path = root / number
            mounts.append(folder.put("tls", "a.test"))
        (root / "now").symlink_to("1")
        folder.path = root / "now"
        certificates = folder.read()
        (root / "next").symlink_to("2")
        (root / "next").rename(root / "now")
        certificates.poll(NOW)
        assert certificates.poll(NOW)
        assert serial(certificates, "a.test") == mounts[1].serial_number


# -- over sockets ----------------------------------------------------------------------------------------------


@pytest.fixture
async def origin() -> AsyncIterator[ScriptedOrigin]:
    async with ScriptedOrigin() as origin:
        origin.on("/a/1", answer(200, b"hello"))
        yield origin
    assert not origin.faults


@pytest.fixture
async def harness(origin: ScriptedOrigin, folder: Folder) -> AsyncIterator[EdgeHarness]:
    folder.put("d", "d.test")
    async with EdgeHarness(site(origin.origin()), tls=folder.read().context) as harness:
        yield harness


@rows(
    ("name", "offered", "protocol"),
    [
        ("old.test", ("h2", "http/1.1"), "http/1.1"),
        ("old.test", ("h2",), None),
        ("old.test", (), None),
        ("new.test", ("h2", "http/1.1"), "h2"),
        ("new.test", ("http/1.1",), "http/1.1"),
        ("a.wild.test", ("h2", "http/1.1"), "h2"),
        ("unknown.test", ("h2", "http/1.1"), "http/1.1"),
        (None, ("h2", "http/1.1"), "http/1.1"),
    ],
)
def test_a_distribution_decides_whether_its_names_have_http2(
    tmp_path: Path, name: str | None, offered: tuple[str, ...], protocol: str | None
) -> None:
    folder = Folder(tmp_path)
    folder.put("one", "old.test", "new.test", "*.wild.test")
    old = Distribution("1", "arn:1", "1.cdn.test", ("old.test",), http2=False)
    new = Distribution("2", "arn:2", "2.cdn.test", ("new.test", "*.wild.test"))
    routing = Routing(Snapshot(1, NOW, distributions=(old, new)))
    certificates = Certificates(tmp_path, NOW, print, offers_http2=routing.offers_http2)
    assert chosen(certificates, name, *offered) == protocol
    everywhere = Routing(Snapshot(2, NOW, distributions=(new,)))
    anywhere = Certificates(tmp_path, NOW, print, offers_http2=everywhere.offers_http2)
    assert chosen(anywhere, name, *offered) == (offered[0] if offered else None)


class TestOneConnectionForSeveralNames:
    """A viewer may use an HTTP/2 connection for other names that it believes to be served there (RFC 9113 section
    9.1.1). It repeats what is answered with 421 over a connection of its own (RFC 9110 section 15.5.20)."""

    @pytest.fixture
    async def harness(self, origin: ScriptedOrigin, folder: Folder) -> AsyncIterator[EdgeHarness]:
        folder.put("default", "one.test", "two.test", "old.test", "*.wild.test")
        folder.put("other", "other.test")
        async with EdgeHarness(self.snapshot(origin), tls=folder.read()) as harness:
            yield harness

    def snapshot(self, origin: ScriptedOrigin, *old: str) -> Snapshot:
        names = {"one.test", "two.test", "a.wild.test", "other.test", "old.test"}
        made = [
            Distribution(
                name,
                f"arn:{name}",
                f"{name}.cdn.test",
                (name,),
                origins=(origin.origin(),),
                behaviors=(Behavior("*", origin.origin().id),),
                http2=name not in {"old.test", *old},
            )
            for name in sorted(names)
        ]
        return Snapshot(1 + len(old), NOW, distributions=tuple(made))

    @rows(
        ("opened_for", "host", "status"),
        [
            ("one.test", "one.test", 200),
            ("one.test", "ONE.test:443", 200),
            ("one.test", "two.test", 200),
            ("one.test", "a.wild.test", 200),
            ("one.test", "other.test", 421),  # another certificate
            ("other.test", "one.test", 421),
            ("one.test", "old.test", 421),  # HTTP/1.1 only
            ("one.test", "nobody.test", 403),  # no other connection would be different
            ("nobody.test", "two.test", 200),  # the default certificate
            ("other.test", "nobody.test", 421),
        ],
    )
    async def test_what_it_serves(
        self, harness: EdgeHarness, opened_for: str, host: str, status: int
    ) -> None:
        before = len(harness.records)
        async with httpx.AsyncClient(http2=True, verify=trusting(check_hostname=False)) as client:

            async def ask(name: str) -> httpx.Response:
                return await client.get(
                    f"https://127.0.0.1:{harness.port}/a/1",
                    headers={"Host": name},
                    extensions={"sni_hostname": opened_for},
                )

            await ask(opened_for)
            answers = [await ask(host) for _ in range(3)]  # decoded, recognized, and by its bytes
        assert [(each.http_version, each.status_code) for each in answers] == [("HTTP/2", status)] * 3
        assert len({each.extensions["network_stream"] for each in answers}) == 1
        if status == 421:
            record = await harness.recorded(before + 4)
            assert record["reason"] == "misdirected"

    async def test_a_snapshot_decides_for_open_connections_too(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        async with httpx.AsyncClient(http2=True, verify=trusting(check_hostname=False)) as client:
            url, headers = f"https://127.0.0.1:{harness.port}/a/1", {"Host": "one.test"}
            sni = {"sni_hostname": "one.test"}
            before = await client.get(url, headers=headers, extensions=sni)
            harness.edge.use(self.snapshot(origin, "one.test"))
            after = await client.get(url, headers=headers, extensions=sni)
        assert (before.status_code, after.status_code) == (200, 421)

    async def test_a_trusted_proxy_carries_every_name(self, origin: ScriptedOrigin, folder: Folder) -> None:
        folder.put("default", "one.test")
        folder.put("other", "other.test")
        async with (
            EdgeHarness(self.snapshot(origin), tls=folder.read(), trusted=("127.0.0.1",)) as harness,
            httpx.AsyncClient(http2=True, verify=trusting(check_hostname=False)) as client,
        ):
            url, headers = f"https://127.0.0.1:{harness.port}/a/1", {"X-Forwarded-Proto": "https"}
            for name in ("one.test", "other.test", "old.test"):
                seen = await client.get(url, headers={**headers, "Host": name})
                assert (seen.http_version, seen.status_code) == ("HTTP/2", 200)

    def test_a_certificate_that_was_replaced_covers_its_names(self, folder: Folder) -> None:
        folder.put("a", "a.test")
        certificates = folder.read()
        before = certificates.find("a.test")
        folder.put("a", "b.test", "*.c.test")
        for _ in range(2):
            certificates.poll(NOW)
        after = certificates.find("b.test")
        assert after is not before
        covered = [
            (context, name)
            for context in (before.context, after.http1)
            for name in ("a.test", "b.test", "x.c.test", "x.y.c.test", "c.test", "b.test.")
            if certificates.cover(context, name)
        ]
        # The only certificate is also the one for unknown names.
        assert covered == [
            (before.context, "a.test"),
            *((after.http1, n) for n in ("a.test", "b.test", "x.c.test", "x.y.c.test", "c.test", "b.test.")),
        ]


def trusting(**settings: Any) -> ssl.SSLContext:
    context = ssl.create_default_context()
    CA.configure_trust(context)
    for name, value in settings.items():
        setattr(context, name, value)
    return context


async def visit(harness: EdgeHarness, context: ssl.SSLContext | None = None, name: str = "d.test") -> Viewer:
    return await harness.viewer(ssl=context or trusting(), server_hostname=name)


class TestConnections:
    async def test_a_viewer_that_trusts_the_authority(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        context = trusting()
        context.set_alpn_protocols(["http/1.1"])
        async with await visit(harness, context) as viewer:
            miss, hit = [await viewer.ask("/a/1", "d.test") for _ in range(2)]
            secured = viewer.writer.get_extra_info("ssl_object")
            assert secured.version() == "TLSv1.3"
            assert secured.selected_alpn_protocol() == "http/1.1"
        assert (miss.body, miss.x_cache, hit.body, hit.x_cache) == (b"hello", "Miss", b"hello", "Hit")
        record = await harness.recorded(2)
        assert record["scheme"] == "https"
        assert (record["ssl_protocol"], record["ssl_cipher"]) == ("TLSv1.3", "TLS_AES_256_GCM_SHA384")

    @pytest.mark.uvloop
    async def test_tls_1_2_with_forward_secrecy(self, harness: EdgeHarness) -> None:
        context = trusting(maximum_version=ssl.TLSVersion.TLSv1_2)
        async with await visit(harness, context) as viewer:
            assert (await viewer.ask("/a/1", "d.test")).status == 200
        record = await harness.recorded(1)
        assert record["ssl_protocol"] == "TLSv1.2"
        assert record["ssl_cipher"].startswith("ECDHE-")

    @pytest.mark.uvloop
    @pytest.mark.parametrize(
        ("settings", "ciphers"),
        [({"maximum_version": ssl.TLSVersion.TLSv1_1, "minimum_version": ssl.TLSVersion.TLSv1}, ""),
         ({"maximum_version": ssl.TLSVersion.TLSv1_2}, "AES128-GCM-SHA256:AES256-SHA"),
         ({"maximum_version": ssl.TLSVersion.TLSv1_2}, "ECDHE-ECDSA-AES128-SHA:ECDHE-RSA-AES128-SHA")],
        ids=["TLS 1.1", "no forward secrecy", "CBC"],
    )  # fmt: skip
    @pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
    async def test_what_is_out_of_date_is_turned_away(
        self, harness: EdgeHarness, settings: dict[str, Any], ciphers: str
    ) -> None:
        context = trusting(**settings)
        context.set_ciphers((ciphers or "ALL") + ":@SECLEVEL=0")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await visit(harness, context)
        assert not harness.records

    async def test_http_on_the_tls_port_gets_no_further(self, harness: EdgeHarness) -> None:
        async with await harness.viewer() as viewer:
            await viewer.send(b"GET /a/1 HTTP/1.1\r\nHost: d.test\r\n\r\n")
            assert b"HTTP" not in await viewer.at_end()
        assert not harness.records

    @pytest.mark.uvloop
    @pytest.mark.parametrize("name", [b"\xff\xfe.test", b"a" * 255, b"d..test", b"\xc3\xa9.test"])
    async def test_a_server_name_that_is_none(
        self,
        harness: EdgeHarness,
        name: bytes,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(sys, "unraisablehook", unraisable)
        with contextlib.suppress(ConnectionError):
            async with await harness.viewer() as viewer:
                await viewer.send(client_hello(name))
                await asyncio.wait_for(viewer.reader.read(10), 5)
        async with await visit(harness) as viewer:
            assert (await viewer.ask("/a/1", "d.test")).status == 200
        assert "Traceback" not in capsys.readouterr().err

    @pytest.mark.uvloop
    async def test_a_change_leaves_open_connections_alone(
        self, origin: ScriptedOrigin, folder: Folder
    ) -> None:
        first = folder.put("d", "d.test")
        certificates = folder.read()

        def shown(viewer: Viewer) -> int:
            der = viewer.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            return x509.load_der_x509_certificate(der).serial_number

        async with EdgeHarness(site(origin.origin()), tls=certificates.context) as harness:
            async with await visit(harness) as old:
                await old.ask("/a/1", "d.test")
                second = folder.put("d", "d.test")
                certificates.poll(NOW)
                assert certificates.poll(NOW)
                async with await visit(harness) as new:
                    assert (await new.ask("/a/1", "d.test")).x_cache == "Hit"
                    assert (await old.ask("/a/1", "d.test")).x_cache == "Hit"
                    assert (shown(old), shown(new)) == (first.serial_number, second.serial_number)

    @pytest.mark.uvloop
    async def test_sessions_are_resumed_across_a_change(self, origin: ScriptedOrigin, folder: Folder) -> None:
        folder.put("d", "d.test")
        certificates = folder.read()
        context = trusting(maximum_version=ssl.TLSVersion.TLSv1_2)
        loop = asyncio.get_running_loop()
        async with EdgeHarness(site(origin.origin()), tls=certificates.context) as harness:

            def handshake(session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool | None]:
                with socket.create_connection(("127.0.0.1", harness.port), 5) as plain:
                    with context.wrap_socket(plain, server_hostname="d.test", session=session) as secured:
                        return secured.session, secured.session_reused

            session, reused = await loop.run_in_executor(None, handshake, None)
            assert not reused
            folder.put("d", "d.test")
            certificates.poll(NOW)
            assert certificates.poll(NOW)
            assert (await loop.run_in_executor(None, handshake, session))[1]

    @pytest.mark.uvloop
    async def test_a_signature_is_for_https(self, origin: ScriptedOrigin, folder: Folder) -> None:
        folder.put("d", "d.test")
        secure = sign_url("https://d.test/a/1", ALICE, expires=int(time.time()) + 60)
        plain = sign_url("http://d.test/a/1", ALICE, expires=int(time.time()) + 60)
        async with EdgeHarness(signed_site(origin, "KALICE1"), tls=folder.read().context) as harness:
            async with await visit(harness) as viewer:
                assert (await viewer.ask(secure.removeprefix("https://d.test"), "d.test")).status == 200
                assert (await viewer.ask(plain.removeprefix("http://d.test"), "d.test")).status == 403

    @pytest.mark.uvloop
    async def test_https_only_is_content_and_a_redirect_ends_here(
        self, origin: ScriptedOrigin, folder: Folder
    ) -> None:
        folder.put("d", "d.test")
        for policy in ("https-only", "redirect-to-https"):
            behavior = Behavior("*", "scripted", viewer_protocol_policy=policy)
            async with EdgeHarness(site(origin.origin(), behavior), tls=folder.read().context) as harness:
                async with await visit(harness) as viewer:
                    assert (await viewer.ask("/a/1", "d.test")).body == b"hello"


BRIEF = Limits(head=0.4, idle=0.4, body=0.4, write=0.5, drain=3)


class TestEnds:
    @pytest.mark.parametrize(
        ("scheme", "connection"), [("https", "keep-alive"), ("https", "close"), ("http", "keep-alive")]
    )
    async def test_a_late_and_slow_reader_gets_the_whole_body(
        self, origin: ScriptedOrigin, folder: Folder, scheme: str, connection: str
    ) -> None:
        """More slowly than the limits overall, but never without progress for that long."""
        folder.put("d", "d.test")
        body = os.urandom(1_500_000)
        origin.on("/big", answer(200, body))
        tls = folder.read().context if scheme == "https" else None
        settings = EdgeSettings(memory=1 << 24, max_object=1 << 23)
        limits = Limits(write=0.6, idle=0.6)
        request = f"GET /big HTTP/1.1\r\nHost: d.test\r\nConnection: {connection}\r\n\r\n".encode()
        loop = asyncio.get_running_loop()
        async with EdgeHarness(site(origin.origin()), tls=tls, limits=limits, settings=settings) as harness:
            for _ in ("miss", "hit"):
                got = await loop.run_in_executor(None, slowly, harness.port, request, len(body), scheme)
                assert got == body

    async def test_a_refused_request_is_answered_before_the_end(self, harness: EdgeHarness) -> None:
        async with await visit(harness) as viewer:
            await viewer.send(b"nonsense\r\n\r\n" + b"x" * 300_000)
            seen = await viewer.answer()
            assert (seen.status, seen.header("connection")) == (400, "close")
            assert await viewer.at_end() == b""

    @pytest.mark.parametrize("said", [b"", b"GET /a/1 HTTP/1.1\r\n"], ids=["idle", "half a head"])
    async def test_a_silent_viewer_is_disconnected(
        self, origin: ScriptedOrigin, folder: Folder, said: bytes
    ) -> None:
        folder.put("d", "d.test")
        tls = folder.read().context
        async with EdgeHarness(site(origin.origin()), tls=tls, limits=BRIEF) as harness:
            async with await visit(harness) as viewer:
                await viewer.send(said)
                with contextlib.suppress(ConnectionError):
                    assert await asyncio.wait_for(viewer.at_end(), 5) == b""

    async def test_a_viewer_that_does_not_read_is_disconnected(
        self, origin: ScriptedOrigin, folder: Folder
    ) -> None:
        folder.put("d", "d.test")
        size = 24_000_000  # more than the kernel buffers on the way
        origin.on("/big", answer(200, bytes(size), {"Cache-Control": "no-store"}))
        tls = folder.read().context
        async with EdgeHarness(site(origin.origin()), tls=tls, limits=BRIEF) as harness:
            async with await visit(harness) as viewer:
                viewer.writer.transport.pause_reading()  # type: ignore[attr-defined]
                await viewer.send(b"GET /big HTTP/1.1\r\nHost: d.test\r\n\r\n")
                record = await asyncio.wait_for(harness.recorded(1), 10)
                assert record["detail"] == "ClientHungUpRequest"
                assert record["bytes"] < size

    async def test_a_viewer_that_leaves_stops_the_origin(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        gate = asyncio.Event()
        origin.on("/slow", [gate, *answer(200, b"late", {"Cache-Control": "no-store"})])
        async with await visit(harness) as viewer:
            await viewer.send(b"GET /slow HTTP/1.1\r\nHost: d.test\r\n\r\n")
            await origin.received(1)
            linger = struct.pack("ii", 1, 0)
            viewer.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            viewer.writer.transport.abort()
        record = await asyncio.wait_for(harness.recorded(1), 5)
        assert (record["status"], record["detail"]) == (0, "ClientHungUpRequest")
        gate.set()

    @pytest.mark.parametrize("talks_on", [False, True])
    async def test_after_close_notify_a_viewer_is_answered_and_its_bytes_are_ignored(
        self, harness: EdgeHarness, origin: ScriptedOrigin, talks_on: bool
    ) -> None:
        gate = asyncio.Event()
        origin.on("/slow", [gate, *answer(200, b"at last")])
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = trusting().wrap_bio(incoming, outgoing, server_hostname="d.test")
        async with await harness.viewer() as plain:
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    await plain.send(outgoing.read())
                    incoming.write(await plain.reader.read(65536))
            tls.write(b"GET /slow HTTP/1.1\r\nHost: d.test\r\n\r\n")
            with pytest.raises(ssl.SSLWantReadError):
                tls.unwrap()
            await plain.send(outgoing.read())
            await origin.received(1)
            if talks_on:
                for _ in range(100):
                    await plain.send(os.urandom(100_000))
                (connection,) = harness.listener.connections
                assert connection._transport._incoming.pending == 0
            gate.set()
            if talks_on:
                return
            incoming.write(await plain.at_end())
            assert tls.read(65536).endswith(b"\r\n\r\nat last")
            with pytest.raises(ssl.SSLZeroReturnError):  # the edge's own close_notify
                tls.read(1)

    async def test_drain(self, harness: EdgeHarness, origin: ScriptedOrigin) -> None:
        gate = asyncio.Event()
        origin.on("/slow", [gate, *answer(200, b"finished")])
        async with await visit(harness) as idle, await visit(harness) as busy:
            await busy.send(b"GET /slow HTTP/1.1\r\nHost: d.test\r\n\r\n")
            await origin.received(1)
            draining = asyncio.create_task(harness.listener.drain())
            assert await idle.at_end() == b""
            gate.set()
            seen = await busy.answer()
            assert (seen.body, seen.header("connection")) == (b"finished", "close")
            assert await busy.at_end() == b""
            idle.writer.close()
            busy.writer.close()
            await asyncio.wait_for(draining, 10)


@pytest.fixture
def app() -> Iterator[int]:
    """An application server; its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


OPTIONS = EdgeOptions(
    edge="127.0.0.1:0",
    tls=None,
    certificates=None,
    trusted_proxies="",
    memory=1,
    max_object=1,
    cache_disk=0,
    country_db=None,
    pop="",
    cache_status=False,
    explain_to="",
)


class TestUp:
    """A whole Keyfront, from the command line to the log."""

    def test_both_listeners_a_renewal_and_the_end(self, tmp_path: Path, app: int) -> None:
        (tmp_path / "certificates").mkdir()
        folder = Folder(tmp_path / "certificates")
        first = folder.put("all", "*.cloudfront.localhost")
        options = ("--tls", "127.0.0.1:0", "--certificates", str(folder.path))
        with Up(tmp_path / "data", options=options) as up:
            client = up.client()
            config = distribution_config("tls", app, [])
            config["DefaultCacheBehavior"]["ViewerProtocolPolicy"] = "redirect-to-https"
            made = client.create_distribution(DistributionConfig=config)["Distribution"]
            host = made["DomainName"]
            up.deployed(made["Id"])

            plain = up.get(f"{host}:{up.edge_port}", "/a?b=c")
            assert (plain.status, plain.headers["location"]) == (
                301,
                f"https://{host}:{up.tls_port}/a?b=c",
            )

            def over_tls() -> tuple[int, bytes, int]:
                with socket.create_connection(("127.0.0.1", up.tls_port), 5) as tcp:
                    with trusting().wrap_socket(tcp, server_hostname=host) as viewer:
                        viewer.sendall(f"GET /a?b=c HTTP/1.1\r\nHost: {host}:{up.tls_port}\r\n\r\n".encode())
                        answer = http.client.HTTPResponse(viewer)
                        answer.begin()
                        der = viewer.getpeercert(binary_form=True)
                        assert der is not None
                        serial = x509.load_der_x509_certificate(der).serial_number
                        return answer.status, answer.read(), serial

            assert over_tls() == (200, b"hello", first.serial_number)
            second = folder.put("all", "*.cloudfront.localhost")
            up.until(lambda: over_tls() == (200, b"hello", second.serial_number))
            with (
                contextlib.suppress(ConnectionError),
                socket.create_connection(("127.0.0.1", up.tls_port)) as tcp,
            ):
                tcp.sendall(client_hello(b"\xff.test"))
                tcp.recv(10)
            with socket.create_connection(("127.0.0.1", up.tls_port)) as tcp:
                # An idle viewer does not delay the shutdown; nor does one that never completes a handshake.
                with trusting().wrap_socket(tcp, server_hostname=host) as idle:
                    with socket.create_connection(("127.0.0.1", up.tls_port)):
                        began = time.monotonic()
                        assert up.stop() == 0
                        assert time.monotonic() - began < 10
                        assert idle.recv(1) == b""
            record = next(r for r in up.records() if r["scheme"] == "https")
            assert (record["ssl_protocol"], record["status"]) == ("TLSv1.3", 200)
            assert all("ssl_protocol" not in r for r in up.records() if r["scheme"] == "http")
            assert "Traceback" not in "".join(up.log)

    @rows(
        ("options", "said"),
        [
            ({"certificates": Path()}, "--certificates requires --tls"),
            ({"tls": "127.0.0.1:0", "certificates": Path()}, "no certificate that can be used"),
        ],
    )
    def test_settings_that_make_no_sense(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], said: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SettingsError, match=said):
            msgspec.structs.replace(OPTIONS, **options).tls_settings(tmp_path)


def slowly(port: int, request: bytes, size: int, scheme: str) -> bytes:
    """The body of a response, read in small pieces with pauses. (uvloop's own TLS loses at the end what it has not
    yet delivered, so this viewer does without it.)"""
    with socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        plain.settimeout(5)
        plain.connect(("127.0.0.1", port))
        with (
            trusting().wrap_socket(plain, server_hostname="d.test") if scheme == "https" else plain as viewer
        ):
            viewer.sendall(request)
            time.sleep(0.3)
            data = b""
            while b"\r\n\r\n" not in data:
                data += viewer.recv(100)
            body = data.partition(b"\r\n\r\n")[2]
            while len(body) < size:
                piece = viewer.recv(16 << 10)
                if not piece:
                    break
                body += piece
                time.sleep(0.01)
            if b"Connection: close" in request:
                assert viewer.recv(1) == b""
            return body


def client_hello(name: bytes) -> bytes:
    """A TLS 1.2 ClientHello for a server name that no client library would send."""

    def sized(data: bytes, width: int) -> bytes:
        return len(data).to_bytes(width, "big") + data

    server_name = b"\x00\x00" + sized(sized(b"\x00" + sized(name, 2), 2), 2)
    groups = b"\x00\x0a" + sized(sized(b"\x00\x1d\x00\x17", 2), 2)
    algorithms = b"\x00\x0d" + sized(sized(b"\x04\x03\x08\x04\x04\x01", 2), 2)
    extensions = sized(server_name + groups + algorithms, 2)
    hello = b"\x03\x03" + os.urandom(32) + b"\x00" + sized(b"\xc0\x2b\xc0\x2f", 2) + b"\x01\x00" + extensions
    return b"\x16\x03\x01" + sized(b"\x01" + sized(hello, 3), 2)
