"""`keyfront rotation`: the keys of a key group replaced on time, on Keyfront or on Amazon CloudFront
(docs/guide/rotation.md).

A command that changes something writes the record and goes; the steps are taken by `keyfront rotation run`, from cron
or by hand, or by `keyfront up`.
"""

from __future__ import annotations

import functools
import getpass
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from keyfront.cli.account import Account, account_options, choose, unwatched
from keyfront.cli.durations import SpanType
from keyfront.cli.output import print_json
from keyfront.cli.rotation_output import (
    WORK,
    complain,
    inspected,
    policy_json,
    reported,
    say,
    show_plan,
    show_status,
    wait_texts,
)
from keyfront.errors import KeyfrontError, RotationError, SettingsError

if TYPE_CHECKING:
    from keyfront.custody.key_record import RotationPolicy
    from keyfront.lifecycle.executor import Conductor
    from keyfront.signing.keys import Algorithm

_ALGORITHMS = {"ecdsa-p256": "ECDSA-P256", "rsa-2048": "RSA-2048"}
_JSON = click.option("--json", "as_json", is_flag=True, help="For programs.")
_LENGTH = SpanType()


@click.group()
def rotation() -> None:
    """The keys of a key group: replaced on time, with overlap, on Keyfront and on AWS alike."""


# ------------------------------------------------------------------------------------------------------------
# What all commands share


def _command(
    name: str, *, group: bool = True, accounted: bool = False
) -> Callable[[Callable[..., int | None]], click.Command]:
    """A command with the options that say which CloudFront, and where the records are. It gets a conductor first, and
    what it returns is the exit status.

    :param accounted: whether it gets the chosen `account` as well.
    """

    def decorate(function: Callable[..., int | None]) -> click.Command:
        @functools.wraps(function)
        def command(
            endpoint_url: str,
            profile: str,
            aws: bool,
            records: str,
            data: Path | None,
            journal: Path | None,
            hooks: Path | None,
            **said: Any,
        ) -> None:
            account = choose(endpoint_url, profile, aws, records, data)
            if accounted:
                said["account"] = account
            sys.exit(function(_conductor(account, journal, hooks), **said) or 0)

        wrapped: Callable[..., Any] = command
        for option in (
            click.option(
                "--hooks",
                type=click.Path(dir_okay=False, path_type=Path),
                help="Who is told before and after each step (docs/reference/hooks.md).",
            ),
            click.option(
                "--journal",
                type=click.Path(dir_okay=False, path_type=Path),
                help="A file that gets a line for each step taken or failed.",
            ),
            account_options,
        ):
            wrapped = option(wrapped)
        if group:
            wrapped = click.argument("group")(wrapped)
        return rotation.command(name)(wrapped)

    return decorate


def _conductor(account: Account, journal: Path | None, hooks: Path | None) -> Conductor:
    from keyfront.custody.schemes import open_records
    from keyfront.lifecycle.cloudfront import CloudFront  # botocore's client, which few commands need
    from keyfront.lifecycle.events import Journal, Listener
    from keyfront.lifecycle.executor import Conductor
    from keyfront.lifecycle.hooks import Hooks, read_hooks

    place = open_records(account.records)
    listeners: list[Listener] = []
    if hooks:
        listeners.append(Hooks(read_hooks(hooks), os.environ))
    if journal:
        listeners.append(Journal(journal))
    api = CloudFront(account.endpoint_url, account.profile, credentials=account.credentials)
    return Conductor(api, place, os.environ, listeners)


def _by() -> str:
    try:
        return f"keyfront rotation, {getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):
        return f"keyfront rotation, uid {os.getuid()}@{socket.gethostname()}"


