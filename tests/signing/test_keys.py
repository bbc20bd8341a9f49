"""Keys: every common format, every mistake with its hint, and the four algorithm pairs."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from keyfront.errors import KeyLoadError
from keyfront.signing.key_files import load_private_key
from keyfront.signing.keys import (
    Algorithm,
    HashName,
    PublicKey,
    _sign_digest_info,
    cf_b64decode,
    cf_b64encode,
    generate_private_key,
    load_public_key,
)
from keyfront.signing.sign import load_signer
from tests.keys import ec_pem, rsa_key, rsa_pem
from tests.rows import rows
from tests.signing.key_forms import (
    EC,
    ENCRYPTED,
    KEYS,
    MANGLED,
    PASSPHRASE,
    PLAIN,
    PUBLIC,
    RSA,
    Pair,
    _openssh,
    pem,
)


def mangled(*forms: str) -> list[tuple[str, str]]:
    """These forms in every way, and the others as they are: checking an RSA key takes long, and what is around a key
    does not depend on it."""
    return [(form, way) for form in PLAIN for way in (MANGLED if form in forms else ["as it is"])]


@rows(("form", "mangling"), mangled("PKCS#1", "SEC1", "PKCS#8, EC"))
def test_reads_every_form_however_mangled(form: str, mangling: str, tmp_path: Path) -> None:
    text, name = PLAIN[form]
    source = MANGLED[mangling](text)
    assert load_private_key(source).public_key == PUBLIC[name]
    if name == "ec":
        assert load_private_key(source, "not needed").public_key == PUBLIC[name]
        file = tmp_path / "key"
        file.write_bytes(source if isinstance(source, bytes) else source.encode())
        assert load_private_key(file).public_key == PUBLIC[name]
        assert load_private_key(str(file)).public_key == PUBLIC[name]


@rows("label", ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY"])
@rows("form", PLAIN)
def test_reads_a_key_under_the_label_of_another_format(form: str, label: str) -> None:
    text, name = PLAIN[form]
    right = re.search("BEGIN ([A-Z ]+)-----", text)
    assert right is not None
    assert load_private_key(text.replace(right[1], label)).public_key == PUBLIC[name]


@pytest.mark.parametrize("label", ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"])
def test_reads_an_encrypted_key_under_the_label_of_another_format(label: str) -> None:
    text = ENCRYPTED["PKCS#8, EC"][0].replace("ENCRYPTED PRIVATE KEY", label)
    assert load_private_key(text, PASSPHRASE).public_key == PUBLIC["ec"]
    with pytest.raises(KeyLoadError, match=r"the key is encrypted\. Give its passphrase"):
        load_private_key(text)


def test_a_public_key_under_a_private_label_is_called_one() -> None:
    text = (KEYS / "rsa.pub").read_text().replace("PUBLIC KEY", "PRIVATE KEY")
    with pytest.raises(KeyLoadError, match="a public key, where a private key is needed"):
        load_private_key(text)


@rows("source", ["", " ", b"", b"\n", '""', None])
def test_an_empty_key_is_called_empty(source: Any) -> None:
    with pytest.raises(
        KeyLoadError, match=r"the key is empty\. Is the environment variable or the secret set"
    ):
        load_private_key(source)
    with pytest.raises(KeyLoadError, match="the key is empty"):
        load_signer("K2TESTRSA00001", source)


def test_what_is_no_key_at_all_is_told_what_is_taken() -> None:
    for source in (5, [b"x"], RSA):
        with pytest.raises(KeyLoadError, match="its text, its bytes or the path"):
            load_private_key(cast("Any", source))


@rows(("form", "mangling"), mangled("SEC1", "PKCS#8, EC"))
def test_reads_encrypted_keys(form: str, mangling: str) -> None:
    text, name = ENCRYPTED[form]
    source = MANGLED[mangling](text)
    assert load_private_key(source, PASSPHRASE.decode()).public_key == PUBLIC[name]
    with pytest.raises(KeyLoadError, match="passphrase"):
        load_private_key(source)
    with pytest.raises(KeyLoadError, match="passphrase is wrong"):
        load_private_key(source, b"wrong")


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
@pytest.mark.parametrize("name", ["rsa", "ec"])
def test_reads_der(name: str, form: PrivateFormat) -> None:
    key: Pair = RSA if name == "rsa" else EC
    der = key.private_bytes(Encoding.DER, form, NoEncryption())
    assert load_private_key(der).public_key == PUBLIC[name]
    assert load_private_key(base64.b64encode(der)).public_key == PUBLIC[name]
    assert load_private_key(base64.b64encode(der).decode()).public_key == PUBLIC[name]


def test_reads_encrypted_der() -> None:
    der = RSA.private_bytes(Encoding.DER, PrivateFormat.PKCS8, BestAvailableEncryption(PASSPHRASE))
    assert load_private_key(der, PASSPHRASE).public_key == PUBLIC["rsa"]
    assert load_private_key(base64.b64encode(der), PASSPHRASE).public_key == PUBLIC["rsa"]
    with pytest.raises(KeyLoadError, match="encrypted"):
        load_private_key(der)


def _unfit() -> dict[str, tuple[bytes | str, str]]:
    public = (KEYS / "rsa.pub").read_text()
    short = rsa_key(1024)
    wrong_curve = ec.generate_private_key(ec.SECP384R1())
    edwards = ed25519.Ed25519PrivateKey.generate()
    old = dsa.generate_private_key(1024)
    text = PLAIN["PKCS#8, RSA"][0]
    return {
        "a public key": (public, "public half"),
        "a PKCS#1 public key": (
            RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1),
            "public half",
        ),
        "a public key in base64": (base64.b64encode(public.encode()), "public half"),
        "a public key's DER in base64": (
            base64.b64encode(RSA.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)),
            "public half",
        ),
        "an ssh public key": (
            RSA.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
            "public half",
        ),
        "an OpenSSH private key": (_openssh(RSA), "ssh-keygen -p -m PEM -N"),
        "a PuTTY key": ("PuTTY-User-Key-File-3: ssh-rsa\nEncryption: none\n", "PuTTYgen"),
        "a certificate": ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "certificate"),
        "a certificate request": (
            "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----",
            "request",
        ),
        "another block": ("-----BEGIN PGP MESSAGE-----\nAAAA\n-----END PGP MESSAGE-----", "PGP MESSAGE"),
        "1024 bits": (pem(short, PrivateFormat.PKCS8), "2048 bits only"),
        "another curve": (pem(wrong_curve, PrivateFormat.PKCS8), "P-256"),
        "Ed25519": (edwards.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "Ed25519"),
        "DSA": (old.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "DSA"),
        "DSA, the old form": (
            old.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()),
            "DSA",
        ),
        "no END": (text[: len(text) // 2], "END line"),
        "a line missing": (
            "\n".join(line for at, line in enumerate(text.splitlines()) if at != 5),
            "damaged",
        ),
        "an ellipsis": (text.replace(text[400:700], "…"), "damaged"),
        "cut base64": (base64.b64encode(text.encode())[:-401], "base64"),
        "base64 of nothing much": (base64.b64encode(b"x" * 300), "not a private key"),
        "nothing": (b"", "empty"),
        "blanks": (b" \n ", "empty"),
        "words": (b"this is my key, honestly", "not a private key"),
        "JSON": (b'{"private_key": "..."}', "not a private key"),
        "damaged DER": (b"\x30\x82\x04\xa4" + b"\0" * 300, "damaged"),
        "a path of nothing": ("no/such/file.pem", "no readable file"),
        "a folder": (".", "no readable file"),
        "a path with a NUL": ("a\0b", "no readable file"),
    }


@rows(("what", "source", "message"), [(what, *case) for what, case in _unfit().items()])
def test_says_what_is_wrong_with_a_private_key(what: str, source: bytes | str, message: str) -> None:
    with pytest.raises(KeyLoadError) as raised:
        load_private_key(source)
    assert message in str(raised.value), what
    # A message may go to a log: it must contain no part of the key.
    for line in (source if isinstance(source, str) else source.decode("latin-1")).splitlines():
        if len(line) > 30:
            assert line not in str(raised.value)


def _bad_public() -> dict[str, bytes | str]:
    good = (KEYS / "rsa.pub").read_text()
    der = RSA.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    compressed = EC.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return {
        "nothing": "",
        "PKCS#1": RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1),
        "private": PLAIN["PKCS#1"][0],
        "4096 bits": rsa_pem(4096),
        "1024 bits": rsa_pem(1024),
        "P-384": ec_pem("P-384"),
        "Ed25519": ed25519.Ed25519PrivateKey.generate()
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "newlines lost": good.replace("\n", ""),
        "newlines escaped": good.replace("\n", "\\n"),
        "two keys": good + good,
        "text before it": "hello\n" + good,
        "text after it": good + "hello",
        "a certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
        "DER": der,
        "not ASCII": good.replace("A", "Ä", 1),
        "a byte order mark": "\ufeff" + good,
        "cut": good[:200] + "\n-----END PUBLIC KEY-----\n",
        "DER with something after it": "-----BEGIN PUBLIC KEY-----\n"
        + base64.encodebytes(compressed + b"\0").decode()
        + "-----END PUBLIC KEY-----\n",
        "no key": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
    }


@rows(("what", "source"), _bad_public().items())
def test_refuses_a_public_key_that_cloudfront_would(what: str, source: bytes | str) -> None:
    with pytest.raises(KeyLoadError):
        load_public_key(source)


def test_takes_a_public_key_with_or_without_its_last_newline_and_with_crlf() -> None:
    good = (KEYS / "rsa.pub").read_text()
    for text in (good, good.strip(), good.replace("\n", "\r\n"), f"\n{good}\n\n"):
        assert load_public_key(text) == PUBLIC["rsa"]
        assert load_public_key(text).pem == good
    assert PUBLIC["rsa"] != PUBLIC["ec"]
    assert len({PUBLIC["rsa"], load_public_key(good)}) == 1
    assert PUBLIC["rsa"].algorithm == "RSA-2048"
    assert PUBLIC["ec"].algorithm == "ECDSA-P256"


# ------------------------------------------------------------------------------------------------------------
# Signatures


def test_agrees_with_cryptography_s_own_verification() -> None:
    """RSA is verified by AWS-LC, or by recovering the DigestInfo; cryptography's verify is the reference."""
    data = b"policy"
    pairs: tuple[tuple[HashName, hashes.HashAlgorithm], ...] = (
        ("SHA1", hashes.SHA1()),
        ("SHA256", hashes.SHA256()),
    )
    for hash_name, hash_ in pairs:
        signature = RSA.sign(data, padding.PKCS1v15(), hash_)
        RSA.public_key().verify(signature, data, padding.PKCS1v15(), hash_)
        assert PUBLIC["rsa"].verify(data, signature, hash_name)


