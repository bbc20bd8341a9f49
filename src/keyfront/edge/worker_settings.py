"""What a worker is given at its start. It stands apart from the worker, so that the supervisor, which fills it in, does
not load an edge."""

from __future__ import annotations

import msgspec

from keyfront.edge.http.timeouts import Limits
from keyfront.edge.net.worker_sockets import Inherited
from keyfront.edge.serving.settings import EdgeSettings


class TlsSettings(msgspec.Struct, frozen=True):
    """Where to listen for https, and the folder of the certificates (see `tls`)."""

    host: str
    port: int
    certificates: str


class WorkerSettings(msgspec.Struct, frozen=True):
    """The settings of one worker.

    `data` is the data folder, `feed` the folder of the feed if it is another one. `trusted_proxies` are networks in
    CIDR form. `access_log` is false if records are only counted. Without `tls`, the worker serves http only. `shield`
    is the address for the edges that use this one as their Origin Shield; they connect over TLS if `tls` is set.
    `region` is where the edge is, empty if it is in none. `inherited` holds the sockets, the heartbeat board and the
    shared memory of the supervisor; without it, the worker opens its own sockets.
    """

    data: str
    name: str
    host: str
    port: int
    trusted_proxies: tuple[str, ...] = ()
    access_log: bool = True
    tls: TlsSettings | None = None
    edge: EdgeSettings = EdgeSettings()
    limits: Limits = Limits()
    feed: str = ""
    shield: tuple[str, int] | None = None
    region: str = ""
    inherited: Inherited | None = None
