"""The options of `keyfront up` for an edge that is one of several: the feed it follows, its region, and its place in an
Origin Shield."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
from click.core import ParameterSource

from keyfront.cli.options import FILE, option_group
from keyfront.cli.values import address, checked
from keyfront.errors import SettingsError
from keyfront.extras import require_extra
from keyfront.model import residency

logger = logging.getLogger("keyfront.supervisor")

_REGION = re.compile(r"[a-z0-9-]{1,32}")


class FleetSettings(msgspec.Struct, frozen=True):
    """The options, checked. `feed` and `secret` are absolute paths, `shields` are regions and addresses,
    `region_feeds` are regions and folders."""

    feed: str = ""
    shield: tuple[str, int] | None = None
    shields: tuple[tuple[str, str], ...] = ()
    secret: str = ""
    region: str = ""
    region_feeds: tuple[tuple[str, str], ...] = ()


class FleetOptions(msgspec.Struct, frozen=True):
    """The options' values."""

    feed: Path | None = None
    region: str = ""
    region_feed: tuple[str, ...] = ()
    origin_shield: tuple[str, ...] = ()
    shield: str | None = None
    shield_secret: Path | None = None

    def settings(self, data: Path) -> FleetSettings:
        """Check the options, alone and together.

        :param data: the data folder.
        :raises SettingsError: if they cannot be used.
        """
        if (enrolled := self._enrolled(data)) is not None:
            return enrolled._settings(data)
        if self.feed is not None:
            _refuse_control_options("--feed runs edges only")
        return self._settings(data)

    def _settings(self, data: Path) -> FleetSettings:
        feeds = tuple(_region_feeds(self.region_feed, self.region))
        if any(Path(folder).resolve() == data.resolve() for _, folder in feeds):
            raise SettingsError(
                "--region-feed: the data folder itself is the feed of this machine's own edges only"
            )
        shields = dict(_shields(self.origin_shield))
        self._check_secret(required=bool(shields or self.shield))
        return FleetSettings(
            "" if self.feed is None else str(self.feed.absolute()),
            address(self.shield) if self.shield else None,
            tuple(shields.items()),
            "" if self.shield_secret is None else str(self.shield_secret.absolute()),
            residency.region(self.region) if self.region else "",
            feeds,
        )

    def _enrolled(self, data: Path) -> FleetOptions | None:
        """The options of an enrolled edge, which follows its control plane; None if the data folder is not one's."""
        from keyfront.fleet.remote import is_enrolled

        if not is_enrolled(data):
            return None
        from keyfront.fleet.remote.enrollment import EdgeFiles

        files = EdgeFiles(data)
        edge = files.edge()
        if self.feed is not None:
            raise SettingsError(f"{data} is enrolled, and follows {edge.follows}: start it without --feed")
        if self.region not in ("", edge.region):
            where = f"region {edge.region}" if edge.region else "no region"
            raise SettingsError(
                f"--region {self.region}: this edge is enrolled in {where}; to move it, enroll it again with a token "
                "for the other region"
            )
        _refuse_control_options(f"{data} belongs to an enrolled edge")
        if edge.nats is not None:
            require_extra("nats")
        files.feed.mkdir(mode=0o700, exist_ok=True)
        return msgspec.structs.replace(self, feed=files.feed, region=edge.region)

    def _check_secret(self, *, required: bool) -> None:
        from keyfront.edge.origin.shield_protocol import Secrets

        file = self.shield_secret
        if file is None:
            if required:
                raise SettingsError(
                    "--shield and --origin-shield need --shield-secret, which both sides share"
                )
            return
        Secrets.of_file(str(file))
        if not required:
            raise SettingsError("--shield-secret is for --shield or --origin-shield")
        if file.stat().st_mode & 0o004:
            logger.warning("every user on this machine can read %s", file)


class _Folder(click.Path):
    """A folder, with advice for users who give a URL."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and value.startswith("https://"):
            self.fail(
                f"{value} is a URL: enroll this machine once with `keyfront edge join --control {value} --token …`, "
                "and start it without --feed",
                param,
                ctx,
            )
        return super().convert(value, param, ctx)


fleet_options = option_group(
    "fleet",
    FleetOptions,
    click.option(
        "--feed",
        type=_Folder(exists=True, file_okay=False, path_type=Path),
        help="Run only edges, which follow the Keyfront with this data folder.",
    ),
    click.option(
        "--region",
        default="",
        metavar="NAME",
        help="The region of these edges: they receive what is tied to it, and what is tied to no region.",
    ),
    click.option(
        "--region-feed",
        multiple=True,
        metavar="NAME=DIR",
        help="Another region, and the folder that its edges follow with --feed; repeatable.",
    ),
    click.option(
        "--origin-shield",
        multiple=True,
        metavar="REGION=[https://]HOST:PORT",
        help="The edge that is the Origin Shield for that region; repeatable; requires --shield-secret.",
    ),
    click.option(
        "--shield",
        callback=checked(address),
        metavar="HOST:PORT",
        help="Where other edges connect to use this edge as their Origin Shield; requires --shield-secret.",
    ),
    click.option(
        "--shield-secret",
        type=FILE,
        help="File with the secrets shared by an Origin Shield and its edges, one per line.",
    ),
)


def _refuse_control_options(why: str) -> None:
    source = click.get_current_context().get_parameter_source
    for name in ("control", "store", "store_password_file", "domain", "region_feed", "edges", "nats"):
        if source(name) in (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP):
            option = name.replace("_", "-")
            raise SettingsError(f"--{option} is for a control plane, but {why}")


def _shields(texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The regions that have an Origin Shield, each with its address."""
    seen = set()
    for text in texts:
        region, equals, where = text.partition("=")
        if not equals or not _REGION.fullmatch(region):
            raise SettingsError(f"{text!r} is not REGION=HOST:PORT, such as eu-central-1=10.0.0.1:8090")
        if region in seen:
            raise SettingsError(f"--origin-shield names {region} twice")
        seen.add(region)
        from keyfront.edge.origin.shield_client import parent_address  # few edges have a shield

        parent_address(where)
        yield region, where


def _region_feeds(texts: Iterable[str], own: str) -> Iterator[tuple[str, str]]:
    """The other regions, each with the folder of its feed, which contains no secrets of a control plane."""
    from keyfront.fleet.file_feed import FileFeed
    from keyfront.fleet.regions import refuse_other_region

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
                f"--region-feed {name}: {folder} is the data folder of a control plane, which contains all keys; "
                "the feed of another region needs a folder of its own"
            )
        if folder.resolve() in folders:
            raise SettingsError(f"--region-feed: {folder} is used for two regions")
        folders.add(folder.resolve())
        refuse_other_region(FileFeed(folder, name))
        yield name, str(folder)
