"""The rules for the next step of a key group's rotation. Pure: facts in, one step out.

The record (custody/key_record.py) holds the desired state; CloudFront and custody hold the actual state. A step is the
smallest change that brings the actual state closer to the desired one. There is no other state, so:

1. Steps are idempotent: a key's name is derived from its group and number, so a repeated step finds what it already
   created.
2. After a crash between two steps, or within one, the same rules continue from the state they find.
3. A decision is recorded before it is carried out: the record says that signers stop using a key, or that edges stop
   trusting it, before anything is changed.
4. A key is removed from the group only if the record no longer trusts it, and deleted only if it is in no key group
   (semantics §3.5). A key that is not in the record is never touched.
5. Two of the five slots in a key group (semantics §3.3) are reserved for emergencies and manual changes: a rotation
   waits rather than use them.

`now` is epoch seconds by CloudFront's clock, if it is known. If the clocks disagree, no step is taken except in an
emergency (`_clock`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime

import msgspec
from cronsim import CronSim, CronSimError

from keyfront.custody.key_record import Entry, KeyGroupRecord, Stage
from keyfront.errors import RotationError
from keyfront.lifecycle.facts import CustodyState, Facts, another, fingerprint_of
from keyfront.lifecycle.key_names import key_name, name_of, named, uri_of
from keyfront.lifecycle.moves import Action

replace = msgspec.structs.replace

SLOTS = 5
"""Maximum number of public keys in a key group (semantics §3.3)."""
RESERVED_SLOTS = 2
"""Number of those slots that a rotation leaves free."""
CLOCKS = 60.0
"""Seconds by which the local clock may differ from CloudFront's, or lag behind the timestamps in the record."""
LISTED = 600.0
"""Seconds for which a new public key may be missing from CloudFront's lists."""


class Step(msgspec.Struct, frozen=True):
    """The next step. `uri` is the key's URI in custody, `name` its name in custody and at CloudFront. `items` are the
    ids of all keys in the group after PUBLISH or REMOVE."""

    action: Action
    uri: str
    reason: str
    key_pair_id: str = ""
    name: str = ""
    items: tuple[str, ...] = ()


class Wait(msgspec.Struct, frozen=True):
    """Nothing to do before `until`, epoch seconds (None: until something changes, so check again). With `attention`, an
    operator must act."""

    reason: str
    until: float | None = None
    attention: bool = False


class Done(msgspec.Struct, frozen=True):
    """Nothing to do and nothing to wait for."""


# ------------------------------------------------------------------------------------------------------------
# The rules, in order


def next_step(
    facts: Facts, now: float, skip: Collection[tuple[Action, str]] = frozenset()
) -> Step | Wait | Done:
    """Return the step to take now, or what to wait for.

    :param skip: steps that failed recently, as pairs of action and key URI; the rules return another step instead.
    """
    if stopped := _group_gone(facts):
        return stopped
    waits: list[Wait] = []
    clock = _clock(facts, now)
    if clock is not None:
        if not _has_live_compromised_key(facts.record):
            return clock
        waits.append(clock)
    for rule in URGENT_RULES if urgent(facts.record) else RULES:
        for found in rule(facts, now):
            if isinstance(found, Wait):
                waits.append(found)
            elif (found.action, found.uri) not in skip and (
                clock is None or is_emergency_step(facts.record, found)
            ):
                return found
    if not waits:
        return Done()
    waits.sort(key=lambda wait: not wait.attention)
    times = [wait.until for wait in waits if wait.until is not None]
    watching = any(wait.until is None and not wait.attention for wait in waits)
    return Wait(
        "; ".join(wait.reason for wait in waits),
        None if watching or not times else min(times),
        any(wait.attention for wait in waits),
    )


