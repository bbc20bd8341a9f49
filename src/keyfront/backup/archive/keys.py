"""The custody data of an installation: the records of its key groups, and its private keys where they can be exported.

The place of the records determines which records there are; the records determine which keys belong to the
installation. A key that its place never exports (a KMS, an HSM) is listed as missing: it is safe where it is, and not
in the archive.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from keyfront.backup.archive.container import Proof
from keyfront.custody import Record, Records, open_key, open_place, open_records, split
from keyfront.custody.key_record import KeyGroupRecord, Stage, parse_record, save
from keyfront.errors import BackupError, CustodyError, KeyExists, NotExportable, SigningError
from keyfront.model.pattern import compile_pattern
from keyfront.model.snapshot import Distribution, Snapshot
from keyfront.signing.keys import HashName, PrivateKey, PublicKey, parse_private_key
from keyfront.signing.sign import LocalSigner, sign_url

_YEARS = 5 * 365 * 86_400
_MOST_PROOFS = 1000


class RecordRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A record as stored in its place."""

    name: str
    text: str

    def record(self) -> KeyGroupRecord | None:
        """Return the parsed record, or None if it is not a key group's record."""
        try:
            return parse_record(self.text.encode())
        except CustodyError:
            return None


class KeyRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A private key. `key_pair_id` is empty if CloudFront does not know the key. `signing` means that it currently
    signs its group's links."""

    uri: str
    pem: str
    created: float
    labels: dict[str, str]
    key_pair_id: str = ""
    signing: bool = False

    def __repr__(self) -> str:
        return f"<KeyRow {self.uri}>"

    def key(self) -> PrivateKey:
        """:raises KeyLoadError: if it is not a valid private key."""
        return parse_private_key(self.pem.encode())


_records = msgspec.json.Decoder(RecordRow)
_keys = msgspec.json.Decoder(KeyRow)


def read_records(lines: Iterable[bytes]) -> list[RecordRow]:
    """:raises BackupError: if a line does not describe a record."""
    try:
        return [_records.decode(line) for line in lines]
    except (msgspec.MsgspecError, ValueError) as error:
        raise BackupError(f"a record of it cannot be read: {error}") from error


def read_keys(lines: Iterable[bytes]) -> list[KeyRow]:
    """:raises BackupError: if a line does not describe a key, or the key is not of a type that CloudFront accepts. The
    message never quotes a key."""
    try:
        rows = [_keys.decode(line) for line in lines]
    except (msgspec.MsgspecError, ValueError):
        raise BackupError("a private key of it cannot be read") from None
    for row in rows:
        try:
            split(row.uri)
            row.key()
        except (CustodyError, SigningError) as error:
            raise BackupError(f"the private key {row.uri[:200]!a} cannot be read: {error}") from None
    return rows


# ---- collecting


def place_of_records(folder: Path, uri: str) -> str:
    """Return the place of the records: `uri`, or the default place of an installation; empty if neither exists."""
    own = folder / "custody"
    return uri or (f"file:{own}/" if own.is_dir() else "")


def found_records(records: str, environment: Mapping[str, str]) -> tuple[list[RecordRow], list[str]]:
    """Return the records in the place `records`, and those that cannot be read."""
    rows: list[RecordRow] = []
    if not records:
        return rows, []
    try:
        place: Records = open_records(records, environment)
        for name in sorted(place.names()):
            if (found := place.read(name)) is not None:
                rows.append(RecordRow(name, found.data.decode()))
    except (CustodyError, UnicodeDecodeError) as error:
        return rows, [f"records in {_shown(records)}: {error}"]
    return rows, []


def found_keys(
    group_records: Iterable[KeyGroupRecord], custodies: Iterable[str], environment: Mapping[str, str]
) -> tuple[list[KeyRow], list[str], list[str]]:
    """Return the private keys that the records name and all in the places `custodies`; the keys that are never
    exported; and the keys that should be exportable but cannot be exported now."""
    wanted: dict[str, tuple[str, bool]] = {}
    kept: list[str] = []
    missing: list[str] = []
    for record in group_records:
        for entry in record.entries:
            if entry.stage is not Stage.RETIRED:
                wanted[entry.uri] = (entry.key_pair_id, entry.stage is Stage.SIGNING)
    for uri in custodies:
        try:
            for held in open_place(uri, environment).list():
                wanted.setdefault(held.uri, ("", False))
        except CustodyError as error:
            missing.append(f"private keys in {_shown(uri)}: {error}")
    rows: list[KeyRow] = []
    for uri, (key_pair_id, signing) in wanted.items():
        try:
            place, name = open_place(uri, environment), split(uri).name
            held = place.describe(name)
            pem = place.export(name).to_pem()
            rows.append(KeyRow(uri, pem, held.created, dict(held.labels), key_pair_id, signing))
        except NotExportable as error:
            kept.append(f"private key {_shown(uri)}: {error}")
        except CustodyError as error:
            missing.append(f"private key {_shown(uri)}: {error}")
    return rows, kept, missing


