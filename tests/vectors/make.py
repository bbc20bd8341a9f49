"""Regenerates the signing vectors with the installed signers: `python -m tests.vectors.make`.

The tests use the same functions to create and verify fresh signatures, so each signer is one function from cases to
vectors, which raises Absent if its program is not installed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from botocore.signers import CloudFrontSigner

from keyfront.signing.keys import HashName
from tests.vectors.corpus import (
    ADDRESSES,
    BOUNDARIES,
    EXPIRES,
    HERE,
    KEY_IDS,
    NODE,
    NOW,
    PAIRS,
    UNSENDABLE_URLS,
    WILDCARDS,
    WIRE_URLS,
    Vector,
    key,
)


class Absent(Exception):
    """Raised when a signer's program is not installed."""


def _request(name: str, url: str, key_name: str, hash_name: HashName, own: str | None = None) -> Vector:
    """The vector of a canned, signed URL as requested by a client that changes nothing."""
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
    """botocore's CloudFrontSigner: signs URLs unchanged; only its callback knows the key and hash."""
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
    """`aws cloudfront sign`, version 1: RSA-SHA1 and PKCS#1 only. Takes most of a second per URL."""
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
    """npm @aws-sdk/cloudfront-signer: rewrites the URL before it signs it, supports all four algorithm pairs."""
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
    """The output of tests/node/sign.mjs."""
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
    """OpenSSL and tr alone, as shown in the CloudFront Developer Guide."""
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
        # A policy as the guide prints it: indented, with Windows line endings, and a newline after the last brace.
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
    # Other orders: signing parameters first, in between, percent-encoded.
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
