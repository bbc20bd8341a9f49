"""Operators' commands to a rotation. Pure: each takes the current record and returns the record to write. The rules do
the rest.

Every command is one write of the record, so it applies from then on, whatever else happens. A step that was decided
before the command loses: its write is rejected, and the facts are read again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from keyfront.custody.contract import checked_labels
from keyfront.custody.key_record import DAY, Entry, KeyGroupRecord, RotationPolicy, Stage, check
from keyfront.custody.key_uri import split
from keyfront.errors import CustodyError, RotationError
from keyfront.lifecycle.facts import Facts, Group
from keyfront.lifecycle.key_names import name_of, named
from keyfront.lifecycle.moves import Action, move
from keyfront.lifecycle.record_changes import after
from keyfront.lifecycle.rotation import (
    CLOCKS,
    RESERVED_SLOTS,
    SLOTS,
    Step,
    deployment_wait,
    next_due,
    next_key,
    urgent,
)

replace = msgspec.structs.replace


def validated(terms: RotationPolicy, now: float) -> RotationPolicy:
    """Check `terms` and return them.

    :raises RotationError: if no rotation can follow them.
    """
    try:
        check(KeyGroupRecord("terms", "", terms))
    except CustodyError as error:
        raise RotationError(str(error).partition(": ")[2] or str(error)) from None
    try:
        checked_labels({"application": terms.application} if terms.application else None)
        name = split(terms.place).name
    except CustodyError as error:
        raise RotationError(str(error)) from None
    if name:
        raise RotationError(f"{terms.place} names a key; a place without a key's name ends with a slash")
    if fault := _grace_error(terms):
        raise RotationError(fault)
    if terms.every != "":
        following = next_due(terms.every, now)
        if not math.isfinite(following) or following <= now:
            raise RotationError(f"{terms.every!r} is not a schedule")
    return terms


LONGEST_GRACE: Mapping[str, float] = {"awskms": 30 * DAY, "awssm": 30 * DAY}
"""The longest grace period, in seconds, by URI scheme, for schemes that have a limit."""


def _grace_error(terms: RotationPolicy) -> str:
    """Why the custody place cannot keep a RETIRED key for `grace` seconds, judging by its URI; empty if it can."""
    place = split(terms.place)
    longest = LONGEST_GRACE.get(place.scheme)
    if longest is not None and terms.grace > longest:
        return (
            f"{place.scheme}: keeps a deleted key for {_length(longest)} at most: "
            f"a grace of {_length(terms.grace)} is too long"
        )
    options = {option.partition("=")[0] for option in place.options.split("&")}
    if (
        place.scheme == "vault"
        and place.place.startswith("transit/")
        and terms.grace
        and "notes" not in options
    ):
        return f"{terms.place} cannot delay a deletion: set grace to 0, or add notes= to the URI"
    return ""


def warnings(terms: RotationPolicy, now: float) -> tuple[str, ...]:
    """Warnings about effects of `terms` that an operator may not expect."""
    found: list[str] = []
    if terms.every != "":
        first = next_due(terms.every, now)
        length = next_due(terms.every, first) - first
        drains = max(terms.overlap, terms.reach)
        most = SLOTS - RESERVED_SLOTS - 1
        if drains > most * length:
            found.append(
                f"a key drains for {_length(drains)} and signs for {_length(length)}: more than {most} would have to "
                "be trusted beside the signing key, so rotations will wait for slots in the key group"
            )
    return tuple(found)


def initial_record(
    group: Group, terms: RotationPolicy, adopted: Sequence[Entry], made: int, now: float
) -> KeyGroupRecord:
    """The first record of a key group.

    :param adopted: keys already in the group, from the oldest to the newest: the last one signs, the others drain.
    :param made: the number of keys created for the group before.
    """
    record = KeyGroupRecord(group.name, group.id, terms, made=made)
    entries = [
        replace(
            entry,
            stage=Stage.DRAINING,
            published=now,
            draining=now,
            drain_until=record.drains_until(entry, now),
        )
        for entry in adopted[:-1]
    ]
    entries += [
        replace(entry, stage=Stage.SIGNING, published=now, signing=now, reach=terms.reach)
        for entry in adopted[-1:]
    ]
    return replace(record, entries=tuple(entries))


def rotated(record: KeyGroupRecord, now: float) -> KeyGroupRecord:
    """Rotate now, regardless of the schedule.

    :raises RotationError: if a rotation is in progress, or rotation is paused.
    """
    if record.terms.paused:
        raise RotationError("the rotation is paused: resume it first")
    if entry := next_key(record):
        raise RotationError(f"a rotation is under way already: {named(entry)} is {entry.stage.value}")
    return replace(record, rotation_requested=now)


def paused(record: KeyGroupRecord) -> KeyGroupRecord:
    """Take no further steps except for an emergency or a withdrawal."""
    return replace(record, terms=replace(record.terms, paused=True))


def resumed(record: KeyGroupRecord, now: float) -> KeyGroupRecord:
    """Continue after a pause. Times in the future come from a wrong clock and are set to `now` (epoch seconds)."""
    entries = tuple(_without_future_times(record, entry, now) for entry in record.entries)
    requested = min(record.rotation_requested, now)
    return replace(
        record,
        terms=replace(record.terms, paused=False),
        entries=entries,
        rotation_requested=requested,
    )


def _without_future_times(record: KeyGroupRecord, entry: Entry, now: float) -> Entry:
    limit = now + CLOCKS
    changes: dict[str, float] = {
        name: now
        for name in ("created", "published", "signing", "draining", "retired", "gone")
        if getattr(entry, name) > limit
    }
    if "draining" in changes:
        changes["drain_until"] = record.drains_until(entry, now)
    if entry.leaving > limit:
        kept = entry.stage is Stage.DRAINING and not entry.compromised
        changes["leaving"] = 0.0 if kept else now
    return replace(entry, **changes)


def rollback_target(record: KeyGroupRecord) -> Entry | None:
    """The key that would sign again after a rollback; None if the rollback only withdraws the next key.

    :raises RotationError: if there is neither a previous nor a next key.
    """
    if urgent(record):
        raise RotationError(
            "the key that signs is compromised: a rollback can neither return to it nor skip it"
        )
    if next_key(record):
        return None
    able = [e for e in record.entries if e.stage is Stage.DRAINING and not e.leaving and not e.compromised]
    if not able:
        raise RotationError(
            "there is no key to go back to: none is DRAINING, and no next key has been created"
        )
    return max(able, key=lambda entry: entry.draining)


def rolled_back(facts: Facts, now: float) -> KeyGroupRecord:
    """Return to the previous key, or withdraw the next key if there is one. The rotation is then paused, because the
    schedule would otherwise soon repeat the change.

    :raises RotationError: if there is no key to return to, or that key cannot sign.
    """
    record = facts.record
    previous, next_ = rollback_target(record), next_key(record)
    if previous is None:
        assert next_ is not None  # noqa: S101 - a rollback has a target, or withdraws the next key
        step = Step(Action.RELEASE, next_.uri, "rolled back")
    else:
        if lost := facts.lost(previous):
            raise RotationError(f"{named(previous)} cannot sign again: {lost}")
        if previous.key_pair_id not in facts.items:
            raise RotationError(f"{named(previous)} is not in the key group any more")
        if wait := deployment_wait(facts, now, f"that every edge trusts {named(previous)}"):
            raise RotationError(f"{named(previous)} cannot sign again yet: {wait.reason}")
        step = Step(Action.SWITCH, previous.uri, "rolled back")
    return replace(paused(after(record, step, now)), rotation_requested=0.0)


def compromised(
    record: KeyGroupRecord, key: str, now: float, *, keep_serving: bool = False
) -> KeyGroupRecord:
    """Remove the key from every edge now, without overlap. If it is the signing key, another key replaces it.

    :param key: the key's id at CloudFront, its name, or its URI.
    :param keep_serving: if it is the signing key, let edges trust it until its successor is trusted everywhere.
    :raises RotationError: if the record does not contain the key, or no edge trusts it anymore.
    """
    entry = find_entry(record, key)
    if entry.stage is Stage.RETIRED:
        raise RotationError(f"{named(entry)} is RETIRED: no edge trusts it any more")
    served = keep_serving and entry.stage is Stage.SIGNING
    move(entry.stage, Action.RELEASE)
    marked = replace(entry, compromised=True, leaving=0.0 if served else entry.leaving or now)
    return replace(record, entries=tuple(marked if each is entry else each for each in record.entries))


def find_entry(record: KeyGroupRecord, key: str) -> Entry:
    """The key in the record with that id, name, or URI.

    :raises RotationError: if there is none.
    """
    for entry in record.entries:
        if key and key in (entry.key_pair_id, entry.uri, name_of(entry.uri)):
            return entry
    ours = ", ".join(named(entry) for entry in record.entries) or "none"
    raise RotationError(f"{key} is not a key of the rotation of {record.group}, whose keys are: {ours}")


def _length(seconds: float) -> str:
    for size, unit in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:g} {unit}" if seconds % size == 0 else f"{seconds / size:.1f} {unit}"
    return f"{seconds:g} seconds"
