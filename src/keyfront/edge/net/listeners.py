"""The listening sockets of a supervisor, which outlive the processes that accept on them."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence

from keyfront.edge.net.worker_sockets import listening

Address = tuple[str, int]


class Listeners:
    """Listening sockets by address. A caller that names an address again gets the same sockets."""

    def __init__(self) -> None:
        self._sockets: dict[Address, list[socket.socket]] = {}
        self._given: set[Address] = set()

    def adopt(self, address: Address, fds: Sequence[int], *, given: bool = False) -> None:
        """Take over sockets that already listen on `address`.

        :param given: whether the service manager opened them. No other is then opened beside them: the processes share
            them, because only their owner can bind the same port.
        """
        self._sockets.setdefault(address, []).extend(socket.socket(fileno=fd) for fd in fds)
        if given:
            self._given.add(address)

    def adopt_all(self, opened: Iterable[tuple[Address, int]]) -> None:
        """Take over the sockets that the service manager has opened: addresses and file descriptors."""
        for address, fd in opened:
            self.adopt(address, [fd], given=True)

    def of(self, host: str, port: int, count: int) -> tuple[int, ...]:
        """The file descriptors of sockets that listen on `host:port`, one for each of `count` processes, and those that
        are left of more processes before.

        :raises OSError: if one of them cannot listen there.
        """
        made = self._sockets.setdefault((host, port), [])
        if (host, port) in self._given:
            return tuple(made[slot % len(made)].fileno() for slot in range(max(count, len(made))))
        while len(made) < count:
            made.append(listening(host, port))
        return tuple(one.fileno() for one in made)

    def holds(self, host: str, port: int) -> bool:
        """Whether there are sockets for this address."""
        return (host, port) in self._sockets

    @property
    def given(self) -> set[Address]:
        """The addresses on which the service manager listens."""
        return self._given & self._sockets.keys()

    def all(self) -> Iterable[tuple[Address, list[int], bool]]:
        """Each address, its sockets' file descriptors, and whether the service manager opened them."""
        for address, sockets in self._sockets.items():
            yield address, [one.fileno() for one in sockets], address in self._given

    def keep(self, addresses: Iterable[Address]) -> None:
        """Stop listening on all other addresses, once the processes have closed their copies too."""
        for address in self._sockets.keys() - set(addresses):
            for one in self._sockets.pop(address):
                one.close()

    def close(self) -> None:
        """Stop listening, once the processes have closed their copies too."""
        self.keep(())
