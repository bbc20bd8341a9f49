"""`keyfront alarm`: alarms on metrics, through CloudWatch's API, Keyfront's or Amazon's (docs/guide/alarms.md)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click
import msgspec

from keyfront.cli.account import Account, Selection, choose, selection_options
from keyfront.cli.durations import DurationType
from keyfront.cli.options import json_option, option_group
from keyfront.cli.output import print_columns, print_json, print_note

if TYPE_CHECKING:
    from keyfront.cloudfront.cloudwatch import CloudWatchClient

COMPARISONS = {
    ">": "GreaterThanThreshold",
    ">=": "GreaterThanOrEqualToThreshold",
    "<": "LessThanThreshold",
    "<=": "LessThanOrEqualToThreshold",
}
STATES = ("OK", "ALARM", "INSUFFICIENT_DATA")

_account = option_group(
    "account",
    lambda **given: choose(Selection(**given)),
    selection_options,
    names=("endpoint_url", "profile", "aws", "data"),
)
_actions = click.option(
    "--action",
    "actions",
    multiple=True,
    metavar="NAME|ARN",
    help="An action of hooks.toml, or the ARN of one; repeatable.",
)


def _client(account: Account) -> CloudWatchClient:
    from keyfront.cloudfront.cloudwatch import CloudWatchClient  # loads botocore, which is slow

    return CloudWatchClient(
        account.endpoint_url, account.profile, credentials=account.credentials, user_agent="keyfront-alarm"
    )


@click.group()
def alarm() -> None:
    """Alarms on metrics: they ring when a metric crosses a threshold, and carry out actions."""


@alarm.command("list")
@_account
@click.option("--state", type=click.Choice(STATES), help="Only alarms in this state.")
@click.option("--prefix", default="", help="Only alarms whose names begin like this.")
@json_option
def list_(account: Account, state: str | None, prefix: str, as_json: bool) -> None:
    """List alarms and their states."""
    wanted = {"StateValue": state} if state else {}
    if prefix:
        wanted["AlarmNamePrefix"] = prefix
    found = list(_client(account).items("DescribeAlarms", "MetricAlarms", **wanted))
    if as_json:
        print_json([_printable(each) for each in found])
        return
    heads = ("name", "state", "since", "rings if")
    print_columns(
        heads,
        [(each["AlarmName"], each["StateValue"], _minute(_since(each)), _rings_if(each)) for each in found],
    )


def _since(found: Mapping[str, Any]) -> datetime:
    since: datetime = found.get("StateTransitionedTimestamp") or found["StateUpdatedTimestamp"]
    return since


def _rings_if(found: Mapping[str, Any]) -> str:
    """When an alarm rings, in a line."""
    sign = next((s for s, name in COMPARISONS.items() if name == found.get("ComparisonOperator")), "?")
    number = found.get("EvaluationPeriods", 1)
    needed = found.get("DatapointsToAlarm", number)
    times = "" if number == 1 else f", {needed} of {number} times"
    statistic = found.get("Statistic") or found.get("ExtendedStatistic", "")
    metric = f"{found.get('MetricName', '?')} {statistic}"
    return f"{metric} {sign} {found.get('Threshold', '?')} in {found.get('Period', '?')} s{times}"


def _minute(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"


@alarm.command()
@_account
@click.argument("name")
@json_option
def show(account: Account, name: str, as_json: bool) -> None:
    """Show an alarm: what it watches, its state and the reason for it, its actions."""
    found = _one(account, _client(account), name)
    if as_json:
        print_json(_printable(found))
        return
    dimensions = " ".join(f"{each['Name']}={each['Value']}" for each in found.get("Dimensions", ()))
    lines = {
        "alarm": found["AlarmName"],
        "description": found.get("AlarmDescription", ""),
        "state": f"{found['StateValue']} since {_minute(_since(found))}",
        "reason": found["StateReason"],
        "metric": f"{found.get('Namespace', '?')} {found.get('MetricName', '?')} {dimensions}".rstrip(),
        "rings if": _rings_if(found),
        "if missing": found.get("TreatMissingData", "missing"),
        "actions": "" if found["ActionsEnabled"] else "disabled",
        "  ALARM": " ".join(found.get("AlarmActions", ())),
        "  OK": " ".join(found.get("OKActions", ())),
        "  no data": " ".join(found.get("InsufficientDataActions", ())),
        "arn": found["AlarmArn"],
    }
    for key, text in lines.items():
        if text:
            click.echo(f"{key:13}{text}")


def _one(account: Account, client: CloudWatchClient, name: str) -> dict[str, Any]:
    from keyfront.errors import AccountError

    found = list(client.items("DescribeAlarms", "MetricAlarms", AlarmNames=[name]))
    if not found:
        raise AccountError(
            f"there is no alarm {name!r}; `keyfront alarm list{account.options}` shows those that there are"
        )
    return found[0]


def _printable(found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.isoformat() if isinstance(value, datetime) else value for name, value in found.items()
    }


class Condition(msgspec.Struct, frozen=True):
    """When an alarm rings, as the options say."""

    metric: str
    namespace: str
    distribution: str
    dimension: tuple[str, ...]
    statistic: str
    period: float
    evaluation_periods: int
    datapoints_to_alarm: int | None
    comparison: str
    threshold: float
    missing_data: str

    def params(self) -> dict[str, Any]:
        """PutMetricAlarm's parameters."""
        from keyfront.monitoring.metric_series import CLOUDFRONT, KEYFRONT, UNITS
        from keyfront.monitoring.statistics import PLAIN

        own = self.metric not in UNITS or not self.distribution
        namespace = self.namespace or (KEYFRONT if own else CLOUDFRONT)
        dimensions = dict(_pair(each) for each in self.dimension)
        if self.distribution:
            dimensions["DistributionId"] = self.distribution
            if namespace == CLOUDFRONT:
                dimensions.setdefault("Region", "Global")
        kind = "Statistic" if self.statistic in PLAIN else "ExtendedStatistic"
        found: dict[str, Any] = {
            "MetricName": self.metric,
            "Namespace": namespace,
            "Dimensions": [{"Name": name, "Value": value} for name, value in dimensions.items()],
            kind: self.statistic,
            "Period": int(self.period),
            "EvaluationPeriods": self.evaluation_periods,
            "ComparisonOperator": COMPARISONS[self.comparison],
            "Threshold": self.threshold,
            "TreatMissingData": self.missing_data,
        }
        if self.datapoints_to_alarm is not None:
            found["DatapointsToAlarm"] = self.datapoints_to_alarm
        return found


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--dimension")
    return name, value


