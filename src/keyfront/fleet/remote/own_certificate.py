"""The operator's certificate for the port that edges connect to: a chain and a private key in files."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

from keyfront.errors import SettingsError

CHECK = 10.0
"""Seconds between two checks whether the files have changed."""


class OwnCertificate:
    """A certificate in files, which their owner may replace at any time.

    :param chain: PEM: the certificate, and those of its authorities.
    :param key: PEM; None: it is in the same file.
    """

    def __init__(self, chain: Path, key: Path | None = None) -> None:
        self._chain = chain
        self._key = key or chain
        self._state = self._read_state()

    def load(self, context: ssl.SSLContext) -> None:
        """Show this certificate on connections to come. If it cannot be used, the context stays as it was.

        :raises SettingsError: if it cannot be used.
        """
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._chain, self._key, _no_password)
            context.load_cert_chain(self._chain, self._key, _no_password)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise SettingsError(
                f"the certificate in {self._chain} with the key in {self._key} cannot be used: {error}"
            ) from error

    async def changed(self) -> None:
        """Return once the files have changed."""
        while True:
            before, self._state = self._state, self._read_state()
            if self._state != before:
                return
            await asyncio.sleep(CHECK)

    def _read_state(self) -> list[tuple[int, int, int]]:
        found = []
        for path in (self._chain, self._key):
            try:
                of_file = path.stat()
            except OSError:
                found.append((0, 0, 0))
            else:
                found.append((of_file.st_ino, of_file.st_mtime_ns, of_file.st_size))
        return found


def _no_password() -> str:
    """Called for an encrypted key, for which OpenSSL would ask on the terminal."""
    raise ValueError("the private key is encrypted")
