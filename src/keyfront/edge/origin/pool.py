"""The pools of one worker's connections to origins, including idle connections."""

from __future__ import annotations

import asyncio
import re
import ssl
import warnings
from typing import Final

from keyfront.edge.origin.connect import PermanentOriginFailure
from keyfront.edge.origin.connection import Connection
from keyfront.edge.origin.host_state import HostState, HostStates
from keyfront.edge.origin.response_reader import NEVER
from keyfront.edge.origin.warnings_log import OriginWarnings
from keyfront.edge.types.messages import Headers
from keyfront.errors import OriginFailure, SettingsError
from keyfront.model.snapshot import Origin

PoolKey = tuple[str, int, str, tuple[str, ...], bool]
"""Host, port, server name, TLS versions, and whether `egress` applies to its addresses."""

# A name that can be sent as SNI. A viewer chose it, within the aliases of a distribution.
_HOST_NAME: Final = re.compile(r"(?=.{1,253}$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_VERSIONS: Final = {
    "TLSv1": ssl.TLSVersion.TLSv1,
    "TLSv1.1": ssl.TLSVersion.TLSv1_1,
    "TLSv1.2": ssl.TLSVersion.TLSv1_2,
    "TLSv1.3": ssl.TLSVersion.TLSv1_3,
}


class TlsContexts:
    """One client context for each minimum TLS version. Certificates and names are always verified.

    :param ca_file: a PEM file of certificate authorities to trust in addition to the system's.
    :raises SettingsError: if `ca_file` cannot be read or holds no certificate.
    """

    def __init__(self, ca_file: str | None) -> None:
        if ca_file is not None:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(ca_file)
            except (OSError, ssl.SSLError) as error:
                raise SettingsError(f"no certificate authorities in {ca_file}: {error}") from error
        self._ca_file = ca_file
        self._contexts: dict[ssl.TLSVersion, ssl.SSLContext] = {}

    def get(self, protocols: tuple[str, ...]) -> ssl.SSLContext:
        """The context for a list of protocols. The lowest protocol listed is the minimum; there is no maximum. SSLv3 is
        no longer supported; TLSv1 and TLSv1.1 work as far as OpenSSL allows.

        :raises PermanentOriginFailure: OriginConnectError 502, if OpenSSL supports none of the protocols.
        """
        known = [_VERSIONS[name] for name in protocols if name in _VERSIONS]
        if not known:
            raise PermanentOriginFailure(
                "OriginConnectError", 502, f"none of {', '.join(protocols)} is spoken any more"
            )
        lowest = min(known)
        context = self._contexts.get(lowest)
        if context is None:
            context = ssl.create_default_context()
            if self._ca_file is not None:
                context.load_verify_locations(self._ca_file)
            context.set_alpn_protocols(["http/1.1"])
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", DeprecationWarning
                )  # TLSv1 is deprecated: the operator's explicit choice
                context.minimum_version = lowest
            self._contexts[lowest] = context
        return context


