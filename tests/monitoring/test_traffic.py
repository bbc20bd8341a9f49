"""Totals of the traffic from edges' reports, also from those of other versions."""

from __future__ import annotations

import msgspec

from keyfront.fleet.edge_counters import Sums
from keyfront.monitoring.traffic import Totals, totals


def test_counters_of_all_edges_are_added_up() -> None:
    one = Sums(
        series=[
            ("requests", ("E1", "200", "Hit", ""), (90,)),
            ("requests", ("E1", "304", "RefreshHit", ""), (5,)),
            ("requests", ("E2", "other", "Error", "x"), (2,)),
            ("denials", ("E1", "expired", "K1", "g"), (4,)),
            ("denials", ("E1", "expired", "K2", "g"), (1,)),
            ("signatures_accepted", ("K1", "g", "SHA1", "E1"), (7,)),
            ("response_bytes", ("E1",), (1000,)),
            ("evictions", (), (9,)),
        ]
    )
    other = Sums(series=[("requests", ("E1", "200", "Hit", ""), (10,)), ("response_bytes", ("E1",), (24,))])
    found = totals(msgspec.to_builtins(each) for each in (one, other))
    assert found == Totals(
        requests=107,
        bytes_sent=1024,
        signed=7,
        statuses={"2xx": 100, "3xx": 5, "other": 2},
        results={"Hit": 100, "RefreshHit": 5, "Error": 2},
        denials={"expired": 5},
    )


def test_what_another_version_reports_is_left_out() -> None:
    strange: list[dict[str, object]] = [
        {"series": "none"},
        {"series": [["requests", ["E1"], [5]]]},
        {"series": [["requests", ["E1", "200", "Hit", ""], []]]},
        {"series": [["denials", ["E1"], [5]]]},
        {},
    ]
    assert totals(strange) == Totals(0, 0, 0, {}, {}, {})
