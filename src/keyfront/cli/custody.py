"""`keyfront custody`: private keys where they are kept, whatever keeps them (docs/guide/custody.md).

Keys are named by their URIs. No key, passphrase or PIN is an argument: other users could read it.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from keyfront.cli.durations import DurationType
from keyfront.cli.options import ALGORITHMS, FILE_OR_STDIN, json_option
from keyfront.cli.output import print_columns, print_json
from keyfront.errors import CustodyError, NoSuchKey, SettingsError

if TYPE_CHECKING:
    from keyfront.custody import Custody, HeldKey
    from keyfront.signing.keys import Algorithm

_LABELS = click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="NAME=VALUE",
    help="A note that stays with the key; repeatable.",
)


@click.group()
def custody() -> None:
    """Private keys: in an encrypted folder, an HSM, AWS, Vault."""


@custody.command("create")
@click.argument("uri")
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
    """Make a key. Prints its public half, for CloudFront.

    \b
        keyfront custody create file:/srv/keys/photos-1 > photos-1.pem
    """
    place, name = _key(uri)
    kind = cast("Algorithm", ALGORITHMS[algorithm])
    _made(place.create(name, kind, now=time.time(), labels=_pairs(labels)), as_json)


@custody.command("import")
@click.argument("uri")
@click.argument("file", type=FILE_OR_STDIN)
@click.option("--passphrase-file", type=FILE_OR_STDIN, help="File with the private key's passphrase.")
@_LABELS
@json_option
def import_key(
    uri: str, file: Path, passphrase_file: Path | None, labels: tuple[str, ...], as_json: bool
) -> None:
    """Take a private key that was made elsewhere: PEM, DER or base64 in FILE (- is standard input).

    Prints its public half. The file stays where it is: whether another copy is to be kept is for you to say.
    """
    from keyfront.signing.keys import parse_private_key

    place, name = _key(uri)
    if passphrase_file is not None and str(file) == str(passphrase_file) == "-":
        raise SettingsError("standard input holds the key or its passphrase, not both")
    text = _read(file)
    passphrase = None if passphrase_file is None else _read(passphrase_file).rstrip(b"\r\n")
    _made(
        place.import_key(name, parse_private_key(text, passphrase), now=time.time(), labels=_pairs(labels)),
        as_json,
    )


@custody.command("list")
@click.argument("place")
@json_option
def list_keys(place: str, as_json: bool) -> None:
    """List the keys of a place, those to be deleted among them."""
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
                _when(held.created),
                ",".join(held.hash_names),
                "yes" if held.exportable else "no",
                _when(held.delete_at) if held.delete_at else "",
                " ".join(f"{name}={value}" for name, value in sorted(held.labels.items())),
            )
            for held in found
        ],
    )


@custody.command("show")
@click.argument("uri")
@click.option("--public-key", "only_public", is_flag=True, help="Print only its public half, in PEM.")
@json_option
def show(uri: str, only_public: bool, as_json: bool) -> None:
    """Show what is known of a key."""
    place, name = _key(uri)
    held = place.describe(name)
    if as_json:
        print_json(_as_json(held))
        return
    if not only_public:
        for label, text in (
            ("key", held.uri),
            ("algorithm", held.public_key.algorithm),
            ("created", _when(held.created)),
            ("hashes", ", ".join(held.hash_names)),
            ("exportable", "yes" if held.exportable else "no"),
            ("to be deleted", _when(held.delete_at) if held.delete_at else "no"),
            ("labels", ", ".join(f"{name}={value}" for name, value in sorted(held.labels.items())) or "none"),
            ("fingerprint", held.public_key.fingerprint),
        ):
            click.echo(f"{label:14}{text}")
    click.echo(held.public_key.pem, nl=False)


@custody.command("delete")
@click.argument("uri")
@click.option(
    "--grace",
    type=DurationType(),
    default="30d",
    show_default=True,
    help="How long it can be taken back; 0: not at all.",
)
@click.option("--yes", is_flag=True, help="Do not ask, where there is no grace.")
def delete(uri: str, grace: float, yes: bool) -> None:
    """Let a key sign no more from now on, and be gone for good after the grace."""
    place, name = _key(uri)
    held = place.describe(name)
    if not grace and not yes:
        click.confirm(f"{held.uri} will be gone at once and for good. Delete it?", abort=True, err=True)
    held = place.delete(name, grace=grace, now=time.time())
    try:
        place.describe(name)
    except NoSuchKey:
        _say(f"{held.uri} is deleted")
    else:
        _say(
            f"{held.uri} signs no more, and is gone for good at {_when(held.delete_at)}; until then: "
            f"keyfront custody undelete {held.uri}"
        )


@custody.command("undelete")
@click.argument("uri")
def undelete(uri: str) -> None:
    """Take a delete back."""
    place, name = _key(uri)
    _say(f"{place.undelete(name).uri} stays, and signs again")


@custody.command("export")
@click.argument("uri")
@click.option("--out", type=click.Path(path_type=Path), help="A new file, which only you can read.")
@click.option("--stdout", "to_stdout", is_flag=True, help="To standard output.")
def export(uri: str, out: Path | None, to_stdout: bool) -> None:
    """Give a private key away, as PKCS#8 in PEM, not encrypted. Some places never do."""
    if (out is None) is not to_stdout:
        raise SettingsError("say where the private key goes: --out FILE, or --stdout")
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
            raise SettingsError(f"{out}: {error.strerror}; the key is written to a new file only") from error
    _say(f"warning: {out or 'what was printed'} is the private key of {uri}: whoever has it can sign")


