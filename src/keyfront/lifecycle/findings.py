"""What the dates and the uses of keys call for: warnings, each with what to do about it. Pure.

A key has no end of its own at CloudFront. What ends it is what was agreed on: the schedule of its group's rotation, or,
where there is none, an age beyond which no key should sign (`Bounds.age`). A key that drains ends when its links do.

Each warning is one `Finding`: a code that never changes its meaning, how much it matters, whom it is about, a sentence,
and what to do. docs/reference/warnings.md lists them, and a test holds that list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from enum import IntEnum

import msgspec

from keyfront.cloudfront.key_usage import KeyUse, KeyUses
from keyfront.custody.key_record import DAY, Entry, KeyGroupRecord, Stage
from keyfront.errors import RotationError
from keyfront.lifecycle.rotation import name_of, named, next_due, next_key, same_key

SPANS = (1 * DAY, 7 * DAY, 30 * DAY, 60 * DAY)
"""How long before an end it is told, from the last time to the first."""
CLOCKS = 60.0
"""How far clocks of signers and edges may be apart, seconds."""


class Severity(IntEnum):
    """NOTE: to know. WARNING: to do something about, some day soon. CRITICAL: viewers or signers are, or will soon be,
    refused, or a key is where it should not be."""

    NOTE = 1
    WARNING = 2
    CRITICAL = 3


CODES: Mapping[str, str] = {
    "compromised-key-in-use": "a key that is compromised is still trusted or still signs",
    "no-signing-key": "a group under rotation has no key that signs",
    "key-lost": "custody no longer has the private half of a key that signs or is to sign",
    "group-missing": "a key group under rotation is gone from CloudFront",
    "signs-after-its-time": "a key that drains is still being signed with",
    "key-ends": "a key nears, or is past, the end of its term, and nothing is set to take its place",
    "rotation-overdue": "a rotation should have happened by its schedule",
    "rotation-stuck": "a new key was made long ago and does not sign yet",
    "rotation-paused": "a rotation is paused",
    "lifetime-beyond-policy": "signatures end further ahead than the group's terms allow",
    "key-unknown-to-custody": "a group under rotation trusts a key that is not of its rotation",
    "drain-ends": "a key that drains will soon be refused, and viewers still come with it",
    "drain-in-use": "a key that drains still lets viewers in",
    "group-not-rotated": "a key group that distributions trust is not under rotation",
    "group-with-one-key": "a key group has one key, so that nothing can take its place at once",
    "key-in-no-group": "a public key is in no key group",
    "sha1-in-use": "edges accept signatures over SHA-1",
}
"""Every code, and what it says."""


class Finding(msgspec.Struct, frozen=True, rename="pascal"):
    """A warning. `kind` is `key` or `group`, `subject` its id, `name` what people call it. `sentence` says what is,
    `advice` what to do. `day` changes when it matters more than before: how many days are left of those at which it is
    told (60, 30, 7, 1, and 0 when the time has come), -1 where time does not matter."""

    code: str
    severity: Severity
    kind: str
    subject: str
    name: str
    sentence: str
    advice: str
    day: int = -1


class KnownKey(msgspec.Struct, frozen=True):
    """A public key that CloudFront knows. `created` is epoch seconds, `groups` the names of the key groups that it is
    in."""

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


class Facts(msgspec.Struct, frozen=True):
    """What is known. `records` are those of groups under rotation, None where the place of records is not known.
    `lost` says of URIs why custody has no such key any more. `uses` is None where nobody tells, as at Amazon's."""

    keys: tuple[KnownKey, ...]
    groups: tuple[KnownGroup, ...]
    records: tuple[KeyGroupRecord, ...] | None = None
    lost: Mapping[str, str] = {}
    uses: KeyUses | None = None

    def use(self, key_pair_id: str) -> KeyUse | None:
        return self.uses.of(key_pair_id) if self.uses is not None and key_pair_id else None

    def record(self, group: KnownGroup) -> KeyGroupRecord | None:
        return next((each for each in self.records or () if each.key_group_id == group.id), None)

    def key_name(self, key_pair_id: str) -> str:
        return next((key.name for key in self.keys if key.id == key_pair_id), "")


