"""The hidden command with which `keyfront up` starts, on an enrolled edge, the process that follows a control plane."""

from __future__ import annotations

import click
import msgspec

from keyfront.runtime.feed_process import main
from keyfront.runtime.logs import LogSettings, process_logging
from keyfront.runtime.settings import FeedSettings


@click.command(hidden=True, name="feed-process")
@click.argument("settings")
@click.argument("logs")
def feed_process(settings: str, logs: str) -> None:
    """The process that follows a control plane over HTTPS; `keyfront up` starts it on an enrolled edge."""
    with process_logging(msgspec.json.decode(logs, type=LogSettings), "feed"):
        main(msgspec.json.decode(settings, type=FeedSettings))
