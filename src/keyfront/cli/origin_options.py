"""The options of `keyfront up` that say where origins may be."""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable, Iterable
from typing import Any

import click

from keyfront.cli.settings import networks


def origins_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options, and their meaning as the parameter `egress` (`EgressSettings`).

    :raises SettingsError: from the command, if an option makes no sense.
    """

    @click.option(
        "--refuse-origins",
        multiple=True,
        metavar="CIDR,…",
        help="Networks that origins may not be in, besides those refused by default.",
    )
    @click.option(
        "--allow-origins",
        multiple=True,
        metavar="CIDR,…",
        help="Networks that origins may be in although they are refused by default.",
    )
    @functools.wraps(command)
    def with_egress(
        *args: Any, refuse_origins: tuple[str, ...], allow_origins: tuple[str, ...], **rest: Any
    ) -> Any:
        from keyfront.edge.origin.egress import Egress, EgressSettings

        egress = EgressSettings(
            refuse=tuple(network for text in refuse_origins for network in networks(text)),
            allow=tuple(network for text in allow_origins for network in networks(text)),
        )
        Egress(egress)  # only to fail early
        return command(*args, egress=egress, **rest)

    return with_egress


def is_public(listens: Iterable[tuple[str, int]]) -> bool:
    """Does an edge that listens on these `(host, port)` serve others than this machine?"""
    from keyfront.edge.origin.egress import is_public as public

    return public(
        [
            str(found[4][0])
            for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        ]
        for host, port in listens
    )
