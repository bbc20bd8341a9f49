"""A key's lifecycle as a table, and the rules for the next step of a key group's rotation. Pure: facts in, one step
out.

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

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from enum import Enum

import msgspec
from cronsim import CronSim, CronSimError

from keyfront.custody.key_record import Entry, KeyGroupRecord, Stage
from keyfront.errors import KeyLoadError, RotationError
from keyfront.signing.keys import load_public_key

replace = msgspec.structs.replace

SLOTS = 5
"""Maximum number of public keys in a key group (semantics §3.3)."""
RESERVED_SLOTS = 2
"""Number of those slots that a rotation leaves free."""
CLOCKS = 60.0
"""Seconds by which the local clock may differ from CloudFront's, or lag behind the timestamps in the record."""
LISTED = 600.0
"""Seconds for which a new public key may be missing from CloudFront's lists."""
REMEMBERED = 2
"""Number of deleted keys that stay in the record."""


class Action(Enum):
    CREATE = "create"
    REGISTER = "register"
    PUBLISH = "publish"
    CONFIRM = "confirm"
    SWITCH = "switch"
    RELIEVE = "relieve"
    RELEASE = "release"
    REMOVE = "remove"
    RETIRE = "retire"
    UNREGISTER = "unregister"
    DESTROY = "destroy"


MEANING: Mapping[Action, str] = {
    Action.CREATE: "custody creates a key pair",
    Action.REGISTER: "the public key is created at CloudFront (CreatePublicKey)",
    Action.PUBLISH: "the public key is added to the key group (UpdateKeyGroup)",
    Action.CONFIRM: "all distributions that trust the group are Deployed: every edge trusts the key",
    Action.SWITCH: "the record names it as the signing key; that write is the switch",
    Action.RELIEVE: "the same write ends signing with the previous key",
    Action.RELEASE: "the record states that edges are to stop trusting the key",
    Action.REMOVE: "the public key is removed from the key group (UpdateKeyGroup)",
    Action.RETIRE: "all distributions are Deployed without the key: no edge trusts it",
    Action.UNREGISTER: "the public key is deleted at CloudFront (DeletePublicKey)",
    Action.DESTROY: "custody deletes the private key, after the grace period",
}

MOVES: Mapping[Stage | None, Mapping[Action, Stage]] = {
    None: {Action.CREATE: Stage.CREATED},
    Stage.CREATED: {
        Action.REGISTER: Stage.CREATED,
        Action.PUBLISH: Stage.CREATED,
        Action.CONFIRM: Stage.PUBLISHED,
        Action.SWITCH: Stage.SIGNING,  # in an emergency only
        Action.RELEASE: Stage.CREATED,
        Action.REMOVE: Stage.CREATED,
        Action.RETIRE: Stage.RETIRED,
    },
    Stage.PUBLISHED: {
        Action.PUBLISH: Stage.CREATED,  # it was removed externally: confirm again that edges trust it
        Action.SWITCH: Stage.SIGNING,
        Action.RELEASE: Stage.PUBLISHED,
        Action.REMOVE: Stage.PUBLISHED,
        Action.RETIRE: Stage.RETIRED,
    },
    Stage.SIGNING: {
        Action.PUBLISH: Stage.SIGNING,
        Action.RELIEVE: Stage.DRAINING,
        Action.RELEASE: Stage.SIGNING,  # in an emergency only
        Action.REMOVE: Stage.SIGNING,
    },
    Stage.DRAINING: {
        Action.PUBLISH: Stage.DRAINING,
        Action.SWITCH: Stage.SIGNING,  # a rotation is rolled back
        Action.RELEASE: Stage.DRAINING,
        Action.REMOVE: Stage.DRAINING,
        Action.RETIRE: Stage.RETIRED,
    },
    Stage.RETIRED: {
        Action.REMOVE: Stage.RETIRED,  # it was added back externally
        Action.UNREGISTER: Stage.RETIRED,
        Action.DESTROY: Stage.RETIRED,
    },
}
"""The actions allowed in each stage of a key, and the stage that each leads to. No other transition can be written."""


def move(stage: Stage | None, action: Action) -> Stage:
    """:raises RotationError: if the table has no such move."""
    try:
        return MOVES[stage][action]
    except KeyError:
        raise RotationError(
            f"a key that {'is ' + stage.value if stage else 'does not exist'} does not allow {action.value}"
        ) from None


# ------------------------------------------------------------------------------------------------------------
# Facts: the actual state, as just read


class Group(msgspec.Struct, frozen=True):
    """A key group. `modified` is CloudFront's LastModifiedTime in epoch seconds, 0.0 if unknown."""

    id: str
    name: str
    items: tuple[str, ...]
    etag: str
    modified: float = 0.0
    comment: str = ""


