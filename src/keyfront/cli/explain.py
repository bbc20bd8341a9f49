"""`keyfront explain`: why a request is granted or refused.

With public keys on the command line it needs no server and no network: the signing core alone. Otherwise, the
distribution and its keys come from a data folder or an account, and the edge's own rule decides.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from keyfront.cli.durations import MomentType
from keyfront.cli.options import FILE_OR_STDIN, data_folder, json_option, option_group
from keyfront.cli.param_type import ParamType
from keyfront.cli.sign import read_file
from keyfront.custody.default_paths import default_data, installation
from keyfront.errors import KeyLoadError, SettingsError
from keyfront.signing.explain import Report, explain_url, requested
from keyfront.signing.keys import PublicKey, load_public_key
from keyfront.signing.policy import Moment, epoch_of
from keyfront.signing.signed_input import Comparison, compare
from keyfront.signing.verify import KeyRing

if TYPE_CHECKING:
    from keyfront.cli.distribution_source import Source
    from keyfront.edge.explain import Outcome
    from keyfront.edge.types.record import Record

_MOMENT = MomentType()
_SKEW = 5.0
"""Seconds by which clocks may differ without a word about it."""


class _KeyFile(ParamType[tuple[str, PublicKey]]):
    """`ID=FILE`: a public key and its ID."""

    name = "ID=FILE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, PublicKey]:
        id_, equals, path = str(value).partition("=")
        if not (id_ and equals and path):
            self.fail("give ID=FILE, such as K2JCJMDEHXQW5F=public_key.pem", param, ctx)
        try:
            return id_, load_public_key(Path(path).read_bytes())
        except OSError as error:
            self.fail(f"{path}: {error.strerror}", param, ctx)
        except KeyLoadError as error:
            self.fail(f"{path}: {error}", param, ctx)


class BehaviorOptions(msgspec.Struct, frozen=True):
    """What `explain` must know about the distribution: its keys, and its other host names."""

    trusted: tuple[tuple[str, PublicKey], ...]
    known: tuple[tuple[str, PublicKey], ...]
    hosts: tuple[str, ...]


behavior_options = option_group(
    "behavior",
    BehaviorOptions,
    click.option(
        "--public-key",
        "trusted",
        multiple=True,
        type=_KeyFile(),
        help="A key that the cache behavior trusts; repeatable.",
    ),
    click.option(
        "--known-key",
        "known",
        multiple=True,
        type=_KeyFile(),
        help="A key that exists but is not trusted there; repeatable.",
    ),
    click.option(
        "--other-host", "hosts", multiple=True, metavar="NAME", help="Another name of the same distribution."
    ),
)


class SourceSelection(msgspec.Struct, frozen=True):
    """Where the distribution and its keys are found; nothing is named: in the user's Keyfront, if there is one."""

    data: Path | None
    endpoint_url: str
    aws: bool
    profile: str

    @property
    def named(self) -> str:
        """The option that names a place; empty if none does."""
        given = {"--data": self.data, "--endpoint-url": self.endpoint_url, "--aws": self.aws}
        given["--profile"] = self.profile
        return next((name for name, value in given.items() if value), "")

    def source(self, host: str, now: float) -> Source | None:
        """What is known there about the host; None if nothing is named and the user has no Keyfront.

        :raises KeyfrontError: if it cannot be read.
        """
        if self.named in ("", "--data"):
            if not self.named and installation(default_data()) is None:
                return None
            from keyfront.cli.distribution_source import from_data

            folder = data_folder(self.data)
            found = installation(folder)
            return from_data(Path(found.feed) if found is not None and found.feed else folder)
        from keyfront.cli.account import Selection, choose
        from keyfront.cli.distribution_source import from_account
        from keyfront.cloudfront.session import CloudFrontClient
        from keyfront.edge.rules.routing import host_name

        account = choose(Selection(self.endpoint_url, self.profile, self.aws, self.data))
        client = CloudFrontClient(
            account.endpoint_url,
            account.profile,
            credentials=account.credentials,
            user_agent="keyfront-explain",
        )
        return from_account(client, host_name(host), now)


