"""The plain install has no awscrt: OpenSSL verifies the same signatures and refuses the same ones."""

from __future__ import annotations

import hashlib
import sys

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from keyfront.signing.keys import PublicKey, load_public_key
from keyfront.signing.verify import KeyRing
from tests.signing.harness import KEYS, outcome
from tests.vectors.corpus import KEY_IDS, PAIRS, SIGNERS, key, load


@pytest.fixture(autouse=True)
def no_awscrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "awscrt", None)


def fresh(name: str) -> PublicKey:
    """A public key that has not chosen yet how it verifies."""
    return load_public_key(KEYS[KEY_IDS[name]].pem)


@pytest.mark.parametrize("signer", SIGNERS)
def test_every_vector_is_judged_as_it_says(signer: str) -> None:
    ring = KeyRing({KEY_IDS[name]: fresh(name) for name in KEY_IDS})
    assert {vector.name: outcome(vector, ring) for vector in load(signer)} == {
        vector.name: vector.expect for vector in load(signer)
    }


@pytest.mark.parametrize(("name", "hash_name"), PAIRS)
def test_no_other_signature_is_accepted(name: str, hash_name: str) -> None:
    public, other = fresh(name), fresh("other")
    signature = key(name).sign(b"policy", hash_name)  # type: ignore[arg-type]
    wrong_hash = "SHA1" if hash_name == "SHA256" else "SHA256"
    assert public.verify(b"policy", signature, hash_name)  # type: ignore[arg-type]
    assert not public.verify(b"policy", signature, wrong_hash)  # type: ignore[arg-type]
    assert not other.verify(b"policy", signature, hash_name)  # type: ignore[arg-type]
    for spoiled in (b"", b"\0" + signature, signature + b"\0", signature[:-1], bytes(256), b"\xff" * 256):
        assert not public.verify(b"policy", spoiled, hash_name)  # type: ignore[arg-type]
    for place in range(0, len(signature), 7):
        flipped = bytearray(signature)
        flipped[place] ^= 1
        assert not public.verify(b"policy", bytes(flipped), hash_name)  # type: ignore[arg-type]


@pytest.mark.parametrize("hash_", [hashes.SHA1(), hashes.SHA224(), hashes.SHA256(), hashes.SHA512()])
def test_an_ecdsa_signature_fits_a_digest_of_any_hash(hash_: hashes.HashAlgorithm) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    hashed = hashlib.new(hash_.name, b"policy").digest()
    signature = private.sign(hashed, ec.ECDSA(Prehashed(hash_)))
    public = PublicKey(private.public_key())
    assert public.verify_digest(hashed, signature)
    assert not public.verify_digest(hashed[:-1] + bytes([hashed[-1] ^ 1]), signature) or len(hashed) > 32
    assert not public.verify_digest(bytes([hashed[0] ^ 1]) + hashed[1:], signature)
