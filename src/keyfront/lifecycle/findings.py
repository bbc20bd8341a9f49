"""Warnings that follow from the dates and the use of keys, each with advice. Pure.

CloudFront's keys do not expire. The term of a key comes from the schedule of its group's rotation or, without one, from
the age beyond which no key should sign (`Bounds.age`). A draining key ends when its links expire.

Each warning is one `Finding`: a code that never changes its meaning, a severity, a subject, a sentence, and advice.
docs/reference/warnings.md lists them, and a test compares that list.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from enum import IntEnum

import msgspec

from keyfront.cloudfront.key_usage import KeyUse, KeyUses
from keyfront.custody.key_record import DAY, Entry, KeyGroupRecord, Stage
from keyfront.errors import RotationError
from keyfront.lifecycle.key_names import name_of, named
from keyfront.lifecycle.rotation import next_due, next_key, same_key

SPANS = (1 * DAY, 7 * DAY, 30 * DAY, 60 * DAY)
"""How long before the end of a term a warning is issued, in seconds, from the last warning to the first."""
CLOCKS = 60.0
"""Seconds by which the clocks of signers and edges may differ."""


class Severity(IntEnum):
    """NOTE: for information. WARNING: action is needed soon. CRITICAL: viewers or signers are being refused or soon
    will be, or a key is where it should not be."""

    NOTE = 1
    WARNING = 2
    CRITICAL = 3


CODES: Mapping[str, str] = {
    "compromised-key-in-use": "a compromised key is still trusted or still signs",
    "no-signing-key": "a rotated group has no signing key",
    "key-lost": "custody no longer has the private key of the signing key or the next key",
    "group-missing": "a rotated key group no longer exists at CloudFront",
    "signs-after-its-time": "a draining key still signs",
    "key-ends": "a key is near or past the end of its term, and has no successor",
    "rotation-overdue": "a rotation is behind its schedule",
    "rotation-stuck": "a new key was created long ago and does not sign yet",
    "rotation-paused": "a rotation is paused",
    "lifetime-beyond-policy": "signatures are valid for longer than the group's terms allow",
    "key-unknown-to-custody": "a rotated group trusts a key that does not belong to its rotation",
    "drain-ends": "a draining key will soon be refused, and viewers still use it",
    "drain-in-use": "viewers still use a draining key",
    "group-not-rotated": "a key group that distributions trust is not rotated",
    "group-with-one-key": "a key group has only one key, so nothing can replace it at once",
    "key-in-no-group": "a public key is in no key group",
    "sha1-in-use": "edges accept signatures over SHA-1",
}
"""Every code with its meaning."""


class Finding(msgspec.Struct, frozen=True, rename="pascal"):
    """A warning. `kind` is `key` or `group`, `subject` its id, `name` its name. `sentence` says what is wrong, `advice`
    what to do. `day` is the step of a warning that becomes more urgent over time: 60, 30, 7, or 1 days left, or 0 when
    the term is over; -1 if time does not matter."""

    code: str
    severity: Severity
    kind: str
    subject: str
    name: str
    sentence: str
    advice: str
    day: int = -1


class KnownKey(msgspec.Struct, frozen=True):
    """A public key at CloudFront. `created` is epoch seconds, `groups` the names of the key groups that contain it."""

    id: str
    name: str
    created: float
    groups: tuple[str, ...] = ()


class KnownGroup(msgspec.Struct, frozen=True):
    """A key group, and the ids of the distributions that trust it."""

    id: str
    name: str
    items: tuple[str, ...]
    distributions: tuple[str, ...] = ()


class Commands(msgspec.Struct, frozen=True):
    """Commands for one account, to paste into a shell. `options` are those with which a command of Keyfront's finds the
    account, `before` is what a shell must run before one of the AWS CLI finds it; both are empty if it does anyway."""

    options: str = ""
    before: str = ""

    @classmethod
    def of_keyfront(cls, options: str) -> Commands:
        """The commands for a Keyfront that `options` find."""
        return cls(options, f'eval "$(keyfront env{options})"; ')

    def rotation(self, command: str, *words: str) -> str:
        """`keyfront rotation COMMAND WORDS…`."""
        return f"keyfront rotation {shlex.join([command, *words])}{self.options}"

    def delete_public_key(self, id_: str) -> str:
        """The command that deletes a public key."""
        etag = f"aws cloudfront get-public-key --id {id_} --query ETag --output text"
        return f'{self.before}aws cloudfront delete-public-key --id {id_} --if-match "$({etag})"'


class Facts(msgspec.Struct, frozen=True):
    """The known facts. `records` are the records of rotated groups, None if their location is unknown. `lost` maps a
    key's URI to the reason why custody no longer has it. `uses` is None if the API does not report key usage; Amazon's
    does not. `commands` are those that the advice prints."""

    keys: tuple[KnownKey, ...]
    groups: tuple[KnownGroup, ...]
    records: tuple[KeyGroupRecord, ...] | None = None
    lost: Mapping[str, str] = {}
    uses: KeyUses | None = None
    commands: Commands = Commands()

    def use(self, key_pair_id: str) -> KeyUse | None:
        return self.uses.of(key_pair_id) if self.uses is not None and key_pair_id else None

    def record(self, group: KnownGroup) -> KeyGroupRecord | None:
        return next((each for each in self.records or () if each.key_group_id == group.id), None)

    def key_name(self, key_pair_id: str) -> str:
        return next((key.name for key in self.keys if key.id == key_pair_id), "")


class Bounds(msgspec.Struct, frozen=True):
    """Thresholds, in seconds. `age`: how long a key without a schedule may sign. `recent`: how old an event may be and
    still count as current. `stuck`: how long a new key may take until it signs."""

    age: float = 365 * DAY
    recent: float = 7 * DAY
    stuck: float = DAY


def findings(facts: Facts, now: float, bounds: Bounds | None = None) -> tuple[Finding, ...]:
    """All warnings, the most severe first.

    :param now: epoch seconds.
    """
    found = [each for rule in RULES for each in rule(facts, now, bounds or Bounds())]
    order = list(CODES)
    return tuple(
        sorted(found, key=lambda each: (-each.severity, order.index(each.code), each.name, each.subject))
    )


class KeyTerm(msgspec.Struct, frozen=True):
    """When a key's term ends (epoch seconds): of a `SIGNING` key, by its group's schedule, or without one a year after
    it began to sign; of a `DRAINING` key, until when it is trusted at least. `stage` is empty for a key that nothing
    rotates: its term ends a year after its creation."""

    key_pair_id: str
    name: str
    stage: str
    ends: float


def key_terms(facts: Facts, bounds: Bounds | None = None) -> Iterator[KeyTerm]:
    """The terms of all keys that are in use."""
    age, ours = (bounds or Bounds()).age, set()
    for record in facts.records or ():
        for entry in record.entries:
            ours.add(entry.key_pair_id)
            if entry.stage is Stage.DRAINING:
                ends = entry.drain_until
            elif entry.stage is Stage.SIGNING:
                try:
                    ends = (
                        next_due(record.terms.every, entry.signing)
                        if record.terms.every
                        else entry.signing + age
                    )
                except RotationError:
                    continue
            else:
                continue
            yield KeyTerm(entry.key_pair_id, facts.key_name(entry.key_pair_id), entry.stage.value, ends)
    for key in facts.keys:
        if key.groups and key.id not in ours:
            yield KeyTerm(key.id, key.name, "", key.created + age)


Rule = Callable[[Facts, float, Bounds], Iterable[Finding]]


# ------------------------------------------------------------------------------------------------------------
# Groups under rotation


def _compromised(facts: Facts, now: float, bounds: Bounds) -> Iterator[Finding]:
    """A compromised key that is trusted or signs anywhere, regardless of which record marks it."""
    reported = set()
    records = facts.records or ()
    for record in records:
        for entry in record.entries:
            known = entry.key_pair_id or entry.uri
            if not entry.compromised or known in reported:
                continue
            trusting = [group.name for group in facts.groups if known in group.items]
            signing = [
                each.group for each in records if each.signing is not None and same_key(each.signing, entry)
            ]
            if not trusting and not signing:
                continue
            reported.add(known)
            what = [f"edges trust it through {', '.join(trusting)}"] if trusting else []
            what += [f"{', '.join(signing)} signs with it"] if signing else []
            rotated = {each.group for each in records}
            yield _of_key(
                "compromised-key-in-use",
                Severity.CRITICAL,
                facts,
                entry,
                f"{named(entry)} is compromised, and {' and '.join(what)}",
                "; ".join(
                    facts.commands.rotation("emergency", name, known)
                    if name in rotated
                    else f"remove it from {name}, which is not rotated"
                    for name in dict.fromkeys((*trusting, *signing))
                )
                + f"; if that was done already, see what it waits for: {facts.commands.rotation('status')}",
            )


def _signing(facts: Facts, now: float, bounds: Bounds) -> Iterator[Finding]:
    """The signing key: whether there is one, whether custody has it, and when its term ends."""
    for record in facts.records or ():
        entry = record.signing
        status = facts.commands.rotation("status", record.group)
        if entry is None:
            following = next_key(record)
            if following is None or now - following.created > bounds.stuck:
                yield _of_group(
                    "no-signing-key",
                    Severity.CRITICAL,
                    record,
                    f"no key of {record.group} signs",
                    f"see what it waits for: {status}",
                )
            continue
        if why := facts.lost.get(entry.uri):
            yield _of_key(
                "key-lost",
                Severity.CRITICAL,
                facts,
                entry,
                f"{named(entry)} signs for {record.group}, but custody can no longer sign with it: {why}",
                f"replace it: {facts.commands.rotation('rotate', record.group)}; "
                "or restore it from a backup (docs/guide/backup.md)",
            )
        yield from _end(facts, record, entry, now, bounds)


def _end(facts: Facts, record: KeyGroupRecord, entry: Entry, now: float, bounds: Bounds) -> Iterator[Finding]:
    """The end of the signing key's term. A valid schedule that is not paused takes care of it."""
    terms = record.terms
    if terms.every == "":
        ends, because = entry.signing + bounds.age, "has no schedule"
        advice = (
            f"give it one: {facts.commands.rotation('terms', record.group, '--every', '90d')}; or rotate it now: "
            f"{facts.commands.rotation('rotate', record.group)}"
        )
    else:
        try:
            ends = next_due(terms.every, entry.signing)
            length = ends - entry.signing
        except RotationError:
            return
        because, advice = "is paused", f"continue it: {facts.commands.rotation('resume', record.group)}"
        if not terms.paused:
            late = min(DAY, max(CLOCKS, length / 10))
            if now > ends + late and not next_key(record):
                yield _of_group(
                    "rotation-overdue",
                    Severity.WARNING,
                    record,
                    f"the rotation of {record.group} was due on {date(ends)}, and no next key has been created",
                    f"see what it waits for: {facts.commands.rotation('status', record.group)}; something must perform "
                    "its steps: a running Keyfront that watches its record, or "
                    f"{facts.commands.rotation('run', record.group)}",
                )
            return
    if next_key(record):
        return
    day = _day(ends, now)
    if day is not None:
        yield _of_key(
            "key-ends",
            _by_day(day),
            facts,
            entry,
            f"{named(entry)} signs for {record.group} since {date(entry.signing)} and {_ends(ends, now)}; "
            f"the rotation {because}",
            advice,
            day,
        )


