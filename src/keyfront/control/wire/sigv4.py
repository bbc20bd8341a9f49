"""Who signed an API request: AWS Signature Version 4, checked. Pure: no clock, no store.

`verify()` takes the request as it came over the wire and returns the access key id that signed it, or raises
the error that CloudFront answers. The steps are AWS's ("Create a signed AWS API request", IAM User Guide):

1. The credentials are in the Authorization header or, presigned, in the query; never in both.
2. The credential's scope names this service, the request's own day and any region: with an endpoint of its
   own an SDK signs for the region that it is set to (cloudfront-semantics §7.1).
3. The date is at most five minutes from ours (presigned: no older than it says), and `Host` is signed.
4. The signature is what our copy of the secret gives for the canonical request. The body's hash is the one
   that we computed; a request with an unsigned body is therefore refused.

Codes and messages are those that CloudFront was seen to send: also an expired signature is
`SignatureDoesNotMatch`, 403.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import quote_from_bytes, unquote_to_bytes

import msgspec

from keyfront.errors import ApiError

ALGORITHM = "AWS4-HMAC-SHA256"
SERVICE = "cloudfront"
SKEW = 5 * 60
"""How far a request's date may be from ours, in seconds."""
LONGEST_PRESIGNED = 7 * 24 * 3600
"""How long a presigned request may be valid, in seconds."""
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()

_COMPACT = "%Y%m%dT%H%M%SZ"
_SINGLE = ("authorization", "host", "x-amz-date", "x-amz-security-token", "date")
_SIGNATURE = re.compile(r"[0-9a-f]{64}")

Header = tuple[bytes, bytes]


class _Claim(msgspec.Struct, frozen=True):
    """What a request says of its own signature. `expires`: a presigned one's life in seconds."""

    access_key_id: str
    day: str
    region: str
    service: str
    terminator: str
    signed_headers: tuple[str, ...]
    signature: str
    when: datetime
    expires: int | None


def verify(
    method: str,
    path: str,
    query: str,
    headers: Sequence[Header],
    body_sha256: str,
    secret_of: Callable[[str], str | None],
    now: float,
    service: str = SERVICE,
) -> str:
    """The access key id whose secret signed this request.

    `path` and `query` are as sent (latin-1 text, the query without `?`), `headers` pairs of bytes with
    lower-case names, repeats kept. `body_sha256` is the hexadecimal hash of the body as received, `secret_of`
    gives the secret of an access key id or None, `now` is epoch seconds. `service` is what it must be signed for.

    :raises ApiError: MissingAuthenticationToken, IncompleteSignature, InvalidClientTokenId or
        SignatureDoesNotMatch.
    """
    fields: dict[str, list[bytes]] = {}
    for name, value in headers:
        fields.setdefault(name.decode("latin-1"), []).append(value)
    for single in _SINGLE:
        if len(fields.get(single, ())) > 1:
            raise _incomplete(f"The header '{single}' must not be repeated.")
    pairs = [_pair(piece) for piece in query.split("&") if piece]
    claim, pairs = _claim(fields, pairs)
    secret = secret_of(claim.access_key_id)
    token = "x-amz-security-token" in fields or any(key == "X-Amz-Security-Token" for key, _ in pairs)
    if secret is None or token:
        # No temporary credentials are issued, so a session token is never known.
        detail = " Keyfront issues no session tokens: use an access key without one." if token else ""
        raise ApiError(
            "InvalidClientTokenId", f"The security token included in the request is invalid.{detail}", 403
        )
    _check_scope(claim, service)
    _check_time(claim, now)
    if "host" not in claim.signed_headers:
        raise _mismatch("'Host' must be a 'SignedHeader' in the AWS Authorization.")
    expected = _sign(
        secret, claim, _canonical(method, path, pairs, claim.signed_headers, fields, body_sha256)
    )
    if not hmac.compare_digest(expected, claim.signature):
        raise _mismatch(
            "The request signature we calculated does not match the signature you provided. Check your AWS "
            "Secret Access Key and signing method. Consult the service documentation for details."
        )
    return claim.access_key_id


