"""What a peer has not taken yet, as far as the kernel knows."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import sys
import termios

# What tcp(7) calls SIOCOUTQ is the terminals' TIOCOUTQ by another name.
_SIOCOUTQ = termios.TIOCOUTQ if sys.platform == "linux" else None
_BYTES_ACKED = 120  # offset of tcpi_bytes_acked in Linux's struct tcp_info


def acknowledged(transport: asyncio.Transport) -> int | None:
    """Bytes that the peer's kernel has acknowledged, of all that were ever sent; None where the kernel cannot say."""
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
    """Bytes that the kernel holds until the peer has acknowledged them, 0 where it cannot say. It takes several MiB
    at once, so a peer that reads slowly would seem stuck to whoever looks at our own buffer only."""
    if _SIOCOUTQ is None:
        return 0
    try:
        handle = transport.get_extra_info("socket").fileno()
        return int.from_bytes(fcntl.ioctl(handle, _SIOCOUTQ, bytes(4)), sys.byteorder)
    except (OSError, AttributeError):
        return 0