_TERMS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--every",
        metavar="90d|'CRON'|never",
        help="How long a key signs, or when the next one comes (cron, UTC).",
    ),
    click.option("--overlap", type=_LENGTH, help="How long a key that signs no more is trusted at least."),
    click.option("--max-lifetime", type=_LENGTH, help="How far ahead a signature may end."),
    click.option(
        "--max-staleness", type=_LENGTH, help="How long signers go on without having seen the record."
    ),
    click.option(
        "--settle", type=_LENGTH, help="How long an edge may not know of a group although it is Deployed."
    ),
    click.option("--grace", type=_LENGTH, help="How long the private half of a RETIRED key can be had back."),
    click.option(
        "--algorithm",
        type=click.Choice(list(_ALGORITHMS), case_sensitive=False),
        help="The kind of new keys.",
    ),
    click.option("--hash", "hash_name", type=click.Choice(["SHA1", "SHA256"]), help="What signers use."),
    click.option("--application", help="Whose keys these are; a label of each."),
)


def _terms_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in _TERMS:
        command = option(command)
    return command


def _changed(terms: RotationPolicy, said: dict[str, Any]) -> RotationPolicy:
    import msgspec

    changes = {name: value for name, value in said.items() if value is not None}
    if "every" in changes:
        changes["every"] = _every(changes["every"])
    if "algorithm" in changes:
        changes["algorithm"] = cast("Algorithm", _ALGORITHMS[changes["algorithm"].lower()])
    return msgspec.structs.replace(terms, **changes)


def _every(text: str) -> float | str:
    if text == "never":
        return ""
    try:
        return _LENGTH.convert(text, None, None)
    except click.BadParameter:
        if len(text.split()) not in (5, 6):
            raise SettingsError(
                f"--every {text!r}: give a length of time (90d), a cron expression of five fields, or never"
            ) from None
        return text


# ------------------------------------------------------------------------------------------------------------
# Commands


@_command("start", accounted=True)
@click.option(
    "--custody",
    "place",
    default="",
    metavar="URI",
    help="The place where keys are made; ends with /.  [default: the custody in the data folder]",
)
@click.option(
    "--adopt",
    multiple=True,
    metavar="KEY_ID=URI",
    help="A key of the group whose private half custody has: it signs from now on. Repeatable: the last one signs, "
    "the others drain.",
)
@_terms_options
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@_JSON
def start(
    conductor: Conductor,
    group: str,
    account: Account,
    place: str,
    adopt: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
    **said: Any,
) -> int:
    """Begin to rotate the keys of the key group GROUP (its name or id).

    Keys that are in it and are not adopted are left alone, for ever. Without --adopt the first key is made new.

    \b
        keyfront rotation start photos --every 90d
        keyfront rotation start photos --custody awskms:keyfront/ --every 90d
        keyfront rotation start photos --custody file:/srv/keys/ --adopt K2JCJMDEHXQW5F=file:/srv/keys/photos
    """
    from keyfront.custody.key_record import RotationPolicy
    from keyfront.lifecycle import commands

    own = f"file:{account.data}/custody/"
    if not place and account.records != own:
        raise SettingsError(
            f"--custody: say where keys are made, since the records are in {account.records}; a place ends with a slash"
        )
    place = place or own
    found = conductor.api.find_key_group(group) or conductor.api.key_group(group)
    if found is None:
        raise RotationError(f"{conductor.api.endpoint} has no key group {group}")
    if not place.partition("?")[0].endswith("/"):
        raise SettingsError(f"--custody {place}: a place without a key's name ends with a slash")
    if said.get("settle") is None and account.watched is not None:
        said["settle"] = 0.0  # here Deployed says that every edge obeys
    terms = _changed(RotationPolicy(place), said)
    pairs = dict(_pair(text) for text in adopt)
    for doubt in commands.warnings(commands.validated(terms, time.time()), time.time()):
        complain(doubt)
    record = conductor.start(found, terms, pairs, _by(), dry_run=dry_run)
    if dry_run:
        return show_plan(conductor, *conductor.plan_of(record), as_json=as_json)
    if warning := unwatched(account):
        complain(warning)
    carried_out = account.running and not warning
    following = "keyfront up carries it out" if carried_out else "Next: keyfront rotation run"
    say(f"{record.group} at {conductor.api.endpoint} is rotated from now on. {following}", as_json)
    show_status(conductor, [record.group], as_json)
    return 0


