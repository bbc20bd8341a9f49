"""Benchmark of the control plane: calls per second on both stores, and the time until the last worker applies a change.

Calls are made as the HTTP layer makes them, but without HTTP, so that the figures exclude the client; one row uses HTTP
with boto3 and covers everything. The propagation time is measured on complete installations: from the response to
UpdateDistribution until the last worker has written the report that it has applied the change. With PostgreSQL there
are two machines on one store, each with its own control plane, and the workers of both count.

DISTRIBUTIONS="1 100 1000" and SECONDS_EACH=1 change the amount of work; PART=calls or PART=workers runs only that part.
Both stores wait for the disk on each commit.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from keyfront.errors import ApiError
from keyfront.model.kinds import DISTRIBUTION, DOMAIN, ETAG, Quotas
from tests.control.harness import Harness
from tests.postgres import PostgresServer, unable
from tests.up import Up

COUNTS = [int(text) for text in os.environ.get("DISTRIBUTIONS", "1 100 1000").split()]
SECONDS = float(os.environ.get("SECONDS_EACH", "1"))
CHANGES = 10
WORKERS = 2
MANY = 1_000_000
QUOTAS = Quotas(public_keys=MANY, key_groups=MANY, distributions=MANY, distributions_per_key_group=MANY)


@contextlib.contextmanager
def stores() -> Iterator[Iterator[tuple[str, str]]]:
    """Yields (name, the URL of an empty database); the URL is empty for SQLite."""
    if why := unable():
        print(f"PostgreSQL is left out: {why}")
        yield iter([("SQLite", "")])
        return
    with PostgresServer(durable=True) as server:
        yield iter([("SQLite", ""), ("PostgreSQL", server.database())])


def harness(folder: Path, url: str) -> Harness:
    folder.mkdir(parents=True, exist_ok=True)
    if url:
        (folder / "store").write_text(url)
    return Harness(folder, seed=time.monotonic_ns(), quotas=QUOTAS)


def fill(made: Harness, count: int) -> str:
    """Fill the store with `count` distributions, and return the id of one of them. All but the first are copies of it,
    inserted in one transaction."""
    import random

    rng = random.SystemRandom()
    with made.store.read() as transaction:
        ids = list(transaction.versions(DISTRIBUTION.name))
    first = ids[0] if ids else made.distribution("first")["Id"]
    with made.store.write() as transaction:
        row = transaction.get(DISTRIBUTION.name, first)
        assert row is not None
        for _ in range(max(len(ids), 1), count):
            name = DISTRIBUTION.id.new(rng)
            copy = msgspec.structs.replace(
                row,
                id=name,
                etag=ETAG.new(rng),
                config=row.config | {"CallerReference": name},
                attributes=row.attributes | {"DomainName": f"{DOMAIN.new(rng)}.cloudfront.localhost"},
            )
            transaction.insert(copy)
            transaction.claim(DISTRIBUTION.name, name, {"CallerReference": [name]})
    made.distribution(f"last of {count}")  # a call publishes them all
    return str(first)


def rate(work: Callable[[int], object], threads: int) -> float:
    """Calls of `work` per second by `threads` threads, each with its own number."""
    done = [0] * threads
    failures: list[BaseException] = []
    ends = time.perf_counter() + SECONDS

    def go(which: int) -> None:
        try:
            while time.perf_counter() < ends:
                work(which)
                done[which] += 1
        except BaseException as error:
            failures.append(error)

    began = time.perf_counter()
    workers = [threading.Thread(target=go, args=(which,)) for which in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]
    return sum(done) / (time.perf_counter() - began)


def calls(name: str, url: str, folder: Path) -> None:
    """Reads and writes per second."""
    made = harness(folder, url)
    for count in COUNTS:
        id_ = fill(made, count)

        def toggle(_: int, id_: str = id_) -> None:
            config, etag = made.config(id_)
            config["DefaultRootObject"] = "" if config["DefaultRootObject"] else "index.html"
            with contextlib.suppress(ApiError):  # another thread was faster: 412
                made.call("UpdateDistribution", Id=id_, IfMatch=etag, DistributionConfig=config)

        def comment(_: int, id_: str = id_) -> None:
            made.call("TagResource", Resource=arn(made, id_), Tags={"Items": [{"Key": "a", "Value": "b"}]})

        rows: tuple[tuple[str, Callable[[int], object], int], ...] = (
            ("GetDistribution", lambda _, id_=id_: made.call("GetDistribution", Id=id_), 1),
            ("GetDistribution", lambda _, id_=id_: made.call("GetDistribution", Id=id_), 8),
            ("ListDistributions, 100 of them", lambda _: made.call("ListDistributions", MaxItems="100"), 1),
            ("TagResource", comment, 1),
            ("TagResource", comment, 8),
            ("GetDistributionConfig, UpdateDistribution", toggle, 1),
        )
        for what, work, threads in rows:
            print(
                f"{name:10} {count:5} distributions  {threads} at once  {what:42} {rate(work, threads):6.0f}/s",
                flush=True,
            )
    made.close()


def arn(made: Harness, id_: str) -> str:
    return DISTRIBUTION.arn_of(id_, "123456789012")


def obeyed(ups: list[Up], number: int, since: float) -> float:
    """Seconds from `since` (epoch seconds) until every worker of every one of `ups` has reported snapshot `number`."""
    paths = [up.data / "reports" / f"edge-{worker}.json" for up in ups for worker in range(1, WORKERS + 1)]
    latest, ends = since, time.monotonic() + 30
    for path in paths:
        while True:
            written = path.stat().st_mtime
            if msgspec.json.decode(path.read_bytes())["number"] >= number:
                break
            if time.monotonic() > ends:
                raise RuntimeError(f"{path} does not say {number}")
            time.sleep(0.0005)
        latest = max(latest, written)
    return latest - since


def published(up: Up) -> int:
    from keyfront.fleet.file_feed import FileFeed

    return FileFeed(up.data).number()


def workers(name: str, url: str, folder: Path) -> None:
    """Measure the time from the API's response until the last worker has applied the change, and one call through
    boto3."""
    filling = harness(folder / "filling", url)
    ids = {}
    for count in COUNTS:
        ids[count] = fill(filling, count)
        if url:
            machines = [folder / f"machine-{number}-{count}" for number in (1, 2)]
        else:
            machines = [folder / "filling"]
            filling.close()
        options = ("--store", url) if url else ()
        ups = [
            Up(machine, workers=WORKERS, options=(*options, "--quota", f"distributions={MANY}"))
            for machine in machines
        ]
        with contextlib.ExitStack() as stack:
            for up in ups:
                stack.enter_context(up)
            client = ups[0].client()
            waits, answers, reads = [], [], []
            for _ in range(CHANGES):
                began = time.perf_counter()
                found = client.get_distribution_config(Id=ids[count])
                reads.append(time.perf_counter() - began)
                config = found["DistributionConfig"]
                config["DefaultRootObject"] = "" if config["DefaultRootObject"] else "index.html"
                began = time.perf_counter()
                client.update_distribution(Id=ids[count], IfMatch=found["ETag"], DistributionConfig=config)
                now = time.time()
                answers.append(time.perf_counter() - began)
                waits.append(obeyed(ups, published(ups[0]), now))
        print(
            f"{name:10} {count:5} distributions  {len(ups) * WORKERS} workers on {len(ups)} machine(s)  "
            f"read {statistics.median(reads) * 1e3:4.0f} ms, write {statistics.median(answers) * 1e3:4.0f} ms by boto3;"
            f" obeyed {statistics.median(waits) * 1e3:4.0f} ms after the answer, {max(waits) * 1e3:4.0f} at most",
            flush=True,
        )
        if not url:
            filling = harness(folder / "filling", url)
    filling.close()


def main() -> None:
    for part in (calls, workers):
        if os.environ.get("PART", part.__name__) == part.__name__:
            with stores() as kinds, tempfile.TemporaryDirectory(prefix="keyfront-bench-") as folder:
                for name, url in kinds:
                    part(name, url, Path(folder) / name)


if __name__ == "__main__":
    main()
