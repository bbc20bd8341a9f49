"""`keyfront custody`: private keys, wherever they are stored (docs/guide/custody.md).

Keys are named by their URIs; a name alone is a key in the custody of the data folder's Keyfront. No key, passphrase or
PIN is an argument, which other users could read.
"""

from __future__ import annotations

import functools
import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from keyfront.cli.durations import DurationType
from keyfront.cli.options import (
    ALGORITHMS,
    FILE_OR_STDIN,
    Command,
    Decorator,
    data_folder,
    json_option,
    with_options,
)
from keyfront.cli.output import iso_text, minute_text, print_columns, print_json, print_note
from keyfront.custody.default_paths import default_records
from keyfront.custody.key_uri import split
from keyfront.errors import CustodyError, NoSuchKey, SettingsError

if TYPE_CHECKING:
    from keyfront.custody import Custody, HeldKey
    from keyfront.signing.keys import Algorithm

_LABELS = click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="NAME=VALUE",
    help="A label of the key; repeatable.",
)


def _located(argument: str, *, required: bool = True) -> Decorator:
    """Gives a command the option `--data` and the argument `argument`, and completes the URI in the argument."""

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def located(*args: Any, data: Path | None, **given: Any) -> Any:
            uri = given[argument] or ""
            if ":" not in uri:
                given[argument] = split(default_records(data=data_folder(data))).with_name(uri)
            return command(*args, **given)

        return with_options(
            click.argument(argument, required=required),
            click.option(
                "--data",
                type=click.Path(path_type=Path),
                help="The data folder of the Keyfront whose custody a name alone refers to.",
            ),
        )(located)

    return decorate


@click.group()
def custody() -> None:
    """Private keys: in an encrypted folder, an HSM, AWS, Vault."""


@custody.command("create")
@_located("uri")
@click.option(
    "--algorithm",
    type=click.Choice(list(ALGORITHMS), case_sensitive=False),
    default="ecdsa-p256",
    show_default=True,
    help="The kind of key.",
)
@_LABELS
@json_option
def create(uri: str, algorithm: str, labels: tuple[str, ...], as_json: bool) -> None:
    """Create a key, and print its public key, for CloudFront.

    \b
        keyfront custody create photos-1 > photos-1.pem
        keyfront custody create file:/srv/keys/photos-1 > photos-1.pem
    """
    place, name = _key(uri)
    kind = cast("Algorithm", ALGORITHMS[algorithm])
    _print_key(place.create(name, kind, now=time.time(), labels=_pairs(labels)), as_json)


@custody.command("import")
@_located("uri")
@click.argument("file", type=FILE_OR_STDIN)
@click.option("--passphrase-file", type=FILE_OR_STDIN, help="File with the private key's passphrase.")
@_LABELS
@json_option
def import_key(
    uri: str, file: Path, passphrase_file: Path | None, labels: tuple[str, ...], as_json: bool
) -> None:
    """Import an existing private key: PEM, DER or base64 in FILE (-: standard input), and print its public key.

    The file is not deleted: it is up to you whether to keep it as another copy.
    """
    from keyfront.signing.keys import parse_private_key

    place, name = _key(uri)
    if passphrase_file is not None and str(file) == str(passphrase_file) == "-":
        raise SettingsError("standard input cannot be both the key and its passphrase")
    text = _read(file)
    passphrase = None if passphrase_file is None else _read(passphrase_file).rstrip(b"\r\n")
    _print_key(
        place.import_key(name, parse_private_key(text, passphrase), now=time.time(), labels=_pairs(labels)),
        as_json,
    )


@custody.command("list")
@_located("place", required=False)
@json_option
def list_keys(place: str, as_json: bool) -> None:
    """List the keys of PLACE, including those to be deleted. Without it, of the custody of your Keyfront."""
    found = list(_opened(place).list())
    if as_json:
        print_json([_as_json(held) for held in found])
        return
    print_columns(
        ("name", "algorithm", "created", "hashes", "exportable", "to be deleted", "labels"),
        [
            (
                held.name,
                held.public_key.algorithm,
                minute_text(held.created, "unknown"),
                ",".join(held.hash_names),
                "yes" if held.exportable else "no",
                minute_text(held.delete_at, ""),
                " ".join(f"{name}={value}" for name, value in sorted(held.labels.items())),
            )
            for held in found
        ],
    )


@custody.command("show")
@_located("uri")
@click.option("--public-key", "only_public", is_flag=True, help="Print only the public key, in PEM.")
@json_option
def show(uri: str, only_public: bool, as_json: bool) -> None:
    """Show a key."""
    place, name = _key(uri)
    held = place.describe(name)
    if as_json:
        print_json(_as_json(held))
        return
    if not only_public:
        for label, text in (
            ("key", held.uri),
            ("algorithm", held.public_key.algorithm),
            ("created", minute_text(held.created, "unknown")),
            ("hashes", ", ".join(held.hash_names)),
            ("exportable", "yes" if held.exportable else "no"),
            ("to be deleted", minute_text(held.delete_at, "no")),
            ("labels", ", ".join(f"{name}={value}" for name, value in sorted(held.labels.items())) or "none"),
            ("fingerprint", held.public_key.fingerprint),
        ):
            click.echo(f"{label:14}{text}")
    click.echo(held.public_key.pem, nl=False)


