"""Values of options that click has no type for: text in, value out."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import click
import msgspec

from keyfront.errors import SettingsError
from keyfront.model.kinds import Quotas

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def checked(check: Callable[[Any], object]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """The callback of an option whose value `check` accepts or refuses with a SettingsError; the value stays as it is.
    An error then names the option, or its line in a configuration file."""

    def callback(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
        try:
            if value:
                check(value)
        except SettingsError as error:
            raise click.BadParameter(str(error), ctx, param) from None
        return value

    return callback


def each(check: Callable[[str], object]) -> Callable[[Iterable[str]], None]:
    """A check of each of an option's values."""

    def check_all(values: Iterable[str]) -> None:
        for value in values:
            check(value)

    return check_all


def address(text: str) -> tuple[str, int]:
    """`HOST:PORT`, or `[HOST]:PORT` for IPv6.

    :raises SettingsError: if it is neither.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise SettingsError(f"{text!r} is not an address of the form HOST:PORT")
    try:
        socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise SettingsError(f"the host in {text!r} cannot be resolved: {error}") from error
    return host, int(port)


def networks(text: str) -> tuple[str, ...]:
    """A comma-separated list of networks in CIDR form (a bare address is a network of one).

    :raises SettingsError: if one of them is not a network.
    """
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    for part in found:
        try:
            ipaddress.ip_network(part, strict=False)
        except ValueError as error:
            raise SettingsError(f"{part!r} is not a network in CIDR form: {error}") from error
    return found


def audience(text: str) -> tuple[str, ...]:
    """Who can read the metrics: `local`, `all`, `off`, or a comma-separated list of networks and `local`.

    :raises SettingsError: if it is none of these.
    """
    parts = tuple(part.strip() for part in text.split(",") if part.strip())
    if not parts or (len(parts) > 1 and {"all", "off"} & set(parts)):
        raise SettingsError(
            f"--metrics {text!r} is none of: local, all, off, or a list such as local,10.0.0.0/8"
        )
    networks(",".join(part for part in parts if part not in ("local", "all", "off")))
    return parts


def suffix(text: str) -> str:
    """The suffix of distributions' domain names, lower-case, without a dot at either end.

    :raises SettingsError: if it is not a host name.
    """
    name = text.strip(".").lower()
    if len(name) > 200 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise SettingsError(f"{text!r} is not a domain")
    return name


def health_target(text: str) -> tuple[str, str]:
    """`HOST/PATH`: a host name or an address, without a port, and a path without a query.

    :raises SettingsError: if it is neither.
    """
    host, slash, path = text.lower().partition("/")[0], "/", text.partition("/")[2]
    name = host.removeprefix("[").removesuffix("]")
    with contextlib.suppress(ValueError):
        found = ipaddress.ip_address(name)
        name = "address"
        host = f"[{found}]" if found.version == 6 else str(found)
    if (
        "/" not in text
        or not re.fullmatch(r"[A-Za-z0-9._~!$&'()*+,;=:@%/-]*", path)
        or not all(_LABEL.fullmatch(label) for label in name.split("."))
    ):
        raise SettingsError(
            f"{text!r} is not of the form HOST/PATH, such as 10.0.0.5/healthz: no port, wildcard, or query"
        )
    return host, slash + path


def location(text: str) -> str:
    """The name of an edge location, for X-Amz-Cf-Pop and the access records.

    :raises SettingsError: if it contains anything but letters, digits and hyphens.
    """
    if not re.fullmatch(r"[A-Za-z0-9-]{1,32}", text):
        raise SettingsError(f"{text!r} is not the name of an edge location: letters, digits and hyphens")
    return text


def _quota_names() -> Iterator[tuple[str, tuple[str, str]]]:
    """Each quota's name on the command line, with the member of `Quotas` that holds it, if one does, and its own."""
    for prefix, member in (("", ""), ("distribution.", "limits"), ("policy.", "policy_limits")):
        held = getattr(Quotas(), member) if member else Quotas()
        for name in held.__struct_fields__:
            if isinstance(getattr(held, name), int):
                yield prefix + name.replace("_", "-"), (member, name)


def quotas(texts: Iterable[str]) -> Quotas:
    """CloudFront's default quotas, except for those that the texts set: `public-keys=100`, `distribution.aliases=200`,
    `policy.names=20`. The last value for a name applies.

    :raises SettingsError: if a text does not have that form, or names no quota.
    """
    names = dict(_quota_names())
    parts: dict[str, dict[str, int]] = {member: {} for member, _ in names.values()}
    for text in texts:
        named, _, number = text.partition("=")
        if named not in names:
            raise SettingsError(f"{named!r} is not a quota; the quotas are {', '.join(names)}")
        if not re.fullmatch("[0-9]{1,9}", number):
            raise SettingsError(f"{text!r} is not of the form {named}=NUMBER")
        member, name = names[named]
        parts[member][name] = int(number)
    top = parts.pop("")
    return msgspec.structs.replace(
        Quotas(),
        **top,
        **{
            part: msgspec.structs.replace(getattr(Quotas(), part), **changes)
            for part, changes in parts.items()
        },
    )
