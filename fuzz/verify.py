"""Fuzzer of `verify`: for any URL and any Cookie header, it returns a Grant or raises Denied, nothing else.

    python -m fuzz.verify [--seconds N] [--count N] [--seed N]  mutations of valid credentials, for a bounded time
    python -m fuzz.verify --atheris [libFuzzer options]        coverage-guided, where atheris is installed

A Grant for something that was not signed is also a finding: every granted input is checked a second time by a simple
oracle, which reconstructs what was signed and verifies it with OpenSSL through cryptography's own verify.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from fuzz.runner import inputs, main

from keyfront.errors import Denied
from keyfront.signing.explain import explain
from keyfront.signing.keys import PrivateKey, cf_b64decode
from keyfront.signing.policy import Policy
from keyfront.signing.sign import LocalSigner, sign_cookies, sign_url
from keyfront.signing.verify import KeyRing, verify

NOW = 1_700_000_000.0
SOON = int(NOW) + 3600

RSA = LocalSigner("KRSA", PrivateKey(rsa.generate_private_key(65537, 2048)))
EC = LocalSigner("KEC", PrivateKey(ec.generate_private_key(ec.SECP256R1())))
KEYS = {signer.key_pair_id: signer.public_key for signer in (RSA, EC)}

Input = tuple[str, str, str, str, str]
"""Scheme, host, target, Cookie header, the viewer's address."""


def seeds() -> list[Input]:
    """Credentials of every kind that are granted unchanged."""
    found: list[Input] = []
    for signer in (RSA, EC):
        for hash_name in ("SHA1", "SHA256"):
            for url in ("https://cdn.test/a", "https://cdn.test/a/b%20c?d=1&flag&&e=%27"):
                signed = sign_url(url, signer, expires=SOON, hash_name=hash_name, now=NOW)
                found.append(("https", "cdn.test", signed.removeprefix("https://cdn.test"), "", "192.0.2.7"))
            for resource in ("https://cdn.test/*", "http*://*.test/?/*b?x=*", None):
                policy = Policy(resource, SOON, starts=int(NOW) - 9, ip="192.0.2.0/24")
                cookies = sign_cookies(policy, signer, hash_name=hash_name, now=NOW).header
                found.append(("https", "cdn.test", "/a/ab?x=1", cookies, "192.0.2.7"))
                tail = "&".join(part.removeprefix("CloudFront-") for part in cookies.split("; "))
                found.append(("https", "cdn.test", f"/a/ab?x=1&{tail}", "", "192.0.2.7"))
            canned = sign_cookies(
                "https://cdn.test/a?b", signer, expires=SOON, canned=True, hash_name=hash_name, now=NOW
            )
            found.append(("https", "cdn.test", "/a?b", canned.header, "192.0.2.7"))
    return found


_PIECES = (
    "Expires=", "Policy=", "Signature=", "Key-Pair-Id=", "Hash-Algorithm=", "CloudFront-Policy=", "CloudFront-", "KRSA",
    "KEC", "SHA1", "SHA256", "&", "&&", "?", "=", ";", "; ", "%", "%00", "%2", "%7E", "%25", "+", "~", "_", "-", '"',
    "\\", "/", "//", "..", "#", "\0", "\n", "é", "\xff", "漢", "\ud800", " ", "0", "9" * 40, "undefined", str(SOON),
    "%20", "%2F", "%2f", "%C3%A9", "%CC%88", "%E9", "'", "%27", "&amp;", "%3F", "%0A", "??", "*", "Expire=", "sig=",
    "cdn.test", ":443", ":80", "http", "https://", '","Condition":{', "}}}]}", "[" * 500, "a" * 5000,
)  # fmt: skip


def mutate(chance: random.Random, value: Input, others: list[Input]) -> Input:
    """Make one to four small changes somewhere in the input."""
    fields = list(value)
    for _ in range(chance.randint(1, 4)):
        # Mostly target and cookies: that is what a viewer chooses freely.
        at = chance.choice((0, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4))
        text = fields[at]
        where = chance.randint(0, len(text))
        end = min(len(text), where + chance.choice((0, 0, 1, 1, 2, 8, 64)))
        kind = chance.randint(0, 5)
        if kind == 0:
            new = chance.choice(_PIECES)
        elif kind == 1:
            new = chr(chance.randrange(256))
        elif kind == 2:
            new = text[where:end] * 2
        elif kind == 3:
            other = chance.choice(others)[at]
            start = chance.randint(0, len(other))
            new = other[start : start + chance.choice((4, 40, 400))]
        elif kind == 4:
            new = text[where:end][::-1]
        else:
            new = ""
        fields[at] = text[:where] + new + text[end:]
    return fields[0], fields[1], fields[2], fields[3], fields[4]


