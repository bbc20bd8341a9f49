"""What an edge counts: the families of its metrics, and the counters in a worker's report.

Values are integers, in the unit of a family divided by its `scale`: a duration is stored in microseconds. A series is
one combination of label values of a family. All label values are the operator's own (distributions, origins, keys, key
groups) or constants of the code; nothing that a viewer chooses is one. A family has at most `limit` series per worker:
what does not fit is added to one more series, whose labels are all `other`.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import msgspec

from keyfront.fleet.credential_use import CredentialUse

OTHER: Final = "other"
"""The label value for what has no series of its own."""
MAX_TEXT: Final = 256
"""Characters in a label value; the longest that an edge has is a file name (255)."""


class Kind(Enum):
    COUNTER = "counter"
    SUMMARY = "summary"
    """Two integers: the number of observations, and their sum."""
    HISTOGRAM = "histogram"
    """One integer per bucket, one for what exceeds the last bound, and the sum."""
    GAUGE = "gauge"


class Merge(Enum):
    """How the values of a gauge in several workers become that of the machine. Everything else is added up."""

    SUM = "sum"
    MAX = "largest"
    MIN = "smallest"


class Family(msgspec.Struct, frozen=True):
    """One metric of an edge.

    :param name: without the prefix `keyfront_edge_` and without the suffix that the kind adds, such as `_total`.
    :param scale: stored integers per unit.
    :param bounds: the upper bounds of a histogram's buckets, as stored integers.
    :param limit: the most series per worker.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    scale: int = 1
    bounds: tuple[int, ...] = ()
    limit: int = 1
    merge: Merge = Merge.SUM

    @property
    def cells(self) -> int:
        """Integers per series."""
        if self.kind is Kind.HISTOGRAM:
            return len(self.bounds) + 2
        return 2 if self.kind is Kind.SUMMARY else 1


Series = tuple[str, tuple[str, ...], tuple[int, ...]]
"""A family's name, the values of its labels, and the integers."""


def _counter(name: str, text: str, *labels: str, limit: int = 1, scale: int = 1) -> Family:
    return Family(name, Kind.COUNTER, text, labels, limit=limit, scale=scale)


def _gauge(name: str, text: str, merge: Merge = Merge.SUM, scale: int = 1) -> Family:
    return Family(name, Kind.GAUGE, text, merge=merge, scale=scale)


MICROSECONDS: Final = 1_000_000

# Per request.
REQUESTS = _counter(
    "requests",
    "Requests answered. `result` is CloudFront's x-edge-result-type, `reason` that of a refusal or failure.",
    "distribution",
    "status",
    "result",
    "reason",
    limit=4000,
)
VERSIONS = _counter("requests_by_version", "Requests answered, by HTTP version.", "version", limit=8)
RESPONSE_BYTES = _counter("response_bytes", "Body bytes sent to viewers.", "distribution", limit=1000)
REQUEST_BYTES = _counter("request_bytes", "Bytes of viewers' requests.", "distribution", limit=1000)
DURATION = Family(
    "request_duration_seconds",
    Kind.SUMMARY,
    "Time from a request to the end of its response, without WebSockets.",
    ("distribution",),
    MICROSECONDS,
    limit=1000,
)
SIGNATURES = _counter(
    "signatures_accepted",
    "Requests allowed by a signature.",
    "key_pair_id",
    "key_group",
    "hash_algorithm",
    "distribution",
    limit=2000,
)
DENIALS = _counter(
    "denials",
    "Requests whose signature was refused. `key_pair_id` is `other` if the behavior does not trust the key, and empty "
    "if the request names none.",
    "distribution",
    "reason",
    "key_pair_id",
    "key_group",
    limit=2000,
)
VERIFY = Family(
    "verify_duration_seconds",
    Kind.HISTOGRAM,
    "Time for routing and signature check, of requests whose signature was not remembered by the fast path.",
    scale=MICROSECONDS,
    bounds=(10, 25, 50, 100, 250, 500, 1_000, 2_500, 10_000, 100_000),
)

# Per request to an origin.
ORIGIN_DURATION = Family(
    "origin_response_duration_seconds",
    Kind.HISTOGRAM,
    "Time from a request to an origin to the head of its response, including the connection.",
    ("distribution", "origin"),
    MICROSECONDS,
    (1_000, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 10_000_000, 30_000_000),
    limit=300,
)  # fmt: skip
ORIGIN_FAILURES = _counter(
    "origin_failures", "Requests to origins that failed.", "distribution", "origin", "reason", limit=600
)

