"""The control plane's side of the feed over HTTPS: one event loop that serves all edges, in a thread of its own.

Every connected edge has two tasks. One receives its messages, the other sends it snapshots: it waits until there is one
that the edge does not have, sends it, and waits for the answer. Nothing is queued for an edge. While it is slow,
snapshots are skipped, and the next one that it gets is the latest. What a snapshot costs (its region's part, its
digest, the difference from what edges have, compression) is done once for all edges of a region, in a thread.

An edge is who its certificate says, and has the name and region that the registry says. The registry is checked
several times a second: the connection of an edge that was revoked, or whose region changed, is cut. So is a connection
whose certificate has expired since it was opened: the edge has to connect with its renewed one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import socket
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from keyfront.errors import ApiError, KeyfrontError, SettingsError
from keyfront.fleet.remote import authority, manifest, messages
from keyfront.fleet.remote.channel import Channel, Version
from keyfront.fleet.remote.connected_edge import ConnectedEdge, peer_certificate
from keyfront.fleet.remote.edge_reports import NAME, printable
from keyfront.fleet.remote.identity import Keys, Registry, Seen
from keyfront.fleet.remote.own_certificate import OwnCertificate
from keyfront.fleet.remote.publishing import PublishingHub

log = logging.getLogger("keyfront.fleet")

MAX_EDGES = 5_000
"""Maximum number of connected edges."""
MAX_STRANGERS = 64
"""Maximum number of concurrent connections that are not an edge's, such as for enrollment."""
HANDSHAKE = 30.0
"""Seconds for TLS, for the HTTP handshake, and for the first message; each as long as an edge waits for them."""
ANSWER = 60.0
"""Seconds for an edge to receive one message, and to answer the last one."""
SILENT = 30.0
"""Seconds without a message from an edge after which its connection is cut."""
WHOLE, SLOT = 32, 10.0
"""How many edges get a whole snapshot at the same time, and after how many seconds one does not count any more: most
edges have it sooner if not all of them get a part of it at once."""
RETAIN = 60.0
"""Seconds for which the reports of a disconnected edge are kept: they have been added up by then."""
RENEWAL = 1.0
"""Minimum seconds between two renewals of an edge's certificate: each is a write with an audit record."""
BURST, RATE = 200.0, 50.0
"""Messages that an edge may send at once, and per second."""


