"""The edge's files on a disk that fails at every single call: the disk cache, the access log, the change notices.

No disk failure makes the edge fail. A lookup finds what was stored, or nothing; nothing older reappears; when the
disk works again, so does the tier.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyfront.edge.cache.disk import DiskTier
from keyfront.edge.cache.disk_files import BLOCK
from keyfront.edge.cache.purge_log import PurgeLog
from keyfront.edge.logs.access_log import AccessLog
from keyfront.edge.types.record import Record
from tests.edge.test_disk import aged, flushed, never_ended, none, stored
from tests.faults import FailingDisk, failing_disks


@pytest.fixture(autouse=True)
def nothing_is_a_fault_of_its_own(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.WARNING)
    yield
    assert "fault of its own" not in caplog.text


def evicted(tier: DiskTier) -> DiskTier:
    """The tier, once its evictor is done."""
    while (evictor := tier._evictor) is not None and evictor.is_alive():
        evictor.join(60)
    return tier


def awake(tier: DiskTier) -> DiskTier:
    """The tier after its pause."""
    evicted(flushed(tier))
    tier._paused_until = 0.0
    return tier


def test_storing_finding_and_dropping(tmp_path: Path) -> None:
    turns = 0
    for disk in failing_disks(reads=True, threads=True):
        turns += 1
        folder = tmp_path / "cache"
        shutil.rmtree(folder, ignore_errors=True)
        tier = DiskTier(folder, 64 << 20, never_ended)
        tier.put(stored("E/a", b"old"), 1.0)
        tier.put(stored("E/gone", b"old"), 1.0)
        flushed(tier)
        with disk:
            tier.put(stored("E/a", b"new"), 2.0)
            tier.drop("E/gone")
            flushed(tier)
            seen = tier.find("E/a", none)
            assert seen is None or seen.body in (b"old", b"new")
        awake(tier)
        found = tier.find("E/a", none)
        # If the removal fails too, the old one stays: the disk refuses to delete it.
        assert found is None or found.body == b"new" or disk.struck
        tier.put(stored("E/b", b"later"), 3.0)
        after = flushed(tier).find("E/b", none)
        assert after is not None
        assert after.body == b"later"
        tier.close()
    assert turns > 30


def test_variants_slices_and_signs(tmp_path: Path) -> None:
    async def slice_of(tier: DiskTier, body: bytes) -> bool:
        writer = tier.writer("E/f\n0", len(body))
        if writer is None:
            return False
        writer.feed(body)
        writer.finish()
        while not (writer.done or writer.failed):
            await writer.progress()
        return writer.done

    for disk in failing_disks(("full once", "full from then on", "broken once"), reads=True, threads=True):
        folder = tmp_path / "cache"
        shutil.rmtree(folder, ignore_errors=True)
        tier = DiskTier(folder, 64 << 20, never_ended)
        varied = stored("E/v", b"varied", vary=(b"accept",), vary_values=(b"x",))
        with disk:
            tier.put(varied, 1.0)
            done = asyncio.run(slice_of(tier, b"slice" * 1000))
            tier.mark_changed("E/s", 5.0)
            found = tier.slice("E/f\n0", 5000)
            with contextlib.suppress(OSError):  # which aborts the response
                assert found is None or b"".join(found) == b"slice" * 1000
            flushed(tier)
        assert done or disk.struck
        awake(tier)
        assert asyncio.run(slice_of(tier, b"again" * 1000))
        found = tier.slice("E/f\n0", 5000)
        assert found is not None
        assert b"".join(found) == b"again" * 1000
        tier.close()


@pytest.mark.parametrize("entries", [0, 1, 4])
def test_eviction(tmp_path: Path, entries: int) -> None:
    """Also for an empty folder, which a tier has that was never able to write."""
    for disk in failing_disks(
        ("full once", "full from then on", "broken once", "no descriptors"), reads=True, threads=True
    ):
        folder = tmp_path / "cache"
        shutil.rmtree(folder, ignore_errors=True)
        tier = DiskTier(folder, 2 * BLOCK, never_ended)
        tier._step = 1 << 40  # so that storing does not evict
        for number in range(entries):
            tier.put(stored(f"E/{number}", b"x" * 100), 1.0)
        flushed(tier)
        with disk:
            tier._out_of_space = True
            tier._evict()
            evicted(tier)
        tier._out_of_space = True
        tier._evict()
        evicted(tier)
        left = sum(1 for path in folder.rglob("*") if path.is_file() and len(path.name) == 64)
        assert left <= 2
        tier.close()


def test_a_full_disk_with_nothing_of_ours_on_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The reported case: ENOSPC triggers an eviction in a tier that holds nothing."""
    tier = DiskTier(tmp_path / "cache", 64 << 20, never_ended)
    tier._failed("written", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    evicted(tier)
    assert tier.evictions == 0
    assert "KeyError" not in caplog.text
    tier.close()


def test_eviction_while_others_remove_everything(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    tiers = [DiskTier(folder, 8 * BLOCK, never_ended) for _ in range(3)]
    stop = threading.Event()
    faults: list[BaseException] = []

    def sweep() -> None:
        while not stop.is_set():
            for path in list(folder.glob("??")):
                shutil.rmtree(path, ignore_errors=True)

    def work(tier: DiskTier) -> None:
        try:
            for number in range(60):
                tier.put(stored(f"E/{number % 20}", b"x" * 5000), 1.0)
                tier.find(f"E/{number % 20}", none)
                tier._out_of_space = True
                tier._evict()
        except BaseException as fault:
            faults.append(fault)

    sweeper = threading.Thread(target=sweep)
    workers = [threading.Thread(target=work, args=(tier,)) for tier in tiers]
    for thread in (sweeper, *workers):
        thread.start()
    for thread in workers:
        thread.join(120)
    stop.set()
    sweeper.join(60)
    for tier in tiers:
        tier.close()
    assert faults == []


def test_what_is_not_a_file_is_walked_over(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    tier = DiskTier(folder, 8 * BLOCK, never_ended)
    (folder / "00" / "a-folder").mkdir(parents=True)
    os.mkfifo(folder / "00" / "a-pipe")
    (folder / "01").write_text("a file where a folder belongs")
    (folder / "02").symlink_to("nowhere")
    old = folder / "00" / ("0" * 64)
    old.write_bytes(b"x" * 50 * BLOCK)
    aged(old, 3600)
    tier._evict()
    assert not old.exists()
    tier.close()


@pytest.mark.parametrize("why", ["evict", "write"])
def test_no_thread_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    tier = DiskTier(tmp_path / "cache", 64 << 20, never_ended)
    with monkeypatch.context() as patch:

        def refuse(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patch.setattr(threading.Thread, "start", refuse)
        if why == "evict":
            tier.start()
        else:
            tier.put(stored("E/a"), 1.0)
            assert not tier.ready
    tier._paused_until = 0.0
    tier.start()
    tier.put(stored("E/b"), 1.0)
    assert flushed(tier).find("E/b", none) is not None
    tier.close()


def record(number: int) -> Record:
    return Record(
        float(number),
        "id",
        "::1",
        1,
        "GET",
        "http",
        "h",
        f"/{number}",
        "",
        "HTTP/1.1",
        200,
        1,
        1,
        "Hit",
        "Hit",
    )


def test_the_access_log(tmp_path: Path) -> None:
    async def scenario(disk: FailingDisk, path: Path) -> tuple[AccessLog, int]:
        with disk:
            log = AccessLog(path)
            for number in range(3):
                log.add(record(number))
                log.flush()
                if number == 1:
                    with contextlib.suppress(OSError):
                        path.rename(path.with_suffix(".1"))
        lost = log.lost
        failing = log.failing
        log.add(record(3))
        log.flush()
        assert not log.failing
        assert failing <= disk.struck
        return log, lost

    for number, disk in enumerate(failing_disks()):
        folder = tmp_path / str(number)
        log, lost = asyncio.run(scenario(disk, folder / "logs" / "access.jsonl"))
        lines = b"".join(path.read_bytes() for path in sorted((folder / "logs").iterdir())).splitlines()
        assert len(lines) + lost >= 4
        assert log.lost == lost
        assert log.counts.requests[("", 200, "Hit", "")] == 4
        log.close()


def test_an_idle_access_log_recovers(tmp_path: Path) -> None:
    """`/healthz` takes a machine with a full disk out of service, so no request arrives that would discover that
    there is space again."""
    path = tmp_path / "logs" / "access.jsonl"

    async def scenario() -> None:
        log = AccessLog(path)
        path.unlink()
        path.mkdir()
        for number in range(3):
            log.add(record(number))
            log.flush()
        failing = [log.failing]
        log.retry()
        failing.append(log.failing)
        path.rmdir()
        log.retry()
        failing.append(log.failing)
        assert failing == [True, True, False]
        assert len(path.read_bytes().splitlines()) + log.lost == 3
        log.close()

    asyncio.run(scenario())


def test_change_notices(tmp_path: Path) -> None:
    for number, disk in enumerate(failing_disks()):
        folder = tmp_path / str(number)
        folder.mkdir()
        one, other = PurgeLog(folder / "changes"), PurgeLog(folder / "changes")
        with disk:
            began = time.monotonic()
            one.append("E/a", "")
            assert time.monotonic() - began < 60
        heard = other.poll()
        assert heard in ([], [("E/a", "")], [("E/a", "")] * 2)
        assert heard or disk.struck
        one.append("E/b", "")
        assert other.poll()[-1:] == [("E/b", "")]
        one.close()
        other.close()
