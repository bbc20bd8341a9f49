"""Makes the signing vectors anew with the signers that are installed: `python -m tests.vectors.make`.

The tests use the same functions to have fresh signatures made and judged, so each signer is one function from
cases to vectors, which raises Absent if its program is not there.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from botocore.signers import CloudFrontSigner

from keyfront.signing.keys import HashName, PrivateKey, load_private_key

HERE = Path(__file__).parent
NODE = HERE.parent / "node"
EXPIRES = 1_893_456_000  # 2030-01-01
NOW = EXPIRES - 3600
KEY_IDS = {"rsa": "K2TESTRSA00001", "ec": "K2TESTECDSA001", "other": "K2TESTOTHER001"}
PAIRS: tuple[tuple[str, HashName], ...] = (
    ("rsa", "SHA1"),
    ("rsa", "SHA256"),
    ("ec", "SHA1"),
    ("ec", "SHA256"),
)


class Absent(Exception):
    """A signer's program is not installed."""


@dataclass(frozen=True)
class Vector:
    name: str
    scheme: str
    host: str
    target: str
    cookie: str
    client_ip: str
    now: float
    key: str
    hash: HashName
    resource: str | None
    canned: bool
    own_query: str
    expect: str


def key(name: str) -> PrivateKey:
    return load_private_key(HERE / "keys" / f"{name}.pem")


# ------------------------------------------------------------------------------------------------------------
# What is signed

# URLs as they stand on a request line. Every signer that signs what it is given must do for each.
WIRE_URLS: dict[str, str] = {
    "plain": "https://cdn.test/a.jpg",
    "plain over http": "http://cdn.test/a.jpg",
    "root": "https://cdn.test/",
    "a port": "http://cdn.test:8080/a.jpg",
    "an encoded blank": "https://cdn.test/a%20b.jpg",
    "a plus in the path": "https://cdn.test/a+b.jpg",
    "an encoded plus in the path": "https://cdn.test/a%2Bb.jpg",
    "a plus in the query": "https://cdn.test/a?q=x+y",
    "an encoded blank in the query": "https://cdn.test/a?q=x%20y",
    "an apostrophe in the path": "https://cdn.test/it's.jpg",
    "an encoded apostrophe in the query": "https://cdn.test/a?q=it%27s",
    "encoded quotes": "https://cdn.test/%22a%22?q=%22b%22",
    "UTF-8": "https://cdn.test/%C3%A9t%C3%A9/%E6%BC%A2?q=%C3%BC",
    "UTF-8 in lower-case escapes": "https://cdn.test/%c3%a9t%c3%a9",
    "latin-1": "https://cdn.test/%E9t%E9",
    "an encoded slash": "https://cdn.test/a%2Fb/c",
    "an encoded slash in lower case": "https://cdn.test/a%2fb/c",
    "an encoded at sign": "https://cdn.test/user%40example.com/a",
    "a bare at sign and colon": "https://cdn.test/user@example.com/a:b",
    "an escape of a letter": "https://cdn.test/%61.jpg",
    "an encoded tilde": "https://cdn.test/%7Euser/~user",
    "an encoded percent": "https://cdn.test/100%25/a%2520b",
    "an encoded NUL": "https://cdn.test/a%00b",
    "sub-delimiters": "https://cdn.test/!$&'()+,;=:@/-._~",
    "brackets encoded": "https://cdn.test/a%5B1%5D?b%5B%5D=1&b%5B%5D=2",
    "dot segments": "https://cdn.test/a/./b/../c",
    "encoded dot segments": "https://cdn.test/a/%2e%2e/c",
    "double slashes": "https://cdn.test//a//b/",
    "a slash at the end": "https://cdn.test/a/",
    "a path parameter": "https://cdn.test/a;v=1/b",
    "a long path": "https://cdn.test/" + "folder/" * 150 + "a.jpg",
    "one parameter": "https://cdn.test/a?b=1",
    "several parameters": "https://cdn.test/a?c=3&b=2&a=1",
    "a parameter without =": "https://cdn.test/a?flag",
    "a parameter without = among others": "https://cdn.test/a?x=1&flag&y=2",
    "an empty value": "https://cdn.test/a?b=",
    "an empty name": "https://cdn.test/a?=b",
    "an empty parameter in the middle": "https://cdn.test/a?b=1&&c=2",
    "empty parameters at the end": "https://cdn.test/a?b=1&&",
    "empty parameters first": "https://cdn.test/a?&&b=1",
    "a & at the end": "https://cdn.test/a?b=1&",
    "only a &": "https://cdn.test/a?&",
    "a ? and nothing after it": "https://cdn.test/a?",
    "repeated parameters": "https://cdn.test/a?b=1&b=2&b=1",
    "= in a value": "https://cdn.test/a?b=c=d==",
    "? in a value": "https://cdn.test/a?b=c?d",
    "a URL in a value": "https://cdn.test/a?u=https://other.test/x?y=1",
    "a slash in a value": "https://cdn.test/a?b=/c/d",
    "a semicolon in the query": "https://cdn.test/a?b=1;c=2",
    "names like the signing ones": "https://cdn.test/a?expires=1&policy=2&signature=3&key-pair-id=4&XExpires=5",
    "names with a signing one encoded": "https://cdn.test/a?%45xpires=1",
    "signing names in the path": "https://cdn.test/Expires=1&Signature=2/Key-Pair-Id",
    "signing names as values": "https://cdn.test/a?next=Signature&then=Policy",
}

