"""The gauges of an edge, and what its parts count themselves, copied into the worker's counters."""

from __future__ import annotations

from collections.abc import Mapping

from keyfront.edge.serving.edge import Edge
from keyfront.fleet import edge_counters as families
from keyfront.fleet.counter_table import ABSENT


def measure(edge: Edge, connections: int, confirmed_at: float) -> None:
    """Bring the counters up to date. Called about once a second.

    :param connections: how many connections are open.
    :param confirmed_at: when the snapshot in use was last known to be the latest (epoch seconds); 0.0: never.
    """
    table, log = edge.log.counts.table, edge.log
    memory, disk, arena, websockets = edge.memory, edge.tiers.disk, edge.tiers.arena, edge.websockets
    requests, waiting, down = edge.fetcher.origins.load
    gauges = {
        families.WORKERS: 1,
        families.CONNECTIONS: connections,
        families.WEBSOCKETS: websockets.taken,
        families.REQUESTS_UNDER_WAY: edge.viewers.requests.total,
        families.VIEWER_ADDRESSES: edge.viewers.connections.addresses,
        families.UPLOAD_BYTES: edge.upload_memory.used,
        families.ORIGIN_REQUESTS: requests,
        families.ORIGIN_WAITING: waiting,
        families.ORIGINS_DOWN: down,
        families.CACHE_BYTES: memory.bytes,
        families.CACHE_OBJECTS: len(memory),
        families.SNAPSHOT: edge.routing.number,
        families.LOG_FAILING: log.failing,
    }
    counters = {
        families.EVICTIONS: memory.evictions,
        families.HANDSHAKES: websockets.handshakes,
        families.WEBSOCKETS_OPENED: websockets.opened,
        families.LOST_RECORDS: log.lost,
    }
    if log.ledger is not None:
        counters[families.CREDENTIALS_EVICTED] = log.ledger.evicted
    if disk is not None:
        gauges[families.DISK_BYTES] = disk.used
        counters |= {families.DISK_EVICTIONS: disk.evictions, families.DISK_OUTDATED: disk.outdated}
    if arena is not None:
        gauges[families.SHARED_BYTES], finds, evictions = arena.counts
        counters |= {families.SHARED_FINDS: finds, families.SHARED_EVICTIONS: evictions}
    for family, value in gauges.items():
        table.set(family, value)
    if confirmed_at:
        table.set(families.CONFIRMED, confirmed_at)
    for family, number in counters.items():
        table.advance(family, (), number)
    for limit, number in edge.reached.counts.items():
        table.advance(families.LIMITS, (limit,), number)


def measure_certificates(edge: Edge, ends: Mapping[str, float]) -> None:
    """Bring the expiry times of certificates up to date.

    :param ends: when each expires (epoch seconds), by its name.
    """
    table = edge.log.counts.table
    expiry = table.of(families.CERTIFICATE_EXPIRY)
    for labels, at in expiry.items():
        if labels[0] not in ends:
            table.cells[at] = ABSENT
    for name, end in ends.items():
        table.cells[expiry[name,]] = round(end * families.CERTIFICATE_EXPIRY.scale)
