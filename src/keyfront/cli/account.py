"""The choice of the CloudFront that a command queries, Keyfront's or Amazon's, and of the rotation records."""

from __future__ import annotations

import configparser
import fcntl
import os
from collections.abc import Mapping
from pathlib import Path

import click
import msgspec

from keyfront.cli.options import option_group
from keyfront.custody.default_paths import (
    RECORDS_VARIABLE,
    default_data,
    default_records,
    installation,
)
from keyfront.errors import SettingsError

_ENDPOINTS = ("AWS_ENDPOINT_URL_CLOUDFRONT", "AWS_ENDPOINT_URL")
_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SHARED_CREDENTIALS_FILE")


class Account(msgspec.Struct, frozen=True):
    """The chosen account. `endpoint_url` and `profile` are empty where botocore's own rules decide; `credentials` are
    an access key ID and its secret, if they belong to the installation. `records` is the URI of the custody that holds
    the rotation records, `watched` the URI of the records that the Keyfront at the endpoint watches, if it is the one
    in `data`."""

    endpoint_url: str
    profile: str
    credentials: tuple[str, str] | None
    records: str
    data: Path
    watched: str | None

    @property
    def running(self) -> bool:
        """Whether the Keyfront of the data folder is running and is the one to query."""
        return self.watched is not None and _locked(self.data / "lock")


def choose(
    endpoint_url: str,
    profile: str,
    aws: bool,
    records: str,
    data: Path | None,
    environment: Mapping[str, str] = os.environ,
) -> Account:
    """Choose the CloudFront to query. An option takes precedence over the environment; if neither names one, the
    Keyfront of the data folder takes precedence over Amazon. Where the choice is not obvious from the options, it is
    printed to standard error.

    :raises SettingsError: if the named folder is not a data folder, if its credentials cannot be read, or if `aws` is
        given while the environment's endpoint is the Keyfront of the data folder.
    """
    folder = (data or default_data(environment)).absolute()
    found = installation(folder)
    if data is not None and found is None:
        raise SettingsError(
            f"no Keyfront was ever started in {folder}: start it with `keyfront up --data {folder}`"
        )
    place = records or environment.get(RECORDS_VARIABLE) or default_records(environment, folder)
    variable = next((name for name in _ENDPOINTS if environment.get(name)), "")
    named = endpoint_url
    if not named and data is None and variable:
        named = environment[variable]
    if aws and found is not None and not endpoint_url and _same(named, found.control):
        raise SettingsError(f"--aws queries Amazon, but {variable} names the Keyfront in {folder}: unset it")
    if aws and not named:
        return Account("", profile, None, place, folder, None)
    amazon = not named and (profile or environment.get("AWS_PROFILE")) and data is None
    if found is None or amazon or (named and not _same(named, found.control)):
        if found is not None and amazon and not profile:
            click.echo(
                f"keyfront: querying Amazon, because AWS_PROFILE is set; --data {folder} queries the Keyfront there",
                err=True,
            )
        return Account(endpoint_url, profile, None, place, folder, None)
    if profile:
        return Account(found.control, profile, None, place, folder, found.records)
    if not named and data is None:
        click.echo(
            f"keyfront: querying the Keyfront in {folder} at {found.control}; --aws queries Amazon", err=True
        )
    own = None if named and any(environment.get(name) for name in _CREDENTIALS) else _credentials(folder)
    return Account(found.control, "", own, place, folder, found.records)


account_options = option_group(
    "account",
    choose,
    click.option(
        "--data",
        type=click.Path(path_type=Path),
        help="A Keyfront's data folder.  [default: KEYFRONT_DATA, or ./state, or the user's]",
    ),
    click.option(
        "--endpoint-url",
        default="",
        help="The API's address.  [default: AWS_ENDPOINT_URL, or the Keyfront in --data, or Amazon]",
    ),
    click.option("--aws", is_flag=True, help="Query Amazon, with the credentials that its tools would use."),
    click.option("--profile", default="", help="Profile in the credentials file; queries Amazon."),
    click.option(
        "--records",
        default="",
        metavar="URI",
        help="The custody that holds the rotation records.  [default: KEYFRONT_RECORDS, or what `keyfront up` watches]",
    ),
    names=("endpoint_url", "profile", "aws", "records", "data"),
)
"""Gives a command the options that choose an account, and the choice as the parameter `account`. The choice is made,
and may fail, before the command runs."""


def _same(one: str, other: str) -> bool:
    """Whether two addresses name the same API."""
    return one.rstrip("/").replace("//localhost:", "//127.0.0.1:") == other


def unwatched(account: Account) -> str:
    """How to have the rotations of these records performed; empty if a Keyfront already performs them."""
    if account.watched is None or account.watched == account.records:
        return ""
    return (
        f"the Keyfront in {account.data} watches the records in {account.watched}, and none watches those in "
        f"{account.records}: perform the steps with `keyfront rotation run --records {account.records}`, or restart it "
        f"with `--records {account.records}`"
    )


def _credentials(folder: Path) -> tuple[str, str]:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string((folder / "credentials").read_text())
        section = parser["default"]
        return section["aws_access_key_id"], section["aws_secret_access_key"]
    except (OSError, UnicodeError, KeyError, configparser.Error) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise SettingsError(f"the credentials in {folder / 'credentials'} cannot be read: {why}") from None


def _locked(path: Path) -> bool:
    """Whether a running `keyfront up` holds the lock on its data folder."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
