"""Trusted proxies: the proxies in front of the edge whose `X-Forwarded-For` is used."""

from __future__ import annotations

import asyncio
import ipaddress

from keyfront.edge.limits.viewers import network_of
from keyfront.edge.types.messages import Headers

MAX_HOPS = 32
"""Entries of X-Forwarded-For that are examined to find the viewer behind trusted proxies."""


class TrustedProxies:
    """The trusted proxies: the peers that the edge believes about a viewer's address and scheme."""

    def __init__(self, trusted: tuple[str, ...] = ()) -> None:
        self._networks = tuple(ipaddress.ip_network(text, strict=False) for text in trusted)

    def trusts(self, address: str) -> bool:
        if not self._networks:
            return False
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        return any(ip.version == network.version and ip in network for network in self._networks)

    def counted_as(self, address: str) -> str:
        """The name under which a viewer's address is counted; empty for a trusted proxy. A proxy that does not name its
        viewers, such as a TCP proxy, carries all of them, so it counts only toward the total."""
        return "" if self.trusts(address) else network_of(address)

    def viewer(self, peer: str, headers: Headers, scheme: str) -> tuple[str, str, Headers]:
        """The viewer's address and scheme as reported by a trusted proxy, and the headers with X-Forwarded-For
        truncated to the entries before the viewer. The address is the right-most untrusted entry among the last
        `MAX_HOPS`. If a proxy reports none, or something that is not an address, the proxy itself counts as the
        viewer."""
        chain = [
            e.strip()
            for n, v in headers
            if n == b"x-forwarded-for"
            for e in v.decode("latin-1").split(",")
            if e.strip()
        ]
        protos = [v for n, v in headers if n == b"x-forwarded-proto"]
        if protos:
            scheme = _PROTOS.get(protos[-1].strip().lower(), scheme)
        client = peer
        for _ in range(min(len(chain), MAX_HOPS)):
            entry = chain.pop()
            try:
                client = str(ipaddress.ip_address(entry))
            except ValueError:
                chain.append(entry)
                break
            if not self.trusts(client):
                break
        kept = [h for h in headers if h[0] != b"x-forwarded-for"]
        if chain:
            kept.append((b"x-forwarded-for", ",".join(chain).encode("latin-1")))
        return client, scheme, kept


def address_of(transport: asyncio.BaseTransport) -> str:
    """The peer's address, or an empty string if there is none. An IPv4 address has IPv4 form even on a dual-stack
    socket."""
    peer = transport.get_extra_info("peername")
    address: str = peer[0] if peer else ""
    return address[7:] if address.startswith("::ffff:") and "." in address else address


# Some proxies report the scheme of a WebSocket as ws or wss.
_PROTOS = {b"http": "http", b"https": "https", b"ws": "http", b"wss": "https"}
