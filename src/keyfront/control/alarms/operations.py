"""CloudWatch's operations on alarms and metrics. Each takes a call in its transaction and returns its output."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

import msgspec

from keyfront.control.alarms import history, queries, transitions
from keyfront.control.alarms.definition import (
    KIND,
    MOST_ALARMS,
    arn_of,
    definition,
    fault,
    metric_of,
    moment,
    name_in,
    view,
)
from keyfront.control.alarms.history import Search
from keyfront.control.alarms.transitions import ACTIONS, StateChange
from keyfront.control.call import Call
from keyfront.control.store.rows import Row
from keyfront.control.store.transaction import Transaction
from keyfront.errors import ApiError
from keyfront.model.cloudwatch import error_status
from keyfront.model.kinds import ETAG, RandomSource
from keyfront.monitoring import statistics
from keyfront.monitoring.metric_series import MINUTE, MetricId, subject_of, unit_of
from keyfront.monitoring.statistics import Samples

Output = dict[str, Any]

PAGE: Final = 100
METRICS_PAGE: Final = 500
MOST_POINTS: Final = 100_800
"""Datapoints that one GetMetricData returns."""
MOST_STATISTICS: Final = 1440
"""Datapoints that one GetMetricStatistics returns."""
MOST_MINUTES: Final = 200_000
"""Minutes that one call reads."""
MOST_TAGS: Final = 50


class Context(msgspec.Struct, frozen=True):
    """One call in its transaction.

    :param rng: the source of ids.
    """

    call: Call
    account: str
    transaction: Transaction
    rng: RandomSource

    @property
    def params(self) -> dict[str, Any]:
        return self.call.params


def refusal(code: str, message: str) -> ApiError:
    return ApiError(code, message, error_status(code))


# ---- alarms


def put_metric_alarm(context: Context) -> Output:
    """PutMetricAlarm: create an alarm, or replace the definition of one and keep its state and tags."""
    config, name, now = definition(context.params), context.params["AlarmName"], context.call.now
    transaction, etag = context.transaction, ETAG.new(context.rng)
    before = transaction.get(KIND, name)
    if before is not None:
        row = msgspec.structs.replace(before, etag=etag, modified=now, config=config)
        transaction.update(row)
        summary = f'Alarm "{name}" updated'
    else:
        if transaction.count(KIND) >= MOST_ALARMS:
            raise refusal("LimitExceeded", f"An account can have {MOST_ALARMS} alarms.")
        tags = _tags(context.params.get("Tags") or ())
        transaction.insert(Row(KIND, name, etag, now, now, config, transitions.initial_state(now), 0))
        transaction.set_tags(KIND, name, tags)
        summary = f'Alarm "{name}" created'
    history.append(
        transaction,
        name,
        now,
        "ConfigurationUpdate",
        summary,
        {"version": "1.0", "type": "Update" if before is not None else "Create", "updatedAlarm": config},
    )
    return {}


def describe_alarms(context: Context) -> Output:
    """DescribeAlarms: by name, or by a prefix of the name, state, and action, in order of name."""
    params = context.params
    names, prefix = params.get("AlarmNames"), params.get("AlarmNamePrefix")
    if names is not None and prefix is not None:
        raise fault("AlarmNames and AlarmNamePrefix cannot both be given.")
    for member in ("ChildrenOfAlarmName", "ParentsOfAlarmName"):
        if params.get(member) is not None:
            raise refusal(
                "InvalidParameterValue", f"Keyfront has no composite alarms, so {member} finds nothing."
            )
    types = params.get("AlarmTypes") or ["MetricAlarm"]
    limit, after = params.get("MaxRecords", 50), _text_of(params.get("NextToken"))
    if "MetricAlarm" not in types:
        return {"MetricAlarms": [], "CompositeAlarms": []}
    if names is not None:
        rows: Iterable[Row] = (row for row in context.transaction.get_many(KIND, names) if row.id > after)
    else:
        rows = _all(context.transaction, after)
    state, action = params.get("StateValue"), params.get("ActionPrefix")
    chosen = (
        row
        for row in rows
        if row.id.startswith(prefix or "")
        and state in (None, row.attributes["StateValue"])
        and (action is None or any(arn.startswith(action) for arn in _actions(row)))
    )
    page = list(islice(chosen, limit + 1))
    return {
        "MetricAlarms": [view(row, context.account) for row in page[:limit]],
        "CompositeAlarms": [],
        "NextToken": _token(page[limit - 1].id) if len(page) > limit else None,
    }


def describe_alarms_for_metric(context: Context) -> Output:
    """DescribeAlarmsForMetric: the alarms on exactly this metric."""
    params, metric = context.params, metric_of(context.params)
    same = ("Statistic", "ExtendedStatistic", "Period", "Unit")
    return {
        "MetricAlarms": [
            view(row, context.account)
            for row in _all(context.transaction, "")
            if metric_of(row.config) == metric
            and all(params.get(name) in (None, row.config.get(name)) for name in same)
        ]
    }


def _all(transaction: Transaction, after: str) -> Iterator[Row]:
    while rows := transaction.page(KIND, after, PAGE):
        yield from rows
        after = rows[-1].id


def _actions(row: Row) -> Iterator[str]:
    for member in ACTIONS.values():
        yield from row.config[member]


def delete_alarms(context: Context) -> Output:
    """DeleteAlarms: all of them, or none if one does not exist."""
    names = dict.fromkeys(context.params["AlarmNames"])
    if len(names) > PAGE:
        raise fault(f"At most {PAGE} alarms can be deleted at once.")
    there = {row.id for row in context.transaction.get_many(KIND, names)}
    if missing := [name for name in names if name not in there]:
        raise refusal("ResourceNotFound", f"There is no alarm {missing[0]!r}. Nothing was deleted.")
    for name in names:
        context.transaction.delete(KIND, name)
        history.append(
            context.transaction,
            name,
            context.call.now,
            "ConfigurationUpdate",
            f'Alarm "{name}" deleted',
            {"version": "1.0", "type": "Delete"},
        )
    return {}


def set_alarm_state(context: Context) -> Output:
    """SetAlarmState: until the next evaluation."""
    params = context.params
    data = params.get("StateReasonData")
    if data is not None:
        try:
            msgspec.json.decode(data)
        except msgspec.DecodeError:
            raise refusal("InvalidFormat", "StateReasonData is not JSON.") from None
    row = _alarm(context, params["AlarmName"])
    new = StateChange(params["StateValue"], params["StateReason"], data, context.call.now)
    transitions.change(context.transaction, row, new, context.rng)
    return {}


def enable_alarm_actions(context: Context) -> Output:
    """EnableAlarmActions. Names of alarms that do not exist are ignored, as by CloudWatch."""
    return _set_enabled(context, True)


def disable_alarm_actions(context: Context) -> Output:
    """DisableAlarmActions. Names of alarms that do not exist are ignored, as by CloudWatch."""
    return _set_enabled(context, False)


def _set_enabled(context: Context, enabled: bool) -> Output:
    for row in context.transaction.get_many(KIND, context.params["AlarmNames"]):
        if row.config["ActionsEnabled"] is not enabled:
            config = {**row.config, "ActionsEnabled": enabled}
            new = msgspec.structs.replace(
                row, etag=ETAG.new(context.rng), modified=context.call.now, config=config
            )
            context.transaction.update(new)
            history.append(
                context.transaction,
                row.id,
                context.call.now,
                "ConfigurationUpdate",
                f'Actions of alarm "{row.id}" {"enabled" if enabled else "disabled"}',
                {"version": "1.0", "type": "Update", "updatedAlarm": config},
            )
    return {}


def describe_alarm_history(context: Context) -> Output:
    """DescribeAlarmHistory: newest first, or as ScanBy says."""
    params, token = context.params, _text_of(context.params.get("NextToken"))
    limit = params.get("MaxRecords", PAGE)
    if token and not token.isdecimal():
        raise _bad_token()
    if "MetricAlarm" not in (params.get("AlarmTypes") or ["MetricAlarm"]):
        return {"AlarmHistoryItems": []}
    start, end = params.get("StartDate"), params.get("EndDate")
    wanted = Search(
        alarm=params.get("AlarmName", ""),
        type=params.get("HistoryItemType", ""),
        start=start.timestamp() if start else 0.0,
        end=end.timestamp() if end else Search().end,
        newest_first=params.get("ScanBy", "TimestampDescending") == "TimestampDescending",
        after=int(token) if token else None,
        limit=limit + 1,
    )
    items = history.search(context.transaction, wanted)
    return {
        "AlarmHistoryItems": [
            {
                "AlarmName": item.alarm,
                "AlarmType": "MetricAlarm",
                "Timestamp": moment(item.at),
                "HistoryItemType": item.type,
                "HistorySummary": item.summary,
                "HistoryData": item.data.decode(),
            }
            for item in items[:limit]
        ],
        "NextToken": _token(str(items[limit - 1].number)) if len(items) > limit else None,
    }


def _alarm(context: Context, name: str) -> Row:
    row = context.transaction.get(KIND, name)
    if row is None:
        raise refusal("ResourceNotFound", f"There is no alarm {name!r}.")
    return row


# ---- tags


def list_tags(context: Context) -> Output:
    """ListTagsForResource."""
    tags = context.transaction.tags(KIND, _tagged(context).id)
    return {"Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}


def tag(context: Context) -> Output:
    """TagResource: add tags, and replace the values of those that the alarm has."""
    row = _tagged(context)
    tags = context.transaction.tags(KIND, row.id) | _tags(context.params["Tags"])
    if len(tags) > MOST_TAGS:
        raise fault(f"A resource can have {MOST_TAGS} tags.")
    context.transaction.set_tags(KIND, row.id, tags)
    return {}


def untag(context: Context) -> Output:
    """UntagResource. Keys that the alarm does not have are ignored."""
    row = _tagged(context)
    tags = context.transaction.tags(KIND, row.id)
    gone = context.params["TagKeys"]
    context.transaction.set_tags(KIND, row.id, {key: tags[key] for key in tags if key not in gone})
    return {}


def _tagged(context: Context) -> Row:
    arn = context.params["ResourceARN"]
    name = name_in(arn, context.account)
    row = context.transaction.get(KIND, name) if name is not None else None
    if row is None:
        raise refusal("ResourceNotFoundException", f"There is no alarm with the ARN {arn[:300]}.")
    return row


def _tags(given: Iterable[Mapping[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for each in given:
        if each["Key"] in found:
            raise fault(f"The tag {each['Key'][:128]!r} is given twice.")
        if each["Key"].lower().startswith("aws:"):
            raise fault("Tag keys cannot begin with aws:.")
        found[each["Key"]] = each.get("Value", "")
    if len(found) > MOST_TAGS:
        raise fault(f"A resource can have {MOST_TAGS} tags.")
    return found


# ---- metrics


def list_metrics(context: Context) -> Output:
    """ListMetrics: see `queries.known_metrics`; with RecentlyActive, only those with a datapoint within three hours."""
    params = context.params
    if params.get("IncludeLinkedAccounts") or params.get("OwningAccount"):
        raise refusal("InvalidParameterValue", "Keyfront has one account, and no linked accounts.")
    now, skip = int(context.call.now), _text_of(params.get("NextToken")) or "0"
    if not skip.isdecimal():
        raise _bad_token()
    active = params.get("RecentlyActive") is not None
    wanted = {each["Name"]: each.get("Value") for each in params.get("Dimensions") or ()}
    found = (
        metric
        for metric in queries.known_metrics(context.transaction, now + MINUTE, active=active)
        if params.get("Namespace") in (None, metric.namespace)
        and params.get("MetricName") in (None, metric.name)
        and _has(metric, wanted)
    )
    page = list(islice(found, int(skip), int(skip) + METRICS_PAGE + 1))
    return {
        "Metrics": [
            {
                "Namespace": metric.namespace,
                "MetricName": metric.name,
                "Dimensions": [{"Name": name, "Value": value} for name, value in metric.dimensions],
            }
            for metric in page[:METRICS_PAGE]
        ],
        "NextToken": _token(str(int(skip) + METRICS_PAGE)) if len(page) > METRICS_PAGE else None,
    }


def _has(metric: MetricId, wanted: Mapping[str, str | None]) -> bool:
    there = dict(metric.dimensions)
    return all(name in there and value in (None, there[name]) for name, value in wanted.items())


class _Range(msgspec.Struct, frozen=True):
    """The time that a query covers, in whole periods: epoch seconds."""

    start: int
    end: int
    period: int

    @property
    def minutes(self) -> int:
        return max(0, self.end - self.start) // MINUTE


def _range(params: Mapping[str, Any], period: int) -> _Range:
    if period < 1 or (period not in (1, 5, 10, 20, 30) and period % MINUTE):
        raise fault("Period must be 1, 5, 10, 20, 30 or a multiple of 60.")
    start, end = int(params["StartTime"].timestamp()), int(params["EndTime"].timestamp())
    if start >= end:
        raise fault("The parameter StartTime must be less than the parameter EndTime.")
    return _Range(start - start % min(period, MINUTE), end, period)


def get_metric_data(context: Context) -> Output:
    """GetMetricData: metrics by statistic and period. Expressions are refused."""
    params, asked = context.params, context.params["MetricDataQueries"]
    limit = min(params.get("MaxDatapoints", MOST_POINTS), MOST_POINTS)
    at, skipped = _position(params.get("NextToken"))
    newest_first = params.get("ScanBy", "TimestampDescending") == "TimestampDescending"
    ranges = [_query_range(params, query) for query in asked]
    if len({query["Id"] for query in asked}) != len(asked):
        raise fault("The ids of the queries must be unique.")
    if sum(each.minutes for each in ranges) > MOST_MINUTES:
        raise fault(f"The queries cover more than {MOST_MINUTES} minutes: ask for fewer, or a shorter time.")
    results: list[Output] = []
    token = None
    for number, query in enumerate(asked):
        if number < at or query.get("ReturnData") is False:
            continue
        if limit <= 0:
            token = _token(f"{number}:0")
            break
        points = _points(context.transaction, query["MetricStat"], ranges[number])
        if newest_first:
            points.reverse()
        first = skipped if number == at else 0
        page = points[first : first + limit]
        limit -= len(page)
        whole = first + len(page) == len(points)
        results.append(
            {
                "Id": query["Id"],
                "Label": query.get("Label") or query["MetricStat"]["Metric"]["MetricName"],
                "Timestamps": [moment(when) for when, _ in page],
                "Values": [value for _, value in page],
                "StatusCode": "Complete" if whole else "PartialData",
            }
        )
        if not whole:
            token = _token(f"{number}:{first + len(page)}")
            break
    return {"MetricDataResults": results, "NextToken": token, "Messages": []}


def _query_range(params: Mapping[str, Any], query: Mapping[str, Any]) -> _Range:
    stat = query.get("MetricStat")
    if query.get("AccountId") is not None:
        raise refusal("InvalidParameterValue", "Keyfront has one account: leave out AccountId.")
    if stat is None or query.get("Expression") is not None:
        raise refusal(
            "InvalidParameterValue",
            f"The query {query['Id'][:80]!r} needs a MetricStat: Keyfront has no expressions, and no Metrics Insights.",
        )
    metric = stat["Metric"]
    for name in ("Namespace", "MetricName"):
        if not metric.get(name):
            raise fault(f"The query {query['Id'][:80]!r} needs a {name}.")
    _check_statistic(stat["Stat"])
    return _range(params, stat["Period"])


def _check_statistic(statistic: str) -> None:
    if statistic not in statistics.PLAIN and statistics.percentile_of(statistic) is None:
        raise refusal(
            "InvalidParameterValue",
            f"The statistic {statistic[:40]!r} is not supported: use {', '.join(statistics.PLAIN)}, or a percentile "
            "from p0 to p100.",
        )


def _points(transaction: Transaction, stat: Mapping[str, Any], wanted: _Range) -> list[tuple[int, float]]:
    metric = metric_of(stat["Metric"])
    if not _has_unit(metric, stat.get("Unit")):
        return []
    found = queries.datapoints(transaction, metric, wanted.period, wanted.start, wanted.end)
    return [
        (at, value)
        for at, samples in found.items()
        if (value := statistics.value(samples, stat["Stat"])) is not None
    ]


def _has_unit(metric: MetricId, unit: str | None) -> bool:
    """Whether the metric has datapoints with this unit; None: any."""
    return unit in (None, unit_of(metric))


def get_metric_statistics(context: Context) -> Output:
    """GetMetricStatistics: several statistics of one metric."""
    params = context.params
    plain, extended = params.get("Statistics") or [], params.get("ExtendedStatistics") or []
    if bool(plain) == bool(extended):
        raise fault("Exactly one of Statistics and ExtendedStatistics is required.")
    for each in extended:
        _check_statistic(each)
    wanted, metric = _range(params, params["Period"]), metric_of(params)
    if wanted.minutes > MOST_MINUTES or (wanted.end - wanted.start) / wanted.period > MOST_STATISTICS:
        raise refusal(
            "InvalidParameterCombination",
            f"You have requested up to {(wanted.end - wanted.start) // wanted.period} datapoints, which exceeds the "
            f"limit of {MOST_STATISTICS}. You may reduce the datapoints requested by increasing Period, or decreasing "
            "the time range.",
        )
    found = (
        queries.datapoints(context.transaction, metric, wanted.period, wanted.start, wanted.end)
        if subject_of(metric) is not None and _has_unit(metric, params.get("Unit"))
        else {}
    )
    return {
        "Label": params["MetricName"],
        "Datapoints": [
            {
                "Timestamp": moment(at),
                "Unit": unit_of(metric),
                **{name: statistics.value(samples, name) for name in plain},
                **({"ExtendedStatistics": _extended(samples, extended)} if extended else {}),
            }
            for at, samples in found.items()
        ],
    }


def _extended(samples: Samples, names: Iterable[str]) -> dict[str, float]:
    return {name: value for name in names if (value := statistics.value(samples, name)) is not None}


# ---- pages


def _token(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


def _text_of(token: str | None) -> str:
    """:raises ApiError: InvalidNextToken if no answer had this token."""
    if not token:
        return ""
    try:
        return base64.urlsafe_b64decode(token.encode("ascii")).decode()
    except (binascii.Error, ValueError):
        raise _bad_token() from None


def _position(token: str | None) -> tuple[int, int]:
    if not token:
        return 0, 0
    number, _, skipped = _text_of(token).partition(":")
    if not (number.isdecimal() and skipped.isdecimal() and len(number + skipped) < 20):
        raise _bad_token()
    return int(number), int(skipped)


def _bad_token() -> ApiError:
    return refusal("InvalidNextToken", "The NextToken is invalid.")


class Operation(msgspec.Struct, frozen=True):
    """One operation.

    :param resources: the ARNs of the alarms that a call concerns, from its parameters and the account; empty: all.
    """

    run: Callable[[Context], Output]
    resources: Callable[[Mapping[str, Any], str], list[str]]


def _none(params: Mapping[str, Any], account: str) -> list[str]:
    return ["*"]


def _named(params: Mapping[str, Any], account: str) -> list[str]:
    return [arn_of(params["AlarmName"], account)]


def _each(params: Mapping[str, Any], account: str) -> list[str]:
    return [arn_of(name, account) for name in params["AlarmNames"]] or ["*"]


def _any(params: Mapping[str, Any], account: str) -> list[str]:
    return [arn_of(params.get("AlarmName") or "*", account)]


def _arn(params: Mapping[str, Any], account: str) -> list[str]:
    return [params["ResourceARN"]]


OPERATIONS: Final[dict[str, Operation]] = {
    "PutMetricAlarm": Operation(put_metric_alarm, _named),
    "DescribeAlarms": Operation(describe_alarms, lambda _, account: [arn_of("*", account)]),
    "DescribeAlarmsForMetric": Operation(
        describe_alarms_for_metric, lambda _, account: [arn_of("*", account)]
    ),
    "DescribeAlarmHistory": Operation(describe_alarm_history, _any),
    "DeleteAlarms": Operation(delete_alarms, _each),
    "SetAlarmState": Operation(set_alarm_state, _named),
    "EnableAlarmActions": Operation(enable_alarm_actions, _each),
    "DisableAlarmActions": Operation(disable_alarm_actions, _each),
    "ListTagsForResource": Operation(list_tags, _arn),
    "TagResource": Operation(tag, _arn),
    "UntagResource": Operation(untag, _arn),
    "ListMetrics": Operation(list_metrics, _none),
    "GetMetricData": Operation(get_metric_data, _none),
    "GetMetricStatistics": Operation(get_metric_statistics, _none),
}
"""The operations, by the name that CloudWatch's model gives them. Every other operation of the model is refused, and
listed in docs/not-cloudfront.md."""
