"""`keyfront agent`: signing for applications that must not hold keys."""

from __future__ import annotations

import asyncio
import grp
import os
import pwd
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from keyfront.cli.logging_options import logging_options
from keyfront.cli.options import FILE, option_group
from keyfront.cli.param_type import ParamType
from keyfront.cli.values import address
from keyfront.errors import KeyfrontError, SettingsError
from keyfront.extras import require_extra
from keyfront.runtime.installation import url_host
from keyfront.runtime.logs import LogSettings, process_logging
from keyfront.runtime.systemd import READY, notify

if TYPE_CHECKING:
    from keyfront.custody.agent.authorization import Rule, Tokens


class _Mode(ParamType[int]):
    """The mode of a file, in octal digits."""

    name = "OCTAL"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            mode = int(str(value), 8)
        except ValueError:
            mode = -1
        if not 0 <= mode <= 0o777:
            self.fail(f"{value!r} is not a file mode, such as 0660", param, ctx)
        return mode


class ListenOptions(msgspec.Struct, frozen=True):
    """Where the agent listens, and how it identifies callers there."""

    path: str | None
    listen: str | None
    socket_mode: int | None
    token_file: Path | None

    def check(self) -> None:
        """:raises SettingsError: if the options contradict each other."""
        if (self.path is None) == (self.listen is None):
            raise SettingsError("give either --socket or --listen")
        if self.listen is not None and self.token_file is None:
            raise SettingsError(
                "--listen requires --tokens, because every user on this machine can reach a port"
            )
        if self.listen is not None and self.socket_mode is not None:
            raise SettingsError("--socket-mode is for --socket")
        if self.path is not None and self.token_file is not None:
            raise SettingsError(_TOKENS_ON_A_SOCKET)


_TOKENS_ON_A_SOCKET = "on a socket, the kernel identifies callers: tokens are for --listen"

_listen_options = option_group(
    "listen",
    ListenOptions,
    click.option(
        "--socket",
        "path",
        metavar="PATH",
        help="Listen on a Unix socket; callers are identified by their uid.",
    ),
    click.option(
        "--listen", metavar="127.0.0.1:PORT", help="Listen for HTTP; callers are identified by their token."
    ),
    click.option(
        "--socket-mode", type=_Mode(), help="Mode of the socket.  [default: 0600, with rules for others 0666]"
    ),
    click.option(
        "--tokens", "token_file", type=FILE, help="File of tokens for --listen: a line NAME TOKEN per caller."
    ),
)


class AccessOptions(msgspec.Struct, frozen=True):
    """The callers that can sign, for which key groups, and with keys of which custodies."""

    allow: tuple[str, ...]
    access_file: Path | None
    records: str | None
    data: Path | None
    places: tuple[str, ...]

    def rules(self) -> list[Rule]:
        """:raises SettingsError: if a rule cannot be read, or names an unknown user or group."""
        from keyfront.custody.agent.authorization import Names, read_rule, read_rules

        names = Names(lambda name: _id(pwd.getpwnam, name), lambda name: _id(grp.getgrnam, name))
        rules = [read_rule(text, names) for text in self.allow]
        if self.access_file is not None:
            rules += read_rules(_text(self.access_file), names)
        return rules


_access_options = option_group(
    "access",
    AccessOptions,
    click.option(
        "--allow",
        multiple=True,
        metavar="user:NAME=GROUP,…",
        help="Who can sign for which key groups (* for all): user:, group: or token:; repeatable.",
    ),
    click.option("--access", "access_file", type=FILE, help="Rules in TOML."),
    click.option(
        "--records",
        metavar="URI",
        help="Custody that holds the key groups' records.  [default: KEYFRONT_RECORDS, or the data folder's]",
    ),
    click.option(
        "--data",
        type=click.Path(path_type=Path),
        help="The data folder of the Keyfront whose records it follows.  [default: KEYFRONT_DATA, or ./state, or the "
        "user's]",
    ),
    click.option(
        "--place",
        "places",
        multiple=True,
        metavar="URI",
        help="Use keys in these custodies only, whatever records name.  [default: $KEYFRONT_PLACES, else all]",
    ),
)


