"""One machine is one cache: what one worker stores, the others find at once; what one removes, all stop serving."""

from __future__ import annotations

import hashlib
import http.client
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Lock, Thread

import pytest

from tests.application import Request, Response, served
from tests.origin import closed_port
from tests.up import Answer, Up, distribution_config

ROUNDS = 8
"""Of each kind and size, for each machine: in all, a fault that shows once in a hundred is met."""


def body_of(path: str, edition: int, size: int) -> bytes:
    """The origin's content for a path: no two paths or editions have a byte range in common."""
    seed = hashlib.sha256(f"{path} {edition}".encode()).digest()
    return (seed * (size // len(seed) + 1))[:size]


class App:
    """`/<kind>/<size>/<name>`: a body of that size, of the edition that unsafe requests increment. `requests` counts
    the requests for a path that are safe."""

    def __init__(self) -> None:
        self.editions: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self._lock = Lock()

    def respond(self, request: Request) -> Response:
        path = request.path
        if request.method not in ("GET", "HEAD"):
            with self._lock:
                self.editions[path] += 1
            return Response(b"done")
        with self._lock:
            self.requests[path] += 1
            edition = self.editions[path]
        _, kind, size, *_ = path.split("/")
        if kind == "broken":
            return Response(b"down", status=503)
        if kind == "missing":
            return Response(b"no such thing", status=404)
        variant = request.headers.get("X-Kind", "") if kind == "varies" else ""
        body = body_of(path + variant, edition, int(size))
        headers = {"Cache-Control": "max-age=3600"}
        if kind == "varies":
            headers["Vary"] = "X-Kind"
        if kind != "plain":
            headers["ETag"] = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        wanted = request.headers.get("Range", "")
        if kind == "ranged" and wanted.startswith("bytes="):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last or len(body)), len(body) - 1)
            headers["Content-Range"] = f"bytes {start}-{stop}/{len(body)}"
            return Response(body[start : stop + 1], headers, 206)
        return Response(body, headers, chunk_size=60_000 if kind == "chunked" else 0)


class Machine:
    """A `keyfront up` in front of that application, seen by viewers that distinguish its workers by their Via."""

    def __init__(self, up: Up, app: App, origin: int) -> None:
        self.up = up
        self.app = app
        self.client = up.client()
        config = distribution_config("1", origin, [])
        every = ["GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"]
        config["DefaultCacheBehavior"]["AllowedMethods"] = {
            "Quantity": len(every),
            "Items": every,
            "CachedMethods": {"Quantity": 2, "Items": ["GET", "HEAD"]},
        }
        # This policy forwards to the origin a request header that responses vary on and that is not in the key.
        config["DefaultCacheBehavior"]["OriginRequestPolicyId"] = "216adef6-5c7f-47e4-b989-5492eafa07d3"
        self.name = os.urandom(4).hex()
        made = self.client.create_distribution(DistributionConfig=config)
        self.id: str = made["Distribution"]["Id"]
        self.host: str = made["Distribution"]["DomainName"]
        up.deployed(self.id)

    def path(self, kind: str, size: int, name: object) -> str:
        """A path that the viewers of no other test request."""
        return f"/{kind}/{size}/{self.name}-{name}"

    def request(self, target: str, method: str = "GET", headers: dict[str, str] | None = None) -> Answer:
        return self.up.get(self.host, target, headers, method=method)

    def through_another_worker(
        self, than: Answer, target: str, headers: dict[str, str] | None = None
    ) -> Answer:
        """The same through a worker other than the one that served `than`. Connections to that one send no
        request."""
        ends = time.monotonic() + 60
        while time.monotonic() < ends:
            connection = http.client.HTTPConnection("127.0.0.1", self.up.edge_port, timeout=20)
            with suppress(ConnectionError), closing(connection):
                connection.request("OPTIONS", "/probe/0/0", headers={"Host": "nobody.example"})
                probe = connection.getresponse()
                probe.read()
                via = probe.getheader("Via", "")
                if not via or via == than.headers["via"] or probe.getheader("Connection") == "close":
                    continue
                connection.request("GET", target, headers={"Host": self.host, **(headers or {})})
                answer = connection.getresponse()
                return Answer(answer.status, answer.getheaders(), answer.read())
        raise AssertionError("no other worker answers")


@contextmanager
def machine(folder: Path, workers: int, *options: str) -> Iterator[Machine]:
    app = App()
    with served(app.respond) as port, Up(folder / "data", workers=workers, options=options) as up:
        yield Machine(up, app, port)


NO_DISK = ("--cache-disk", "0")


@pytest.fixture(scope="module")
def memory_only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with machine(tmp_path_factory.mktemp("memory"), 3, *NO_DISK) as made:
        yield made


@pytest.fixture(scope="module")
def with_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with machine(tmp_path_factory.mktemp("disk"), 2) as made:
        yield made