SHA1_INFO = bytes.fromhex("3021300906052b0e03021a05000414") + hashlib.sha1(b"policy").digest()


def test_an_uncommon_exponent_is_openssls() -> None:
    """AWS-LC accepts no exponent beyond 33 bits. A key that it does not accept must not be reported as a forgery."""
    primes = RSA.private_numbers()
    exponent = next(
        e for e in range((1 << 33) + 1, 1 << 34, 2) if math.gcd(e, (primes.p - 1) * (primes.q - 1)) == 1
    )
    d = pow(exponent, -1, math.lcm(primes.p - 1, primes.q - 1))
    public = rsa.RSAPublicNumbers(exponent, primes.public_numbers.n)
    key = PublicKey(public.public_key())
    encoded = b"\0\1" + b"\xff" * (256 - 3 - 35) + b"\0" + SHA1_INFO
    signature = pow(int.from_bytes(encoded, "big"), d, public.n).to_bytes(256, "big")
    assert key.verify(b"policy", signature, "SHA1")
    assert not key.verify(b"policy", signature, "SHA256")
    assert not key.verify(b"policies", signature, "SHA1")
    assert not key.verify(b"policy", signature[::-1], "SHA1")
    assert not key.verify(b"policy", b"\0" + signature, "SHA1")


def _raw_rsa(encoded: bytes) -> bytes:
    numbers = RSA.private_numbers()
    return pow(int.from_bytes(encoded, "big"), numbers.d, numbers.public_numbers.n).to_bytes(256, "big")