def _next(facts: Facts, now: float, bounds: Bounds) -> Iterator[Finding]:
    """The next key."""
    for record in facts.records or ():
        if record.terms.paused:
            yield _of_group(
                "rotation-paused",
                Severity.WARNING,
                record,
                f"the rotation of {record.group} is paused",
                f"continue it: {facts.commands.rotation('resume', record.group)}",
            )
        entry = next_key(record)
        if entry is None:
            continue
        if why := facts.lost.get(entry.uri):
            yield _of_key(
                "key-lost",
                Severity.WARNING,
                facts,
                entry,
                f"{named(entry)} is the next key of {record.group}, but custody does not have it: {why}",
                f"see what the rotation does about it: {facts.commands.rotation('status', record.group)}",
            )
        if now - entry.created > bounds.stuck and not record.terms.paused:
            yield _of_group(
                "rotation-stuck",
                Severity.WARNING,
                record,
                f"{named(entry)} was created for {record.group} on {date(entry.created)} and does not sign yet",
                f"see what it waits for: {facts.commands.rotation('status', record.group)}",
            )


def _draining(facts: Facts, now: float, bounds: Bounds) -> Iterator[Finding]:
    """Draining keys: whether any signer still signs with them, and whether viewers still use them."""
    for record in facts.records or ():
        for entry in record.entries:
            use = facts.use(entry.key_pair_id)
            if entry.stage is not Stage.DRAINING or use is None:
                continue
            # No signature made under the terms is valid after this.
            last = entry.draining + max(entry.reach, record.terms.reach) + CLOCKS
            if use.signatures_end > last:
                yield _of_key(
                    "signs-after-its-time",
                    Severity.CRITICAL,
                    facts,
                    entry,
                    f"{named(entry)} stopped signing for {record.group} on {date(entry.draining)}, but edges have "
                    f"accepted a signature of it that is valid until {date(use.signatures_end)}: an application "
                    f"still signs with it, or for longer than the terms allow{_where(use)}",
                    "find who signs with it: the access log has each request with its key_pair_id; let it follow the "
                    "record (docs/guide/signing.md). If it is not one of your signers: "
                    + facts.commands.rotation("emergency", record.group, entry.key_pair_id),
                )
                continue
            if now - use.last_seen > min(bounds.recent, DAY):
                continue
            ends = max(entry.drain_until, use.signatures_end)
            day = _day(ends, now)
            if day is not None and day <= 7:
                yield _of_key(
                    "drain-ends",
                    Severity.NOTE,
                    facts,
                    entry,
                    f"{named(entry)} drains until {date(ends)}, and edges last saw it on {date(use.last_seen)}"
                    f"{_share(use)}{_where(use)}",
                    "none, if those links expire by then; they are refused afterward",
                    day,
                )
            else:
                yield _of_key(
                    "drain-in-use",
                    Severity.NOTE,
                    facts,
                    entry,
                    f"{named(entry)} drains until {date(ends)} and viewers still use it{_share(use)}{_where(use)}",
                    "none: the links that it signed are valid until they expire",
                )


