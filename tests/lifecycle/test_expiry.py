"""Key dates and uses, and the resulting warnings: one table of cases, each the minimum that causes a warning, and
what clears it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from keyfront.cloudfront.key_usage import Counted, KeyUse, KeyUses
from keyfront.custody.key_record import DAY, Entry, KeyGroupRecord, RotationPolicy, Stage
from keyfront.lifecycle.findings import (
    CODES,
    Bounds,
    Commands,
    Facts,
    Finding,
    KnownGroup,
    KnownKey,
    Severity,
    ends,
    findings,
    key_terms,
    length,
)
from tests.rows import rows

NOW = 1_800_000_000.0
HOUR = 3600.0
replace = msgspec.structs.replace


def entry(number: int, stage: Stage, **more: Any) -> Entry:
    times: dict[str, Any] = {
        Stage.CREATED: {},
        Stage.PUBLISHED: {"published": NOW - HOUR},
        Stage.SIGNING: {"published": NOW - DAY, "signing": NOW - DAY},
        Stage.DRAINING: {"signing": NOW - 40 * DAY, "draining": NOW - 2 * DAY, "drain_until": NOW + 28 * DAY},
        Stage.RETIRED: {"retired": NOW - DAY},
    }[stage]
    known: dict[str, Any] = {"key_pair_id": f"K{number}", "created": NOW - 2 * HOUR} | times | more
    return Entry(f"file:/keys/films-{number}", stage, **known)


def record(*entries: Entry, **terms: Any) -> KeyGroupRecord:
    return KeyGroupRecord(
        "films", "G1", RotationPolicy("file:/keys/", **({"every": 90 * DAY} | terms)), entries
    )


def use(key: str, **more: Any) -> KeyUse:
    return KeyUse(key, **({"first_seen": NOW - DAY, "last_seen": NOW - 60, "requests": 10} | more))


def facts(*records: KeyGroupRecord, uses: tuple[KeyUse, ...] | None = (), **more: Any) -> Facts:
    """CloudFront knows the keys of the records; they are in the group, which one distribution trusts."""
    ids = [e.key_pair_id for each in records for e in each.entries if e.stage is not Stage.RETIRED]
    known: dict[str, Any] = {
        "keys": tuple(KnownKey(id_, f"films-{id_[1:]}", NOW - DAY, ("films",)) for id_ in ids),
        "groups": (KnownGroup("G1", "films", tuple(ids), ("E1",)),),
        "records": records,
        "uses": None if uses is None else KeyUses(NOW, NOW - 100 * DAY, uses),
    }
    return Facts(**(known | more))


SIGNING = entry(2, Stage.SIGNING)
DRAINING = entry(1, Stage.DRAINING)
HEALTHY = record(DRAINING, SIGNING)
LAST = NOW - 2 * DAY + HEALTHY.terms.reach
"""When nothing is valid any more that the draining key signed by the terms."""


def codes(found: tuple[Finding, ...]) -> list[str]:
    return [each.code for each in found]


def test_a_rotation_that_goes_well_is_worth_no_word() -> None:
    assert findings(facts(HEALTHY, uses=(use("K2"),)), NOW) == ()
    assert findings(facts(record(SIGNING)), NOW) == ()
    assert findings(facts(record(SIGNING, entry(3, Stage.CREATED, key_pair_id=""))), NOW) == ()
    assert findings(facts(record(SIGNING, entry(3, Stage.PUBLISHED))), NOW) == ()
    assert findings(facts(HEALTHY, uses=None), NOW) == ()
    assert findings(Facts((), ()), NOW) == ()


def old(days: float, **terms: Any) -> KeyGroupRecord:
    """A key without a schedule that has been signing for this many days."""
    return record(entry(2, Stage.SIGNING, signing=NOW - days * DAY), DRAINING, **({"every": ""} | terms))


N, W, C = Severity.NOTE, Severity.WARNING, Severity.CRITICAL

CASES: dict[str, tuple[Facts, list[tuple[str, Severity, str]]]] = {
    "a burnt key in two groups, one of them not of a rotation": (
        facts(
            record(entry(1, Stage.DRAINING, compromised=True, leaving=NOW), SIGNING),
            groups=(
                KnownGroup("G1", "films", ("K1", "K2"), ("E1",)),
                KnownGroup("G2", "photos", ("K1", "K2"), ()),
            ),
        ),
        [("compromised-key-in-use", C, "K1")],
    ),
    "a burnt key that another record signs with": (
        facts(
            record(entry(1, Stage.RETIRED, compromised=True, fingerprint="f"), SIGNING),
            replace(
                record(replace(entry(4, Stage.SIGNING, fingerprint="f"), uri="file:/other/x")),
                group="photos",
                key_group_id="G2",
            ),
            groups=(
                KnownGroup("G1", "films", ("K2",), ("E1",)),
                KnownGroup("G2", "photos", ("K4",), ("E1",)),
            ),
        ),
        [("compromised-key-in-use", C, "K1")],
    ),
    "a burnt key that is nowhere any more": (
        facts(record(entry(1, Stage.RETIRED, compromised=True), SIGNING)),
        [],
    ),
    "no key signs": (facts(record(DRAINING)), [("no-signing-key", C, "G1")]),
    "no key signs, and the first is on its way": (facts(record(entry(1, Stage.PUBLISHED), DRAINING)), []),
    "no key signs, and the first is long on its way": (
        facts(record(entry(1, Stage.PUBLISHED, created=NOW - 2 * DAY), replace(DRAINING, key_pair_id="K9"))),
        [("no-signing-key", C, "G1"), ("rotation-stuck", W, "G1")],
    ),
    "the key that signs is gone": (
        facts(HEALTHY, lost={SIGNING.uri: "there is none"}),
        [("key-lost", C, "K2")],
    ),
    "the key to come is gone": (
        facts(record(SIGNING, entry(3, Stage.PUBLISHED)), lost={"file:/keys/films-3": "there is none"}),
        [("key-lost", W, "K3")],
    ),
    "a retired one is gone, as it should be": (
        facts(record(SIGNING, entry(1, Stage.RETIRED)), lost={"file:/keys/films-1": "there is none"}),
        [],
    ),
    "the group is gone": (facts(HEALTHY, groups=()), [("group-missing", C, "G1")]),
    "no schedule, 304 days": (facts(old(304)), []),
    "no schedule, 60 days left": (facts(old(305)), [("key-ends", N, "K2")]),
    "no schedule, 30 days left": (facts(old(335)), [("key-ends", W, "K2")]),
    "no schedule, 7 days left": (facts(old(358)), [("key-ends", W, "K2")]),
    "no schedule, 1 day left": (facts(old(364)), [("key-ends", C, "K2")]),
    "no schedule, too old": (facts(old(366)), [("key-ends", C, "K2")]),
    "no schedule, too old, the next one there": (
        facts(record(entry(2, Stage.SIGNING, signing=NOW - 366 * DAY), entry(3, Stage.PUBLISHED), every="")),
        [],
    ),
    "a schedule, paused, 20 days left": (
        facts(record(DRAINING, entry(2, Stage.SIGNING, signing=NOW - 70 * DAY), paused=True)),
        [("key-ends", W, "K2"), ("rotation-paused", W, "G1")],
    ),
    "a schedule, 1 hour left": (
        facts(record(DRAINING, entry(2, Stage.SIGNING, signing=NOW - 90 * DAY + HOUR))),
        [],
    ),
    "a schedule, due a while ago": (
        facts(record(DRAINING, entry(2, Stage.SIGNING, signing=NOW - 90.9 * DAY))),
        [],
    ),
    "a schedule, overdue": (
        facts(record(DRAINING, entry(2, Stage.SIGNING, signing=NOW - 91.1 * DAY))),
        [("rotation-overdue", W, "G1")],
    ),
    "a schedule by cron, overdue": (
        facts(record(DRAINING, entry(2, Stage.SIGNING, signing=NOW - 40 * DAY), every="0 3 1 * *")),
        [("rotation-overdue", W, "G1")],
    ),
    "a schedule by cron": (
        facts(record(DRAINING, entry(2, Stage.SIGNING, signing=NOW - 2 * HOUR), every="0 3 1 * *")),
        [],
    ),
    "a schedule that cannot be read is the rotation's affair": (
        facts(record(DRAINING, SIGNING, every="never")),
        [],
    ),
    "stuck": (
        facts(record(SIGNING, entry(3, Stage.CREATED, created=NOW - 1.1 * DAY))),
        [("rotation-stuck", W, "G1")],
    ),
    "paused on purpose is not stuck": (
        facts(record(SIGNING, entry(3, Stage.CREATED, created=NOW - 9 * DAY), paused=True)),
        [("rotation-paused", W, "G1")],
    ),
    "a draining key in use": (
        facts(HEALTHY, uses=(use("K1", signatures_end=LAST, share=0.25, requests_last_day=5),)),
        [("drain-in-use", N, "K1")],
    ),
    "a draining key seen yesterday": (facts(HEALTHY, uses=(use("K1", last_seen=NOW - 1.1 * DAY),)), []),
    "a draining key that will be refused soon": (
        facts(
            record(replace(DRAINING, drain_until=NOW + 2 * DAY), SIGNING),
            uses=(use("K1", signatures_end=NOW + DAY),),
        ),
        [("drain-ends", N, "K1")],
    ),
    "a draining key that signs": (
        facts(HEALTHY, uses=(use("K1", signatures_end=LAST + 61),)),
        [("signs-after-its-time", C, "K1")],
    ),
    "a draining key that signed under longer terms": (
        facts(
            record(replace(DRAINING, reach=20 * DAY), SIGNING),
            uses=(use("K1", signatures_end=LAST + 61, last_seen=NOW - 2 * DAY),),
        ),
        [],
    ),
    "a lifetime beyond the terms": (
        facts(HEALTHY, uses=(use("K2", longest_lifetime=7 * DAY + 61, longest_ends=NOW + 7 * DAY),)),
        [("lifetime-beyond-policy", W, "K2")],
    ),
    "a lifetime at the terms' end": (
        facts(HEALTHY, uses=(use("K2", longest_lifetime=7 * DAY + 59, longest_ends=NOW + 7 * DAY),)),
        [],
    ),
    "a lifetime beyond the terms that is over": (
        facts(HEALTHY, uses=(use("K2", longest_lifetime=9 * DAY, longest_ends=NOW),)),
        [],
    ),
    "a stranger in the group": (
        facts(
            HEALTHY,
            groups=(KnownGroup("G1", "films", ("K1", "K2", "KX"), ("E1",)),),
            keys=(KnownKey("KX", "old", NOW - DAY, ("films",)),),
        ),
        [("key-unknown-to-custody", W, "KX")],
    ),
    "not under rotation": (
        facts(
            records=(),
            groups=(KnownGroup("G1", "films", ("K1", "K2"), ("E1",)),),
            keys=(KnownKey("K1", "a", NOW - DAY, ("films",)), KnownKey("K2", "b", NOW - DAY, ("films",))),
        ),
        [("group-not-rotated", N, "G1")],
    ),
    "not under rotation, and trusted by nobody": (
        facts(
            records=(),
            groups=(KnownGroup("G1", "films", ("K1", "K2")),),
            keys=(KnownKey("K1", "a", NOW - DAY, ("films",)), KnownKey("K2", "b", NOW - DAY, ("films",))),
        ),
        [],
    ),
    "where records are is not known": (
        facts(
            records=None,
            groups=(KnownGroup("G1", "films", ("K1", "K2"), ("E1",)),),
            keys=(KnownKey("K1", "a", NOW - 340 * DAY, ("films",)), KnownKey("K2", "b", NOW, ("films",))),
        ),
        [("key-ends", W, "K1")],
    ),
    "one key, not under rotation": (
        facts(records=None, groups=(KnownGroup("G1", "films", ("K1",), ("E1",)),), keys=()),
        [("group-with-one-key", W, "G1")],
    ),
    "one key, rotated when asked": (
        facts(record(SIGNING, every="")),
        [("group-with-one-key", N, "G1")],
    ),
    "a key in no group": (
        facts(HEALTHY, keys=(KnownKey("KX", "old", NOW - DAY),)),
        [("key-in-no-group", N, "KX")],
    ),
    "a key in no group yet": (
        facts(
            record(SIGNING, entry(3, Stage.CREATED)),
            keys=(KnownKey("K3", "films-3", NOW - DAY),),
            groups=(KnownGroup("G1", "films", ("K2",), ("E1",)),),
        ),
        [],
    ),
    "SHA-1": (
        facts(
            HEALTHY, uses=(use("K2", hashes={"SHA1": Counted(3, NOW - 6 * DAY), "SHA256": Counted(1, NOW)}),)
        ),
        [("sha1-in-use", N, "K2")],
    ),
    "SHA-1 no more": (
        facts(
            HEALTHY, uses=(use("K2", hashes={"SHA1": Counted(3, NOW - 8 * DAY), "SHA256": Counted(1, NOW)}),)
        ),
        [],
    ),
}


@rows("name", CASES)
def test_what_is_worth_a_word(name: str) -> None:
    given, expected = CASES[name]
    found = findings(given, NOW)
    assert [(each.code, each.severity, each.subject) for each in found] == expected, name
    for each in found:
        assert each.code in CODES
        assert each.sentence
        assert each.advice
        assert "\n" not in each.sentence + each.advice


@rows(
    ("uses", "ending"),
    [(None, "no application signs with it any longer"), ((), "longer (edges have never seen it)")],
)
def test_without_counters_no_advice_says_what_edges_have_seen(
    uses: tuple[KeyUse, ...] | None, ending: str
) -> None:
    groups = (KnownGroup("G1", "films", ("K1", "K2", "K9"), ("E1",)),)
    (found,) = findings(facts(HEALTHY, groups=groups, uses=uses), NOW)
    assert found.code == "key-unknown-to-custody"
    assert found.advice.endswith(ending)


def test_advice_names_the_commands_of_this_keyfront() -> None:
    commands = Commands.of_keyfront(" --data '/srv/my data'")
    assert commands.rotation("start", "my films") == (
        "keyfront rotation start 'my films' --data '/srv/my data'"
    )
    assert commands.before == "eval \"$(keyfront env --data '/srv/my data')\"; "


def test_every_code_has_a_case() -> None:
    assert {code for _, expected in CASES.values() for code, _, _ in expected} == set(CODES)


def test_the_page_lists_them() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "warnings.md").read_text()
    assert dict(re.findall(r"^\| `([a-z0-9-]+)` \| (.+?) \| .+ \|$", page, re.MULTILINE)) == dict(CODES)


@rows(
    ("left", "day"),
    [(61, None), (60, 60), (31, 60), (30, 30), (8, 30), (7, 7), (2, 7), (1, 1), (0.1, 1), (0, 0), (-5, 0)],
)
def test_the_day_says_how_near_it_is(left: float, day: int | None) -> None:
    found = [each.day for each in findings(facts(old(365 - left)), NOW) if each.code == "key-ends"]
    assert found == ([] if day is None else [day])


def test_what_matters_most_comes_first() -> None:
    given = facts(
        record(DRAINING, SIGNING, paused=True),
        uses=(use("K1", signatures_end=LAST + 61), use("K2", hashes={"SHA1": Counted(1, NOW)})),
    )
    assert codes(findings(given, NOW)) == ["signs-after-its-time", "rotation-paused", "sha1-in-use"]


def test_another_age() -> None:
    assert codes(findings(facts(old(50)), NOW, Bounds(age=40 * DAY))) == ["key-ends"]


def test_the_terms_of_all_keys_in_use() -> None:
    given = facts(
        record(DRAINING, SIGNING, entry(3, Stage.PUBLISHED)),
        replace(record(entry(4, Stage.SIGNING), every="never"), group="no schedule"),
        replace(record(entry(5, Stage.SIGNING), every=""), group="on demand"),
        keys=(KnownKey("K8", "ours", NOW - DAY, ("films",)), KnownKey("K9", "in no group", NOW - DAY)),
    )
    assert [(each.key_pair_id, each.stage, each.ends) for each in key_terms(given)] == [
        ("K1", "DRAINING", DRAINING.drain_until),
        ("K2", "SIGNING", SIGNING.signing + 90 * DAY),
        ("K5", "SIGNING", NOW - DAY + 365 * DAY),
        ("K8", "", NOW - DAY + 365 * DAY),
    ]
    assert list(key_terms(Facts((), ()), Bounds(age=DAY))) == []


def test_when_a_term_ends() -> None:
    assert ends(HEALTHY, SIGNING, None) == SIGNING.signing + 90 * DAY
    assert ends(record(every=""), SIGNING, None) == SIGNING.signing + 365 * DAY
    assert ends(HEALTHY, DRAINING, None) == DRAINING.drain_until
    assert ends(HEALTHY, DRAINING, use("K1", signatures_end=NOW + 99 * DAY)) == NOW + 99 * DAY
    assert ends(HEALTHY, entry(3, Stage.CREATED), None) is None
    assert ends(record(every="never"), SIGNING, None) is None


@rows(
    ("seconds", "text"),
    [
        (7 * DAY, "7d"),
        (7 * DAY + 30, "7d"),
        (7 * DAY + HOUR, "8d"),
        (36 * HOUR, "36h"),
        (90 * 60, "90m"),
        (59.5, "60s"),
        (DAY, "1d"),
        (1.5, "2s"),
    ],
)
def test_lengths_in_words_that_the_command_line_takes(seconds: float, text: str) -> None:
    assert length(seconds) == text
