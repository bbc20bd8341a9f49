"""`file:` beyond the contract: what is on the disk, its permissions, what a crash leaves, and the sources of the
kek."""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest
from fuzz.custody import run

from keyfront.custody import open_key, open_place, open_records
from keyfront.custody.adapters.filesystem.custody import PRIVATE, FileCustody
from keyfront.custody.adapters.filesystem.envelope import ENVELOPE
from keyfront.custody.adapters.filesystem.folder import RECORD, Folder
from keyfront.custody.adapters.filesystem.kek import KEY, Key, kek_of
from keyfront.custody.contract import Record
from keyfront.errors import CustodyError, CustodyUnavailable, KeyExists, NoSuchKey, RecordChanged
from tests.custody.harness import made_elsewhere
from tests.moto import REGION, Moto
from tests.openbao import Bao

NOW = 1_800_000_000.0
DAY = 86400.0
PASSPHRASE = "correct horse battery staple"
KEY_TEXT = base64.b64encode(bytes(range(32))).decode()

EC = made_elsewhere("ECDSA-P256")


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def place(
    folder: Path,
    kek: str = "",
    environment: Mapping[str, str] = {},
    clock: Callable[[], float] = time.time,
    opens: Any = open_place,
) -> FileCustody:
    return FileCustody(f"{folder}/", {"kek": kek} if kek else {}, environment, open_place=opens, clock=clock)


def filled(folder: Path, kek: str = "", environment: Mapping[str, str] = {}) -> FileCustody:
    """A folder with two keys, which may be the same every time."""
    at = place(folder, kek, environment)
    at.import_key("one", EC, now=NOW)
    at.import_key("two", made_elsewhere("ECDSA-P256", 1), now=NOW)
    return at


def everything(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())


# ---- what is on the disk


def test_files_are_their_owner_s_alone(tmp_path: Path) -> None:
    os.umask(os.umask(0))  # whatever it is
    at = filled(tmp_path / "a" / "keys")
    at.records.write("photos", b"text", None)
    assert stat.S_IMODE((tmp_path / "a" / "keys").stat().st_mode) == 0o700
    names = sorted(path.name for path in (tmp_path / "a" / "keys").iterdir())
    assert names == [
        "custody.envelope",
        "custody.key",
        "custody.lock",
        "one.private",
        "photos.record",
        "two.private",
    ]
    for name in names:
        assert stat.S_IMODE((tmp_path / "a" / "keys" / name).stat().st_mode) == 0o600, name


def test_no_key_is_on_the_disk_in_the_open(tmp_path: Path) -> None:
    filled(tmp_path, "env:P", {"P": PASSPHRASE})
    text = everything(tmp_path)
    for line in EC.to_pem().splitlines()[1:-1]:
        assert line.encode() not in text
        assert base64.b64decode(line)[:24] not in text
    assert b"PRIVATE KEY" not in text
    assert PASSPHRASE.encode() not in text
    assert b"PUBLIC KEY" in text


@pytest.mark.parametrize("name", ["one.private", ENVELOPE, KEY])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602])
def test_what_others_may_read_or_change_is_refused(name: str, mode: int, tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / name).chmod(mode)
    with pytest.raises(CustodyError, match="chmod 600"):
        place(tmp_path).handle("one")


def test_a_folder_that_others_may_change_is_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    tmp_path.chmod(0o770)
    with pytest.raises(CustodyError, match="chmod 700"):
        place(tmp_path).create("three", "ECDSA-P256", now=NOW)
    with pytest.raises(CustodyError, match="chmod 700"):
        place(tmp_path).handle("one")


def test_the_list_needs_no_kek(tmp_path: Path) -> None:
    made = list(filled(tmp_path, "env:K", ENVIRONMENT).list())
    at = place(tmp_path, "env:K")
    assert list(at.list()) == made
    assert at.describe("one") == made[0]
    doomed = at.delete("one", grace=DAY, now=time.time())
    assert at.undelete("one").delete_at is None
    assert doomed.delete_at is not None
    for ask in (at.handle, at.export):
        with pytest.raises(CustodyError, match="environment has no K"):
            ask("one")


