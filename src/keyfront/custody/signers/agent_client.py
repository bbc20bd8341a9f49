"""A client of the signing agent: the Signer of an application that holds no key (docs/reference/agent.md)."""

from __future__ import annotations

import base64
import collections
import contextlib
import functools
import http.client
import os
import socket
import stat
import time
from pathlib import Path
from typing import NoReturn
from urllib.parse import parse_qsl, urlsplit

import msgspec

from keyfront.custody.signers.agent_protocol import Described, Refusal, Signed, SignRequest
from keyfront.custody.signers.changing_key import ChangingKeySigner
from keyfront.errors import CustodyError, CustodyUnavailable, NoSuchKey, PolicyError, SigningError
from keyfront.signing.keys import HashName, PublicKey, load_public_key

TIMEOUT = 10.0
"""Seconds to wait for a response: an agent whose keys are in a KMS has to call the KMS in turn."""

KNOWN_FOR = 60.0
"""Seconds for which the agent's description of a key is cached. Every signing response says which key signed."""

_MOST_IDLE = 16


class Address(msgspec.Struct, frozen=True):
    """The address of an agent: the path of a socket, or a loopback address with the caller's token."""

    path: str = ""
    host: str = ""
    port: int = 0
    token_file: str = ""

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else f"http://{self.host}:{self.port}"


def address_of(text: str) -> Address:
    """Parse `unix:PATH` or `http://127.0.0.1:PORT?token-file=PATH`.

    :raises CustodyError: if `text` has neither form.
    """
    scheme, _, path = text.partition(":")
    if scheme == "unix" and path.startswith("/"):
        return Address(path=path)
    with contextlib.suppress(ValueError):
        parts = urlsplit(text)
        options = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
        if (
            parts.scheme == "http"
            and parts.hostname in ("127.0.0.1", "::1")
            and parts.port
            and parts.path in ("", "/")
            and options.keys() == {"token-file"}
            and not (parts.username or parts.fragment)
        ):
            return Address(host=parts.hostname, port=parts.port, token_file=options["token-file"])
    raise CustodyError(
        f"{text!r} is not an agent's address: use unix:/run/keyfront/agent.sock, or "
        "http://127.0.0.1:PORT?token-file=PATH on the same machine"
    )


class AgentSigner(ChangingKeySigner):
    """A Signer that calls an agent. Safe to use from any thread and across forks."""

    def __init__(self, group: str, agent: str, *, hash_name: HashName | None = None) -> None:
        """:raises CustodyError: if `agent` is not an agent's address."""
        self.group = group
        self._address = address_of(agent)
        self._hash_name = hash_name
        self._connections: collections.deque[tuple[int, _Connection]] = collections.deque()
        self._known: tuple[Described, PublicKey] | None = None
        self._known_until = float("-inf")

    def pinned(self) -> AgentKey:
        """Return the current key, for one signature.

        :raises CustodyUnavailable: if the agent cannot be reached.
        :raises CustodyError: if the agent refuses, or the key cannot sign with the requested hash.
        """
        known = self._known
        if known is None or time.monotonic() >= self._known_until:
            known = self._described()
        if self._hash_name is not None and self._hash_name not in known[0].hashes:
            raise CustodyError(f"{known[0].key_pair_id} cannot sign with {self._hash_name}")
        return AgentKey(self, *known, self._hash_name)

    def refresh(self) -> None:
        """Ask the agent which key signs now. Calling this when an application starts reveals problems that would
        otherwise appear with the first signature.

        :raises CustodyError: as for `pinned`.
        """
        self._described()

    def _described(self) -> tuple[Described, PublicKey]:
        answer = self._request("POST", "/v1/key", msgspec.json.encode({"key_group": self.group}))
        try:
            key = _described.decode(answer)
            known = key, load_public_key(key.public_key)
        except (msgspec.MsgspecError, SigningError, ValueError) as error:
            raise CustodyUnavailable(f"what answers at {self._address} is not an agent: {error}") from error
        self._known = known
        self._known_until = time.monotonic() + KNOWN_FOR
        return known

    def signature_by(self, key: Described, data: bytes, hash_name: HashName) -> bytes:
        """Return the signature over a policy by the key that `key` describes.

        :raises NoSuchKey: if another key signs now. The new key has then been loaded.
        """
        try:
            policy = data.decode()
        except UnicodeDecodeError as error:
            raise SigningError("an agent signs policies, which are UTF-8, and nothing else") from error
        request = SignRequest(self.group, policy, hash_name, key.key_pair_id)
        try:
            answer = _signed.decode(self._request("POST", "/v1/sign", msgspec.json.encode(request)))
            signature = base64.b64decode(answer.signature, validate=True)
        except NoSuchKey:
            self._described()
            raise
        except (msgspec.MsgspecError, ValueError) as error:
            if isinstance(error, SigningError):
                raise
            raise CustodyUnavailable(f"what answers at {self._address} is not an agent: {error}") from error
        if answer.key_pair_id != key.key_pair_id or answer.hash != hash_name:
            raise CustodyUnavailable(
                f"the agent at {self._address} has signed with another key than requested"
            )
        return signature

    # ---- HTTP

    def _request(self, method: str, path: str, body: bytes) -> bytes:
        """:raises CustodyUnavailable: if there is no response. An idle connection may have been closed meanwhile; the
        request is then retried once on a new one. Signing twice does no harm."""
        headers = {"Content-Type": "application/json"}
        if self._address.token_file:
            headers["Authorization"] = f"Bearer {_token(self._address.token_file)}"
        while True:
            connection, reused = self._connection()
            try:
                connection.request(method, path, body, headers)
                answer = connection.getresponse()
                data = answer.read(_LONGEST + 1)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if reused and not isinstance(error, TimeoutError):
                    continue
                raise CustodyUnavailable(
                    f"the agent at {self._address} cannot be reached: {error or 'no answer'}"
                ) from error
            if len(data) > _LONGEST or answer.will_close or len(self._connections) >= _MOST_IDLE:
                connection.close()
            else:
                self._connections.append((os.getpid(), connection))
            if answer.status == 200:
                return data
            self._refused(answer.status, data)

    def _connection(self) -> tuple[_Connection, bool]:
        """Return a connection, and whether it has been used before. Connections from before a fork are left alone: the
        parent process still uses their sockets."""
        own = os.getpid()
        while True:
            try:
                process, connection = self._connections.pop()
            except IndexError:
                return _Connection(self._address), False
            if process == own:
                return connection, True

    def _refused(self, status: int, data: bytes) -> NoReturn:
        try:
            refusal = _refusal.decode(data)
        except (msgspec.MsgspecError, ValueError):
            refusal = Refusal("", f"status {status}")
        raise _ERRORS.get(refusal.error, CustodyUnavailable if status >= 500 else CustodyError)(
            f"the agent at {self._address} refuses: {refusal.message}"
        )

    def __repr__(self) -> str:
        return f"<AgentSigner {self.group!r} {self._address}>"


