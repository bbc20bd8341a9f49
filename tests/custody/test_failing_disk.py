"""A folder of keys and records on a disk that fails at every call: everything acknowledged is present, nothing is
torn."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from keyfront.custody import open_place, open_records
from keyfront.errors import CustodyError, RecordChanged
from tests.custody.harness import made_elsewhere
from tests.faults import failing_disks, left_over

FAILURES = (OSError, CustodyError)
KEY = made_elsewhere("ECDSA-P256")


def test_records(tmp_path: Path) -> None:
    """The records of rotations: what a rotation believes about its state after a crash."""
    turns = 0
    for disk in failing_disks():
        turns += 1
        folder = tmp_path / "keys"
        shutil.rmtree(folder, ignore_errors=True)
        uri = f"file:{folder}/"
        first = open_records(uri, {}).write("group", b"one", None)
        acknowledged = False
        with disk, contextlib.suppress(*FAILURES):
            open_records(uri, {}).write("group", b"two", first.version)
            acknowledged = True
        found = open_records(uri, {}).read("group")
        assert found is not None
        assert found.data in (b"one", b"two")
        assert found.data == b"two" or not acknowledged
        # A writer that reads first succeeds; with the old version, it succeeds only if nothing was written.
        if found.data == b"two":
            with contextlib.suppress(RecordChanged):
                open_records(uri, {}).write("group", b"lost", first.version)
                raise AssertionError("a record was overwritten that somebody else had changed")
        third = open_records(uri, {}).write("group", b"three", found.version)
        assert open_records(uri, {}).read("group") == third
        assert open_records(uri, {}).names() == ["group"]
        assert left_over(folder) == []
    assert turns > 10


def test_keys(tmp_path: Path) -> None:
    for disk in failing_disks(("full once", "full from then on", "broken once")):
        folder = tmp_path / "keys"
        shutil.rmtree(folder, ignore_errors=True)
        uri = f"file:{folder}/"
        acknowledged = False
        with disk, contextlib.suppress(*FAILURES):
            open_place(uri, {}).import_key("signer", KEY, now=1.0)
            acknowledged = True
        held = [found.name for found in open_place(uri, {}).list()] if folder.exists() else []
        assert held in ([], ["signer"])
        assert held or not acknowledged
        # Importing the same key again is not a conflict.
        open_place(uri, {}).import_key("signer", KEY, now=2.0)
        assert open_place(uri, {}).handle("signer").public_key.pem == KEY.public_key.pem
        open_place(uri, {}).handle("signer").sign(b"data", "SHA256")
