"""The edge's side of the feed over HTTPS: one follower per machine.

It keeps one connection to one of its control planes. What arrives there goes to disk, where the workers follow it as
they follow any feed (`fleet/file_feed.py`), and the workers' reports go back. While no control plane can be reached,
the workers serve the last good snapshot; the follower tries one control plane after the other, with growing pauses of
random length, so that a fleet does not return all at once.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from importlib.metadata import version

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from keyfront.errors import KeyfrontError, SettingsError, SnapshotRefused
from keyfront.fleet.feed import STALE, Report
from keyfront.fleet.file_feed import FileFeed
from keyfront.fleet.remote import authority, messages
from keyfront.fleet.remote.connect import NotAccepted, Unreachable, open_connection, pinned
from keyfront.fleet.remote.content import MAX_SIZE
from keyfront.fleet.remote.enrollment import EdgeFiles, LastGood, LinkState
from keyfront.fleet.remote.manifest import key_id

log = logging.getLogger("keyfront.fleet")

LOOK = 0.1
"""Seconds between two looks at the workers' reports."""
COUNTERS = 4.0
"""Seconds between two reports of a worker's counters."""
PING, PONG = 5.0, 10.0
"""Seconds between two pings, and without any answer or message: then the follower turns to another control plane."""
FIRST_PAUSE, MAX_PAUSE = 1.0, 30.0
"""Maximum seconds before the second attempt to connect, and before any. Each pause is of random length."""
REFUSED_PAUSE = 30.0
"""Maximum seconds before the next attempt after a control plane did not accept the edge."""
LASTING = 30.0
"""Seconds after which a connection counts as good, so that the next pause is a short one again."""
RENEW_AT = 2 / 3
"""Share of a certificate's lifetime after which it is renewed."""
RENEW_AGAIN = 60.0
"""Maximum seconds between two attempts to renew it."""
MAX_IN_FLIGHT = 16
"""Reports of exited workers that wait for the control plane's answer."""


