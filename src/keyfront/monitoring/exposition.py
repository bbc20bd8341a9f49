"""Responses to Prometheus: the text format or OpenMetrics, as the request prefers, compressed if it accepts that."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

DENIED = "This client may not read the metrics; see `--metrics` and `--metrics-token` of `keyfront up`.\n"


class Exposition(NamedTuple):
    """The body of a response, and its header fields."""

    body: bytes
    headers: dict[str, str]


def exposition(registry: CollectorRegistry, headers: Sequence[tuple[bytes, bytes]]) -> Exposition:
    """Everything that a registry collects.

    :param headers: the request's, names in lower case.
    """
    accepted = {name: value.decode("latin-1") for name, value in headers}
    encode, content_type = choose_encoder(accepted.get(b"accept", ""))
    found = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
    body = encode(registry)
    codings = [part.partition(";") for part in accepted.get(b"accept-encoding", "").lower().split(",")]
    if any(coding.strip() == "gzip" and weight.strip() != "q=0" for coding, _, weight in codings):
        body = gzip.compress(body, 1)
        found["Content-Encoding"] = "gzip"
    return Exposition(body, found)


class BuildInfo(Collector):
    """Which version of Keyfront answers."""

    def collect(self) -> Iterable[Metric]:
        info = GaugeMetricFamily("keyfront_build_info", "1, with the version.", labels=["version"])
        info.add_metric([version("keyfront")], 1)
        yield info