class EdgeHub(PublishingHub[ConnectedEdge]):
    """The feeds of all enrolled edges, by region. `run` serves them; the other methods can be called from any thread.

    :param registry: who is an edge.
    :param clock: epoch seconds.
    :param certificate: the operator's, to show to edges; None: one of the control planes' authority.
    :raises SettingsError: if the keys cannot be opened.
    :raises ApiError: if the store does not respond.
    """

    def __init__(
        self,
        registry: Registry,
        clock: Callable[[], float] = time.time,
        certificate: OwnCertificate | None = None,
    ) -> None:
        super().__init__(registry, clock, "edge-hub")
        self._certificate = certificate
        self._renewed: dict[str, float] = {}
        self._strangers = 0
        self._slots = asyncio.Semaphore(WHOLE)

    # ---- for the control plane; any thread

    def forget(self, ended: Path) -> None:
        """Tell the edge that a report of `ended` is stored."""
        edge = self._edges.get(ended.parent.name)
        if edge is None or edge.ended.pop(ended.name, None) is None or edge.gone or self._loop is None:
            return
        message = messages.encode(messages.Stored(ended.name))
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._spawn, _quietly(edge.connection.send(message)))

    # ---- the event loop

    async def run(self, sock: socket.socket, stop: asyncio.Event, on_ready: Callable[[], None]) -> None:
        """Serve edges on the bound socket until `stop` is set.

        :param on_ready: called once, when edges can connect.
        :raises SettingsError: if the operator's certificate cannot be used.
        """
        self._loop = asyncio.get_running_loop()
        context = _server_context(self._keys)
        self._renew(context)
        server = await serve(
            self._serve,
            sock=sock,
            ssl=context,
            ssl_handshake_timeout=HANDSHAKE,
            backlog=1024,
            process_request=self._admit,
            server_header="keyfront",
            compression=None,
            open_timeout=HANDSHAKE,
            close_timeout=1.0,
            ping_interval=None,  # edges send theirs, and reports
            max_size=messages.MAX_TO_CONTROL,
            max_queue=(4, 1),
            logger=_quiet,
        )
        self._published.set()
        background = [
            asyncio.create_task(self._publish()),
            asyncio.create_task(self._watch()),
            asyncio.create_task(self._renew_again(context)),
        ]
        on_ready()
        try:
            await stop.wait()
        finally:
            for task in background:
                task.cancel()
            self._loop = None
            server.close(close_connections=True)
            await server.wait_closed()
            self._executor.shutdown(wait=False, cancel_futures=True)

    def _renew(self, context: ssl.SSLContext) -> None:
        """Give the context a new certificate, for the connections to come.

        :raises SettingsError: if the operator's certificate cannot be used.
        """
        if self._certificate is not None:
            self._certificate.load(context)
            return
        with tempfile.TemporaryDirectory() as folder:  # mode 0700; a context can load a key from a file only
            path = os.path.join(folder, "server.pem")
            with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
                file.write(self._keys.authority.issue_server(self._clock()))
            context.load_cert_chain(path)

    async def _renew_again(self, context: ssl.SSLContext) -> None:
        while True:
            if self._certificate is None:
                await asyncio.sleep(authority.SERVER_LIFETIME / 3)
            else:
                await self._certificate.changed()
            try:
                self._renew(context)
            except (OSError, SettingsError) as error:
                log.error("the certificate for edges is not renewed: %s", error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # snapshots

    async def _publish(self) -> None:
        """Prepare what was published, also for the regions of edges that are away: they get the difference later."""
        while True:
            await self._published.wait()
            self._published.clear()
            for region in sorted(self.regions):
                try:
                    await self._refresh(self._channel(region))
                except Exception:
                    log.exception("edges in region %r do not get the last snapshot", region)
            self._first = None

    async def _refresh(self, channel: Channel) -> None:
        """Bring the channel to the published snapshot."""
        async with channel.lock:
            if not await self._advance(channel):
                return
        for edge in list(self._edges.values()):
            if edge.identity.region == channel.region:
                edge.wake.set()

    async def _send(self, edge: ConnectedEdge) -> None:
        """Bring an edge to the last snapshot, again and again."""
        channel = self._channel(edge.identity.region)
        await self._refresh(channel)
        edge.wake.set()
        while True:
            await edge.wake.wait()
            edge.wake.clear()
            version = channel.current
            if version is None or version.digest in (edge.have, edge.refused) or edge.is_past(version):
                continue
            delta = edge.have in channel.history
            if delta:
                answer = await self._exchange(edge, channel, version)
            else:
                async with self._slot():
                    version = channel.current or version
                    answer = await self._exchange(edge, channel, version)
            edge.answer = None
            if isinstance(answer, messages.Applied):
                edge.have = version.digest
            elif delta:  # perhaps it lost the snapshot that it had
                edge.have = b""
                edge.wake.set()
            else:
                edge.refused = version.digest
                log.error(
                    "edge %s refuses snapshot %s: %s",
                    edge.identity.name,
                    version.manifest.number,
                    printable(answer.reason),
                )
            if channel.current is not version:
                edge.wake.set()

    async def _exchange(
        self, edge: ConnectedEdge, channel: Channel, version: Version
    ) -> messages.Applied | messages.Refused:
        edge.answer = asyncio.get_running_loop().create_future()
        for message in await channel.messages(version, edge.have, self._in_thread):
            async with asyncio.timeout(ANSWER):
                await edge.connection.send(message)
        async with asyncio.timeout(ANSWER):
            return await edge.answer

    @contextlib.asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """One of WHOLE slots, for SLOT seconds at most: slow edges do not keep others waiting."""
        await self._slots.acquire()
        release = asyncio.get_running_loop().call_later(SLOT, self._slots.release)
        try:
            yield
        finally:
            if release.when() > asyncio.get_running_loop().time():
                release.cancel()
                self._slots.release()

    # connections

    async def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """The response that refuses a connection; None to accept it."""
        path = request.path
        if path == "/healthz":
            return connection.respond(HTTPStatus.OK, "ok\n")
        if path in ("/ca", "/enroll"):
            if self._strangers >= MAX_STRANGERS:
                return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections\n")
            return None
        if path != "/feed":
            return connection.respond(HTTPStatus.NOT_FOUND, "not found\n")
        if sum(not edge.gone for edge in self._edges.values()) >= MAX_EDGES:
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "too many edges\n")
        if _id(connection) not in self._identities:
            try:
                await self._check()  # perhaps another control plane has just enrolled it
            except (ApiError, SettingsError):
                return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "the store does not respond\n")
            if _id(connection) not in self._identities:
                return connection.respond(HTTPStatus.FORBIDDEN, "this edge is revoked, or not known\n")
        return None

    async def _serve(self, connection: ServerConnection) -> None:
        path = connection.request.path if connection.request else ""
        try:
            if path == "/feed":
                await self._follow(connection)
                return
            self._strangers += 1
            try:
                await self._stranger(connection, path)
            finally:
                self._strangers -= 1
        except (ConnectionClosed, TimeoutError, OSError):
            pass
        except (msgspec.MsgspecError, KeyfrontError) as error:
            log.warning("a connection from %s ends: %s", (connection.remote_address or ("?",))[0], error)
            await connection.close(messages.AGAIN, "protocol error")

    async def _stranger(self, connection: ServerConnection, path: str) -> None:
        if path == "/ca":
            await connection.send(messages.encode(messages.Authority(self._keys.authority.pem)))
            return
        async with asyncio.timeout(HANDSHAKE):
            message = await _receive(connection)
        if not isinstance(message, messages.Enroll):
            raise SettingsError("it does not begin with Enroll")
        address = str((connection.remote_address or ("",))[0])
        answer: messages.Enrolled | messages.Refusal
        try:
            made = await self._in_thread(
                self._registry.enroll, message.secret, message.csr, message.name, address, self._clock()
            )
            answer = messages.Enrolled(
                made.certificate, made.identity.name, made.identity.region, self._keys.chain[-1].public
            )
            log.info(
                "edge %s is enrolled",
                made.identity.name,
                extra={"edge": made.identity.name, "region": made.identity.region, "address": address},
            )
        except (SettingsError, ApiError) as error:
            log.warning("an edge at %s is not enrolled: %s", address, error)
            answer = messages.Refusal(error.message if isinstance(error, ApiError) else str(error))
        self._identities = await self._in_thread(self._registry.identities)
        await connection.send(messages.encode(answer))

    async def _follow(self, connection: ServerConnection) -> None:
        """Serve one edge until its connection ends."""
        identity = self._identities.get(_id(connection))
        async with asyncio.timeout(HANDSHAKE):
            hello = await _receive(connection)
        if identity is None or not isinstance(hello, messages.Hello) or hello.version != messages.VERSION:
            raise SettingsError("it does not begin with Hello of a known version")
        edge = ConnectedEdge(identity, connection, hello)
        edge.proof = self._proof(hello.proof)
        if (before := self._edges.get(identity.id)) is not None:
            edge.workers, edge.at, edge.ended = before.workers, before.at, before.ended
            before.gone = True
            self._spawn(_quietly(before.connection.close(messages.REPLACED, "connected again")))
        self._edges[identity.id] = edge
        log.info(
            "edge %s is connected",
            identity.name,
            extra={"edge": identity.name, "address": edge.address, "software": edge.software},
        )
        await connection.send(self._welcome(edge))
        sending = asyncio.create_task(self._send(edge))
        receiving = asyncio.create_task(self._receive(edge))
        try:
            await asyncio.wait([sending, receiving], return_when=asyncio.FIRST_COMPLETED)
        finally:
            edge.gone = True
            sending.cancel()
            receiving.cancel()
            results = await asyncio.gather(sending, receiving, return_exceptions=True)
            log.info("edge %s is disconnected", identity.name, extra={"edge": identity.name})
        for result in results:
            if isinstance(result, Exception):
                raise result

    def _welcome(self, edge: ConnectedEdge) -> bytes:
        number = 0 if self._whole is None else self._whole.number
        return messages.encode(messages.Welcome(number, manifest.after(self._keys.chain, edge.trusts)))

    async def _receive(self, edge: ConnectedEdge) -> None:
        """Take in an edge's messages until its connection ends."""
        allowance, last = BURST, time.monotonic()
        while True:
            message = await _receive(edge.connection)
            edge.heard = now = time.monotonic()
            allowance = min(BURST, allowance + (now - last) * RATE) - 1
            last = now
            if allowance < 0:
                await asyncio.sleep(-allowance / RATE)
            match message:
                case messages.Status():
                    edge.update(message, self._clock())
                case messages.Applied() | messages.Refused():
                    if edge.answer is not None and not edge.answer.done():
                        edge.answer.set_result(message)
                case messages.Ended() if NAME.fullmatch(message.id) and NAME.fullmatch(message.report.name):
                    edge.add_ended(message)
                case messages.Renew():
                    if now - self._renewed.get(edge.identity.id, -RENEWAL) < RENEWAL:
                        raise SettingsError("it renews its certificate too often")
                    self._renewed[edge.identity.id] = now
                    pem = await self._in_thread(
                        self._registry.renew, edge.identity.id, message.csr, self._clock()
                    )
                    await edge.connection.send(messages.encode(messages.Renewed(pem)))
                case _:
                    raise SettingsError(f"it sent {type(message).__name__} unexpectedly")

    # the registry

    def _present(self) -> list[Seen]:
        return [edge.seen() for edge in self._edges.values() if not edge.gone]

    def _on_new_key(self) -> None:
        for edge in list(self._edges.values()):
            self._spawn(_quietly(edge.connection.send(self._welcome(edge))))

    def _on_revoked(self, edge: ConnectedEdge) -> None:
        self._spawn(_quietly(_cut(edge.connection, messages.REVOKED, "revoked")))

    def _tidy(self) -> None:
        """Cut silent and expired connections, and forget edges that have been away for long."""
        now, silent = self._clock(), time.monotonic() - SILENT
        for id_, edge in list(self._edges.items()):
            if not edge.gone and edge.heard < silent:
                edge.connection.transport.abort()
            elif not edge.gone and edge.expires <= now:
                edge.expires = math.inf  # close it once
                self._spawn(_quietly(_cut(edge.connection, messages.EXPIRED, "the certificate has expired")))
            if edge.gone and not edge.ended and abs(now - edge.at) > RETAIN:
                del self._edges[id_]


def _server_context(keys: Keys) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(cadata=keys.authority.pem.decode())
    return context


def _id(connection: ServerConnection) -> str:
    return authority.edge_id(peer_certificate(connection))


async def _receive(connection: ServerConnection) -> messages.ToControl:
    data = await connection.recv(decode=False)
    return messages.decode_to_control(data)


async def _quietly(work: Coroutine[Any, Any, None]) -> None:
    with contextlib.suppress(ConnectionClosed, OSError, TimeoutError):
        await work


async def _cut(connection: ServerConnection, code: int, reason: str) -> None:
    """Close a connection whether or not the other side answers."""
    try:
        async with asyncio.timeout(0.5):
            await connection.close(code, reason)
    finally:
        connection.transport.abort()


_quiet = logging.getLogger("keyfront.fleet.websockets")
_quiet.setLevel(logging.CRITICAL)
