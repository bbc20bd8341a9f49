"""`create` end to end: nothing twice, copies in several places, and retention only after the new archive is
verified."""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
from pathlib import Path

import pytest

from keyfront.backup.archive.names import Name
from keyfront.backup.capture import CaptureOptions
from keyfront.backup.retention import read_rule
from keyfront.backup.targets import Bucket, Folder, find, open_place
from keyfront.control.store.store import Store
from keyfront.custody import open_place as open_custody
from keyfront.errors import BackupError, SettingsError
from tests.backup.harness import NOW, SEAL, Installed, events, make, read
from tests.faults import failing_disks
from tests.rows import rows
from tests.seaweedfs import ONE, WRITER, Weed, unable


def test_nothing_is_made_of_nothing_new(tmp_path: Path) -> None:
    one = Installed(tmp_path / "data")
    store, data, there, second = one.harness.store, one.folder, tmp_path / "one", tmp_path / "two"
    first = make(store, data, there)
    assert first.name
    assert first.missing == (f"proof for {one.host} *: no key that signs for it could be had",)
    assert events(store)[-1] == "CreateBackup"
    # The record of an archive is no reason for another one.
    for _ in range(2):
        again = make(store, data, there, now=NOW + 60)
        assert (again.name, again.unchanged) == ("", (str(there),))
    assert events(store).count("CreateBackup") == 1
    # Nor is a read, until the day is over; and the next day only once.
    one.harness.now = NOW
    one.harness.call("ListDistributions")
    assert make(store, data, there, now=NOW + 90).name == ""
    assert make(store, data, there, now=NOW + 86_400).name
    assert make(store, data, there, now=NOW + 86_500).name == ""
    for path in there.iterdir():
        path.unlink() if path.name != first.name else None
    one.invalidate("zero")
    assert make(store, data, there, now=NOW + 100).name
    # A place without the archive gets it.
    both = make(store, data, there, second, now=NOW + 120)
    assert (both.unchanged, both.made) == ((str(there),), (str(second),))
    assert make(store, data, there, second, now=NOW + 180).name == ""
    # Any change causes a new one: a file, the rows, its recipients, its options.
    (data / "certificates" / "b.pem").write_text("PEM")
    assert make(store, data, there, now=NOW + 240).name
    one.invalidate("two")
    assert make(store, data, there, now=NOW + 300).name
    assert make(store, data, there, now=NOW + 301, wanted=CaptureOptions(private_keys=True)).name
    assert make(store, data, there, now=NOW + 302, always=True).name
    names = Folder(there).names()
    assert len(names) == 6
    assert len({name.origin for name in names}) == 1
    for name in names:
        read(there / str(name))
    one.harness.close()


def test_one_place_fails(tmp_path: Path) -> None:
    one = Installed(tmp_path / "data")
    (tmp_path / "file").write_text("no folder")
    outcome = make(one.harness.store, one.folder, tmp_path / "file", tmp_path / "good")
    assert outcome.made == (str(tmp_path / "good"),)
    assert "cannot be listed" in outcome.trouble[0]
    before = events(one.harness.store)
    with pytest.raises(BackupError, match="no archive was made"):
        make(one.harness.store, one.folder, tmp_path / "file")
    assert events(one.harness.store) == before
    one.harness.close()


class Forgetful(Folder):
    """A place that stores something other than what it received."""

    def get(self, name: str) -> bytes:
        return super().get(name)[:-1]


def test_what_was_not_kept_thins_nothing_out(tmp_path: Path) -> None:
    one = Installed(tmp_path / "data")
    place = tmp_path / "place"
    first = make(one.harness.store, one.folder, place)
    with pytest.raises(BackupError, match="did not store"):
        make(
            one.harness.store,
            one.folder,
            Forgetful(place),
            now=NOW + 1,
            rule=read_rule("last=1"),
            always=True,
        )
    assert [str(name) for name in Folder(place).names()] == [first.name]
    one.harness.close()


def test_an_archive_of_the_same_name_stays(tmp_path: Path) -> None:
    """A run that failed at the last moment leaves an archive that was never acknowledged. A second run within the
    same millisecond does not touch it."""
    one = Installed(tmp_path / "data")
    place = tmp_path / "place"
    for turn, disk in enumerate(failing_disks(("broken once",))):
        before, made = set(place.glob("*.age")), False
        with disk, contextlib.suppress(BackupError):
            made = bool(make(one.harness.store, one.folder, place, now=NOW + turn, always=True).made)
        left = set(place.glob("*.age")) - before
        if left and not made:
            break
    (there,) = left
    assert disk.where == "fsync"  # of the folder, when the archive had its final name
    data = there.read_bytes()
    with pytest.raises(BackupError, match="another archive already"):
        make(one.harness.store, one.folder, place, now=NOW + turn, always=True)
    assert there.read_bytes() == data
    assert make(one.harness.store, one.folder, place, now=NOW + turn + 0.001, always=True).made
    one.harness.close()


