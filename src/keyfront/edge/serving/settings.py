"""Settings of one edge."""

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
    """Bytes that a worker's tables may take beside its cache of `memory` bytes: half as many, from 8 to 256 MiB."""
    return min(MOST_TABLES, max(LEAST_TABLES, memory // 2))


class EdgeSettings(msgspec.Struct, frozen=True):
    """`memory` and `max_object` are bytes, of one worker's cache and of the largest body that is held whole; a larger
    one is held in slices of `slice` bytes, and asked for so. `cache_dir` is the folder of the cache on disk, which all
    workers share, and `cache_disk` its size in bytes; with 0 there is none. `pop` is the edge location's name
    (X-Amz-Cf-Pop); `https_port` is where this edge listens for https, if it does; `ca_file` holds certificate
    authorities that origins may use besides the system's; `country_db` is a MaxMind DB file to look countries up in,
    instead of the built-in table. With `cache_status` every answer tells in Cache-Status what the cache had to do with
    it (RFC 9211). `origin_credentials` is the operator's file of credentials to sign requests to origins with
    (`origin_credentials`). `shields` are regions and the edges that are the Origin Shield there, and `shield_secret`
    the file of what they and this edge share (`shield`). `egress` says which addresses origins may be at. `websockets`
    is how many WebSockets one worker may have open. `viewers` is how much viewers may do at a time, `uploads` how
    request bodies are gathered, `origins` how much is asked of an origin at a time."""

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
    origin_credentials: str = ""
    shields: tuple[tuple[str, str], ...] = ()
    shield_secret: str = ""
    egress: EgressSettings = EgressSettings()
    websockets: int = 1000
    viewers: ViewerLimits = ViewerLimits()
    uploads: UploadLimits = UploadLimits()
    origins: OriginLimits = OriginLimits()
