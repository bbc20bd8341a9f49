"""A restart without a refused connection: the supervisor replaces its own program, and everything else stays.

1. The new program runs as a child that only reads its settings, imports its parts, and tries to reserve ports that are
   new (`trial`). If it fails, nothing has changed.
2. The supervisor executes the new program in its own process (`execute`). Signals that arrive meanwhile wait.
3. The new program adopts the processes that serve, and replaces them as a reload does (`Machine.replace`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Final, NoReturn

import msgspec

from keyfront.errors import SettingsError
from keyfront.runtime.data_format import refuse_newer
from keyfront.runtime.handover import HANDOVER, TRIAL, Handover, encode, set_inheritable
from keyfront.runtime.ports import ReservedPorts, reserve_ports
from keyfront.runtime.reload import UpSettings
from keyfront.runtime.systemd import check_sockets

SIGNALS: Final = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR2})
"""The signals that a supervisor handles."""
PATIENCE: Final = 180.0
"""Seconds that the trial of a new program may take."""


def program(argv: Sequence[str]) -> list[str]:
    """The command line that starts this program again, perhaps in another version.

    A script, such as `bin/keyfront` of a virtual environment, is executed by its path, so the interpreter is the one
    that it names now. Otherwise (`python -m keyfront`), this interpreter runs the package.

    :param argv: the program's `sys.argv`.
    """
    path, *arguments = argv
    if os.access(path, os.X_OK) and not path.endswith(".py"):
        return [os.path.abspath(path), *arguments]
    return [sys.executable, "-m", "keyfront", *arguments]


async def trial(command: Sequence[str], handover: Handover) -> None:
    """Check whether the new program can take over.

    :raises SettingsError: if it cannot.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, TRIAL: encode(handover)},
        )
    except OSError as error:
        raise SettingsError(f"{command[0]}: {error.strerror}") from error
    try:
        _, output = await asyncio.wait_for(process.communicate(), PATIENCE)
    except TimeoutError:
        raise SettingsError(
            f"the new program did not read its settings within {PATIENCE:.0f} seconds"
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise SettingsError(
            last_message(output.decode(errors="replace"))
            or f"the new program ended with {process.returncode}"
        )


def last_message(output: str) -> str:
    """The last message of a program on standard error, in text or JSON."""
    lines = output.strip().splitlines()
    if not lines:
        return ""
    try:
        return str(json.loads(lines[-1])["message"])
    except (ValueError, KeyError, TypeError):
        return lines[-1].partition("keyfront: ")[2] or lines[-1]


def try_settings(wanted: UpSettings, handover: Handover) -> None:
    """In the new program: check whether it could take over with these settings.

    :raises SettingsError: if it could not.
    """
    # Their imports fail if a dependency is missing, or is not the one that this version needs.
    import keyfront.edge.worker
    import keyfront.runtime.control_process  # noqa: F401 - only that it can be imported

    if str(wanted.data) != handover.data:
        raise SettingsError(
            f"the data folder is {handover.data}, which a restart cannot change to {wanted.data}"
        )
    refuse_newer(wanted.data)
    held = {(each.host, each.port) for each in handover.listeners}
    ports = [msgspec.structs.replace(port, fd=-1) for port in handover.ports]
    with ReservedPorts(lambda host, port: (host, port) in held, ports) as reserved:
        reserve_ports(wanted, reserved)
        check_sockets(
            {(each.host, each.port) for each in handover.listeners if each.given}, reserved.addresses
        )


@contextlib.asynccontextmanager
async def signals_blocked() -> AsyncIterator[None]:
    """Block the signals that a supervisor handles, so that they reach the program that replaces this one. Those that
    arrived before have been handled when the body begins."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        for _ in range(3):  # asyncio reads its pipe of signals, then schedules a handler, then calls it
            await asyncio.sleep(0)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def execute(command: Sequence[str], handover: Handover) -> NoReturn:
    """Replace the program.

    :raises SettingsError: if that is impossible.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        set_inheritable(handover, True)
        os.execve(command[0], list(command), {**os.environ, HANDOVER: encode(handover)})  # noqa: S606 - our own command line
    except OSError as error:
        set_inheritable(handover, False)
        raise SettingsError(f"{command[0]}: {error.strerror}") from error
