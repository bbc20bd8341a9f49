"""The messages between control planes and edges over NATS, each signed by its sender: NATS is not trusted.

A control plane signs with the snapshot key, as it signs manifests. What is for one edge names it. An edge signs with
the key of its certificate, and sends the certificate along. Every message of an edge has a serial number that grows, so
that none can be replayed.
"""

from __future__ import annotations

import zlib

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from keyfront.errors import KeyfrontError, SettingsError, SnapshotRefused
from keyfront.fleet.jetstream.head import Head
from keyfront.fleet.jetstream.pieces import Piece, cut
from keyfront.fleet.remote import authority, manifest, messages
from keyfront.fleet.remote.manifest import MAX_KEYS, Endorsement, Signed

_FROM_CONTROL = b"keyfront nats message from a control plane 1\n"
_FROM_EDGE = b"keyfront nats message from an edge 1\n"
"""What precedes the signed bytes: a signature of one kind is never one of another."""

SKEW = 300.0
"""Maximum seconds by which the clocks of a control plane and an edge may differ."""
ENVELOPE = 512
"""Bytes that a report has at most in addition to its body and the certificate, compression of a piece included."""
MAX_CERTIFICATES = 10_000
"""Verified certificates that are remembered."""


# ---- from control planes


class Beacon(msgspec.Struct, frozen=True, tag=True):
    """A control plane is alive, and snapshot `number` is the last one of the region. `at` is epoch seconds."""

    region: str
    number: int
    at: float


class Standing(msgspec.Struct, frozen=True, tag=True):
    """Whether an edge is accepted. `at` is epoch seconds."""

    edge: str
    accepted: bool
    at: float


class Stored(msgspec.Struct, frozen=True, tag=True):
    """The report `id` of an exited worker is stored: the edge can delete it."""

    edge: str
    id: str


class Renewed(msgspec.Struct, frozen=True, tag=True):
    """:param certificate: PEM."""

    edge: str
    certificate: bytes


FromControl = Head | Beacon | Standing | Stored | Renewed


class Sealed(msgspec.Struct, frozen=True):
    """A message as it travels: its bytes, the signature by the snapshot key with the id `key`, and the endorsements of
    all snapshot keys, with which an edge that trusts an older key finds the way to this one."""

    body: bytes
    signature: bytes
    key: str
    chain: list[Endorsement]


_encode = msgspec.msgpack.Encoder().encode
_sealed = msgspec.msgpack.Decoder(Sealed)
_from_control: msgspec.msgpack.Decoder[FromControl] = msgspec.msgpack.Decoder(FromControl)


def seal(message: FromControl, signer: Ed25519PrivateKey, chain: tuple[Endorsement, ...]) -> bytes:
    """Sign a message of a control plane."""
    body = _encode(message)
    key = manifest.key_id(signer.public_key().public_bytes_raw())
    return _encode(Sealed(body, signer.sign(_FROM_CONTROL + body), key, list(chain[-MAX_KEYS:])))


def unseal(data: bytes, trusted: bytes) -> tuple[FromControl, list[Endorsement]]:
    """The message of a control plane, and the endorsements that lead from the key `trusted` to the one that signed it.

    :raises SnapshotRefused: if the message is not genuine.
    """
    try:
        found = _sealed.decode(data)
    except msgspec.MsgspecError as error:
        raise SnapshotRefused("it is not a message of Keyfront") from error
    after = manifest.after(found.chain, manifest.key_id(trusted))
    public = manifest.succeed(trusted, after)
    if manifest.key_id(public) != found.key:
        raise SnapshotRefused(f"it is signed with the key {found.key[:16]!r}, which is not trusted")
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(found.signature, _FROM_CONTROL + found.body)
    except InvalidSignature:
        raise SnapshotRefused("its signature is not valid") from None
    try:
        return _from_control.decode(found.body), after
    except msgspec.MsgspecError as error:
        raise SnapshotRefused("it is a message that this version does not know") from error


# ---- from edges


class Worker(msgspec.Struct, frozen=True):
    """The state of a live worker: the snapshot that it uses, and why it refused a newer one."""

    name: str
    number: int
    refused: str = ""


