"""Settings of the processes under `keyfront up`: read once from the command line and the environment, then passed down
as values.

The edge's own settings are in `edge/worker.py`, since an edge also runs without this package.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec

from keyfront.errors import SettingsError
from keyfront.fleet.jetstream.access import NatsAccess
from keyfront.model.kinds import Quotas
from keyfront.monitoring.anomalies import SharingThresholds

SUFFIX = "cloudfront.localhost"
"""The default suffix of the distributions' domain names."""

ACCOUNT = "000000000000"
"""The AWS account number of everything in a Keyfront store."""

STORE_VARIABLE = "KEYFRONT_STORE"
PASSWORD_FILE_VARIABLE = "KEYFRONT_STORE_PASSWORD_FILE"  # noqa: S105 - a variable's name


class Supervision(msgspec.Struct, frozen=True):
    """How `keyfront up` runs its processes.

    `workers` is the number of edge processes. A process without a heartbeat for `stuck_after` seconds is killed and
    replaced; 0 disables this. Before Keyfront stops, health checks of load balancers fail for `shutdown_delay` seconds
    while it still serves.
    """

    workers: int
    stuck_after: float
    shutdown_delay: float = 0.0


class ControlInherited(msgspec.Struct, frozen=True):
    """What the control process inherits from its supervisor.

    `board` and `socket` are file descriptors of the heartbeat board and of the listening socket. `workers` are the
    names of the edge workers in the order of their slots; the control process has the slot after the last one.
    `edges` is the socket for edges on other machines; -1: there are none. `edge_metrics` means that the metrics of
    this machine's edge have a port of their own.
    """

    board: int
    socket: int
    workers: tuple[str, ...]
    edges: int = -1
    edge_metrics: bool = False


class FeedSettings(msgspec.Struct, frozen=True):
    """Settings of the process that follows a control plane, for the workers of this machine.

    `data` is the data folder of the enrolled edge. `board` is the file descriptor of the heartbeat board, `slot` its
    slot there.
    """

    data: str
    board: int
    slot: int
    slots: int


class MetricsInherited(msgspec.Struct, frozen=True):
    """What the metrics process inherits from its supervisor: the data folder, and file descriptors of the workers'
    counters, of the listening socket, and of the heartbeat board, on which it has the slot `slot` of `slots`.
    `processes` are the names of all processes in the order of their slots, empty for a slot that none has."""

    data: str
    processes: tuple[str, ...]
    counters: int
    socket: int
    board: int
    slot: int
    slots: int


class MetricsSettings(msgspec.Struct, frozen=True):
    """Settings of the process that answers Prometheus for the workers of this machine.

    `readers` and `token` are those of `ControlSettings.metrics` and `metrics_token`. `trusted_proxies` are networks
    whose `X-Forwarded-*` headers are trusted, in CIDR form.
    """

    host: str
    port: int
    readers: tuple[str, ...] = ("local",)
    token: str = ""
    trusted_proxies: tuple[str, ...] = ()
    inherited: MetricsInherited | None = None


class ControlSettings(msgspec.Struct, frozen=True):
    """Settings of the control process. Paths are absolute; an empty string means "not set".

    - `account`: the AWS account number in ARNs.
    - `store`: the store's URL as given on the command line (see `store_url`).
    - `trusted_proxies`: networks whose `X-Forwarded-*` headers are trusted, in CIDR form.
    - `region`: the region of the edges that follow the data folder; `region_feeds`: other regions, each with the
      folder of its feed.
    - `records`: URI of the custody that holds the rotation records; `rotation`: whether due steps are performed;
      `hooks`: the file with the hooks and the actions of alarms.
    - `alarm_interval`: seconds between two evaluations of alarms; divides a minute.
    - `sharing`: from when on signed URLs and cookies count as shared.
    - `metrics`: who can read `/metrics`; see `monitoring/metrics_access.py`. `metrics_token`: the file with the token
      that also admits.
    - `edges`: where edges on other machines connect; None: nowhere. `edge_lifetime`: seconds for which their
      certificates are valid. `edge_certificate`: the operator's certificate for that port; `edge_key`: its key, if that
      is in another file.
    - `nats`: where to publish for edges that follow over NATS; None: nowhere. `nats_replicas`: the number of servers
      that store the bucket, when it is created.
    - `console`: whether the port also serves the console.
    """

    data: str
    host: str
    port: int
    domain: str
    account: str = ACCOUNT
    audit_reads: bool = True
    trusted_proxies: tuple[str, ...] = ()
    store: str = ""
    store_password_file: str = ""
    quotas: Quotas = Quotas()
    region: str = ""
    region_feeds: tuple[tuple[str, str], ...] = ()
    records: str = ""
    rotation: bool = True
    hooks: str = ""
    alarm_interval: float = 60.0
    sharing: SharingThresholds = SharingThresholds()
    metrics: tuple[str, ...] = ("local",)
    metrics_token: str = ""
    edges: tuple[str, int] | None = None
    edge_lifetime: float = 30 * 86_400.0
    edge_certificate: str = ""
    edge_key: str = ""
    nats: NatsAccess | None = None
    nats_replicas: int = 1
    console: bool = True
    inherited: ControlInherited | None = None


MIN_TOKEN = 16
"""Characters of the shortest token that is accepted."""


def read_token(file: str) -> str:
    """The token in a file; empty if no file is named.

    :raises SettingsError: if it cannot be read, or is not a token.
    """
    if not file:
        return ""
    try:
        token = Path(file).read_text("ascii").strip()
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"--metrics-token: {file} cannot be read: {error}") from error
    if len(token) < MIN_TOKEN or any(not "!" <= each <= "~" for each in token):
        raise SettingsError(
            f"--metrics-token: {file} must contain one line of at least {MIN_TOKEN} printable characters without "
            "spaces, such as the output of `openssl rand -hex 32`"
        )
    return token


def without_password(store: str | None) -> str:
    """The value of `--store`; empty if it is not given.

    :raises SettingsError: if it is not a PostgreSQL URL, or contains a password.
    """
    if store:
        # Imports SQLAlchemy, which `keyfront sign` must not load.
        from keyfront.control.store.database import has_password

        if has_password(store):
            raise SettingsError(
                "--store must not contain the password, because every user on this machine can read command lines: "
                f"put the URL into {STORE_VARIABLE}, or the password into a file for --store-password-file"
            )
    return store or ""


def store_url(store: str | None) -> str:
    """The store's URL from `--store` or `KEYFRONT_STORE`; empty for the file in the data folder.

    :raises SettingsError: see `without_password`.
    """
    return without_password(store) or os.environ.get(STORE_VARIABLE, "")


def without_any_password(url: str) -> str:
    """A store's URL without the passwords in it, for a file that other programs may read."""
    parts = urlsplit(url)
    users, at, hosts = parts.netloc.rpartition("@")
    query = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if "password" not in pair[0]]
    return urlunsplit(parts._replace(netloc=f"{users.partition(':')[0]}{at}{hosts}", query=urlencode(query)))
