"""A worker's counters, as Prometheus reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from keyfront.edge.logs import access_log
from keyfront.edge.logs.access_log import AccessLog
from keyfront.edge.logs.counters import Counts
from keyfront.edge.logs.delivery import Status
from keyfront.edge.serving.measures import measure
from keyfront.edge.types.record import Record
from keyfront.fleet.edge_counters import FAMILIES, Kind
from keyfront.fleet.feed import Report
from keyfront.monitoring.delivery_metrics import delivery_families
from keyfront.monitoring.edge_metrics import families, fleet_families, machine_families
from tests.edge.harness import signed_site
from tests.origin import CLOSE, ScriptedOrigin, answer
from tests.sites import BOB, MALLORY, signed, site
from tests.viewer import EdgeHarness


def rendered(found: Iterable[Metric]) -> dict[str, float]:
    """The samples of the text format, by name with labels."""

    class One(Collector):
        def collect(self) -> Iterable[Metric]:
            return found

    registry = CollectorRegistry()
    registry.register(One())
    samples = generate_latest(registry).decode().splitlines()
    return {
        name: float(value) for name, value in (s.rsplit(" ", 1) for s in samples if not s.startswith("#"))
    }


def of_machine(*counts: Counts) -> dict[str, float]:
    return rendered(machine_families([one.table.since_start() for one in counts]))


async def test_the_sums_of_a_worker_become_metrics() -> None:
    async with ScriptedOrigin() as origin, EdgeHarness(site(origin.origin())) as harness:
        origin.on("/a", answer(200, b"hello"))
        for _ in range(3):
            await harness.get("/a")
        await harness.get("/a", host="nowhere.test")
        harness.log.flush()
        measure(harness.edge, 4, 1234.5)
        counted = harness.log.counts.sums()
    lines = rendered(families([("edge-1", 7, msgspec.to_builtins(counted))]))
    base = (
        'keyfront_edge_requests_total{distribution="ETEST",edge="edge-1",reason="",result="%s",status="200"}'
    )
    assert lines[base % "Miss"] == 1
    assert lines[base % "Hit"] == 2
    refused = {name: value for name, value in lines.items() if 'reason="no_distribution"' in name}
    assert list(refused.values()) == [1]
    sent = sum(
        value for name, value in lines.items() if name.startswith("keyfront_edge_response_bytes_total")
    )
    assert sent == sum(record["bytes"] for record in harness.records)
    assert lines['keyfront_edge_snapshot_number{edge="edge-1"}'] == 7
    assert lines['keyfront_edge_snapshot_confirmed_timestamp_seconds{edge="edge-1"}'] == 1234.5
    assert lines['keyfront_edge_connections{edge="edge-1"}'] == 4
    assert lines['keyfront_edge_cache_bytes{edge="edge-1"}'] > 5
    assert lines['keyfront_edge_requests_by_version_total{edge="edge-1",version="1.1"}'] == 4


async def test_each_way_of_a_request_is_counted_as_its_record_says() -> None:
    """On the slow path and on the fast path; the records are written one by one, the counters are added up."""
    async with ScriptedOrigin() as origin, EdgeHarness(signed_site(origin, "KALICE1")) as harness:
        for path in ("/a/1", "/open"):
            origin.on(path, answer(200, b"the object", {"Cache-Control": "max-age=86400"}))
        target, stranger = signed("/a/1"), signed("/a/1", BOB)
        async with await harness.viewer() as viewer:
            for each in [target] * 6 + ["/open"] * 5 + ["/a/1", stranger, signed("/a/1", MALLORY)]:
                await viewer.send(f"GET {each} HTTP/1.1\r\nHost: d.test\r\n\r\n".encode())
                await viewer.answer()
        await harness.get("/open", host="nowhere.test")
        harness.log.flush()
        found = of_machine(harness.log.counts)
        records = harness.records
    assert any("verify_us" not in record for record in records if record["path"] == "/a/1")  # the fast path
    expected: Counter[str] = Counter()
    for record in records:
        distribution, reason = record.get("distribution", ""), record.get("reason", "")
        expected[
            f'keyfront_edge_requests_total{{distribution="{distribution}",reason="{reason}",'
            f'result="{record["result"]}",status="{record["status"]}"}}'
        ] += 1
        expected[f'keyfront_edge_response_bytes_total{{distribution="{distribution}"}}'] += record["bytes"]
        expected[f'keyfront_edge_request_bytes_total{{distribution="{distribution}"}}'] += record[
            "request_bytes"
        ]
        expected[f'keyfront_edge_request_duration_seconds_count{{distribution="{distribution}"}}'] += 1
    assert {name: found[name] for name in expected} == expected
    assert (
        sum(value for name, value in found.items() if name.startswith("keyfront_edge_requests_total")) == 15
    )
    denied = {name: value for name, value in found.items() if name.startswith("keyfront_edge_denials_total")}
    line = 'keyfront_edge_denials_total{distribution="ETEST",key_group="%s",key_pair_id="%s",reason="%s"}'
    assert denied == {
        line % ("", "", "missing_key_pair_id"): 1,
        line % ("", "other", "unknown_key"): 1,
        line % ("group-a", "KALICE1", "signature_mismatch"): 1,
    }
    accepted = {name: value for name, value in found.items() if "signatures_accepted" in name}
    assert accepted == {
        'keyfront_edge_signatures_accepted_total{distribution="ETEST",hash_algorithm="SHA1",key_group="group-a",'
        'key_pair_id="KALICE1"}': 6
    }
    assert (
        found['keyfront_edge_origin_response_duration_seconds_count{distribution="ETEST",origin="scripted"}']
        == 2
    )
    assert found['keyfront_edge_verify_duration_seconds_bucket{le="+Inf"}'] >= 4


async def test_an_origin_that_fails() -> None:
    async with ScriptedOrigin() as origin, EdgeHarness(site(origin.origin())) as harness:
        origin.on("/broken", [CLOSE])
        assert (await harness.get("/broken")).status == 502
        await harness.recorded(1)
        harness.log.flush()
        found = of_machine(harness.log.counts)
    failures = {name: value for name, value in found.items() if "origin_failures" in name}
    [(name, value)] = failures.items()
    assert value == 1
    assert 'distribution="ETEST",origin="scripted"' in name
    assert not [name for name in found if "origin_response_duration" in name]


def test_nothing_that_a_viewer_chooses_is_a_label() -> None:
    """Whatever a request contains, the labels stay those of the operator's own things and of the code's constants."""
    counts = Counts()
    for number in range(50):
        text = f"chosen-{number}"
        counts.add([
            Record(
                0.0, text, text, 1, text, "http", text, text, text, f"HTTP/{text}", 1000 + number, 1, 1, "Error",
                "Error", distribution="E1", behavior="*", user_agent=text, referer=text, country=text,
                verdict="refused", reason="unknown_key", explanation=text, key_pair_id=text, hash_algorithm=text,
            )
        ])  # fmt: skip
    found = of_machine(counts)
    assert not [name for name in found if "chosen" in name]
    assert (
        found[
            'keyfront_edge_requests_total{distribution="E1",reason="unknown_key",result="Error",status="other"}'
        ]
        == 50
    )
    assert found['keyfront_edge_requests_by_version_total{version="other"}'] == 50
    assert (
        found[
            'keyfront_edge_denials_total{distribution="E1",key_group="",key_pair_id="other",reason="unknown_key"}'
        ]
        == 50
    )


async def test_more_hit_counters_than_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """A template may still count with a counter that the log no longer reuses."""
    monkeypatch.setattr(access_log, "MAX_COUNTERS", 2)
    log = AccessLog(None)
    held = [log.hit_counter(f"E{number}", None) for number in range(5)]
    for _ in range(2):
        for counter in held:
            if not counter.hits:
                log.touched.append(counter)
            counter.hits += 3
            log.hit("{}\n")
        log.flush()
    assert log.counts.requests.total() == 30


def test_workers_are_added_up() -> None:
    one, two = Counts(), Counts()
    record = Record(0.0, "", "", 1, "GET", "http", "", "", "", "2.0", 200, 5, 1_500_000, "Hit", "Hit", "E1")
    one.add([record])
    two.add([record, record])
    one.origin_answered("E1", "o", 0.003)
    two.origin_answered("E1", "o", 2.0)
    two.origin_answered("E1", "o", 60.0)
    found = of_machine(one, two)
    assert found['keyfront_edge_requests_total{distribution="E1",reason="",result="Hit",status="200"}'] == 3
    assert found['keyfront_edge_request_duration_seconds_sum{distribution="E1"}'] == 4.5
    assert found['keyfront_edge_requests_by_version_total{version="2.0"}'] == 3
    bucket = 'keyfront_edge_origin_response_duration_seconds_bucket{distribution="E1",le="%s",origin="o"}'
    assert [found[bucket % le] for le in ("0.001", "0.005", "1.0", "2.5", "30.0", "+Inf")] == [
        0,
        1,
        1,
        2,
        2,
        3,
    ]
    assert found['keyfront_edge_origin_response_duration_seconds_sum{distribution="E1",origin="o"}'] == 62.003


def test_what_an_edge_of_another_version_says_does_not_hide_the_others() -> None:
    good: dict[str, object] = {"series": [["response_bytes", ["E1"], [5]]]}
    odd: dict[str, object] = {
        "series": [
            ["response_bytes", ["E1", "more"], [1]],
            ["response_bytes", ["E1"], [1, 2]],
            ["no_such_metric", [], [1]],
            ["snapshot_number", [], [99]],
        ]
    }
    reports: list[tuple[str, int, dict[str, object]]] = [
        ("odd", 3, {"series": "many"}),
        ("odder", 4, odd),
        ("edge-1", 7, good),
    ]
    found = {
        (sample.name, sample.labels["edge"]): sample.value
        for family in families(reports)
        for sample in family.samples
    }
    assert found == {
        ("keyfront_edge_snapshot_number", "odd"): 3,
        ("keyfront_edge_snapshot_number", "odder"): 4,
        ("keyfront_edge_snapshot_number", "edge-1"): 7,
        ("keyfront_edge_response_bytes_total", "edge-1"): 5,
    }


def test_where_edges_are() -> None:
    found = [
        (sample.name, sample.labels, sample.value)
        for family in fleet_families(
            [
                Report("edge-1", 1, 7, 1000.5, region="eu"),
                Report("us/a-1", 2, 7, 1001.5, refused="older", region="us"),
                Report("us/a-2", 3, 7, 1002.5, region="us"),
            ]
        )
        for sample in family.samples
    ]
    assert found == [
        ("keyfront_edge_info", {"edge": "edge-1", "region": "eu"}, 1),
        ("keyfront_edge_info", {"edge": "us/a-1", "region": "us"}, 1),
        ("keyfront_edge_info", {"edge": "us/a-2", "region": "us"}, 1),
        ("keyfront_region_edges", {"region": "eu"}, 1),
        ("keyfront_region_edges", {"region": "us"}, 2),
        ("keyfront_edge_last_report_timestamp_seconds", {"edge": "edge-1"}, 1000.5),
        ("keyfront_edge_last_report_timestamp_seconds", {"edge": "us/a-1"}, 1001.5),
        ("keyfront_edge_last_report_timestamp_seconds", {"edge": "us/a-2"}, 1002.5),
        ("keyfront_edge_snapshot_refused", {"edge": "edge-1"}, 0),
        ("keyfront_edge_snapshot_refused", {"edge": "us/a-1"}, 1),
        ("keyfront_edge_snapshot_refused", {"edge": "us/a-2"}, 0),
    ]


def test_names_follow_prometheus_conventions() -> None:
    for family in FAMILIES:
        assert not family.name.endswith(("_total", "_count", "_sum", "_bucket"))
        assert family.kind is not Kind.HISTOGRAM or family.name.endswith("_seconds")
        assert (family.scale > 1) == family.name.endswith("_seconds")
        assert list(family.bounds) == sorted(set(family.bounds))
        assert family.help.endswith(".")


def test_the_delivery_of_standard_logs() -> None:
    assert rendered(delivery_families(None)) == {}
    waiting = Status(3, 500, 7, 1, 2, 4096, 1000.5, 2000.5, "f", "refused")
    found = {
        name.removeprefix("keyfront_log_delivery_"): value
        for name, value in rendered(delivery_families(waiting)).items()
    }
    assert found == {
        "files_total": 3,
        "records_total": 500,
        "records_dropped_total": 7,
        "lines_unreadable_total": 1,
        "waiting_files": 2,
        "waiting_bytes": 4096,
        "failing": 1,
        "oldest_waiting_timestamp_seconds": 1000.5,
        "last_timestamp_seconds": 2000.5,
    }
    assert not [name for name in rendered(delivery_families(Status())) if "timestamp" in name]
