"""Data that a peer has not acknowledged yet, as far as the kernel knows."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import sys
import termios

# SIOCOUTQ of tcp(7) has the same value as the terminal request TIOCOUTQ.
_SIOCOUTQ = termios.TIOCOUTQ if sys.platform == "linux" else None
_BYTES_ACKED = 120  # offset of tcpi_bytes_acked in Linux's struct tcp_info


def acknowledged(transport: asyncio.Transport) -> int | None:
    """Bytes that the peer's kernel has acknowledged since the connection opened; None if the kernel cannot say."""
    try:
        info = transport.get_extra_info("socket").getsockopt(
            socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED + 8
        )
    except (OSError, AttributeError):
        return None
    if sys.platform != "linux" or len(info) < _BYTES_ACKED + 8:
        return None
    return int.from_bytes(info[_BYTES_ACKED : _BYTES_ACKED + 8], sys.byteorder)


def on_its_way(transport: asyncio.Transport) -> int:
    """Bytes that the kernel holds until the peer acknowledges them, or 0 if it cannot say. The kernel accepts several
    MiB at once, so a peer that reads slowly would appear stuck if only our own buffer were checked."""
    if _SIOCOUTQ is None:
        return 0
    try:
        handle = transport.get_extra_info("socket").fileno()
        return int.from_bytes(fcntl.ioctl(handle, _SIOCOUTQ, bytes(4)), sys.byteorder)
    except (OSError, AttributeError):
        return 0
