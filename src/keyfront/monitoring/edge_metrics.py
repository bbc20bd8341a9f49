"""Prometheus metrics from the counters of edges.

Each worker reports its counters through the feed, and the control plane, which serves `/metrics`, turns the reports of
all live edges into metric families. Nothing is counted twice, and no worker needs its own port.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from keyfront.fleet.edge_counters import Sums

GAUGES = {
    "requests_under_way": "Requests in progress, except those that are answered from memory at once.",
    "viewer_addresses": "Addresses with an open connection.",
    "upload_bytes": "Bytes of request bodies that are buffered before they are sent to the origin.",
    "origin_requests": "Requests to origins in progress.",
    "origin_waiting": "Requests that wait because of an origin's limit.",
    "origins_down": "Origins that get no requests because connections to them failed.",
}
"""Gauges of a worker, with their help texts."""


def families(reports: Iterable[tuple[str, int, Mapping[str, object]]]) -> Iterable[Metric]:
    """Metric families for `(edge name, snapshot number, counters as a plain mapping)` of each live edge."""
    edge = ["edge"]
    requests = CounterMetricFamily(
        "keyfront_edge_requests",
        "Requests answered.",
        labels=["edge", "distribution", "status", "result", "reason"],
    )
    keys = CounterMetricFamily(
        "keyfront_edge_signatures_accepted",
        "Requests allowed by a signature, by key, hash and distribution.",
        labels=["edge", "key_pair_id", "hash_algorithm", "distribution"],
    )
    gauges = {
        name: GaugeMetricFamily(f"keyfront_edge_{name}", what, labels=edge) for name, what in GAUGES.items()
    }
    limited = CounterMetricFamily(
        "keyfront_edge_limit_reached",
        "Connections and requests refused or ended because of a limit, by the limit's name.",
        labels=["edge", "limit"],
    )
    flat: list[tuple[CounterMetricFamily | GaugeMetricFamily, str]] = [
        (CounterMetricFamily("keyfront_edge_response_bytes", "Body bytes sent.", labels=edge), "bytes"),
        (
            CounterMetricFamily(
                "keyfront_edge_taken_microseconds", "Time from requests to responses.", labels=edge
            ),
            "taken_us",
        ),
        (
            CounterMetricFamily("keyfront_edge_verify_microseconds", "Time spent verifying.", labels=edge),
            "verify_us",
        ),
        (GaugeMetricFamily("keyfront_edge_connections", "Open connections.", labels=edge), "connections"),
        (GaugeMetricFamily("keyfront_edge_cache_bytes", "Bytes held in memory.", labels=edge), "cache_bytes"),
        (
            GaugeMetricFamily("keyfront_edge_cache_objects", "Responses held in memory.", labels=edge),
            "cache_objects",
        ),
        (
            CounterMetricFamily("keyfront_edge_cache_evictions", "Responses evicted.", labels=edge),
            "evictions",
        ),
        (
            GaugeMetricFamily(
                "keyfront_edge_disk_bytes", "Bytes of the cache on disk, which all edges share.", labels=edge
            ),
            "disk_bytes",
        ),
        (
            CounterMetricFamily(
                "keyfront_edge_disk_evictions", "Entries evicted from the cache on disk.", labels=edge
            ),
            "disk_evictions",
        ),
        (
            CounterMetricFamily(
                "keyfront_edge_disk_outdated",
                "Entries of another version's format that were removed from the cache on disk.",
                labels=edge,
            ),
            "disk_outdated",
        ),
        (GaugeMetricFamily("keyfront_edge_websockets", "Open WebSockets.", labels=edge), "websockets"),
        (
            CounterMetricFamily(
                "keyfront_edge_websocket_handshakes",
                "WebSocket handshakes that were sent to an origin.",
                labels=edge,
            ),
            "websocket_handshakes",
        ),
        (
            CounterMetricFamily(
                "keyfront_edge_websockets_opened", "WebSockets that were opened.", labels=edge
            ),
            "websockets_opened",
        ),
        (
            GaugeMetricFamily(
                "keyfront_edge_shared_cache_bytes",
                "Bytes of this worker's part of the shared memory.",
                labels=edge,
            ),
            "shared_bytes",
        ),
        (
            CounterMetricFamily(
                "keyfront_edge_shared_cache_finds",
                "Responses and slices found in the shared memory.",
                labels=edge,
            ),
            "shared_finds",
        ),
        (
            CounterMetricFamily(
                "keyfront_edge_shared_cache_evictions",
                "Entries that this worker has overwritten in its part of the shared memory.",
                labels=edge,
            ),
            "shared_evictions",
        ),
        (
            CounterMetricFamily("keyfront_edge_log_records_lost", "Access records not written.", labels=edge),
            "lost_records",
        ),
    ]
    snapshot = GaugeMetricFamily("keyfront_edge_snapshot_number", "The snapshot in use.", labels=edge)
    for name, number, raw in reports:
        snapshot.add_metric([name], number)
        try:
            counted = msgspec.convert(raw, Sums, strict=False)
        except msgspec.ValidationError:
            continue  # from an edge of another version: skip it
        for distribution, status, result, reason, n in counted.requests:
            requests.add_metric([name, distribution, str(status), result, reason], n)
        for key, algorithm, distribution, n in counted.keys:
            keys.add_metric([name, key, algorithm, distribution], n)
        for name_of_gauge, gauge in gauges.items():
            if name_of_gauge in counted.gauges:
                gauge.add_metric([name], counted.gauges[name_of_gauge])
        for limit, n in counted.limited.items():
            limited.add_metric([name, limit], n)
        for family, field in flat:
            family.add_metric([name], getattr(counted, field))
    return [requests, keys, limited, snapshot, *gauges.values(), *(family for family, _ in flat)]


def region_families(edges: Iterable[tuple[str, str]]) -> Iterable[Metric]:
    """Metric families for `(edge name, region)` of each live edge."""
    info = GaugeMetricFamily("keyfront_edge_info", "1 for each live edge.", labels=["edge", "region"])
    count = GaugeMetricFamily("keyfront_region_edges", "Live edges of a region.", labels=["region"])
    counted: dict[str, int] = {}
    for name, region in edges:
        info.add_metric([name, region], 1)
        counted[region] = counted.get(region, 0) + 1
    for region, number in counted.items():
        count.add_metric([region], number)
    return [info, count]
