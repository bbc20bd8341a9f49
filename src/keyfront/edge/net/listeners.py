"""The listening sockets of a supervisor, which outlive the processes that accept on them."""

from __future__ import annotations

import socket

from keyfront.edge.net.worker_sockets import listening


class Listeners:
    """Listening sockets by address. A caller that names an address again gets the same sockets."""

    def __init__(self) -> None:
        self._sockets: dict[tuple[str, int], list[socket.socket]] = {}

    def of(self, host: str, port: int, count: int) -> tuple[int, ...]:
        """The file descriptors of `count` sockets that listen on `host:port`, one for each process that accepts.

        :raises OSError: if one of them cannot listen there.
        """
        made = self._sockets.setdefault((host, port), [])
        while len(made) < count:
            made.append(listening(host, port))
        return tuple(one.fileno() for one in made[:count])

    def close(self) -> None:
        """Stop listening, once the processes have closed their copies too."""
        for sockets in self._sockets.values():
            for one in sockets:
                one.close()
        self._sockets.clear()
