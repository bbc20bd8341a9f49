"""The encryption of an enrollment over NATS, where others may read along.

A control plane offers a key for the exchange, signed by the authority whose fingerprint is in the edge's token. The
edge encrypts its secret for that key, and only who has it can respond. It is an exchange of X25519 keys, both new,
HKDF, and ChaCha20-Poly1305 with one key for each direction. Each key encrypts one message.
"""

from __future__ import annotations

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keyfront.errors import SettingsError
from keyfront.fleet.remote import authority
from keyfront.fleet.remote.authority import Authority

_OFFER = b"keyfront nats enrollment key 1\n"
_INFO = b"keyfront nats enrollment 1\n"
_NONCE = bytes(12)


class Offer(msgspec.Struct, frozen=True):
    """:param certificate: of the authority, PEM. :param public: the key to encrypt for, 32 bytes, with the authority's
    signature.
    :param subject: where to send what is encrypted.
    """

    certificate: bytes
    public: bytes
    signature: bytes
    subject: str


class Envelope(msgspec.Struct, frozen=True):
    """:param public: the edge's key for this exchange, 32 bytes. :param body: encrypted."""

    public: bytes
    body: bytes


class _Keys(msgspec.Struct, frozen=True):
    request: bytes
    response: bytes


def _keys(own: X25519PrivateKey, peer: bytes, context: bytes) -> _Keys:
    """:raises ValueError: if the peer's key is not one."""
    shared = own.exchange(X25519PublicKey.from_public_bytes(peer))
    made = HKDF(hashes.SHA256(), 64, salt=None, info=_INFO + context).derive(shared)
    return _Keys(made[:32], made[32:])


class Host:
    """A control plane's side. A new one at each start."""

    def __init__(self) -> None:
        self._key = X25519PrivateKey.generate()
        self._public = self._key.public_key().public_bytes_raw()

    def offer(self, issuer: Authority, subject: str) -> bytes:
        """The offer, as it travels."""
        signature = issuer.sign(_OFFER + self._public + subject.encode())
        return msgspec.msgpack.encode(Offer(issuer.pem, self._public, signature, subject))

    def open(self, data: bytes) -> tuple[bytes, bytes]:
        """What an edge has encrypted, and the key for `respond`.

        :raises SettingsError: if it is not for this key.
        """
        try:
            found = msgspec.msgpack.decode(data, type=Envelope)
            keys = _keys(self._key, found.public, found.public + self._public)
            return ChaCha20Poly1305(keys.request).decrypt(_NONCE, found.body, None), keys.response
        except (msgspec.MsgspecError, ValueError, InvalidTag) as error:
            raise SettingsError("it is not encrypted for this control plane") from error


def respond(key: bytes, data: bytes) -> bytes:
    """Encrypt the one response to what `Host.open` has returned."""
    return ChaCha20Poly1305(key).encrypt(_NONCE, data, None)


class Guest:
    """An edge's side, for one exchange.

    :param data: the offer.
    :param expected: the fingerprint of the authority.
    :raises SettingsError: if it is not an offer, or not of that authority.
    """

    def __init__(self, data: bytes, expected: bytes) -> None:
        try:
            self.offer = offer = msgspec.msgpack.decode(data, type=Offer)
            self.issuer = x509.load_pem_x509_certificate(offer.certificate)
        except (msgspec.MsgspecError, ValueError) as error:
            raise SettingsError("what responds there is not a control plane of Keyfront") from error
        if authority.fingerprint(self.issuer) != expected:
            raise SettingsError(
                "the control plane there is not the one that the token is from: it has another authority. Nothing "
                "was sent to it"
            )
        if not authority.verify(self.issuer, offer.signature, _OFFER + offer.public + offer.subject.encode()):
            raise SettingsError("the control plane's key for the enrollment is not signed by its authority")
        self._key = X25519PrivateKey.generate()
        self._public = self._key.public_key().public_bytes_raw()
        self._keys = _keys(self._key, offer.public, self._public + offer.public)

    def encrypt(self, data: bytes) -> bytes:
        """What to send. Call it once."""
        body = ChaCha20Poly1305(self._keys.request).encrypt(_NONCE, data, None)
        return msgspec.msgpack.encode(Envelope(self._public, body))

    def decrypt(self, data: bytes) -> bytes:
        """The response.

        :raises SettingsError: if it is not from who made the offer.
        """
        try:
            return ChaCha20Poly1305(self._keys.response).decrypt(_NONCE, data, None)
        except (InvalidTag, ValueError) as error:
            raise SettingsError("the response is not from the control plane that made the offer") from error
