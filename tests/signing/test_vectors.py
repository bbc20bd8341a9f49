"""Every vector is verified, then corrupted in each of its fields, both cold and after it has been remembered."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from urllib.parse import unquote

from keyfront.errors import Denial
from keyfront.signing.explain import explain
from keyfront.signing.keys import cf_b64decode, cf_b64encode
from keyfront.signing.verify import KeyRing
from tests.rows import rows
from tests.signing.harness import KEYS, judge, outcome
from tests.vectors.corpus import EXPIRES, KEY_IDS, SIGNERS, Vector, load

VECTORS = {f"{signer}: {vector.name}": vector for signer in SIGNERS for vector in load(signer)}
GRANTED = {name: vector for name, vector in VECTORS.items() if vector.expect == "granted"}


@rows("name", VECTORS)
def test_is_judged_as_it_says(name: str) -> None:
    vector = VECTORS[name]
    ring = KeyRing(KEYS)
    for _again in range(2):
        assert outcome(vector, ring) == vector.expect
        if vector.expect == "granted":
            grant = judge(vector, ring)
            assert grant.own_query == vector.own_query
            assert grant.canned == vector.canned
            assert grant.hash_name == vector.hash
            assert grant.key_pair_id == KEY_IDS[vector.key]
            assert grant.mode == ("cookies" if vector.cookie else "url")
            assert grant.expires == EXPIRES
            assert grant.remembered
            grant.judge(vector.client_ip, vector.now)
            grant.judge_url(vector.scheme, vector.host, vector.target, vector.client_ip, vector.now)


@rows("name", VECTORS)
def test_is_explained_as_it_is_judged(name: str) -> None:
    vector = VECTORS[name]
    report = explain(
        vector.scheme,
        vector.host,
        vector.target,
        cookie_header=vector.cookie,
        keyring=KeyRing(KEYS),
        client_ip=vector.client_ip,
        now=vector.now,
    )
    assert (report.denial or "granted") == vector.expect
    assert report.granted == all(check.passed is not False for check in report.checks)
    assert report.granted == (report.cause == "")


# ------------------------------------------------------------------------------------------------------------
# Corruption. A field is found in the target, or in the cookies by its other name.


def field(vector: Vector, name: str) -> re.Match[str] | None:
    if vector.cookie:
        return re.search(rf"(?:(?<=; )|\A)CloudFront-{name}=([^;]*)", vector.cookie)
    return re.compile(rf"(?<=[?&]){name}=([^&]*)").search(vector.target, vector.target.index("?"))


def with_field(vector: Vector, name: str, change: Callable[[str], str | None]) -> Vector | None:
    """The vector with a field's value changed, or with the field removed if `change` returns None; None if it has no
    such field."""
    found = field(vector, name)
    if found is None:
        return None
    text = vector.cookie or vector.target
    value = change(unquote(found[1]))
    prefix = "CloudFront-" if vector.cookie else ""
    new = f"{prefix}{name}-gone=" if value is None else f"{prefix}{name}={value}"
    text = text[: found.start()] + new + text[found.end() :]
    return replace(vector, cookie=text) if vector.cookie else replace(vector, target=text)


def with_hash(vector: Vector, value: str) -> Vector:
    changed = with_field(vector, "Hash-Algorithm", lambda _: value)
    if changed is not None:
        return changed
    if vector.cookie:
        return replace(vector, cookie=f"{vector.cookie}; CloudFront-Hash-Algorithm={value}")
    return replace(vector, target=f"{vector.target}&Hash-Algorithm={value}")


def flip(text: str, at: int) -> str:
    """One base64 character replaced by another that leaves it canonical base64."""
    return text[:at] + ("B" if text[at] != "B" else "C") + text[at + 1 :]


def policy_edit(text: str) -> str:
    """The policy with its last time one second later, otherwise written as before."""
    policy = cf_b64decode(text).decode()
    numbers = list(re.finditer(r"\d{10}", policy))
    last = numbers[-1]
    return cf_b64encode((policy[: last.start()] + str(int(last[0]) + 1) + policy[last.end() :]).encode())


def spoilt(vector: Vector) -> Iterator[tuple[str, Vector | None, Denial]]:
    mismatch = Denial.SIGNATURE_MISMATCH
    elsewhere = mismatch if vector.canned else Denial.WRONG_RESOURCE
    yield (
        "a character of the signature",
        with_field(vector, "Signature", lambda s: flip(s, len(s) // 2)),
        mismatch,
    )
    yield (
        "the signature's first half",
        with_field(vector, "Signature", lambda s: s[: len(s) // 8 * 4]),
        mismatch,
    )
    yield (
        "the signature's padding",
        with_field(vector, "Signature", lambda s: s + "_"),
        Denial.MALFORMED_SIGNATURE,
    )
    yield (
        "the signature's alphabet",
        with_field(vector, "Signature", lambda s: flip(s, 9)[:9] + "+" + s[10:]),
        (Denial.MALFORMED_SIGNATURE),
    )
    yield "an empty signature", with_field(vector, "Signature", lambda _: ""), Denial.MISSING_SIGNATURE
    yield "no signature", with_field(vector, "Signature", lambda _: None), Denial.MISSING_SIGNATURE
    yield "Expires a second later", with_field(vector, "Expires", lambda s: str(int(s) + 1)), mismatch
    yield "Expires a second earlier", with_field(vector, "Expires", lambda s: str(int(s) - 1)), mismatch
    yield "Expires with a zero before it", with_field(vector, "Expires", lambda s: "0" + s), mismatch
    yield (
        "Expires in milliseconds",
        with_field(vector, "Expires", lambda s: s + "000"),
        Denial.MALFORMED_POLICY,
    )
    yield "Expires with a sign", with_field(vector, "Expires", lambda s: "+" + s), Denial.MALFORMED_POLICY
    yield "an empty Expires", with_field(vector, "Expires", lambda _: ""), Denial.MISSING_POLICY
    yield "no Expires", with_field(vector, "Expires", lambda _: None), Denial.MISSING_POLICY
    yield "the policy's time", with_field(vector, "Policy", policy_edit), mismatch
    yield (
        "a blank in the policy",
        with_field(vector, "Policy", lambda s: cf_b64encode(cf_b64decode(s) + b" ")),
        mismatch,
    )
    yield "the policy cut short", with_field(vector, "Policy", lambda s: s[:-8]), Denial.MALFORMED_POLICY
    yield (
        "the policy's alphabet",
        with_field(vector, "Policy", lambda s: "/" + s[1:]),
        Denial.MALFORMED_POLICY,
    )
    yield "an empty policy", with_field(vector, "Policy", lambda _: ""), Denial.MALFORMED_POLICY
    yield "no policy", with_field(vector, "Policy", lambda _: None), Denial.MISSING_POLICY
    other = KEY_IDS["other"]
    yield "another key's id", with_field(vector, "Key-Pair-Id", lambda _: other), mismatch
    wrong_kind = KEY_IDS["ec" if vector.key == "rsa" else "rsa"]
    yield (
        "the id of a key of the other kind",
        with_field(vector, "Key-Pair-Id", lambda _: wrong_kind),
        mismatch,
    )
    yield "an unknown key's id", with_field(vector, "Key-Pair-Id", lambda s: s + "X"), Denial.UNKNOWN_KEY
    yield "the key's id in lower case", with_field(vector, "Key-Pair-Id", str.lower), Denial.UNKNOWN_KEY
    yield "an empty id", with_field(vector, "Key-Pair-Id", lambda _: ""), Denial.MISSING_KEY_PAIR_ID
    yield "no id", with_field(vector, "Key-Pair-Id", lambda _: None), Denial.MISSING_KEY_PAIR_ID
    yield "the other hash", with_hash(vector, "SHA1" if vector.hash == "SHA256" else "SHA256"), mismatch
    yield "an unknown hash", with_hash(vector, "MD5"), Denial.UNSUPPORTED_HASH
    yield "an empty hash", with_hash(vector, ""), Denial.UNSUPPORTED_HASH
    if vector.hash == "SHA256":
        yield "no hash", with_field(vector, "Hash-Algorithm", lambda _: None), mismatch
    yield "too late", replace(vector, now=EXPIRES), Denial.EXPIRED
    if not re.search(r"[*?]|\A\Z", vector.resource or ("" if not vector.canned else "canned")):
        path, mark, query = vector.target.partition("?")
        yield "the path", replace(vector, target=f"{path}x{mark}{query}"), elsewhere
        yield "a slash before the path", replace(vector, target=f"/{vector.target}"), elsewhere
        yield (
            "a parameter added",
            replace(vector, target=vector.target + ("&" if mark else "?") + "x=1"),
            elsewhere,
        )
        yield (
            "an empty parameter added",
            replace(vector, target=vector.target + ("&&" if mark else "?&")),
            elsewhere,
        )
        if "%" in vector.own_query:
            changed = query.replace(vector.own_query, vector.own_query.replace("%", "%25"))
            yield "the query's spelling", replace(vector, target=f"{path}?{changed}"), elsewhere
        yield "the host", replace(vector, host=f"x{vector.host}"), elsewhere
        yield "the port", replace(vector, host=f"{vector.host.partition(':')[0]}:81"), elsewhere
        scheme = "http" if vector.scheme == "https" else "https"
        yield "the scheme", replace(vector, scheme=scheme), elsewhere
    if vector.cookie:
        yield "the cookies' names", replace(vector, cookie=vector.cookie.lower()), Denial.MISSING_KEY_PAIR_ID
        yield "no cookies", replace(vector, cookie="theme=dark"), Denial.MISSING_KEY_PAIR_ID
        mark = "&" if "?" in vector.target else "?"
        yield (
            "a signed URL before the cookies",
            replace(vector, target=f"{vector.target}{mark}Expires=1"),
            (Denial.MISSING_KEY_PAIR_ID),
        )


@rows("name", GRANTED)
def test_is_refused_when_spoilt(name: str) -> None:
    vector = GRANTED[name]
    warm = KeyRing(KEYS)
    judge(vector, warm)
    count = 0
    for what, changed, denial in spoilt(vector):
        if changed is None:
            continue
        count += 1
        for ring in (KeyRing(KEYS), warm):
            assert outcome(changed, ring) == denial.reason, what
    assert count > 15
    assert outcome(vector, warm) == "granted"


@rows("name", GRANTED)
def test_dies_with_its_key(name: str) -> None:
    vector = GRANTED[name]
    left = {id_: key for id_, key in KEYS.items() if id_ != KEY_IDS[vector.key]}
    assert outcome(vector, KeyRing(left)) == "unknown_key"
