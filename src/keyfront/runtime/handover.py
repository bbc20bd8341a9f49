"""What a supervisor hands to the program that replaces it at a restart.

The supervisor executes the program again in its own process (execve(2)): the process ID, its children, its file
descriptors, and the lock on the data folder stay. The description of them is an environment variable.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, MutableMapping

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
    SIGKILL. Without a heartbeat in its `slot` of the board for `stuck_after` seconds it is killed; 0 disables this."""

    name: str
    pid: int
    lifeline: int
    exit_timeout: float
    slot: int = -1
    stuck_after: float = 0.0


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
    `data`. `spare` are further descriptors of the same files, to be closed once the processes are adopted
    (`runtime/caretaker.py`).
    """

    began: float
    data: str
    lock: int
    ports: tuple[HandedPort, ...]
    listeners: tuple[HandedListeners, ...]
    processes: HandedProcesses
    spare: tuple[int, ...] = ()

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


def offered(environment: Mapping[str, str], variable: str) -> Handover | None:
    """The handover in the environment; None if there is none."""
    text = environment.get(variable, "")
    return msgspec.json.decode(text, type=Handover) if text else None


def taken(environment: MutableMapping[str, str], variable: str) -> Handover | None:
    """The handover in the environment, which is removed from there: no child process must see it. None if there is
    none."""
    found = offered(environment, variable)
    environment.pop(variable, None)
    return found


def release(environment: MutableMapping[str, str], variable: str) -> None:
    """Record that everything in the handover is adopted: remove it from the environment, and close its spare."""
    found = taken(environment, variable)
    for fd in found.spare if found is not None else ():
        os.close(fd)


def duplicated(handover: Handover) -> Handover:
    """The same with new descriptors of the same files, which no child process inherits; those before are its spare."""
    fds = {fd: os.dup(fd) for fd in handover.fds}
    processes = handover.processes

    def children(before: tuple[HandedChild, ...]) -> tuple[HandedChild, ...]:
        return tuple(msgspec.structs.replace(each, lifeline=fds[each.lifeline]) for each in before)

    return msgspec.structs.replace(
        handover,
        lock=fds[handover.lock],
        ports=tuple(msgspec.structs.replace(port, fd=fds.get(port.fd, -1)) for port in handover.ports),
        listeners=tuple(
            msgspec.structs.replace(each, fds=tuple(fds[fd] for fd in each.fds))
            for each in handover.listeners
        ),
        processes=msgspec.structs.replace(
            processes,
            board=fds[processes.board],
            shared=fds.get(processes.shared, -1),
            edges=children(processes.edges),
            control=children(processes.control),
            counters=fds.get(processes.counters, -1),
            metrics=children(processes.metrics),
        ),
        spare=tuple(fds),
    )


def set_inheritable(handover: Handover, inheritable: bool) -> None:
    """Let the descriptors survive an execve(2), or, once it is over, let no child process inherit them by accident."""
    for fd in handover.fds:
        os.set_inheritable(fd, inheritable)
