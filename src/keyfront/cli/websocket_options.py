"""The options of `keyfront up` about WebSockets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click


def websocket_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the parameters `websockets` (`EdgeSettings.websockets`) and `websocket_idle` (seconds,
    `Limits.websocket_idle`)."""
    for option in (
        click.option(
            "--websockets",
            type=click.IntRange(0, 1_000_000),
            default=1000,
            show_default=True,
            metavar="N",
            help="WebSockets that each worker may have open; 0 for none.",
        ),
        click.option(
            "--websocket-idle",
            type=click.IntRange(1, 86_400),
            default=600,
            show_default=True,
            metavar="SECONDS",
            help="End a WebSocket on which nothing was sent either way for that long.",
        ),
    ):
        command = option(command)
    return command
