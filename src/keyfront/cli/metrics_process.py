"""The hidden command with which `keyfront up` starts the process that answers Prometheus for its workers."""

from __future__ import annotations

import click
import msgspec

from keyfront.runtime.logs import LogSettings, process_logging
from keyfront.runtime.metrics_process import main
from keyfront.runtime.settings import MetricsSettings


@click.command(hidden=True, name="metrics-process")
@click.argument("settings")
@click.argument("logs")
def metrics_process(settings: str, logs: str) -> None:
    """The process that answers Prometheus for the workers of this machine; `keyfront up --edge-metrics` starts it."""
    with process_logging(msgspec.json.decode(logs, type=LogSettings), "metrics"):
        main(msgspec.json.decode(settings, type=MetricsSettings))
