"""Files that are not an archive, or not the archive that was made, are refused, however they were altered."""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import io
import random
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pyrage
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keyfront.backup import capture
from keyfront.backup.archive import encryption, tables
from keyfront.backup.archive import files as belongings
from keyfront.backup.archive import keys as custodies
from keyfront.backup.archive.container import FORMAT, Manifest, Writer, header, read_manifest
from keyfront.backup.archive.encryption import Opener, Seal
from keyfront.control.store import schema
from keyfront.control.store.database import Memory
from keyfront.control.store.store import Store
from keyfront.errors import BackupError, SettingsError
from tests.backup.harness import OPENER, SEAL, VERSION, Installed, make
from tests.control.harness import ACCOUNT
from tests.rows import rows


@functools.cache
def archive() -> tuple[bytes, bytes]:
    """An archive of a small installation: encrypted, and unencrypted."""
    with tempfile.TemporaryDirectory() as name:
        one = Installed(Path(name))
        outcome = make(one.harness.store, one.folder, one.folder / "archives")
        one.harness.close()
        data = (one.folder / "archives" / outcome.name).read_bytes()
    return data, encryption.opened(data, OPENER)


def packed(tar: bytes) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    return packer.compress(tar) + packer.flush()


def manifest(**changes: object) -> Manifest:
    whole = read_manifest(archive()[1])
    return msgspec.structs.replace(whole, **changes)


def written(sections: dict[str, list[bytes]], **changes: object) -> bytes:
    """An archive with exactly these sections."""
    writer = Writer()
    for name, lines in sections.items():
        writer.section(name, lines)
    return writer.finish(manifest(members=tuple(writer.members), **changes))


def test_it_opens_and_judges() -> None:
    found = capture.read(archive()[1])
    assert capture.judge(found, ACCOUNT, VERSION).number == found.manifest.snapshot
    assert found.manifest.counts["store/resource"] == 3
    assert {file.path for file in found.files} == {"credentials", "access.key", "certificates/a.pem"}
    with tarfile.open(fileobj=io.BytesIO(archive()[1]), mode="r:gz") as tar:  # without Keyfront
        assert tar.getnames()[-1] == "manifest.json"


def test_nothing_of_it_lies_in_plain() -> None:
    data, plain = archive()
    assert data.startswith(encryption.MAGIC)
    for secret in (b"EncodedKey", b"manifest.json", b"credentials", plain[:64]):
        assert secret not in data


ENCRYPTED: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut off in the header": lambda data: data[:60],
    "cut off": lambda data: data[:-1],
    "cut off by half": lambda data: data[: len(data) // 2],
    "with a tail": lambda data: data + b"x",
    "twice": lambda data: data + data,
    "a changed byte": lambda data: data[:-40] + bytes([data[-40] ^ 1]) + data[-39:],
    "something else": lambda data: b"PK\x03\x04" + data,
}


@rows("name", ENCRYPTED)
def test_a_damaged_file_is_refused(name: str) -> None:
    with pytest.raises(BackupError):
        encryption.opened(ENCRYPTED[name](archive()[0]), OPENER)


def test_the_wrong_key() -> None:
    data, _ = archive()
    with pytest.raises(BackupError, match="another recipient"):
        encryption.opened(data, Opener((pyrage.x25519.Identity.generate(),)))
    with pytest.raises(BackupError, match=r"give --identity|another recipient"):
        encryption.opened(data, Opener(passphrase="x"))
    other, _ = encryption.sealed(b"x", SEAL)
    assert encryption.opened(other, OPENER) == b"x"


def test_a_passphrase() -> None:
    data = under_passphrase(b"state", "correct horse")
    assert encryption.opened(data, Opener(passphrase="correct horse")) == b"state"
    with pytest.raises(BackupError, match="--passphrase-file"):
        encryption.opened(data, OPENER)
    with pytest.raises(BackupError, match="another recipient"):
        encryption.opened(data, Opener(passphrase="wrong horse"))


def test_what_a_passphrase_seals(pytestconfig: pytest.Config) -> None:
    if not pytestconfig.getoption("long"):
        pytest.skip("age takes seconds over a passphrase, as it should: --long")
    data, opener = encryption.sealed(b"state", Seal(passphrase="correct horse"))
    assert data.startswith(b"age-encryption.org/v1\n-> scrypt ")
    assert opener.passphrase == "correct horse"