# URLs that a client rewrites before it sends them: a signer that signs them as they stand makes a link that fails.
UNSENDABLE_URLS: dict[str, str] = {
    "a bare blank": "https://cdn.test/a b.jpg",
    "bare UTF-8": "https://cdn.test/été.jpg",
    "bare quotes": 'https://cdn.test/"a".jpg',
    "a bare blank in the query": "https://cdn.test/a?q=x y",
}

# (Resource, URL requested, granted): cloudfront-semantics §1.4
WILDCARDS: tuple[tuple[str, str, bool], ...] = (
    ("https://cdn.test/*", "https://cdn.test/a/b.jpg", True),
    ("https://cdn.test/*", "https://cdn.test/a/b.jpg?c=1", True),
    ("https://cdn.test/*", "http://cdn.test/a/b.jpg", False),
    ("https://cdn.test/*", "https://other.test/a/b.jpg", False),
    ("https://cdn.test/a/*", "https://cdn.test/b/a/", False),
    ("https://cdn.test/hello*", "https://cdn.test/hello", True),
    ("https://cdn.test/hello*", "https://cdn.test/hello.jpg?x=1", True),
    ("https://cdn.test/hello*", "https://cdn.test/help", False),
    ("https://cdn.test/a", "https://cdn.test/a", True),
    ("https://cdn.test/a", "https://cdn.test/a?x=1", False),
    ("https://cdn.test/a?x=1", "https://cdn.test/a?x=1", True),
    ("https://cdn.test/a?x=1", "https://cdn.test/a", False),
    ("https://cdn.test/a?x=1", "https://cdn.test/a?x=2", False),
    ("https://cdn.test/a\\?x=1", "https://cdn.test/a?x=1", True),
    ("https://cdn.test/a?x=*", "https://cdn.test/a?x=1&y=2", True),
    ("https://cdn.test/a?*", "https://cdn.test/a", True),
    ("https://cdn.test/a?*", "https://cdn.test/a?x", True),
    ("https://cdn.test/a*?x=1", "https://cdn.test/abc?x=1", True),
    ("https://cdn.test/a*?x=1", "https://cdn.test/abc?x=2", False),
    ("https://cdn.test/?/b?.jpg", "https://cdn.test/1/b2.jpg", True),
    ("https://cdn.test/?/b?.jpg", "https://cdn.test/12/b2.jpg", False),
    ("https://cdn.test/a??.jpg", "https://cdn.test/a1.jpg", False),
    ("https://cdn.test/*game_download.zip*", "https://cdn.test/game_download.zip", True),
    ("https://cdn.test/*game_download.zip*", "https://cdn.test/example_game_download.zip?license=yes", True),
    ("https://cdn.test/*game_download.zip*", "https://cdn.test/game_download.zap", False),
    ("https://cdn.test/hello*world", "https://cdn.test/hello/my/world", True),
    ("https://cdn.test/hello*world", "https://cdn.test/hello?world", False),
    ("https://cdn.test/hello*world", "https://cdn.test/hello/x?y=world", False),
    ("https://cdn.test*", "https://cdn.test/a?b=1", True),
    ("https://cdn.test*", "https://cdn.test.example/a", True),
    ("https://cdn.test*", "https://other.test/cdn.test", False),
    ("https://*", "https://cdn.test/a?b=1", True),
    ("https://*", "http://cdn.test/a", False),
    ("https://*.test/*", "https://cdn.test/a", True),
    ("https://*.test/a", "https://cdn.test/b.test/a", False),
    ("https://cdn.*/a", "https://cdn.example/x/a", False),
    ("*://cdn.test/a", "http://cdn.test/a", True),
    ("http*://cdn.test/*", "https://cdn.test/a", True),
    ("http*://cdn.test/*", "http://cdn.test/a", True),
    ("http?://cdn.test/*", "http://cdn.test/a", False),
    ("*cdn.test", "https://cdn.test/", True),
    ("*cdn.test", "https://cdn.test/a", False),
    ("*cdn.test/a", "http://www.cdn.test/a", True),
    ("*cdn.test*", "http://www.cdn.test/a?b", True),
    ("*", "http://any.test/a?b=1", True),
    ("https://CDN.test/A", "https://cdn.test/A", True),
    ("https://CDN.test/A", "https://cdn.test/a", False),
    ("https://cdn.test:443/a", "https://cdn.test/a", True),
    ("http://cdn.test:8080/*", "http://cdn.test:8080/a", True),
    ("http://cdn.test:8080/*", "http://cdn.test/a", False),
    ("http://cdn.test/*", "http://cdn.test:8080/a", False),
    ("cdn.test/*", "https://cdn.test/a", False),
    ("https://cdn.test/a.b", "https://cdn.test/axb", False),
    ("https://cdn.test/[ab]*", "https://cdn.test/a", False),
)

