"""The code that signing and verifying AWS Signature Version 4 share. Pure: no clock, no socket.

A signature is the HMAC of a string to sign under a key that is derived from the secret, the day, the region, and the
service. The string holds the hash of the canonical request:

    canonical request = method \\n path \\n query \\n headers \\n\\n signed header names \\n payload hash
    string to sign    = algorithm \\n time \\n scope \\n hash of the canonical request

How a path and a query become canonical depends on the service (S3 encodes a path once, other services twice), so that
is up to the callers: `edge/origin/sigv4.py` signs requests to S3, `control/wire/sigv4.py` verifies calls of the API.

Source: "Create a signed AWS API request" (IAM User Guide).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote_from_bytes

ALGORITHM: Final = "AWS4-HMAC-SHA256"
TERMINATOR: Final = "aws4_request"
"""The last part of every scope."""
EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()
"""The payload hash of a request without a body."""
TIME_FORMAT: Final = "%Y%m%dT%H%M%SZ"
"""ISO 8601's basic format, for `strftime`."""


def signing_key(secret: str, day: bytes, region: bytes, service: bytes) -> bytes:
    """Return the key that signs requests of one day (YYYYMMDD) to one service in one region."""
    key = b"AWS4" + secret.encode()
    for part in (day, region, service, TERMINATOR.encode()):
        key = hmac.digest(key, part, "sha256")
    return key


def encoded(data: bytes) -> str:
    """Percent-encode a name or a value of a query: all bytes but `A-Za-z0-9-_.~`."""
    return quote_from_bytes(data, safe="-_.~")


def header_value(values: Iterable[bytes]) -> bytes:
    """Return the canonical value of a header field: its lines joined by commas, with runs of spaces collapsed to
    one."""
    return b",".join(b" ".join(value.split()) for value in values)


def canonical_request(
    method: str, path: str, query: str, fields: Iterable[tuple[bytes, bytes]], payload_hash: str
) -> bytes:
    """The canonical request.

    :param path: canonical, as the service wants it; `query` likewise, without `?`.
    :param fields: the signed headers in order of name: the name in lower case, and the canonical value.
    :param payload_hash: SHA-256 of the body in hexadecimal, or `UNSIGNED-PAYLOAD`.
    """
    fields = list(fields)
    return b"\n".join(
        [
            method.encode("latin-1"),
            path.encode(),
            query.encode(),
            *(name + b":" + value for name, value in fields),
            b"",
            b";".join(name for name, _ in fields),
            payload_hash.encode(),
        ]
    )


def signature(key: bytes, time: str, scope: bytes, canonical: bytes) -> str:
    """The signature of a canonical request, in hexadecimal.

    :param key: see `signing_key`.
    :param time: the request's time in TIME_FORMAT.
    :param scope: `day/region/service/aws4_request`.
    """
    text = b"\n".join(
        [ALGORITHM.encode(), time.encode(), scope, hashlib.sha256(canonical).hexdigest().encode()]
    )
    return hmac.digest(key, text, "sha256").hex()
