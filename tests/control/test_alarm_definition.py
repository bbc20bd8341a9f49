"""The definition of an alarm: what PutMetricAlarm accepts, and what it refuses because it could never ring."""

from __future__ import annotations

from typing import Any

import pytest

from keyfront.control.alarms.definition import arn_of, definition, metric_of, name_in, rule_of
from keyfront.errors import ApiError
from keyfront.monitoring.alarms import Rule
from keyfront.monitoring.default_alarms import default_alarms
from keyfront.monitoring.metric_series import MetricId, subject_of
from tests.rows import rows

DIMENSIONS = [{"Name": "DistributionId", "Value": "E1"}, {"Name": "Region", "Value": "Global"}]
ALARM: dict[str, Any] = {
    "AlarmName": "errors",
    "Namespace": "AWS/CloudFront",
    "MetricName": "4xxErrorRate",
    "Dimensions": DIMENSIONS,
    "Statistic": "Average",
    "Period": 300,
    "EvaluationPeriods": 2,
    "Threshold": 5.5,
    "ComparisonOperator": "GreaterThanThreshold",
}


def test_defaults_are_filled_in() -> None:
    found = definition(ALARM | {"Dimensions": DIMENSIONS[::-1], "AlarmDescription": ""})
    actions: dict[str, Any] = {"OKActions": [], "AlarmActions": [], "InsufficientDataActions": []}
    kept = {name: value for name, value in ALARM.items() if name != "AlarmName"}
    assert found == kept | actions | {"ActionsEnabled": True}
    assert metric_of(found) == MetricId(
        "AWS/CloudFront", "4xxErrorRate", (("DistributionId", "E1"), ("Region", "Global"))
    )
    assert rule_of(found) == Rule("Average", 300, 2, 2, "GreaterThanThreshold", 5.5)


@rows(
    "changes, rule",
    [
        ({"DatapointsToAlarm": 1}, {"datapoints_to_alarm": 1}),
        ({"TreatMissingData": "ignore"}, {"treat_missing_data": "ignore"}),
        (
            {"Statistic": None, "ExtendedStatistic": "p99.9", "EvaluateLowSampleCountPercentile": "ignore"},
            {"statistic": "p99.9", "ignores_low_samples": True},
        ),
        ({"Unit": "Percent"}, {}),
        ({"Period": 10}, {"period": 10}),
        ({"Period": 86_400, "EvaluationPeriods": 7}, {"period": 86_400, "evaluation_periods": 7}),
    ],
)
def test_what_is_accepted(changes: dict[str, Any], rule: dict[str, Any]) -> None:
    found = rule_of(
        definition({name: value for name, value in (ALARM | changes).items() if value is not None})
    )
    assert {name: getattr(found, name) for name in rule} == rule


REFUSED = [
    ("InvalidParameterValue", {"Namespace": "AWS/EC2"}),
    ("InvalidParameterValue", {"MetricName": "NoSuchMetric"}),
    ("InvalidParameterValue", {"Namespace": "Keyfront", "MetricName": "NoSuchMetric"}),
    ("InvalidParameterValue", {"Dimensions": DIMENSIONS[:1]}),
    ("InvalidParameterValue", {"Namespace": "Keyfront", "MetricName": "Edges"}),
    ("InvalidParameterValue", {"Unit": "Bytes"}),
    ("InvalidParameterValue", {"ComparisonOperator": "LessThanLowerThreshold"}),
    ("InvalidParameterValue", {"Statistic": None, "ExtendedStatistic": "tm90"}),
    ("InvalidParameterValue", {"Threshold": None, "ThresholdMetricId": "m1"}),
    ("ValidationError", {"Statistic": None}),
    ("ValidationError", {"ExtendedStatistic": "p90"}),
    ("ValidationError", {"Period": 45}),
    ("ValidationError", {"Period": 86_400, "EvaluationPeriods": 8}),
    ("ValidationError", {"Period": 60, "EvaluationPeriods": 1441}),
    ("ValidationError", {"DatapointsToAlarm": 3}),
    ("ValidationError", {"TreatMissingData": "never"}),
    ("ValidationError", {"AlarmActions": ["ops"]}),
    ("ValidationError", {"AlarmName": "a\nb"}),
    ("ValidationError", {"Dimensions": [*DIMENSIONS, DIMENSIONS[0]]}),
    ("ValidationError", {"EvaluateLowSampleCountPercentile": "ignore"}),
    ("ValidationError", {"Threshold": None}),
]


@rows("code, changes", REFUSED)
def test_an_alarm_that_could_never_ring_is_refused(code: str, changes: dict[str, Any]) -> None:
    params = {name: value for name, value in (ALARM | changes).items() if value is not None}
    with pytest.raises(ApiError) as error:
        definition(params)
    assert (error.value.code, error.value.status) == (code, 400)


def test_the_default_alarms_are_accepted() -> None:
    topic = "arn:aws:sns:us-east-1:1:ops"
    found = [definition(each) for each in default_alarms([topic])]
    assert len(found) > 8
    for each in found:
        assert (each["AlarmActions"], each["OKActions"]) == ([topic], [topic])
        assert subject_of(metric_of(each)) == ""


@rows(
    "arn, name",
    [
        (arn_of("a:b/c", "1"), "a:b/c"),
        ("arn:aws:cloudwatch:eu-west-1:1:alarm:x", "x"),
        ("arn:aws:cloudwatch:us-east-1:2:alarm:x", None),
        ("arn:aws:cloudfront::1:distribution/x", None),
        ("x", None),
    ],
)
def test_an_alarms_arn(arn: str, name: str | None) -> None:
    assert name_in(arn, "1") == name
