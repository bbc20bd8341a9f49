"""Restoring onto an installation that has changed since: what the restore leaves alone, and what else its plan
reports."""

from __future__ import annotations

import base64
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme

from keyfront.backup.archive.files import File, settled
from keyfront.backup.capture import Archive
from keyfront.backup.restore.lock import held
from keyfront.backup.restore.restore import Restore, Target
from keyfront.control.identity import sealing, users
from keyfront.control.store import schema
from keyfront.control.store.database import Postgres, Sqlite
from keyfront.errors import SettingsError
from tests.backup.harness import NOW, TELLER, Installed, make, read
from tests.postgres import PostgresServer

CA = trustme.CA()


def issued(year: int) -> tuple[bytes, bytes]:
    """A chain that expires in that year, and its key."""
    made = CA.issue_cert("www.example.com", not_after=datetime(year, 1, 1, tzinfo=UTC))
    return made.cert_chain_pems[0].bytes(), made.private_key_pem.bytes()


OLD, RENEWED = issued(2031), issued(2032)


@pytest.mark.parametrize(
    ("chain", "key"),
    [("a.crt", "a.key"), ("a.pem", "a-key.pem"), ("a/fullchain.pem", "a/privkey.pem")],
)
def test_a_certificate_that_was_renewed_stays_with_its_key(tmp_path: Path, chain: str, key: str) -> None:
    paths = [f"certificates/{name}" for name in (chain, key)]
    for then, now, put in ((OLD, RENEWED, 0), (RENEWED, OLD, 2), (OLD, OLD, 0)):
        for path, data in zip(paths, now, strict=True):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(data)
        files = [File(path, 0o600, data) for path, data in zip(paths, then, strict=True)]
        other = File("certificates/b.crt", 0o600, OLD[0])
        found, notes = settled([*files, other], tmp_path)
        assert len(found) == put + 1
        assert other in found
        assert len(notes) == (2 if then is OLD and now is RENEWED else 0)
    (tmp_path / paths[0]).write_text("none")
    assert len(settled(files, tmp_path)[0]) == 1


def test_what_is_no_certificate_is_put_back(tmp_path: Path) -> None:
    files = [File("certificates/a.pem", 0o600, b"PEM"), File("hooks/a.mjs", 0o600, b"")]
    assert settled(files, tmp_path) == (files, [])


def archived(one: Installed, tmp_path: Path) -> Archive:
    return read(tmp_path / "archives" / make(one.harness.store, one.folder, tmp_path / "archives").name)


def test_links_stay(tmp_path: Path) -> None:
    one = Installed(tmp_path / "data")
    live, folder = tmp_path / "live", one.folder / "certificates"
    (live / "www").mkdir(parents=True)
    for path in (live / "site.pem", live / "www" / "fullchain.pem", live / "www" / "privkey.pem"):
        path.write_text("old")
    (folder / "site.pem").symlink_to(live / "site.pem")
    (folder / "www").mkdir()
    (folder / "www" / "fullchain.pem").write_text("old")
    archive = archived(one, tmp_path)
    one.harness.close()
    (folder / "www" / "fullchain.pem").unlink()
    (folder / "www").rmdir()
    (folder / "www").symlink_to(live / "www")
    for path in (live / "site.pem", live / "www" / "fullchain.pem"):
        path.write_text("renewed")
    with held(one.folder), Restore(archive, Target(one.folder), {}) as work:
        plan = work.plan()
        assert {note for note in plan.notes if "is a link" in note} == {
            "file certificates/site.pem is left alone: certificates/site.pem is a link",
            "file certificates/www/fullchain.pem is left alone: certificates/www is a link",
        }
        assert not [change for change in plan.changes if change.what == "file"]
        assert work.run(plan, TELLER, "it", NOW + 60) == []
    assert (folder / "site.pem").is_symlink()
    assert (folder / "www").is_symlink()
    assert {path.read_text() for path in (live / "site.pem", live / "www" / "fullchain.pem")} == {"renewed"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("theirs", [".", "keyfront.db"])
def test_root_leaves_the_installation_of_another_alone(tmp_path: Path, theirs: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / theirs).touch()
    os.chown(folder / theirs, 65534, 65534)
    with pytest.raises(SettingsError, match="belongs to the user with the id 65534"), held(folder):
        pass
    assert not (folder / "lock").exists()


def test_the_plan_tells_which_secrets_go_back(tmp_path: Path) -> None:
    one = Installed(tmp_path / "data")
    keys = [base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2, 3)]
    (one.folder / "access.key").write_text(keys[0])
    (one.folder / "shield-secret").write_text("old")
    with one.harness.store.write() as transaction:
        own = sealing.sealer(one.folder, {}, make=False).name
        transaction.connection.exec_driver_sql(
            "INSERT INTO access_user (name, folded, id, created) VALUES ('ann', 'ann', 'A', 1)"
        )
        transaction.connection.exec_driver_sql(
            "INSERT INTO access_key (id, owner, active, created, sealed, sealer)"
            f" VALUES ('AK', 'ann', 1, 1, x'00', '{own}')"
        )
        assert users.sealed_keys(transaction)
    archive = archived(one, tmp_path)
    one.harness.close()
    with Restore(archive, Target(one.folder), {}) as work:
        assert not [note for note in work.plan().notes if "goes back" in note or "open nothing" in note]
    (one.folder / "access.key").write_text(keys[1])
    (one.folder / "shield-secret").write_text("new")
    (one.folder / "credentials").write_text("[default]")
    with Restore(archive, Target(one.folder), {}) as work:
        notes = work.plan().notes
    for name in ("access.key", "shield-secret", "credentials"):
        assert [note for note in notes if note.startswith(f"{name} goes back to the archive's")]
    assert not [note for note in notes if "open nothing" in note]
    with Restore(archive, Target(one.folder), {"KEYFRONT_ACCESS_KEY": keys[2]}) as work:
        assert [note for note in work.plan().notes if "AK among them" in note and "they open nothing" in note]


