"""An alarm's definition: PutMetricAlarm's parameters, checked and completed, and what they mean. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from keyfront.control.store.rows import Row
from keyfront.errors import ApiError
from keyfront.monitoring import statistics
from keyfront.monitoring.alarms import COMPARISONS, TREATMENTS, Rule
from keyfront.monitoring.metric_series import (
    CLOUDFRONT,
    KEYFRONT,
    KEYFRONT_BY_NAME,
    MINUTE,
    UNITS,
    MetricId,
    subject_of,
    unit_of,
)

KIND: Final = "MetricAlarm"
"""The kind of an alarm among the stored resources; its id is its name."""
MOST_ALARMS: Final = 2000
DAY, WEEK = 86_400, 7 * 86_400

_ACTIONS = ("OKActions", "AlarmActions", "InsufficientDataActions")
_STORED = (
    "AlarmDescription",
    "ActionsEnabled",
    *_ACTIONS,
    "MetricName",
    "Namespace",
    "Statistic",
    "ExtendedStatistic",
    "Dimensions",
    "Period",
    "Unit",
    "EvaluationPeriods",
    "DatapointsToAlarm",
    "Threshold",
    "ComparisonOperator",
    "TreatMissingData",
    "EvaluateLowSampleCountPercentile",
)
"""The parameters that an alarm keeps. All others are refused."""


def fault(message: str) -> ApiError:
    """The error for parameters that fit the model, but not each other."""
    return ApiError("ValidationError", message)


def definition(params: Mapping[str, Any]) -> dict[str, Any]:
    """The definition in PutMetricAlarm's parameters, with defaults filled in.

    :raises ApiError: ValidationError or InvalidParameterValue.
    """
    check_name(params["AlarmName"])
    unknown = sorted(params.keys() - {*_STORED, "AlarmName", "Tags"})
    if unknown:
        raise ApiError(
            "InvalidParameterValue",
            f"Keyfront has alarms on one metric with a fixed threshold, so {unknown[0]} cannot be obeyed; see "
            "docs/not-cloudfront.md.",
        )
    for name in ("MetricName", "Namespace", "Period", "EvaluationPeriods", "ComparisonOperator", "Threshold"):
        if params.get(name) is None:
            raise fault(f"The parameter {name} is required.")
    found: dict[str, Any] = {name: params[name] for name in _STORED if params.get(name) is not None}
    found.setdefault("ActionsEnabled", True)
    for name in _ACTIONS:
        found[name] = _actions(name, found.get(name, ()))
    found["Dimensions"] = sorted(found.get("Dimensions", ()), key=lambda each: each["Name"])
    if found.get("AlarmDescription") == "":
        del found["AlarmDescription"]
    _check_statistic(found)
    _check_periods(found)
    if found["ComparisonOperator"] not in COMPARISONS:
        raise ApiError(
            "InvalidParameterValue",
            f"{found['ComparisonOperator']} needs anomaly detection, which Keyfront does not have.",
        )
    if found.get("TreatMissingData", "missing") not in TREATMENTS:
        raise fault(
            f"TreatMissingData is one of {', '.join(TREATMENTS)}, not {found['TreatMissingData'][:40]!r}."
        )
    _check_metric(found)
    return found


def check_name(name: str) -> None:
    """:raises ApiError: ValidationError for a name with control characters."""
    if any(ord(character) < 32 or ord(character) == 127 for character in name):
        raise fault("AlarmName cannot contain control characters.")


def _actions(member: str, given: Iterable[str]) -> list[str]:
    found = list(dict.fromkeys(given))
    for arn in found:
        if not arn.startswith("arn:") or arn.count(":") < 5:
            raise fault(f"Invalid arn syntax in {member}: {arn[:200]}")
    return found


def _check_statistic(found: Mapping[str, Any]) -> None:
    plain, extended = found.get("Statistic"), found.get("ExtendedStatistic")
    if (plain is None) == (extended is None):
        raise fault("Exactly one of Statistic and ExtendedStatistic is required.")
    if extended is not None and statistics.percentile_of(extended) is None:
        raise ApiError(
            "InvalidParameterValue",
            f"The ExtendedStatistic {extended[:40]!r} is not supported: use a percentile from p0 to p100.",
        )
    low = found.get("EvaluateLowSampleCountPercentile")
    if low is not None and (extended is None or low not in ("evaluate", "ignore")):
        raise fault("EvaluateLowSampleCountPercentile is evaluate or ignore, for a percentile only.")


def _check_periods(found: Mapping[str, Any]) -> None:
    period, number = found["Period"], found["EvaluationPeriods"]
    if period not in (10, 20, 30) and (period % MINUTE or period <= 0):
        raise fault("Period must be 10, 20, 30 or a multiple of 60.")
    if period * number > (WEEK if period >= 3600 else DAY):
        raise fault(
            "Metrics cannot be checked across more than a day (EvaluationPeriods * Period must be <= 86400), or with "
            "a Period of at least an hour across more than a week (<= 604800)."
        )
    if found.get("DatapointsToAlarm", 1) > number:
        raise fault("DatapointsToAlarm must be less than or equal to EvaluationPeriods.")


def _check_metric(found: Mapping[str, Any]) -> None:
    """Refuse an alarm that could never ring, which Amazon's CloudWatch accepts."""
    metric = metric_of(found)
    names = [each["Name"] for each in found["Dimensions"]]
    if len(set(names)) != len(names):
        raise fault("A dimension is given twice.")
    if metric.namespace not in (CLOUDFRONT, KEYFRONT):
        raise ApiError(
            "InvalidParameterValue",
            f"Keyfront has no metrics of the namespace {metric.namespace[:80]!r}, so the alarm would never ring. It "
            f"has {CLOUDFRONT} and {KEYFRONT}.",
        )
    if subject_of(metric) is None:
        raise ApiError("InvalidParameterValue", _unknown_metric(metric))
    unit, right = found.get("Unit"), unit_of(metric)
    if unit is not None and unit != right and {unit, right} != {"Count", "None"}:
        raise ApiError(
            "InvalidParameterValue", f"{metric.name} has the unit {right}, so no datapoint would have {unit}."
        )