# (SourceIp, viewer, granted): §1.5
ADDRESSES: tuple[tuple[str, str, bool], ...] = (
    ("192.0.2.7/32", "192.0.2.7", True),
    ("192.0.2.7/32", "192.0.2.8", False),
    ("192.0.2.0/24", "192.0.2.255", True),
    ("192.0.2.0/24", "192.0.3.0", False),
    ("192.0.2.77/24", "192.0.2.1", True),
    ("0.0.0.0/0", "203.0.113.9", True),
    ("192.0.2.0/31", "192.0.2.1", True),
    ("192.0.2.0/31", "192.0.2.2", False),
    ("192.0.2.7/32", "::ffff:192.0.2.7", True),
    ("0.0.0.0/0", "2001:db8::1", False),
)

# (DateGreaterThan after EXPIRES - 7200, now after it, granted), and the last second
BOUNDARIES: tuple[tuple[str, float, str], ...] = (
    ("the second of DateGreaterThan", EXPIRES - 7200, "not_yet_valid"),
    ("just after DateGreaterThan", EXPIRES - 7199.5, "granted"),
    ("before DateGreaterThan", EXPIRES - 7201, "not_yet_valid"),
    ("the last moment", EXPIRES - 0.001, "granted"),
    ("the second of DateLessThan", EXPIRES, "expired"),
    ("after DateLessThan", EXPIRES + 1, "expired"),
)


def _request(name: str, url: str, key_name: str, hash_name: HashName, own: str | None = None) -> Vector:
    """The vector of a canned, signed URL as a client that changes nothing requests it."""
    scheme, _, rest = url.partition("://")
    host, _, target = rest.partition("/")
    if own is None:
        query = target.partition("?")[2]
        names = ("Expires", "Policy", "Signature", "Key-Pair-Id", "Hash-Algorithm")
        own = "&".join(part for part in query.split("&") if part.partition("=")[0] not in names)
    return Vector(
        name,
        scheme,
        host,
        f"/{target}",
        "",
        "192.0.2.7",
        NOW,
        key_name,
        hash_name,
        None,
        True,
        own,
        "granted",
    )


def _resource(policy: str) -> str | None:
    value = json.loads(policy)["Statement"][0].get("Resource")
    return None if value is None else str(value)


def _policy(
    resource: str | None,
    expires: int = EXPIRES,
    starts: int | None = None,
    ip: str | None = None,
) -> str:
    condition: dict[str, Any] = {"DateLessThan": {"AWS:EpochTime": expires}}
    if starts is not None:
        condition["DateGreaterThan"] = {"AWS:EpochTime": starts}
    if ip is not None:
        condition["IpAddress"] = {"AWS:SourceIp": ip}
    statement: dict[str, Any] = {"Condition": condition}
    if resource is not None:
        statement = {"Resource": resource, **statement}
    return json.dumps({"Statement": [statement]}, separators=(",", ":"))


