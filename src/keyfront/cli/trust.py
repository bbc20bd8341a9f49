"""`keyfront trust`: let programs on this machine trust the local authority of a Keyfront."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keyfront.cli.options import data_option, data_words
from keyfront.errors import SettingsError
from keyfront.private_files import replace_file

if TYPE_CHECKING:
    from cryptography import x509

NAME = "keyfront-local-authority"

STORES = (
    (Path("/usr/local/share/ca-certificates"), f"{NAME}.crt", ("update-ca-certificates",)),
    (Path("/etc/pki/ca-trust/source/anchors"), f"{NAME}.pem", ("update-ca-trust",)),
    (Path("/etc/ca-certificates/trust-source/anchors"), f"{NAME}.pem", ("trust", "extract-compat")),
)
"""Where Linux distributions look for additional authorities, the file's name there, and the command that applies it:
Debian, Ubuntu, and Alpine; Fedora, Red Hat, and SUSE's newer releases; Arch."""
KEYCHAIN = "/Library/Keychains/System.keychain"


@click.command()
@data_option
@click.option("--install", is_flag=True, help="Add it to the authorities that this machine trusts.")
@click.option("--remove", is_flag=True, help="Remove it from the authorities that this machine trusts.")
@click.option(
    "--export", metavar="FILE", help="Write its certificate, in PEM, to this file, or - for standard output."
)
def trust(data: Path, install: bool, remove: bool, export: str | None) -> None:
    """Show the local authority, which issues certificates if `keyfront up --tls` has none of its own, and how to trust
    it.

    It can vouch only for names that are reserved for private use, for the installation's own domain, and for aliases of
    its distributions.
    """
    from keyfront.runtime.local_authority import LocalAuthority, permitted

    if install + remove + (export is not None) > 1:
        raise SettingsError("--install, --remove, and --export exclude each other")
    authority = LocalAuthority(data)
    certificate = authority.certificate()
    if certificate is None:
        raise SettingsError(
            f"there is no local authority in {data}: `keyfront up --data {shlex.quote(str(data))}` creates one if "
            "it is started with --tls and without --certificates"
        )
    if export is not None:
        _export(certificate, export)
    elif install:
        _install(authority.path, data)
    elif remove:
        _remove(authority.path, data)
    else:
        _show(authority.path, certificate, permitted(certificate), data)


def _show(path: Path, certificate: x509.Certificate, domains: set[str], data: Path) -> None:
    from cryptography.hazmat.primitives import hashes

    file = shlex.quote(str(path.absolute()))
    words = data_words(data.absolute())
    click.echo(f"authority    {path}")
    click.echo(f"SHA-256      {certificate.fingerprint(hashes.SHA256()).hex(':').upper()}")
    click.echo(f"valid until  {certificate.not_valid_after_utc:%Y-%m-%d}")
    click.echo(f"vouches for  {', '.join(sorted(domains))}, and names below them")
    click.echo("\nTo trust it on this machine (as root), and in browsers that use the system's authorities:")
    click.echo(f"    keyfront trust --install{words}")
    click.echo("\nTo trust it in one shell, instead of the system's authorities:")
    click.echo(f"    export CURL_CA_BUNDLE={file}          # curl")
    click.echo(f"    export REQUESTS_CA_BUNDLE={file}      # Python: requests")
    click.echo(f"    export SSL_CERT_FILE={file}           # Python: ssl, urllib, httpx; Go; OpenSSL")
    click.echo("In addition to those that Node.js trusts:")
    click.echo(f"    export NODE_EXTRA_CA_CERTS={file}     # Node.js")
    click.echo("\nFirefox, and Chromium on Linux, have databases of their own (certutil is part of NSS):")
    click.echo("    mkdir -p $HOME/.pki/nssdb")
    click.echo(f"    certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n {NAME} -i {file}")
    click.echo("\nFor another machine, or a container:")
    click.echo(f"    keyfront trust --export {NAME}.pem{words}")


def _export(certificate: x509.Certificate, file: str) -> None:
    """A certificate is no secret: whoever may enter the folder may read the file."""
    from cryptography.hazmat.primitives.serialization import Encoding

    pem = certificate.public_bytes(Encoding.PEM)
    if file == "-":
        click.echo(pem, nl=False)
        return
    try:
        replace_file(Path(file), pem, mode=0o644)
    except OSError as error:
        raise SettingsError(f"{file} cannot be written: {error.strerror}") from error


def _install(path: Path, data: Path) -> None:
    if sys.platform == "darwin":
        _run("security", "add-trusted-cert", "-d", "-r", "trustRoot", "-k", KEYCHAIN, str(path))
    else:
        folder, name, command = _store()
        try:
            shutil.copyfile(path, folder / name)
        except OSError as error:
            raise SettingsError(_as_root(error, data, "--install")) from error
        _run(*command)
    click.echo("this machine trusts the local authority")


def _remove(path: Path, data: Path) -> None:
    if sys.platform == "darwin":
        _run("security", "remove-trusted-cert", "-d", str(path))
    else:
        folder, name, command = _store()
        try:
            (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise SettingsError(_as_root(error, data, "--remove")) from error
        _run(*command)
    click.echo("this machine does not trust the local authority")


def _store() -> tuple[Path, str, tuple[str, ...]]:
    """:raises SettingsError: if this system's store is not known."""
    for folder, name, command in STORES:
        if folder.is_dir() and shutil.which(command[0]) is not None:
            return folder, name, command
    raise SettingsError(
        "this system has none of update-ca-certificates, update-ca-trust, and trust: add the file to the system's "
        "authorities by its own tools"
    )


def _as_root(error: OSError, data: Path, option: str) -> str:
    hint = (
        "" if os.geteuid() == 0 else f": run `sudo keyfront trust {option} --data {shlex.quote(str(data))}`"
    )
    return f"{error.filename}: {error.strerror}{hint}"


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - named above
    except OSError as error:
        raise SettingsError(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        raise SettingsError(f"{command[0]} failed: {(done.stderr or done.stdout).strip()}")
