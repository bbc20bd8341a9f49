"""`keyfront rotation`: replaces the keys of a key group on schedule, on Keyfront or on Amazon CloudFront
(docs/guide/rotation.md).

A command that changes something only writes the record; the steps are performed by `keyfront up`, or by `keyfront
rotation run`, from cron or by hand.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
import msgspec

from keyfront.cli.account import Account, account_options, refuse_unwatched, unwatched
from keyfront.cli.durations import DurationType
from keyfront.cli.options import ALGORITHMS, json_option, login, option_group, with_options
from keyfront.cli.output import print_json, print_warning
from keyfront.cli.rotation_output import (
    ACTION_NEEDED,
    policy_json,
    print_rotation_plan,
    print_status,
    print_step,
    print_wait,
    step_with_retries,
)
from keyfront.errors import KeyfrontError, RotationError, SettingsError

if TYPE_CHECKING:
    from keyfront.custody.key_record import RotationPolicy
    from keyfront.lifecycle.executor import RotationExecutor
    from keyfront.signing.keys import Algorithm

_DURATION = DurationType()


@click.group()
def rotation() -> None:
    """Replace the keys of a key group on schedule, with overlap, on Keyfront or on AWS."""


# ------------------------------------------------------------------------------------------------------------
# Shared by all commands


def _command(
    name: str, *, group: bool = True, accounted: bool = False
) -> Callable[[Callable[..., int | None]], click.Command]:
    """A command with the options that choose the CloudFront and the records. It gets a `RotationExecutor` as its first
    argument, and returns the exit status.

    :param group: whether it has the argument GROUP.
    :param accounted: whether it gets the chosen `account` as well.
    """

    def decorate(function: Callable[..., int | None]) -> click.Command:
        @functools.wraps(function)
        def command(account: Account, journal: Path | None, hooks: Path | None, **arguments: Any) -> None:
            if accounted:
                arguments["account"] = account
            sys.exit(function(_executor(account, journal, hooks), **arguments) or 0)

        wrapped = with_options(
            account_options,
            click.option(
                "--journal",
                type=click.Path(dir_okay=False, path_type=Path),
                help="A file that gets a line for each step performed or failed.",
            ),
            click.option(
                "--hooks",
                type=click.Path(dir_okay=False, path_type=Path),
                help="Programs and services to notify before and after each step (docs/reference/hooks.md).",
            ),
        )(command)
        if group:
            wrapped = click.argument("group")(wrapped)
        return rotation.command(name)(wrapped)

    return decorate


def _executor(account: Account, journal: Path | None, hooks: Path | None) -> RotationExecutor:
    from keyfront.custody.schemes import open_records
    from keyfront.lifecycle.cloudfront import CloudFront  # botocore's client, which few commands need
    from keyfront.lifecycle.events import Journal, Listener
    from keyfront.lifecycle.executor import RotationExecutor
    from keyfront.lifecycle.hooks import Hooks, read_hooks

    place = open_records(account.records_uri())
    listeners: list[Listener] = []
    if hooks:
        listeners.append(Hooks(read_hooks(hooks), os.environ))
    if journal:
        listeners.append(Journal(journal))
    api = CloudFront(account.endpoint_url, account.profile, credentials=account.credentials)
    return RotationExecutor(api, place, os.environ, listeners, options=account.options)


def _by() -> str:
    """The user who issues the command, for the record."""
    return f"keyfront rotation, {login()}"


class TermOptions(msgspec.Struct, frozen=True):
    """The rotation terms given on the command line; None for those that are not given."""

    every: str | None
    overlap: float | None
    max_lifetime: float | None
    max_staleness: float | None
    settle: float | None
    grace: float | None
    algorithm: str | None
    hash_name: str | None
    application: str | None

    def apply_to(self, policy: RotationPolicy) -> RotationPolicy:
        """The policy with the terms that are given.

        :raises SettingsError: if `every` is neither a duration nor a cron expression.
        """
        changes = {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}
        if self.every is not None:
            changes["every"] = _every(self.every)
        if self.algorithm is not None:
            changes["algorithm"] = cast("Algorithm", ALGORITHMS[self.algorithm.lower()])
        return msgspec.structs.replace(policy, **changes)


term_options = option_group(
    "terms",
    TermOptions,
    click.option(
        "--every",
        metavar="90d|'CRON'|never",
        help="How long a key signs, or when the next one takes over (cron, UTC).",
    ),
    click.option(
        "--overlap", type=_DURATION, help="How long, at least, a key is trusted after it stops signing."
    ),
    click.option("--max-lifetime", type=_DURATION, help="How far ahead a signature can expire."),
    click.option(
        "--max-staleness", type=_DURATION, help="How long signers continue without having read the record."
    ),
    click.option(
        "--settle", type=_DURATION, help="How long an edge may not know a group that is already Deployed."
    ),
    click.option(
        "--grace", type=_DURATION, help="How long the private half of a RETIRED key can be recovered."
    ),
    click.option(
        "--algorithm", type=click.Choice(list(ALGORITHMS), case_sensitive=False), help="The kind of new keys."
    ),
    click.option("--hash", "hash_name", type=click.Choice(["SHA1", "SHA256"]), help="What signers use."),
    click.option("--application", help="The application whose keys these are; a label on each key."),
)


def _every(text: str) -> float | str:
    if text == "never":
        return ""
    try:
        return _DURATION.convert(text, None, None)
    except click.BadParameter:
        if len(text.split()) not in (5, 6):
            raise SettingsError(
                f"--every {text!r}: give a duration (90d), a cron expression of five fields, or never"
            ) from None
        return text


# ------------------------------------------------------------------------------------------------------------
# Commands


class KeyOptions(msgspec.Struct, frozen=True):
    """Where the keys of a new rotation are created, and which existing keys it takes over."""

    place: str
    adopt: tuple[str, ...]

    def custody(self, account: Account) -> str:
        """The URI of the place: every place that holds records holds keys too.

        :raises SettingsError: if neither it nor the records' place is known.
        """
        return self.place or account.records_uri()

    def adopted(self) -> dict[str, str]:
        """The IDs of the public keys, each with the URI of its private key."""
        return dict(_pair(text) for text in self.adopt)


_key_options = option_group(
    "keys",
    KeyOptions,
    click.option(
        "--custody",
        "place",
        default="",
        metavar="URI",
        help="The place where keys are created; ends with /.  [default: where the records are]",
    ),
    click.option(
        "--adopt",
        multiple=True,
        metavar="KEY_ID=URI",
        help="A key of the group whose private key is in custody: it signs from now on. Repeatable: the last one "
        "signs, the others drain.",
    ),
)


@_command("start", accounted=True)
@_key_options
@term_options
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
@json_option
def start(
    executor: RotationExecutor,
    group: str,
    account: Account,
    keys: KeyOptions,
    terms: TermOptions,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Start rotating the keys of the key group GROUP (its name or ID).

    Keys in it that are not adopted are never touched. Without --adopt, the first key is created.

    \b
        keyfront rotation start photos --every 90d
        keyfront rotation start photos --custody awskms:keyfront/ --every 90d
        keyfront rotation start photos --custody file:/srv/keys/ --adopt K2JCJMDEHXQW5F=file:/srv/keys/photos
    """
    from keyfront.custody.key_record import RotationPolicy
    from keyfront.lifecycle import commands

    refuse_unwatched(account)
    place = keys.custody(account)
    found = executor.api.find_key_group(group) or executor.api.key_group(group)
    if found is None:
        raise RotationError(f"{executor.api.endpoint} has no key group {group}")
    if not place.partition("?")[0].endswith("/"):
        raise SettingsError(f"--custody {place}: a place without a key's name ends with a slash")
    policy = terms.apply_to(RotationPolicy(place))
    if terms.settle is None and account.local is not None:
        policy = msgspec.structs.replace(
            policy, settle=0.0
        )  # here, Deployed means that every edge has applied it
    for warning in commands.warnings(commands.validated(policy, time.time()), time.time()):
        print_warning(warning)
    record = executor.start(found, policy, keys.adopted(), _by(), dry_run=dry_run)
    if dry_run:
        return print_rotation_plan(executor, *executor.plan_of(record), as_json=as_json)
    if warning := unwatched(account):
        print_warning(warning)
    by_itself = account.running and not warning
    following = (
        "keyfront up performs the steps" if by_itself else f"Next: keyfront rotation run{account.options}"
    )
    if not as_json:
        click.echo(f"{record.group} at {executor.api.endpoint} is rotated from now on. {following}")
    print_status(executor, [record.group], as_json)
    return 0


