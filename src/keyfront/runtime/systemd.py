"""systemd's notification protocol, sd_notify(3): `Type=notify` and `Type=notify-reload` units."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Mapping

logger = logging.getLogger("keyfront.supervisor")

READY = "READY=1"
STOPPING = "STOPPING=1"
ALIVE = "WATCHDOG=1"


def reloading(now: float) -> str:
    """The state while the settings are read again.

    :param now: seconds of CLOCK_MONOTONIC.
    """
    return f"RELOADING=1\nMONOTONIC_USEC={now * 1e6:.0f}"


def notify(state: str, environment: Mapping[str, str] = os.environ) -> None:
    """Send a state to the service manager, if there is one."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)  # a manager that does not read must not stop the supervisor
            sock.connect("\0" + address[1:] if address.startswith("@") else address)
            sock.sendall(state.encode())
    except OSError as error:
        logger.warning("the service manager cannot be notified: %s", error)


def watchdog_interval(environment: Mapping[str, str], pid: int) -> float:
    """Seconds between two signs of life for the service manager's watchdog, half of what it allows
    (sd_watchdog_enabled(3)); 0.0 if it expects none from the process `pid`."""
    allowed, expected = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not allowed.isdigit() or (expected and expected != str(pid)):
        return 0.0
    return int(allowed) / 2e6


async def stay_alive(interval: float) -> None:
    """Send a sign of life every `interval` seconds, for as long as the event loop runs; never, if it is 0.0."""
    while interval:
        notify(ALIVE)
        await asyncio.sleep(interval)
