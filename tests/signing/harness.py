"""What the signing tests share: the corpus's keys as signers, and a short way to ask the gate."""

from __future__ import annotations

from keyfront.errors import Denied
from keyfront.signing.keys import PublicKey
from keyfront.signing.sign import LocalSigner
from keyfront.signing.verify import Grant, KeyRing, verify
from tests.vectors.make import KEY_IDS, key

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
    """What the gate says to a request for a URL that is sent as it is."""
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