@pytest.mark.parametrize(("old", "new"), [("one", "two"), ("one", "three")])
def test_one_file_is_not_taken_for_another(old: str, new: str, tmp_path: Path) -> None:
    """Neither through its own name, nor where the name inside was changed."""
    filled(tmp_path)
    shutil.copy(tmp_path / f"{old}{PRIVATE}", tmp_path / f"{new}{PRIVATE}")
    at = place(tmp_path)
    for ask in (at.describe, at.handle, at.export):
        with pytest.raises(CustodyError, match=f"holds the key {old}"):
            ask(new)
    changed = json.loads((tmp_path / f"{old}{PRIVATE}").read_bytes()) | {"name": new}
    (tmp_path / f"{new}{PRIVATE}").write_text(json.dumps(changed))
    for ask in (at.handle, at.export):
        with pytest.raises(CustodyError, match="was changed"):
            ask(new)


def test_a_public_key_that_was_exchanged_is_seen(tmp_path: Path) -> None:
    filled(tmp_path)
    file = tmp_path / f"one{PRIVATE}"
    other = json.loads((tmp_path / f"two{PRIVATE}").read_bytes())
    file.write_text(json.dumps(json.loads(file.read_bytes()) | {"public_key": other["public_key"]}))
    with pytest.raises(CustodyError, match="was changed"):
        place(tmp_path).handle("one")


def test_a_key_of_another_folder_is_seen(tmp_path: Path) -> None:
    filled(tmp_path / "a")
    filled(tmp_path / "b")
    shutil.copy(tmp_path / "a" / f"one{PRIVATE}", tmp_path / "b" / f"three{PRIVATE}")
    shutil.copy(tmp_path / "a" / f"one{PRIVATE}", tmp_path / "b" / f"one{PRIVATE}")
    with pytest.raises(CustodyError, match="another folder"):
        place(tmp_path / "b").handle("one")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff\xfe",
        b"nonsense",
        b"[" * 100_000,
        b'{"format":"keyfront-custody-key-2"}',
        b"x" * (1 << 21),
    ],
    ids=["empty", "object", "array", "bytes", "text", "deep", "version", "large"],
)
@pytest.mark.parametrize("name", ["one.private", ENVELOPE, "photos.record"])
def test_files_that_are_none(name: str, text: bytes, tmp_path: Path) -> None:
    at = filled(tmp_path)
    at.records.write("photos", b"text", None)
    (tmp_path / name).write_bytes(text)
    again = place(tmp_path)
    with pytest.raises(CustodyError) as caught:
        if name == "photos.record":
            again.records.read("photos")
        else:
            again.handle("one")
    assert type(caught.value) is CustodyError
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", ["one.private", ENVELOPE])
def test_every_byte_counts(name: str, tmp_path: Path) -> None:
    """A file that was changed anywhere is either refused or still means the same."""
    filled(tmp_path)
    path = tmp_path / name
    text = path.read_bytes()
    for at in range(0, len(text), 7):
        path.write_bytes(text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :])
        again = place(tmp_path)
        try:
            handle = again.handle("one")
        except CustodyError:
            continue
        assert handle.public_key == EC.public_key
        assert EC.public_key.verify(b"x", handle.sign(b"x", "SHA256"), "SHA256")


def test_the_fuzzer_finds_nothing() -> None:
    """A short run; `python fuzz/custody.py` takes longer ones."""
    assert run(300, None, seed=5, tell=lambda _: None) < 300


def test_an_envelope_that_is_gone(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / ENVELOPE).unlink()
    at = place(tmp_path)
    for work in (lambda: at.handle("one"), lambda: at.create("three", "ECDSA-P256", now=NOW)):
        with pytest.raises(CustodyError, match="from a backup"):
            work()
    assert len(list(at.list())) == 2


# ---- sources of the kek


def _kek_file(folder: Path, text: str) -> str:
    path = folder / f"kek-{secrets.token_hex(4)}"
    path.write_text(text + "\n")
    path.chmod(0o600)
    return f"file:{path}"


