"""The control plane's records on a disk that fails at every single call.

Each time: after the process ends, everything acknowledged is present, everything refused is absent, the audit log's
chain is intact, and the next attempt succeeds.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.exc import DBAPIError

from keyfront.control.audit import records as audit
from keyfront.control.identity.credentials import load
from keyfront.control.store.store import Store
from keyfront.control.wire.health import committable, writable
from keyfront.errors import ApiError, SettingsError
from keyfront.model.kinds import Quotas
from tests.control.harness import ACCOUNT, Harness
from tests.faults import FULL, IOERR_FSYNC, IOERR_WRITE, FailingSqlite, failing_disks, left_over

WAYS = [(FULL, False), (FULL, True), (IOERR_WRITE, False), (IOERR_FSYNC, True)]


@pytest.fixture
def sqlite() -> Iterator[FailingSqlite]:
    with FailingSqlite() as failing:
        yield failing


def intact(store: Store) -> int:
    """The number of records in the audit log, if its chain is intact."""
    with store.read() as transaction:
        rows = transaction.audit()
    assert audit.first_break(rows) is None
    return len(rows)


@pytest.mark.parametrize(("code", "stays"), WAYS)
def test_a_change(tmp_path: Path, sqlite: FailingSqlite, code: int, stays: bool) -> None:
    harness = Harness(tmp_path, quotas=Quotas(public_keys=1000))
    made = [harness.key("before")]
    for at in range(200):
        sqlite.fail(at, code, stays=stays)
        name = f"key-{at}"
        refusal = None
        try:
            made.append(harness.key(name))
        except ApiError as error:
            refusal = error
        struck = sqlite.struck
        sqlite.fail(None)
        if refusal is not None:
            assert struck
            assert refusal.code == "ServiceUnavailable"
            assert "Nothing was changed" in refusal.message
        other = Store(tmp_path / "keyfront.db")  # the state at a start after a power failure
        with other.read() as transaction:
            assert set(transaction.versions("PublicKey")) == set(made)
        intact(other)
        other.close()
        if not struck:
            break
        if len(made) < at + 2:
            made.append(harness.key(name))  # the same call again
    else:
        raise AssertionError("a change never got through")
    assert at >= 2
    assert intact(harness.store) >= len(made)
    harness.close()


@pytest.mark.parametrize(("code", "stays"), WAYS)
def test_a_record_of_a_read(tmp_path: Path, sqlite: FailingSqlite, code: int, stays: bool) -> None:
    """A read is answered without its record; the log has no gap, and the failure is logged."""
    harness = Harness(tmp_path)
    key = harness.key()
    for at in range(50):
        before = intact(harness.store)
        sqlite.fail(at, code, stays=stays)
        harness.call("GetPublicKey", Id=key)
        struck = sqlite.struck
        trouble = harness.service.audit.trouble
        sqlite.fail(None)
        assert intact(harness.store) == before + (not trouble)
        harness.call("GetPublicKey", Id=key)
        assert harness.service.audit.trouble == ""
        if not struck:
            break
    harness.close()


@pytest.mark.parametrize(("code", "stays"), WAYS)
def test_the_first_start(tmp_path: Path, sqlite: FailingSqlite, code: int, stays: bool) -> None:
    for at in range(400):
        folder = tmp_path / str(at)
        folder.mkdir()
        sqlite.fail(at, code, stays=stays)
        with contextlib.suppress(SettingsError, ApiError, DBAPIError):
            Harness(folder).close()
        struck = sqlite.struck
        sqlite.fail(None)
        harness = Harness(folder)  # whatever was left there
        harness.key()
        intact(harness.store)
        harness.close()
        shutil.rmtree(folder)
        if not struck:
            break
    else:
        raise AssertionError("it never started")


@pytest.mark.parametrize(("code", "stays"), WAYS)
def test_health_tells(tmp_path: Path, sqlite: FailingSqlite, code: int, stays: bool) -> None:
    store = Store(tmp_path / "keyfront.db")
    assert list(committable(store)) == []
    sqlite.fail(0, code, stays=stays)
    assert "not available" in next(iter(committable(store)))
    sqlite.fail(None)
    assert list(committable(store)) == []
    store.close()


def test_health_tells_of_the_data_folder(tmp_path: Path) -> None:
    for disk in failing_disks():
        with disk:
            found = list(writable(tmp_path))
        assert bool(found) is disk.struck
        assert list(tmp_path.iterdir()) == []


def test_publishing_what_is_committed(tmp_path: Path) -> None:
    """A change that cannot be published stays committed, and the next attempt publishes it."""
    for number, disk in enumerate(failing_disks(("full once", "full from then on", "broken once"))):
        folder = tmp_path / str(number)
        folder.mkdir()
        harness = Harness(folder)
        with disk:
            id_ = harness.distribution()["Id"]  # the store's own files are SQLite's, and do not fail here
        assert harness.service.follow(harness.now + 1)
        published = harness.feed.published()
        assert published is not None
        assert [one.id for one in published.distributions] == [id_]
        harness.close()
        shutil.rmtree(folder)


def test_credentials_are_made_whole_or_not_at_all(tmp_path: Path) -> None:
    for number, disk in enumerate(failing_disks()):
        path = tmp_path / str(number) / "credentials"
        path.parent.mkdir()
        made = None
        with disk, contextlib.suppress(SettingsError):
            made = [caller.access_key_id for caller, _ in load(path, ACCOUNT)]
        found = [caller.access_key_id for caller, _ in load(path, ACCOUNT)]
        assert made is None or made == found
        assert left_over(path.parent) == []
