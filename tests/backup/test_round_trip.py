"""From either store into an archive, and from there into either store: everything is restored, and the installation
continues."""

from __future__ import annotations

import random
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from keyfront.backup.archive import tables
from keyfront.backup.restore.lock import held, refuse_half_restored
from keyfront.backup.restore.restore import LEAP, Restore, Target
from keyfront.control.alarms import history, minutes
from keyfront.control.alarms.definition import KIND
from keyfront.control.alarms.transitions import initial_state
from keyfront.control.service import Service, ServiceSettings
from keyfront.control.store import schema
from keyfront.control.store.rows import Row
from keyfront.control.store.store import Store
from keyfront.errors import BackupError, SettingsError
from keyfront.fleet.file_feed import FileFeed
from keyfront.fleet.regions import Regions
from keyfront.monitoring.metric_series import Measurement, gauges
from tests.backup.harness import CREDENTIALS, Installed, chain, events, make, read, restore
from tests.control.harness import ACCOUNT, BOTH, Harness, where
from tests.postgres import PostgresServer

STORES = BOTH


def content(store: Store, *without: str) -> dict[str, list[str]]:
    with store.read() as transaction:
        return {
            table.name: sorted(repr(tuple(row)) for row in transaction.connection.execute(sa.select(table)))
            for table in tables.tables()
            if table.name not in without
        }


def neutral(store: Store) -> dict[str, list[str]]:
    """The rows, except for what a restore changes: snapshot numbers, and its own record."""
    with store.read() as transaction:
        found = {}
        for table in tables.tables():
            rows = [dict(row) for row in transaction.connection.execute(sa.select(table)).mappings()]
            for row in rows:
                row.pop("snapshot", None)
            if table.name == "audit":
                rows = [row for row in rows if row["name"] not in ("CreateBackup", "RestoreBackup")]
            if table.name not in ("counter", "carried"):
                found[table.name] = sorted(map(repr, rows))
    return found


def test_it_comes_back_in_the_other_kind_of_store(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    one = Installed(tmp_path)
    before = neutral(one.harness.store)
    outcome = make(one.harness.store, tmp_path, tmp_path / "archives")
    assert not outcome.trouble
    archive = read(tmp_path / "archives" / outcome.name)

    url = ""
    if where(tmp_path) == tmp_path / "keyfront.db":
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.database()
    target = tmp_path / "new"
    assert restore(archive, target, url) == []
    store = Store(url or target / "keyfront.db")
    assert neutral(store) == before
    assert chain(store)[1] == ""
    assert events(store)[-1] == "RestoreBackup"
    store.close()
    assert (target / "credentials").read_text() == CREDENTIALS
    assert (target / "certificates" / "a.pem").stat().st_mode & 0o777 == 0o600
    one.harness.close()

    # Edges that know higher numbers than the archive accept what is published now; and operation continues.
    (target / "store").write_text(url) if url else None
    again = Harness(target, seed=2)
    published = again.feed.published()
    assert published is not None
    assert published.number == archive.manifest.snapshot + LEAP
    assert [value.domain_name for value in published.distributions] == [one.host]
    assert [key.id for key in published.public_keys] == [one.key_id]
    again.call(
        "CreateInvalidation",
        DistributionId=one.id,
        InvalidationBatch={"CallerReference": "two", "Paths": {"Quantity": 1, "Items": ["/b"]}},
    )
    found = again.refused("DeletePublicKey", Id=one.key_id, IfMatch=again.etag("PublicKey", one.key_id))
    assert found.code == "PublicKeyInUse"
    assert chain(again.store)[1] == ""
    again.close()


def test_onto_an_installation_that_went_on(tmp_path: Path) -> None:
    """Its log continues, its previous state is kept aside, and edges move forward."""
    one = Installed(tmp_path)
    harness = one.harness
    outcome = make(harness.store, tmp_path, tmp_path / "archives")
    store_before = neutral(harness.store)
    harness.call("DeleteDistribution", Id=one.id, IfMatch=_disabled(harness, one.id))
    later = harness.key("later")
    (tmp_path / "credentials").write_text("[other]\n")
    count, _ = chain(harness.store)
    number = harness.number()
    harness.close()

    archive = read(tmp_path / "archives" / outcome.name)
    store = where(tmp_path)
    url = store if isinstance(store, str) else ""
    with held(tmp_path), Restore(archive, Target(tmp_path, url), {}) as work:
        plan = work.plan()
    changes = {(change.kind, change.what, change.name) for change in plan.changes}
    assert ("add", "Distribution", f"{one.id} (cdn)") in changes
    assert ("remove", "PublicKey", f"{later} (later)") in changes
    assert ("change", "file", "credentials") in changes
    assert plan.continues
    assert restore(archive, tmp_path, url) == []

    again = Harness(tmp_path, seed=2)
    assert again.number() == number + LEAP
    assert chain(again.store) == (count + 1, "")  # nothing recorded since is lost
    found = neutral(again.store)
    assert {name: rows for name, rows in found.items() if name != "audit"} == {
        name: rows for name, rows in store_before.items() if name != "audit"
    }
    again.close()
    (aside,) = tmp_path.glob("before-restore-*")
    assert (aside / "credentials").read_text() == "[other]\n"
    assert (tmp_path / "credentials").read_text() == CREDENTIALS
    _check_aside(aside, url, later)
    # A second time there is nothing to change, and the restore still succeeds.
    with held(tmp_path), Restore(archive, Target(tmp_path, url), {}) as work:
        assert work.plan().changes == ()
    assert restore(archive, tmp_path, url, now=2e9) == []


def _check_aside(aside: Path, url: str, key: str) -> None:
    """The previous state is kept complete."""
    if not url:
        with sqlite3.connect(aside / "keyfront.db") as old:
            assert (key,) in old.execute("SELECT id FROM resource").fetchall()
        return
    import psycopg

    with psycopg.connect(url) as connection:
        rows = connection.execute(f'SELECT id FROM "{aside.name.replace("-", "_")}".resource').fetchall()
        assert (key,) in rows
        with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="append-only"):
            connection.execute("DELETE FROM audit")


