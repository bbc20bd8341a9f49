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
    """What one worker is told at its start. `data` is the data folder, `trusted_proxies` are networks in CIDR form;
    `access_log` is false where records are only counted; without `tls` there is only http. `feed` is the folder of the
    feed, if that is another one; `shield` is where other edges connect whose Origin Shield this one is, by TLS if there
    is any; `region` is where the edge is, empty if it is in none. `inherited` holds the sockets, the heartbeat board
    and the shared memory of its supervisor; without it the worker listens for itself."""

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
