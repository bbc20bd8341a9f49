"""The agent: it signs for applications that must not hold keys (docs/reference/agent.md).

What it is asked for passes five gates, in this order, and nothing is signed that has not passed all of them:

1. who asks: the kernel's word for the process at the other end of the socket, or a token;
2. whether a rule lets them sign for the key group;
3. whether it is a policy of CloudFront's, and reads one way only;
4. whether a rule lets them grant what it grants, and the key group's terms for so long;
5. whether the signature can be recorded: what cannot be is not given away.
"""

from __future__ import annotations

import asyncio
import base64
import collections
import contextlib
import functools
import json
import logging
import os
import socket
import stat
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from keyfront.custody.agent.authorization import Caller, Rules, Tokens, granted, read_policy
from keyfront.custody.key_record import LEEWAY
from keyfront.custody.signers.agent_client import Described, Refusal, Signed, Wanted
from keyfront.custody.signers.key_group_signer import KeyGroupSigner, PinnedKey
from keyfront.errors import CustodyError, CustodyUnavailable, NoSuchKey, PolicyError, SigningError
from keyfront.signing.keys import HashName, PublicKey, cf_b64encode
from keyfront.signing.policy import MAX_EPOCH, Statement
from keyfront.signing.sign import hash_for, sign_cookies, sign_url

MOST_BODY = 16 * 1024
"""The longest body of a request, bytes. A URL that carries a policy of a quarter of that is refused everywhere."""

MOST_HEAD = 16 * 1024
MOST_AT_ONCE = 256
MOST_EACH = 128
"""Connections: of all, and of one user by a Unix socket."""

BODY_TIMEOUT = 10.0
KEEP_ALIVE = 75
DRAIN = 10

_MOST_GROUPS = 1000
_MOST_UNTRIED = 32


