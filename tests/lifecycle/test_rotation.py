"""The rules of a rotation, one by one: given the state, the next step."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from keyfront.cloudfront.refusal import Refused
from keyfront.custody.contract import HeldKey, Record
from keyfront.custody.key_record import Entry, KeyGroupRecord, RotationPolicy, Stage
from keyfront.errors import AccountError, CustodyError, RotationError
from keyfront.lifecycle import commands
from keyfront.lifecycle.events import RotationEvent
from keyfront.lifecycle.facts import CustodyState, Distribution, Facts, Group, KnownKey
from keyfront.lifecycle.forecast import plan
from keyfront.lifecycle.key_names import key_name, uri_of
from keyfront.lifecycle.moves import MOVES, Action, move
from keyfront.lifecycle.record_changes import after
from keyfront.lifecycle.rotation import Done, Step, Wait, _no_free_slot, next_due, next_step
from keyfront.signing.keys import PrivateKey, generate_private_key
from tests.lifecycle.simulated_cloudfront import DAY, PLACE, Crash, World, actions
from tests.rows import rows

NOW = 1_800_000_000.0
TERMS = RotationPolicy(PLACE, every=90 * DAY, overlap=30 * DAY, max_lifetime=7 * DAY, max_staleness=3600.0)
PAIRS: dict[int, PrivateKey] = {number: generate_private_key("ECDSA-P256") for number in range(1, 5)}
replace = msgspec.structs.replace


def entry(number: int, stage: Stage, **changes: float | bool) -> Entry:
    """Key `number`, which reached its stage a day ago."""
    since = NOW - DAY
    times: dict[str, float | bool] = {
        "published": since if stage is not Stage.CREATED else 0.0,
        "signing": since if stage in (Stage.SIGNING, Stage.DRAINING) else 0.0,
        "draining": since if stage is Stage.DRAINING else 0.0,
        "drain_until": since + 30 * DAY if stage is Stage.DRAINING else 0.0,
        "retired": since if stage is Stage.RETIRED else 0.0,
    }
    times.update(changes)
    return Entry(
        f"{PLACE}p-{number}",
        stage,
        since,
        f"K{number}",
        fingerprint=PAIRS[number].public_key.fingerprint,
        **times,  # type: ignore[arg-type]
    )


def facts(
    *entries: Entry,
    out: str = "",
    unknown: str = "",
    foreign: int = 0,
    terms: RotationPolicy = TERMS,
    rotation_requested: float = 0.0,
    modified: float = NOW - DAY,
    status: str = "Deployed",
    skew: float | None = 0.0,
    **changes: object,
) -> Facts:
    """Everything matches the record, except for keys that are `out` of the group, or unknown to CloudFront."""
    ids = {e.key_pair_id: e for e in entries if e.key_pair_id and not e.gone}
    inside = [f"F{number}" for number in range(foreign)]
    inside += [id_ for id_, e in ids.items() if id_ not in out.split() and e.stage is not Stage.RETIRED]
    known = [KnownKey(f"F{number}", f"F{number}", "") for number in range(foreign)]
    for id_, e in ids.items():
        if id_ not in unknown.split():
            known.append(KnownKey(id_, e.uri.rpartition("/")[2], PAIRS[int(id_[1:])].public_key.pem))
    made = Facts(
        KeyGroupRecord(
            "photos", "group", terms, entries, made=len(entries), rotation_requested=rotation_requested
        ),
        Group("group", "photos", tuple(inside), "E1", modified),
        tuple(known),
        (Distribution("E1", "Deployed"), Distribution("E2", status)),
        {},
        {e.uri: CustodyState(e.fingerprint) for e in entries if not e.gone},
        {},
        skew,
    )
    return replace(made, **changes)


CREATED, PUBLISHED, SIGNING, DRAINING, RETIRED = Stage
UNREGISTERED = {"key_pair_id": ""}
PAUSED = replace(TERMS, paused=True)
ON_DEMAND = replace(TERMS, every="")

TABLE: dict[str, tuple[Facts, str]] = {
    "nothing yet": (facts(), "create"),
    "nothing yet, and full": (facts(foreign=3), "! no key signs yet, but the key group has 3 keys already"),
    "nothing yet, and nearly full": (facts(foreign=2), "create"),
    "made": (facts(replace(entry(1, CREATED), key_pair_id="")), "register K- 1"),
    "registered": (facts(entry(1, CREATED), out="K1"), "publish K1 F: K1"),
    "registered, group full": (
        facts(entry(1, CREATED), out="K1", foreign=3),
        "! the key group has 3 keys already",
    ),
    "in the group": (facts(entry(1, CREATED)), "confirm K1"),
    "in the group, edges do not know": (
        facts(entry(1, CREATED), status="InProgress"),
        "is known once Deployed: E2",
    ),
    "in the group, just now": (facts(entry(1, CREATED), modified=NOW - 10), "is assumed from"),
    "in a group that nobody trusts": (facts(entry(1, CREATED), modified=NOW, distributions=()), "confirm K1"),
    "trusted": (facts(entry(1, PUBLISHED)), "switch K1"),
    "trusted, then taken out": (facts(entry(1, PUBLISHED), out="K1"), "publish K1"),
    "trusted, then deleted": (facts(entry(1, PUBLISHED), out="K1", unknown="K1"), "release K1"),
    "custody has it not": (facts(entry(1, CREATED), held={}), f"! custody has no {PLACE}p-1 here"),
    "custody has another": (
        facts(entry(1, CREATED), held={f"{PLACE}p-1": CustodyState("0")}),
        f"! custody has another key as {PLACE}p-1",
    ),
    "custody is away": (
        facts(entry(1, PUBLISHED), held={f"{PLACE}p-1": CustodyState(unknown="timeout")}),
        "is unavailable: timeout",
    ),
    "signs": (facts(entry(1, SIGNING)), "the next rotation is due"),
    "signs, on demand": (facts(entry(1, SIGNING), terms=ON_DEMAND), "done"),
    "signs, on demand, asked": (facts(entry(1, SIGNING), terms=ON_DEMAND, rotation_requested=NOW), "create"),
    "signs, paused, asked": (facts(entry(1, SIGNING), terms=PAUSED, rotation_requested=NOW), "! paused"),
    "has signed long enough": (facts(entry(1, SIGNING, signing=NOW - 90 * DAY)), "create"),
    "signs, taken out": (facts(entry(1, SIGNING), out="K1"), "publish K1"),
    "signs, taken out, paused": (facts(entry(1, SIGNING), out="K1", terms=PAUSED), "publish K1"),
    "signs, taken out, group full of others": (
        facts(entry(1, SIGNING), out="K1", foreign=5),
        "! p-1 (K1) was removed from the key group, which is full now",
    ),
    "signs, deleted": (facts(entry(1, SIGNING), out="K1", unknown="K1", foreign=1), "create"),
    "signs, custody has it not": (facts(entry(1, SIGNING), held={}), f"! custody has no {PLACE}p-1 here"),
    "signs, custody has it not, and due": (
        facts(entry(1, SIGNING, signing=NOW - 99 * DAY), held={}),
        f"! custody has no {PLACE}p-1 here",
    ),
    "signs, custody has it not, and asked": (
        facts(entry(1, SIGNING), held={}, rotation_requested=NOW),
        "create",
    ),
    "signs, custody has it not, and compromised": (
        facts(entry(1, SIGNING, compromised=True), held={}),
        "create",
    ),
    "retired, forgotten, and custody is another one": (
        facts(entry(1, RETIRED), entry(2, SIGNING), unknown="K1", held={}),
        f"! custody has no {PLACE}p-2 here",
    ),
    "signs, custody is away": (
        facts(entry(1, SIGNING), held={f"{PLACE}p-1": CustodyState(unknown="timeout")}),
        "the next rotation is due",
    ),
    "drains": (facts(entry(1, DRAINING), entry(2, SIGNING)), "p-1 (K1) drains until"),
    "has drained": (facts(entry(1, DRAINING, drain_until=NOW), entry(2, SIGNING)), "release K1"),
    "has drained, but a link was seen": (
        facts(entry(1, DRAINING, drain_until=NOW), entry(2, SIGNING), last_expiry={"K1": NOW + 1}),
        "when a link that edges have seen expires",
    ),
    "has drained, paused": (
        facts(entry(1, DRAINING, drain_until=NOW), entry(2, SIGNING), terms=PAUSED),
        "! paused",
    ),
    "has drained, nobody signs": (
        facts(entry(1, DRAINING, drain_until=NOW), entry(2, SIGNING), out="K2", unknown="K2"),
        "create",
    ),
    "drains, taken out": (facts(entry(1, DRAINING), entry(2, SIGNING), out="K1"), "publish K1"),
    "has drained, taken out": (
        facts(entry(1, DRAINING, drain_until=NOW), entry(2, SIGNING), out="K1"),
        "release K1",
    ),
    "has drained, and the key that signs has no place": (
        facts(entry(1, DRAINING, drain_until=NOW), entry(2, SIGNING), out="K2", foreign=5),
        "has drained, and stays because no other key of the group signs",
    ),
    "has drained, and the key that signs is gone": (
        facts(
            entry(1, DRAINING, drain_until=NOW),
            entry(2, SIGNING),
            entry(3, CREATED),
            out="K2",
            unknown="K2",
            status="InProgress",
        ),
        "! p-1 (K1) has drained, and stays because no other key of the group signs",
    ),
    "released, the only one": (
        facts(
            entry(1, DRAINING, drain_until=NOW - 300, leaving=NOW - 300), entry(2, CREATED), out="K2", held={}
        ),
        f"! custody has no {PLACE}p-2 here",
    ),
    "released a moment ago": (
        facts(entry(1, DRAINING, drain_until=NOW - 300, leaving=NOW - 299), entry(2, SIGNING)),
        "will be removed",
    ),
    "released": (
        facts(entry(1, DRAINING, drain_until=NOW - 300, leaving=NOW - 300), entry(2, SIGNING)),
        "remove K1 F: K2",
    ),
    "released, and a link was seen since": (
        facts(
            entry(1, DRAINING, drain_until=NOW - 300, leaving=NOW - 300),
            entry(2, SIGNING),
            last_expiry={"K1": NOW + 1},
        ),
        "stays in the key group until",
    ),
    "released, and what edges see is not told": (
        facts(
            entry(1, DRAINING, drain_until=NOW - 300, leaving=NOW - 300),
            entry(2, SIGNING),
            unseen="AccessDenied",
        ),
        "! p-1 (K1) has drained, and stays until edges can report what they have seen of it: AccessDenied",
    ),
    "has drained, and what edges see is not told": (
        facts(entry(1, DRAINING, drain_until=NOW), entry(2, SIGNING), unseen="AccessDenied"),
        "! p-1 (K1) has drained, and stays until edges can report what they have seen of it: AccessDenied",
    ),
    "compromised, and what edges see is not told": (
        facts(entry(1, DRAINING, compromised=True, leaving=NOW), entry(2, SIGNING), unseen="AccessDenied"),
        "remove K1 F: K2",
    ),
    "has drained, taken out, and what edges see is not told": (
        facts(entry(1, DRAINING, drain_until=NOW), entry(2, SIGNING), out="K1", unseen="AccessDenied"),
        "publish K1",
    ),
    "removed": (facts(entry(1, DRAINING, leaving=NOW - 300), entry(2, SIGNING), out="K1"), "retire K1"),
    "removed, edges do not know": (
        facts(entry(1, DRAINING, leaving=NOW - 300), entry(2, SIGNING), out="K1", status="InProgress"),
        "that no edge trusts p-1 (K1) is known once Deployed",
    ),
    "retired": (facts(entry(1, RETIRED), entry(2, SIGNING)), "unregister K1"),
    "retired, in another group": (
        facts(entry(1, RETIRED), entry(2, SIGNING), elsewhere={"K1": ("films",)}),
        "! p-1 (K1) is RETIRED, but still in films",
    ),
    "retired, put back": (
        facts(entry(1, RETIRED), entry(2, SIGNING), group=Group("group", "photos", ("K1", "K2"), "E1")),
        "remove K1 F: K2",
    ),
    "retired, put back, the only one": (
        facts(entry(1, RETIRED), terms=PAUSED, group=Group("group", "photos", ("K1",), "E1")),
        "! p-1 (K1) cannot be removed: a key group needs one key",
    ),
    "retired, forgotten": (facts(entry(1, RETIRED), entry(2, SIGNING), unknown="K1"), "destroy K1"),
    "retired, and nobody knows whether it was registered": (
        facts(replace(entry(1, RETIRED, retired=NOW - 599), key_pair_id=""), entry(2, SIGNING)),
        "CloudFront may not list p-1",
    ),
    "retired, and was never registered": (
        facts(replace(entry(1, RETIRED, retired=NOW - 600), key_pair_id=""), entry(2, SIGNING)),
        "destroy - 1",
    ),
    "retired, and was never registered, a day ago": (
        facts(replace(entry(1, RETIRED, retired=NOW - DAY), key_pair_id=""), entry(2, SIGNING)),
        "destroy - 1",
    ),
    "retired, registered and not written down": (
        facts(
            replace(entry(1, RETIRED), key_pair_id=""),
            entry(2, SIGNING),
            public_keys=(
                KnownKey("KX", "p-1", PAIRS[1].public_key.pem),
                KnownKey("K2", "p-2", PAIRS[2].public_key.pem),
            ),
        ),
        "unregister KX",
    ),
    "retired, paused": (facts(entry(1, RETIRED), entry(2, SIGNING), terms=PAUSED), "! paused"),
    "retired, custody is away": (
        facts(
            entry(1, RETIRED),
            entry(2, SIGNING),
            unknown="K1",
            held={
                f"{PLACE}p-1": CustodyState(unknown="away"),
                f"{PLACE}p-2": CustodyState(PAIRS[2].public_key.fingerprint),
            },
        ),
        "is unavailable: away",
    ),
    "gone": (facts(entry(1, RETIRED, gone=NOW), entry(2, SIGNING)), "the next rotation is due"),
    "withdrawn": (facts(entry(1, SIGNING), entry(2, CREATED, leaving=NOW)), "remove K2 F: K1"),
    "withdrawn, paused": (
        facts(entry(1, SIGNING), entry(2, PUBLISHED, leaving=NOW), terms=PAUSED),
        "remove K2 F: K1",
    ),
    "compromised": (
        facts(entry(1, SIGNING, compromised=True, leaving=NOW), foreign=1),
        "remove K1 F: F0",
    ),
    "compromised, the only one": (facts(entry(1, SIGNING, compromised=True, leaving=NOW)), "create"),
    "compromised, the only one, its successor ready": (
        facts(entry(1, SIGNING, compromised=True, leaving=NOW), entry(2, CREATED), out="K2"),
        "publish K2 F: K2",
    ),
    "compromised, successor in the group": (
        facts(
            entry(1, SIGNING, compromised=True, leaving=NOW), entry(2, CREATED), out="K1", status="InProgress"
        ),
        "switch K2",
    ),
    "compromised, its successor was deleted": (
        facts(entry(1, SIGNING, compromised=True), entry(2, PUBLISHED), out="K2", unknown="K2"),
        "release K2",
    ),
    "compromised, serves": (
        facts(entry(1, SIGNING, compromised=True), entry(2, CREATED), status="InProgress"),
        "is known once Deployed",
    ),
    "compromised, serves, paused": (
        facts(entry(1, SIGNING, compromised=True), entry(2, PUBLISHED), terms=PAUSED),
        "switch K2",
    ),
    "compromised, no place but the reserve": (
        facts(entry(1, SIGNING, compromised=True), entry(2, CREATED), out="K2", foreign=3),
        "publish K2 F: F0 F1 F2 K1 K2",
    ),
    "compromised, clocks apart": (
        facts(entry(1, SIGNING, compromised=True, leaving=NOW), skew=9e9),
        "create",
    ),
    "compromised and drains, clocks apart": (
        facts(entry(1, DRAINING, compromised=True, leaving=NOW), entry(2, SIGNING), skew=120.0),
        "remove K1 F: K2",
    ),
    "compromised and drains, a time to come": (
        facts(entry(1, DRAINING, compromised=True, leaving=NOW), entry(2, SIGNING, signing=NOW + 3600)),
        "remove K1 F: K2",
    ),
    "another is compromised, has drained, clocks apart": (
        facts(
            entry(1, DRAINING, drain_until=NOW),
            entry(2, SIGNING),
            entry(3, PUBLISHED, compromised=True, leaving=NOW),
            out="K3",
            status="InProgress",
            skew=120.0,
        ),
        "! CloudFront's clock is 120 s ahead",
    ),
    "compromised and retired, paused": (
        facts(entry(1, RETIRED, compromised=True, leaving=NOW), entry(2, SIGNING), terms=PAUSED),
        "unregister K1",
    ),
    "compromised and retired, forgotten, paused": (
        facts(
            entry(1, RETIRED, compromised=True, leaving=NOW), entry(2, SIGNING), terms=PAUSED, unknown="K1"
        ),
        "destroy K1",
    ),
    "retired, forgotten, and custody has another": (
        facts(
            entry(1, RETIRED),
            entry(2, SIGNING),
            unknown="K1",
            held={
                f"{PLACE}p-1": CustodyState("0"),
                f"{PLACE}p-2": CustodyState(PAIRS[2].public_key.fingerprint),
            },
        ),
        "! p-1 (K1) is RETIRED, but custody has another key as",
    ),
    "retired, and the next is due": (
        facts(entry(1, RETIRED), entry(2, SIGNING, signing=NOW - 90 * DAY)),
        "create",
    ),
    "retired, and the one that signs is compromised": (
        facts(entry(1, RETIRED), entry(2, SIGNING, compromised=True, leaving=NOW)),
        "create",
    ),
    "clocks apart": (facts(entry(1, SIGNING, signing=1.0), skew=61.0), "! CloudFront's clock is 61 s ahead"),
    "clocks apart, behind": (facts(entry(1, PUBLISHED), skew=-61.0), "! CloudFront's clock is 61 s behind"),
    "no clock told": (facts(entry(1, PUBLISHED), skew=None), "switch K1"),
    "a time to come": (
        facts(entry(1, SIGNING, signing=NOW + 61)),
        "! the record has a time in the future",
    ),
    "the group is gone": (facts(entry(1, SIGNING), group=None), "! the key group group is gone"),
    "another has its name": (
        facts(
            replace(entry(1, CREATED), key_pair_id=""),
            public_keys=(KnownKey("KX", "p-1", PAIRS[2].public_key.pem),),
        ),
        "! CloudFront has another public key named p-1, KX",
    ),
    "a key that cannot be read has its name": (
        facts(replace(entry(1, CREATED), key_pair_id=""), public_keys=(KnownKey("KX", "p-1", "no PEM"),)),
        "! CloudFront has another public key named p-1, KX",
    ),
}


def text_of(found: Step | Wait | Done) -> str:
    if isinstance(found, Done):
        return "done"
    if isinstance(found, Wait):
        return f"! {found.reason}" if found.attention else found.reason
    items = f" F: {' '.join(found.items)}" if found.items else ""
    return f"{found.action.value} {found.key_pair_id or '- ' + found.name.rpartition('-')[2]}{items}"


@rows("name", TABLE)
def test_what_comes_next(name: str) -> None:
    known, expected = TABLE[name]
    found = text_of(next_step(known, NOW))
    expected = expected.replace("K- ", "- ")
    assert found.startswith(expected) if expected.startswith("!") else expected in found, found


def test_every_stage_and_action_has_its_place_in_the_table() -> None:
    assert set(MOVES) == {None, *Stage}
    assert {action for moves in MOVES.values() for action in moves} == set(Action)
    for stage in (None, *Stage):
        for action in Action:
            if action in MOVES[stage]:
                assert move(stage, action) is MOVES[stage][action]
            else:
                with pytest.raises(RotationError):
                    move(stage, action)


def test_stages_come_in_order_but_for_a_rollback_and_what_is_put_back() -> None:
    order = [None, *Stage]
    back = {
        (stage, action)
        for stage, moves in MOVES.items()
        for action, to in moves.items()
        if order.index(to) < order.index(stage)
    }
    assert back == {(DRAINING, Action.SWITCH), (PUBLISHED, Action.PUBLISH)}


def test_by_one_write_one_key_takes_over_and_the_other_drains() -> None:
    record = facts(entry(1, SIGNING, reach=40 * DAY), entry(2, PUBLISHED), rotation_requested=NOW).record
    written = after(record, Step(Action.SWITCH, f"{PLACE}p-2", ""), NOW)
    one, two = written.entries
    assert (one.stage, one.draining, one.drain_until) == (DRAINING, NOW, NOW + 40 * DAY)
    assert (two.stage, two.signing, two.reach) == (SIGNING, NOW, TERMS.reach)
    assert written.rotation_requested == 0
    with pytest.raises(RotationError):
        after(record, Step(Action.RETIRE, f"{PLACE}p-1", ""), NOW)


def test_a_step_of_a_key_that_the_record_lacks_is_refused() -> None:
    with pytest.raises(RotationError, match="the record has no key file:none"):
        after(facts(entry(1, SIGNING)).record, Step(Action.SWITCH, "file:none", "", "K1", "none"), NOW)


PAIR = (entry(1, DRAINING), entry(2, SIGNING))
BACK = replace(facts(*PAIR, out="K1"), held={})


def test_the_record_stays_small() -> None:
    record = facts(*(entry(number, RETIRED, gone=NOW - number) for number in (1, 2, 3))).record
    known = after(record, Step(Action.CREATE, f"{PLACE}p-4", ""), NOW)
    gone = replace(known, entries=(*known.entries[:3], replace(known.entries[3], key_pair_id="K4")))
    written = after(gone, Step(Action.RELEASE, f"{PLACE}p-4", ""), NOW)
    assert [each.key_pair_id for each in written.entries] == ["K1", "K2", "K4"]


@rows(
    ("every", "since", "due"),
    [
        (90 * DAY, NOW, NOW + 90 * DAY),
        ("0 3 1 * *", 1_799_999_999.0, 1_801_450_800.0),
        ("*/5 * * * *", 1_800_000_001.0, 1_800_000_300.0),
        ("0 0 31 2 *", NOW, None),
        ("never", NOW, None),
        ("* * *", NOW, None),
    ],
)
def test_schedules(every: float | str, since: float, due: float | None) -> None:
    if due is None:
        with pytest.raises(RotationError, match="is not a schedule"):
            next_due(every, since)
    else:
        assert next_due(every, since) == due


def test_names_follow_from_the_group_and_do_not_meet() -> None:
    assert key_name("photos", "G1", 3) == "photos-fa086349-3"
    assert key_name("--Fotos ä!", "G1", 3) == "Fotos-43f73d0e-3"
    assert key_name("ä", "G1", 3) == "9d3b2926-3"
    assert key_name("x" * 40, "G1", 10) == f"{'x' * 32}-d393a9f4-10"
    names = {
        key_name(group, id_, 1) for group in ("photos", "photos 1", "photos-1", "Fotos ä") for id_ in "12"
    }
    assert len(names) == 8
    assert all(len(name) < 64 for name in (key_name("x" * 200, "1", 10**9), *names))
    assert uri_of("file:/k/?kek=env:A", "b-1") == "file:/k/b-1?kek=env:A"


@rows(
    ("change", "why"),
    [
        ({"every": "61 * * * *"}, "is not a schedule"),
        ({"every": 0.0}, "more than 0"),
        ({"every": 1e-9}, "is not a schedule"),
        ({"every": -5.0}, "length in seconds"),
        ({"overlap": float("nan")}, "length in seconds"),
        ({"max_lifetime": 0.0}, "more than 0"),
        ({"settle": -1.0}, "length in seconds"),
        ({"application": "ä" * 3}, "cannot be a label"),
        ({"place": "nowhere:/keys/"}, "is not a custody URI"),
        ({"place": "file:/keys/one"}, "ends with a slash"),
        ({"place": "awskms:cdn/", "grace": 31 * DAY}, "for 30 days at most: a grace of 31 days is too long"),
        ({"place": "awssm:cdn/", "grace": 60 * DAY}, "for 30 days at most"),
        ({"place": "awskms:cdn/", "grace": 31 * DAY + 3600}, "a grace of 31.0 days"),
        ({"place": "vault:transit/"}, "set grace to 0, or add notes= to the URI"),
    ],
)
def test_terms_that_make_no_sense(change: dict[str, float | str], why: str) -> None:
    with pytest.raises(RotationError, match=why):
        commands.validated(replace(TERMS, **change), NOW)


def test_terms_that_will_surprise() -> None:
    assert commands.warnings(TERMS, NOW) == ()
    assert "wait for slots" in commands.warnings(replace(TERMS, every=10 * DAY), NOW)[0]
    assert commands.warnings(replace(TERMS, every=15 * DAY), NOW) == ()
    assert commands.warnings(ON_DEMAND, NOW) == ()
    short = replace(TERMS, overlap=600.0, max_lifetime=1.0, max_staleness=0.0)
    lengths = (
        "drains for 10 minutes and signs for 90 seconds",
        "drains for 10 minutes and signs for 1 seconds",
    )
    for every, text in zip((90.0, 1.0), lengths, strict=True):
        assert text in commands.warnings(replace(short, every=every), NOW)[0]


@rows(
    ("command", "reason"),
    [
        (lambda: commands.rotated(facts(entry(1, SIGNING), terms=PAUSED).record, NOW), "resume it first"),
        (
            lambda: commands.rotated(facts(entry(1, SIGNING), entry(2, CREATED)).record, NOW),
            "under way already",
        ),
        (lambda: commands.rolled_back(BACK, NOW), "p-1 .*cannot sign again: "),
        (
            lambda: commands.rolled_back(replace(BACK, held=facts(*PAIR).held), NOW),
            "not in the key group any more",
        ),
        (
            lambda: commands.compromised(facts(entry(1, RETIRED), entry(2, SIGNING)).record, "K1", NOW),
            "K1.* is RETIRED: no edge trusts it",
        ),
    ],
    ids=["paused", "under way", "lost", "not in the group", "retired"],
)
def test_commands_that_cannot_be_followed(command: Callable[[], object], reason: str) -> None:
    with pytest.raises(RotationError, match=reason):
        command()


def test_where_a_plan_ends() -> None:
    """At the next creation if nothing signed at first, at what nobody can foresee, and at a limit."""
    steps, then = plan(facts(), NOW)
    assert [each.step.action for each in steps] == [
        Action.CREATE, Action.REGISTER, Action.PUBLISH, Action.CONFIRM, Action.SWITCH
    ]  # fmt: skip
    assert isinstance(then, Wait)
    assert then.reason.endswith("UTC")
    steps, then = plan(facts(entry(1, CREATED), status="InProgress"), NOW)
    assert [each.step.action for each in steps][:2] == [Action.CONFIRM, Action.SWITCH]
    steps, then = plan(facts(foreign=3), NOW)
    assert steps == ()
    assert "3 keys already" in getattr(then, "reason", "")
    # K1 is in another group, so it is never deleted.
    steps, then = plan(facts(entry(1, SIGNING), elsewhere={"K1": ("other",)}), NOW)
    assert len(steps) == 60
    assert isinstance(then, Done)


# ------------------------------------------------------------------------------------------------------------
# In the simulated environment


@pytest.fixture
def world() -> World:
    made = World()
    made.start()
    made.run(days=1)
    return made


def test_the_plan_is_what_happens(world: World) -> None:
    known = world.executor().facts(world.executor().versioned("photos"))
    steps, then = plan(known, world.now)
    happened = world.run(days=121)
    assert happened == [f"{each.step.action.value} {each.step.name.rpartition('-')[2]}" for each in steps]
    assert isinstance(then, Wait)
    assert "the next rotation is due" in then.reason
    assert steps[-1].at <= world.now


def test_a_plan_changes_nothing(world: World) -> None:
    before, writes = world.texts["photos"], world.writes
    world.executor().plan("photos")
    assert world.texts["photos"] == before
    assert world.writes == writes
    assert world.version == 2


@pytest.mark.parametrize("fault", ["crash", "crashed", "refused", "unheard"])
def test_a_crash_between_any_two_steps_and_within_each(fault: str) -> None:
    for at in range(60):
        world = World()
        world.start()
        world.run(days=1)
        world.executor().rotate("photos")
        world.faults = [*([""] * at), fault]
        for _ in range(100):
            try:
                outcome = world.step()
            except Crash:
                continue
            if outcome.error:
                world.now += 60
            elif outcome.taken is None and not world.obey():
                until = outcome.wait.until if outcome.wait else None
                if until is None or until > world.now + 40 * DAY:
                    break
                world.pass_to(until)
        assert world.stages() == "1 RETIRED, 2 SIGNING", (fault, at)
        assert world.items == (*world.foreign, "K2")
        assert set(world.keys) == set(world.items)
        assert [name[-1] for name in world.private if name not in world.doomed] == ["2"]
        if world.faults:
            assert at > 8
            return  # it came after all remaining steps
    raise AssertionError("there is no end of steps")


def test_a_lost_edge_holds_everything_up_and_breaks_nothing(world: World) -> None:
    world.executor().rotate("photos")
    world.edges["E1"].lost = True
    assert world.run(days=400) == ["create 2", "register 2", "publish 2"]
    wait = world.step().wait
    assert wait is not None
    assert "is known once Deployed: E1" in wait.reason
    world.edges["E1"].lost = False
    assert world.run(days=1)[:2] == ["confirm 2", "switch 2"]
    world.edges["E0"].lost = True
    assert world.run(days=40) == ["release 1", "remove 1"]
    assert world.trusts("K1") is False
    assert world.stages() == "1 DRAINING, 2 SIGNING"


def test_a_clock_that_jumps_ahead_retires_nothing(world: World) -> None:
    world.executor().rotate("photos")
    world.run(days=1)
    for ahead in (61.0, 40 * DAY, -40 * DAY):
        world.ahead = ahead
        assert world.run() == []
        wait = world.step().wait
        assert wait is not None
        assert wait.attention
    world.ahead = 0.0
    assert world.stages() == "1 DRAINING, 2 SIGNING"


def test_clocks_that_jump_together_do_nothing_in_the_time_that_it_takes_to_see_it(world: World) -> None:
    """A Keyfront on the same machine has the same wrong clock: the decision is made and reported, but not carried
    out."""
    world.executor().rotate("photos")
    world.run(days=1)
    true = world.now
    world.now = true + 31 * DAY
    assert world.run() == ["release 1"]
    world.now = true
    wait = world.step().wait
    assert wait is not None
    assert "in the future" in wait.reason
    world.executor().resume("photos")
    assert world.run(days=1) == []
    assert world.entry(1).leaving == 0
    assert world.trusts("K1")
    assert world.run(days=40) == ["release 1", "remove 1", "retire 1", "unregister 1", "destroy 1"]


def test_a_clock_that_was_years_ahead_does_not_stop_rotations_for_years(world: World) -> None:
    true = world.now
    world.now = true + 3650 * DAY
    world.run()
    world.obey()
    world.run(days=0.01)
    world.now = true
    world.owed.clear()  # computed with the wrong clock
    assert world.run() == []
    world.executor().resume("photos")
    world.executor().rotate("photos")
    assert "switch 3" in world.run(days=32)


def test_two_conductors_end_as_one(world: World) -> None:
    world.executor().rotate("photos")
    lost = 0

    def other() -> None:
        world.step()

    for _ in range(60):
        world.meanwhile = other
        outcome = world.step()
        world.meanwhile = lambda: None
        lost += outcome.raced
        if outcome.taken is None and not world.obey():
            world.now += DAY
    assert lost > 3
    assert world.stages() == "1 RETIRED, 2 SIGNING"
    assert len(world.private) == 2


def test_the_quota_is_told_and_waited_for(world: World) -> None:
    world.quota = len(world.keys)
    world.executor().rotate("photos")
    world.step()
    outcome = world.step()
    assert "TooManyPublicKeys" in outcome.error
    assert outcome.again is not None
    assert outcome.again > world.now
    world.quota += 1
    assert "switch 2" in world.run(days=1)


def test_a_new_key_that_a_list_does_not_have_yet_is_not_given_up(world: World) -> None:
    world.lists_lag = True
    world.executor().rotate("photos")
    assert world.run(days=1)[:5] == ["create 2", "register 2", "publish 2", "confirm 2", "switch 2"]


def test_a_record_that_is_damaged_stops_no_other_rotation(world: World) -> None:
    world.texts["films"] = Record("films", b"{", "1")
    assert world.executor().groups() == ["photos"]


def test_a_key_that_cannot_sign_never_takes_over(world: World) -> None:
    world.executor().rotate("photos")
    while world.stages() != "1 SIGNING, 2 PUBLISHED":
        if world.step().taken is None:
            world.obey()
            world.now += 301
    name = world.entry(2).uri.rpartition("/")[2]
    world.private[name] = generate_private_key("ECDSA-P256")
    assert world.run(days=100) == []
    wait = world.step().wait
    assert wait is not None
    assert "custody has another key" in wait.reason
    world.executor().rollback("photos")
    world.executor().resume("photos")
    assert "switch 3" in world.run(days=1)


def test_a_name_that_is_spent_in_custody_is_not_used(world: World) -> None:
    prefix = world.entry(1).uri.rpartition("/")[2][:-1]
    world.create(f"{prefix}2", "ECDSA-P256", now=world.now)
    world.doomed[f"{prefix}2"] = world.now + DAY
    world.executor().rotate("photos")
    assert "switch 3" in world.run(days=32)


def test_a_new_start_goes_on_counting(world: World) -> None:
    first = world.entry(1)
    world.executor().stop("photos")
    world.owed.clear()
    record = world.start({"K1": first.uri})
    assert record.made == 1
    assert record.entries[0].stage is SIGNING
    world.executor().rotate("photos")
    assert "switch 2" in world.run(days=1)


def test_an_adopted_key_has_to_be_that_key(world: World) -> None:
    world.executor().stop("photos")
    for key, uri, why in (
        ("K9", f"{PLACE}x", "is not in the key group"),
        (world.foreign[0], world.uri + next(iter(world.private)), "is not the private half"),
    ):
        with pytest.raises(RotationError, match=why):
            world.start({key: uri})
    assert world.names() == []


def test_the_next_key_is_used_at_once_if_it_is_there(world: World) -> None:
    world.executor().rotate("photos")
    while world.stages() != "1 SIGNING, 2 PUBLISHED":
        if world.step().taken is None:
            world.obey()
            world.now += 301
    world.executor().emergency("photos", "K1")
    assert world.run(obey=False)[:2] == ["remove 1", "switch 2"]


def test_an_emergency_does_not_wait_for_custody_nor_for_a_pause(world: World) -> None:
    world.executor().pause("photos")
    world.custody_down = True
    world.executor().emergency("photos", "K1")
    first = world.step().taken
    assert first is not None
    assert first.action is Action.REMOVE
    failed = world.step()
    assert "custody cannot be asked" in failed.error
    world.custody_down = False
    assert "switch 2" in world.run(days=1)


def test_a_listener_can_keep_a_step_from_being_taken(world: World) -> None:
    class No:
        def on_event(self, event: object) -> None:
            raise RotationError("the hook says no")

    world.executor().rotate("photos")
    executor = world.executor()
    executor._listeners = [world, No()]
    outcome = executor.step("photos")
    assert outcome.error == "the hook says no"
    assert world.events[-1].moment == "failed"
    assert len(world.private) == 1
    world.events.clear()
    world.run(days=1)
    assert actions(world.events) == actions(world.events, "before")
    assert world.events[0].action == "create"


def test_an_emergency_is_told_and_asks_nobody(world: World) -> None:
    class No:
        def on_event(self, event: object) -> None:
            raise RotationError("the hook says no")

    executor = world.executor()
    executor._listeners = [No(), world]
    executor.emergency("photos", "K1")
    assert [executor.step("photos").error for _ in range(5)] == [""] * 5
    assert world.items == (*world.foreign, "K2")
    with pytest.raises(RotationError, match="the hook says no"):
        executor.pause("photos")


@pytest.mark.parametrize(
    ("order", "why"),
    [
        (lambda c: c.emergency("photos", "K9"), "not a key of the rotation"),
        (lambda c: c.emergency("photos", ""), "not a key of the rotation"),
        (lambda c: c.rollback("photos"), "no key to go back to"),
        (lambda c: c.change_terms("photos", lambda t: replace(t, every="x")), "is not a schedule"),
        (lambda c: c.rotate("films"), "is not rotated"),
    ],
)
def test_orders_that_make_no_sense(world: World, order: Callable[[object], object], why: str) -> None:
    before = world.texts["photos"]
    with pytest.raises(RotationError, match=why):
        order(world.executor())
    assert world.texts["photos"] == before


# ------------------------------------------------------------------------------------------------------------
# A step that fails each time


def clear_fails(world: World, how: str) -> None:
    def refused_delete(name: str, *, grace: float, now: float) -> HeldKey:
        raise CustodyError("AccessDenied: kms:ScheduleKeyDeletion")

    def refused_forget(id_: str) -> None:
        raise Refused("DeletePublicKey: PublicKeyInUse", "PublicKeyInUse")

    if how == "destroy":
        world.delete = refused_delete  # type: ignore[method-assign]
    else:
        world.delete_public_key = refused_forget  # type: ignore[method-assign]


def look_for(world: World, days: float, every: float) -> list[str]:
    """The output of one executor over some days."""
    executor, problems, ends = world.executor(), [], world.now + days * DAY
    while world.now < ends:
        outcome = executor.step("photos")
        if outcome.taken is not None and not outcome.error:
            problems.append(f"{outcome.taken.action.value} {outcome.taken.name.rpartition('-')[2]}")
        elif outcome.error:
            problems.append(f"! {outcome.error}")
        if not outcome.moved and not world.obey():
            world.now += every
    return problems


@pytest.mark.parametrize("how", ["destroy", "unregister"])
def test_a_clean_up_that_fails_holds_up_no_schedule_and_no_emergency(how: str) -> None:
    world = World(foreign=0)
    world.start()
    world.run(days=1)
    clear_fails(world, how)
    problems = look_for(world, 300, 0.25 * DAY)
    assert "switch 3" in problems
    assert "switch 4" in problems
    assert any(each.startswith("! ") for each in problems)
    signing = world.record.signing
    assert signing is not None
    world.executor().emergency("photos", signing.key_pair_id)
    look_for(world, 0.02, 60)
    after_it = world.record.signing
    assert after_it is not None
    assert not after_it.compromised
    assert not world.trusts(signing.key_pair_id)


def test_a_full_account_gets_room_by_the_key_that_has_drained() -> None:
    world = World(
        RotationPolicy(PLACE, every=7 * DAY, overlap=10 * DAY, max_lifetime=7 * DAY, max_staleness=3600.0),
        foreign=0,
    )
    world.start()
    world.run(days=8)
    assert world.stages() == "1 DRAINING, 2 SIGNING"
    world.quota = 2
    problems = look_for(world, 30, 0.25 * DAY)
    assert any("TooManyPublicKeys" in each for each in problems)
    assert problems.index("unregister 1") < problems.index("register 3") < problems.index("switch 3")


def test_what_failed_is_tried_again_after_a_while_and_told_until_then(world: World) -> None:
    world.quota = len(world.keys)
    world.executor().rotate("photos")
    executor = world.executor()
    assert executor.step("photos").taken is not None
    tries = world.events.copy()
    first = executor.step("photos")
    again = executor.step("photos")
    assert "TooManyPublicKeys" in first.error
    assert again.error == first.error
    assert [each.moment for each in world.events[len(tries) :]] == ["before", "failed"]
    world.quota += 1
    world.now += 61
    done = executor.step("photos")
    assert done.taken is not None
    assert (done.taken.action, done.error) == (Action.REGISTER, "")


def test_what_failed_before_the_emergency_is_tried_at_once_in_it(world: World) -> None:
    world.executor().rotate("photos")
    executor = world.executor()
    executor.step("photos")
    world.faults = ["refused"]
    assert executor.step("photos").error
    executor.emergency("photos", "K1")
    taken = [executor.step("photos").taken for _ in range(2)]
    assert [each.action for each in taken if each] == [Action.REMOVE, Action.REGISTER]


def test_what_edges_have_seen_is_refused_and_an_emergency_goes_on(world: World) -> None:
    def no() -> dict[str, float]:
        raise AccountError("the key usage: AccessDenied: keyfront:GetKeyUse")

    world.last_expiry = no  # type: ignore[method-assign]
    world.executor().rotate("photos")
    assert "switch 2" in world.run(days=31)
    wait = world.step().wait
    assert wait is not None
    assert wait.attention
    assert "keyfront:GetKeyUse" in wait.reason
    assert world.trusts("K1")
    world.executor().emergency("photos", "K2")
    assert "switch 3" in world.run(days=1)
    assert not world.trusts("K2")


def test_a_compromised_key_that_was_rolled_back_goes_with_all_that_is_left_of_it(world: World) -> None:
    world.executor().rotate("photos")
    world.run(days=1)
    world.executor().rollback("photos")
    world.ahead = 120.0
    world.executor().emergency("photos", "K2")
    assert world.run(days=1) == ["remove 2", "retire 2"]
    world.ahead = 0.0
    assert world.run(days=1) == ["unregister 2", "destroy 2"]
    assert world.record.terms.paused
    assert world.stages() == "1 SIGNING, 2 RETIRED"


def test_no_way_back_to_a_key_that_an_edge_may_not_have(world: World) -> None:
    world.executor().rotate("photos")
    world.run(days=1)
    world.tamper(item for item in world.items if item != "K1")
    world.obey()
    world.owed.clear()
    taken = world.step().taken
    assert taken is not None
    assert taken.action is Action.PUBLISH
    with pytest.raises(RotationError, match="is known once Deployed: E0, E1"):
        world.executor().rollback("photos")
    world.obey()
    with pytest.raises(RotationError, match="is assumed from"):
        world.executor().rollback("photos")
    world.now += 301
    world.executor().rollback("photos")
    assert world.record.signing == world.entry(1)


@pytest.mark.parametrize("late", [False, True])
def test_a_key_that_is_not_the_records_is_not_deleted(world: World, late: bool) -> None:
    world.executor().rotate("photos")
    world.run(days=1)
    name = world.entry(1).uri.rpartition("/")[2]
    while world.entry(1).key_pair_id in world.keys:
        outcome = world.step()
        if outcome.taken is None and not world.obey():
            world.pass_to(world.now + DAY)

    def swap() -> None:
        world.private[name] = generate_private_key("ECDSA-P256")

    executor = world.executor()
    if late:
        describe = world.describe

        def describe_once(wanted: str) -> HeldKey:
            found = describe(wanted)
            if wanted == name:
                swap()
            return found

        world.describe = describe_once  # type: ignore[method-assign, assignment]
        executor.step("photos")
        assert [each.moment for each in world.events if "has another key" in each.error] == ["failed"]
    else:
        swap()
        wait = executor.step("photos").wait
        assert wait is not None
        assert wait.attention
        assert "custody has another key" in wait.reason
    assert world.doomed == {}


# ------------------------------------------------------------------------------------------------------------
# One key in two groups


def films(world: World) -> KeyGroupRecord:
    """Another group's record that also has the key, under another name in custody."""
    own = world.entry(1)
    record = KeyGroupRecord(
        "films",
        "another",
        TERMS,
        (replace(own, uri=f"{PLACE}same"), entry(4, DRAINING)),
        made=2,
    )
    world.texts["films"] = Record("films", record.to_bytes(), "1")
    return record


