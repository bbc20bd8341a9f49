"""Detection of keys that custody should hold but no longer does."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from keyfront.custody.key_record import Entry, KeyGroupRecord
from keyfront.custody.schemes import open_place
from keyfront.errors import CustodyError, NoSuchKey
from keyfront.lifecycle.key_names import name_of
from keyfront.lifecycle.rotation import next_key


def lost_keys(
    records: Iterable[KeyGroupRecord], environment: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Return the keys that sign or will sign but are gone from custody: why, by key URI. A custody place that cannot be
    queried now counts as having lost nothing."""
    found: dict[str, str] = {}
    for record in records:
        for entry in (record.signing, next_key(record)):
            if entry is not None and (why := _lost(entry, environment)):
                found[entry.uri] = why
    return found


def _lost(entry: Entry, environment: Mapping[str, str]) -> str:
    try:
        held = open_place(entry.uri, environment).describe(name_of(entry.uri))
    except NoSuchKey as error:
        return str(error)
    except (CustodyError, OSError):
        return ""
    if held.delete_at is not None:
        return "it is to be deleted"
    if entry.fingerprint and held.public_key.fingerprint != entry.fingerprint:
        return "another key is in its place"
    return ""