# Counted elsewhere in a worker, and copied here once a second.
LIMITS = _counter(
    "limit_reached",
    "Connections and requests refused or ended because of a limit, by the limit's name.",
    "limit",
    limit=100,
)
EVICTIONS = _counter("cache_evictions", "Responses evicted from memory.")
DISK_EVICTIONS = _counter("disk_evictions", "Entries evicted from the cache on disk.")
DISK_OUTDATED = _counter(
    "disk_outdated", "Entries of another version's format that were removed from the cache on disk."
)
SHARED_FINDS = _counter("shared_cache_finds", "Responses and slices found in the shared memory.")
SHARED_EVICTIONS = _counter("shared_cache_evictions", "Entries overwritten in the shared memory.")
HANDSHAKES = _counter("websocket_handshakes", "WebSocket handshakes that were sent to an origin.")
WEBSOCKETS_OPENED = _counter("websockets_opened", "WebSockets that were opened.")
LOST_RECORDS = _counter("log_records_lost", "Access records not written.")
CREDENTIALS_EVICTED = _counter(
    "credentials_evicted",
    "Credentials whose networks, countries, and user agents are no longer counted because others had more networks.",
)

# What is so now.
WORKERS = _gauge("workers", "Processes that serve viewers.")
CONNECTIONS = _gauge("connections", "Open connections.")
WEBSOCKETS = _gauge("websockets", "Open WebSockets.")
REQUESTS_UNDER_WAY = _gauge(
    "requests_under_way", "Requests in progress, except those that are answered from memory at once."
)
VIEWER_ADDRESSES = _gauge("viewer_addresses", "Addresses with an open connection, added up over workers.")
UPLOAD_BYTES = _gauge(
    "upload_bytes", "Bytes of request bodies that are buffered before they are sent to the origin."
)
ORIGIN_REQUESTS = _gauge("origin_requests", "Requests to origins in progress.")
ORIGIN_WAITING = _gauge("origin_waiting", "Requests that wait because of an origin's limit.")
ORIGINS_DOWN = _gauge(
    "origins_down", "Origins that get no requests because connections to them failed.", Merge.MAX
)
CACHE_BYTES = _gauge("cache_bytes", "Bytes held in memory.")
CACHE_OBJECTS = _gauge("cache_objects", "Responses held in memory.")
SHARED_BYTES = _gauge("shared_cache_bytes", "Bytes used of the memory that workers share.")
DISK_BYTES = _gauge("disk_bytes", "Bytes of the cache on disk, which all workers share.", Merge.MAX)
SNAPSHOT = _gauge("snapshot_number", "The snapshot in use; of several workers, the oldest.", Merge.MIN)
CONFIRMED = _gauge(
    "snapshot_confirmed_timestamp_seconds",
    "When the snapshot in use was last known to be the latest; its age is `time()` minus that.",
    Merge.MIN,
    MICROSECONDS,
)
CERTIFICATE_EXPIRY = Family(
    "certificate_expiry_timestamp_seconds",
    Kind.GAUGE,
    "When a certificate for viewers expires, by the name of its file or folder.",
    ("certificate",),
    MICROSECONDS,
    limit=200,
    merge=Merge.MIN,
)
LOG_FAILING = _gauge("log_failing", "Workers that could not write the access log at their last attempt.")

FAMILIES: Final = (
    REQUESTS,
    VERSIONS,
    RESPONSE_BYTES,
    REQUEST_BYTES,
    DURATION,
    SIGNATURES,
    DENIALS,
    VERIFY,
    ORIGIN_DURATION,
    ORIGIN_FAILURES,
    LIMITS,
    EVICTIONS,
    DISK_EVICTIONS,
    DISK_OUTDATED,
    SHARED_FINDS,
    SHARED_EVICTIONS,
    HANDSHAKES,
    WEBSOCKETS_OPENED,
    LOST_RECORDS,
    CREDENTIALS_EVICTED,
    WORKERS,
    CONNECTIONS,
    WEBSOCKETS,
    REQUESTS_UNDER_WAY,
    VIEWER_ADDRESSES,
    UPLOAD_BYTES,
    ORIGIN_REQUESTS,
    ORIGIN_WAITING,
    ORIGINS_DOWN,
    CACHE_BYTES,
    CACHE_OBJECTS,
    SHARED_BYTES,
    DISK_BYTES,
    SNAPSHOT,
    CONFIRMED,
    CERTIFICATE_EXPIRY,
    LOG_FAILING,
)
BY_NAME: Final = {family.name: family for family in FAMILIES}


class Sums(msgspec.Struct, frozen=True):
    """The counters in a worker's report. `run`, `keys`, and `ends` are those of `key_counters.KeyCounts`.

    `series` is what the worker has counted since it started, and its gauges. `shown` means that its machine has a port
    of its own that shows them: the control plane then does not, so that sums over all ports count nothing twice.
    `credentials` is the use of those that were used from the most networks.
    """

    series: list[Series] = []
    keys: list[tuple[str, str, str, int]] = []
    run: str = ""
    ends: list[tuple[str, int, float, int]] = []
    shown: bool = False
    credentials: list[CredentialUse] = []
