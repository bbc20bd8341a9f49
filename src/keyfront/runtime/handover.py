"""What a supervisor hands to the program that replaces it at a restart.

The supervisor executes the program again in its own process (execve(2)): the process ID, its children, its file
descriptors, and the lock on the data folder stay. The description of them is an environment variable.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, MutableMapping

import msgspec

HANDOVER = "KEYFRONT_HANDOVER"
"""The variable of the program that takes over."""
TRIAL = "KEYFRONT_TRIAL"
"""The variable of a program that only checks whether it could take over."""


class HandedPort(msgspec.Struct, frozen=True):
    """A port that an option reserves.

    `wanted` is the port in the option, 0 for any; `number` is the one in use. `fd` is the socket that reserves it; -1
    if listening sockets alone do.
    """

    option: str
    host: str
    wanted: int
    number: int
    fd: int


class HandedListeners(msgspec.Struct, frozen=True):
    """The sockets that listen on an address. `given`: whether the service manager opened them."""

    host: str
    port: int
    fds: tuple[int, ...]
    given: bool


class HandedChild(msgspec.Struct, frozen=True):
    """A running process. It exits once the descriptor `lifeline` is closed. `exit_timeout` is seconds from SIGTERM to
    SIGKILL."""

    name: str
    pid: int
    lifeline: int
    exit_timeout: float


class HandedProcesses(msgspec.Struct, frozen=True):
    """One generation of processes, its heartbeat board with so many slots, and the memory that its workers share (-1:
    none). `counters` is the memory of the workers' counters (-1: none), `bank` the bank of its slots that they use;
    `metrics` is the process that shows them."""

    board: int
    slots: int
    shared: int
    edges: tuple[HandedChild, ...]
    control: tuple[HandedChild, ...]
    counters: int = -1
    bank: int = 0
    metrics: tuple[HandedChild, ...] = ()

    @property
    def fds(self) -> Iterator[int]:
        yield self.board
        yield from (fd for fd in (self.shared, self.counters) if fd >= 0)
        for child in (*self.edges, *self.control, *self.metrics):
            yield child.lifeline


class Handover(msgspec.Struct, frozen=True):
    """Everything that stays open. New members need defaults, because an earlier version writes this.

    `began` is when the program was executed, seconds of `time.monotonic()`. `lock` holds the lock on the data folder
    `data`.
    """

    began: float
    data: str
    lock: int
    ports: tuple[HandedPort, ...]
    listeners: tuple[HandedListeners, ...]
    processes: HandedProcesses

    @property
    def fds(self) -> Iterator[int]:
        """All file descriptors that are handed over."""
        yield self.lock
        yield from (port.fd for port in self.ports if port.fd >= 0)
        for each in self.listeners:
            yield from each.fds
        yield from self.processes.fds


def encode(handover: Handover) -> str:
    return msgspec.json.encode(handover).decode()


def taken(environment: MutableMapping[str, str], variable: str) -> Handover | None:
    """The handover in the environment, which is removed from there: no child process must see it. None if there is
    none."""
    text = environment.pop(variable, "")
    return msgspec.json.decode(text, type=Handover) if text else None


def set_inheritable(handover: Handover, inheritable: bool) -> None:
    """Let the descriptors survive an execve(2), or, once it is over, let no child process inherit them by accident."""
    for fd in handover.fds:
        os.set_inheritable(fd, inheritable)
