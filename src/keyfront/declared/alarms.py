"""Alarms in a set-up: CloudWatch's own members, and `distribution`, which names the distribution by its label.

    [MetricAlarm.errors]
    MetricName = "4xxErrorRate"
    distribution = "films"
    Statistic = "Average"
    Period = 300
    EvaluationPeriods = 1
    ComparisonOperator = "GreaterThanThreshold"
    Threshold = 5
    AlarmActions = ["arn:aws:sns:us-east-1:000000000000:ops"]

In a plan, the config of an alarm has `distribution` in place of the dimensions that name it. With one, the namespace is
`AWS/CloudFront` unless the file says otherwise, and without, it is `Keyfront`. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

KIND: Final = "MetricAlarm"
DISTRIBUTION: Final = "distribution"
_CLOUDFRONT, _KEYFRONT = "AWS/CloudFront", "Keyfront"
_LISTS = ("OKActions", "AlarmActions", "InsufficientDataActions", "Dimensions")
_SHOWN = (
    "AlarmArn",
    "AlarmConfigurationUpdatedTimestamp",
    "EvaluationState",
    "StateReason",
    "StateReasonData",
    "StateTransitionedTimestamp",
    "StateUpdatedTimestamp",
    "StateValue",
)
"""Members of an alarm that are not part of its definition."""


def with_namespace(config: dict[str, Any], distribution: Any) -> dict[str, Any]:
    """The config with `distribution`, if there is one, and with the namespace."""
    found = {**config, **({DISTRIBUTION: distribution} if distribution is not None else {})}
    found.setdefault("Namespace", _KEYFRONT if distribution is None else _CLOUDFRONT)
    return found


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the API's defaults."""
    found = dict(config)
    found.setdefault("ActionsEnabled", True)
    for member in _LISTS:
        found.setdefault(member, [])
    found["Dimensions"] = sorted(found["Dimensions"], key=lambda each: str(each.get("Name")))
    found.setdefault("TreatMissingData", "missing")
    found.setdefault("DatapointsToAlarm", found.get("EvaluationPeriods"))
    return found


def params(config: Mapping[str, Any]) -> dict[str, Any]:
    """PutMetricAlarm's parameters."""
    found = {name: value for name, value in config.items() if name != DISTRIBUTION and value is not None}
    if DISTRIBUTION in config:
        dimensions = [*found.get("Dimensions", ()), {"Name": "DistributionId", "Value": config[DISTRIBUTION]}]
        if found.get("Namespace") == _CLOUDFRONT:
            dimensions.append({"Name": "Region", "Value": "Global"})
        found["Dimensions"] = dimensions
    return found


def config_of(alarm: Mapping[str, Any]) -> dict[str, Any]:
    """The config of an alarm as DescribeAlarms returns it."""
    found = {name: value for name, value in alarm.items() if name not in _SHOWN}
    dimensions = list(found.get("Dimensions", ()))
    ids = [each["Value"] for each in dimensions if each["Name"] == "DistributionId"]
    if len(ids) == 1:
        found[DISTRIBUTION] = ids[0]
        implied = {"DistributionId", *(["Region"] if found.get("Namespace") == _CLOUDFRONT else [])}
        dimensions = [each for each in dimensions if each["Name"] not in implied]
    found["Dimensions"] = dimensions
    return found
