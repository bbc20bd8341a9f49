"""A worker's counters, as Prometheus reads them."""

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from keyfront.edge.logs.access_log import AccessLog
from keyfront.monitoring.edge_metrics import families, region_families
from tests.origin import ScriptedOrigin, answer
from tests.sites import site
from tests.viewer import EdgeHarness


async def test_the_sums_of_a_worker_become_metrics() -> None:
    async with ScriptedOrigin() as origin, EdgeHarness(site(origin.origin())) as harness:
        origin.on("/a", answer(200, b"hello"))
        for _ in range(3):
            await harness.get("/a")
        await harness.get("/a", host="nowhere.test")
        harness.log.flush()
        log: AccessLog = harness.log
        counted = msgspec.structs.replace(
            log.counts.sums(),
            connections=4,
            cache_bytes=harness.edge.memory.bytes,
            cache_objects=1,
            lost_records=log.lost,
        )

    class One(Collector):
        def collect(self):  # type: ignore[no-untyped-def]
            return families([("edge-1", 7, msgspec.to_builtins(counted))])

    registry = CollectorRegistry()
    registry.register(One())
    text = generate_latest(registry).decode()
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    base = (
        'keyfront_edge_requests_total{distribution="ETEST",edge="edge-1",reason="",result="%s",status="200"}'
    )
    assert lines[base % "Miss"] == "1.0"
    assert lines[base % "Hit"] == "2.0"
    refused = {name: value for name, value in lines.items() if 'reason="no_distribution"' in name}
    assert list(refused.values()) == ["1.0"]
    assert lines['keyfront_edge_response_bytes_total{edge="edge-1"}'] == str(
        float(sum(record["bytes"] for record in harness.records))
    )
    assert lines['keyfront_edge_snapshot_number{edge="edge-1"}'] == "7.0"
    assert lines['keyfront_edge_connections{edge="edge-1"}'] == "4.0"
    assert float(lines['keyfront_edge_cache_bytes{edge="edge-1"}']) > 5


def test_what_an_edge_of_another_version_says_does_not_hide_the_others() -> None:
    found = {
        sample.labels["edge"]: sample.value
        for family in families([("odd", 3, {"requests": "many"}), ("edge-1", 7, {"bytes": 5})])
        for sample in family.samples
        if sample.name in ("keyfront_edge_snapshot_number", "keyfront_edge_response_bytes_total")
    }
    assert found == {"odd": 3, "edge-1": 5}


def test_where_edges_are() -> None:
    found = [
        (sample.name, sample.labels, sample.value)
        for family in region_families([("edge-1", "eu"), ("us/a-1", "us"), ("us/a-2", "us")])
        for sample in family.samples
    ]
    assert found == [
        ("keyfront_edge_info", {"edge": "edge-1", "region": "eu"}, 1),
        ("keyfront_edge_info", {"edge": "us/a-1", "region": "us"}, 1),
        ("keyfront_edge_info", {"edge": "us/a-2", "region": "us"}, 1),
        ("keyfront_region_edges", {"region": "eu"}, 1),
        ("keyfront_region_edges", {"region": "us"}, 2),
    ]