@_command("status", group=False)
@click.argument("group", required=False)
@_JSON
def status(conductor: Conductor, group: str | None, as_json: bool) -> int:
    """Show keys and their stages, and what comes next; of GROUP, or of all groups.

    Exits with 3 if somebody has to do something.
    """
    return show_status(conductor, [group] if group else conductor.groups(), as_json)


@_command("plan")
@_JSON
def plan_(conductor: Conductor, group: str, as_json: bool) -> int:
    """Show all steps to come, each with its earliest time. Changes nothing."""
    return show_plan(conductor, *conductor.plan(group), as_json=as_json)


@_command("run", group=False)
@click.argument("groups", nargs=-1, metavar="[GROUP]…")
@click.option(
    "--until-idle", is_flag=True, help="Wait for edges, until there is nothing to do but wait for a date."
)
@click.option("--timeout", type=_LENGTH, default="30m", show_default=True, help="Of --until-idle.")
@click.option("--dry-run", is_flag=True, help="Say what the next step would be, and do nothing.")
@_JSON
def run(
    conductor: Conductor,
    groups: tuple[str, ...],
    until_idle: bool,
    timeout: float,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Take the steps that can be taken now, of all groups or of those given. For cron: run it as often as you like.

    Exits with 1 if a step failed, and with 3 if somebody has to do something.
    """
    names = list(groups) or conductor.groups()
    if dry_run:
        return show_status(conductor, names, as_json)
    ends = time.monotonic() + timeout if until_idle else 0.0
    statuses = {0}
    for name in names:
        try:
            statuses.add(_run(conductor, name, ends, as_json))
        except KeyfrontError as error:  # the other groups' keys shall not wait for this one's
            complain(f"{name}: {error}")
            statuses.add(1)
    return 1 if 1 in statuses else max(statuses)


@_command("rotate")
@_JSON
def rotate(conductor: Conductor, group: str, as_json: bool) -> int:
    """Rotate now, whatever the schedule says; the key that signs drains as ever."""
    conductor.rotate(group, _by())
    show_status(conductor, [group], as_json)
    return 0


@_command("pause")
@_JSON
def pause(conductor: Conductor, group: str, as_json: bool) -> int:
    """Take no further step until `resume`. Signers sign on, and edges trust what they trust."""
    conductor.pause(group, _by())
    show_status(conductor, [group], as_json)
    return 0


@_command("resume")
@_JSON
def resume(conductor: Conductor, group: str, as_json: bool) -> int:
    """Go on after `pause`, `rollback`, or a clock that was wrong."""
    conductor.resume(group, _by())
    show_status(conductor, [group], as_json)
    return 0


@_command("rollback")
@_JSON
def rollback(conductor: Conductor, group: str, as_json: bool) -> int:
    """Let the key before sign again, and pause; the new one drains. A new key that does not sign yet is withdrawn."""
    conductor.rollback(group, _by())
    show_status(conductor, [group], as_json)
    return 0


@_command("emergency")
@click.argument("key_id")
@click.option(
    "--keep-serving",
    is_flag=True,
    help="Trust the key until its successor is trusted everywhere, so that no link that is open breaks before.",
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@_JSON
def emergency(
    conductor: Conductor, group: str, key_id: str, keep_serving: bool, yes: bool, as_json: bool
) -> int:
    """KEY_ID is compromised: a new key in, it out, now. Every link that it has signed is refused from then on.

    Takes all steps that it needs, and waits for the edges. Paused rotations too. Other groups whose record has the key
    do the same.
    """
    from keyfront.lifecycle.commands import found

    entry = found(conductor.record(group).succession, key_id)
    others = list(conductor.sharing(group, entry))
    if others:
        complain(f"the same key is in {', '.join(others)} too, and leaves there as well")
    if not yes:
        if as_json or not sys.stdin.isatty():
            raise SettingsError("nobody is here to say yes: give --yes")
        click.confirm(
            f"{entry.key_pair_id or entry.uri} ({entry.stage.value}): refuse all that it has signed?",
            abort=True,
        )
    status = 0
    try:
        conductor.emergency(group, entry.uri, _by(), keep_serving=keep_serving)
    except RotationError as error:
        if not found(conductor.record(group).succession, entry.uri).compromised:
            raise
        complain(str(error))
        status = WORK
    if not others:
        return _run(conductor, group, time.monotonic() + 1800.0, as_json) or status
    statuses = {status}
    for ends in (0.0, time.monotonic() + 1800.0):  # out of all of them first, and then wait for edges
        statuses = {status}
        for name in (group, *others):
            try:
                statuses.add(_run(conductor, name, ends, as_json))
            except KeyfrontError as error:
                complain(f"{name}: {error}")
                statuses.add(1)
    return 1 if 1 in statuses else max(statuses)


@_command("terms")
@click.option("--custody", "place", metavar="URI", help="The place where new keys are made; ends with /.")
@_terms_options
@_JSON
def terms_(conductor: Conductor, group: str, as_json: bool, **said: Any) -> int:
    """Show or change how GROUP is rotated. What was promised to links that are out there stays promised."""
    from keyfront.lifecycle import commands

    if any(value is not None for value in said.values()):
        record = conductor.change_terms(group, lambda terms: _changed(terms, said), _by())
        for doubt in commands.warnings(record.terms, time.time()):
            complain(doubt)
    terms = conductor.record(group).succession.terms
    if as_json:
        print_json(policy_json(terms))
    else:
        for name, value in policy_json(terms).items():
            click.echo(f"{name:15}{value}")
    return 0


@_command("stop")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def stop(conductor: Conductor, group: str, yes: bool) -> int:
    """Rotate GROUP no more. Its keys stay in the group and in custody, and are nobody's from then on.

    What signs by the key group's name stops signing when it has not seen the record for max-staleness.
    """
    record = conductor.record(group).succession
    if not yes:
        if not sys.stdin.isatty():
            raise SettingsError("nobody is here to say yes: give --yes")
        click.confirm(
            f"Forget the rotation of {group} ({len(record.entries)} keys stay where they are)?", abort=True
        )
    conductor.stop(group, _by())
    for entry in record.entries:
        click.echo(f"{entry.key_pair_id}  {entry.uri}  was {entry.stage.value}")
    return 0


def _pair(text: str) -> tuple[str, str]:
    key_id, equals, uri = text.partition("=")
    if not (key_id and equals and uri):
        raise SettingsError(
            f"--adopt {text}: give the public key's id and its private half's URI, KEY_ID=URI"
        )
    return key_id, uri


# ------------------------------------------------------------------------------------------------------------
# Taking steps


def _run(conductor: Conductor, group: str, ends: float, as_json: bool) -> int:
    """Take all steps of a group that can be taken; until `ends` (of the monotonic clock) also wait for edges."""
    shown, failed = "", ""
    for _ in range(10_000):
        outcome = inspected(conductor, group)
        if outcome.taken is not None and not outcome.raced and (not outcome.error or outcome.error != failed):
            reported(group, outcome, as_json)
            failed = outcome.error or failed
        if outcome.moved:
            time.sleep(0.2 if outcome.raced else 0.0)
            continue
        wait = outcome.wait
        left = ends - time.monotonic()
        if wait is not None and not wait.attention and left > 0:
            pause = 0.5 if wait.until is None else wait.until - conductor.now()
            if pause < left:
                if wait.reason != shown:
                    wait_texts(group, wait, as_json)
                    shown = wait.reason
                time.sleep(max(0.1, pause))
                continue
        if wait is not None or not outcome.error:
            wait_texts(group, wait, as_json)
        if outcome.error:
            return 1
        return WORK if wait is not None and wait.attention else 0
    return 1


# ------------------------------------------------------------------------------------------------------------
# Showing
