"""The options with which a command finds an installation, running or not: its data folder and its store.

Every user of the machine can read a command line, so no option takes a password. It comes from KEYFRONT_STORE, from a
file, or from libpq's own sources (PGPASSWORD, ~/.pgpass).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from keyfront.cli.options import FILE, data_option, data_words, option_group
from keyfront.cli.values import checked
from keyfront.custody.default_paths import installation
from keyfront.errors import SettingsError
from keyfront.runtime.settings import PASSWORD_FILE_VARIABLE, STORE_VARIABLE, store_url, without_password

if TYPE_CHECKING:
    from keyfront.control.store.store import Store


class InstallationOptions(msgspec.Struct, frozen=True):
    """`data` is the data folder; `store` and `store_password_file` name a PostgreSQL store in place of the file in the
    data folder. Without them, commands use the store that the Keyfront of the data folder recorded."""

    data: Path
    store: str
    store_password_file: Path | None

    @contextmanager
    def opened(self) -> Iterator[Store]:
        """The open store.

        :raises SettingsError: if the installation does not exist, or its store cannot be opened.
        """
        from keyfront.control.store.store import Store

        url, password_file = self.named_store()
        file = self.data / "keyfront.db"
        if not url and not _exists(file):
            raise SettingsError(
                f"there is no Keyfront in {self.data}: start it once with "
                f"`keyfront up --data {shlex.quote(str(self.data))}`"
            )
        found = Store(url or file, password_file=password_file)
        try:
            yield found
        finally:
            found.close()

    def words(self) -> str:
        """The options with which a printed command finds the same installation; empty, or they begin with a space."""
        given = [
            *(["--store", self.store] if self.store else []),
            *(["--store-password-file", str(self.store_password_file)] if self.store_password_file else []),
        ]
        return data_words(self.data) + "".join(f" {shlex.quote(word)}" for word in given)

    def named_store(self) -> tuple[str, Path | None]:
        """The store's URL, empty for the file in the data folder, and the file with its password: from the options, the
        environment, or what the Keyfront of the data folder recorded.

        :raises SettingsError: if the URL cannot be used, or the record cannot be read.
        """
        url = store_url(self.store)
        recorded = installation(self.data) if not url else None
        if recorded is None or not recorded.store:
            return url, self.store_password_file
        own = Path(recorded.store_password_file) if recorded.store_password_file else None
        return recorded.store, self.store_password_file or own

    def records(self, named: str) -> str:
        """The URI of the rotation records: `named`, or those of the Keyfront of the data folder; empty for the custody
        in the data folder.

        :raises SettingsError: if the record of the Keyfront cannot be read.
        """
        recorded = installation(self.data) if not named else None
        return named or (recorded.records if recorded is not None else "")


installation_options = option_group(
    "installation",
    InstallationOptions,
    data_option,
    click.option(
        "--store",
        default="",
        callback=checked(without_password),
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


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
