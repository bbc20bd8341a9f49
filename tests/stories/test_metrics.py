"""Prometheus reads a whole `keyfront up --edge-metrics`: every request is counted exactly once, whatever becomes of the
workers."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from keyfront import load_signer, sign_url
from tests.keys import KEYS
from tests.stories.conftest import Viewers
from tests.up import Up

TOKEN = "0123456789abcdef0123456789abcdef"
LATER, PAST = 4102444800, 1262304000


RESTARTS = "keyfront_process_restarts_total"
"""Counts under the names of processes, which are others after a reload."""


class Site(NamedTuple):
    """A running Keyfront with a distribution whose paths below /members need a signature."""

    up: Up
    id: str
    host: str
    key: str
    group: str
    sent: Counter[str]
    """What was sent, by the names of the samples that count it."""

    def signed(self, key: str, expires: int = LATER, now: float | None = None) -> str:
        signer = load_signer(key, KEYS / "rsa.pem")
        url = sign_url(f"http://{self.host}/members/a", signer, expires=expires, now=now)
        return url.removeprefix(f"http://{self.host}")

    def get(self, target: str, result: str, status: int, reason: str = "", key: str = "") -> None:
        """Send a request, and note how it is to be counted."""
        answer = self.up.get(self.host, target)
        assert answer.status == status, answer
        labels = f'distribution="{self.id}",reason="{reason}",result="{result}",status="{status}"'
        self.sent[f"keyfront_edge_requests_total{{{labels}}}"] += 1
        self.sent['keyfront_edge_requests_by_version_total{version="1.1"}'] += 1
        self.sent[f'keyfront_edge_response_bytes_total{{distribution="{self.id}"}}'] += len(answer.body)
        self.sent[f'keyfront_edge_request_duration_seconds_count{{distribution="{self.id}"}}'] += 1
        if status == 403:
            group = self.group if key == self.key else ""
            labels = f'distribution="{self.id}",key_group="{group}",key_pair_id="{key}",reason="{reason}"'
            self.sent[f"keyfront_edge_denials_total{{{labels}}}"] += 1
        elif key:
            labels = (
                f'distribution="{self.id}",hash_algorithm="SHA1",key_group="{self.group}",key_pair_id="{key}"'
            )
            self.sent[f"keyfront_edge_signatures_accepted_total{{{labels}}}"] += 1

    def send_some_of_each(self, *, first: bool = False) -> None:
        """Requests of each kind. `first`: nothing is cached yet."""
        if first:
            self.get("/page", "Miss", 200)
        for _ in range(3):
            self.get("/page", "Hit", 200)
        if first:
            self.get(self.signed(self.key), "Miss", 200, key=self.key)
        for number in range(4):
            self.get(self.signed(self.key, expires=LATER + number), "Hit", 200, key=self.key)
        for _ in range(2):
            self.get("/members/a", "Error", 403, "missing_key_pair_id")
        self.get(self.signed(self.key, expires=PAST, now=PAST - 60.0), "Error", 403, "expired", self.key)
        spoiled = re.sub(r"Signature=....", "Signature=AAAA", self.signed(self.key))
        self.get(spoiled, "Error", 403, "signature_mismatch", self.key)
        for number in range(3):
            self.get(self.signed(f"KCHOSEN{number}"), "Error", 403, "unknown_key", "other")

    def counted(self) -> dict[str, float]:
        """What the port for metrics shows of what is noted in `sent`."""
        families = tuple({name.partition("{")[0] for name in self.sent})
        return {
            name: value
            for name, value in self.up.metrics().items()
            if name.startswith(families)
            and value
            and value
            and not name.startswith('keyfront_edge_requests_total{distribution=""')
        }

    def is_exact(self) -> bool:
        return self.counted() == self.sent


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, page_origin: int) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("metrics")
    (folder / "token").write_text(TOKEN + "\n")
    (folder / "keyfront.toml").write_text("[edge]\ncache-status = false\n")
    options = (
        "--config", str(folder / "keyfront.toml"), "--edge-metrics", "127.0.0.1:0",
        "--metrics-token", str(folder / "token"), "--trusted-proxies", "127.0.0.1",
    )  # fmt: skip
    with Up(folder / "data", workers=2, options=options) as up:
        client = up.client()
        pem = (KEYS / "rsa.pub").read_text()
        config = {"CallerReference": "k", "Name": "k", "EncodedKey": pem}
        key = client.create_public_key(PublicKeyConfig=config)["PublicKey"]["Id"]
        group = client.create_key_group(KeyGroupConfig={"Name": "g", "Items": [key]})["KeyGroup"]["Id"]
        made = up.create_distribution(page_origin, paths={"/members/*": [group]})
        yield Site(up, made["Id"], made["DomainName"], key, group, Counter())
        assert up.stop() == 0


def test_everything_is_counted_exactly(site: Site) -> None:
    site.send_some_of_each(first=True)
    site.up.until(site.is_exact)
    found = site.up.metrics()
    origin = f'keyfront_edge_origin_response_duration_seconds_count{{distribution="{site.id}",origin="app"}}'
    assert found[origin] == 2
    assert found['keyfront_edge_verify_duration_seconds_bucket{le="+Inf"}'] > 0
    assert not any("KCHOSEN" in name for name in found)
    assert found["keyfront_edge_workers"] == 2
    sizes = ("keyfront_edge_cache_objects", "keyfront_edge_shared_cache_bytes")
    site.up.until(lambda: any(site.up.metrics()[name] > 0 for name in sizes))  # a worker looks once a second
    number = found["keyfront_edge_snapshot_number"]
    control = site.up.metrics(control=True)
    assert control['keyfront_edge_snapshot_number{edge="edge-1"}'] == number
    # The sum over both ports counts no request twice.
    assert not any(name.startswith("keyfront_edge_requests") for name in control)
    # The access log agrees.
    records = Counter(record["result"] for record in site.up.records())
    for result in ("Hit", "Miss", "Error"):
        labels = f'distribution="{site.id}"'
        shown = sum(v for n, v in site.sent.items() if f'result="{result}"' in n and labels in n)
        assert records[result] == shown


def test_a_killed_worker_takes_nothing_along(site: Site) -> None:
    for _ in range(2):
        before = site.up.worker_pids()
        os.kill(before[0], signal.SIGKILL)
        site.up.until(lambda before=before: before[0] not in site.up.worker_pids())  # type: ignore[misc]
        assert site.is_exact()
        site.up.well()
        site.send_some_of_each()
        site.up.until(site.is_exact)


def test_counters_never_jump_back_under_load(site: Site) -> None:
    """While workers are killed, replaced by a reload, and replaced together with the program."""
    up = site.up
    seen: dict[str, float] = {}

    def check() -> None:
        found = up.metrics()
        for name, value in seen.items():
            family = name.partition("{")[0]
            if family.endswith(("_total", "_count", "_sum", "_bucket")) and family != RESTARTS:
                assert found[name] >= value, name
        seen.update(found)

    check()
    before = up.metrics()
    with Viewers(up, site.host, count=2, pause=0.005) as viewers:
        for act in ("kill", "reload", "restart"):
            answered = viewers.answered
            if act == "kill":
                os.kill(up.worker_pids()[0], signal.SIGKILL)
            else:
                argv = [sys.executable, "-m", "keyfront", act, "--data", str(up.data)]
                subprocess.run(argv, check=True, capture_output=True)
            up.until(lambda answered=answered: viewers.answered > answered + 20)  # type: ignore[misc]
            check()
            up.well()
            check()
    assert not viewers.wrong
    up.until(lambda: up.metrics()["keyfront_edge_workers"] == 2)
    check()
    hit = f'keyfront_edge_requests_total{{distribution="{site.id}",reason="",result="%s",status="200"}}'
    counted = sum(
        seen.get(hit % each, 0) - before.get(hit % each, 0) for each in ("Hit", "Miss", "RefreshHit")
    )
    # A killed worker loses what it had answered and not logged yet, 20 ms, and may have counted what never arrived.
    assert viewers.answered - 50 <= counted <= viewers.answered + viewers.lost
    assert counted > 0


def test_a_control_plane_with_another_edge(site: Site, tmp_path: Path) -> None:
    """The other edge has no port of its own, so the control plane shows what it reports; its counters are not mixed
    with those of the first."""
    before = site.up.metrics()
    with Up(tmp_path / "data", feed=site.up.data, workers=1) as other:
        (name,) = {
            re.findall(r'edge="([^"]+)"', sample)[0]
            for sample in site.up.metrics(control=True)
            if sample.startswith("keyfront_edge_info") and "at-" in sample
        }
        for target, status in (("/page", 200), ("/page", 200), ("/members/a", 403)):
            assert other.get(site.host, target).status == status

        def reported() -> Counter[str]:
            found = site.up.metrics(control=True)
            return Counter(
                {n: int(v) for n, v in found.items() if n.startswith("keyfront_edge_requests_total")}
            )

        labels = f'distribution="{site.id}",edge="{name}",reason="%s",result="%s",status="%d"'
        expected = {
            f"keyfront_edge_requests_total{{{labels % each}}}": 1
            for each in (("", "Miss", 200), ("", "Hit", 200), ("missing_key_pair_id", "Error", 403))
        }
        site.up.until(lambda: reported() == expected)
        found = site.up.metrics(control=True)
        assert found[f'keyfront_edge_snapshot_number{{edge="{name}"}}'] == found["keyfront_snapshot_number"]
        assert found[f'keyfront_edge_snapshot_refused{{edge="{name}"}}'] == 0
        reports = f'keyfront_edge_last_report_timestamp_seconds{{edge="{name}"}}'
        site.up.until(lambda: site.up.metrics(control=True)[reports] > found[reports])
        assert found['keyfront_region_edges{region=""}'] == 3
    site.up.until(lambda: not any(name in sample for sample in site.up.metrics(control=True)))
    after = site.up.metrics()
    counted = f'keyfront_edge_response_bytes_total{{distribution="{site.id}"}}'
    assert after[counted] == before[counted]


def test_formats_and_access(site: Site) -> None:
    def ask(port: int, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request(
            "GET", "/metrics", headers={name.replace("_", "-"): v for name, v in headers.items()}
        )
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer, body

    for port in (site.up.metrics_port, site.up.control_port):
        answer, body = ask(port)
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        answer, body = ask(port, Accept="application/openmetrics-text; version=1.0.0", Accept_Encoding="gzip")
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
        text = gzip.decompress(body).decode()
        assert text.endswith("# EOF\n")
        # It raises ValueError for what is not OpenMetrics.
        families = list(text_string_to_metric_families(text))  # type: ignore[no-untyped-call]
        assert len(families) > 20
        forwarded = {"X_Forwarded_For": "203.0.113.9"}
        answer, body = ask(port, **forwarded)
        assert (answer.status, b"--metrics-token" in body) == (403, True)
        answer, _ = ask(port, **forwarded, Authorization="Bearer wrong")
        assert answer.status == 403
        answer, _ = ask(port, **forwarded, Authorization=f"Bearer {TOKEN}")
        assert answer.status == 200


def test_the_process_that_answers_is_replaced_and_knows_everything(site: Site) -> None:
    up = site.up
    before = up.metrics()
    (pid,) = [pid for pid in up.children() if pid not in (*up.worker_pids(), up.control_pid())]
    os.kill(pid, signal.SIGKILL)
    up.until(lambda: pid not in up.children())
    after = up.metrics()  # the connection waits until the next one accepts it
    restarts = 'keyfront_process_restarts_total{process="metrics",reason="ended"}'
    assert after.pop(restarts) == before.pop(restarts) + 1
    totals = re.compile(r"_total(\{|$)")
    assert {n: v for n, v in after.items() if totals.search(n)} == {
        n: v for n, v in before.items() if totals.search(n)
    }
    assert restarts not in up.metrics(control=True)


# -- the dashboard, the alert rules, and a real Prometheus -----------------------------------------------------------

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "monitoring"
GUIDE = (ROOT / "docs" / "guide" / "monitoring.md").read_text()
PROMTOOL, PROMETHEUS = shutil.which("promtool"), shutil.which("prometheus")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool (Debian: prometheus) is not installed")
needs_prometheus = pytest.mark.skipif(PROMETHEUS is None, reason="prometheus (Debian) is not installed")


def printed_yaml() -> list[str]:
    """The parts of Prometheus's configuration that the guide prints."""
    return re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)