@rows(
    ("what", "encoded", "good"),
    [
        ("as RFC 8017 has it", b"\0\1" + b"\xff" * (256 - 3 - 35) + b"\0" + SHA1_INFO, True),
        (
            "short padding, rubbish after it",
            b"\0\1" + b"\xff" * 8 + b"\0" + SHA1_INFO + b"x" * (256 - 11 - 35),
            False,
        ),
        ("rubbish before it", b"\0\1" + b"\xff" * 8 + b"\0" + b"x" * (256 - 11 - 35) + SHA1_INFO, False),
        ("other padding bytes", b"\0\1" + b"\xfe" * (256 - 3 - 35) + b"\0" + SHA1_INFO, False),
        ("block type 2", b"\0\2" + b"\xff" * (256 - 3 - 35) + b"\0" + SHA1_INFO, False),
        ("block type 0", b"\0\0" + b"\0" * (256 - 3 - 35) + b"\0" + SHA1_INFO, False),
        (
            "the digest without its DigestInfo",
            b"\0\1" + b"\xff" * (256 - 3 - 20) + b"\0" + SHA1_INFO[15:],
            False,
        ),
        (
            "a DigestInfo without NULL",
            b"\0\1"
            + b"\xff" * (256 - 3 - 33)
            + b"\0"
            + bytes.fromhex("301f300706052b0e03021a0414")
            + SHA1_INFO[15:],
            False,
        ),
    ],
)
def test_takes_no_forged_padding(what: str, encoded: bytes, good: bool) -> None:
    assert len(encoded) == 256
    assert PUBLIC["rsa"].verify(b"policy", _raw_rsa(encoded), "SHA1") is good