def _clock(facts: Facts, now: float) -> Wait | None:
    """Wait while clocks disagree: a wrong clock must neither retire a key early nor keep one forever. Emergency steps
    (`is_emergency_step`) do not wait for clocks; all others do."""
    if facts.skew is not None and abs(facts.skew) > CLOCKS:
        return Wait(
            f"CloudFront's clock is {abs(facts.skew):.0f} s {'ahead of' if facts.skew > 0 else 'behind'} this one: "
            "no step is taken until they agree",
            attention=True,
        )
    latest = max((time for entry in facts.record.entries for time in _past_times(entry)), default=0.0)
    if latest > now + CLOCKS:
        return Wait(
            f"the record has a time in the future, {utc(latest)}: this clock is behind, or was ahead when the record "
            "was written. If the clock is correct now, `resume` starts over from it",
            attention=True,
        )
    return None


def _past_times(entry: Entry) -> tuple[float, ...]:
    return (
        entry.created,
        entry.published,
        entry.signing,
        entry.draining,
        entry.leaving,
        entry.retired,
        entry.gone,
    )


def _group_gone(facts: Facts) -> Wait | None:
    if facts.group is not None:
        return None
    return Wait(f"the key group {facts.record.key_group_id} is gone from CloudFront", attention=True)


Rule = Callable[[Facts, float], Iterable[Step | Wait]]


def _remove_untrusted(facts: Facts, now: float) -> Iterable[Step | Wait]:
    """Remove a compromised, withdrawn, or RETIRED key from the group at once, even while paused."""
    for entry in facts.record.entries:
        at_once = entry.compromised or entry.stage in (Stage.CREATED, Stage.PUBLISHED, Stage.RETIRED)
        if _leaves(entry) and at_once and entry.key_pair_id in facts.items:
            items = _without(facts, [entry])
            if items:
                yield _step(Action.REMOVE, entry, _removal_reason(entry), items)
            elif not urgent(facts.record):
                yield Wait(f"{named(entry)} cannot be removed: a key group needs one key", attention=True)


def _put_back(facts: Facts, now: float) -> Iterable[Step | Wait]:
    """Add a key back to the group if signers use it or edges must trust it, regardless of what removed it."""
    for entry in facts.record.entries:
        trusted = entry.stage in (Stage.PUBLISHED, Stage.SIGNING, Stage.DRAINING) and not _leaves(entry)
        if not trusted or entry.key_pair_id in facts.items:
            continue
        if not facts.knows(entry.key_pair_id):
            if entry.stage is not Stage.SIGNING:
                yield _step(Action.RELEASE, entry, facts.forgotten(entry))
        elif entry.stage is Stage.DRAINING and not facts.unseen and now >= facts.trusted_until(entry):
            yield _step(Action.RELEASE, entry, "it has drained, and was removed from the key group by hand")
        elif len(facts.items) >= SLOTS:
            yield Wait(f"{named(entry)} was removed from the key group, which is full now", attention=True)
        else:
            items = (*facts.items, entry.key_pair_id)
            yield _step(
                Action.PUBLISH, entry, "it was removed from the key group, and is needed there", items
            )


def _advance_next_key(facts: Facts, now: float) -> Iterable[Step | Wait]:
    """Advance the next key toward signing."""
    record, entry = facts.record, next_key(facts.record)
    if entry is None or is_paused(record):
        return
    if forgotten := facts.forgotten(entry):
        yield _step(Action.RELEASE, entry, forgotten)
    elif missing := facts.missing(entry):
        yield Wait(f"{missing}: find it, or withdraw it with `rollback`", attention=True)
    elif unknown := facts.held[entry.uri].unknown:
        yield Wait(f"custody of {named(entry)} is unavailable: {unknown}")
    elif not entry.key_pair_id:
        yield _register(facts, entry)
    elif entry.key_pair_id not in facts.items:
        full = _no_free_slot(facts, now)
        out = [each for each in record.entries if each.compromised and _leaves(each)]
        items = (*_without(facts, out), entry.key_pair_id)
        yield full or _step(Action.PUBLISH, entry, "edges have to trust it", items)
    elif entry.stage is Stage.PUBLISHED:
        yield _step(Action.SWITCH, entry, "every edge trusts it")
    elif urgent(record) and record.signing and _leaves(record.signing):
        yield _step(Action.SWITCH, entry, f"{named(record.signing)} is compromised")
    else:
        yield deployment_wait(facts, now, f"that edges trust {named(entry)}") or _step(
            Action.CONFIRM, entry, "all distributions are Deployed"
        )


