"""The memory that workers share: what is found is what was stored, whatever happened to the segment; no worker finds
a removed response."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic_ns
from types import FrameType
from typing import Any, NoReturn

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from keyfront.edge.cache import removals as removals_module
from keyfront.edge.cache.memory import MemoryTier
from keyfront.edge.cache.removals import Removal, Removals
from keyfront.edge.cache.shared_arena import Arena, Failure
from keyfront.edge.cache.shared_segment import RING, Segment, create, segment_size
from keyfront.edge.cache.tiers import Tiers
from keyfront.edge.rules.cache_key import root_of
from keyfront.edge.types.messages import Headers
from keyfront.edge.types.stored import Meta, Slices, Stored
from keyfront.errors import SettingsError
from tests.rows import rows

LOG = 64 * 1024


def meta(**members: object) -> Meta:
    given: dict[str, object] = {
        "stored_at": 100.0,
        "fresh_until": 1e12,
        "date": 100.0,
        "snapshot": 3,
        **members,
    }
    return Meta(200, ((b"content-type", b"text/plain"),), **given)  # type: ignore[arg-type]


def stored(
    key: str = "E/a", body: bytes = b"hello", slices: Slices | None = None, **members: object
) -> Stored:
    made = Stored(key, meta(**members), body, slices)
    made.requested_ns = made.stored_ns = monotonic_ns()
    return made


def none() -> Headers:
    raise AssertionError("the request's headers are asked for only where the response varies")


class Worker:
    """One worker's view of a segment, with its own private memory."""

    def __init__(self, fd: int, number: int) -> None:
        self.segment = Segment.attach(fd, number)
        self.removals = Removals(self.segment)
        self.ended: set[tuple[str, int]] = set()
        self.arena = Arena(
            self.segment, self.removals, lambda key, snapshot, _: (key, snapshot) in self.ended
        )
        self.heard: list[list[Removal] | None] = []
        self.memory = MemoryTier(1 << 20, 1 << 18, self.removals, self.heard.append)
        self.tiers = Tiers(self.memory, None, self.arena)

    def find(self, key: str = "E/a") -> bytes | None:
        found = self.arena.find(key, none)
        return None if found is None else found.body

    def look(self, key: str = "E/a") -> bytes | None:
        found = self.tiers.find(key, none, 200.0)
        return None if found is None else found.body

    def remove(self, removal: Removal) -> None:
        self.memory.remove(removal)
        self.removals.publish(removal)


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    made = create(3, 3 * LOG, tmp_path)
    yield made
    os.close(made)


@pytest.fixture
def workers(fd: int) -> list[Worker]:
    return [Worker(fd, number) for number in range(3)]


def wait_a_tick() -> None:
    """Wait until the monotonic clock has advanced by more than the resolution of a floor."""
    began = monotonic_ns()
    while monotonic_ns() - began < 5_000:
        pass


