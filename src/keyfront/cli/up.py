"""`keyfront up`: the control plane and the edge's workers on one machine, from one command."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
import msgspec

from keyfront.cli.access_log_options import AccessLogOptions, access_log_options
from keyfront.cli.config_file import FILE_NAME, ConfigCommand, ConfigContext
from keyfront.cli.control_options import ControlOptions, control_options
from keyfront.cli.edge_options import EdgeOptions, edge_options, supervision_options
from keyfront.cli.fleet_options import FleetOptions, FleetSettings, fleet_options
from keyfront.cli.installation import InstallationOptions, installation_options
from keyfront.cli.limit_options import EdgeLimits, limit_options
from keyfront.cli.logging_options import log_settings, logging_options
from keyfront.cli.nats_options import NatsOptions, nats_options
from keyfront.cli.origin_options import OriginOptions, origin_options
from keyfront.cli.sharing_options import SharingOptions, sharing_options
from keyfront.cli.values import address, audience, location, networks, quotas, suffix
from keyfront.cli.websocket_options import WebSocketOptions, websocket_options
from keyfront.errors import KeyfrontError, SettingsError
from keyfront.extras import require_extra
from keyfront.runtime.handover import TRIAL, taken
from keyfront.runtime.logs import LogSettings, process_logging
from keyfront.runtime.reload import UpSettings
from keyfront.runtime.restart import program, try_settings
from keyfront.runtime.settings import (
    ControlSettings,
    MetricsSettings,
    Supervision,
    read_token,
    without_password,
)
from keyfront.runtime.up import run_up

if TYPE_CHECKING:
    from keyfront.edge.worker_settings import WorkerSettings


config_option = click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    expose_value=False,
    help=f"File with values of the options below.  [default: DATA/{FILE_NAME}, if it exists]",
)


@click.command("up", cls=ConfigCommand)
@config_option
@installation_options
@edge_options
@supervision_options
@control_options
@origin_options
@fleet_options
@nats_options
@websocket_options
@limit_options
@logging_options
@access_log_options
@sharing_options
def up_settings(  # noqa: PLR0913 - one parameter for each group of options
    installation: InstallationOptions,
    edge: EdgeOptions,
    supervision: Supervision,
    control: ControlOptions,
    origins: OriginOptions,
    fleet: FleetOptions,
    nats: NatsOptions,
    websocket: WebSocketOptions,
    limits: EdgeLimits,
    logs: LogSettings,
    access_logs: AccessLogOptions,
    sharing: SharingOptions,
) -> UpSettings:
    """The settings from the command line, the environment, and the configuration file. Starts nothing."""
    require_extra("server")
    tiers = fleet.settings(installation.data)
    worker = worker_settings(installation.data, edge, origins, tiers, websocket, limits)
    worker = msgspec.structs.replace(
        worker,
        edge=msgspec.structs.replace(worker.edge, ledger=sharing.shared_links),
        retention=access_logs.retention(),
        spool=access_logs.spool(),
    )
    api = msgspec.structs.replace(
        control_settings(installation, control, tiers, nats, worker.trusted_proxies),
        sharing=sharing.thresholds(),
    )
    for host, _ in worker.edge.health.targets:
        if not tiers.feed and f".{host}".endswith(f".{api.domain}"):
            raise SettingsError(
                f"--health-check: names under {api.domain} belong to distributions, as {host} may"
            )
    return UpSettings(
        installation.data,
        worker,
        api,
        supervision,
        logs,
        metrics_settings(edge, control, worker.trusted_proxies),
        access_logs.delivery(installation.data, worker.edge.pop),
    )


@click.command("up", cls=ConfigCommand, params=up_settings.params)
@click.pass_context
def up(ctx: click.Context, /, **options: Any) -> None:
    """Run everything on this machine until SIGTERM or Ctrl-C.

    Every option can also be in a configuration file, in the table of its group: `keyfront config show` prints one.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        # `run_up` replaces these handlers. Until then, there is nothing to shut down.
        signal.signal(number, lambda *_: sys.exit(0))
    own = cast(ConfigContext, ctx)
    with process_logging(
        log_settings(options["verbose"], options["log_format"]), "up", (KeyfrontError, OSError)
    ):
        found: UpSettings = up_settings.invoke(ctx)
        try:
            if (handover := taken(os.environ, TRIAL)) is not None:
                try_settings(found, handover)
            else:
                asyncio.run(run_up(found, lambda: read_settings(own.arguments), program(sys.argv)))
        except SettingsError as error:
            raise own.located(error) from None


