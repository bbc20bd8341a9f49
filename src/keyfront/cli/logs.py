"""`keyfront logs`: the requests that edges recorded, live and by SQL."""

from __future__ import annotations

import contextlib
import csv
import fnmatch
import json
import math
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from keyfront.cli.durations import MomentType
from keyfront.cli.options import data_option, option_group, with_options
from keyfront.cli.output import print_columns, print_note, print_warning
from keyfront.cli.param_type import ParamType
from keyfront.edge.types.record import Record
from keyfront.errors import SettingsError
from keyfront.monitoring.log_files import access_logs, log_files
from keyfront.monitoring.log_query import QUESTIONS, LogQuery, Window
from keyfront.monitoring.log_tail import LogFollower
from keyfront.signing.policy import Moment

if TYPE_CHECKING:
    from keyfront.monitoring.log_query import Result

_MOMENT = MomentType()
_PAUSE = 0.2
"""Seconds between two looks at the file."""


@click.group()
def logs() -> None:
    """The requests that edges have recorded: live, and by SQL."""


class _StatusType(ParamType[tuple[int, int]]):
    """`403`, or `4xx`: the lowest and the highest status."""

    name = "403|4xx"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        text = str(value).lower()
        if not re.fullmatch("[0-5]([0-9]{2}|xx)", text):
            self.fail(
                f"{value!r} is not a status: give a number such as 403, or a class such as 4xx", param, ctx
            )
        return int(text.replace("x", "0")), int(text.replace("x", "9"))


class _NetworkType(ParamType["IPv4Network | IPv6Network"]):
    """An address, or a network in CIDR form."""

    name = "CIDR"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> IPv4Network | IPv6Network:
        try:
            return ip_network(str(value), strict=False)
        except ValueError as error:
            self.fail(f"{value!r} is not an address or a network: {error}", param, ctx)


class TailFilters(msgspec.Struct, frozen=True):
    """Which records are shown: those that fit every filter. A filter that is given several times fits if one of its
    values does."""

    status: tuple[tuple[int, int], ...]
    verdict: tuple[str, ...]
    reason: tuple[str, ...]
    key: tuple[str, ...]
    distribution: tuple[str, ...]
    path: tuple[str, ...]
    address: tuple[IPv4Network | IPv6Network, ...]

    def fits(self, record: Record) -> bool:
        return (
            (not self.status or any(low <= record.status <= high for low, high in self.status))
            and (not self.verdict or (record.verdict or "none") in self.verdict)
            and (not self.reason or record.reason in self.reason)
            and (not self.key or record.key_pair_id in self.key)
            and (not self.distribution or record.distribution in self.distribution)
            and (not self.path or any(fnmatch.fnmatchcase(record.path, each) for each in self.path))
            and (not self.address or self._came_from(record.client_ip))
        )

    def _came_from(self, text: str) -> bool:
        try:
            address = ip_address(text)
        except ValueError:
            return False
        return any(address in network for network in self.address)


_tail_filters = option_group(
    "filters",
    TailFilters,
    click.option(
        "--status", multiple=True, type=_StatusType(), help="Only this status or class; repeatable."
    ),
    click.option(
        "--verdict",
        multiple=True,
        type=click.Choice(["allowed", "refused", "none"]),
        help="Only with this verdict on the signature; none: it required none; repeatable.",
    ),
    click.option("--reason", multiple=True, metavar="NAME", help="Only with this reason; repeatable."),
    click.option("--key", multiple=True, metavar="ID", help="Only with this public key's ID; repeatable."),
    click.option(
        "--distribution", multiple=True, metavar="ID", help="Only of this distribution; repeatable."
    ),
    click.option(
        "--path", multiple=True, metavar="PATTERN", help="Only paths that match (* and ?); repeatable."
    ),
    click.option("--address", multiple=True, type=_NetworkType(), help="Only from this network; repeatable."),
)


