"""The options of `keyfront up` for the edge itself: its ports, its cache, and its processes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from keyfront.cli.durations import DurationType
from keyfront.cli.options import FILE, option_group
from keyfront.cli.sizes import SizeType
from keyfront.cli.values import address, checked, each, health_target, location, networks
from keyfront.errors import SettingsError
from keyfront.fleet.heartbeat import STUCK
from keyfront.runtime.settings import Supervision

if TYPE_CHECKING:
    from keyfront.edge.serving.settings import HealthCheckSettings
    from keyfront.edge.worker_settings import TlsSettings

MIN_AGE = 30
"""Seconds; the control plane confirms a snapshot every five to fifteen seconds."""
MIN_DISK = 64 << 20
"""Bytes; a smaller cache on disk is of no use."""


class EdgeOptions(msgspec.Struct, frozen=True):
    """The options' values. `memory` and `max_object` are in MiB, `cache_disk` is in bytes, `health_max_age` in
    seconds."""

    edge: str
    tls: str | None
    certificates: Path | None
    trusted_proxies: str
    memory: int
    max_object: int
    cache_disk: int
    country_db: Path | None
    pop: str
    cache_status: bool
    explain_to: str
    acme_webroot: Path | None = None
    health_check: tuple[str, ...] = ()
    health_max_age: float = 0.0
    edge_metrics: str = ""

    def health_settings(self) -> HealthCheckSettings:
        """:raises SettingsError: if a snapshot's age is limited to less than the confirmations' interval."""
        from keyfront.edge.serving.settings import HealthCheckSettings

        if 0 < self.health_max_age < MIN_AGE:
            raise SettingsError(
                f"--health-max-age: less than {MIN_AGE} seconds would fail while nothing is wrong; 0 disables it"
            )
        return HealthCheckSettings(tuple(map(health_target, self.health_check)), self.health_max_age)

    def check_country_db(self) -> None:
        """:raises SettingsError: if it cannot be used."""
        if self.country_db is None:
            return
        from keyfront.edge.geoip import CountryTable

        try:
            CountryTable(str(self.country_db))  # fails here rather than in the workers
        except SettingsError as error:
            raise SettingsError(f"--country-db: {error}") from error

    def tls_settings(self, data: Path) -> TlsSettings | None:
        """:param data: the data folder; without `--certificates`, it holds certificates and the local authority.
        :raises SettingsError: if there is no address for the certificates, or they cannot be used.
        """
        if self.tls is None:
            if self.certificates is not None:
                raise SettingsError("--certificates requires --tls, such as --tls 0.0.0.0:443")
            return None
        from keyfront.edge.net.certificates import Certificates
        from keyfront.edge.worker_settings import TlsSettings
        from keyfront.runtime.local_authority import issued_folder

        if self.certificates is None:
            return TlsSettings(*address(self.tls), str(data / "certificates"), str(issued_folder(data)))
        try:
            Certificates(
                self.certificates, time.time(), lambda _: None
            )  # fails here rather than in the workers
        except SettingsError as error:
            raise SettingsError(f"--certificates: {error}") from error
        return TlsSettings(*address(self.tls), str(self.certificates.absolute()))


edge_options = option_group(
    "edge",
    EdgeOptions,
    click.option(
        "--edge",
        default="127.0.0.1:8080",
        show_default=True,
        callback=checked(address),
        help="Where viewers connect.",
    ),
    click.option(
        "--tls",
        metavar="HOST:PORT",
        callback=checked(address),
        help="Where viewers connect over HTTPS.",
    ),
    click.option(
        "--certificates",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Folder of certificates and their keys, selected by server name.  [default: DATA/certificates, and the "
        "local authority for all other names: see `keyfront trust`]",
    ),
    click.option(
        "--acme-webroot",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        metavar="FOLDER",
        help="Answer HTTP-01 challenges of certificate authorities from this folder, as `certbot certonly --webroot` "
        "writes them.",
    ),
    click.option(
        "--trusted-proxies",
        default="",
        callback=checked(networks),
        metavar="CIDR,…",
        help="Proxies whose X-Forwarded-For and X-Forwarded-Proto are trusted.",
    ),
    click.option(
        "--memory",
        type=click.IntRange(1, 1 << 20),
        default=256,
        show_default=True,
        help="MiB of cache per worker; with several workers, an equal part of the total is shared.",
    ),
    click.option(
        "--max-object",
        type=click.IntRange(1, 64),
        default=1,
        show_default=True,
        help="MiB of the largest body that is stored whole; larger ones are split into slices.",
    ),
    click.option(
        "--cache-disk",
        type=SizeType(MIN_DISK),
        default="10G",
        show_default=True,
        metavar="SIZE",
        help="Size of the disk cache, in the data folder; 0 for no disk cache.",
    ),
    click.option("--country-db", type=FILE, help="MaxMind DB file for country lookups."),
    click.option(
        "--pop",
        default="KFR50-P1",
        show_default=True,
        callback=checked(location),
        help="Name of this edge location.",
    ),
    click.option(
        "--cache-status",
        is_flag=True,
        help="Report in Cache-Status how the cache handled each response (RFC 9211).",
    ),
    click.option(
        "--explain-to",
        default="",
        callback=checked(networks),
        metavar="CIDR,…",
        help="Viewers whose failed requests get the reason in X-Keyfront-Reason.",
    ),
    click.option(
        "--health-check",
        multiple=True,
        callback=checked(each(health_target)),
        metavar="HOST/PATH",
        help="Answer health checks of load balancers at this Host and path, such as 10.0.0.5/healthz; repeatable.",
    ),
    click.option(
        "--health-max-age",
        type=DurationType(),
        default="0",
        show_default=True,
        metavar="DURATION",
        help="Fail health checks when the control plane has not confirmed the snapshot for this long; 0 to disable.",
    ),
    click.option(
        "--edge-metrics",
        default="",
        callback=checked(address),
        metavar="HOST:PORT",
        help="Where Prometheus reads the metrics of this machine's edge, at /metrics.  [default: the control port]",
    ),
)


def _supervision(workers: int | None, stuck_after: float, shutdown_delay: float) -> Supervision:
    if 0 < stuck_after < 2:
        raise SettingsError("--stuck-after: less than 2 seconds would kill healthy processes; 0 disables it")
    return Supervision(workers or len(os.sched_getaffinity(0)), stuck_after, shutdown_delay)


supervision_options = option_group(
    "supervision",
    _supervision,
    click.option("--workers", type=click.IntRange(1, 256), help="Edge processes.  [default: one per core]"),
    click.option(
        "--stuck-after",
        type=click.FloatRange(0, 3600),
        default=STUCK,
        show_default=True,
        metavar="SECONDS",
        help="Kill and restart a process that has had no heartbeat for this long; 0 to disable.",
    ),
    click.option(
        "--shutdown-delay",
        type=click.FloatRange(0, 3600),
        default=0.0,
        show_default=True,
        metavar="SECONDS",
        help="Before stopping, fail health checks for this long and still serve, so that load balancers notice.",
    ),
)
