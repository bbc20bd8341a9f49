"""Local files that hold secrets: who may read them, and which custody error an `OSError` stands for."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from keyfront.errors import CustodyError, CustodyUnavailable
from keyfront.private_files import exposure

_DECIDED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}
"""Failures that reflect a deliberate configuration: a retry does not help."""


def check_private(path: Path, status: os.stat_result) -> None:
    """:raises CustodyError: if anyone but its owner may read or change the file at `path`."""
    if exposed := exposure(path, status):
        raise CustodyError(exposed)


def file_error(path: Path, error: OSError) -> CustodyError:
    """Return the error to raise for `error`: `CustodyUnavailable` if it may be temporary, otherwise `CustodyError`."""
    text = f"{path}: {error.strerror or type(error).__name__}"
    return CustodyError(text) if error.errno in _DECIDED else CustodyUnavailable(text)
