"""Which keys may sign after a restore: none that is known to be compromised by now, and none that is nowhere.

An archive knows nothing of what came after it. The records that are there now may, so they are asked first: what they
call compromised stays so, and signs no more. Where the archive's record has another key that signs, that record comes
back, and the mark with it; where it has not, the record that is there stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from keyfront.backup.archive import keys as custodies
from keyfront.backup.archive.keys import KeyRow, RecordRow
from keyfront.control.store.transaction import Transaction
from keyfront.custody import open_place, split
from keyfront.custody.key_record import Entry, KeyGroupRecord, check
from keyfront.errors import CustodyError, SigningError
from keyfront.signing.keys import load_public_key

_TOLD = "(--compromised)"


class RestorableKeys(msgspec.Struct, frozen=True):
    """What is to be put back, what else to know of it, and the compromised keys' ids by where the keys are."""

    records: list[RecordRow]
    keys: list[KeyRow]
    notes: list[str]
    burnt: dict[str, str]


def exclude_compromised(
    records: list[RecordRow], keys: list[KeyRow], there: Mapping[str, KeyGroupRecord], compromised: bool
) -> RestorableKeys:
    """:param there: the records that are there now, by name.
    :param compromised: whether keys that those call compromised are wanted back nevertheless."""
    burnt = [entry for record in there.values() for entry in record.entries if entry.compromised]
    notes: list[str] = []
    rows: list[RecordRow] = []
    kept: list[KeyRow] = []
    ids = {_shown(entry.uri): entry.key_pair_id for entry in burnt}
    if compromised:
        notes = [f"{uri} is compromised, and is put back as the archive has it" for uri in ids]
        return RestorableKeys(records, keys, notes, ids)
    for row in records:
        found = row.succession()
        merged = found if found is None else _merged(found, there.get(row.name), burnt)
        if found is None or merged == found:
            rows.append(row)
        elif merged is None:
            notes.append(
                f"record {row.name} is not put back, and the one that is there stays: "
                f"the key that would sign is compromised {_TOLD}"
            )
        else:
            rows.append(RecordRow(row.name, merged.to_bytes().decode()))
    for key in keys:
        if any(_is(entry, key.uri, key.key_pair_id, key.key().public_key.fingerprint) for entry in burnt):
            notes.append(f"private key {_shown(key.uri)} is not put back: it is compromised {_TOLD}")
        else:
            kept.append(key)
    return RestorableKeys(rows, kept, notes, ids)


def _merged(found: KeyGroupRecord, there: KeyGroupRecord | None, burnt: list[Entry]) -> KeyGroupRecord | None:
    """The archive's record with the marks of now; None if no key of it could sign then that did."""
    own = [entry for entry in (() if there is None else there.entries) if entry.compromised]
    entries: list[Entry] = []
    for entry in found.entries:
        known = next(
            (one for one in burnt if _is(one, entry.uri, entry.key_pair_id, entry.fingerprint)), None
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
        check(merged)  # else two would sign: one that is compromised, until another takes its place
    except CustodyError:
        return None
    return merged


def _is(burnt: Entry, uri: str, key_pair_id: str, fingerprint: str) -> bool:
    if burnt.fingerprint and fingerprint:
        return burnt.fingerprint == fingerprint
    return _shown(burnt.uri) == _shown(uri) or bool(key_pair_id and burnt.key_pair_id == key_pair_id)


def trusted_again(transaction: Transaction, burnt: Mapping[str, str]) -> list[str]:
    """What the restored state says of compromised keys."""
    groups = transaction.get_many("KeyGroup", transaction.versions("KeyGroup"))
    return [
        f"key group {group.config['Name']} will trust {id_}, whose private key {uri} is compromised: "
        "take it out at once"
        for uri, id_ in burnt.items()
        for group in groups
        if id_ in group.config["Items"]
    ]


# ---- keys that are nowhere


def fingerprints(transaction: Transaction) -> dict[str, str]:
    """The fingerprint of each public key, by the key's id."""
    found = {}
    for row in transaction.get_many("PublicKey", transaction.versions("PublicKey")):
        try:
            found[row.id] = load_public_key(row.config["EncodedKey"]).fingerprint
        except SigningError:
            continue
    return found


def nowhere(
    records: Iterable[RecordRow],
    keys: Iterable[KeyRow],
    public: Mapping[str, str],
    environment: Mapping[str, str],
) -> dict[str, str]:
    """The keys that are to sign by the records, and are neither among `keys` nor where the records say: by where that
    is, why signers cannot sign.

    :param public: `fingerprints` of the restored state.
    """
    found: dict[str, str] = {}
    with_them = {(_shown(key.uri), key.key().public_key.fingerprint) for key in keys}
    for row in records:
        record = row.succession()
        if record is None or (entry := record.signing) is None:
            continue
        uri = _shown(entry.uri)
        wanted = entry.fingerprint or public.get(entry.key_pair_id, "")
        if any(at == uri and wanted in ("", print_) for at, print_ in with_them):
            continue
        if why := _lacks(entry, wanted, environment):
            found[uri] = f"record {row.name}: nobody can sign with {uri}: {why}"
    return found


def _lacks(entry: Entry, wanted: str, environment: Mapping[str, str]) -> str:
    """Why the key of `entry` cannot sign; empty if it can."""
    try:
        held = open_place(entry.uri, environment).describe(split(entry.uri).name)
    except (CustodyError, SigningError) as error:
        return str(error)
    if held.delete_at is not None:
        return "it is to be deleted"
    if wanted and held.public_key.fingerprint != wanted:
        return "another key is there by that name"
    return ""


# ---- what there is


def present(place: str, environment: Mapping[str, str]) -> tuple[dict[str, KeyGroupRecord], list[str]]:
    """The records that are in `place` now, by name, and why there are none where they cannot be had."""
    if not custodies.any_records(place):
        return {}, []
    rows, trouble = custodies.found_records(place, environment)
    found = {row.name: record for row in rows if (record := row.succession()) is not None}
    return found, [f"which keys are compromised by now cannot be seen: {why}" for why in trouble]


def _shown(uri: str) -> str:
    return uri.partition("?")[0]
