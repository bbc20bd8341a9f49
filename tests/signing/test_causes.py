# ruff: noqa: E501
"""Causes of denials by their codes: each mistake is made on purpose, in URLs and in cookies, and must be named.

`CASES` maps a name to (URL, cookies, code of the first cause, words of the answer).
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from keyfront.signing.explain import Report, explain, explain_url
from keyfront.signing.keys import cf_b64encode
from keyfront.signing.policy import canned_policy
from keyfront.signing.sign import LocalSigner, sign_cookies, sign_url
from keyfront.signing.verify import KeyRing
from tests.rows import rows
from tests.signing.harness import EC, KEYS, NOW, OTHER, RSA, SOON, ring
from tests.vectors.corpus import HERE

URL = "https://cdn.test/films/a.mp4"
DOCS = Path(__file__).parents[2] / "docs" / "guide" / "explain.md"
SOURCE = Path(__file__).parents[2] / "src" / "keyfront" / "signing"
OTHER_HOSTS = ("d111111abcdef8.cloudfront.net", "media-bucket.s3.eu-central-1.amazonaws.com")


def look(url: str, cookies: str = "", *, keyring: KeyRing | None = None, now: float = NOW) -> Report:
    return explain_url(
        url,
        keyring=ring() if keyring is None else keyring,
        now=now,
        cookie_header=cookies,
        client_ip="192.0.2.7",
        known_keys=KEYS if keyring is None else None,
        other_hosts=OTHER_HOSTS,
    )


def canned(
    data: bytes | None = None,
    *,
    url: str = URL,
    signer: LocalSigner = RSA,
    signature: bytes | None = None,
    expires: object = SOON,
    id_: str = "",
    tail: str = "",
) -> str:
    """`url` with a canned policy's parameters; `data` is what was signed, unless the signature is given."""
    if signature is None:
        signature = signer.sign(canned_policy(url, str(SOON)) if data is None else data, "SHA1")
    mark = "&" if "?" in url else "?"
    return f"{url}{mark}Expires={expires}&Signature={cf_b64encode(signature)}&Key-Pair-Id={id_ or signer.key_pair_id}{tail}"


def policy(resource: str, **condition: object) -> bytes:
    return json.dumps(
        {
            "Statement": [
                {"Resource": resource, "Condition": {"DateLessThan": {"AWS:EpochTime": SOON}, **condition}}
            ]
        },
        separators=(",", ":"),
    ).encode()


def custom(resource: str, *, url: str = URL, signer: LocalSigner = RSA) -> str:
    data = policy(resource)
    mark = "&" if "?" in url else "?"
    return f"{url}{mark}Policy={cf_b64encode(data)}&Signature={cf_b64encode(signer.sign(data, 'SHA1'))}&Key-Pair-Id={signer.key_pair_id}"


def key(name: str) -> Any:
    return load_pem_private_key((HERE / "keys" / f"{name}.pem").read_bytes(), None)


RSA_KEY, EC_KEY = key("rsa"), key("ec")
TEXT = canned_policy(URL, str(SOON))
GOOD = canned()
TAIL = GOOD.partition("?")[2]
NUMBER = f'"AWS:EpochTime":{SOON}'


def rsa_with(hash_: hashes.HashAlgorithm, pad: padding.AsymmetricPadding | None = None) -> bytes:
    signature: bytes = RSA_KEY.sign(TEXT, pad or padding.PKCS1v15(), hash_)
    return signature


def pss(hash_: hashes.HashAlgorithm, salt: Any) -> bytes:
    return rsa_with(hash_, padding.PSS(padding.MGF1(hash_), salt))


def ec_with(hash_: hashes.HashAlgorithm) -> bytes:
    signature: bytes = EC_KEY.sign(TEXT, ec.ECDSA(hash_))
    return signature


def raw_ec() -> bytes:
    r, s = decode_dss_signature(EC.sign(TEXT, "SHA1"))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def undigested(content: bytes) -> bytes:
    """An RSA signature of content without a DigestInfo, as made by programs that encrypt with a private key."""
    numbers = RSA_KEY.private_numbers()
    padded = b"\0\1" + b"\xff" * (253 - len(content)) + b"\0" + content
    number: int = pow(int.from_bytes(padded, "big"), numbers.d, numbers.public_numbers.n)
    return number.to_bytes(256, "big")


def spaced() -> bytes:
    return json.dumps(json.loads(TEXT)).encode()


