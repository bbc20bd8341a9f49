"""The bounded search for what a signature was made over: candidates are tried until one fits.

A candidate that fits is proof: only the key's owner can make a signature over it. So an answer is either right or
absent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from keyfront.signing.diagnosis.imprint import HASHES, Imprint, hashed, imprints
from keyfront.signing.diagnosis.mistakes import Alternative, Mistake, Signed, mistakes_of
from keyfront.signing.diagnosis.policy_texts import CANNED, custom, right
from keyfront.signing.diagnosis.signer_mistakes import Request
from keyfront.signing.keys import HashName, PublicKey, digest

# The limits, each worth about 25 ms: texts hashed, their total bytes, and ECDSA verifications.
MAX_TEXTS = 3_000
MAX_BYTES = 3_000_000
MAX_VERIFICATIONS = 220
# Policy texts are combined only with URLs of at most this cost.
_KEPT = 2


Candidate = tuple[int, bytes, "Callable[[], tuple[Mistake, ...]]"]
"""A text that may have been signed: its cost, and the mistakes in it."""


class Found(NamedTuple):
    """A text that was signed, by which key and how. `hash_name` is in CloudFront's spelling if it has one. `how` is
    what is unusual about the signature (PSS, another hash), or None."""

    mistakes: tuple[Mistake, ...]
    data: bytes
    hash_name: str
    key_id: str
    how: Mistake | None


def canned_candidates(request: Request, expires: str, key_id: str = "") -> Iterator[Candidate]:
    """Yield the texts of a canned policy for `request`, the correct one first, in order of cost."""
    mark = "&" if request.query else "?"
    with_parameters = [
        f"{request.url}{mark}{parameters}"
        for parameters in (
            f"Expires={expires}",
            f"Expires={expires}&Key-Pair-Id={key_id}",
            f"Key-Pair-Id={key_id}&Expires={expires}",
            f"Key-Pair-Id={key_id}",
        )
    ]
    kept: dict[int, list[Signed]] = {}
    head, tail = (part.encode() for part in right("URL", expires).decode("latin-1").split("URL"))
    for total, group in groupby(request.signed(), key=itemgetter(0)):
        some: list[Signed] = []
        for signed in group:
            _, url, parts = signed
            if total <= _KEPT:
                some.append(signed)
            if '"' in url or "\\" in url:
                yield total, right(url, expires), partial(mistakes_of, parts)
            else:
                yield total, head + url.encode("latin-1") + tail, partial(mistakes_of, parts)
        if total == 2:
            for url in with_parameters:
                yield total, right(url, expires), _signed_with_parameters
        kept[total] = some
        for writing in CANNED:
            for _, url, parts in kept.get(total - writing.cost, ()):
                yield total, writing.write(url, expires), partial(_written, parts, writing.mistake)


def _signed_with_parameters() -> tuple[Mistake, ...]:
    words = (
        "the URL was signed with signing parameters in it; sign the plain URL, and add all of them afterwards"
    )
    return (Mistake("parameters_signed", words),)


def _written(parts: tuple[Alternative, ...], mistake: Mistake | None) -> tuple[Mistake, ...]:
    return (*mistakes_of(parts), *((mistake,) if mistake else ()))


def custom_candidates(policy: bytes) -> Iterator[Candidate]:
    """Yield the texts that may have been signed if `policy` was sent, the correct one first."""
    for mistakes, data in custom(policy):
        yield len(mistakes), data, partial(tuple, mistakes)


class Search:
    """A signature, and the keys that may have made it, in order of likelihood."""

    def __init__(self, signature: bytes, keys: Mapping[str, PublicKey], declared: str) -> None:
        self.keys = keys
        self._signature = signature
        self._declared = declared
        self.made: list[tuple[str, Imprint]] = [
            (id_, imprint) for id_, key in keys.items() for imprint in imprints(key, signature)
        ]
        self._curves = {id_: key for id_, key in keys.items() if key.algorithm == "ECDSA-P256"}

    @property
    def maker(self) -> tuple[str, Imprint] | None:
        """The key that made an RSA signature, and how, regardless of what it was made over."""
        return next(((id_, imprint) for id_, imprint in self.made if imprint.certain), None)

    def find(self, candidates: Iterable[Candidate]) -> Found | None:
        if self.made:
            return self._by_imprint(candidates)
        if not self._curves:
            return None
        tried = _Bounded(candidates)
        found = self._by_verification(tried, self._signature, None)
        if found is None and len(self._signature) == 64:
            der = encode_dss_signature(
                int.from_bytes(self._signature[:32], "big"), int.from_bytes(self._signature[32:], "big")
            )
            raw = Mistake(
                "ecdsa_raw",
                "the signature is the 64 bytes of a raw r and s pair; CloudFront takes ECDSA signatures as ASN.1 DER",
            )
            found = self._by_verification(tried, der, raw)
        return found

    def _by_imprint(self, candidates: Iterable[Candidate]) -> Found | None:
        size = 0
        tests = [(id_, imprint, imprint.test()) for id_, imprint in self.made]
        for count, (_, data, mistakes) in enumerate(candidates):
            size += len(data)
            if count >= MAX_TEXTS or size > MAX_BYTES:
                return None
            for id_, imprint, fits in tests:
                if fits(data):
                    how = None if imprint.usable else _how(imprint)
                    return Found(mistakes(), data, imprint.hash_name.upper(), id_, how)
        return None

    def _by_verification(self, tried: _Bounded, signature: bytes, how: Mistake | None) -> Found | None:
        names: tuple[HashName, ...] = ("SHA256", "SHA1") if self._declared == "SHA256" else ("SHA1", "SHA256")
        first = next(iter(self._curves))
        for cost, data, mistakes in tried:
            # Try likely texts with every key and hash, the others only with the declared key and hash.
            likely = cost <= 1
            for id_ in self._curves if likely else (first,):
                for name in names if likely else names[:1]:
                    if tried.spent():
                        return None
                    if self._curves[id_].verify_digest(digest(data, name), signature):
                        return Found(mistakes(), data, name, id_, how)
                for other in ("sha512", "sha384", "sha224", "md5") if cost == 0 else ():
                    if not tried.spent() and self._curves[id_].verify_digest(hashed(data, other), signature):
                        return Found(mistakes(), data, other.upper(), id_, how or _other_hash(other))
        return None


class _Bounded:
    """Distinct candidates, until the verifications are used up."""

    def __init__(self, candidates: Iterable[Candidate]) -> None:
        self._candidates = iter(candidates)
        self._seen: set[bytes] = set()
        self._left = MAX_VERIFICATIONS
        self._size = MAX_BYTES
        self._first: list[Candidate] = []

    def spent(self) -> bool:
        """Count one verification. Returns whether the limit is exceeded."""
        self._left -= 1
        return self._left < 0

    def __iter__(self) -> Iterator[Candidate]:
        yield from tuple(self._first)  # for another reading of the signature
        for candidate in self._candidates:
            cost, data, _ = candidate
            self._size -= len(data)
            if self._left <= 0 or self._size < 0:
                return
            if data in self._seen:
                continue
            self._seen.add(data)
            if cost == 0:
                self._first.append(candidate)
            yield candidate


def _how(imprint: Imprint) -> Mistake:
    if imprint.padding == "PSS":
        return Mistake(
            "pss",
            f"it was signed with {imprint.described()}; CloudFront takes RSASSA-PKCS1-v1_5 only (in a KMS "
            "RSASSA_PKCS1_V1_5_SHA_256, in a library PKCS1v15 padding)",
        )
    if imprint.padding == "none":
        return Mistake(
            "no_digest_info",
            f"it was signed as {imprint.described()}: use a function that hashes and signs (openssl dgst -sign, "
            "openssl_sign, createSign), not one that encrypts with a private key",
        )
    return _other_hash(imprint.hash_name)


def _other_hash(name: str) -> Mistake:
    return Mistake(
        "hash_not_supported", f"it was signed with {HASHES[name]}; CloudFront takes SHA-1 and SHA-256 only"
    )


def how(imprint: Imprint) -> Mistake | None:
    """Return what is unusual about how a signature was made."""
    return None if imprint.usable else _how(imprint)
