"""The open file limit of this process."""

from __future__ import annotations

import resource

OPEN_FILES = 0.75
"""The share of the process's open file limit that viewers' connections may use; the rest is for origins and the disk
cache."""


def raise_open_files() -> int:
    """Raise the soft limit on open files to the hard limit. Returns the limit that is then in effect."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            return soft
    return hard
