"""`keyfront up`: the control plane and the edge's workers on one machine, from one command."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from keyfront.cli.edge_options import tiers, tiers_options
from keyfront.cli.limit_options import EdgeLimits, limits_options
from keyfront.cli.origin_options import is_public, origins_options
from keyfront.cli.settings import (
    address,
    audience,
    default_data,
    location,
    networks,
    quotas,
    size,
    suffix,
)
from keyfront.cli.store import store_options
from keyfront.cli.websocket_options import websocket_options
from keyfront.custody.default_paths import RECORDS_VARIABLE
from keyfront.errors import SettingsError
from keyfront.fleet.heartbeat import STUCK
from keyfront.runtime.settings import SUFFIX, ControlSettings, checked
from keyfront.runtime.up import Supervision, _up

if TYPE_CHECKING:
    from keyfront.edge.origin.egress import EgressSettings


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help="The data folder.  [default: the user's]")
@click.option("--edge", default="127.0.0.1:8080", show_default=True, help="Where viewers connect.")
@click.option("--tls", metavar="HOST:PORT", help="Where viewers connect by https; needs --certificates.")
@click.option(
    "--certificates",
    type=click.Path(exists=True, file_okay=False),
    help="Folder of certificates and their keys, chosen by the name that a viewer asks for.",
)
@click.option("--control", default="127.0.0.1:8081", show_default=True, help="Where the API listens.")
@store_options
@click.option("--workers", type=click.IntRange(1, 256), help="Edge processes.  [default: one a core]")
@click.option("--domain", default=SUFFIX, show_default=True, help="Suffix of the distributions' names.")
@click.option(
    "--trusted-proxies", default="", metavar="CIDR,…", help="Whose X-Forwarded-* headers are believed."
)
@click.option(
    "--memory",
    type=click.IntRange(1, 1 << 20),
    default=256,
    show_default=True,
    help="MiB of cache for each worker; several workers share a part of it.",
)
@click.option(
    "--max-object",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="MiB of the largest body held whole; larger ones are cut into slices.",
)
@click.option(
    "--cache-disk",
    default="10G",
    show_default=True,
    metavar="SIZE",
    help="Size of the cache on disk, under the data folder; 0 for none.",
)
@click.option(
    "--origin-ca", type=click.Path(exists=True, dir_okay=False), help="PEM file of further CAs for origins."
)
@click.option(
    "--origin-credentials",
    type=click.Path(exists=True, dir_okay=False),
    help="AWS-style credentials to sign requests to origins with.  [default: DIR/origin-credentials]",
)
@click.option(
    "--country-db",
    type=click.Path(exists=True, dir_okay=False),
    help="A MaxMind DB file to look countries up in.",
)
@click.option(
    "--audit-reads/--no-audit-reads",
    default=True,
    show_default=True,
    help="Record also calls of the API that only read.",
)
@click.option(
    "--quota",
    multiple=True,
    metavar="NAME=NUMBER",
    help="How many there may be of something, such as public-keys=100.  [default: CloudFront's quotas]",
)
@click.option(
    "--records",
    default="",
    metavar="URI",
    help="The custody that keeps the records of key rotations.  [default: KEYFRONT_RECORDS, or DIR/custody/]",
)
@click.option(
    "--rotation/--no-rotation",
    default=True,
    show_default=True,
    help="Take the steps of rotations that are due.",
)
@click.option(
    "--hooks",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Who is told before and after each step of a rotation.  [default: DIR/hooks.toml, if there is one]",
)
@click.option(
    "--metrics",
    default="local",
    show_default=True,
    metavar="WHO",
    help="Who may read /metrics on the control port: local, all, off, or networks (CIDR,…).",
)
@click.option(
    "--stuck-after",
    type=click.FloatRange(0, 3600),
    default=STUCK,
    show_default=True,
    metavar="SECONDS",
    help="Kill and restart a process without a heartbeat for that long; 0 for never.",
)
@click.option("--pop", default="KFR50-P1", show_default=True, help="Name of this edge location.")
@click.option(
    "--cache-status", is_flag=True, help="Tell in Cache-Status what the cache did for each answer (RFC 9211)."
)
@limits_options
@websocket_options
@origins_options
@tiers_options
def up(
    data: Path | None,
    edge: str,
    tls: str | None,
    certificates: str | None,
    control: str,
    store: str,
    store_password_file: Path | None,
    workers: int | None,
    domain: str,
    trusted_proxies: str,
    memory: int,
    max_object: int,
    cache_disk: str,
    origin_ca: str | None,
    origin_credentials: str | None,
    country_db: str | None,
    audit_reads: bool,
    quota: tuple[str, ...],
    records: str,
    rotation: bool,
    hooks: Path | None,
    metrics: str,
    stuck_after: float,
    pop: str,
    cache_status: bool,
    websockets: int,
    websocket_idle: int,
    feed: Path | None,
    origin_shield: tuple[str, ...],
    shield: str | None,
    shield_secret: Path | None,
    region: str,
    region_feed: tuple[str, ...],
    egress: EgressSettings,
    edge_limits: EdgeLimits,
) -> None:
    """Run everything on this machine until SIGTERM or Ctrl-C."""
    for number in (signal.SIGTERM, signal.SIGINT):
        # Until `_up` has a way of its own to end, there is nothing to be ended.
        signal.signal(number, lambda *_: sys.exit(0))
    # The edge's modules are loaded here, not with `keyfront sign`, which must start quickly.
    from keyfront.edge.http.timeouts import Limits
    from keyfront.edge.net.certificates import Certificates
    from keyfront.edge.origin.credentials import read_file
    from keyfront.edge.serving.settings import EdgeSettings
    from keyfront.edge.worker_settings import TlsSettings, WorkerSettings

    if (tls is None) != (certificates is None):
        raise SettingsError("--tls and --certificates are given together or not at all")
    tls_settings = None
    if tls is not None and certificates is not None:
        tls_settings = TlsSettings(*address(tls), str(Path(certificates).absolute()))
        # Only to fail early: the workers read them again, and say what is wrong with which.
        Certificates(Path(certificates), time.time(), lambda _: None)
    tier = tiers(feed, origin_shield, shield, shield_secret, region, region_feed)
    folder = (data or default_data()).absolute()
    if any(Path(where).resolve() == folder.resolve() for _, where in tier.region_feeds):
        raise SettingsError(
            "--region-feed: the data folder itself is the feed of this machine's own edges only"
        )
    secrets = Path(origin_credentials).absolute() if origin_credentials else folder / "origin-credentials"
    if secrets.exists():
        read_file(secrets)  # likewise
    edge_host, edge_port = address(edge)
    control_host, control_port = address(control)
    listens = [(edge_host, edge_port)]
    listens += [(tls_settings.host, tls_settings.port)] if tls_settings is not None else []
    listens += [tier.shield] if tier.shield is not None else []
    settings = WorkerSettings(
        data=str(folder),
        name="",
        host=edge_host,
        port=edge_port,
        trusted_proxies=networks(trusted_proxies),
        tls=tls_settings,
        edge=EdgeSettings(
            memory=memory << 20,
            max_object=max_object << 20,
            cache_dir=str(folder / "cache"),
            cache_disk=size(cache_disk),
            pop=location(pop),
            ca_file=str(Path(origin_ca).absolute()) if origin_ca else None,
            origin_credentials=str(secrets),
            country_db=str(Path(country_db).absolute()) if country_db else None,
            cache_status=cache_status,
            shields=tier.shields,
            shield_secret=tier.secret,
            websockets=websockets,
            egress=msgspec.structs.replace(egress, public=is_public(listens)),
            viewers=edge_limits.viewers,
            uploads=edge_limits.uploads,
            origins=edge_limits.origins,
        ),
        # Which member takes what is in cli/limit_options.py.
        limits=Limits(**edge_limits.times, websocket_idle=websocket_idle),  # type: ignore[arg-type]
        feed=tier.feed,
        shield=tier.shield,
        region=tier.region,
    )
    api = ControlSettings(
        str(folder),
        control_host,
        control_port,
        suffix(domain),
        audit_reads=audit_reads,
        trusted_proxies=settings.trusted_proxies,
        store=checked(store),
        store_password_file=str(store_password_file.absolute()) if store_password_file else "",
        quotas=quotas(quota),
        records="" if tier.feed else _records(records),
        rotation=rotation,
        hooks="" if tier.feed else _hooks(hooks, folder),
        region=tier.region,
        region_feeds=tier.region_feeds,
        metrics=audience(metrics),
    )
    if 0 < stuck_after < 2:
        raise SettingsError("--stuck-after: less than 2 seconds would kill healthy processes; 0 is for never")
    count = workers or len(os.sched_getaffinity(0))
    asyncio.run(_up(folder, settings, api, Supervision(count, stuck_after)))


def _records(said: str) -> str:
    """Where the records of rotations are, if somebody has said so. It is opened here only to fail early: the control
    plane opens it again."""
    uri = said or os.environ.get(RECORDS_VARIABLE, "")
    if uri:
        from keyfront.custody.schemes import open_records

        open_records(uri)
    return uri


def _hooks(said: Path | None, folder: Path) -> str:
    """The file of hooks, if there is one; read here only to fail early."""
    from keyfront.lifecycle.hooks import read_hooks

    file = (said or folder / "hooks.toml").absolute()
    if said is None and not file.exists():
        return ""
    read_hooks(file)
    return str(file)


@click.command(hidden=True, name="edge-worker")
@click.argument("settings")
def edge_worker(settings: str) -> None:
    """One worker; `keyfront up` starts it."""
    from keyfront.edge import worker as serve

    serve.main(settings)


@click.command(hidden=True, name="control-process")
@click.argument("settings")
def control_process(settings: str) -> None:
    """The control plane's process; `keyfront up` starts it. It serves the edges' metrics beside its own."""
    from keyfront.runtime.control_process import main

    main(msgspec.json.decode(settings, type=ControlSettings))
