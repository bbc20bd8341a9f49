"""Alarms as tables of time series: those of the CloudWatch User Guide ("Configuring how CloudWatch alarms treat missing
data"), and the rest of the rules."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from keyfront.monitoring.alarms import Rule, State, Treatment, Verdict, evaluate
from keyfront.monitoring.statistics import Bucket, Samples, combined, one, value
from tests.rows import rows

END = 1_700_000_100.0
KEEP = "keep"


def rule(m: int = 3, n: int = 3, **others: Any) -> Rule:
    given: dict[str, Any] = {"statistic": "Average", "comparison": "GreaterThanThreshold", **others}
    return Rule(period=300, evaluation_periods=n, datapoints_to_alarm=m, threshold=5.0, **given)


def series(text: str) -> list[Samples | None]:
    """`0` does not breach, `X` does, `-` is missing."""
    return [{"0": one(0.0), "X": one(9.0), "-": None}[each] for each in text.split()]


def verdict(found: Rule, text: str, current: State = "OK") -> Verdict:
    assert rule(1, 3).range_periods == 5
    return evaluate(found, series(text), END, current, END + 3)


TREATMENTS = ("missing", "ignore", "breaching", "notBreaching")
ALL_OK, ALL_ALARM = ("OK",) * 4, ("ALARM",) * 4
NONE = ("INSUFFICIENT_DATA", KEEP, "ALARM", "OK")
WAITING = (KEEP, KEEP, "ALARM", "OK")
GUIDE = [
    # M, N, the series, and the state with each treatment: the guide's first table,
    (3, 3, "0 - X - X", ALL_OK),
    (3, 3, "0 - - - -", ALL_OK),
    (3, 3, "- - - - -", NONE),
    (3, 3, "0 X X - X", ALL_ALARM),
    (3, 3, "- - X - -", ("ALARM", KEEP, "ALARM", "OK")),
    # its second table,
    (2, 3, "0 - X - X", ALL_ALARM),
    (2, 3, "0 0 X 0 X", ALL_ALARM),
    (2, 3, "0 - X - -", ("OK", "OK", "ALARM", "OK")),
    (2, 3, "- - - - 0", ("OK", "OK", "ALARM", "OK")),
    (2, 3, "- - - X -", ("ALARM", KEEP, "ALARM", "OK")),
    # and what it says about premature transitions.
    (3, 3, "- - - - X", WAITING),
    (3, 3, "- - - X -", WAITING),
    (3, 3, "- - - X 0", ("OK", "OK", "OK", "OK")),
    (3, 3, "- - X - 0", ("OK", "OK", "OK", "OK")),
    # Further rows of ours.
    (1, 1, "X X X", ALL_ALARM),
    (1, 1, "X X 0", ALL_OK),
    (1, 1, "X - -", ALL_ALARM),  # the last point that is known, while it is in the range
    (1, 1, "- - -", NONE),
    (2, 2, "X X - -", ALL_ALARM),
    (2, 5, "- - - X - X -", ALL_ALARM),
    (2, 3, "- X X - -", ALL_ALARM),
]


@rows("m, n, text, states", GUIDE)
def test_missing_data_is_treated_as_the_guide_says(
    m: int, n: int, text: str, states: tuple[str, ...]
) -> None:
    assert get_args(Treatment) == TREATMENTS
    for treatment, expected in zip(TREATMENTS, states, strict=True):
        for current in get_args(State):
            found = verdict(rule(m, n, treat_missing_data=treatment), text, current)
            assert found.state == (current if expected == KEEP else expected), (treatment, current)


@rows(
    "comparison, breaching",
    [
        ("GreaterThanThreshold", [False, False, True]),
        ("GreaterThanOrEqualToThreshold", [False, True, True]),
        ("LessThanThreshold", [True, False, False]),
        ("LessThanOrEqualToThreshold", [True, True, False]),
    ],
)
def test_comparisons(comparison: str, breaching: list[bool]) -> None:
    found = [
        evaluate(rule(1, 1, comparison=comparison), [one(each)], END, "OK", END).state
        for each in (4.9, 5.0, 5.1)
    ]
    assert [state == "ALARM" for state in found] == breaching


@rows(
    "text, current, reason",
    [
        (
            "X 0 X",
            "OK",
            "Threshold Crossed: 2 out of the last 3 datapoints [9.0 (14/11/23 22:10:00), 9.0 (14/11/23 22:00:00)] were "
            "greater than the threshold (5.0) (minimum 2 datapoints for OK -> ALARM transition).",
        ),
        (
            "X 0 0",
            "ALARM",
            "Threshold Crossed: 2 datapoints [0.0 (14/11/23 22:10:00), 0.0 (14/11/23 22:05:00)] were not greater than "
            "the threshold (5.0).",
        ),
        ("- - -", "OK", "Insufficient Data: 3 datapoints were unknown."),
    ],
)
def test_the_reason_is_in_cloudwatchs_words(text: str, current: State, reason: str) -> None:
    assert verdict(rule(2, 3), text, current).reason == reason


def test_the_reason_names_how_missing_data_was_treated() -> None:
    found = verdict(rule(1, 1, treat_missing_data="notBreaching"), "- - -")
    assert found.reason == (
        "Threshold Crossed: no datapoints were received for 1 period and 1 missing datapoint was treated as "
        "[NonBreaching]."
    )
    assert verdict(rule(treat_missing_data="breaching"), "- - - - -").reason.endswith(
        "treated as [Breaching]."
    )


def test_the_data_of_the_reason_is_for_programs() -> None:
    found = verdict(rule(1, 1), "- - X").data
    assert found == {
        "version": "1.0",
        "queryDate": "2023-11-14T22:15:03.000+0000",
        "startDate": "2023-11-14T22:10:00.000+0000",
        "statistic": "Average",
        "period": 300,
        "recentDatapoints": [9.0],
        "threshold": 5.0,
        "evaluatedDatapoints": [
            {"timestamp": "2023-11-14T22:10:00.000+0000", "sampleCount": 1, "value": 9.0}
        ],
    }
    assert verdict(rule(1, 1, statistic="p90"), "- - X").data["extendedStatistic"] == "p90"
    assert verdict(rule(1, 1), "- - -").data["startDate"] == "2023-11-14T22:10:00.000+0000"


LATENCIES = Samples(100, 5000.0, 1.0, 90.0, (Bucket(0, 10, 50), Bucket(10, 100, 50)))


@rows(
    "statistic, expected",
    [
        ("SampleCount", 100),
        ("Average", 50.0),
        ("Sum", 5000.0),
        ("Minimum", 1.0),
        ("Maximum", 90.0),
        ("p0", 0.0),
        ("p25", 5.0),
        ("p50", 10.0),
        ("p99", pytest.approx(98.2)),
        ("p99.9", pytest.approx(99.82)),
        ("p100", 100.0),
    ],
)
def test_statistics(statistic: str, expected: float) -> None:
    assert value(LATENCIES, statistic) == expected


def test_a_percentile_of_an_unknown_distribution_is_unknown() -> None:
    assert value(Samples(2, 3.0, 1.0, 2.0), "p50") is None
    assert evaluate(rule(1, 1, statistic="p50"), [Samples(2, 30.0, 10.0, 20.0)], END, "OK", END).state == (
        "INSUFFICIENT_DATA"
    )


@rows("statistic", ["p101", "pp", "Median", "", "p-1", "average"])
def test_what_is_no_statistic_is_refused(statistic: str) -> None:
    with pytest.raises(ValueError, match="not a statistic"):
        value(LATENCIES, statistic)


def test_sets_become_one() -> None:
    assert combined([]) is None
    assert combined([Samples(0, 0.0, 0.0, 0.0)]) is None
    two = combined([one(2.0), one(4.0), one(4.0)])
    assert two == Samples(3, 10.0, 2.0, 4.0, (Bucket(2.0, 2.0, 1), Bucket(4.0, 4.0, 2)))
    mixed = combined([one(2.0), Samples(2, 3.0, 1.0, 2.0)])
    assert mixed == Samples(3, 5.0, 1.0, 2.0)


@rows(
    "statistic, count, current, state",
    [
        ("p90", 99, "OK", "OK"),
        ("p90", 100, "OK", "ALARM"),
        ("p10", 99, "OK", "OK"),
        ("p10", 100, "OK", "ALARM"),
        ("p100", 10_000, "OK", "OK"),
        ("Average", 1, "OK", "ALARM"),
    ],
)
def test_a_percentile_of_few_samples_can_be_ignored(
    statistic: str, count: int, current: State, state: State
) -> None:
    samples = Samples(count, 9.0 * count, 9.0, 9.0, (Bucket(9.0, 9.0, count),))
    found = rule(1, 1, statistic=statistic, ignores_low_samples=True)
    assert evaluate(found, [samples], END, current, END).state == state
    assert evaluate(rule(1, 1, statistic=statistic), [samples], END, current, END).state == "ALARM"
