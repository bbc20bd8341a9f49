"""`keyfront sign` and `sign-cookies`: the signing core on the command line.

They need no server and no network. Keys are files, never arguments, which other users can read.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, cast

import click
import msgspec

from keyfront.cli.durations import MomentType
from keyfront.cli.options import FILE_OR_STDIN, option_group
from keyfront.errors import ExpiredWarning
from keyfront.signing import sign as signing
from keyfront.signing.keys import HashName, parse_private_key
from keyfront.signing.policy import Moment, epoch_of, parse_policy
from keyfront.signing.sign import LocalSigner, Signer

_MOMENT = MomentType()


def read_file(path: Path) -> bytes:
    """The file's content; for `-`, standard input."""
    return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()


def read_passphrase(path: Path | None) -> bytes | None:
    """The file's content without the line break at its end."""
    return None if path is None else path.read_bytes().rstrip(b"\r\n")


class SigningKeyOptions(msgspec.Struct, frozen=True):
    """The options that name the key to sign with: a key group, a key in custody, or a file."""

    key_group: str | None
    records: str | None
    data: Path | None
    agent: str | None
    key_pair_id: str | None
    key_uri: str | None
    private_key: Path | None
    passphrase_file: Path | None

    def signer(self) -> Signer:
        """The signer that they name.

        :raises click.UsageError: unless they name exactly one key or key group.
        """
        ways = [name for name in ("key_group", "key_uri", "private_key") if getattr(self, name) is not None]
        if len(ways) != 1:
            raise click.UsageError(
                "Name what to sign with: --key-group, or --key-pair-id with either --private-key or --key."
            )
        if self.key_group is not None:
            return self._group_signer(self.key_group)
        if self.records is not None or self.agent is not None or self.data is not None:
            raise click.UsageError("--records, --data, and --agent require --key-group.")
        if self.key_pair_id is None:
            raise click.UsageError("--key-pair-id is missing: the ID that CloudFront gave to the public key.")
        if self.private_key is not None:
            key = parse_private_key(read_file(self.private_key), read_passphrase(self.passphrase_file))
            return LocalSigner(self.key_pair_id, key)
        if self.passphrase_file is not None:
            raise click.UsageError("--passphrase-file requires --private-key.")
        from keyfront.custody.signers.key_group_signer import CustodySigner  # slow to load, like `signer_for`

        return CustodySigner(self.key_pair_id, self.key_uri or "")

    def _group_signer(self, key_group: str) -> Signer:
        if self.key_pair_id is not None or self.passphrase_file is not None:
            raise click.UsageError(
                "--key-group determines the key: leave out --key-pair-id and --passphrase-file."
            )
        # Not loaded for those who sign with a file.
        from keyfront.custody.signers.key_group_signer import records_of, signer_for

        records = self.records if self.data is None else records_of(self.records, self.data)
        return signer_for(key_group, records=records, agent=self.agent)


signing_key_options = option_group(
    "key",
    SigningKeyOptions,
    click.option("--private-key", type=FILE_OR_STDIN, help="PEM, DER or base64; - reads standard input."),
    click.option("--passphrase-file", type=FILE_OR_STDIN, help="File with the private key's passphrase."),
    click.option(
        "--key", "key_uri", metavar="URI", help="Private key in custody, such as awskms:keyfront/NAME."
    ),
    click.option("--key-pair-id", metavar="ID", help="ID of the public key in CloudFront (K…)."),
    click.option(
        "--key-group", metavar="NAME", help="Sign with the key that currently signs for this key group."
    ),
    click.option(
        "--records",
        metavar="URI",
        help="Custody that holds the key group's record.  [default: KEYFRONT_RECORDS, or the data folder's]",
    ),
    click.option(
        "--data",
        type=click.Path(path_type=Path),
        help="The data folder of the Keyfront whose records it follows.  [default: KEYFRONT_DATA, or ./state, or the "
        "user's]",
    ),
    click.option(
        "--agent",
        metavar="ADDRESS",
        help="Agent that signs for the key group.  [default: $KEYFRONT_AGENT]",
    ),
)


class GrantOptions(msgspec.Struct, frozen=True):
    """The options that both signing commands have for what a signature grants."""

    expires: Moment | None
    starts: Moment | None
    ip: str | None
    hash_name: HashName | None


grant_options = option_group(
    "grant",
    GrantOptions,
    click.option("--expires", type=_MOMENT, help="When it expires."),
    click.option("--starts", type=_MOMENT, help="When it becomes valid."),
    click.option("--ip", metavar="CIDR", help="IPv4 address or network that the viewer must come from."),
    click.option(
        "--hash",
        "hash_name",
        type=click.Choice(["SHA1", "SHA256"]),
        help="Default: SHA1 for RSA keys, SHA256 for ECDSA keys.",
    ),
)