def under_passphrase(data: bytes, passphrase: str) -> bytes:
    """An age file per the specification (C2SP/age.md), with a low work factor so that tests are fast."""

    def hkdf(salt: bytes, info: bytes) -> bytes:
        return HKDF(hashes.SHA256(), 32, salt, info).derive(file_key)

    def unpadded(value: bytes) -> bytes:
        return base64.b64encode(value).rstrip(b"=")

    file_key, salt, nonce = bytes(range(16)), b"s" * 16, b"n" * 16
    wrapping = hashlib.scrypt(
        passphrase.encode(), salt=b"age-encryption.org/v1/scrypt" + salt, n=1 << 4, r=8, p=1, dklen=32
    )
    body = ChaCha20Poly1305(wrapping).encrypt(bytes(12), file_key, None)
    head = b"age-encryption.org/v1\n-> scrypt %s 4\n%s\n---" % (unpadded(salt), unpadded(body))
    mac = hmac.digest(hkdf(b"", b"header"), head, "sha256")
    stream = ChaCha20Poly1305(hkdf(nonce, b"payload")).encrypt(bytes(11) + b"\1", data, None)
    return head + b" " + unpadded(mac) + b"\n" + nonce + stream


def test_who_archives_are_for(tmp_path: Path) -> None:
    recipient = encryption.keygen(tmp_path / "id")
    assert (tmp_path / "id").stat().st_mode & 0o777 == 0o600
    with pytest.raises(SettingsError, match="not touched"):
        encryption.keygen(tmp_path / "id")
    data, _ = encryption.sealed(b"x", encryption.seal_for([recipient], None))
    assert encryption.opened(data, encryption.opener([tmp_path / "id"], None)) == b"x"
    secret = (tmp_path / "id").read_text().splitlines()[-1]
    for bad in ("", "age1", "nobody", secret, "ssh-rsa AAAA"):
        with pytest.raises(SettingsError) as caught:
            encryption.seal_for([bad], None)
        assert secret not in str(caught.value)
    with pytest.raises(SettingsError, match="recipient"):
        encryption.seal_for([], None)
    (tmp_path / "id").chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        encryption.opener([tmp_path / "id"], None)


def tar(*members: tuple[str, bytes], tail: bytes = bytes(1024)) -> bytes:
    return b"".join(header(name, len(data)) + data + bytes(-len(data) % 512) for name, data in members) + tail


def linked() -> bytes:
    info = tarfile.TarInfo("files.0001.jsonl")
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return info.tobuf(tarfile.USTAR_FORMAT) + bytes(1024)


PLAIN: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "no gzip": lambda: b"x" * 1000,
    "an empty tar": lambda: packed(bytes(1024)),
    "no manifest": lambda: packed(tar(("files.0001.jsonl", b"{}\n"))),
    "a link": lambda: packed(linked()),
    "a path that leads out": lambda: packed(tar(("../../etc/passwd", b"{}\n"))),
    "an absolute path": lambda: packed(tar(("/etc/passwd", b"{}\n"))),
    "a tail behind the tar": lambda: packed(zlib.decompress(archive()[1], 31) + bytes(512)),
    "a tail behind the gzip": lambda: archive()[1] + b"\n",
    "a second gzip": lambda: archive()[1] + packed(b""),
    "cut off": lambda: archive()[1][:-1],
    "one zero block": lambda: packed(zlib.decompress(archive()[1], 31)[:-512]),
    "padding": lambda: packed(header("files.0001.jsonl", 3) + b"{}\n" + b"x" * 509 + bytes(1024)),
    "a size that lies": lambda: packed(header("files.0001.jsonl", 1 << 30) + b"{}\n"),
    "a mode": lambda: packed(zlib.decompress(archive()[1], 31).replace(b"0000600\0", b"0000777\0", 1)),
    "an unknown part": lambda: written({"surprise": [b"{}"]}),
    "an unknown table": lambda: written({"store/surprise": [b"{}"]}),
    "a row of two lines": lambda: written({"files": [b"{}\n{}"]}),
    "an empty line": lambda: written({"files": [b"", b"{}"]}),
    "a later format": lambda: written({}, format=FORMAT + 1),
    "a later schema": lambda: written({}, schema=schema.VERSION + 1),
    "no schema": lambda: written({}, schema=0),
    "a row without columns": lambda: written({"store/resource": [b"{}"]}),
    "a row of a wrong type": lambda: written({"store/counter": [b'{"name":"snapshot","value":"1"}']}),
    "a number beyond all": lambda: written(
        {"store/counter": [b'{"name":"snapshot","value":1%s}' % (b"0" * 30)]}
    ),
    "a row twice": lambda: written({"store/counter": [b'{"name":"a","value":1}'] * 2}),
    "a reference to nothing": lambda: written(
        {"store/tag": [b'{"kind":"Distribution","id":"E1","key":"a","value":"b"}']}
    ),
    "other rows than were taken": lambda: written({"store/counter": [b'{"name":"snapshot","value":3}']}),
    "no JSON": lambda: written({"store/counter": [b"{"]}),
    "a file elsewhere": lambda: written({"files": [b'{"path":"../x","mode":384,"data":{"u":""}}']}),
    "a private key that is none": lambda: written(
        {"keys": [b'{"uri":"file:/k/a","pem":"x","created":1.0,"labels":{}}']}
    ),
}


