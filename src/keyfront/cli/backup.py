"""`keyfront backup`: encrypted archives of an installation, from `create` to `drill` (docs/guide/backup.md).

Exit status: 0 success; 1 an archive is not intact, or a drill failed; 2 the command failed; 3 it succeeded, but not
completely.
"""

from __future__ import annotations

import os
import random
import shlex
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click
import msgspec

from keyfront.cli.backup_output import (
    archive_json,
    archives_json,
    print_archives,
    print_created,
    print_drill,
    print_plan,
    print_verified,
)
from keyfront.cli.installation import InstallationOptions, installation_options
from keyfront.cli.logging_options import logging_options
from keyfront.cli.options import FILE, json_option, login, option_group
from keyfront.cli.output import print_json
from keyfront.cli.progress import progress_steps
from keyfront.errors import BackupError, SettingsError
from keyfront.runtime.logs import LogSettings, logging_to_stderr
from keyfront.runtime.settings import ACCOUNT

if TYPE_CHECKING:
    from keyfront.backup.archive.encryption import Opener, Seal
    from keyfront.backup.audit import AuditActor
    from keyfront.backup.capture import Archive, CaptureOptions
    from keyfront.backup.retention import Rule
    from keyfront.backup.targets import Place
    from keyfront.model.snapshot import Snapshot

WRONG, INCOMPLETE = 1, 3


@click.group()
def backup() -> None:
    """Encrypted archives of the control plane: create, verify, restore, drill."""


# ---- options


_endpoint_option = click.option(
    "--endpoint-url", default="", metavar="URL", help="The S3 endpoint, if it is not AWS's."
)
_records_option = click.option(
    "--records",
    envvar="KEYFRONT_RECORDS",
    default="",
    metavar="URI",
    help="Where the key groups' records are.  [default: KEYFRONT_RECORDS, or what the Keyfront in DATA watches]",
)


class OpeningOptions(msgspec.Struct, frozen=True):
    """How an archive is read and decrypted."""

    identity: tuple[Path, ...]
    passphrase_file: Path | None
    endpoint_url: str

    def opener(self) -> Opener:
        from keyfront.backup.archive.encryption import opener

        return opener(self.identity, self.passphrase_file)


_opening_options = option_group(
    "opening",
    OpeningOptions,
    click.option(
        "--identity",
        "-i",
        multiple=True,
        type=FILE,
        help="What opens it: an age identity file, or an SSH private key without a passphrase; repeatable.",
    ),
    click.option("--passphrase-file", type=FILE, help="File with the passphrase that opens it."),
    _endpoint_option,
)


class DestinationOptions(msgspec.Struct, frozen=True):
    """Where archives are stored, and which of them are retained."""

    places: tuple[str, ...]
    endpoint_url: str
    keep: str | None

    def opened(self) -> list[Place]:
        from keyfront.backup.targets import open_place

        return [open_place(text, self.endpoint_url) for text in dict.fromkeys(self.places)]

    def rule(self) -> Rule:
        from keyfront.backup.retention import Rule, read_rule

        return read_rule(self.keep) if self.keep is not None else Rule()


_destination_options = option_group(
    "destination",
    DestinationOptions,
    click.option(
        "--to",
        "places",
        multiple=True,
        required=True,
        metavar="PLACE",
        help="A folder or s3://BUCKET/PREFIX; repeatable, for copies in several places.",
    ),
    _endpoint_option,
    click.option(
        "--keep",
        metavar="RULE",
        help="Which archives of this installation to keep, such as last=7,daily=14,weekly=8,monthly=12.  "
        "[default: all]",
    ),
)


class RecipientOptions(msgspec.Struct, frozen=True):
    """The recipients that an archive is encrypted for."""

    recipients: tuple[str, ...]
    recipients_file: Path | None
    passphrase_file: Path | None

    def seal(self) -> Seal:
        from keyfront.backup.archive.encryption import read_recipients, seal_for

        listed = read_recipients(self.recipients_file) if self.recipients_file else ()
        return seal_for([*self.recipients, *listed], self.passphrase_file)


