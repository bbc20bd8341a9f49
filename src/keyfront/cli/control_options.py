"""The options of `keyfront up` for the control plane."""

from __future__ import annotations

import os
from pathlib import Path

import click
import msgspec

from keyfront.cli.durations import DurationType
from keyfront.cli.options import FILE, option_group
from keyfront.cli.values import address, audience, checked, quotas, suffix
from keyfront.custody.default_paths import RECORDS_VARIABLE
from keyfront.errors import SettingsError
from keyfront.runtime.settings import SUFFIX


class ControlOptions(msgspec.Struct, frozen=True):
    """The options' values."""

    control: str
    domain: str
    audit_reads: bool
    quota: tuple[str, ...]
    records: str
    rotation: bool
    hooks: Path | None
    alarm_interval: float
    metrics: str
    metrics_token: Path | None
    edges: str
    edge_certificates: float
    edges_tls_cert: Path | None
    edges_tls_key: Path | None
    console: bool

    def check_edges_tls(self) -> None:
        """:raises SettingsError: if it cannot be used."""
        if self.edges_tls_cert is None:
            if self.edges_tls_key is not None:
                raise SettingsError("--edges-tls-key requires --edges-tls-cert")
            return
        if not self.edges:
            raise SettingsError("--edges-tls-cert requires --edges")
        import ssl

        from keyfront.fleet.remote.own_certificate import OwnCertificate

        try:
            OwnCertificate(self.edges_tls_cert, self.edges_tls_key).load(
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            )
        except SettingsError as error:
            raise SettingsError(f"--edges-tls-cert: {error}") from error

    def edge_lifetime(self) -> float:
        """Seconds for which certificates of edges are valid.

        :raises SettingsError: if that is not between a minute and a year.
        """
        if not 60 <= self.edge_certificates <= 366 * 86_400:
            raise SettingsError("--edge-certificates must be between 1m and 366d")
        return self.edge_certificates

    def alarm_seconds(self) -> float:
        """Seconds between two evaluations of alarms.

        :raises SettingsError: if they do not divide a minute.
        """
        if not 1 <= self.alarm_interval <= 60 or 60 % self.alarm_interval:
            raise SettingsError(
                "--alarm-interval must divide a minute: 1s, 2s, 3s, 5s, 10s, 15s, 20s, 30s or 1m"
            )
        return self.alarm_interval

    def records_uri(self) -> str:
        """The URI of the rotation records, from the option or KEYFRONT_RECORDS; empty for those in the data folder.

        :raises CustodyError: if it is not one.
        """
        uri = self.records or os.environ.get(RECORDS_VARIABLE, "")
        if uri:
            from keyfront.custody.schemes import open_records

            open_records(uri)  # fails here rather than in the control process
        return uri

    def hooks_file(self, data: Path) -> str:
        """The file with the hooks; empty if there is none.

        :raises SettingsError: if the hooks cannot be read.
        """
        file = (self.hooks or data / "hooks.toml").absolute()
        if self.hooks is None and not file.exists():
            return ""
        from keyfront.lifecycle.hooks import read_hook_file

        read_hook_file(file)  # fails here rather than in the control process
        return str(file)


control_options = option_group(
    "control",
    ControlOptions,
    click.option(
        "--control",
        default="127.0.0.1:8081",
        show_default=True,
        callback=checked(address),
        help="Where the API listens.",
    ),
    click.option(
        "--domain",
        default=SUFFIX,
        show_default=True,
        callback=checked(suffix),
        help="Suffix of the distributions' domain names.",
    ),
    click.option(
        "--audit-reads/--no-audit-reads",
        default=True,
        show_default=True,
        help="Also record read-only API calls.",
    ),
    click.option(
        "--quota",
        multiple=True,
        callback=checked(quotas),
        metavar="NAME=NUMBER",
        help="The maximum number of something, such as public-keys=100; repeatable.  [default: CloudFront's quotas]",
    ),
    click.option(
        "--records",
        default="",
        metavar="URI",
        help=f"The custody that holds the rotation records.  [default: {RECORDS_VARIABLE}, or DATA/custody/]",
    ),
    click.option(
        "--rotation/--no-rotation",
        default=True,
        show_default=True,
        help="Perform rotation steps when they are due.",
    ),
    click.option(
        "--hooks",
        type=FILE,
        help="Programs and services to notify before and after each rotation step, and the actions of alarms.  "
        "[default: DATA/hooks.toml, if it exists]",
    ),
    click.option(
        "--alarm-interval",
        type=DurationType(),
        default="1m",
        show_default=True,
        help="How often metrics are sampled and alarms evaluated; if less than a minute, the current minute counts as "
        "far as it is known.",
    ),
    click.option(
        "--metrics",
        default="local",
        callback=checked(audience),
        show_default=True,
        metavar="WHO",
        help="Who can read /metrics, on the control port and that of --edge-metrics: local, all, off, or networks "
        "(CIDR,…).",
    ),
    click.option(
        "--metrics-token",
        type=FILE,
        help="File with a token: a request with `Authorization: Bearer TOKEN` can read /metrics from anywhere.",
    ),
    click.option(
        "--edges",
        default="",
        callback=checked(address),
        metavar="HOST:PORT",
        help="Where edges on other machines connect, with TLS; see `keyfront edge`.  [default: nowhere]",
    ),
    click.option(
        "--edge-certificates",
        type=DurationType(),
        default="30d",
        show_default=True,
        help="How long certificates of these edges are valid; an edge renews its own when a third of that is left.",
    ),
    click.option(
        "--edges-tls-cert",
        type=FILE,
        help="Certificate chain (PEM) for the port of --edges; edges then join with --ca.  [default: Keyfront's own]",
    ),
    click.option(
        "--edges-tls-key",
        type=FILE,
        help="Its private key (PEM).  [default: in the file of --edges-tls-cert]",
    ),
    click.option(
        "--console/--no-console",
        default=True,
        show_default=True,
        help="Serve the console at /console/ of the control port.",
    ),
)
