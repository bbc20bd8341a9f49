"""`keyfront reload` and `keyfront restart`: make a running Keyfront read its settings again, or replace its program."""

from __future__ import annotations

import os
import shlex
import signal
import time
from pathlib import Path

import click

from keyfront.cli.options import data_option, data_words
from keyfront.errors import SettingsError
from keyfront.runtime.reload import RELOADED, RESTARTED, Result, read_result, running_pid

INTERVAL = 0.05
"""Seconds between two looks for the result."""


@click.command()
@data_option
def reload(data: Path) -> None:
    """Make the running Keyfront read its configuration file again, and wait until it has.

    Settings that cannot be used change nothing. Exit status 2: nothing was reloaded; the message says why.
    """
    result = _requested(data, signal.SIGHUP, RELOADED)
    click.echo("reloaded")
    if result.restart:
        click.echo(
            f"keyfront: a restart is needed for {', '.join(result.restart)}: run "
            f"`keyfront restart{data_words(data.absolute())}`",
            err=True,
        )


@click.command()
@data_option
def restart(data: Path) -> None:
    """Replace the program of the running Keyfront, such as after an upgrade, and wait until the new one serves.

    No connection is refused, and requests in progress are completed. Every setting can change, except for the data
    folder. Exit status 2: the new program cannot run; the message says why, and the old one serves as before.
    """
    _requested(data, signal.SIGUSR2, RESTARTED)
    click.echo("restarted")


def _requested(data: Path, number: signal.Signals, name: str) -> Result:
    """Send a signal to the running Keyfront, and wait for the result in the file `name`.

    :raises SettingsError: if no Keyfront runs, or it could not do what was requested.
    """
    pid = running_pid(data)
    if pid is None:
        raise SettingsError(
            f"no Keyfront is running in {data}: start it with `keyfront up --data {shlex.quote(str(data))}`"
        )
    signaled = time.monotonic()
    os.kill(pid, number)
    while True:
        result = read_result(data, name)
        if result is not None and result.began >= signaled:
            break
        if running_pid(data) != pid:
            raise SettingsError(f"the Keyfront in {data} ended before that was done; its log says why")
        time.sleep(INTERVAL)
    if result.error:
        raise SettingsError(result.error)
    return result
