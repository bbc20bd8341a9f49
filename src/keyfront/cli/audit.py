"""`keyfront audit`: what was done through the control plane and by whom, and whether the log is complete."""

from __future__ import annotations

import gzip
import os
import sys
import time
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click
import msgspec

from keyfront.cli.durations import MomentType
from keyfront.cli.installation import InstallationOptions, installation_options
from keyfront.cli.options import option_group
from keyfront.errors import SettingsError
from keyfront.signing.policy import Moment

if TYPE_CHECKING:
    from keyfront.control.audit.search import AuditMatch, AuditQuery, Verdict

_MOMENT = MomentType()


@click.group()
def audit() -> None:
    """The audit log: each API call as a record in CloudTrail's format."""


class FilterOptions(msgspec.Struct, frozen=True):
    """Which records a command reads."""

    since: Moment | None
    until: Moment | None
    user: str
    event: str
    resource: str
    errors: bool
    writes: bool

    def query(self, now: float) -> AuditQuery:
        """:param now: epoch seconds, from which durations count back."""
        from keyfront.control.audit.search import AuditQuery

        return AuditQuery(
            since=_ago(self.since, now),
            until=_ago(self.until, now),
            user=self.user,
            event=self.event,
            resource=self.resource,
            errors=self.errors,
            writes=self.writes,
        )


_filter_options = option_group(
    "filters",
    FilterOptions,
    click.option(
        "--since", type=_MOMENT, help="Only since this time: 2h or 7d ago, or a time with its time zone."
    ),
    click.option("--until", type=_MOMENT, help="Only before this time."),
    click.option(
        "--user", default="", metavar="NAME", help="Only this user; a name, an ARN or an access key ID."
    ),
    click.option("--event", default="", metavar="NAME", help="Only this operation, such as UpdateKeyGroup."),
    click.option(
        "--resource", default="", metavar="ID", help="Only calls on this resource; an ID or an ARN."
    ),
    click.option("--errors", is_flag=True, help="Only calls that were refused or failed."),
    click.option("--writes", is_flag=True, help="Only calls that change something."),
)


def _ago(moment: Moment | None, now: float) -> float | None:
    if isinstance(moment, timedelta):
        return now - moment.total_seconds()
    return moment.timestamp() if isinstance(moment, datetime) else moment


@audit.command("list")
@installation_options
@_filter_options
@click.option(
    "--limit",
    "-n",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="How many of the newest records.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the full records, one per line.")
def list_(
    installation: InstallationOptions,
    limit: int,
    as_json: bool,
    filters: FilterOptions,
) -> None:
    """List the newest records, oldest first.

    \b
        keyfront audit list --since 1d --user ci --errors
    """
    import itertools

    from keyfront.control.audit.search import search

    with installation.opened() as found:
        newest = list(itertools.islice(search(found, filters.query(time.time()), newest_first=True), limit))
    for one in reversed(newest):
        click.echo(one.row.record.decode() if as_json else _line(one, installation.words()))


_NAMED = (
    "id",
    "resource",
    "distributionId",
    "keyGroupId",
    "accessKeyId",
    "userName",
    "policyName",
    "archive",
)


def _line(found: AuditMatch, words: str) -> str:
    record = found.record
    try:
        who, error = record["userIdentity"], record.get("errorCode")
        parts: tuple[str, ...] = (
            record["eventTime"],
            who.get("userName") or who["type"].lower(),
            record["sourceIPAddress"] or "-",
            record["eventName"],
            _subject(record),
            f"{error}: {record['errorMessage']}" if error else "ok",
        )
    except (KeyError, AttributeError):  # not as it was written
        parts = (f"cannot be read: run `keyfront audit verify{words}`",)
    text = " ".join((str(found.row.number), *parts))
    # Callers choose some of these texts, so none may contain control characters for the reader's terminal.
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )


def _subject(record: dict[str, Any]) -> str:
    """The resource that the call was about, or that it created."""
    named = record.get("requestParameters") or {}
    for name in _NAMED:
        if name in named:
            return str(named[name])
    made = record.get("responseElements") or {}
    return next((str(one["id"]) for one in made.values() if isinstance(one, dict) and "id" in one), "-")


@audit.command()
@installation_options
@click.option(
    "--expect",
    default="",
    metavar="ANCHOR",
    help="An anchor that an earlier verify printed, which must still be in the log.",
)
@click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A complete log exported as jsonl, instead of the store's.",
)
def verify(installation: InstallationOptions, expect: str, file: Path | None) -> None:
    """Verify the log's chain of digests from the first record to the last. Exit status 1: it is broken.

    The last line printed is the anchor. Store it where those who can change the log cannot change it, and give it as
    --expect next time: this also detects that the newest records were removed, or that the whole log was rewritten.
    """
    from keyfront.control.audit import search as trail

    if expect:
        _check_anchor(expect, installation.words())
    if file is not None:
        if not expect:
            raise SettingsError(
                "an exported log contains no digests: give the anchor that it must lead to (--expect)"
            )
        with _reading(file) as lines:
            _judge(trail.verify_rows(trail.exported(lines), expect), expect)
        return
    with installation.opened() as found:
        _judge(trail.verify(found, expect), expect)


def _check_anchor(text: str, words: str) -> None:
    number, colon, digest = text.rpartition(":")
    is_digest = len(digest) == 64 and set(digest.lower()) <= set("0123456789abcdef")
    if not is_digest or (colon and not (number.isascii() and number.isdigit())):
        raise SettingsError(
            f"{text!r} is not an anchor: give NUMBER:DIGEST as `keyfront audit verify{words}` prints it, or DIGEST"
        )


def _judge(verdict: Verdict, expect: str) -> None:
    if verdict.fault:
        click.echo(f"broken: {verdict.fault}", err=True)
        if verdict.count:
            click.echo(f"the {verdict.count} records before it are intact", err=True)
        sys.exit(1)
    if expect and not verdict.expected:
        click.echo(
            f"broken: the log does not contain {expect}: records were removed, or the log was rewritten",
            err=True,
        )
        sys.exit(1)
    click.echo(f"{verdict.count} records, all intact", err=True)
    click.echo(verdict.anchor)


@audit.command()
@installation_options
@_filter_options
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "cloudtrail"]),
    default="jsonl",
    show_default=True,
    help="One record per line, or a CloudTrail log file.",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A file, compressed if its name ends with .gz.  [default: standard output]",
)
def export(
    installation: InstallationOptions,
    form: str,
    output: Path | None,
    filters: FilterOptions,
) -> None:
    """Write the records to a file, oldest first, for tools that read CloudTrail, or to archive them."""
    from keyfront.control.audit.search import search

    with installation.opened() as found:
        records = (one.row.record for one in search(found, filters.query(time.time())))
        if output is None:
            _write(sys.stdout.buffer, records, form)
            return
        temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                if output.name.endswith(".gz"):
                    with gzip.GzipFile(filename="", fileobj=file, mode="wb") as packed:
                        _write(packed, records, form)
                else:
                    _write(file, records, form)
            os.replace(temporary, output)
        except OSError as error:
            raise SettingsError(f"{output} cannot be written: {error.strerror}") from error
        finally:
            temporary.unlink(missing_ok=True)


def _write(file: Any, records: Iterable[bytes], form: str) -> None:
    if form == "jsonl":
        for record in records:
            file.write(record + b"\n")
        return
    file.write(b'{"Records":[')
    for number, record in enumerate(records):
        file.write((b"," if number else b"") + record)
    file.write(b"]}\n")


def _reading(file: Path) -> IO[bytes] | gzip.GzipFile:
    return gzip.open(file, "rb") if file.name.endswith(".gz") else file.open("rb")