# ------------------------------------------------------------------------------------------------------------
# Signers


def botocore() -> Iterable[Vector]:
    """botocore's CloudFrontSigner: signs URLs as they stand; only its callback knows key and hash."""
    date = datetime.fromtimestamp(EXPIRES, UTC)

    def signer(key_name: str, hash_name: HashName) -> CloudFrontSigner:
        private = key(key_name)
        return CloudFrontSigner(KEY_IDS[key_name], lambda data: private.sign(data, hash_name))

    def tail(hash_name: HashName) -> str:
        return "" if hash_name == "SHA1" else "&Hash-Algorithm=SHA256"

    rsa = signer("rsa", "SHA1")
    for name, url in WIRE_URLS.items():
        yield _request(name, rsa.generate_presigned_url(url, date), "rsa", "SHA1")
    for name, url in UNSENDABLE_URLS.items():
        sent = quote(rsa.generate_presigned_url(url, date), safe="!$&'()*+,;=:@/?~%-._")
        yield replace(
            _request(f"{name}, signed as it stands", sent, "rsa", "SHA1"), expect="signature_mismatch"
        )
    for key_name, hash_name in PAIRS:
        url = signer(key_name, hash_name).generate_presigned_url("https://cdn.test/a?b=1", date) + tail(
            hash_name
        )
        yield _request(f"canned, {key_name} {hash_name}", url, key_name, hash_name)
        made = signer(key_name, hash_name)
        policy = made.build_policy(
            "https://cdn.test/*", date, datetime.fromtimestamp(EXPIRES - 7200, UTC), "192.0.2.7"
        )
        url = made.generate_presigned_url("https://cdn.test/a?b=1", policy=policy) + tail(hash_name)
        yield replace(
            _request(f"custom, {key_name} {hash_name}", url, key_name, hash_name),
            canned=False,
            resource=_resource(policy),
        )
    for name, now, expect in BOUNDARIES:
        policy = _policy("https://cdn.test/*", starts=EXPIRES - 7200)
        url = rsa.generate_presigned_url("https://cdn.test/a", policy=policy)
        yield replace(
            _request(name, url, "rsa", "SHA1"),
            canned=False,
            resource=_resource(policy),
            now=now,
            expect=expect,
        )
    canned = _request(
        "canned, the last moment", rsa.generate_presigned_url("https://cdn.test/a", date), "rsa", "SHA1"
    )
    yield replace(canned, now=EXPIRES - 0.001)
    yield replace(canned, name="canned, the second of Expires", now=EXPIRES, expect="expired")
    for resource, url, granted in WILDCARDS:
        policy = _policy(resource)
        yield replace(
            _request(f"{resource} for {url}", rsa.generate_presigned_url(url, policy=policy), "rsa", "SHA1"),
            canned=False,
            resource=resource,
            expect="granted" if granted else "wrong_resource",
        )
    policy = _policy(None)
    yield replace(
        _request(
            "no Resource", rsa.generate_presigned_url("http://any.test/a?b", policy=policy), "rsa", "SHA1"
        ),
        canned=False,
    )
    for cidr, viewer, granted in ADDRESSES:
        policy = _policy("https://cdn.test/*", ip=cidr)
        yield replace(
            _request(
                f"{cidr} for {viewer}",
                rsa.generate_presigned_url("https://cdn.test/a", policy=policy),
                "rsa",
                "SHA1",
            ),
            canned=False,
            resource="https://cdn.test/*",
            client_ip=viewer,
            expect="granted" if granted else "wrong_ip",
        )


