"""The limit of open files of this process."""

from __future__ import annotations

import resource

OPEN_FILES = 0.75
"""The share of all files that a process may open which viewers' connections may take; the rest is for origins and for
the cache on disk."""


def raise_open_files() -> int:
    """Let this process open as many files as it is allowed to allow itself. Returns how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            return soft
    return hard
