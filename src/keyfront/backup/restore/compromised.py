"""The keys that may sign after a restore: none that was marked compromised since, and none that custody lacks.

An archive knows nothing of what came after it, but the current records may: a key that they mark compromised stays
marked and does not sign. If the archived record has another key that signs, it is restored with the mark; if not, the
current record stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from keyfront.backup.archive import keys as archived_keys
from keyfront.backup.archive.keys import KeyRow, RecordRow
from keyfront.control.store.transaction import Transaction
from keyfront.custody import open_place, split
from keyfront.custody.key_record import Entry, KeyGroupRecord, check
from keyfront.errors import CustodyError, SigningError
from keyfront.signing.keys import load_public_key

_OPTION_HINT = "(--compromised)"


class RestorableKeys(msgspec.Struct, frozen=True):
    """The records and keys to restore, notes for the operator, and the key pair IDs of compromised keys by their URIs
    without options."""

    records: list[RecordRow]
    keys: list[KeyRow]
    notes: list[str]
    compromised: dict[str, str]


def exclude_compromised(
    records: list[RecordRow], keys: list[KeyRow], current: Mapping[str, KeyGroupRecord], include: bool
) -> RestorableKeys:
    """Leave out the keys that are marked compromised now.

    :param current: the current records, by name.
    :param include: restore those keys nevertheless, as the archive has them.
    """
    marked = [entry for record in current.values() for entry in record.entries if entry.compromised]
    notes: list[str] = []
    rows: list[RecordRow] = []
    restorable: list[KeyRow] = []
    ids = {_without_options(entry.uri): entry.key_pair_id for entry in marked}
    if include:
        notes = [f"{uri} is compromised, and is restored as the archive has it" for uri in ids]
        return RestorableKeys(records, keys, notes, ids)
    for row in records:
        found = row.record()
        merged = found if found is None else _merged(found, current.get(row.name), marked)
        if found is None or merged == found:
            rows.append(row)
        elif merged is None:
            notes.append(
                f"record {row.name} is not restored, and the current one stays: "
                f"the key that would sign is compromised {_OPTION_HINT}"
            )
        else:
            rows.append(RecordRow(row.name, merged.to_bytes().decode()))
    for key in keys:
        if any(
            _is_key(entry, key.uri, key.key_pair_id, key.key().public_key.fingerprint) for entry in marked
        ):
            notes.append(
                f"private key {_without_options(key.uri)} is not restored: it is compromised {_OPTION_HINT}"
            )
        else:
            restorable.append(key)
    return RestorableKeys(rows, restorable, notes, ids)


def _merged(
    found: KeyGroupRecord, current: KeyGroupRecord | None, marked: list[Entry]
) -> KeyGroupRecord | None:
    """The archived record with the current marks; None if the key that signed in it is among the marked ones."""
    own = [entry for entry in (() if current is None else current.entries) if entry.compromised]
    entries: list[Entry] = []
    for entry in found.entries:
        known = next(
            (one for one in marked if _is_key(one, entry.uri, entry.key_pair_id, entry.fingerprint)), None
        )
        if known is None:
            entries.append(entry)
        elif known in own:
            entries.append(known)
        else:
            entries.append(msgspec.structs.replace(entry, compromised=True))
    since = (entry for entry in own if entry not in entries)
    merged = msgspec.structs.replace(found, entries=(*since, *entries))
    signing = merged.signing
    if found.signing is not None and (signing is None or signing.compromised):
        return None
    try:
        check(merged)  # otherwise two keys would sign: a compromised one, until its successor takes over
    except CustodyError:
        return None
    return merged


def _is_key(entry: Entry, uri: str, key_pair_id: str, fingerprint: str) -> bool:
    if entry.fingerprint and fingerprint:
        return entry.fingerprint == fingerprint
    return _without_options(entry.uri) == _without_options(uri) or bool(
        key_pair_id and entry.key_pair_id == key_pair_id
    )


def trusted_again(transaction: Transaction, compromised: Mapping[str, str]) -> list[str]:
    """A warning for each key group of the restored state that trusts a compromised key."""
    groups = transaction.get_many("KeyGroup", transaction.versions("KeyGroup"))
    return [
        f"key group {group.config['Name']} will trust {id_}, whose private key {uri} is compromised: "
        "remove it at once"
        for uri, id_ in compromised.items()
        for group in groups
        if id_ in group.config["Items"]
    ]


# ---- keys that custody lacks


def fingerprints(transaction: Transaction) -> dict[str, str]:
    """Return the fingerprint of each public key, by key ID."""
    found = {}
    for row in transaction.get_many("PublicKey", transaction.versions("PublicKey")):
        try:
            found[row.id] = load_public_key(row.config["EncodedKey"]).fingerprint
        except SigningError:
            continue
    return found


def missing_keys(
    records: Iterable[RecordRow],
    keys: Iterable[KeyRow],
    public: Mapping[str, str],
    environment: Mapping[str, str],
) -> dict[str, str]:
    """The signing keys of the records that are neither among `keys` nor in custody: by URI without options, why signers
    cannot sign.

    :param public: `fingerprints` of the restored state.
    """
    found: dict[str, str] = {}
    restored = {(_without_options(key.uri), key.key().public_key.fingerprint) for key in keys}
    for row in records:
        record = row.record()
        if record is None or (entry := record.signing) is None:
            continue
        uri = _without_options(entry.uri)
        fingerprint = entry.fingerprint or public.get(entry.key_pair_id, "")
        if any(at == uri and fingerprint in ("", print_) for at, print_ in restored):
            continue
        if why := _lacks(entry, fingerprint, environment):
            found[uri] = f"record {row.name}: no signer can use {uri}: {why}"
    return found


def _lacks(entry: Entry, fingerprint: str, environment: Mapping[str, str]) -> str:
    """Why the key of `entry` cannot sign; empty if it can."""
    try:
        held = open_place(entry.uri, environment).describe(split(entry.uri).name)
    except (CustodyError, SigningError) as error:
        return str(error)
    if held.delete_at is not None:
        return "it is to be deleted"
    if fingerprint and held.public_key.fingerprint != fingerprint:
        return "custody has another key of that name"
    return ""


# ---- current records


def current_records(
    place: str, environment: Mapping[str, str]
) -> tuple[dict[str, KeyGroupRecord], list[str]]:
    """The current records in `place`, by name, and the errors if they cannot be read."""
    if not archived_keys.any_records(place):
        return {}, []
    rows, trouble = archived_keys.found_records(place, environment)
    found = {row.name: record for row in rows if (record := row.record()) is not None}
    return found, [f"it is not known which keys have been marked compromised since: {why}" for why in trouble]


def _without_options(uri: str) -> str:
    return uri.partition("?")[0]
