"""Request heads that are late: their connections are closed, and no others. The protocol is driven without a
network."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from keyfront.control.wire.head_timeout import HeadTimeoutH11Protocol

HEAD = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"


class Loop:
    """A clock that advances only when called, with the protocol's timers and real tasks."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, Any, asyncio.Event]] = []

    def call_later(self, delay: float, callback: Any) -> Any:
        cancelled = asyncio.Event()
        self.timers.append((self.now + delay, callback, cancelled))

        class Handle:
            cancel = staticmethod(cancelled.set)

        return Handle()

    def create_task(self, coroutine: Any) -> Any:
        return asyncio.get_running_loop().create_task(coroutine)

    def go(self, seconds: float) -> None:
        self.now += seconds
        due = [timer for timer in self.timers if timer[0] <= self.now]
        self.timers = [timer for timer in self.timers if timer[0] > self.now]
        for _, callback, cancelled in due:
            if not cancelled.is_set():
                callback()


class Transport:
    def __init__(self) -> None:
        self.sent = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.sent += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return None

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Viewer:
    """A connection to an application that answers once `answer` is set."""

    def __init__(self) -> None:
        self.loop, self.transport = Loop(), Transport()
        self.answer = asyncio.Event()
        self.answer.set()
        config = uvicorn.Config(
            self._app,
            interface="asgi3",
            log_config=None,
            lifespan="off",
            proxy_headers=False,
            timeout_keep_alive=65,
        )
        loop: Any = self.loop
        self.protocol = HeadTimeoutH11Protocol(config, ServerState(), {}, loop)
        transport: Any = self.transport
        self.protocol.connection_made(transport)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await self.answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async def send(self, data: bytes) -> None:
        self.protocol.data_received(data)
        await self.settle()

    async def settle(self) -> None:
        """Let the application do what it can do now."""
        for _ in range(5):
            await asyncio.sleep(0)

    def closed(self) -> bool:
        return self.transport.closed

    @property
    def answers(self) -> int:
        return self.transport.sent.count(b"HTTP/1.1 200")


@pytest.fixture
async def viewer() -> Viewer:
    return Viewer()


async def test_who_says_nothing(viewer: Viewer) -> None:
    viewer.loop.go(19.9)
    assert not viewer.closed()
    viewer.loop.go(0.2)
    assert viewer.closed()


async def test_a_byte_now_and_then_wins_no_time(viewer: Viewer) -> None:
    for byte in range(19):
        await viewer.send(HEAD[byte : byte + 1])
        viewer.loop.go(1)
    assert not viewer.closed()
    await viewer.send(b"x")
    viewer.loop.go(1)
    assert viewer.closed()
    assert viewer.transport.sent == b""


async def test_a_head_in_time(viewer: Viewer) -> None:
    await viewer.send(HEAD)
    viewer.loop.go(19)
    await viewer.send(b"\r\n")
    viewer.loop.go(60)
    assert (viewer.answers, viewer.closed()) == (1, False)
    viewer.loop.go(6)  # it stays idle for as long as uvicorn allows
    assert viewer.closed()


async def test_the_next_head_has_a_time_of_its_own(viewer: Viewer) -> None:
    await viewer.send(HEAD + b"\r\n")
    viewer.loop.go(60)
    await viewer.send(HEAD)
    viewer.loop.go(19)
    assert not viewer.closed()
    await viewer.send(b"\r\n" + HEAD)  # answered; half of the third head arrived with it
    assert viewer.answers == 2
    viewer.loop.go(19)
    assert not viewer.closed()
    viewer.loop.go(2)
    assert viewer.closed()


async def test_a_body_and_an_answer_take_the_time_that_others_give_them(viewer: Viewer) -> None:
    viewer.answer.clear()
    await viewer.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\na")
    viewer.loop.go(100)
    await viewer.send(b"b" + HEAD)  # a request that arrives meanwhile waits, too
    viewer.loop.go(100)
    assert not viewer.closed()
    viewer.answer.set()
    await viewer.settle()
    assert viewer.answers == 1
    viewer.loop.go(19)
    assert not viewer.closed()
    viewer.loop.go(2)
    assert viewer.closed()


async def test_nothing_is_left_of_a_connection_that_ended(viewer: Viewer) -> None:
    await viewer.send(HEAD)
    viewer.protocol.connection_lost(None)
    assert all(cancelled.is_set() for _, _, cancelled in viewer.loop.timers)
