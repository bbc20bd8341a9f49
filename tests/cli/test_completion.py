"""`keyfront completion`: the script that it prints completes in the shell that it is for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent


def completed(shell: str, script: str) -> list[str]:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} on this machine")
    environment = {"PATH": f"{BIN}:/usr/bin:/bin", "HOME": "/nonexistent", "LANG": "C.UTF-8"}
    done = subprocess.run([shell, "-c", script], capture_output=True, text=True, timeout=100, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_bash() -> None:
    """As readline calls it."""
    found = completed(
        "bash",
        "source <(keyfront completion bash); COMP_WORDS=(keyfront rotation st); COMP_CWORD=2; "
        "$(complete -p keyfront | sed 's/.*-F \\([^ ]*\\).*/\\1/') keyfront; printf '%s\\n' \"${COMPREPLY[@]}\"",
    )
    assert found == ["start", "status", "stop"]


def test_fish() -> None:
    found = completed("fish", "keyfront completion fish | source; complete -C 'keyfront rotation st'")
    assert {"start", "status", "stop"} <= set(found)


def test_zsh() -> None:
    """The script is valid, and registers its function; completion itself needs a terminal."""
    found = completed(
        "zsh", "autoload -Uz compinit; compinit -u; source <(keyfront completion zsh); echo $_comps[keyfront]"
    )
    assert found == ["_keyfront_completion"]
