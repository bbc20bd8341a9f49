"""Options that several commands share."""

from __future__ import annotations

import getpass
import os
import socket


def login() -> str:
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):
        return f"uid {os.getuid()}@{socket.gethostname()}"
