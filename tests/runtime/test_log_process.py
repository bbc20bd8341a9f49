"""The process that delivers standard logs: what goes wrong is in the status that `keyfront status` reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from keyfront.edge.logs.delivery import has_work, read_status
from keyfront.edge.logs.delivery_settings import DeliverySettings
from keyfront.runtime.log_process import FIRST_RETRY, _Deliverer
from tests.edge.logs.test_delivery import logged, spool


def problem(data: Path) -> str:
    status = read_status(data)
    assert status is not None
    return status.problem


def test_a_destination_that_cannot_be_used(tmp_path: Path) -> None:
    spool(tmp_path, logged(1))
    deliverer = _Deliverer(DeliverySettings(str(tmp_path), "KFR50-P1", "https://"))
    assert [deliverer.deliver(), deliverer.deliver()] == [FIRST_RETRY, 2 * FIRST_RETRY]
    assert "the S3 API for logs cannot be used" in problem(tmp_path)
    assert has_work(tmp_path)


def test_a_folder_that_cannot_be_written_and_then_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool(tmp_path, logged(1))
    (tmp_path / "out").write_text("a file")
    deliverer = _Deliverer(DeliverySettings(str(tmp_path), "KFR50-P1", str(tmp_path / "out")))
    deliverer.deliver()
    deliverer.deliver()
    assert "cannot be written" in problem(tmp_path)
    assert len(caplog.records) == 1
    (tmp_path / "out").unlink()
    assert deliverer.deliver() == 300.0
    assert (problem(tmp_path), has_work(tmp_path)) == ("", False)
