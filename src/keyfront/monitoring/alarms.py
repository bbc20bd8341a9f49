"""The evaluation of alarms, as CloudWatch defines it. Pure: datapoints in, state and its reason out.

An alarm looks at the most recent periods of a metric. Each period gives one datapoint, which breaches the threshold or
not, or is missing. It rings when `datapoints_to_alarm` (M) of the last `evaluation_periods` (N) datapoints breach.

More datapoints than N are looked at, the *evaluation range*, because some may be missing (CloudWatch User Guide,
"Configuring how CloudWatch alarms treat missing data"):

1. If at least N of the range exist, the N most recent of these count, and `treat_missing_data` does not matter.
2. Otherwise all that exist count, and those that are missing are treated as the alarm says: as `breaching`, as
   `notBreaching`, or not at all (`missing` and `ignore`).
3. Without any datapoint, `missing` is INSUFFICIENT_DATA, and `ignore` keeps the state.
4. If every datapoint that exists breaches, but fewer than M do, the alarm waits for the next one: it keeps its state.
   With `missing` it rings once the oldest of them is M periods old, and nothing else has arrived (CloudWatch's
   "premature transitions to alarm state").

CloudWatch does not document how long the evaluation range is; its examples have two datapoints more than N. So has it
here.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal, get_args

import msgspec

from keyfront.monitoring.statistics import Samples, percentile_of, value

State = Literal["OK", "ALARM", "INSUFFICIENT_DATA"]
Treatment = Literal["missing", "ignore", "breaching", "notBreaching"]
STATES: Final[tuple[State, ...]] = get_args(State)
TREATMENTS: Final[tuple[Treatment, ...]] = get_args(Treatment)

COMPARISONS: Final = {
    "GreaterThanThreshold": "greater than",
    "GreaterThanOrEqualToThreshold": "greater than or equal to",
    "LessThanThreshold": "less than",
    "LessThanOrEqualToThreshold": "less than or equal to",
}
"""The comparison operators, in words."""

EXTRA_PERIODS: Final = 2
"""Periods in the evaluation range beyond `evaluation_periods`."""
SIGNIFICANT: Final = 10
"""Samples that must lie beyond a percentile for it to be significant (CloudWatch User Guide, "Percentile-based
alarms and low data samples")."""


class Rule(msgspec.Struct, frozen=True):
    """When an alarm rings.

    :param statistic: of each period; see `statistics.value`.
    :param period: seconds.
    :param evaluation_periods: N; `datapoints_to_alarm`: M, at most N.
    :param ignores_low_samples: whether a percentile of too few samples leaves the state as it is
        (EvaluateLowSampleCountPercentile).
    """

    statistic: str
    period: int
    evaluation_periods: int
    datapoints_to_alarm: int
    comparison: str
    threshold: float
    treat_missing_data: Treatment = "missing"
    ignores_low_samples: bool = False

    @property
    def range_periods(self) -> int:
        """The number of periods in the evaluation range."""
        return self.evaluation_periods + EXTRA_PERIODS

    def breaches(self, datapoint: float) -> bool:
        """Whether a datapoint breaches the threshold."""
        if self.comparison == "GreaterThanThreshold":
            return datapoint > self.threshold
        if self.comparison == "GreaterThanOrEqualToThreshold":
            return datapoint >= self.threshold
        if self.comparison == "LessThanThreshold":
            return datapoint < self.threshold
        return datapoint <= self.threshold


class Verdict(msgspec.Struct, frozen=True):
    """The state of an alarm, and why, for people and (`data`) for programs, both in CloudWatch's form."""

    state: State
    reason: str
    data: dict[str, Any]


class _Point(msgspec.Struct, frozen=True):
    """A datapoint that exists. `age`: 1 for the most recent period."""

    age: int
    start: float
    value: float
    count: float


def evaluate(
    rule: Rule, periods: Sequence[Samples | None], end: float, current: State, now: float
) -> Verdict:
    """The state of an alarm at the time `now`.

    :param periods: the samples of each period of the evaluation range, the most recent last; None: there are none.
    :param end: when the last period ends, epoch seconds.
    :param current: the state before.
    """
    points = [
        _Point(age, end - age * rule.period, found, samples.count)
        for age, samples in zip(range(len(periods), 0, -1), periods, strict=True)
        if samples is not None and (found := value(samples, rule.statistic)) is not None
    ]
    recent = points[-rule.evaluation_periods :]
    state = _state(rule, points, recent, current)
    reason = _reason(rule, recent, state)
    return Verdict(state, reason, _data(rule, recent, end, now))


def _state(rule: Rule, points: list[_Point], recent: list[_Point], current: State) -> State:
    if rule.ignores_low_samples and any(_insignificant(rule, point) for point in recent):
        return current
    breaching = sum(rule.breaches(point.value) for point in recent)
    if breaching >= rule.datapoints_to_alarm:
        return "ALARM"
    filled = rule.evaluation_periods - len(recent)
    if filled <= 0 or rule.treat_missing_data == "notBreaching":
        return "OK"
    if rule.treat_missing_data == "breaching":
        return "ALARM" if breaching + filled >= rule.datapoints_to_alarm else "OK"
    keeps = rule.treat_missing_data == "ignore"
    if not points:
        return current if keeps else "INSUFFICIENT_DATA"
    if breaching < len(recent):
        return "OK"
    return "ALARM" if not keeps and points[0].age >= rule.datapoints_to_alarm else current


def _insignificant(rule: Rule, point: _Point) -> bool:
    percentile = percentile_of(rule.statistic)
    if percentile is None:
        return False
    beyond = min(percentile, 100 - percentile) / 100
    return beyond == 0 or point.count < SIGNIFICANT / beyond


# ---- the reason


def _reason(rule: Rule, recent: list[_Point], state: State) -> str:
    """In CloudWatch's words."""
    unknown = rule.evaluation_periods - len(recent)
    if state == "INSUFFICIENT_DATA":
        return (
            f"Insufficient Data: {_number(unknown, 'datapoint')} {'was' if unknown == 1 else 'were'} unknown."
        )
    relation = f"{COMPARISONS[rule.comparison]} the threshold ({rule.threshold})"
    if not recent:
        treated = {"breaching": "Breaching", "notBreaching": "NonBreaching"}.get(
            rule.treat_missing_data, "Missing"
        )
        missing = f"{_number(unknown, 'missing datapoint')} {'was' if unknown == 1 else 'were'} treated as [{treated}]"
        periods = _number(rule.evaluation_periods, "period")
        return f"Threshold Crossed: no datapoints were received for {periods} and {missing}."
    breaching = [point for point in recent if rule.breaches(point.value)]
    if state == "ALARM" and breaching:
        shown = breaching[-rule.datapoints_to_alarm :]
        least = _number(rule.datapoints_to_alarm, "datapoint")
        return (
            f"Threshold Crossed: {len(breaching)} out of the last {rule.evaluation_periods} datapoints "
            f"{_listed(shown)} {'was' if len(breaching) == 1 else 'were'} {relation} (minimum {least} for OK -> ALARM "
            "transition)."
        )
    shown = [point for point in recent if not rule.breaches(point.value)] or recent
    verb = "was" if len(shown) == 1 else "were"
    return f"Threshold Crossed: {_number(len(shown), 'datapoint')} {_listed(shown)} {verb} not {relation}."


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _listed(points: list[_Point]) -> str:
    return f"[{', '.join(f'{point.value} ({_date(point.start)})' for point in reversed(points[-5:]))}]"


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%d/%m/%y %H:%M:%S")


def _data(rule: Rule, recent: list[_Point], end: float, now: float) -> dict[str, Any]:
    """StateReasonData."""
    percentile = percentile_of(rule.statistic)
    start = recent[0].start if recent else end - rule.evaluation_periods * rule.period
    return {
        "version": "1.0",
        "queryDate": iso(now),
        "startDate": iso(start),
        ("statistic" if percentile is None else "extendedStatistic"): rule.statistic,
        "period": rule.period,
        "recentDatapoints": [point.value for point in recent[-20:]],
        "threshold": rule.threshold,
        "evaluatedDatapoints": [
            {"timestamp": iso(point.start), "sampleCount": point.count, "value": point.value}
            for point in reversed(recent[-20:])
        ],
    }


def iso(at: float) -> str:
    """Epoch seconds as CloudWatch writes them in JSON: `2026-12-01T10:00:00.000+0000`."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "+0000"