def check(ring: KeyRing, value: Input, explained: bool = False) -> bool:
    """Check the contract. Returns True if granted. With `explained`, a refusal must also be explained with the same
    reason.

    :raises AssertionError: for a grant that the oracle does not confirm, or an inconsistent denial.
    """
    scheme, host, target, cookies, address = value
    try:
        grant = verify(scheme, host, target, cookies, ring, address, NOW)
    except Denied as denied:
        first = denied.denial
    else:
        assert signed(value, grant.mode), "granted without a signature"
        return True
    try:
        verify(scheme, host, target, cookies, KeyRing(KEYS), address, NOW)
    except Denied as denied:
        second = denied.denial
    else:
        raise AssertionError("refused by a warm table, granted by a cold one")
    assert second is first, f"{first} by a warm table, {second} by a cold one"
    if explained and address and scheme in ("http", "https") and max(host + target, default="") <= "\xff":
        report = explain(
            scheme,
            host,
            target,
            cookie_header=cookies,
            keyring=ring,
            client_ip=address,
            now=NOW,
            known_keys=KEYS,
        )
        assert report.denial == first.reason, f"refused as {first}, explained as {report.denial}"
        assert report.cause, "refused without a cause"
        assert report.causes, "refused without the code of a cause"
        assert all(cause.code != "unknown" for cause in report.causes), "a cause without a code of its own"
    return False


def signed(value: Input, mode: str) -> bool:
    """The oracle: whether some reading of the input contains a signature by a known key over a policy that is either
    given, or the canned policy for this exact URL. It shares only the base64 decoder with the verification code."""
    scheme, host, target, cookies, _ = value
    path, _, query = target.partition("?")
    pieces = query.split("&")
    names = ("Expires", "Policy", "Signature", "Key-Pair-Id", "Hash-Algorithm")
    if mode == "url":
        values = {
            n: [unquote_to_bytes(p[len(n) + 1 :]).decode("latin-1") for p in pieces if p.startswith(n + "=")]
            for n in names
        }
    else:
        parts = [part.strip(" \t") for part in cookies.split(";")]
        values = {
            n: [
                p.partition("=")[2].strip(" \t")
                for p in parts
                if p.partition("=")[0].strip(" \t") == f"CloudFront-{n}"
            ]
            for n in names
        }
    own = [p for p in pieces if p.partition("=")[0] not in names]
    port = {"http": ":80", "https": ":443"}.get(scheme, "")
    base = f"{scheme}://{host.removesuffix(port) if port else host}{path}"
    urls = {base, f"{base}?", f"{base}?{'&'.join(own)}"}
    for signature in values["Signature"]:
        for id_ in values["Key-Pair-Id"]:
            texts = [cf_b64decode(policy) for policy in values["Policy"] if _decodes(policy)]
            for expires in values["Expires"]:
                for url in urls:
                    resource = url.replace("\\", "\\\\").replace('"', '\\"')
                    texts.append(
                        (
                            '{"Statement":[{"Resource":"' + resource + '","Condition":{"DateLessThan":{"AWS:EpochTime":'
                            + expires + "}}}]}"
                        ).encode("latin-1", "replace")
                    )  # fmt: skip
            for hash_name in values["Hash-Algorithm"] or ["SHA1"]:
                if any(_openssl(id_, hash_name, text, signature) for text in texts):
                    return True
    return False


def _decodes(text: str) -> bool:
    try:
        cf_b64decode(text)
    except ValueError:
        return False
    return True


def _openssl(id_: str, hash_name: str, text: bytes, signature: str) -> bool:
    if id_ not in KEYS or hash_name not in ("SHA1", "SHA256") or not _decodes(signature):
        return False
    key = serialization.load_pem_public_key(KEYS[id_].pem.encode())
    hash_: hashes.HashAlgorithm = hashes.SHA1() if hash_name == "SHA1" else hashes.SHA256()
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(cf_b64decode(signature), text, padding.PKCS1v15(), hash_)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(cf_b64decode(signature), text, ec.ECDSA(hash_))
    except InvalidSignature:
        return False
    return True


def run(count: int | None, seconds: float | None, seed: int, tell: Callable[[str], None] = print) -> int:
    """Mutate and check, `count` times or for `seconds`. Returns the number of inputs that were granted nevertheless."""
    chance = random.Random(seed)
    corpus = seeds()
    ring = KeyRing(KEYS, entries=64)
    for value in corpus:
        assert check(ring, value), value
    done = granted = 0
    for number in inputs(count, seconds):
        value = mutate(chance, chance.choice(corpus), corpus)
        try:
            granted += check(ring, value, explained=number % 50 == 0)
        except Exception:
            tell(f"seed {seed}, input {number}: {value!r}")
            raise
        done += 1
    tell(f"{done} inputs, {granted} granted although changed, no finding")
    return granted


def atheris_main() -> None:
    """Run coverage-guided fuzzing: the input's bytes are split into the five fields at line ends."""
    import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

    corpus = seeds()
    ring = KeyRing(KEYS, entries=64)

    def one(data: bytes) -> None:
        fields = data.decode("latin-1").split("\n")
        base = corpus[len(data) % len(corpus)]
        value = tuple(field or base[at] for at, field in enumerate((*fields, "", "", "", "", "")[:5]))
        check(ring, value)  # type: ignore[arg-type]

    atheris.instrument_all()
    atheris.Setup([argument for argument in sys.argv if argument != "--atheris"], one)
    atheris.Fuzz()


if __name__ == "__main__":
    if "--atheris" in sys.argv:
        atheris_main()
    else:
        main(__doc__, run)