class TestSegment:
    def test_it_is_as_large_as_it_says_and_takes_no_pages_before_they_are_used(self, tmp_path: Path) -> None:
        fd = create(8, 1 << 30, tmp_path)
        try:
            status = os.fstat(fd)
            assert status.st_size == segment_size(8, 1 << 27)
            assert status.st_blocks * 512 < 1 << 16
        finally:
            os.close(fd)
        assert list(tmp_path.iterdir()) == []

    def test_where_there_is_no_memfd_a_deleted_file_serves(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> int:
            raise OSError(38, "not implemented")

        monkeypatch.setattr(os, "memfd_create", refuse)
        fd = create(2, 2 * LOG, tmp_path)
        try:
            one, two = Worker(fd, 0), Worker(fd, 1)
            one.arena.put(stored())
            assert two.find() == b"hello"
        finally:
            os.close(fd)
        assert list(tmp_path.iterdir()) == []

    @rows("place", range(52))
    def test_a_header_that_is_not_whole_is_refused(self, fd: int, place: int) -> None:
        byte = os.pread(fd, 1, place)
        os.pwrite(fd, bytes([byte[0] ^ 0x40]), place)
        with pytest.raises(SettingsError):
            Segment.attach(fd, 0)
        os.pwrite(fd, byte, place)
        Segment.attach(fd, 0)

    def test_who_has_no_place_is_refused(self, fd: int) -> None:
        for number in (-1, 3):
            with pytest.raises(SettingsError, match="no place"):
                Segment.attach(fd, number)
        os.ftruncate(fd, 100)
        with pytest.raises(SettingsError, match="too small"):
            Segment.attach(fd, 0)


class TestResponses:
    def test_what_one_has_put_all_find_as_it_was(self, workers: list[Worker]) -> None:
        entry = stored(
            etag=b'"x"', reason="Fine", coding=b"gzip", tags=("one", "two"), sie_until=5.0, length=5
        )
        workers[1].arena.put(entry)
        for worker in workers:
            found = worker.arena.find("E/a", none)
            assert found is not None
            assert {n: getattr(found.meta, n) for n in Meta.__slots__} == {
                n: getattr(entry.meta, n) for n in Meta.__slots__
            }
            assert (found.body, found.requested_ns, found.stored_ns) == (
                b"hello",
                entry.requested_ns,
                entry.stored_ns,
            )
            assert worker.find("E/b") is None

    def test_of_several_the_one_that_was_written_last_counts(self, workers: list[Worker]) -> None:
        for number, worker in enumerate([*workers, *workers]):
            worker.arena.put(stored(body=b"%d" % number))
            assert [w.find() for w in workers] == [b"%d" % number] * 3

    def test_what_is_written_no_later_is_not_read_again(self, workers: list[Worker]) -> None:
        entry = stored()
        workers[0].arena.put(entry)
        assert workers[1].arena.find("E/a", none, entry.stored_ns) is None
        assert workers[1].arena.find("E/a", none, entry.stored_ns - 1) is not None

    def test_variants(self, workers: list[Worker]) -> None:
        def sent(value: bytes) -> Headers:
            return [(b"accept-language", value)]

        for worker, value in zip(workers, (b"de", b"en", b"fr"), strict=True):
            worker.arena.put(stored(body=value, vary=(b"accept-language",), vary_values=(value,)))
        for worker in workers:
            for value in (b"de", b"en", b"fr"):
                found = worker.arena.find("E/a", lambda: sent(value))  # noqa: B023
                assert found is not None
                assert found.body == value
            assert worker.arena.find("E/a", lambda: sent(b"it")) is None
        workers[2].arena.put(stored(body=b"for all"))
        assert [worker.find() for worker in workers] == [b"for all"] * 3
        # A new signpost leads to none of the old variants.
        workers[0].arena.put(stored(body=b"new", vary=(b"accept-language",), vary_values=(b"de",)))
        assert workers[1].arena.find("E/a", lambda: sent(b"en")) is None
        assert workers[1].arena.find("E/a", lambda: sent(b"de")) is not None

    def test_what_is_sliced(self, workers: list[Worker]) -> None:
        slices = Slices("E/a", 1000, 400, "feed", b'"v"', ranged=True)
        workers[0].tiers.put(stored(body=b"", slices=slices), 0.0)
        sink = workers[0].tiers.sink(slices, 1, meta(vary=(b"x",), vary_values=(b"y",)))
        sink.feed(bytes(400))
        sink.finish()
        found = workers[1].tiers.find("E/a", none, 200.0)
        assert found is not None
        assert found.slices is not None
        assert (found.slices.total, found.slices.generation, found.slices.ranged) == (1000, "feed", True)
        assert workers[1].tiers.has(slices, 1)
        assert workers[1].tiers.slice(slices, 1) == bytes(400)
        assert not workers[1].tiers.has(slices, 0)
        assert workers[1].tiers.slice(slices, 0) is None

    def test_failures(self, workers: list[Worker]) -> None:
        failure = Failure("OriginConnectError", 502, "nobody there", "", 150.0, 7)
        workers[0].arena.put_failure("E/a", failure)
        assert workers[1].arena.failure("E/a", 149.0, 7) == failure
        assert workers[1].arena.failure("E/a", 150.0, 7) is None
        assert workers[1].arena.failure("E/a", 149.0, 8) is None
        assert workers[1].arena.failure("E/b", 149.0, 7) is None
        assert workers[1].find() is None

    def test_what_an_invalidation_has_ended_is_not_found(self, workers: list[Worker]) -> None:
        workers[0].arena.put(stored())
        workers[1].ended.add(("E/a", 3))
        assert [worker.find() for worker in workers] == [b"hello", None, b"hello"]

    def test_the_oldest_is_evicted_first_and_used_entries_stay(self, workers: list[Worker]) -> None:
        one, two, _ = workers
        one.arena.put(stored("E/asked"))
        one.arena.put(stored("E/unasked"))
        for number in range(400):
            one.arena.put(stored(f"E/{number}", b"x" * 3000))
            assert two.find(f"E/{number}") is not None
            assert two.find("E/asked") == b"hello"
        assert two.find("E/unasked") is None
        assert one.arena.used == LOG
        assert one.arena.evictions > 350
        assert two.arena.finds == 800

    def test_what_is_too_large_is_not_taken(self, workers: list[Worker]) -> None:
        for size in (LOG // 2 - 4000, LOG // 2 + 1, LOG, 3 * LOG):
            workers[0].arena.put(stored(f"E/{size}", bytes(size)))
            assert (workers[1].find(f"E/{size}") is not None) is (size < LOG // 2)
        workers[0].arena.put(stored("E/" + "long" * LOG))
        assert workers[1].find("E/" + "long" * LOG) is None

    def test_a_process_that_takes_a_place_goes_on_where_the_other_stopped(
        self, fd: int, workers: list[Worker]
    ) -> None:
        for number in range(10):
            workers[0].arena.put(stored(f"E/{number}", b"x" * 500))
        again = Worker(fd, 0)
        assert all(again.find(f"E/{number}") for number in range(10))
        again.arena.put(stored("E/10"))
        assert all(workers[1].find(f"E/{number}") for number in range(11))

    def test_any_bytes_in_a_key(self, workers: list[Worker]) -> None:
        for key in ("E/\xff\x80", "E/" + "x" * 8000, "E/\nq5:a=b\nc", "E/\x00"):
            workers[0].arena.put(stored(key, key.encode("utf-8", "surrogatepass")))
            assert workers[1].find(key) == key.encode("utf-8", "surrogatepass")


class TestRemovals:
    def test_a_path_is_removed_everywhere_at_once(self, workers: list[Worker]) -> None:
        for key in ("E/a", "E/a\nq3:x=1", "E/b"):
            workers[0].tiers.put(stored(key), 0.0)
            assert [worker.look(key) for worker in workers] == [b"hello"] * 3
        workers[2].remove(Removal("E/a"))
        assert [worker.look("E/a") for worker in workers] == [None] * 3
        assert [worker.look("E/a\nq3:x=1") for worker in workers] == [b"hello"] * 3
        assert [worker.look("E/b") for worker in workers] == [b"hello"] * 3
        workers[1].remove(Removal("E/a", "\nq3:x=1"))
        assert [worker.look("E/a\nq3:x=1") for worker in workers] == [None] * 3

    def test_with_all_that_its_key_holds_besides(self, workers: list[Worker]) -> None:
        keys = ["E/a", "E/a\ne4:gzip", "E/a\nq3:x=1\ne4:gzip"]
        for key in keys:
            workers[0].tiers.put(stored(key), 0.0)
        assert [root_of(key) for key in keys] == ["E/a", "E/a", "E/a\nq3:x=1"]
        workers[1].remove(Removal("E/a"))
        assert [[worker.look(key) for key in keys] for worker in workers] == [[None, None, b"hello"]] * 3

    def test_a_request_from_before_a_change_is_not_stored_and_one_from_after_it_is(
        self, workers: list[Worker]
    ) -> None:
        before = stored(body=b"old")
        wait_a_tick()
        workers[0].remove(Removal("E/a"))
        wait_a_tick()
        workers[1].arena.put(before)
        assert [worker.find() for worker in workers] == [None] * 3
        assert all(worker.removals.is_removed("E/a", before.requested_ns) for worker in workers)
        workers[1].arena.put(stored(body=b"new"))
        assert [worker.find() for worker in workers] == [b"new"] * 3

    def test_one_key_alone(self, workers: list[Worker]) -> None:
        for key in ("E/a", "E/a\ne4:gzip"):
            workers[0].tiers.put(stored(key), 0.0)
            assert [worker.look(key) for worker in workers] == [b"hello"] * 3
        workers[1].tiers.drop("E/a\ne4:gzip")
        assert [worker.look("E/a\ne4:gzip") for worker in workers] == [None] * 3
        assert [worker.look("E/a") for worker in workers] == [b"hello"] * 3

    def test_news_is_heard_once_and_only_of_others(self, workers: list[Worker]) -> None:
        workers[0].remove(Removal("E/a"))
        workers[2].remove(Removal("E/b", "\nq1:x"))
        for worker in workers:
            worker.memory.poll_removals()
            worker.memory.poll_removals()
        assert workers[1].heard == [[Removal("E/a"), Removal("E/b", "\nq1:x")]]
        assert workers[0].heard == [[Removal("E/b", "\nq1:x")]]

    def test_who_has_slept_through_a_whole_ring_forgets_everything(self, workers: list[Worker]) -> None:
        workers[0].tiers.put(stored("E/other"), 0.0)
        assert workers[1].look("E/other") == b"hello"
        for number in range(RING // 1000 + 10):
            workers[0].removals.publish(Removal(f"E/{number}{'x' * 1000}"))
        assert workers[1].memory.get_any_variant("E/other") is None
        assert workers[1].heard == [None]
        workers[0].removals.publish(Removal("E/next"))
        workers[1].memory.poll_removals()
        assert workers[1].heard == [None, [Removal("E/next")]]

    def test_rings_go_round_for_ever(self, workers: list[Worker]) -> None:
        chance = random.Random(3)
        for number in range(3000):
            removal = Removal(f"E/{number}" + "y" * chance.randrange(500), exact=number % 3 == 0)
            workers[number % 2].removals.publish(removal)
            assert workers[2].removals.poll() == [removal]

    def test_a_path_that_no_ring_holds_removes_everything(self, workers: list[Worker]) -> None:
        workers[0].removals.publish(Removal("E/" + "x" * RING))
        assert workers[1].removals.poll() is None

    def test_many_paths_hide_each_other_hardly_ever(self, workers: list[Worker]) -> None:
        entries = [stored(f"E/stays/{number}") for number in range(300)]
        wait_a_tick()
        for number in range(10):
            workers[0].removals.publish(Removal(f"E/goes/{number}"))
        assert sum(workers[1].removals.is_removed(e.key, e.requested_ns) for e in entries) <= 5

    def test_a_worker_that_starts_has_nothing_to_hear(self, fd: int, workers: list[Worker]) -> None:
        workers[0].remove(Removal("E/a"))
        new = Worker(fd, 1)
        new.memory.poll_removals()
        assert new.heard == []
        workers[0].remove(Removal("E/b"))
        new.memory.poll_removals()
        assert new.heard == [[Removal("E/b")]]

    def test_one_that_takes_a_place_makes_no_removal_that_others_take_for_known(
        self, fd: int, workers: list[Worker]
    ) -> None:
        workers[0].removals.publish(Removal("E/a"))
        workers[1].memory.poll_removals()
        Worker(fd, 0).removals.publish(Removal("E/b"))
        workers[1].memory.poll_removals()
        assert workers[1].heard == [[Removal("E/a")], [Removal("E/b")]]

    @rows("key", ["", "E/a", "E/a\nq3:a=b", "E/a\nq", "E/a\nqx:", "E/a\nq²:x", "E/a\nc1:x"])
    def test_the_root_of_any_key_is_a_beginning_of_it(self, key: str) -> None:
        assert key.startswith(root_of(key))


class TestDamage:
    """No byte of the segment is trusted: whatever it contains, a find returns what was stored or nothing."""

    def fill(self, workers: list[Worker]) -> dict[str, bytes]:
        held = {}
        for number in range(40):
            key = f"E/{number}"
            held[key] = random.Random(number).randbytes(number * 30)
            workers[number % 3].tiers.put(stored(key, held[key]), 0.0)
        return held

    def check(self, fd: int, held: dict[str, bytes]) -> int:
        """How many entries a new worker still finds; it also writes and removes."""
        worker = Worker(fd, 1)
        found = 0
        for key, body in held.items():
            got = worker.find(key)
            assert got in (None, body)
            found += got is not None
        worker.arena.put(stored("E/new", b"new"))
        assert worker.find("E/new") in (None, b"new")
        worker.remove(Removal("E/new"))
        assert worker.find("E/new") is None
        worker.memory.poll_removals()
        return found

    def regions(self, segment: Segment) -> dict[str, range]:
        log = segment.log_of(0)
        return {
            "change": range(64, 72),
            "states": range(4096, 4096 + 3 * 64),
            "index": range(segment.index, segment.logs, 97),
            "records": range(log, log + 2000),
            "others": range(segment.log_of(1), segment.log_of(1) + 12_000, 13),
        }

    @pytest.mark.parametrize("region", ["change", "states", "index", "records", "others"])
    @pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
    def test_one_wrong_byte(self, fd: int, workers: list[Worker], region: str, flip: int) -> None:
        held = self.fill(workers)
        places = self.regions(workers[0].segment)[region]
        assert self.check(fd, held) == len(held)
        image = os.pread(fd, os.fstat(fd).st_size, 0)
        for place in places if len(places) < 25 else random.Random(flip).sample(places, 25):
            os.pwrite(fd, bytes([image[place] ^ flip]), place)
            assert self.check(fd, held) >= len(held) // 2 or region == "states"
            os.pwrite(fd, image, 0)

    def test_a_wrong_byte_in_a_floor_hides_and_never_shows(self, fd: int, workers: list[Worker]) -> None:
        entry = stored()
        workers[0].arena.put(entry)
        wait_a_tick()
        workers[1].remove(Removal("E/a"))
        segment = workers[0].segment
        place = (segment.floor(segment.digest("E/a")) + 1) * 8
        word = os.pread(fd, 8, place)
        assert any(word)
        for at in range(8):
            for bit in range(8):
                os.pwrite(fd, bytes([word[at] ^ 1 << bit]), place + at)
                assert workers[2].find() is None
                os.pwrite(fd, word, place)

    def test_noise(self, fd: int, workers: list[Worker]) -> None:
        held = self.fill(workers)
        image = os.pread(fd, os.fstat(fd).st_size, 0)
        chance = random.Random(9)
        segment = workers[0].segment
        for _ in range(60):
            for _ in range(chance.randrange(1, 6)):
                start = chance.choice([4096, segment.rings, segment.index, *map(segment.log_of, range(3))])
                os.pwrite(fd, chance.randbytes(chance.randrange(1, 4000)), start + chance.randrange(2000))
            self.check(fd, held)
            os.pwrite(fd, image, 0)

    def test_a_removal_that_cannot_be_read_is_one_of_everything(self, fd: int, workers: list[Worker]) -> None:
        workers[0].tiers.put(stored("E/other"), 0.0)
        for offset in range(40):
            assert workers[1].look("E/other") == b"hello"
            start = workers[0].segment.words[workers[0].segment.state(0)]
            workers[0].removals.publish(Removal("E/path/that/goes"))
            ring = workers[0].segment.ring(0)
            place = ring + (start + min(offset, 25)) % RING
            byte = os.pread(fd, 1, place)
            os.pwrite(fd, bytes([byte[0] ^ 0x11]), place)
            assert workers[1].memory.get_any_variant("E/other") is None
            assert workers[1].heard[-1] is None

    def test_a_writer_killed_at_any_moment(self, fd: int, workers: list[Worker]) -> None:
        """What a process leaves that is killed at any line of code while it stores and removes is what the segment
        contains at that line."""
        held = self.fill(workers)
        before = os.pread(fd, os.fstat(fd).st_size, 0)
        lines, images = images_at_each_line(fd, lambda: self.write(fd))
        assert lines > 100
        assert len(images) > 10
        for image in images:
            os.pwrite(fd, before, 0)
            self.check_successor(fd, Worker(fd, 2), image, held)

    @pytest.mark.parametrize("line", [20, 60, 100])
    def test_a_writer_that_is_killed(self, fd: int, workers: list[Worker], line: int) -> None:
        held = self.fill(workers)
        pid = os.fork()
        if pid == 0:
            killed_at_line(line, lambda: self.write(fd))
        _, status = os.waitpid(pid, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL
        self.check_successor(fd, workers[2], b"", held)

    def check_successor(self, fd: int, other: Worker, image: bytes, held: dict[str, bytes]) -> None:
        """Another process takes the place of the one that was killed, which left `image`."""
        os.pwrite(fd, image, 0)
        successor = Worker(fd, 0)
        for key, body in held.items():
            allowed = {"E/0": (body, b"half"), "E/1": (body, None)}.get(key, (body,))
            for worker in (successor, other):
                assert worker.find(key) in allowed
        successor.arena.put(stored("E/0", held["E/0"]))
        successor.arena.put(stored("E/1", held["E/1"]))
        other.memory.poll_removals()
        assert [other.find(key) for key in ("E/0", "E/1")] == [held["E/0"], held["E/1"]]

    def write(self, fd: int) -> None:
        victim = Worker(fd, 0)
        victim.arena.put(stored("E/0", b"half"))
        victim.arena.put(stored("E/varies", b"half", vary=(b"x",), vary_values=(b"y",)))
        victim.removals.publish(Removal("E/1"))


def at_each_line(work: Callable[[], None], react: Callable[[], None]) -> None:
    """Do the work, and call `react` before each line of `arena` or `removals` that it reaches."""

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.endswith(("arena.py", "removals.py")):
            return None
        if event == "line":
            react()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)


def images_at_each_line(fd: int, work: Callable[[], None]) -> tuple[int, list[bytes]]:
    """The number of lines that the work reaches, and the different contents of the segment at them, in order."""
    lines, images = 0, [b""]

    def look() -> None:
        nonlocal lines
        lines += 1
        image = os.pread(fd, os.fstat(fd).st_size, 0)
        if image != images[-1]:
            images.append(image)

    at_each_line(work, look)
    return lines, images[1:]


def killed_at_line(number: int, work: Callable[[], None]) -> NoReturn:
    """Do the work in this process, a child, until it is killed at that line. It exits if it gets to the end."""
    left = number

    def count() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        at_each_line(work, count)
    finally:
        os._exit(0)


KEYS = st.sampled_from([f"E/{n}{q}" for n in range(4) for q in ("", "\nq3:x=1", "\ne4:gzip")])
WHO = st.integers(0, 2)
SIZES = st.sampled_from([0, 10, 900, 20_000])


class Sharing(RuleBasedStateMachine):
    """Several workers on one segment, checked against one dictionary: a worker finds for a key the response that was
    stored last for it, if anything; never one that was removed, or that was requested before a removal."""

    @initialize()
    def begin(self) -> None:
        self.fd = create(3, 3 * LOG, Path("/nonexistent"))
        self.workers = [Worker(self.fd, number) for number in range(3)]
        self.last: dict[str, bytes] = {}  # the newest by key
        self.held: list[dict[str, bytes]] = [{}, {}, {}]
        self.count = 0
        self.requested_ns: list[Stored] = []

    def teardown(self) -> None:
        os.close(self.fd)

    def body(self, size: int) -> bytes:
        self.count += 1
        return b"%d:" % self.count + bytes(size)

    @rule(who=WHO, key=KEYS, size=SIZES)
    def put(self, who: int, key: str, size: int) -> None:
        entry = stored(key, self.body(size))
        self.workers[who].tiers.put(entry, 0.0)
        self.last[key] = entry.body
        wait_a_tick()

    @rule(who=WHO, key=KEYS)
    def begin_fill(self, who: int, key: str) -> None:
        self.requested_ns.append(stored(key, self.body(5)))
        wait_a_tick()

    @rule(who=WHO)
    def end_fill(self, who: int) -> None:
        """Store a response as `store_unless_purged` (edge/serving/purge.py) does."""
        if self.requested_ns:
            entry = self.requested_ns.pop(0)
            if not self.workers[who].removals.is_removed(entry.key, entry.requested_ns):
                assert not getattr(entry, "doomed", False)
                self.workers[who].tiers.put(entry, 0.0)
                self.last[entry.key] = entry.body

    @rule(who=WHO, key=KEYS)
    def find(self, who: int, key: str) -> None:
        found = self.workers[who].tiers.find(key, none, 200.0)
        if found is not None:
            assert key in self.last
            # Its private memory may hold one that is as fresh and older.
            assert found.body in (self.last[key], self.held[who].get(key))
            self.held[who][key] = found.body

    @rule(who=WHO, key=KEYS)
    def find_after_own_memory_was_lost(self, who: int, key: str) -> None:
        self.workers[who].memory.clear()
        self.held[who].clear()
        found = self.workers[who].tiers.find(key, none, 200.0)
        if found is not None:
            assert found.body == self.last[key]
            self.held[who][key] = found.body

    @rule(who=WHO, key=KEYS)
    def remove(self, who: int, key: str) -> None:
        root = root_of(key)
        path, line, query = root.partition("\n")
        self.workers[who].remove(Removal(path, line + query))
        for known in [known for known in self.last if root_of(known) == root]:
            del self.last[known]
        for held in self.held:
            for known in [known for known in held if root_of(known) == root]:
                del held[known]
        self.requested_ns = [entry for entry in self.requested_ns if root_of(entry.key) != root]
        wait_a_tick()

    @rule(who=WHO, key=KEYS)
    def drop(self, who: int, key: str) -> None:
        self.workers[who].tiers.drop(key)
        self.last.pop(key, None)
        for held in self.held:
            held.pop(key, None)
        self.requested_ns = [entry for entry in self.requested_ns if entry.key != key]
        wait_a_tick()

    @rule(who=WHO)
    def restart(self, who: int) -> None:
        self.workers[who] = Worker(self.fd, who)
        self.held[who].clear()

    @invariant()
    def what_is_stored_is_found(self) -> None:
        """Immediately after it was stored, before anything can have evicted it."""
        for key, body in list(getattr(self, "last", {}).items())[-1:]:
            for worker in self.workers:
                found = worker.arena.find(key, none)
                assert found is None or found.body == body


TestSharingByChance = Sharing.TestCase
TestSharingByChance.settings = settings(
    max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_floors_that_differ_in_one_bit_have_different_checksums() -> None:
    assert removals_module._floor(1 << 40) != removals_module._floor((1 << 40) + (1 << 11))
