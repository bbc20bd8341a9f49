"""Fixtures that the control plane's tests share: a harness, and a store of either kind.

The tests of a module that sets `STORES = BOTH` run twice, once with SQLite and once with PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.control.harness import Config, Harness
from tests.postgres import PostgresServer, unable


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    kinds = getattr(metafunc.module, "STORES", ())
    if kinds and {"harness", "tmp_path", "store"} & set(metafunc.fixturenames):
        metafunc.fixturenames.insert(0, "store_kind")  # before the harness is set up
        metafunc.parametrize("store_kind", kinds, indirect=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL that all tests of a process share."""
    if why := unable():
        pytest.skip(why)
    with PostgresServer() as server:
        yield server


@pytest.fixture
def store_kind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The kind of store in the folder `tmp_path` (`tests.control.harness.where`)."""
    kind: str = request.param
    if kind == "sqlite":
        yield kind
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    url = server.lend()
    (tmp_path / "store").write_text(url)
    yield kind
    server.take_back(url)


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    made = Harness(tmp_path)
    yield made
    made.close()


@pytest.fixture
def existing(harness: Harness) -> Config:
    """A distribution."""
    return harness.distribution("existing")
