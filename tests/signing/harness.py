"""Shared helpers of the signing tests: the corpus's keys as signers, and a shortcut to the signature check."""

from __future__ import annotations

import random

from keyfront.errors import Denied, SigningError
from keyfront.signing.diagnosis.encoders import ENCODERS, Encoder, Part
from keyfront.signing.keys import PublicKey
from keyfront.signing.raw_url import as_sent
from keyfront.signing.sign import LocalSigner
from keyfront.signing.verify import Grant, KeyRing, verify
from tests.vectors.corpus import KEY_IDS, Vector, key

SIGNERS = {name: LocalSigner(KEY_IDS[name], key(name)) for name in ("rsa", "ec", "other")}
RSA, EC, OTHER = SIGNERS["rsa"], SIGNERS["ec"], SIGNERS["other"]
KEYS: dict[str, PublicKey] = {signer.key_pair_id: signer.public_key for signer in SIGNERS.values()}
NOW = 1_700_000_000.0
SOON = int(NOW) + 3600


def ring(*signers: LocalSigner) -> KeyRing:
    return KeyRing({signer.key_pair_id: signer.public_key for signer in signers or (RSA, EC)})


def ask(
    url: str, cookies: str = "", *, keys: KeyRing | None = None, ip: str = "192.0.2.7", now: float = NOW
) -> Grant:
    """The signature check's answer to a request for a URL that is sent unchanged."""
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return verify(scheme, host, slash + path, cookies, keys or ring(), ip, now)


def reason(
    url: str, cookies: str = "", *, keys: KeyRing | None = None, ip: str = "192.0.2.7", now: float = NOW
) -> str:
    """The name of the denial, or "granted"."""
    try:
        ask(url, cookies, keys=keys, ip=ip, now=now)
    except Denied as denied:
        return denied.denial.reason
    return "granted"


def named(name: str, part: Part = "path") -> Encoder:
    return next(one for one in ENCODERS if name in one.names and part in one.parts)


def written(encoder: Encoder, text: str) -> str:
    return encoder.encode(text.encode()).encode("latin-1").decode("utf-8")


def judge(vector: Vector, ring: KeyRing) -> Grant:
    return verify(
        vector.scheme, vector.host, vector.target, vector.cookie, ring, vector.client_ip, vector.now
    )


def outcome(vector: Vector, ring: KeyRing) -> str:
    try:
        judge(vector, ring)
    except Denied as denied:
        return denied.denial.reason
    return "granted"


def many_urls() -> list[str]:
    """Three thousand random URLs, as sent on the wire."""
    chance = random.Random(4)
    pieces = [
        *map(chr, range(33, 127)),
        " ",
        "é",
        "漢",
        "%20",
        "%2F",
        "%7e",
        "%41",
        "%zz",
        "%25",
        "//",
        "&",
        "=",
    ]
    pieces.remove("#")
    made: list[str] = []
    while len(made) < 3000:
        tail = "".join(chance.choice(pieces) for _ in range(chance.randint(0, 12)))
        try:
            made.append(str(as_sent(f"https://d.test/{tail}")))
        except SigningError:
            continue
    return made
