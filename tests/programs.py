"""Servers from packages for developers: whether they run on this machine."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any


def unable(name: str, package: str, program: Callable[[], str | Path], version: str, **whom: Any) -> str:
    """Why a program cannot run here; empty if it can.

    :param name: of the program, for people.
    :param package: that has it.
    :param program: its path; it may raise ImportError or what a missing file raises.
    :param version: the argument that shows its version.
    :param whom: as whom to run it, as for `subprocess.run`.
    """
    try:
        command = [str(program()), version]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, **whom)
    except (ImportError, FileNotFoundError):
        return f"no {name}: the package {package} is not installed"
    except (OSError, ValueError, RuntimeError, subprocess.SubprocessError, KeyError) as error:
        return f"no {name}: {error}"
    return "" if ran.returncode == 0 else f"no {name}: {ran.stderr.strip()[:200]}"
