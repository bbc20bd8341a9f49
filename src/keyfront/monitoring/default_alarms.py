"""The default set of alarms, for the whole installation: what needs a person, with thresholds that suit most. Pure.

`keyfront alarm defaults` puts them. They are ordinary alarms, which can be changed and deleted.
"""

from __future__ import annotations

from typing import Any, Final

from keyfront.monitoring.metric_series import KEYFRONT

PREFIX: Final = "keyfront-"
"""What the names of the default alarms begin with."""

_ABOVE, _BELOW = "GreaterThanThreshold", "LessThanThreshold"


def _alarm(
    name: str, description: str, metric: str, statistic: str, comparison: str, threshold: float, **others: Any
) -> dict[str, Any]:
    return {
        "AlarmName": f"{PREFIX}{name}",
        "AlarmDescription": description,
        "Namespace": KEYFRONT,
        "MetricName": metric,
        "Statistic": statistic,
        "Period": 300,
        "EvaluationPeriods": 1,
        "ComparisonOperator": comparison,
        "Threshold": threshold,
        "TreatMissingData": "notBreaching",
        **others,
    }


def default_alarms(actions: list[str]) -> list[dict[str, Any]]:
    """PutMetricAlarm's parameters for each default alarm.

    :param actions: ARNs, for when an alarm rings and when it is over.
    """
    twice = {"EvaluationPeriods": 3, "DatapointsToAlarm": 2}
    hourly = {"Period": 3600, "TreatMissingData": "ignore"}
    alarms = [
        _alarm(
            "4xx-rate", "More than 5 % of requests are answered with 4xx.", "4xxErrorRate", "Average", _ABOVE, 5.0,
            **twice,
        ),
        _alarm(
            "5xx-rate", "More than 1 % of requests are answered with 5xx.", "5xxErrorRate", "Average", _ABOVE, 1.0,
            **twice,
        ),
        _alarm(
            "denial-spike", "More than 20 % of requests have a signature that is refused.", "DenialRate", "Average",
            _ABOVE, 20.0, **twice,
        ),
        _alarm(
            "unknown-keys", "Links are signed with keys that are not trusted here.", "UnknownKeyRequests", "Sum",
            _ABOVE, 20.0,
        ),
        _alarm(
            "key-expiring", "The term of a signing key ends within two weeks.", "KeyDaysLeft", "Minimum", _BELOW, 14.0,
            **hourly,
        ),
        _alarm(
            "certificate-expiring", "A certificate expires within two weeks.", "CertificateDaysLeft", "Minimum",
            _BELOW, 14.0, **hourly,
        ),
        _alarm(
            "edges-behind", "An edge has not applied the latest snapshot for five minutes.", "EdgesBehind", "Minimum",
            _ABOVE, 0.0,
        ),
        _alarm(
            "no-edges", "No edge reports to the control plane.", "Edges", "Maximum", _BELOW, 1.0,
            TreatMissingData="breaching",
        ),
        _alarm(
            "origin-failing", "Requests to origins fail.", "OriginFailures", "Sum", _ABOVE, 20.0, **twice,
        ),
        _alarm(
            "logs-not-delivered", "Standard logs could not be delivered for a quarter of an hour.",
            "LogDeliveryFailing", "Minimum", _ABOVE, 0.0, Period=900,
        ),
        _alarm("logs-lost", "Edges could not write access records.", "LogRecordsLost", "Sum", _ABOVE, 0.0),
    ]  # fmt: skip
    return [{**alarm, "AlarmActions": actions, "OKActions": actions} for alarm in alarms]
