"""`keyfront sign`, `sign-cookies`, `explain` and `key check`: the signing core at the command line.

They need no server and reach no network. Keys are given as files, never as arguments, which other users can read.
"""

from __future__ import annotations

import json
import re
import sys
import time
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from keyfront.errors import ExpiredWarning, KeyLoadError
from keyfront.signing import sign as signing
from keyfront.signing.explain import Report, explain_url
from keyfront.signing.keys import HashName, PublicKey, load_public_key, parse_private_key
from keyfront.signing.policy import Moment, epoch_of, parse_policy
from keyfront.signing.sign import LocalSigner, Signer
from keyfront.signing.verify import KeyRing

_SPAN = re.compile(r"(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


class MomentType(click.ParamType[Moment]):
    """A duration (`90s`, `1h30m`, `7d`), an ISO 8601 time with its zone, or epoch seconds."""

    name = "1h|ISO|EPOCH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Moment:
        text = str(value).strip()
        if text.isascii() and text.isdigit():
            return int(text)
        if text and (match := _SPAN.fullmatch(text)):
            weeks, days, hours, minutes, seconds = (int(number or 0) for number in match.groups())
            try:
                return timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)
            except OverflowError:
                self.fail(f"{text!r} is longer than any time that can be named", param, ctx)
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            self.fail(
                f"{text!r} is no time: give 90s, 1h30m or 7d, or 2030-01-31T12:00:00Z, or epoch seconds",
                param,
                ctx,
            )
        if moment.tzinfo is None:
            self.fail(
                f"{text!r} has no time zone: write {text}Z for UTC, or add an offset such as +02:00"
                if "T" in text or " " in text
                else f"{text!r} has no time and zone: write {text}T00:00:00Z",
                param,
                ctx,
            )
        return moment


class _KeyFile(click.ParamType[tuple[str, PublicKey]]):
    """`ID=FILE`: a public key by its id."""

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


_MOMENT = MomentType()
_KEY_FILE = _KeyFile()
FILE = click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)


def read_file(path: Path) -> bytes:
    return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()