def _register(facts: Facts, entry: Entry) -> Step | Wait:
    name = name_of(entry.uri)
    known = next((key for key in facts.public_keys if key.name == name), None)
    if known is not None and fingerprint_of(known.encoded_key) != facts.held[entry.uri].fingerprint:
        return Wait(f"CloudFront has another public key named {name}, {known.id}", attention=True)
    return _step(Action.REGISTER, entry, "CloudFront does not know it yet")


def _release(facts: Facts, now: float) -> Iterable[Step | Wait]:
    """Release a DRAINING key whose last signature has expired."""
    if is_paused(facts.record):
        return
    signing = facts.record.signing
    for entry in facts.record.entries:
        if entry.stage is not Stage.DRAINING or _leaves(entry) or entry.key_pair_id not in facts.items:
            continue
        until = facts.trusted_until(entry)
        if now < until:
            seen = ", when a link that edges have seen expires" if until > entry.drain_until else ""
            yield Wait(f"{named(entry)} drains until {utc(until)}{seen}", until)
        elif facts.unseen:
            yield _expiry_unknown(facts, entry)
        elif signing is None or signing.key_pair_id not in facts.items:
            yield Wait(
                f"{named(entry)} has drained, and stays because no other key of the group signs",
                attention=True,
            )
        else:
            yield _step(Action.RELEASE, entry, f"it has drained: its last signature expired by {utc(until)}")


def _remove_released(facts: Facts, now: float) -> Iterable[Step | Wait]:
    """Remove a released key `settle` seconds later, so a clock that is briefly ahead has no effect."""
    if is_paused(facts.record):
        return
    for entry in facts.record.entries:
        if _leaves(entry) and not entry.compromised and entry.key_pair_id in facts.items:
            after = entry.leaving + facts.record.terms.settle
            items = _without(facts, [entry])
            drains = entry.stage is Stage.DRAINING
            if drains and now < (until := facts.trusted_until(entry)):
                yield Wait(
                    f"{named(entry)} stays in the key group until {utc(until)}: a link is valid until then",
                    until,
                )
            elif drains and facts.unseen:
                yield _expiry_unknown(facts, entry)
            elif now < after:
                yield Wait(f"{named(entry)} will be removed from the key group at {utc(after)}", after)
            elif items:
                yield _step(Action.REMOVE, entry, _removal_reason(entry), items)


def _expiry_unknown(facts: Facts, entry: Entry) -> Wait:
    return Wait(
        f"{named(entry)} has drained, and stays until edges can report what they have seen of it: {facts.unseen}",
        attention=True,
    )


def _retire(facts: Facts, now: float) -> Iterable[Step | Wait]:
    for entry in facts.record.entries:
        ends = entry.stage in (Stage.CREATED, Stage.PUBLISHED, Stage.DRAINING)
        if ends and _leaves(entry) and entry.key_pair_id not in facts.items:
            waits = (
                deployment_wait(facts, now, f"that no edge trusts {named(entry)}")
                if entry.key_pair_id
                else None
            )
            yield waits or _step(Action.RETIRE, entry, "no edge trusts it")