@logs.command()
@data_option
@_tail_filters
@click.option(
    "--lines",
    "-n",
    type=click.IntRange(0),
    default=10,
    show_default=True,
    help="How many of the last records to begin with, before the filters.",
)
@click.option("--no-follow", is_flag=True, help="End after these.")
@click.option("--json", "as_json", is_flag=True, help="Print the records as they are, one per line.")
def tail(data: Path, filters: TailFilters, lines: int, no_follow: bool, as_json: bool) -> None:
    """Show requests as they are recorded, until Ctrl-C.

    \b
        keyfront logs tail --verdict refused
        keyfront logs tail --status 5xx --path '/films/*' --json
    """
    file = data / "logs" / "access.jsonl"
    if not access_logs(file.parent):  # while it is rotated, it can be missing
        raise SettingsError(_no_logs(data))
    follower = LogFollower(file, lines)
    decoder = msgspec.json.Decoder(Record)
    unreadable = 0
    with contextlib.closing(follower):
        try:
            while True:
                for line in follower.lines():
                    try:
                        record = decoder.decode(line)
                    except msgspec.DecodeError:
                        unreadable += bool(line.strip())
                        continue
                    if filters.fits(record):
                        click.echo(line.decode("utf-8", "replace") if as_json else _line(record))
                if no_follow:
                    break
                sys.stdout.flush()
                time.sleep(_PAUSE)
        except KeyboardInterrupt:
            pass
    if unreadable:
        print_warning(f"{_count(unreadable, 'line')} in {file} could not be read")


_RESULT_COLORS = {
    "Hit": "green",
    "RefreshHit": "green",
    "Miss": "cyan",
    "Error": "red",
    "LimitExceeded": "red",
}


def _line(record: Record) -> str:
    """One line for people: what happened first, then who and what."""
    moment = datetime.fromtimestamp(record.time, UTC).strftime("%H:%M:%S.%f")[:-3]
    color = "red" if record.status >= 500 else "yellow" if record.status >= 400 or not record.status else None
    query = f"?{record.query}" if record.query else ""
    parts = [
        click.style(moment, dim=True),
        click.style(f"{record.status:03}", color, bold=color is not None),
        click.style(f"{_printable(record.result):<10}", _RESULT_COLORS.get(record.result)),
        f"{record.time_taken_us / 1000:7.1f} ms",
        f"{_printable(record.client_ip):<15}",
        _printable(f"{record.method} {record.scheme}://{record.host}{record.path}{query}"),
    ]
    key = _printable(record.key_pair_id)
    if record.verdict == "allowed":
        parts.append(click.style(f"[{key} by {_printable(record.signed_by)}]", dim=True))
    if record.reason:
        reason = f"{_printable(record.reason)} {key if record.verdict == 'refused' else ''}".strip()
        parts.append(click.style(reason, "red", bold=True))
    if record.repeats:
        parts.append(click.style(f"and {record.repeats} more", dim=True))
    return " ".join(parts)


def _printable(text: str) -> str:
    """The text without control characters: viewers choose some of these texts, and a terminal would obey them."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


class SourceOptions(msgspec.Struct, frozen=True):
    """Which logs are read: those of the data folder, or those that are named."""

    data: Path
    places: tuple[str, ...]
    endpoint_url: str
    since: Moment | None
    until: Moment | None

    @contextlib.contextmanager
    def opened(self) -> Iterator[LogQuery]:
        """The logs, ready for a query. Warns of what could not be read, when it ends."""
        now = time.time()
        window = Window(_ago(self.since, now), _ago(self.until, now))
        with tempfile.TemporaryDirectory(prefix="keyfront-logs-") as folder:
            files = self._files(window, Path(folder))
            with LogQuery(files, window) as query:
                yield query
                _warn(query)

    def _files(self, window: Window, folder: Path) -> list[Path]:
        if not self.places:
            if self.endpoint_url:
                raise click.UsageError("--endpoint-url requires --from s3://BUCKET/PREFIX.")
            found = access_logs(self.data / "logs")
            if not found:
                raise SettingsError(_no_logs(self.data))
            return found
        files: dict[Path, None] = {}
        for number, place in enumerate(self.places):
            if "://" not in place:
                files.update(dict.fromkeys(log_files(Path(place))))
                continue
            from keyfront.cli.progress import progress_bar
            from keyfront.monitoring.log_bucket import download

            target = folder / str(number)
            target.mkdir()
            with progress_bar("downloading") as advance:
                files.update(
                    dict.fromkeys(
                        download(
                            place,
                            target,
                            endpoint=self.endpoint_url,
                            since=window.since,
                            until=window.until,
                            progress=advance,
                        )
                    )
                )
        return list(files)


source_options = option_group(
    "source",
    SourceOptions,
    data_option,
    click.option(
        "--from",
        "places",
        multiple=True,
        metavar="PLACE",
        help="A file, a folder, or s3://BUCKET/PREFIX instead of the data folder's access logs; repeatable.",
    ),
    click.option("--endpoint-url", default="", metavar="URL", help="The S3 endpoint, if it is not AWS's."),
    click.option(
        "--since", type=_MOMENT, help="Only since this time: 2h or 7d ago, or a time with its time zone."
    ),
    click.option("--until", type=_MOMENT, help="Only before this time."),
)


def _questions() -> str:
    width = max(map(len, QUESTIONS))
    return "\n".join(f"    {name:<{width}}  {question.meaning}" for name, question in QUESTIONS.items())


@logs.command(
    help=f"""Answer a question about recorded requests: a ready one by its name, or SQL (one SELECT) over the table
