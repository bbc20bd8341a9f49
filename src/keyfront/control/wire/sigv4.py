"""Verification of AWS Signature Version 4 in API requests. Pure: no clock, no store.

`verify()` takes the request as received and returns the access key id that signed it, or raises the error that
CloudFront returns. The steps are AWS's ("Create a signed AWS API request", IAM User Guide):

1. The credentials are in the Authorization header or, for a presigned request, in the query; never in both.
2. The credential scope names this service, the day of the request, and any region: an SDK with a custom endpoint signs
   for the region that it is configured for (cloudfront-semantics §7.1).
3. The date differs from the clock by at most five minutes (presigned: the request has not expired), and `Host` is
   signed.
4. The signature is the one that the stored secret gives for the canonical request. The body's hash is computed here,
   so a request with an unsigned body is refused.

Codes and messages are those that CloudFront was observed to send: an expired signature is `SignatureDoesNotMatch`, 403,
too.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import quote_from_bytes, unquote_to_bytes

import msgspec

from keyfront.errors import ApiError
from keyfront.signing import sigv4
from keyfront.signing.sigv4 import ALGORITHM, TIME_FORMAT

SERVICE = "cloudfront"
SKEW = 5 * 60
"""Seconds by which a request's date may differ from the clock."""
LONGEST_PRESIGNED = 7 * 24 * 3600
"""Seconds for which a presigned request may be valid."""

_SINGLE = ("authorization", "host", "x-amz-date", "x-amz-security-token", "date")
_SIGNATURE = re.compile(r"[0-9a-f]{64}")

Header = tuple[bytes, bytes]


class SignedRequest(msgspec.Struct, frozen=True):
    """A request as received.

    :param path: as sent, latin-1 text.
    :param query: as sent, latin-1 text without `?`.
    :param headers: names in lower case, repetitions kept.
    :param body_sha256: the SHA-256 of the body as received, in hexadecimal.
    """

    method: str
    path: str
    query: str
    headers: Sequence[Header]
    body_sha256: str


class _Claim(msgspec.Struct, frozen=True):
    """The parts of a request's signature. `expires` is the lifetime of a presigned request in seconds."""

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
    request: SignedRequest, secret_of: Callable[[str], str | None], now: float, service: str = SERVICE
) -> str:
    """The id of the access key that signed the request.

    :param secret_of: the secret of an access key id; None for an unknown one.
    :param now: epoch seconds.
    :param service: the service that the request must be signed for.

    :raises ApiError: MissingAuthenticationToken, IncompleteSignature, InvalidClientTokenId or
        SignatureDoesNotMatch.
    """
    fields: dict[str, list[bytes]] = {}
    for name, value in request.headers:
        fields.setdefault(name.decode("latin-1"), []).append(value)
    for single in _SINGLE:
        if len(fields.get(single, ())) > 1:
            raise _incomplete(f"The header '{single}' must not be repeated.")
    pairs = [_pair(piece) for piece in request.query.split("&") if piece]
    claim, pairs = _claim(fields, pairs)
    secret = secret_of(claim.access_key_id)
    token = "x-amz-security-token" in fields or any(key == "X-Amz-Security-Token" for key, _ in pairs)
    if secret is None or token:
        # Keyfront issues no temporary credentials, so it accepts no session token.
        detail = " Keyfront issues no session tokens: use an access key without one." if token else ""
        raise ApiError(
            "InvalidClientTokenId", f"The security token included in the request is invalid.{detail}", 403
        )
    _check_scope(claim, service)
    _check_time(claim, now)
    if "host" not in claim.signed_headers:
        raise _mismatch("'Host' must be a 'SignedHeader' in the AWS Authorization.")
    expected = _signature(secret, claim, _canonical(request, pairs, claim.signed_headers, fields))
    if not hmac.compare_digest(expected, claim.signature):
        raise _mismatch(
            "The request signature we calculated does not match the signature you provided. Check your AWS "
            "Secret Access Key and signing method. Consult the service documentation for details."
        )
    return claim.access_key_id


