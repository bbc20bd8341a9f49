"""The options with which a command finds an installation, running or not: its data folder and its store.

Every user of the machine can read a command line, so no option takes a password. It comes from KEYFRONT_STORE, from a
file, or from libpq's own sources (PGPASSWORD, ~/.pgpass).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from keyfront.cli.options import FILE, data_option, option_group
from keyfront.errors import SettingsError
from keyfront.runtime.settings import PASSWORD_FILE_VARIABLE, STORE_VARIABLE, store_url

if TYPE_CHECKING:
    from keyfront.control.store.store import Store


class InstallationOptions(msgspec.Struct, frozen=True):
    """`data` is the data folder; `store` and `store_password_file` name a PostgreSQL store in place of the file in the
    data folder."""

    data: Path
    store: str
    store_password_file: Path | None

    @contextmanager
    def opened(self) -> Iterator[Store]:
        """The open store.

        :raises SettingsError: if the installation does not exist, or its store cannot be opened.
        """
        from keyfront.control.store.store import Store

        url = store_url(self.store)
        if not url and not (self.data / "keyfront.db").exists():
            raise SettingsError(
                f"there is no Keyfront in {self.data}: start it once with `keyfront up --data {self.data}`"
            )
        found = Store(url or self.data / "keyfront.db", password_file=self.store_password_file)
        try:
            yield found
        finally:
            found.close()


installation_options = option_group(
    "installation",
    InstallationOptions,
    data_option,
    click.option(
        "--store",
        default="",
        metavar="URL",
        help=f"postgresql://USER@HOST/DATABASE instead of a file in the data folder.  [env: {STORE_VARIABLE}]",
    ),
    click.option(
        "--store-password-file",
        type=FILE,
        envvar=PASSWORD_FILE_VARIABLE,
        help=f"A file that contains the PostgreSQL password.  [env: {PASSWORD_FILE_VARIABLE}]",
    ),
)
