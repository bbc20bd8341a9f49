"""Benchmark of signing and verifying, per second, for the four algorithm pairs: `python -m bench.signing`.

"Cold" is a credential that the key ring has not seen, "remembered" one that it has. Every request's text is created
again before it is timed, as a server would receive it, so that no string has a cached hash. Each figure is the best of
several rounds on one core: the one least disturbed by other load. `us` is microseconds per operation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from keyfront.errors import Denied
from keyfront.signing.key_files import load_private_key
from keyfront.signing.keys import HashName, PrivateKey
from keyfront.signing.policy import Policy
from keyfront.signing.sign import LocalSigner, sign_cookies, sign_url
from keyfront.signing.verify import KeyRing, verify

NOW = 1_700_000_000.0
EXPIRES = int(NOW) + 3600
HOST = "d111111abcdef8.cloudfront.net"
PAIRS: tuple[tuple[str, HashName], ...] = (
    ("RSA", "SHA1"),
    ("RSA", "SHA256"),
    ("ECDSA", "SHA1"),
    ("ECDSA", "SHA256"),
)
ROUNDS = 5

Request = tuple[str, str]
"""Target and Cookie header."""


class Row(NamedTuple):
    case: str
    pair: str
    us: float

    @property
    def per_second(self) -> float:
        return 1e6 / self.us


def _anew(requests: Iterable[Request]) -> list[Request]:
    return [
        (target.encode("latin-1").decode("latin-1"), cookies.encode().decode())
        for target, cookies in requests
    ]


def _time(work: Callable[[], object], count: int, before: Callable[[], object] = lambda: None) -> float:
    """Microseconds for each of `count` items, the best of several rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        before()
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return best / count * 1e6


def _verifying(signer: LocalSigner, requests: list[Request], warm: bool) -> float:
    """Microseconds to verify one of `requests`, all of which are granted."""
    keys = {signer.key_pair_id: signer.public_key}
    ring = KeyRing(keys)
    fresh: list[Request] = []

    def judge() -> None:
        for target, cookies in fresh:
            verify("https", HOST, target, cookies, ring, "192.0.2.7", NOW)

    def prepare() -> None:
        nonlocal ring
        fresh[:] = _anew(requests)
        if not warm:
            ring = KeyRing(keys)

    prepare()
    judge()
    return _time(judge, len(requests), prepare)


def _refusing(signer: LocalSigner, requests: list[Request]) -> float:
    ring = KeyRing({signer.key_pair_id: signer.public_key})

    def judge() -> None:
        for target, cookies in requests:
            try:
                verify("https", HOST, target, cookies, ring, "192.0.2.7", NOW)
            except Denied:
                continue
            raise AssertionError("granted")

    return _time(judge, len(requests))


def _pair_rows(pair: str, signer: LocalSigner, hash_name: HashName) -> list[Row]:
    """Every case for one pair."""
    text, key = b"x" * 150, signer.public_key
    signature = signer.sign(text, hash_name)
    urls = [f"https://{HOST}/films/{number}.jpg?w=300" for number in range(500)]

    def signed(url: str) -> str:
        return sign_url(url, signer, expires=EXPIRES, hash_name=hash_name, now=NOW)

    found = [
        Row("the key: sign", pair, _time(lambda: [signer.sign(text, hash_name) for _ in range(200)], 200)),
        Row(
            "the key: verify",
            pair,
            _time(lambda: [key.verify(text, signature, hash_name) for _ in range(500)], 500),
        ),
        Row("sign a URL", pair, _time(lambda: [signed(url) for url in urls[:200]], 200)),
    ]
    canned = [(signed(url)[len(f"https://{HOST}") :], "") for url in urls]
    policy = Policy(f"https://{HOST}/films/*", EXPIRES)
    bound = Policy(f"https://{HOST}/films/*", EXPIRES, starts=int(NOW) - 60, ip="192.0.2.0/24")
    tail = sign_url(urls[0], signer, policy=policy, hash_name=hash_name, now=NOW).partition("w=300&")[2]
    header = sign_cookies(policy, signer, hash_name=hash_name, now=NOW).header
    bound_header = sign_cookies(bound, signer, hash_name=hash_name, now=NOW).header
    paths = [f"/films/{number}.jpg" for number in range(500)]
    custom = [(f"{path}?w=300&{tail}", "") for path in paths]
    for case, requests, warm in (
        ("canned URL, cold", canned, False),
        ("canned URL, remembered", canned, True),
        ("custom URL, policy known", custom, False),
        ("custom URL, remembered", custom, True),
        (
            "cookies, policy known, another header",
            [(p, f"_ga={at}; {header}") for at, p in enumerate(paths)],
            False,
        ),
        ("cookies, remembered", [(path, header) for path in paths], True),
        ("cookies, remembered, with a query", [(f"{path}?w=300", header) for path in paths], True),
        ("cookies, remembered, with dates and IP", [(path, bound_header) for path in paths], True),
    ):
        found.append(Row(case, pair, _verifying(signer, requests, warm)))
    spoilt = [(target.replace("w=300", "w=301"), "") for target, _ in canned]
    found.append(Row("canned URL, refused", pair, _refusing(signer, spoilt)))
    return found


def rows() -> list[Row]:
    """Every case for every pair, and the time to load a private key."""
    found: list[Row] = []
    keys: dict[str, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey] = {
        "RSA": rsa.generate_private_key(65537, 2048),
        "ECDSA": ec.generate_private_key(ec.SECP256R1()),
    }
    for kind, hash_name in PAIRS:
        signer = LocalSigner("K2JCJMDEHXQW5F", PrivateKey(keys[kind]))
        found += _pair_rows(f"{kind} {hash_name}", signer, hash_name)
    for kind, key in keys.items():
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        us = _time(partial(load_private_key, pem), 1)
        found += [Row("load a private key", f"{kind} {name}", us) for name in ("SHA1", "SHA256")]
    return found


def main() -> list[Row]:
    """Print the table, one line per case, and return its rows."""
    found = rows()
    pairs = list(dict.fromkeys(row.pair for row in found))
    print(f"{'microseconds each (thousands a second)':42}" + "".join(f"{pair:>20}" for pair in pairs))
    for case in dict.fromkeys(row.case for row in found):
        cells = [row for row in found if row.case == case]
        print(
            f"{case:42}" + "".join(f"{row.us:10.2f} {f'({row.per_second / 1000:.1f}k)':>9}" for row in cells)
        )
    return found


if __name__ == "__main__":
    main()
