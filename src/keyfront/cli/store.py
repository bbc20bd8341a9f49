"""`keyfront store`: the database in which the control plane stores everything."""

from __future__ import annotations

import contextlib
import fcntl

import click

from keyfront.cli.installation import InstallationOptions, installation_options
from keyfront.cli.progress import progress_bar
from keyfront.errors import SettingsError
from keyfront.runtime.settings import STORE_VARIABLE, store_url


@click.group(name="store")
def store_group() -> None:
    """The database in which the control plane stores everything."""


@store_group.command(name="copy")
@installation_options
def copy_command(installation: InstallationOptions) -> None:
    """Copy the store in the data folder into a new PostgreSQL database. `keyfront up` must not be running."""
    from keyfront.control.store.copy import copy
    from keyfront.control.store.store import Store

    if not (url := store_url(installation.store)):
        raise SettingsError(f"name the database to copy to, with --store or {STORE_VARIABLE}")
    file = installation.data / "keyfront.db"
    if not file.exists():
        raise SettingsError(f"there is no store {file}")
    with open(installation.data / "lock", "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SettingsError(f"a keyfront uses {installation.data}; stop it first") from None
        with (
            contextlib.closing(Store(file)) as source,
            contextlib.closing(Store(url, password_file=installation.store_password_file)) as target,
            progress_bar("copying") as advance,
        ):
            copied = copy(source, target, advance)
            print(f"copied to {target.name}: {copied['resource']} resources, {copied['audit']} audit records")
