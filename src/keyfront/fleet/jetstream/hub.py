"""The control plane's side of the feed over NATS, in a thread of its own.

Each region's part of every snapshot is stored in the bucket, with a signature. All control planes of a store write the
same bucket: a head is only replaced by one with a higher number, and only if nobody else has replaced it meanwhile. The
bucket is compared with what is published every few seconds, so whatever was deleted, purged, or overwritten in NATS is
written again.

Reports are accepted if the certificate of an enrolled edge signs them, wherever they come from. All control planes
read all reports; the store adds up each of them once (`control/keys/usage.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError

from keyfront.errors import ApiError, KeyfrontError, SettingsError, SnapshotRefused
from keyfront.fleet.jetstream import head, joining, sealed
from keyfront.fleet.jetstream.access import NatsAccess
from keyfront.fleet.jetstream.bucket import Bucket
from keyfront.fleet.jetstream.connection import Connection, connected, pause, unless_stopped
from keyfront.fleet.jetstream.head import Base, Head
from keyfront.fleet.jetstream.names import Names, token
from keyfront.fleet.jetstream.pieces import Assembly, Piece
from keyfront.fleet.jetstream.sealed import Edges, FromControl, FromEdge, NotGenuine
from keyfront.fleet.remote import authority, manifest, messages
from keyfront.fleet.remote.channel import Channel, Version
from keyfront.fleet.remote.edge_reports import MAX_WORKERS, NAME, ReportingEdge, printable
from keyfront.fleet.remote.identity import Identity, Registry, Seen
from keyfront.fleet.remote.manifest import Manifest, Signed
from keyfront.fleet.remote.publishing import PublishingHub

log = logging.getLogger("keyfront.fleet")

BEACON = 2.5
"""Seconds between two signs that a control plane is alive, and between two comparisons with the bucket."""
SWEEP = 30.0
"""Seconds between two removals of what no edge reads any more."""
FIRST_PAUSE, MAX_PAUSE = 0.5, 10.0
"""Maximum seconds before the second attempt to connect, and before any. Each pause is of random length."""
RETAIN = 60.0
"""Seconds for which the reports of a silent edge are kept."""
BURST, RATE = 600.0, 50.0
"""Messages that are read of one sender at once, and per second."""
MAX_SENDERS = 10_000
"""Senders that are distinguished."""
STRANGER = 5.0
"""Minimum seconds between two responses to an edge that is not accepted, and between two uploads that edges cause."""
ENROLLMENTS = 4
"""Enrollments at the same time."""
RENEWAL = 1.0
"""Minimum seconds between two renewals of an edge's certificate."""
ROOM = 1 << 18
"""Bytes for differences in a head, if the server accepts messages of twice that size."""
ATTEMPTS = 5
"""Attempts to write a head while others write it, too."""
REPLAY = 2.0
"""Seconds to wait for the next stored report."""

ADDRESS = "NATS"
"""Where these edges are, for lists and audit records."""


class NatsEdge(ReportingEdge):
    """An edge that follows over NATS."""

    def __init__(self, identity: Identity) -> None:
        super().__init__(identity, ADDRESS, "")
        self.serials: dict[str, int] = {}
        """The last serial number of each kind of message."""
        self.counters: dict[str, bytes] = {}
        self.assembly = Assembly()
        self.cut: dict[str, int] = {}
        """The number of pieces of each report in `ended` that has any."""
        self.proof = Signed()
        self.refused = ""
        self.is_welcome = False
        self.renewed = -RENEWAL

    def is_new(self, kind: str, serial: int) -> bool:
        """Whether the message is newer than the ones before; it is then the last one.

        :raises NotGenuine: if there are too many kinds.
        """
        if serial <= self.serials.get(kind, 0):
            return False
        if len(self.serials) > 2 * MAX_WORKERS and kind not in self.serials:
            raise NotGenuine("it has too many workers")
        self.serials[kind] = serial
        return True

    def apply(self, status: sealed.Status, now: float) -> None:
        """Take in a status, at `now` (epoch seconds)."""
        self.software = status.software[:64]
        names = [one.name for one in status.workers]
        reports = [
            messages.WorkerReport(one.name, one.number, one.refused, self.counters.get(one.name, b"{}"))
            for one in status.workers
        ]
        self.update(messages.Status(names, reports), now)
        self.counters = {name: one for name, one in self.counters.items() if name in names}

    def count(self, worker: str, counters: bytes) -> None:
        """Take in the counters of a worker."""
        if len(self.counters) < MAX_WORKERS or worker in self.counters:
            self.counters[worker] = counters
        if (known := self.workers.get(worker)) is not None:
            one = msgspec.structs.replace(known, counters=counters)
            self.update(messages.Status(list(self.workers), [one]), self.at)