_condition = option_group(
    "condition",
    Condition,
    click.option(
        "--metric", required=True, help="The metric, such as 4xxErrorRate (docs/reference/metrics.md)."
    ),
    click.option(
        "--namespace",
        default="",
        help="Its namespace.  [default: AWS/CloudFront for CloudFront's metrics of a distribution, otherwise Keyfront]",
    ),
    click.option("--distribution", default="", metavar="ID", help="The distribution that it is about."),
    click.option("--dimension", multiple=True, metavar="NAME=VALUE", help="Another dimension; repeatable."),
    click.option(
        "--statistic",
        default="Average",
        show_default=True,
        help="Average, Sum, Minimum, Maximum, SampleCount, or a percentile such as p99.",
    ),
    click.option(
        "--period", type=DurationType(), default="5m", show_default=True, help="The length of a period."
    ),
    click.option(
        "--evaluation-periods",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        help="The number of periods that count.",
    ),
    click.option(
        "--datapoints-to-alarm",
        type=click.IntRange(1),
        help="The number of these that must breach the threshold.  [default: all]",
    ),
    click.option(
        "--comparison",
        type=click.Choice(tuple(COMPARISONS)),
        default=">",
        show_default=True,
        help="How the metric breaches the threshold.",
    ),
    click.option("--threshold", type=float, required=True, help="The threshold, in the metric's unit."),
    click.option(
        "--missing-data",
        type=click.Choice(("missing", "ignore", "breaching", "notBreaching")),
        default="missing",
        show_default=True,
        help="How a period without data counts.",
    ),
)


