"""The signer for requests to S3: the client side of AWS Signature Version 4. Pure: no clock, no socket.

The request that is signed must be the request that the server reads. The server decodes path and query and re-encodes
them before it computes the signature, so two encodings of one key have the same signature. But servers disagree about
which key an encoding means (for some, `+` in a path is a literal plus; for others, a space). A signed request is
therefore sent in canonical form, which leaves nothing ambiguous: `canonical_path` and `canonical_query` are both what
is signed and what is sent.

Source: "Create a signed AWS API request" (IAM User Guide), with the rules specific to S3: the path is encoded once and
not normalized, and `x-amz-content-sha256` is a header.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

from keyfront.edge.types.messages import Header, Headers
from keyfront.signing.sigv4 import (
    ALGORITHM,
    EMPTY_SHA256,
    TERMINATOR,
    TIME_FORMAT,
    canonical_request,
    encoded,
    header_value,
    signature,
    signing_key,
)

SERVICE: Final = "s3"
UNSIGNED: Final = "UNSIGNED-PAYLOAD"

MADE: Final = frozenset({b"authorization", b"x-amz-content-sha256", b"x-amz-date", b"x-amz-security-token"})
"""Fields that only the signer sets; existing ones are removed."""

_HASH: Final = re.compile(rb"[0-9a-f]{64}")


class Credentials:
    """An access key, with a session token if it is temporary. Its secrets do not appear in its repr."""

    __slots__ = ("_key", "_key_for", "_secret", "access_key_id", "session_token")

    def __init__(self, access_key_id: str, secret_access_key: str, session_token: str = "") -> None:
        self.access_key_id = access_key_id
        self.session_token = session_token
        self._secret = secret_access_key
        self._key_for = ("", "")
        self._key = b""

    def signing_key(self, day: str, region: str) -> bytes:
        """The signing key for a day (YYYYMMDD), a region and S3. The last one is cached."""
        if self._key_for != (day, region):
            key = signing_key(self._secret, day.encode(), region.encode(), SERVICE.encode())
            self._key_for, self._key = (day, region), key
        return self._key


def canonical_path(path: str) -> str:
    """A path in the canonical form that is signed and sent: everything except `A-Za-z0-9-_.~/` as %XX, once."""
    return quote_from_bytes(unquote_to_bytes(path.encode("latin-1")), safe="/-_.~")


def canonical_query(query: str) -> str:
    """A query in canonical form, without `?`: each parameter with `=`, sorted by encoded name and value. A `+` means a
    space, as S3 servers read it."""
    return "&".join(
        sorted(
            f"{_encoded(name)}={_encoded(value)}"
            for name, _, value in (piece.partition("=") for piece in query.split("&") if piece)
        )
    )


def _encoded(text: str) -> str:
    return encoded(unquote_to_bytes(text.replace("+", " ").encode("latin-1")))


def payload_hash(headers: Headers, *, has_body: bool) -> str:
    """The payload hash to declare. The body has not been read yet; if the viewer sent its hash, S3 verifies it."""
    if not has_body:
        return EMPTY_SHA256
    for name, value in headers:
        if name == b"x-amz-content-sha256" and _HASH.fullmatch(value):
            return value.decode()
    return UNSIGNED


class UnsignedRequest(NamedTuple):
    """A request to sign. `path` and `query` are already canonical, Host is among the `headers`, and `payload` is the
    body's hash or UNSIGNED."""

    method: str
    path: str
    query: str
    headers: Headers
    payload: str


def signed(request: UnsignedRequest, credentials: Credentials, region: str, now: float) -> Headers:
    """The request's headers, including those that sign it.

    Host, Range, and every `x-amz-` field are signed: S3 rejects an unsigned `x-amz-` field. Intermediaries may change
    the others.

    :param now: epoch seconds.
    """
    when = datetime.fromtimestamp(now, UTC).strftime(TIME_FORMAT)
    ours: list[Header] = [
        (b"x-amz-content-sha256", request.payload.encode()),
        (b"x-amz-date", when.encode()),
    ]
    if credentials.session_token:
        ours.append((b"x-amz-security-token", credentials.session_token.encode()))
    found = [header for header in request.headers if header[0] not in MADE] + ours
    fields: dict[bytes, list[bytes]] = {}
    for name, value in found:
        if name in (b"host", b"range") or name.startswith(b"x-amz-"):
            fields.setdefault(name, []).append(value)
    names = sorted(fields)
    signed_headers = b";".join(names).decode("latin-1")
    canonical = canonical_request(
        request.method,
        request.path,
        request.query,
        [(name, header_value(fields[name])) for name in names],
        request.payload,
    )
    scope = f"{when[:8]}/{region}/{SERVICE}/{TERMINATOR}"
    signed_with = signature(credentials.signing_key(when[:8], region), when, scope.encode(), canonical)
    authorization = (
        f"{ALGORITHM} Credential={credentials.access_key_id}/{scope}, SignedHeaders={signed_headers}, "
        f"Signature={signed_with}"
    )
    return [*found, (b"authorization", authorization.encode("latin-1"))]