class NatsHub(PublishingHub[NatsEdge]):
    """The feeds of all regions over NATS. `run` serves them; the other methods can be called from any thread.

    :param registry: who is an edge.
    :param replicas: the number of servers that store the bucket, when it is created.
    :param clock: epoch seconds.
    :raises SettingsError: if the keys cannot be opened.
    :raises ApiError: if the store does not respond.
    """

    def __init__(
        self,
        access: NatsAccess,
        registry: Registry,
        replicas: int = 1,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__(registry, clock, "nats-hub")
        self._access = access
        self._names = Names(access.bucket)
        self._replicas = replicas
        self._rng = rng or random.SystemRandom()
        self._renew: set[str] = set()
        self._uploaded: dict[str, float] = {}
        self._current: dict[str, Head] = {}
        self._edges_of = Edges(self._keys.authority.certificate)
        self._host = joining.Host()
        self._enrollments = asyncio.Semaphore(ENROLLMENTS)
        self._allowances: dict[str, tuple[float, float]] = {}
        self._strangers: dict[str, float] = {}
        self._logged: dict[str, str] = {}
        self._connection: Connection | None = None
        self.trouble = "edges do not get snapshots over NATS yet"

    # ---- for the control plane; any thread

    def forget(self, ended: Path) -> None:
        """Tell the edge that a report of `ended` is stored."""
        edge = self._edges.get(ended.parent.name)
        if edge is None or edge.ended.pop(ended.name, None) is None or self._loop is None:
            return
        pieces = edge.cut.pop(ended.name, 0)
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._spawn, self._forget(edge.identity, ended.name, pieces))

    async def _forget(self, identity: Identity, id_: str, pieces: int) -> None:
        await self._send(identity, sealed.Stored(identity.id, id_))
        if self._connection is not None:
            bucket, names = Bucket(self._connection, self._names, self._replicas), self._names
            kind = ("ended", id_)
            cut = [names.piece(identity.name, number, *kind) for number in range(pieces)]
            for subject in cut or [names.edge(identity.name, *kind)]:
                await bucket.forget(subject)

    # ---- the event loop

    async def run(self, stop: asyncio.Event, on_ready: Callable[[], None]) -> None:
        """Serve edges until `stop` is set, whenever NATS can be reached.

        :param on_ready: called at once: a control plane works without NATS, too.
        """
        self._loop = asyncio.get_running_loop()
        watching = asyncio.create_task(self._watch())
        on_ready()
        turn = failures = 0
        try:
            while not stop.is_set():
                server = self._access.servers[turn % len(self._access.servers)]
                began = time.monotonic()
                try:
                    await unless_stopped(stop, self._connect(server, stop))
                    continue
                except (KeyfrontError, NatsError, APIError, OSError, TimeoutError) as error:
                    self._failed(server, error)
                finally:
                    self._connection = None
                if time.monotonic() - began > 2 * MAX_PAUSE:
                    failures = 0
                turn, failures = turn + 1, failures + 1
                await pause(stop, self._rng.uniform(0.0, min(MAX_PAUSE, FIRST_PAUSE * 2 ** min(failures, 6))))
        finally:
            watching.cancel()
            self._loop = None
            self._executor.shutdown(wait=False, cancel_futures=True)

    async def _connect(self, server: str, stop: asyncio.Event) -> None:
        """Use one connection. Raises what `_session` raises."""
        inbox = self._names.inbox("control")
        async with connected(self._access, server, inbox, self._refused) as connection:
            await self._session(connection, stop)

    def _failed(self, server: str, error: Exception) -> None:
        reason = str(error) or type(error).__name__
        trouble = f"edges do not get snapshots over NATS: {server}: {reason}"
        if trouble != self.trouble:
            log.warning("%s; trying again", trouble)
        self.trouble = trouble

    def _refused(self, text: str) -> None:
        self._log_once("permissions", f"NATS refuses: {text}")

    def _log_once(self, about: str, text: str) -> None:
        if self._logged.get(about) != text:
            if len(self._logged) >= MAX_SENDERS:
                self._logged.clear()
            self._logged[about] = text
            log.warning("%s", text)

    async def _session(self, connection: Connection, stop: asyncio.Event) -> None:
        """Use one connection until it ends, or `stop` is set.

        :raises KeyfrontError, NatsError, APIError: why it ended.
        """
        names, client = self._names, connection.client
        bucket = Bucket(connection, names, self._replicas)
        await bucket.prepare(authority.fingerprint(self._keys.authority.certificate))
        own = f"{names.join}.{secrets.token_hex(8)}"
        self._connection = connection
        await client.subscribe(names.edges, cb=self._on_edge)
        await self._replay(connection)
        await client.subscribe(names.join, queue="keyfront", cb=self._on_join(own))
        await client.subscribe(own, cb=self._on_enroll)
        self._published.set()
        tasks = [
            asyncio.create_task(each)
            for each in (
                self._publish(bucket),
                self._sweep(bucket),
                connection.lost.wait(),
                stop.wait(),
            )
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
            raise SettingsError("the connection was lost")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        async def quietly() -> None:
            try:
                await work
            except (KeyfrontError, NatsError, APIError, OSError, TimeoutError) as error:
                log.debug("over NATS: %s", error)

        task = asyncio.get_running_loop().create_task(quietly())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _seal(self, message: FromControl) -> bytes:
        return sealed.seal(message, self._keys.signer, self._keys.chain)

    # snapshots

    async def _publish(self, bucket: Bucket) -> None:
        """Bring the bucket to what is published, again and again."""
        connection = self._connection
        while connection is not None:
            self._published.clear()
            regions = sorted(self.regions)
            await asyncio.gather(*(self._refresh(bucket, connection, region) for region in regions))
            if self.trouble:
                log.info("edges get snapshots over NATS, from the bucket %s", self._names.bucket)
            self.trouble = ""
            self._first = None if self._whole is not None else self._first
            await pause(self._published, BEACON)

    async def _refresh(self, bucket: Bucket, connection: Connection, region: str) -> None:
        if self._whole is None:
            return
        channel = self._channel(region)
        await self._advance(channel)
        version = channel.current
        if version is None or not await self._write(bucket, connection, channel, version):
            return
        beacon = sealed.Beacon(region, version.manifest.number, self._clock())
        await connection.client.publish(self._names.announce(region), self._seal(beacon))

    async def _write(
        self, bucket: Bucket, connection: Connection, channel: Channel, version: Version
    ) -> bool:
        """Make `version` the region's head, unless it is. False if it must not be."""
        names, region, offered = self._names, channel.region, version.manifest
        for _ in range(ATTEMPTS):
            data, sequence = await connection.last(names.stream, names.head(region))
            there = self._read(region, data, sequence)
            if there is not None:
                found = there[1]
                if found.number > offered.number or (
                    found.number == offered.number and found.created != offered.created
                ):
                    self._proven = max(self._proven, found.number + (found.number == offered.number))
                    return False
                # Another version of Keyfront may have compiled it differently: edges have that one.
                is_same = there[0].signed.key == version.signed.key or found.digest != offered.digest
                if found.number == offered.number and is_same and region not in self._renew:
                    self._current[region] = there[0]
                    return True
            made = await self._make(bucket, connection, channel, version, there[0].base if there else None)
            message = self._seal(made)
            if await bucket.write(names.head(region), message, sequence) is not None:
                self._renew.discard(region)
                self._current[region] = made
                await connection.client.publish(names.announce(region), message)
                log.info(
                    "feed written to NATS",
                    extra={"snapshot": offered.number, "region": region, "bytes": len(message)},
                )
                return True
        raise SettingsError(f"others keep writing {names.head(region)}")

    def _read(self, region: str, data: bytes, sequence: int) -> tuple[Head, Manifest] | None:
        """What a control plane of this store has written; None if there is nothing, or something else."""
        if not data:
            return None
        chain = self._keys.chain
        try:
            message, later = sealed.unseal(data, chain[0].public)
            if not isinstance(message, Head):
                raise SnapshotRefused("it is not a head")
            found = manifest.recognize(message.signed, [chain[0], *later])
            if found is None or found.region != region:
                raise SnapshotRefused("its snapshot is not signed for this region")
            head.check(message, found)
        except SnapshotRefused as error:
            self._log_once(
                f"head {region}",
                f"the key {self._names.head(region)} in NATS (sequence {sequence}) is not what a control plane wrote "
                f"there, and is written again: {error}",
            )
            return None
        return message, found

    async def _make(
        self,
        bucket: Bucket,
        connection: Connection,
        channel: Channel,
        version: Version,
        stored: Base | None,
    ) -> Head:
        """The head of `version`, with a new base if it needs one."""
        offered, region = version.manifest, channel.region
        room = min(ROOM, connection.max_payload // 2)
        if stored is not None and region not in self._renew:
            found: Head | None = await self._in_thread(
                head.make, offered, version.signed, version.pieces, dict(channel.history), stored, room
            )
            if found is not None:
                return found
        part = min(head.PART, connection.max_payload - 1024)
        base, parts = await self._in_thread(head.pack, version.pieces, offered.digest, offered.size, part)
        await bucket.upload(region, base, parts)
        self._uploaded[region] = time.monotonic()
        log.info(
            "a whole snapshot is uploaded to NATS",
            extra={"snapshot": offered.number, "region": region, "bytes": base.length, "parts": base.parts},
        )
        made: Head | None = await self._in_thread(
            head.make, offered, version.signed, version.pieces, dict(channel.history), base, room
        )
        return Head(version.signed, base) if made is None else made

    async def _sweep(self, bucket: Bucket) -> None:
        while True:
            await asyncio.sleep(SWEEP)
            if self._whole is not None:
                used = {region: one.base.id for region, one in self._current.items()}
                await bucket.sweep(self.regions, used)

    # reports

    async def _replay(self, connection: Connection) -> None:
        """Read the last reports that are stored.

        :raises NatsError, APIError: if that fails.
        """
        subscription = await connection.js.subscribe(
            self._names.edges,
            stream=self._names.reports,
            ordered_consumer=True,
            config=ConsumerConfig(deliver_policy=DeliverPolicy.LAST_PER_SUBJECT),
        )
        with contextlib.suppress(TimeoutError, NatsError):
            left = (await subscription.consumer_info()).num_pending
            while left or subscription.pending_msgs:
                message = await subscription.next_msg(REPLAY)
                left = message.metadata.num_pending
                await self._take(message, live=False)
        with contextlib.suppress(NatsError, APIError):
            await subscription.unsubscribe()

    async def _on_edge(self, message: Msg) -> None:
        """Take in a message of an edge. Whatever is in it, the next one is read."""
        try:
            if self._allows(self._names.sender(message.subject)):
                await self._take(message, live=True)
        except Exception:
            log.exception("a message in NATS is not read: %r", message.subject[:200])

    def _allows(self, sender: str) -> bool:
        """Whether the sender has not sent too much. Checked before the signature, which costs more."""
        now = time.monotonic()
        allowance, last = self._allowances.get(sender, (BURST, now))
        allowance = min(BURST, allowance + (now - last) * RATE)
        if len(self._allowances) >= MAX_SENDERS and sender not in self._allowances:
            self._allowances.clear()
        self._allowances[sender] = (max(allowance - 1, 0.0), now)
        if allowance < 1:
            self._log_once(f"rate {sender}", f"too many messages in NATS as edge {printable(sender)}")
        return allowance >= 1

    async def _take(self, message: Msg, *, live: bool) -> None:
        sender, now = self._names.sender(message.subject), self._clock()
        try:
            id_, found = self._edges_of.open(message.data, now)
            if live and abs(found.at - now) > sealed.SKEW:
                raise NotGenuine(f"it was sent {now - found.at:+.0f} s ago by its clock")
            identity = self._identities.get(id_)
            if identity is None:
                await self._stranger(id_, sender)
                return
            if token(identity.name) != sender:
                raise NotGenuine(f"edge {identity.name} has signed it")
            edge = self._edges.get(id_)
            if edge is None:
                edge = self._edges[id_] = NatsEdge(identity)
            count = 0
            if isinstance(found, Piece):
                serial, count = found.serial, found.count
                body = edge.assembly.add(found)
                if body is None:
                    return
                found = sealed.read_body(body)
                if found.serial != serial or isinstance(found, Piece):
                    raise NotGenuine("its pieces are not those of a report")
            await self._dispatch(edge, found, now if live else min(found.at, now), live=live)
            if count and isinstance(found, sealed.Ended) and found.report.id in edge.ended:
                edge.cut[found.report.id] = count
        except (NotGenuine, SettingsError) as error:
            self._log_once(
                f"edge {sender}", f"a message in NATS as edge {printable(sender)} is refused: {error}"
            )

    async def _dispatch(self, edge: NatsEdge, message: FromEdge, at: float, *, live: bool) -> None:
        """:raises NotGenuine, SettingsError: if the message violates the protocol."""
        match message:
            case sealed.Status():
                if not edge.is_new("status", message.serial):
                    return
                if live and not edge.is_welcome:
                    edge.is_welcome = True
                    await self._send(edge.identity, sealed.Standing(edge.identity.id, True, self._clock()))
                    log.info(
                        "edge %s follows over NATS", edge.identity.name, extra={"edge": edge.identity.name}
                    )
                edge.apply(message, at)
                self._note(edge, message)
            case sealed.Counters() if NAME.fullmatch(message.worker):
                if edge.is_new(f"counters {message.worker}", message.serial):
                    edge.count(message.worker, message.counters)
            case sealed.Ended() if NAME.fullmatch(message.report.id) and NAME.fullmatch(
                message.report.report.name
            ):
                edge.add_ended(message.report)
            case sealed.Renew() if live:
                await self._renew_certificate(edge, message)
            case _:
                raise NotGenuine("it has a name that is not valid")

    def _note(self, edge: NatsEdge, status: sealed.Status) -> None:
        """What an edge says of the snapshots that it has."""
        if status.proof != edge.proof:
            edge.proof = status.proof
            with contextlib.suppress(SnapshotRefused):
                self._proof(status.proof)
        if status.refused and status.refused != edge.refused:
            log.error("edge %s refuses a snapshot: %s", edge.identity.name, printable(status.refused))
        edge.refused = status.refused
        region = edge.identity.region
        current = self._current.get(region)
        if (
            current is not None
            and status.damaged == current.base.id
            and time.monotonic() - self._uploaded.get(region, -STRANGER) >= STRANGER
        ):
            self._uploaded[region] = time.monotonic()
            self._renew.add(region)
            self._published.set()

    async def _renew_certificate(self, edge: NatsEdge, message: sealed.Renew) -> None:
        now = time.monotonic()
        if not edge.is_new("renew", message.serial) or now - edge.renewed < RENEWAL:
            return
        edge.renewed = now
        try:
            pem = await self._in_thread(self._registry.renew, edge.identity.id, message.csr, self._clock())
        except ApiError:
            return  # the store does not respond; the edge tries again
        await self._send(edge.identity, sealed.Renewed(edge.identity.id, pem))

    async def _stranger(self, id_: str, sender: str) -> None:
        """An edge that is not accepted learns that, unless another control plane has just enrolled it."""
        now = time.monotonic()
        if now - self._strangers.get(id_, -STRANGER) < STRANGER:
            return
        if len(self._strangers) >= MAX_SENDERS:
            self._strangers.clear()
        self._strangers[id_] = now
        with contextlib.suppress(ApiError, SettingsError):
            await self._check()
        if id_ not in self._identities:
            await self._send(Identity(id_, sender, ""), sealed.Standing(id_, False, self._clock()))

    async def _send(self, identity: Identity, message: FromControl) -> None:
        if self._connection is not None:
            await self._connection.client.publish(self._names.control(identity.name), self._seal(message))

    # enrollment

    def _on_join(self, own: str) -> Callable[[Msg], Coroutine[Any, Any, None]]:
        """The callback that offers a key for the encryption of an enrollment."""
        offer = self._host.offer(self._keys.authority, own)

        async def callback(message: Msg) -> None:
            if message.reply and self._allows("join"):
                with contextlib.suppress(NatsError):
                    await message.respond(offer)

        return callback

    async def _on_enroll(self, message: Msg) -> None:
        if message.reply and self._allows("enroll"):
            self._spawn(self._enroll(message))

    async def _enroll(self, message: Msg) -> None:
        answer: messages.Enrolled | messages.Refusal
        async with self._enrollments:
            try:
                data, key = self._host.open(message.data)
                wanted = messages.decode_to_control(data)
                if not isinstance(wanted, messages.Enroll):
                    raise SettingsError("it does not begin with Enroll")
            except (SettingsError, msgspec.MsgspecError) as error:
                self._log_once("enroll", f"an enrollment over NATS is refused: {error}")
                return
            try:
                made = await self._in_thread(
                    self._registry.enroll, wanted.secret, wanted.csr, wanted.name, ADDRESS, self._clock()
                )
                identity = made.identity
                answer = messages.Enrolled(
                    made.certificate, identity.name, identity.region, self._keys.chain[-1].public
                )
                log.info(
                    "edge %s is enrolled",
                    identity.name,
                    extra={"edge": identity.name, "region": identity.region, "address": ADDRESS},
                )
            except (SettingsError, ApiError) as error:
                log.warning("an edge is not enrolled over NATS: %s", error)
                answer = messages.Refusal(error.message if isinstance(error, ApiError) else str(error))
            self._identities = await self._in_thread(self._registry.identities)
        self._published.set()
        await message.respond(joining.respond(key, messages.encode(answer)))

    # the registry

    def _present(self) -> list[Seen]:
        return [edge.seen() for edge in self._live(self._clock())]

    def _tidy(self) -> None:
        now = self._clock()
        for id_, edge in list(self._edges.items()):
            if not edge.ended and abs(now - edge.at) > RETAIN:
                del self._edges[id_]

    async def _reload(self) -> None:
        before = self.regions
        await super()._reload()
        if self.regions != before:
            self._published.set()

    def _on_new_key(self) -> None:
        """Its heads are written anew."""

    def _on_revoked(self, edge: NatsEdge) -> None:
        standing = sealed.Standing(edge.identity.id, False, self._clock())
        self._spawn(self._send(edge.identity, standing))
