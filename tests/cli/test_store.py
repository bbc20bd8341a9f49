"""`--store` as the command line accepts it, and `keyfront store copy`."""

from __future__ import annotations

import fcntl
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from keyfront.cli.main import keyfront
from keyfront.control.store.rows import Row
from keyfront.control.store.store import Store
from tests.cli.test_start import refused
from tests.postgres import PostgresServer, unable


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    if why := unable():
        pytest.skip(why)
    with PostgresServer() as running:
        yield running


def run(*argv: str, **environment: str) -> Result:
    return CliRunner().invoke(keyfront, argv, env=environment)


def why(result: Result) -> str:
    assert result.exit_code != 0
    return result.output


def test_a_password_is_not_taken_from_the_command_line(tmp_path: Path) -> None:
    for command in (("up",), ("store", "copy"), ("audit", "verify")):
        message = why(run(*command, "--data", str(tmp_path), "--store", "postgresql://u:sEcret@h/d"))
        assert "must not contain the password" in message
        assert "sEcret" not in message


@pytest.mark.parametrize("url", ["mysql://h/d", "postgresql://h:x/d", "somewhere"])
def test_what_is_no_url(tmp_path: Path, url: str) -> None:
    assert "postgresql://USER@HOST" in why(run("up", "--data", str(tmp_path), "--store", url))


def test_a_database_that_is_not_there(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        err = refused(tmp_path, "--store", f"postgresql://127.0.0.1:{taken.getsockname()[1]}/d")
    assert "cannot be opened" in err
    assert "control did not start" in err


def test_from_a_file_to_postgresql(server: PostgresServer, tmp_path: Path) -> None:
    store = Store(tmp_path / "keyfront.db")
    with store.write() as transaction:
        transaction.insert(Row("PublicKey", "K1", "E1", 1.0, 1.0, {"Name": "a"}, {}, 0))
    store.close()
    url = server.database()
    with open(tmp_path / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "stop it first" in why(run("store", "copy", "--data", str(tmp_path), "--store", url))
    done = run("store", "copy", "--data", str(tmp_path), KEYFRONT_STORE=url)
    assert "1 resources, 0 audit records" in done.output
    assert "is not new" in why(run("store", "copy", "--data", str(tmp_path), "--store", url))
    assert "to copy to, with --store" in why(run("store", "copy", "--data", str(tmp_path)))
    assert "no store" in why(run("store", "copy", "--data", str(tmp_path / "x"), "--store", url))
    store = Store(url)
    with store.read() as transaction:
        assert transaction.count("PublicKey") == 1
    store.close()