def _warn_if_expired(expires: Moment | None, now: float) -> None:
    """Warn that every viewer will be refused. The URL is signed anyway, because tests of refusals need it."""
    then = now if expires is None else epoch_of(expires, now)
    if then <= now:
        when = datetime.fromtimestamp(then, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        click.echo(f"keyfront: it has already expired ({when}): every request with it is refused", err=True)


@click.command()
@click.argument("url")
@signing_key_options
@grant_options
@click.option("--resource", metavar="PATTERN", help="Custom policy for all URLs that match (* and ?).")
@click.option("--policy", type=FILE_OR_STDIN, help="Custom policy, signed verbatim.")
@click.option(
    "--as-is", is_flag=True, help="Sign the URL unmodified, for clients that send exactly that URL."
)
def sign(
    url: str,
    key: SigningKeyOptions,
    grant: GrantOptions,
    resource: str | None,
    policy: Path | None,
    as_is: bool,
) -> None:
    """Print URL signed for CloudFront or Keyfront.

    The URL is first normalized to the form that browsers and HTTP libraries send, so the printed URL works as it is.

    \b
        keyfront sign https://cdn.example.com/a.jpg --key-pair-id K2JCJMDEHXQW5F --private-key key.pem \\
            --expires 1h
        keyfront sign https://cdn.example.com/a.jpg --key-group photos --expires 1h
    """
    now = time.time()
    own = None if policy is None else read_file(policy)
    warnings.simplefilter("ignore", ExpiredWarning)  # _warn_if_expired
    signed = signing.sign_url(
        url,
        key.signer(),
        expires=grant.expires,
        starts=grant.starts,
        ip=grant.ip,
        resource=resource,
        policy=own,
        hash_name=grant.hash_name,
        as_is=as_is,
        now=now,
    )
    _warn_if_expired(parse_policy(own).expires if own is not None else grant.expires, now)
    click.echo(signed)


class CookieOptions(msgspec.Struct, frozen=True):
    """The attributes of the cookies."""

    domain: str | None
    path: str
    same_site: str | None
    partitioned: bool
    insecure: bool


cookie_options = option_group(
    "attributes",
    CookieOptions,
    click.option("--domain", help="Domain attribute."),
    click.option("--path", default="/", show_default=True, help="Path attribute."),
    click.option("--same-site", type=click.Choice(["Lax", "Strict", "None"]), help="SameSite attribute."),
    click.option("--partitioned", is_flag=True, help="Partitioned attribute."),
    click.option("--insecure", is_flag=True, help="Omit Secure, for tests over HTTP."),
)


@click.command("sign-cookies")
@click.argument("resource")
@signing_key_options
@grant_options
@click.option("--canned", is_flag=True, help="RESOURCE is a single URL, and the cookies grant only that URL.")
@cookie_options
@click.option(
    "--format",
    "form",
    type=click.Choice(["set-cookie", "cookie", "json"]),
    default="set-cookie",
    show_default=True,
    help="Set-Cookie headers, the Cookie header that a browser then sends, or names and values as JSON.",
)
def sign_cookies(
    resource: str,
    key: SigningKeyOptions,
    grant: GrantOptions,
    canned: bool,
    attributes: CookieOptions,
    form: str,
) -> None:
    """Print cookies that grant the URLs of RESOURCE, a URL in which * and ? are wildcards.

    \b
        keyfront sign-cookies 'https://cdn.example.com/films/*' --key-pair-id K2JCJMDEHXQW5F \\
            --private-key key.pem --expires 6h --domain example.com
    """
    now = time.time()
    warnings.simplefilter("ignore", ExpiredWarning)  # _warn_if_expired
    cookies = signing.sign_cookies(
        resource,
        key.signer(),
        expires=grant.expires,
        starts=grant.starts,
        ip=grant.ip,
        canned=canned,
        hash_name=grant.hash_name,
        domain=attributes.domain,
        path=attributes.path,
        secure=not attributes.insecure,
        same_site=cast('Literal["Lax", "Strict", "None"] | None', attributes.same_site),
        partitioned=attributes.partitioned,
        now=now,
    )
    _warn_if_expired(grant.expires, now)
    if form == "json":
        click.echo(json.dumps(dict(cookies.values), indent=2))
    elif form == "cookie":
        click.echo(f"Cookie: {cookies.header}")
    else:
        for value in cookies.set_cookie:
            click.echo(f"Set-Cookie: {value}")
