"""Keys for tests. RSA keys are fixed, in `tests/vectors/keys`: generating one takes up to seconds of CPU."""

from __future__ import annotations

import functools
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

KEYS = Path(__file__).parent / "vectors" / "keys"


@functools.cache
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    """The key of 1024, 2048, 3072, or 4096 bits."""
    text = (KEYS / f"rsa-{bits}.pem").read_bytes()
    key = serialization.load_pem_private_key(text, None, unsafe_skip_rsa_key_validation=True)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


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
