"""A connected edge, as its control plane knows it: what it has, and its connection."""

from __future__ import annotations

import asyncio
import time

from websockets.asyncio.server import ServerConnection

from keyfront.fleet.remote import authority, messages
from keyfront.fleet.remote.channel import Version
from keyfront.fleet.remote.edge_reports import ReportingEdge
from keyfront.fleet.remote.identity import Identity
from keyfront.fleet.remote.manifest import Manifest


class ConnectedEdge(ReportingEdge):
    """A connected edge."""

    def __init__(self, identity: Identity, connection: ServerConnection, hello: messages.Hello) -> None:
        super().__init__(identity, str((connection.remote_address or ("",))[0]), hello.software)
        self.connection = connection
        self.expires = authority.peer_expiry(peer_certificate(connection))
        self.have = hello.have[:32]
        self.trusts = hello.trusts[:64]
        self.refused = b""
        self.proof: Manifest | None = None
        self.wake = asyncio.Event()
        self.answer: asyncio.Future[messages.Applied | messages.Refused] | None = None
        self.gone = False
        self.heard = time.monotonic()

    def is_past(self, version: Version) -> bool:
        """True if the edge has proven to have a later snapshot, or the same one as compiled by another version of
        Keyfront."""
        offered, proof = version.manifest, self.proof
        if proof is None or proof.number < offered.number:
            return False
        same = (proof.number, proof.created) == (offered.number, offered.created)
        return not same or self.have == proof.digest


def peer_certificate(connection: ServerConnection) -> object:
    """The certificate of the other side, verified; None if it has none."""
    secured = connection.transport.get_extra_info("ssl_object")
    return secured.getpeercert() if secured is not None else None