class Refused(Exception):
    """A request that is answered with an error: its status, its name and a sentence."""

    def __init__(self, status: int, error: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.error = error


Seconds = Annotated[int, msgspec.Meta(ge=0, le=MAX_EPOCH)]
"""Of the epoch, or a length: no signature can hold more."""


class WantedUrl(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A URL to be signed. `expires` and `starts` are epoch seconds; `lifetime`, in place of `expires`, is seconds from
    now. The rest is as `sign_url` has it."""

    key_group: str
    url: str
    expires: Seconds | None = None
    lifetime: Seconds | None = None
    starts: Seconds | None = None
    ip: str | None = None
    resource: str | None = None
    hash: HashName | None = None


class WantedCookies(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Cookies for the URLs of `resource`, a pattern; the rest is as for URLs."""

    key_group: str
    resource: str
    expires: Seconds | None = None
    lifetime: Seconds | None = None
    starts: Seconds | None = None
    ip: str | None = None
    hash: HashName | None = None


class WantedKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key_group: str


class Audit:
    """Where a line is written for each signature and each refusal: a file, opened for each line, so that it may be
    moved away at any time; or a descriptor."""

    def __init__(self, path: str = "", descriptor: int = 2) -> None:
        self._path = path
        self._descriptor = descriptor

    def write(self, now: float, **said: object) -> None:
        """:raises CustodyUnavailable: if it cannot be written."""
        told = {
            "time": datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        }
        line = (
            json.dumps({**told, **{name: value for name, value in said.items() if value is not None}}) + "\n"
        )
        data = line.encode()
        try:
            if not self._path:
                written = os.write(self._descriptor, data)
            else:
                descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    written = os.write(descriptor, data)
                finally:
                    os.close(descriptor)
        except OSError as error:
            raise CustodyUnavailable(f"the signature could not be recorded: {error.strerror}") from error
        if written != len(data):
            raise CustodyUnavailable("the signature could not be recorded: the disk is full")


class Agent:
    """What signs, for whom, and what is told of it. For any thread."""

    def __init__(
        self,
        rules: Rules,
        signer: Callable[[str], KeyGroupSigner],
        audit: Audit,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`signer` makes what follows a key group's record; `clock` is the time of day."""
        self._rules = rules
        self._make = signer
        self._audit = audit
        self._clock = clock
        self._signers: dict[str, KeyGroupSigner] = {}
        self._untried: collections.OrderedDict[str, KeyGroupSigner] = collections.OrderedDict()
        self._lock = threading.Lock()
        self._refusals: dict[str, tuple[int, int]] = {}

    def described(self, caller: Caller, wanted: WantedKey) -> Described:
        """The key that signs for a group now."""
        return _description(self._for(caller, wanted.key_group).pinned(), wanted.key_group)

    def sign(self, caller: Caller, wanted: Wanted) -> Signed:
        """A policy's signature.

        :raises Refused: as for all that follow.
        """
        data = wanted.policy.encode()
        signer = self._for(caller, wanted.key_group)
        for last in (False, True):
            key = signer.pinned()
            if wanted.key_pair_id and wanted.key_pair_id != key.key_pair_id:
                raise Refused(409, "KeyChanged", f"{key.key_pair_id} signs for {wanted.key_group!r} now")
            hash_name = hash_for(key, wanted.hash)
            try:
                signature = key.sign(data, hash_name)
            except NoSuchKey:
                if last:
                    raise
                continue
            parameters = f"Signature={cf_b64encode(signature)}&Key-Pair-Id={key.key_pair_id}"
            if hash_name != "SHA1":
                parameters += f"&Hash-Algorithm={hash_name}"
            return Signed(key.key_pair_id, hash_name, base64.b64encode(signature).decode(), parameters)
        raise AssertionError("the second turn is the last")

    def url(self, caller: Caller, wanted: WantedUrl) -> dict[str, object]:
        """A whole signed URL."""
        now = self._clock()
        signed = sign_url(
            wanted.url,
            self._for(caller, wanted.key_group),
            expires=_end(wanted, now),
            starts=wanted.starts,
            ip=wanted.ip,
            resource=wanted.resource,
            hash_name=wanted.hash,
            now=now,
        )
        return {"url": signed}

    def cookies(self, caller: Caller, wanted: WantedCookies) -> dict[str, object]:
        """Signed cookies, by name."""
        now = self._clock()
        signed = sign_cookies(
            wanted.resource,
            self._for(caller, wanted.key_group),
            expires=_end(wanted, now),
            starts=wanted.starts,
            ip=wanted.ip,
            hash_name=wanted.hash,
            secure=False,  # their attributes are the application's
            now=now,
        )
        return {"cookies": dict(signed.values)}

    def refused(self, caller: Caller | None, path: str, key_group: str | None, refused: Refused) -> None:
        """Record a refusal: one a second for each caller, so that nobody fills the disk by being refused."""
        now, who = self._clock(), "" if caller is None else str(caller)
        with self._lock:
            second, more = self._refusals.get(who, (0, 0))
            if second == int(now):
                self._refusals[who] = (second, more + 1)
                return
            if len(self._refusals) >= _MOST_GROUPS:
                self._refusals.clear()
            self._refusals[who] = (int(now), 0)
        with contextlib.suppress(CustodyUnavailable):
            self._audit.write(
                now,
                refused=refused.error,
                why=str(refused),
                asked=path,
                key_group=key_group,
                before=more or None,
                **_told(caller),
            )

    def _for(self, caller: Caller, key_group: str) -> _Gate:
        """What signs for a caller and a group; gates 3 to 5 are within.

        :raises Refused: at gate 2, whether there is such a group or not.
        """
        rules = self._rules.for_group(caller, key_group)
        if not rules:
            raise Refused(403, "NotAllowed", f"{caller} may not sign for key group {key_group[:100]!r}")

        def check(data: bytes, key: PinnedKey, hash_name: HashName) -> Callable[[], None]:
            statement = read_policy(data)
            now = self._clock()
            if (
                statement.expires - now > key.max_lifetime + LEEWAY / 2
            ):  # the other half is for who lets it drain
                raise PolicyError(
                    f"this would be valid for {statement.expires - now:.0f} seconds, and what is signed for "
                    f"{key_group!r} may be for {key.max_lifetime:.0f} at most"
                )
            if not granted(rules, statement):
                raise Refused(403, "NotAllowed", f"{caller} may not grant {_resource(statement)[:500]!r}")
            return functools.partial(
                self._audit.write,
                now,
                signed=key.key_pair_id,
                key_group=key_group,
                hash=hash_name,
                resource=_resource(statement),
                expires=statement.expires,
                starts=statement.not_before,
                **_told(caller),
            )

        return _Gate(self._follower(key_group), check)

    def _follower(self, key_group: str) -> KeyGroupSigner:
        found = self._signers.get(key_group)
        if found is not None:
            return found
        with self._lock:
            tried = self._untried.pop(key_group, None) or self._make(key_group)
            self._untried[key_group] = tried
            old = self._untried.popitem(last=False)[1] if len(self._untried) > _MOST_UNTRIED else None
        if old is not None:
            old.close()
        tried.pinned()  # one for which there is no record is let go of, after a while
        with self._lock:
            if len(self._signers) >= _MOST_GROUPS:
                raise CustodyUnavailable(f"the agent follows {_MOST_GROUPS} key groups, and no more")
            self._untried.pop(key_group, None)
            return self._signers.setdefault(key_group, tried)

    def close(self) -> None:
        for signer in (*self._signers.values(), *self._untried.values()):
            signer.close()


class _Gate:
    """A Signer that signs only what `check` lets pass, and gives a signature away only once it is recorded."""

    def __init__(
        self, signer: KeyGroupSigner, check: Callable[[bytes, PinnedKey, HashName], Callable[[], None]]
    ) -> None:
        self._signer = signer
        self._check = check

    def pinned(self) -> _GatedKey:
        return _GatedKey(self._signer.pinned(), self._check)

    @property
    def key_pair_id(self) -> str:
        return self._signer.key_pair_id

    @property
    def public_key(self) -> PublicKey:
        return self._signer.public_key

    def sign(self, data: bytes, hash_name: HashName) -> bytes:
        return self.pinned().sign(data, hash_name)


class _GatedKey:
    def __init__(
        self, key: PinnedKey, check: Callable[[bytes, PinnedKey, HashName], Callable[[], None]]
    ) -> None:
        self._key = key
        self._check = check
        self.key_pair_id = key.key_pair_id
        self.public_key = key.public_key
        self.hash_names = key.hash_names
        self.hash_name = key.hash_name
        self.max_lifetime = key.max_lifetime

    def sign(self, data: bytes, hash_name: HashName) -> bytes:
        record = self._check(data, self._key, hash_name)
        signature = self._key.sign(data, hash_name)
        record()
        return signature


def _description(key: _GatedKey, key_group: str) -> Described:
    return Described(
        key_group, key.key_pair_id, key.public_key.pem, key.hash_names, key.max_lifetime, hash_for(key, None)
    )


def _resource(statement: Statement) -> str:
    """The Resource of a policy, as people write it."""
    return (statement.resource or "*").encode("latin-1").decode("utf-8", "replace")


def _told(caller: Caller | None) -> dict[str, Any]:
    return {"caller": None if caller is None else str(caller), "pid": caller.pid or None if caller else None}


def _end(wanted: WantedUrl | WantedCookies, now: float) -> int | None:
    if wanted.lifetime is None:
        return wanted.expires
    if wanted.expires is not None:
        raise PolicyError("give either expires or lifetime")
    return int(now + wanted.lifetime)


# ------------------------------------------------------------------------------------------------------------
# HTTP

Identify = Callable[[Request], Caller]


def by_peer(request: Request) -> Caller:
    """Who is at the other end of a Unix socket, as `peered` has found out.

    :raises Refused: if the kernel does not say.
    """
    caller: Caller | None = getattr(request.state, "peer", None)
    if caller is None:
        raise Refused(401, "NotAllowed", "it cannot be told who asks")
    return caller


def by_token(tokens: Tokens) -> Identify:
    """Who shows which token."""

    def identify(request: Request) -> Caller:
        caller = tokens.holder(request.headers.get("authorization", ""))
        if caller is None:
            raise Refused(
                401, "NotAllowed", "no token of this agent's was shown: Authorization: Bearer TOKEN"
            )
        return caller

    return identify


def build_app(agent: Agent, identify: Identify) -> Starlette:
    def route(path: str, shape: Any, answer: Callable[[Caller, Any], object]) -> Route:
        decoder = msgspec.json.Decoder(shape)

        async def endpoint(request: Request) -> Response:
            caller: Caller | None = None
            wanted: Any = None
            try:
                try:
                    caller = identify(request)
                    wanted = decoder.decode(await _body(request))
                    return _json(200, await run_in_threadpool(answer, caller, wanted))
                except Exception as error:
                    raise _refused(error) from error
            except Refused as refused:
                group = getattr(wanted, "key_group", None)
                await run_in_threadpool(agent.refused, caller, path, group and group[:200], refused)
                return _json(refused.status, Refusal(refused.error, str(refused)))

        return Route(path, endpoint, methods=["POST"])

    return Starlette(
        routes=[
            route("/v1/sign", Wanted, agent.sign),
            route("/v1/key", WantedKey, agent.described),
            route("/v1/url", WantedUrl, agent.url),
            route("/v1/cookies", WantedCookies, agent.cookies),
        ],
        exception_handlers={HTTPException: _not_here},
    )


def _refused(error: Exception) -> Refused:
    """What an error is answered with. What is not foreseen is told to the operator, and not to who asks."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, msgspec.MsgspecError):
        return Refused(400, "Malformed", f"the body cannot be read: {error}")
    if isinstance(error, PolicyError):
        return Refused(400, "PolicyRefused", str(error))
    if isinstance(error, SigningError):
        return Refused(400, "SigningRefused", str(error))
    if isinstance(error, CustodyUnavailable | NoSuchKey):
        return Refused(503, "Unavailable", str(error))
    if isinstance(error, CustodyError):
        return Refused(502, "CustodyRefused", str(error))
    if isinstance(error, ValueError):  # what JSON may hold and UTF-8 may not: a lone surrogate
        return Refused(400, "Malformed", "the body cannot be read")
    _log.exception("a request failed", exc_info=error)
    return Refused(500, "Failed", "the agent failed")


async def _body(request: Request) -> bytes:
    data = bytearray()

    async def read() -> None:
        async for chunk in request.stream():
            data.extend(chunk)
            if len(data) > MOST_BODY:
                raise Refused(413, "TooLarge", f"the body is longer than {MOST_BODY} bytes")

    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, "Malformed", "the body is application/json")
    try:
        await asyncio.wait_for(read(), BODY_TIMEOUT)
    except TimeoutError:
        raise Refused(408, "TooSlow", "the body did not arrive in time") from None
    return bytes(data)


async def _not_here(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    return _json(status, Refusal("NotFound", "POST to /v1/sign, /v1/key, /v1/url or /v1/cookies"))


def _json(status: int, value: object) -> Response:
    headers = {"Cache-Control": "no-store"}
    if status in (408, 413):
        headers["Connection"] = "close"
    return Response(msgspec.json.encode(value), status, headers, "application/json")


_log = logging.getLogger("keyfront.agent")

# ------------------------------------------------------------------------------------------------------------
# The process


def peered(protocol: type[H11Protocol]) -> type[H11Protocol]:
    """`protocol`, which also asks the kernel who is at the other end, once for each connection, and lets nobody take
    all of them."""

    of_each: dict[int, int] = {}

    class Peered(protocol):  # type: ignore[valid-type, misc]
        app_state: dict[str, Any]
        peer: Caller | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self.peer = peer_of(transport.get_extra_info("socket"))
            self.app_state = {**self.app_state, "peer": self.peer}
            if self.peer is not None and self.peer.uid is not None:
                of_each[self.peer.uid] = of_each.get(self.peer.uid, 0) + 1
                if of_each[self.peer.uid] > MOST_EACH:
                    transport.abort()

        def connection_lost(self, error: Exception | None) -> None:
            super().connection_lost(error)
            if self.peer is not None and self.peer.uid is not None:
                left = of_each.pop(self.peer.uid) - 1
                if left:
                    of_each[self.peer.uid] = left

    return Peered


def peer_of(sock: socket.socket) -> Caller | None:
    """The process at the other end of a Unix socket, when it connected."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None  # no Linux
    try:
        pid, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        with contextlib.suppress(OSError):
            groups = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * 4096)
            return Caller(uid, frozenset({gid, *struct.unpack(f"{len(groups) // 4}i", groups)}), pid)
    except OSError:
        return None
    return Caller(uid, frozenset({gid}), pid)


_SO_PEERGROUPS = 59  # Linux 4.13; Python does not name it


def bind_unix(path: str, mode: int) -> socket.socket:
    """A socket that listens at `path`, which nobody else does. What an agent that was killed left there is replaced.

    :raises CustodyError: if another agent listens there, or it cannot be made.
    """
    made = f"{path}.{os.getpid()}"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if os.path.lexists(path):
            _refuse_if_alive(path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(made)
        # Bound under another name and with no rights: nobody connects before the mode is what it should be.
        before = os.umask(0o777)
        try:
            sock.bind(made)
        finally:
            os.umask(before)
        os.chmod(made, mode)
        sock.listen(128)
        os.rename(made, path)
    except OSError as error:
        sock.close()
        with contextlib.suppress(OSError):
            os.unlink(made)
        raise CustodyError(f"no socket can be made at {path}: {error.strerror or error}") from error
    except CustodyError:
        sock.close()
        raise
    return sock


def _refuse_if_alive(path: str) -> None:
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise CustodyError(f"{path} is no socket, and is left alone")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return
        except TimeoutError:
            pass
        except OSError as error:
            raise CustodyError(
                f"whether an agent listens at {path} cannot be told: {error.strerror}"
            ) from error
    raise CustodyError(f"an agent listens at {path} already")


def bind_loopback(host: str, port: int) -> socket.socket:
    """:raises CustodyError: if `host` is not this machine alone, or the port is taken."""
    if host not in ("127.0.0.1", "::1"):
        raise CustodyError(
            f"the agent listens on 127.0.0.1 or ::1 and not on {host}: it signs for this machine alone"
        )
    family: Literal[socket.AddressFamily.AF_INET6, socket.AddressFamily.AF_INET]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind((host, port))
        sock.listen(128)
    except OSError as error:
        sock.close()
        raise CustodyError(f"the agent cannot listen on {host}:{port}: {error.strerror}") from error
    return sock


class _Server(uvicorn.Server):
    """uvicorn, told by others when to stop."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(
    app: Starlette,
    sock: socket.socket,
    protocol: type[H11Protocol],
    on_ready: Callable[[], None],
    stopped: Callable[[], Awaitable[object]],
) -> None:
    """Serve `app` on `sock`, which listens, until `stopped` returns; then let what is under way end (DRAIN)."""
    config = uvicorn.Config(
        app,
        http=peered(protocol) if sock.family == socket.AF_UNIX else protocol,
        h11_max_incomplete_event_size=MOST_HEAD,
        limit_concurrency=MOST_AT_ONCE,
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=DRAIN,
    )
    server = _Server(config, on_ready)

    async def stop() -> None:
        await stopped()
        server.should_exit = True

    stopping = asyncio.create_task(stop())
    try:
        await server.serve([sock])
    finally:
        stopping.cancel()
