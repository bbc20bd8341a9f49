"""CloudWatch's calls on the control port, by botocore in each protocol that it has: CBOR, JSON, and query."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cbor2
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.loaders import Loader
from botocore.session import Session

from keyfront.control.alarms import minutes
from keyfront.control.audit.search import AuditQuery, search
from keyfront.control.identity.sealing import sealer
from keyfront.control.identity.users import UserAdmin
from keyfront.control.wire import cloudwatch as wire
from keyfront.errors import ApiError
from keyfront.model.cloudwatch import api
from keyfront.monitoring.metric_series import Counts, Measurement, counts_of, gauges
from tests.control.harness import ACCOUNT
from tests.control.plane import Plane
from tests.rows import rows

PROTOCOLS = {"cbor": "smithy-rpc-v2-cbor", "json": "json", "query": "query"}
DIMENSIONS = [{"Name": "DistributionId", "Value": "E1"}, {"Name": "Region", "Value": "Global"}]
ALARM: dict[str, Any] = {
    "AlarmName": "errors & more",
    "Namespace": "AWS/CloudFront",
    "MetricName": "4xxErrorRate",
    "Dimensions": DIMENSIONS,
    "Statistic": "Average",
    "Period": 300,
    "EvaluationPeriods": 2,
    "DatapointsToAlarm": 1,
    "Threshold": 5.5,
    "ComparisonOperator": "GreaterThanThreshold",
}


class OneProtocol(Loader):  # type: ignore[misc]
    """botocore's models, with CloudWatch's clients limited to one protocol."""

    def __init__(self, protocol: str) -> None:
        super().__init__()
        self._protocol = protocol

    def load_service_model(self, service_name: str, type_name: str, api_version: str | None = None) -> Any:
        model = super().load_service_model(service_name, type_name, api_version)
        if service_name == "cloudwatch" and type_name == "service-2":
            metadata = {**model["metadata"], "protocol": self._protocol, "protocols": [self._protocol]}
            return {**model, "metadata": metadata}
        return model


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with Plane(tmp_path_factory.mktemp("plane")) as made:
        yield made


def client(endpoint: str, key: tuple[str, str], protocol: str = "cbor") -> Any:
    session = Session()
    session.register_component("data_loader", OneProtocol(PROTOCOLS[protocol]))
    made = session.create_client(
        "cloudwatch",
        region_name="us-east-1",
        endpoint_url=endpoint,
        aws_access_key_id=key[0],
        aws_secret_access_key=key[1],
        config=Config(retries={"max_attempts": 0}),
    )
    assert made.meta.service_model.metadata["protocol"] == PROTOCOLS[protocol]
    return made


@pytest.fixture(scope="module", params=PROTOCOLS)
def of_protocol(plane: Plane, request: pytest.FixtureRequest) -> Any:
    return client(plane.endpoint, plane.key, request.param)


@pytest.fixture
def api_client(of_protocol: Any) -> Iterator[Any]:
    yield of_protocol
    names = [each["AlarmName"] for each in of_protocol.describe_alarms()["MetricAlarms"]]
    if names:
        of_protocol.delete_alarms(AlarmNames=names)


def refused(call: Any, **params: Any) -> tuple[str, int]:
    with pytest.raises(ClientError) as error:
        call(**params)
    return error.value.response["Error"]["Code"], error.value.response["ResponseMetadata"]["HTTPStatusCode"]


def test_an_alarm_comes_back_as_it_was_put(api_client: Any) -> None:
    topic = "arn:aws:sns:us-east-1:1:ops"
    api_client.put_metric_alarm(
        **ALARM, AlarmDescription="<a> & ü\n", AlarmActions=[topic], Tags=[{"Key": "team", "Value": "films"}]
    )
    (found,) = api_client.describe_alarms(AlarmNames=["errors & more"])["MetricAlarms"]
    assert {name: found[name] for name in ALARM} == ALARM
    assert found["AlarmDescription"] == "<a> & ü\n"
    assert found["AlarmActions"] == [topic]
    assert found["OKActions"] == []
    assert found["ActionsEnabled"] is True
    assert found["AlarmArn"] == f"arn:aws:cloudwatch:us-east-1:{ACCOUNT}:alarm:errors & more"
    assert (found["StateValue"], found["StateReason"]) == (
        "INSUFFICIENT_DATA",
        "Unchecked: Initial alarm creation",
    )
    age = datetime.now(UTC) - found["AlarmConfigurationUpdatedTimestamp"]
    assert timedelta(0) <= age < timedelta(minutes=5)
    arn = found["AlarmArn"]
    api_client.tag_resource(ResourceARN=arn, Tags=[{"Key": "team", "Value": "x"}, {"Key": "b", "Value": ""}])
    api_client.untag_resource(ResourceARN=arn, TagKeys=["b", "c"])
    assert api_client.list_tags_for_resource(ResourceARN=arn)["Tags"] == [{"Key": "team", "Value": "x"}]
    api_client.put_metric_alarm(**ALARM | {"Threshold": 6.0})
    (found,) = api_client.describe_alarms()["MetricAlarms"]
    assert (found["Threshold"], "AlarmDescription" in found) == (6.0, False)
    assert api_client.list_tags_for_resource(ResourceARN=arn)["Tags"] == [{"Key": "team", "Value": "x"}]


def test_states_and_their_history(api_client: Any) -> None:
    api_client.put_metric_alarm(**ALARM)
    name = ALARM["AlarmName"]
    given = {"AlarmName": name, "StateReason": "tried", "StateReasonData": '{"a": 1}'}
    api_client.set_alarm_state(**given, StateValue="ALARM")
    api_client.set_alarm_state(**given, StateValue="ALARM")  # the same state is no transition
    (found,) = api_client.describe_alarms(StateValue="ALARM")["MetricAlarms"]
    assert (found["StateReason"], found["StateReasonData"]) == ("tried", '{"a": 1}')
    assert api_client.describe_alarms(StateValue="OK")["MetricAlarms"] == []
    api_client.disable_alarm_actions(AlarmNames=[name, "no such alarm"])
    (found,) = api_client.describe_alarms_for_metric(
        Namespace="AWS/CloudFront", MetricName="4xxErrorRate", Dimensions=DIMENSIONS
    )["MetricAlarms"]
    assert found["ActionsEnabled"] is False
    api_client.enable_alarm_actions(AlarmNames=[name])
    ordered = {"AlarmName": name, "ScanBy": "TimestampAscending", "MaxRecords": 2}
    items: list[Any] = []
    page = api_client.describe_alarm_history(**ordered)
    while True:
        items += page["AlarmHistoryItems"]
        if not page.get("NextToken"):
            break
        assert len(page["AlarmHistoryItems"]) == 2
        page = api_client.describe_alarm_history(**ordered, NextToken=page["NextToken"])
    summaries = [each["HistorySummary"] for each in items]
    assert summaries[-4:] == [
        f'Alarm "{name}" created',
        "Alarm updated from INSUFFICIENT_DATA to ALARM",
        f'Actions of alarm "{name}" disabled',
        f'Actions of alarm "{name}" enabled',
    ]
    change = json.loads(items[-3]["HistoryData"])
    assert change["newState"] == {"stateValue": "ALARM", "stateReason": "tried", "stateReasonData": {"a": 1}}
    only = api_client.describe_alarm_history(AlarmName=name, HistoryItemType="StateUpdate", MaxRecords=1)
    assert only["AlarmHistoryItems"][0]["HistorySummary"] == summaries[-3]
    later = datetime.now(UTC) + timedelta(days=1)
    assert api_client.describe_alarm_history(StartDate=later)["AlarmHistoryItems"] == []


def test_alarms_are_listed_in_pages(api_client: Any) -> None:
    for number in range(5):
        api_client.put_metric_alarm(
            **ALARM | {"AlarmName": f"a{number}", "OKActions": [f"arn:aws:sns:us-east-1:1:t{number}"]}
        )
    found = api_client.get_paginator("describe_alarms").paginate(PaginationConfig={"PageSize": 2})
    assert [[each["AlarmName"] for each in page["MetricAlarms"]] for page in found] == [
        ["a0", "a1"],
        ["a2", "a3"],
        ["a4"],
    ]
    named = api_client.describe_alarms(AlarmNames=["a3", "a1", "b"])["MetricAlarms"]
    assert [each["AlarmName"] for each in named] == ["a1", "a3"]
    (one,) = api_client.describe_alarms(ActionPrefix="arn:aws:sns:us-east-1:1:t4")["MetricAlarms"]
    assert one["AlarmName"] == "a4"
    assert api_client.describe_alarms(AlarmNamePrefix="b")["MetricAlarms"] == []
    assert refused(api_client.delete_alarms, AlarmNames=["a0", "b"]) == ("ResourceNotFound", 404)
    assert len(api_client.describe_alarms()["MetricAlarms"]) == 5


@pytest.fixture(scope="module")
def start(plane: Plane) -> datetime:
    """The time from which three minutes of two distributions are stored: an hour ago."""
    first = minutes.minute_of(datetime.now(UTC).timestamp() - 3600)
    with plane.store.write_relaxed() as transaction:
        minutes.add(transaction, {"run": {}}, {}, first - 60)
        total: dict[str, Counts] = {}
        for number in range(3):
            series = [
                ("requests", (id_, status, "Hit", ""), ((number + 1) * factor,))
                for id_, factor in (("E1", 10), ("E2", 1))
                for status in ("200", "404")
            ]
            total = counts_of(series)
            measured = gauges([Measurement("Edges", 2 + number)])
            minutes.add(transaction, {"run": total}, measured, first + number * 60)
    return datetime.fromtimestamp(first, UTC)


def query(id_: str, stat: str, period: int = 60, **metric: Any) -> dict[str, Any]:
    given = {"Namespace": "AWS/CloudFront", "MetricName": "Requests", "Dimensions": DIMENSIONS} | metric
    return {"Id": id_, "MetricStat": {"Metric": given, "Period": period, "Stat": stat}}


def test_metric_data(api_client: Any, start: datetime) -> None:
    queries = [
        query("requests", "Sum"),
        query("whole", "Sum", 300),
        query("rate", "Average", 60, MetricName="4xxErrorRate"),
        query("edges", "Maximum", 60, Namespace="Keyfront", MetricName="Edges", Dimensions=[]),
        query("none", "Sum", 60, MetricName="NoSuchMetric"),
        {**query("unit", "Sum"), "MetricStat": {**query("unit", "Sum")["MetricStat"], "Unit": "Bytes"}},
    ]
    span = {"StartTime": start, "EndTime": start + timedelta(minutes=10)}
    found = api_client.get_metric_data(MetricDataQueries=queries, ScanBy="TimestampAscending", **span)
    values = {each["Id"]: each["Values"] for each in found["MetricDataResults"]}
    assert values == {
        "requests": [20.0, 20.0, 20.0],
        "whole": [60.0],
        "rate": [50.0, 50.0, 50.0],
        "edges": [2.0, 3.0, 4.0],
        "none": [],
        "unit": [],
    }
    first = found["MetricDataResults"][0]
    assert first["Timestamps"] == [start + timedelta(minutes=number) for number in range(3)]
    assert (first["Label"], first["StatusCode"]) == ("Requests", "Complete")
    descending = api_client.get_metric_data(MetricDataQueries=queries[3:4], **span)
    assert descending["MetricDataResults"][0]["Values"] == [4.0, 3.0, 2.0]
    # In pages of two datapoints.
    token: dict[str, str] = {}
    pages = []
    while True:
        page = api_client.get_metric_data(MetricDataQueries=queries[:2], MaxDatapoints=2, **span, **token)
        pages.append([(each["Id"], len(each["Values"])) for each in page["MetricDataResults"]])
        if not page.get("NextToken"):
            break
        token = {"NextToken": page["NextToken"]}
    assert pages == [[("requests", 2)], [("requests", 1), ("whole", 1)]]


def test_metric_statistics_and_lists(api_client: Any, start: datetime) -> None:
    given = {
        "Namespace": "AWS/CloudFront",
        "MetricName": "4xxErrorRate",
        "Dimensions": DIMENSIONS,
        "StartTime": start,
        "EndTime": start + timedelta(minutes=5),
        "Period": 300,
    }
    (point,) = api_client.get_metric_statistics(**given, Statistics=["Average", "SampleCount", "Maximum"])[
        "Datapoints"
    ]
    assert point == {
        "Timestamp": start,
        "Unit": "Percent",
        "Average": 50.0,
        "SampleCount": 60.0,
        "Maximum": 100.0,
    }
    assert api_client.get_metric_statistics(**given, Statistics=["Sum"], Unit="Bytes")["Datapoints"] == []
    (point,) = api_client.get_metric_statistics(**given, ExtendedStatistics=["p99", "p10"])["Datapoints"]
    assert point["ExtendedStatistics"] == {"p99": 100.0, "p10": 0.0}
    listed = api_client.list_metrics(Namespace="AWS/CloudFront")["Metrics"]
    assert {each["Dimensions"][0]["Value"] for each in listed} == {"E1", "E2"}
    assert len(listed) == 28
    active = api_client.list_metrics(RecentlyActive="PT3H", Namespace="AWS/CloudFront")["Metrics"]
    assert active == listed
    (one,) = api_client.list_metrics(MetricName="Requests", Dimensions=[DIMENSIONS[0]])["Metrics"]
    assert one == {"Namespace": "AWS/CloudFront", "MetricName": "Requests", "Dimensions": DIMENSIONS}
    own = {each["MetricName"] for each in api_client.list_metrics(Namespace="Keyfront")["Metrics"]}
    assert {"Denials", "Edges", "4xxErrorRate"} <= own


def test_errors_in_the_protocols_form(api_client: Any, start: datetime) -> None:
    span = {"StartTime": start, "EndTime": start + timedelta(minutes=1)}
    arn = f"arn:aws:cloudwatch:us-east-1:{ACCOUNT}:alarm:none"
    calls: list[tuple[Any, dict[str, Any], str, int]] = [
        (
            api_client.set_alarm_state,
            {"AlarmName": "x", "StateValue": "OK", "StateReason": ""},
            "ResourceNotFound",
            404,
        ),
        (api_client.list_tags_for_resource, {"ResourceARN": arn}, "ResourceNotFoundException", 404),
        (api_client.tag_resource, {"ResourceARN": "arn:x", "Tags": []}, "ResourceNotFoundException", 404),
        (api_client.put_metric_alarm, ALARM | {"Namespace": "AWS/EC2"}, "InvalidParameterValue", 400),
        (api_client.put_metric_alarm, ALARM | {"Period": 45}, "ValidationError", 400),
        (
            api_client.put_metric_alarm,
            ALARM | {"Tags": [{"Key": "aws:x", "Value": ""}]},
            "ValidationError",
            400,
        ),
        (api_client.describe_alarms, {"NextToken": "ü"}, "InvalidNextToken", 400),
        (api_client.describe_alarms, {"AlarmNames": ["a"], "AlarmNamePrefix": "a"}, "ValidationError", 400),
        (api_client.describe_alarms, {"ChildrenOfAlarmName": "a"}, "InvalidParameterValue", 400),
        (api_client.describe_alarm_history, {"NextToken": "eHg="}, "InvalidNextToken", 400),
        (api_client.list_metrics, {"NextToken": "eHg="}, "InvalidNextToken", 400),
        (api_client.put_dashboard, {"DashboardName": "x", "DashboardBody": "{}"}, "UnknownOperationException", 400),
        (api_client.put_metric_data, {"Namespace": "x", "MetricData": []}, "UnknownOperationException", 400),
        (
            api_client.get_metric_data,
            {"MetricDataQueries": [{"Id": "e", "Expression": "m1*2"}], **span},
            "InvalidParameterValue",
            400,
        ),
        (api_client.get_metric_data, {"MetricDataQueries": [query("a", "IQM")], **span}, "InvalidParameterValue", 400),
        (api_client.get_metric_data, {"MetricDataQueries": [query("a", "Sum", 45)], **span}, "ValidationError", 400),
        (
            api_client.get_metric_data,
            {"MetricDataQueries": [query("a", "Sum")] * 2, **span},
            "ValidationError",
            400,
        ),
        (
            api_client.get_metric_data,
            {"MetricDataQueries": [query("a", "Sum")], "StartTime": start, "EndTime": start},
            "ValidationError",
            400,
        ),
        (
            api_client.get_metric_data,
            {
                "MetricDataQueries": [query(f"q{number}", "Sum") for number in range(20)],
                "StartTime": start - timedelta(days=14),
                "EndTime": start,
            },
            "ValidationError",
            400,
        ),
    ]  # fmt: skip
    for call, params, code, status in calls:
        assert refused(call, **params) == (code, status), (call.__name__, params)


@rows("protocol", PROTOCOLS)
def test_calls_are_authenticated(plane: Plane, protocol: str) -> None:
    wrong = client(plane.endpoint, (plane.key[0], "x" * 40), protocol)
    assert refused(wrong.describe_alarms) == ("SignatureDoesNotMatch", 403)


def test_policies_guard_each_call(plane: Plane) -> None:
    allowed = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": "cloudwatch:*", "Resource": "*"},
            {
                "Effect": "Deny",
                "Action": ["cloudwatch:DeleteAlarms", "cloudwatch:SetAlarmState"],
                "Resource": f"arn:aws:cloudwatch:us-east-1:{ACCOUNT}:alarm:*",
                "Condition": {"StringEquals": {"aws:ResourceTag/team": "films"}},
            },
        ],
    }
    admin = client(plane.endpoint, plane.key)
    admin.put_metric_alarm(**ALARM | {"AlarmName": "films"}, Tags=[{"Key": "team", "Value": "films"}])
    admin.put_metric_alarm(**ALARM | {"AlarmName": "music"})
    access = UserAdmin(
        plane.store, ACCOUNT, lambda: sealer(plane.folder, {}, make=True), by="test", clock=time.time
    )
    found = {}
    access.put_policy("alarms", json.dumps(allowed))
    for name, policies in (("reader", ["auditor"]), ("keeper", ["alarms"]), ("nobody", [])):
        access.create_user(name, policies)
        key, secret = access.create_key(name)
        found[name] = client(plane.endpoint, (key.id, secret))
    until(lambda: "AccessDenied" in refused(found["nobody"].describe_alarms))
    assert refused(found["nobody"].list_metrics) == ("AccessDenied", 403)
    assert len(found["reader"].describe_alarms()["MetricAlarms"]) == 2
    assert refused(found["reader"].put_metric_alarm, **ALARM) == ("AccessDenied", 403)
    assert refused(found["keeper"].delete_alarms, AlarmNames=["music", "films"]) == ("AccessDenied", 403)
    found["keeper"].delete_alarms(AlarmNames=["music"])
    admin.delete_alarms(AlarmNames=["films"])


def until(true: Callable[[], bool]) -> None:
    """Wait until it is true: a control plane applies changes of users within a second."""
    ends = time.monotonic() + 60
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.05)


def test_changes_are_audited(plane: Plane) -> None:
    made = client(plane.endpoint, plane.key)
    made.put_metric_alarm(**ALARM)
    made.delete_alarms(AlarmNames=[ALARM["AlarmName"]])
    refused(made.delete_alarms, AlarmNames=["nothing"])
    found = [one.record for one in search(plane.store, AuditQuery(event="DeleteAlarms"))][-2:]
    assert [each["eventSource"] for each in found] == ["monitoring.amazonaws.com"] * 2
    assert [each.get("errorCode") for each in found] == [None, "ResourceNotFound"]
    (put,) = [one.record for one in search(plane.store, AuditQuery(event="PutMetricAlarm", errors=False))][
        -1:
    ]
    assert put["requestParameters"]["alarmName"] == ALARM["AlarmName"]
    assert put["readOnly"] is False


# -- bytes that no client sends ---------------------------------------------------------------------------------------

OPERATION = api().operations["PutMetricAlarm"]


def test_what_cannot_be_read_is_refused_not_a_failure() -> None:
    source = random.Random(7)
    whole = cbor2.dumps(ALARM)
    form = "Action=PutMetricAlarm&Version=2010-08-01&AlarmName=x&Dimensions.member.1.Name=a"
    bodies: list[tuple[wire.Protocol, bytes]] = [
        ("cbor", cbor2.dumps([1, 2])),
        ("cbor", b"\x81" * 100_000),
        ("cbor", b"\xa2\x61a\x01\x61a\x02"),
        ("cbor", cbor2.dumps({"AlarmName": cbor2.CBORTag(2, b"\xff" * 1000)})),
        ("cbor", cbor2.dumps({"Threshold": float("nan")})),
        ("cbor", cbor2.dumps({"Period": 1 << 70})),
        ("cbor", cbor2.dumps({1: 2})),
        ("cbor", cbor2.dumps({"ActionsEnabled": "yes", "OKActions": "x", "Dimensions": [1]})),
        ("json", b"[" * 100_000),
        ("json", b'{"AlarmName": 5}'),
        ("json", b'{"Threshold": 1e999}'),
        ("json", b"\xff"),
        ("query", b""),
        ("query", form.replace("2010-08-01", "2009-05-15").encode()),
        ("query", form.encode() + b"&AlarmName=y"),
        ("query", form.encode() + b"&AlarmName.member.1=y"),
        ("query", form.encode() + b"&" + b"a." * 100 + b"b=1"),
        ("query", form.encode() + b"&Dimensions.member.x.Name=a"),
        ("query", form.encode() + b"&OKActions=x"),
        ("query", b"\xff\xfe"),
        ("query", b"&".join([b"a=b"] * 60_000)),
    ]
    answers: set[int] = set()
    for _ in range(500):
        spoiled = bytearray(whole)
        for _ in range(source.randrange(1, 4)):
            spoiled[source.randrange(len(spoiled))] = source.randrange(256)
        bodies.append(("cbor", bytes(spoiled)))
    for protocol, body in bodies:
        try:
            found = wire.read(protocol, OPERATION, "", body)
        except ApiError as error:
            answers.add(wire.write_error(protocol, error, "r").status)
        else:
            assert protocol == "cbor"
            assert isinstance(found["AlarmName"], str)
    assert answers <= {400, 404}


@rows(
    "protocol, operation, body, fault",
    [
        ("json", "GetMetricData", b'{"StartTime": "now"}', "Member must be a timestamp"),
        ("json", "GetMetricData", b'{"StartTime": 1e300}', "Member must be a timestamp"),
        ("json", "PutMetricAlarm", b'{"ActionsEnabled": 1}', "Member must be true or false"),
        ("json", "PutMetricAlarm", b'{"ActionsEnabled": true, "Period": 1.5}', "Member must be an integer"),
        ("json", "PutMetricAlarm", b'{"AlarmName": null}', "Member must not be null"),
        ("json", "PutMetricAlarm", b'{"AlarmName": ""}', "length greater than or equal to 1"),
        ("json", "SetAlarmState", b'{"StateValue": "BAD"}', "enum value set"),
        ("json", "PutMetricStream", b'{"Name": "x", "StatisticsConfigurations": 5}', "Member must be a list"),
        ("json", "PutManagedInsightRules", b'{"ManagedRules": [{"TemplateName": "\\u0001"}]}', "pattern"),
        (
            "query",
            "PutMetricAlarm",
            b"Dimensions=&OKActions=&AlarmName=",
            "length greater than or equal to 1",
        ),
    ],
)
def test_faults_name_the_member(protocol: wire.Protocol, operation: str, body: bytes, fault: str) -> None:
    if protocol == "query":
        body += f"&Action={operation}&Version=2010-08-01".encode()
    with pytest.raises(ApiError, match=fault) as error:
        wire.read(protocol, api().operations[operation], "", body)
    assert error.value.code == "ValidationError"


def test_presigned_parameters_and_empty_bodies() -> None:
    assert wire.read("cbor", api().operations["DescribeAlarms"], "", b"") == {}
    line = "Action=DescribeAlarms&Version=2010-08-01&MaxRecords=5&X-Amz-Date=x&AlarmNames="
    assert wire.read("query", api().operations["DescribeAlarms"], line, b"") == {
        "MaxRecords": 5,
        "AlarmNames": [],
    }
    moment = cbor2.dumps(datetime(2026, 12, 1, tzinfo=UTC), datetime_as_timestamp=True)
    body = b"\xa1" + cbor2.dumps("StartDate") + moment
    found = wire.read("cbor", api().operations["DescribeAlarmHistory"], "", body)
    assert found == {"StartDate": datetime(2026, 12, 1, tzinfo=UTC)}


def test_newer_members_are_refused_by_name() -> None:
    with pytest.raises(ApiError, match="Element Wake") as error:
        wire.read("json", OPERATION, "", b'{"AlarmName": "x", "Wake": true, "Null": null}')
    assert error.value.code == "InvalidParameterValue"


def test_other_services_keep_their_paths() -> None:
    body = b"Action=GetCallerIdentity&Version=2011-06-15"
    line: tuple[str, str, str, list[tuple[str, str]], bytes] = ("POST", "/", "", [], body)
    assert wire.match(*line, "sts") is None
    assert wire.match(*line, "monitoring") == wire.Matched("query", "GetCallerIdentity")
    assert wire.match("GET", "/2020-05-31/distribution", "", [], b"", "cloudfront") is None
    assert wire.match("POST", "/", "", [], b"", "monitoring") == wire.Matched("query", "")
    with pytest.raises(ApiError, match="Could not find operation"):
        wire.operation_of(wire.Matched("cbor", "../x"))


def test_every_operation_is_built_or_listed() -> None:
    from keyfront.control.alarms.operations import OPERATIONS

    page = (Path(__file__).parents[2] / "docs" / "not-cloudfront.md").read_text()
    section = page[page.index("### Alarms") : page.index("### Standard logs")]
    assert api().operations.keys() >= OPERATIONS.keys()
    assert all(f"`{name}`" in section for name in OPERATIONS)