@custody.command("rewrap")
@click.argument("place")
@click.option(
    "--kek", metavar="SOURCE", help="env:VARIABLE, file:/path, or a key or record in another custody."
)
@click.option("--in-folder", is_flag=True, help="The key file custody.key in the folder itself.")
def rewrap(place: str, kek: str | None, in_folder: bool) -> None:
    """Change the key-encrypting key of a folder (file:). PLACE names the one that is in force.

    \b
        keyfront custody rewrap 'file:/srv/keys/' --kek env:KEYFRONT_CUSTODY_PASSPHRASE
    """
    from keyfront.custody.adapters.filesystem.custody import FileCustody

    if (kek is None) is not in_folder:
        raise SettingsError("say what the new key-encrypting key is: --kek SOURCE, or --in-folder")
    found = _opened(place)
    if not isinstance(found, FileCustody):
        raise CustodyError(f"{place} seals its keys itself: only file: has a key-encrypting key to change")
    click.echo(found.rewrap(kek))
    _say("from now on the place is opened by this URI; keys keep their names, and their URIs the new options")


# ---- what is asked and printed


def _opened(uri: str) -> Custody:
    from keyfront.custody import open_place

    return open_place(uri)


def _key(uri: str) -> tuple[Custody, str]:
    from keyfront.custody import split

    if not (name := split(uri).name):
        raise CustodyError(f"{uri} names a place, not a key: the name of a key follows the last slash")
    return _opened(uri), name


def _read(path: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error


def _made(held: HeldKey, as_json: bool) -> None:
    if as_json:
        print_json(_as_json(held))
    else:
        _say(held.uri)
        click.echo(held.public_key.pem, nl=False)


def _as_json(held: HeldKey) -> dict[str, Any]:
    return {
        "URI": held.uri,
        "Name": held.name,
        "Algorithm": held.public_key.algorithm,
        "Created": _iso(held.created),
        "Hashes": list(held.hash_names),
        "Exportable": held.exportable,
        "DeleteAt": _iso(held.delete_at),
        "Labels": dict(sorted(held.labels.items())),
        "Fingerprint": held.public_key.fingerprint,
        "PublicKey": held.public_key.pem,
    }


def _pairs(texts: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or name in found:
            raise SettingsError(f"{text!r} is not of the form NAME=VALUE, or stands there twice")
        found[name] = value
    return found


def _when(seconds: float | None) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M") if seconds else "unknown"


def _iso(seconds: float | None) -> str | None:
    return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z") if seconds else None


def _say(text: str) -> None:
    click.echo(text, err=True)
