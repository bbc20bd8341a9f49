"""Restore an archive: build the new state beside the current one, then put it in place.

1. The new state is staged in `restore.new/`: a store with the archive's rows, migrated to this version's schema. Its
   snapshot number goes up by LEAP, above any that edges may have seen since, and everything counts as changed with it,
   so that edges accept it. If the current audit log continues the archive's, it is kept: a restore loses no audit
   record. The restore itself is the last record.
2. The current state is saved in `before-restore-TIME/`; in PostgreSQL, in a schema of that name.
3. PostgreSQL tables are swapped in one transaction. Private keys go into custody, then files into the folder, then the
   SQLite file is swapped by a rename. The records come last: they switch signers to the keys that edges trust now.

During 3 the file `restore.running` exists, and `keyfront up` does not start. A restore that was killed is run again;
the state from before it is still saved, since nothing there is overwritten.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import sqlalchemy as sa

from keyfront.backup.archive import files as archived_files
from keyfront.backup.archive import keys as archived_keys
from keyfront.backup.audit import RESTORED, AuditActor, append_event
from keyfront.backup.capture import Archive, compiled
from keyfront.backup.restore import compromised
from keyfront.backup.restore import plan as restore_plan
from keyfront.backup.restore.current_state import inspect_store
from keyfront.backup.restore.lock import RUNNING
from keyfront.backup.restore.plan import Plan
from keyfront.control.publish.replica import renumber
from keyfront.control.store import schema
from keyfront.control.store.copy import copy, pour
from keyfront.control.store.database import Memory, Sqlite, cause
from keyfront.control.store.store import Store
from keyfront.control.store.transaction import Transaction
from keyfront.errors import ApiError, BackupError, SettingsError
from keyfront.fleet.regions import remembered
from keyfront.model.snapshot import differ
from keyfront.private_files import replace_file, sync_folder

log = logging.getLogger("keyfront.backup")

LEAP = 1_000_000
"""The increase of the snapshot number: edges may have seen higher numbers since the archive was made."""

_STAGING = "restore.new"
_STORE = "keyfront.db"


class Target(msgspec.Struct, frozen=True):
    """Where to restore to.

    `store` is the URL of a PostgreSQL database, empty for the file in the folder. `records` is the place of the key
    groups' records, empty for where they were when the archive was made. `elsewhere`: also restore records and private
    keys outside the folder; other installations may use those, and a restore for inspection must not switch their
    signers. `compromised`: also restore keys that the current records mark compromised, and let them sign.
    """

    folder: Path
    store: str = ""
    password_file: Path | None = None
    records: str = ""
    elsewhere: bool = False
    compromised: bool = False


class _Note(msgspec.Struct, frozen=True):
    """The content of the file RUNNING: the folder in which the previous state is saved."""

    aside: str


class Restore:
    """One restore: planned, and then run if wanted. The caller holds the folder's lock. Use as a context manager.

    :raises SettingsError: if a store on PostgreSQL cannot be opened.
    """

    def __init__(self, archive: Archive, target: Target, environment: Mapping[str, str]) -> None:
        self._archive = archive
        self._target = target
        self._environment = environment
        manifest, folder = archive.manifest, target.folder
        self._records = target.records or archived_keys.moved(manifest.records, manifest.data, folder)
        if archive.records and not self._records:
            self._records = f"file:{folder / 'custody'}/"
        self._rows = [archived_keys.moved_record(row, manifest.data, folder) for row in archive.records]
        self._keys = [
            msgspec.structs.replace(row, uri=archived_keys.moved(row.uri, manifest.data, folder))
            for row in archive.keys
        ]
        self._notes: list[str] = []
        if not target.elsewhere:
            self._exclude_elsewhere()
        current, unknown = compromised.current_records(self._records, environment)
        restorable = compromised.exclude_compromised(self._rows, self._keys, current, target.compromised)
        self._rows, self._keys, self._compromised = (
            restorable.records,
            restorable.keys,
            restorable.compromised,
        )
        self._notes += [*restorable.notes, *unknown]
        self._public: dict[str, str] = {}
        self._current: Store | None = None

    def _exclude_elsewhere(self) -> None:
        """Leave out everything outside the data folder."""
        folder = self._target.folder
        reason = "is not restored, since it is not in the data folder (--elsewhere)"
        if self._rows and not archived_keys.inside(self._records, folder):
            place = self._records.partition("?")[0]
            self._notes += [f"record {row.name} in {place} {reason}" for row in self._rows]
            self._rows = []
        self._notes += [
            f"private key {row.uri.partition('?')[0]} {reason}"
            for row in self._keys
            if not archived_keys.inside(row.uri, folder)
        ]
        self._keys = [row for row in self._keys if archived_keys.inside(row.uri, folder)]

    def __enter__(self) -> Restore:
        return self

    def __exit__(self, *_: object) -> None:
        if self._current is not None:
            self._current.close()

    def _open(self) -> Store | None:
        if self._target.store:
            return Store(self._target.store, password_file=self._target.password_file)
        file = self._target.folder / _STORE
        if not file.exists():
            return None
        try:
            found = Store(file)
        except SettingsError:  # this may be the reason for the restore
            return None
        try:
            with found.read() as transaction:
                check = str(transaction.connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one())
        except ApiError as error:
            check = error.message
        if check == "ok":
            return found
        found.close()
        return None

    def plan(self) -> Plan:
        """:raises BackupError: if the archive's rows are not those of a store."""
        files, stay = archived_files.settled(self._archive.files, self._target.folder)
        archive = msgspec.structs.replace(self._archive, files=files, records=self._rows, keys=self._keys)
        target = self._target
        seen = inspect_store(target.folder / _STORE, target.store, target.password_file)
        staged: Store | None = None
        try:
            staged = self._archive.store(Memory(), without=(schema.audit.name,))
            plan = restore_plan.plan(
                archive,
                staged,
                seen.store,
                target.folder,
                self._records,
                self._environment,
                seen.trouble,
            )
            with staged.read() as transaction:
                public = compromised.fingerprints(transaction)
                again = compromised.trusted_again(transaction, self._compromised)
            nowhere = compromised.missing_keys(self._rows, self._keys, public, self._environment)
            notes = (*plan.notes, *stay, *self._notes, *again, *nowhere.values())
            return msgspec.structs.replace(plan, notes=notes)
        finally:
            for store in (staged, seen.store):
                if store is not None:
                    store.close()

    def run(self, plan: Plan, actor: AuditActor, name: str, now: float) -> list[str]:
        """Carry out the plan.

        :param plan: the result of `plan`.
        :param name: the name of the archive, for the audit log.
        :param now: epoch seconds.
        :returns: what could not be restored, and why: private keys and records whose places refuse, and signing keys
            that custody lacks.
        :raises BackupError: if the store cannot be replaced; it is unchanged then.
        """
        try:
            return self._run(plan, actor, name, now)
        except OSError as error:
            raise BackupError(
                f"the restore did not finish: {error}; once that is fixed, run it again"
            ) from error
        finally:
            shutil.rmtree(self._target.folder / _STAGING, ignore_errors=True)

    def _run(self, plan: Plan, actor: AuditActor, name: str, now: float) -> list[str]:
        folder = self._target.folder
        self._current = self._open()  # also migrates it, which a plan does not do
        plan = msgspec.structs.replace(
            plan, continues=restore_plan.audit(self._archive.manifest, self._current)[1]
        )
        if self._current is not None and self._current.shared:
            _refuse_live(self._current)
        staging = folder / _STAGING
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(mode=0o700)
        file = staging / _STORE
        staged = self._archive.store(Sqlite(file), without=(schema.audit.name,) if plan.continues else ())
        try:
            self._prepare(staged, plan, actor, name, now)
            log.info("store prepared", extra={"archive": name})
            shared = self._current if self._current is not None and self._current.shared else None
            if shared is None:
                self._close()
            aside = self._begin(now)
            if shared is not None:
                try:
                    _swap_postgres(staged, shared, aside.name.replace("-", "_"))
                except (ApiError, BackupError):
                    (folder / RUNNING).unlink(missing_ok=True)  # nothing was changed
                    raise
            failed = archived_keys.put_keys(self._keys, now, self._environment)
            log.info("private keys restored", extra={"failed": len(failed)})
            self._put_files(aside)
            if shared is None:
                staged.close()
                self._swap_sqlite(file, aside)
        finally:
            staged.close()
        failed += archived_keys.put_records(self._rows, self._records, now, self._environment)
        nowhere = compromised.missing_keys(self._rows, (), self._public, self._environment)
        failed += [why for uri, why in nowhere.items() if not any(uri in text for text in failed)]
        with contextlib.suppress(OSError):
            aside.rmdir()  # if nothing was there before
        (folder / RUNNING).unlink(missing_ok=True)
        sync_folder(folder)
        return failed

    def _prepare(self, staged: Store, plan: Plan, actor: AuditActor, name: str, now: float) -> None:
        manifest = self._archive.manifest
        with staged.read() as transaction:
            taken = compiled(transaction, actor.account)
        feeds = remembered(self._target.folder)
        published = [one for one in (feeds.published(), *feeds.elsewhere()) if one is not None]
        number = max(manifest.snapshot, feeds.number())
        access = 0
        with staged.write() as transaction:
            if self._current is not None:
                with self._current.read() as old:
                    if plan.continues:
                        _go_on(old, transaction)
                    number = max(number, old.snapshot_number())
                    access = _access(old)
            renumber(
                transaction,
                published,
                number + LEAP,
                now,
                random.SystemRandom(),
            )
            _set_access(transaction, max(access, _access(transaction)) + 1)
            append_event(
                transaction,
                actor,
                RESTORED,
                {"Archive": name, "Taken": _iso(manifest.taken), "FromSnapshot": manifest.snapshot},
                {"Snapshot": number + LEAP},
                now,
            )
        with staged.read() as transaction:
            made = compiled(transaction, actor.account)
            self._public = compromised.fingerprints(transaction)
        without = [
            msgspec.structs.replace(
                one,
                distributions=tuple(
                    msgspec.structs.replace(value, invalidations=()) for value in one.distributions
                ),
            )
            for one in (taken, made)
        ]
        if differ(*without):
            raise BackupError(
                "what was restored does not make the snapshot that was taken; nothing was changed"
            )

    # ---- putting the new state in place

    def _begin(self, now: float) -> Path:
        """Record that the restore is in progress, and where the previous state is saved. Returns that folder."""
        folder, marker = self._target.folder, self._target.folder / RUNNING
        with contextlib.suppress(OSError, msgspec.DecodeError, msgspec.ValidationError):
            note = msgspec.json.decode(marker.read_bytes(), type=_Note)
            if note.aside.startswith("before-restore-") and "/" not in note.aside:
                (folder / note.aside).mkdir(mode=0o700, exist_ok=True)
                return folder / note.aside
        when = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dt%H%M%S%f")
        aside, number = folder / f"before-restore-{when}", 1
        while aside.exists():
            number += 1
            aside = folder / f"before-restore-{when}-{number}"
        aside.mkdir(mode=0o700)
        replace_file(marker, msgspec.json.encode(_Note(aside.name)))
        return aside

    def _put_files(self, aside: Path) -> None:
        folder = self._target.folder
        files, _ = archived_files.settled(self._archive.files, folder)
        for file in files:
            path = folder / file.path
            try:
                old: bytes | None = path.read_bytes()
            except OSError:
                old = None
            if old is not None and not (aside / file.path).exists():
                _put(aside / file.path, old, 0o600)
            _put(path, file.data, file.mode)

    def _close(self) -> None:
        """Close the current store's file.

        :raises BackupError: if another process has it open.
        """
        if self._current is None:
            return
        path = self._target.folder / _STORE
        self._current.close()  # also merges and removes its journal
        if _journals(path):
            raise BackupError(f"another process has {path} open: stop it first; nothing was changed")

    def _swap_sqlite(self, file: Path, aside: Path) -> None:
        """Replace the old file with the new one in a single rename. The old file must have no journal then: SQLite
        would apply the journal to the new file."""
        path = self._target.folder / _STORE
        for journal in _journals(path):
            os.replace(journal, aside / journal.name)
        if path.exists() and not (aside / _STORE).exists():
            try:
                os.link(path, aside / _STORE)
            except PermissionError:  # a file system without hard links
                replace_file(aside / _STORE, path.read_bytes())
            sync_folder(aside)
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(file, path)
        sync_folder(self._target.folder)


