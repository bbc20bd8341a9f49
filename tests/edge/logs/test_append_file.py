"""Files to which several processes append, while others rotate them."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import time
from pathlib import Path

from keyfront.edge.logs import append_file
from keyfront.edge.logs.append_file import AppendFile, LineWriter, Retention, remove_old, rotated_files
from tests.faults import failing_disks

DAY = 86_400.0
NOON = 1_700_000_000.0 - 1_700_000_000 % DAY + DAY / 2


def line(number: int, at: float = NOON) -> bytes:
    return json.dumps({"time": at, "n": number}, separators=(",", ":")).encode() + b"\n"


def numbers(folder: Path) -> list[int]:
    return sorted(json.loads(each)["n"] for one in folder.iterdir() for each in one.read_text().splitlines())


def _append(path: Path, start: int, count: int, retention: Retention) -> None:
    file = AppendFile(path, 0o600, retention=retention)
    for number in range(start, start + count, 5):
        file.append(b"".join([line(n) for n in range(number, number + 5)]))
    file.close()


def test_processes_append_while_others_rotate(tmp_path: Path) -> None:
    """No line is lost, torn, or written twice: neither by rotation nor by another program that moves the file."""
    path = tmp_path / "log.jsonl"
    retention = Retention(size=1 << 30)
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_append, args=(path, k * 3000, 3000, retention)) for k in range(3)]
    for worker in workers:
        worker.start()
    moved = 0
    while any(worker.is_alive() for worker in workers):
        try:
            path.rename(tmp_path / f"moved-{moved}")
            moved += 1
        except FileNotFoundError:
            pass
        time.sleep(0.005)
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert moved > 3
    assert numbers(tmp_path) == list(range(9000))


def test_rotates_by_size_and_keeps_that_much(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    size = 40_000
    now = NOON
    file = AppendFile(path, 0o600, retention=Retention(size=size), clock=lambda: now)
    for number in range(5000):
        file.append(line(number))
        now += 1.0
    kept = numbers(tmp_path)
    assert kept == list(range(kept[0], 5000))
    total = sum(one.stat().st_size for one in tmp_path.iterdir())
    assert size * 0.8 < total <= size + 200
    assert len(rotated_files(path)) >= append_file.PARTS - 2


def test_rotates_daily_and_removes_by_age(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    now = NOON

    def clock() -> float:
        return now

    for day in range(6):
        # Another worker each time: the age of a file is that of its first record.
        file = AppendFile(path, 0o600, retention=Retention(age=3 * DAY), clock=clock)
        for hour in range(24):
            file.append(line(24 * day + hour, now))
            for one in rotated_files(path):
                if one.stat().st_mtime > NOON + 10 * DAY:  # the disk's clock is not the test's
                    os.utime(one, (now, now))
            now += 3600.0
        file.close()
    kept = numbers(tmp_path)
    assert kept == list(range(kept[0], 144))
    assert 72 <= 144 - kept[0] <= 72 + 49


def test_a_small_log_is_not_rotated_at_midnight(tmp_path: Path) -> None:
    now = NOON + 11.9 * 3600
    file = AppendFile(tmp_path / "a.jsonl", 0o600, retention=Retention(age=30 * DAY), clock=lambda: now)
    file.append(line(1, now))
    now += 3600.0
    file.append(line(2, now))
    assert [one.name for one in tmp_path.iterdir()] == ["a.jsonl"]


def test_removes_only_its_own_files(tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"
    names = ["access-20261201T000000Z-00ff.jsonl", "access-20261201T000000Z-00ff.jsonl.gz"]
    others = ["access-old.jsonl", "other-20261201T000000Z-00ff.jsonl", "access.jsonl.1"]
    for name in [*names, *others]:
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (1, 1))
    remove_old(path, Retention(age=DAY), NOON)
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted(others)


def test_a_full_file_takes_no_more(tmp_path: Path) -> None:
    writer = LineWriter(AppendFile(tmp_path / "a", 0o600, most=3 * len(line(1))), "it")
    for number in range(5):
        writer.write(line(number), 1)
    assert (writer.lost, bool(writer.failing)) == (2, True)
    (tmp_path / "a").unlink()
    writer.write(line(5), 1)
    assert (writer.lost, writer.failing) == (2, "")
    assert numbers(tmp_path) == [5]


def test_a_process_that_hangs_does_not_stop_the_others(tmp_path: Path) -> None:
    path = tmp_path / "a"
    writer = LineWriter(AppendFile(path, 0o600), "it")
    writer.write(line(0), 1)
    with path.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        for number in range(1, 4):
            writer.write(line(number), 1)
        assert "another process keeps it locked" in writer.failing
    writer.write(line(4), 1)
    assert (writer.failing, writer.lost) == ("", 2)  # one is held, the others are lost
    assert numbers(tmp_path) == [0, 1, 4]


def test_each_line_is_written_once_or_counted_as_lost(tmp_path: Path) -> None:
    """Whatever fails: there is no torn line, and none twice."""
    for turn, disk in enumerate(failing_disks()):
        folder = tmp_path / str(turn)
        writer = LineWriter(AppendFile(folder / "a.jsonl", 0o600, retention=Retention(size=700)), "it")
        with disk:
            for number in range(6):
                writer.write(line(number), 1)
        writer.write(line(6), 1)
        writer.close()
        found = numbers(folder)
        assert len(found) == len(set(found))
        assert len(found) + writer.lost == 7
