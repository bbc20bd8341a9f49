"""The header fields that an edge and its Origin Shield exchange: authenticated, timestamped, and valid in one direction
only."""

from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path
from typing import Final

import msgspec

from keyfront.edge.semantics.fields import FRAMING
from keyfront.edge.types.messages import Headers
from keyfront.edge.types.shield import ShieldAnswer, ShieldQuery
from keyfront.errors import SettingsError
from keyfront.model.snapshot import Origin

FIELD: Final = b"x-edge-shield"


SKEW: Final = 300
"""Seconds by which the clocks of two edges may differ, and for which an intercepted request stays valid."""


class Secrets:
    """The secrets that the edges of one installation share. The first one seals messages, and any of them opens
    messages; this allows rotation."""

    def __init__(self, secrets: tuple[bytes, ...]) -> None:
        self._secrets = secrets

    @classmethod
    def of_file(cls, path: str) -> Secrets:
        """Read secrets from a file, one per line.

        :raises SettingsError: if the file holds no secret, or one that could be guessed.
        """
        try:
            text = Path(path).read_bytes()
        except OSError as error:
            raise SettingsError(f"the shield's secret {path} cannot be read: {error.strerror}") from error
        secrets = tuple(line.strip() for line in text.splitlines() if line.strip())
        if not secrets or any(len(secret) < 32 for secret in secrets):
            raise SettingsError(
                f"{path} is to hold a secret of 32 characters or more a line: openssl rand -hex 32 > {path}"
            )
        return cls(secrets)

    def sealed(self, context: bytes, message: ShieldQuery | ShieldAnswer) -> bytes:
        """The field value for `message`, valid in this context only."""
        payload = msgspec.msgpack.encode(message)
        return base64.urlsafe_b64encode(_mac(self._secrets[0], context, payload) + payload)

    def opened(self, context: bytes, value: bytes) -> bytes | None:
        """The message in a field value, or None if it was not sealed with one of the secrets in this context."""
        try:
            data = base64.b64decode(value, b"-_", validate=True)
        except ValueError:
            return None
        mac, payload = data[:32], data[32:]
        for secret in self._secrets:
            if hmac.compare_digest(mac, _mac(secret, context, payload)):
                return payload
        return None


def _mac(secret: bytes, context: bytes, payload: bytes) -> bytes:
    return hmac.digest(secret, b"keyfront shield 1\n%d\n%b%b" % (len(context), context, payload), "sha256")


def carried(headers: Headers) -> Headers:
    """The fields of a request between edges that concern the origin's response: all except framing and seal."""
    return [header for header in headers if header[0] not in FRAMING and header[0] != FIELD]


def sealed_query(method: str, target: str, headers: Headers) -> bytes:
    """The data that the seal of a query covers: the whole head of the request, except for framing."""
    lines = [f"{method} {target}".encode("latin-1")]
    lines += [b"%b:%b" % (name, value.strip(b" \t")) for name, value in carried(headers)]
    return b"ask\n" + b"\n".join(lines)


def sealed_answer(nonce: bytes, status: int) -> bytes:
    """The data that the seal of an answer covers: the query's nonce and the status."""
    return b"tell\n%d\n%b" % (status, nonce)


def variant_of(rest: str) -> str:
    """A short identifier for what a cache key contains beyond path and query."""
    return hashlib.sha256(rest.encode("latin-1")).hexdigest()[:32] if rest else ""


def without(headers: Headers, origin: Origin) -> Headers:
    """The headers for an origin, without those that the parent adds itself: the origin's secrets."""
    own = {name.lower().encode("latin-1") for name, _ in origin.custom_headers}
    return [header for header in headers if header[0] not in own or header[0] == b"host"]
