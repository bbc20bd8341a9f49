"""What a step writes to the record of its key group."""

from __future__ import annotations

import msgspec

from keyfront.custody.key_record import Entry, KeyGroupRecord, Stage
from keyfront.errors import RotationError
from keyfront.lifecycle.moves import Action, move
from keyfront.lifecycle.rotation import Step

replace = msgspec.structs.replace

REMEMBERED = 2
"""Number of deleted keys that stay in the record."""


def after(
    record: KeyGroupRecord, step: Step, now: float, *, key_pair_id: str = "", fingerprint: str = ""
) -> KeyGroupRecord:
    """Return the record after `step`. It is unchanged if the step changes only CloudFront.

    :param key_pair_id: for REGISTER: the key's id at CloudFront.
    :param fingerprint: for CREATE: the fingerprint of the public half.
    :raises RotationError: if `MOVES` does not allow the step.
    """
    action = step.action
    if action is Action.CREATE:
        made = Entry(step.uri, move(None, action), now, fingerprint=fingerprint)
        return replace(record, entries=(*record.entries, made), made=record.made + 1)
    found = record.entry(step.uri)
    if found is None:
        raise RotationError(f"the record has no key {step.uri}")
    changed = replace(
        found, stage=move(found.stage, action), **_written(record, found, action, now, key_pair_id)
    )
    entries = [changed if entry is found else entry for entry in record.entries]
    if action is Action.SWITCH:
        entries = [relieved(record, each, now) if each is not changed else each for each in entries]
        record = replace(record, rotation_requested=0.0)
    if tuple(entries) == record.entries:
        return record
    return replace(record, entries=_remembered(entries))


def _written(
    record: KeyGroupRecord, entry: Entry, action: Action, now: float, id_: str
) -> dict[str, float | str]:
    match action:
        case Action.REGISTER:
            return {"key_pair_id": id_}
        case Action.CONFIRM:
            return {"published": now}
        case Action.SWITCH:
            reach = max(entry.reach, record.terms.reach)
            return {"signing": now, "draining": 0.0, "drain_until": 0.0, "reach": reach}
        case Action.RELEASE:
            return {"leaving": now}
        case Action.RETIRE:
            return {"retired": now}
        case Action.DESTROY:
            return {"gone": now}
    return {}


def relieved(record: KeyGroupRecord, entry: Entry, now: float) -> Entry:
    """`entry` once another key signs: the previous signing key drains, and a compromised one leaves the record's
    trust."""
    if entry.stage is not Stage.SIGNING:
        return entry
    left = replace(entry, stage=move(entry.stage, Action.RELIEVE), draining=now)
    if entry.compromised:
        return replace(left, drain_until=now, leaving=entry.leaving or now)
    return replace(left, drain_until=record.drains_until(entry, now))


def _remembered(entries: list[Entry]) -> tuple[Entry, ...]:
    """All entries except the keys deleted longest ago; the last `REMEMBERED` deleted keys remain."""
    gone = sorted((entry.gone for entry in entries if entry.gone), reverse=True)
    return tuple(entry for entry in entries if not entry.gone or entry.gone in gone[:REMEMBERED])
