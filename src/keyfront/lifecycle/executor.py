"""The executor of rotation steps: it reads the facts, applies the rules, takes the resulting step, and sends events.

Its only state is the steps that failed in the last minute, which it does not retry at once; everything else is read
again for each step. A failed step does not block other steps of the same pass. Any number of executors can work on one
key group, in any thread and on any machine: the record and the key group change only by compare-and-swap (the record's
version, the key group's ETag), so an executor that loses the race changes nothing and reads again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from shlex import quote
from typing import Any, NamedTuple

import msgspec

from keyfront.cloudfront.refusal import Refused
from keyfront.custody.contract import Custody, Records
from keyfront.custody.key_record import (
    Entry,
    KeyGroupRecord,
    RotationPolicy,
    Stage,
    VersionedRecord,
    load,
    parse_record,
    record_name,
    save,
)
from keyfront.custody.schemes import open_place
from keyfront.errors import (
    AccountError,
    CustodyError,
    KeyExists,
    KeyfrontError,
    NoSuchKey,
    RecordChanged,
    RotationError,
)
from keyfront.lifecycle import commands
from keyfront.lifecycle.cloudfront import Api
from keyfront.lifecycle.events import Listener, Phase, RotationEvent, notify
from keyfront.lifecycle.facts import CustodyState, Facts, Group, KnownKey, another
from keyfront.lifecycle.forecast import Planned, plan
from keyfront.lifecycle.key_names import key_prefix, name_of
from keyfront.lifecycle.moves import Action
from keyfront.lifecycle.record_changes import after
from keyfront.lifecycle.rotation import Done, Step, Wait, is_emergency_step, next_step, same_key
from keyfront.signing.keys import HashName, load_public_key

replace = msgspec.structs.replace
log = logging.getLogger("keyfront.rotation")

LOOK = 5.0
"""Seconds until the next pass while waiting for CloudFront (until a distribution is Deployed)."""
LATER = 60.0
"""Seconds until the next pass while an operator must act, or after a step has failed."""
ANYWAY = 900.0
"""Maximum seconds until the next pass while nothing is due: a key may have been removed from the group externally."""
_LOST = ("PreconditionFailed", "InvalidIfMatchVersion", "PublicKeyAlreadyExists")
"""The API's error codes when another writer was faster."""


class Outcome(msgspec.Struct, frozen=True):
    """The result of one pass over a key group: a step was `taken`, or there is something to `wait` for, or neither
    (nothing is due until an operator requests it).

    A step with an `error` was not taken and will be retried. With `raced`, another writer was faster; otherwise the
    step failed now or recently, and there was nothing else to do. `again` is when to check again, epoch seconds (None:
    never).
    """

    group: str
    again: float | None
    taken: Step | None = None
    wait: Wait | None = None
    error: str = ""
    raced: bool = False

    @property
    def moved(self) -> bool:
        """Whether another step may be due at once."""
        return self.raced or (self.taken is not None and not self.error)


class Failure(NamedTuple):
    """A step that failed. It is not retried before `again` (epoch seconds by the local clock), unless it was not
    `urgent` when it failed and has since become part of an emergency."""

    error: str
    again: float
    urgent: bool