def read_settings(arguments: Sequence[str]) -> UpSettings:
    """The settings that `keyfront up` with these arguments would run with.

    :raises KeyfrontError: if they cannot be used.
    """
    try:
        with up_settings.make_context("keyfront up", list(arguments)) as ctx:
            found: UpSettings = up_settings.invoke(ctx)
    except click.ClickException as error:
        raise SettingsError(error.format_message()) from None
    return found


def worker_settings(
    data: Path,
    edge: EdgeOptions,
    origins: OriginOptions,
    tiers: FleetSettings,
    websocket: WebSocketOptions,
    limits: EdgeLimits,
) -> WorkerSettings:
    """The settings of every worker, except for its name and what it inherits.

    :raises SettingsError: if an option cannot be used.
    """
    # The edge's modules are imported here, because `keyfront sign` must start quickly.
    from keyfront.edge.serving.settings import EdgeSettings
    from keyfront.edge.worker_settings import WorkerSettings

    tls = edge.tls_settings(data)
    edge.check_country_db()
    origins.check_authorities()
    credentials = origins.credentials(data)
    host, port = address(edge.edge)
    listens = [
        (host, port),
        *([(tls.host, tls.port)] if tls else []),
        *([tiers.shield] if tiers.shield else []),
    ]
    return WorkerSettings(
        data=str(data),
        name="",
        host=host,
        port=port,
        trusted_proxies=networks(edge.trusted_proxies),
        tls=tls,
        edge=EdgeSettings(
            memory=edge.memory << 20,
            max_object=edge.max_object << 20,
            cache_dir=str(data / "cache"),
            cache_disk=edge.cache_disk,
            pop=location(edge.pop),
            ca_file=_absolute(origins.origin_ca),
            origin_credentials=str(credentials),
            country_db=_absolute(edge.country_db),
            cache_status=edge.cache_status,
            explain_to=networks(edge.explain_to),
            shields=tiers.shields,
            shield_secret=tiers.secret,
            websockets=websocket.websockets,
            egress=origins.egress(listens),
            viewers=limits.viewers,
            uploads=limits.uploads,
            origins=limits.origins,
            health=edge.health_settings(),
            acme_webroot=_absolute(edge.acme_webroot) or "",
        ),
        limits=msgspec.structs.replace(limits.times, websocket_idle=websocket.websocket_idle),
        feed=tiers.feed,
        shield=tiers.shield,
        region=tiers.region,
    )


def control_settings(
    installation: InstallationOptions,
    control: ControlOptions,
    tiers: FleetSettings,
    nats: NatsOptions,
    trusted_proxies: tuple[str, ...],
) -> ControlSettings:
    """The settings of the control process, except for what it inherits. With `--feed` there is no control process.

    :raises SettingsError: if an option cannot be used.
    :raises CustodyError: if `--records` is not the URI of a custody.
    """
    host, port = address(control.control)
    control.check_edges_tls()
    return ControlSettings(
        str(installation.data),
        host,
        port,
        suffix(control.domain),
        audit_reads=control.audit_reads,
        trusted_proxies=trusted_proxies,
        store=without_password(installation.store),
        store_password_file=_absolute(installation.store_password_file) or "",
        quotas=quotas(control.quota),
        records="" if tiers.feed else control.records_uri(),
        rotation=control.rotation,
        hooks="" if tiers.feed else control.hooks_file(installation.data),
        alarm_interval=control.alarm_seconds(),
        region=tiers.region,
        region_feeds=tiers.region_feeds,
        metrics=audience(control.metrics),
        metrics_token=_absolute(control.metrics_token) or "",
        edges=address(control.edges) if control.edges else None,
        edge_lifetime=control.edge_lifetime(),
        edge_certificate=_absolute(control.edges_tls_cert) or "",
        edge_key=_absolute(control.edges_tls_key) or "",
        nats=nats.access(),
        nats_replicas=nats.nats_replicas,
        console=control.console,
    )


def metrics_settings(
    edge: EdgeOptions, control: ControlOptions, trusted_proxies: tuple[str, ...]
) -> MetricsSettings | None:
    """The settings of the port for the edge's metrics; None if there is none.

    :raises SettingsError: if the token cannot be used.
    """
    token = _absolute(control.metrics_token) or ""
    read_token(token)  # fails here rather than in the processes
    if not edge.edge_metrics:
        return None
    return MetricsSettings(*address(edge.edge_metrics), audience(control.metrics), token, trusted_proxies)


def _absolute(path: Path | None) -> str | None:
    return str(path.absolute()) if path else None