def claimed_key(headers: Iterable[Header], query: str) -> str:
    """The access key id that a request names, even if the rest of its signature is invalid; empty if it names none. It
    proves nothing and is meant for records of refused calls."""
    for name, value in headers:
        if name == b"authorization" and (found := _CREDENTIAL.search(value.decode("latin-1"))):
            return found[1]
    for key, text in (_pair(piece) for piece in query.split("&")[:64]):
        if key == "X-Amz-Credential":
            return text.partition("/")[0][:256]
    return ""


def claimed_service(headers: Iterable[Header], query: str) -> str:
    """The service that a request's signature claims to be for, which tells which API it addresses; empty if it names
    none."""
    for name, value in headers:
        if name == b"authorization" and (found := _SCOPE.search(value.decode("latin-1"))):
            return found[1]
    for key, text in (_pair(piece) for piece in query.split("&")[:64]):
        if key == "X-Amz-Credential" and text.count("/") == 4:
            return text.split("/")[3][:64]
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


_SCOPE = re.compile(r"Credential=[^/,\s]{1,256}/[0-9]{8}/[^/,\s]{1,64}/([^/,\s]{1,64})/")
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
    return _parsed(parts, date[0].decode("latin-1").strip(), None)


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
    return _parsed({name: parts[f"X-Amz-{name}"] for name in names}, parts["X-Amz-Date"], int(expires))


def _parsed(parts: dict[str, str], date: str, expires: int | None) -> _Claim:
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
            return datetime.strptime(text, TIME_FORMAT).replace(tzinfo=UTC)
        when = parsedate_to_datetime(text)
        return when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise _incomplete(
            "Date must be in ISO-8601 'basic format', e.g. 20260131T235959Z, or an HTTP date."
        ) from None


def _check_scope(claim: _Claim, service: str) -> None:
    if claim.terminator != sigv4.TERMINATOR:
        raise _mismatch("Credential should be scoped with a valid terminator: 'aws4_request'.")
    if claim.service != service:
        raise _mismatch(f"Credential should be scoped to correct service: '{service}'.")
    day = claim.when.strftime("%Y%m%d")
    if claim.day != day:
        raise _mismatch(
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
            f"'{claim.day[:16]}' != '{day}', from '{claim.when.strftime(TIME_FORMAT)}'."
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
    return datetime.fromtimestamp(seconds, UTC).strftime(TIME_FORMAT)


# ---- the signature


def _canonical(
    request: SignedRequest,
    pairs: list[tuple[str, str]],
    signed_headers: tuple[str, ...],
    fields: dict[str, list[bytes]],
) -> bytes:
    missing = [name for name in signed_headers if name not in fields]
    if missing:
        raise _mismatch(f"The signed header '{missing[0][:64]}' is not in the request.")
    return sigv4.canonical_request(
        request.method,
        _canonical_path(request.path),
        "&".join(f"{key}={value}" for key, value in sorted((_quoted(k), _quoted(v)) for k, v in pairs)),
        [(name.encode("latin-1"), sigv4.header_value(fields[name])) for name in signed_headers],
        request.body_sha256,
    )


def _canonical_path(path: str) -> str:
    """The path as sent, without dot segments and double slashes, percent-encoded once more (unlike for S3)."""
    segments: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            del segments[-1:]
        elif segment not in {"", "."}:
            segments.append(segment)
    end = "/" if segments and path.endswith("/") else ""
    return "/" + quote_from_bytes("/".join(segments).encode("latin-1"), safe="/~") + end


def _pair(piece: str) -> tuple[str, str]:
    key, _, value = piece.partition("=")
    return _unquoted(key), _unquoted(value)


def _unquoted(text: str) -> str:
    return unquote_to_bytes(text.encode("latin-1")).decode("latin-1")


def _quoted(text: str) -> str:
    return sigv4.encoded(text.encode("latin-1"))


def _signature(secret: str, claim: _Claim, canonical: bytes) -> str:
    day, region, service = (part.encode("latin-1") for part in (claim.day, claim.region, claim.service))
    scope = b"/".join((day, region, service, claim.terminator.encode("latin-1")))
    key = sigv4.signing_key(secret, day, region, service)  # the terminator is checked: `_check_scope`
    return sigv4.signature(key, claim.when.strftime(TIME_FORMAT), scope, canonical)


def _incomplete(message: str) -> ApiError:
    return ApiError("IncompleteSignature", message, 400)


def _mismatch(message: str) -> ApiError:
    return ApiError("SignatureDoesNotMatch", message, 403)
