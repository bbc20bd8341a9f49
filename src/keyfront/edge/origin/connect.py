"""Connecting to an origin: resolve the name, check the addresses, and try them in turn (RFC 8305)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from keyfront.errors import OriginFailure

NAME_TTL: Final = 5.0
"""Seconds for which a resolved name is used before it is resolved again."""


RESOLVERS: Final = 64
"""Names that can be resolved at a time. The system's resolver is slow for names whose servers do not respond."""


STAGGER: Final = 0.25
"""Seconds after which the next address is tried in parallel with the previous one (RFC 8305 §5)."""


Address = tuple[int, tuple[Any, ...]]


class PermanentOriginFailure(OriginFailure):
    """A failure that a retry would only repeat."""


def is_own(address: str) -> bool:
    """Whether a numeric address belongs to this machine. The kernel lets a socket bind to no other address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


class DnsCache:
    """Addresses by host and port, resolved again after NAME_TTL seconds, with one lookup at a time for each.

    A failure is reported to the waiting callers and not cached: the next request resolves the name again.
    """

    __slots__ = ("_known", "_queries", "_threads")

    def __init__(self) -> None:
        # The loop's own executor has few threads: names whose servers do not respond would block all others.
        self._threads = ThreadPoolExecutor(RESOLVERS, "dns")
        self._known: dict[tuple[str, int], tuple[float, list[Address]]] = {}
        self._queries: dict[tuple[str, int], asyncio.Task[list[Address]]] = {}

    async def resolve(self, host: str, port: int) -> list[Address]:
        """The addresses of a host and port.

        :raises OriginFailure: OriginDnsError 502.
        """
        loop = asyncio.get_running_loop()
        key = (host, port)
        known = self._known.get(key)
        if known is not None and known[0] > loop.time():
            return known[1]
        task = self._queries.get(key)
        if task is None:
            self._queries[key] = task = loop.create_task(self._query(host, port))
            task.add_done_callback(lambda task: self._query_finished(key, task))
        # One canceled caller must not cancel the lookup for the others.
        return await asyncio.shield(task)

    async def _query(self, host: str, port: int) -> list[Address]:
        loop = asyncio.get_running_loop()
        self._known.pop((host, port), None)
        try:
            found = await loop.run_in_executor(self._threads, _look_up, host, port)
        except (OSError, UnicodeError) as error:
            detail = error.strerror if isinstance(error, OSError) else str(error)
            raise PermanentOriginFailure("OriginDnsError", 502, f"{host}: {detail}") from error
        addresses = alternating([(family, address) for family, _, _, _, address in found])
        if not addresses:
            raise PermanentOriginFailure("OriginDnsError", 502, f"{host}: no address")
        self._known[host, port] = (loop.time() + NAME_TTL, addresses)
        return addresses

    def _query_finished(self, key: tuple[str, int], task: asyncio.Task[list[Address]]) -> None:
        self._queries.pop(key, None)
        if not task.cancelled():
            task.exception()  # if all callers were canceled, nothing else retrieves it

    def forget(self, host: str) -> None:
        """Resolve the host again the next time it is needed."""
        for key in [key for key in self._known if key[0] == host]:
            del self._known[key]

    def close(self) -> None:
        for task in self._queries.values():
            task.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str, port: int) -> list[tuple[Any, ...]]:
    """The system resolver's answer; runs in a thread. :raises OSError: if it finds nothing."""
    return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))


def alternating(addresses: list[Address]) -> list[Address]:
    """Addresses with alternating families, starting with the resolver's first choice (RFC 8305 §4)."""
    if not addresses:
        return []
    first = [address for address in addresses if address[0] == addresses[0][0]]
    other = [address for address in addresses if address[0] != addresses[0][0]]
    mixed: list[Address] = []
    for index in range(max(len(first), len(other))):
        mixed += first[index : index + 1] + other[index : index + 1]
    return mixed


async def first_connected(addresses: Sequence[Address]) -> socket.socket:
    """A socket connected to the first address that accepts. The next address is tried when one fails or is slow.

    :raises OSError: the last address's failure.
    """
    if len(addresses) == 1:
        return await _connected(addresses[0])
    loop = asyncio.get_running_loop()
    waiting = list(addresses)
    tried: set[asyncio.Task[socket.socket]] = set()
    last: BaseException = OSError("no address")
    winner: socket.socket | None = None
    try:
        while winner is None and (waiting or tried):
            if waiting:
                tried.add(loop.create_task(_connected(waiting.pop(0))))
            done, tried = await asyncio.wait(
                tried, timeout=STAGGER if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                failure = task.exception()
                if failure is not None:
                    last = failure
                elif winner is None:
                    winner = task.result()
                else:
                    task.result().close()
    finally:
        for task in tried:
            task.add_done_callback(_close_late)
            task.cancel()
    if winner is None:
        raise last
    return winner


async def _connected(address: Address) -> socket.socket:
    sock = socket.socket(address[0], socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, address[1])
    except BaseException:
        sock.close()
        raise
    return sock


def _close_late(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()
