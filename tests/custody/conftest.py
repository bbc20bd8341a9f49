"""A fixture for each kind of place: a `House`, which holds nothing yet. `test_contract.py` goes through them all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.custody.house import House

PASSPHRASE = "a passphrase of this test's alone"


@pytest.fixture
def file_place(tmp_path: Path) -> House:
    """A folder, encrypted under a key file."""
    return House(f"file:{tmp_path}/keys/")
