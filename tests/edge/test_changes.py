"""When one worker sees a change at an origin, all workers of the machine forget the old response."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from keyfront.edge.cache import purge_log
from keyfront.edge.cache.purge_log import PurgeLog
from keyfront.edge.follower import Follower, FollowerSettings
from keyfront.model.snapshot import Behavior, Select
from tests.origin import ScriptedOrigin, answer
from tests.sites import site
from tests.viewer import EdgeHarness

ALL = ("GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE")


def test_a_change_reaches_each_other_worker_once(tmp_path: Path) -> None:
    one, two, three = (PurgeLog(tmp_path / "changes") for _ in range(3))
    assert two.poll() == []
    one.append("E/a", "")
    one.append('E/b"\n\xff', "\nq3:x=1")
    told = [("E/a", ""), ('E/b"\n\xff', "\nq3:x=1")]
    assert two.poll() == told
    assert (two.poll(), one.poll()) == ([], [])
    two.append("E/c", "")
    assert one.poll() == [("E/c", "")]
    assert three.poll() == [*told, ("E/c", "")]
    assert PurgeLog(tmp_path / "changes").poll() == []  # a new worker starts with nothing to forget
    for each in (one, two, three):
        each.close()
    assert oct(os.stat(tmp_path / "changes").st_mode & 0o777) == "0o600"


def test_the_file_is_begun_anew_and_nothing_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purge_log, "LONGEST", 2000)
    one, two = PurgeLog(tmp_path / "changes"), PurgeLog(tmp_path / "changes")
    heard = []
    for n in range(200):
        one.append(f"E/{n}", "")
        if n % 20 == 0:
            heard += two.poll()
        assert (tmp_path / "changes").stat().st_size < 2200
    assert [*heard, *two.poll()] == [(f"E/{n}", "") for n in range(200)]
    one.close()
    two.close()


def test_many_tell_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purge_log, "LONGEST", 20_000)
    workers = [PurgeLog(tmp_path / "changes") for _ in range(4)]
    hears = PurgeLog(tmp_path / "changes")
    heard: list[tuple[str, str]] = []

    def tell(worker: PurgeLog, number: int) -> None:
        for n in range(300):
            worker.append(f"E/{number}/{n}", "")

    threads = [threading.Thread(target=tell, args=each) for each in zip(workers, range(4), strict=True)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        heard += hears.poll()
    heard += hears.poll()
    assert sorted(heard) == sorted((f"E/{k}/{n}", "") for k in range(4) for n in range(300))


def test_half_a_line_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "changes"
    one, two = PurgeLog(path), PurgeLog(path)
    with open(path, "ab") as file:
        file.write(b'\n["killed","E/a')  # left behind by a killed worker
        file.flush()
        assert two.poll() == []
        one.append("E/b", "")
        assert two.poll() == [("E/b", "")]
        file.write(b'\n["slow","E/')
        file.flush()
        assert two.poll() == []
        file.write(b'c",""]\n')
        file.flush()
        assert two.poll() == [("E/c", "")]
        file.write(b"\n\xff\xfe\n[1]\n{}\n")
        file.flush()
        assert two.poll() == []


def test_a_file_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "changes").mkdir()
    one = PurgeLog(tmp_path / "changes")
    one.append("E/a", "")
    one.append("E/a", "")
    assert one.poll() == []
    assert caplog.text.count("cannot notify other workers") == 1
    os.rmdir(tmp_path / "changes")
    os.symlink(tmp_path / "elsewhere", tmp_path / "changes")
    one.append("E/a", "")
    assert not (tmp_path / "elsewhere").exists()


async def test_workers_of_one_machine(tmp_path: Path) -> None:
    behavior = Behavior(
        "*", "scripted", allowed_methods=ALL, key_query=Select("all"), forward_query=Select("all")
    )
    control = {"Cache-Control": "max-age=1000"}
    async with ScriptedOrigin() as origin, AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(EdgeHarness(site(origin.origin(), behavior))) for _ in range(3)
        ]
        followers = [
            Follower(harness.edge, FollowerSettings(f"edge-{n}", tmp_path), lambda: 0)
            for n, harness in enumerate(workers)
        ]
        for target in ("/a", "/a?x=1", "/b"):
            origin.on(target, answer(200, b"old", control))
            for harness in workers:
                assert (await harness.get(target)).body == b"old"
        go = asyncio.Event()
        origin.on("/slow", [go, *answer(200, b"old", control)], answer(200, b"new", control))
        waiting = asyncio.ensure_future(workers[2].get("/slow"))
        await origin.received(10)

        origin.on("/a", answer(200, b"done", {"Location": "/slow"}), answer(200, b"new", control))
        await workers[0].get("/a", method="POST", body=b"x")
        for follower in followers:
            follower.poll()
        go.set()
        assert (await waiting).body == b"old"
        for harness in workers:
            assert (await harness.get("/a")).body == b"new"
            assert (await harness.get("/slow")).body == b"new"
            assert (await harness.get("/b")).x_cache == "Hit"
        assert [(await harness.get("/a?x=1")).x_cache for harness in workers] == ["Hit"] * 3
        for follower in followers:
            follower.leave()