def _disabled(harness: Harness, id_: str) -> str:
    config, etag = harness.config(id_)
    answer = harness.call(
        "UpdateDistribution", Id=id_, IfMatch=etag, DistributionConfig=config | {"Enabled": False}
    )
    harness.report()
    return str(answer["ETag"])


def test_while_others_write(tmp_path: Path) -> None:
    """Each archive is one consistent state: its keys, groups and log agree."""
    one = Installed(tmp_path)
    stop = threading.Event()
    wrong: list[str] = []
    errors: list[BaseException] = []

    def write() -> None:
        number = 0
        try:
            while not stop.is_set():
                number += 1
                key = one.harness.key(f"key-{number}", one.key.public_key.pem)
                group = one.harness.group(key, name=f"group-{number}")
                one.harness.call("DeleteKeyGroup", Id=group, IfMatch=one.harness.etag("KeyGroup", group))
                one.harness.call("DeletePublicKey", Id=key, IfMatch=one.harness.etag("PublicKey", key))
        except BaseException as error:
            errors.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(2):
            outcome = make(one.harness.store, tmp_path, tmp_path / "archives", now=2e9 + number, always=True)
            wrong += outcome.trouble
            archive = read(tmp_path / "archives" / outcome.name)
            assert archive.manifest.audit.partition(":")[0] == str(archive.manifest.counts["store/audit"])
    finally:
        stop.set()
        writer.join()
    one.harness.close()
    assert not wrong
    assert not errors


def test_not_onto_one_that_runs(tmp_path: Path) -> None:
    one = Installed(tmp_path)
    outcome = make(one.harness.store, tmp_path, tmp_path / "archives")
    archive = read(tmp_path / "archives" / outcome.name)
    with held(tmp_path), pytest.raises(SettingsError, match="end it first"):
        restore(archive, tmp_path)
    store = where(tmp_path)
    if isinstance(store, str):
        # Another machine's control plane holds no lock in this folder; it is detected in the database.
        with pytest.raises(SettingsError, match="control planes use"):
            restore(archive, tmp_path / "new", store)
        one.harness.close()
        live = Store(store)
        with live.write_relaxed() as transaction:
            transaction.set_edges("elsewhere", {"edge-1": 3})
        live.close()
        with pytest.raises(SettingsError, match="1 live edges"):
            restore(archive, tmp_path / "new", store)
        again = Store(store)
        with again.write_relaxed() as transaction:
            transaction.set_edges("elsewhere", {})
        again.close()
    one.harness.close()


