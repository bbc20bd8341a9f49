"""Keys generated for tests. Fixed keys are in `tests/vectors/keys`."""

from __future__ import annotations

import functools

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa


@functools.cache
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@functools.cache
def rsa_pem(bits: int = 2048) -> str:
    return pem(rsa_key(bits).public_key())


@functools.cache
def ec_pem(curve: str = "P-256") -> str:
    return pem(ec.generate_private_key(ec.SECP256R1() if curve == "P-256" else ec.SECP384R1()).public_key())


def public_pem() -> str:
    """The public half of a new P-256 key, different at each call."""
    return pem(ec.generate_private_key(ec.SECP256R1()).public_key())


def pem(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> str:
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()