def test_a_compromised_key_is_compromised_in_every_group_that_has_it(world: World) -> None:
    films(world)
    executor = world.executor()
    assert executor.sharing("photos", world.entry(1)) == {"films": f"{PLACE}same"}
    executor.emergency("photos", "K1", keep_serving=False)
    marked = {e.uri: e.compromised for e in executor.versioned("films").record.entries}
    assert marked == {f"{PLACE}same": True, f"{PLACE}p-4": False}
    assert world.record.entries[0].compromised


def test_a_record_that_cannot_be_changed_is_named_and_the_others_are(world: World) -> None:
    films(world)
    executor = world.executor()
    save_, writes = world.write, list[str]()

    def write(name: str, data: bytes, version: str | None) -> Record:
        writes.append(name)
        if name == "films":
            raise CustodyError("films is read only")
        return save_(name, data, version)

    world.write = write  # type: ignore[method-assign]
    with pytest.raises(RotationError, match=r"films has the same key, and could not be marked .*read only"):
        executor.emergency("photos", "K1")
    assert world.record.entries[0].compromised


def test_an_emergency_is_written_before_anybody_is_told(world: World) -> None:
    seen: list[tuple[str, str, bool, bool]] = []

    class Looks:
        def on_event(self, event: RotationEvent) -> None:
            signing = world.record.signing
            compromised = signing is None or signing.compromised
            seen.append((event.moment, event.action, event.urgent, compromised))

    executor = world.executor()
    executor._listeners = [Looks()]
    executor.emergency("photos", "K1")
    assert seen == [("before", "emergency", True, True), ("after", "emergency", True, True)]
    seen.clear()
    executor.step("photos")
    assert seen == [("before", "remove", True, True), ("after", "remove", True, True)]
    assert "K1" not in world.items


@rows(
    ("foreign", "entries", "expected"),
    [
        (3, (), "has 3 keys already, 3 of them not of this rotation, and"),
        (2, (entry(1, SIGNING),), "has 3 keys already, 2 of them not of this rotation, and"),
        (0, (entry(1, SIGNING), entry(2, DRAINING), entry(3, DRAINING)), "has 3 keys already, and"),
    ],
)
def test_a_full_group_counts_the_keys_of_others(
    foreign: int, entries: tuple[Entry, ...], expected: str
) -> None:
    found = _no_free_slot(facts(*entries, foreign=foreign), NOW)
    assert found is not None
    assert expected in str(found)


def test_a_key_that_signs_again_no_longer_drains() -> None:
    again = replace(entry(1, PUBLISHED), draining=NOW - DAY, drain_until=NOW + DAY)
    step = Step(Action.SWITCH, again.uri, "", "")
    (made,) = after(facts(again).record, step, NOW).entries
    assert (made.stage, made.signing, made.draining, made.drain_until) == (SIGNING, NOW, 0.0, 0.0)
