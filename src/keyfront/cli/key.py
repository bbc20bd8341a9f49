"""`keyfront key`: what a key file contains, and what is known about the keys of an account (docs/guide/keys.md)."""

from __future__ import annotations

import os
import shlex
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keyfront.cli.account import Account as Chosen
from keyfront.cli.account import account_options
from keyfront.cli.durations import DurationType, duration_text
from keyfront.cli.options import FILE_OR_STDIN, json_option, with_options
from keyfront.cli.output import iso_text, print_columns, print_json, print_warning
from keyfront.cli.sign import read_file, read_passphrase
from keyfront.errors import KeyLoadError
from keyfront.signing.keys import Algorithm, load_public_key, parse_private_key

if TYPE_CHECKING:
    from keyfront.custody.key_record import Entry, KeyGroupRecord
    from keyfront.lifecycle.findings import Bounds, Facts, Finding, KnownKey


@click.group()
def key() -> None:
    """Inspect keys: in files, and in an account."""


@key.command("check")
@click.argument("file", type=FILE_OR_STDIN)
@click.option("--passphrase-file", type=FILE_OR_STDIN, help="File with the private key's passphrase.")
def check_key(file: Path, passphrase_file: Path | None) -> None:
    """Report what FILE contains, whether the key can sign, and what to fix, and print the matching public key.

    The public key is what CloudFront accepts as EncodedKey. No part of a private key is printed.
    """
    data = read_file(file)
    try:
        public = load_public_key(data)
    except KeyLoadError as error:
        if b"BEGIN PUBLIC KEY" in data:
            raise KeyLoadError(f"{file}: {error}") from error
        private = parse_private_key(data, read_passphrase(passphrase_file))
        public = private.public_key
        click.echo(f"{file}: a private key, {public.algorithm}: it can sign for CloudFront", err=True)
        for note in _notes(
            data, shlex.quote("/dev/stdin" if str(file) == "-" else str(file)), public.algorithm
        ):
            click.echo(f"  {note}", err=True)
    else:
        click.echo(f"{file}: a public key, {public.algorithm}: CloudFront accepts it as it is", err=True)
    click.echo(f"SHA-256 of the public key: {public.fingerprint}", err=True)
    click.echo(public.pem, nl=False)


def _notes(data: bytes, file: str, algorithm: Algorithm) -> list[str]:
    """What other tools may refuse in a private key that Keyfront can read.

    :param file: the file's path, quoted for a shell.
    """
    notes = []
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or data[:3] == b"\xef\xbb\xbf":
        notes.append("It begins with a byte order mark, which other tools refuse: save it as plain UTF-8.")
    if b"-----BEGIN" not in data.replace(b"\0", b""):
        der = data[:1] == b"\x30"  # a SEQUENCE
        convert = f"openssl pkey -in {file}" if der else f"base64 -d {file} | openssl pkey -inform DER"
        notes.append(f"It is not PEM text, which most other tools require: `{convert} -out private_key.pem`")
    elif b"\\n" in data:
        notes.append("Its line breaks are written as \\n; other tools need real ones.")
    elif b"\n" not in data.strip().replace(b"\0", b""):
        notes.append("Its line breaks are lost; other tools need them.")
    if algorithm != "RSA-2048":
        notes.append("The AWS CLI version 1 signs with RSA keys only.")
    elif b"BEGIN PRIVATE KEY" in data:
        notes.append(
            "The AWS CLI version 1 signs with PKCS#1 only (BEGIN RSA PRIVATE KEY): "
            f"`openssl pkey -traditional -in {file} -out rsa_key.pem`"
        )
    if b"ENCRYPTED" in data:
        notes.append("It is encrypted: signers need its passphrase.")
    return notes


# ------------------------------------------------------------------------------------------------------------
# The keys of an account


_key_options = with_options(
    account_options,
    click.option(
        "--age",
        type=DurationType(),
        default="365d",
        show_default=True,
        help="The maximum age of a key that no schedule replaces.",
    ),
    json_option,
)


def _facts(account: Chosen) -> Facts:
    from keyfront.custody.schemes import open_records
    from keyfront.lifecycle.inventory import Account, survey  # botocore's client, which few commands need

    place = open_records(account.records) if account.records else None
    return survey(
        Account(account.endpoint_url, account.profile, credentials=account.credentials),
        place,
        os.environ,
        print_warning,
        account.commands(),
    )


@key.command("list")
@_key_options
def list_keys(age: float, as_json: bool, account: Chosen) -> None:
    """List the public keys of an account, with what is known about each: its stage in its group's rotation, when its
    term ends, where its private key is, what trusts it, and how edges see it used.

    Amazon CloudFront does not report what its edges see: there, `last seen` and `share` are unknown (?).
    """
    from keyfront.lifecycle.findings import Bounds

    facts = _facts(account)
    now = time.time()
    rows = [_row(facts, *each, now, Bounds(age=age)) for each in _keys(facts)]
    if as_json:
        print_json({"Time": now, "UseKnown": facts.uses is not None, "Keys": rows})
        return
    print_columns(
        (
            "key", "name", "stage", "age", "ends", "groups", "distributions", "custody", "last seen", "share",
            "hash", "application",
        ),
        [_texts(row, now, known=facts.uses is not None) for row in rows],
    )  # fmt: skip


