"""The edge's side of the feed over NATS: one follower per machine, like `remote/follower.py`.

It waits for its region's announcements, and looks into the bucket when it connects, when a control plane says that
there is more, and every few seconds: an announcement may be lost. What arrives goes to disk, where the workers follow
it. NATS is not trusted: every message must be signed by a control plane, and no snapshot may be older than the one in
use. Without a control plane, the edge still gets what is in the bucket.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.errors import APIError

from keyfront.errors import KeyfrontError, SettingsError, SnapshotRefused
from keyfront.fleet.feed import STALE, Report
from keyfront.fleet.file_feed import FileFeed
from keyfront.fleet.jetstream import head, sealed
from keyfront.fleet.jetstream.connection import Connection, Unreachable, connected, pause, unless_stopped
from keyfront.fleet.jetstream.head import Base, Head
from keyfront.fleet.jetstream.names import Names
from keyfront.fleet.jetstream.sealed import Counters, Ended, Renew, Status
from keyfront.fleet.remote import authority
from keyfront.fleet.remote import messages as remote_messages
from keyfront.fleet.remote.enrollment import EdgeFiles, LastGood, LinkState
from keyfront.fleet.remote.messages import STATUS

log = logging.getLogger("keyfront.fleet")

LOOK = 0.1
"""Seconds between two looks at the workers' reports."""
POLL = 5.0
"""Seconds between two looks into the bucket, if nothing is announced."""
COUNTERS, PIECES = 4.0, 8
"""Seconds between two reports of a worker's counters, if they have changed; longer if a report has more pieces."""
COUNTERS_AGAIN = 600.0
"""Seconds after which unchanged counters are reported again."""
SILENT = 30.0
"""Seconds without a sign of a control plane after which it counts as away."""
FIRST_PAUSE, MAX_PAUSE = 1.0, 30.0
"""Maximum seconds before the second attempt to connect, and before any. Each pause is of random length."""
LASTING = 30.0
"""Seconds after which a connection counts as good, so that the next pause is a short one again."""
REVOKED_STATUS = 30.0
"""Seconds between two reports of an edge that is not accepted."""
RENEW_AT = 2 / 3
"""Share of a certificate's lifetime after which it is renewed."""
RENEW_AGAIN = 60.0
"""Seconds between two attempts to renew it."""
ENDED_AGAIN = 10.0
"""Seconds after which the report of an exited worker is sent again."""
MAX_IN_FLIGHT = 16
"""Reports of exited workers that wait for a control plane."""
AT_ONCE = 8
"""Parts that are read at the same time."""