def expressions() -> list[str]:
    """Those of the dashboard, with values for Grafana's variables, and of the alert rules."""
    dashboard = json.loads((EXAMPLES / "dashboard.json").read_text())
    targets = [target for panel in dashboard["panels"] for target in panel.get("targets", ())]
    found = [target["expr"] for target in targets] + [one["expr"] for one in dashboard["annotations"]["list"]]
    for name, value in (("$__rate_interval", "1m"), ("$__interval", "1m"), ("$distribution", ".*")):
        found = [each.replace(name, value) for each in found]
    assert not any("$" in each.replace("${1}", "") for each in found)
    groups = yaml.safe_load((EXAMPLES / "alerts.yml").read_text())["groups"]
    return found + [rule["expr"] for group in groups for rule in group["rules"]]


def test_dashboard_and_rules_use_only_what_is_exposed(site: Site) -> None:
    exposed: set[str] = set()
    for port in (site.up.metrics_port, site.up.control_port):
        text = site.up._get(port, f"127.0.0.1:{port}", "/metrics").body.decode()
        exposed |= sample_names(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
    used = {name for each in expressions() for name in re.findall(r"\bkeyfront_\w+", each)}
    assert used
    assert used <= exposed
    reference = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    listed = sample_names(re.findall(r"^\| `(keyfront_\w+)` \| (\w+) ", reference, re.M))
    assert {name for name in exposed if not name.endswith("_created")} == listed


def sample_names(families: list[tuple[str, str]]) -> set[str]:
    """The names of the samples of families, given by name and type."""
    parts = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}
    return {name + part for name, kind in families for part in parts.get(kind, ("",))}