source_selection = option_group(
    "place",
    SourceSelection,
    click.option(
        "--data",
        type=click.Path(path_type=Path),
        help="The data folder of the Keyfront whose distributions and keys apply.  [default: KEYFRONT_DATA, or "
        "./state, or the user's]",
    ),
    click.option("--endpoint-url", default="", metavar="URL", help="Read the distribution from this API."),
    click.option("--aws", is_flag=True, help="Read the distribution from Amazon."),
    click.option("--profile", default="", help="Profile in the credentials file; reads from Amazon."),
)


class RequestOptions(msgspec.Struct, frozen=True):
    """The request beside its URL."""

    method: str
    cookies: tuple[str, ...]
    ip: str
    moment: Moment | None

    def cookie_header(self) -> str:
        return "; ".join(re.sub(r"\A[Cc]ookie:\s*", "", cookie) for cookie in self.cookies)


request_options = option_group(
    "request",
    RequestOptions,
    click.option(
        "--method",
        default="GET",
        show_default=True,
        type=click.Choice(["GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"], case_sensitive=False),
        help="OPTIONS is a CORS preflight, which carries no cookies.",
    ),
    click.option(
        "--cookie",
        "cookies",
        multiple=True,
        metavar="NAME=VALUE",
        help="A cookie, or a complete Cookie header.",
    ),
    click.option("--ip", default="", help="The viewer's address."),
    click.option("--now", "moment", type=_MOMENT, help="Evaluate as of this time."),
)


@click.command()
@click.argument("url", required=False)
@source_selection
@request_options
@behavior_options
@click.option(
    "--signed",
    metavar="URL|FILE",
    help="What the signer was given, a URL or a policy: shows the first difference from URL.",
)
@click.option(
    "--request-id",
    default="",
    metavar="ID",
    help="Explain a recorded request, by its X-Amz-Cf-Id, instead of a URL.",
)
@json_option
def explain(
    url: str | None,
    place: SourceSelection,
    request: RequestOptions,
    behavior: BehaviorOptions,
    signed: str | None,
    request_id: str,
    as_json: bool,
) -> None:
    """Explain check by check why a request for URL is granted or refused. Exit status 0: granted; 1: refused.

    The distribution, the behavior, and the keys come from your Keyfront, or from where --data, --endpoint-url, or --aws
    say. With --public-key, nothing but the signature is checked, and nothing else is needed.

    \b
        keyfront explain 'https://cdn.example.com/a.jpg?Expires=…'
        keyfront explain 'https://cdn.example.com/a.jpg?Expires=…' --public-key K2JCJMDEHXQW5F=public_key.pem
        keyfront explain --request-id 1GbS3…
    """
    if (url is None) == (not request_id):
        raise click.UsageError("Give a URL, or --request-id.")
    if url is None:
        click.get_current_context().exit(_explain_record(place, request_id, as_json))
    offline = bool(behavior.trusted or behavior.known or behavior.hosts)
    if offline and place.named:
        raise click.UsageError(
            f"{place.named} finds the keys: leave out --public-key, --known-key, and --other-host."
        )
    clock = time.time()
    _, host, _ = requested(url)
    comparison = None if signed is None else compare(_signed_text(signed), url)
    source = None if offline else place.source(host, clock)
    now = clock - (source.ahead if source is not None else 0.0)
    if request.moment is not None:
        now = epoch_of(request.moment, clock, "now")
    if source is None:
        report = _report(url, request, behavior, now)
        granted, json_text = report.granted, report.to_json()
    else:
        outcome = _outcome(url, request, source, now)
        granted, json_text = outcome.granted, outcome.to_json()
    if as_json:
        document = json.loads(json_text)
        if comparison is not None:
            document["signed"] = msgspec.to_builtins(comparison)
        if source is not None:
            document["source"] = source.place
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        if source is None:
            _print_report(report)
        else:
            _print_outcome(outcome, source)
        if comparison is not None:
            _print_comparison(comparison)
    click.get_current_context().exit(0 if granted else 1)


