"""Alarms in a declared set-up: what a table means, and what is planned for it."""

from __future__ import annotations

from typing import Any

import pytest

from keyfront.declared import alarms
from keyfront.declared.desired import NamedReference
from keyfront.errors import DeclarationError
from tests.declared.harness import NAME, SITE, wish
from tests.rows import rows

ALARM = """
[MetricAlarm.errors]
MetricName = "4xxErrorRate"
Statistic = "Average"
Period = 300
EvaluationPeriods = 2
ComparisonOperator = "GreaterThanThreshold"
Threshold = 5
"""


def test_a_table_becomes_an_alarm_on_a_distribution() -> None:
    (found,) = [
        each for each in wish(f'{SITE}{ALARM}distribution = "site"\n').desired if each.kind == alarms.KIND
    ]
    assert found.identity == "media-errors"
    assert found.config["AlarmName"] == "media-errors"
    assert found.config["AlarmDescription"] == "(keyfront media)"
    assert found.config["Namespace"] == "AWS/CloudFront"
    assert found.config["distribution"] == NamedReference("Distribution", "site")


def test_an_alarm_of_the_whole_installation() -> None:
    (found,) = wish(f'{NAME}{ALARM}AlarmName = "mine"\nAlarmDescription = "Look at it."\n').desired
    assert (found.identity, found.chosen) == ("mine", True)
    assert found.config["AlarmDescription"] == "Look at it. (keyfront media)"
    assert found.config["Namespace"] == "Keyfront"
    assert "distribution" not in found.config


@rows(
    "line, why",
    [
        ("distribution = 5", "the label or the ID of a distribution"),
        ('distribution = ""', "the label or the ID of a distribution"),
        ("Treshold = 5", "Treshold"),
        ("verteilung = 5", "verteilung"),
        ('StateValue = "OK"', "StateValue"),
        (f'AlarmDescription = "{"x" * 1020}"', "the mark takes the rest"),
    ],
)
def test_mistakes(line: str, why: str) -> None:
    with pytest.raises(DeclarationError, match=why):
        wish(f"{SITE}{ALARM}{line}\n")


def test_what_is_put_comes_back() -> None:
    config: dict[str, Any] = alarms.complete(
        {
            "AlarmName": "a",
            "Namespace": "AWS/CloudFront",
            "EvaluationPeriods": 2,
            "distribution": "E1",
            "Unit": None,
        }
    )
    params = alarms.params(config)
    assert params["Dimensions"] == [
        {"Name": "DistributionId", "Value": "E1"},
        {"Name": "Region", "Value": "Global"},
    ]
    assert (params["DatapointsToAlarm"], params["TreatMissingData"], "Unit" in params) == (
        2,
        "missing",
        False,
    )
    shown = {**params, "StateValue": "OK", "AlarmArn": "arn:x"}
    assert alarms.complete(alarms.config_of(shown)) == {k: v for k, v in config.items() if k != "Unit"}


def test_dimensions_of_keyfronts_own_metrics() -> None:
    given = {
        "Namespace": "Keyfront",
        "distribution": "E1",
        "Dimensions": [{"Name": "Reason", "Value": "expired"}],
    }
    params = alarms.params(given)
    assert params["Dimensions"] == [
        {"Name": "Reason", "Value": "expired"},
        {"Name": "DistributionId", "Value": "E1"},
    ]
    assert alarms.config_of(params) == given
    whole = {"Namespace": "Keyfront", "Dimensions": [{"Name": "KeyPairId", "Value": "K1"}]}
    assert alarms.config_of(alarms.params(whole)) == whole