class NatsFollower:
    """Follows the control planes of an enrolled edge.

    :param files: the edge's.
    :param clock: epoch seconds.
    :raises SettingsError: if the edge is not enrolled, or follows over HTTPS.
    """

    def __init__(
        self, files: EdgeFiles, rng: random.Random | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._files = files
        self._edge = files.edge()
        if self._edge.nats is None:
            raise SettingsError("this edge follows over HTTPS")
        self._access = self._edge.nats
        self._rng = rng or random.SystemRandom()
        self._clock = clock
        self._good = LastGood(files.feed, self._edge.region, bytes.fromhex(self._edge.key))
        self._link = LinkState(files, clock)
        self._serials = _Serials(clock)
        self._reported: dict[str, str] = {}
        self.current = asyncio.Event()
        """Set once the follower has what its control planes have published."""

    @property
    def number(self) -> int:
        """The number of the last good snapshot; 0: none."""
        return self._good.number

    async def run(self, stop: asyncio.Event) -> None:
        """Follow until `stop` is set, and then send the last reports."""
        servers = self._access.servers
        turn = failures = 0
        while not stop.is_set():
            server, began = servers[turn % len(servers)], time.monotonic()
            try:
                await unless_stopped(stop, self._connect(server, stop))
                continue
            except (KeyfrontError, NatsError, APIError, OSError, TimeoutError) as error:
                self._failed(server, error)
            if time.monotonic() - began > LASTING:
                failures = 0
            rounds = min(failures // len(servers), 10)
            turn, failures = turn + 1, failures + 1
            await pause(stop, self._rng.uniform(0.0, min(MAX_PAUSE, FIRST_PAUSE * 2**rounds)))

    async def _connect(self, server: str, stop: asyncio.Event) -> None:
        """Use one connection. Raises what `_Session.run` raises."""
        inbox = Names(self._access.bucket).inbox(self._edge.name)
        async with connected(self._access, server, inbox, self._refused) as connection:
            session = _Session(self._files, self._good, connection, self._serials, self._link)
            session.on_current = self.current.set
            self._reported.pop(server, None)
            await session.run(stop)

    def _refused(self, text: str) -> None:
        if self._reported.get("") != text:
            self._reported[""] = text
            log.warning("NATS refuses: %s", text)

    def _failed(self, server: str, error: Exception) -> None:
        reason = str(error) or type(error).__name__
        self._link.set("", f"{server}: {reason}")
        if self._reported.get(server) != reason:  # once, not at each attempt
            self._reported[server] = reason
            log.warning(
                "no connection to %s: %s; this edge serves snapshot %s", server, reason, self._good.number
            )


class _Serials:
    """The serial numbers of an edge's messages. They grow, also when the clock is set back while the process runs.

    :param clock: epoch seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._last = 0

    def next(self) -> int:
        """A serial number above all before, also above those before a restart."""
        self._last = max(self._last + 1, int(self.clock() * 1e6))
        return self._last


class _Session:
    """One connection to NATS."""

    def __init__(
        self,
        files: EdgeFiles,
        good: LastGood,
        connection: Connection,
        serials: _Serials,
        link: LinkState,
    ) -> None:
        self.on_current: Callable[[], None] = lambda: None
        self._files = files
        self._good = good
        self._connection = connection
        self._link = link
        self._next, self._clock = serials.next, serials.clock
        self._edge = edge = files.edge()
        assert edge.nats is not None  # noqa: S101 - the follower has checked it
        self._names = Names(edge.nats.bucket)
        self._feed = FileFeed(files.feed, edge.region)
        self._identity = _Identity(files)
        self._offered = b""
        self._wake = asyncio.Event()
        self._refused: tuple[bytes, str] = (b"", "")
        self._damaged = ""
        self._logged: dict[str, str] = {}
        self._is_revoked = False
        self._beacon = 0.0
        self._heard = time.monotonic()
        self._sent: dict[
            str, tuple[bytes, float, float]
        ] = {}  # by worker: when, and when again at the earliest
        self._in_flight: dict[str, float] = {}
        self._renewing: ec.EllipticCurvePrivateKey | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Until the connection ends, or `stop` is set.

        :raises KeyfrontError, NatsError, APIError, OSError: why it ended.
        """
        client, names = self._connection.client, self._names
        await client.subscribe(names.announce(self._edge.region), cb=self._on_message)
        await client.subscribe(names.control(self._edge.name), cb=self._on_message)
        log.info(
            "connected to %s", self._connection.server, extra={"snapshot": self._good.number, "feed": "NATS"}
        )
        self._link.set(self._connection.server)
        tasks = [
            asyncio.create_task(each)
            for each in (self._follow(), self._report(stop), self._connection.lost.wait())
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()
        if not stop.is_set():
            raise Unreachable("the connection was lost")

    def _log_once(self, about: str, text: str) -> None:
        if self._logged.get(about) != text:
            self._logged[about] = text
            log.warning("%s", text)

    # from control planes

    async def _on_message(self, message: Msg) -> None:
        """Take in a message. Whatever is in it, the next one is read."""
        try:
            found, _ = sealed.unseal(message.data, self._good.trusted)
        except SnapshotRefused as error:
            self._log_once("message", f"a message in NATS ({message.subject}) is refused: {error}")
            return
        match found:
            case Head():
                self._offered = message.data
                self._wake.set()
            case sealed.Beacon() if found.region == self._edge.region:
                self._on_beacon(found)
            case sealed.Standing() if found.edge == self._identity.id and self._is_recent(found.at):
                self._stand(accepted=found.accepted)
            case sealed.Stored() if found.edge == self._identity.id:
                self._stored(found.id)
            case sealed.Renewed() if found.edge == self._identity.id:
                self._renewed(found.certificate)
            case _:
                self._log_once(
                    "message", f"a message in NATS ({message.subject}) is for another edge, or too old"
                )

    def _is_recent(self, at: float) -> bool:
        return abs(self._clock() - at) <= sealed.SKEW

    def _on_beacon(self, beacon: sealed.Beacon) -> None:
        if beacon.at <= self._beacon or not self._is_recent(beacon.at):
            if not self._is_recent(beacon.at):
                self._log_once("clock", "the clocks of this edge and of its control plane differ by minutes")
            return
        self._beacon, self._heard = beacon.at, time.monotonic()
        if self._is_revoked:
            return
        self._link.set(self._connection.server)
        if beacon.number > self._good.number:
            self._wake.set()
        elif beacon.number == self._good.number:
            self._feed.confirm(self._clock())

    def _stand(self, *, accepted: bool) -> None:
        if not accepted and not self._is_revoked:
            log.error(
                "this edge is revoked; it serves snapshot %s from its disk; to enroll it again: keyfront edge join",
                self._good.number,
            )
            self._link.set("", f"{self._connection.server}: this edge is revoked")
        if accepted and self._is_revoked:
            self._wake.set()
        self._is_revoked = not accepted

    def _stored(self, id_: str) -> None:
        self._in_flight.pop(id_, None)
        for path, _ in self._feed.ended():
            if path.name == id_:
                self._feed.forget(path)

    def _renewed(self, certificate: bytes) -> None:
        if self._renewing is not None:
            self._files.renewed(self._renewing, certificate)
            self._renewing = None
            self._identity = _Identity(self._files)
            log.info("the certificate of this edge is renewed")

    # snapshots

    async def _follow(self) -> None:
        """Take what is announced, and what is in the bucket.

        :raises Unreachable: if the bucket cannot be read.
        """
        names, offered = self._names, b""
        while True:
            if not offered:
                offered, _ = await self._connection.last(names.stream, names.head(self._edge.region))
            if not self._is_revoked:
                await self._take(offered)
            await pause(self._wake, POLL)
            self._wake.clear()
            offered, self._offered = self._offered, b""

    async def _take(self, data: bytes) -> None:
        """Bring the disk to what the head in `data` describes, unless it is refused.

        :raises Unreachable: if the content cannot be read.
        """
        if not data:
            self._log_once(
                "head",
                f"there is no snapshot in NATS ({self._names.head(self._edge.region)}); this edge serves snapshot "
                f"{self._good.number}",
            )
            return
        if data == self._refused[0] and not self._damaged:
            return
        try:
            await self._accept(data)
        except SnapshotRefused as refusal:
            reason = str(refusal)
            if reason != self._refused[1]:
                log.error("a snapshot in NATS is refused, and %s stays in use: %s", self._good.number, reason)
            self._refused = (data, reason)
        else:
            self._refused, self._damaged = (b"", ""), ""

    async def _accept(self, data: bytes) -> None:
        """:raises SnapshotRefused: if it is not acceptable. :raises Unreachable: if the content cannot be read."""
        good = self._good
        found, endorsements = sealed.unseal(data, good.trusted)
        if not isinstance(found, Head):
            raise SnapshotRefused("it is not a head")
        if good.succeed(endorsements):
            self._files.save(msgspec.structs.replace(self._files.edge(), key=good.trusted.hex()))
            log.info("the control plane has a new snapshot key")
        offered = good.check(found.signed)
        head.check(found, offered)
        if offered.digest != good.have or found.signed != good.proof:
            await self._apply(found)
            log.info("snapshot received", extra={"snapshot": good.number, "bytes": len(data)})
        self.on_current()

    async def _apply(self, found: Head) -> None:
        good, step = self._good, found.difference(self._good.have)
        try:
            if good.check(found.signed).digest == good.have:
                await asyncio.to_thread(good.accept_again, found.signed)
                return
            if step is not None:
                await asyncio.to_thread(good.accept, found.signed, step.base, step.body)
                return
        except (SnapshotRefused, FileNotFoundError):
            pass  # what is on disk is damaged
        try:
            parts = await self._fetch(found.base)
            await asyncio.to_thread(
                good.accept_made, found.signed, lambda offered: head.payload(found, offered, parts)
            )
        except SnapshotRefused:
            self._damaged = found.base.id  # a control plane uploads it again
            raise

    async def _fetch(self, base: Base) -> list[bytes]:
        """The parts of a base.

        :raises SnapshotRefused: if one is not there. :raises Unreachable: if JetStream does not respond.
        """
        names, region = self._names, self._edge.region
        parts, size = [b""] * base.parts, 0
        numbers = iter(range(base.parts))

        async def fetch() -> None:
            nonlocal size
            for number in numbers:
                parts[number], _ = await self._connection.last(
                    names.stream, names.part(region, base.id, number)
                )
                size += len(parts[number])
                if not parts[number] or size > base.length:
                    raise SnapshotRefused("the stored content is damaged")

        await asyncio.gather(*(fetch() for _ in range(min(AT_ONCE, base.parts))))
        return parts

    # to control planes

    async def _send(self, message: Status | Counters | Ended | Renew, *kind: str) -> int:
        """Send a message, in pieces if it is larger than the server accepts. Returns their number."""
        most = self._connection.max_payload
        try:
            parts = self._identity.sign(message, most)
        except SettingsError as error:
            self._log_once("size", f"a report is too large: {error} of {most} bytes: raise max_payload")
            return 1
        publish = self._connection.client.publish
        if len(parts) == 1:
            await publish(self._names.edge(self._edge.name, *kind), parts[0])
        for number, part in enumerate(parts if len(parts) > 1 else ()):
            await publish(self._names.piece(self._edge.name, number, *kind), part)
        return len(parts)

    async def _report(self, stop: asyncio.Event) -> None:
        """Send the workers' reports until `stop` is set, and then those of workers that have exited."""
        software = f"keyfront {version('keyfront')}"
        last: object = None
        sent, renewal = -STATUS, self._identity.renewal
        while not stop.is_set():
            now = time.monotonic()
            live = [one for one in self._feed.last_reports() if abs(self._clock() - one.at) <= STALE]
            workers = [sealed.Worker(one.name, one.number, one.refused) for one in live]
            state = (workers, self._good.proof, self._refused[1], self._damaged)
            due = now - sent >= (REVOKED_STATUS if self._is_revoked else STATUS)
            if not self._is_revoked:
                await self._count(live, now)  # before the status that names the worker
            if due or (state != last and not self._is_revoked):
                sent, last = now, state
                at = self._clock()
                await self._send(sealed.Status(self._next(), at, software, *state), "status")
            if not self._is_revoked:
                if due:
                    await self._send_ended(now)
                    self._check_silence(now)
                if self._clock() >= renewal:
                    renewal = self._clock() + RENEW_AGAIN
                    self._renewing = authority.new_key()
                    csr = authority.request(self._renewing)
                    await self._send(sealed.Renew(self._next(), self._clock(), csr), "renew")
                elif self._renewing is None:
                    renewal = min(renewal, self._identity.renewal) if due else renewal
            await pause(stop, LOOK)
        await self._send_ended(time.monotonic())
        await self._connection.client.flush()

    def _check_silence(self, now: float) -> None:
        if now - self._heard > SILENT:
            self._link.set(
                "", f"{self._connection.server} is connected, but no control plane has been heard there"
            )

    async def _count(self, live: list[Report], now: float) -> None:
        """Send the counters that have changed."""
        for one in live:
            counters, at, next_ = self._sent.get(one.name, (b"", -COUNTERS_AGAIN, now))
            if now < next_:
                continue
            encoded = msgspec.json.encode(one.counters)
            if encoded != counters or now - at >= COUNTERS_AGAIN:
                report = sealed.Counters(self._next(), self._clock(), one.name, encoded)
                count = await self._send(report, "counters", one.name)
                self._sent[one.name] = (encoded, now, now + COUNTERS * max(1.0, count / PIECES))

    async def _send_ended(self, now: float) -> None:
        """Send the last reports of workers that have exited, until they are stored."""
        self._in_flight = {id_: at for id_, at in self._in_flight.items() if now - at < ENDED_AGAIN}
        for path, one in self._feed.ended():
            if len(self._in_flight) >= MAX_IN_FLIGHT:
                return
            if path.name not in self._in_flight:
                self._in_flight[path.name] = now
                await self._send(self._ended(path, one), "ended", path.name)

    def _ended(self, path: Path, one: Report) -> sealed.Ended:
        counters = msgspec.json.encode(one.counters)
        report = remote_messages.WorkerReport(one.name, one.number, one.refused, counters)
        return sealed.Ended(self._next(), self._clock(), remote_messages.Ended(path.name, one.at, report))


class _Identity:
    """The edge's key and certificate, as they are on disk.

    :raises SettingsError: if they cannot be used.
    """

    def __init__(self, files: EdgeFiles) -> None:
        try:
            pem = files.credentials.read_bytes()
            self._key = authority.key_from_pem(pem)
            certificate = x509.load_pem_x509_certificate(pem)
            self._certificate = certificate.public_bytes(Encoding.DER)
            issuer = x509.load_pem_x509_certificate(files.edge().authority.encode())
            self.id, _, end = authority.read_edge(self._certificate, issuer)
            start = authority.start(pem)
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"{files.credentials} cannot be used: {error}; enroll this edge again"
            ) from error
        self.renewal = start + (end - start) * RENEW_AT
        """When to renew the certificate, epoch seconds."""

    def sign(self, message: Status | Counters | Ended | Renew, most: int) -> list[bytes]:
        return sealed.sign_within(message, self._key, self._certificate, most)