def _report(url: str, request: RequestOptions, behavior: BehaviorOptions, now: float) -> Report:
    cookie = request.cookie_header()
    if request.method.upper() == "OPTIONS" and cookie:
        click.echo("keyfront: a CORS preflight carries no cookies: they are left out", err=True)
        cookie = ""
    return explain_url(
        url,
        keyring=KeyRing(dict(behavior.trusted)),
        now=now,
        cookie_header=cookie,
        client_ip=request.ip,
        known_keys=dict(behavior.known),
        other_hosts=behavior.hosts,
    )


def _outcome(url: str, request: RequestOptions, source: Source, now: float) -> Outcome:
    from keyfront.edge.explain import Asked, explain_request
    from keyfront.edge.rules.routing import Routing

    def country(address: str) -> str:
        from keyfront.edge.geoip import CountryTable

        return CountryTable().country(address) if address else ""

    asked = Asked(url, request.method, request.cookie_header(), request.ip)
    return explain_request(Routing(source.snapshot), asked, now, country, source.keys)


def _signed_text(signed: str) -> str:
    """The text that was signed: the URL itself, or what the file holds."""
    if "://" in signed or signed.lstrip().startswith("{"):
        return signed
    return read_file(FILE_OR_STDIN.convert(signed, None, None)).decode("utf-8", "replace")


def _explain_record(place: SourceSelection, request_id: str, as_json: bool) -> int:
    """Explain a recorded request. Returns the exit status."""
    from keyfront.edge.explain import was_refused
    from keyfront.edge.rules.reasons import REASONS
    from keyfront.edge.types.record import Record
    from keyfront.monitoring.log_files import access_logs, find_record

    if place.named not in ("", "--data"):
        raise click.UsageError("--request-id reads the access logs of a data folder: name it with --data.")
    folder = data_folder(place.data) / "logs"
    files = access_logs(folder)
    line = find_record(files, request_id)
    if line is None:
        raise SettingsError(
            f"no record in {folder} has the request ID {request_id!r}: it may have been rotated away, or belong to "
            "another edge; of many similar refusals in one second, only some have a record of their own"
            if files
            else f"there is no access log in {folder}: name the edge's data folder with --data"
        )
    try:
        record = msgspec.json.decode(line, type=Record)
    except msgspec.DecodeError as error:
        raise SettingsError(f"the record of {request_id!r} in {folder} is damaged: {error}") from None
    reason = REASONS.get(record.reason)
    refused = was_refused(record.verdict, record.reason, record.status)
    if as_json:
        meaning = {} if reason is None else {"cause": reason.cause, "cure": reason.cure}
        click.echo(json.dumps({"record": json.loads(line), "granted": not refused} | meaning, indent=2))
    else:
        _print_record(record, refused)
    return 1 if refused else 0


def _print_record(record: Record, refused: bool) -> None:
    from keyfront.cli.output import iso_text
    from keyfront.edge.rules.reasons import REASONS

    reason = REASONS.get(record.reason)
    query = f"?{record.query}" if record.query else ""
    verdict = (
        click.style("refused", "red", bold=True) if refused else click.style("granted", "green", bold=True)
    )
    click.echo(f"{verdict} {record.reason}".rstrip() + f", status {record.status}, {record.result}")
    if reason is not None:
        click.echo(click.style(reason.cause, bold=True))
        click.echo(reason.cure)
    rows = (
        ("why", record.explanation),
        ("request", f"{record.method} {record.scheme}://{record.host}{record.path}{query}"),
        ("time", iso_text(record.time) or ""),
        ("viewer", " ".join(part for part in (record.client_ip, record.country, record.user_agent) if part)),
        ("distribution", f"{record.distribution} {record.behavior}".strip() or "none has this host"),
        ("key", f"{record.key_pair_id} {record.key_group}".strip()),
        ("signed by", record.signed_by),
        ("took", f"{record.time_taken_us / 1000:.1f} ms"),
    )
    for label, text in rows:
        if text:
            click.echo(f"    {click.style(f'{label:<12}', dim=True)}  {_printable(text)}")
    if record.verdict == "refused" and record.key_pair_id:
        click.echo("The log holds no signatures: explain the URL itself to see which text was signed.")