def not_contained(group_records: Iterable[KeyGroupRecord], environment: Mapping[str, str]) -> list[str]:
    """For an archive without private keys, return the ones that could have been included and that no restore
    recovers."""
    found: list[str] = []
    for record in group_records:
        for entry in record.entries:
            if entry.stage is Stage.RETIRED:
                continue
            try:
                exports = open_place(entry.uri, environment).exports
            except CustodyError:
                exports = True  # unknown: assume that it can be exported
            if exports:
                found.append(f"private key {_shown(entry.uri)}: not requested (--private-keys)")
    return found


def _shown(uri: str) -> str:
    """Return the URI without its options, which may reveal more than necessary."""
    return uri.partition("?")[0]


# ---- proofs


class _Signer:
    """A handle with the ID of its key in CloudFront."""

    def __init__(self, key_pair_id: str, uri: str, environment: Mapping[str, str]) -> None:
        self._handle = open_key(uri, environment)
        self.key_pair_id = key_pair_id

    @property
    def public_key(self) -> PublicKey:
        return self._handle.public_key

    @property
    def hash_names(self) -> tuple[HashName, ...]:
        return self._handle.hash_names

    def sign(self, data: bytes, hash_name: HashName) -> bytes:
        return self._handle.sign(data, hash_name)


def proofs(
    group_records: Iterable[KeyGroupRecord], snapshot: Snapshot, now: float, environment: Mapping[str, str]
) -> tuple[list[Proof], list[str]]:
    """Return a URL for each restricted behavior of `snapshot`, signed with the key that currently signs for a group
    that the behavior trusts, wherever that key is stored; and the reason for each behavior without one. The URL is
    for a path that is never served and expires only after years: it is encrypted in the archive, and gives access to
    nothing if found."""
    made: list[Proof] = []
    missing: list[str] = []
    for record in group_records:
        entry = record.signing
        if entry is None:
            continue
        try:
            signer = _Signer(entry.key_pair_id, entry.uri, environment)
            for url in drill_urls(snapshot, record.key_group_id):
                signed = sign_url(url, signer, expires=int(now) + _YEARS, now=now)
                made.append(Proof(signed, entry.key_pair_id, record.group))
        except (CustodyError, SigningError) as error:
            missing.append(f"proof for key group {record.group}: {error}")
    return made[:_MOST_PROOFS], missing


def signed_with(row: KeyRow, snapshot: Snapshot, now: float) -> list[Proof]:
    """Like `proofs`, with a private key that is at hand, for all groups that trust it."""
    signer = LocalSigner(row.key_pair_id, row.key())
    groups = [group for group in snapshot.key_groups if row.key_pair_id in group.key_ids]
    return [
        Proof(sign_url(url, signer, expires=int(now) + 3600, now=now), row.key_pair_id, group.name)
        for group in groups
        for url in drill_urls(snapshot, group.id)
    ][:_MOST_PROOFS]


def drill_urls(snapshot: Snapshot, group_id: str) -> list[str]:
    """Return a URL that is never served for each behavior that trusts the key group."""
    return [
        f"https://{distribution.domain_name}{path}"
        for distribution in snapshot.distributions
        if distribution.enabled
        for path in _paths(distribution, group_id)
    ]


def _paths(distribution: Distribution, group_id: str) -> Iterable[str]:
    for number, behavior in enumerate(distribution.behaviors):
        if group_id not in behavior.trusted_key_groups:
            continue
        path = behavior.path_pattern.replace("*", "keyfront-drill").replace("?", "x")
        path = path if path.startswith("/") else f"/{path}"
        before = distribution.behaviors[:number]
        if not any(compile_pattern(other.path_pattern)(path) for other in before):
            yield path


# ---- restoring


