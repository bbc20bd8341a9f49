"""What makes an edge one of several: whose snapshots it follows, and its place in an Origin Shield."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
from click.core import ParameterSource

from keyfront.cli.settings import address
from keyfront.errors import SettingsError

_REGION = re.compile(r"[a-z0-9-]{1,32}")


class Tiers(msgspec.Struct, frozen=True):
    """The four options together. `shields` are regions and addresses."""

    feed: str = ""
    shield: tuple[str, int] | None = None
    shields: tuple[tuple[str, str], ...] = ()
    secret: str = ""


def tiers_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the parameters of `tiers`."""
    for option in (
        click.option(
            "--feed",
            type=click.Path(exists=True, file_okay=False, path_type=Path),
            help="Run edges alone, which follow the keyfront with this data folder.",
        ),
        click.option(
            "--origin-shield",
            multiple=True,
            metavar="REGION=[https://]HOST:PORT",
            help="The edge that is the Origin Shield for a region; needs --shield-secret.",
        ),
        click.option(
            "--shield",
            metavar="HOST:PORT",
            help="Where other edges connect whose Origin Shield this one is; needs --shield-secret.",
        ),
        click.option(
            "--shield-secret",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="File with what an Origin Shield and its edges share.",
        ),
    ):
        command = option(command)
    return command


def tiers(
    feed: Path | None, origin_shield: tuple[str, ...], shield: str | None, shield_secret: Path | None
) -> Tiers:
    """What the options say.

    :raises SettingsError: if they make no sense, alone or together.
    """
    from keyfront.edge.shield import Secrets, parent_address

    if feed is not None:
        said = click.get_current_context().get_parameter_source
        for name in ("control", "store", "store_password_file", "domain"):
            if said(name) is ParameterSource.COMMANDLINE:
                option = name.replace("_", "-")
                raise SettingsError(f"--{option} is the control plane's, and --feed follows another one's")
    shields: dict[str, str] = {}
    for text in origin_shield:
        region, equals, where = text.partition("=")
        if not equals or not _REGION.fullmatch(region):
            raise SettingsError(f"{text!r} is not REGION=HOST:PORT, such as eu-central-1=10.0.0.1:8090")
        if region in shields:
            raise SettingsError(f"--origin-shield names {region} twice")
        parent_address(where)
        shields[region] = where
    if (shields or shield) and shield_secret is None:
        raise SettingsError("--shield and --origin-shield need --shield-secret, which both sides share")
    if shield_secret is not None:
        Secrets.of_file(str(shield_secret))
        if not shields and not shield:
            raise SettingsError("--shield-secret is for --shield or --origin-shield")
        if shield_secret.stat().st_mode & 0o004:
            click.echo(f"keyfront: everybody on this machine can read {shield_secret}", err=True)
    return Tiers(
        "" if feed is None else str(feed.absolute()),
        address(shield) if shield else None,
        tuple(shields.items()),
        "" if shield_secret is None else str(shield_secret.absolute()),
    )


def edge_name(port: int) -> str:
    """What reports of edges on this machine, on this port, begin with: no two machines' are alike."""
    host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:40].strip("-")
    return f"at-{host or os.getpid()}-{port}"
