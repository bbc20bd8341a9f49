"""The store: what it stores, what it refuses, and that an acknowledged change survives a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from keyfront.control.audit import records as audit
from keyfront.control.store.database import Sqlite
from keyfront.control.store.rows import AuditIndex, AuditRow, Row
from keyfront.control.store.store import Store
from keyfront.errors import ApiError, SettingsError
from tests.control.harness import BOTH, Harness, where

STORES = BOTH


def row(id_: str, kind: str = "PublicKey", **changes: Any) -> Row:
    given: dict[str, Any] = {
        "etag": f"E{id_}",
        "created": 1.5,
        "modified": 2.5,
        "config": {"Name": id_},
        "attributes": {},
        "snapshot": 0,
    }
    return Row(kind=kind, id=id_, **(given | changes))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(where(tmp_path))
    yield made
    made.close()


def test_rows_come_back_as_they_were(store: Store) -> None:
    made = row(
        "a", config={"Name": "ä\n", "Items": [1, True, None]}, attributes={"DomainName": "d"}, snapshot=3
    )
    with store.write() as transaction:
        transaction.insert(made)
    with store.read() as transaction:
        assert transaction.get("PublicKey", "a") == made
        assert transaction.get("PublicKey", "b") is None
        assert transaction.get("KeyGroup", "a") is None


def test_pages_skip_and_repeat_nothing_while_others_come_and_go(store: Store) -> None:
    with store.write() as transaction:
        for id_ in "bdfh":
            transaction.insert(row(id_))
    with store.write() as transaction:
        assert [found.id for found in transaction.page("PublicKey", "", 2)] == ["b", "d"]
        transaction.delete("PublicKey", "d")
        transaction.insert(row("a"))
        transaction.insert(row("e"))
        assert [found.id for found in transaction.page("PublicKey", "d", 9)] == ["e", "f", "h"]


def test_many_ids_at_once(store: Store) -> None:
    ids = [f"{number:05}" for number in range(1200)]
    with store.write() as transaction:
        for id_ in ids:
            transaction.insert(row(id_))
        assert [found.id for found in transaction.get_many("PublicKey", reversed(ids))] == ids
        transaction.set_snapshot("PublicKey", ids[:2], 7)
        transaction.set_snapshot("PublicKey", [], 9)
        assert [found.snapshot for found in transaction.page("PublicKey", "", 3)] == [7, 7, 0]
        assert list(transaction.versions("PublicKey")) == ids
        assert transaction.count("PublicKey") == 1200


def test_a_referred_resource_cannot_vanish_by_any_way(store: Store) -> None:
    with store.write() as transaction:
        transaction.insert(row("key"))
        transaction.insert(row("group", kind="KeyGroup"))
        transaction.set_references("KeyGroup", "group", [("PublicKey", "key"), ("PublicKey", "key")])
        assert transaction.referrers("PublicKey", "key") == ["group"]
        assert transaction.referrers("PublicKey", "key", by="Distribution") == []
    with pytest.raises(ApiError, match=r"(?i)foreign key"), store.write() as transaction:
        transaction.delete("PublicKey", "key")
    with pytest.raises(ApiError, match=r"(?i)foreign key"), store.write() as transaction:
        transaction.set_references("KeyGroup", "group", [("PublicKey", "nothing")])
    with store.write() as transaction:
        transaction.delete("KeyGroup", "group")
        transaction.delete("PublicKey", "key")


def test_what_goes_with_a_resource(store: Store) -> None:
    with store.write() as transaction:
        transaction.insert(row("a"))
        transaction.set_unique_values("PublicKey", "a", {"Name": ["n"], "Alias": ["x", "y", "x"]})
        transaction.set_tags("PublicKey", "a", {"b": "1", "a": ""})
        assert transaction.tags("PublicKey", "a") == {"a": "", "b": "1"}
        assert transaction.owners("PublicKey", "Alias", ["y", "z"]) == {"y": "a"}
        transaction.set_unique_values("PublicKey", "a", {"Alias": ["z"]})
        assert transaction.owners("PublicKey", "Alias", ["y", "z"]) == {"z": "a"}
        transaction.delete("PublicKey", "a")
        assert transaction.tags("PublicKey", "a") == {}
        assert transaction.owners("PublicKey", "Alias", ["z"]) == {}


def test_an_exception_undoes_everything(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.write() as transaction:
        transaction.insert(row("a"))
        transaction.set_snapshot_number(9, 1.0)
        raise ZeroDivisionError
    with store.read() as transaction:
        assert transaction.get("PublicKey", "a") is None
        assert transaction.snapshot_number() == 0


def test_the_audit_log_only_grows(store: Store) -> None:
    with store.write() as transaction:
        assert transaction.audit_head() is None
        for number in (1, 2, 3):
            transaction.append_audit(AuditRow(number, b"{}", bytes(32)), AuditIndex(1.0, "n", "p", "", ""))
        head = transaction.audit_head()
        assert head is not None
        assert head.number == 3
        assert [found.number for found in transaction.audit(after=1, limit=1)] == [2]
    for statement in ("DELETE FROM audit", "UPDATE audit SET error = 'x'"):
        with pytest.raises(ApiError, match="append-only"), store.write() as transaction:
            transaction.connection.exec_driver_sql(statement)


def test_a_newer_store_is_left_alone(tmp_path: Path) -> None:
    store = Store(where(tmp_path))
    with store.write() as transaction:
        transaction.insert(row("a"))
        transaction.connection.exec_driver_sql("INSERT INTO schema VALUES (99)")
    with pytest.raises(SettingsError, match="a newer Keyfront"):
        Store(where(tmp_path))
    # A process that has it open continues to read, and writes nothing that the newer version would not.
    with pytest.raises(ApiError, match="newer Keyfront") as caught, store.write():
        raise AssertionError("an old Keyfront wrote to a new store")
    assert caught.value.status == 503
    with store.read() as transaction:
        assert transaction.get("PublicKey", "a") is not None
    store.close()


def test_opening_it_twice_migrates_once(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def open_it() -> None:
        try:
            Store(where(tmp_path)).close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_opening_a_new_file_many_times_at_once_waits_for_the_journal_mode(tmp_path: Path) -> None:
    """SQLite fails immediately, whatever its timeout, if two connections change the journal mode of one new file."""

    def open_it(file: Path, together: threading.Barrier) -> None:
        together.wait()
        database = Sqlite(file)
        database.writing.connect().close()
        database.close()

    with ThreadPoolExecutor(4) as threads:
        for number in range(40):
            together = threading.Barrier(4)
            for opened in [threads.submit(open_it, tmp_path / f"{number}.db", together) for _ in range(4)]:
                opened.result()


def test_opening_a_file_again_leaves_the_locks_of_its_connections(tmp_path: Path) -> None:
    """POSIX drops all locks of a process on a file when the process closes any descriptor of it."""
    file = tmp_path / "keyfront.db"
    first = Sqlite(file)
    connection = first.reading.connect()
    connection.execute(sa.text("SELECT count(*) FROM sqlite_master")).all()

    def locks() -> set[str]:
        inode = f":{file.stat().st_ino} "
        lines = Path("/proc/locks").read_text().splitlines()
        return {line.partition(": ")[2] for line in lines if inode in line}  # without its place in the list

    before = locks()
    assert before
    Sqlite(file).close()
    assert locks() == before
    connection.close()
    first.close()
    file.write_bytes(b"something else")
    with pytest.raises(OSError, match="not a SQLite database"):
        Sqlite(file)


def test_a_writer_that_does_not_end_is_an_error_and_not_a_hang(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("keyfront.control.store.database.BUSY_TIMEOUT", 0.05)
    first, second = Store(where(tmp_path)), Store(where(tmp_path))
    with first.write() as transaction:
        transaction.insert(row("a"))
        with pytest.raises(ApiError) as caught, second.write():
            raise AssertionError("two writers at once")
        assert (caught.value.code, caught.value.status) == ("ServiceUnavailable", 503)
        with second.read() as reading:  # readers continue and see what was committed before
            assert reading.get("PublicKey", "a") is None
    with second.write() as transaction:
        assert transaction.get("PublicKey", "a") is not None
    first.close()
    second.close()


WRITER = """
import sys
from pathlib import Path
from tests.control.harness import Harness

