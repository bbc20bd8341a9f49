"""The WebSocket frames that the soak sends, and the origin that echoes each message."""

from __future__ import annotations

import asyncio
import os
from typing import Final

from keyfront.edge.semantics.websocket import accept_value

TEXT, BINARY, CLOSE = 1, 2, 8
"""Opcodes."""
PATH: Final = "talk-"
"""Prefix of the last segment of a WebSocket's path."""


def frame(opcode: int, payload: bytes, *, masked: bool) -> bytes:
    """One frame that contains a whole message (RFC 6455 §5.2)."""
    size = len(payload)
    mask = 0x80 if masked else 0
    head = bytes([0x80 | opcode])
    if size < 126:
        head += bytes([mask | size])
    elif size < 65536:
        head += bytes([mask | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([mask | 127]) + size.to_bytes(8, "big")
    if not masked:
        return head + payload
    key = os.urandom(4)
    return head + key + _masked(payload, key)


def _masked(payload: bytes, key: bytes) -> bytes:
    size = len(payload)
    if not size:
        return b""
    long = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(long, "big")).to_bytes(size, "big")


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes, int]:
    """Opcode, payload, and length on the wire (bytes) of the next frame.

    :raises ValueError: if `frame` would never create it.
    """
    first, second = await reader.readexactly(2)
    if first & 0x70 or not first & 0x80 or first & 0x0F not in (TEXT, BINARY, CLOSE):
        raise ValueError(f"no frame begins with {first:#x}")
    size, head = second & 0x7F, 2
    if size >= 126:
        more = 2 if size == 126 else 8
        size = int.from_bytes(await reader.readexactly(more), "big")
        head += more
    if size > 1 << 20:
        raise ValueError(f"a frame of {size} bytes")
    key = b""
    if second & 0x80:
        key = await reader.readexactly(4)
        head += 4
    payload = await reader.readexactly(size)
    return first & 0x0F, _masked(payload, key) if key else payload, head + size


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str, key: str) -> None:
    """The origin's side of a WebSocket, starting with its 101."""
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept_value(key.encode())
    )
    writer.write(frame(TEXT, target.encode(), masked=False))
    while True:
        opcode, payload, _ = await read_frame(reader)
        writer.write(frame(opcode, payload, masked=False))
        await writer.drain()
        if opcode == CLOSE:
            return