class Pool:
    """The idle connections to one host, port and TLS identity; the most recently used one is taken first.

    `server_names` are sent as SNI and matched against the certificate, in this order: a certificate may name the Host
    that is forwarded to the origin, or the origin's own domain (CloudFront Developer Guide, "Require HTTPS for
    communication between CloudFront and your custom origin"). The name that worked is remembered.
    """

    __slots__ = (
        "_pools", "context", "host", "idle", "judged", "key", "port", "server_names", "state", "viewer_names",
    )  # fmt: skip

    def __init__(self, pools: Pools, key: PoolKey, state: HostState, context: ssl.SSLContext | None) -> None:
        self._pools = pools
        self.key = key
        host, self.port, server_name, _, self.judged = key
        self.host = host = host.strip("[]")
        self.state = state
        self.context = context
        forwarded = server_name != host and _HOST_NAME.fullmatch(server_name) is not None
        self.server_names = (server_name, host) if forwarded else (host,)
        self.viewer_names = forwarded  # the SNI is the forwarded Host, which a viewer may choose
        self.idle: list[Connection] = []

    @property
    def name(self) -> str:
        """Host and port, for messages."""
        return f"{self.host}:{self.port}"

    def take(self, max_idle_seconds: float) -> Connection | None:
        """A connection that has been idle for at most that many seconds, or None."""
        idle = self.idle
        while idle:
            connection = idle[-1]
            if not connection.usable:
                idle.pop()
                self._pools.idle -= 1
                continue
            if (
                max_idle_seconds != NEVER
                and connection.loop.time() - connection.idle_since > max_idle_seconds
            ):
                return None  # the others have been idle even longer
            idle.pop()
            self._pools.idle -= 1
            if connection.has_unread:
                connection.abort()  # unsolicited data must not be taken for the response to the next request
                continue
            return connection
        return None

    # Called by the pool's connections (`connection.ConnectionOwner`).

    def on_idle(self, connection: Connection) -> None:
        pools = self._pools
        self.state.response_ended(connection)
        if not pools.has_room:
            connection.close()
            return
        self.idle.append(connection)
        pools.idle += 1
        if len(self.idle) > pools.max_idle_per_origin:
            pools.idle -= 1
            self.idle.pop(0).close()

    def on_bad_response(self, failure: BaseException) -> None:
        if isinstance(failure, OriginFailure):
            self._pools.warnings.add(
                self.name,
                failure.kind,
                f"an answer of the origin {self.name} was refused ({failure.kind}): {failure.detail}",
            )

    def on_closed(self, connection: Connection) -> None:
        pools = self._pools
        self.state.response_ended(connection)
        pools.discard(connection)
        if connection in self.idle:
            self.idle.remove(connection)
            pools.idle -= 1


class Pools:
    """All pools of one worker. `idle` counts the idle connections in all of them.

    :param max_idle_per_origin: maximum idle connections to one origin; the least recently used one is closed first.
    :param max_idle: maximum idle connections in total; at this number, no further connection is pooled.
    """

    def __init__(
        self,
        contexts: TlsContexts,
        states: HostStates,
        warnings: OriginWarnings,
        max_idle_per_origin: int,
        max_idle: int,
    ) -> None:
        self.warnings = warnings
        self.max_idle_per_origin = max_idle_per_origin
        self.idle = 0
        self.open: set[Connection] = set()
        self.closed = False
        self._contexts = contexts
        self._states = states
        self._max_idle = max_idle
        self._emptied: asyncio.Future[None] | None = None
        self.by_key: dict[PoolKey, Pool] = {}

    def get(self, origin: Origin, scheme: str, headers: Headers, *, judged: bool) -> Pool:
        """The pool for an origin.

        :param headers: the headers for the origin; their Host may be the server name.
        :param judged: whether `egress` applies. It is part of the pool's identity, so that a request that `egress` must
            check never gets a connection that was not checked.
        :raises PermanentOriginFailure: see `TlsContexts.get`.
        """
        host = origin.domain_name
        key: PoolKey
        if scheme == "http":
            key = (host, origin.http_port, "", (), judged)
        else:
            key = (host, origin.https_port, _server_name(headers, host), origin.ssl_protocols, judged)
        pool = self.by_key.get(key)
        if pool is None:
            pool = self._add(key, None if scheme == "http" else self._contexts.get(origin.ssl_protocols))
        return pool

    def _add(self, key: PoolKey, context: ssl.SSLContext | None) -> Pool:
        if len(self.by_key) >= self._max_idle:
            self.by_key = {key: pool for key, pool in self.by_key.items() if pool.idle}
        pool = self.by_key[key] = Pool(self, key, self._states.get(key[0].strip("[]"), key[1]), context)
        return pool

    @property
    def has_room(self) -> bool:
        """Whether another idle connection may be pooled."""
        return not self.closed and self.idle < self._max_idle

    def add(self, connection: Connection) -> None:
        self.open.add(connection)

    def discard(self, connection: Connection) -> None:
        self.open.discard(connection)
        if not self.open and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    async def aclose(self) -> None:
        """Close every connection, including those in use, and wait until they are gone (at most a second)."""
        self.closed = True
        for connection in list(self.open):
            connection.break_off(OriginFailure("OriginCommError", 502, "the edge is closing"))
        if self.open:
            self._emptied = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._emptied], timeout=1.0)


def _server_name(headers: Headers, host: str) -> str:
    """The host, without its port, that a request forwards in Host; the origin's own host if it forwards none."""
    for name, value in headers:
        if name == b"host":
            return value.decode("latin-1").lower().partition(":")[0]
    return host