def _journals(path: Path) -> list[Path]:
    """Return the files that SQLite keeps beside a database that is open, or was not closed."""
    beside = (path.with_name(path.name + tail) for tail in ("-wal", "-shm"))
    return [journal for journal in beside if journal.exists()]


def _go_on(old: Transaction, new: Transaction) -> None:
    """Copy the audit log of `old` into `new`, which has none."""
    rows = old.connection.execution_options(yield_per=500).execute(
        sa.select(schema.audit).order_by(schema.audit.c.number)
    )
    for some in rows.mappings().partitions(500):
        new.connection.execute(sa.insert(schema.audit), [dict(row) for row in some])


def _access(transaction: Transaction) -> int:
    query = sa.select(schema.counter.c.value).where(schema.counter.c.name == "access")
    return int(transaction.connection.execute(query).scalar_one())


def _set_access(transaction: Transaction, value: int) -> None:
    """Make running control planes notice that users, keys, or policies have changed."""
    transaction.connection.execute(
        sa.update(schema.counter).where(schema.counter.c.name == "access").values(value=value)
    )


def _refuse_live(store: Store) -> None:
    """:raises SettingsError: if control planes are using the database now."""
    with store.read() as transaction:
        others = transaction.connection.exec_driver_sql(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'keyfront'"
            " AND pid <> pg_backend_pid()"
        ).scalar_one()
        edges = transaction.edges()
    if others or edges:
        raise SettingsError(
            f"control planes use {store.name} now ({others} connections, {len(edges)} live edges): end them first"
        )


