"""Alarms on a running Keyfront: boto3 puts them, viewers make them ring, and their actions reach a webhook and a mail
server, also when the control plane is killed in between."""

from __future__ import annotations

import json
import os
import signal
import socketserver
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import boto3
import pytest
from botocore.config import Config
from click.testing import CliRunner, Result

from keyfront.cli.main import keyfront
from keyfront.monitoring.default_alarms import default_alarms
from tests.application import Response, served
from tests.up import Up

SECRET = "0123456789abcdef0123456789abcdef"


class Webhook:
    """A local web server that collects what is posted to it. It refuses while `refuses` is set."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.deliveries: list[str] = []
        self.refuses = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.headers["Keyfront-Signature"].startswith("t=")
                if not outer.refuses:
                    outer.received.append(json.loads(body))
                    outer.deliveries.append(self.headers["Keyfront-Delivery"])
                self.send_response(500 if outer.refuses else 204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def states(self, name: str) -> list[str]:
        return [each["NewStateValue"] for each in self.received if each["AlarmName"] == name]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class MailServer:
    """The part of an SMTP server (RFC 5321) that a mail needs. It collects the mails."""

    def __init__(self) -> None:
        self.mails: list[str] = []
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(b"220 mail\r\n")
                while line := self.rfile.readline():
                    verb = line.split()[0].upper() if line.split() else b""
                    if verb == b"DATA":
                        self.wfile.write(b"354 go on\r\n")
                        lines = []
                        while (text := self.rfile.readline()) not in (b".\r\n", b""):
                            lines.append(text.decode())
                        outer.mails.append("".join(lines))
                    self.wfile.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 ok\r\n")

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Site(NamedTuple):
    up: Up
    client: Any
    webhook: Webhook
    mail: MailServer
    id: str
    host: str

    def errors(self, count: int = 4) -> None:
        for _ in range(count):
            assert self.up.get(self.host, f"/missing/{time.monotonic_ns()}").status == 404

    def successes(self, count: int = 20) -> None:
        for _ in range(count):
            assert self.up.get(self.host, "/page").status == 200

    def put(self, name: str, **others: Any) -> None:
        topic = "arn:aws:sns:us-east-1:000000000000:{}"
        given = {
            "AlarmName": name,
            "Namespace": "AWS/CloudFront",
            "MetricName": "4xxErrorRate",
            "Dimensions": [
                {"Name": "DistributionId", "Value": self.id},
                {"Name": "Region", "Value": "Global"},
            ],
            "Statistic": "Average",
            "Period": 300,
            "EvaluationPeriods": 1,
            "Threshold": 50.0,
            "ComparisonOperator": "GreaterThanThreshold",
            "AlarmActions": [topic.format("ops"), topic.format("on-call"), topic.format("nobody")],
            "OKActions": [topic.format("ops")],
        }
        self.client.put_metric_alarm(**given | others)

    def alarm(self, name: str) -> dict[str, Any]:
        (found,) = self.client.describe_alarms(AlarmNames=[name])["MetricAlarms"]
        return dict(found)

    def until(self, name: str, state: str) -> None:
        self.up.until(lambda: self.alarm(name)["StateValue"] == state)

    def history(self, name: str, type_: str) -> list[dict[str, Any]]:
        found = self.client.describe_alarm_history(
            AlarmName=name, HistoryItemType=type_, ScanBy="TimestampAscending"
        )
        return list(found["AlarmHistoryItems"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("alarms")
    webhook, mail = Webhook(), MailServer()
    (folder / "secret").write_text(SECRET)
    (folder / "secret").chmod(0o600)
    (folder / "hooks.toml").write_text(
        f"""
        [[action]]
        name = "ops"
        webhook = "http://127.0.0.1:{webhook.port}/alarms"
        secret-file = "{folder}/secret"
        retries = 0

        [[action]]
        name = "on-call"
        email = "on-call@example.com"
        sender = "keyfront@example.com"
        smtp = "smtp://127.0.0.1:{mail.port}"
        """
    )
    (folder / "hooks.toml").chmod(0o600)

    def app(request: Any) -> Response:
        return Response(b"x", status=404 if "missing" in request.target else 200)

    options = ("--alarm-interval", "1s", "--hooks", str(folder / "hooks.toml"))
    with served(app) as origin, Up(folder / "data", workers=1, options=options) as up:
        made = up.create_distribution(origin)
        client = boto3.client(
            "cloudwatch",
            endpoint_url=up.endpoint,
            region_name="us-east-1",
            config=Config(retries={"max_attempts": 0}),
            **up.credentials(),
        )
        yield Site(up, client, webhook, mail, made["Id"], made["DomainName"])
        assert up.stop() == 0
    webhook.close()
    mail.close()


def test_an_alarm_rings_and_its_actions_are_carried_out(site: Site) -> None:
    site.put("errors")
    assert site.alarm("errors")["StateValue"] == "INSUFFICIENT_DATA"
    site.errors()
    site.until("errors", "ALARM")
    found = site.alarm("errors")
    assert found["StateReason"].startswith("Threshold Crossed: 1 out of the last 1 datapoints [100.0 (")
    site.up.until(lambda: site.webhook.states("errors") == ["ALARM"])
    site.up.until(lambda: len(site.mail.mails) == 1)
    assert 'Subject: ALARM: "errors"' in site.mail.mails[0]
    assert "To: on-call@example.com" in site.mail.mails[0]
    site.up.until(lambda: len(site.history("errors", "Action")) == 3)
    summaries = {each["HistorySummary"] for each in site.history("errors", "Action")}
    topic = "action arn:aws:sns:us-east-1:000000000000"
    assert summaries == {
        f"Successfully executed {topic}:ops",
        f"Successfully executed {topic}:on-call",
        f"Failed to execute {topic}:nobody",
    }
    site.successes()
    site.until("errors", "OK")
    site.up.until(lambda: site.webhook.states("errors") == ["ALARM", "OK"])
    changes = [each["HistorySummary"] for each in site.history("errors", "StateUpdate")]
    assert changes == [
        "Alarm updated from INSUFFICIENT_DATA to ALARM",
        "Alarm updated from ALARM to OK",
    ]
    shown = site.up.metrics(control=True)
    assert shown['keyfront_alarm_state{alarm="errors",state="OK"}'] == 1
    assert shown['keyfront_alarm_actions_total{result="unknown"}'] == 1
    assert shown['keyfront_alarm_actions_total{result="succeeded"}'] == 3


def test_metrics_are_those_of_the_traffic(site: Site) -> None:
    names = ("Requests", "4xxErrorRate", "BytesDownloaded")
    dimensions = [{"Name": "DistributionId", "Value": site.id}, {"Name": "Region", "Value": "Global"}]
    now = datetime.now(UTC)

    def sums() -> list[float]:
        queries = [
            {
                "Id": f"m{number}",
                "MetricStat": {
                    "Metric": {"Namespace": "AWS/CloudFront", "MetricName": name, "Dimensions": dimensions},
                    "Period": 3600,
                    "Stat": "SampleCount" if name == "4xxErrorRate" else "Sum",
                },
            }
            for number, name in enumerate(names)
        ]
        found = site.client.get_metric_data(
            MetricDataQueries=queries,
            StartTime=now - timedelta(minutes=50),
            EndTime=now + timedelta(minutes=5),
        )
        return [sum(each["Values"]) for each in found["MetricDataResults"]]

    sent = site.up.metrics(control=True)
    requests = sum(v for n, v in sent.items() if n.startswith("keyfront_edge_requests_total"))
    site.up.until(lambda: sums()[:2] == [requests, requests])
    listed = site.client.list_metrics(Namespace="AWS/CloudFront", MetricName="Requests")["Metrics"]
    assert listed == [{"Namespace": "AWS/CloudFront", "MetricName": "Requests", "Dimensions": dimensions}]
    assert any(each["MetricName"] == "Edges" for each in site.client.list_metrics()["Metrics"])


def keyfront_alarm(site: Site, *words: str) -> Result:
    done = CliRunner().invoke(keyfront, ["alarm", *words, "--data", str(site.up.data)])
    assert done.exit_code == 0, (words, done.output)
    return done


def test_the_command_line(site: Site) -> None:
    made = keyfront_alarm(site, "defaults", "--action", "ops").stdout
    names = [line.split()[0] for line in made.splitlines()]
    assert len(names) == len(default_alarms([]))
    assert "exists already" in keyfront_alarm(site, "defaults").stderr
    found = site.alarm("keyfront-unknown-keys")
    assert found["AlarmActions"] == ["arn:aws:sns:us-east-1:000000000000:ops"]
    keyfront_alarm(site, "put", "slow", "--metric", "OriginLatency", "--distribution", site.id, "--statistic", "p90",
                   "--comparison", ">=", "--threshold", "60000", "--period", "1m", "--evaluation-periods", "5",
                   "--datapoints-to-alarm", "3", "--action", "ops", "--ok-action", "arn:aws:sns:a:1:x")  # fmt: skip
    shown = json.loads(keyfront_alarm(site, "show", "slow", "--json").stdout)
    assert (shown["ExtendedStatistic"], shown["Namespace"], shown["Period"]) == ("p90", "AWS/CloudFront", 60)
    assert "OriginLatency p90 >= 60000.0 in 60 s, 3 of 5 times" in keyfront_alarm(site, "show", "slow").stdout
    keyfront_alarm(site, "disable", "keyfront-4xx-rate")
    assert "disabled" in keyfront_alarm(site, "show", "keyfront-4xx-rate").stdout
    keyfront_alarm(site, "enable", "keyfront-4xx-rate")
    keyfront_alarm(site, "test", "slow")
    site.up.until(lambda: "ALARM" in site.webhook.states("slow"))
    listed = keyfront_alarm(site, "list", "--prefix", "keyfront-").stdout
    assert listed.count("keyfront-") == len(names)
    history = keyfront_alarm(site, "history", "slow").stdout
    assert 'Alarm "slow" created' in history
    assert "Alarm updated from" in history
    missing = CliRunner().invoke(keyfront, ["alarm", "show", "nothing", "--data", str(site.up.data)])
    assert missing.exit_code == 2
    assert f"`keyfront alarm list --data {site.up.data}`" in missing.stderr
    keyfront_alarm(site, "delete", "slow", *names)
    assert json.loads(keyfront_alarm(site, "list", "--prefix", "keyfront-", "--json").stdout) == []


def test_the_status_shows_an_alarm_that_rings(site: Site) -> None:
    site.put("shown", Threshold=0.0, AlarmActions=[])
    site.errors()
    site.until("shown", "ALARM")
    done = CliRunner().invoke(keyfront, ["status", "--data", str(site.up.data)])
    assert "! the alarm shown rings since 20" in done.stdout
    assert done.exit_code == 1
    site.client.delete_alarms(AlarmNames=["shown"])


def test_a_leader_that_is_killed_loses_no_transition_and_no_action(site: Site) -> None:
    site.webhook.refuses = True
    site.put("killed", Threshold=0.5, AlarmActions=["arn:aws:sns:us-east-1:000000000000:ops"])
    site.errors()
    site.until("killed", "ALARM")
    site.up.until(lambda: len(site.history("killed", "Action")) == 1)  # it failed, which is recorded
    assert site.history("killed", "Action")[0]["HistorySummary"].startswith("Failed to execute")
    pid = site.up.control_pid()
    os.kill(pid, signal.SIGKILL)
    site.webhook.refuses = False
    site.up.until(lambda: pid not in site.up.children())
    site.up.well()
    site.client.set_alarm_state(AlarmName="killed", StateValue="OK", StateReason="somebody looked at it")
    # Actions of two transitions can be carried out at the same time, so either may arrive first.
    site.up.until(lambda: sorted(site.webhook.states("killed")[:2]) == ["ALARM", "OK"])
    assert len(set(site.webhook.deliveries)) == len(site.webhook.deliveries)
    site.client.delete_alarms(AlarmNames=["killed"])
    assert site.client.describe_alarms(AlarmNames=["killed"])["MetricAlarms"] == []
