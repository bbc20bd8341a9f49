"""Records and private keys: archived where they are available, and restored so that signers and edges agree."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from keyfront.backup import capture
from keyfront.backup.archive import encryption
from keyfront.backup.archive.keys import moved, signed_with
from keyfront.backup.capture import Archive, CaptureOptions, Source
from keyfront.backup.create import BackupJob, Outcome, create
from keyfront.backup.restore.lock import held
from keyfront.backup.restore.restore import Restore, Target
from keyfront.backup.targets import Folder
from keyfront.custody import open_key, open_place, open_records, split
from keyfront.custody.key_record import Entry, KeyGroupRecord, RotationPolicy, Stage, load, save
from keyfront.errors import BackupError
from keyfront.signing.explain import explain_url
from keyfront.signing.keys import load_public_key
from keyfront.signing.verify import KeyRing
from tests.backup.harness import NOW, OPENER, SEAL, TELLER, VERSION, Installed
from tests.control.harness import ACCOUNT
from tests.rows import rows

OLD = {"KEYFRONT_CUSTODY_PASSPHRASE": base64.b64encode(b"of the machine that is gone".ljust(32)).decode()}
KEK = "?kek=env:KEYFRONT_CUSTODY_PASSPHRASE"
NEW = {"KEYFRONT_CUSTODY_PASSPHRASE": base64.b64encode(b"another one".ljust(32)).decode()}


class Rotated(Installed):
    """An installation whose key group has a key in custody that signs."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.place = f"file:{folder}/custody/{KEK}"
        held_key = open_place(self.place, OLD).import_key(
            "photos-1", self.key, now=NOW, labels={"team": "web"}
        )
        entry = Entry(held_key.uri, Stage.SIGNING, NOW, self.key_id, published=NOW, signing=NOW)
        self.record = KeyGroupRecord("photos", self.group, RotationPolicy(self.place), (entry,))
        save(open_records(self.place, OLD), self.record, None, now=NOW)

    def take(self, *, private_keys: bool, environment: Mapping[str, str] = OLD, now: float = NOW) -> Outcome:
        place = Folder(self.folder.parent / "archives")
        source = Source(self.harness.store, self.folder, ACCOUNT, "here", VERSION, environment)
        job = BackupJob(CaptureOptions(private_keys), SEAL, [place], always=True)
        return create(source, job, TELLER, now=now)

    def archive(self, outcome: Outcome) -> Archive:
        data = Folder(self.folder.parent / "archives").get(outcome.name)
        found = capture.read(encryption.opened(data, OPENER))
        capture.judge(found, ACCOUNT, VERSION)
        return found


def restored(
    archive: Archive, folder: Path, environment: Mapping[str, str], now: float = NOW + 60
) -> list[str]:
    with held(folder), Restore(archive, Target(folder), environment) as work:
        return work.run(work.plan(), TELLER, "it", now)


def test_onto_another_machine(tmp_path: Path) -> None:
    """The folder has a different path there, and a different passphrase; keys and record are restored to their
    places."""
    one = Rotated(tmp_path / "old")
    outcome = one.take(private_keys=True)
    assert (outcome.trouble, outcome.missing) == ((), ())
    archive = one.archive(outcome)
    one.harness.close()
    assert restored(archive, tmp_path / "new", NEW) == []
    place = f"file:{tmp_path}/new/custody/{KEK}"
    found = load(open_records(place, NEW), "photos")
    assert found is not None
    signing = found.record.signing
    assert signing is not None
    assert signing.uri == f"file:{tmp_path}/new/custody/photos-1{KEK}"
    assert found.record.terms.place == place
    assert open_key(signing.uri, NEW).public_key == one.key.public_key
    assert dict(open_place(place, NEW).describe("photos-1").labels) == {"team": "web"}
    assert b"PRIVATE KEY" not in b"".join(
        path.read_bytes() for path in (tmp_path / "new").rglob("*") if path.is_file()
    )