_recipient_options = option_group(
    "encryption",
    RecipientOptions,
    click.option(
        "--recipient",
        "-r",
        "recipients",
        multiple=True,
        metavar="age1…",
        help="Who can open it: an age or SSH public key; repeatable.",
    ),
    click.option("--recipients-file", type=FILE, help="File with recipients, one per line."),
    click.option("--passphrase-file", type=FILE, help="Encrypt with the passphrase in this file instead."),
)


class ContentOptions(msgspec.Struct, frozen=True):
    """What an archive contains besides the store and the files of the data folder."""

    private_keys: bool
    custodies: tuple[str, ...]
    records: str
    urls: tuple[str, ...]

    def capture(self, installation: InstallationOptions) -> CaptureOptions:
        """:raises SettingsError: if the options contradict each other, or a proof is not a signed URL."""
        from keyfront.backup.capture import CaptureOptions

        for url in self.urls:
            _check_signed(url)
        if self.custodies and not self.private_keys:
            raise SettingsError("--custody requires --private-keys")
        return CaptureOptions(
            self.private_keys, installation.records(self.records), self.custodies, self.urls
        )


_content_options = option_group(
    "content",
    ContentOptions,
    click.option(
        "--private-keys",
        is_flag=True,
        help="Include the private keys that the records name, if custody exports them.",
    ),
    click.option(
        "--custody",
        "custodies",
        multiple=True,
        metavar="URI",
        help="Also include all private keys of this place; repeatable.",
    ),
    _records_option,
    click.option(
        "--proof-url",
        "urls",
        multiple=True,
        metavar="URL",
        help="A signed URL for `drill` to request, which must still open after a restore; repeatable.",
    ),
)


def _check_signed(url: str) -> None:
    if "Signature=" not in url or "Key-Pair-Id=" not in url or "://" not in url:
        raise SettingsError(f"{url.partition('?')[0]!r} is not a signed URL")


def _version() -> str:
    from importlib.metadata import version  # takes a tenth of a second to load

    return version("keyfront")


def _actor() -> AuditActor:
    from keyfront.backup.audit import AuditActor

    return AuditActor(f"keyfront backup, {login()}", ACCOUNT, random.SystemRandom())


# ---- commands


@backup.command()
@click.argument("file", type=click.Path(path_type=Path))
def keygen(file: Path) -> None:
    """Create an identity in FILE, which only you can read, and print its recipient.

    Give the recipient to `create`. Store FILE where the backups are not, and keep a printed copy in a safe: without it,
    nobody can open them.
    """
    from keyfront.backup.archive.encryption import keygen

    click.echo(keygen(file))


@backup.command()
@installation_options
@_destination_options
@_recipient_options
@_content_options
@click.option(
    "--always", is_flag=True, help="Create an archive even if nothing has changed since the last one."
)
@click.option("--quiet", "-q", is_flag=True, help="Print nothing unless something is wrong.")
@json_option
@logging_options
def create(  # noqa: PLR0913 - one parameter for each group of options
    installation: InstallationOptions,
    destination: DestinationOptions,
    encryption: RecipientOptions,
    content: ContentOptions,
    always: bool,
    quiet: bool,
    as_json: bool,
    logs: LogSettings,
) -> None:
    """Create an archive, verify it, and delete the old ones that no rule keeps. Keyfront continues to run.

    If nothing has changed since the last archive, there is nothing to do, so run it as often as you like. Exit status
    3: it was created, but a place, or a part of it, failed.

    \b
        keyfront backup create --to /srv/backups --to s3://backups/keyfront --recipient age1… \\
            --keep last=7,daily=14,weekly=8,monthly=12
    """
    from keyfront.backup.capture import Source
    from keyfront.backup.create import BackupJob
    from keyfront.backup.create import create as run

    job = BackupJob(
        options=content.capture(installation),
        seal=encryption.seal(),
        places=destination.opened(),
        rule=destination.rule(),
        always=always,
    )
    with logging_to_stderr(logs, "backup"), installation.opened() as store:
        actor = _actor()
        source = Source(store, installation.data, actor.account, socket.gethostname(), _version(), os.environ)
        with progress_steps("creating the archive", "keyfront.backup"):
            outcome = run(source, job, actor, now=time.time())
    if as_json:
        click.echo(msgspec.json.encode(outcome).decode())
    else:
        print_created(outcome, quiet)
    if outcome.trouble:
        sys.exit(INCOMPLETE)


