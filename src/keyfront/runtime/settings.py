"""Settings of the control plane, from files and the environment."""

from __future__ import annotations

import os

import msgspec

from keyfront.cli.settings import ControlInherited
from keyfront.errors import SettingsError
from keyfront.model.kinds import Quotas

SUFFIX = "cloudfront.localhost"


ACCOUNT = "000000000000"
"""The AWS account number of everything that Keyfront keeps."""


class ControlSettings(msgspec.Struct, frozen=True):
    """What the control plane's process is told. `account` is the AWS account number that its ARNs carry, `store` the
    URL of the store if it was said on the command line, `trusted_proxies` the networks whose X-Forwarded-* headers it
    believes, `region` where its own edges are, `region_feeds` other regions with the folders of their feeds; `records`
    is the URI of the custody that keeps the records of rotations, `rotation` whether it takes their steps, `hooks` the
    file that says who is told of them; `metrics` who may read `/metrics`."""

    data: str
    host: str
    port: int
    domain: str
    account: str = ACCOUNT
    audit_reads: bool = True
    trusted_proxies: tuple[str, ...] = ()
    store: str = ""
    store_password_file: str = ""
    quotas: Quotas = Quotas()
    region: str = ""
    region_feeds: tuple[tuple[str, str], ...] = ()
    records: str = ""
    rotation: bool = True
    hooks: str = ""
    metrics: tuple[str, ...] = ("local",)
    inherited: ControlInherited | None = None


VARIABLE = "KEYFRONT_STORE"


PASSWORD_FILE = "KEYFRONT_STORE_PASSWORD_FILE"  # noqa: S105 - a variable's name


def checked(store: str | None) -> str:
    """What `--store` says; empty if it says nothing.

    :raises SettingsError: if it is no URL of PostgreSQL's, or holds a password.
    """
    if store:
        from keyfront.control.store.database import (
            has_password,  # SQLAlchemy, for which `keyfront sign` must not wait
        )

        if has_password(store):
            raise SettingsError(
                "--store must not hold the password, which everybody on this machine could read: put the URL into "
                f"{VARIABLE}, or the password into a file for --store-password-file"
            )
    return store or ""


def located(store: str | None) -> str:
    """The URL of the store that `--store` or the variable names; empty if it is the file in the data folder.

    :raises SettingsError: see `checked`.
    """
    return checked(store) or os.environ.get(VARIABLE, "")