class Bounds(msgspec.Struct, frozen=True):
    """What is too much. Lengths are seconds. `age` is how old a key without a schedule may become; `recent` within
    which something counts as happening now; `stuck` how long a new key may take until it signs."""

    age: float = 365 * DAY
    recent: float = 7 * DAY
    stuck: float = DAY


def findings(facts: Facts, now: float, bounds: Bounds | None = None) -> tuple[Finding, ...]:
    """All warnings, those that matter most first.

    :param now: epoch seconds.
    """
    found = [each for rule in RULES for each in rule(facts, now, bounds or Bounds())]
    order = list(CODES)
    return tuple(
        sorted(found, key=lambda each: (-each.severity, order.index(each.code), each.name, each.subject))
    )


Rule = Callable[[Facts, float, Bounds], Iterable[Finding]]


# ------------------------------------------------------------------------------------------------------------
# Groups under rotation


def _burnt(facts: Facts, now: float, bounds: Bounds) -> Iterator[Finding]:
    """A key that was called compromised, wherever it is trusted, and whichever record has it."""
    told = set()
    records = facts.records or ()
    for record in records:
        for entry in record.entries:
            known = entry.key_pair_id or entry.uri
            if not entry.compromised or known in told:
                continue
            trusting = [group.name for group in facts.groups if known in group.items]
            signing = [
                each.group for each in records if each.signing is not None and same_key(each.signing, entry)
            ]
            if not trusting and not signing:
                continue
            told.add(known)
            what = [f"edges trust it by {', '.join(trusting)}"] if trusting else []
            what += [f"{', '.join(signing)} signs with it"] if signing else []
            rotated = {each.group for each in records}
            yield _of_key(
                "compromised-key-in-use",
                Severity.CRITICAL,
                facts,
                entry,
                f"{named(entry)} is compromised, and {' and '.join(what)}",
                "; ".join(
                    f"keyfront rotation emergency {name} {known}"
                    if name in rotated
                    else f"take it out of {name}, which is not under rotation"
                    for name in dict.fromkeys((*trusting, *signing))
                )
                + "; where that was said already, see what it waits for: keyfront rotation status",
            )


def _signing(facts: Facts, now: float, bounds: Bounds) -> Iterator[Finding]:
    """The key that signs: whether there is one, whether custody has it, and when it ends."""
    for record in facts.records or ():
        entry = record.signing
        rotate = f"keyfront rotation status {record.group}"
        if entry is None:
            following = next_key(record)
            if following is None or now - following.created > bounds.stuck:
                yield _of_group(
                    "no-signing-key",
                    Severity.CRITICAL,
                    record,
                    f"no key of {record.group} signs",
                    f"see what it waits for: {rotate}",
                )
            continue
        if why := facts.lost.get(entry.uri):
            yield _of_key(
                "key-lost",
                Severity.CRITICAL,
                facts,
                entry,
                f"{named(entry)} signs for {record.group}, and custody cannot sign with it any more: {why}",
                f"let another key take its place: keyfront rotation rotate {record.group}; "
                "or bring it back from a backup (keyfront backup restore)",
            )
        yield from _end(facts, record, entry, now, bounds)