@backup.command("list")
@click.argument("place")
@_endpoint_option
@json_option
def list_(place: str, endpoint_url: str, as_json: bool) -> None:
    """List the archives in PLACE, a folder or s3://BUCKET/PREFIX, oldest first. It requires no identity."""
    from keyfront.backup.targets import Folder, open_place

    opened = open_place(place, endpoint_url)
    if isinstance(opened, Folder) and not opened.path.exists():
        raise BackupError(f"there is no folder {opened.path}")
    found = opened.names()
    if as_json:
        print_json(archives_json(found))
    else:
        print_archives(found)


@backup.command()
@click.argument("archive")
@_opening_options
@json_option
def verify(archive: str, opening: OpeningOptions, as_json: bool) -> None:
    """Restore ARCHIVE in memory and compare it with what was archived. Exit status 1: it is not intact.

    ARCHIVE is a file, s3://BUCKET/PREFIX/NAME, or a place, which stands for the newest intact archive in it. Exit
    status 3: a newer one is not intact.
    """
    opener = opening.opener()
    try:
        with progress_steps("verifying", "keyfront.backup"):
            chosen = _newest_intact(archive, opener, opening.endpoint_url)
    except BackupError as error:
        click.echo(f"keyfront: {archive}: {error}", err=True)
        sys.exit(WRONG)
    if as_json:
        print_json(archive_json(chosen.name, chosen.archive.manifest))
    else:
        print_verified(chosen.name, chosen.archive.manifest)
    if not chosen.newest:
        sys.exit(INCOMPLETE)


class _Intact(NamedTuple):
    """An archive that was decrypted, read, and compiled."""

    name: str
    archive: Archive
    snapshot: Snapshot
    newest: bool
    """False if there is a newer one, which is not intact."""


def _newest_intact(archive: str, opener: Opener, endpoint: str) -> _Intact:
    """The archive that is named, or the newest intact one of a place. Those that it skips are named on standard error.

    :raises BackupError: the error of the newest archive, if none is intact.
    """
    from keyfront.backup import capture
    from keyfront.backup.archive.encryption import opened as decrypted
    from keyfront.backup.targets import find

    there, later = find(archive, endpoint, now=time.time())
    for name in later:
        click.echo(f"keyfront: skipping {name}: its date is in the future", err=True)
    faults: list[BackupError] = []
    for one in there:
        try:
            found = capture.read(decrypted(one.data(), opener))
            snapshot = capture.judge(found, ACCOUNT, _version())
        except BackupError as error:
            faults.append(error)
            continue
        for newer, fault in zip(there, faults, strict=False):
            click.echo(f"keyfront: skipping {newer.name}: {fault}", err=True)
        return _Intact(one.name, found, snapshot, not faults)
    raise faults[0]


class ScopeOptions(msgspec.Struct, frozen=True):
    """What is restored besides the store and the data folder."""

    records: str
    elsewhere: bool
    compromised: bool


_scope_options = option_group(
    "scope",
    ScopeOptions,
    _records_option,
    click.option(
        "--elsewhere",
        is_flag=True,
        help="Also restore records and private keys that are outside the data folder.",
    ),
    click.option(
        "--compromised",
        is_flag=True,
        help="Also restore keys that the current records mark as compromised, and let them sign.",
    ),
)