def _print_outcome(outcome: Outcome, source: Source) -> None:
    """Print the verdict, what decided it, and the report on the signature."""
    if outcome.granted:
        by = (
            f" by the signed {outcome.signature.mode}"
            if outcome.signature is not None
            else ": no signature is required"
        )
        click.echo(click.style("granted", "green", bold=True) + by)
    else:
        seen = f"{outcome.status} {outcome.code}".strip()
        click.echo(f"{click.style('refused', 'red', bold=True)} {outcome.reason} (the viewer sees {seen})")
        click.echo(click.style(outcome.cause, bold=True))
        if outcome.cure:
            click.echo(outcome.cure)
    names = ", ".join(outcome.names[:5]) + (", …" if len(outcome.names) > 5 else "")
    trusted = outcome.trusted
    rows = (
        ("from", source.place),
        (
            "distribution",
            f"{outcome.distribution} ({names})" if outcome.distribution else "none has this host",
        ),
        ("behavior", f"{outcome.behavior} for {outcome.path}" if outcome.behavior else ""),
        ("keys", "" if trusted is None else ", ".join(trusted) or "none: the key groups hold no key"),
    )
    for label, text in rows:
        if text:
            click.echo(f"    {click.style(f'{label:<12}', dim=True)}  {_printable(text)}")
    for note in (*source.notes, *outcome.notes):
        click.echo(f"· {note}")
    if abs(source.ahead) > _SKEW:
        direction = "ahead of" if source.ahead > 0 else "behind"
        click.echo(
            f"· This machine's clock is {abs(source.ahead):.0f} s {direction} the API's, whose time counts here."
        )
    if outcome.signature is not None:
        _print_checks(outcome.signature, outcome.cause)


def _print_comparison(comparison: Comparison) -> None:
    click.echo(click.style(comparison.text, bold=not comparison.same))
    if not comparison.same:
        given, arrived, pointer = comparison.excerpts()
        for label, text in (("signed", given), ("arrived", arrived), ("", pointer)):
            click.echo(f"    {click.style(f'{label:<8}', dim=True)}  {text}")


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


_MARKS = {True: click.style("✓", "green"), False: click.style("✗", "red", bold=True), None: "·"}


def _print_report(report: Report) -> None:
    """Print the verdict, the checks, and the hints. Expected and seen texts stand below each other and are never
    wrapped, so that they can be compared, and copied."""
    if report.granted:
        click.echo(f"{click.style('granted', 'green', bold=True)} by the signed {report.mode}")
    elif any(cause.code == "no_keys" for cause in report.causes):
        click.echo(f"{click.style('not checked', 'yellow', bold=True)}: no public key was given")
        click.echo(click.style(report.cause, bold=True))
    else:
        click.echo(
            f"{click.style('refused', 'red', bold=True)} {report.denial} "
            f"(the viewer sees {report.code}: {report.message})\n{click.style(report.cause, bold=True)}"
        )
    _print_checks(report, report.cause)


def _print_checks(report: Report, cause: str) -> None:
    """Print the checks of the signature.

    :param cause: what has been printed already.
    """
    for check in report.checks:
        click.echo(f"{_MARKS[check.passed]} {click.style(check.name, bold=check.passed is False)}")
        for label, text in (("expected", check.expected), ("seen", check.seen)):
            if text:
                click.echo(f"    {click.style(f'{label:<8}', dim=True)}  {text}")
        if check.hint and check.hint != cause:
            click.echo(f"    {check.hint}")
