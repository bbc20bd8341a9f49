"""What the hub needs to know about edges. The control plane has it in its store (`control/edges`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keyfront.fleet.remote.authority import Authority
from keyfront.fleet.remote.manifest import Endorsement


class Identity(msgspec.Struct, frozen=True):
    """An enrolled edge that is not revoked. `id` never changes and is never used again; `name` is unique."""

    id: str
    name: str
    region: str


class Keys(msgspec.Struct, frozen=True):
    """The keys of the control planes that share a store.

    :param chain: the snapshot keys, the first one first. `signer` is the private half of the last one.
    """

    authority: Authority
    signer: Ed25519PrivateKey
    chain: tuple[Endorsement, ...]


class Enrollment(msgspec.Struct, frozen=True):
    """`certificate` is PEM."""

    identity: Identity
    certificate: bytes


class Seen(msgspec.Struct, frozen=True):
    """The state of a connected edge, for lists.

    :param number: of the snapshot that all of its workers use; 0: none.
    """

    id: str
    address: str
    number: int
    software: str


class Registry(Protocol):
    """The enrolled edges. Methods may block, and are called from several threads."""

    def version(self) -> int:
        """A number that changes with what `keys` or `identities` return. Cheap: it is read several times a second.

        :raises ApiError: if the store does not respond.
        """

    def keys(self) -> Keys:
        """:raises SettingsError: if the keys cannot be opened. :raises ApiError: if the store does not respond."""

    def identities(self) -> Mapping[str, Identity]:
        """The edges that are accepted, by id.

        :raises ApiError: if the store does not respond.
        """

    def enroll(self, secret: bytes, csr: bytes, name: str, address: str, now: float) -> Enrollment:
        """Enroll an edge with a token. The same token with the same key may be presented again until it expires.

        :raises SettingsError: if the edge cannot be enrolled; the message is for its operator.
        :raises ApiError: if the store does not respond.
        """

    def renew(self, id_: str, csr: bytes, now: float) -> bytes:
        """A new certificate (PEM) for an edge.

        :raises SettingsError: if the edge is not accepted, or the request is malformed.
        :raises ApiError: if the store does not respond.
        """

    def seen(self, edges: Iterable[Seen], now: float) -> None:
        """Store the state of the connected edges. It may be lost.

        :raises ApiError: if the store does not respond.
        """
