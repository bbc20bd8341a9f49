"""Capturing an archive while the control plane continues to write, and verifying an archive by restoring it in memory.

All rows come from one read transaction, which sees a single state and blocks no other transaction (WAL in SQLite,
REPEATABLE READ in PostgreSQL). The snapshot is compiled within it, as edges would receive it. What is restored from the
archive must compile to the same bytes, and its audit log must be the same chain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import sqlalchemy as sa

from keyfront.backup import coverage
from keyfront.backup.archive import files as archived_files
from keyfront.backup.archive import keys as archived_keys
from keyfront.backup.archive import tables
from keyfront.backup.archive.container import FORMAT, Manifest, Proof, Writer, lines, read_manifest
from keyfront.backup.archive.files import File
from keyfront.backup.archive.keys import KeyRow, RecordRow
from keyfront.backup.archive.names import Name, holding
from keyfront.backup.archive.tables import PREFIX
from keyfront.backup.audit import CREATED
from keyfront.control.audit import search as audit_search
from keyfront.control.audit.records import READS
from keyfront.control.identity import users
from keyfront.control.publish.compiler import Compiler
from keyfront.control.store.database import Database, Memory
from keyfront.control.store.rows import AuditRow
from keyfront.control.store.schema import audit as _audit
from keyfront.control.store.store import Store
from keyfront.control.store.transaction import Transaction
from keyfront.errors import BackupError
from keyfront.model.kinds import Quotas
from keyfront.model.quotas import Limits, PolicyLimits
from keyfront.model.snapshot import Snapshot

_EVERYTHING = 1 << 30
_QUOTAS = Quotas(
    limits=Limits(**dict.fromkeys(Limits.__struct_fields__, _EVERYTHING)),
    policy_limits=PolicyLimits(**dict.fromkeys(PolicyLimits.__struct_fields__, _EVERYTHING)),
)
"""Anything accepted in the past belongs in the snapshot, whatever the quotas were then."""

PASSING: dict[str, set[str]] = {"access_key": {"used"}, "fleet_edge": {"expires"}}
"""Columns that change without a real change: an archive that differs only in these is not made."""
PASSING_TABLES = {"key_use", "key_hour", "key_end", "key_run"}
_PASSING_COUNTERS = {"reached", "key_use"}


class CaptureOptions(msgspec.Struct, frozen=True):
    """What an archive contains besides the store and the folder's files. `records` is the place of the key groups'
    records (empty: the installation's own). `custodies` are places whose keys belong to the installation, in
    addition to the keys that the records name. `urls` are signed URLs that must still be accepted after a restore.
    `sealed_for` distinguishes archives encrypted for different recipients."""

    private_keys: bool = False
    records: str = ""
    custodies: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    sealed_for: str = ""


class Capture(msgspec.Struct, frozen=True):
    """An archive before encryption, and its name. `trouble` is the part of `manifest.missing` that is an error."""

    name: Name
    manifest: Manifest
    plain: bytes
    trouble: tuple[str, ...]

    def __repr__(self) -> str:
        return f"<Capture {self.name}>"


class Unchanged(msgspec.Struct, frozen=True):
    """No archive was made, because an equivalent one is already stored."""

    missing: tuple[str, ...]
    trouble: tuple[str, ...]


class Source(NamedTuple):
    """The installation to back up: its store and data folder, its twelve-digit account ID, its host name, the version
    of Keyfront that makes the archive, and the environment in which custody finds its secrets."""

    store: Store
    folder: Path
    account: str
    host: str
    version: str
    environment: Mapping[str, str]


def take(
    source: Source,
    options: CaptureOptions,
    *,
    now: float,
    is_known: Callable[[str, str], bool] = lambda origin, state: False,
) -> Capture | Unchanged:
    """Capture an archive.

    :param now: epoch seconds.
    :param is_known: called with the origin and the state that the archive's name would have; returns whether an
        equivalent archive is already stored. It is called before the audit log is read, which is the slowest step.
    :raises ApiError: ServiceUnavailable if the store does not respond.
    :raises BackupError: if something is too large.
    """
    folder, environment = source.folder, source.environment
    writer = Writer()
    state = hashlib.sha256(msgspec.json.encode(options))
    missing: list[str] = []
    files, trouble = archived_files.found(folder)
    place = archived_keys.place_of_records(folder, options.records)
    records, why = archived_keys.found_records(place, environment)
    trouble += why
    group_records = [found for row in records if (found := row.record()) is not None]
    keys: list[KeyRow] = []
    if options.private_keys:
        keys, kept, why = archived_keys.found_keys(group_records, options.custodies, environment)
        missing += kept
        trouble += why
    else:
        missing += archived_keys.not_contained(group_records, environment)

    for section, rest in (
        ("files", (file.line() for file in files)),
        ("records", (msgspec.json.encode(row) for row in records)),
        ("keys", (msgspec.json.encode(row) for row in keys)),
    ):
        writer.section(section, _hashed(rest, state))
    with source.store.read() as transaction:
        schema, number = transaction.schema(), transaction.snapshot_number()
        decided = transaction.snapshot_time()
        for table in tables.tables():
            if table is not _audit:
                rows = tables.rows(transaction, table)
                writer.section(PREFIX + table.name, _lines(rows, table.name, state))
        origin = _origin(transaction)
        state.update(_last_change(transaction, now))
        if not (folder / "access.key").exists() and users.sealed_keys(transaction):
            missing.append(
                "the key of the secret access keys: it is not in the data folder (KEYFRONT_ACCESS_KEY)"
            )
        state.update(msgspec.json.encode([missing, trouble]))
        if is_known(origin, state.hexdigest()[:16]):
            return Unchanged(tuple(trouble + missing), tuple(trouble))
        snapshot = compiled(transaction, source.account)
        audited = tables.rows(transaction, _audit)
        writer.section(PREFIX + _audit.name, map(tables.line, audited))  # the longest section comes last
        verdict = audit_search.verify_rows(_audit_rows(transaction))
    if verdict.fault:
        trouble.append(f"the audit log's chain is broken: {verdict.fault}")
    made, why = archived_keys.proofs(group_records, snapshot, now, environment)
    alone = coverage.unasked(snapshot, [*options.urls, *(proof.url for proof in made)])
    why += [f"proof for {behavior}: no key that signs for it could be had" for behavior in alone]
    manifest = Manifest(
        format=FORMAT,
        keyfront=source.version,
        taken=now,
        host=source.host,
        data=str(folder),
        store=source.store.name,
        origin=origin,
        state=state.hexdigest()[:16],
        schema=schema,
        snapshot=number,
        decided=decided,
        digest=digest(snapshot),
        audit=verdict.anchor,
        records=place,
        members=tuple(writer.members),
        proofs=(*(Proof(url) for url in options.urls), *made),
        missing=tuple(trouble + missing + why),
    )
    holds = holding(whole=not trouble, keys=bool(keys))
    name = Name(int(now * 1000) / 1000, origin, number, manifest.state, holds)
    return Capture(name, manifest, writer.finish(manifest), tuple(trouble))


def _lines(rows: Iterable[dict[str, object]], table: str, state: hashlib._Hash) -> Iterator[bytes]:
    """Yield the rows as lines. The parts that count as a change go into the hash `state`."""
    passing = PASSING.get(table, set())
    for row in rows:
        line = tables.line(row)
        if passing:
            state.update(tables.line({name: value for name, value in row.items() if name not in passing}))
        elif table not in PASSING_TABLES and not (table == "counter" and row["name"] in _PASSING_COUNTERS):
            state.update(line)
        yield line


def _hashed(lines: Iterable[bytes], state: hashlib._Hash) -> Iterator[bytes]:
    for line in lines:
        state.update(line)
        yield line


def compiled(transaction: Transaction, account: str) -> Snapshot:
    """Compile the store's rows into the snapshot that edges use."""
    return Compiler(account, _QUOTAS).snapshot(
        transaction, transaction.snapshot_number(), transaction.snapshot_time()
    )


def digest(snapshot: Snapshot) -> str:
    """Return a digest that identifies the snapshot, preceded by the snapshot format of this version of Keyfront."""
    form = hashlib.sha256(msgspec.json.encode(msgspec.json.schema(Snapshot))).hexdigest()[:8]
    return f"{form}:{hashlib.sha256(snapshot.to_bytes()).hexdigest()}"


def _audit_rows(transaction: Transaction) -> Iterator[AuditRow]:
    last = 0
    while page := transaction.audit(after=last, limit=audit_search.PAGE):
        yield from page
        last = page[-1].number


def _origin(transaction: Transaction) -> str:
    first = transaction.audit(limit=1)
    return first[0].digest.hex()[:8] if first else "0" * 8


def _last_change(transaction: Transaction, now: float) -> bytes:
    """Return the digest of the last audit record that calls for an archive. Records about archives do not, and neither
    do today's (UTC) records of read-only calls, so that frequent reads cause one archive a day."""
    midnight = now // 86_400 * 86_400
    reads = sa.or_(*(_audit.c.name.startswith(verb, autoescape=True) for verb in READS))
    query = (
        sa.select(_audit.c.digest)
        .where(_audit.c.name != CREATED, sa.or_(_audit.c.time < midnight, sa.not_(reads)))
        .order_by(_audit.c.number.desc())
        .limit(1)
    )
    return bytes(transaction.connection.execute(query).scalar_one_or_none() or b"")


# ---- verifying an archive


class Archive(msgspec.Struct, frozen=True):
    """An archive that was read completely and matches its manifest."""

    manifest: Manifest
    files: list[File]
    records: list[RecordRow]
    keys: list[KeyRow]
    plain: bytes

    def __repr__(self) -> str:
        return f"<Archive {self.manifest.origin} {self.manifest.snapshot}>"

    def lines(self, section: str) -> Iterator[bytes]:
        return lines(self.plain, section)

    def store(self, database: Database, *, without: Iterable[str] = ()) -> Store:
        """Load the archive's rows into a store on `database`, a new SQLite database.

        :param without: tables that stay empty.
        :raises BackupError: if the rows are not those of a store.
        """
        return tables.filled(database, self.manifest.schema, self.manifest.counts, self.lines, without)


def read(plain: bytes) -> Archive:
    """:raises BackupError: if `plain` is not a complete archive."""
    manifest = read_manifest(plain)
    for name in manifest.counts:
        if not name.startswith(PREFIX) and name not in {"files", "records", "keys"}:
            raise BackupError(f"it has a part {name!r}, of which this Keyfront knows nothing")
    return Archive(
        manifest,
        archived_files.read(lines(plain, "files")),
        archived_keys.read_records(lines(plain, "records")),
        archived_keys.read_keys(lines(plain, "keys")),
        plain,
    )


def judge(archive: Archive, account: str, keyfront: str) -> Snapshot:
    """Restore the archive in memory and return the resulting snapshot.

    The audit log's rows are verified as they are read and are not stored, because there may be many. The snapshot is
    compared with the captured one only if the same version of Keyfront made the archive, in the same format: another
    version may compile differently.

    :raises BackupError: if the result is not what was captured.
    """
    manifest = archive.manifest
    verdict = audit_search.verify_rows(tables.audit_row(line) for line in archive.lines(PREFIX + _audit.name))
    if verdict.anchor != manifest.audit:
        raise BackupError(f"its audit log is not the one that was taken: {verdict.fault or verdict.anchor}")
    store = archive.store(Memory(), without=(_audit.name,))
    try:
        with store.read() as transaction:
            found = compiled(transaction, account)
            broken = transaction.connection.exec_driver_sql("PRAGMA foreign_key_check").first()
    finally:
        store.close()
    if broken is not None:
        raise BackupError(f"a row of {broken[0]} refers to nothing")
    if found.number != manifest.snapshot:
        raise BackupError(f"its rows are of snapshot {found.number}, and it says {manifest.snapshot}")
    form, taken = digest(found).partition(":")[0], manifest.digest
    if keyfront == manifest.keyfront and taken.startswith(f"{form}:") and taken != digest(found):
        raise BackupError("its rows do not make the snapshot that edges had")
    return found
