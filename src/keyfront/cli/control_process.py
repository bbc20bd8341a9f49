"""The hidden command with which `keyfront up` starts the control process."""

from __future__ import annotations

import click
import msgspec

from keyfront.runtime.control_process import main
from keyfront.runtime.logs import LogSettings, process_logging
from keyfront.runtime.settings import ControlSettings


@click.command(hidden=True, name="control-process")
@click.argument("settings")
@click.argument("logs")
def control_process(settings: str, logs: str) -> None:
    """The control process; `keyfront up` starts it. It serves the edges' metrics beside its own."""
    with process_logging(msgspec.json.decode(logs, type=LogSettings), "control"):
        main(msgspec.json.decode(settings, type=ControlSettings))