def _delete_retired(facts: Facts, now: float) -> Iterable[Step | Wait]:
    """Delete a RETIRED key: first the public half, then the private one."""
    signing = facts.record.signing
    for entry in facts.record.entries:
        if entry.stage is not Stage.RETIRED or entry.gone or entry.key_pair_id in facts.items:
            continue
        if facts.record.terms.paused and not entry.compromised:
            continue
        held = facts.held.get(entry.uri, CustodyState())
        id_ = facts.id_of(entry)
        groups = facts.elsewhere.get(id_, ())
        if groups:
            yield Wait(f"{named(entry)} is RETIRED, but still in {', '.join(groups)}", attention=True)
        elif id_:
            reason = "it is RETIRED and in no key group"
            yield replace(_step(Action.UNREGISTER, entry, reason), key_pair_id=id_)
        elif not entry.key_pair_id and now < entry.retired + LISTED:
            yield Wait(f"CloudFront may not list {named(entry)} before then", entry.retired + LISTED)
        elif held.unknown:
            yield Wait(f"custody of {named(entry)} is unavailable: {held.unknown}")
        elif another(entry, held.fingerprint):
            yield Wait(
                f"{named(entry)} is RETIRED, but custody has another key as {entry.uri}, which is not the rotation's "
                "to delete: remove it from there",
                attention=True,
            )
        elif signing is None or signing.compromised or not facts.missing(signing):
            yield _step(Action.DESTROY, entry, "it is RETIRED, and CloudFront no longer has it")


def _create_when_due(facts: Facts, now: float) -> Iterable[Step | Wait]:
    """Create the next key when it is due."""
    record = facts.record
    if next_key(record):
        return
    if is_paused(record):
        yield Wait("paused", attention=True)
        return
    because, when = due(facts)
    signing = record.signing
    if signing and when != 0.0 and (missing := facts.missing(signing)):
        yield Wait(f"{missing}: find it, or replace it with `rotate`", attention=True)
        return
    if when is None:
        return
    if now < when:
        yield Wait(f"{because} at {utc(when)}", when)
        return
    full = _no_free_slot(facts, now)
    if full:
        yield replace(full, reason=f"{because}, but {full.reason}")
        return
    name = key_name(record.group, record.key_group_id, record.made + 1)
    yield Step(Action.CREATE, uri_of(record.terms.place, name), because, name=name)


RULES: tuple[Rule, ...] = (
    _remove_untrusted,
    _put_back,
    _advance_next_key,
    _create_when_due,
    _release,
    _remove_released,
    _retire,
    _delete_retired,
)
URGENT_RULES: tuple[Rule, ...] = (
    _remove_untrusted,
    _advance_next_key,
    _create_when_due,
    _put_back,
    _release,
    _remove_released,
    _retire,
    _delete_retired,
)
"""The order of the rules. The next key never waits for a cleanup; in an emergency it waits only for the removal of the
compromised key."""


# ------------------------------------------------------------------------------------------------------------
# Conditions that the rules use


def same_key(one: Entry, other: Entry) -> bool:
    """Whether entries of two records are the same key, as far as the entries show."""
    return (
        one.uri == other.uri
        or bool(one.key_pair_id and one.key_pair_id == other.key_pair_id)
        or bool(one.fingerprint and one.fingerprint == other.fingerprint)
    )


def next_key(record: KeyGroupRecord) -> Entry | None:
    """The key that will sign next, None if it does not exist yet."""
    found = [e for e in record.entries if e.stage in (Stage.CREATED, Stage.PUBLISHED) and not _leaves(e)]
    return found[-1] if found else None


def urgent(record: KeyGroupRecord) -> bool:
    """Whether the signing key is compromised and must be replaced."""
    return record.signing is not None and record.signing.compromised


def _has_live_compromised_key(record: KeyGroupRecord) -> bool:
    """Whether an edge may still trust a compromised key, or a compromised key still signs."""
    return any(entry.compromised and entry.stage is not Stage.RETIRED for entry in record.entries)


def is_emergency_step(record: KeyGroupRecord, step: Step) -> bool:
    """Whether a step is part of an emergency: it removes a compromised key or brings in its replacement."""
    entry = record.entry(step.uri)
    if entry is not None and entry.compromised:
        return True
    return urgent(record) and (entry is None or entry == next_key(record))


