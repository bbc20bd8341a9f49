"""`keyfront agent`: signing for applications that must not hold keys."""

from __future__ import annotations

import asyncio
import grp
import logging
import os
import pwd
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import click

from keyfront.cli.settings import address
from keyfront.errors import SettingsError


class _Mode(click.ParamType[int]):
    """The mode of a file, in octal digits."""

    name = "OCTAL"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            mode = int(str(value), 8)
        except ValueError:
            mode = -1
        if not 0 <= mode <= 0o777:
            self.fail(f"{value!r} is no file mode, such as 0660", param, ctx)
        return mode


@click.command()
@click.option(
    "--socket", "path", metavar="PATH", help="Listen on a Unix socket; callers are told by their uid."
)
@click.option("--listen", metavar="127.0.0.1:PORT", help="Listen for HTTP; callers are told by their token.")
@click.option(
    "--records", metavar="URI", help="Custody with the key groups' records.  [default: $KEYFRONT_RECORDS]"
)
@click.option(
    "--place",
    "places",
    multiple=True,
    metavar="URI",
    help="Open keys in these custodies only, whatever records say.  [default: $KEYFRONT_PLACES, else all]",
)
@click.option(
    "--allow",
    multiple=True,
    metavar="user:NAME=GROUP,…",
    help="Who may sign for which key groups (* for all): user:, group: or token:.",
)
@click.option(
    "--access",
    "access_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Rules in TOML.",
)
@click.option(
    "--tokens",
    "token_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File of tokens for --listen: a line NAME TOKEN for each caller.",
)
@click.option(
    "--socket-mode", type=_Mode(), help="Mode of the socket.  [default: 0600, with rules for others 0666]"
)
@click.option(
    "--audit-file", metavar="PATH", help="Where signatures are recorded.  [default: standard error]"
)
def agent(
    path: str | None,
    listen: str | None,
    records: str | None,
    places: tuple[str, ...],
    allow: tuple[str, ...],
    access_file: Path | None,
    token_file: Path | None,
    socket_mode: int | None,
    audit_file: str | None,
) -> None:
    """Sign for applications on this machine that must not hold keys.

    Without rules, a Unix socket serves the agent's own user, and --listen whoever has a token; both for every key
    group.

    \b
        keyfront agent --socket /run/keyfront/agent.sock --allow user:www-data=films,photos
    """
    from keyfront.control.wire.head_timeout import HeadTimeoutH11Protocol
    from keyfront.custody.agent import server as serving
    from keyfront.custody.agent.authorization import Names, Rule, Rules, Tokens, read_rule, read_rules
    from keyfront.custody.schemes import open_records
    from keyfront.custody.signers.key_group_signer import (
        KeyGroupSigner,
        KeySource,
        opens_in,
        places_of,
        records_of,
    )

    if (path is None) == (listen is None):
        raise SettingsError("give either --socket or --listen")
    names = Names(lambda name: _id(pwd.getpwnam, name), lambda name: _id(grp.getgrnam, name))
    given = [read_rule(text, names) for text in allow]
    if access_file is not None:
        given += read_rules(access_file.read_text("utf-8"), names)
    tokens = None
    if listen is not None:
        if token_file is None:
            raise SettingsError("--listen needs --tokens: every user of this machine can reach a port")
        tokens = Tokens(_private_text(token_file))
        given = given or [Rule(token=name) for name in tokens.names]
        for name in Rules(tuple(given)).tokens - tokens.names:
            raise SettingsError(f"a rule is for the token {name!r}, which {token_file} does not hold")
        if any(not rule.token for rule in given):
            raise SettingsError(
                "with --listen callers are told by token: rules for users and groups need --socket"
            )
        if socket_mode is not None:
            raise SettingsError("--socket-mode is for --socket")
    else:
        if token_file is not None or any(rule.token for rule in given):
            raise SettingsError("on a socket callers are told by the kernel: tokens are for --listen")
        given = given or [Rule(uid=os.getuid())]
    rules = Rules(tuple(given))
    place = records_of(records)
    open_records(place)  # what is wrong with the place shows now

    opens = opens_in(places_of(places or None))

    def follow(group: str) -> KeyGroupSigner:
        return KeyGroupSigner(group, KeySource(lambda: open_records(place), opens, place))

    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    if path is not None:
        where = f"unix:{os.path.abspath(path)}"
        others = any(rule.uid != os.getuid() for rule in given)
        mode = socket_mode if socket_mode is not None else 0o666 if others else 0o600
        sock = serving.bind_unix(path, mode)
        own = os.stat(path)
    else:
        sock = serving.bind_loopback(*address(listen or ""))
        host, port = sock.getsockname()[:2]
        where = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        own = None
    signing = serving.Agent(rules, follow, serving.Audit(os.path.abspath(audit_file) if audit_file else ""))
    app = serving.build_app(signing, serving.by_peer if tokens is None else serving.by_token(tokens))

    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        ready = f"keyfront agent ready {where}"
        await serving.serve(app, sock, HeadTimeoutH11Protocol, lambda: print(ready, flush=True), stop.wait)

    try:
        asyncio.run(run())
    finally:
        signing.close()
        if path is not None and own is not None:
            _remove(path, own)


def _id(find: Callable[[str], pwd.struct_passwd | grp.struct_group], name: str) -> int | None:
    try:
        found = find(name)
    except KeyError:
        return None
    return found.pw_uid if isinstance(found, pwd.struct_passwd) else found.gr_gid


def _private_text(path: Path) -> str:
    """:raises SettingsError: if others may read it."""
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise SettingsError(f"{path} holds tokens and others may read it: chmod 600 {path}")
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is no text") from error


def _remove(path: str, own: os.stat_result) -> None:
    """Take our socket away, and no one else's."""
    try:
        there = os.stat(path)
    except OSError:
        return
    if (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino):
        os.unlink(path)