class KnownKey(msgspec.Struct, frozen=True):
    """A public key that CloudFront knows."""

    id: str
    name: str
    encoded_key: str


class Distribution(msgspec.Struct, frozen=True):
    """A distribution that trusts the group. `status` is Deployed or InProgress (semantics §7.6)."""

    id: str
    status: str


class CustodyState(msgspec.Struct, frozen=True):
    """A private key in custody: the fingerprint of its public half, empty if the key is gone or scheduled for deletion.
    If custody is unavailable, `unknown` says why."""

    fingerprint: str = ""
    unknown: str = ""


class Facts(msgspec.Struct, frozen=True):
    """The actual state.

    `group` is None if it does not exist. `elsewhere` maps a public key's id to the other key groups that contain it.
    `held` is keyed by URI. `last_expiry` maps a public key's id to the time when the latest link that edges have seen
    expires, in epoch seconds, where known. `unseen` is the reason why edges cannot report it, empty if they can or if
    there are no such reports (Amazon). `skew` is the number of seconds by which CloudFront's clock is ahead of the
    local one, None if unknown.
    """

    record: KeyGroupRecord
    group: Group | None
    public_keys: tuple[KnownKey, ...] = ()
    distributions: tuple[Distribution, ...] = ()
    elsewhere: Mapping[str, tuple[str, ...]] = {}
    held: Mapping[str, CustodyState] = {}
    last_expiry: Mapping[str, float] = {}
    skew: float | None = None
    unseen: str = ""

    @property
    def items(self) -> tuple[str, ...]:
        return self.group.items if self.group else ()

    def knows(self, key_pair_id: str) -> bool:
        return any(key.id == key_pair_id for key in self.public_keys)

    def id_of(self, entry: Entry) -> str:
        """The key's id at CloudFront, even if a crash prevented its recording; empty if CloudFront does not have the
        key."""
        if entry.key_pair_id:
            return entry.key_pair_id if self.knows(entry.key_pair_id) else ""
        named = (key for key in self.public_keys if key.name == name_of(entry.uri))
        return next((key.id for key in named if _fingerprint(key.encoded_key) == entry.fingerprint), "")

    def lost(self, entry: Entry) -> str:
        """Why no edge would accept a signature by `entry`; empty if edges would."""
        return self.forgotten(entry) or self.missing(entry)

    def forgotten(self, entry: Entry) -> str:
        """Why edges cannot trust the key; empty if they can."""
        if entry.key_pair_id and not self.knows(entry.key_pair_id):
            return f"its public key {entry.key_pair_id} was deleted at CloudFront"
        return ""

    def missing(self, entry: Entry) -> str:
        """Why custody, as seen from this machine, cannot sign with the key; empty if it can. The key may be in a folder
        on another machine, so this alone causes no step."""
        held = self.held.get(entry.uri, CustodyState())
        if not held.fingerprint and not held.unknown:
            return f"custody has no {entry.uri} here"
        if another(entry, held.fingerprint):
            return f"custody has another key as {entry.uri}"
        return ""

    def trusted_until(self, entry: Entry) -> float:
        """When edges no longer need to trust a DRAINING key, epoch seconds."""
        return max(entry.drain_until, self.last_expiry.get(entry.key_pair_id, 0.0))


# ------------------------------------------------------------------------------------------------------------
# Results


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
            f"the record has a time in the future, {_date(latest)}: this clock is behind, or was ahead when the record "
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
            yield _step(Action.RELEASE, entry, "it has drained, and somebody removed it from the key group")
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
    if known is not None and _fingerprint(known.encoded_key) != facts.held[entry.uri].fingerprint:
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
            yield Wait(f"{named(entry)} drains until {_date(until)}{seen}", until)
        elif facts.unseen:
            yield _expiry_unknown(facts, entry)
        elif signing is None or signing.key_pair_id not in facts.items:
            yield Wait(
                f"{named(entry)} has drained, and stays because no other key of the group signs",
                attention=True,
            )
        else:
            yield _step(
                Action.RELEASE, entry, f"it has drained: its last signature expired by {_date(until)}"
            )


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
                    f"{named(entry)} stays in the key group until {_date(until)}: a link is valid until then",
                    until,
                )
            elif drains and facts.unseen:
                yield _expiry_unknown(facts, entry)
            elif now < after:
                yield Wait(f"{named(entry)} will be removed from the key group at {_date(after)}", after)
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
        yield Wait(f"{because} at {_date(when)}", when)
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


