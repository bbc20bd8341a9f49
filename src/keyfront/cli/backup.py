"""`keyfront backup`: encrypted archives of an installation, from `create` to `drill` (docs/guide/backup.md).

Exit status: 0 all is well; 1 an archive is not what it should be, or a drill failed; 2 it could not be done; 3 it was
done, but not all of it.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import msgspec

from keyfront.cli.backup_output import iso, print_complete, print_created, print_plan, size_text
from keyfront.cli.installation import opened, options
from keyfront.cli.options import login
from keyfront.cli.settings import default_data
from keyfront.cli.store import store_options
from keyfront.errors import BackupError, SettingsError
from keyfront.runtime.settings import ACCOUNT, located

if TYPE_CHECKING:
    from keyfront.backup.archive.encryption import Opener
    from keyfront.backup.audit import AuditActor
    from keyfront.backup.capture import Archive
    from keyfront.model.snapshot import Snapshot

WRONG, INCOMPLETE = 1, 3


@click.group()
def backup() -> None:
    """Encrypted archives of the control plane: make, verify, restore, drill."""


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_ENDPOINT = click.option(
    "--endpoint-url",
    default="",
    metavar="URL",
    help="S3's API, if it is not AWS's.",
)
_RECORDS = click.option(
    "--records",
    envvar="KEYFRONT_RECORDS",
    default="",
    metavar="URI",
    help="Where the records of key groups are.  [default: DATA/custody; env: KEYFRONT_RECORDS]",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="For programs.")


def _opening(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the parameters `identity` and `passphrase_file`."""
    command = click.option(
        "--passphrase-file", type=_FILE, help="File with the passphrase that the archive is encrypted under."
    )(command)
    return click.option(
        "--identity",
        "-i",
        multiple=True,
        type=_FILE,
        help="Identity that opens it: an age identity file, or an SSH key; repeatable.",
    )(command)


def _version() -> str:
    from importlib.metadata import version  # which takes a tenth of a second

    return version("keyfront")


def _teller() -> AuditActor:
    from keyfront.backup.audit import AuditActor

    return AuditActor(f"keyfront backup, {login()}", ACCOUNT, random.SystemRandom())


@backup.command()
@click.argument("file", type=click.Path(path_type=Path))
def keygen(file: Path) -> None:
    """Make an identity in FILE, which only you can read, and print its recipient.

    Give the recipient to `create`. Keep FILE where the backups are not, and print it for a safe: without it they cannot
    be opened by anybody.
    """
    from keyfront.backup.archive.encryption import keygen

    click.echo(keygen(file))