@backup.command()
@click.argument("archive")
@installation_options
@_opening_options
@_scope_options
@click.option("--plan", "only_plan", is_flag=True, help="Only show what would be done.")
@click.option("--yes", is_flag=True, help="Do not prompt.")
@json_option
@logging_options
def restore(  # noqa: PLR0913 - one parameter for each group of options
    archive: str,
    installation: InstallationOptions,
    opening: OpeningOptions,
    scope: ScopeOptions,
    only_plan: bool,
    yes: bool,
    as_json: bool,
    logs: LogSettings,
) -> None:
    """Restore ARCHIVE to a data folder, empty or not, and its store. `keyfront up` must not be running.

    First shows what would be added, changed and removed. What exists now is set aside, not deleted. Exit status 3:
    restored, except for a private key or a record.
    """
    from keyfront.backup.restore.lock import held
    from keyfront.backup.restore.restore import Restore, Target

    folder = installation.data.resolve() if ".." in installation.data.parts else installation.data
    url, password_file = installation.named_store()
    target = Target(
        folder,
        url,
        password_file,
        installation.records(scope.records),
        scope.elsewhere,
        scope.compromised,
    )
    name, found, _, _ = _newest_intact(archive, opening.opener(), opening.endpoint_url)
    # A plan only reads, so it can be made while Keyfront runs.
    with (
        logging_to_stderr(logs, "backup"),
        nullcontext() if only_plan else held(folder),
        Restore(found, target, os.environ) as work,
    ):
        plan = work.plan()
        if as_json:
            click.echo(msgspec.json.encode(plan).decode())
        else:
            print_plan(plan, found, folder)
        if only_plan:
            return
        if not yes and not _confirmed():
            raise SettingsError("nothing was changed")
        with progress_steps("restoring", "keyfront.backup"):
            failed = work.run(plan, _actor(), name, time.time())
    start = f"keyfront up --data {shlex.quote(str(folder))}"
    click.echo(f"restored {name} into {folder}; start it with `{start}`", err=True)
    for text in failed:
        click.echo(f"keyfront: not restored: {text}", err=True)
    if failed:
        sys.exit(INCOMPLETE)


def _confirmed() -> bool:
    if not sys.stdin.isatty():
        raise SettingsError("nothing was changed: give --yes to restore without a prompt")
    return click.confirm("Restore this?")


@backup.command()
@click.argument("archive")
@_opening_options
@click.option(
    "--url",
    "urls",
    multiple=True,
    metavar="URL",
    help="A URL signed before the archive was created; repeatable.",
)
@click.option(
    "--viewer-ip",
    default="",
    metavar="ADDRESS",
    help="The viewer address for the requests, if a policy names one.",
)
@click.option(
    "--accept-not-asked",
    is_flag=True,
    help="Exit with status 0 even if there are behaviors that no URL leads to.",
)
@json_option
def drill(
    archive: str,
    opening: OpeningOptions,
    urls: tuple[str, ...],
    viewer_ip: str,
    accept_not_asked: bool,
    as_json: bool,
) -> None:
    """Start a Keyfront from ARCHIVE, beside any other, and prove that URLs signed before still open. Exit status 1: one
    does not. 3: all do, but a behavior that needs signatures was NOT ASKED for, or a newer archive is not intact.

    It requests the URLs that were signed when the archive was created, URLs that the archived private keys sign, and
    those of --url. It contacts no real origin, and leaves nothing behind.
    """
    from keyfront.backup.drill import drill as run

    for url in urls:
        _check_signed(url)
    opener = opening.opener()
    try:
        with _ended_by_signals(), progress_steps("drilling", "keyfront.backup"):
            chosen = _newest_intact(archive, opener, opening.endpoint_url)
            report = run(chosen.archive, chosen.snapshot, urls, _actor(), time.time(), viewer_ip)
    except BackupError as error:
        click.echo(f"keyfront: {archive}: {error}", err=True)
        sys.exit(WRONG)
    if as_json:
        print_json({"Archive": chosen.name, "Passed": report.passed, **msgspec.to_builtins(report)})
    else:
        print_drill(chosen.name, report)
    if not report.passed:
        sys.exit(WRONG)
    if not chosen.newest or (report.not_asked and not accept_not_asked):
        sys.exit(INCOMPLETE)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Make SIGTERM and SIGHUP end the command with status 1, so that the processes it started also end."""
    ended = False

    def end(_: int, __: object) -> None:
        nonlocal ended
        ended = True
        sys.exit(WRONG)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if ended:  # the exit was raised within a finalizer, and lost
        sys.exit(WRONG)