harness = Harness(Path(sys.argv[1]), seed=int(sys.argv[2]), audit_reads=False)
number = 0
while True:
    name = f"{sys.argv[2]}-{number}"
    id_ = harness.distribution(name)["Id"]
    print(name, id_, flush=True)  # the acknowledgement
    number += 1
"""


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    acknowledged: dict[str, str] = {}
    for seed in (1, 2, 3):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(seed)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert writer.stdout is not None
        for _ in range(8):
            name, id_ = writer.stdout.readline().split()
            acknowledged[name] = id_
        writer.send_signal(signal.SIGKILL)
        for line in writer.stdout.read().splitlines():
            if len(parts := line.split()) == 2 and len(parts[1]) == 14:
                acknowledged[parts[0]] = parts[1]
        writer.wait()

        harness = Harness(tmp_path, seed=seed + 100)
        with harness.store.read() as transaction:
            ids = set(transaction.versions("Distribution"))
            records = transaction.audit(limit=100_000)
            number = transaction.snapshot_number()
        assert ids >= set(acknowledged.values())
        # What was in flight is complete or absent: each distribution has its record, and the feed contains them all.
        assert len([found for found in records if b'"CreateDistribution"' in found.record]) == len(ids)
        assert audit.first_break(records) is None
        published = harness.feed.published()
        assert published is not None
        assert published.number == number
        assert {found.id for found in published.distributions} == ids
        harness.close()
