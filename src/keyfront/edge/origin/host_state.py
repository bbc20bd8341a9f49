"""One worker's state for each origin host and port: its requests in flight, and whether it is down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from keyfront.edge.limits.origins import Breaker, OriginLimits, Slots
from keyfront.edge.limits.reports import Reached
from keyfront.edge.origin.connection import Connection
from keyfront.edge.origin.response_reader import ResponseReader
from keyfront.errors import OriginFailure


class HostState:
    """The request slots and the circuit breaker of one host and port, shared by everything that connects there.
    `failure` is the kind, status and detail of the last failed connection."""

    __slots__ = ("_in_use", "breaker", "failure", "slots")

    def __init__(self, limits: OriginLimits) -> None:
        self.slots: Slots[asyncio.Future[None]] = Slots(limits.connections, limits.queue)
        self.breaker = Breaker(limits.failures, limits.pause)
        self.failure = ("OriginConnectError", 502, "")
        self._in_use: dict[Connection, RequestSlot] = {}

    @property
    def idle(self) -> bool:
        return self.slots.idle and self.breaker.closed

    def hold(self, connection: Connection, slot: RequestSlot) -> None:
        """Hold a slot until `response_ended` is called for this connection."""
        self._in_use[connection] = slot

    def response_ended(self, connection: Connection) -> None:
        """The response on this connection is complete, or has failed."""
        slot = self._in_use.pop(connection, None)
        if slot is not None:
            slot.release()

    def stop_waiting(self, waiter: asyncio.Future[None], slot: RequestSlot) -> None:
        """Leave the queue. A slot that was granted at the last moment is released."""
        if waiter.done() and not waiter.cancelled():
            slot.host = self
        else:
            self.slots.give_up(waiter)

    def release(self) -> None:
        """Pass a slot to the next request that still waits in the queue, or free it."""
        while True:
            waiter = self.slots.release()
            if waiter is None:
                return
            if not waiter.done():
                waiter.set_result(None)
                return


class RequestSlot:
    """One request's slot among those allowed with an origin, from before it is sent until its response is complete.
    `host` is None before and after that."""

    __slots__ = ("host",)

    def __init__(self) -> None:
        self.host: HostState | None = None

    def hold(self, connection: Connection, response: ResponseReader) -> None:
        """The head of the response has arrived; release the slot after the rest of it."""
        if response.complete or response.failure is not None or self.host is None:
            self.release()
        else:
            self.host.hold(connection, self)

    def release(self) -> None:
        host, self.host = self.host, None
        if host is not None:
            host.release()


class HostStates:
    """The state of each host and port. Idle entries are dropped once there are `max_hosts` of them."""

    def __init__(
        self, limits: OriginLimits, reached: Reached, clock: Callable[[], float], max_hosts: int
    ) -> None:
        self.limits = limits
        self.reached = reached
        self._clock = clock
        self._max_hosts = max_hosts
        self._states: dict[tuple[str, int], HostState] = {}

    def get(self, host: str, port: int) -> HostState:
        state = self._states.get((host, port))
        if state is None:
            if len(self._states) >= self._max_hosts:
                self._states = {key: each for key, each in self._states.items() if not each.idle}
            state = self._states[host, port] = HostState(self.limits)
        return state

    @property
    def load(self) -> tuple[int, int, int]:
        """The number of requests in flight, of requests waiting for a slot, and of hosts with an open breaker."""
        states = self._states.values()
        return (
            sum(state.slots.active for state in states),
            sum(len(state.slots.waiting) for state in states),
            sum(not state.breaker.closed for state in states),
        )

    async def take_slot(self, slot: RequestSlot, state: HostState, name: str, until: float) -> None:
        """Take a slot, after the requests that arrived earlier.

        :param name: the host and port, for the log.
        :param until: the loop's time at which the request fails in any case.
        :raises OriginFailure: LimitExceeded 503, if the queue is full or the wait is too long.
        """
        if state.slots.take():
            slot.host = state
            return
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        limits = self.limits
        why = f"{limits.connections} requests are with {name}"
        if not state.slots.wait(waiter):
            raise self._busy(f"{why} and {limits.queue} wait")
        try:
            async with asyncio.timeout_at(min(loop.time() + limits.queue_timeout, until)):
                await waiter
        except TimeoutError as error:
            state.stop_waiting(waiter, slot)
            raise self._busy(f"{why}; waited for {limits.queue_timeout:g} s") from error
        except BaseException:
            state.stop_waiting(waiter, slot)
            raise
        slot.host = state

    def _busy(self, why: str) -> OriginFailure:
        self.reached.add("origin_busy", why, self._clock())
        return OriginFailure("LimitExceeded", 503, why, "origin_busy")
