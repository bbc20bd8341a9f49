"""A connection to NATS. When it is lost, it ends: whoever uses it connects again, and begins with what is stored."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js import JetStreamContext
from nats.js.errors import APIError, NotFoundError

from keyfront.errors import SettingsError
from keyfront.fleet.jetstream.access import NatsAccess

log = logging.getLogger("keyfront.fleet")

OPEN = 10.0
"""Seconds to connect, and for one request to JetStream."""
GRACE = 2.0
"""Seconds for the last messages when a process stops."""
CLOSE = 1.0
"""Seconds to close a connection."""
PING, MAX_PINGS = 5, 2
"""Seconds between two pings, and the number of pings without a response after which the connection is lost."""
MIN_PAYLOAD = 1 << 14
"""Bytes; servers that accept only smaller messages cannot be used."""


class Unreachable(SettingsError):
    """NATS cannot be reached, or refuses."""


class Connection:
    """An open connection.

    :param client: of nats-py.
    """

    def __init__(self, client: Client, server: str, access: NatsAccess) -> None:
        self.client = client
        self.server = server
        self.js: JetStreamContext = (
            client.jetstream(domain=access.domain, timeout=OPEN)
            if access.domain
            else client.jetstream(timeout=OPEN)
        )
        self.lost = asyncio.Event()
        """Set once the connection is closed."""
        self.refusals: list[str] = []
        """What the server has refused, such as a subject without a permission."""

    @property
    def max_payload(self) -> int:
        """Bytes of the largest message that the server accepts."""
        return self.client.max_payload

    async def last(self, stream: str, subject: str) -> tuple[bytes, int]:
        """The last message of a subject, and its sequence number. If there is none, the message is empty, and so it is
        after a deletion.

        :raises Unreachable: if JetStream does not respond.
        """
        try:
            found = await self.js.get_last_msg(stream, subject, direct=True)
        except NotFoundError:
            return b"", 0
        except (NatsError, APIError, TimeoutError) as error:
            raise self.failure(error, f"the stream {stream} cannot be read") from error
        deleted = (found.headers or {}).get("KV-Operation") in ("DEL", "PURGE")
        return b"" if deleted else found.data or b"", found.seq or 0

    async def request(self, subject: str, data: bytes = b"") -> bytes:
        """The response to a request.

        :raises Unreachable: if there is none.
        """
        try:
            return (await self.client.request(subject, data, timeout=OPEN)).data
        except NoRespondersError as error:
            raise Unreachable(f"no control plane listens to {subject} there") from error
        except (NatsError, TimeoutError) as error:
            raise self.failure(error, f"nobody responds to {subject}") from error

    def failure(self, error: BaseException, what: str) -> Unreachable:
        """The error for people: a missing permission only shows as a refusal, and no response."""
        if self.refusals:
            return Unreachable(f"{what}: {self.refusals[-1]}")
        if isinstance(error, NoRespondersError):
            return Unreachable(
                f"{what}: there is no JetStream that has it; at a leaf node, --nats-domain must name the hub's domain"
            )
        if isinstance(error, APIError) and error.description:
            return Unreachable(f"{what}: {error.description}")
        return Unreachable(f"{what}: {_reason(error)}")


class _Client(Client):
    """A client that does not log in over a connection that should be encrypted and is not: nats-py leaves it to the
    server whether to encrypt."""

    def __init__(self, *, encrypted: bool) -> None:
        super().__init__()
        self._encrypted = encrypted

    def check_encryption(self) -> None:
        """:raises ConnectionError: if the server should encrypt and does not."""
        if self._encrypted and not self._server_info.get("tls_required"):
            raise ConnectionError("the server does not offer TLS")

    def _connect_command(self) -> bytes:
        self.check_encryption()
        return super()._connect_command()


@contextlib.asynccontextmanager
async def connected(
    access: NatsAccess, server: str, inbox: str, on_refusal: Callable[[str], None] = lambda _: None
) -> AsyncIterator[Connection]:
    """A connection to one of the servers; it is closed at the end.

    :param inbox: what the subjects of responses begin with.
    :param on_refusal: called with what the server refuses later.
    :raises Unreachable: if it cannot be made.
    :raises SettingsError: if a file cannot be used.
    """
    context = access.tls(server)
    client = _Client(encrypted=context is not None)
    made = Connection(client, server, access)

    async def on_error(error: Exception) -> None:
        text = str(error).removeprefix("nats: ").strip()
        if "ermissions violation" in text:
            made.refusals.append(text)
            on_refusal(text)

    async def on_closed() -> None:
        made.lost.set()

    try:
        try:
            async with asyncio.timeout(OPEN):
                await client.connect(
                    server,
                    name="keyfront",
                    error_cb=on_error,
                    closed_cb=on_closed,
                    allow_reconnect=False,
                    connect_timeout=int(OPEN),
                    ping_interval=PING,
                    max_outstanding_pings=MAX_PINGS,
                    inbox_prefix=inbox,
                    tls=context,
                    **access.login(),
                )
            client.check_encryption()
        except (NatsError, OSError, TimeoutError, ValueError) as error:
            raise Unreachable(_reason(error)) from error
        if client.max_payload < MIN_PAYLOAD:
            raise Unreachable(f"it accepts messages of {client.max_payload} bytes only: raise max_payload")
        yield made
    finally:
        await _close(client)


async def _close(client: Client) -> None:
    """Close the connection, whether or not the other side takes part in that."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(CLOSE):
            await client.close()


def _reason(error: BaseException) -> str:
    text = str(error).removeprefix("nats: ").strip().strip("'")
    return text or ("no response in time" if isinstance(error, TimeoutError) else type(error).__name__)


async def unless_stopped(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Await `work`. When `stop` is set, it has GRACE seconds to end by itself, and is then abandoned: connecting may
    take long.

    :raises Exception: what the work raises.
    """
    working, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([working, stopped], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            await asyncio.wait([working], timeout=GRACE)
        if working.done():
            working.result()
    finally:
        stopped.cancel()
        working.cancel()
        await asyncio.wait([working], timeout=2 * CLOSE)


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait for `stop`, at most that long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