@click.command()
@_listen_options
@_access_options
@click.option(
    "--audit-file", metavar="PATH", help="Where signatures are recorded.  [default: standard error]"
)
@logging_options
def agent(listen: ListenOptions, access: AccessOptions, audit_file: str | None, logs: LogSettings) -> None:
    """Sign for applications on this machine that must not hold keys.

    Without rules, a Unix socket serves the agent's own user, and --listen serves everyone who has a token; both for all
    key groups.

    \b
        keyfront agent --socket /run/keyfront/agent.sock --allow user:www-data=films,photos
    """
    require_extra("server")
    with process_logging(logs, "agent", (KeyfrontError, OSError)):
        _serve(listen, access, audit_file)


def _serve(listen: ListenOptions, access: AccessOptions, audit_file: str | None) -> None:
    from keyfront.control.wire.head_timeout import HeadTimeoutH11Protocol
    from keyfront.custody.agent import http_app, server, signing
    from keyfront.custody.agent.audit import Audit
    from keyfront.custody.agent.authorization import Rules
    from keyfront.custody.schemes import open_records
    from keyfront.custody.signers.key_group_signer import (
        KeyGroupSigner,
        KeySource,
        opens_in,
        places_of,
        records_of,
    )

    listen.check()
    rules = access.rules()
    tokens = None
    if listen.token_file is not None:
        tokens, rules = _token_rules(listen.token_file, rules)
    elif any(rule.token for rule in rules):
        raise SettingsError(_TOKENS_ON_A_SOCKET)
    rules = rules or [_own_user()]
    place = records_of(access.records, access.data)
    open_records(place)  # fails here rather than at the first request
    opens = opens_in(places_of(access.places or None))

    def follow(group: str) -> KeyGroupSigner:
        return KeyGroupSigner(group, KeySource(lambda: open_records(place), opens, place))

    if listen.path is not None:
        where = f"unix:{os.path.abspath(listen.path)}"
        others = any(rule.uid != os.getuid() for rule in rules)
        mode = listen.socket_mode if listen.socket_mode is not None else 0o666 if others else 0o600
        sock = server.bind_unix(listen.path, mode)
        own = os.stat(listen.path)
    else:
        sock = server.bind_loopback(*address(listen.listen or ""))
        host, port = sock.getsockname()[:2]
        where = f"http://{url_host(host)}:{port}"
        own = None
    agent = signing.Agent(
        Rules(tuple(rules)), follow, Audit(os.path.abspath(audit_file) if audit_file else "")
    )
    app = http_app.build_app(agent, http_app.by_peer if tokens is None else http_app.by_token(tokens))

    def on_ready() -> None:
        print(f"keyfront agent ready {where}", flush=True)
        notify(READY)

    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await server.serve(app, sock, HeadTimeoutH11Protocol, on_ready, stop.wait)

    try:
        asyncio.run(run())
    finally:
        agent.close()
        if listen.path is not None and own is not None:
            _remove(listen.path, own)


def _own_user() -> Rule:
    from keyfront.custody.agent.authorization import Rule

    return Rule(uid=os.getuid())


def _token_rules(file: Path, rules: list[Rule]) -> tuple[Tokens, list[Rule]]:
    """The tokens, and the rules for them; without rules, one for each token.

    :raises SettingsError: if a rule is for a token that the file does not contain, or for a user or group.
    """
    from keyfront.custody.agent.authorization import Rule, Rules, Tokens

    tokens = Tokens(_private_text(file))
    rules = rules or [Rule(token=name) for name in tokens.names]
    for name in Rules(tuple(rules)).tokens - tokens.names:
        raise SettingsError(f"a rule is for the token {name!r}, which {file} does not contain")
    if any(not rule.token for rule in rules):
        raise SettingsError(
            "with --listen, callers are identified by token: rules for users and groups require --socket"
        )
    return tokens, rules


def _id(find: Callable[[str], pwd.struct_passwd | grp.struct_group], name: str) -> int | None:
    try:
        found = find(name)
    except KeyError:
        return None
    return found.pw_uid if isinstance(found, pwd.struct_passwd) else found.gr_gid


def _private_text(path: Path) -> str:
    """:raises SettingsError: if others may read it."""
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise SettingsError(f"{path} contains tokens, and others can read it; run: chmod 600 {path}")
    return _text(path)


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is not text in UTF-8") from error


def _remove(path: str, own: os.stat_result) -> None:
    """Remove the agent's own socket, but not one that another process has put in its place."""
    try:
        there = os.stat(path)
    except OSError:
        return
    if (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino):
        os.unlink(path)
