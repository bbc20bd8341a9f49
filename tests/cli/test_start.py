"""A `keyfront up` that cannot start reports the reason, exits with status 2, and never prints that it is ready."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest


def refused(data: Path, *options: str) -> str:
    argv = [sys.executable, "-m", "keyfront", "up", "--data", str(data), "--workers", "1"]
    argv += ["--edge", "127.0.0.1:0", "--control", "127.0.0.1:0", *options]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "ready" not in done.stdout
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("keyfront.db", "garbage\n" * 100, "cannot be opened"),
        ("credentials", "garbage\n", "shared-credentials format"),
    ],
)
def test_a_control_plane_that_cannot_start(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    (tmp_path / name).chmod(0o600)
    err = refused(tmp_path)
    assert message in err
    assert "control did not start" in err
    assert "restarting" not in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--records", "nowhere:x/"), "is not a custody URI"),
        (("--records", "awskms:keyfront/?region=eu-west-1"), "holds keys but no records"),
        (("--hooks", "HOOKS"), "others may change"),
        ((), "hook 1: there is no step"),
    ],
)
def test_rotations_that_cannot_be(options: tuple[str, ...], message: str, tmp_path: Path) -> None:
    hooks = tmp_path / "elsewhere.toml"
    hooks.write_text("")
    hooks.chmod(0o666)
    if not options:
        own = tmp_path / "hooks.toml"
        own.write_text('[[hook]]\ncommand = ["/bin/sh"]\nsteps = "swich"\n')
        own.chmod(0o600)
    err = refused(tmp_path, *(str(hooks) if option == "HOOKS" else option for option in options))
    assert message in err


def test_a_worker_that_cannot_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "iptocc.py").write_text("raise SystemExit(3)")  # a broken package that only workers import
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "edge-1 did not start (exit status 3)" in refused(tmp_path / "data")


@pytest.mark.parametrize(
    ("mode", "text", "message"),
    [
        (0o644, "[default]\nregion = eu-west-1\n", "chmod 600"),
        (0o600, "[default]\naws_acces_key_id = A\n", "aws_acces_key_id"),
        (0o600, "garbage\n", "shared-credentials format"),
    ],
)
def test_origin_credentials_that_make_no_sense(mode: int, text: str, message: str, tmp_path: Path) -> None:
    own = tmp_path / "data" / "origin-credentials"
    own.parent.mkdir()
    named = tmp_path / "named"
    for path in (own, named):
        path.write_text(text)
        path.chmod(mode)
    assert message in refused(own.parent)
    assert message in refused(tmp_path / "other", "--origin-credentials", str(named))


def test_a_data_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "data folder" in refused(tmp_path / "file")
    assert "data folder" in refused(tmp_path / "file" / "below")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_is_told_to_end_while_he_starts_ends_in_good_order(number: int, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.pem")  # reading the certificates blocks until a process writes one
    argv = [sys.executable, "-m", "keyfront", "up", "--data", str(tmp_path / "data"), "--tls", "127.0.0.1:0"]
    argv += ["--edge", "127.0.0.1:0", "--control", "127.0.0.1:0", "--certificates", str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as starting:
        with open(tmp_path / "a.pem", "wb"):
            # The first signal may arrive just before a system call that it then does not interrupt.
            for _ in range(6):
                starting.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    starting.wait(10)
                    break
            assert starting.returncode == 0
        assert starting.communicate() == ("", "")


def test_it_ends_when_told_to_before_it_is_ready(tmp_path: Path) -> None:
    """A store that accepts connections and never answers delays the start, but not the shutdown."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        argv = [sys.executable, "-m", "keyfront", "up", "--data", str(tmp_path), "--workers", "1"]
        argv += ["--edge", "127.0.0.1:0", "--control", "127.0.0.1:0"]
        store = f"postgresql://u:p@127.0.0.1:{silent.getsockname()[1]}/keyfront"
        environment = {**os.environ, "KEYFRONT_STORE": store}
        up = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        connection, _ = silent.accept()
        with connection:
            up.send_signal(signal.SIGTERM)
            out, err = up.communicate(timeout=60)
    assert (up.returncode, out, err) == (0, "", "")
