"""The certificates between edges and control planes, and the tokens with which edges are enrolled.

The control planes that share a store share one authority: a key and a self-signed certificate. It issues two kinds of
certificates, told apart by their extended key usage, so that an edge can never pass for a control plane: one for each
control plane (serverAuth), and one for each edge (clientAuth), which names the edge's id. Nothing else has a
certificate of this authority, so an edge needs to check no host name: a control plane can be reached by any name or
address. Names and regions are not in the certificates. The control plane looks them up by the id, on every connection.

A token holds a secret and the fingerprint of the authority's certificate. With it, an edge recognizes its control plane
before it sends the secret.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import hashlib
import ssl

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from keyfront.errors import SettingsError

AUTHORITY_LIFETIME = 20 * 365 * 86_400.0
SERVER_LIFETIME = 365 * 86_400.0
EDGE_LIFETIME = 30 * 86_400.0
"""Lifetimes of certificates in seconds; that of an edge's is a default."""
BACKDATED = 3600.0
"""Seconds by which a certificate's validity begins earlier: clocks differ."""
SECRET = 16
"""Bytes of a token's secret."""

_ID = "urn:keyfront:edge:"
_TOKEN = "kfe1."  # noqa: S105 - the prefix of all tokens


def new_key() -> ec.EllipticCurvePrivateKey:
    """A new ECDSA P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The unencrypted PKCS#8 form."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def key_from_pem(data: bytes) -> ec.EllipticCurvePrivateKey:
    """:raises ValueError: if it is not a P-256 key in PEM."""
    key = serialization.load_pem_private_key(data, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not an ECDSA key")
    return key


def certificate_to_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def fingerprint(certificate: x509.Certificate) -> bytes:
    """The SHA-256 of the certificate."""
    return certificate.fingerprint(hashes.SHA256())


class Authority:
    """The authority's key and certificate."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self.certificate = certificate

    @classmethod
    def create(cls, now: float) -> Authority:
        """A new one, at `now` (epoch seconds)."""
        key = new_key()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Keyfront edges")])
        builder = certificate_builder(name, name, key.public_key(), now, AUTHORITY_LIFETIME)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(key_usage(certificates=True), critical=True)
        return cls(key, builder.sign(key, hashes.SHA256()))

    @classmethod
    def load(cls, certificate: bytes, key: bytes) -> Authority:
        """:param certificate: PEM. :param key: PEM.
        :raises ValueError: if they cannot be read.
        """
        return cls(key_from_pem(key), x509.load_pem_x509_certificate(certificate))

    @property
    def pem(self) -> bytes:
        """The certificate."""
        return certificate_to_pem(self.certificate)

    @property
    def key_pem(self) -> bytes:
        """The private key, unencrypted."""
        return key_to_pem(self._key)

    def sign(self, data: bytes) -> bytes:
        """The authority's signature over `data`, which `verify` checks. Nothing that begins like `data` may be a
        certificate."""
        return self._key.sign(data, ec.ECDSA(hashes.SHA256()))

    def issue_server(self, now: float) -> bytes:
        """A new key and certificate for a control plane, in PEM, at `now` (epoch seconds)."""
        key = new_key()
        certificate = self._issue(
            key.public_key(),
            "Keyfront control plane",
            ExtendedKeyUsageOID.SERVER_AUTH,
            x509.DNSName("control.keyfront.internal"),
            now,
            SERVER_LIFETIME,
        )
        return key_to_pem(key) + certificate_to_pem(certificate)

    def issue_edge(self, csr: bytes, id_: str, now: float, lifetime: float = EDGE_LIFETIME) -> bytes:
        """A certificate for the edge `id_` in PEM, for the key in its request (DER).

        :raises SettingsError: if the request is malformed, or not signed with its key.
        """
        public = public_of(csr)
        certificate = self._issue(
            public,
            id_,
            ExtendedKeyUsageOID.CLIENT_AUTH,
            x509.UniformResourceIdentifier(_ID + id_),
            now,
            lifetime,
        )
        return certificate_to_pem(certificate)

    def _issue(
        self,
        public: ec.EllipticCurvePublicKey,
        common_name: str,
        purpose: x509.ObjectIdentifier,
        subject: x509.GeneralName,
        now: float,
        lifetime: float,
    ) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        builder = certificate_builder(self.certificate.subject, name, public, now, lifetime)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(key_usage(certificates=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        builder = builder.add_extension(x509.SubjectAlternativeName([subject]), critical=False)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
        )
        return builder.sign(self._key, hashes.SHA256())


def certificate_builder(
    issuer: x509.Name, subject: x509.Name, public: ec.EllipticCurvePublicKey, now: float, lifetime: float
) -> x509.CertificateBuilder:
    """What all certificates have, also those of the local authority. It is valid for `lifetime` seconds from `now`
    (epoch seconds)."""

    def moment(at: float) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(at, datetime.UTC).replace(tzinfo=None)

    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment(now - BACKDATED))
        .not_valid_after(moment(now + lifetime))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def key_usage(*, certificates: bool) -> x509.KeyUsage:
    """The usage of a key: to sign certificates, or anything else."""
    return x509.KeyUsage(
        digital_signature=not certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=certificates,
        encipher_only=False,
        decipher_only=False,
    )


