"""Which store a command uses: `--store`, `--store-password-file` and their variables, and the file in the data folder
without them; and `keyfront store`.

A password on a command line can be read by everybody on the machine, so there is none: it comes from the variable, from
a file, or from where libpq looks (PGPASSWORD, ~/.pgpass).
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keyfront.cli.settings import default_data
from keyfront.errors import SettingsError
from keyfront.runtime.settings import PASSWORD_FILE, VARIABLE, located

if TYPE_CHECKING:
    from keyfront.control.store.store import Store


def store_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the parameters `store` (see `checked`) and `store_password_file`."""
    command = click.option(
        "--store-password-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        envvar=PASSWORD_FILE,
        help=f"A file with PostgreSQL's password.  [env: {PASSWORD_FILE}]",
    )(command)
    return click.option(
        "--store",
        default="",
        metavar="URL",
        help=f"postgresql://USER@HOST/DATABASE instead of a file in the data folder.  [env: {VARIABLE}]",
    )(command)


def open_store(data: Path, store: str | None, password_file: Path | None) -> Store:
    """The store of the data folder, or the one that the options or the variable name.

    :raises SettingsError: if it cannot be opened.
    """
    from keyfront.control.store.store import Store

    return Store(located(store) or data / "keyfront.db", password_file=password_file)


@click.group(name="store")
def store_group() -> None:
    """Where the control plane keeps everything."""


@store_group.command(name="copy")
@click.option("--data", type=click.Path(path_type=Path), help="The data folder.  [default: the user's]")
@store_options
def copy_command(data: Path | None, store: str, store_password_file: Path | None) -> None:
    """Copy the store in the data folder into a new database of PostgreSQL's. `keyfront up` must not be running."""
    from keyfront.control.store.copy import copy
    from keyfront.control.store.store import Store

    folder = (data or default_data()).absolute()
    if not (url := located(store)):
        raise SettingsError(f"--store or {VARIABLE} must say where to copy to")
    file = folder / "keyfront.db"
    if not file.exists():
        raise SettingsError(f"there is no store {file}")
    with open(folder / "lock", "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SettingsError(f"a keyfront uses {folder}; end it first") from None
        with (
            contextlib.closing(Store(file)) as source,
            contextlib.closing(Store(url, password_file=store_password_file)) as target,
        ):
            copied = copy(source, target)
            print(f"copied to {target.name}: {copied['resource']} resources, {copied['audit']} audit records")
