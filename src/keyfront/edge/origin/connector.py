"""The connector for new connections to origins: resolve, check addresses, connect, TLS. All of this must finish within
the connection timeout, and no connection is made while an origin's circuit breaker is open."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import ssl
from collections.abc import Callable
from typing import Final

from keyfront.edge.net.tls import TlsTransport
from keyfront.edge.origin.connect import Address, DnsCache, PermanentOriginFailure, first_connected, is_own
from keyfront.edge.origin.connection import Connection
from keyfront.edge.origin.egress import Egress
from keyfront.edge.origin.host_state import HostStates
from keyfront.edge.origin.pool import Pool, Pools
from keyfront.edge.origin.warnings_log import OriginWarnings
from keyfront.errors import OriginFailure

logger = logging.getLogger("keyfront.edge")

# OpenSSL verification errors for a certificate issued to another host or IP address.
_OTHER_NAME: Final = frozenset({62, 64})
# Errors from connecting that mean that this machine lacks a resource: files, memory, free ports.
_OWN_SHORTAGE: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL}
)


class Connector:
    """Opens new connections to origins.

    :param egress: which addresses may be connected to; None for all.
    :param clock: returns epoch seconds, for the log.
    """

    def __init__(
        self,
        pools: Pools,
        states: HostStates,
        warnings: OriginWarnings,
        egress: Egress | None,
        clock: Callable[[], float],
    ) -> None:
        self._pools = pools
        self._states = states
        self._warnings = warnings
        self._egress = egress
        self._clock = clock
        self._names = DnsCache()

    def close(self) -> None:
        self._names.close()

    async def connect(self, pool: Pool, seconds: float, completion: float) -> Connection:
        """Open a new connection, including TLS.

        :param seconds: the connection timeout, in seconds.
        :param completion: the loop's time after which the request fails anyway.
        :raises PermanentOriginFailure: the last failure again, with the reason `origin_circuit_open`, while the breaker
            is open; or a failure that a retry would only repeat.
        :raises OriginFailure: see the table in `client`.
        """
        state, clock = pool.state, asyncio.get_running_loop().time
        breaker, reached = state.breaker, self._states.reached
        if not breaker.permits(clock()):
            reached.counts["origin_circuit_open"] += 1
            kind, status, detail = state.failure
            raise PermanentOriginFailure(
                kind, status, f"not tried again yet, after: {detail}", "origin_circuit_open"
            )
        attempt = _Attempt()
        try:
            connection = await self._try(attempt, pool, seconds, completion)
        except OriginFailure as failure:
            if failure.reason or failure.kind == "OriginCommError" or attempt.is_no_evidence(pool, failure):
                breaker.given_up()  # it says nothing about the origin
            else:
                state.failure = (failure.kind, failure.status, failure.detail)
                if breaker.failed(clock()):
                    pause = self._states.limits.pause
                    detail = f"{pool.name} is left alone for {pause:g} s: {failure.detail}"
                    reached.add("origin_circuit_opened", detail, self._clock())
            logger.debug(
                "origin connection failed",
                extra={"origin": pool.name, "kind": failure.kind, "detail": failure.detail},
            )
            raise
        except BaseException:
            breaker.given_up()
            raise
        if not breaker.closed:
            logger.info("origin answers again", extra={"origin": pool.name})
        breaker.succeeded()
        return connection

    async def _try(self, attempt: _Attempt, pool: Pool, seconds: float, completion: float) -> Connection:
        until = asyncio.get_running_loop().time() + seconds
        late = OriginFailure("OriginConnectError", 504, f"not connected within {seconds:g} s")
        if completion < until:
            until = completion
            late = OriginFailure("OriginCommError", 504, "the response completion timeout passed")
        try:
            async with asyncio.timeout_at(until):
                addresses = await self._names.resolve(pool.host, pool.port)
        except TimeoutError as error:
            raise OriginFailure("OriginDnsError", 502, f"{pool.host}: no answer in time") from error
        if pool.judged:
            addresses = self._permitted(pool, addresses)
        try:
            async with asyncio.timeout_at(until):
                return await self._open(attempt, pool, addresses)
        except TimeoutError as error:
            self._names.forget(pool.host)  # the next attempt resolves the origin's name again
            raise late from error
        except ssl.SSLCertVerificationError as error:
            # Another server name may yield another certificate, so this says nothing about the origin.
            raise PermanentOriginFailure(
                "OriginConnectError",
                502,
                f"certificate refused: {error.verify_message}",
                "origin_certificate_refused",
            ) from error
        except ssl.SSLError as error:
            raise OriginFailure("OriginConnectError", 502, f"no TLS: {error.reason or error}") from error
        except OSError as error:
            self._names.forget(pool.host)
            name = errno.errorcode.get(error.errno or 0, "")
            text = os.strerror(error.errno) if error.errno else str(error)
            raise OriginFailure("OriginConnectError", 502, f"{name} {text}".strip()) from error

    def _permitted(self, pool: Pool, addresses: list[Address]) -> list[Address]:
        """The addresses that the egress rule permits.

        :raises PermanentOriginFailure: OriginConnectError 502, if there are none.
        """
        egress = self._egress
        assert egress is not None  # noqa: S101 - only then a pool is judged
        permitted: list[Address] = []
        why = ""
        for address in addresses:
            refused = egress.refuses(address[1][0], address[1][1], is_own)
            if refused is None:
                permitted.append(address)
            else:
                why = why or refused
        if permitted:
            return permitted
        self._states.reached.counts["origin_address_refused"] += 1
        self._warnings.add(
            pool.name,
            "",
            f"no connection to the origin {pool.name}: {why}; see --allow-origins and docs/guide/origins.md",
        )
        raise PermanentOriginFailure(
            "OriginConnectError", 502, f"{pool.host}: {why}", "origin_address_refused"
        )

    async def _open(self, attempt: _Attempt, pool: Pool, addresses: list[Address]) -> Connection:
        """Connect with the first of the pool's server names that the origin's certificate contains."""
        for server_name in pool.server_names:
            try:
                connection = await self._handshake(attempt, pool, addresses, server_name)
            except ssl.SSLCertVerificationError as error:
                if error.verify_code not in _OTHER_NAME or server_name == pool.server_names[-1]:
                    raise
                continue
            pool.server_names = (server_name,)
            return connection
        raise ValueError("a pool has at least one server name")

    async def _handshake(
        self, attempt: _Attempt, pool: Pool, addresses: list[Address], server_name: str
    ) -> Connection:
        loop = asyncio.get_running_loop()
        sock = await first_connected(addresses)
        attempt.accepted = True
        connection = Connection(pool, loop)
        self._pools.add(connection)
        transport: asyncio.Transport | None = None
        try:
            if pool.context is None:
                await loop.create_connection(lambda: connection, sock=sock)
            else:
                secured = TlsTransport(pool.context, connection, None, server_name)
                transport, _ = await loop.create_connection(lambda: secured, sock=sock)
                await secured.handshake
        except BaseException:
            if transport is not None:
                transport.abort()
            else:
                sock.close()
            self._pools.discard(connection)
            raise
        if self._pools.closed:
            connection.abort()
        return connection


class _Attempt:
    """One attempt to connect. `accepted` says that the origin took the TCP connection."""

    __slots__ = ("accepted",)

    def __init__(self) -> None:
        self.accepted = False

    def is_no_evidence(self, pool: Pool, failure: OriginFailure) -> bool:
        """Whether the failure is no evidence that the origin is down: this machine lacks a resource, or the origin
        rejects a server name that a viewer chose. Otherwise any viewer could open the breaker for all others."""
        cause = failure.__cause__
        if isinstance(cause, OSError) and cause.errno in _OWN_SHORTAGE:
            return True
        return self.accepted and pool.viewer_names
