"""The options of `keyfront up` for signed URLs and cookies that are shared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import msgspec

from keyfront.cli.options import option_group
from keyfront.cli.sizes import SizeType
from keyfront.monitoring.anomalies import SharingThresholds

_DEFAULTS = SharingThresholds()
_COUNT = click.IntRange(0, 1_000_000_000)


class SharingOptions(msgspec.Struct, frozen=True):
    """The options' values; see `SharingThresholds`."""

    shared_links: bool
    shared_networks: int
    shared_countries: int
    shared_agents: int
    shared_requests: int
    shared_bytes: int

    def thresholds(self) -> SharingThresholds:
        return SharingThresholds(
            self.shared_networks,
            self.shared_countries,
            self.shared_agents,
            self.shared_requests,
            self.shared_bytes,
        )


def _threshold(name: str, default: int, what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        f"--shared-{name}",
        type=_COUNT,
        default=default,
        show_default=True,
        metavar="N",
        help=f"Shared is what was used within an hour with {what}; 0: whatever the number.",
    )


sharing_options = option_group(
    "sharing",
    SharingOptions,
    click.option(
        "--shared-links/--no-shared-links",
        default=True,
        show_default=True,
        help="Find signed URLs and cookies that are shared.",
    ),
    _threshold("networks", _DEFAULTS.networks, "this many networks (/24 of IPv4, /48 of IPv6)"),
    _threshold("countries", _DEFAULTS.countries, "this many countries"),
    _threshold("agents", _DEFAULTS.agents, "this many User-Agents"),
    _threshold("requests", _DEFAULTS.requests, "this many requests from several networks"),
    click.option(
        "--shared-bytes",
        type=SizeType(),
        default="0",
        show_default=True,
        metavar="SIZE",
        help="Shared is what this much was sent for within an hour, to several networks; 0: however much.",
    ),
)