def is_paused(record: KeyGroupRecord) -> bool:
    """Whether the rotation is paused. An emergency proceeds regardless."""
    return record.terms.paused and not urgent(record)


def due(facts: Facts) -> tuple[str, float | None]:
    """Why and when the next key is due. None: never automatically."""
    record = facts.record
    signing = record.signing
    if signing is None:
        return "no key signs yet", 0.0
    if signing.compromised:
        return f"{named(signing)} is compromised", 0.0
    if forgotten := facts.forgotten(signing):
        return f"{named(signing)} cannot be used: {forgotten}", 0.0
    if record.rotation_requested:
        return "a rotation was requested", 0.0
    if record.terms.every == "":
        return "", None
    return "the next rotation is due", next_due(record.terms.every, signing.signing)


def next_due(every: float | str, since: float) -> float:
    """When a rotation is due, epoch seconds: `every` seconds after `since`, or the first time after `since` that the
    cron expression matches, in UTC.

    :raises RotationError: if the expression matches no time.
    """
    if isinstance(every, str):
        try:
            return next(CronSim(every, datetime.fromtimestamp(since, UTC))).timestamp()
        except (CronSimError, StopIteration) as error:
            raise RotationError(f"{every!r} is not a schedule: {error or 'it names no time'}") from error
    return since + every


def _no_free_slot(facts: Facts, now: float) -> Wait | None:
    """What to wait for if the group has no slot for another key; None if it has one."""
    leaving = [e for e in facts.record.entries if urgent(facts.record) and e.compromised and _leaves(e)]
    taken = len(_without(facts, leaving))
    if taken < (SLOTS if urgent(facts.record) else SLOTS - RESERVED_SLOTS):
        return None
    ours = [e for e in facts.record.entries if e.key_pair_id in facts.items]
    settle = facts.record.terms.settle
    free = [
        entry.leaving + settle if entry.leaving else facts.trusted_until(entry)
        for entry in ours
        if entry.stage is Stage.DRAINING
    ]
    others = taken - len(ours)
    return Wait(
        f"the key group has {taken} keys already"
        + (f", {others} of them not of this rotation" if others > 0 else "")
        + f", and {RESERVED_SLOTS} of its {SLOTS} slots are reserved"
        + (f": the next slot becomes free at {utc(min(free))}" if free else ""),
        min(free) if free and now < min(free) else None,
        attention=not free,
    )


def deployment_wait(facts: Facts, now: float, what: str) -> Wait | None:
    """What to wait for until all edges use the group's current state; None if they already do.

    :param what: the fact that depends on this, as a clause for the message.
    """
    waiting = [each.id for each in facts.distributions if each.status != "Deployed"]
    if waiting:
        return Wait(f"{what} is known once Deployed: {', '.join(waiting)}")
    modified = facts.group.modified if facts.group else 0.0
    settled = modified + facts.record.terms.settle
    ahead = modified > now + CLOCKS  # the clock was wrong when the group changed, which was long ago
    if facts.distributions and not ahead and now < settled:
        return Wait(f"{what} is assumed from {utc(settled)}", settled)
    return None


def _leaves(entry: Entry) -> bool:
    return entry.leaving > 0 or entry.stage is Stage.RETIRED


def _without(facts: Facts, entries: Iterable[Entry]) -> tuple[str, ...]:
    out = {entry.key_pair_id for entry in entries}
    return tuple(item for item in facts.items if item not in out)


def _removal_reason(entry: Entry) -> str:
    if entry.compromised:
        return "it is compromised"
    if entry.stage is Stage.RETIRED:
        return "it is RETIRED, and was added again by hand"
    return "it has drained" if entry.stage is Stage.DRAINING else "it was withdrawn"


def _step(action: Action, entry: Entry, reason: str, items: tuple[str, ...] = ()) -> Step:
    return Step(action, entry.uri, reason, entry.key_pair_id, name_of(entry.uri), items)


def utc(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
