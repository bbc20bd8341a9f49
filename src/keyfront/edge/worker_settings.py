"""The settings that a worker gets at startup. They are separate from the worker so that the supervisor, which fills
them in, does not import an edge."""

from __future__ import annotations

import msgspec

from keyfront.edge.http.timeouts import Limits
from keyfront.edge.logs.append_file import DEFAULT_RETENTION, Retention
from keyfront.edge.logs.spool import SpoolSettings
from keyfront.edge.net.worker_sockets import Inherited
from keyfront.edge.serving.settings import EdgeSettings


class TlsSettings(msgspec.Struct, frozen=True):
    """The address to listen on for https, and the certificate folder (see `net.certificates`). `local` is the folder of
    certificates from the local authority; empty: there is none."""

    host: str
    port: int
    certificates: str
    local: str = ""


class WorkerSettings(msgspec.Struct, frozen=True):
    """The settings of one worker.

    `data` is the data folder; `feed` is the folder of the feed if it is elsewhere. `trusted_proxies` are networks in
    CIDR notation. `access_log` is false if records are only counted; `retention` says how much of the log is kept, and
    `spool` what is recorded for standard logs. Without `tls`, the worker serves http only. `shield` is the address for
    the edges that use this one as their Origin Shield; they connect over TLS if `tls` is set. `region` is the edge's
    region, empty if it has none. `inherited` holds the supervisor's sockets, heartbeat board and shared memory; without
    it, the worker opens its own sockets.
    """

    data: str
    name: str
    host: str
    port: int
    trusted_proxies: tuple[str, ...] = ()
    access_log: bool = True
    retention: Retention = DEFAULT_RETENTION
    spool: SpoolSettings = SpoolSettings()
    tls: TlsSettings | None = None
    edge: EdgeSettings = EdgeSettings()
    limits: Limits = Limits()
    feed: str = ""
    shield: tuple[str, int] | None = None
    region: str = ""
    inherited: Inherited | None = None
