"""`keyfront reload`: make a running Keyfront read its settings again."""

from __future__ import annotations

import os
import shlex
import signal
import time
from pathlib import Path

import click

from keyfront.cli.options import data_option
from keyfront.errors import SettingsError
from keyfront.runtime.reload import read_result, running_pid

INTERVAL = 0.05
"""Seconds between two looks for the result."""


@click.command()
@data_option
def reload(data: Path) -> None:
    """Make the running Keyfront read its configuration file again, and wait until it has.

    Settings that cannot be used change nothing. Exit status 2: nothing was reloaded; the message says why.
    """
    pid = running_pid(data)
    if pid is None:
        raise SettingsError(
            f"no Keyfront is running in {data}: start it with `keyfront up --data {shlex.quote(str(data))}`"
        )
    signaled = time.monotonic()
    os.kill(pid, signal.SIGHUP)
    while True:
        result = read_result(data)
        if result is not None and result.began >= signaled:
            break
        if running_pid(data) != pid:
            raise SettingsError(f"the Keyfront in {data} ended before the reload did; its log says why")
        time.sleep(INTERVAL)
    if result.error:
        raise SettingsError(result.error)
    click.echo("reloaded")
    if result.restart:
        click.echo(f"keyfront: a restart is needed for {', '.join(result.restart)}", err=True)