def _end(facts: Facts, record: KeyGroupRecord, entry: Entry, now: float, bounds: Bounds) -> Iterator[Finding]:
    """The end of the key that signs. A schedule sees to it, as long as it is one and is not paused."""
    terms = record.terms
    if terms.every == "":
        ends, because = entry.signing + bounds.age, "has no schedule"
        advice = (
            f"give it one (keyfront rotation terms {record.group} --every 90d), or rotate it now: "
            f"keyfront rotation rotate {record.group}"
        )
    else:
        try:
            ends = next_due(terms.every, entry.signing)
            length = ends - entry.signing
        except RotationError:
            return
        because, advice = "is paused", f"let it go on: keyfront rotation resume {record.group}"
        if not terms.paused:
            late = min(DAY, max(CLOCKS, length / 10))
            if now > ends + late and not next_key(record):
                yield _of_group(
                    "rotation-overdue",
                    Severity.WARNING,
                    record,
                    f"the rotation of {record.group} was due on {date(ends)}, and no next key has been made",
                    f"see what it waits for: keyfront rotation status {record.group}; something must run it: "
                    "`keyfront up`, or `keyfront rotation run`",
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
    """The key that is to sign next."""
    for record in facts.records or ():
        if record.terms.paused:
            yield _of_group(
                "rotation-paused",
                Severity.WARNING,
                record,
                f"the rotation of {record.group} is paused",
                f"let it go on: keyfront rotation resume {record.group}",
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
                f"{named(entry)} is to sign for {record.group} next, and custody does not have it: {why}",
                f"see what the rotation does about it: keyfront rotation status {record.group}",
            )
        if now - entry.created > bounds.stuck and not record.terms.paused:
            yield _of_group(
                "rotation-stuck",
                Severity.WARNING,
                record,
                f"{named(entry)} was made for {record.group} on {date(entry.created)} and does not sign yet",
                f"see what it waits for: keyfront rotation status {record.group}",
            )


def _draining(facts: Facts, now: float, bounds: Bounds) -> Iterator[Finding]:
    """Keys that no signer should use any more, and who comes with them still."""
    for record in facts.records or ():
        for entry in record.entries:
            use = facts.use(entry.key_pair_id)
            if entry.stage is not Stage.DRAINING or use is None:
                continue
            # Whoever obeys the terms signed nothing that is good after this.
            last = entry.draining + max(entry.reach, record.terms.reach) + CLOCKS
            if use.signatures_end > last:
                yield _of_key(
                    "signs-after-its-time",
                    Severity.CRITICAL,
                    facts,
                    entry,
                    f"{named(entry)} left off signing for {record.group} on {date(entry.draining)}, and edges have "
                    f"accepted a signature of it that is good until {date(use.signatures_end)}: somebody signs with it "
                    f"still, or for longer than the terms allow{_where(use)}",
                    "find who signs with it: the access log has each request with its key_pair_id; let it follow the "
                    "record (docs/guide/signing.md). When it is nobody of yours: keyfront rotation emergency "
                    f"{record.group} {entry.key_pair_id}",
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
                    f"{named(entry)} drains until {date(ends)}, and edges saw it last on {date(use.last_seen)}"
                    f"{_share(use)}{_where(use)}",
                    "nothing, if those are links that end by then; they are refused after",
                    day,
                )
            else:
                yield _of_key(
                    "drain-in-use",
                    Severity.NOTE,
                    facts,
                    entry,
                    f"{named(entry)} drains until {date(ends)} and still lets viewers in{_share(use)}{_where(use)}",
                    "nothing: links that it signed are good until they end",
                )


def _strangers(facts: Facts, now: float, bounds: Bounds) -> Iterator[Finding]:
    """Keys in a group under rotation that are not the rotation's, and groups that are gone."""
    for record in facts.records or ():
        group = next((each for each in facts.groups if each.id == record.key_group_id), None)
        if group is None:
            yield _of_group(
                "group-missing",
                Severity.CRITICAL,
                record,
                f"{record.group} ({record.key_group_id}) is under rotation, and gone from CloudFront",
                f"end its rotation: keyfront rotation stop {record.group}; or begin anew with a new group",
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
                    f"{record.group} trusts {name or id_} ({id_}), which is not of its rotation: whoever has its "
                    "private half can sign, and nothing will ever take it out",
                    f"take it out of the group when nobody signs with it any more{_seen(facts, id_)}",
                )


def _lifetimes(facts: Facts, now: float, bounds: Bounds) -> Iterator[Finding]:
    """Signatures that end further ahead than the terms say. How far ahead one ended when it was first accepted is the
    least that its lifetime can have been."""
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
                    f"edges accepted a signature of {named(entry)} for at least {length(use.longest_lifetime)} ahead; "
                    f"the terms of {record.group} allow {length(most)}{_where(use)}",
                    "let whoever signs follow the record (it refuses longer ones), or allow it: "
                    f"keyfront rotation terms {record.group} --max-lifetime {length(use.longest_lifetime)}",
                )