def test_takes_no_ecdsa_signature_but_der() -> None:
    der = EC.sign(b"policy", ec.ECDSA(hashes.SHA256()))
    key = PUBLIC["ec"]
    assert key.verify(b"policy", der, "SHA256")
    # A length in long form, an integer with a superfluous zero, r and s concatenated.
    assert not key.verify(b"policy", b"\x30\x81" + der[1:], "SHA256")
    size = der[3]
    padded = b"\x30" + bytes([der[1] + 1]) + b"\x02" + bytes([size + 1]) + b"\0" + der[4:]
    assert not key.verify(b"policy", padded, "SHA256")
    r, s = der[4 : 4 + size], der[6 + size :]
    assert not key.verify(b"policy", r[-32:].rjust(32, b"\0") + s[-32:].rjust(32, b"\0"), "SHA256")


def test_signs_where_policy_forbids_openssl_the_hash() -> None:
    """The fallback for a system whose OpenSSL refuses SHA-1 signatures gives exactly the same signature."""
    digest_info = SHA1_INFO
    expected = RSA.sign(hashlib.sha1(b"policy").digest(), padding.PKCS1v15(), Prehashed(hashes.SHA1()))
    assert _sign_digest_info(RSA, digest_info, ValueError()) == expected


@pytest.mark.parametrize("algorithm", ["RSA-2048", "ECDSA-P256"])
def test_makes_a_key_and_writes_it(algorithm: Algorithm) -> None:
    made = generate_private_key(algorithm)
    assert made.algorithm == algorithm
    assert made.to_pem().startswith("-----BEGIN PRIVATE KEY-----\n")
    again = load_private_key(made.to_pem())
    assert again.public_key == made.public_key != generate_private_key(algorithm).public_key
    assert made.public_key.verify(b"data", again.sign(b"data", "SHA256"), "SHA256")


def test_shows_nothing_of_a_private_key() -> None:
    key = load_private_key(KEYS / "rsa.pem")
    assert repr(key) == f"<PrivateKey RSA-2048, public half {key.public_key.fingerprint[:16]}>"
    assert isinstance(key.public_key, PublicKey)


# ------------------------------------------------------------------------------------------------------------
# Base64


@given(st.binary(max_size=300))
def test_base64_there_and_back(data: bytes) -> None:
    text = cf_b64encode(data)
    assert cf_b64decode(text) == data
    assert not set(text) & set("+/=")


@given(st.text(st.characters(max_codepoint=0x17F), max_size=40))
def test_base64_has_one_spelling(text: str) -> None:
    try:
        data = cf_b64decode(text)
    except ValueError:
        return
    assert cf_b64encode(data) == text


@rows(
    "text",
    ["YQ", "YQ_", "YQ===", "YQ==", "YR__", "YWI+", "YWI/", "YW I", "YWI\n", "\nYWI", "_", "____", "YQ__YQ__", "é", "Y",
     "YWJj_", "Y_WJ", "YWI\0"],
)  # fmt: skip
def test_base64_refuses(text: str) -> None:
    with pytest.raises(ValueError):
        cf_b64decode(text)


def test_refuses_an_exponent_that_makes_every_signature_slow_to_check() -> None:
    numbers = RSA.private_numbers().public_numbers
    with pytest.raises(KeyLoadError, match="public exponent of 2000 bits"):
        PublicKey(rsa.RSAPublicNumbers((1 << 1999) + 1, numbers.n).public_key())


@pytest.mark.parametrize("size", [4097, 1 << 20])
def test_refuses_a_text_too_long_for_a_public_key_without_reading_it(size: int) -> None:
    with pytest.raises(KeyLoadError, match="is not a public key"):
        load_public_key("-----BEGIN PUBLIC KEY-----\n" * (size // 27 + 1))


def test_a_key_of_a_giant_modulus_is_refused() -> None:
    numbers = rsa.RSAPublicNumbers(65537, (1 << 16_383) + 1)
    with pytest.raises(KeyLoadError, match="16384 bits"):
        PublicKey(numbers.public_key())
