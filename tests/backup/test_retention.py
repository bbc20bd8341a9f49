"""Which archives are kept: tables of times, rules, and results."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyfront.backup.archive.names import Name, parse
from keyfront.backup.retention import Rule, kept, read_rule
from keyfront.errors import SettingsError
from tests.rows import rows


def at(text: str) -> Name:
    return Name(datetime.fromisoformat(f"{text}+00:00").timestamp(), "0" * 8, 1, "0" * 16)


NOW = at("2026-03-01T12:00").taken
HOURLY = [Name(NOW - hours * 3600, "0" * 8, 1, "0" * 16) for hours in range(24 * 400)]

CASES: list[tuple[str, str, str]] = [
    # rule, archives, and those that are kept
    ("last=2", "2026-01-01T00:00 2026-01-02T00:00 2026-01-02T01:00", "2026-01-02T00:00 2026-01-02T01:00"),
    # the newest of a day
    ("daily=2", "2026-01-01T00:00 2026-01-01T23:59 2026-01-02T00:00", "2026-01-01T23:59 2026-01-02T00:00"),
    # days without an archive do not count
    ("daily=2", "2025-06-01T10:00 2025-12-24T10:00 2026-02-28T10:00", "2025-12-24T10:00 2026-02-28T10:00"),
    # a week begins on Monday, and may span two years
    ("weekly=2", "2025-12-28T10:00 2025-12-29T10:00 2026-01-04T10:00", "2025-12-28T10:00 2026-01-04T10:00"),
    ("monthly=1", "2026-01-31T10:00 2026-02-01T10:00 2026-02-02T10:00", "2026-02-02T10:00"),
    ("yearly=2", "2024-12-31T23:59 2025-01-01T00:00 2025-12-31T23:59", "2024-12-31T23:59 2025-12-31T23:59"),
    ("hourly=2", "2026-01-01T00:00 2026-01-01T00:59 2026-01-01T01:00", "2026-01-01T00:59 2026-01-01T01:00"),
    # the parts of a rule add up
    (
        "last=1,monthly=2",
        "2026-01-30T00:00 2026-02-01T00:00 2026-02-02T00:00",
        "2026-01-30T00:00 2026-02-02T00:00",
    ),
    # the newest is kept, whatever the rule
    ("last=0,daily=1", "2026-02-02T00:00", "2026-02-02T00:00"),
    # archives dated after now are kept and do not count
    ("last=1", "2026-02-02T00:00 2026-02-03T00:00 2031-01-01T00:00", "2026-02-03T00:00 2031-01-01T00:00"),
    ("last=3", "", ""),
]


@rows(("rule", "there", "left"), CASES)
def test_what_is_kept(rule: str, there: str, left: str) -> None:
    archives = [at(text) for text in there.split()]
    assert kept(reversed(archives), read_rule(rule), NOW) == {at(text) for text in left.split()}


def test_kinds_do_not_stand_in_for_each_other() -> None:
    kinds = ["", "whole", "whole-keys", "part", "part-keys"]
    there = [Name(NOW - hour, "0" * 8, 1, "0" * 16, kinds[hour % 5]) for hour in range(50)]
    left = kept(there, read_rule("last=2"), NOW)
    assert left == set(there[:10])


@rows("holds", ["", "-whole", "-whole-keys", "-part", "-part-keys"])
def test_names_of_every_kind(holds: str) -> None:
    text = f"keyfront-0123abcd-20260201T000000.000Z-1-0123456789abcdef{holds}.age"
    found = parse(text)
    assert found is not None
    assert (str(found), found.holds) == (text, holds[1:])


def test_a_year_of_hourly_archives() -> None:
    left = kept(HOURLY, read_rule("last=7,daily=14,weekly=8,monthly=12"), NOW)
    assert 7 + 13 + 6 + 10 <= len(left) <= 7 + 14 + 8 + 12
    days = {datetime.fromtimestamp(one.taken, UTC).date() for one in left}
    today = datetime.fromtimestamp(NOW, UTC).date()
    assert {today - timedelta(days=day) for day in range(14)} <= days


@given(
    st.sets(st.integers(0, 900 * 24), max_size=60),
    st.builds(Rule, *[st.integers(0, 9)] * 6),
    st.integers(0, 900 * 24),
)
def test_never_fewer_than_asked_for_and_stable(hours: set[int], rule: Rule, day: int) -> None:
    archives = {Name(NOW - hour * 3600.0, "0" * 8, 1, "0" * 16) for hour in hours}
    left = kept(archives, rule, NOW)
    assert left <= archives
    assert len(left) >= min(len(archives), rule.last)
    assert kept(left, rule, NOW) == left  # thinning twice has the same result as thinning once
    if archives:
        assert max(archives) in left
    if rule.daily:
        days = {datetime.fromtimestamp(one.taken, UTC).date() for one in archives}
        assert len({datetime.fromtimestamp(one.taken, UTC).date() for one in left}) >= min(
            len(days), rule.daily
        )


@rows("text", ["", "last", "last=-1", "last=x", "never=1", "last=0", "last=1,last=2", "last=999999"])
def test_what_is_no_rule(text: str) -> None:
    with pytest.raises(SettingsError):
        read_rule(text)


@rows(
    "text",
    [
        "keyfront-0123abcd-20260231T000000.000Z-1-0123456789abcdef.age",  # no such day
        "keyfront-0123abcd-20260201T000000.000Z-01-0123456789abcdef.age",
        "keyfront-0123abcd-20260201T000000.000Z-1-0123456789abcdef.age.tmp",
        ".keyfront-0123abcd-20260201T000000.000Z-1-0123456789abcdef.age",
        "keyfront-0123abcd-20260201T000000.000Z-1-0123456789abcdef-keys.age",
        "keyfront-0123ABCD-20260201T000000.000Z-1-0123456789abcdef.age",
        "keyfront-0123abcd-20260201T000000.000Z-1-0123456789abcdef.age\n",
        "notes.txt",
    ],
)
def test_what_is_no_archives_name(text: str) -> None:
    assert parse(text) is None


@given(st.integers(0, 4_000_000_000_000), st.integers(0, 10**18))
def test_a_name_is_read_as_it_was_made(milliseconds: int, number: int) -> None:
    name = Name(milliseconds / 1000, "0123abcd", number, "0123456789abcdef")
    found = parse(str(name))
    assert found is not None
    assert abs(found.taken - name.taken) < 0.0011
    assert str(found) == str(parse(str(found)))
