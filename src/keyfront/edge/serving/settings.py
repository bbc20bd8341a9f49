"""The settings of an edge."""

from __future__ import annotations

from typing import Final

import msgspec

from keyfront.edge.limits.origins import OriginLimits
from keyfront.edge.limits.uploads import UploadLimits
from keyfront.edge.limits.viewers import ViewerLimits
from keyfront.edge.origin.egress import EgressSettings

LEAST_TABLES: Final = 8 << 20
MOST_TABLES: Final = 256 << 20


def table_bytes(memory: int) -> int:
    """Bytes for a worker's tables in addition to its cache of `memory` bytes: half as many, from 8 to 256 MiB."""
    return min(MOST_TABLES, max(LEAST_TABLES, memory // 2))


class HealthCheckSettings(msgspec.Struct, frozen=True):
    """Which requests are health checks of load balancers.

    `targets` are pairs of a host in lower case, without a port, and a path. `max_age` is the seconds for which a
    snapshot may go without confirmation; 0: any time."""

    targets: tuple[tuple[str, str], ...] = ()
    max_age: float = 0.0


class EdgeSettings(msgspec.Struct, frozen=True):
    """Settings of one worker's edge.

    - `memory`: bytes of the worker's cache in memory.
    - `max_object`: bytes of the largest body that is stored whole. A larger one is requested and stored in slices of
      `slice` bytes.
    - `cache_dir`, `cache_disk`: the folder of the disk cache, which all workers share, and its size in bytes; 0 means
      no disk cache.
    - `pop`: the name of the edge location (X-Amz-Cf-Pop).
    - `https_port`: the port on which this edge listens for https, if any.
    - `ca_file`: certificate authorities trusted for origins in addition to the system's.
    - `country_db`: a MaxMind DB file for country lookup, instead of the built-in table.
    - `cache_status`: whether replies carry Cache-Status (RFC 9211).
    - `ledger`: whether to count from where credentials are used (`logs/ledger.py`).
    - `explain_to`: networks of viewers that get X-Keyfront-Reason (`serving/reason_header.py`).
    - `origin_credentials`: the operator's file of credentials for signing requests to origins (`origin/access.py`).
    - `shields`, `shield_secret`: regions with the address of the Origin Shield there, and the file with the secret that
      it and this edge share (`origin/shield_client.py`).
    - `egress`: which addresses origins may have.
    - `websockets`: how many WebSockets a worker may have open.
    - `viewers`, `uploads`, `origins`: limits on what viewers may do, on reading request bodies ahead, and on concurrent
      load on an origin.
    - `health`: which requests are health checks of load balancers.
    - `acme_webroot`: the folder in which an ACME client writes the answers to HTTP-01 challenges; empty: none.
    """

    memory: int = 256 * 1024 * 1024
    max_object: int = 1024 * 1024
    slice: int = 4 * 1024 * 1024
    cache_dir: str = ""
    cache_disk: int = 0
    pop: str = "KFR50-P1"
    https_port: int | None = None
    ca_file: str | None = None
    country_db: str | None = None
    cache_status: bool = False
    explain_to: tuple[str, ...] = ()
    ledger: bool = False
    origin_credentials: str = ""
    shields: tuple[tuple[str, str], ...] = ()
    shield_secret: str = ""
    egress: EgressSettings = EgressSettings()
    websockets: int = 1000
    viewers: ViewerLimits = ViewerLimits()
    uploads: UploadLimits = UploadLimits()
    origins: OriginLimits = OriginLimits()
    health: HealthCheckSettings = HealthCheckSettings()
    acme_webroot: str = ""
