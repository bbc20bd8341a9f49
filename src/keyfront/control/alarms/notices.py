"""What the actions of alarms tell: the message that SNS delivers for an alarm of CloudWatch, and a mail. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from keyfront.control.alarms.definition import arn_of
from keyfront.control.alarms.transitions import ACTIONS, PendingAction
from keyfront.control.store.rows import Row
from keyfront.lifecycle.alarm_actions import Notice
from keyfront.lifecycle.outgoing import Message
from keyfront.monitoring.alarms import iso

_TRIGGER = ("MetricName", "Namespace", "Unit", "Period", "EvaluationPeriods", "DatapointsToAlarm")
_COMPARED = ("ComparisonOperator", "Threshold", "TreatMissingData")


def notice_of(row: Row, action: PendingAction, account: str) -> Notice:
    """What an action of the alarm tells about a transition."""
    config, arn = row.config, arn_of(row.id, account)
    body: dict[str, Any] = {
        "AlarmName": row.id,
        "AlarmDescription": config.get("AlarmDescription"),
        "AWSAccountId": account,
        "AlarmConfigurationUpdatedTimestamp": iso(row.modified),
        "NewStateValue": action.new,
        "NewStateReason": action.reason,
        "StateChangeTime": iso(action.at),
        "Region": "us-east-1",
        "AlarmArn": arn,
        "OldStateValue": action.old,
        **{member: config[member] for member in ACTIONS.values()},
        "Trigger": {
            **{name: config[name] for name in _TRIGGER if name in config},
            "StatisticType": "Statistic" if "Statistic" in config else "ExtendedStatistic",
            "Statistic": config.get("Statistic") or config["ExtendedStatistic"],
            "Dimensions": [{"name": each["Name"], "value": each["Value"]} for each in config["Dimensions"]],
            **{name: config[name] for name in _COMPARED if name in config},
        },
    }
    variables = {
        "KEYFRONT_ALARM_NAME": row.id,
        "KEYFRONT_ALARM_ARN": arn,
        "KEYFRONT_OLD_STATE": action.old,
        "KEYFRONT_NEW_STATE": action.new,
        "KEYFRONT_REASON": action.reason,
        "KEYFRONT_AT": f"{action.at:.3f}",
    }
    return Notice(
        Message(msgspec.json.encode(body), variables, action.id),
        f'{action.new}: "{row.id}"',
        _text(row, action, arn),
    )


def _text(row: Row, action: PendingAction, arn: str) -> str:
    config = row.config
    dimensions = ", ".join(f"{each['Name']}={each['Value']}" for each in config["Dimensions"]) or "none"
    lines = [
        f'The alarm "{row.id}" changed from {action.old} to {action.new} at {iso(action.at)}.',
        "",
        action.reason,
        *(["", config["AlarmDescription"]] if "AlarmDescription" in config else []),
        "",
        f"Metric:      {config['Namespace']} {config['MetricName']}",
        f"Dimensions:  {dimensions}",
        f"ARN:         {arn}",
    ]
    return "\n".join(lines) + "\n"
