"""The response header that tells an operator's own clients why a request failed.

To everybody else, the edge says no more than CloudFront does (`rules.error_pages`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

from keyfront.edge.types.messages import Reply, Request

NAME: Final = b"x-keyfront-reason"


class ReasonHeader:
    """Adds X-Keyfront-Reason to replies for listed viewers. Its value is the access log's `reason`
    (docs/reference/reasons.md).

    Such a reply also gets `Cache-Control: no-store`, so that no cache between this edge and the viewer passes it on to
    viewers that are not listed.

    :param networks: addresses of the viewers, each as a CIDR; empty: nobody gets the header.
    :raises ValueError: if one is not a CIDR.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = tuple(ipaddress.ip_network(text, strict=False) for text in networks)

    def add(self, request: Request, reply: Reply) -> None:
        """Add the header, if the reply has a reason and its viewer is listed."""
        if not self._networks or not reply.reason or not self._is_listed(request.client_ip):
            return
        headers = [header for header in reply.headers if header[0] not in (NAME, b"cache-control")]
        headers += [(b"cache-control", b"no-store"), (NAME, reply.reason.encode("latin-1", "replace"))]
        reply.headers = headers

    def _is_listed(self, client_ip: str) -> bool:
        try:
            address = ipaddress.ip_address(client_ip)
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)