def moved(uri: str, old: str, new: Path) -> str:
    """Return `uri`, moved to the data folder `new` if it was inside the folder `old` when the archive was made. A URI
    whose path climbs out of `old` was outside it, whatever its prefix."""
    path, mark, options = uri.removeprefix("file:").partition("?")
    if not uri.startswith("file:/"):
        return uri
    there, folder = Path(os.path.normpath(path)), Path(os.path.normpath(old))
    if not there.is_relative_to(folder) or there == folder:
        return uri
    end = "/" if path.endswith("/") else ""
    return f"file:{new / there.relative_to(folder)}{end}{mark}{options}"


def inside(uri: str, folder: Path) -> bool:
    """Whether `uri` names a key, or a place, below the folder. A path that climbs out never counts, wherever it
    ends."""
    path = uri.removeprefix("file:").partition("?")[0]
    if not uri.startswith("file:/") or ".." in Path(path).parts:
        return False
    there = Path(os.path.normpath(path))
    return there != folder and there.is_relative_to(folder)


def moved_record(row: RecordRow, old: str, new: Path) -> RecordRow:
    found = row.record()
    if found is None or old.rstrip("/") == str(new):
        return row
    terms = msgspec.structs.replace(found.terms, place=moved(found.terms.place, old, new))
    entries = tuple(msgspec.structs.replace(entry, uri=moved(entry.uri, old, new)) for entry in found.entries)
    there = msgspec.structs.replace(found, terms=terms, entries=entries)
    return RecordRow(row.name, there.to_bytes().decode())


def record_now(place: str, name: str, environment: Mapping[str, str]) -> Record | None:
    """Return the record that is in `place` now, or None if there is no record or no place.

    :raises CustodyError: if the place cannot be read.
    """
    return open_records(place, environment).read(name) if any_records(place) else None


def any_records(place: str) -> bool:
    """Whether there can be records in `place`. A folder that does not exist has none."""
    own = place.removeprefix("file:").partition("?")[0]
    return bool(place) and (not place.startswith("file:") or Path(own).is_dir())


def alike(one: bytes, other: bytes) -> bool:
    """Whether two records have the same content apart from their serials."""
    try:
        found = [msgspec.structs.replace(parse_record(data), serial=0) for data in (one, other)]
    except CustodyError:
        return one == other
    return found[0] == found[1]


def put_records(
    rows: Iterable[RecordRow], place: str, now: float, environment: Mapping[str, str]
) -> list[str]:
    """Write the records into `place`. Returns what could not be written, with the reason.

    A key group's record gets a serial above all that signers may have seen (`save`). Otherwise they would keep using
    the later record that they know, whose key edges may not trust any more.
    """
    failed: list[str] = []
    for row in rows:
        try:
            there = record_now(place, row.name, environment)
            if there is not None and alike(there.data, row.text.encode()):
                continue
            records, version = open_records(place, environment), None if there is None else there.version
            found = row.record()
            if found is None:
                records.write(row.name, row.text.encode(), version)
            else:
                serial = max(found.serial, _serial(there))
                save(records, msgspec.structs.replace(found, serial=serial), version, now=now)
        except CustodyError as error:
            failed.append(f"record {row.name}: {error}")
    return failed


def _serial(record: Record | None) -> int:
    try:
        return 0 if record is None else parse_record(record.data).serial
    except CustodyError:
        return 0


def has_key(row: KeyRow, environment: Mapping[str, str]) -> bool:
    """Whether exactly this key is in its place and not scheduled for deletion. False if the place cannot be queried."""
    try:
        held = open_place(row.uri, environment).describe(split(row.uri).name)
        return held.delete_at is None and held.public_key == row.key().public_key
    except (CustodyError, SigningError):
        return False


def put_keys(rows: Iterable[KeyRow], now: float, environment: Mapping[str, str]) -> list[str]:
    """Put the private keys back in their places. Returns what could not be restored, with the reason. A key that is
    already there stays."""
    failed: list[str] = []
    for row in rows:
        try:
            place = open_place(row.uri, environment)
            name = split(row.uri).name
            try:
                place.import_key(name, row.key(), now=now, labels=row.labels)
            except KeyExists:
                if place.describe(name).public_key != row.key().public_key:
                    raise
                place.undelete(name)
        except (CustodyError, SigningError) as error:
            failed.append(f"private key {_shown(row.uri)}: {error}")
    return failed