def _swap_postgres(staged: Store, current: Store, aside: str) -> None:
    """In one transaction, move the existing tables into a schema of their own and put the new ones in their place."""
    with current.read() as transaction:
        new = not transaction.snapshot_number() and transaction.audit_head() is None
    if new:
        with contextlib.suppress(SettingsError):
            copy(staged, current)
            return
    with staged.read() as source, current.write() as target:
        connection = target.connection
        here = connection.exec_driver_sql("SELECT current_schema()").scalar_one()
        quoted = connection.dialect.identifier_preparer.quote
        try:
            aside = _free_schema(connection, aside)
            connection.exec_driver_sql(f"CREATE SCHEMA {quoted(aside)}")
            for name in (*schema.metadata.tables,):
                connection.exec_driver_sql(
                    f"ALTER TABLE {quoted(here)}.{quoted(name)} SET SCHEMA {quoted(aside)}"
                )
            for (name,) in connection.exec_driver_sql(
                "SELECT p.proname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace"
                " WHERE n.nspname = current_schema() AND p.proname LIKE '%%append_only'"
            ).all():
                connection.exec_driver_sql(
                    f"ALTER FUNCTION {quoted(here)}.{quoted(name)} SET SCHEMA {quoted(aside)}"
                )
            for number in range(1, schema.VERSION + 1):
                schema.step(connection, number)
        except sa.exc.DBAPIError as error:
            raise BackupError(
                f"{current.name} cannot be restored: {cause(error)}. Nothing was changed there. The role must own the "
                "tables, and may need CREATE on the database"
            ) from error
        pour(source, target)


def _free_schema(connection: sa.Connection, name: str) -> str:
    """Return `name`, or `name` with a number if an unfinished restore has saved something under that name."""
    taken = set(connection.execute(sa.text("SELECT nspname FROM pg_namespace")).scalars())
    names = (name, *(f"{name}_{number}" for number in range(2, 1000)))
    return next(name for name in names if name not in taken)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")


def _put(path: Path, data: bytes, mode: int) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_file(path, data, mode=mode)
