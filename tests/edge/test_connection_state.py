"""The state table of a connection, and the transitions that connections make.

Connections here have a transport that records what it is given, and a loop, but no socket.
"""

from __future__ import annotations

import ast
import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from keyfront.edge.http import connection as connections
from keyfront.edge.http.connection import Connection
from keyfront.edge.http.connection_state import MOVES, IllegalMove, State
from keyfront.edge.http.listener import Listener
from keyfront.edge.logs.access_log import AccessLog
from keyfront.edge.serving.edge import Edge
from keyfront.edge.serving.settings import EdgeSettings
from keyfront.edge.types.messages import Reply
from keyfront.model.snapshot import Origin
from tests.sites import site

GET = b"GET /a HTTP/1.1\r\nHost: d.test\r\n\r\n"
PACKETS = (
    GET,
    GET,
    GET * 3,
    GET[:9],
    GET[9:],
    b"\r\n",
    b"GET /a HTTP/1.1\r\nHost: d.test\r\nConnection: close\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: d.test\r\nContent-Length: 3\r\n\r\nab",
    b"c",
    b"POST /a HTTP/1.1\r\nHost: d.test\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    b"GET /a HTTP/1.1\r\nHost: d.test\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    b"\x16\x03\x01",
)


class KeepingTransport(asyncio.Transport):
    """Records what is written, and calls the protocol as an event loop would."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.connection = connection
        self.written = b""
        self.reading = True
        self.closing = self.ended = self.lost = False
        connection.connection_made(self)

    def lose(self) -> None:
        if not self.lost:
            self.lost = self.closing = True
            self.connection.connection_lost(None)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("192.0.2.1", 1234) if name == "peername" else default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.ended, "written behind the end of our half"
        self.written += data

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self.lose)

    abort = close

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True


class SlowEdge(Edge):
    """An edge that completes its replies on demand, and fails some."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__(EdgeSettings(memory=1 << 20, max_object=1 << 18), AccessLog(None))
        self.use(site(Origin("o", "origin.test")))
        self.chance = chance

    async def serve(self, exchange: Any) -> Reply:
        for _ in range(self.chance.randrange(4)):
            await asyncio.sleep(0)
        if exchange.request.body is not None and self.chance.random() < 0.7:
            async for _ in exchange.request.body:
                pass
        if self.chance.random() < 0.1:
            raise RuntimeError("a bug")
        return Reply(200, [], self._body() if self.chance.random() < 0.5 else b"whole", length=5)

    async def _body(self) -> Any:
        yield b"wh"
        await asyncio.sleep(0)
        if self.chance.random() < 0.2:
            raise ConnectionResetError
        if self.chance.random() < 0.2:
            raise ValueError("broken off")
        yield b"ole"


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> set[tuple[State, State]]:
    """All transitions made while a test runs."""
    made: set[tuple[State, State]] = set()
    move = Connection._move

    def recorded(self: Connection, state: State) -> None:
        made.add((self._state, state))
        move(self, state)

    monkeypatch.setattr(Connection, "_move", recorded)
    return made


def test_the_table_names_every_state_and_has_no_move_to_itself() -> None:
    assert set(MOVES) == set(State)
    assert not any(state in after for state, after in MOVES.items())
    assert not MOVES[State.CLOSED]
    assert all(State.CLOSED in after for state, after in MOVES.items() if state is not State.CLOSED)


@pytest.mark.parametrize("before", State)
async def test_a_move_that_is_not_in_the_table_raises(before: State) -> None:
    edge = SlowEdge(random.Random(0))
    connection = Listener(edge)()
    for after in State:
        connection._state = before
        if after in MOVES[before]:
            connection._move(after)
            assert connection._state is after
        else:
            with pytest.raises(IllegalMove, match=f"from {before.name} to {after.name}"):
                connection._move(after)
            assert connection._state is before
    await edge.aclose()


def test_the_state_is_changed_in_one_place() -> None:
    """A write that bypasses the table would be an unchecked transition."""
    tree = ast.parse(Path(connections.__file__).read_text())
    writers = [
        function.name
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute) and node.attr == "_state" and isinstance(node.ctx, ast.Store)
    ]
    assert writers == ["__init__", "_move"]


@pytest.mark.parametrize("seed", range(60))
async def test_whatever_happens_the_moves_are_in_the_table(
    seed: int, moves: set[tuple[State, State]], caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(seed)
    edge = SlowEdge(chance)
    listener = Listener(edge)
    loop = asyncio.get_running_loop()
    failures: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: failures.append(context))
    for _ in range(20):
        if chance.random() < 0.05:
            listener.shared.draining = True
        connection = listener()
        transport = KeepingTransport(connection)
        ended = paused = False
        for _ in range(chance.randrange(1, 12)):
            if transport.closing:
                break
            event = chance.random()
            if event < 0.6:
                if transport.reading and not ended:
                    connection.data_received(chance.choice(PACKETS))
            elif event < 0.7:
                paused = not paused
                (connection.pause_writing if paused else connection.resume_writing)()
            elif event < 0.75 and not ended:
                ended = True
                if not connection.eof_received():
                    transport.close()
            elif event < 0.8:
                connection.check(loop.time() + chance.choice((0, 3, 100)))
            elif event < 0.83:
                connection.drain()
            elif event < 0.85:
                chance.choice((connection.abort, transport.lose))()
            for _ in range(chance.randrange(5)):
                await asyncio.sleep(0)
        if paused and not transport.closing:
            connection.resume_writing()
        for _ in range(20):
            await asyncio.sleep(0)
        transport.lose()
        for _ in range(5):
            await asyncio.sleep(0)
        assert connection._state is State.CLOSED
        assert connection._task is None or connection._task.cancelled()  # before its first step
        listener.shared.draining = False
    await listener.drain()
    await edge.aclose()
    assert not failures
    assert not [r for r in caplog.records if r.exc_info and r.exc_info[0] is IllegalMove]
    assert all(after in MOVES[before] for before, after in moves)
    assert {State.BUSY, State.CLOSED} <= {after for _, after in moves}


class ReadingEdge(SlowEdge):
    """An edge that reads each body to its end."""

    async def serve(self, exchange: Any) -> Reply:
        async for _ in exchange.request.body:
            pass
        return Reply(200, [], b"read")


@pytest.mark.parametrize("lines", [b"", b"Connection: close\r\n"])
async def test_a_body_that_breaks_its_framing_is_refused_at_once(lines: bytes) -> None:
    """On the last request of a connection, too: previously, its reader waited for the rest until the upload was
    closed as stuck."""
    edge = ReadingEdge(random.Random(0))
    connection = Listener(edge)()
    transport = KeepingTransport(connection)
    connection.data_received(
        b"POST /a HTTP/1.1\r\nHost: d.test\r\nTransfer-Encoding: chunked\r\n" + lines + b"\r\n"
    )
    await asyncio.sleep(0)
    connection.data_received(b"3\r\nabc\r\nno size\r\n")
    for _ in range(5):
        await asyncio.sleep(0)
    assert transport.written.startswith(b"HTTP/1.1 400 ")
    assert connection._state is State.LINGERING
    transport.lose()
    await edge.aclose()


async def test_a_refusal_is_sent_once() -> None:
    """The transport may have been full when the refusal was written, and may call `resume_writing` later."""
    edge = SlowEdge(random.Random(0))
    connection = Listener(edge)()
    transport = KeepingTransport(connection)
    connection.pause_writing()
    connection.data_received(b"no request\r\n\r\n")
    connection.resume_writing()
    assert transport.written.count(b"HTTP/1.1 400 ") == 1
    transport.lose()
    await edge.aclose()