def _unknown_keys(facts: Facts, now: float, bounds: Bounds) -> Iterator[Finding]:
    """Keys of a rotated group that do not belong to the rotation, and groups that no longer exist."""
    for record in facts.records or ():
        group = next((each for each in facts.groups if each.id == record.key_group_id), None)
        if group is None:
            yield _of_group(
                "group-missing",
                Severity.CRITICAL,
                record,
                f"{record.group} ({record.key_group_id}) is rotated, but no longer exists at CloudFront",
                f"end its rotation: {facts.commands.rotation('stop', record.group)}; or start again with a new group",
            )
            continue
        ours = {entry.key_pair_id for entry in record.entries}
        for id_ in group.items:
            if id_ not in ours:
                name = facts.key_name(id_)
                yield Finding(
                    "key-unknown-to-custody",
                    Severity.WARNING,
                    "key",
                    id_,
                    name,
                    f"{record.group} trusts {name or id_} ({id_}), which does not belong to its rotation: whoever has "
                    "its private key can sign, and nothing will ever remove it",
                    f"remove it from the group when no application signs with it any longer{_seen(facts, id_)}",
                )


def _lifetimes(facts: Facts, now: float, bounds: Bounds) -> Iterator[Finding]:
    """Signatures that are valid for longer than the terms allow. A signature's lifetime is at least the time from its
    first acceptance to its expiration."""
    for record in facts.records or ():
        most = record.terms.max_lifetime
        for entry in record.entries:
            use = facts.use(entry.key_pair_id)
            if use is None or entry.stage is Stage.RETIRED or now >= use.longest_ends:
                continue
            if use.longest_lifetime > most + CLOCKS:
                yield _of_key(
                    "lifetime-beyond-policy",
                    Severity.WARNING,
                    facts,
                    entry,
                    f"edges accepted a signature of {named(entry)} with a lifetime of at least "
                    f"{length(use.longest_lifetime)}; the terms of {record.group} allow {length(most)}{_where(use)}",
                    "let signers follow the record, which refuses longer lifetimes, or allow them: "
                    + facts.commands.rotation(
                        "terms", record.group, "--max-lifetime", length(use.longest_lifetime)
                    ),
                )


