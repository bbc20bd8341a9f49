"""Access to `/metrics`: for this machine, for networks that the operator lists, for everyone, or for no one; and for
whoever sends the operator's token. Pure."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Sequence

LOCAL = "local"
ALL = "all"
OFF = "off"

_FORWARDED = frozenset({b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip"})
"""Request headers that a proxy adds."""


class Audience:
    """The clients that may read `/metrics`, by address or by token.

    :param who: any of `local` (loopback addresses), `all`, `off`, and networks in CIDR form.
    :param token: the bearer token (RFC 6750) that admits any client; empty: none does.
    :raises ValueError: for any other text.
    """

    def __init__(self, who: Sequence[str] = (LOCAL,), token: str = "") -> None:
        self._token = token.encode()
        self._all = ALL in who
        self._local = LOCAL in who
        self._networks = [
            ipaddress.ip_network(one, strict=False) for one in who if one not in (LOCAL, ALL, OFF)
        ]

    def admits(self, peer: tuple[str, int] | None, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        """True if this peer may read.

        A proxy connects from its own address on behalf of others, so a request with a proxy's headers is refused,
        unless a trusted proxy has named the client: the server then replaces the proxy's address with the client's, and
        the port with 0. `local` admits direct connections only.

        :param peer: address and port.
        :param headers: the request's headers, names in lower case.
        """
        if self._all or self._has_token(headers):
            return True
        if peer is None:
            return False
        try:
            address = ipaddress.ip_address(peer[0].partition("%")[0])
        except ValueError:
            return False
        address = getattr(address, "ipv4_mapped", None) or address
        forwarded = any(name in _FORWARDED for name, _ in headers)
        if forwarded and peer[1] != 0:
            return False
        if any(address in network for network in self._networks):
            return True
        return self._local and address.is_loopback and not forwarded

    def _has_token(self, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        """Whether the request carries the token, in `Authorization`."""
        for name, value in headers:
            scheme, _, credentials = value.partition(b" ")
            if name == b"authorization" and scheme.lower() == b"bearer" and self._token:
                return hmac.compare_digest(credentials.strip(), self._token)
        return False
