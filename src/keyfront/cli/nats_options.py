"""The options that say how to reach NATS, for control planes (`keyfront up`) and for edges (`keyfront edge join`)."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from keyfront.cli.options import FILE, option_group
from keyfront.cli.values import checked, each
from keyfront.errors import SettingsError
from keyfront.extras import require_extra
from keyfront.fleet.jetstream.access import BUCKET, NatsAccess, server_url


class NatsOptions(msgspec.Struct, frozen=True):
    """The options' values."""

    nats: tuple[str, ...]
    nats_bucket: str
    nats_creds: Path | None
    nats_ca: Path | None
    nats_cert: Path | None
    nats_domain: str
    nats_replicas: int = 1

    def access(self) -> NatsAccess | None:
        """How to reach NATS; None if no server is given.

        :raises SettingsError: if an option cannot be used.
        :raises MissingExtra: if the extra `nats` is not installed.
        """
        if not self.nats:
            self._refuse_without_server()
            return None
        require_extra("nats")
        servers = tuple(dict.fromkeys(map(server_url, self.nats)))
        return NatsAccess(
            servers,
            self.nats_bucket,
            _path(self.nats_creds),
            _path(self.nats_ca),
            _path(self.nats_cert),
            self.nats_domain,
        ).check()

    def _refuse_without_server(self) -> None:
        for name, default in zip(_REQUIRING, _DEFAULTS, strict=True):
            if getattr(self, name) != default:
                raise SettingsError(f"--{name.replace('_', '-')} requires --nats")


def _path(file: Path | None) -> str:
    return "" if file is None else str(file.absolute())


_REQUIRING = NatsOptions.__struct_fields__[1:]
_DEFAULTS = (BUCKET, None, None, None, "", 1)

_options = (
    click.option(
        "--nats",
        multiple=True,
        callback=checked(each(server_url)),
        metavar="URL",
        help="A NATS server with JetStream, nats://HOST:PORT or tls://HOST:PORT; repeatable, in order of preference.",
    ),
    click.option(
        "--nats-bucket",
        default=BUCKET,
        show_default=True,
        metavar="NAME",
        help="The key-value bucket; all subjects that Keyfront uses begin with its name, too.",
    ),
    click.option(
        "--nats-creds",
        type=FILE,
        help="File that logs in to NATS: JWT credentials, an NKey seed, or USER:PASSWORD.",
    ),
    click.option(
        "--nats-ca",
        type=FILE,
        help="The authority (PEM) of the servers' certificates.  [default: those that the system trusts]",
    ),
    click.option("--nats-cert", type=FILE, help="Client certificate for NATS, with its key (PEM, one file)."),
    click.option(
        "--nats-domain",
        default="",
        metavar="NAME",
        help="The JetStream domain of the bucket, at a leaf node with a domain of its own.  [default: the server's]",
    ),
)

_JOIN = tuple(name for name in NatsOptions.__struct_fields__ if name != "nats_replicas")

nats_options = option_group(
    "nats",
    NatsOptions,
    *_options,
    click.option(
        "--nats-replicas",
        type=click.IntRange(1, 5),
        default=1,
        show_default=True,
        help="How many servers of a NATS cluster store the bucket; used when it is created.",
    ),
)
"""For a control plane."""

nats_join_options = option_group("nats", NatsOptions, *_options, names=_JOIN)
"""For an edge."""