# ------------------------------------------------------------------------------------------------------------
# All groups and keys


def _groups(facts: Facts, now: float, bounds: Bounds) -> Iterator[Finding]:
    for group in facts.groups:
        record = facts.record(group)
        start = f"keyfront rotation start {group.name}"
        if record is None and facts.records is not None and group.distributions:
            yield Finding(
                "group-not-rotated",
                Severity.NOTE,
                "group",
                group.id,
                group.name,
                f"{group.name} is trusted by {_list(group.distributions)} and is not under rotation",
                f"put it under rotation: {start}",
            )
        scheduled = record is not None and record.terms.every != ""
        if len(group.items) == 1 and not scheduled:
            yield Finding(
                "group-with-one-key",
                Severity.NOTE if record else Severity.WARNING,
                "group",
                group.id,
                group.name,
                f"{group.name} has one key, {group.items[0]}: when it has to go, every link goes with it",
                f"keyfront rotation rotate {group.name}" if record else f"put it under rotation: {start}",
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
                f"{key.name} ({key.id}) of {date(key.created)} is in no key group: nothing that it signs is accepted",
                f"delete it, or put it into a group: aws cloudfront delete-public-key --id {key.id} --if-match ETAG",
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
                    f"{key.name} ({key.id}) of {_list(key.groups)} was made on {date(key.created)} and "
                    f"{_ends(ends, now)}; nothing rotates it",
                    f"put its group under rotation: keyfront rotation start {key.groups[0]}",
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
                "CloudFront takes too",
            )


RULES: tuple[Rule, ...] = (_burnt, _signing, _next, _draining, _strangers, _lifetimes, _groups, _keys)


# ------------------------------------------------------------------------------------------------------------
# Dates and words


def ends(
    record: KeyGroupRecord, entry: Entry, use: KeyUse | None, bounds: Bounds | None = None
) -> float | None:
    """When the term of a key ends: signing by its schedule or its age, draining with its links; epoch seconds, None
    for a key that does not sign yet or no more."""
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
    """In words that the command line takes: 7d, 36h, 90m, 10s."""
    for size, unit in ((DAY, "d"), (3600.0, "h"), (60.0, "m")):
        if seconds >= size:
            whole = seconds / size
            if abs(whole - round(whole)) * size < CLOCKS or unit == "m":
                return f"{round(whole)}{unit}"
            if whole >= 2:
                return f"{int(whole) + 1}{unit}"
    return f"{int(seconds) + 1}s"


def _day(ends: float, now: float) -> int | None:
    """At which of the spans before `ends` we are, in days, 0 after it; None: before the first."""
    if now >= ends:
        return 0
    return next((int(span / DAY) for span in SPANS if ends - now <= span), None)


def _by_day(day: int) -> Severity:
    return Severity.CRITICAL if day <= 1 else Severity.WARNING if day <= 30 else Severity.NOTE


def _ends(ends: float, now: float) -> str:
    return f"was due to end on {date(ends)}" if now >= ends else f"is due to end on {date(ends)}"


def _share(use: KeyUse) -> str:
    return f" ({use.share:.1%} of what was signed for within a day)" if use.requests_last_day else ""


def _seen(facts: Facts, id_: str) -> str:
    use = facts.use(id_)
    if facts.uses is None:
        return ""
    return f" (edges saw it last on {date(use.last_seen)})" if use else " (edges have never seen it)"


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