@pytest.fixture(params=["memory_only", "with_disk"])
def any_machine(request: pytest.FixtureRequest) -> Machine:
    found: Machine = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("kind", ["plain", "ranged", "chunked"])
@pytest.mark.parametrize("size", [0, 700, 70_000, 900_000])
def test_a_miss_is_a_hit_at_any_other_worker(any_machine: Machine, kind: str, size: int) -> None:
    rounds = ROUNDS if size < 900_000 else 3
    for number in range(rounds):
        target = any_machine.path(kind, size, number)
        first = any_machine.request(target)
        other = any_machine.through_another_worker(first, target)
        assert (first.x_cache, other.x_cache) == ("Miss", "Hit"), (target, other)
        assert first.body == other.body == body_of(target, 0, size)
        assert any_machine.app.requests[target] == 1


@pytest.mark.parametrize("kind", ["plain", "ranged", "chunked"])
def test_so_is_a_response_that_is_stored_in_slices(any_machine: Machine, kind: str) -> None:
    for number, size in enumerate([1_100_000, 4_194_304, 4_194_305, 9_000_000]):
        target = any_machine.path(kind, size, f"{number}-large")
        first = any_machine.request(target)
        other = any_machine.through_another_worker(first, target)
        assert (first.x_cache, other.x_cache) == ("Miss", "Hit"), (target, other)
        assert first.body == other.body == body_of(target, 0, size)
        part = any_machine.through_another_worker(first, target, {"Range": f"bytes={size - 100}-"})
        assert (part.status, part.x_cache) == (206, "Hit")
        assert part.body == first.body[-100:]
        assert any_machine.app.requests[target] == 1


def test_head_and_range_requests_for_what_another_worker_stored(any_machine: Machine) -> None:
    for number in range(8):
        target = any_machine.path("ranged", 5000, f"{number}-parts")
        first = any_machine.request(target)
        part = any_machine.through_another_worker(first, target, {"Range": "bytes=10-19"})
        assert (part.status, part.x_cache, part.body) == (206, "Hit", first.body[10:20])
        unchanged = any_machine.through_another_worker(part, target, {"If-None-Match": first.headers["etag"]})
        assert (unchanged.status, unchanged.x_cache) == (304, "Hit")
        head = any_machine.request(target, "HEAD")
        assert (head.status, head.x_cache, head.headers["content-length"]) == (200, "Hit", "5000")
        assert any_machine.app.requests[target] == 1


def test_each_variant_is_shared(any_machine: Machine) -> None:
    for number in range(5):
        target = any_machine.path("varies", 3000, number)
        for kind in ("a", "b", "c"):
            first = any_machine.request(target, headers={"X-Kind": kind})
            assert first.x_cache == "Miss"
            assert first.body == body_of(target + kind, 0, 3000)
        for kind in ("c", "a", "b"):
            other = any_machine.through_another_worker(first, target, {"X-Kind": kind})
            assert (other.x_cache, other.body) == ("Hit", body_of(target + kind, 0, 3000))
        assert any_machine.app.requests[target] == 3


def test_a_stored_error_response_is_shared(any_machine: Machine) -> None:
    for kind, status in (("missing", 404), ("broken", 503)):
        for number in range(5):
            target = any_machine.path(kind, 0, number)
            first = any_machine.request(target)
            other = any_machine.through_another_worker(first, target)
            assert (first.status, other.status, any_machine.app.requests[target]) == (status, status, 1)


def test_so_is_the_failure_of_an_unreachable_origin(any_machine: Machine) -> None:
    """The failure is found through its record: while the record lasts, no worker sends the origin another request."""
    up = any_machine.up
    made = any_machine.client.create_distribution(
        DistributionConfig=distribution_config("gone", closed_port(), [])
    )
    host = made["Distribution"]["DomainName"]
    up.deployed(made["Distribution"]["Id"])
    gone = Machine.__new__(Machine)
    gone.up, gone.host = up, host
    first = gone.request("/a")
    assert first.status == 502
    assert gone.through_another_worker(first, "/a").status == 502
    samples = [
        line
        for line in up.control("/metrics").body.decode().splitlines()
        if line.startswith("keyfront_edge_shared_cache_finds_total")
    ]
    assert len(samples) == up.workers


@pytest.mark.parametrize("method", ["POST", "DELETE"])
@pytest.mark.parametrize("size", [500, 2_000_000])
def test_an_unsafe_request_invalidates_the_response_at_every_worker(
    any_machine: Machine, method: str, size: int
) -> None:
    """All workers have the old edition in memory. Once the response to the change is sent, no viewer gets the old
    one."""
    target = any_machine.path("ranged", size, method)
    for _ in range(ROUNDS if size < 10_000 else 3):
        edition = any_machine.app.editions[target]
        first = any_machine.request(target)
        assert first.body == body_of(target, edition, size)
        for _ in range(any_machine.up.workers):
            assert any_machine.through_another_worker(first, target).x_cache == "Hit"
        changed = any_machine.request(target, method)
        assert changed.status == 200
        for _ in range(3):
            seen = any_machine.through_another_worker(changed, target)
            assert seen.body == body_of(target, edition + 1, size)