def test_thinned_out(tmp_path: Path) -> None:
    one = Installed(tmp_path / "data")
    place, rule = tmp_path / "place", read_rule("last=2,daily=3")
    place.mkdir()
    stranger = Name(NOW - 9e6, "00000000", 1, "0" * 16)
    strange = [str(stranger), "notes.txt", ".keyfront-x.age.tmp", "keyfront-1.age"]
    for name in strange:
        (place / name).write_text("not ours")
    for number in range(10):
        outcome = make(
            one.harness.store, one.folder, place, now=NOW + number * 12 * 3600, rule=rule, always=True
        )
    own = [name for name in Folder(place).names() if name != stranger]
    assert [round((name.taken - NOW) / 3600) for name in own] == [72, 96, 108]
    assert str(own[-1]) == outcome.name
    assert {path.name for path in place.iterdir()} == {*strange, *map(str, own)}
    one.harness.close()


def test_a_broken_audit_log_is_backed_up_and_told_of(tmp_path: Path) -> None:
    one = Installed(tmp_path / "data")
    one.harness.close()
    with sqlite3.connect(one.folder / "keyfront.db") as connection:
        connection.execute("DROP TRIGGER audit_no_update")
        connection.execute("UPDATE audit SET record = x'7b7d' WHERE number = 2")
    store = Store(one.folder / "keyfront.db")
    outcome = make(store, one.folder, tmp_path / "place")
    assert outcome.name
    assert "record 2 was altered" in outcome.trouble[0]
    archive = read(tmp_path / "place" / outcome.name)
    assert archive.manifest.missing[:1] == outcome.trouble
    store.close()


@rows("text", ["http://x/y", "s3://", "s3:///a", "s3://b/p?x=1", "ftp://a"])
def test_what_is_no_place(text: str) -> None:
    with pytest.raises(SettingsError):
        open_place(text)


@dataclasses.dataclass
class Keys:
    monkeypatch: pytest.MonkeyPatch

    def be(self, identity: tuple[str, str]) -> None:
        self.monkeypatch.setenv("AWS_ACCESS_KEY_ID", identity[0])
        self.monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", identity[1])
        self.monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.mark.skipif(bool(unable()), reason=unable() or "there is one")
def test_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Installed(tmp_path / "data")
    keys = Keys(monkeypatch)
    with Weed() as weed:
        keys.be(WRITER)
        client = weed.client()
        client.create_bucket(Bucket="backups")
        client.put_object(Bucket="backups", Key="kf/notes.txt", Body=b"not ours")
        place = open_place("s3://backups/kf", weed.url)
        assert isinstance(place, Bucket)
        rule = read_rule("last=1")
        for number in range(2):
            outcome = make(
                one.harness.store,
                one.folder,
                place,
                tmp_path / "copy",
                now=NOW + number,
                rule=rule,
                always=True,
            )
            assert not outcome.trouble
            assert outcome.made == ("s3://backups/kf/", str(tmp_path / "copy"))
        names = place.names()
        assert [str(name) for name in names] == [str(name) for name in Folder(tmp_path / "copy").names()]
        assert len(names) == 1
        assert list(names.values()) == [len(place.get(str(name))) for name in names]
        for text in ("s3://backups/kf", "s3://backups/kf/", f"s3://backups/kf/{outcome.name}"):
            found, later = find(text, weed.url, now=NOW + 99)
            assert (found[0].name, found[0].data(), later) == (outcome.name, place.get(outcome.name), [])
        (tmp_path / "got.age").write_bytes(place.get(outcome.name))
        read(tmp_path / "got.age")
        assert client.get_object(Bucket="backups", Key="kf/notes.txt")["Body"].read() == b"not ours"
        assert make(one.harness.store, one.folder, place, now=NOW + 9).name == ""
        client.put_object(Bucket="backups", Key=f"kf/{outcome.name}", Body=bytes(outcome.size))
        assert (
            "is not what was stored there"
            in make(one.harness.store, one.folder, place, now=NOW + 9).trouble[0]
        )

        # A bucket that refuses our writes, and one that does not exist: the folder gets the archive anyway.
        keys.be(ONE)
        outcome = make(
            one.harness.store,
            one.folder,
            open_place("s3://backups/kf", weed.url),
            open_place("s3://nowhere", weed.url),
            tmp_path / "copy",
            now=NOW + 10,
            always=True,
        )
        assert outcome.made == (str(tmp_path / "copy"),)
        assert len(outcome.trouble) == 2
        assert ONE[1] not in " ".join(outcome.trouble)
    one.harness.close()


