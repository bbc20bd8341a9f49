"""How a command finds an installation that is there already, whether it runs or not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keyfront.cli.settings import default_data
from keyfront.cli.store import open_store, store_options
from keyfront.errors import SettingsError
from keyfront.runtime.settings import VARIABLE

if TYPE_CHECKING:
    from keyfront.control.store.store import Store


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the parameters `data`, `store` and `store_password_file`, as `keyfront up` has them."""
    return click.option(
        "--data", type=click.Path(path_type=Path), help="The data folder.  [default: the user's]"
    )(store_options(command))


@contextmanager
def opened(
    data: Path | None, store: str | None, store_password_file: Path | None
) -> Iterator[tuple[Path, Store]]:
    """The data folder and the open store of an installation.

    :raises SettingsError: if there is none.
    """
    folder = (data or default_data()).absolute()
    if not (store or os.environ.get(VARIABLE) or (folder / "keyfront.db").exists()):
        raise SettingsError(
            f"there is no Keyfront in {folder}: start it once with `keyfront up --data {folder}`"
        )
    found = open_store(folder, store, store_password_file)
    try:
        yield folder, found
    finally:
        found.close()