@custody.command("delete")
@_located("uri")
@click.option(
    "--grace",
    type=DurationType(),
    default="30d",
    show_default=True,
    help="How long the deletion can be canceled; 0: delete immediately.",
)
@click.option("--yes", is_flag=True, help="Do not prompt before an immediate deletion.")
def delete(uri: str, grace: float, yes: bool) -> None:
    """Stop a key from signing at once, and delete it after the grace period."""
    place, name = _key(uri)
    held = place.describe(name)
    if not grace and not yes:
        click.confirm(
            f"{held.uri} will be deleted immediately and permanently. Delete it?", abort=True, err=True
        )
    held = place.delete(name, grace=grace, now=time.time())
    try:
        place.describe(name)
    except NoSuchKey:
        print_note(f"{held.uri} is deleted")
    else:
        when = minute_text(held.delete_at, "an unknown time")
        print_note(
            f"{held.uri} no longer signs, and is deleted permanently at {when}; to cancel: "
            f"keyfront custody undelete {shlex.quote(held.uri)}"
        )


@custody.command("undelete")
@_located("uri")
def undelete(uri: str) -> None:
    """Cancel a deletion."""
    place, name = _key(uri)
    print_note(f"{place.undelete(name).uri} is kept, and signs again")


@custody.command("export")
@_located("uri")
@click.option("--out", type=click.Path(path_type=Path), help="Write to a new file, which only you can read.")
@click.option("--stdout", "to_stdout", is_flag=True, help="Write to standard output.")
def export(uri: str, out: Path | None, to_stdout: bool) -> None:
    """Export a private key as unencrypted PKCS#8 in PEM. Some places never allow this."""
    if (out is None) is not to_stdout:
        raise SettingsError("give a destination for the private key: --out FILE, or --stdout")
    place, name = _key(uri)
    pem = place.export(name).to_pem()
    if out is None:
        click.echo(pem, nl=False)
    else:
        try:
            descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(pem)
        except OSError as error:
            raise SettingsError(f"{out}: {error.strerror}; the key is only written to a new file") from error
    print_note(f"warning: {out or 'the output'} is the private key of {uri}: anyone who has it can sign")


@custody.command("rewrap")
@_located("place")
@click.option(
    "--kek", metavar="SOURCE", help="env:VARIABLE, file:/path, or a key or record in another custody."
)
@click.option("--in-folder", is_flag=True, help="The key file custody.key in the folder itself.")
def rewrap(place: str, kek: str | None, in_folder: bool) -> None:
    """Change the key-encrypting key of a folder (file:). PLACE names the current one.

    \b
        keyfront custody rewrap 'file:/srv/keys/' --kek env:KEYFRONT_CUSTODY_PASSPHRASE
    """
    from keyfront.custody.adapters.filesystem.custody import FileCustody

    if (kek is None) is not in_folder:
        raise SettingsError("name the new key-encrypting key: --kek SOURCE, or --in-folder")
    found = _opened(place)
    if not isinstance(found, FileCustody):
        raise CustodyError(f"{place} encrypts its keys itself: only file: has a key-encrypting key to change")
    click.echo(found.rewrap(kek))
    print_note(
        "from now on, open the place with this URI; keys keep their names, and their URIs get the new options"
    )


# ---- helpers


def _opened(uri: str) -> Custody:
    from keyfront.custody import open_place

    return open_place(uri)


def _key(uri: str) -> tuple[Custody, str]:
    if not (name := split(uri).name):
        raise CustodyError(f"{uri} names a place, not a key: the name of a key follows the last slash")
    return _opened(uri), name


def _read(path: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error


def _print_key(held: HeldKey, as_json: bool) -> None:
    if as_json:
        print_json(_as_json(held))
    else:
        print_note(held.uri)
        click.echo(held.public_key.pem, nl=False)


def _as_json(held: HeldKey) -> dict[str, Any]:
    return {
        "URI": held.uri,
        "Name": held.name,
        "Algorithm": held.public_key.algorithm,
        "Created": iso_text(held.created),
        "Hashes": list(held.hash_names),
        "Exportable": held.exportable,
        "DeleteAt": iso_text(held.delete_at),
        "Labels": dict(sorted(held.labels.items())),
        "Fingerprint": held.public_key.fingerprint,
        "PublicKey": held.public_key.pem,
    }


def _pairs(texts: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or name in found:
            raise SettingsError(f"{text!r} is not of the form NAME=VALUE, or is given twice")
        found[name] = value
    return found
