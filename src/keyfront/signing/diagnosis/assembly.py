"""URLs and cookies that were assembled wrongly: the signature may be valid, but it does not arrive as one.

Each function examines the text of a request and names what is wrong with it. Nothing is verified here; every mistake
named is visible in the text.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator

from keyfront.signing.diagnosis.mistakes import Mistake
from keyfront.signing.raw_url import SIGNING_PARAMETERS

_NAMES = "Expires|Policy|Signature|Key-Pair-Id"
_GLUED = re.compile(rf"[&;,](?:amp;)?(?:{_NAMES})=")
_IN_PATH = re.compile(rf"/(?:{_NAMES})=")
_ENCODED_MARK = re.compile(rf"%3[fF](?:.*%26)?(?:{_NAMES})(?:=|%3[dD])|%253[fF](?:{_NAMES})", re.DOTALL)
_ENCODED = re.compile(rf"(?:^|%26|%3[fF]|&)(?:{_NAMES})%3[dD]|%26(?:amp(?:;|%3[bB]))*(?:{_NAMES})=")
_JSON = re.compile(rf"(?:\\|%5[cC])u0026(?:{_NAMES})(?:=|%3[dD]|(?:\\|%5[cC])u003[dD])", re.IGNORECASE)
_SECOND = re.compile(rf"\?(?:{_NAMES})=")
_NESTED = re.compile(rf"=https?(?::|%3[aA])[^&]*(?:\?|%3[fF]|%26)(?:{_NAMES})(?:=|%3[dD])", re.IGNORECASE)
_HTML = re.compile(rf"(?:^|&|\?)(?:amp;|#38;|#x26;)+(?:{_NAMES})=")
_SEMICOLON = re.compile(rf"[;,](?:{_NAMES})=")
_UPPER = re.compile(rf"(?:{_NAMES})\s*[:=]")


def misplaced(path: str, query: str, fragment: str) -> Mistake | None:
    """Return why signing parameters that are visible in the URL do not count as parameters."""
    if _UPPER.search(fragment):
        return Mistake(
            "parameters_in_fragment",
            "The signing parameters stand after a #, and that part of a URL is sent to no server: put them before it.",
        )
    if _ENCODED_MARK.search(path):
        return Mistake(
            "question_mark_encoded",
            "The ? before the signing parameters was percent-encoded (%3F), so they are part of the path: encode the "
            "URL first, then sign it, and leave the result as it is.",
        )
    if _IN_PATH.search(path):
        return Mistake(
            "parameters_in_path",
            "The signing parameters are part of the path: they belong into the query, after a ?.",
        )
    if _GLUED.search(path):
        return Mistake(
            "no_question_mark",
            "The signing parameters are part of the path, for the URL has no ? before them: the first parameter "
            "follows a ?, the others a &.",
        )
    if _HTML.search(query):
        return Mistake(
            "html_escaped",
            "The URL holds &amp; where it should hold &: it was escaped for HTML, and copied or sent without being "
            "read as HTML.",
        )
    if _NESTED.search(f"&{query}"):
        return Mistake(
            "nested_url",
            "The signed URL is the value of a parameter of another URL: what was signed is not what is requested.",
        )
    if _SECOND.search(query):
        return Mistake(
            "second_question_mark",
            "The signing parameters begin with a second ?: the URL has a query already, so they are joined by &.",
        )
    if _ENCODED.search(query):
        return Mistake(
            "separators_encoded",
            "The = and & between the signing parameters were percent-encoded (%3D, %26): send the signed URL as it is.",
        )
    if _JSON.search(query):
        return Mistake(
            "separators_encoded",
            "The URL was copied out of JSON as it is written there: \\u0026 stands for &, and \\u003d for =.",
        )
    if _SEMICOLON.search(query):
        return Mistake("separator", "The signing parameters are joined by & only, not by ; or a comma.")
    return None


def signed_elsewhere(query: str) -> Mistake | None:
    """Return the service for which a URL was signed, if its parameters are those of another service."""
    if re.search("(?:^|&)(?:X-Amz-Signature|AWSAccessKeyId)=", query):
        return Mistake("signed_for_s3", "This URL is signed for S3, not for CloudFront.")
    if re.search("(?:^|&)(?:X-Goog-Signature|GoogleAccessId)=", query):
        return Mistake("signed_for_s3", "This URL is signed for Google Cloud Storage, not for CloudFront.")
    return None


# ------------------------------------------------------------------------------------------------------------
# Names


def _bare(name: str) -> str:
    return re.sub("[^a-z]", "", name.lower())


_RIGHT = {_bare(name): name for name in SIGNING_PARAMETERS}
# Other names for the same parameters, as people remember them.
_ALIASES = {
    "expire": "Expires", "expiration": "Expires", "expiry": "Expires", "expiresat": "Expires", "exp": "Expires",
    "expirestime": "Expires", "sig": "Signature", "sign": "Signature", "signed": "Signature",
    "keyid": "Key-Pair-Id", "keypair": "Key-Pair-Id", "kid": "Key-Pair-Id", "keypairsid": "Key-Pair-Id",
    "publickeyid": "Key-Pair-Id", "accesskeyid": "Key-Pair-Id", "awsaccesskeyid": "Key-Pair-Id",
    "policies": "Policy", "hash": "Hash-Algorithm", "hashalg": "Hash-Algorithm", "algorithm": "Hash-Algorithm",
}  # fmt: skip


def near(name: str) -> tuple[str, int] | None:
    """Return the signing parameter that `name` may stand for, and the distance between them: 0 for a difference only in
    case, dashes and the like, otherwise the number of letters that differ."""
    bare = _bare(name.removeprefix("amp;").removeprefix("CloudFront-"))
    if name in SIGNING_PARAMETERS or not 3 <= len(bare) <= 20:
        return None
    if bare in _RIGHT:
        return _RIGHT[bare], 0
    if bare in _ALIASES:
        return _ALIASES[bare], 1
    for right, parameter in _RIGHT.items():
        most = 1 if len(right) < 8 else 2
        if abs(len(right) - len(bare)) <= most and (far := _distance(bare, right)) <= most:
            return parameter, far
    return None


def _distance(one: str, other: str) -> int:
    """Return the edit distance; a swap of two letters counts as one edit."""
    rows = [list(range(len(other) + 1))]
    for at, char in enumerate(one, 1):
        row = [at]
        for to, against in enumerate(other, 1):
            least = min(rows[-1][to] + 1, row[-1] + 1, rows[-1][to - 1] + (char != against))
            if at > 1 and to > 1 and char == other[to - 2] and one[at - 2] == against:
                least = min(least, rows[-2][to - 2] + 1)
            row.append(least)
        rows.append(row)
    return rows[-1][-1]


def misspelt(names: Iterable[str], missing: Iterable[str], *, sure: bool) -> Mistake | None:
    """Return the first of `names` that was meant for one of `missing`. `sure` means that something else already shows
    that the URL is signed; without it, a name that is off by letters counts only if there are two such names."""
    wanted = set(missing)
    found = [
        (name, *hit)
        for name in itertools.islice(names, 200)
        if (hit := near(name)) is not None and hit[0] in wanted
    ]
    if not sure and len({right for _, right, _ in found}) < 2:
        found = [one for one in found if one[2] == 0]
    if not found:
        return None
    name, right, _ = found[0]
    others = {one for _, one, _ in found} - {right}
    words = f"The URL has a parameter {name}: its name must be {right}, letter by letter."
    if others:
        words += f" The same goes for {', '.join(sorted(others))}."
    return Mistake("parameter_name", words)


def misspelt_cookie(header: str) -> Mistake | None:
    """Return the first cookie whose name was meant for one of CloudFront's."""
    if re.search(rf"CloudFront-[^;]*,\s*CloudFront-(?:{_NAMES})=", header):
        return Mistake(
            "separator", "The cookies are joined by a comma; in a Cookie header they are joined by ; only."
        )
    for piece in itertools.islice(header.split(";"), 200):
        name = piece.partition("=")[0].strip()
        bare = _bare(name)
        if name.removeprefix("CloudFront-") in SIGNING_PARAMETERS and name.startswith("CloudFront-"):
            continue
        if bare.startswith("cloudfront") and (hit := near(bare.removeprefix("cloudfront"))) is not None:
            return Mistake(
                "cookie_name",
                f"There is a cookie {name}: its name must be CloudFront-{hit[0]}, for upper and lower case of their "
                "names count.",
            )
        if name in SIGNING_PARAMETERS and name != "Policy":
            return Mistake(
                "cookie_name", f"There is a cookie {name}: as a cookie its name must be CloudFront-{name}."
            )
    return None


# ------------------------------------------------------------------------------------------------------------
# Repeated names


def cookie_choices(header: str, most: int = 24) -> Iterator[str]:
    """Yield Cookie headers that select other values of repeated signing cookies. The one that counts, with the first
    value of each, is left out."""
    values: dict[str, list[str]] = {}
    for piece in header.split(";"):
        name, _, value = piece.partition("=")
        if (name := name.strip()).removeprefix("CloudFront-") in SIGNING_PARAMETERS and name.startswith(
            "CloudFront-"
        ):
            held = values.setdefault(name, [])
            if value not in held and len(held) < 4:
                held.append(value)
    if all(len(held) == 1 for held in values.values()):
        return
    longest = max(map(len, values.values()), default=0)
    for at in range(1, longest):  # sets that were made together come first
        yield "; ".join(f"{name}={held[min(at, len(held) - 1)].strip()}" for name, held in values.items())
    for chosen in itertools.islice(itertools.product(*values.values()), most):
        yield "; ".join(f"{name}={value.strip()}" for name, value in zip(values, chosen, strict=True))