def test_not_onto_a_file_that_somebody_has_open(tmp_path: Path) -> None:
    one = Installed(tmp_path)
    outcome = make(one.harness.store, tmp_path, tmp_path / "archives")
    archive = read(tmp_path / "archives" / outcome.name)
    (tmp_path / "credentials").write_text("[other]\n")
    if where(tmp_path) == tmp_path / "keyfront.db":
        with pytest.raises(BackupError, match="nothing was changed"):
            restore(archive, tmp_path)
        assert (tmp_path / "credentials").read_text() == "[other]\n"
        refuse_half_restored(tmp_path)
        assert one.harness.key("goes on")
    one.harness.close()


def test_invalidations_that_only_edges_know_stay(tmp_path: Path) -> None:
    one = Installed(tmp_path)
    outcome = make(one.harness.store, tmp_path, tmp_path / "archives")
    one.invalidate("since")
    one.harness.close()
    store = where(tmp_path)
    archive = read(tmp_path / "archives" / outcome.name)
    restore(archive, tmp_path, store if isinstance(store, str) else "")
    again = Harness(tmp_path, seed=2)
    published = again.feed.published()
    assert published is not None
    carried = [path for one in published.distributions[0].invalidations for path in one.paths]
    assert {"/one*", "/since*"} <= set(carried)
    again.close()


def test_a_service_starts_from_it_as_from_any(tmp_path: Path) -> None:
    """Also where the folder with the published snapshots is lost too."""
    one = Installed(tmp_path)
    outcome = make(one.harness.store, tmp_path, tmp_path / "archives")
    archive = read(tmp_path / "archives" / outcome.name)
    one.harness.close()
    target = tmp_path / "elsewhere"
    restore(archive, target)
    refuse_half_restored(target)
    store = Store(target / "keyfront.db")
    service = Service(store, Regions(FileFeed(target)), ServiceSettings(account=ACCOUNT), random.Random(3))
    service.start(2e9)
    assert FileFeed(target).number() == archive.manifest.snapshot + LEAP
    store.close()


def test_alarms_and_their_history_come_back_and_metrics_begin_anew(tmp_path: Path) -> None:
    one = Installed(tmp_path)
    with one.harness.store.write() as transaction:
        transaction.insert(Row(KIND, "errors", "E1", 1.0, 1.0, {"Period": 60}, initial_state(1.0), 0))
        transaction.set_tags(KIND, "errors", {"team": "films"})
        history.append(transaction, "errors", 1.0, "StateUpdate", "it rang", {"a": 1})
        minutes.add(transaction, {"run": {}}, gauges([Measurement("Edges", 1)]), 60)
    outcome = make(one.harness.store, tmp_path, tmp_path / "archives")
    one.harness.close()
    target = tmp_path / "elsewhere"
    restore(read(tmp_path / "archives" / outcome.name), target)
    refuse_half_restored(target)
    store = Store(target / "keyfront.db")
    with store.read() as transaction:
        found = transaction.get(KIND, "errors")
        assert found is not None
        assert (found.config, found.attributes) == ({"Period": 60}, initial_state(1.0))
        assert transaction.tags(KIND, "errors") == {"team": "films"}
        (item,) = history.search(transaction, history.Search())
        assert (item.alarm, item.summary) == ("errors", "it rang")
        assert minutes.subjects(transaction, 0) == []
    store.close()


def test_every_table_is_backed_up_or_excluded_by_name() -> None:
    known = {table.name for table in tables.tables()}
    excluded = {"schema", "edge", "fleet_seen", "lease", "metric_minute", "metric_run"}
    assert known | excluded == set(schema.metadata.tables)


def test_rows_as_lines(tmp_path: Path) -> None:
    row: dict[str, Any] = {
        "a": "ü\0",
        "b": b"\xff\x00",
        "c": b'{"u":1}',
        "d": 0.1,
        "e": 1 << 62,
        "f": None,
        "g": b"",
    }
    data = tables.line(row)
    columns: dict[str, Any] = {"a": str, "b": bytes, "c": bytes, "d": float, "e": int, "f": str, "g": bytes}
    assert tables._row("t", columns, data) == row
