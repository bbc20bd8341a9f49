"""Access to origins that require signed requests: where such a request is sent, and with which signature.

Two things are decided here, both from the distribution config and the operator's file (`origin/credentials`):

1. Where a bucket is. The DomainName of an S3 origin is a bucket's REST endpoint at AWS. If the operator sets an
`endpoint_url` for it, the same bucket is requested there, and the config stays as it was written for AWS.
2. The signature. If the config requires one, the request is sent signed (`sigv4`) or not at all: without credentials it
fails here, as if the origin could not be reached.

A request that is signed, or that addresses a bucket by its path, must identify exactly one key. A path with a `.` or
`..` segment in any encoding is rejected, since it could lead into another bucket on the same server, and so is a path
that is not UTF-8.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

import msgspec

from keyfront.edge.origin import sigv4
from keyfront.edge.origin.credentials import Endpoint, OriginCredentials, Settings
from keyfront.edge.rules.origin_request import origin_host, origin_scheme
from keyfront.edge.types.messages import Headers
from keyfront.errors import OriginFailure
from keyfront.model.snapshot import Origin

logger = logging.getLogger("keyfront.edge")

DEFAULT_REGION: Final = "us-east-1"

# The bucket precedes `.s3.` or `.s3-`. A region may follow, and `dualstack`, `fips` and similar labels may surround it.
_BUCKET: Final = re.compile(r"(?P<bucket>.+)\.s3[.-](?P<rest>.+)")
_NAMED_REGION: Final = re.compile(r"[a-z]{2}(-[a-z]+)+-[0-9]{1,2}")


class SignedOriginRequest(NamedTuple):
    """The request that is actually sent: `origin` is its destination, the other fields are as in `Origins.fetch`."""

    origin: Origin
    scheme: str
    target: str
    headers: Headers


class OriginAccess:
    """One worker's origin credentials, from the operator's `file` and the AWS variables in `environ`, applied to its
    requests."""

    def __init__(self, file: Path | None = None, environ: Mapping[str, str] = MappingProxyType({})) -> None:
        self._credentials = OriginCredentials(file, environ, logger.warning)
        self._warned: set[str] = set()

    def poll(self) -> bool:
        """Check for changed credentials; called about once a second. Returns True if anything changed."""
        if not self._credentials.poll():
            return False
        self._warned.clear()
        return True

    def prepare(
        self,
        origin: Origin,
        scheme: str,
        method: str,
        target: str,
        headers: Headers,
        *,
        has_body: bool,
        now: float,
    ) -> SignedOriginRequest:
        """The request as sent to an S3 origin, or to one that requires signatures. `target` starts with the OriginPath;
        `now` is epoch seconds.

        :raises OriginFailure: OriginWriteError: 502 without credentials, 400 for a path that is ambiguous.
        """
        settings = self._credentials.of(origin.domain_name)
        place = origin
        path, mark, query = target.partition("?")
        if settings.endpoint is not None and origin.kind == "s3":
            place, bucket = _at(origin, settings.endpoint)
            path = bucket + path
        scheme = origin_scheme(place, scheme)
        headers = [header for header in headers if header[0] != b"host"]
        headers.insert(0, (b"host", origin_host(place, scheme).encode("latin-1")))
        signs = origin.signing == "always" or (
            origin.signing == "no-override" and all(name != b"authorization" for name, _ in headers)
        )
        if (signs or place is not origin) and (wrong := _no_key(path)):
            raise OriginFailure("OriginWriteError", 400, f"the path {wrong}")
        if not signs:
            return SignedOriginRequest(place, scheme, path + mark + query, headers)
        if settings.credentials is None:
            self._warn_once(
                f"origin access: there are no credentials for {origin.domain_name}, so what it is asked for fails; "
                "see --origin-credentials"
            )
            raise OriginFailure("OriginWriteError", 502, "no credentials to sign with")
        path, query = sigv4.canonical_path(path), sigv4.canonical_query(query)
        payload = sigv4.payload_hash(headers, has_body=has_body)
        request = sigv4.UnsignedRequest(method, path, query, headers, payload)
        headers = sigv4.signed(request, settings.credentials, _region(origin, settings), now)
        return SignedOriginRequest(place, scheme, f"{path}?{query}" if query else path, headers)

    def _warn_once(self, text: str) -> None:
        """Log a message once, until the credentials change."""
        if text not in self._warned:
            self._warned.add(text)
            logger.error("%s", text)


def _at(origin: Origin, endpoint: Endpoint) -> tuple[Origin, str]:
    """The S3 origin on a server other than AWS's, and the prefix for its paths there."""
    name = origin.domain_name.lower()
    found = _BUCKET.fullmatch(name)
    bucket = found["bucket"] if found else name.partition(".")[0]
    virtual = endpoint.style == "virtual"
    place = msgspec.structs.replace(
        origin,
        domain_name=f"{bucket}.{endpoint.host}" if virtual else endpoint.host,
        protocol_policy="https-only" if endpoint.scheme == "https" else "http-only",
        http_port=endpoint.port,
        https_port=endpoint.port,
    )
    return place, "" if virtual else f"/{bucket}"


def _region(origin: Origin, settings: Settings) -> str:
    """The region for a signature. At AWS, the bucket's host name contains its region; elsewhere the operator's setting
    takes precedence."""
    named = ""
    found = _BUCKET.fullmatch(origin.domain_name.lower())
    if found:
        labels = found["rest"].split(".")
        named = next((label for label in labels if _NAMED_REGION.fullmatch(label)), "")
    if settings.endpoint is not None:
        return settings.region or named or DEFAULT_REGION
    return named or settings.region or DEFAULT_REGION


def _no_key(path: str) -> str:
    """Why a path does not name a key that can be requested, or an empty string. Keys are UTF-8; for any other path the
    server would report a wrong signature."""
    key = unquote_to_bytes(path.encode("latin-1"))
    segments = key.replace(b"\\", b"/").split(b"/")
    if b"." in segments or b".." in segments:
        return "has a segment . or .."
    try:
        key.decode()
    except UnicodeDecodeError:
        return "is not UTF-8"
    return ""