def request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A request for a certificate, DER, signed with `key`. It names nothing: the control plane decides that."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def public_of(csr: bytes) -> ec.EllipticCurvePublicKey:
    """The key in a request.

    :raises SettingsError: if the request is malformed, not signed with its key, or the key is of another kind.
    """
    try:
        found = x509.load_der_x509_csr(csr)
        public = found.public_key()
        valid = found.is_signature_valid
    except Exception as error:  # cryptography raises many kinds for malformed input
        raise SettingsError("the certificate request is malformed") from error
    if not (
        valid and isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, ec.SECP256R1)
    ):
        raise SettingsError("the certificate request is not signed with an ECDSA P-256 key")
    return public


def key_digest(csr: bytes) -> bytes:
    """The SHA-256 of the key in a request.

    :raises SettingsError: see `public_of`.
    """
    return hashlib.sha256(
        public_of(csr).public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    ).digest()


def verify(certificate: x509.Certificate, signature: bytes, data: bytes) -> bool:
    """Whether the authority with this certificate has signed `data`."""
    public = certificate.public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey):
        return False
    try:
        public.verify(signature, data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def read_edge(certificate: bytes, issuer: x509.Certificate) -> tuple[str, ec.EllipticCurvePublicKey, float]:
    """The id in the certificate of an edge (DER), its key, and when it expires (epoch seconds).

    :raises SettingsError: if it is not the certificate of an edge, issued by the authority with the certificate
        `issuer`.
    """
    try:
        found = x509.load_der_x509_certificate(certificate)
        found.verify_directly_issued_by(issuer)
        purposes = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        public = found.public_key()
    except Exception as error:  # cryptography raises many kinds for malformed input
        raise SettingsError("it is not a certificate of this authority") from error
    for name in names.get_values_for_type(x509.UniformResourceIdentifier):
        if (
            name.startswith(_ID)
            and ExtendedKeyUsageOID.CLIENT_AUTH in purposes
            and isinstance(public, ec.EllipticCurvePublicKey)
        ):
            return name[len(_ID) :], public, found.not_valid_after_utc.timestamp()
    raise SettingsError("it is not the certificate of an edge")


def edge_id(certificate: object) -> str:
    """The id of the edge in a certificate as `ssl.SSLSocket.getpeercert()` returns it; empty if there is none."""
    names = certificate.get("subjectAltName", ()) if isinstance(certificate, dict) else ()
    for kind, value in names:
        if kind == "URI" and value.startswith(_ID):
            return str(value[len(_ID) :])
    return ""


def peer_expiry(certificate: object) -> float:
    """When a certificate as `ssl.SSLSocket.getpeercert()` returns it expires, epoch seconds; 0 if there is none."""
    end = certificate.get("notAfter") if isinstance(certificate, dict) else None
    return float(ssl.cert_time_to_seconds(end)) if end else 0.0


def expiry(pem: bytes) -> float:
    """When the first certificate in `pem` expires, epoch seconds.

    :raises ValueError: if it cannot be read.
    """
    return x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()


def start(pem: bytes) -> float:
    """When the first certificate in `pem` was issued, epoch seconds.

    :raises ValueError: if it cannot be read.
    """
    return x509.load_pem_x509_certificate(pem).not_valid_before_utc.timestamp() + BACKDATED


# ---- tokens


class Token(msgspec.Struct, frozen=True):
    """:param secret: proves that the holder may enroll an edge.
    :param authority: the fingerprint of the authority's certificate.
    """

    secret: bytes
    authority: bytes

    def __str__(self) -> str:
        return _TOKEN + base64.urlsafe_b64encode(self.secret + self.authority).decode()

    @property
    def digest(self) -> bytes:
        """What the control plane stores of the secret."""
        return secret_digest(self.secret)


def secret_digest(secret: bytes) -> bytes:
    """What the control plane stores of a token's secret."""
    return hashlib.sha256(b"keyfront edge token\0" + secret).digest()


def token_of(text: str) -> Token:
    """The token in `text`.

    :raises SettingsError: if it is not one.
    """
    head, _, body = text.strip().partition(".")
    try:
        data = base64.b64decode(body, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if head + "." != _TOKEN or len(data) != SECRET + 32:
        raise SettingsError(
            "this is not a whole token; create one where the control plane runs: keyfront edge enroll-token"
        )
    return Token(data[:SECRET], data[SECRET:])
