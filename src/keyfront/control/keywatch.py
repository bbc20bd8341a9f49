"""The use of keys as Prometheus metrics, as all edges of all control planes on this store have told it."""

from __future__ import annotations

import time
from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from keyfront.control.keyuse import uses
from keyfront.control.store import Store
from keyfront.errors import ApiError
from keyfront.lifecycle.keyuse import KeyUses


class KeyUseMetrics(Collector):
    """Read from the store when it is asked for."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def describe(self) -> Iterable[Metric]:
        return families(KeyUses(0.0, 0.0))

    def collect(self) -> Iterable[Metric]:
        try:
            with self._store.read() as transaction:
                return families(uses(transaction, time.time()))
        except ApiError:  # the log has said why
            return ()


def families(found: KeyUses) -> list[Metric]:
    key = ["key_pair_id"]
    requests = CounterMetricFamily(
        "keyfront_key_requests",
        "Requests allowed by signatures of a key, by all edges, since the store began to count.",
        labels=["key_pair_id", "hash_algorithm"],
    )
    share = GaugeMetricFamily(
        "keyfront_key_share", "Share of a key in what signatures allowed within a day, 0 to 1.", labels=key
    )
    seen = GaugeMetricFamily(
        "keyfront_key_last_seen_seconds",
        "When edges last accepted a key's signature, epoch seconds.",
        labels=key,
    )
    end = GaugeMetricFamily(
        "keyfront_key_signatures_end_seconds",
        "Until when the latest accepted signature of a key is good, epoch seconds.",
        labels=key,
    )
    for use in found.items:
        for name, counted in use.hashes.items():
            requests.add_metric([use.key_pair_id, name], counted.requests)
        share.add_metric([use.key_pair_id], use.share)
        seen.add_metric([use.key_pair_id], use.last_seen)
        end.add_metric([use.key_pair_id], use.signatures_end)
    return [requests, share, seen, end]