`requests`.

\b
{_questions()}

\b
    keyfront logs query top-denials --since 1d
    keyfront logs query 'FROM requests WHERE status = 403 LIMIT 5'
    keyfront logs query 'DESCRIBE requests'

The SQL is DuckDB's. It reads nothing but these logs, and writes nothing."""
)
@click.argument("question", metavar="QUESTION|SQL")
@source_options
@with_options(
    click.option("--json", "form", flag_value="json", help="Print the rows as JSON."),
    click.option("--csv", "form", flag_value="csv", help="Print the rows as CSV."),
)
def query(question: str, source: SourceOptions, form: str | None) -> None:
    with source.opened() as opened:
        result = opened.ask(question) if question in QUESTIONS else opened.run(_sql(question))
        if form == "json":
            _print_json(result)
        elif form == "csv":
            _print_csv(result)
        else:
            _print_table(result)


@logs.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@source_options
def export(file: Path, source: SourceOptions) -> None:
    """Write the records to a new Parquet FILE, ordered by time. Queries over it (--from FILE) are several times as
    fast, and it takes a small part of the space.

    \b
        keyfront logs export yesterday.parquet --since 2026-11-30T00:00:00Z --until 2026-12-01T00:00:00Z
    """
    if file.exists():
        raise SettingsError(f"{file} exists; name a new file")
    with source.opened() as opened:
        count = opened.export(file)
    print_note(f"{_count(count, 'record')} written to {file}")


def _sql(text: str) -> str:
    if " " not in text.strip():
        raise click.UsageError(f"{text!r} is neither SQL nor a ready question ({', '.join(QUESTIONS)}).")
    return text


def _no_logs(data: Path) -> str:
    return (
        f"there is no access log in {data / 'logs'}: start Keyfront with `keyfront up --data "
        f"{shlex.quote(str(data))}`, or name other logs with --from"
    )


def _warn(query: LogQuery) -> None:
    for file in query.truncated:
        print_warning(f"{file} ends in the middle of its compressed data; it was read up to there")
    if query.unknown:
        names = ", ".join(file.name for file in query.unknown[:3]) + (", …" if len(query.unknown) > 3 else "")
        print_warning(f"{_count(len(query.unknown), 'file')} left out, not a log in a known format: {names}")
    if query.unreadable:
        most = ", ".join(f"{number} in {Path(file).name}" for file, number in query.unreadable.most_common(3))
        print_warning(
            f"{_count(query.unreadable.total(), 'line')} could not be read (torn, or not a record): {most}"
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _ago(moment: Moment | None, now: float) -> float | None:
    if isinstance(moment, timedelta):
        return now - moment.total_seconds()
    return moment.timestamp() if isinstance(moment, datetime) else moment


def _print_table(result: Result) -> None:
    rows = [tuple(_printable(_text(value)) for value in row) for row in result.rows]
    print_columns(result.names, rows)


def _text(value: object) -> str:
    """A value for people. The times of logs are in UTC."""
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.isoformat(" ", "milliseconds").removesuffix(".000")
    return str(value)


def _print_json(result: Result) -> None:
    """A JSON array with one row per line."""
    opening = "["
    for row in result.rows:
        line = json.dumps(dict(zip(result.names, map(_finite, row), strict=True)), default=_jsonable)
        click.echo(f"{opening}{line}", nl=False)
        opening = ",\n"
    click.echo("]" if opening != "[" else "[]")


def _finite(value: Any) -> Any:
    """The value without numbers that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return {str(name): _finite(each) for name, each in value.items()} if isinstance(value, dict) else value


def _jsonable(value: object) -> Any:
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, datetime):
        return f"{value.isoformat()}Z" if value.tzinfo is None else value.isoformat()
    return str(value)


def _print_csv(result: Result) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(result.names)
    writer.writerows(result.rows)