def claimed_key(headers: Iterable[Header], query: str) -> str:
    """The access key id that a request names, whether or not anything else of its signature makes sense; empty if it
    names none. For records of refusals: nothing is proved by it."""
    for name, value in headers:
        if name == b"authorization" and (found := _CREDENTIAL.search(value.decode("latin-1"))):
            return found[1]
    for key, text in (_pair(piece) for piece in query.split("&")[:64]):
        if key == "X-Amz-Credential":
            return text.partition("/")[0][:256]
    return ""


# ---- the claim


def _claim(
    fields: dict[str, list[bytes]], pairs: list[tuple[str, str]]
) -> tuple[_Claim, list[tuple[str, str]]]:
    """The claim, and the query parameters that are signed."""
    presigned = [(key, value) for key, value in pairs if key.startswith("X-Amz-")]
    if "authorization" in fields:
        if any(key in {"X-Amz-Algorithm", "X-Amz-Signature", "X-Amz-Credential"} for key, _ in presigned):
            raise _incomplete("A request must carry either an Authorization header or a presigned query.")
        return _claim_of_header(fields), pairs
    if not any(key in {"X-Amz-Algorithm", "X-Amz-Signature", "X-Amz-Credential"} for key, _ in presigned):
        raise ApiError("MissingAuthenticationToken", "Request is missing Authentication Token", 403)
    if len({key for key, _ in presigned}) != len(presigned):
        raise _incomplete("A query parameter of the signature must not be repeated.")
    return _claim_of_query(dict(presigned)), [pair for pair in pairs if pair[0] != "X-Amz-Signature"]


_CREDENTIAL = re.compile(r"Credential=([^/,\s]{1,256})")


def _claim_of_header(fields: dict[str, list[bytes]]) -> _Claim:
    algorithm, _, rest = fields["authorization"][0].decode("latin-1").strip().partition(" ")
    if algorithm != ALGORITHM:
        raise _incomplete(f"The Authorization header must begin with '{ALGORITHM}'.")
    parts: dict[str, str] = {}
    for piece in rest.split(","):
        name, equals, value = piece.strip().partition("=")
        if not equals or name in parts or name not in {"Credential", "SignedHeaders", "Signature"}:
            raise _incomplete(
                "The Authorization header could not be parsed: it holds an unknown or repeated part."
            )
        parts[name] = value
    missing = [name for name in ("Credential", "Signature", "SignedHeaders") if name not in parts]
    date = fields.get("x-amz-date") or fields.get("date")
    texts = [f"Authorization header requires '{name}' parameter." for name in missing]
    if not date:
        texts.append("Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.")
    if texts or not date:
        raise _incomplete(" ".join(texts))
    return _made(parts, date[0].decode("latin-1").strip(), None)


def _claim_of_query(parts: dict[str, str]) -> _Claim:
    if parts.get("X-Amz-Algorithm") != ALGORITHM:
        raise _incomplete(f"The query parameter 'X-Amz-Algorithm' must be '{ALGORITHM}'.")
    names = {"Credential", "SignedHeaders", "Signature", "Date", "Expires"}
    missing = sorted(name for name in names if f"X-Amz-{name}" not in parts)
    if missing:
        raise _incomplete(
            " ".join(f"AWS query-string parameters must include 'X-Amz-{name}'." for name in missing)
        )
    expires = parts["X-Amz-Expires"]
    if not re.fullmatch(r"[0-9]{1,7}", expires) or not 0 < int(expires) <= LONGEST_PRESIGNED:
        raise _incomplete(f"X-Amz-Expires must be a number of seconds from 1 to {LONGEST_PRESIGNED}.")
    return _made({name: parts[f"X-Amz-{name}"] for name in names}, parts["X-Amz-Date"], int(expires))


def _made(parts: dict[str, str], date: str, expires: int | None) -> _Claim:
    scope = parts["Credential"].split("/")
    if len(scope) != 5 or not all(scope):
        raise _incomplete(
            "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term."
        )
    signed = tuple(parts["SignedHeaders"].split(";"))
    if list(signed) != sorted(set(signed)) or any(name != name.lower() or not name for name in signed):
        raise _incomplete("SignedHeaders must be lower-case names in order, each once.")
    if not _SIGNATURE.fullmatch(parts["Signature"]):
        raise _incomplete("Signature must be 64 lower-case hexadecimal digits.")
    return _Claim(
        scope[0], scope[1], scope[2], scope[3], scope[4], signed, parts["Signature"], _date(date), expires
    )