def read_passphrase(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes().rstrip(b"\r\n")


def _signing_options(command: click.Command) -> click.Command:
    """The options that both signing commands take."""
    hashes = click.Choice(["SHA1", "SHA256"])
    for option in (
        click.option(
            "--key-group", metavar="NAME", help="Sign with the key that signs for this key group today."
        ),
        click.option(
            "--records",
            metavar="URI",
            help="Custody with the key group's record.  [default: $KEYFRONT_RECORDS]",
        ),
        click.option(
            "--agent",
            metavar="ADDRESS",
            help="Agent that signs for the key group.  [default: $KEYFRONT_AGENT]",
        ),
        click.option("--key-pair-id", metavar="ID", help="Id of the public key in CloudFront (K…)."),
        click.option(
            "--key", "key_uri", metavar="URI", help="Private key in custody, such as awskms:keyfront/NAME."
        ),
        click.option("--private-key", type=FILE, help="PEM, DER or base64; - reads standard input."),
        click.option("--passphrase-file", type=FILE, help="File with the private key's passphrase."),
        click.option("--expires", type=_MOMENT, help="Valid until then."),
        click.option("--starts", type=_MOMENT, help="Not valid until then."),
        click.option("--ip", metavar="CIDR", help="IPv4 address or network that the viewer must come from."),
        click.option(
            "--hash", "hash_name", type=hashes, help="Default: SHA1 for RSA keys, SHA256 for ECDSA keys."
        ),
    ):
        command = option(command)
    return command


class _SignWith(NamedTuple):
    """What the options say of the key to sign with."""

    key_group: str | None
    records: str | None
    agent: str | None
    key_pair_id: str | None
    key_uri: str | None
    private_key: Path | None
    passphrase_file: Path | None

    def signer(self) -> Signer:
        """:raises click.UsageError: unless they name one key, or one key group."""
        ways = [name for name in ("key_group", "key_uri", "private_key") if getattr(self, name) is not None]
        if len(ways) != 1:
            raise click.UsageError(
                "Say what to sign with: --key-group, or --key-pair-id with either --private-key or --key."
            )
        if self.key_group is not None:
            if self.key_pair_id is not None or self.passphrase_file is not None:
                raise click.UsageError("--key-group says itself which key signs, and where it is.")
            from keyfront.custody.signers.key_group_signer import (
                signer_for,  # not for those who sign with a file
            )

            return signer_for(self.key_group, records=self.records, agent=self.agent)
        if self.records is not None or self.agent is not None:
            raise click.UsageError("--records and --agent go with --key-group.")
        if self.key_pair_id is None:
            raise click.UsageError("--key-pair-id is missing: the id that CloudFront gave to the public key.")
        if self.private_key is not None:
            key = parse_private_key(read_file(self.private_key), read_passphrase(self.passphrase_file))
            return LocalSigner(self.key_pair_id, key)
        if self.passphrase_file is not None:
            raise click.UsageError("--passphrase-file goes with --private-key.")
        from keyfront.custody.signers.key_group_signer import CustodySigner  # as above

        return CustodySigner(self.key_pair_id, self.key_uri or "")


def _warn_if_over(expires: Moment | None, now: float) -> None:
    """Say that nobody will be let in by this. It is made all the same: whoever tests refusals needs such a thing."""
    then = now if expires is None else epoch_of(expires, now)
    if then <= now:
        told = datetime.fromtimestamp(then, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        click.echo(f"keyfront: it has expired already ({told}): every request with it is refused", err=True)


@click.command()
@click.argument("url")
@click.option("--resource", metavar="PATTERN", help="Custom policy for all URLs of the pattern (* and ?).")
@click.option("--policy", type=FILE, help="Custom policy, signed as the file holds it.")
@click.option("--as-is", is_flag=True, help="Sign the URL untouched, for clients that send exactly that.")
def sign(
    url: str,
    expires: Moment | None,
    starts: Moment | None,
    ip: str | None,
    hash_name: str | None,
    resource: str | None,
    policy: Path | None,
    as_is: bool,
    **said: Any,
) -> None:
    """Print URL signed for CloudFront or Keyfront.

    The URL is first written as browsers and HTTP libraries send it, so that what is printed works as it stands.

    \b
        keyfront sign https://cdn.example.com/a.jpg --key-pair-id K2JCJMDEHXQW5F --private-key key.pem \\
            --expires 1h
        keyfront sign https://cdn.example.com/a.jpg --key-group photos --expires 1h
    """
    now = time.time()
    own = None if policy is None else read_file(policy)
    warnings.simplefilter("ignore", ExpiredWarning)  # said below
    signed = signing.sign_url(
        url,
        _SignWith(**said).signer(),
        expires=expires,
        starts=starts,
        ip=ip,
        resource=resource,
        policy=own,
        hash_name=cast("HashName | None", hash_name),
        as_is=as_is,
        now=now,
    )
    _warn_if_over(parse_policy(own).expires if own is not None else expires, now)
    click.echo(signed)


@click.command("sign-cookies")
@click.argument("resource")
@click.option("--canned", is_flag=True, help="RESOURCE is one URL, and the cookies grant only that.")
@click.option("--domain", help="Domain attribute.")
@click.option("--path", "cookie_path", default="/", show_default=True, help="Path attribute.")
@click.option("--same-site", type=click.Choice(["Lax", "Strict", "None"]), help="SameSite attribute.")
@click.option("--partitioned", is_flag=True, help="Partitioned attribute.")
@click.option("--insecure", is_flag=True, help="Leave Secure out, for tests over http.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["set-cookie", "cookie", "json"]),
    default="set-cookie",
    show_default=True,
    help="Set-Cookie headers, the Cookie header a browser sends then, or names and values as JSON.",
)
def sign_cookies(
    resource: str,
    expires: Moment | None,
    starts: Moment | None,
    ip: str | None,
    hash_name: str | None,
    canned: bool,
    domain: str | None,
    cookie_path: str,
    same_site: str | None,
    partitioned: bool,
    insecure: bool,
    form: str,
    **said: Any,
) -> None:
    """Print cookies that grant the URLs of RESOURCE, a URL in which * and ? are wildcards.

    \b
        keyfront sign-cookies 'https://cdn.example.com/films/*' --key-pair-id K2JCJMDEHXQW5F \\
            --private-key key.pem --expires 6h --domain example.com
    """
    now = time.time()
    warnings.simplefilter("ignore", ExpiredWarning)  # said below
    cookies = signing.sign_cookies(
        resource,
        _SignWith(**said).signer(),
        expires=expires,
        starts=starts,
        ip=ip,
        canned=canned,
        hash_name=cast("HashName | None", hash_name),
        domain=domain,
        path=cookie_path,
        secure=not insecure,
        same_site=cast('Literal["Lax", "Strict", "None"] | None', same_site),
        partitioned=partitioned,
        now=now,
    )
    _warn_if_over(expires, now)
    if form == "json":
        click.echo(json.dumps(dict(cookies.values), indent=2))
    elif form == "cookie":
        click.echo(f"Cookie: {cookies.header}")
    else:
        for value in cookies.set_cookie:
            click.echo(f"Set-Cookie: {value}")


sign = _signing_options(sign)
sign_cookies = _signing_options(sign_cookies)


@click.command()
@click.argument("url")
@click.option(
    "--cookie", "cookies", multiple=True, metavar="NAME=VALUE", help="A cookie, or a whole Cookie header."
)
@click.option(
    "--public-key", "trusted", multiple=True, type=_KEY_FILE, help="A key that the cache behavior trusts."
)
@click.option("--known-key", "known", multiple=True, type=_KEY_FILE, help="A key that it does not trust.")
@click.option(
    "--other-host", "hosts", multiple=True, metavar="NAME", help="Another name of the same distribution."
)
@click.option("--ip", default="", help="The viewer's address.")
@click.option("--now", "moment", type=_MOMENT, help="Judge as of then instead of now.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.pass_context
def explain(
    ctx: click.Context,
    url: str,
    cookies: tuple[str, ...],
    trusted: tuple[tuple[str, PublicKey], ...],
    known: tuple[tuple[str, PublicKey], ...],
    hosts: tuple[str, ...],
    ip: str,
    moment: Moment | None,
    as_json: bool,
) -> None:
    """Say why a request for URL is granted or refused, check by check. Exits with 0 if granted, 1 if refused.

    keyfront explain 'https://cdn.example.com/a.jpg?Expires=…' --public-key K2JCJMDEHXQW5F=public_key.pem
    """
    clock = time.time()
    report = explain_url(
        url,
        keyring=KeyRing(dict(trusted)),
        now=clock if moment is None else epoch_of(moment, clock, "now"),
        cookie_header="; ".join(re.sub(r"\A[Cc]ookie:\s*", "", cookie) for cookie in cookies),
        client_ip=ip,
        known_keys=dict(known),
        other_hosts=hosts,
    )
    if as_json:
        click.echo(report.to_json())
    else:
        print_report(report, Console())
    ctx.exit(0 if report.granted else 1)


_MARKS = {True: ("✓", "green"), False: ("✗", "bold red"), None: ("·", "dim")}


def print_report(report: Report, console: Console) -> None:
    """A report as a table, the verdict above and the hints below."""
    if report.granted:
        console.print(Text("granted", "bold green"), Text(f"by the signed {report.mode}"))
    else:
        console.print(
            Text("refused", "bold red"),
            Text(f"{report.denial} (the viewer sees {report.code}: {report.message})"),
        )
        console.print(Text(report.cause, "bold"))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("", "check", "expected", "seen"):
        table.add_column(heading, overflow="fold")
    for check in report.checks:
        mark, style = _MARKS[check.passed]
        table.add_row(Text(mark, style), Text(check.name), Text(check.expected), Text(check.seen))
    console.print(table)
    for check in report.checks:
        if check.hint and check.hint != report.cause:
            console.print(Text(f"{check.name}: ", "dim"), Text(check.hint), sep="")
