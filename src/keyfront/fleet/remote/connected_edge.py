"""A connected edge, as its control plane knows it: what it has, and the reports of its workers, within bounds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Iterable
from typing import Any

import msgspec
from websockets.asyncio.server import ServerConnection

from keyfront.errors import SettingsError
from keyfront.fleet.feed import STALE, Report
from keyfront.fleet.remote import authority, messages
from keyfront.fleet.remote.channel import Version
from keyfront.fleet.remote.identity import Identity, Seen
from keyfront.fleet.remote.manifest import Manifest

log = logging.getLogger("keyfront.fleet")

MAX_WORKERS = 256
MAX_COUNTERS = 8 << 20
"""Maximum number of workers of one edge, and bytes of counters in their reports."""
MAX_ENDED = 64
"""Maximum number of reports of exited workers that one edge may send before they are stored."""
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
"""Names of workers, and ids of reports."""


class ConnectedEdge:
    """A connected edge."""

    def __init__(self, identity: Identity, connection: ServerConnection, hello: messages.Hello) -> None:
        self.identity = identity
        self.connection = connection
        self.software = hello.software[:64]
        self.address = str((connection.remote_address or ("",))[0])
        self.expires = authority.peer_expiry(peer_certificate(connection))
        self.have = hello.have[:32]
        self.trusts = hello.trusts[:64]
        self.refused = b""
        self.proof: Manifest | None = None
        self.wake = asyncio.Event()
        self.answer: asyncio.Future[messages.Applied | messages.Refused] | None = None
        self.workers: dict[str, messages.WorkerReport] = {}
        self.at = -STALE
        self.ended: dict[str, Report] = {}
        self.ended_size = 0
        self.gone = False
        self.heard = time.monotonic()

    def is_past(self, version: Version) -> bool:
        """True if the edge has proven to have a later snapshot, or the same one as compiled by another version of
        Keyfront."""
        offered, proof = version.manifest, self.proof
        if proof is None or proof.number < offered.number:
            return False
        same = (proof.number, proof.created) == (offered.number, offered.created)
        return not same or self.have == proof.digest

    def reports(self, counters: bool) -> Iterable[Report]:
        for one in list(self.workers.values()):
            yield self.report(one, self.at, counters)

    def report(self, one: messages.WorkerReport, at: float, counters: bool = True) -> Report:
        found: dict[str, Any] = {}
        if counters:
            with contextlib.suppress(msgspec.MsgspecError):
                found = msgspec.json.decode(one.counters, type=dict[str, Any])
            if isinstance(run := found.get("run"), str) and run:
                found["run"] = f"{self.identity.id}:{run}"  # one edge cannot count for another
        name = f"{self.identity.name}/{one.name}"
        return Report(name, 0, one.number, at, printable(one.refused), found, self.identity.region)

    def update(self, message: messages.Status, now: float) -> None:
        """Take in the reports of its workers, at `now` (epoch seconds).

        :raises SettingsError: if they are more or larger than allowed.
        """
        alive = set(message.alive)
        if len(alive) > MAX_WORKERS or not all(map(NAME.fullmatch, alive)):
            raise SettingsError("it has too many workers, or their names are not valid")
        known = {name: one for name, one in self.workers.items() if name in alive}
        known.update((one.name, one) for one in message.reports if one.name in alive)
        if sum(len(one.counters) + len(one.refused) for one in known.values()) > MAX_COUNTERS:
            raise SettingsError("its reports are too large")
        for name, one in known.items():
            before = self.workers.get(name)
            if one.refused and (before is None or before.refused != one.refused):
                log.warning(
                    "edge %s/%s uses snapshot %s and refused another: %s",
                    self.identity.name,
                    name,
                    one.number,
                    printable(one.refused),
                )
        self.workers, self.at = known, now

    def add_ended(self, message: messages.Ended) -> None:
        """Keep the last report of a worker that has exited, unless there are too many: then it is sent again."""
        if not self.ended:
            self.ended_size = 0
        size = len(message.report.counters)
        if len(self.ended) >= MAX_ENDED or self.ended_size + size > MAX_COUNTERS:
            return
        self.ended_size += size
        self.ended[message.id] = self.report(message.report, message.at)

    def seen(self) -> Seen:
        """Its state, for the registry."""
        number = min((one.number for one in self.workers.values()), default=0)
        return Seen(self.identity.id, self.address, number, self.software)


def peer_certificate(connection: ServerConnection) -> object:
    """The certificate of the other side, verified; None if it has none."""
    secured = connection.transport.get_extra_info("ssl_object")
    return secured.getpeercert() if secured is not None else None


def printable(text: str) -> str:
    """Text from an edge for logs and terminals."""
    return "".join(one if one.isprintable() else "?" for one in text[:1000])
