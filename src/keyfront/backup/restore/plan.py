"""The plan of a restore: what it adds, changes and removes compared with the current state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import sqlalchemy as sa

from keyfront.backup.archive import keys as archived_keys
from keyfront.backup.archive.container import Manifest
from keyfront.backup.archive.files import File
from keyfront.backup.archive.keys import RecordRow
from keyfront.backup.capture import Archive
from keyfront.control.identity import sealing, users
from keyfront.control.store import schema
from keyfront.control.store.store import Store
from keyfront.errors import ApiError, CustodyError, SettingsError

ChangeKind = Literal["add", "change", "remove"]


class Change(msgspec.Struct, frozen=True):
    """`what` is a kind, such as `Distribution`, `user`, or `file`; `name` identifies the item."""

    kind: ChangeKind
    what: str
    name: str


class Plan(msgspec.Struct, frozen=True):
    """`audit` says what happens to the audit log, `notes` what else the operator should know. `continues`: the current
    log is a continuation of the archive's."""

    changes: tuple[Change, ...]
    audit: str
    continues: bool
    notes: tuple[str, ...]


_SHOWN = (
    (schema.resource, "", {"snapshot", "modified", "created"}),
    (schema.tag, "tag", set[str]()),
    (schema.access_user, "user", set[str]()),
    (schema.access_key, "access key", {"used", "sealed", "sealer"}),
    (schema.access_policy, "policy", {"created", "modified"}),
    (schema.access_attachment, "policy of user", set[str]()),
    (schema.fleet_edge, "edge", {"enrolled", "expires"}),
    (schema.fleet_key, "key of the edges' authority", {"created", "sealed", "sealer"}),
)
"""The tables that a plan compares, what their rows are called, and the columns that it ignores."""


def plan(
    archive: Archive,
    staged: Store,
    current: Store | None,
    folder: Path,
    records: str,
    environment: Mapping[str, str],
    trouble: str,
) -> Plan:
    """:param staged: the archive's rows; those of its audit log are not needed.
    :param current: the current store; None if there is none, or if it cannot be read for the reason `trouble`.
    :param records: the place of the records after the restore, empty if there is none.
    """
    notes = [f"not in the archive: {what}" for what in archive.manifest.missing]
    if trouble:
        notes.append(f"the current state cannot be compared: {trouble}")
    try:
        changes = [*_rows(staged, current)]
    except ApiError as error:
        changes = [*_rows(staged, None)]
        notes.append(f"the current state cannot be compared: {error.message}")
    changes += _files(archive.files, folder)
    try:
        changes += _records(archive.records, records, environment)
    except CustodyError as error:
        notes.append(f"records cannot be compared: {error}")
    lacking = [row for row in archive.keys if not archived_keys.has_key(row, environment)]
    changes += [Change("add", "private key", row.uri.partition("?")[0]) for row in lacking]
    log, continues = audit(archive.manifest, current)
    if continues and current is not None:
        notes += _returning(staged, current)
    notes += _secrets(archive.files, folder)
    notes += _sealed(staged, archive.files, folder, environment)
    return Plan(tuple(changes), log, continues, tuple(notes))


def _rows(staged: Store, current: Store | None) -> Iterator[Change]:
    for table, what, passing in _SHOWN:
        new = _by_key(staged, table, passing)
        old = {} if current is None else _by_key(current, table, passing)
        for key in sorted(new.keys() | old.keys()):
            if new.get(key) == old.get(key):
                continue
            kind: ChangeKind = "add" if key not in old else "remove" if key not in new else "change"
            yield Change(kind, what or key[0], _named(new.get(key) or old[key], key if what else key[1:]))


_KINDS = {"PublicKey": "public key", "KeyGroup": "key group"}


def _returning(staged: Store, current: Store) -> Iterator[str]:
    """What was revoked after the archive was made and gives access again."""
    new, old = (_by_key(store, schema.resource, set()) for store in (staged, current))
    for kind, id_ in sorted(new):
        if kind not in _KINDS:
            continue
        named = _named(new[kind, id_], (id_,))
        if (kind, id_) not in old:
            yield f"{_KINDS[kind]} {named} was deleted after the archive was made, and is restored"
        elif kind == "KeyGroup":
            items = [set(_items(rows[kind, id_])) for rows in (new, old)]
            for item in sorted(items[0] - items[1]):
                yield f"key group {named} trusts the public key {item} again, which was removed from it since"
    known, there = (_by_key(store, schema.access_user, set()) for store in (staged, current))
    for key in sorted(known.keys() - there.keys()):
        yield f"user {key[0]} was deleted after the archive was made, and is restored"
    keys, now = (_by_key(store, schema.access_key, set()) for store in (staged, current))
    for key, row in sorted(keys.items()):
        if key not in now:
            yield f"access key {key[0]} of {row['owner']} was deleted after the archive was made, and is restored"
        elif row["active"] and not now[key]["active"]:
            yield f"access key {key[0]} of {row['owner']} was made inactive since, and is active again"
    yield from _accepted_again(
        *(_by_key(store, schema.fleet_edge, {"expires"}) for store in (staged, current))
    )