# ------------------------------------------------------------------------------------------------------------
# All groups and keys


def _groups(facts: Facts, now: float, bounds: Bounds) -> Iterator[Finding]:
    for group in facts.groups:
        record = facts.record(group)
        start = facts.commands.rotation("start", group.name)
        if record is None and facts.records is not None and group.distributions:
            yield Finding(
                "group-not-rotated",
                Severity.NOTE,
                "group",
                group.id,
                group.name,
                f"{group.name} is trusted by {_list(group.distributions)} and is not rotated",
                f"rotate it: {start}",
            )
        scheduled = record is not None and record.terms.every != ""
        if len(group.items) == 1 and not scheduled:
            yield Finding(
                "group-with-one-key",
                Severity.NOTE if record else Severity.WARNING,
                "group",
                group.id,
                group.name,
                f"{group.name} has only one key, {group.items[0]}: when it is removed, every link stops working",
                facts.commands.rotation("rotate", group.name) if record else f"rotate it: {start}",
            )


def _keys(facts: Facts, now: float, bounds: Bounds) -> Iterator[Finding]:
    ours = {
        entry.key_pair_id: entry
        for record in facts.records or ()
        for entry in record.entries
        if entry.key_pair_id
    }
    for key in facts.keys:
        use = facts.use(key.id)
        if not key.groups and key.id not in ours:
            yield Finding(
                "key-in-no-group",
                Severity.NOTE,
                "key",
                key.id,
                key.name,
                f"{key.name} ({key.id}) of {date(key.created)} is in no key group: no edge accepts its signatures",
                f"add it to a group, or delete it: {facts.commands.delete_public_key(key.id)}",
            )
        if key.groups and key.id not in ours:
            ends = key.created + bounds.age
            day = _day(ends, now)
            if day is not None:
                yield Finding(
                    "key-ends",
                    min(_by_day(day), Severity.WARNING),
                    "key",
                    key.id,
                    key.name,
                    f"{key.name} ({key.id}) of {_list(key.groups)} was created on {date(key.created)} and "
                    f"{_ends(ends, now)}; nothing rotates it",
                    f"rotate its group: {facts.commands.rotation('start', key.groups[0])}",
                    day,
                )
        sha1 = use.hashes.get("SHA1") if use is not None else None
        if sha1 is not None and use is not None and now - sha1.last_seen <= bounds.recent:
            others = ", besides SHA-256" if "SHA256" in use.hashes else ""
            yield Finding(
                "sha1-in-use",
                Severity.NOTE,
                "key",
                key.id,
                key.name,
                f"edges accepted a signature of {key.name} ({key.id}) over SHA-1 on {date(sha1.last_seen)}{others}",
                "sign with SHA256 (hash_name of the SDK and of the terms, `--hash SHA256` of the command line), which "
                "CloudFront accepts too",
            )


