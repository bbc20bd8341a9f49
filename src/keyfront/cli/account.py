"""The choice of the CloudFront that a command queries, Keyfront's or Amazon's, and of the rotation records.

An option takes precedence over the environment, and the environment over the Keyfront of the data folder. Amazon is
queried only if it is named (docs/decisions/0036-my-keyfront.md).
"""

from __future__ import annotations

import configparser
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from keyfront.cli.options import data_folder, option_group, with_options
from keyfront.custody.default_paths import (
    DATA_VARIABLE,
    RECORDS_VARIABLE,
    Installation,
    installation,
    own_custody,
)
from keyfront.errors import SettingsError
from keyfront.runtime.installation import is_running

if TYPE_CHECKING:
    from keyfront.lifecycle.findings import Commands

_ENDPOINTS = ("AWS_ENDPOINT_URL_CLOUDFRONT", "AWS_ENDPOINT_URL")
_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SHARED_CREDENTIALS_FILE")


class Account(msgspec.Struct, frozen=True):
    """The chosen account.

    - `endpoint_url` and `profile` are empty where botocore's own rules decide.
    - `credentials`: an access key ID and its secret, if they belong to the installation.
    - `data`: the data folder. `local`: what its Keyfront recorded about itself, if it is the one to query.
    - `records`: the URI of the custody that holds the rotation records; empty if they are unknown.
    - `options`: the options that choose the same account, as text that follows a command's name; empty, or it begins
      with a space.
    """

    endpoint_url: str
    profile: str
    credentials: tuple[str, str] | None
    data: Path
    local: Installation | None
    records: str
    options: str

    @property
    def running(self) -> bool:
        """Whether the Keyfront of the data folder is running and is the one to query."""
        return self.local is not None and is_running(self.data)

    def commands(self) -> Commands:
        """The commands that find this account, for advice."""
        from keyfront.lifecycle.findings import Commands

        if self.local is not None and not self.profile:
            return Commands.of_keyfront(self.options)
        endpoint, profile = shlex.quote(self.endpoint_url), shlex.quote(self.profile)
        before = f"export AWS_ENDPOINT_URL_CLOUDFRONT={endpoint}; " if self.endpoint_url else ""
        before += f"export AWS_PROFILE={profile}; " if self.profile else ""
        return Commands(self.options, before)

    def records_uri(self) -> str:
        """The URI of the rotation records.

        :raises SettingsError: if they are unknown.
        """
        if self.records:
            return self.records
        raise SettingsError(
            f"--records: name the custody that holds the rotation records of this account; those in {self.data} "
            "belong to the Keyfront there"
        )


class Selection(msgspec.Struct, frozen=True):
    """The values of the options that choose an account; empty, False, or None for those that are not given."""

    endpoint_url: str = ""
    profile: str = ""
    aws: bool = False
    data: Path | None = None
    records: str = ""

    def options(self) -> str:
        """The given options, as text that follows a command's name."""
        given = [
            *(["--data", str(self.data.absolute())] if self.data is not None else []),
            *(["--endpoint-url", self.endpoint_url] if self.endpoint_url else []),
            *(["--aws"] if self.aws else []),
            *(["--profile", self.profile] if self.profile else []),
            *(["--records", self.records] if self.records else []),
        ]
        return "".join(f" {shlex.quote(word)}" for word in given)


def choose(selection: Selection, environment: Mapping[str, str] = os.environ) -> Account:
    """Choose the CloudFront to query and the rotation records. Where the choice is not obvious from the options, it is
    printed to standard error.

    :raises SettingsError: if nothing names a CloudFront, the options or the environment contradict each other, or the
        data folder or its credentials cannot be read.
    """
    if selection.aws and selection.data is not None:
        raise SettingsError("--aws names Amazon, and --data names a Keyfront: leave out one of them")
    variable = next((name for name in _ENDPOINTS if environment.get(name)), "")
    named = selection.endpoint_url or (environment.get(variable, "") if selection.data is None else "")
    elsewhere = named or selection.aws or (selection.profile and selection.data is None)
    folder = data_folder(selection.data, environment)
    found = installation(folder)
    if found is None and (selection.data is not None or not elsewhere):
        raise SettingsError(_none_in(folder, selection, environment))
    local = found if found is not None and found.control else None
    if selection.aws and local is not None and not selection.endpoint_url and _same(named, local.control):
        raise SettingsError(f"--aws names Amazon, but {variable} names the Keyfront in {folder}: unset it")
    options = selection.options()
    if local is not None and (_same(named, local.control) or not elsewhere):
        records = _records(selection, environment, folder, local)
        if not named and selection.data is None:
            click.echo(
                f"keyfront: using the Keyfront in {folder} at {local.control}; --aws uses Amazon", err=True
            )
        if selection.profile:
            return Account(local.control, selection.profile, None, folder, local, records, options)
        others = named and any(environment.get(name) for name in _CREDENTIALS)
        own = None if others else read_credentials(folder)
        return Account(local.control, "", own, folder, local, records, options)
    if not elsewhere:
        raise SettingsError(
            f"the Keyfront in {folder} runs edges only: name the address of its control plane with --endpoint-url"
        )
    if local is not None and not selection.endpoint_url:
        where = named or (f"Amazon with the profile {selection.profile}" if selection.profile else "Amazon")
        click.echo(f"keyfront: using {where}, not the Keyfront in {folder}", err=True)
    default = own_custody(folder) if local is None else ""
    records = selection.records or environment.get(RECORDS_VARIABLE) or default
    return Account(selection.endpoint_url, selection.profile, None, folder, None, records, options)


