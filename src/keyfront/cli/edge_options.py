"""What makes an edge one of several: whose snapshots it follows, and its place in an Origin Shield."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
from click.core import ParameterSource

from keyfront.cli.settings import address
from keyfront.errors import SettingsError
from keyfront.model import residency

_REGION = re.compile(r"[a-z0-9-]{1,32}")


class Tiers(msgspec.Struct, frozen=True):
    """The options together. `shields` are regions and addresses, `region_feeds` regions and folders."""

    feed: str = ""
    shield: tuple[str, int] | None = None
    shields: tuple[tuple[str, str], ...] = ()
    secret: str = ""
    region: str = ""
    region_feeds: tuple[tuple[str, str], ...] = ()


def tiers_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the parameters of `tiers`."""
    for option in (
        click.option(
            "--feed",
            type=click.Path(exists=True, file_okay=False, path_type=Path),
            help="Run edges alone, which follow the keyfront with this data folder.",
        ),
        click.option(
            "--region",
            default="",
            metavar="NAME",
            help="The region that these edges are in: they get what is tied to it, and what is tied to none.",
        ),
        click.option(
            "--region-feed",
            multiple=True,
            metavar="NAME=DIR",
            help="Another region, and the folder that its edges follow with --feed.",
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
    feed: Path | None,
    origin_shield: tuple[str, ...],
    shield: str | None,
    shield_secret: Path | None,
    region: str = "",
    region_feed: tuple[str, ...] = (),
) -> Tiers:
    """What the options say.

    :raises SettingsError: if they make no sense, alone or together.
    """
    from keyfront.edge.origin.shield_client import parent_address
    from keyfront.edge.origin.shield_protocol import Secrets

    if feed is not None:
        said = click.get_current_context().get_parameter_source
        for name in ("control", "store", "store_password_file", "domain", "region_feed"):
            if said(name) is ParameterSource.COMMANDLINE:
                option = name.replace("_", "-")
                raise SettingsError(f"--{option} is the control plane's, and --feed follows another one's")
    shields: dict[str, str] = {}
    for text in origin_shield:
        shielded, equals, where = text.partition("=")
        if not equals or not _REGION.fullmatch(shielded):
            raise SettingsError(f"{text!r} is not REGION=HOST:PORT, such as eu-central-1=10.0.0.1:8090")
        if shielded in shields:
            raise SettingsError(f"--origin-shield names {shielded} twice")
        parent_address(where)
        shields[shielded] = where
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
        residency.region(region) if region else "",
        tuple(_region_feeds(region_feed, region)),
    )


def _region_feeds(texts: Iterable[str], own: str) -> Iterator[tuple[str, str]]:
    """The other regions, each with the folder of its feed, in which there are no secrets of this control plane."""
    from keyfront.fleet.file_feed import FileFeed
    from keyfront.fleet.regions import refuse_stranger

    seen = {own} if own else set()
    folders = set()
    for text in texts:
        name, equals, where = text.partition("=")
        if not equals or not where:
            raise SettingsError(f"{text!r} is not NAME=DIR, such as us=/mnt/keyfront-us")
        residency.region(name)
        if name in seen:
            raise SettingsError(
                f"--region-feed {name} is the region of this machine's own edges"
                if name == own
                else f"--region-feed names {name} twice"
            )
        seen.add(name)
        folder = Path(where).absolute()
        if not folder.is_dir():
            raise SettingsError(f"--region-feed {name}: there is no folder {folder}")
        if any((folder / held).exists() for held in ("keyfront.db", "credentials")):
            raise SettingsError(
                f"--region-feed {name}: {folder} is the data folder of a control plane, with all keys in it; "
                "the feed of another region needs a folder of its own"
            )
        if folder.resolve() in folders:
            raise SettingsError(f"--region-feed: {folder} is there for two regions")
        folders.add(folder.resolve())
        refuse_stranger(FileFeed(folder, name))
        yield name, str(folder)
