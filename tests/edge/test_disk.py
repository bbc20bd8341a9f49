"""The disk tier: which files it trusts and which it does not, who may write when, and what survives the worst
case."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keyfront.edge.cache import disk_files, disk_format
from keyfront.edge.cache.disk import LEFT_OVER, DiskTier, boot_mark
from keyfront.edge.cache.disk_files import BLOCK
from keyfront.edge.cache.disk_format import name_of
from keyfront.edge.cache.entry import Head, MetaRow
from keyfront.edge.cache.memory import Ended
from keyfront.edge.rules.cache_key import slice_key
from keyfront.edge.types.files import FileRange
from keyfront.edge.types.messages import Headers
from keyfront.edge.types.stored import Meta, Slices, Stored
from tests.edge.film import bytes_of

KIB = 1024


def meta(**members: object) -> Meta:
    values: dict[str, object] = {
        "stored_at": 1000.5,
        "fresh_until": 2000.5,
        "date": 990.0,
        "initial_age": 3.25,
        "length": 5,
        "etag": b'"\xe4"',
        "last_modified": b"Sun, 01 Feb 2026 00:00:00 GMT",
        "swr_until": 2100.0,
        "sie_until": float("inf"),
        "revalidate_always": False,
        "conditional": True,
        "reason": "OK",
        "coding": b"br",
        "snapshot": 7,
    }
    headers = ((b"content-type", b"text/plain"), (b"x-bytes", b"\xff\xe4"))
    return Meta(200, headers, **(values | members))  # type: ignore[arg-type]


def stored(key: str = "E/a", body: bytes = b"hello", **members: object) -> Stored:
    return Stored(key, meta(**members), body)


def none() -> Headers:
    raise AssertionError("the request's headers are asked for only where the response varies")


def aged(path: Path, seconds: float) -> None:
    """Make the file look as if it was last used at that time, under the running kernel."""
    then = int(time.time() - seconds) * 10**9 + boot_mark()
    os.utime(path, ns=(then, then))


def never_ended(key: str, snapshot: int, tags: tuple[str, ...]) -> bool:
    return False


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


Opens = Callable[..., DiskTier]


@pytest.fixture
def opened(folder: Path) -> Iterator[Opens]:
    """Opens tiers on the folder, and closes them at the end."""
    tiers: list[DiskTier] = []

    def open_one(capacity: int = 64 << 20, ended: Ended = never_ended) -> DiskTier:
        tiers.append(DiskTier(folder, capacity, ended))
        return tiers[-1]

    yield open_one
    for tier in tiers:
        tier.close()


def flushed(tier: DiskTier) -> DiskTier:
    """The tier, once all pending writes are done."""
    done = threading.Event()
    tier.submit(0, done.set)
    assert done.wait(10)
    return tier


def members(of: Meta) -> dict[str, object]:
    return {name: getattr(of, name) for name in Meta.__slots__}


class TestEntries:
    def test_what_was_put_is_found_as_it_was_also_by_others_and_later(self, opened: Opens) -> None:
        tier = opened()
        entry = stored()
        tier.put(entry, 999.0)
        for each in (flushed(tier), opened()):
            found = each.find("E/a", none)
            assert found is not None
            assert (found.key, found.body, found.slices) == ("E/a", b"hello", None)
            assert members(found.meta) == members(entry.meta)
            assert each.find("E/b", none) is None

    def test_every_member_of_a_meta_is_stored(self) -> None:
        assert set(MetaRow.__struct_fields__) == set(Meta.__slots__)

    def test_a_body_of_any_size(self, opened: Opens) -> None:
        tier = opened()
        for size in (0, 1, 65_000, 65_536, 70_000, 3_000_000):
            body = bytes_of(size, size)
            tier.put(stored("E/a", body), 1.0)
            found = flushed(tier).find("E/a", none)
            assert found is not None
            assert found.body == body

    def test_sliced_responses_and_their_slices(self, opened: Opens) -> None:
        tier = opened()
        slices = Slices("E/a", 10, 6, "gen", b'"1"', True)
        tier.put(Stored("E/a", meta(), b"", slices), 1.0)
        found = flushed(tier).find("E/a", none)
        assert found is not None
        assert found.slices is not None
        assert (found.slices.key, found.slices.total, found.slices.size) == ("E/a", 10, 6)
        assert (found.slices.generation, found.slices.validator, found.slices.ranged) == ("gen", b'"1"', True)

        async def write(name: str, *chunks: bytes, length: int | None, whole: bool = True) -> None:
            writer = tier.writer(name, length)
            assert writer is not None
            for chunk in chunks:
                writer.feed(chunk)
            writer.finish() if whole else writer.abandon()
            while not writer.done and not writer.failed:
                await writer.progress()
            assert writer.done is (whole and length in (None, len(b"".join(chunks))))

        asyncio.run(write(slice_key(slices, 0), b"abc", b"def", length=6))
        asyncio.run(write(slice_key(slices, 1), b"ghij", length=None))
        asyncio.run(write("other", b"ghij", length=5))
        asyncio.run(write("broken off", b"ghij", length=4, whole=False))
        for index, body in ((0, b"abcdef"), (1, b"ghij")):
            piece = tier.slice(slice_key(slices, index), len(body))
            assert piece is not None
            assert b"".join(piece) == body
            assert b"".join(piece.cut(1, 2)) == body[1:3]
            assert tier.slice(slice_key(slices, index), len(body) + 1) is None
        for name in ("other", "broken off"):
            assert tier.slice(name, 4) is None
            assert tier.slice(name, 5) is None
        assert not list((tier.folder / "new").iterdir())
        # Neither is a response, nor is a response a slice.
        assert tier.find(slice_key(slices, 0), none) is None
        assert tier.slice("E/a", 0) is None

    def test_variants(self, opened: Opens) -> None:
        tier = opened()

        def asks(tongue: bytes) -> Callable[[], Headers]:
            return lambda: [(b"accept-language", tongue)]

        for tongue in (b"de", b"fr"):
            tier.put(stored(body=tongue, vary=(b"accept-language",), vary_values=(tongue,)), 1.0)
        flushed(tier)
        for tongue in (b"de", b"fr"):
            found = tier.find("E/a", asks(tongue))
            assert found is not None
            assert (found.key, found.body) == ("E/a", tongue)
        assert tier.find("E/a", asks(b"en")) is None
        assert tier.find("E/a", list) is None
        # A response with another Vary, or none, replaces all of them.
        tier.put(stored(body=b"all"), 1.0)
        assert flushed(tier).find("E/a", none).body == b"all"  # type: ignore[union-attr]
        # And a new signpost leads to no old variant.
        tier.put(stored(body=b"neu", vary=(b"accept-language",), vary_values=(b"de",)), 1.0)
        flushed(tier)
        assert tier.find("E/a", asks(b"de")).body == b"neu"  # type: ignore[union-attr]
        assert tier.find("E/a", asks(b"fr")) is None

    def test_dropped_is_dropped_even_from_what_waits(self, opened: Opens) -> None:
        tier = opened()
        gate = threading.Event()
        tier.submit(0, lambda: assert_(gate.wait(10)))
        tier.put(stored(), 1.0)
        tier.drop("E/a")
        gate.set()
        assert flushed(tier).find("E/a", none) is None
        tier.drop("never there")

    def test_ended_by_an_invalidation(self, opened: Opens) -> None:
        last = 7
        tier = opened(ended=lambda key, snapshot, tags: key.startswith("E/") and snapshot < last)
        tier.put(stored("E/a"), 1.0)
        tier.put(stored("F/a"), 1.0)
        assert flushed(tier).find("E/a", none) is not None
        last = 8
        assert tier.find("E/a", none) is None
        assert tier.find("F/a", none) is not None
        tier.put(stored("E/b"), 1.0)
        assert flushed(tier).find("E/b", none) is None

    def test_spoilt_by_a_change_under_its_path(self, opened: Opens) -> None:
        tier, other = opened(), opened()
        keys = ("E/a", "E/a\nq1:x", "E/a\nh6:accept1:x")
        for key in (*keys, "E/ab"):
            tier.put(stored(key), 10.0)
        flushed(tier)
        other.mark_changed("E/a", 11.0)
        for each in (tier, other):
            assert [each.find(key, none) for key in keys] == [None] * 3
            assert each.find("E/ab", none) is not None
        tier.put(stored("E/a", b"older"), 10.5)
        assert flushed(tier).find("E/a", none) is None
        tier.put(stored("E/a", b"newer"), 11.5)
        assert flushed(tier).find("E/a", none) is not None

    def test_what_nobody_else_may_read(self, opened: Opens) -> None:
        old = os.umask(0)
        try:
            tier = opened()
            tier.put(stored(), 1.0)
            flushed(tier)
            for path in [tier.folder, *tier.folder.rglob("*")]:
                assert path.stat().st_mode & 0o077 == 0, path
        finally:
            os.umask(old)


def assert_(value: bool) -> None:
    assert value


def flip(position: int, bit: int) -> Callable[[bytes], bytes]:
    def spoil(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[position] ^= 1 << bit
        return bytes(changed)

    return spoil


SPOILT: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("empty", lambda data: b""),
    ("one byte", lambda data: data[:1]),
    ("half a prefix", lambda data: data[:16]),
    ("a prefix alone", lambda data: data[:32]),
    ("half a head", lambda data: data[:50]),
    ("no body", lambda data: data[: data.index(b"hello")]),
    ("a body cut short", lambda data: data[:-1]),
    ("a body of zeros", lambda data: data[:-5] + bytes(5)),
    ("too long", lambda data: data + b"!"),
    ("another body", lambda data: data[:-5] + b"jello"),
    ("zeros", lambda data: bytes(len(data))),
    ("not ours", lambda data: b"#!/bin/sh\n" * 50),
    ("another layout", lambda data: data[:8] + b"\0\0\0\0" + data[12:]),
    ("a head that is none", lambda data: resealed(data[32:40] + b"\xc1" * 20)),
    ("a head of other members", lambda data: resealed(b"\x93\x01\x02\x03")),
]


def resealed(head: bytes) -> bytes:
    return disk_format.sealed(head, 5, zlib.crc32(b"hello")) + b"hello"


class TestProof:
    @pytest.mark.parametrize("spoil", [s for _, s in SPOILT], ids=[n for n, _ in SPOILT])
    def test_what_does_not_prove_itself_is_not_there_and_goes(
        self, opened: Opens, spoil: Callable[[bytes], bytes]
    ) -> None:
        tier = opened()
        tier.put(stored(), 1.0)
        path = flushed(tier).folder / name_of("E/a")
        path.write_bytes(spoil(path.read_bytes()))
        assert tier.find("E/a", none) is None
        assert not path.exists()
        tier.put(stored(), 1.0)
        assert flushed(tier).find("E/a", none) is not None

    def test_no_bit_of_an_entry_can_be_flipped_unnoticed(self, opened: Opens) -> None:
        tier = opened()
        tier.put(stored(), 1.0)
        path = flushed(tier).folder / name_of("E/a")
        data = path.read_bytes()
        for position in range(len(data)):
            path.write_bytes(flip(position, position % 8)(data))
            assert tier.find("E/a", none) is None, position
        path.write_bytes(data)
        assert tier.find("E/a", none) is not None

    def test_an_entry_under_another_ones_name(self, opened: Opens) -> None:
        tier = opened()
        tier.put(stored("E/a"), 1.0)
        tier.put(stored("E/b"), 1.0)
        flushed(tier)
        a, b = (tier.folder / name_of(key) for key in ("E/a", "E/b"))
        a.replace(b)
        assert tier.find("E/b", none) is None
        assert tier.find("E/a", none) is None

    @pytest.mark.parametrize("shift", [1, -1, 3600 * 10**9 + 1, -3600 * 10**9 - 1])
    async def test_after_a_restart_of_the_machine_slices_are_read_through_once(
        self, opened: Opens, shift: int
    ) -> None:
        tier = opened()
        for name in ("good", "bad"):
            writer = tier.writer(name, 5)
            assert writer is not None
            writer.feed(b"hello")
            writer.finish()
        flushed(tier)
        assert tier.slice("good", 5) is not None
        for name in ("good", "bad"):
            path = tier.folder / name_of(name)
            if name == "bad":
                path.write_bytes(path.read_bytes()[:-5] + bytes(5))
            os.utime(path, ns=(0, path.stat().st_mtime_ns + shift))  # whatever the clock said before
            assert tier.slice(name, 5) is None
        piece = await tier.verified_slice("good", 5)
        assert piece is not None
        assert b"".join(piece) == b"hello"
        assert tier.slice("good", 5) is not None
        assert await tier.verified_slice("bad", 5) is None
        assert not (tier.folder / name_of("bad")).exists()

    def test_a_file_that_shrinks_while_it_is_read_is_an_error(self, opened: Opens) -> None:
        tier = opened()
        asyncio.run(self._slice(tier, b"x" * 100_000))
        piece = tier.slice("s", 100_000)
        assert piece is not None
        os.truncate(tier.folder / name_of("s"), 50_000)
        with pytest.raises(OSError):
            b"".join(piece)

    @staticmethod
    async def _slice(tier: DiskTier, body: bytes) -> None:
        writer = tier.writer("s", len(body))
        assert writer is not None
        writer.feed(body)
        writer.finish()
        flushed(tier)


class TestFormats:
    def test_a_change_of_the_head_changes_the_format(self) -> None:
        """If this fails, raise `FORMAT`, and put the new pair here."""
        layout = zlib.crc32(repr([MetaRow.__annotations__, Head.__annotations__]).encode())
        assert (disk_format.FORMAT, layout) == (2, 3878609871)

    def test_an_entry_of_another_version_is_removed_and_counted_when_it_is_found(self, opened: Opens) -> None:
        tier = opened()
        tier.put(stored("E/a"), 1000.0)
        tier.put(stored("E/b"), 1000.0)
        flushed(tier)
        path = tier.folder / name_of("E/a")
        path.write_bytes(of_format(1, path.read_bytes()))
        assert tier.find("E/a", none) is None
        assert not path.exists()
        assert tier.find("E/b", none) is not None
        assert tier.outdated == 1

    def test_all_entries_of_another_version_are_removed_once_at_startup(
        self, opened: Opens, caplog: pytest.LogCaptureFixture
    ) -> None:
        first = opened()
        for key in ("E/a", "E/b", "E/c"):
            first.put(stored(key), 1000.0)
        flushed(first)
        for key in ("E/a", "E/b"):
            path = first.folder / name_of(key)
            path.write_bytes(of_format(0xDEADBEEF, path.read_bytes()))
        (first.folder / "format").unlink(missing_ok=True)
        with caplog.at_level(logging.INFO, "keyfront.edge"):
            second, third = opened(), opened()
            for tier in (second, third):
                tier.start()
                TestRoom().settled(tier)
        assert [tier.outdated for tier in (second, third)] == [2, 0]
        assert caplog.text.count("the cache on disk has a new format") == 1
        assert (first.folder / "format").read_text() == f"{disk_format.FORMAT}\n"
        assert [first.has(key) for key in ("E/a", "E/b", "E/c")] == [False, False, True]
        assert second.used == BLOCK


def of_format(number: int, entry: bytes) -> bytes:
    """The entry as another version would have written it, with its checksums."""
    return entry[:8] + number.to_bytes(4, "little") + entry[12:]


class TestRoom:
    def fill(self, tier: DiskTier, first: int, count: int, size: int = 3 * KIB) -> None:
        for number in range(first, first + count):
            tier.put(stored(f"E/{number}", bytes(size)), 1.0)
            if number % 20 == 0:
                flushed(tier)
        flushed(tier)

    def there(self, tier: DiskTier) -> int:
        return sum(BLOCK * -(-path.stat().st_size // BLOCK) for path in tier.folder.glob("??/*"))

    def settled(self, tier: DiskTier) -> DiskTier:
        flushed(tier)
        while tier._evictor is not None and tier._evictor.is_alive():
            tier._evictor.join(10)
        return tier

    def test_never_much_more_than_its_capacity(self, opened: Opens) -> None:
        tier = opened(100 * BLOCK)
        for first in range(0, 400, 20):
            self.fill(tier, first, 20)
            assert self.there(self.settled(tier)) <= tier.capacity + 5 * BLOCK
            tier._paused_until = 0.0
        tier.account(0, flush=True)
        assert self.there(self.settled(tier)) <= tier.capacity + 5 * BLOCK
        assert tier.evictions > 200

    def test_what_was_used_lately_stays(self, opened: Opens) -> None:
        tier = opened(100 * BLOCK)
        self.fill(tier, 0, 90)
        for number in range(90):
            aged(tier.folder / name_of(f"E/{number}"), 7200 - 60 * number)
        for number in (0, 5, 89):
            assert tier.find(f"E/{number}", none) is not None
        self.fill(tier, 100, 20)
        self.settled(tier)
        assert all(tier.find(f"E/{number}", none) is not None for number in (0, 5, 89))
        assert tier.find("E/1", none) is None
        assert tier.find("E/110", none) is not None

    def test_on_a_full_disk_it_makes_room(self, opened: Opens) -> None:
        tier = opened(1000 * BLOCK)
        self.fill(tier, 0, 100)
        for number in range(20):
            aged(tier.folder / name_of(f"E/{number}"), 3600)
        tier._failed("written", OSError(errno.ENOSPC, "full"))
        assert self.there(self.settled(tier)) == 90 * BLOCK
        assert all(tier.find(f"E/{number}", none) is not None for number in range(20, 100))
        tier._evict_beside()
        assert self.there(self.settled(tier)) == 90 * BLOCK

    def test_a_clock_that_is_set_back_makes_nothing_stay_for_ever(self, opened: Opens) -> None:
        tier = opened(100 * BLOCK)
        self.fill(tier, 0, 90)
        for number in range(90):
            aged(tier.folder / name_of(f"E/{number}"), -400 * 86400)
        for number in (0, 89):
            assert tier.find(f"E/{number}", none) is not None  # used, and the time of use recorded
        self.fill(tier, 100, 20)
        self.settled(tier)
        assert all(tier.find(f"E/{number}", none) is not None for number in (0, 89, 100))
        assert sum(tier.find(f"E/{number}", none) is None for number in range(1, 89)) >= 10

    def test_a_use_is_noted_once_a_minute_at_most(self, opened: Opens) -> None:
        tier = opened()
        tier.put(stored(), 1.0)
        path = flushed(tier).folder / name_of("E/a")
        for age, noted in ((59, False), (120, True)):
            aged(path, age)
            past = path.stat().st_mtime
            tier.find("E/a", none)
            assert (path.stat().st_mtime > past + 1) is noted

    def test_a_new_worker_counts_what_is_there_and_makes_room(self, opened: Opens, folder: Path) -> None:
        self.fill(opened(), 0, 100)
        left = folder / "new" / "9999-x"
        left.write_bytes(b"of a worker that was killed")
        old = time.time() - 3600
        os.utime(left, (old, old))
        (folder / "new" / "young").write_bytes(b"")
        small = opened(50 * BLOCK)
        small.start()
        assert self.there(self.settled(small)) <= 50 * BLOCK
        assert sorted(path.name for path in (folder / "new").iterdir()) == ["young"]
        assert small.used == self.there(small)

    def test_only_one_evicts_at_a_time(self, opened: Opens, folder: Path) -> None:
        tier = opened(10 * BLOCK)
        self.fill(tier, 0, 5)
        small, other = opened(2 * BLOCK), opened(2 * BLOCK)
        with disk_files.locked(str(folder / "evict"), wait=False):
            small.start()
            self.settled(small)
            assert self.there(small) == 5 * BLOCK
        other.start()
        assert self.there(self.settled(other)) <= 2 * BLOCK

    def test_workers_count_together(self, opened: Opens) -> None:
        one, two = opened(1000 * BLOCK), opened(1000 * BLOCK)
        self.fill(one, 0, 50)
        self.fill(two, 100, 50)
        one.account(0, flush=True)
        two.account(0, flush=True)
        assert two.used == self.there(two)
        self.fill(two, 0, 50)  # replacing the others
        two.account(0, flush=True)
        assert two.used == self.there(two)

    def test_with_no_room_nothing_is_written_until_there_is_some(self, opened: Opens) -> None:
        tier = opened(10 * BLOCK)
        tier.used = 100 * BLOCK
        assert not tier.ready
        tier.put(stored(), 1.0)
        assert flushed(tier).find("E/a", none) is None
        tier._paused_until = 0.0
        assert tier.ready


class TestFailure:
    def test_a_full_disk_is_one_warning_and_nothing_stored(
        self, opened: Opens, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The limit on a file's size simulates a full disk: writing fails in the same place, in the same way."""
        tier = opened()
        tier.put(stored("E/before"), 1.0)
        flushed(tier)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        try:
            for number in range(3):
                tier.put(stored(f"E/{number}", bytes(20_000)), 1.0)
                flushed(tier)
                assert tier.find(f"E/{number}", none) is None
                tier._paused_until = 0.0
            asyncio.run(self.slice(tier))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert tier.find("E/before", none) is not None
        assert [r.levelname for r in caplog.records if "disk" in r.message] == ["WARNING"]
        assert not list((tier.folder / "new").iterdir())
        tier._paused_until = 0.0
        tier.put(stored("E/after", bytes(20_000)), 1.0)
        assert flushed(tier).find("E/after", none) is not None

    async def slice(self, tier: DiskTier) -> None:
        writer = tier.writer("s", 30_000)
        assert writer is not None
        for _ in range(3):
            writer.feed(bytes(10_000))
        writer.finish()
        await writer.progress()
        flushed(tier)
        assert (writer.done, writer.failed, writer.backlog) == (False, True, 0)

    def test_while_it_rests_nothing_is_tried(self, opened: Opens) -> None:
        tier = opened()
        tier._failed("written", OSError("no"))
        assert not tier.ready
        assert tier.writer("s", 1) is None
        tier.put(stored(), 1.0)
        assert flushed(tier).find("E/a", none) is None

    def test_a_folder_that_cannot_be_is_one_warning(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "cache").write_bytes(b"a file in the way")
        tier = DiskTier(tmp_path / "cache", 1 << 20, never_ended)
        tier.start()
        assert tier.find("E/a", none) is None
        tier._paused_until = 0.0
        tier.put(stored(), 1.0)
        flushed(tier)
        assert tier.find("E/a", none) is None
        tier.mark_changed("E/a", 1.0)
        tier.close()
        assert sum("disk" in record.message for record in caplog.records) == 1

    @pytest.mark.parametrize("kind", ["pipe", "link", "socket", "folder", "empty"])
    def test_what_others_have_put_there_is_not_believed_nor_waited_for(
        self,
        opened: Opens,
        kind: str,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        tier = opened()
        tier.put(stored("E/a"), 1.0)
        path = flushed(tier).folder / name_of("E/a")
        elsewhere = tmp_path / "elsewhere"
        path.rename(elsewhere)
        content = elsewhere.read_bytes()
        with socket.socket(socket.AF_UNIX) as listener:
            match kind:
                case "pipe":
                    os.mkfifo(path)
                case "link":
                    path.symlink_to(elsewhere)
                case "socket":
                    monkeypatch.chdir(path.parent)  # a socket's name must be short
                    listener.bind(path.name)
                case "folder":
                    path.mkdir()
                case _:
                    path.touch()
            assert tier.find("E/a", none) is None
            assert tier.slice("E/a", 5) is None
        assert tier.ready
        assert elsewhere.read_bytes() == content
        assert os.path.lexists(path) == (kind == "folder")
        assert not caplog.records

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can leave files of another user")
    def test_files_of_a_user_under_whom_it_ran_before(self) -> None:
        with tempfile.TemporaryDirectory() as open_to_all:
            tier = DiskTier(f"{open_to_all}/cache", 64 << 20, never_ended)
            tier.put(stored("E/a"), 1.0)
            path = flushed(tier).folder / name_of("E/a")
            for folder in (Path(open_to_all), tier.folder, path.parent):
                os.chown(folder, 65534, 65534)
            os.seteuid(65534)
            try:
                assert tier.find("E/a", none) is None
                assert tier.ready
            finally:
                os.seteuid(0)
            assert not path.exists()
            tier.close()

    def test_an_uncacheable_response_supersedes_the_stored_one(self, opened: Opens) -> None:
        tier = opened()
        for why in ("rests", "fails", "full"):
            tier.put(stored("E/a", b"old"), 1.0)
            assert flushed(tier).find("E/a", none) is not None
            if why == "rests":
                tier._failed("written", OSError("no"))
                tier.put(stored("E/a", b"new"), 2.0)
            elif why == "fails":
                (tier.folder / "new").rename(tier.folder / "old")
                (tier.folder / "new").write_text("a file in the way")
                tier.put(stored("E/a", b"new"), 2.0)
                flushed(tier)
                (tier.folder / "new").unlink()
                (tier.folder / "old").rename(tier.folder / "new")
            else:
                tier.submit(0, lambda: setattr(tier, "used", 1 << 40))
                tier.put(stored("E/a", b"new"), 2.0)
                flushed(tier)
                tier.used = 0
            assert tier.find("E/a", none) is None, why
            tier._paused_until = 0.0

    def test_a_sign_from_before_the_clock_was_set_back(self, folder: Path) -> None:
        now = 1000.0
        tier = DiskTier(folder, 64 << 20, never_ended, clock=lambda: now)
        tier.mark_changed("E/a", 5000.0)
        tier.put(stored("E/a"), 999.0)
        assert flushed(tier).find("E/a", none) is None  # its time is unknown
        tier.put(stored("E/a"), 1001.0)
        assert flushed(tier).find("E/a", none) is not None
        tier.close()

    def test_who_counts_is_waited_for_by_the_thread_alone(self, opened: Opens) -> None:
        tier = opened()
        tier._step = 1
        with disk_files.locked(tier._made(f"{tier._root}used"), wait=True):
            tier.mark_changed("E/a", 1.0)
            tier.drop("E/b")
            assert tier.find("E/a", none) is None
        assert flushed(tier).used == BLOCK

    async def test_a_slice_that_was_taken_for_a_left_over(
        self, opened: Opens, caplog: pytest.LogCaptureFixture
    ) -> None:
        tier = opened()
        writer = tier.writer("s", 10)
        assert writer is not None
        writer.feed(b"12345")
        while writer.backlog:
            await writer.progress()
        (path,) = (tier.folder / "new").iterdir()
        aged(path, LEFT_OVER + 1)
        tier._clear_left_overs()
        assert not path.exists()
        writer.feed(b"67890")
        writer.finish()
        while not writer.failed:
            await writer.progress()
        assert (writer.done, tier.ready, caplog.records) == (False, True, [])
        assert writer.file is not None
        assert b"".join(FileRange(writer.file, writer.offset, 10)) == b"1234567890"

    def test_a_queue_that_grows_too_long_takes_no_more(self, opened: Opens) -> None:
        tier = opened()
        gate = threading.Event()
        tier.submit(0, lambda: assert_(gate.wait(10)))
        for number in range(50):
            tier.put(stored(f"E/{number}", bytes(1 << 20)), 1.0)
        assert not tier.ready
        gate.set()
        assert flushed(tier).ready
        there = [number for number in range(50) if tier.find(f"E/{number}", none) is not None]
        assert there == list(range(32))


KILLED = """
import asyncio, random, sys, time
from keyfront.edge.cache.disk import DiskTier
from tests.edge.test_disk import meta, never_ended, body_for
from keyfront.edge.types.stored import Stored

folder, seed = sys.argv[1], int(sys.argv[2])
dice = random.Random(seed)
tier = DiskTier(folder, 4 << 20, never_ended)
tier.start()

async def slices():
    for _ in range(5):
        name = f"s{dice.randrange(20)}"
        size = 20000
        writer = tier.writer(name, size)
        if writer is None:
            return
        body = body_for(name, size)
        for at in range(0, size, 5000):
            writer.feed(body[at : at + 5000])
        writer.finish()

print("ready", flush=True)
while True:
    for _ in range(20):
        key = f"E/{dice.randrange(200)}"
        size = dice.choice((10, 3000, 100000))
        tier.put(Stored(key, meta(length=size), body_for(key, size)), 1.0)
    asyncio.run(slices())
    if dice.random() < 0.2:
        tier.drop(f"E/{dice.randrange(200)}")
    while tier._submitted - tier._worked > 1 << 20:
        time.sleep(0.001)
    print("written", flush=True)
"""


def body_for(key: str, size: int) -> bytes:
    """A body for a key, of that size, in which any mixture with another body is detectable."""
    return (f"{key}/{size}|".encode() * (size // 4 + 1))[:size]


class TestWorkers:
    def test_however_often_writers_are_killed_what_is_found_is_whole(self, folder: Path) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])}
        dice = random.Random(7)
        reader = DiskTier(folder, 4 << 20, never_ended)
        found = slices = 0
        for round_ in range(4):
            argv = [sys.executable, "-c", KILLED, str(folder), str(round_)]
            with subprocess.Popen(argv, stdout=subprocess.PIPE, env=environment) as writer:
                assert writer.stdout is not None
                assert writer.stdout.readline() == b"ready\n"
                for _ in range(dice.randrange(2, 10)):
                    assert writer.stdout.readline() == b"written\n"
                    for _ in range(dice.randrange(50)):
                        found += self.look(reader, dice)
                writer.send_signal(signal.SIGKILL)
            for _ in range(100):
                found += self.look(reader, dice)
            for number in range(20):
                piece = reader.slice(f"s{number}", 20000)
                if piece is not None:
                    slices += 1
                    assert b"".join(piece) == body_for(f"s{number}", 20000)
        reader.close()
        assert found > 100
        assert slices > 5

    @staticmethod
    def look(reader: DiskTier, dice: random.Random) -> int:
        key = f"E/{dice.randrange(200)}"
        entry = reader.find(key, none)
        if entry is None:
            return 0
        assert entry.body == body_for(key, entry.meta.length or 0)
        return 1


def test_a_range_of_a_file_is_read_in_bounded_steps(tmp_path: Path) -> None:
    from keyfront.edge.cache.open_file import OpenFile
    from keyfront.edge.types.files import READ

    path = tmp_path / "x"
    body = bytes_of(READ * 2 + 10)
    path.write_bytes(body)
    piece = FileRange(OpenFile(os.open(path, os.O_RDONLY)), 3, len(body) - 3)
    chunks = list(piece)
    assert b"".join(chunks) == body[3:]
    assert max(map(len, chunks)) == READ
    assert len(piece) == len(body) - 3
