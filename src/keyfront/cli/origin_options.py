"""The options of `keyfront up` for origins: where they can be, and how the edge identifies itself to them."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from keyfront.cli.options import FILE, option_group
from keyfront.cli.values import checked, each, networks
from keyfront.errors import SettingsError

if TYPE_CHECKING:
    from keyfront.edge.origin.egress import EgressSettings


class OriginOptions(msgspec.Struct, frozen=True):
    """The options' values."""

    origin_ca: Path | None
    origin_credentials: Path | None
    refuse_origins: tuple[str, ...]
    allow_origins: tuple[str, ...]

    def egress(self, listens: Iterable[tuple[str, int]]) -> EgressSettings:
        """Which networks origins can be in, for an edge that listens on these `(host, port)`.

        :raises SettingsError: if an option is not a list of networks.
        """
        from keyfront.edge.origin.egress import Egress, EgressSettings, is_public

        egress = EgressSettings(
            refuse=tuple(network for text in self.refuse_origins for network in networks(text)),
            allow=tuple(network for text in self.allow_origins for network in networks(text)),
            public=is_public([_addresses(host, port) for host, port in listens]),
        )
        Egress(egress)  # fails here rather than in the workers
        return egress

    def check_authorities(self) -> None:
        """:raises SettingsError: if the file with additional authorities cannot be used."""
        if self.origin_ca is None:
            return
        from keyfront.edge.origin.pool import TlsContexts

        try:
            TlsContexts(str(self.origin_ca))  # fails here rather than in the workers
        except SettingsError as error:
            raise SettingsError(f"--origin-ca: {error}") from error

    def credentials(self, data: Path) -> Path:
        """The file with the credentials for origins, which need not exist.

        :raises SettingsError: if it exists and cannot be read.
        """
        from keyfront.edge.origin.credentials import read_file

        file = self.origin_credentials.absolute() if self.origin_credentials else data / "origin-credentials"
        if file.exists():
            read_file(file)  # fails here rather than in the workers
        return file


origin_options = option_group(
    "origins",
    OriginOptions,
    click.option(
        "--origin-ca", type=FILE, help="Additional certificate authorities for HTTPS origins (PEM)."
    ),
    click.option(
        "--origin-credentials",
        type=FILE,
        help="Credentials that sign requests to origins, and bucket endpoints.  [default: DATA/origin-credentials]",
    ),
    click.option(
        "--refuse-origins",
        multiple=True,
        callback=checked(each(networks)),
        metavar="CIDR,…",
        help="Networks that origins must not be in, in addition to those refused by default; repeatable.",
    ),
    click.option(
        "--allow-origins",
        multiple=True,
        callback=checked(each(networks)),
        metavar="CIDR,…",
        help="Networks that origins can be in although they are refused by default; repeatable.",
    ),
)


def _addresses(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return [str(each[4][0]) for each in found]