def test_proofs_are_signed_by_what_signs(tmp_path: Path) -> None:
    one = Rotated(tmp_path / "data")
    archive = one.archive(one.take(private_keys=False))
    assert archive.keys == []
    (proof,) = archive.manifest.proofs
    assert proof.url.startswith(f"https://{one.host}/keyfront-drill?")
    ring = KeyRing({one.key_id: load_public_key(one.key.public_key.pem)})
    assert explain_url(proof.url, keyring=ring, now=NOW + 4 * 365 * 86400).granted
    keyed = one.archive(one.take(private_keys=True, now=NOW + 1))
    snapshot = capture.judge(keyed, ACCOUNT, VERSION)
    assert [made.group for made in signed_with(keyed.keys[0], snapshot, NOW)] == ["photos"]
    one.harness.close()


def test_signers_go_back_with_the_edges(tmp_path: Path) -> None:
    """A record that was rotated since names another signing key, which restored edges do not trust: the record is
    restored, with a serial that signers accept as a later one."""
    one = Rotated(tmp_path / "data")
    archive = one.archive(one.take(private_keys=False))
    records = open_records(one.place, OLD)
    loaded = load(records, "photos")
    assert loaded is not None
    gone = msgspec.structs.replace(
        one.record.entries[0], stage=Stage.DRAINING, draining=NOW + 5, drain_until=NOW + 9e5
    )
    made = Entry(
        one.place.replace("?", "photos-2?"), Stage.SIGNING, NOW + 5, "K2", published=NOW + 5, signing=NOW + 5
    )
    later = save(
        records, msgspec.structs.replace(loaded.record, entries=(gone, made)), loaded.version, now=NOW + 5
    )
    one.harness.close()
    with held(one.folder), Restore(archive, Target(one.folder), OLD) as work:
        plan = work.plan()
        assert [change.name for change in plan.changes if change.what == "record"] == ["photos"]
        assert work.run(plan, TELLER, "it", NOW + 60) == []
    back = load(records, "photos")
    assert back is not None
    assert back.record.signing is not None
    assert back.record.signing.key_pair_id == one.key_id
    assert back.record.serial > later.record.serial
    with held(one.folder), Restore(archive, Target(one.folder), OLD) as work:
        assert work.plan().changes == ()


def test_a_key_that_was_to_be_deleted_stays(tmp_path: Path) -> None:
    one = Rotated(tmp_path / "data")
    archive = one.archive(one.take(private_keys=True))
    one.harness.close()
    place = open_place(one.place, OLD)
    place.delete("photos-1", grace=4e9, now=NOW + 1)
    with held(one.folder), Restore(archive, Target(one.folder), OLD) as work:
        assert [change.what for change in work.plan().changes] == ["private key"]
        assert work.run(work.plan(), TELLER, "it", NOW + 60) == []
        assert work.plan().changes == ()
    assert open_place(one.place, OLD).describe("photos-1").delete_at is None


def rotated_away(one: Rotated, *, compromised: bool) -> Entry:
    """Another key signs now, and the first one's private half is completely gone."""
    held_key = open_place(one.place, OLD).create("photos-2", "ECDSA-P256", now=NOW + 5)
    key_id = one.harness.key("photos-2", held_key.public_key.pem)
    gone = msgspec.structs.replace(
        one.record.entries[0], stage=Stage.RETIRED, retired=NOW + 5, gone=NOW + 5, compromised=compromised
    )
    made = Entry(held_key.uri, Stage.SIGNING, NOW + 5, key_id, published=NOW + 5, signing=NOW + 5)
    records = open_records(one.place, OLD)
    loaded = load(records, "photos")
    assert loaded is not None
    save(records, msgspec.structs.replace(loaded.record, entries=(gone, made)), loaded.version, now=NOW + 5)
    open_place(one.place, OLD).delete("photos-1", grace=0, now=NOW + 6)
    return made


def stages(one: Rotated) -> list[tuple[str, Stage, bool]]:
    loaded = load(open_records(one.place, OLD), "photos")
    assert loaded is not None
    return [(split(each.uri).name, each.stage, each.compromised) for each in loaded.record.entries]