class RotationExecutor:
    """Takes rotation steps and applies operators' commands. Not thread-safe, because `Api` is not: create one per
    thread."""

    def __init__(
        self,
        api: Api,
        records: Records,
        environment: Mapping[str, str] = os.environ,
        listeners: Sequence[Listener] = (),
        clock: Callable[[], float] = time.time,
        options: str = "",
    ) -> None:
        """
        :param environment: where custody places find their secrets.
        :param clock: epoch seconds.
        :param options: the options that choose this account and these records, for the commands in error messages;
            empty, or it begins with a space.
        """
        self.api = api
        self.records = records
        self._environment = environment
        self._listeners = listeners
        self._clock = clock
        self._options = options
        self._failures: dict[tuple[str, Action, str], Failure] = {}

    # ---- the actual state

    def groups(self) -> list[str]:
        """The key groups that are rotated. An unreadable record is logged and does not block the others."""
        found = []
        for name in self.records.names():
            record = self.records.read(name)
            try:
                found += [parse_record(record.data).group] if record is not None else []
            except CustodyError as error:
                log.error("the record %s in %s: %s", name, self.records.uri, error)
        return sorted(found)

    def versioned(self, group: str) -> VersionedRecord:
        """:raises RotationError: if the group is not rotated."""
        kept = load(self.records, group)
        if kept is None:
            raise RotationError(
                f"the key group {group} is not rotated: `keyfront rotation start {quote(group)}{self._options}`"
            )
        return kept

    def facts(self, kept: VersionedRecord) -> Facts:
        """Read the current facts for the rules.

        :raises AccountError: if CloudFront cannot be queried.
        """
        record = kept.record
        group = self.api.key_group(record.key_group_id)
        keys = self.api.public_keys()
        listed = {key.id for key in keys}
        remaining = [
            e for e in record.entries if not e.gone and (e.stage is not Stage.RETIRED or not e.published)
        ]
        ids = [entry.key_pair_id for entry in remaining if entry.key_pair_id]
        unlisted = [self.api.public_key(id_) for id_ in ids if id_ not in listed]
        keys += tuple(key for key in unlisted if key is not None)
        facts = Facts(record, group, keys, self.api.distributions(record.key_group_id))
        left = [e for e in record.entries if e.stage is Stage.RETIRED and not e.gone]
        ids = [id_ for entry in left if (id_ := facts.id_of(entry))]
        return replace(
            facts,
            elsewhere=self.api.key_groups_of(ids) if ids else {},
            held={entry.uri: self._held(entry) for entry in record.entries if not entry.gone},
            **self._seen(),
            skew=self.api.skew,
        )

    def _seen(self) -> dict[str, Any]:
        try:
            return {"last_expiry": self.api.last_expiry()}
        except AccountError as error:  # nothing else needs to wait for this, least of all an emergency
            return {"unseen": str(error) or type(error).__name__}

    def _held(self, entry: Entry) -> CustodyState:
        try:
            found = self._place(entry.uri).describe(name_of(entry.uri))
        except NoSuchKey:
            return CustodyState()
        except CustodyError as error:
            return CustodyState(unknown=str(error) or type(error).__name__)
        return CustodyState() if found.delete_at is not None else CustodyState(found.public_key.fingerprint)

    def _place(self, uri: str) -> Custody:
        return open_place(uri, self._environment)

    def plan(self, group: str) -> tuple[tuple[Planned, ...], Wait | Done]:
        """All upcoming steps (`rotation.plan`)."""
        facts = self.facts(self.versioned(group))
        return plan(facts, self.now())

    def plan_of(self, record: KeyGroupRecord) -> tuple[tuple[Planned, ...], Wait | Done]:
        """All upcoming steps for a record that was never written."""
        return plan(self.facts(VersionedRecord(record, "")), self.now())

    def now(self) -> float:
        """Epoch seconds by CloudFront's clock, or by the local clock while CloudFront's is unknown."""
        return self._clock() + (self.api.skew or 0.0)

    # ---- one step

    def step(self, group: str, now: float | None = None) -> Outcome:
        """Check the group, and take one step if one is due.

        :param now: epoch seconds by the local clock; by default the current time.
        :raises RotationError: if the group is not rotated.
        :raises CustodyError: if its record cannot be read.
        :raises AccountError: if CloudFront cannot be queried.
        """
        local = self._clock() if now is None else now
        failed: Outcome | None = None
        while True:
            try:
                kept = self.versioned(group)
                facts = self.facts(kept)
            except (KeyfrontError, OSError):
                if failed is None:
                    raise
                return failed
            ahead = facts.skew or 0.0
            now = local + ahead
            found = next_step(facts, now, self._failed(facts.record, local))
            if not isinstance(found, Step):
                return self._at_rest(facts, found, local)
            urgent = is_emergency_step(facts.record, found)
            event = _step_event(facts.record, found, now, urgent)
            try:
                if not urgent:
                    self._notify("before", event)
                self._take(kept, facts, found, now)
            except (KeyfrontError, OSError) as error:
                self._notify_late(event)
                self._notify("failed", event, str(error))
                if isinstance(error, RecordChanged) or (isinstance(error, Refused) and error.code in _LOST):
                    return Outcome(group, local + 1.0, found, error=str(error), raced=True)
                failure = Failure(str(error), local + LATER, urgent)
                self._failures[group, found.action, found.uri] = failure
                failed = Outcome(group, failure.again, found, error=failure.error)
                continue
            self._failures.pop((group, found.action, found.uri), None)
            self._notify_late(event)
            self._notify("after", event)
            return Outcome(group, local, found)

    def _failed(self, record: KeyGroupRecord, local: float) -> set[tuple[Action, str]]:
        """The steps of a group that must not be retried yet."""
        found = set()
        for key, failure in list(self._failures.items()):
            group, action, uri = key
            if not 0 < failure.again - local <= LATER:
                del self._failures[key]
            elif group == record.group and failure.urgent >= is_emergency_step(record, Step(action, uri, "")):
                found.add((action, uri))
        return found

    def _at_rest(self, facts: Facts, found: Wait | Done, local: float) -> Outcome:
        """What to wait for, with the first of the failed steps, if there are any."""
        group, ahead = facts.record.group, facts.skew or 0.0
        wait = found if isinstance(found, Wait) else None
        again = local + ANYWAY if wait is None else _again(wait, local + ahead) - ahead
        first = next_step(facts, local + ahead)
        if isinstance(first, Step) and (known := self._failures.get((group, first.action, first.uri))):
            return Outcome(group, min(again, known.again), first, wait, known.error)
        return Outcome(group, again, wait=wait)

    def _take(self, kept: VersionedRecord, facts: Facts, step: Step, now: float) -> None:
        """Take the step, then write the record: after a crash in between, the next pass finds the result. Only a step
        that ends trust is written first (rotation.py, 3)."""
        match step.action:
            case Action.CREATE:
                self._create(kept, step, now)
                return
            case Action.REGISTER:
                id_ = self._register(facts, step)
                try:
                    self._save(kept, after(facts.record, step, now, key_pair_id=id_), now)
                except RecordChanged:
                    entry = self.versioned(facts.record.group).record.entry(step.uri)
                    if entry is None or entry.gone:  # withdrawn since: nothing else would clean up
                        self.api.delete_public_key(id_)
                    raise
                return
            case Action.PUBLISH | Action.REMOVE:
                self._save(kept, after(facts.record, step, now), now)
                if facts.group is not None:
                    self.api.update_key_group(facts.group, step.items)
                return
            case Action.SWITCH:
                self._try(step.uri, facts.record)
            case Action.UNREGISTER:
                self.api.delete_public_key(step.key_pair_id)
            case Action.DESTROY:
                self._destroy(facts.record, step, now)
        self._save(kept, after(facts.record, step, now), now)

    def _save(self, kept: VersionedRecord, record: KeyGroupRecord, now: float) -> VersionedRecord:
        if record == kept.record:
            return kept
        return save(self.records, record, kept.version, now=now)

    def _create(self, kept: VersionedRecord, step: Step, now: float) -> None:
        record = kept.record
        place, terms = self._place(record.terms.place), record.terms
        labels = {"key-group-id": record.key_group_id}
        if terms.application:
            labels["application"] = terms.application
        try:
            held = place.create(step.name, terms.algorithm, now=now, labels=labels)
        except KeyExists:
            # Created before a crash, or just now by another executor. Its number was never used, so neither was the
            # key.
            held = place.describe(step.name)
            if held.delete_at is not None or held.public_key.algorithm != terms.algorithm:
                self._save(kept, replace(record, made=record.made + 1), now)  # do not use that number again
                return
        self._save(kept, after(record, step, now, fingerprint=held.public_key.fingerprint), now)

    def _register(self, facts: Facts, step: Step) -> str:
        for key in facts.public_keys:
            if key.name == step.name:  # the rule has already compared them
                return key.id
        public_key = self._place(step.uri).describe(step.name).public_key
        comment = f"Keyfront rotates key group {facts.record.group}"[:128]
        return self.api.create_public_key(step.name, public_key.pem, comment)

    def _try(self, uri: str, record: KeyGroupRecord) -> None:
        """Check that custody can sign with the key before anything depends on it.

        :raises CustodyError: if custody cannot sign with it.
        """
        handle = self._place(uri).handle(name_of(uri))
        entry = record.entry(uri)
        hash_name: HashName = record.terms.hash_name or "SHA256"
        if hash_name not in handle.hash_names:
            hash_name = handle.hash_names[0]
        data = b"Keyfront tries a key before signers take it"
        if entry and entry.fingerprint and handle.public_key.fingerprint != entry.fingerprint:
            raise CustodyError(f"{uri} is another key than the record's")
        if not handle.public_key.verify(data, handle.sign(data, hash_name), hash_name):
            raise CustodyError(f"{uri} signs what its public key does not verify")

    def _destroy(self, record: KeyGroupRecord, step: Step, now: float) -> None:
        for group in self.groups():
            other = load(self.records, group)
            entry = other.record.entry(step.uri) if other and group != record.group else None
            if entry is not None and not entry.gone:
                return  # another group's rotation also has the key, and deletes it
        place, entry = self._place(step.uri), record.entry(step.uri)
        try:
            held = place.describe(step.name)
            if entry is None or another(entry, held.public_key.fingerprint):
                if held.delete_at is not None:
                    return  # another group's key, already in progress
                raise RotationError(f"custody has another key as {step.uri}: it is not deleted")
            place.delete(step.name, grace=record.terms.grace, now=now)
        except NoSuchKey:
            pass

    # ---- commands

    def start(
        self,
        group: Group,
        terms: RotationPolicy,
        adopt: Mapping[str, str],
        by: str = "",
        *,
        dry_run: bool = False,
    ) -> KeyGroupRecord:
        """Start rotating a key group. A dry run makes all checks and writes nothing.

        :param adopt: custody URIs of keys that are already in the group, by public key id; the last one signs, the
            others drain.
        :raises RotationError: if the group is already rotated, or a key cannot be adopted.
        """
        known = {key.id: key for key in self.api.public_keys()}
        now = self.now()
        commands.validated(terms, now)
        if load(self.records, group.name) is not None:
            raise RotationError(
                f"the key group {group.name} is rotated already: see `keyfront rotation status "
                f"{quote(group.name)}{self._options}`"
            )
        adopted = [self._adopted(group, known, id_, uri) for id_, uri in adopt.items()]
        made = self._last_number(group, terms, known.values())
        record = commands.initial_record(group, terms, adopted, made, now)
        for entry in record.entries:
            self._try(entry.uri, record)
        if dry_run:
            return record
        return self._ordered("start", record, None, now, by)

    def _adopted(self, group: Group, known: Mapping[str, KnownKey], id_: str, uri: str) -> Entry:
        if id_ not in group.items or id_ not in known:
            raise RotationError(
                f"{id_} is not in the key group {group.name}, whose keys are: {', '.join(group.items)}"
            )
        held = self._place(uri).describe(name_of(uri))
        if held.public_key != load_public_key(known[id_].encoded_key):
            raise RotationError(f"{uri} is not the private half of {id_}")
        return Entry(
            uri, Stage.SIGNING, held.created, key_pair_id=id_, fingerprint=held.public_key.fingerprint
        )

    def _last_number(self, group: Group, terms: RotationPolicy, known: Iterable[KnownKey]) -> int:
        """The highest number of any key created for the group, so that names from an earlier rotation are not
        reused."""
        prefix = key_prefix(group.name, group.id)
        names = [key.name for key in self._place(terms.place).list()] + [key.name for key in known]
        numbers = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        return max((int(number) for number in numbers if number.isdecimal()), default=0)

    def rotate(self, group: str, by: str = "") -> KeyGroupRecord:
        """Request a rotation now.

        :raises RotationError: if one is in progress, or rotation is paused.
        """
        return self._order(group, "rotate", by, commands.rotated)

    def pause(self, group: str, by: str = "") -> KeyGroupRecord:
        return self._order(group, "pause", by, lambda record, now: commands.paused(record))

    def resume(self, group: str, by: str = "") -> KeyGroupRecord:
        return self._order(group, "resume", by, commands.resumed)

    def change_terms(
        self, group: str, change: Callable[[RotationPolicy], RotationPolicy], by: str = ""
    ) -> KeyGroupRecord:
        """Change the rotation policy.

        :raises RotationError: if no rotation can follow the changed policy.
        """
        return self._order(
            group,
            "terms",
            by,
            lambda record, now: record.with_terms(commands.validated(change(record.terms), now)),
        )

    def rollback(self, group: str, by: str = "") -> KeyGroupRecord:
        """Return to the previous signing key.

        :raises RotationError: if there is no key to return to, or that key cannot sign.
        """

        def back(record: KeyGroupRecord, now: float) -> KeyGroupRecord:
            previous = commands.rollback_target(record)
            if previous is not None:
                self._try(previous.uri, record)
            return commands.rolled_back(self.facts(VersionedRecord(record, "")), self.now())

        return self._order(group, "rollback", by, back)

    def emergency(self, group: str, key: str, by: str = "", *, keep_serving: bool = False) -> KeyGroupRecord:
        """Mark the key as compromised, in this group and in every other group whose record also contains it.

        :raises RotationError: if the key is not part of the rotation or is RETIRED, or if another group's record cannot
            be changed; this group's record and all the others are changed even then.
        """
        record = self._mark_compromised(group, key, by, keep_serving=keep_serving)
        faults = []
        for other, uri in self.sharing(group, commands.find_entry(record, key)).items():
            try:
                self._mark_compromised(other, uri, by, keep_serving=keep_serving)
            except (KeyfrontError, OSError) as error:
                faults.append(f"{other} has the same key, and could not be marked compromised: {error}")
        if faults:
            raise RotationError("; ".join(faults))
        return record

    def _mark_compromised(self, group: str, key: str, by: str, *, keep_serving: bool) -> KeyGroupRecord:
        return self._order(
            group,
            "emergency",
            by,
            lambda record, now: commands.compromised(record, key, now, keep_serving=keep_serving),
            key,
        )

    def sharing(self, group: str, entry: Entry) -> dict[str, str]:
        """The other groups whose record also contains the key and whose edges may trust it, each with the key's URI
        there."""
        found = {}
        for other in self.groups():
            kept = load(self.records, other) if other != group else None
            for each in kept.record.entries if kept else ():
                if each.stage is not Stage.RETIRED and same_key(each, entry):
                    found[other] = each.uri
        return found

    def stop(self, group: str, by: str = "") -> KeyGroupRecord:
        """Stop rotating the group. Its keys stay where they are. Signers that follow the record stop once they have not
        seen it for `max_staleness` seconds."""
        now = self.now()
        kept = self.versioned(group)
        event = _command_event("stop", kept.record, now, by)
        self._notify("before", event)
        self.records.remove(record_name(group), kept.version)
        self._notify("after", event)
        return kept.record

    def _order(
        self,
        group: str,
        action: str,
        by: str,
        change: Callable[[KeyGroupRecord, float], KeyGroupRecord],
        key: str = "",
    ) -> KeyGroupRecord:
        try:
            self.api.key_group(
                self.versioned(group).record.key_group_id
            )  # the response carries CloudFront's time
        except AccountError:
            pass  # commands also work without CloudFront
        for _ in range(10):
            kept, now = self.versioned(group), self.now()
            try:
                return self._ordered(action, change(kept.record, now), kept.version, now, by, key)
            except RecordChanged:
                continue
        raise RotationError(f"the record of {group} keeps changing: try again")

    def _ordered(
        self, action: str, record: KeyGroupRecord, version: str | None, now: float, by: str, key: str = ""
    ) -> KeyGroupRecord:
        event = _command_event(action, record, now, by, key)
        if not event.urgent:
            self._notify("before", event)
        try:
            written = save(self.records, record, version, now=now).record
        except KeyfrontError as error:
            self._notify("failed", event, str(error))
            raise
        self._notify_late(event)
        self._notify("after", event)
        return written

    # ---- events

    def _notify(self, phase: Phase, event: RotationEvent, error: str = "") -> None:
        notify(self._listeners, replace(event, moment=phase, error=error))

    def _notify_late(self, event: RotationEvent) -> None:
        """Send the `before` event of an emergency step after the step was taken, so that no listener can delay it."""
        if event.urgent:
            with _unhindered():
                self._notify("before", event)


def _step_event(record: KeyGroupRecord, step: Step, now: float, urgent: bool) -> RotationEvent:
    return RotationEvent(
        "before",
        now,
        record.group,
        record.key_group_id,
        step.action.value,
        key=step.name,
        key_pair_id=step.key_pair_id,
        reason=step.reason,
        urgent=urgent,
    )


def _command_event(action: str, record: KeyGroupRecord, now: float, by: str, key: str = "") -> RotationEvent:
    return RotationEvent(
        "before",
        now,
        record.group,
        record.key_group_id,
        action,
        key=key,
        by=by,
        urgent=action == "emergency",
    )


@contextlib.contextmanager
def _unhindered() -> Iterator[None]:
    """Log what a listener raises, so that it cannot block an emergency."""
    try:
        yield
    except Exception as error:
        log.error("a listener tried to stop an emergency: %s", error)


def _again(wait: Wait, now: float) -> float:
    if wait.until is not None:
        return min(max(wait.until, now), now + ANYWAY)
    return now + (LATER if wait.attention else LOOK)
