"""Listening sockets."""

from __future__ import annotations

import socket


def reserve(host: str, port: int) -> socket.socket:
    """Bind `host:port` for workers to share, without listening; port 0 becomes a free one. The socket that is
    returned keeps the port ours while workers come and go.

    :raises OSError: if somebody else listens there already.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    probe = socket.socket(family, socket.SOCK_STREAM)
    try:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))  # fails where another program listens, even one that shares its port
        port = probe.getsockname()[1]
    finally:
        probe.close()
    held = socket.socket(family, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind((host, port))
    return held
