"""Edges over HTTPS: one control plane's hub, a thousand edges, ten thousand distributions, on one machine.

The hub runs in a process of its own, as in `keyfront up --edges`, with a real registry (SQLite). The edges run in this
process: each has its own certificate, its own TLS connection, and its own follower, and verifies every signature. They
share one copy of each snapshot's content, which the first of them assembles and verifies: a thousand copies of ten
megabytes fit no machine. So the CPU of this process says nothing about an edge, and limits how fast all of them can
follow: times are upper bounds.

EDGES=1000 and DISTRIBUTIONS=10000 change the size.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import multiprocessing
import os
import random
import resource
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
import uvloop

from keyfront.control.edges.registry import EdgeRegistry
from keyfront.control.edges.server import EdgeServer
from keyfront.control.identity.sealing import Sealer
from keyfront.control.store.schema import counter, fleet_edge
from keyfront.control.store.store import Store
from keyfront.fleet.feed import Report
from keyfront.fleet.remote import authority, content, follower, manifest
from keyfront.fleet.remote.enrollment import Edge, EdgeFiles, LastGood
from keyfront.fleet.remote.follower import Follower
from keyfront.fleet.remote.hub import EdgeHub
from keyfront.fleet.remote.manifest import Signed
from keyfront.model.snapshot import Behavior, Distribution, KeyGroup, Origin, PublicKey, Select, Snapshot

PEM = "-----BEGIN PUBLIC KEY-----\n" + "A" * 392 + "\n-----END PUBLIC KEY-----\n"
PATIENCE = 900.0


def made(number: int, size: int) -> Snapshot:
    """Snapshot `number` of `size` distributions, of which each snapshot changes one."""

    def distribution(n: int) -> Distribution:
        rng = random.Random(n)
        id_ = "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", k=13))
        origin = Origin(
            "app",
            f"{rng.getrandbits(64):x}.example.com",
            custom_headers=(("x-edge", f"{rng.getrandbits(128):x}"),),
        )
        group = f"group-{n % 200}"
        key = {"key_headers": Select("whitelist", ("accept",)), "key_query": Select("all")}
        return Distribution(
            id="E" + id_,
            arn=f"arn:aws:cloudfront::000000000000:distribution/E{id_}",
            domain_name=f"d{rng.getrandbits(50):x}.cloudfront.localhost",
            aliases=(f"{rng.getrandbits(40):x}.example.com",),
            origins=(origin,),
            behaviors=(
                Behavior("/private/*", "app", restricted=True, trusted_key_groups=(group,), **key),
                Behavior("*", "app", max_ttl=number if n == number * 7 % size else 1),
            ),
        )

    groups = range(200)
    return Snapshot(
        number,
        float(number),
        tuple(PublicKey(f"K{n}", PEM) for n in groups),
        tuple(KeyGroup(f"group-{n}", f"customer {n}", (f"K{n}",)) for n in groups),
        tuple(distribution(n) for n in range(size)),
    )


# ---- the control plane's process


def registry_in(folder: str) -> EdgeRegistry:
    return EdgeRegistry(
        Store(Path(folder) / "keyfront.db"), "000000000000", lambda: Sealer(b"k" * 32), by="bench"
    )


def changed(base: Snapshot, command: str) -> Snapshot:
    """The next snapshot: a `change` of one distribution, or of `everything`."""
    number, some = base.number + 1, list(base.distributions)
    if command == "everything":
        some = [msgspec.structs.replace(one, log_cookies=not one.log_cookies) for one in some]
    else:
        one = some[number * 7 % len(some)]
        behaviors = (msgspec.structs.replace(one.behaviors[0], max_ttl=number), one.behaviors[1])
        some[number * 7 % len(some)] = msgspec.structs.replace(one, behaviors=behaviors)
    return msgspec.structs.replace(base, number=number, created=float(number), distributions=tuple(some))


def used() -> dict[str, float]:
    """CPU seconds of this process's threads, by name."""
    found = {}
    for thread in threading.enumerate():
        nanoseconds = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text().split()[0]
        found[thread.name] = int(nanoseconds) / 1e9
    return found