@pytest.mark.parametrize("wanted", [False, True])
def test_a_compromised_key_does_not_sign_again(tmp_path: Path, wanted: bool) -> None:
    one = Rotated(tmp_path / "data")
    archive = one.archive(one.take(private_keys=True))
    rotated_away(one, compromised=True)
    one.harness.close()
    with held(one.folder), Restore(archive, Target(one.folder, compromised=wanted), OLD) as work:
        plan = work.plan()
        assert any(f"will trust {one.key_id}" in note for note in plan.notes)
        assert any("photos-1 is compromised, and" in note for note in plan.notes) is wanted
        assert any("photos-1 is not restored" in note for note in plan.notes) is not wanted
        assert any("record photos is not restored" in note for note in plan.notes) is not wanted
        assert work.run(plan, TELLER, "it", NOW + 60) == []
    names = {held_key.name for held_key in open_place(one.place, OLD).list()}
    if wanted:
        assert names == {"photos-1", "photos-2"}
        assert stages(one) == [("photos-1", Stage.SIGNING, False)]
    else:
        assert names == {"photos-2"}
        assert stages(one) == [("photos-1", Stage.RETIRED, True), ("photos-2", Stage.SIGNING, False)]


def test_the_mark_comes_along_where_another_key_signs(tmp_path: Path) -> None:
    """The archive was made after the emergency's switch, and before anyone knew that the first key was
    compromised."""
    one = Rotated(tmp_path / "data")
    rotated_away(one, compromised=False)
    archive = one.archive(one.take(private_keys=True))
    records = open_records(one.place, OLD)
    loaded = load(records, "photos")
    assert loaded is not None
    first, second = loaded.record.entries
    marked = (msgspec.structs.replace(first, compromised=True), second)
    save(records, msgspec.structs.replace(loaded.record, entries=marked, made=9), loaded.version, now=NOW + 9)
    one.harness.close()
    assert restored(archive, one.folder, OLD) == []
    assert stages(one) == [("photos-1", Stage.RETIRED, True), ("photos-2", Stage.SIGNING, False)]
    back = load(records, "photos")
    assert back is not None
    assert back.record.made == 0


@pytest.mark.parametrize("onto", ["data", "new"])
def test_a_key_that_is_nowhere_cannot_sign(tmp_path: Path, onto: str) -> None:
    one = Rotated(tmp_path / "data")
    outcome = one.take(private_keys=False)
    assert [text for text in outcome.missing if "photos-1: not requested (--private-keys)" in text]
    archive = one.archive(outcome)
    rotated_away(one, compromised=False)
    one.harness.close()
    target = Target(tmp_path / onto)
    with held(target.folder), Restore(archive, target, OLD) as work:
        plan = work.plan()
        assert any("no signer can use" in note and "photos-1" in note for note in plan.notes)
        (failed,) = work.run(plan, TELLER, "it", NOW + 60)
    assert "record photos: no signer can use" in failed


def test_another_key_by_that_name_cannot_sign(tmp_path: Path) -> None:
    one = Rotated(tmp_path / "data")
    archive = one.archive(one.take(private_keys=False))
    one.harness.close()
    place = open_place(one.place, OLD)
    place.delete("photos-1", grace=0, now=NOW + 1)
    place.create("photos-1", "ECDSA-P256", now=NOW + 2)
    (failed,) = restored(archive, one.folder, OLD)
    assert "custody has another key of that name" in failed