def awscli(urls: Iterable[str] | None = None) -> Iterable[Vector]:
    """`aws cloudfront sign`, version 1: RSA-SHA1 and PKCS#1 only. Takes most of a second for each URL."""
    program = shutil.which("aws", path=str(Path(sys.executable).parent))
    if program is None:
        raise Absent("the AWS CLI is not installed beside this Python")

    def run(url: str, *options: str) -> str:
        done = subprocess.run(
            [program, "cloudfront", "sign", "--url", url, "--key-pair-id", KEY_IDS["rsa"], "--private-key",
             (HERE / "keys" / "rsa.pem").as_uri(), *options],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        return done.stdout.strip()

    chosen = urls or (
        "plain", "a plus in the path", "an apostrophe in the path", "UTF-8", "an encoded slash", "dot segments",
        "double slashes", "a parameter without =", "an empty parameter in the middle", "a & at the end",
        "repeated parameters",
    )  # fmt: skip
    for name in chosen:
        url = run(WIRE_URLS[name], "--date-less-than", str(EXPIRES))
        yield _request(name, url, "rsa", "SHA1")
    url = run(
        "https://cdn.test/a?b=1", "--date-less-than", str(EXPIRES), "--date-greater-than", str(EXPIRES - 7200),
        "--ip-address", "192.0.2.0/24",
    )  # fmt: skip
    yield replace(_request("custom", url, "rsa", "SHA1"), canned=False, resource="https://cdn.test/a?b=1")


def npm() -> Iterable[Vector]:
    """npm @aws-sdk/cloudfront-signer: rewrites the URL before it signs it, knows all four algorithm pairs."""
    node = shutil.which("node")
    if node is None or not (NODE / "node_modules" / "@aws-sdk" / "cloudfront-signer").exists():
        raise Absent("node or @aws-sdk/cloudfront-signer is not installed (npm ci in tests/node)")
    jobs: list[dict[str, Any]] = []
    wanted: list[Callable[[Any], Vector]] = []

    def common(key_name: str, hash_name: HashName) -> dict[str, Any]:
        return {
            "keyPairId": KEY_IDS[key_name],
            "privateKey": (HERE / "keys" / f"{key_name}.pem").read_text(),
            **({} if hash_name == "SHA1" else {"algorithm": hash_name}),
        }

    def url_job(name: str, key_name: str, hash_name: HashName, args: dict[str, Any], **changes: Any) -> None:
        jobs.append({"kind": "url", "args": {**common(key_name, hash_name), **args}})
        wanted.append(lambda url: replace(_request(name, url, key_name, hash_name), **changes))

    def cookies_job(
        name: str, key_name: str, hash_name: HashName, args: dict[str, Any], **changes: Any
    ) -> None:
        url = args["url"].replace("*", "x/y.jpg")
        jobs.append({"kind": "cookies", "args": {**common(key_name, hash_name), **args}})
        wanted.append(
            lambda values: replace(
                _request(name, url, key_name, hash_name),
                cookie="; ".join(f"{cookie}={value}" for cookie, value in values.items()),
                **changes,
            )
        )

    date = datetime.fromtimestamp(EXPIRES, UTC).isoformat()
    start = datetime.fromtimestamp(EXPIRES - 7200, UTC).isoformat()
    for name, url in {**WIRE_URLS, **UNSENDABLE_URLS}.items():
        url_job(name, "rsa", "SHA1", {"url": url, "dateLessThan": date})
    for key_name, hash_name in PAIRS:
        pair = f"{key_name} {hash_name}"
        url = "https://cdn.test/a b?c=d+e"
        url_job(f"canned, {pair}", key_name, hash_name, {"url": url, "dateLessThan": date})
        limits = {"dateLessThan": date, "dateGreaterThan": start, "ipAddress": "192.0.2.7"}
        url_job(
            f"custom, {pair}", key_name, hash_name, {"url": "https://cdn.test/a?b=1", **limits},
            canned=False, resource="https://cdn.test/a?b=1",
        )  # fmt: skip
        spaced = json.dumps(json.loads(_policy("https://cdn.test/*")), indent=1) + "\n"
        url_job(
            f"custom with white space, {pair}", key_name, hash_name, {"url": "https://cdn.test/a?b", "policy": spaced},
            canned=False, resource="https://cdn.test/*",
        )  # fmt: skip
        cookies_job(
            f"cookies, canned, {pair}", key_name, hash_name,
            {"url": "https://cdn.test/a?b=1&flag", "dateLessThan": date}, own_query="b=1&flag",
        )  # fmt: skip
        cookies_job(
            f"cookies, custom, {pair}", key_name, hash_name, {"url": "https://cdn.test/*", **limits},
            canned=False, resource="https://cdn.test/*",
        )  # fmt: skip
    answers = node_signer(jobs)
    for answer, vector in zip(answers, wanted, strict=True):
        if isinstance(answer, dict) and "error" in answer:
            raise RuntimeError(answer["error"])
        yield vector(answer)


def node_signer(jobs: list[dict[str, Any]]) -> list[Any]:
    """What tests/node/sign.mjs answers."""
    done = subprocess.run(
        ["node", "sign.mjs"],
        cwd=NODE,
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    answers: list[Any] = json.loads(done.stdout)
    return answers


def openssl() -> Iterable[Vector]:
    """OpenSSL and tr alone, as the CloudFront Developer Guide shows it."""
    if shutil.which("openssl") is None or shutil.which("tr") is None:
        raise Absent("openssl is not installed")

    def sign(policy: bytes, key_name: str, hash_name: HashName) -> str:
        recipe = (
            f"openssl {hash_name.lower()} -sign keys/{key_name}.pem | openssl base64 -A | tr -- '+=/' '-_~'"
        )
        return subprocess.run(
            ["sh", "-c", recipe], cwd=HERE, input=policy, capture_output=True, check=True, timeout=60
        ).stdout.decode()

    def encode(policy: bytes) -> str:
        return subprocess.run(
            ["sh", "-c", "openssl base64 -A | tr -- '+=/' '-_~'"],
            input=policy,
            capture_output=True,
            check=True,
            timeout=60,
        ).stdout.decode()

    def tail(key_name: str, hash_name: HashName) -> str:
        return f"&Key-Pair-Id={KEY_IDS[key_name]}" + (
            "" if hash_name == "SHA1" else f"&Hash-Algorithm={hash_name}"
        )

    for key_name, hash_name in PAIRS:
        pair = f"{key_name} {hash_name}"
        policy = _policy("https://cdn.test/a?b=1").encode()
        url = f"https://cdn.test/a?b=1&Expires={EXPIRES}&Signature={sign(policy, key_name, hash_name)}"
        yield _request(f"canned, {pair}", url + tail(key_name, hash_name), key_name, hash_name)
        # A policy as the guide prints it: indented, with Windows line ends, and a newline after the last brace.
        pretty = (
            json.dumps(json.loads(_policy("https://cdn.test/a*")), indent=3).replace("\n", "\r\n").encode()
            + b"\r\n"
        )
        url = f"https://cdn.test/ab?c&Policy={encode(pretty)}&Signature={sign(pretty, key_name, hash_name)}"
        yield replace(
            _request(f"custom as typed, {pair}", url + tail(key_name, hash_name), key_name, hash_name),
            canned=False,
            resource="https://cdn.test/a*",
        )
    # Other orders: signing parameters first, between, percent-encoded.
    policy = _policy("https://cdn.test/a?b=1&c").encode()
    signature = sign(policy, "rsa", "SHA1")
    for name, query in {
        "signing parameters first": "Key-Pair-Id={k}&Signature={s}&Expires={e}&b=1&c",
        "signing parameters between": "Signature={s}&b=1&Key-Pair-Id={k}&c&Expires={e}",
        "Hash-Algorithm=SHA1 said": "b=1&Hash-Algorithm=SHA1&c&Expires={e}&Signature={s}&Key-Pair-Id={k}",
        "a percent-encoded signature": "b=1&c&Expires={e}&Signature={p}&Key-Pair-Id={k}",
    }.items():
        filled = query.format(
            k=KEY_IDS["rsa"], s=signature, e=EXPIRES, p=signature.replace("~", "%7E").replace("-", "%2D")
        )
        yield _request(name, f"https://cdn.test/a?{filled}", "rsa", "SHA1")


SIGNERS: dict[str, Callable[[], Iterable[Vector]]] = {
    "botocore": botocore,
    "awscli": awscli,
    "npm": npm,
    "openssl": openssl,
}


def load(signer: str) -> list[Vector]:
    """The stored vectors of a signer."""
    return [Vector(**vector) for vector in json.loads((HERE / f"{signer}.json").read_text())]


def main() -> None:
    for name, signer in SIGNERS.items():
        try:
            vectors = list(signer())
        except Absent as absent:
            print(f"{name}: kept as it is, {absent}")
            continue
        text = json.dumps([asdict(vector) for vector in vectors], indent=1, ensure_ascii=False)
        (HERE / f"{name}.json").write_text(text + "\n")
        print(f"{name}: {len(vectors)} vectors")


if __name__ == "__main__":
    main()