class Follower:
    """Follows the control planes of an enrolled edge.

    :param files: the edge's.
    :param clock: epoch seconds.
    :raises SettingsError: if the edge is not enrolled.
    """

    def __init__(
        self, files: EdgeFiles, rng: random.Random | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._files = files
        self._edge = files.edge()
        self._rng = rng or random.SystemRandom()
        self._clock = clock
        self._feed = FileFeed(files.feed, self._edge.region)
        self._good = LastGood(files.feed, self._edge.region, bytes.fromhex(self._edge.key))
        self._reported: dict[str, str] = {}
        self._link = LinkState(files, clock)
        self.connection: ClientConnection | None = None
        """The current one; None while there is none."""
        self.current = asyncio.Event()
        """Set once the follower has what its control plane has published."""

    @property
    def number(self) -> int:
        """The number of the last good snapshot; 0: none."""
        return self._good.number

    async def run(self, stop: asyncio.Event) -> None:
        """Follow until `stop` is set, and then send the last reports."""
        turn = failures = 0
        while not stop.is_set():
            url = self._edge.controls[turn % len(self._edge.controls)]
            began = time.monotonic()
            refused = False
            try:
                await self._serve(url, stop)
                await _until(stop, self._rng.uniform(0.0, FIRST_PAUSE))
                continue
            except NotAccepted as error:
                refused = True
                self._failed(url, error)
            except (KeyfrontError, OSError, TimeoutError, msgspec.MsgspecError) as error:
                self._failed(url, error)
            if time.monotonic() - began > LASTING:
                failures = 0
            # Pauses double when all control planes have failed once more.
            rounds = min(failures // len(self._edge.controls), 10)
            limit = min(MAX_PAUSE, FIRST_PAUSE * 2**rounds)
            turn, failures = turn + 1, failures + 1
            await _until(stop, self._rng.uniform(0.0, max(limit, REFUSED_PAUSE if refused else 0.0)))

    async def _serve(self, url: str, stop: asyncio.Event) -> None:
        """Use one connection until it ends. Returns if `stop` is set, or if the next connection is to be made with a
        renewed certificate.

        :raises KeyfrontError, OSError, TimeoutError, MsgspecError: why it ended otherwise.
        """
        edge = self._edge
        context = pinned(edge.authority, self._files.credentials, edge.ca)
        try:
            connection = await open_connection(url, "/feed", context, edge.proxy)
        except Unreachable:
            # With TLS 1.3, the reason why a server refuses a certificate may be lost.
            self._check_expiry()
            raise

        def on_welcome() -> None:
            self._reported.pop(url, None)
            self._link.set(url)
            log.info("connected to %s", url, extra={"snapshot": self._good.number})

        self.connection = connection
        session = _Session(self._files, self._feed, self._good, connection, self._clock)
        session.on_welcome, session.on_current = on_welcome, self.current.set
        try:
            await session.run(stop)
        except ConnectionClosed as error:
            if error.rcvd is not None and error.rcvd.code == messages.REVOKED:
                raise NotAccepted("this edge is revoked") from error
            if error.rcvd is not None and error.rcvd.code == messages.EXPIRED:
                self._check_expiry()
                return
            raise Unreachable("the connection was lost") from error
        finally:
            self.connection = None
            await connection.close()

    def _check_expiry(self) -> None:
        """:raises NotAccepted: if the edge's certificate has expired."""
        if self._clock() >= authority.expiry(self._files.credentials.read_bytes()):
            raise NotAccepted("the certificate of this edge has expired")

    def _failed(self, url: str, error: Exception) -> None:
        reason = str(error) or type(error).__name__
        self._link.set("", f"{url}: {reason}")
        if self._reported.get(url) == reason:  # once, not at each attempt
            return
        self._reported[url] = reason
        if isinstance(error, NotAccepted):
            log.error(
                "%s does not accept this edge: %s; it serves snapshot %s from its disk; to enroll it again: "
                "keyfront edge join",
                url,
                reason,
                self._good.number,
            )
        else:
            log.warning(
                "no connection to %s: %s; this edge serves snapshot %s", url, reason, self._good.number
            )


class _Session:
    """One connection to a control plane."""

    def __init__(
        self,
        files: EdgeFiles,
        feed: FileFeed,
        good: LastGood,
        connection: ClientConnection,
        clock: Callable[[], float],
    ) -> None:
        self.on_welcome: Callable[[], None] = lambda: None
        self.on_current: Callable[[], None] = lambda: None
        self._files = files
        self._feed = feed
        self._good = good
        self._connection = connection
        self._clock = clock
        self._sent: dict[str, tuple[int, str, bytes, float]] = {}
        self._in_flight: set[str] = set()
        self._renewing: ec.EllipticCurvePrivateKey | None = None
        self._welcomed = False
        self._update: messages.Update | None = None
        self._parts: list[bytes] = []
        self._heard = 0
        self._has_latest = False

    async def run(self, stop: asyncio.Event) -> None:
        """Until the connection ends or `stop` is set.

        :raises ConnectionClosed, OSError, TimeoutError, KeyfrontError: why it ended.
        """
        good = self._good
        trusts = key_id(good.trusted)
        await self._send(
            messages.Hello(messages.VERSION, f"keyfront {version('keyfront')}", trusts, good.proof, good.have)
        )
        receiving = asyncio.create_task(self._receive())
        reporting = asyncio.create_task(self._report(stop))
        tasks = [receiving, reporting, asyncio.create_task(self._ping())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def _send(self, message: object) -> None:
        await self._connection.send(messages.encode(message))

    async def _ping(self) -> None:
        """Notice that the other side is gone. What it sends counts as an answer, because the answer to a ping waits
        behind a large snapshot.

        :raises Unreachable: once it is gone.
        """
        while True:
            await asyncio.sleep(PING)
            heard = self._heard
            answer = asyncio.ensure_future(await self._connection.ping())
            answer.add_done_callback(lambda one: one.cancelled() or one.exception())  # the receiver raises it
            await asyncio.wait([answer], timeout=PONG)
            if not answer.done() and self._heard == heard:
                raise Unreachable(f"no response for {PONG:.0f} seconds")
            if self._has_latest and self._update is None:
                self._feed.confirm(self._clock())

    # from the control plane

    async def _receive(self) -> None:
        while True:
            message = messages.decode_to_edge(await self._connection.recv(decode=False))
            self._heard += 1
            match message:
                case messages.Welcome():
                    self._welcome(message)
                case messages.Update() if self._update is None:
                    self._update, self._parts = message, []
                    await self._take(message, message.data)
                case messages.Part() if self._update is not None:
                    await self._take(self._update, message.data)
                case messages.Stored():
                    self._stored(message.id)
                case messages.Renewed() if self._renewing is not None:
                    self._files.renewed(self._renewing, message.certificate)
                    self._renewing = None
                    log.info("the certificate of this edge is renewed")
                case _:
                    raise SettingsError(f"it sent {type(message).__name__} unexpectedly")

    def _welcome(self, message: messages.Welcome) -> None:
        if not self._welcomed:
            self._welcomed = True
            self.on_welcome()
        if self._good.succeed(message.endorsements):
            edge = self._files.edge()
            self._files.save(msgspec.structs.replace(edge, key=self._good.trusted.hex()))
            log.info("the control plane has a new snapshot key")
        if message.number <= self._good.number:
            self._confirm()

    async def _take(self, update: messages.Update, data: bytes) -> None:
        """Take a part of a snapshot. When it is whole, put it on disk, and answer."""
        good = self._good
        self._parts.append(data)
        missing = update.size - sum(map(len, self._parts))
        if missing < 0 or update.size > MAX_SIZE:
            raise SettingsError("it sent a snapshot of an impossible size")
        if missing:
            return
        body, self._update, self._parts = b"".join(self._parts), None, []
        try:
            await asyncio.to_thread(good.accept, update.signed, update.base, body)
        except SnapshotRefused as refusal:
            self._has_latest = False
            log.error("a snapshot is refused, and %s stays in use: %s", good.number, refusal)
            await self._send(messages.Refused(str(refusal)))
            return
        log.info("snapshot received", extra={"snapshot": good.number, "bytes": update.size})
        await self._send(messages.Applied())
        self._confirm()

    def _confirm(self) -> None:
        """What is on disk is what the control plane has published."""
        self._has_latest = True
        self._feed.confirm(self._clock())
        self.on_current()

    def _stored(self, id_: str) -> None:
        self._in_flight.discard(id_)
        for path, _ in self._feed.ended():
            if path.name == id_:
                self._feed.forget(path)

    # to the control plane

    async def _report(self, stop: asyncio.Event) -> None:
        """Send the workers' reports until `stop` is set, and then those of workers that have exited."""
        told = -messages.STATUS
        renewal = self._renewal()
        while not stop.is_set():
            now = time.monotonic()
            due = now - told >= messages.STATUS
            live = [one for one in self._feed.last_reports() if abs(self._clock() - one.at) <= STALE]
            news = [found for one in live if (found := self._news(one, now)) is not None]
            if news or due:
                told = now
                await self._tell([one.name for one in live], news)
            if due:
                await self._tell_ended()
            if self._clock() >= renewal:
                renewal = self._clock() + RENEW_AGAIN
                self._renewing = authority.new_key()
                await self._send(messages.Renew(authority.request(self._renewing)))
            elif self._renewing is None:
                renewal = min(renewal, self._renewal()) if due else renewal
            await _until(stop, LOOK)
        await self._tell_ended()

    async def _tell(self, alive: list[str], news: list[messages.WorkerReport]) -> None:
        """One message for each report, because a report may be large."""
        for one in news[:-1]:
            await self._send(messages.Status(alive, [one]))
        await self._send(messages.Status(alive, news[-1:]))

    def _news(self, one: Report, now: float) -> messages.WorkerReport | None:
        """The report as it is sent; None if there is nothing new in it that could not wait."""
        number, refused, counters, at = self._sent.get(one.name, (-1, "", b"", -COUNTERS))
        urgent = (number, refused) != (one.number, one.refused)
        if not urgent and now - at < COUNTERS:
            return None
        encoded = msgspec.json.encode(one.counters)
        if not urgent and encoded == counters:
            return None
        self._sent[one.name] = (one.number, one.refused, encoded, now)
        return messages.WorkerReport(one.name, one.number, one.refused, encoded)

    async def _tell_ended(self) -> None:
        for path, one in self._feed.ended():
            if len(self._in_flight) >= MAX_IN_FLIGHT:
                return
            if path.name not in self._in_flight:
                self._in_flight.add(path.name)
                counters = msgspec.json.encode(one.counters)
                report = messages.WorkerReport(one.name, one.number, one.refused, counters)
                await self._send(messages.Ended(path.name, one.at, report))

    def _renewal(self) -> float:
        """When to renew the certificate, epoch seconds."""
        pem = self._files.credentials.read_bytes()
        start, end = authority.start(pem), authority.expiry(pem)
        return start + (end - start) * RENEW_AT


async def _until(stop: asyncio.Event, seconds: float) -> None:
    """Wait for `stop`, at most that long."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        pass
