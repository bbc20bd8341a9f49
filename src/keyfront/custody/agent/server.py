"""The process of the agent: its sockets, the identity of their peers, and the server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from keyfront.custody.agent.authorization import Caller
from keyfront.errors import CustodyError
from keyfront.uvicorn_server import StoppableServer

MOST_HEAD = 16 * 1024
MOST_AT_ONCE = 256
MOST_EACH = 128
"""Connections: in total, and per user on a Unix socket."""

KEEP_ALIVE = 75
"""Seconds for which an idle connection stays open."""
DRAIN = 10
"""Seconds that requests in progress may take when the agent stops."""


def peered(protocol: type[H11Protocol]) -> type[H11Protocol]:
    """`protocol` for Unix sockets: it gets the peer's identity from the kernel, once per connection, and limits the
    connections of each user to `MOST_EACH`."""

    per_user: dict[int, int] = {}

    class Peered(protocol):  # type: ignore[valid-type, misc]
        app_state: dict[str, Any]
        peer: Caller | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self.peer = peer_of(transport.get_extra_info("socket"))
            self.app_state = {**self.app_state, "peer": self.peer}
            if self.peer is not None and self.peer.uid is not None:
                per_user[self.peer.uid] = per_user.get(self.peer.uid, 0) + 1
                if per_user[self.peer.uid] > MOST_EACH:
                    transport.abort()

        def connection_lost(self, error: Exception | None) -> None:
            super().connection_lost(error)
            if self.peer is not None and self.peer.uid is not None:
                left = per_user.pop(self.peer.uid) - 1
                if left:
                    per_user[self.peer.uid] = left

    return Peered


def peer_of(sock: socket.socket) -> Caller | None:
    """Return the process at the other end of a Unix socket, as of its connect; None if the system does not report
    it."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None  # not Linux
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
    """A socket that listens at `path`. A socket that a killed agent left there is replaced.

    :param mode: the permissions of the socket.
    :raises CustodyError: if another agent listens there, or the socket cannot be created.
    """
    temporary = f"{path}.{os.getpid()}"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if os.path.lexists(path):
            _refuse_if_alive(path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        # Bound under a temporary name without permissions: nobody can connect before the mode is set.
        before = os.umask(0o777)
        try:
            sock.bind(temporary)
        finally:
            os.umask(before)
        os.chmod(temporary, mode)
        sock.listen(128)
        os.rename(temporary, path)
    except OSError as error:
        sock.close()
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise CustodyError(f"no socket can be created at {path}: {error.strerror or error}") from error
    except CustodyError:
        sock.close()
        raise
    return sock


def _refuse_if_alive(path: str) -> None:
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise CustodyError(f"{path} is not a socket, and is not replaced")
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
                f"cannot find out whether an agent listens at {path}: {error.strerror}"
            ) from error
    raise CustodyError(f"an agent listens at {path} already")


def bind_loopback(host: str, port: int) -> socket.socket:
    """A socket that listens on the loopback interface.

    :raises CustodyError: if `host` is not a loopback address, or the port cannot be used.
    """
    if host not in ("127.0.0.1", "::1"):
        raise CustodyError(
            f"the agent listens on 127.0.0.1 or ::1 and not on {host}: it signs only for this machine"
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


async def serve(
    app: Starlette,
    sock: socket.socket,
    protocol: type[H11Protocol],
    on_ready: Callable[[], None],
    stopped: Callable[[], Awaitable[object]],
) -> None:
    """Serve `app` on the listening socket `sock` until `stopped` returns; requests in progress then have DRAIN
    seconds."""
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
    server = StoppableServer(config, on_ready)

    async def stop() -> None:
        await stopped()
        server.stop()

    stopping = asyncio.create_task(stop())
    try:
        await server.serve([sock])
    finally:
        stopping.cancel()
