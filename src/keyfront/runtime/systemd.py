"""systemd's protocols: notifications, sd_notify(3), of `Type=notify` and `Type=notify-reload` units, and socket
activation, sd_listen_fds(3)."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING

from keyfront.errors import SettingsError
from keyfront.runtime.installation import url_host

if TYPE_CHECKING:
    from keyfront.edge.net.listeners import Address

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


FIRST = 3
"""The file descriptor of the first socket that systemd passes."""


def activated_sockets(environment: MutableMapping[str, str], pid: int) -> list[tuple[Address, int]]:
    """The addresses and file descriptors of the sockets that systemd has opened for the process `pid`. They are removed
    from the environment: they are not for child processes.

    :raises SettingsError: if one of them does not listen on a TCP port.
    """
    count, owner = environment.pop("LISTEN_FDS", ""), environment.pop("LISTEN_PID", "")
    environment.pop("LISTEN_FDNAMES", None)
    if owner != str(pid) or not count.isdigit():
        return []
    found = []
    for fd in range(FIRST, FIRST + int(count)):
        try:
            os.set_inheritable(fd, False)
            with socket.socket(fileno=os.dup(fd)) as sock:
                is_tcp = sock.type == socket.SOCK_STREAM and sock.family in (socket.AF_INET, socket.AF_INET6)
                if not is_tcp or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    raise SettingsError(
                        f"file descriptor {fd} from the service manager is not a listening TCP socket: "
                        "use ListenStream=ADDRESS:PORT in the socket unit"
                    )
                host, port = sock.getsockname()[:2]
        except OSError as error:
            raise SettingsError(
                f"file descriptor {fd} from the service manager cannot be used: {error.strerror}"
            ) from error
        found.append(((host, port), fd))
    return found


def check_sockets(given: set[Address], used: set[Address]) -> None:
    """Compare the addresses of the service manager's sockets with those that the options name. Logs a warning if it has
    some of them, but not all.

    :raises SettingsError: if it listens on an address that no option names.
    """
    for host, port in sorted(given - used):
        raise SettingsError(
            f"the service manager listens on {url_host(host)}:{port}, but no option names this address: set one of "
            "--edge, --tls, --control, --edges and --shield to it, or remove it from the socket unit"
        )
    if given and given != used:
        logger.warning(
            "the service manager does not listen on %s: connections are refused there while Keyfront is stopped",
            ", ".join(f"{url_host(host)}:{port}" for host, port in sorted(used - given)),
        )
