"""Behavior specific to a store on PostgreSQL: connections that break, servers that crash, passwords."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from keyfront.control.audit import records as audit
from keyfront.control.store import database
from keyfront.control.store.database import Postgres, has_password
from keyfront.control.store.store import Store
from keyfront.errors import ApiError, SettingsError
from tests.control.harness import Harness
from tests.control.test_store import WRITER, row
from tests.postgres import PostgresServer, unable
from tests.rows import rows
from tests.up import PATIENCE


@pytest.fixture(scope="module")
def own() -> Iterator[PostgresServer]:
    """A server that a test may stop, provided it starts it again."""
    if why := unable():
        pytest.skip(why)
    with PostgresServer() as server:
        yield server


@pytest.fixture
def url(postgres: PostgresServer) -> Iterator[str]:
    lent = postgres.lend()
    yield lent
    postgres.take_back(lent)


def harness(folder: Path, url: str, seed: int = 1) -> Harness:
    folder.mkdir(exist_ok=True)
    (folder / "store").write_text(url)
    return Harness(folder, seed=seed)


# ---- connections


def test_a_server_that_goes_away_and_comes_back(own: PostgresServer, tmp_path: Path) -> None:
    one = harness(tmp_path, own.database())
    id_ = one.distribution()["Id"]
    own.stop()
    for operation in ("GetDistribution", "GetDistributionConfig"):
        refused = one.refused(operation, Id=id_)
        assert (refused.code, refused.status) == ("ServiceUnavailable", 503)
    assert one.refused("CreateKeyGroup", KeyGroupConfig={"Name": "g", "Items": []}).status == 503
    with pytest.raises(ApiError) as caught:
        one.service.follow(one.now)
    assert caught.value.code == "ServiceUnavailable"
    own.start()
    again(one, id_)
    one.distribution("after")
    assert one.service.follow(one.now)
    with one.store.read() as transaction:
        assert audit.first_break(transaction.audit(limit=1000)) is None
    one.close()


def again(one: Harness, id_: str) -> None:
    """Wait until the server answers."""
    deadline = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(ApiError):
            assert one.call("GetDistribution", Id=id_)["Distribution"]["Id"] == id_
            return
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_connections_that_are_cut_are_made_anew(url: str, tmp_path: Path) -> None:
    one = harness(tmp_path, url)
    id_ = one.distribution()["Id"]
    with one.store.read() as transaction:
        assert transaction.get("Distribution", id_) is not None
    with connect(url) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    one.call("GetDistribution", Id=id_)  # the client notices nothing
    one.close()


def test_a_writer_that_is_cut_off_has_changed_nothing(url: str) -> None:
    store = Store(url)
    with pytest.raises(ApiError, match="Nothing was changed") as caught, store.write() as transaction:
        transaction.insert(row("a"))
        cut(url, transaction.connection)
        transaction.insert(row("b"))
    assert caught.value.status == 503
    with store.write() as transaction:
        assert transaction.count("PublicKey") == 0
    store.close()


def cut(url: str, connection: sa.Connection) -> None:
    pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    with connect(url) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))


def connect(url: str) -> Any:
    import psycopg

    return psycopg.connect(url)


class Cut:
    """A proxy between client and server: when it is `armed`, it cuts the connection that carries a COMMIT, either
    before or after it forwards the COMMIT."""

    def __init__(self, folder: Path, server: Path, passes_on: bool) -> None:
        self.armed = False
        self._server = str(server / ".s.PGSQL.5432")
        self._passes_on = passes_on
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(folder / ".s.PGSQL.5432"))
        self._listening.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listening.accept()[0]
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._server)
                threading.Thread(target=self._pass, args=(client, server), daemon=True).start()
                threading.Thread(target=self._back, args=(server, client), daemon=True).start()

    def _pass(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if self.armed and b"COMMIT" in data:
                    self.armed = False
                    client.shutdown(socket.SHUT_RDWR)
                    if self._passes_on:
                        server.sendall(data)
                    break
                server.sendall(data)
        server.shutdown(socket.SHUT_WR)

    def _back(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                client.sendall(data)
        client.close()

    def close(self) -> None:
        self._listening.close()


@pytest.mark.parametrize("passes_on", [True, False])
def test_a_commit_without_an_answer_is_not_known_and_then_found_out(
    postgres: PostgresServer, url: str, tmp_path: Path, passes_on: bool
) -> None:
    between = Cut(tmp_path, postgres.folder, passes_on)
    one = harness(tmp_path / "harness", url.replace(str(postgres.folder), str(tmp_path)))
    before = one.distribution("before")["Id"]
    between.armed = True
    refused = one.refused("CreateDistribution", DistributionConfig=config("lost"))
    assert (refused.code, refused.status) == ("ServiceUnavailable", 503)
    assert "unknown" in refused.message
    assert one.service.follow(one.now)
    ids = {item["Id"] for item in one.call("ListDistributions")["DistributionList"]["Items"]}
    assert before in ids
    assert len(ids) == 1 + passes_on
    found = one.feed.published()
    assert found is not None
    assert {distribution.id for distribution in found.distributions} == ids
    one.distribution("after")
    one.close()
    between.close()


def config(reference: str) -> dict[str, Any]:
    from tests.control.harness import minimal

    return minimal(reference)


def test_who_holds_the_lock_and_says_nothing_more_loses_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(database, "STUCK_TIMEOUT", 0.2)
        stuck, other = Store(url), Store(url)
        with pytest.raises(ApiError, match="Nothing was changed"), stuck.write() as transaction:
            transaction.insert(row("a"))
            with other.write() as next_one:  # waits until the server's timeout for the stuck one
                assert next_one.get("PublicKey", "a") is None
            transaction.insert(row("b"))
    other.close()
    stuck.close()


def test_a_server_that_answers_nothing_is_given_up(
    own: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "ANSWER_TIMEOUT", 0.2)
    one = harness(tmp_path, own.database() + "&connect_timeout=2")
    id_ = one.distribution()["Id"]
    with own.stands_still():
        for _ in range(2):
            refused = one.refused("GetDistribution", Id=id_)
            assert (refused.code, refused.status) == ("ServiceUnavailable", 503)
    again(one, id_)
    one.close()


def test_more_calls_than_connections_wait_and_then_fail(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(database, "POOL", 1)
        patched.setattr(database, "BUSY_TIMEOUT", 0.1)
        store = Store(url)
        with store.read() as reading:
            assert reading.count("PublicKey") == 0
            with pytest.raises(ApiError, match="connections have been in use") as caught, store.read():
                raise AssertionError("a second connection of one")
        assert caught.value.status == 503
        with store.read() as reading:
            assert reading.count("PublicKey") == 0
    store.close()


# ---- durability


def test_a_server_that_crashes_has_all_that_was_acknowledged(own: PostgresServer, tmp_path: Path) -> None:
    (tmp_path / "store").write_text(own.database())
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path), "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert writer.stdout is not None
    acknowledged = {writer.stdout.readline().split()[1] for _ in range(8)}
    own.stop(signal.SIGKILL)
    acknowledged |= {line.split()[1] for line in writer.stdout}  # until its next call fails
    assert writer.wait() == 1
    own.start()
    again = Harness(tmp_path, seed=2)
    with again.store.read() as transaction:
        ids = set(transaction.versions("Distribution"))
        assert audit.first_break(transaction.audit(limit=100_000)) is None
    assert ids >= acknowledged
    published = again.feed.published()
    assert published is not None
    assert {found.id for found in published.distributions} == ids
    again.close()


def test_a_commit_waits_for_the_disk_whatever_the_role_is_set_to(url: str) -> None:
    with connect(url) as connection:
        name = connection.info.dbname
        connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
        connection.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = serializable")
    store = Store(url)

    def setting_of(transaction: Any, setting: str) -> Any:
        return transaction.connection.exec_driver_sql(f"SHOW {setting}").scalar()

    with store.write() as transaction:
        assert setting_of(transaction, "synchronous_commit") == "on"
        assert setting_of(transaction, "transaction_isolation") == "read committed"
    with store.read() as transaction:
        assert setting_of(transaction, "transaction_isolation") == "repeatable read"
        assert setting_of(transaction, "transaction_read_only") == "on"
    with store.write_relaxed() as transaction:
        assert setting_of(transaction, "synchronous_commit") == "off"
    store.close()
    with connect(url) as connection:
        connection.execute(f"ALTER DATABASE {name} RESET ALL")


def test_the_audit_log_cannot_be_emptied(url: str) -> None:
    store = Store(url)
    with pytest.raises(ApiError, match="append-only"), store.write() as transaction:
        transaction.connection.exec_driver_sql("TRUNCATE audit")
    store.close()


def test_a_reader_sees_one_state(url: str) -> None:
    store = Store(url)
    with store.read() as reading:
        assert reading.count("PublicKey") == 0
        with store.write() as writing:
            writing.insert(row("a"))
        assert reading.get("PublicKey", "a") is None
    store.close()


def test_a_foreign_database_is_left_alone(postgres: PostgresServer) -> None:
    url = postgres.database()
    with connect(url) as connection:
        connection.execute("CREATE TABLE tag (mine TEXT)")
    with pytest.raises(SettingsError, match="already exists"):
        Store(url)
    with connect(url) as connection:
        found = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    assert found == [("tag",)]


# ---- URLs and passwords


@rows(
    "url",
    [
        "postgresql://user:sEcr et@host/db",
        "postgresql://user:sEcr@et@host:port/db",
        "postgresql://user:sEcret%@host/db",
        "postgresql://host/db?sEcret=1",
        "mysql://user:sEcret@host/db",
        "sEcret",
    ],
)
def test_what_is_no_url_is_refused_without_being_said(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Postgres(url).migrating.connect()
    assert "sEcr" not in str(caught.value)


def test_a_password_stands_in_no_message(own: PostgresServer, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SettingsError) as caught:
        Store(f"postgresql://keyfront:sEcret@127.0.0.1:{closed_port()}/db")
    assert "127.0.0.1" in str(caught.value)
    name = Postgres("postgresql://u:sEcret@h1:1,h2:2/db?sslpassword=sEcret").name
    assert name == "postgresql://h1,h2:1,2/db"
    assert "sEcret" not in str(caught.value) + name + caplog.text


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_has_password() -> None:
    assert has_password("postgresql://u:p@h/d")
    assert has_password("postgres://h/d?password=p")
    assert not has_password("postgresql://u@h/d?host=/tmp")


def test_the_password_comes_from_a_file_and_may_change(own: PostgresServer, tmp_path: Path) -> None:
    url = own.database()
    with connect(url) as connection:
        connection.execute("CREATE ROLE guarded LOGIN PASSWORD 'first' SUPERUSER")
    hba = own.folder / "data" / "pg_hba.conf"
    before = hba.read_text()
    try:
        hba.write_text("local all guarded scram-sha-256\n" + before)
        reload(own)
        file = tmp_path / "password"
        guarded = url.replace("keyfront@", "guarded@")
        with pytest.raises(SettingsError, match="No such file"):
            Store(guarded, password_file=file)
        file.write_text("wrong\n")
        with pytest.raises(SettingsError, match="password authentication failed") as caught:
            Store(guarded, password_file=file)
        assert "wrong" not in str(caught.value)
        file.write_text("first\n")
        store = Store(guarded, password_file=file)
        with connect(url) as connection:
            connection.execute("ALTER ROLE guarded PASSWORD 'second'")
        file.write_text("second\n")
        with store.read(), store.read():  # a second connection, with the new password
            pass
        store.close()
    finally:
        hba.write_text(before)
        reload(own)


def reload(server: PostgresServer) -> None:
    with connect(server.url("postgres")) as connection:
        connection.execute("SELECT pg_reload_conf()")