def _accepted_again(new: Mapping[Any, dict[str, Any]], old: Mapping[Any, dict[str, Any]]) -> Iterator[str]:
    """The edges that were revoked since the archive was made."""
    for key, row in sorted(new.items()):
        if row["revoked"] is None and (key not in old or old[key]["revoked"] is not None):
            yield (
                f"edge {row['name']} was revoked after the archive was made, and is accepted again; to revoke it: "
                f"keyfront edge revoke {row['name']}"
            )


def _items(row: dict[str, Any]) -> list[str]:
    found: list[str] = msgspec.json.decode(row["config"]).get("Items", [])
    return found


_CONSEQUENCES = {
    "credentials": "access keys added since stop working, and those removed since work again",
    "shield-secret": "edges and shields that have the current one need the archive's",
    "origin-credentials": "origins get the credentials of that time",
    "access.key": "it opens the secrets of restored access keys, and none that were sealed under another key",
}


def _secrets(files: Iterable[File], folder: Path) -> Iterator[str]:
    """What follows from replacing the secrets of an existing installation."""
    for file in files:
        path = folder / file.path
        if file.path in _CONSEQUENCES and path.exists():
            yield f"{file.path} goes back to the archive's: {_CONSEQUENCES[file.path]}"


def _sealed(
    staged: Store, files: Iterable[File], folder: Path, environment: Mapping[str, str]
) -> Iterator[str]:
    """Whether the secrets of the restored access keys can be opened afterward."""
    with staged.read() as transaction:
        names = {key.id: key.sealer for key in users.sealed_keys(transaction)}
    if not names:
        return
    own = next((file.data.decode("ascii", "replace") for file in files if file.path == sealing.FILE), "")
    given = environment.get(sealing.VARIABLE, "")
    try:
        name = sealing.sealer(folder, {sealing.VARIABLE: given or own}, make=False).name
    except SettingsError as error:
        yield f"the secrets of {len(names)} access keys cannot be opened: {error}"
        return
    if strange := sorted(id_ for id_, sealer in names.items() if sealer != name):
        yield (
            f"the secrets of {len(strange)} access keys, {strange[0]} among them, are sealed under another key than "
            f"{sealing.VARIABLE if given else sealing.FILE}: they open nothing"
        )


def _by_key(store: Store, table: sa.Table, passing: set[str]) -> dict[tuple[str, ...], dict[str, Any]]:
    columns = [column for column in table.columns if column.name not in passing]
    with store.read() as transaction:
        rows = transaction.connection.execute(sa.select(*columns)).mappings()
        return {tuple(str(row[column.name]) for column in table.primary_key): dict(row) for row in rows}


def _named(row: dict[str, Any], key: tuple[str, ...]) -> str:
    """The key of the row, and its name if it has one."""
    text = " ".join(key)
    try:
        config = msgspec.json.decode(row["config"])
        name = config.get("Name") or config.get("Comment") or config.get("CallerReference") or ""
    except (KeyError, msgspec.DecodeError, AttributeError):
        name = ""
    return f"{text} ({name})" if isinstance(name, str) and name else text


def _files(files: Iterable[File], folder: Path) -> Iterator[Change]:
    for file in files:
        try:
            data = (folder / file.path).read_bytes()
        except OSError:
            yield Change("add", "file", file.path)
            continue
        if data != file.data:
            yield Change("change", "file", file.path)


def _records(rows: Iterable[RecordRow], place: str, environment: Mapping[str, str]) -> Iterator[Change]:
    for row in rows:
        now = archived_keys.record_now(place, row.name, environment)
        if now is None:
            yield Change("add", "record", row.name)
        elif not archived_keys.alike(now.data, row.text.encode()):
            yield Change("change", "record", row.name)


def audit(manifest: Manifest, current: Store | None) -> tuple[str, bool]:
    """What happens to the audit log, and whether the current one continues the archive's."""
    number, _, digest = manifest.audit.partition(":")
    taken = f"the archive's {number} records"
    if current is None:
        return taken, False
    try:
        with current.read() as transaction:
            head = transaction.audit_head()
            at = transaction.audit(after=int(number) - 1, limit=1) if int(number) else []
    except ApiError:
        return taken, False
    if head is None:
        return taken, False
    if (int(number) == 0) or (at and at[0].number == int(number) and at[0].digest.hex() == digest):
        return f"the current one, {head.number} records, which continues the archive's", True
    return (
        f"{taken}; the {head.number} current ones belong to another log, and are saved with the rest",
        False,
    )