def _unknown_metric(metric: MetricId) -> str:
    if metric.namespace == CLOUDFRONT:
        if metric.name in UNITS:
            return f"{metric.name} exists with the dimensions DistributionId and Region=Global, and with no others."
        return f"{CLOUDFRONT} has no metric {metric.name[:80]!r}. It has {', '.join(UNITS)}."
    known = KEYFRONT_BY_NAME.get(metric.name)
    if known is None:
        return f"{KEYFRONT} has no metric {metric.name[:80]!r}. It has {', '.join(KEYFRONT_BY_NAME)}."
    shown = " or ".join(" and ".join(names) if names else "none" for names in known.dimensions)
    return f"{metric.name} exists with these dimensions: {shown}."


def metric_of(config: Mapping[str, Any]) -> MetricId:
    """The metric that an alarm, or a query, is about."""
    dimensions = tuple(sorted((each["Name"], each["Value"]) for each in config.get("Dimensions") or ()))
    return MetricId(config["Namespace"], config["MetricName"], dimensions)


def rule_of(config: Mapping[str, Any]) -> Rule:
    """When the alarm rings."""
    return Rule(
        statistic=config.get("Statistic") or config["ExtendedStatistic"],
        period=config["Period"],
        evaluation_periods=config["EvaluationPeriods"],
        datapoints_to_alarm=config.get("DatapointsToAlarm", config["EvaluationPeriods"]),
        comparison=config["ComparisonOperator"],
        threshold=config["Threshold"],
        treat_missing_data=config.get("TreatMissingData", "missing"),
        ignores_low_samples=config.get("EvaluateLowSampleCountPercentile") == "ignore",
    )


def arn_of(name: str, account: str) -> str:
    """The ARN of an alarm."""
    return f"arn:aws:cloudwatch:us-east-1:{account}:alarm:{name}"


def name_in(arn: str, account: str) -> str | None:
    """The name of the alarm with this ARN, in any region; None if it is not one of this account."""
    parts = arn.split(":", 6)
    if len(parts) != 7 or parts[:3] != ["arn", "aws", "cloudwatch"] or parts[4:6] != [account, "alarm"]:
        return None
    return parts[6]


def view(row: Row, account: str) -> dict[str, Any]:
    """The alarm as DescribeAlarms shows it."""
    state = row.attributes
    return {
        "AlarmName": row.id,
        "AlarmArn": arn_of(row.id, account),
        **row.config,
        "AlarmConfigurationUpdatedTimestamp": moment(row.modified),
        "StateValue": state["StateValue"],
        "StateReason": state["StateReason"],
        "StateReasonData": state.get("StateReasonData"),
        "StateUpdatedTimestamp": moment(state["StateUpdated"]),
        "StateTransitionedTimestamp": moment(state["StateTransitioned"]),
    }


def moment(at: float) -> datetime:
    """Epoch seconds as a time, to the millisecond."""
    return datetime.fromtimestamp(round(at, 3), UTC)
