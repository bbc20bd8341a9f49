"""The client side of Origin Shield: an edge sends a request to its parent instead of the origin.

An edge is configured with the parent edge of each OriginShieldRegion. A request to an origin with that region goes to
the parent: the same method, target, and headers, without the secrets that the parent has itself. One additional field,
`X-Edge-Shield`, names the distribution, behavior, and origin (`ShieldQuery`). The parent responds from its cache or
from the origin, and describes the response in the same field (`ShieldAnswer`). Both fields are authenticated with a
secret that the two edges share, over everything that they refer to, so that only edges can write them.

If the parent fails in any way, the request goes to the origin as if there were no shield, unless it may already have
been processed and must not be repeated. The parent's side is `serving.shield_server`; decision 0017 gives the reasons.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Final

import msgspec

from keyfront.edge.origin.client import Origins
from keyfront.edge.origin.request import OriginRequest
from keyfront.edge.origin.shield_protocol import (
    FIELD,
    Secrets,
    carried,
    sealed_answer,
    sealed_query,
    variant_of,
    without,
)
from keyfront.edge.rules.cache_key import selection_beyond_root
from keyfront.edge.rules.routing import Plan
from keyfront.edge.types.messages import Headers, OriginReply, Request
from keyfront.edge.types.shield import ShieldAnswer, ShieldQuery
from keyfront.errors import OriginFailure, SettingsError, clear_traceback
from keyfront.model.snapshot import Origin

logger = logging.getLogger("keyfront.edge")

PATIENCE = 1.0
"""Seconds after which a parent that has not responded is pinged, and between two pings."""
PING = 2.0
"""Seconds within which a parent must answer a ping, and accept a connection."""
DOWN = 5.0
"""Seconds for which a parent that was found to be down is not used."""
KEPT: Final = 1024 * 1024
"""Bytes of a request body that are buffered until the parent has accepted the request."""
LARGEST: Final = 19_500
"""Bytes of a request head above which the parent is bypassed, because its shell would reject the request."""

# Failures after which the parent is considered down.
_DEAD: Final = frozenset({"OriginConnectError", "OriginDnsError", "OriginReadError"})
_UNSENT: Final = frozenset({"OriginConnectError", "OriginDnsError"})
_REPEATABLE: Final = frozenset({"GET", "HEAD", "OPTIONS"})


# -- messages: pure --------------------------------------------------------------------------------------


class RelayedFailure(OriginFailure):
    """A failure of the origin that the parent encountered. `seconds` is how long the parent will not contact the origin
    again, 0 if it may."""

    def __init__(self, kind: str, status: int, detail: str, seconds: float) -> None:
        super().__init__(kind, status, detail)
        self.seconds = seconds


_ADDRESS: Final = re.compile(r"(https?)://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):([0-9]{1,5})/?")


def parent_address(text: str) -> Origin:
    """The parent at `HOST:PORT` or `https://HOST:PORT`.

    :raises SettingsError: if the text has neither form.
    """
    found = _ADDRESS.fullmatch(text if "://" in text else f"http://{text}")
    if found is None or not 0 < int(found[3]) < 65536:
        raise SettingsError(f"{text!r} is not an edge's address: HOST:PORT, or https://HOST:PORT")
    scheme, host, port = found[1], found[2].strip("[]"), int(found[3])
    return Origin(
        "shield",
        host,
        protocol_policy="https-only" if scheme == "https" else "http-only",
        http_port=port,
        https_port=port,
        connection_attempts=1,
        connection_timeout=PING,
        keepalive_timeout=30.0,
    )


# -- requests --------------------------------------------------------------------------------------------------


class ReplayableBody:
    """A request body that can be read again from the start, as long as at most `KEPT` bytes of it have been read."""

    def __init__(self, source: AsyncIterator[bytes]) -> None:
        self._source = source
        self._chunks: list[bytes] = []
        self._size = 0
        self._at = 0

    def __aiter__(self) -> ReplayableBody:
        return self

    async def __anext__(self) -> bytes:
        if self._at < len(self._chunks):
            chunk = self._chunks[self._at]
            self._at += 1
            return chunk
        chunk = await anext(self._source)
        self._size += len(chunk)
        if self._size <= KEPT:
            self._chunks.append(chunk)
            self._at = len(self._chunks)
        else:
            self._chunks.clear()
            self._at = 0
        return chunk

    def rewound(self) -> bool:
        """Start again from the beginning. Returns False if the beginning is no longer buffered."""
        self._at = 0
        return self._size <= KEPT


class Question(msgspec.Struct):
    """A request for an origin that has a shield. `headers` are the final ones for the origin, with its Host first."""

    method: str
    target: str
    viewer_host: str
    headers: Headers
    query: ShieldQuery
    origin: Origin
    body: ReplayableBody | None = None
    length: int | None = None


class ShieldClient:
    """The connection to one parent, which replaces origins."""

    def __init__(
        self, region: str, address: str, secrets: Secrets, origins: Origins, clock: Callable[[], float]
    ) -> None:
        self._name = f"the origin shield for {region}, {address},"
        self._address = parent_address(address)
        self._secrets = secrets
        self._origins = origins
        self._clock = clock
        self._down = False
        self._down_until = 0.0
        self._silent_until = 0.0
        self._ping: asyncio.Task[bool] | None = None

    async def fetch(self, question: Question) -> tuple[OriginReply, ShieldAnswer] | None:
        """The parent's response, or None if the origin must be contacted instead.

        :raises OriginFailure: the failure that the parent encountered at the origin; or a failure of the parent itself
            after which the request cannot be sent again.
        """
        if asyncio.get_running_loop().time() < self._down_until:
            return None
        body, origin = question.body, question.origin
        # As long as the parent may wait for the origin, plus a margin.
        patience = origin.connection_attempts * (origin.connection_timeout + origin.read_timeout) + 5.0
        address = msgspec.structs.replace(self._address, read_timeout=patience)
        try:
            answer, shield = await self._patient(self._exchange(address, question))
        except OriginFailure as failure:
            if failure.kind in _DEAD:
                self._lost(str(failure))
            unsent = failure.kind in _UNSENT
            if not unsent and (body is not None or question.method not in _REPEATABLE):
                raise
            clear_traceback(failure)
            if body is not None and not body.rewound():
                raise
            return None
        if shield is None:
            await answer.aclose()
            self._lost("the server there is not an edge with the same secret")
            if body is not None or question.method not in _REPEATABLE:
                raise OriginFailure("OriginCommError", 502, f"{self._name} is none")
            return None
        if shield.refused:
            await answer.aclose()
            self._refused(shield.refused)
            if body is not None and not body.rewound():
                raise OriginFailure("OriginCommError", 502, f"{self._name} refused: {shield.refused}")
            return None
        self._found()
        if shield.failure is not None:
            await answer.aclose()
            raise RelayedFailure(*shield.failure)
        return answer, shield

    async def _exchange(self, address: Origin, question: Question) -> tuple[OriginReply, ShieldAnswer | None]:
        """Send one request to the parent. The ShieldAnswer is None if the server that responded is not a parent."""
        query = msgspec.structs.replace(question.query, time=int(self._clock()), nonce=os.urandom(12))
        headers = [(b"host", question.viewer_host.encode("latin-1"))]
        headers += carried(without(question.headers[1:], question.origin))
        seal = self._secrets.sealed(sealed_query(question.method, question.target, headers), query)
        answer = await self._origins.fetch(
            address,
            OriginRequest(
                address.protocol_policy.removesuffix("-only"),
                question.method,
                question.target,
                [*headers, (FIELD, seal)],
                question.body,
                question.length,
            ),
        )
        values = [value for name, value in answer.headers if name == FIELD]
        answer.headers = [header for header in answer.headers if header[0] != FIELD]
        payload = None
        if len(values) == 1:
            payload = self._secrets.opened(sealed_answer(query.nonce, answer.status), values[0])
        if payload is None:
            return answer, None
        try:
            return answer, msgspec.msgpack.decode(payload, type=ShieldAnswer)
        except msgspec.MsgspecError:  # sent by a later version
            return answer, ShieldAnswer(refused="it uses another version of this protocol")

    async def _patient(
        self, exchange: Coroutine[Any, Any, tuple[OriginReply, ShieldAnswer | None]]
    ) -> tuple[OriginReply, ShieldAnswer | None]:
        """Wait for a response for as long as the parent answers pings: a slow origin is acceptable, a dead machine must
        not block the request.

        :raises OriginFailure: whatever the exchange raises; OriginReadError if the parent does not answer pings.
        """
        task = asyncio.ensure_future(exchange)
        try:
            while not (await asyncio.wait((task,), timeout=PATIENCE))[0]:
                if not await self._lives() and not task.done():
                    raise OriginFailure("OriginReadError", 504, f"it is silent for {PATIENCE + PING:g} s")
            return task.result()
        except BaseException:
            if not task.done():
                task.cancel()
            raise

    async def _lives(self) -> bool:
        """Whether the parent answers a ping. All waiting requests share one ping."""
        if self._ping is None or self._ping.done():
            self._ping = asyncio.ensure_future(self._pinged())
        return await asyncio.shield(self._ping)

    async def _pinged(self) -> bool:
        address = msgspec.structs.replace(self._address, read_timeout=PING)
        question = Question("OPTIONS", "*", "shield", [(b"host", b"")], ShieldQuery(0, b""), address)
        try:
            async with asyncio.timeout(PING):
                answer, shield = await self._exchange(address, question)
                await answer.aclose()
        except (OriginFailure, TimeoutError):
            return False
        return shield is not None

    async def aclose(self) -> None:
        if self._ping is not None:
            self._ping.cancel()
            await asyncio.gather(self._ping, return_exceptions=True)

    def _lost(self, why: str) -> None:
        """Bypass the parent for a while."""
        self._down_until = asyncio.get_running_loop().time() + DOWN
        if not self._down:
            self._down = True
            logger.warning("%s is bypassed, and requests go directly to the origins: %s", self._name, why)

    def _found(self) -> None:
        if self._down:
            self._down = False
            logger.warning("%s answers again", self._name)

    def _refused(self, why: str) -> None:
        """Log a refusal, at most once a minute: it may affect a few requests while a configuration change
        propagates."""
        now = asyncio.get_running_loop().time()
        if now >= self._silent_until:
            self._silent_until = now + 60.0
            logger.warning("%s refused a request, which went to the origin instead: %s", self._name, why)


class Shields:
    """The parents of an edge, by OriginShieldRegion. `secret` is the file with the shared secrets. `origins` makes the
    connections to parents and to nothing else; it is closed together with this object.

    :raises SettingsError: if an address or the secret file is invalid.
    """

    def __init__(
        self,
        addresses: tuple[tuple[str, str], ...],
        secret: str,
        origins: Origins,
        clock: Callable[[], float],
    ) -> None:
        secrets = Secrets.of_file(secret)
        self._origins = origins
        self._parents = {
            region: ShieldClient(region, address, secrets, origins, clock) for region, address in addresses
        }

    def has(self, origin: Origin) -> bool:
        """Whether a parent is configured for this origin's region."""
        return origin.shield_region in self._parents

    async def fetch(
        self,
        plan: Plan,
        number: int,
        key: str | None,
        viewer_request: Request,
        request: OriginRequest,
        body: ReplayableBody | None,
    ) -> OriginReply | None:
        """The parent's response in place of the plan's origin with that number, with `shield_answer` set. None if the
        origin must be contacted instead.

        :param key: the cache key of the request, None if the request bypasses the cache.
        :param request: what the origin would be sent, with `body`.
        :raises OriginFailure: see `ShieldClient.fetch`.
        """
        route = plan.route
        origin = route.origins[number]
        headers = request.headers
        if len(plan.target) + sum(len(name) + len(value) + 4 for name, value in headers) > LARGEST:
            return None
        variant = ""
        if key is not None and plan.key is not None:
            variant = variant_of(selection_beyond_root(key))
        site = route.site
        query = ShieldQuery(
            0,
            b"",
            site.distribution.id,
            site.digest,
            site.distribution.behaviors.index(route.behavior),
            number,
            headers[0][1].decode("latin-1"),
            viewer_request.scheme,
            variant,
            key is not None,
        )
        question = Question(
            request.method, plan.target, viewer_request.host, headers, query, origin, body, request.length
        )
        found = await self._parents[origin.shield_region].fetch(question)
        if found is None:
            return None
        answer, shield = found
        answer.shield_answer = shield
        return answer

    async def aclose(self) -> None:
        for parent in self._parents.values():
            await parent.aclose()
        await self._origins.aclose()