RULES: tuple[Rule, ...] = (
    _compromised,
    _signing,
    _next,
    _draining,
    _unknown_keys,
    _lifetimes,
    _groups,
    _keys,
)


# ------------------------------------------------------------------------------------------------------------
# Dates and words


def ends(
    record: KeyGroupRecord, entry: Entry, use: KeyUse | None, bounds: Bounds | None = None
) -> float | None:
    """When a key's term ends, epoch seconds: for a signing key by its schedule or its age, for a draining key when its
    links expire. None for any other key."""
    if entry.stage is Stage.SIGNING:
        if record.terms.every == "":
            return entry.signing + (bounds or Bounds()).age
        try:
            return next_due(record.terms.every, entry.signing)
        except RotationError:
            return None
    if entry.stage is Stage.DRAINING:
        return max(entry.drain_until, use.signatures_end if use is not None else 0.0)
    return None


def date(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")


def length(seconds: float) -> str:
    """A duration as the command line accepts it, rounded up: 7d, 36h, 90m, 10s."""
    for size, unit in ((DAY, "d"), (3600.0, "h"), (60.0, "m")):
        if seconds >= size:
            whole = seconds / size
            if abs(whole - round(whole)) * size < CLOCKS or unit == "m":
                return f"{round(whole)}{unit}"
            if whole >= 2:
                return f"{int(whole) + 1}{unit}"
    return f"{int(seconds) + 1}s"


def _day(ends: float, now: float) -> int | None:
    """Which of the `SPANS` before `ends` has begun, in days; 0 after the end, None before the first."""
    if now >= ends:
        return 0
    return next((int(span / DAY) for span in SPANS if ends - now <= span), None)


def _by_day(day: int) -> Severity:
    return Severity.CRITICAL if day <= 1 else Severity.WARNING if day <= 30 else Severity.NOTE


def _ends(ends: float, now: float) -> str:
    return f"was due to end on {date(ends)}" if now >= ends else f"is due to end on {date(ends)}"


def _share(use: KeyUse) -> str:
    return f" ({use.share:.1%} of the signed requests within a day)" if use.requests_last_day else ""


def _seen(facts: Facts, id_: str) -> str:
    use = facts.use(id_)
    if facts.uses is None:
        return ""
    return f" (edges last saw it on {date(use.last_seen)})" if use else " (edges have never seen it)"


def _where(use: KeyUse) -> str:
    return f", at {_list(sorted(use.distributions))}" if use.distributions else ""


def _list(names: Iterable[str]) -> str:
    found = list(names)
    return ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")


def _of_group(code: str, severity: Severity, record: KeyGroupRecord, sentence: str, advice: str) -> Finding:
    return Finding(code, severity, "group", record.key_group_id, record.group, sentence, advice)


def _of_key(
    code: str, severity: Severity, facts: Facts, entry: Entry, sentence: str, advice: str, day: int = -1
) -> Finding:
    name = facts.key_name(entry.key_pair_id) or name_of(entry.uri)
    return Finding(code, severity, "key", entry.key_pair_id or entry.uri, name, sentence, advice, day)