def test_panels_are_complete() -> None:
    dashboard = json.loads((EXAMPLES / "dashboard.json").read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            assert panel["targets"], panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
    groups = yaml.safe_load((EXAMPLES / "alerts.yml").read_text())["groups"]
    names = [rule["alert"] for group in groups for rule in group["rules"]]
    table = GUIDE[GUIDE.index("| alert | when |") :]
    assert sorted(names) == sorted(re.findall(r"`(Keyfront\w+)`", table))


@needs_promtool
def test_promtool_finds_no_fault(site: Site, tmp_path: Path) -> None:
    def promtool(*words: str, text: bytes = b"") -> None:
        done = subprocess.run([PROMTOOL or "", *words], input=text, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b""), done

    promtool("check", "rules", str(EXAMPLES / "alerts.yml"))
    for port in (site.up.metrics_port, site.up.control_port):
        promtool("check", "metrics", text=site.up._get(port, f"127.0.0.1:{port}", "/metrics").body)
    (tmp_path / "token").write_text(TOKEN)
    for number, text in enumerate(printed_yaml()):
        text = text.replace("/etc/keyfront/metrics-token", str(tmp_path / "token"))
        text = text.replace("/etc/prometheus/alerts.yml", str(EXAMPLES / "alerts.yml"))
        (tmp_path / f"{number}.yml").write_text(text)
        promtool("check", "config", str(tmp_path / f"{number}.yml"))


@needs_prometheus
def test_a_prometheus_scrapes_as_the_guide_says(site: Site, tmp_path: Path) -> None:
    """Both ports; every expression of the dashboard and of the rules can be evaluated."""
    scrape, _, rules = printed_yaml()
    text = "global: {scrape_interval: 1s, evaluation_interval: 1s}\n" + scrape + rules
    text = text.replace("127.0.0.1:8081", f"127.0.0.1:{site.up.control_port}")
    text = text.replace("127.0.0.1:9145", f"127.0.0.1:{site.up.metrics_port}")
    text = text.replace("/etc/prometheus/alerts.yml", str(EXAMPLES / "alerts.yml"))
    (tmp_path / "prometheus.yml").write_text(text)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {"config.file": tmp_path / "prometheus.yml", "storage.tsdb.path": tmp_path / "data",
               "web.listen-address": f"127.0.0.1:{port}", "log.level": "error"}  # fmt: skip
    process = subprocess.Popen([PROMETHEUS or "", *(f"--{name}={value}" for name, value in options.items())])

    def api(path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        answer = site.up._get(port, f"127.0.0.1:{port}", f"/api/v1/{path}?{query}")
        found = json.loads(answer.body)
        assert found["status"] == "success", (parameters, found)
        return found["data"]

    def value(expression: str) -> float:
        result = api("query", query=expression)["result"]
        return float(result[0]["value"][1]) if result else 0.0

    def answers() -> bool:
        with contextlib.suppress(OSError, ValueError):  # it is not ready
            return value('sum(up{job="keyfront"})') == 2
        return False

    try:
        site.up.until(answers)
        site.send_some_of_each()
        everything = sum(
            count for name, count in site.sent.items() if name.startswith("keyfront_edge_denials_total")
        )
        site.up.until(lambda: value("sum(keyfront_edge_denials_total)") == everything)
        for each in expressions():
            api("query", query=each)
        site.up.until(
            lambda: {rule["health"] for group in api("rules")["groups"] for rule in group["rules"]} == {"ok"}
        )
        # The counters that `rate` needs never fall: without a reset, the sum over time is what was sent.
        assert value("sum(resets(keyfront_edge_requests_total[1h]))") == 0
    finally:
        process.kill()
        process.wait()