def serve(folder: str, port: int, size: int, before: list[str], pipe: Connection) -> None:
    """Publish on command, and report what it costs."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    hub = EdgeHub(registry_in(folder))
    sock = socket.create_server(("127.0.0.1", port))
    server = EdgeServer(lambda stop, on_ready: hub.run(sock, stop, on_ready))
    base = made(1, size)
    for command in before:
        base = changed(base, command)
    hub.publish(base)
    server.start()
    pipe.send(sock.getsockname()[1])
    while (command := pipe.recv()) is not None:
        if command == "usage":
            status = Path("/proc/self/status").read_text()
            rss = {
                line.split(":")[0]: int(line.split()[1])
                for line in status.splitlines()
                if line.startswith("Vm")
            }
            pipe.send((used(), rss["VmRSS"] / 1024, rss["VmHWM"] / 1024))
        else:
            base = changed(base, command)
            pipe.send(time.monotonic())
            hub.publish(base)
    server.stop()


class Control:
    """The control plane's process, seen from here."""

    def __init__(self, folder: str, size: int) -> None:
        self.folder, self.size, self.port = folder, size, 0
        self.changes: list[str] = []
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=serve, args=(self.folder, self.port, self.size, self.changes, theirs)
        )
        self.process.start()
        self.port = self._pipe.recv()

    def change(self, command: str = "change") -> float:
        """Publish the next snapshot. Returns the monotonic time before that."""
        self.changes.append(command)
        began: float = self.ask(command)
        return began

    def ask(self, command: str) -> Any:
        self._pipe.send(command)
        return self._pipe.recv()

    def stop(self) -> None:
        self._pipe.send(None)
        self.process.join()


# ---- the edges


class SharedContent(LastGood):
    """A `LastGood` in memory, which shares contents with all others. Signatures are verified by each."""

    contents: dict[bytes, bytes] = {}  # noqa: RUF012 - shared on purpose
    received = 0
    whole = 0

    def __init__(self, trusted: bytes) -> None:
        super().__init__(Path(os.devnull), "", trusted)
        self.on_accept: Callable[[int], None] = lambda _: None

    def accept(self, signed: Signed, base: bytes, body: bytes) -> None:
        offered = manifest.verify(signed, self.trusted)
        assert offered.number > self.number
        contents = SharedContent.contents
        if offered.digest not in contents:
            if base:
                made_ = content.apply(memoryview(contents[base]), body, offered.size)
            else:
                made_ = content.unpack_whole(body, offered.size)
            assert hashlib.sha256(made_).digest() == offered.digest
            contents[offered.digest] = made_
            for old in list(contents)[:-40]:
                del contents[old]
        SharedContent.received += len(body)
        SharedContent.whole += not base
        self.have, self.proof, self._accepted = offered.digest, signed, offered
        self.on_accept(offered.number)


class Workers:
    """Two workers that always use the follower's snapshot and count something."""

    def __init__(self, good: LastGood) -> None:
        self._good = good

    def last_reports(self) -> list[Report]:
        now = time.time()
        counters = {"run": "r", "requests": [["E1", 200, "Hit", "", int(now)]] * 20, "bytes": int(now)}
        return [Report(f"worker-{n}", 0, self._good.number, now, "", counters) for n in (1, 2)]

    def ended(self) -> list[Any]:
        return []

    def confirm(self, now: float) -> None:
        """There are no workers to whom it would matter."""


class Simulated(Follower):
    """An edge."""

    def __init__(self, files: EdgeFiles, on_accept: Callable[[int], None]) -> None:
        super().__init__(files)
        good = SharedContent(bytes.fromhex(files.edge().key))
        good.on_accept = on_accept
        self._good = good
        self._feed = Workers(good)  # type: ignore[assignment]

    def drop(self) -> None:
        """Lose the connection, as if a network had failed."""
        if self.connection is not None:
            self.connection.transport.abort()