@rows("name", PLAIN)
def test_what_somebody_else_made_is_refused(name: str) -> None:
    """Anyone who knows a recipient can encrypt anything to it."""
    with pytest.raises(BackupError):
        capture.judge(capture.read(PLAIN[name]()), ACCOUNT, VERSION)


@rows(
    "path",
    ["../x", "/etc/passwd", "hooks/../../x", "keyfront.db", "snapshot", "lock", "", "hooks", "hooks/", "hooks//a",
     "certificates/./a", "credentials/a", "hooks/a\0b", "custody/a.private", f"hooks/{'a' * 256}", "hooks" + "/a" * 20],
)  # fmt: skip
def test_a_file_lies_where_it_belongs(path: str) -> None:
    line = msgspec.json.encode({"path": path, "mode": 0o600, "data": {"u": "x"}})
    with pytest.raises(BackupError):
        belongings.read([line])


def test_a_file_and_a_folder_of_one_name() -> None:
    lines = [
        msgspec.json.encode({"path": path, "mode": 0o600, "data": {"u": ""}})
        for path in ("hooks/a", "hooks/a/b")
    ]
    with pytest.raises(BackupError, match="lies in a file"):
        belongings.read(lines)


def test_no_byte_can_be_changed_unnoticed() -> None:
    """Nothing inside the encryption is trusted either: each change is refused, or changes nothing at all."""
    rng, plain = random.Random(5), archive()[1]
    whole = capture.read(plain)
    tarred = zlib.decompress(plain, 31)
    for _ in range(300):
        spoilt = bytearray(tarred if rng.random() < 0.7 else plain)
        inside = len(spoilt) == len(tarred)
        for _ in range(rng.choice((1, 1, 3))):
            spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
        try:
            found = capture.read(packed(bytes(spoilt)) if inside else bytes(spoilt))
            capture.judge(found, ACCOUNT, VERSION)
        except BackupError:
            continue
        # Only the manifest's own wording changed, or the gzip header's; the rows are the same.
        assert found.manifest.members == whole.manifest.members
        assert (found.files, found.records, found.keys) == (whole.files, whole.records, whole.keys)


def test_lengths_are_held() -> None:
    bomb = packed(header("files.0001.jsonl", 63 << 20) + bytes(63 << 20))
    assert len(bomb) < 100_000
    with pytest.raises(BackupError):
        read_manifest(bomb)
    with pytest.raises(BackupError, match="larger than any"):
        read_manifest(packed(header("files.0001.jsonl", 65 << 20)))
    with pytest.raises(BackupError, match="too large"):
        Writer().section("files", [b"x" * (61 << 20)])


@rows("version", range(1, schema.VERSION + 1))
def test_archives_of_every_schema_come_forward(version: int) -> None:
    """The rows of an older Keyfront go through the same migrations as its store."""
    older = Memory()
    with older.migrating.begin() as connection:
        for number in range(1, version + 1):
            schema.step(connection, number)
        connection.exec_driver_sql("UPDATE counter SET value = 7 WHERE name = 'snapshot'")
        connection.exec_driver_sql(
            "INSERT INTO resource VALUES ('PublicKey', 'K1', 'E1', 1.5, 2.5, ?, ?, 7)",
            (b'{"Name":"a"}', b"{}"),
        )
        rows = {
            table: [dict(row) for row in connection.exec_driver_sql(f"SELECT * FROM {table}").mappings()]
            for table in ("resource", "counter")
        }
    older.close()
    sections = {f"store/{name}": [tables.line(row) for row in found] for name, found in rows.items()}
    found = capture.read(written(sections, schema=version, snapshot=7))
    store: Store = found.store(Memory())
    with store.read() as transaction:
        assert transaction.schema() == schema.VERSION
        row = transaction.get("PublicKey", "K1")
        assert row is not None
        assert (row.config, row.created) == ({"Name": "a"}, 1.5)
        assert transaction.snapshot_number() == 7
    store.close()


def test_what_it_says_of_keys_shows_no_key() -> None:
    row = custodies.KeyRow("file:/keys/a", "-----BEGIN PRIVATE KEY-----secret", 1.0, {})
    assert "secret" not in repr(row)
    assert hashlib.sha256(archive()[1]).hexdigest() not in repr(capture.read(archive()[1]))
