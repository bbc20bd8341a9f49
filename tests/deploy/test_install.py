"""`deploy/install.sh`, below a folder of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.deploy.harness import DEPLOY, clean_environment, frugal_python
from tests.imports import ROOT


class Machine:
    """A folder that stands for a machine's file system."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.python = frugal_python(folder)

    def install(self, *words: str) -> subprocess.CompletedProcess[str]:
        argv = [
            "sh",
            str(DEPLOY / "install.sh"),
            *words,
            "--root",
            str(self.root),
            "--python",
            str(self.python),
        ]
        return subprocess.run(argv, env=clean_environment(), capture_output=True, text=True, check=False)

    def files(self, folder: str) -> set[str]:
        return {
            str(path.relative_to(self.root / folder))
            for path in (self.root / folder).rglob("*")
            if path.is_file()
        }


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine on which this version's program is already installed."""
    made = Machine(tmp_path)
    (made.root / "opt" / "keyfront" / release()).mkdir(parents=True)
    return made


def release() -> str:
    """The name of this version's folder."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    argv = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    build = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()
    return f"{version}-{build}" if build else str(version)


def test_the_program_is_installed_and_runs(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--long"):
        pytest.skip("runs with --long")
    machine = Machine(tmp_path)
    done = machine.install("control")
    assert done.returncode == 0, done.stderr
    current = machine.root / "opt" / "keyfront" / "current"
    assert [path.name for path in current.parent.iterdir() if not path.is_symlink()] == [release()]
    assert os.readlink(current) == release()
    done = subprocess.run(
        [current / "bin" / "python", "-m", "keyfront", "--version"],
        env=clean_environment(), cwd="/", capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert release().startswith(done.stdout.split()[-1])
    script = (current / "bin" / "keyfront").read_text()
    assert script.startswith(f"#!/opt/keyfront/{release()}/bin/python")
    assert str(machine.root) not in script
    assert not (current / "build").exists()


def test_the_files(machine: Machine) -> None:
    done = machine.install("control")
    assert (done.returncode, done.stderr) == (0, "")
    assert "systemctl restart keyfront.service" in done.stdout
    assert machine.files("usr") == {"local/bin/keyfront"}
    assert machine.files("etc") == {
        "keyfront/keyfront.toml",
        "logrotate.d/keyfront",
        "sysusers.d/keyfront.conf",
        *(
            f"systemd/system/{name}"
            for name in (
                "keyfront.service",
                "keyfront.socket",
                "keyfront-agent.service",
                "keyfront-backup.service",
                "keyfront-backup.timer",
            )
        ),
    }


def test_a_second_run_keeps_the_configuration_and_goes_on_from_another_version(machine: Machine) -> None:
    assert machine.install("control").returncode == 0
    config = machine.root / "etc" / "keyfront" / "keyfront.toml"
    config.write_text("# mine\n")
    unit = machine.root / "etc" / "systemd" / "system" / "keyfront.service"
    unit.write_text("old\n")
    current = machine.root / "opt" / "keyfront" / "current"
    current.unlink()
    current.symlink_to("0.0.9")  # the version before
    assert machine.install("control").returncode == 0
    assert config.read_text() == "# mine\n"
    assert unit.read_text() == (DEPLOY / "systemd" / "keyfront.service").read_text()
    assert os.readlink(current) == release()


def test_an_edge_gets_its_own_unit(machine: Machine) -> None:
    assert machine.install("edge").returncode == 0
    assert "systemd/system/keyfront-edge.service" in machine.files("etc")
    assert "systemd/system/keyfront.service" not in machine.files("etc")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name a role"),
        (["cache"], "there is no option or role cache"),
        (["control", "edge"], "one role"),
        (["control", "--wheels"], "--wheels needs a value"),
    ],
)
def test_what_is_refused(tmp_path: Path, words: list[str], message: str) -> None:
    argv = ["sh", str(DEPLOY / "install.sh"), "--root", str(tmp_path), *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_old_python_is_refused(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    argv = [
        "sh",
        str(DEPLOY / "install.sh"),
        "--root",
        str(tmp_path / "root"),
        "--python",
        str(old),
        "control",
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, "is not Python 3.11 or later" in done.stderr) == (2, True)
    assert sys.version_info >= (3, 11)


@pytest.mark.parametrize(
    ("user", "folder", "status", "output"),
    [
        (
            "root",
            "keyfront",
            0,
            "runuser -u keyfront -- keyfront status --json with var/lib/keyfront s3cret file:/a b;touch x",
        ),
        (
            "root",
            "keyfront-edge",
            0,
            "runuser -u keyfront -- keyfront status --json with var/lib/keyfront-edge s3cret file:/a b;touch x",
        ),
        ("keyfront", "keyfront", 0, "keyfront status --json with var/lib/keyfront s3cret file:/a b;touch x"),
        ("eve", "keyfront", 2, "run: sudo keyfront status --json"),
    ],
)
def test_the_commands_run_as_the_services_user(
    tmp_path: Path, user: str, folder: str, status: int, output: str
) -> None:
    """With stand-ins for the system's programs, which print what they get."""
    (tmp_path / "var" / "lib" / folder).mkdir(parents=True)
    (tmp_path / "etc" / "keyfront").mkdir(parents=True)
    (tmp_path / "etc" / "keyfront" / "environment").write_text(
        '# a comment\nKEYFRONT_RECORDS=file:/a b;touch x\nKEYFRONT_STORE="s3cret"'
    )
    received = 'echo "$(basename "$0") $*" with "$KEYFRONT_DATA" "$KEYFRONT_STORE" "$KEYFRONT_RECORDS"'
    programs = {
        "bin/id": f"[ $1 = -un ] && echo {user} || echo {0 if user == 'root' else 1000}",
        "bin/runuser": received,
        "opt/keyfront/current/bin/keyfront": received,
    }
    for name, text in programs.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    text = (DEPLOY / "bin" / "keyfront").read_text()
    script = re.sub(r"(?<=[\s=])/(?=(var|etc|opt)/)", f"{tmp_path}/", text)
    argv = ["sh", "-c", script, "keyfront", "status", "--json"]
    environment = {**clean_environment(), "PATH": f"{tmp_path}/bin:/usr/bin:/bin"}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    found = re.sub(r"-- \S+/keyfront", "-- keyfront", done.stdout + done.stderr)
    assert found.replace(f"{tmp_path}/", "").strip().endswith(output)
