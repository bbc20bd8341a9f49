"""The options of `keyfront up` that limit how much of a worker viewers and origins can occupy, and for how long."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import click
import msgspec

from keyfront.cli.options import option_group
from keyfront.cli.param_type import ParamType
from keyfront.cli.sizes import SizeType, size_text
from keyfront.edge.http.timeouts import Limits
from keyfront.edge.limits.origins import OriginLimits
from keyfront.edge.limits.uploads import UploadLimits
from keyfront.edge.limits.viewers import ViewerLimits


class EdgeLimits(msgspec.Struct, frozen=True):
    """The values of the options."""

    times: Limits = Limits()
    viewers: ViewerLimits = ViewerLimits()
    uploads: UploadLimits = UploadLimits()
    origins: OriginLimits = OriginLimits()


class SecondsType(ParamType[float]):
    """A time in seconds, greater than 0."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,3})?", str(value)) or not float(value):
            self.fail(f"{value!r} is not a number of seconds greater than 0", param, ctx)
        return float(value)


class LimitOption(NamedTuple):
    """An option, and the member of the part of `EdgeLimits` that it sets; that member's default is the option's."""

    name: str
    part: str
    member: str
    kind: click.ParamType[Any]
    metavar: str
    help: str

    @property
    def parameter(self) -> str:
        """The name by which click passes the value."""
        return self.name.replace("-", "_")

    @property
    def default(self) -> str:
        """The default as written on the command line."""
        value = getattr(getattr(EdgeLimits(), self.part), self.member)
        return size_text(value) if self.kind is _SIZE else f"{value:.10g}"


_SECONDS, _SIZE, _NUMBER = SecondsType(), SizeType(), click.IntRange(0, 10_000_000)

OPTIONS = (
    LimitOption(
        "head-timeout", "times", "head", _SECONDS, "SECONDS",
        "Time for a complete request head, or a TLS handshake.",
    ),
    LimitOption(
        "idle-timeout", "times", "idle", _SECONDS, "SECONDS", "Time between two requests on a connection.",
    ),
    LimitOption(
        "upload-timeout", "times", "body", _SECONDS, "SECONDS",
        "Time without receiving any of a request body; also the window over which --min-rate is measured.",
    ),
    LimitOption(
        "download-timeout", "times", "write", _SECONDS, "SECONDS",
        "Time without the viewer accepting any of a response; also the window over which --min-rate is measured.",
    ),
    LimitOption(
        "drain-timeout", "times", "drain", _SECONDS, "SECONDS",
        "Time for requests in progress when a worker shuts down.",
    ),
    LimitOption(
        "min-rate", "times", "rate", _NUMBER, "BYTES",
        "Bytes per second at which a viewer must send a body and receive a response; 0 for no minimum.",
    ),
    LimitOption(
        "max-connections", "viewers", "connections", _NUMBER, "NUMBER",
        "Viewer connections per worker, including TLS handshakes; 0 for no limit.",
    ),
    LimitOption(
        "max-connections-per-address", "viewers", "connections_per_address", _NUMBER, "NUMBER",
        "Of these, connections from one IPv4 address or IPv6 /64, unless it is a trusted proxy's.",
    ),
    LimitOption(
        "max-requests", "viewers", "requests", _NUMBER, "NUMBER",
        "Requests in progress per worker, not counting those served from memory; 0 for no limit.",
    ),
    LimitOption(
        "max-requests-per-address", "viewers", "requests_per_address", _NUMBER, "NUMBER",
        "Of these, requests from one viewer address.",
    ),
    LimitOption(
        "upload-buffer", "uploads", "buffer", _SIZE, "SIZE",
        "Request bodies up to this size are read completely before the request goes to the origin.",
    ),
    LimitOption(
        "upload-memory", "uploads", "memory", _SIZE, "SIZE", "Total memory for such bodies per worker.",
    ),
    LimitOption(
        "origin-connections", "origins", "connections", _NUMBER, "NUMBER",
        "Concurrent requests from a worker to one origin; 0 for no limit.",
    ),
    LimitOption(
        "origin-queue", "origins", "queue", _NUMBER, "NUMBER",
        "Requests waiting for a connection to that origin.",
    ),
    LimitOption(
        "origin-queue-timeout", "origins", "queue_timeout", _SECONDS, "SECONDS", "How long they wait.",
    ),
    LimitOption(
        "origin-failures", "origins", "failures", _NUMBER, "NUMBER",
        "Consecutive failed connections after which the worker pauses connections to an origin; 0 to always try.",
    ),
    LimitOption("origin-pause", "origins", "pause", _SECONDS, "SECONDS", "How long it pauses."),
)  # fmt: skip


def _limits(**values: Any) -> EdgeLimits:
    parts = EdgeLimits()
    for name in parts.__struct_fields__:
        members = {option.member: values[option.parameter] for option in OPTIONS if option.part == name}
        part = msgspec.structs.replace(getattr(parts, name), **members)
        parts = msgspec.structs.replace(parts, **{name: part})
    return parts


limit_options = option_group(
    "limits",
    _limits,
    *(
        click.option(
            f"--{option.name}",
            type=option.kind,
            metavar=option.metavar,
            default=option.default,
            show_default=True,
            help=option.help,
        )
        for option in OPTIONS
    ),
    names=[option.parameter for option in OPTIONS],
)
"""Gives a command the options, and their values as the parameter `limits` (`EdgeLimits`)."""
