"""WebSocket frames."""

from __future__ import annotations


def frame(opcode: int, payload: bytes, *, masked: bool) -> bytes:
    """One frame that contains a whole message (RFC 6455 §5.2). The mask is all zeros."""
    size = len(payload)
    marks = 0x80 if masked else 0
    head = bytes([0x80 | opcode])
    if size < 126:
        head += bytes([marks | size])
    elif size < 65536:
        head += bytes([marks | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([marks | 127]) + size.to_bytes(8, "big")
    return head + (bytes(4) if masked else b"") + payload