@backup.command()
@options
@click.option(
    "--to",
    "places",
    multiple=True,
    required=True,
    metavar="PLACE",
    help="A folder or s3://BUCKET/PREFIX; repeatable, for copies in several places.",
)
@_ENDPOINT
@click.option(
    "--recipient", "-r", "recipients", multiple=True, metavar="age1…", help="Who can open it; repeatable."
)
@click.option("--recipients-file", type=_FILE, help="File of recipients, one a line.")
@click.option("--passphrase-file", type=_FILE, help="Encrypt under the passphrase in this file instead.")
@click.option("--private-keys", is_flag=True, help="With the private keys that custody gives away.")
@click.option(
    "--custody",
    "custodies",
    multiple=True,
    metavar="URI",
    help="With all private keys of this place as well; repeatable.",
)
@_RECORDS
@click.option(
    "--proof-url",
    "urls",
    multiple=True,
    metavar="URL",
    help="A signed URL that must still open after a restore: `drill` asks for it.",
)
@click.option(
    "--keep",
    metavar="RULE",
    help="Which archives of this installation to keep, such as last=7,daily=14,weekly=8,monthly=12.  [default: all]",
)
@click.option("--always", is_flag=True, help="Make one even if nothing has changed since the last.")
@click.option("--quiet", "-q", is_flag=True, help="Say nothing unless something is wrong.")
@_JSON
def create(
    data: Path | None,
    store: str,
    store_password_file: Path | None,
    places: tuple[str, ...],
    endpoint_url: str,
    recipients: tuple[str, ...],
    recipients_file: Path | None,
    passphrase_file: Path | None,
    private_keys: bool,
    custodies: tuple[str, ...],
    records: str,
    urls: tuple[str, ...],
    keep: str | None,
    always: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Make an archive, verify it, and thin out the old ones. Keyfront runs on meanwhile.

    If nothing has changed since the last archive there is nothing to do, so that it may run as often as you like.
    Exit status 3: it is made, but a place, or a part of it, failed.

    \b
        keyfront backup create --to /srv/backups --to s3://backups/keyfront --recipient age1… \\
            --keep last=7,daily=14,weekly=8,monthly=12
    """
    from keyfront.backup.archive.encryption import read_recipients, seal_for
    from keyfront.backup.capture import CaptureOptions, Source
    from keyfront.backup.create import BackupJob
    from keyfront.backup.create import create as make
    from keyfront.backup.retention import Rule, read_rule
    from keyfront.backup.targets import open_place

    for url in urls:
        _check_signed(url)
    if custodies and not private_keys:
        raise SettingsError("--custody goes with --private-keys")
    named = [*recipients, *(read_recipients(recipients_file) if recipients_file else ())]
    job = BackupJob(
        options=CaptureOptions(private_keys, records, custodies, urls),
        seal=seal_for(named, passphrase_file),
        places=[open_place(text, endpoint_url) for text in dict.fromkeys(places)],
        rule=read_rule(keep) if keep is not None else Rule(),
        always=always,
    )
    with opened(data, store, store_password_file) as (folder, found):
        actor = _teller()
        source = Source(found, folder, actor.account, socket.gethostname(), _version(), os.environ)
        outcome = make(source, job, actor, now=time.time())
    if as_json:
        click.echo(msgspec.json.encode(outcome).decode())
    else:
        print_created(outcome, quiet)
    if outcome.trouble:
        sys.exit(INCOMPLETE)


def _check_signed(url: str) -> None:
    if "Signature=" not in url or "Key-Pair-Id=" not in url or "://" not in url:
        raise SettingsError(f"{url.partition('?')[0]!r} is no signed URL")


@backup.command("list")
@click.argument("place")
@_ENDPOINT
@_JSON
def list_(place: str, endpoint_url: str, as_json: bool) -> None:
    """List the archives in PLACE, a folder or s3://BUCKET/PREFIX, oldest first. It needs no identity."""
    from keyfront.backup.targets import open_place

    found = open_place(place, endpoint_url).names()
    if as_json:
        rows = [
            {
                "Archive": str(name),
                "Taken": iso(name.taken),
                "Installation": name.origin,
                "Snapshot": name.snapshot,
                "Holds": name.holds,
                "Bytes": size,
            }
            for name, size in found.items()
        ]
        click.echo(msgspec.json.format(msgspec.json.encode(rows)).decode())
        return
    for name, size in found.items():
        click.echo(
            f"{iso(name.taken)}  installation {name.origin}  snapshot {name.snapshot}  {size_text(size)}  {name}"
        )
    if not found:
        click.echo("none", err=True)


@backup.command()
@click.argument("archive")
@_opening
@_ENDPOINT
@_JSON
def verify(
    archive: str, identity: tuple[Path, ...], passphrase_file: Path | None, endpoint_url: str, as_json: bool
) -> None:
    """Restore ARCHIVE in memory and compare it with what was taken. Exit status 1: it is not that.

    ARCHIVE is a file, s3://BUCKET/PREFIX/NAME, or a place, of which the newest that is whole is taken. Exit status 3: a
    newer one is not.
    """
    from keyfront.backup.archive.encryption import opener

    opens = opener(identity, passphrase_file)
    try:
        name, found, _, newest = _judged(archive, opens, endpoint_url)
    except BackupError as error:
        click.echo(f"keyfront: {archive}: {error}", err=True)
        sys.exit(WRONG)
    manifest = found.manifest
    if as_json:
        told = {
            "Archive": name,
            "Taken": iso(manifest.taken),
            "Keyfront": manifest.keyfront,
            "Host": manifest.host,
            "Data": manifest.data,
            "Store": manifest.store,
            "Schema": manifest.schema,
            "Snapshot": manifest.snapshot,
            "Audit": manifest.audit,
            "Contains": manifest.counts,
            "Missing": list(manifest.missing),
            "Proofs": len(manifest.proofs),
        }
        click.echo(msgspec.json.format(msgspec.json.encode(told)).decode())
    else:
        print_complete(name, manifest)
    if not newest:
        sys.exit(INCOMPLETE)


class _Judged(NamedTuple):
    name: str
    archive: Archive
    snapshot: Snapshot
    newest: bool
    """False if there is a newer one, which is not whole."""


def _judged(archive: str, opens: Opener, endpoint: str) -> _Judged:
    """The archive that is named, or the newest of a place that is whole; standard error says what is passed over.

    :raises BackupError: of the newest, if none is whole.
    """
    from keyfront.backup import capture
    from keyfront.backup.archive.encryption import opened as decrypted
    from keyfront.backup.targets import find

    there, later = find(archive, endpoint, now=time.time())
    for name in later:
        click.echo(f"keyfront: {name} is dated after now, and passed over", err=True)
    faults: list[BackupError] = []
    for one in there:
        try:
            found = capture.read(decrypted(one.data(), opens))
            snapshot = capture.judge(found, ACCOUNT, _version())
        except BackupError as error:
            faults.append(error)
            continue
        for newer, fault in zip(there, faults, strict=False):
            click.echo(f"keyfront: {newer.name} cannot be used, and is passed over: {fault}", err=True)
        return _Judged(one.name, found, snapshot, not faults)
    raise faults[0]


@backup.command()
@click.argument("archive")
@click.option("--data", type=click.Path(path_type=Path), help="The data folder.  [default: the user's]")
@store_options
@_opening
@_ENDPOINT
@_RECORDS
@click.option(
    "--elsewhere",
    is_flag=True,
    help="Put back also records and private keys that are not in the data folder.",
)
@click.option(
    "--compromised",
    is_flag=True,
    help="Put back also keys that are compromised by the records that are there now, and let them sign.",
)
@click.option("--plan", "only_plan", is_flag=True, help="Only say what would be done.")
@click.option("--yes", is_flag=True, help="Do it without asking.")
@_JSON
def restore(
    archive: str,
    data: Path | None,
    store: str,
    store_password_file: Path | None,
    identity: tuple[Path, ...],
    passphrase_file: Path | None,
    endpoint_url: str,
    records: str,
    elsewhere: bool,
    compromised: bool,
    only_plan: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Restore ARCHIVE onto a data folder, empty or not, and its store. `keyfront up` must not be running.

    What would be added, changed and removed is shown first. What is there now is kept aside. Exit status 3: restored,
    but a private key or a record could not be put back.
    """
    from keyfront.backup.archive.encryption import opener
    from keyfront.backup.restore.lock import held
    from keyfront.backup.restore.restore import Restore, Target

    folder = (data or default_data()).absolute()
    if ".." in folder.parts:
        folder = folder.resolve()
    target = Target(folder, located(store), store_password_file, records, elsewhere, compromised)
    opens = opener(identity, passphrase_file)
    name, found, _, _ = _judged(archive, opens, endpoint_url)
    # A plan only reads, and may be made beside a Keyfront that runs.
    with nullcontext() if only_plan else held(folder), Restore(found, target, os.environ) as work:
        plan = work.plan()
        if as_json:
            click.echo(msgspec.json.encode(plan).decode())
        else:
            print_plan(plan, found, folder)
        if only_plan:
            return
        if not yes and not _confirmed():
            raise SettingsError("nothing was changed")
        failed = work.run(plan, _teller(), name, time.time())
    click.echo(f"restored {name} into {folder}; start it with `keyfront up`", err=True)
    for text in failed:
        click.echo(f"keyfront: not put back: {text}", err=True)
    if failed:
        sys.exit(INCOMPLETE)


def _confirmed() -> bool:
    if not sys.stdin.isatty():
        raise SettingsError("nothing was changed: give --yes to restore without being asked")
    return click.confirm("Restore this?")


@backup.command()
@click.argument("archive")
@_opening
@_ENDPOINT
@click.option(
    "--url",
    "urls",
    multiple=True,
    metavar="URL",
    help="A URL signed before the archive was made; repeatable.",
)
@click.option("--viewer-ip", default="", metavar="ADDRESS", help="Ask as this viewer, if a policy names one.")
@click.option(
    "--accept-not-asked", is_flag=True, help="Be content though there are behaviors that no URL leads to."
)
@_JSON
def drill(
    archive: str,
    identity: tuple[Path, ...],
    passphrase_file: Path | None,
    endpoint_url: str,
    urls: tuple[str, ...],
    viewer_ip: str,
    accept_not_asked: bool,
    as_json: bool,
) -> None:
    """Start a Keyfront from ARCHIVE, beside any other, and prove that URLs signed before still open. Exit status 1: one
    does not. 3: all do, but a behavior that needs signatures was NOT ASKED for, or a newer archive is not whole.

    It asks for the URLs that were signed when the archive was made, for what archived private keys sign, and for those
    of --url; no real origin is asked, and nothing is left behind.
    """
    from keyfront.backup.archive.encryption import opener
    from keyfront.backup.drill import drill as run

    for url in urls:
        _check_signed(url)
    opens = opener(identity, passphrase_file)
    ended: list[int] = []

    def end(number: int, _: object) -> None:
        """So that what was started ends, too. An exit out of a finalizer is lost: it is made up for below."""
        ended.append(number)
        sys.exit(WRONG)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, end)
    try:
        name, found, snapshot, newest = _judged(archive, opens, endpoint_url)
        report = run(found, snapshot, urls, _teller(), time.time(), viewer_ip)
    except BackupError as error:
        click.echo(f"keyfront: {archive}: {error}", err=True)
        sys.exit(WRONG)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if ended:
        sys.exit(WRONG)
    if as_json:
        told = {"Archive": name, "Passed": report.passed, **msgspec.to_builtins(report)}
        click.echo(msgspec.json.format(msgspec.json.encode(told)).decode())
    else:
        click.echo(f"{name} became a Keyfront with snapshot {report.snapshot} in {report.seconds:.1f} s")
        for result in report.results:
            how = f"{result.where} ({result.how}, key {result.key_pair_id})"
            click.echo(f"  FAILED {how}: {result.fault}" if result.fault else f"  opens  {how}")
        for behavior in report.not_asked:
            click.echo(f"  NOT ASKED {behavior}: give a signed URL for it, with --url")
    if not report.passed:
        sys.exit(WRONG)
    if not newest or (report.not_asked and not accept_not_asked):
        sys.exit(INCOMPLETE)
