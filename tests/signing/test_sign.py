"""The SDK: URLs and cookies that are granted unchanged, and what it refuses to sign."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import botocore.signers
import pytest

from keyfront.errors import PolicyError, SigningError
from keyfront.signing.keys import HashName, PublicKey, cf_b64decode
from keyfront.signing.policy import Policy
from keyfront.signing.sign import (
    CloudFrontSigner,
    LocalSigner,
    SignedCookies,
    load_signer,
    sign_cookies,
    sign_url,
)
from tests.rows import rows
from tests.signing.harness import EC, NOW, RSA, SOON, ask, reason, ring
from tests.vectors.corpus import HERE, KEY_IDS, UNSENDABLE_URLS, WIRE_URLS, key

HOUR = timedelta(hours=1)


@rows("signer", [RSA, EC])
@rows("name", [*WIRE_URLS, *UNSENDABLE_URLS])
def test_a_signed_url_is_granted_as_it_stands(name: str, signer: LocalSigner) -> None:
    url = {**WIRE_URLS, **UNSENDABLE_URLS}[name]
    keys = ring()
    if "dot segments" in name:
        with pytest.raises(SigningError, match="as_is=True"):
            sign_url(url, signer, expires=HOUR, now=NOW)
    elif name == "names with a signing one encoded":  # even encoded, it is a signing parameter
        with pytest.raises(SigningError, match="already has a parameter Expires"):
            sign_url(url, signer, expires=HOUR, now=NOW)
    else:
        signed = sign_url(url, signer, expires=HOUR, now=NOW)
        assert signed.isascii()
        assert ask(signed, keys=keys).canned
        limited = sign_url(url, signer, expires=HOUR, starts=int(NOW) - 9, ip="192.0.2.7", now=NOW)
        assert not ask(limited, keys=keys).canned
        assert reason(limited, keys=keys, ip="192.0.2.8") == "wrong_ip"
    if name in WIRE_URLS:
        untouched = sign_url(url, signer, expires=HOUR, as_is=True, now=NOW)
        assert untouched.startswith(url)
        assert reason(untouched, keys=keys) == "granted"
        assert (
            reason(sign_url(url, signer, expires=HOUR, ip="192.0.2.7", as_is=True, now=NOW), keys=keys)
            == "granted"
        )


def test_a_signed_url_reads_as_botocore_writes_it() -> None:
    theirs = botocore.signers.CloudFrontSigner(RSA.key_pair_id, lambda data: RSA.sign(data, "SHA1"))
    date = datetime.fromtimestamp(SOON, UTC)
    for url in ("https://cdn.test/a", "https://cdn.test/a?b=1"):
        assert sign_url(url, RSA, expires=date) == theirs.generate_presigned_url(url, date)
        policy = theirs.build_policy("https://cdn.test/*", date, date - HOUR, "192.0.2.7")
        expected = theirs.generate_presigned_url(url, policy=policy)
        assert sign_url(url, RSA, policy=policy) == expected
        assert sign_url(url, RSA, policy=policy.encode()) == expected
        limits: dict[str, Any] = {"expires": date, "starts": date - HOUR, "ip": "192.0.2.7"}
        assert sign_url(url, RSA, resource="https://cdn.test/*", **limits) == expected
        assert (
            sign_url(url, RSA, policy=Policy("https://cdn.test/*", date, starts=date - HOUR, ip="192.0.2.7"))
            == expected
        )


@rows(
    ("signer", "hash_name", "used"),
    [(RSA, None, "SHA1"), (RSA, "SHA1", "SHA1"), (RSA, "SHA256", "SHA256"), (EC, None, "SHA256"), (EC, "SHA1", "SHA1"),
     (EC, "SHA256", "SHA256")],
)  # fmt: skip
def test_hashes(signer: LocalSigner, hash_name: HashName | None, used: HashName) -> None:
    url = sign_url("https://cdn.test/a", signer, expires=HOUR, hash_name=hash_name, now=NOW)
    assert url.endswith("&Hash-Algorithm=SHA256") is (used == "SHA256")
    assert ask(url).hash_name == used
    cookies = sign_cookies("https://cdn.test/*", signer, expires=HOUR, hash_name=hash_name, now=NOW)
    assert ("CloudFront-Hash-Algorithm" in cookies.values) is (used == "SHA256")
    assert ask("https://cdn.test/a", cookies.header).hash_name == used


class Vault:
    """A remote signer that, like KMS, supports only SHA-256."""

    def __init__(self, name: str, answer: bytes | None = None) -> None:
        self._key = key(name)
        self._answer = answer
        self.key_pair_id = KEY_IDS[name]
        self.hash_names = ("SHA256",)

    @property
    def public_key(self) -> PublicKey:
        return self._key.public_key

    def sign(self, data: bytes, hash_name: HashName) -> bytes:
        assert hash_name == "SHA256"
        return self._key.sign(data, hash_name) if self._answer is None else self._answer


@pytest.mark.parametrize("name", ["rsa", "ec"])
def test_a_signer_elsewhere_that_has_one_hash(name: str) -> None:
    url = sign_url("https://cdn.test/a", Vault(name), expires=HOUR, now=NOW)
    assert ask(url).hash_name == "SHA256"
    with pytest.raises(SigningError, match="only with SHA256"):
        sign_url("https://cdn.test/a", Vault(name), expires=HOUR, hash_name="SHA1", now=NOW)


@pytest.mark.parametrize(
    ("name", "answer"), [("ec", b"x" * 64), ("rsa", b"x" * 255), ("rsa", b""), ("ec", b"0" * 80)]
)
def test_an_answer_that_is_no_signature_goes_no_further(name: str, answer: bytes) -> None:
    with pytest.raises(SigningError, match=r"ASN\.1 DER"):
        sign_url("https://cdn.test/a", Vault(name, answer), expires=HOUR, now=NOW)


@rows(
    ("arguments", "message"),
    [
        ({}, "give expires"),
        ({"starts": HOUR}, "give expires"),
        ({"policy": Policy("*", SOON), "expires": SOON}, "either a policy"),
        ({"policy": Policy("https://other.test/*", SOON)}, "does not grant"),
        ({"expires": SOON, "resource": "https://cdn.test/b*"}, "does not grant"),
        ({"expires": SOON, "resource": "cdn.test/*"}, "begins with neither"),
        ({"policy": "{}"}, "cannot be read"),
        ({"policy": b'{"Statement":{}}'}, "cannot be read"),
        ({"expires": SOON * 1000}, "milliseconds"),
        ({"expires": datetime(2030, 1, 1)}, "time zone"),
        ({"expires": SOON, "ip": "::1"}, "IPv4"),
    ],
)
def test_policies_that_make_no_sense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        sign_url("https://cdn.test/a", RSA, now=NOW, **arguments)


def test_a_wildcard_in_a_canned_policy_is_refused_with_a_way_out() -> None:
    for ip in (None, "192.0.2.7"):
        with pytest.raises(PolicyError, match=r"resource=.*%2A"):
            sign_url("https://cdn.test/a/*", RSA, expires=HOUR, ip=ip, now=NOW)
    with pytest.raises(PolicyError, match="not a wildcard"):
        sign_cookies("https://cdn.test/a/*", RSA, expires=HOUR, canned=True, now=NOW)
    signed = sign_url("https://cdn.test/a/%2A", RSA, expires=HOUR, now=NOW)
    assert reason(signed) == "granted"
    assert reason(signed.replace("%2A", "b")) == "signature_mismatch"


def test_a_url_is_not_signed_twice() -> None:
    signed = sign_url("https://cdn.test/a", RSA, expires=HOUR, now=NOW)
    with pytest.raises(SigningError, match="signed already"):
        sign_url(signed, RSA, expires=HOUR, now=NOW)


def test_reads_the_clock_if_it_is_not_told_the_time() -> None:
    url = sign_url("https://cdn.test/a", RSA, expires=HOUR)
    expires = int(url.partition("Expires=")[2].partition("&")[0])
    assert abs(expires - datetime.now(UTC).timestamp() - 3600) < 5


@rows("id_", ["", "K 1", "K&1", "K=1", "-----BEGIN PUBLIC KEY-----", "K1\n", "Ké"])
def test_ids_that_are_none(id_: str) -> None:
    with pytest.raises(SigningError, match="not a key pair id"):
        LocalSigner(id_, key("ec"))


def test_loads_a_signer() -> None:
    signer = load_signer("K1", HERE / "keys" / "ec.pem")
    assert signer.public_key == EC.public_key
    assert repr(signer) == "<LocalSigner K1 ECDSA-P256>"


# ------------------------------------------------------------------------------------------------------------
# Cookies


def test_cookies_are_ready_to_be_set() -> None:
    cookies = sign_cookies(
        "https://cdn.example.com/*", RSA, expires=HOUR, domain="example.com", same_site="None", now=NOW
    )
    assert list(cookies.values) == ["CloudFront-Policy", "CloudFront-Signature", "CloudFront-Key-Pair-Id"]
    assert cookies.set_cookie[2] == (
        f"CloudFront-Key-Pair-Id={RSA.key_pair_id}; Domain=example.com; Path=/; Secure; HttpOnly; SameSite=None"
    )
    assert dict(cookies.attributes) == {
        "domain": "example.com", "path": "/", "secure": True, "httponly": True, "samesite": "None",
    }  # fmt: skip
    assert json.loads(cf_b64decode(cookies.values["CloudFront-Policy"]))["Statement"][0]["Resource"] == (
        "https://cdn.example.com/*"
    )
    assert repr(cookies) == "<SignedCookies CloudFront-Policy, CloudFront-Signature, CloudFront-Key-Pair-Id>"
    assert reason("https://cdn.example.com/x?y", cookies.header) == "granted"
    plain = sign_cookies(
        "https://cdn.example.com/*", RSA, expires=HOUR, secure=False, http_only=False, path="/a", now=NOW
    )
    assert plain.set_cookie[2] == f"CloudFront-Key-Pair-Id={RSA.key_pair_id}; Path=/a"
    apart = sign_cookies("https://cdn.example.com/*", RSA, expires=HOUR, partitioned=True, now=NOW)
    assert apart.set_cookie[2].endswith("; Path=/; Secure; HttpOnly; Partitioned")


def test_starlette_takes_the_attributes() -> None:
    from starlette.responses import Response

    cookies = sign_cookies(
        "https://cdn.example.com/*", EC, expires=HOUR, domain="example.com", same_site="Lax", now=NOW
    )
    response = Response()
    attributes: dict[str, Any] = dict(cookies.attributes)
    for name, value in cookies.values.items():
        response.set_cookie(name, value, **attributes)
    headers = response.headers.getlist("set-cookie")
    assert len(headers) == len(cookies.set_cookie) == 4
    for header, ours in zip(headers, cookies.set_cookie, strict=True):
        assert set(header.lower().split("; ")[1:]) == set(ours.lower().split("; ")[1:])
        assert header.split("; ")[0] == ours.split("; ")[0]


def test_canned_cookies() -> None:
    cookies = sign_cookies("https://cdn.test/a b?c='d'", EC, expires=HOUR, canned=True, now=NOW)
    assert list(cookies.values) == [
        "CloudFront-Expires", "CloudFront-Signature", "CloudFront-Key-Pair-Id", "CloudFront-Hash-Algorithm",
    ]  # fmt: skip
    assert reason("https://cdn.test/a%20b?c=%27d%27", cookies.header) == "granted"


def test_cookies_of_a_policy() -> None:
    policy = Policy("https://cdn.test/a*", HOUR, ip="192.0.2.0/24")
    for resource in (policy, policy.to_bytes(NOW)):
        cookies = sign_cookies(resource, RSA, now=NOW)
        assert reason("https://cdn.test/ab", cookies.header) == "granted"
        assert reason("https://cdn.test/b", cookies.header) == "wrong_resource"


@rows(
    ("resource", "arguments", "message"),
    [
        ("https://cdn.test/*", {}, "give expires"),
        ("https://cdn.test/a", {"expires": HOUR, "canned": True, "ip": "192.0.2.7"}, "no starts and no ip"),
        (Policy("*", SOON), {"expires": HOUR}, "states what it grants"),
        (Policy("*", SOON), {"canned": True}, "states what it grants"),
        (b"{}", {}, "cannot be read"),
        ("https://cdn.test/*", {"expires": HOUR, "path": "a"}, "begins with /"),
        ("https://cdn.test/*", {"expires": HOUR, "path": "/a;b"}, "cannot stand"),
        ("https://cdn.test/*", {"expires": HOUR, "path": "/a\r\nSet-Cookie: x"}, "cannot stand"),
        ("https://cdn.test/*", {"expires": HOUR, "domain": "a b"}, "cannot stand"),
        ("https://cdn.test/*", {"expires": HOUR, "domain": "d1.cloudfront.net"}, "alternate domain name"),
        ("https://cdn.test/*", {"expires": HOUR, "domain": ".CloudFront.net"}, "alternate domain name"),
        ("https://cdn.test/*", {"expires": HOUR, "secure": False, "same_site": "None"}, "Secure"),
        ("https://cdn.test/*", {"expires": HOUR, "secure": False, "partitioned": True}, "Secure"),
        ("https://cdn.test/*", {"expires": HOUR, "same_site": "none"}, "SameSite is"),
        ("https://cdn.test/*", {"expires": HOUR, "hash_name": "MD5"}, "SHA1 or SHA256"),
    ],
)
def test_cookies_that_would_not_work(resource: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SigningError, match=message):
        sign_cookies(resource, RSA, now=NOW, **arguments)


def test_signed_cookies_do_not_change() -> None:
    cookies = SignedCookies({"a": "1"}, {"path": "/"})
    with pytest.raises(TypeError):
        cookies.values["a"] = "2"  # type: ignore[index]


# ------------------------------------------------------------------------------------------------------------
# The drop-in for botocore's class


@rows("url", [*WIRE_URLS.values(), *UNSENDABLE_URLS.values(), "https://d/*", "d", ""])
@rows(
    "date",
    [
        datetime(2030, 1, 2, 3, 4, 5, 999_999),
        datetime(2030, 1, 2, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 58, 5),
    ],
)
def test_the_drop_in_is_botocore_to_the_byte(url: str, date: datetime) -> None:
    theirs = botocore.signers.CloudFrontSigner("K1", lambda data: data[::-1])
    ours = CloudFrontSigner("K1", lambda data: data[::-1])
    assert ours.generate_presigned_url(url, date_less_than=date) == theirs.generate_presigned_url(
        url, date_less_than=date
    )
    for arguments in ({}, {"date_greater_than": date}, {"ip_address": "192.0.2.7"}, {"ip_address": "::1"},
                      {"date_greater_than": date, "ip_address": "192.0.2.0/24"}, {"ip_address": ""}):  # fmt: skip
        policy = theirs.build_policy(url, date, **arguments)
        assert ours.build_policy(url, date, **arguments) == policy
        assert ours.generate_presigned_url(url, policy=policy) == theirs.generate_presigned_url(
            url, policy=policy
        )
    assert ours.generate_presigned_url(url, policy="é") == theirs.generate_presigned_url(url, policy="é")
    assert ours.generate_presigned_url(url, policy=b"\xff") == theirs.generate_presigned_url(
        url, policy=b"\xff"
    )
    for wrong in ({}, {"date_less_than": date, "policy": "x"}):
        with pytest.raises(ValueError, match="Need to provide"):
            ours.generate_presigned_url(url, **wrong)  # type: ignore[arg-type]
