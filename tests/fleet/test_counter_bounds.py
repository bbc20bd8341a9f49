"""What a control plane accepts as an edge's counters, and what it refuses."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from keyfront.errors import SettingsError
from keyfront.fleet.counter_bounds import MAX_KEYS, MAX_OF_OTHERS, check_counters
from keyfront.fleet.edge_counters import FAMILIES, MAX_TEXT, OTHER, REQUESTS, VERIFY, Sums
from keyfront.monitoring.edge_metrics import families
from tests.rows import rows

LONG = "x" * (MAX_TEXT + 1)


def report(**members: Any) -> bytes:
    return msgspec.json.encode(members)


def series(name: str, number: int = 1, value: int = 1) -> list[Any]:
    return [(name, (f"E{each}", "200", "Hit", ""), (value,)) for each in range(number)]


def test_the_largest_report_of_an_honest_edge_is_accepted() -> None:
    """Every family up to its limit, with the longest names."""
    full = [
        (family.name, tuple(f"{number:0{MAX_TEXT}}" for _ in family.labels), (2**63 - 1,) * family.cells)
        for family in FAMILIES
        for number in range(min(family.limit, 100))
    ]
    keys = [(f"K{number:0{MAX_TEXT - 1}}", "SHA256", OTHER, 7) for number in range(100)]
    check_counters(report(series=full, keys=keys, ends=[("K1", 4102444800, 3600.0, 4102444800)], run="r"))
    check_counters(report(series=series(REQUESTS.name, REQUESTS.limit + 1)))
    check_counters(msgspec.json.encode(Sums()))
    check_counters(b"{}")


@rows(
    ("sent", "reason"),
    [
        (b"", "cannot be read"),
        (b"[]", "cannot be read"),
        (b'{"run": "\xff"}', "cannot be read"),
        (b'{"other": ' + b"[" * 100_000, "cannot be read"),
        (report(series=[[1, 2, 3]]), "cannot be read"),
        (
            report(series=series(REQUESTS.name, REQUESTS.limit + 2)),
            "4002 series of requests, and may have 4001",
        ),
        (report(series=series("later", MAX_OF_OTHERS + 1)), "series of unknown families, and may have 1000"),
        (report(series=[(VERIFY.name, ("x",) * 17, (1,))]), "17 labels of a series, and may have 16"),
        (report(series=[(VERIFY.name, (), (1,) * 65)]), "65 integers of a series, and may have 64"),
        (report(series=[(LONG, (), (1,))]), "a name that has more than 256 characters"),
        (
            report(series=[(REQUESTS.name, (LONG, "", "", ""), (1,))]),
            "a name that has more than 256 characters",
        ),
        (report(series=[(REQUESTS.name, ("\x1b[2J", "", "", ""), (1,))]), "cannot be printed"),
        (report(series=[(REQUESTS.name, ("a\nb 1", "", "", ""), (1,))]), "cannot be printed"),
        (b'{"series": [["requests", [], [1' + b"0" * 400 + b"]]]}", "out of range"),
        (report(keys=[("K1", "SHA1", "E1", 1)] * (MAX_KEYS + 1)), "50001 key usage, and may have 50000"),
        (report(ends=[("K1", 1, 1.0, 1)] * (MAX_KEYS + 1)), "50001 key usage"),
        (report(keys=[(LONG, "SHA1", "E1", 1)]), "a name that has more"),
        (report(keys=[("K1", "SHA1", "E1", 2**63)]), "out of range"),
        (report(ends=[("K1", 2**63, 1.0, 1)]), "out of range"),
        (report(ends=[("K1", 1, 1e300, 1)]), "a lifetime that is out of range"),
        (report(ends=[("K1", 1, -1.0, 1)]), "a lifetime that is out of range"),
        (report(run=LONG), "a name that has more"),
    ],
)
def test_what_no_honest_edge_reports_is_refused(sent: bytes, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        check_counters(sent)


def test_families_of_another_version_are_accepted_and_ignored() -> None:
    raw = {"series": [("later", ("a",), (1,)), (VERIFY.name, ("a",), (1, 2))], "later": [1]}
    check_counters(msgspec.json.encode(raw))
    samples = [sample for family in families([("paris/1", 7, raw)]) for sample in family.samples]
    assert [(sample.name, sample.value) for sample in samples] == [("keyfront_edge_snapshot_number", 7)]