class Status(msgspec.Struct, frozen=True, tag=True):
    """Sent every two seconds, and when something has changed.

    :param at: epoch seconds.
    :param proof: the last manifest that the edge accepted; empty: none.
    :param refused: why it refuses the published snapshot; empty: it does not.
    :param damaged: the id of a base that it could not read.
    """

    serial: int
    at: float
    software: str
    workers: list[Worker]
    proof: Signed = Signed()
    refused: str = ""
    damaged: str = ""


class Counters(msgspec.Struct, frozen=True, tag=True):
    """What a worker has counted, in JSON."""

    serial: int
    at: float
    worker: str
    counters: bytes


class Ended(msgspec.Struct, frozen=True, tag=True):
    """The last report of a worker that has exited. Sent again until it is Stored."""

    serial: int
    at: float
    report: messages.Ended


class Renew(msgspec.Struct, frozen=True, tag=True):
    """:param csr: DER, signed with a new key."""

    serial: int
    at: float
    csr: bytes


FromEdge = Status | Counters | Ended | Renew | Piece


class Report(msgspec.Struct, frozen=True):
    """A message of an edge as it travels: compressed, signed, with the certificate (DER)."""

    body: bytes
    signature: bytes
    certificate: bytes


_report = msgspec.msgpack.Decoder(Report)
_from_edge: msgspec.msgpack.Decoder[FromEdge] = msgspec.msgpack.Decoder(FromEdge)


def sign(message: FromEdge, key: ec.EllipticCurvePrivateKey, certificate: bytes) -> bytes:
    """Sign a message of an edge.

    :param certificate: DER.
    """
    body = zlib.compress(_encode(message), 1)
    return _encode(Report(body, key.sign(_FROM_EDGE + body, ec.ECDSA(hashes.SHA256())), certificate))


def sign_within(
    message: Status | Counters | Ended | Renew, key: ec.EllipticCurvePrivateKey, certificate: bytes, most: int
) -> list[bytes]:
    """Sign a message of an edge, in pieces if it has more than `most` bytes.

    :param certificate: DER.
    :raises SettingsError: if there would be too many pieces.
    """
    whole = sign(message, key, certificate)
    if len(whole) <= most:
        return [whole]
    body = zlib.compress(_encode(message))
    pieces = cut(body, message.serial, message.at, most - len(certificate) - ENVELOPE)
    return [sign(each, key, certificate) for each in pieces]


def read_body(body: bytes) -> FromEdge:
    """The message of an edge in the body of its report.

    :raises NotGenuine: if it is too large, or not such a message.
    """
    unpacker = zlib.decompressobj()
    try:
        message = unpacker.decompress(body, messages.MAX_TO_CONTROL)
        if not unpacker.eof:
            raise NotGenuine("it is too large")
        return _from_edge.decode(message)
    except (zlib.error, msgspec.MsgspecError) as error:
        raise NotGenuine("it is a message that this version does not know") from error


class NotGenuine(KeyfrontError):
    """A message is not from an edge."""


class Expired(NotGenuine):
    """A message is from an edge whose certificate has expired."""


class Edges:
    """Recognizes the messages of edges, by the certificates of one authority."""

    def __init__(self, issuer: x509.Certificate) -> None:
        self._issuer = issuer
        self._known: dict[bytes, tuple[str, ec.EllipticCurvePublicKey, float]] = {}

    def open(self, data: bytes, now: float) -> tuple[str, FromEdge]:
        """The id of the edge that has signed the message, and the message. Whether the edge is accepted is another
        question.

        :param now: epoch seconds.
        :raises NotGenuine: if no edge with a valid certificate has signed it.
        """
        try:
            found = _report.decode(data)
            id_, public, expires = self._edge(found.certificate)
            public.verify(found.signature, _FROM_EDGE + found.body, ec.ECDSA(hashes.SHA256()))
        except (msgspec.MsgspecError, SettingsError, InvalidSignature) as error:
            raise NotGenuine("it is not signed by an enrolled edge") from error
        if expires <= now:
            raise Expired("the certificate of the edge that signed it has expired")
        return id_, read_body(found.body)

    def _edge(self, certificate: bytes) -> tuple[str, ec.EllipticCurvePublicKey, float]:
        known = self._known.get(certificate)
        if known is None:
            known = authority.read_edge(certificate, self._issuer)
            if len(self._known) >= MAX_CERTIFICATES:
                self._known.clear()
            self._known[certificate] = known
        return known
