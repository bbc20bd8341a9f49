"""Where this user's own installation keeps its things, for whoever is told of no other."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def default_data(environment: Mapping[str, str] = os.environ) -> Path:
    """The user's data folder, as the XDG base directory specification has it."""
    base = environment.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "keyfront"


def default_records(environment: Mapping[str, str] = os.environ) -> str:
    """The URI of the custody in the user's data folder, which `keyfront up` keeps."""
    return f"file:{default_data(environment)}/custody/"