def another(entry: Entry, fingerprint: str) -> bool:
    """Whether a key with `fingerprint` (empty if unknown) differs from the one in the record."""
    return bool(entry.fingerprint and fingerprint and fingerprint != entry.fingerprint)


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
    if record.asked:
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
        + (f": the next slot becomes free at {_date(min(free))}" if free else ""),
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
        return Wait(f"{what} is assumed from {_date(settled)}", settled)
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
        return "it is RETIRED, and somebody added it again"
    return "it has drained" if entry.stage is Stage.DRAINING else "it was withdrawn"


def _step(action: Action, entry: Entry, reason: str, items: tuple[str, ...] = ()) -> Step:
    return Step(action, entry.uri, reason, entry.key_pair_id, name_of(entry.uri), items)


def _fingerprint(encoded_key: str) -> str:
    try:
        return load_public_key(encoded_key).fingerprint
    except KeyLoadError:
        return ""


def _date(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


# ------------------------------------------------------------------------------------------------------------
# Names


def key_name(group: str, key_group_id: str, number: int) -> str:
    """The name of the key with that number, in custody and at CloudFront. It depends only on the group and the number,
    so a key created before a crash is found afterward. Groups with the same name in two accounts get different key
    names."""
    return f"{key_prefix(group, key_group_id)}{number}"


def key_prefix(group: str, key_group_id: str) -> str:
    """The prefix shared by the names of all keys of a group."""
    legible = re.sub(r"[^A-Za-z0-9]+", "-", group)[:32].strip("-")
    digest = hashlib.sha256(f"{group}\0{key_group_id}".encode()).hexdigest()[:8]
    return f"{legible}-{digest}-" if legible else f"{digest}-"


def uri_of(place: str, name: str) -> str:
    """The URI of the key `name` in the custody `place`."""
    path, question, options = place.partition("?")
    return f"{path}{name}{question}{options}"


def name_of(uri: str) -> str:
    """The key's name from its URI."""
    return uri.partition("?")[0].rpartition("/")[2]


def named(entry: Entry) -> str:
    """The key's name in messages."""
    return f"{name_of(entry.uri)} ({entry.key_pair_id})" if entry.key_pair_id else name_of(entry.uri)


# ------------------------------------------------------------------------------------------------------------
# What a step writes


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
        record = replace(record, asked=0.0)
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


# ------------------------------------------------------------------------------------------------------------
# All upcoming steps


class Planned(msgspec.Struct, frozen=True):
    """A step, and the earliest time at which it can be taken."""

    at: float
    step: Step


def plan(facts: Facts, now: float) -> tuple[tuple[Planned, ...], Wait | Done]:
    """All steps until the next key signs and the current signing key is gone, each at its earliest possible time, and
    what follows or blocks them. Assumes that every distribution is Deployed at once and that nothing else makes
    changes."""
    steps: list[Planned] = []
    first = facts.record.signing
    while len(steps) < 60:
        found = next_step(facts, now)
        if isinstance(found, Step):
            record = facts.record
            gone = first is None or all(e.gone for e in record.entries if e.uri == first.uri)
            if found.action is Action.CREATE and record.signing and gone:
                reason = found.reason if found.reason.endswith("UTC") else f"{found.reason} at {_date(now)}"
                return tuple(steps), Wait(reason, now)
            steps.append(Planned(now, found))
            facts = _after_step(facts, found, now)
        elif isinstance(found, Wait) and found.until is not None and found.until > now:
            gone = first is not None and all(e.gone for e in facts.record.entries if e.uri == first.uri)
            if gone and not next_key(facts.record):
                return tuple(steps), found
            now = found.until
        elif isinstance(found, Wait) and any(each.status != "Deployed" for each in facts.distributions):
            deployed = tuple(replace(each, status="Deployed") for each in facts.distributions)
            facts = replace(facts, distributions=deployed)
        else:
            return tuple(steps), found
    return tuple(steps), Done()


def _after_step(facts: Facts, step: Step, now: float) -> Facts:
    """The facts after `step`, if it succeeds."""
    id_ = step.key_pair_id or f"(id of {step.name})"
    record = after(facts.record, step, now, key_pair_id=id_, fingerprint="yet to be made")
    known, group, held = facts.public_keys, facts.group, dict(facts.held)
    match step.action:
        case Action.CREATE:
            held[step.uri] = CustodyState("yet to be made")
        case Action.REGISTER:
            known = (*known, KnownKey(id_, step.name, ""))
        case Action.PUBLISH | Action.REMOVE if group is not None:
            group = replace(group, items=step.items, modified=now)
        case Action.UNREGISTER:
            known = tuple(key for key in known if key.id != step.key_pair_id)
        case Action.DESTROY:
            held[step.uri] = CustodyState()
    return replace(facts, record=record, group=group, public_keys=known, held=held)
