"""The record of a key group: its name, its serial, and records that no signer could follow."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from keyfront.custody.contract import NAME
from keyfront.custody.key_record import (
    DAY,
    LEEWAY,
    Entry,
    KeyGroupRecord,
    RotationPolicy,
    Stage,
    load,
    parse_record,
    record_name,
    save,
)
from keyfront.errors import CustodyError, CustodyUnavailable, RecordChanged
from tests.custody.memory import MemoryPlace
from tests.rows import rows

NOW = 1_800_000_000.0
OLD = Entry("file:/k/a", Stage.SIGNING, NOW - DAY, "KA", published=NOW - 99, signing=NOW - 9)
NEW = Entry("file:/k/b", Stage.CREATED, NOW)
RECORD = KeyGroupRecord("photos", "kg-1", RotationPolicy("file:/k/"), (OLD, NEW))


@rows(
    "group",
    [
        "photos",
        "a" * 64,
        "a" * 65,
        "Photos & films",
        "фото",
        "kg-photos",
        "kg-",
        "-x",
        "../../etc",
        " ",
        "a/b",
        "\n",
    ],
)
def test_every_group_has_a_record_name_of_its_own(group: str) -> None:
    name = record_name(group)
    assert re.fullmatch(NAME, name)
    assert record_name(name) == name or name != group  # a derived name is never another group's own name
    assert record_name(group) == name
    if re.fullmatch(NAME, group) and not group.startswith("kg-"):
        assert name == group


def test_names_that_read_alike_are_not_alike() -> None:
    groups = ["a b", "a  b", "a-b", "a_b", "A b", "a b ", record_name("a b"), "é", "e\u0301"]
    assert len({record_name(group) for group in groups}) == len(groups)


@pytest.mark.parametrize("group", ["", "\ud800"])
def test_what_no_group_is_called(group: str) -> None:
    with pytest.raises(CustodyError):
        record_name(group)


def test_a_record_is_changed_by_who_has_seen_what_is_there() -> None:
    place = MemoryPlace()
    assert load(place, "photos") is None
    first = save(place, RECORD, None, now=NOW)
    assert load(place, "photos") == first
    assert first.record.signing == msgspec.structs.replace(OLD)
    with pytest.raises(RecordChanged):
        save(place, RECORD, None, now=NOW)
    second = save(place, first.record, first.version, now=NOW)
    with pytest.raises(RecordChanged):
        save(place, first.record, first.version, now=NOW)
    third = save(place, second.record, second.version, now=NOW - DAY)  # the clock was set back
    fourth = save(place, third.record, third.version, now=NOW + 1)
    serials = [loaded.record.serial for loaded in (first, second, third, fourth)]
    assert serials == [NOW * 1000, NOW * 1000 + 1, NOW * 1000 + 2, NOW * 1000 + 1000]


def test_a_record_from_a_backup_is_newer_once_it_is_saved() -> None:
    place = MemoryPlace()
    old = save(place, RECORD, None, now=NOW)
    lost = save(place, old.record, old.version, now=NOW + DAY)
    restored = save(MemoryPlace(), old.record, None, now=NOW + 2 * DAY)
    assert restored.record.serial > lost.record.serial


def test_a_record_in_another_groups_place_is_none() -> None:
    place = MemoryPlace()
    saved = save(place, RECORD, None, now=NOW)
    place.write("films", saved.record.to_bytes(), None)
    with pytest.raises(CustodyError, match="that of key group 'photos', not of 'films'"):
        load(place, "films")
    place.cut_off = True
    with pytest.raises(CustodyUnavailable):
        load(place, "photos")


@dataclass
class Wrong:
    message: str
    entries: tuple[Entry, ...] = (OLD, NEW)
    terms: RotationPolicy = RECORD.terms
    group: str = "photos"
    serial: int = 0


def _but(thing: Any, **changes: Any) -> Any:
    return msgspec.structs.replace(thing, **changes)


WRONG = {
    "two that sign": Wrong("two keys that sign", (OLD, _but(OLD, uri="file:/k/c", key_pair_id="KC"))),
    "one place twice": Wrong("one key twice", (OLD, _but(NEW, uri=OLD.uri))),
    "one id twice": Wrong("one key twice", (OLD, _but(NEW, key_pair_id="KA"))),
    "signing without an id": Wrong("has no key_pair_id", (_but(OLD, key_pair_id=""),)),
    "signing since never": Wrong("has no signing", (_but(OLD, signing=0.0),)),
    "draining without an end": Wrong("no drain_until", (_but(OLD, stage=Stage.DRAINING, draining=NOW),)),
    "retired without a time": Wrong("has no retired", (_but(OLD, stage=Stage.RETIRED),)),
    "not a place": Wrong("has no uri", (_but(NEW, uri=""),)),
    "milliseconds": Wrong("not a time in epoch seconds", (_but(OLD, created=NOW * 1000),)),
    "before the epoch": Wrong("not a time in epoch seconds", (_but(OLD, created=-1.0),)),
    "not a number": Wrong("not a time in epoch seconds", (_but(OLD, created=float("nan")),)),
    "no lifetime": Wrong("more than 0", terms=_but(RECORD.terms, max_lifetime=0.0)),
    "no staleness": Wrong("more than 0", terms=_but(RECORD.terms, max_staleness=0.0)),
    "rotated without pause": Wrong("more than 0", terms=_but(RECORD.terms, every=0.0)),
    "an endless overlap": Wrong("a length in seconds", terms=_but(RECORD.terms, overlap=float("inf"))),
    "an overlap below 0": Wrong("a length in seconds", terms=_but(RECORD.terms, overlap=-1.0)),
    "no name": Wrong("names no group", group=""),
    "a serial below 0": Wrong("serial below 0", serial=-(10**15)),
}


@rows("name", WRONG)
def test_what_signers_could_not_go_by_is_neither_written_nor_read(name: str) -> None:
    wrong = WRONG[name]
    record = KeyGroupRecord(wrong.group, "kg-1", wrong.terms, wrong.entries, wrong.serial)
    with pytest.raises(CustodyError):
        parse_record(record.to_bytes())
    place = MemoryPlace()
    if not wrong.serial:
        with pytest.raises(CustodyError, match=wrong.message):
            save(place, record, None, now=NOW)
    assert not place.texts


@rows("data", [b"", b"{", b"[]", b"null", b"\xff", b'{"group":"x"}', b"[" * 5000])
def test_garbage_is_no_record(data: bytes) -> None:
    with pytest.raises(CustodyError):
        parse_record(data)


def test_a_record_that_is_too_long_is_not_written() -> None:
    many = tuple(_but(NEW, uri=f"file:/{'k' * 60}/{number}") for number in range(40))
    place = MemoryPlace()
    with pytest.raises(CustodyError, match="RETIRED"):
        save(place, _but(RECORD, entries=many), None, now=NOW)
    assert not place.texts


def test_a_key_drains_for_as_long_as_what_it_signed_may_be_about() -> None:
    terms = RotationPolicy("file:/k/", overlap=10.0, max_lifetime=100.0, max_staleness=5.0)
    record = _but(RECORD, terms=terms)
    assert record.drains_until(OLD, NOW) == NOW + 105 + LEEWAY
    shorter = record.with_terms(_but(terms, max_lifetime=1.0))
    assert shorter.drains_until(shorter.entries[0], NOW) == NOW + 105 + LEEWAY, "it signed for longer before"
    assert shorter.drains_until(shorter.entries[1], NOW) == NOW + max(10, 6 + LEEWAY), "it never did"
    longer = record.with_terms(_but(terms, overlap=500.0))
    assert longer.drains_until(longer.entries[0], NOW) == NOW + 500