class AgentKey:
    """The key that the agent named as the current one: a Signer for one signature."""

    __slots__ = ("_key", "_signer", "hash_name", "hash_names", "key_pair_id", "max_lifetime", "public_key")

    def __init__(
        self, signer: AgentSigner, key: Described, public_key: PublicKey, hash_name: HashName | None
    ) -> None:
        self._signer = signer
        self._key = key
        self.key_pair_id = key.key_pair_id
        self.public_key = public_key
        self.hash_names = key.hashes
        self.hash_name = hash_name or key.hash
        self.max_lifetime = key.max_lifetime

    def sign(self, data: bytes, hash_name: HashName) -> bytes:
        return self._signer.signature_by(self._key, data, hash_name)

    def __repr__(self) -> str:
        return f"<AgentKey {self.key_pair_id}>"


class _Connection(http.client.HTTPConnection):
    def __init__(self, address: Address) -> None:
        super().__init__(address.host or "localhost", address.port or None, timeout=TIMEOUT)
        self._path = address.path

    def connect(self) -> None:
        if not self._path:
            super().connect()
            return
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(TIMEOUT)
            self.sock.connect(self._path)
        except BaseException:
            self.sock.close()
            raise


def _token(path: str) -> str:
    try:
        stamp = os.stat(path)
        return _token_in(path, stamp.st_mtime_ns, stamp.st_ino)
    except OSError as error:
        raise CustodyError(f"the agent's token cannot be read from {path}: {error.strerror}") from error


@functools.lru_cache(maxsize=16)
def _token_in(path: str, changed: int, inode: int) -> str:
    """Return the token in a file: the last word of its only line, so that the agent's own file for a caller works
    too."""
    if stat.S_IMODE(os.stat(path).st_mode) & 0o077:
        raise CustodyError(f"{path} holds a token and others may read it: chmod 600 {path}")
    words = Path(path).read_text("utf-8").split()
    if not words or not words[-1].isascii():
        raise CustodyError(f"{path} holds no token")
    return words[-1]


_LONGEST = 64 * 1024
_described = msgspec.json.Decoder(Described)
_signed = msgspec.json.Decoder(Signed)
_refusal = msgspec.json.Decoder(Refusal)
_ERRORS: dict[str, type[CustodyError] | type[SigningError]] = {
    "KeyChanged": NoSuchKey,
    "PolicyRefused": PolicyError,
    "SigningRefused": SigningError,
    "Unavailable": CustodyUnavailable,
}
