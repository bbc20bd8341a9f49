"""The wrapping of a private key for import into a KMS or Vault, where it is unwrapped: bring your own key.

Both accept the same form (AWS KMS: RSA_AES_KEY_WRAP_SHA_256; Vault's transit: import). The key, PKCS#8 in DER, is
wrapped with AES-KWP (RFC 5649) under a single-use key, which is encrypted to the place's public key with RSA-OAEP over
SHA-256. The encrypted single-use key is followed by the wrapped key.
"""

from __future__ import annotations

import secrets

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding

from keyfront.errors import CustodyError
from keyfront.signing.keys import PrivateKey


def wrapped_for_import(key: PrivateKey, public_key: bytes) -> bytes:
    """Return `key` wrapped for a place whose wrapping key is `public_key` (SubjectPublicKeyInfo, PEM or DER).

    :raises CustodyError: if `public_key` is not an RSA key.
    """
    try:
        load = serialization.load_pem_public_key if public_key.startswith(b"-----") else _der
        wrapping = load(public_key)
    except ValueError:
        wrapping = None
    if not isinstance(wrapping, rsa.RSAPublicKey):
        raise CustodyError("the key that should wrap a private key is not an RSA key")
    der = serialization.load_pem_private_key(key.to_pem().encode(), None).private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    once = secrets.token_bytes(32)
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    return wrapping.encrypt(once, oaep) + aes_key_wrap_with_padding(once, der)


_der = serialization.load_der_public_key
