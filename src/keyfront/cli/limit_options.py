"""The options of `keyfront up` that say how much viewers and origins may ask of a worker, and for how long."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import click
import msgspec

from keyfront.edge.limits.origins import OriginLimits
from keyfront.edge.limits.uploads import UploadLimits
from keyfront.edge.limits.viewers import ViewerLimits


class Seconds(click.ParamType[float]):
    """A time in seconds, more than none."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,3})?", str(value)) or not float(value):
            self.fail(f"{value!r} is not a number of seconds greater than 0", param, ctx)
        return float(value)


class Size(click.ParamType[int]):
    """A number of bytes, with K, M or G after it if it counts multiples of 1024."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(r"([0-9]{1,12})([KMG]?)", str(value).upper())
        if found is None:
            self.fail(f"{value!r} is not a size, such as 64K, 32M or 0", param, ctx)
        return int(found[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[found[2]]


class Option(NamedTuple):
    """An option, and the member of which part of `EdgeLimits` it sets. `default` is what the help says of it."""

    name: str
    part: str
    member: str
    kind: click.ParamType[Any]
    metavar: str
    default: str
    help: str


_SECONDS, _SIZE, _NUMBER = Seconds(), Size(), click.IntRange(0, 10_000_000)

OPTIONS = (
    Option("head-timeout", "times", "head", _SECONDS, "SECONDS", "30", "For a whole request head, or a TLS handshake."),
    Option("idle-timeout", "times", "idle", _SECONDS, "SECONDS", "60", "Between two requests of a connection."),
    Option(
        "upload-timeout", "times", "body", _SECONDS, "SECONDS", "30",
        "Without anything of a request's body; --min-rate is counted over as many.",
    ),
    Option(
        "download-timeout", "times", "write", _SECONDS, "SECONDS", "60",
        "Without anything of an answer being taken; --min-rate is counted over as many.",
    ),
    Option("drain-timeout", "times", "drain", _SECONDS, "SECONDS", "30", "For requests under way when a worker ends."),
    Option(
        "min-rate", "times", "rate", _NUMBER, "BYTES", "256",
        "Bytes a second that a viewer must send of a body, and take of an answer; 0 for no minimum.",
    ),
    Option(
        "max-connections", "viewers", "connections", _NUMBER, "NUMBER", "10000",
        "Viewers' connections of each worker, TLS handshakes included; 0 for no limit.",
    ),
    Option(
        "max-connections-per-address", "viewers", "connections_per_address", _NUMBER, "NUMBER", "1000",
        "Of them, those of one IPv4 address or IPv6 /64, unless it is a trusted proxy's.",
    ),
    Option(
        "max-requests", "viewers", "requests", _NUMBER, "NUMBER", "5000",
        "Requests under way in each worker, not counting what is answered from memory; 0 for no limit.",
    ),
    Option(
        "max-requests-per-address", "viewers", "requests_per_address", _NUMBER, "NUMBER", "500",
        "Of them, those of one viewer's address.",
    ),
    Option(
        "upload-buffer", "uploads", "buffer", _SIZE, "SIZE", "64K",
        "Request bodies up to this size are read whole before the origin is asked.",
    ),
    Option(
        "upload-memory", "uploads", "memory", _SIZE, "SIZE", "32M",
        "Memory that they may take together in each worker.",
    ),
    Option(
        "origin-connections", "origins", "connections", _NUMBER, "NUMBER", "512",
        "Requests that a worker has with one origin at a time; 0 for no limit.",
    ),
    Option(
        "origin-queue", "origins", "queue", _NUMBER, "NUMBER", "1024", "Requests that wait for their turn with it.",
    ),
    Option("origin-queue-timeout", "origins", "queue_timeout", _SECONDS, "SECONDS", "10", "How long they wait."),
    Option(
        "origin-failures", "origins", "failures", _NUMBER, "NUMBER", "5",
        "Failed connections in a row after which an origin is left alone; 0 to try always.",
    ),
    Option("origin-pause", "origins", "pause", _SECONDS, "SECONDS", "2", "How long it is left alone."),
)  # fmt: skip


class EdgeLimits(msgspec.Struct, frozen=True):
    """What the options say. `times` are the members of `edge.http1.Limits` that are not the default: that module takes
    time to load."""

    times: dict[str, float]
    viewers: ViewerLimits = ViewerLimits()
    uploads: UploadLimits = UploadLimits()
    origins: OriginLimits = OriginLimits()


def limits_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options, and their meaning as the parameter `edge_limits`."""

    @functools.wraps(command)
    def with_limits(*args: Any, **given: Any) -> Any:
        said: dict[str, dict[str, Any]] = {"times": {}, "viewers": {}, "uploads": {}, "origins": {}}
        for option in OPTIONS:
            value = given.pop(option.name.replace("-", "_"))
            if value is not None:
                said[option.part][option.member] = value
        limits = EdgeLimits(
            said["times"],
            ViewerLimits(**said["viewers"]),
            UploadLimits(**said["uploads"]),
            OriginLimits(**said["origins"]),
        )
        return command(*args, edge_limits=limits, **given)

    decorated: Callable[..., Any] = with_limits
    for option in reversed(OPTIONS):
        decorated = click.option(
            f"--{option.name}",
            type=option.kind,
            metavar=option.metavar,
            help=f"{option.help}  [default: {option.default}]",
        )(decorated)
    return decorated