class Fleet:
    def __init__(self, folder: Path, control: Control, count: int) -> None:
        self.control = control
        self.at: list[tuple[int, float]] = []
        keys, now = registry_in(control.folder).keys(), time.time()
        pem, trusted = keys.authority.pem.decode(), keys.chain[-1].public.hex()
        self.edges: list[Simulated] = []
        self.running: list[asyncio.Task[None]] = []
        rows = []
        for n in range(count):  # as `EdgeRegistry.enroll` does, in one transaction
            files, name = EdgeFiles(folder / str(n)), f"edge-{n}"
            certificate = keys.authority.issue_edge(authority.request(files.joining_key()), name, now)
            files.enrolled(
                Edge(name, "", (f"https://127.0.0.1:{control.port}",), "", pem, trusted), certificate
            )
            rows.append({"id": name, "name": name, "region": "", "enrolled": now, "expires": now + 86_400})
            self.edges.append(Simulated(files, lambda number: self.at.append((number, time.monotonic()))))
        with Store(Path(control.folder) / "keyfront.db").write() as transaction:
            transaction.connection.execute(sa.insert(fleet_edge), rows)
            transaction.connection.execute(
                sa.update(counter).where(counter.c.name == "fleet").values(value=99)
            )

    def start(self) -> None:
        stop = asyncio.Event()
        self.running = [asyncio.create_task(edge.run(stop)) for edge in self.edges]

    async def stop(self) -> None:
        for task in self.running:
            task.cancel()
        await asyncio.gather(*self.running, return_exceptions=True)

    async def reach(self, number: int, began: float) -> tuple[float, float]:
        """Seconds until half of the edges, and all of them, have the snapshot."""
        async with asyncio.timeout(PATIENCE):
            while any(edge.number < number for edge in self.edges):
                for task in self.running:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.01)
        times = sorted(at - began for n, at in self.at if n == number)
        return statistics.median(times), times[-1]


class Cost:
    """What the control plane's process used meanwhile, and what the edges received."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._cpu = control.ask("usage")[0]
        self._own = time.process_time()
        self._received, self._whole = SharedContent.received, SharedContent.whole

    def text(self) -> str:
        own = time.process_time() - self._own
        cpu, rss, most = self._control.ask("usage")
        connections, preparing = (cpu[name] - self._cpu.get(name, 0.0) for name in ("edges", "edge-hub_0"))
        return (
            f"CPU: connections {connections:.2f} s, snapshots {preparing:.2f} s, all edges {own:.2f} s; "
            f"control plane {rss:.0f} MiB (most {most:.0f}); "
            f"{(SharedContent.received - self._received) / 1e6:.2f} MB of content, "
            f"{SharedContent.whole - self._whole} whole"
        )


async def simulate(count: int, size: int, folder: Path) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # connections that are lost on purpose
    registry_in(str(folder)).prepare(time.time())
    control = Control(str(folder), size)
    fleet = Fleet(folder / "edges", control, count)
    one = made(1, size)
    print(
        f"{count} edges, {size} distributions, a snapshot of {len(one.to_bytes()) / 1e6:.1f} MB "
        f"({len(content.pack_whole(content.pieces(one))) / 1e6:.2f} MB compressed)"
    )
    del one

    cost, began = Cost(control), time.monotonic()
    fleet.start()
    half, last = await fleet.reach(1, began)
    print(f"all connect at once, with nothing: half {half:.2f} s, last {last:.2f} s; {cost.text()}")

    await asyncio.sleep(5)
    cost = Cost(control)
    await asyncio.sleep(20)
    print(f"20 s without a change: {cost.text()}")

    number, halves, lasts = 1, [], []
    cost = Cost(control)
    for _ in range(10):
        number += 1
        half, last = await fleet.reach(number, control.change())
        halves.append(half)
        lasts.append(last)
        await asyncio.sleep(1)
    print(
        f"10 changes of one distribution: half {statistics.median(halves):.2f} s, "
        f"last edge {statistics.median(lasts):.2f} s (worst {max(lasts):.2f}); {cost.text()}"
    )

    number += 1
    cost = Cost(control)
    half, last = await fleet.reach(number, control.change("everything"))
    print(f"a change of all distributions: half {half:.2f} s, last edge {last:.2f} s; {cost.text()}")

    number += 1
    await asyncio.sleep(3)
    cost, gone = Cost(control), fleet.edges[: count // 2]
    for edge in gone:
        edge.drop()
    half, last = await fleet.reach(number, control.change())
    print(
        f"half of them lose their connection during a change: half {half:.2f} s, last edge {last:.2f} s; {cost.text()}"
    )

    control.stop()
    control.start()
    cost, began = Cost(control), time.monotonic()
    number += 1
    half, last = await fleet.reach(number, control.change())
    print(
        f"a new control plane, and a change, while all reconnect: last edge {time.monotonic() - began:.2f} s "
        f"after its start; {cost.text()}"
    )
    await fleet.stop()
    control.stop()


def main() -> None:
    count, size = int(os.environ.get("EDGES", "1000")), int(os.environ.get("DISTRIBUTIONS", "10000"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    logging.getLogger("keyfront").setLevel(logging.ERROR)
    follower.LOOK = 1.0  # type: ignore[misc]  # two workers per edge, all in this process
    with tempfile.TemporaryDirectory() as folder:
        uvloop.run(simulate(count, size, Path(folder)))
