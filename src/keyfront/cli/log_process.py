"""The hidden command with which `keyfront up` starts the process that delivers standard logs."""

from __future__ import annotations

import click
import msgspec

from keyfront.edge.logs.delivery_settings import DeliverySettings
from keyfront.runtime.log_process import main
from keyfront.runtime.logs import LogSettings, process_logging


@click.command(hidden=True, name="log-process")
@click.argument("settings")
@click.argument("logs")
def log_process(settings: str, logs: str) -> None:
    """The process that delivers standard logs."""
    with process_logging(msgspec.json.decode(logs, type=LogSettings), "logs"):
        main(msgspec.json.decode(settings, type=DeliverySettings))