@key.command("warnings")
@_key_options
@click.option(
    "--at-least",
    type=click.Choice(["note", "warning", "critical"]),
    default="note",
    show_default=True,
    help="The lowest severity to show.",
)
def warnings_(age: float, as_json: bool, at_least: str, account: Chosen) -> None:
    """Show warnings from the dates and use of keys (docs/reference/warnings.md). Exit status 1: there are any.

    \b
        keyfront key warnings --at-least warning || mail -s "keys" ops@example.com
    """
    from keyfront.lifecycle.findings import Bounds, Severity, findings

    found = [
        each
        for each in findings(_facts(account), time.time(), Bounds(age=age))
        if each.severity >= Severity[at_least.upper()]
    ]
    if as_json:
        print_json([_finding(each) for each in found])
    else:
        for each in found:
            click.echo(f"{each.severity.name.lower()} {each.code}: {each.sentence}\n    {each.advice}")
    sys.exit(1 if found else 0)


def _finding(found: Finding) -> dict[str, Any]:
    return {
        "Code": found.code,
        "Severity": found.severity.name.lower(),
        "Kind": found.kind,
        "Subject": found.subject,
        "Name": found.name,
        "Sentence": found.sentence,
        "Advice": found.advice,
    }


_Row = tuple["KnownKey | None", "KeyGroupRecord | None", "Entry | None"]


def _keys(facts: Facts) -> list[_Row]:
    """Every public key, and every key of a rotation that CloudFront does not know yet, or no longer; keys of rotated
    groups first, from the oldest to the newest."""
    known = {each.id: each for each in facts.keys}
    found: list[_Row] = []
    for record in facts.records or ():
        for entry in record.entries:
            if not entry.gone:
                found.append((known.pop(entry.key_pair_id, None), record, entry))
    rest = sorted(known.values(), key=lambda each: (not each.groups, each.groups, each.created, each.id))
    return found + [(each, None, None) for each in rest]


def _row(
    facts: Facts,
    known: KnownKey | None,
    record: KeyGroupRecord | None,
    entry: Entry | None,
    now: float,
    bounds: Bounds,
) -> dict[str, Any]:
    from keyfront.lifecycle.findings import ends
    from keyfront.lifecycle.key_names import name_of

    id_ = known.id if known else entry.key_pair_id if entry else ""
    use = facts.use(id_)
    groups = list(known.groups) if known else []
    created = known.created if known else entry.created if entry else 0.0
    if record and entry:
        end = ends(record, entry, use, bounds)
    else:
        end = created + bounds.age if groups else None
    trusting = {one for each in facts.groups if each.name in groups for one in each.distributions}
    return {
        "Id": id_ or None,
        "Name": known.name if known else name_of(entry.uri) if entry else "",
        "Stage": entry.stage.value if entry else None,
        "Group": record.group if record else None,
        "Groups": groups,
        "Distributions": sorted(trusting),
        "Custody": entry.uri if entry else None,
        "Lost": facts.lost.get(entry.uri) if entry else None,
        "Application": (record.terms.application or None) if record else None,
        "Created": iso_text(min(created, entry.created) if entry and entry.created else created),
        "Active": iso_text(entry.signing if entry else 0.0),
        "Ends": iso_text(end or 0.0),
        "LastSeen": iso_text(use.last_seen if use else None),
        "FirstSeen": iso_text(use.first_seen if use else 0.0),
        "Requests": use.requests if use else None if facts.uses is None else 0,
        "Share": use.share if use else None if facts.uses is None else 0.0,
        "Hashes": {name: iso_text(each.last_seen) for name, each in use.hashes.items()} if use else {},
        "SeenAt": sorted(use.distributions) if use else [],
        "SignaturesEnd": iso_text(use.signatures_end if use else 0.0),
    }


def _texts(row: dict[str, Any], now: float, *, known: bool) -> tuple[str, ...]:
    created, seen = _seconds(row["Created"]), _seconds(row["LastSeen"])
    return (
        row["Id"] or "-",
        row["Name"],
        (row["Stage"] or "-") + (" (lost)" if row["Lost"] else ""),
        _span(now - created) if created else "-",
        row["Ends"][:10] if row["Ends"] else "-",
        ",".join(row["Groups"]) or "-",
        ",".join(row["Distributions"]) or "-",
        (row["Custody"] or "-").partition("?")[0],
        _ago(now - seen) if seen else "never" if known else "?",
        f"{row['Share']:.1%}" if known else "?",
        ",".join(sorted(row["Hashes"])) or "-",
        row["Application"] or "-",
    )


def _span(seconds: float) -> str:
    """The duration, to its largest unit or two."""
    whole = int(max(seconds, 0))
    return (
        duration_text(whole - whole % (86400 if whole >= 86400 else 3600 if whole >= 3600 else 60))
        if whole >= 60
        else f"{whole}s"
    )


def _ago(seconds: float) -> str:
    return f"{_span(seconds)} ago"


def _seconds(text: str | None) -> float:
    return datetime.fromisoformat(text).timestamp() if text else 0.0
