"""What a signature reveals about how it was made.

Anyone can reverse an RSA signature with the public key: the result shows the padding, the hash, and the digest, so each
candidate text costs only one hash. An ECDSA signature reveals nothing; each text costs a verification (60
microseconds).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from keyfront.signing.keys import PublicKey

Padding = Literal["PKCS1", "PSS", "none"]

# RFC 8017 §9.2 note 1, and §B.1: the prefix of a digest.
_DIGEST_INFO: dict[str, bytes] = {
    "sha1": bytes.fromhex("3021300906052b0e03021a05000414"),
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha512": bytes.fromhex("3051300d060960864801650304020305000440"),
    "sha384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "sha224": bytes.fromhex("302d300d06096086480165030402040500041c"),
    "md5": bytes.fromhex("3020300c06082a864886f70d020505000410"),
}
_BY_SIZE = {
    hashlib.new(name, usedforsecurity=False).digest_size: name
    for name in ("md5", "sha1", "sha224", "sha256", "sha384", "sha512")
}
HASHES = {
    "sha1": "SHA-1",
    "sha256": "SHA-256",
    "sha512": "SHA-512",
    "sha384": "SHA-384",
    "sha224": "SHA-224",
    "md5": "MD5",
}
"""Hash names in hashlib's spelling, mapped to the usual one."""


def hashed(data: bytes, name: str) -> bytes:
    """Return the digest of `data` by the hash with hashlib's name `name`."""
    return hashlib.new(name, data, usedforsecurity=False).digest()


class Imprint(msgspec.Struct, frozen=True):
    """What an RSA signature was made over, and how. `hash_name` is hashlib's name; `salt` is the PSS salt.

    `certain` is false if the padding may be a coincidence; then only a text that fits proves it.
    """

    padding: Padding
    hash_name: str
    digest: bytes
    salt: bytes = b""
    certain: bool = True

    def fits(self, data: bytes) -> bool:
        """Whether the signature is over `data`."""
        made = hashed(data, self.hash_name)
        if self.padding == "PSS":
            made = hashed(b"\0" * 8 + made + self.salt, self.hash_name)
        return made == self.digest

    def test(self) -> Callable[[bytes], bool]:
        """Return `fits`, prepared for thousands of texts."""
        if self.padding == "PSS":
            return self.fits
        make: Callable[..., Any] = getattr(hashlib, self.hash_name)
        wanted = self.digest
        return lambda data: make(data, usedforsecurity=False).digest() == wanted

    @property
    def usable(self) -> bool:
        """Whether CloudFront accepts signatures made this way."""
        return self.padding == "PKCS1" and self.hash_name in ("sha1", "sha256")

    def described(self) -> str:
        """Describe in words how the signature was made."""
        name = HASHES[self.hash_name]
        if self.padding == "PSS":
            return f"RSASSA-PSS with {name}"
        if self.padding == "none":
            return f"a bare {name} digest without the DigestInfo of PKCS #1"
        return name


def imprints(key: PublicKey, signature: bytes) -> list[Imprint]:
    """Return what `signature` was made over if `key` made it: one imprint, or several readings of one. Empty for ECDSA
    keys and for signatures by other keys."""
    encoded = key.undone(signature)
    if encoded is None:
        return []
    if encoded.startswith(b"\0\1\xff\xff\xff\xff\xff\xff\xff\xff"):
        content = encoded[2:].lstrip(b"\xff")
        return _pkcs1(content[1:]) if content[:1] == b"\0" else []
    if not encoded.rstrip(b"\0").startswith(b"\0" * 128):
        return _pss(encoded)
    bare = encoded.lstrip(b"\0")  # no padding at all
    return _bare(bare)


def _pkcs1(content: bytes) -> list[Imprint]:
    for name, prefix in _DIGEST_INFO.items():
        if content.startswith(prefix) and len(content) == len(prefix) + prefix[-1]:
            return [Imprint("PKCS1", name, content[len(prefix) :])]
    return _bare(content)


def _bare(content: bytes) -> list[Imprint]:
    if (name := _BY_SIZE.get(len(content))) is not None:
        return [Imprint("none", name, content)]
    try:
        digest = bytes.fromhex(content.decode("ascii"))
    except (UnicodeDecodeError, ValueError):
        return []
    return [Imprint("none", name, digest)] if (name := _BY_SIZE.get(len(digest))) is not None else []


def _pss(encoded: bytes) -> list[Imprint]:
    """Reverse RFC 8017 §9.1.2 for each hash."""
    if encoded[-1] != 0xBC:
        return []
    found = []
    for name in ("sha256", "sha1", "sha512", "sha384", "sha224"):
        size = hashlib.new(name, usedforsecurity=False).digest_size
        masked, digest = encoded[: -1 - size], encoded[-1 - size : -1]
        mask = _mgf1(digest, len(masked), name)
        block = bytes(a ^ b for a, b in zip(masked, mask, strict=True))
        block = bytes([block[0] & 0x7F]) + block[1:]
        zeros, one, salt = block.partition(b"\1")
        if one and not zeros.strip(b"\0"):
            found.append(Imprint("PSS", name, digest, salt, certain=len(zeros) >= 8))
    return found


def _mgf1(seed: bytes, length: int, name: str) -> bytes:
    out = b""
    for counter in range(length // 16 + 1):
        if len(out) >= length:
            break
        out += hashed(seed + counter.to_bytes(4, "big"), name)
    return out[:length]
