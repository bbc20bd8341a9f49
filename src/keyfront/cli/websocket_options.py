"""The options of `keyfront up` for WebSockets."""

from __future__ import annotations

import click
import msgspec

from keyfront.cli.options import option_group


class WebSocketOptions(msgspec.Struct, frozen=True):
    """`websockets` is the maximum per worker (`EdgeSettings.websockets`), `websocket_idle` is in seconds
    (`Limits.websocket_idle`)."""

    websockets: int
    websocket_idle: int


websocket_options = option_group(
    "websocket",
    WebSocketOptions,
    click.option(
        "--websockets",
        type=click.IntRange(0, 1_000_000),
        default=1000,
        show_default=True,
        metavar="N",
        help="Maximum number of open WebSockets per worker; 0 disables WebSockets.",
    ),
    click.option(
        "--websocket-idle",
        type=click.IntRange(1, 86_400),
        default=600,
        show_default=True,
        metavar="SECONDS",
        help="Close a WebSocket on which nothing was sent in either direction for this long.",
    ),
)