@alarm.command()
@_account
@click.argument("name")
@_condition
@_actions
@click.option(
    "--ok-action", "ok_actions", multiple=True, metavar="NAME|ARN", help="For when it is over; repeatable."
)
@click.option("--description", default="", help="What the alarm means, and what to do.")
def put(
    account: Account,
    name: str,
    condition: Condition,
    actions: tuple[str, ...],
    ok_actions: tuple[str, ...],
    description: str,
) -> None:
    """Create an alarm, or replace one and keep its state.

    \b
        keyfront alarm put errors --metric 4xxErrorRate --distribution E1ABC --threshold 5 --action ops
    """
    client = _client(account)
    params = {"AlarmName": name, **condition.params()}
    if description:
        params["AlarmDescription"] = description
    params["AlarmActions"] = _arns(client, actions)
    params["OKActions"] = _arns(client, ok_actions)
    client.call("PutMetricAlarm", **params)
    print_note(f"alarm {name} rings if {_rings_if(params)}")


def _arns(client: CloudWatchClient, names: Iterable[str]) -> list[str]:
    """Names of actions as ARNs."""
    names = list(names)
    account = client.account() if any(not each.startswith("arn:") for each in names) else ""
    return [each if each.startswith("arn:") else f"arn:aws:sns:us-east-1:{account}:{each}" for each in names]


@alarm.command()
@_account
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def delete(account: Account, names: tuple[str, ...]) -> None:
    """Delete alarms."""
    _client(account).call("DeleteAlarms", AlarmNames=list(names))
    print_note(f"deleted: {', '.join(names)}")


@alarm.command()
@_account
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def enable(account: Account, names: tuple[str, ...]) -> None:
    """Let alarms carry out their actions again."""
    _set_enabled(account, "EnableAlarmActions", names)


@alarm.command()
@_account
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def disable(account: Account, names: tuple[str, ...]) -> None:
    """Keep alarms from carrying out their actions. They still change their states."""
    _set_enabled(account, "DisableAlarmActions", names)


def _set_enabled(account: Account, operation: str, names: tuple[str, ...]) -> None:
    client = _client(account)
    for name in names:
        _one(account, client, name)  # the API ignores names of alarms that do not exist
    client.call(operation, AlarmNames=list(names))
    verb = "enabled" if operation.startswith("Enable") else "disabled"
    print_note(f"actions {verb}: {', '.join(names)}")


@alarm.command()
@_account
@click.argument("name", default="")
@click.option(
    "--limit",
    "-n",
    type=click.IntRange(1),
    default=50,
    show_default=True,
    help="How many of the newest entries.",
)
@json_option
def history(account: Account, name: str, limit: int, as_json: bool) -> None:
    """Show what happened to an alarm, or to all: its states, actions, and changes, oldest first."""
    from itertools import islice

    wanted = {"AlarmName": name} if name else {}
    items = list(islice(_client(account).items("DescribeAlarmHistory", "AlarmHistoryItems", **wanted), limit))
    if as_json:
        print_json([_printable(each) for each in reversed(items)])
        return
    rows: list[tuple[str, ...]] = [
        (f"{each['Timestamp']:%Y-%m-%d %H:%M:%S}", each["AlarmName"], each["HistorySummary"])
        for each in reversed(items)
    ]
    print_columns(("time", "alarm", "what"), rows)


@alarm.command()
@_account
@click.argument("name")
@click.option(
    "--state", type=click.Choice(STATES), default="ALARM", show_default=True, help="The state that it gets."
)
def test(account: Account, name: str, state: str) -> None:
    """Give an alarm a state until its next evaluation, to try its actions."""
    client = _client(account)
    if _one(account, client, name)["StateValue"] == state:
        print_note(f"alarm {name} is in the state {state} already, so no action is carried out")
    client.call("SetAlarmState", AlarmName=name, StateValue=state, StateReason="keyfront alarm test")
    print_note(f"alarm {name} is in the state {state} until its next evaluation")


@alarm.command()
@_account
@_actions
def defaults(account: Account, actions: tuple[str, ...]) -> None:
    """Create the default alarms: error rates, refused signatures, unknown keys, expiring keys and certificates, edges
    behind, failing origins, logs that are not delivered. Those that exist are left as they are.

    \b
        keyfront alarm defaults --action ops
    """
    from keyfront.monitoring.default_alarms import PREFIX, default_alarms

    client = _client(account)
    there = {
        each["AlarmName"] for each in client.items("DescribeAlarms", "MetricAlarms", AlarmNamePrefix=PREFIX)
    }
    for params in default_alarms(_arns(client, actions)):
        name = params["AlarmName"]
        if name in there:
            print_note(f"alarm {name} exists already")
            continue
        client.call("PutMetricAlarm", **params)
        click.echo(f"{name}  {params['AlarmDescription']}")