selection_options = with_options(
    click.option(
        "--data",
        type=click.Path(path_type=Path),
        help=f"A Keyfront's data folder.  [default: {DATA_VARIABLE}, or ./state, or the user's]",
    ),
    click.option(
        "--endpoint-url",
        default="",
        metavar="URL",
        help="The API's address.  [default: AWS_ENDPOINT_URL, or the Keyfront in --data]",
    ),
    click.option("--aws", is_flag=True, help="Query Amazon, with the credentials that its tools would use."),
    click.option("--profile", default="", help="Profile in the credentials file; queries Amazon."),
)


account_options = option_group(
    "account",
    lambda **given: choose(Selection(**given)),
    selection_options,
    click.option(
        "--records",
        default="",
        metavar="URI",
        help=f"The custody that holds the rotation records.  [default: {RECORDS_VARIABLE}, or what `keyfront up` "
        "watches]",
    ),
    names=("endpoint_url", "profile", "aws", "records", "data"),
)
"""Gives a command the options that choose an account, and the choice as the parameter `account`. The choice is made,
and may fail, before the command runs."""


def _same(one: str, other: str) -> bool:
    """Whether two addresses name the same API."""
    return one.rstrip("/").replace("//localhost:", "//127.0.0.1:") == other


def unwatched(account: Account) -> str:
    """Why no running Keyfront performs the rotations of these records, and what to do; empty if one performs them, or
    the account is not the Keyfront of the data folder."""
    local = account.local
    if local is None:
        return ""
    if not account.running:
        return (
            f"the Keyfront in {account.data} is not running: start it, or perform the steps with "
            f"`keyfront rotation run{account.options}`"
        )
    if not local.rotation:
        return (
            f"the Keyfront in {account.data} runs with --no-rotation: perform the steps with "
            f"`keyfront rotation run{account.options}`"
        )
    if local.records != account.records:
        return (
            f"the Keyfront in {account.data} watches the records in {local.records}, and nothing watches those in "
            f"{account.records}: perform the steps with `keyfront rotation run{account.options}`"
        )
    return ""


def refuse_unwatched(account: Account) -> None:
    """:raises SettingsError: if the running Keyfront performs rotations, but not those of the account's records."""
    local = account.local
    if local is None or not local.rotation or local.records == account.records or not account.running:
        return
    up = f"keyfront up --data {shlex.quote(str(account.data))} --records {shlex.quote(account.records)}"
    raise SettingsError(
        f"the Keyfront in {account.data} watches the records in {local.records}, and would not perform a rotation in "
        f"{account.records}: leave out --records, or restart it with `{up}`"
    )


def read_credentials(folder: Path) -> tuple[str, str]:
    """The access key ID and its secret in the data folder's `credentials`.

    :raises SettingsError: if they cannot be read.
    """
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string((folder / "credentials").read_text())
        section = parser["default"]
        return section["aws_access_key_id"], section["aws_secret_access_key"]
    except (OSError, UnicodeError, KeyError, configparser.Error) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise SettingsError(f"the credentials in {folder / 'credentials'} cannot be read: {why}") from None


def _records(selection: Selection, environment: Mapping[str, str], folder: Path, local: Installation) -> str:
    """The records of the Keyfront of the data folder. Only an option names others while it runs: with the variable, it
    would watch other records than commands, and nobody would notice."""
    named = environment.get(RECORDS_VARIABLE, "")
    if selection.records or not named or named == local.records:
        return selection.records or local.records
    if is_running(folder):
        raise SettingsError(
            f"{RECORDS_VARIABLE} names {named}, but the Keyfront in {folder} watches the records in {local.records}: "
            f"unset {RECORDS_VARIABLE}, or restart that Keyfront with the records of the variable"
        )
    return named


def _none_in(folder: Path, selection: Selection, environment: Mapping[str, str]) -> str:
    start = f"start it with `keyfront up --data {shlex.quote(str(folder))}`"
    if selection.data is not None or environment.get(DATA_VARIABLE):
        return f"no Keyfront was ever started in {folder}: {start}"
    return f"there is no Keyfront in ./state or {folder}: {start}, name another with --data, or use Amazon with --aws"