def _date(text: str) -> datetime:
    """An X-Amz-Date in the basic ISO 8601 form, or an RFC 9110 Date."""
    try:
        if re.fullmatch(r"[0-9]{8}T[0-9]{6}Z", text):
            return datetime.strptime(text, _COMPACT).replace(tzinfo=UTC)
        when = parsedate_to_datetime(text)
        return when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise _incomplete(
            "Date must be in ISO-8601 'basic format', e.g. 20260131T235959Z, or an HTTP date."
        ) from None


def _check_scope(claim: _Claim, service: str) -> None:
    if claim.terminator != "aws4_request":
        raise _mismatch("Credential should be scoped with a valid terminator: 'aws4_request'.")
    if claim.service != service:
        raise _mismatch(f"Credential should be scoped to correct service: '{service}'.")
    day = claim.when.strftime("%Y%m%d")
    if claim.day != day:
        raise _mismatch(
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
            f"'{claim.day[:16]}' != '{day}', from '{claim.when.strftime(_COMPACT)}'."
        )


def _check_time(claim: _Claim, now: float) -> None:
    then, life = claim.when.timestamp(), SKEW if claim.expires is None else claim.expires
    if then < now - life:
        span = f"{SKEW // 60} min." if claim.expires is None else f"{claim.expires} s"
        earliest = _text(now - life)
        raise _mismatch(
            f"Signature expired: {_text(then)} is now earlier than {earliest} ({_text(now)} - {span})"
        )
    if then > now + SKEW:
        raise _mismatch(
            f"Signature not yet current: {_text(then)} is still later than {_text(now + SKEW)} "
            f"({_text(now)} + {SKEW // 60} min.)"
        )


def _text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime(_COMPACT)


# ---- the signature


def _canonical(
    method: str,
    path: str,
    pairs: list[tuple[str, str]],
    signed_headers: tuple[str, ...],
    fields: dict[str, list[bytes]],
    body_sha256: str,
) -> bytes:
    missing = [name for name in signed_headers if name not in fields]
    if missing:
        raise _mismatch(f"The signed header '{missing[0][:64]}' is not in the request.")
    return b"\n".join(
        [
            method.encode("latin-1"),
            _canonical_path(path).encode(),
            "&".join(
                f"{key}={value}" for key, value in sorted((_quoted(k), _quoted(v)) for k, v in pairs)
            ).encode(),
            *(
                name.encode("latin-1") + b":" + b",".join(b" ".join(value.split()) for value in fields[name])
                for name in signed_headers
            ),
            b"",
            ";".join(signed_headers).encode("latin-1"),
            body_sha256.encode(),
        ]
    )


def _canonical_path(path: str) -> str:
    """The path as sent, without dot segments and double slashes, percent-encoded once more (unlike S3's)."""
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment not in {"", "."}:
            kept.append(segment)
    end = "/" if kept and path.endswith("/") else ""
    return "/" + quote_from_bytes("/".join(kept).encode("latin-1"), safe="/~") + end


def _pair(piece: str) -> tuple[str, str]:
    key, _, value = piece.partition("=")
    return _unquoted(key), _unquoted(value)


def _unquoted(text: str) -> str:
    return unquote_to_bytes(text.encode("latin-1")).decode("latin-1")


def _quoted(text: str) -> str:
    return quote_from_bytes(text.encode("latin-1"), safe="-_.~")


def _sign(secret: str, claim: _Claim, canonical: bytes) -> str:
    key = b"AWS4" + secret.encode()
    for part in (claim.day, claim.region, claim.service, claim.terminator):
        key = hmac.digest(key, part.encode("latin-1"), "sha256")
    scope = f"{claim.day}/{claim.region}/{claim.service}/{claim.terminator}"
    text = "\n".join([ALGORITHM, claim.when.strftime(_COMPACT), scope, hashlib.sha256(canonical).hexdigest()])
    return hmac.digest(key, text.encode("latin-1"), "sha256").hex()


def _incomplete(message: str) -> ApiError:
    return ApiError("IncompleteSignature", message, 400)


def _mismatch(message: str) -> ApiError:
    return ApiError("SignatureDoesNotMatch", message, 403)
