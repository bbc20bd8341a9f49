"""Writes a MaxMind DB of a few networks: enough of the format (version 2.0) for tests to need no external file.

The file consists of a search tree of 24-bit records over the bits of an address, sixteen zero bytes, the data, and
the metadata after its marker. IPv4 networks are below ::/96 in an IPv6 tree."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any, NamedTuple

MARKER = b"\xab\xcd\xefMaxMind.com"


class Uint(NamedTuple):
    """An unsigned integer. Readers require the exact sizes in the metadata."""

    bits: int
    number: int


def encode(value: Any) -> bytes:
    """The control byte (type in the upper three bits, size in the lower five), then the value."""
    if isinstance(value, str):
        data = value.encode()
        return _control(2, len(data)) + data
    if isinstance(value, dict):
        return _control(7, len(value)) + b"".join(
            encode(key) + encode(member) for key, member in value.items()
        )
    if isinstance(value, list):
        return _control(11, len(value)) + b"".join(map(encode, value))
    if isinstance(value, Uint):
        data = value.number.to_bytes((value.number.bit_length() + 7) // 8, "big")
        return _control({16: 5, 32: 6, 64: 9}[value.bits], len(data)) + data
    raise TypeError(value)


def _control(kind: int, size: int) -> bytes:
    extended = kind > 7
    first = (0 if extended else kind) << 5
    tail = bytes([kind - 7]) if extended else b""
    if size < 29:
        return bytes([first | size]) + tail
    assert size < 285
    return bytes([first | 29]) + tail + bytes([size - 29])


def write(networks: Mapping[str, Any], *, ip_version: int = 6) -> bytes:
    """A database in which each network (in CIDR notation) has its record."""
    nodes: list[list[int | tuple[str, int] | None]] = [[None, None]]
    data = b""
    for text, record in networks.items():
        network = ipaddress.ip_network(text)
        bits = f"{int(network.network_address):0{network.max_prefixlen}b}"[: network.prefixlen]
        if network.version == 4 and ip_version == 6:
            bits = "0" * 96 + bits
        at = 0
        for bit in map(int, bits[:-1]):
            following = nodes[at][bit]
            if following is None:
                nodes.append([None, None])
                following = nodes[at][bit] = len(nodes) - 1
            assert isinstance(following, int), "networks must not overlap"
            at = following
        nodes[at][int(bits[-1])] = ("data", len(data))
        data += encode(record)
    count = len(nodes)

    def pointer(record: int | tuple[str, int] | None) -> bytes:
        if record is None:
            return count.to_bytes(3, "big")
        if isinstance(record, tuple):
            return (count + 16 + record[1]).to_bytes(3, "big")
        return record.to_bytes(3, "big")

    tree = b"".join(pointer(left) + pointer(right) for left, right in nodes)
    metadata = {
        "binary_format_major_version": Uint(16, 2),
        "binary_format_minor_version": Uint(16, 0),
        "build_epoch": Uint(64, 1_800_000_000),
        "database_type": "Keyfront-Test",
        "description": {"en": "a few networks"},
        "ip_version": Uint(16, ip_version),
        "languages": ["en"],
        "node_count": Uint(32, count),
        "record_size": Uint(16, 24),
    }
    return tree + bytes(16) + data + MARKER + encode(metadata)
