"""All upcoming steps of a rotation, if nothing else changes: what `keyfront rotation status` shows."""

from __future__ import annotations

import msgspec

from keyfront.lifecycle.facts import CustodyState, Facts, KnownKey
from keyfront.lifecycle.moves import Action
from keyfront.lifecycle.record_changes import after
from keyfront.lifecycle.rotation import Done, Step, Wait, next_key, next_step, utc

replace = msgspec.structs.replace


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
                reason = found.reason if found.reason.endswith("UTC") else f"{found.reason} at {utc(now)}"
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
