"""Pass-through: requests that bypass the cache, and responses for a single viewer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import msgspec

from keyfront.edge.limits.reports import Reached
from keyfront.edge.limits.uploads import Gathered, Memory, UploadLimits
from keyfront.edge.rules import encoding, freshness
from keyfront.edge.rules.encoding import accepted_encoding
from keyfront.edge.rules.routing import Plan
from keyfront.edge.rules.viewer_response import viewer_headers
from keyfront.edge.serving.configuration import ActiveConfiguration
from keyfront.edge.serving.exchange import SHIELD_HIT, Exchange
from keyfront.edge.serving.origin_fetch import OriginFetcher
from keyfront.edge.serving.purge import Purger
from keyfront.edge.types.messages import OriginReply, Reply


class PassThrough:
    """Responds from the origin, without the cache.

    :param upload_memory: limits the memory for request bodies that are read ahead, in this worker.
    """

    def __init__(
        self,
        active: ActiveConfiguration,
        purger: Purger,
        fetcher: OriginFetcher,
        limits: UploadLimits,
        upload_memory: Memory,
        reached: Reached,
        clock: Callable[[], float],
    ) -> None:
        self._active = active
        self._purger = purger
        self._fetcher = fetcher
        self._limits = limits
        self._upload_memory = upload_memory
        self._reached = reached
        self._clock = clock

    async def respond(self, exchange: Exchange, plan: Plan) -> Reply:
        """The origin's response to this request.

        :raises OriginFailure: if the origin failed.
        """
        exchange.trace.snapshot = self._active.routing.number
        gathered = await self._gather(exchange)
        try:
            answer, _, _ = await self._fetcher.fetch(exchange, plan, exchange.request.method)
        finally:
            if gathered is not None:
                gathered.release()
        return await self.relay(exchange, plan, answer)

    async def _gather(self, exchange: Exchange) -> Gathered | None:
        """Read a small request body completely before the origin is contacted, so that a slow viewer does not tie up an
        origin connection."""
        limits, request = self._limits, exchange.request
        if request.body is None or (request.length is not None and request.length > limits.buffer):
            return None
        gathered = Gathered(request.body, self._upload_memory)
        try:
            if not await gathered.gather(limits.buffer):
                self._reached.add("upload_memory", request.client_ip, self._clock())
        except BaseException:
            gathered.release()
            raise
        exchange.request = msgspec.structs.replace(request, body=gathered)
        return gathered

    async def relay(self, exchange: Exchange, plan: Plan, answer: OriginReply) -> Reply:
        """The reply that relays an origin's response to this viewer only."""
        request, behavior = exchange.request, plan.route.behavior
        exchange.trace.origin_status = answer.status
        if freshness.invalidates(request.method, answer.status):
            self._purger.invalidate_unsafe(exchange, plan, answer)
        headers = viewer_headers(behavior, answer.headers)
        shield_hit = answer.shield_answer is not None and answer.shield_answer.hit
        result = "Hit" if shield_hit else "Miss"
        reply = Reply(answer.status, headers, x_cache=result if answer.status < 400 else "Error")
        if shield_hit and answer.status < 400:
            reply.detail = SHIELD_HIT
        reply.length = answer.length
        if request.method == "HEAD" or answer.status in (204, 304):
            # The size that a GET would return (RFC 9110 §9.3.2), not how the origin framed this response.
            sizes = [value for name, value in answer.headers if name == b"content-length"]
            reply.length = int(sizes[0]) if sizes and answer.status not in (204, 304) else None
            if exchange.key is not None and encoding.compressible(
                behavior, answer.status, answer.headers, reply.length
            ):
                coding = encoding.coding_for(accepted_encoding(behavior, request))
                reply.headers = encoding.represented(headers, coding)
                reply.length = None if encoding.compressed(coding) else reply.length
            await answer.aclose()
        else:
            reply.body = _closing(answer)
        return reply


async def _closing(answer: OriginReply) -> AsyncIterator[bytes]:
    """The body of the response; the response is closed at its end."""
    try:
        async for chunk in answer.body:
            yield chunk
    finally:
        await answer.aclose()