def test_a_fill_that_began_before_an_unsafe_request_is_stored_by_no_worker(any_machine: Machine) -> None:
    """Concurrent changes and reads through all workers: once a change was answered, no reader gets an older
    edition."""
    target = any_machine.path("plain", 2000, "race")
    ends = threading.Event()
    faults: list[str] = []
    answered = 0

    def read() -> None:
        while not ends.is_set():
            least = answered
            body = any_machine.request(target).body
            got = next((e for e in range(answered + 2, -1, -1) if body_of(target, e, 2000) == body), -1)
            if got < least:
                faults.append(f"edition {got} after {least} was answered")

    readers = [Thread(target=read) for _ in range(6)]
    for reader in readers:
        reader.start()
    for number in range(1, 21):
        any_machine.request(target, "POST")
        answered = number
    ends.set()
    for reader in readers:
        reader.join()
    assert faults == []


def test_an_invalidation_applies_to_every_worker_and_later_responses_are_shared(any_machine: Machine) -> None:
    for number in range(3):
        target = any_machine.path("plain", 900, f"purged-{number}")
        first = any_machine.request(target)
        assert any_machine.through_another_worker(first, target).x_cache == "Hit"
        any_machine.app.editions[target] += 1
        batch = {"CallerReference": target, "Paths": {"Quantity": 1, "Items": [target]}}
        made = any_machine.client.create_invalidation(DistributionId=any_machine.id, InvalidationBatch=batch)
        named = {"DistributionId": any_machine.id, "Id": made["Invalidation"]["Id"]}
        any_machine.up.until(
            lambda: any_machine.client.get_invalidation(**named)["Invalidation"]["Status"] == "Completed",  # noqa: B023
            20,
        )
        again = any_machine.request(target)
        assert (again.x_cache, again.body) == ("Miss", body_of(target, 1, 900))
        for _ in range(6):
            other = any_machine.through_another_worker(again, target)
            assert (other.x_cache, other.body) == ("Hit", again.body)


def test_a_restarted_worker_finds_what_the_others_have(memory_only: Machine) -> None:
    targets = [memory_only.path("plain", 3000, f"warm-{number}") for number in range(10)]
    for target in targets:
        memory_only.request(target)
    before = set(memory_only.up.worker_pids())
    os.kill(min(before), signal.SIGKILL)
    memory_only.up.until(
        lambda: len(memory_only.up.worker_pids()) == 3 and set(memory_only.up.worker_pids()) != before
    )
    for target in targets:
        for _ in range(4):
            assert until_answered(memory_only, target).x_cache == "Hit"
        assert memory_only.app.requests[target] == 1


def until_answered(where: Machine, target: str) -> Answer:
    """A killed worker takes its connections with it."""
    for _ in range(100):
        try:
            return where.request(target)
        except (OSError, http.client.HTTPException):
            continue
    raise AssertionError("nobody answers")


def test_workers_killed_while_they_store_leave_no_wrong_body(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    chance = random.Random(12)
    with machine(tmp_path, 3, *NO_DISK, "--memory", "8") as here:
        ends = threading.Event()
        faults: list[str] = []
        served = Counter[str]()

        def view(seed: int) -> None:
            mine = random.Random(seed)
            while not ends.is_set():
                size = mine.choice([300, 5_000, 60_000, 400_000, 1_500_000])
                target = f"/ranged/{size}/{mine.randrange(40)}"
                try:
                    answer = here.request(target)
                except (OSError, http.client.HTTPException):
                    continue
                served[answer.x_cache] += 1
                if answer.status != 200 or answer.body != body_of(target, 0, size):
                    faults.append(f"{target}: {answer}")

        viewers = [Thread(target=view, args=(seed,)) for seed in range(5)]
        for viewer in viewers:
            viewer.start()
        for _ in range(12 if pytestconfig.getoption("long") else 4):
            wanted = sum(served.values()) + chance.randrange(20, 60)
            here.up.until(lambda: sum(served.values()) >= wanted)  # noqa: B023
            os.kill(chance.choice(here.up.worker_pids()), signal.SIGKILL)
            here.up.until(lambda: len(here.up.worker_pids()) == 3)
        ends.set()
        for viewer in viewers:
            viewer.join()
        assert faults == []
        assert served["Hit"] and served["Miss"]
        # The workers that remain share what they have.
        first = until_answered(here, "/plain/600/after")
        assert here.through_another_worker(first, "/plain/600/after").x_cache == "Hit"
