"""`keyfront sharing`: signed URLs and cookies that are used from many places (docs/guide/shared-links.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from keyfront.cli.account import Account, Selection, choose, selection_options
from keyfront.cli.options import json_option, option_group
from keyfront.cli.output import iso_text, minute_text, print_columns, print_json
from keyfront.errors import AccountError

if TYPE_CHECKING:
    from keyfront.cloudfront.shared_links import SharedLink

_account = option_group(
    "account",
    lambda **given: choose(Selection(**given)),
    selection_options,
    names=("endpoint_url", "profile", "aws", "data"),
)


@click.group()
def sharing() -> None:
    """Signed URLs and cookies that are used from many places."""


@sharing.command("list")
@_account
@json_option
def list_(account: Account, as_json: bool) -> None:
    """List the credentials that were found to be shared in the last 30 days."""
    found = _links(account)
    if as_json:
        print_json([_printable(each) for each in found])
        return
    heads = ("credential", "label", "networks", "countries", "agents", "requests", "last shared")
    print_columns(
        heads,
        [
            (
                each.credential,
                each.label or "-",
                *(str(n) for n in msgspec.structs.astuple(each.most)[:4]),
                minute_text(each.last, "-"),
            )
            for each in found
        ],
    )


@sharing.command()
@_account
@click.argument("credential")
@json_option
def show(account: Account, credential: str, as_json: bool) -> None:
    """Show what was found about CREDENTIAL, and the thresholds that it reached."""
    found = next((each for each in _links(account) if credential in (each.credential, each.label)), None)
    if found is None:
        raise AccountError(
            f"no shared credential has the ID or label {credential!r}: see `keyfront sharing list{account.options}`"
        )
    if as_json:
        print_json(_printable(found))
        return
    lines = {
        "credential": found.credential,
        "label": found.label or "-",
        "keys": ", ".join(found.key_pair_ids),
        "distributions": ", ".join(found.distributions),
        "first shared": minute_text(found.first, "-"),
        "last shared": minute_text(found.last, "-"),
    }
    for name, value in lines.items():
        click.echo(f"{name:<14}{value}")
    click.echo("within an hour:")
    for field in msgspec.structs.fields(found.now):
        now, most = getattr(found.now, field.name), getattr(found.most, field.name)
        threshold = found.thresholds.get(field.name)
        reached = "" if threshold is None else f", threshold {threshold}"
        click.echo(f"  {field.name:<12}{now} (at most {most}{reached})")


def _links(account: Account) -> tuple[SharedLink, ...]:
    from keyfront.cloudfront.session import CloudFrontClient  # loads botocore, which is slow
    from keyfront.cloudfront.shared_links import fetch

    client = CloudFrontClient(
        account.endpoint_url, account.profile, credentials=account.credentials, user_agent="keyfront-sharing"
    )
    return fetch(client.session, client.endpoint).items


def _printable(found: SharedLink) -> dict[str, object]:
    shown: dict[str, object] = msgspec.to_builtins(found)
    return shown | {"First": iso_text(found.first), "Last": iso_text(found.last)}