SIGNATURE = cf_b64encode(RSA.sign(TEXT, "SHA1"))
STANDARD = base64.b64encode(RSA.sign(TEXT, "SHA1")).decode()
COOKIES = sign_cookies("https://cdn.test/films/*", RSA, expires=SOON, now=NOW).header
OLD = sign_cookies("https://cdn.test/films/*", RSA, expires=int(NOW) - 60, now=NOW - 3600).header
ELSEWHERE = sign_cookies("https://cdn.test/music/*", RSA, expires=SOON, now=NOW).header
WITH_QUERY = canned(url=URL + "?v=1")

DIGESTS: dict[str, Callable[[bytes], bytes]] = {
    "SHA-1": lambda data: hashlib.sha1(data).digest(),
    "SHA-256": lambda data: hashlib.sha256(data).digest(),
    "SHA-1 in hex": lambda data: hashlib.sha1(data).hexdigest().encode(),
    "SHA-256 in hex": lambda data: hashlib.sha256(data).hexdigest().encode(),
    "SHA-256 in base64": lambda data: base64.b64encode(hashlib.sha256(data).digest()),
}

CASES: dict[str, tuple[str, str, str, str]] = {
    # put together incorrectly
    "no ?": (f"{URL}&{TAIL}", "", "no_question_mark", "has no ?"),
    "no ?, escaped for HTML": (f"{URL}&amp;{TAIL.replace('&', '&amp;')}", "", "no_question_mark", "has no ?"),
    "a second ?": (f"{URL}?v=1?{TAIL}", "", "second_question_mark", "second ?"),
    "a second ?, custom": (f"{URL}?v=1?{custom('https://cdn.test/*').partition('?')[2]}", "", "second_question_mark", "joined by &"),
    "a ? twice in a row": (f"{URL}??{TAIL}", "", "second_question_mark", "second ?"),
    "# before the parameters": (f"{URL}#top?{TAIL}", "", "parameters_in_fragment", "after a #"),
    "# instead of ?": (f"{URL}#{TAIL}", "", "parameters_in_fragment", "sent to no server"),
    "# after a query": (f"{URL}?v=1#t&{TAIL}", "", "parameters_in_fragment", "after a #"),
    "# between the parameters": (f"{URL}?{TAIL.replace('&Signature', '#&Signature')}", "", "parameters_in_fragment", "after a #"),
    "the ? encoded": (f"{URL}%3F{TAIL}", "", "question_mark_encoded", "%3F"),
    "all of it encoded": (f"{URL}%3F{TAIL.replace('=', '%3D').replace('&', '%26')}", "", "question_mark_encoded", "%3F"),
    "the ? encoded in lower case": (f"{URL}%3fExpires%3d{SOON}%26Signature%3dx", "", "question_mark_encoded", "%3F"),
    "the separators encoded": (f"{URL}?{TAIL.replace('=', '%3D').replace('&', '%26')}", "", "separators_encoded", "%3D"),
    "&amp;": (GOOD.replace("&", "&amp;"), "", "html_escaped", "&amp;"),
    "&amp; with a query": (WITH_QUERY.replace("&", "&amp;"), "", "html_escaped", "&amp;"),
    "&#38;": (GOOD.replace("&Signature", "&#38;Signature").replace("#", "%23") , "", "parameters_missing", "Signature"),
    "semicolons": (GOOD.replace("&", ";"), "", "separator", "joined by &"),
    "a URL in a parameter": ("https://cdn.test/go?to=" + GOOD.replace("?", "%3F").replace("&", "%26").replace("=", "%3D"), "", "nested_url", "value of a parameter"),
    "a URL in a parameter, bare": ("https://cdn.test/go?to=" + GOOD, "", "nested_url", "value of a parameter"),
    "parameters in the path": (f"{URL}/{TAIL}", "", "parameters_in_path", "part of the path"),
    # misspelled
    **{
        f"the name {wrong}": (GOOD.replace(f"{right}=", f"{wrong}="), "", "parameter_name", f"parameter {wrong}: its name must be {right}")
        for right, wrong in (
            ("Key-Pair-Id", "Key-Pair-ID"), ("Key-Pair-Id", "KeyPairId"), ("Key-Pair-Id", "key_pair_id"), ("Key-Pair-Id", "Key-Pair"),
            ("Key-Pair-Id", "Keypair-Id"), ("Key-Pair-Id", "Key-Id"), ("Expires", "Expire"), ("Expires", "expires"), ("Expires", "Expiers"), ("Expires", "Expiration"),
            ("Signature", "signature"), ("Signature", "Sig"), ("Signature", "Singature"), ("Signature", "Signatur"),
        )
    },
    "the name policy": (custom("https://cdn.test/*").replace("Policy=", "policy="), "", "parameter_name", "its name must be Policy"),
    "the name Polocy": (custom("https://cdn.test/*").replace("Policy=", "Polocy="), "", "parameter_name", "its name must be Policy"),
    "all names in lower case": (GOOD.replace("Expires", "expires").replace("Sig", "sig").replace("Key-Pair-Id", "key-pair-id"), "", "parameter_name", "its name must be Expires"),
    "all names off by a letter": (GOOD.replace("Expires", "Expire").replace("Signature", "Signatur").replace("Key-Pair-Id", "KeyPairI"), "", "parameter_name", "letter by letter"),
    "a cookie's name": (URL, COOKIES.replace("CloudFront-Key-Pair-Id", "CloudFront-Key-Pair-ID"), "cookie_name", "CloudFront-Key-Pair-Id"),
    "cookies without their prefix": (URL, COOKIES.replace("CloudFront-", ""), "cookie_name", "CloudFront-"),
    "cookies in lower case": (URL, COOKIES.replace("CloudFront-", "cloudfront-"), "cookie_name", "upper and lower case of their names"),
    "cookies with an underscore": (URL, COOKIES.replace("CloudFront-", "CloudFront_"), "cookie_name", "CloudFront-"),
    # base64
    "line ends": (GOOD.replace(SIGNATURE, "%0A".join(re.findall(".{1,76}", SIGNATURE))), "", "base64_line_ends", "line ends"),
    "line ends of Windows": (GOOD.replace(SIGNATURE, "%0D%0A".join(re.findall(".{1,64}", SIGNATURE))), "", "base64_line_ends", "line ends"),
    "a line end": (GOOD.replace(SIGNATURE, SIGNATURE + "%0A"), "", "base64_line_ends", "line ends"),
    "a line end, pasted": (GOOD.replace(SIGNATURE, SIGNATURE[:76] + "\n" + SIGNATURE[76:]), "", "base64_line_ends", "line ends"),
    "a line end encoded twice": (GOOD.replace(SIGNATURE, SIGNATURE + "%250A"), "", "base64_line_ends", "line ends"),
    "standard base64": (GOOD.replace(SIGNATURE, STANDARD), "", "base64_alphabet", "standard base64 alphabet"),
    "standard base64, encoded": (GOOD.replace(SIGNATURE, STANDARD.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D")), "", "base64_alphabet", "standard"),
    "the url-safe alphabet": (GOOD.replace(SIGNATURE, base64.urlsafe_b64encode(RSA.sign(b"xy", "SHA1")).decode().rstrip("=")), "", "base64_url_safe", "RFC 4648"),
    "no padding": (GOOD.replace(SIGNATURE, SIGNATURE.rstrip("_")), "", "base64_padding", "padding"),
    "hex": (GOOD.replace(SIGNATURE, RSA.sign(TEXT, "SHA1").hex()), "", "base64_is_hex", "in hex"),
    "quotes": (GOOD.replace(SIGNATURE, f'"{SIGNATURE}"'), "", "quoted", "in quotes"),
    "Python's bytes": (GOOD.replace(SIGNATURE, f"b'{SIGNATURE}'"), "", "quoted", "bytes"),
    "cookies in quotes": (URL, re.sub("=([^;]+)", r'="\1"', COOKIES), "quoted", "in quotes"),
    "a cookie undefined": (URL, re.sub("Policy=[^;]+", "Policy=undefined", COOKIES), "value_missing", "the word undefined"),
    "a promise": (GOOD.replace(SIGNATURE, "[object%20Promise]"), "", "value_missing", "[object Promise]"),
    # more than one
    "signed twice, the first has expired": (canned(signer=RSA, data=canned_policy(URL, str(int(NOW) - 5)), expires=int(NOW) - 5) + "&" + TAIL, "", "signed_twice", "signed already"),
    "signed twice, canned and custom": (sign_url(URL, RSA, expires=SOON, now=NOW) + "&" + custom("https://cdn.test/*").partition("?")[2], "", "signed_twice", "signed already"),
    "stale and fresh cookies": (URL, f"{OLD}; {COOKIES}", "stale_cookies", "old and new cookies"),
    "cookies of another folder first": (URL, f"{ELSEWHERE}; {COOKIES}", "stale_cookies", "old and new cookies"),
    "stale and fresh cookies, mixed": (URL, "; ".join(itertools.chain(*zip(OLD.split("; "), COOKIES.split("; "), strict=True))), "stale_cookies", "old and new cookies"),
    # how it was signed
    "PSS, SHA-256": (canned(signature=pss(hashes.SHA256(), 32)), "", "pss", "RSASSA-PSS with SHA-256"),
    "PSS, the longest salt": (canned(signature=pss(hashes.SHA256(), padding.PSS.MAX_LENGTH)), "", "pss", "RSASSA-PSS"),
    "PSS, SHA-1": (canned(signature=pss(hashes.SHA1(), 20)), "", "pss", "RSASSA-PSS with SHA-1"),
    "PSS, SHA-512": (canned(signature=pss(hashes.SHA512(), 64)), "", "pss", "RSASSA-PSS with SHA-512"),
    "PSS, no salt": (canned(signature=pss(hashes.SHA256(), 0)), "", "pss", "RSASSA-PSS"),
    "SHA-512": (canned(signature=rsa_with(hashes.SHA512())), "", "hash_not_supported", "SHA-512"),
    "SHA-384": (canned(signature=rsa_with(hashes.SHA384())), "", "hash_not_supported", "SHA-384"),
    "SHA-224": (canned(signature=rsa_with(hashes.SHA224())), "", "hash_not_supported", "SHA-224"),
    "MD5": (canned(signature=rsa_with(hashes.MD5())), "", "hash_not_supported", "MD5"),
    "SHA-512, ECDSA": (canned(signature=ec_with(hashes.SHA512()), signer=EC), "", "hash_not_supported", "SHA-512"),
    "SHA-384, ECDSA": (canned(signature=ec_with(hashes.SHA384()), signer=EC), "", "hash_not_supported", "SHA-384"),
    "SHA-256 unsaid": (canned(signature=RSA.sign(TEXT, "SHA256")), "", "hash_algorithm", "Hash-Algorithm=SHA256 is missing"),
    "SHA-256 unsaid, ECDSA": (canned(signature=EC.sign(TEXT, "SHA256"), signer=EC), "", "hash_algorithm", "Hash-Algorithm=SHA256 is missing"),
    "SHA-256 said": (GOOD + "&Hash-Algorithm=SHA256", "", "hash_algorithm", "SHA1, but Hash-Algorithm says SHA256"),
    "sha256 in lower case": (GOOD + "&Hash-Algorithm=sha256", "", "hash_algorithm_value", "upper case"),
    "a raw r and s": (canned(signature=raw_ec(), signer=EC), "", "ecdsa_raw", "raw r and s"),
    "no DigestInfo": (canned(signature=undigested(hashlib.sha1(TEXT).digest())), "", "no_digest_info", "DigestInfo"),
    "no DigestInfo, SHA-256": (canned(signature=undigested(hashlib.sha256(TEXT).digest())), "", "no_digest_info", "bare SHA-256"),
    "a hex digest, encrypted": (canned(signature=undigested(hashlib.sha1(TEXT).hexdigest().encode())), "", "no_digest_info", "bare SHA-1"),
    "an HMAC": (canned(signature=hashlib.sha256(TEXT).digest()), "", "signature_is_a_hash", "HMAC"),
    # what was signed
    **{
        f"a digest again: {name}": (canned(make(TEXT)), "", "digest_signed", "digest of the policy was signed again")
        for name, make in DIGESTS.items()
    },
    "a digest again, ECDSA": (canned(hashlib.sha1(TEXT).digest(), signer=EC), "", "digest_signed", "signed again"),
    "the base64": (canned(base64.b64encode(TEXT)), "", "base64_signed", "sign the JSON text itself"),
    "CloudFront's base64": (canned(cf_b64encode(TEXT).encode()), "", "base64_signed", "sign the JSON text itself"),
    "the bare URL": (canned(URL.encode()), "", "url_signed", "bare URL was signed"),
    "\\/": (canned(TEXT.replace(b"/", b"\\/")), "", "policy_escapes", "JSON_UNESCAPED_SLASHES"),
    "blanks": (canned(spaced()), "", "policy_blanks", "held blanks"),
    "Java's blank": (canned(TEXT.replace(b'"Statement":', b'"Statement": ').replace(b'"Resource":', b'"Resource":')), "", "policy_blanks", "held blanks"),
    "indented": (canned(json.dumps(json.loads(TEXT), indent=2).encode()), "", "policy_blanks", "held blanks"),
    "indented by four, with a newline": (canned(json.dumps(json.loads(TEXT), indent=4).encode() + b"\n"), "", "policy_blanks", "held blanks"),
    "another order": (canned(f'{{"Statement":[{{"Condition":{{"DateLessThan":{{{NUMBER}}}}},"Resource":"{URL}"}}]}}'.encode()), "", "policy_order", "another order"),
    "another order, with blanks": (canned(f'{{"Statement": [{{"Condition": {{"DateLessThan": {{"AWS:EpochTime": {SOON}}}}}, "Resource": "{URL}"}}]}}'.encode()), "", "policy_order", "another order"),
    "a newline": (canned(TEXT + b"\n"), "", "policy_newline", "ended with a newline"),
    "a newline of Windows": (canned(TEXT + b"\r\n"), "", "policy_newline", "ended with a newline"),
    "a version": (canned(TEXT.replace(b'{"Statement"', b'{"Version":"2012-10-17","Statement"')), "", "policy_members", "custom policy"),
    "an address": (canned(TEXT.replace(str(SOON).encode() + b"}", str(SOON).encode() + b'},"IpAddress":{"AWS:SourceIp":"0.0.0.0/0"}')), "", "policy_members", "custom policy"),
    "a statement that is no array": (canned(TEXT.replace(b"[", b"").replace(b"]", b"")), "", "policy_members", "array"),
    "the time in quotes": (canned(TEXT.replace(NUMBER.encode(), f'"AWS:EpochTime":"{SOON}"'.encode())), "", "policy_time", "quotes"),
    "milliseconds signed": (canned(canned_policy(URL, f"{SOON}000")), "", "milliseconds", "milliseconds"),
    "milliseconds sent": (canned(expires=f"{SOON}000"), "", "milliseconds", f"{SOON}"),
    "a time in quotes sent": (canned(expires=f"'{SOON}'"), "", "quoted", "in quotes"),
    "Go's &": (canned(canned_policy(URL + "?a=1&b=2", str(SOON)).replace(b"&", b"\\u0026"), url=URL + "?a=1&b=2"), "", "policy_escapes", "Go's json.Marshal"),
    ".NET's +": (canned(canned_policy(URL + "?a=1+b", str(SOON)).replace(b"+", b"\\u002B"), url=URL + "?a=1+b"), "", "policy_escapes", "System.Text.Json"),
    "\\/ and http": (canned(TEXT.replace(b"https:", b"http:").replace(b"/", b"\\/")), "", "scheme", "http://"),
    # for what resource
    "a wildcard": (canned(canned_policy("https://cdn.test/films/*", str(SOON))), "", "canned_wildcard", "Sign a custom policy"),
    "a wildcard, ECDSA": (canned(canned_policy("https://cdn.test/*", str(SOON)), signer=EC), "", "canned_wildcard", "Sign a custom policy"),
    "a wildcard for endings": (canned(canned_policy("https://cdn.test/films/*.mp4", str(SOON))), "", "canned_wildcard", "Sign a custom policy"),
    "*": (canned(canned_policy("*", str(SOON))), "", "canned_wildcard", "Sign a custom policy"),
    "https://*": (canned(canned_policy("https://*", str(SOON))), "", "canned_wildcard", "Sign a custom policy"),
    "another host": (canned(canned_policy("https://www.cdn.test/films/a.mp4", str(SOON))), "", "host", "host www.cdn.test"),
    "the distribution's host": (canned(canned_policy("https://d111111abcdef8.cloudfront.net/films/a.mp4", str(SOON))), "", "host", "d111111abcdef8.cloudfront.net"),
    "a bucket's host": (canned(canned_policy("https://media-bucket.s3.eu-central-1.amazonaws.com/films/a.mp4", str(SOON))), "", "bucket_host", "not of the bucket"),
    "a bucket of the same name": (canned(canned_policy("https://cdn.test.s3.amazonaws.com/films/a.mp4", str(SOON))), "", "bucket_host", "not of the bucket"),
    "a bucket in the path": (canned(canned_policy("https://s3.amazonaws.com/cdn.test/films/a.mp4", str(SOON))), "", "bucket_host", "not of the bucket"),
    "a bare path": (canned(canned_policy("/films/a.mp4", str(SOON))), "", "bare_path", "bare path"),
    "a bare path without a slash": (canned(canned_policy("films/a.mp4", str(SOON))), "", "bare_path", "bare path"),
    "a URL without its scheme": (canned(canned_policy("cdn.test/films/a.mp4", str(SOON))), "", "bare_path", "without http"),
    "a URL that begins with //": (canned(canned_policy("//cdn.test/films/a.mp4", str(SOON))), "", "bare_path", "without http"),
    "http": (canned(canned_policy("http://cdn.test/films/a.mp4", str(SOON))), "", "scheme", "signed for http://"),
    "a port": (canned(canned_policy("https://cdn.test:443/films/a.mp4", str(SOON))), "", "port", ":443"),
    "a fragment": (canned(canned_policy(URL + "#t=10", str(SOON))) + "#t=10", "", "fragment", "never reaches a server"),
    "an index document": (canned(canned_policy("https://cdn.test/films/index.html", str(SOON)), url="https://cdn.test/films/"), "", "index_document", "index.html"),
    "another key": (canned(signer=OTHER, id_=RSA.key_pair_id), "", "other_key", OTHER.key_pair_id),
    "another trusted key": (canned(signer=EC, id_=RSA.key_pair_id), "", "other_key", EC.key_pair_id),
    "two ids exchanged": (canned(signer=RSA, id_=EC.key_pair_id), "", "other_key", RSA.key_pair_id),
    # custom policies
    "custom for http": (custom("http://cdn.test/*"), "", "scheme", "signed for http://"),
    "custom for another host": (custom("https://other.test/*"), "", "host", "other.test"),
    "custom for a bucket": (custom("https://films.s3.amazonaws.com/*"), "", "bucket_host", "not of the bucket"),
    "custom for a bucket of a region": (custom("https://films.s3.eu-west-1.amazonaws.com/films/*"), "", "bucket_host", "not of the bucket"),
    "custom for a website": (custom("http://films.s3-website-eu-west-1.amazonaws.com/*"), "", "bucket_host", "not of the bucket"),
    "custom for a bare path": (custom("/films/*"), "", "bare_path", "neither http://"),
    "custom, one character": (custom("https://cdn.test/films/b.mp4"), "", "other_path", "b where the request has a, at character 8 of the path"),
    "custom, upper and lower case": (custom("https://cdn.test/Films/*"), "", "letter_case", "F where the request has f, at character 2"),
    "custom, another query": (custom(f"{URL}?v=2", url=URL + "?v=1"), "", "other_query", "2 where the request has 1, at character 3 of the query"),
    "custom, another encoding": (custom("https://cdn.test/films/a%2Bb%20*", url="https://cdn.test/films/a+b%20c"), "", "encoding", "%2B"),
    "custom, another ending": (custom("https://cdn.test/films/*.jpg"), "", "other_path", "differs"),
    "custom, a blank": (custom("https://cdn.test/films/a b.mp4", url="https://cdn.test/films/a%20b.mp4"), "", "not_encoded", "a blank where the request has %20"),
    # keys
    "an access key": (canned(id_="AKIAIOSFODNN7EXAMPLE"), "", "key_id_is_an_access_key", "access key"),
    "a temporary access key": (canned(id_="ASIAIOSFODNN7EXAMPLE"), "", "key_id_is_an_access_key", "access key"),
    "a distribution": (canned(id_="E2QWRUHAPOMQZL"), "", "key_id_is_a_distribution", "distribution"),
    "an ARN": (canned(id_="arn:aws:kms:eu-west-1:1:key/x"), "", "key_id_is_an_arn", "ARN"),
    "an id in quotes": (canned(id_='"K2TESTRSA00001"'), "", "quoted", "in quotes"),
    "an id with a line end": (canned(id_="K2TESTRSA00001%0A"), "", "key_id_case", "blanks"),
    "None": (canned(id_="None"), "", "key_id_missing", "the word None"),
    **{f"{tail} behind the URL": (GOOD + tail, "", "key_id_followed", "is followed by") for tail in ('"', "'", ")", ">", ",", "%22", "\\")},
    "a query behind the URL": (GOOD + "?v=1", "", "second_question_mark", "second ?"),
    # copied, escaped or intended for something else
    "\\u0026": (GOOD.replace("&", "\\u0026"), "", "separators_encoded", "JSON"),
    "%5Cu0026": (GOOD.replace("&", "%5Cu0026"), "", "separators_encoded", "JSON"),
    "the & encoded": (GOOD.replace("&", "%26"), "", "separators_encoded", "%26"),
    "a line end as an escape": (GOOD.replace(SIGNATURE, SIGNATURE + "\\n"), "", "base64_line_ends", "line ends"),
    "a blank before base64": (GOOD.replace(SIGNATURE, "%20" + SIGNATURE), "", "base64_line_ends", "blank"),
    "the url-safe alphabet, padded": (GOOD.replace(SIGNATURE, base64.urlsafe_b64encode(RSA.sign(b"xy", "SHA1")).decode()), "", "base64_url_safe", "RFC 4648"),
    "_ and ~ exchanged": (GOOD.replace(SIGNATURE, STANDARD.translate(str.maketrans("+=/", "-~_"))), "", "base64_alphabet", "exchanged"),
    "blanks before colons": (canned(TEXT.replace(b'":', b'" : ')), "", "policy_blanks", "held blanks"),
    "a policy in hex": (custom("https://cdn.test/*").replace(cf_b64encode(policy("https://cdn.test/*")), policy("https://cdn.test/*").hex()), "", "base64_is_hex", "in hex"),
    "a policy in UTF-16": (custom("https://cdn.test/*").replace(cf_b64encode(policy("https://cdn.test/*")), cf_b64encode(policy("https://cdn.test/*").decode().encode("utf-16"))), "", "policy_charset", "UTF-16"),
    "the names of cookies": (re.sub("(Expires|Signature|Key-Pair-Id)=", r"CloudFront-\1=", GOOD), "", "parameter_name", "must be Expires"),
    "S3, version 2": (f"{URL}?AWSAccessKeyId=AKIAX&Signature=x&Expires={SOON}", "", "signed_for_s3", "for S3"),
    "Google": (f"{URL}?GoogleAccessId=x&Signature=x&Expires={SOON}", "", "signed_for_s3", "Google Cloud Storage"),
    "cookies with commas": (URL, COOKIES.replace("; ", ", "), "separator", "joined by a comma"),
    # signed instead of the URL
    **{
        f"signed for {text!r}": (canned(canned_policy(text, str(SOON))), "", code, says)
        for text, code, says in (
            ("http*://cdn.test/*", "canned_wildcard", "custom policy"), ("https://*.test/*", "canned_wildcard", "custom policy"),
            ("https://cdn.test/films*", "canned_wildcard", "custom policy"), ("http*://cdn.test/films/*", "canned_wildcard", "custom policy"),
            ("https://cdn.test/films%2Fa.mp4", "separators_encoded", "each segment"), ("https%3A%2F%2Fcdn.test%2Ffilms%2Fa.mp4", "separators_encoded", "whole URL"),
            (URL + "\n", "url_ends_blank", "a line end"), (URL + " ", "url_ends_blank", "a blank"), (f"<{URL}>", "quoted", "around it"),
            ("https://CDN.TEST/films/a.mp4", "letter_case", "lower case"), ("https://cdn.test./films/a.mp4", "host", "a dot"), ("HTTPS://cdn.test/films/a.mp4", "letter_case", "HTTPS"),
            ("undefined", "value_missing", "the word undefined"), ("", "value_missing", "no URL"),
            (f"{URL}?Expires={SOON}", "parameters_signed", "plain URL"), (f"{URL}?Expires={SOON}&Key-Pair-Id={RSA.key_pair_id}", "parameters_signed", "plain URL"),
        )
    },
    "&amp; signed": (canned(canned_policy(URL + "?a=1&amp;b=2", str(SOON)), url=URL + "?a=1&b=2"), "", "html_escaped", "before signing"),
    "a lower-case path": (canned(canned_policy("https://cdn.test/films/a.mp4", str(SOON)), url="https://cdn.test/Films/A.mp4"), "", "letter_case", "Upper and lower case"),
    "behind a host once more": ("https://cdn.test/" + GOOD, "", "nested_url", "once more"),
    "a time with a fraction signed": (canned(canned_policy(URL, f"{SOON}.0")), "", "policy_time", "fraction"),
    # wildcards with several matches prove nothing
    "custom, below the host": (custom("https://*.cdn.test/*"), "", "host", "for the host *.cdn.test"),
    "custom, a folder too few": (custom("https://cdn.test/*/b/a.mp4", url="https://cdn.test/b/a.mp4"), "", "other_path", "differs"),
    "custom, a parameter before a wildcard": (custom(f"{URL}?x=*", url=URL + "?y=1&x=2"), "", "query_added", "after signing: y=1"),
    "custom, an encoded *": (custom("https://cdn.test/films/%2A"), "", "encoding", "%2A"),
}  # fmt: skip


@rows("name", CASES)
def test_a_mistake_has_its_code(name: str) -> None:
    url, cookies, code, message = CASES[name]
    report = look(url, cookies)
    assert not report.granted
    codes = [cause.code for cause in report.causes]
    assert code in codes[:2], (codes, report.cause)
    assert message in report.cause
    assert "unknown" not in codes


def test_what_is_right_has_no_cause() -> None:
    """The same URLs and cookies without a mistake, including unusual ones that look like mistakes."""
    for url, cookies in (
        (GOOD, ""),
        (WITH_QUERY, ""),
        (custom("https://cdn.test/films/*"), ""),
        (custom("https://cdn.test/films/*", url=URL + "?sig=1&expire=2&policy=3"), ""),
        (canned(url=URL + "?to=https://x.test/?a=b"), ""),
        (GOOD + "&" + TAIL, ""),
        (URL, COOKIES),
        (URL, f"{COOKIES}; {OLD}"),
        (URL, f"CloudFront-Policies=1; {COOKIES}"),
    ):
        report = look(url, cookies)
        assert report.granted, (url, report.cause)
        assert report.causes == ()


# ---- without keys


@rows("name", CASES)
def test_without_keys_nobody_is_blamed_for_the_signature(name: str) -> None:
    """What is visible is still named; what only a verification could show is left open."""
    url, cookies, _, _ = CASES[name]
    report = look(url, cookies, keyring=KeyRing({}))
    fits = next(check for check in report.checks if check.name == "signature fits")
    assert fits.passed is None
    codes = {cause.code for cause in report.causes}
    assert not codes & {
        "no_fit",
        "other_text",
        "other_key",
        "hash_algorithm",
        "signature_size",
        "key_unknown",
    }
    assert "private key" not in report.cause.lower() or "key_id_is" in " ".join(codes)


def test_without_keys_the_report_says_how_to_give_them() -> None:
    report = look(GOOD, keyring=KeyRing({}))
    assert [cause.code for cause in report.causes] == ["no_keys"]
    assert f"--public-key {RSA.key_pair_id}=FILE" in report.cause
    unknown = look(canned(id_="KNOBODY"), keyring=ring(EC))
    assert [cause.code for cause in unknown.causes] == ["key_unknown"]


# ---- completeness of the codes


def test_each_code_is_in_the_guide_and_no_other() -> None:
    used = set()
    for path in SOURCE.glob("*.py"):
        text = path.read_text()
        used |= set(re.findall(r'Mistake\(\s*"([a-z0-9_]+)"', text))
        if path.name == "variants.py":
            used |= set(
                re.findall(
                    r'_one\([^"]*?(?:f?"[^"]*"[^"]*?)?"([a-z0-9_]+)", (?:words|f?"|_WILDCARD|_other)', text
                )
            )
            used |= set(re.findall(r'": \("([a-z0-9_]+)", "the', text))
        if path.name == "policy_texts.py":
            used |= set(re.findall(r'yield "([a-z0-9_]+)", ', text))
    used -= {"unknown"}
    listed = set(
        re.findall(r"^\| `([a-z0-9_]+)` \|", DOCS.read_text().partition("## The causes")[2], re.MULTILINE)
    )
    assert used - listed == set(), "not in docs/guide/explain.md"
    assert {cause for _, _, cause, _ in CASES.values()} <= listed


# ---- unusual input, and running time


HOSTILE: dict[str, Callable[[], tuple[str, str]]] = {
    "escapes": lambda: ("/" + "%2525" * 1500 + "?" + "%25" * 800, ""),
    "many parameters": lambda: ("/a?" + "&".join(f"a{n}=%20+" for n in range(800)), ""),
    "many slashes": lambda: ("/a%20" * 1500, ""),
    "accents": lambda: ("/" + "%C3%A9+" * 1000 + "?q=" + "%C3%BC%20" * 400, ""),
    "many names": lambda: ("/a?" + "&".join(f"Expirez{n}" for n in range(600)), ""),
    "many cookies": lambda: (
        "/a",
        "; ".join(f"CloudFront-Policy=x{n}; CloudFront-Signature=y{n}" for n in range(300)),
    ),
    "stars": lambda: ("/" + "a" * 3000, ""),
}


@pytest.mark.skipif("sys.gettrace() is not None", reason="tracing every line multiplies the work")
@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("signer", [RSA, EC])
def test_work_is_bounded_whatever_is_asked(name: str, signer: LocalSigner) -> None:
    """A bound of ten times the duration on an idle machine (docs/guide/explain.md gives the figures)."""
    import time

    target, cookies = HOSTILE[name]()
    signature = cf_b64encode(signer.sign(b"x", "SHA1"))
    stars = cf_b64encode(policy("https://cdn.test/" + "*a" * 900))
    for carrier in (f"Expires={SOON}", f"Policy={stars}"):
        mark = "&" if "?" in target else "?"
        full = f"{target}{mark}{carrier}&Signature={signature}&Key-Pair-Id={signer.key_pair_id}"
        begun = time.process_time()
        report = explain(
            "https", "cdn.test", full, keyring=ring(), now=NOW, known_keys=KEYS, cookie_header=cookies
        )
        assert time.process_time() - begun < 0.4
        assert not report.granted