def test_what_others_may_go_by_is_left_alone(tmp_path: Path) -> None:
    """Restoring an archive for inspection does not change the signers of the running installation."""
    one = Rotated(tmp_path / "data")
    outside = f"file:{tmp_path}/vault/{KEK}"
    held_key = open_place(outside, OLD).import_key("photos-9", one.key, now=NOW)
    entry = msgspec.structs.replace(one.record.entries[0], uri=held_key.uri)
    there = open_records(outside, OLD)
    saved = save(there, msgspec.structs.replace(one.record, entries=(entry,)), None, now=NOW)
    place = Folder(tmp_path / "archives")
    source = Source(one.harness.store, one.folder, ACCOUNT, "here", VERSION, OLD)
    job = BackupJob(CaptureOptions(True, records=outside), SEAL, [place])
    outcome = create(source, job, TELLER, now=NOW)
    archive = one.archive(outcome)
    one.harness.close()
    later = save(there, msgspec.structs.replace(saved.record, made=7), saved.version, now=NOW + 1)
    for elsewhere in (False, True):
        target = Target(tmp_path / "look", elsewhere=elsewhere)
        with held(target.folder), Restore(archive, target, OLD) as work:
            plan = work.plan()
            assert sum("not in the data folder" in note for note in plan.notes) == (0 if elsewhere else 2)
            assert work.run(plan, TELLER, "it", NOW + 60) == []
        now = load(there, "photos")
        assert now is not None
        assert (now.record == later.record) is not elsewhere
        assert now.record.made == (0 if elsewhere else 7)


@pytest.mark.parametrize("climbing", ["{old}/../vault/", "{new}/../vault/", "{old}/custody/../../vault/"])
def test_nothing_climbs_out_of_the_folder(tmp_path: Path, climbing: str) -> None:
    one = Rotated(tmp_path / "data")
    archive = one.archive(one.take(private_keys=True))
    one.harness.close()
    new = tmp_path / "new"
    place = "file:" + climbing.format(old=one.folder, new=new)
    keys = [msgspec.structs.replace(archive.keys[0], uri=f"{place}photos-1")]
    manifest = msgspec.structs.replace(archive.manifest, records=place)
    forged = msgspec.structs.replace(archive, manifest=manifest, keys=keys)
    with held(new), Restore(forged, Target(new), {}) as work:
        plan = work.plan()
        assert sum("not in the data folder" in note for note in plan.notes) == 2
        assert work.run(plan, TELLER, "it", NOW + 60) == []
    assert not (tmp_path / "vault").exists()
    assert not (new / "custody").exists()


@rows(
    ("uri", "there"),
    [
        ("file:/old/custody/a?kek=env:A", "file:/new/custody/a?kek=env:A"),
        ("file:/old/custody/", "file:/new/custody/"),
        ("file:/old/x/../custody/a", "file:/new/custody/a"),
        ("file:/old/../b/a", "file:/old/../b/a"),
        ("file:/older/a", "file:/older/a"),
        ("vault:/old/a", "vault:/old/a"),
    ],
)
def test_where_it_lies_in_the_new_folder(uri: str, there: str) -> None:
    assert moved(uri, "/old/", Path("/new")) == there


def test_what_cannot_be_had_is_told(tmp_path: Path) -> None:
    one = Rotated(tmp_path / "data")
    outcome = one.take(private_keys=True, environment=NEW)  # a wrong passphrase
    assert outcome.name
    assert any("photos-1" in text for text in outcome.trouble)
    archive = one.archive(outcome)
    assert archive.keys == []
    assert [row.name for row in archive.records] == ["photos"]
    one.harness.close()

    # And where a key cannot be restored: the rest is restored, and the failure is reported.
    whole = Rotated(tmp_path / "whole")
    archive = whole.archive(whole.take(private_keys=True))
    whole.harness.close()
    failed = restored(archive, tmp_path / "new", {})
    assert len(failed) == 1
    assert "photos-1" in failed[0]
    assert load(open_records(f"file:{tmp_path}/new/custody/", {}), "photos") is not None
    assert restored(archive, tmp_path / "new", NEW) == []


@pytest.mark.parametrize(
    "line",
    [
        b'{"uri":"file:/k/../../etc/a","pem":"","created":1.0,"labels":{}}',
        b'{"uri":"nowhere:/k/a","pem":"","created":1.0,"labels":{}}',
        b'{"uri":"file:/k/a","pem":1,"created":1.0,"labels":{}}',
    ],
)
def test_what_is_no_key(line: bytes) -> None:
    from keyfront.backup.archive.keys import read_keys

    with pytest.raises(BackupError):
        read_keys([line])