ENVIRONMENT = {"P": PASSPHRASE, "Q": PASSPHRASE[::-1], "K": KEY_TEXT}
SOURCES: dict[str, Callable[[Path], str]] = {
    "the folder": lambda _: "",
    "a passphrase": lambda _: "env:P",
    "another passphrase": lambda _: "env:Q",
    "a key": lambda _: "env:K",
    "a passphrase's file": lambda path: _kek_file(path, "file " + PASSPHRASE),
    "a key's file": lambda path: _kek_file(path, base64.b64encode(secrets.token_bytes(32)).decode()),
}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("the folder", "a key"),
        ("a passphrase", "another passphrase"),
        ("a passphrase's file", "a key's file"),
        ("a key", "the folder"),
        ("a key's file", "a key"),
    ],
)
def test_a_kek_takes_another_s_place(before: str, after: str, tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    old, new = SOURCES[before](tmp_path), SOURCES[after](tmp_path)
    at = filled(folder, old, ENVIRONMENT)
    signing = at.handle("one")
    keys = {path.name: path.read_bytes() for path in folder.glob(f"*{PRIVATE}")}
    uri = at.rewrap(new or None)
    assert uri == f"file:{folder}/" + (f"?kek={new}" if new else "")
    assert signing.sign(b"x", "SHA256")
    assert at.handle("two").sign(b"x", "SHA256")
    assert {path.name: path.read_bytes() for path in folder.glob(f"*{PRIVATE}")} == keys
    again = open_place(uri, ENVIRONMENT)
    assert again.export("one").to_pem() == EC.to_pem()
    again.create("three", "ECDSA-P256", now=NOW)
    with pytest.raises(CustodyError):
        place(folder, old, ENVIRONMENT).export("one")
    assert (folder / KEY).exists() is (not new)


@pytest.mark.parametrize(
    ("kek", "environment", "message"),
    [
        ("env:P", {}, "no P"),
        ("env:P", {"P": ""}, "no P"),
        ("env:P", {"P": "too short"}, "12 characters"),
        ("env:P", {"P": PASSPHRASE + "!"}, "does not open"),
        ("env:P", {"P": KEY_TEXT}, "does not open"),
        ("env:P", {"P": "not in any \udcff encoding"}, "does not open"),
        ("", {}, "is gone"),
        ("file:/nowhere/at/all", {}, "No such file"),
        (PASSPHRASE, {}, "never the secret itself"),
        ("env:", {}, "kek= is env:"),
        ("file:relative", {}, "absolute"),
        ("awskms:keyfront/", {}, "names a place, not a key"),
        ("gopher:" + PASSPHRASE, {}, "never the secret itself"),
    ],
)
def test_a_kek_that_is_none(
    kek: str, environment: dict[str, str], message: str, with_passphrase: Path
) -> None:
    with pytest.raises(CustodyError) as caught:
        place(with_passphrase, kek, environment).handle("one")
    assert message in str(caught.value)
    assert PASSPHRASE not in str(caught.value)
    assert KEY_TEXT not in str(caught.value)


@pytest.fixture(scope="module")
def with_passphrase(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder under PASSPHRASE, which no test changes: scrypt is slow."""
    folder = tmp_path_factory.mktemp("passphrase")
    filled(folder, "env:P", {"P": PASSPHRASE})
    return folder


def test_no_folder_begins_with_a_kek_that_is_none(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    for kek, environment in (("env:P", {}), ("env:P", {"P": "short"}), ("file:/nowhere", {})):
        with pytest.raises(CustodyError):
            place(folder, kek, environment).create("one", "ECDSA-P256", now=NOW)
    assert list(place(folder).list()) == []
    assert not (folder / ENVELOPE).exists()


def test_a_rewrap_to_what_is_none_changes_nothing(tmp_path: Path) -> None:
    at = filled(tmp_path, "env:K", ENVIRONMENT)
    before = everything(tmp_path)
    for kek in ("env:R", "file:/nowhere", "nonsense", "file:x"):
        with pytest.raises(CustodyError):
            at.rewrap(kek)
    with pytest.raises(CustodyError, match="does not open"):
        place(tmp_path, "env:K", {"K": PASSPHRASE}).rewrap(None)
    assert everything(tmp_path) == before
    with pytest.raises(CustodyError, match="no keys"):
        place(tmp_path / "empty").rewrap(None)


@pytest.mark.parametrize("way", ["itself", "a symbolic link", "a hard link", "a pipe"])
def test_the_folder_s_own_key_file_as_its_kek_stays(way: str, tmp_path: Path) -> None:
    folder, other = tmp_path / "keys", tmp_path / "kek"
    at = filled(folder)
    if way == "itself":
        other = folder / KEY
    elif way == "a symbolic link":
        other.symlink_to(folder / KEY)
    elif way == "a hard link":
        other.hardlink_to(folder / KEY)
    else:  # as a shell's <(cat …) passes it
        os.mkfifo(other)
        text = (folder / KEY).read_text()
        threading.Thread(target=other.write_text, args=(text,), daemon=True).start()
    uri = at.rewrap(f"file:{other}")
    assert (folder / KEY).exists()
    assert open_place(f"file:{folder}/").export("one").to_pem() == EC.to_pem()
    if way != "a pipe":
        assert open_place(uri).export("one").to_pem() == EC.to_pem()


def test_a_key_file_that_was_copied_out_is_removed_from_the_folder(tmp_path: Path) -> None:
    folder, other = tmp_path / "keys", tmp_path / "kek"
    at = filled(folder)
    shutil.copy2(folder / KEY, other)
    uri = at.rewrap(f"file:{other}")
    assert not (folder / KEY).exists()
    assert open_place(uri).export("one").to_pem() == EC.to_pem()


def test_a_kek_that_stays_in_kms(tmp_path: Path, moto: Moto) -> None:
    client = boto3.client(
        "kms", endpoint_url=moto.url, region_name=REGION, aws_access_key_id="a", aws_secret_access_key="b"
    )
    client.create_alias(
        AliasName="alias/folders/kek", TargetKeyId=client.create_key()["KeyMetadata"]["KeyId"]
    )
    _sealed_elsewhere(tmp_path, f"awskms:folders/kek?{moto.options}", moto.environment)


def test_a_kek_that_stays_in_vault(tmp_path: Path, bao: Bao) -> None:
    bao.call("post", "sys/mounts/folders", {"type": "transit"})
    bao.call("post", "folders/keys/kek", {"type": "aes256-gcm96"})
    _sealed_elsewhere(
        tmp_path, f"vault:transit/folders/kek?address={bao.url}&notes=secret/notes", bao.environment
    )


def test_a_kek_that_vault_keeps(tmp_path: Path, bao: Bao) -> None:
    _sealed_elsewhere(tmp_path, f"vault:kv/secret/folders/kek?address={bao.url}", bao.environment)


def test_the_list_needs_no_kek_that_is_elsewhere(tmp_path: Path) -> None:
    """Nor the packages and the credentials that requesting it would need."""
    made = list(filled(tmp_path).list())
    at = place(tmp_path, "awskms:keyfront/kek?colour=red")
    assert [held.public_key for held in at.list()] == [held.public_key for held in made]
    assert at.records.names() == []
    with pytest.raises(CustodyError, match="colour"):
        at.handle("one")


def _sealed_elsewhere(folder: Path, kek: str, environment: Mapping[str, str]) -> None:
    """A folder whose kek is in another custody: opened by its URI, and moved from one custody to the other and
    back."""
    held = filled(folder / "a", kek, environment).describe("one")
    assert open_key(held.uri, environment).sign(b"x", "SHA256")
    assert not (folder / "a" / KEY).exists()
    uri = open_place(held.uri, environment).rewrap(None)  # type: ignore[attr-defined]
    assert open_key(f"file:{folder}/a/one").sign(b"x", "SHA256")
    with pytest.raises(CustodyError, match="does not open"):
        open_key(held.uri, environment)
    assert uri == f"file:{folder}/a/"
    back = place(folder / "a", "", environment).rewrap(kek)
    assert open_key(back.replace("/a/", "/a/two"), environment).sign(b"x", "SHA256")
    # An envelope is bound to its folder's key: what was wrapped for another folder opens nothing.
    filled(folder / "b", kek, environment)
    other = json.loads((folder / "b" / ENVELOPE).read_bytes())["sealed"]
    mixed = json.loads((folder / "a" / ENVELOPE).read_bytes()) | {"sealed": other}
    (folder / "a" / ENVELOPE).write_text(json.dumps(mixed))
    with pytest.raises(CustodyError):
        open_key(held.uri, environment)


def test_a_kek_that_does_not_open_what_it_seals_begins_nothing(tmp_path: Path) -> None:
    """As with an AWS role that may encrypt but not decrypt."""

    class Place:
        def wrap(self, name: str, secret: bytes, bound: str) -> bytes:
            return secret[::-1]

        def unwrap(self, name: str, wrapped: bytes, bound: str) -> bytes:
            raise CustodyError("AccessDenied: kms:Decrypt")

    def opens(uri: str, environment: Mapping[str, str]) -> Any:
        return Place()

    folder = tmp_path / "keys"
    filled(folder)
    before = everything(folder)
    with pytest.raises(CustodyError, match="AccessDenied"):
        place(folder, opens=opens).rewrap("awskms:keyfront/kek")
    with pytest.raises(CustodyError, match="AccessDenied"):
        place(tmp_path / "new", "awskms:keyfront/kek", opens=opens).create("one", "ECDSA-P256", now=NOW)
    assert everything(folder) == before
    assert not (tmp_path / "new" / ENVELOPE).exists()


def test_a_kek_from_a_pipe(tmp_path: Path) -> None:
    """As a shell passes it by <(…): it can be read only once."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    writer = threading.Thread(target=lambda: pipe.write_text(KEY_TEXT + "\n"))
    writer.start()
    at = filled(tmp_path / "keys", f"file:{pipe}")
    writer.join(20)
    assert at.handle("one").sign(b"x", "SHA256")
    assert place(tmp_path / "keys", "env:K", ENVIRONMENT).handle("two")


def test_a_kek_in_the_records_of_another_place(tmp_path: Path) -> None:
    """A custody that stores text can hold it: it is generated there, and found there. (A folder's own URI means a key
    file.)"""
    elsewhere = open_records(f"file:{tmp_path}/elsewhere/")
    folder = Folder(tmp_path / "keys")

    class Place:
        records = elsewhere

    def opens(uri: str, environment: Mapping[str, str]) -> Any:
        return Place()

    kek = kek_of("vault:kv/secret/kek", folder, {}, opens)
    with pytest.raises(CustodyError, match="there is no key-encrypting key"):
        kek.open(Key(), b"", "bound")
    how, sealed = kek.seal(b"secret", "bound")
    again = kek_of("vault:kv/secret/kek", folder, {}, opens)
    assert again.open(how, sealed, "bound") == b"secret"
    assert again.open(how, sealed, "other") is None
    assert elsewhere.names() == ["kek"]


# ---- scheduled deletion


def test_what_is_due_is_gone_for_everybody(tmp_path: Path) -> None:
    clock = Clock()
    at = place(tmp_path, clock=clock)
    at.import_key("one", EC, now=NOW)
    handle = at.handle("one")
    held = at.delete("one", grace=DAY, now=NOW)
    assert held.delete_at == NOW + DAY
    clock.now = NOW + DAY - 1
    assert at.describe("one") == held
    clock.now = NOW + DAY
    for ask in (at.describe, at.handle, at.export, at.undelete):
        with pytest.raises(NoSuchKey):
            ask("one")
    with pytest.raises(NoSuchKey):
        handle.sign(b"x", "SHA256")
    with pytest.raises(NoSuchKey):
        at.delete("one", grace=0, now=clock.now)
    assert list(at.list()) == []
    assert not (tmp_path / f"one{PRIVATE}").exists()
    at.create("one", "ECDSA-P256", now=clock.now)


def test_the_list_removes_what_is_due(tmp_path: Path) -> None:
    clock = Clock()
    at = place(tmp_path, clock=clock)
    at.import_key("one", EC, now=NOW)
    at.delete("one", grace=DAY, now=NOW)
    clock.now += DAY
    assert list(at.list()) == []
    assert not (tmp_path / f"one{PRIVATE}").exists()


def test_a_deleted_key_signs_in_no_process(tmp_path: Path) -> None:
    filled(tmp_path)
    handle = open_key(f"file:{tmp_path}/one")
    assert handle.sign(b"x", "SHA256")
    place(tmp_path).delete("one", grace=DAY, now=time.time())
    with pytest.raises(NoSuchKey, match="to be deleted"):
        handle.sign(b"x", "SHA256")
    place(tmp_path).undelete("one")
    assert handle.sign(b"x", "SHA256")
    place(tmp_path).delete("one", grace=0, now=time.time())
    with pytest.raises(NoSuchKey):
        handle.sign(b"x", "SHA256")
    place(tmp_path).create("one", "ECDSA-P256", now=time.time())
    with pytest.raises(NoSuchKey):
        handle.sign(b"x", "SHA256")


def test_a_key_in_memory_signs_on_while_the_folder_is_away(tmp_path: Path) -> None:
    filled(tmp_path / "keys")
    handle = open_key(f"file:{tmp_path}/keys/one")
    (tmp_path / "keys").rename(tmp_path / "away")
    assert handle.sign(b"x", "SHA256")
    (tmp_path / "keys").mkdir(mode=0o700)  # a mount point, with nothing mounted
    assert handle.sign(b"x", "SHA256")
    (tmp_path / "keys").rmdir()
    (tmp_path / "away").rename(tmp_path / "keys")
    assert handle.sign(b"x", "SHA256")


def test_a_folder_that_was_made_anew_under_a_process_that_goes_on(tmp_path: Path) -> None:
    """Keys generated from then on are sealed under the folder's current key, not its previous one."""
    folder = tmp_path / "keys"
    at = filled(folder)
    shutil.rmtree(folder)
    filled(folder)
    at.create("three", "ECDSA-P256", now=NOW)
    assert at.export("one").to_pem() == EC.to_pem()
    assert [place(folder).export(name).public_key for name in ("one", "three")]
    shutil.rmtree(folder)
    at.create("four", "ECDSA-P256", now=NOW)
    assert place(folder).export("four")


def test_files_that_are_not_custody_s_are_left_alone(tmp_path: Path) -> None:
    at = filled(tmp_path)
    for name in ("not a name.private", "a.b.private", "one.private~", "-.record", "README"):
        (tmp_path / name).write_text("x")
    assert [held.name for held in at.list()] == ["one", "two"]
    assert at.records.names() == []
    at.create("three", "ECDSA-P256", now=NOW)
    assert (tmp_path / "README").read_text() == "x"


# ---- places


@pytest.mark.parametrize("written", ["{}/keys/", "//{}/keys/"])
def test_a_place_has_one_name(written: str, tmp_path: Path) -> None:
    at = open_place("file:" + written.format(tmp_path))
    assert at.uri == f"file:{tmp_path}/keys/"


def test_a_relative_place_is_written_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    held = open_place("file:keys/").import_key("one", EC, now=NOW)
    assert held.uri == f"file:{tmp_path}/keys/one"


def test_a_place_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    at = place(tmp_path / "file")
    with pytest.raises(CustodyError):
        at.create("one", "ECDSA-P256", now=NOW)
    with pytest.raises(NoSuchKey):
        at.describe("one")
    (tmp_path / "keys" / f"one{PRIVATE}").mkdir(parents=True)
    with pytest.raises(CustodyError):
        place(tmp_path / "keys").describe("one")


# ---- crashes and races

_WRITER = """
import sys
from keyfront.custody import open_place, open_records
from keyfront.errors import KeyExists
uri = sys.argv[1]
place, records = open_place(uri), open_records(uri)
print("ready", flush=True)
for number in range(10**9):
    held = place.create(f"k{number}", "ECDSA-P256", now=1.0)
    seen = records.read("count")
    records.write("count", b"%d" % number, seen and seen.version)
    print(held.name, held.public_key.fingerprint, flush=True)
    if number % 3 == 2:
        place.delete(f"k{number - 1}", grace=10**10, now=1.0)
        place.rewrap(None)
"""


@pytest.mark.parametrize("after", [1, 4, 9])
def test_a_crash_leaves_nothing_or_a_whole_key(after: int, tmp_path: Path) -> None:
    """kill -9 at any moment: everything acknowledged is present, and everything present is usable."""
    uri = f"file:{tmp_path}/keys/"
    with subprocess.Popen([sys.executable, "-c", _WRITER, uri], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        lines = [writer.stdout.readline().split() for _ in range(after + 1)][1:]
        writer.send_signal(signal.SIGKILL)
        lines += [line.split() for line in writer.stdout.read().splitlines() if len(line.split()) == 2]
    lines = [one for one in lines if len(one) == 2 and len(one[1]) == 64]
    at = open_place(uri)
    found = {held.name: held for held in at.list()}
    for name, fingerprint in lines:
        assert found[name].public_key.fingerprint == fingerprint
    for held in found.values():
        assert at.export(held.name).public_key == held.public_key
    count = open_records(uri).read("count")
    assert count is not None
    assert int(count.data) >= len(lines) - 1
    at.create("after", "ECDSA-P256", now=time.time())
    assert not list((tmp_path / "keys").glob(".*.tmp")), "what was left behind is swept"


def test_one_of_many_processes_gets_the_name(tmp_path: Path) -> None:
    """Also where the folder itself and its key do not exist yet."""
    code = (
        "import sys\nfrom keyfront.custody import open_place\nfrom keyfront.errors import KeyExists\n"
        "place = open_place(sys.argv[1])\nprint('ready', flush=True)\nsys.stdin.readline()\n"
        "try:\n    print(place.create('one', 'ECDSA-P256', now=1.0).public_key.fingerprint)\n"
        "except KeyExists:\n    print('exists')\n"
        "print(place.create(sys.argv[2], 'ECDSA-P256', now=1.0).public_key.fingerprint)\n"
    )
    uri = f"file:{tmp_path}/keys/"
    racing = [
        subprocess.Popen(
            [sys.executable, "-c", code, uri, f"own{number}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for number in range(3)
    ]  # fmt: skip
    for one in racing:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in racing:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    outputs = [one.communicate(timeout=30)[0].split() for one in racing]
    at = open_place(uri)
    assert [first for first, _ in outputs if first != "exists"] == [at.describe("one").public_key.fingerprint]
    for number, (_, own) in enumerate(outputs):
        assert at.export(f"own{number}").public_key.fingerprint == own


def test_who_writes_for_too_long_is_waited_for_in_vain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keyfront.custody.adapters.filesystem.folder.PATIENCE", 0.05)
    at = filled(tmp_path)
    with Folder(tmp_path).writing(), pytest.raises(CustodyUnavailable, match="does not end"):
        at.import_key("three", EC, now=NOW)
    with Folder(tmp_path).writing():
        assert at.handle("one").sign(b"x", "SHA256"), "who reads does not wait"
    at.import_key("three", EC, now=NOW)


def test_a_disk_that_is_full_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = filled(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        for work in (
            lambda: at.create("three", "ECDSA-P256", now=NOW),
            lambda: at.delete("one", grace=10 * DAY, now=time.time()),
            lambda: at.records.write("photos", b"x", None),
        ):
            with pytest.raises(CustodyUnavailable, match="No space left"):
                work()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_readers_of_a_record_see_whole_texts(tmp_path: Path) -> None:
    records = open_records(f"file:{tmp_path}/keys/")
    written: Record = records.write("photos", b"0" * 100, None)
    done = threading.Event()
    seen: list[bytes] = []

    def read() -> None:
        mine = open_records(f"file:{tmp_path}/keys/")
        while not done.is_set():
            found = mine.read("photos")
            assert found is not None
            seen.append(found.data)

    with_reader = threading.Thread(target=read)
    with_reader.start()
    for number in range(60):
        written = records.write("photos", b"%d" % (number % 10) * 60 * (number + 1), written.version)
    done.set()
    with_reader.join(20)
    assert seen
    assert all(len(set(text)) == 1 for text in seen)


def test_a_record_s_file_says_what_it_is(tmp_path: Path) -> None:
    records = open_records(f"file:{tmp_path}/")
    first = records.write("photos", b'{"a": 1}', None)
    assert (
        tmp_path / f"photos{RECORD}"
    ).read_bytes() == f"keyfront-record-1 {first.version}\n".encode() + b'{"a": 1}'
    with pytest.raises(RecordChanged):
        records.write("photos", b"x", first.version + "0")
    with pytest.raises(KeyExists):
        filled(tmp_path).create("one", "ECDSA-P256", now=NOW)