def test_the_plan_tells_what_gives_access_again(tmp_path: Path) -> None:
    one = Installed(tmp_path / "data")
    harness = one.harness
    second = harness.key("second")
    harness.call(
        "UpdateKeyGroup",
        Id=one.group,
        IfMatch=harness.etag("KeyGroup", one.group),
        KeyGroupConfig={"Name": "photos", "Items": [one.key_id, second]},
    )
    spare = harness.key("spare")
    idle = harness.group(spare, name="idle")
    with harness.store.write() as transaction:
        for statement in (
            "INSERT INTO access_user (name, folded, id, created) VALUES ('ann', 'ann', 'A', 1), ('bob', 'bob', 'B', 1)",
            "INSERT INTO access_key (id, owner, active, created, sealed, sealer)"
            " VALUES ('AK1', 'ann', 1, 1, x'00', ''), ('AK2', 'bob', 1, 1, x'00', '')",
            "INSERT INTO fleet_edge (id, name, region, enrolled, expires)"
            " VALUES ('1', 'paris', '', 1, 2), ('2', 'rome', '', 1, 2)",
        ):
            transaction.connection.exec_driver_sql(statement)
    archive = archived(one, tmp_path)
    harness.call("DeleteKeyGroup", Id=idle, IfMatch=harness.etag("KeyGroup", idle))
    harness.call("DeletePublicKey", Id=spare, IfMatch=harness.etag("PublicKey", spare))
    harness.call(
        "UpdateKeyGroup",
        Id=one.group,
        IfMatch=harness.etag("KeyGroup", one.group),
        KeyGroupConfig={"Name": "photos", "Items": [one.key_id]},
    )
    with harness.store.write() as transaction:
        transaction.connection.exec_driver_sql("DELETE FROM access_key WHERE id = 'AK1'")
        transaction.connection.exec_driver_sql("DELETE FROM access_user WHERE name = 'ann'")
        transaction.connection.exec_driver_sql("UPDATE access_key SET active = 0")
        transaction.connection.exec_driver_sql("UPDATE fleet_edge SET revoked = 1 WHERE id = '1'")
    harness.close()
    with Restore(archive, Target(one.folder), {}) as work:
        notes = work.plan().notes
    assert [note for note in notes if "again" in note or "is restored" in note] == [
        f"key group {idle} (idle) was deleted after the archive was made, and is restored",
        f"key group {one.group} (photos) trusts the public key {second} again, which was removed from it since",
        f"public key {spare} (spare) was deleted after the archive was made, and is restored",
        "user ann was deleted after the archive was made, and is restored",
        "access key AK1 of ann was deleted after the archive was made, and is restored",
        "access key AK2 of bob was made inactive since, and is active again",
        "edge paris was revoked after the archive was made, and is accepted again; to revoke it: "
        "keyfront edge revoke paris",
    ]
    with Restore(archive, Target(tmp_path / "new"), {}) as work:
        assert not [note for note in work.plan().notes if "is restored" in note]


def test_a_plan_only_looks(tmp_path: Path) -> None:
    """An older store stays unchanged until the restore itself."""
    one = Installed(tmp_path / "data")
    archive = archived(one, tmp_path)
    one.harness.close()
    old = tmp_path / "old"
    old.mkdir()
    database = Sqlite(old / "keyfront.db")
    with database.migrating.begin() as connection:
        for number in range(1, 4):
            schema.step(connection, number)
    database.close()
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    with Restore(archive, Target(old), {}) as work:
        plan = work.plan()
    assert [change for change in plan.changes if change.what == "Distribution"]
    assert not [note for note in plan.notes if "cannot be compared" in note]
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before
    with held(old), Restore(archive, Target(old), {}) as work:
        assert work.run(work.plan(), TELLER, "it", NOW + 60) == []
        assert not [change for change in work.plan().changes if change.what == "Distribution"]


def test_a_plan_only_looks_at_postgresql(tmp_path: Path, postgres: PostgresServer) -> None:
    one = Installed(tmp_path / "data")
    archive = archived(one, tmp_path)
    one.harness.close()
    url = postgres.database()
    with Restore(archive, Target(tmp_path / "new", url), {}) as work:
        assert work.plan().changes
    database = Postgres(url)
    with database.reading.connect() as connection:
        assert schema.version(connection) == 0
    with database.writing.connect() as plain:
        plain = plain.execution_options(keyfront_begin="SELECT 1")
        for number in range(1, 4):
            schema.step(plain, number)
        plain.commit()
    with Restore(archive, Target(tmp_path / "new", url), {}) as work:
        assert [note for note in work.plan().notes if "has schema 3" in note]
    with database.reading.connect() as connection:
        assert schema.version(connection) == 3
    database.close()
