"""`keyfront edge`: edges on other machines, which follow their control plane over HTTPS or NATS.

`join` runs on the edge's machine. The other commands operate on the control plane's store, whether or not it is
running; a running one applies changes within a second.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from keyfront.cli.durations import DurationType, duration_text
from keyfront.cli.installation import InstallationOptions, installation_options
from keyfront.cli.nats_options import NatsOptions, nats_join_options
from keyfront.cli.options import data_option, json_option, login
from keyfront.cli.output import iso_text, minute_text, print_columns, print_json, print_note
from keyfront.errors import SettingsError
from keyfront.runtime.settings import ACCOUNT

if TYPE_CHECKING:
    from keyfront.control.edges.registry import EdgeRegistry, EdgeState


@click.group()
def edge() -> None:
    """Edges on other machines: enroll, list, and revoke them."""


@contextmanager
def _registry(installation: InstallationOptions) -> Iterator[EdgeRegistry]:
    from keyfront.control.edges.registry import EdgeRegistry
    from keyfront.control.identity.sealing import sealer

    with installation.opened() as store:
        yield EdgeRegistry(
            store,
            ACCOUNT,
            lambda: sealer(installation.data, os.environ, make=not store.shared),
            by=f"keyfront edge, {login()}",
        )


@edge.command("enroll-token")
@installation_options
@click.option("--region", default="", metavar="NAME", help="The region of the edge.  [default: none]")
@click.option("--name", default="", help="The name of the edge.  [default: the one that it chooses]")
@click.option("--expires", type=DurationType(), default="1h", show_default=True, help="How long it is valid.")
def enroll_token(installation: InstallationOptions, region: str, name: str, expires: float) -> None:
    """Print a token with which one machine can enroll as an edge, once.

    \b
        keyfront edge enroll-token --region eu
    """
    if not 0 < expires <= 30 * 86_400:
        raise SettingsError("--expires must be between 1s and 30d")
    with _registry(installation) as registry:
        token = registry.create_token(time.time(), expires, name=name, region=region)
    click.echo(str(token))
    print_note(
        f"it enrolls one edge in {f'region {region}' if region else 'no region'} within {duration_text(expires)}; "
        "on the edge's machine: keyfront edge join --control https://HOST:PORT --token TOKEN"
    )


@edge.command("list")
@installation_options
@click.option("--all", "every", is_flag=True, help="Also list revoked edges.")
@json_option
def list_edges(installation: InstallationOptions, every: bool, as_json: bool) -> None:
    """List the enrolled edges."""
    now = time.time()
    with _registry(installation) as registry:
        found = [one for one in registry.edges() if every or one.revoked is None]
    if as_json:
        print_json([_edge_json(one, now) for one in found])
        return
    print_columns(
        ("edge", "region", "status", "snapshot", "address", "enrolled", "certificate until"),
        [
            (
                one.name,
                one.region or "(none)",
                _status(one, now),
                str(one.number or "-"),
                one.address or "-",
                minute_text(one.enrolled, "-"),
                minute_text(one.expires, "-"),
            )
            for one in found
        ],
    )


def _status(one: EdgeState, now: float) -> str:
    if one.revoked is not None:
        return "revoked"
    if one.seen is None:
        return "never connected"
    if one.is_connected(now):
        return "connected"
    expired = ", certificate expired" if one.expires < now else ""
    return f"last seen {minute_text(one.seen, '-')}{expired}"


def _edge_json(one: EdgeState, now: float) -> dict[str, object]:
    times = ("enrolled", "expires", "revoked", "seen")
    return {
        name: iso_text(value) if name in times else value
        for name, value in msgspec.structs.asdict(one).items()
    } | {"connected": one.is_connected(now)}


@edge.command()
@installation_options
@click.argument("name")
def revoke(installation: InstallationOptions, name: str) -> None:
    """Revoke an edge: within a second, its connection is cut, and it is not accepted again.

    It keeps what it has, and can serve it: stop it as well, or, if you cannot, replace the keys that it knows.
    """
    with _registry(installation) as registry:
        found = registry.revoke(name, time.time())
    print_note(f"edge {found.name} is revoked")


@edge.command("rotate-key")
@installation_options
def rotate_key(installation: InstallationOptions) -> None:
    """Replace the key that signs snapshots. Edges accept the new one because the old one endorses it."""
    with _registry(installation) as registry:
        made = registry.rotate_snapshot_key(time.time())
    print_note(f"snapshots are signed with the key {made} now")


@edge.command()
@data_option
@click.option(
    "--control",
    "controls",
    multiple=True,
    metavar="URL",
    help="A control plane, https://HOST:PORT; repeatable, in order of preference.",
)
@click.option(
    "--token", default="", help="From `keyfront edge enroll-token`; `-` reads it from standard input."
)
@click.option("--name", default="", help="The name of this edge.  [default: the machine's]")
@click.option(
    "--proxy",
    default="",
    metavar="URL",
    help="The HTTP proxy to use.  [default: the environment's HTTPS_PROXY]",
)
@click.option(
    "--ca",
    default="",
    metavar="FILE|system",
    help="The authority (PEM) of a control plane that runs with --edges-tls-cert, or `system` for those that this "
    "machine trusts.  [default: Keyfront's own]",
)
@nats_join_options
def join(
    data: Path, controls: tuple[str, ...], token: str, name: str, proxy: str, ca: str, nats: NatsOptions
) -> None:
    """Enroll this machine as an edge. Then start it with `keyfront up --data DIR`.

    It follows the control planes that --control names, over HTTPS, or what they publish in NATS, with --nats. Without
    --token, an enrolled machine gets the given control planes or NATS servers, with their options, instead of those
    that it had.

    \b
        keyfront edge join --data /var/lib/keyfront --control https://control.example.com:9443 --token TOKEN
        keyfront edge join --data /var/lib/keyfront --nats nats://nats.example.com --token TOKEN
    """
    from keyfront.fleet.remote import is_enrolled
    from keyfront.fleet.remote.authority import token_of
    from keyfront.fleet.remote.connect import control_url
    from keyfront.fleet.remote.connect import join as enroll
    from keyfront.fleet.remote.enrollment import EdgeFiles

    urls = tuple(dict.fromkeys(map(control_url, controls)))
    access = nats.access()
    if bool(urls) == (access is not None):
        raise SettingsError("give either --control, to follow over HTTPS, or --nats")
    if access is not None and (proxy or ca):
        raise SettingsError("--proxy and --ca are for --control; NATS has --nats-ca")
    if (data / "keyfront.db").exists():
        raise SettingsError(
            f"{data} is the data folder of a control plane; give the edge a folder of its own"
        )
    files = EdgeFiles(data)
    ca = _authorities(ca)
    if not token:
        if not is_enrolled(data):
            raise SettingsError(
                "this machine is not enrolled: give --token with what `keyfront edge enroll-token` prints"
            )
        changed = msgspec.structs.replace(files.edge(), controls=urls, proxy=proxy, ca=ca, nats=access)
        files.save(changed)
        follows = ", ".join(urls) if access is None else access.text
        print_note(f"this edge follows {follows} when it starts again")
        return
    if token == "-":  # noqa: S105 - not a secret
        token = sys.stdin.readline()
    given = token_of(token)
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        if access is None:
            found = asyncio.run(enroll(files, urls, given, name or _machine(), proxy, ca))
        else:
            from keyfront.fleet.jetstream.join import join as enroll_over_nats  # a part of an extra

            found = asyncio.run(enroll_over_nats(files, access, given, name or _machine()))
    except OSError as error:
        raise SettingsError(f"the enrollment cannot be stored in {data}: {error}") from error
    start = f"keyfront up --data {shlex.quote(str(data))}"
    where = f"in region {found.region}" if found.region else "in no region"
    print_note(f"this machine is enrolled as edge {found.name} {where}; start it with `{start}`")


def _authorities(ca: str) -> str:
    """The value of --ca as it is stored: the content of the file.

    :raises SettingsError: if it cannot be used.
    """
    from keyfront.fleet.remote.connect import SYSTEM, pinned

    if ca in ("", SYSTEM):
        return ca
    try:
        pem = Path(ca).read_text("ascii")
    except (OSError, ValueError) as error:
        raise SettingsError(f"--ca: {ca} cannot be read: {error}") from error
    try:
        pinned("", ca=pem or "\n")
    except SettingsError as error:
        raise SettingsError(f"--ca: {ca}: {error}") from error
    return pem


def _machine() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname().partition(".")[0])[:63].strip("-")