def test_what_lacks_something_takes_the_place_of_nothing(tmp_path: Path) -> None:
    """While custody is unavailable, archives without the keys are made, and no archive with keys is deleted."""
    one = Installed(tmp_path / "data")
    store, data, there, rule = one.harness.store, one.folder, tmp_path / "place", read_rule("last=2")
    custody = f"file:{tmp_path}/keys/"
    open_custody(custody, {}).create("photos-1", "ECDSA-P256", now=NOW)
    wanted = CaptureOptions(private_keys=True, custodies=(custody,))
    first = make(store, data, there, wanted=wanted, rule=rule)
    assert first.name.endswith("-whole-keys.age")
    (tmp_path / "keys").rename(tmp_path / "away")
    (tmp_path / "keys").write_text("")
    for number in range(1, 4):
        lacking = make(store, data, there, now=NOW + number, wanted=wanted, rule=rule, always=True)
        assert lacking.name.endswith("-part.age")
        assert lacking.trouble
        assert lacking.removed == ()
    # Nor those that are complete, but contain less.
    for number in range(4, 8):
        assert make(store, data, there, now=NOW + number, rule=rule, always=True).name.endswith("-whole.age")
    left = list(Folder(there).names())
    assert str(left[0]) == first.name
    assert [name.holds for name in left] == ["whole-keys", "part", "part", "whole", "whole"]
    one.harness.close()


@pytest.mark.parametrize("damage", [b"", b"age-encryption.org/v1\n", None])
def test_a_name_is_no_proof_of_an_archive(tmp_path: Path, damage: bytes | None) -> None:
    """Nothing has changed; but the content under the newest name is not what was stored there."""
    one = Installed(tmp_path / "data")
    store, data, there = one.harness.store, one.folder, tmp_path / "place"
    first = make(store, data, there)
    path = there / first.name
    path.write_bytes(bytes(path.stat().st_size) if damage is None else damage)
    again = make(store, data, there, now=NOW + 60)
    assert again.name
    assert any("is not what was stored there" in text for text in again.trouble)
    assert make(store, data, there, now=NOW + 120).unchanged == (str(there),)
    one.harness.close()


class Torn(Folder):
    """The connection fails in the middle of an upload: the archive can be neither read back nor removed."""

    away = False

    def put(self, name: str, data: bytes) -> None:
        super().put(name, data[:100])
        self.away = True

    def get(self, name: str) -> bytes:
        if self.away:
            raise BackupError("away")
        return super().get(name)

    def remove(self, name: Name) -> None:
        raise BackupError("away")


def test_what_was_torn_is_no_archive(tmp_path: Path) -> None:
    one = Installed(tmp_path / "data")
    there = tmp_path / "place"
    with pytest.raises(BackupError, match="away"):
        make(one.harness.store, one.folder, Torn(there))
    again = make(one.harness.store, one.folder, there, now=NOW + 60)
    assert again.name
    assert "is not in the audit log" in again.trouble[0]
    one.harness.close()


def test_what_is_dated_after_now_counts_for_nothing(tmp_path: Path) -> None:
    one = Installed(tmp_path / "data")
    store, data, there = one.harness.store, one.folder, tmp_path / "place"
    wrong = make(store, data, there, now=NOW + 4e7)
    with pytest.raises(BackupError, match="dated in the future"):
        find(str(there), now=NOW)
    one.invalidate("later")
    right = make(store, data, there, now=NOW + 10)
    assert (right.trouble, right.notes) == (
        (),
        (f"{wrong.name} in {there} is dated in the future and is ignored",),
    )
    again = make(store, data, there, now=NOW + 20)
    assert (again.name, again.notes) == ("", right.notes)
    found, later = find(str(there), now=NOW + 30)
    assert ([one.name for one in found], later) == ([right.name], [wrong.name])
    one.harness.close()


def test_who_it_is_for_does_not_show(tmp_path: Path) -> None:
    assert "passphrase" in repr(type(SEAL)(passphrase="sEcret"))
    assert "sEcret" not in repr(type(SEAL)(passphrase="sEcret"))