@_command("status", group=False)
@click.argument("group", required=False)
@json_option
def status(executor: RotationExecutor, group: str | None, as_json: bool) -> int:
    """Show the keys of GROUP or of all groups, their stages, and what comes next.

    Exit status 3: someone must act.
    """
    return print_status(executor, [group] if group else executor.groups(), as_json)


@_command("plan")
@json_option
def plan_(executor: RotationExecutor, group: str, as_json: bool) -> int:
    """Show all steps to come, each with its earliest time. Changes nothing."""
    return print_rotation_plan(executor, *executor.plan(group), as_json=as_json)


@_command("run", group=False)
@click.argument("groups", nargs=-1, metavar="[GROUP]…")
@click.option(
    "--until-idle", is_flag=True, help="Wait for edges, until there is nothing to do but wait for a date."
)
@click.option(
    "--timeout", type=_DURATION, default="30m", show_default=True, help="The maximum time for --until-idle."
)
@click.option("--dry-run", is_flag=True, help="Only show the next step.")
@json_option
def run(
    executor: RotationExecutor,
    groups: tuple[str, ...],
    until_idle: bool,
    timeout: float,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Perform the steps that are due, of all groups or of those given. For cron: run it as often as you like.

    Exit status 1: a step failed; 3: someone must act.
    """
    names = list(groups) or executor.groups()
    if dry_run:
        return print_status(executor, names, as_json)
    ends = time.monotonic() + timeout if until_idle else 0.0
    statuses = {0}
    for name in names:
        try:
            statuses.add(_run(executor, name, ends, as_json))
        except KeyfrontError as error:  # the other groups must not wait for this one
            print_warning(f"{name}: {error}")
            statuses.add(1)
    return 1 if 1 in statuses else max(statuses)


@_command("rotate")
@json_option
def rotate(executor: RotationExecutor, group: str, as_json: bool) -> int:
    """Rotate now, regardless of the schedule; the key that signs drains as usual."""
    executor.rotate(group, _by())
    print_status(executor, [group], as_json)
    return 0


@_command("pause")
@json_option
def pause(executor: RotationExecutor, group: str, as_json: bool) -> int:
    """Perform no further steps until `resume`. Signers continue to sign, and edges trust the same keys."""
    executor.pause(group, _by())
    print_status(executor, [group], as_json)
    return 0


@_command("resume")
@json_option
def resume(executor: RotationExecutor, group: str, as_json: bool) -> int:
    """Continue after `pause`, `rollback`, or a clock that was wrong."""
    executor.resume(group, _by())
    print_status(executor, [group], as_json)
    return 0


@_command("rollback")
@json_option
def rollback(executor: RotationExecutor, group: str, as_json: bool) -> int:
    """Let the previous key sign again, and pause; the new one drains. A new key that does not sign yet is withdrawn."""
    executor.rollback(group, _by())
    print_status(executor, [group], as_json)
    return 0


@_command("emergency")
@click.argument("key_id")
@click.option(
    "--keep-serving",
    is_flag=True,
    help="Trust the key until its successor is trusted everywhere, so that no valid link breaks earlier.",
)
@click.option("-y", "--yes", is_flag=True, help="Do not prompt.")
@json_option
def emergency(
    executor: RotationExecutor, group: str, key_id: str, keep_serving: bool, yes: bool, as_json: bool
) -> int:
    """Replace the compromised key KEY_ID now. Every link that it signed is then refused.

    Performs all steps that this requires, even if the rotation is paused, and waits for the edges. Other groups whose
    records contain the key do the same.
    """
    from keyfront.lifecycle.commands import find_entry

    entry = find_entry(executor.versioned(group).record, key_id)
    others = list(executor.sharing(group, entry))
    if others:
        print_warning(f"the same key is also in {', '.join(others)}, and is removed there, too")
    if not yes:
        if as_json or not sys.stdin.isatty():
            raise SettingsError("standard input is not a terminal, so nobody can confirm: give --yes")
        click.confirm(
            f"{entry.key_pair_id or entry.uri} ({entry.stage.value}): refuse everything that it has signed?",
            abort=True,
        )
    status = 0
    try:
        executor.emergency(group, entry.uri, _by(), keep_serving=keep_serving)
    except RotationError as error:
        if not find_entry(executor.versioned(group).record, entry.uri).compromised:
            raise
        print_warning(str(error))
        status = ACTION_NEEDED
    if not others:
        return _run(executor, group, time.monotonic() + 1800.0, as_json) or status
    statuses = {status}
    for ends in (
        0.0,
        time.monotonic() + 1800.0,
    ):  # remove it from all of them first, and only then wait for edges
        statuses = {status}
        for name in (group, *others):
            try:
                statuses.add(_run(executor, name, ends, as_json))
            except KeyfrontError as error:
                print_warning(f"{name}: {error}")
                statuses.add(1)
    return 1 if 1 in statuses else max(statuses)


@_command("terms")
@click.option("--custody", "place", metavar="URI", help="The place where new keys are created; ends with /.")
@term_options
@json_option
def terms_(
    executor: RotationExecutor, group: str, place: str | None, terms: TermOptions, as_json: bool
) -> int:
    """Show or change how GROUP is rotated. Links that are already signed remain valid as long as they were promised."""
    from keyfront.lifecycle import commands

    def changed(policy: RotationPolicy) -> RotationPolicy:
        return terms.apply_to(policy if place is None else msgspec.structs.replace(policy, place=place))

    if place is not None or any(value is not None for value in msgspec.structs.asdict(terms).values()):
        record = executor.change_terms(group, changed, _by())
        for warning in commands.warnings(record.terms, time.time()):
            print_warning(warning)
    policy = executor.versioned(group).record.terms
    if as_json:
        print_json(policy_json(policy))
    else:
        for name, value in policy_json(policy).items():
            click.echo(f"{name:15}{value}")
    return 0


@_command("stop")
@click.option("-y", "--yes", is_flag=True, help="Do not prompt.")
def stop(executor: RotationExecutor, group: str, yes: bool) -> int:
    """Stop rotating GROUP. Its keys stay in the group and in custody, and Keyfront no longer manages them.

    Whatever signs by the key group's name stops when it has not read the record for max-staleness.
    """
    record = executor.versioned(group).record
    if not yes:
        if not sys.stdin.isatty():
            raise SettingsError("standard input is not a terminal, so nobody can confirm: give --yes")
        click.confirm(f"Stop rotating {group} ({len(record.entries)} keys stay where they are)?", abort=True)
    executor.stop(group, _by())
    for entry in record.entries:
        click.echo(f"{entry.key_pair_id}  {entry.uri}  was {entry.stage.value}")
    return 0


def _pair(text: str) -> tuple[str, str]:
    key_id, equals, uri = text.partition("=")
    if not (key_id and equals and uri):
        raise SettingsError(
            f"--adopt {text}: give the ID of the public key and the URI of its private key, KEY_ID=URI"
        )
    return key_id, uri


# ------------------------------------------------------------------------------------------------------------
# Performing steps


def _run(executor: RotationExecutor, group: str, ends: float, as_json: bool) -> int:
    """Perform all steps of a group that are due; until `ends` (monotonic seconds), also wait for edges."""
    shown, failed = "", ""
    for _ in range(10_000):
        outcome = step_with_retries(executor, group)
        if outcome.taken is not None and not outcome.raced and (not outcome.error or outcome.error != failed):
            print_step(group, outcome, as_json)
            failed = outcome.error or failed
        if outcome.moved:
            time.sleep(0.2 if outcome.raced else 0.0)
            continue
        wait = outcome.wait
        left = ends - time.monotonic()
        if wait is not None and not wait.attention and left > 0:
            pause = 0.5 if wait.until is None else wait.until - executor.now()
            if pause < left:
                if wait.reason != shown:
                    print_wait(group, wait, as_json)
                    shown = wait.reason
                time.sleep(max(0.1, pause))
                continue
        if wait is not None or not outcome.error:
            print_wait(group, wait, as_json)
        if outcome.error:
            return 1
        return ACTION_NEEDED if wait is not None and wait.attention else 0
    return 1
