"""Listening sockets."""

from __future__ import annotations

import errno
import socket


def reserve(host: str, port: int) -> socket.socket:
    """Bind `host:port` for workers to share, without listening. Port 0 selects a free port. The returned socket
    reserves the port while workers start and stop.

    :raises OSError: if another program already listens there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    probe = socket.socket(family, socket.SOCK_STREAM)
    try:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))  # fails if another program listens there, even with SO_REUSEPORT
        port = probe.getsockname()[1]
    finally:
        probe.close()
    held = socket.socket(family, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        held.bind((host, port))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        # Nobody listens. Connections that have ended (TIME_WAIT) are left of a socket without SO_REUSEPORT, such as one
        # that a service manager opened.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((host, port))
    return held
