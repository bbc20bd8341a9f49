"""The hidden command with which `keyfront up` starts an edge worker."""

from __future__ import annotations

import click
import msgspec

from keyfront.edge.worker_settings import WorkerSettings
from keyfront.runtime.edge_process import main
from keyfront.runtime.logs import LogSettings, process_logging


@click.command(hidden=True, name="edge-worker")
@click.argument("settings")
@click.argument("logs")
def edge_worker(settings: str, logs: str) -> None:
    """One worker; `keyfront up` starts it."""
    worker = msgspec.json.decode(settings, type=WorkerSettings)
    with process_logging(msgspec.json.decode(logs, type=LogSettings), worker.name):
        main(worker)
