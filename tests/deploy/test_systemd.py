"""The systemd units: what systemd says about them, and that their commands are commands."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from keyfront.cli.up import read_settings
from tests.deploy.harness import DEPLOY, refuse_bad_arguments

UNITS = sorted(
    path for path in (DEPLOY / "systemd").iterdir() if path.suffix in (".service", ".timer", ".socket")
)
SERVICES = [path for path in UNITS if path.suffix == ".service"]
BIN = "/opt/keyfront/current/bin"
MOST_EXPOSED = 20
"""Tenths of systemd's exposure level, of 100; up to 25 it says OK."""


class Unit:
    """A unit file. `all` has every value of a key that is given more than once."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self.all: dict[str, list[str]] = {}
        for line in path.read_text().splitlines():
            if re.match(r"[A-Z]\w+=", line):
                key, _, value = line.partition("=")
                self.all.setdefault(key, []).append(value)
        configparser.ConfigParser(strict=False, interpolation=None).read(path)  # it is one

    def __getitem__(self, key: str) -> str:
        (value,) = self.all[key]
        return value


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The units, with the program of this environment."""
    folder = tmp_path_factory.mktemp("units")
    for path in UNITS:
        text = path.read_text().replace(BIN, str(Path(sys.executable).parent))
        (folder / path.name).write_text(text)
    return folder


def analyze(*words: str | Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze here")
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, check=False)


def test_systemd_finds_nothing_wrong(installed: Path) -> None:
    done = analyze("verify", "--man=no", *sorted(installed.iterdir()))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("service", [path.name for path in SERVICES])
def test_little_is_exposed(installed: Path, service: str) -> None:
    done = analyze(
        "security", "--offline=true", f"--threshold={MOST_EXPOSED}", "--no-pager", installed / service
    )
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze knows no unit files")
    assert done.returncode == 0, done.stdout.splitlines()[-1]


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_the_commands_exist(path: Path) -> None:
    unit = Unit(path)
    for command in (*unit.all["ExecStart"], *unit.all.get("ExecReload", ())):
        program, *words = shlex.split(command)
        assert program == f"{BIN}/keyfront"
        refuse_bad_arguments(words)


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_what_every_service_has(path: Path) -> None:
    unit = Unit(path)
    assert unit["User"] == "keyfront"
    assert unit["StateDirectoryMode"] == "0700"
    for folder in re.findall(r"%S/(\S+)", unit["ExecStart"]):
        assert folder.partition("/")[0] in unit["StateDirectory"].split()
    if unit["Type"] != "oneshot":
        assert (unit["Type"], unit["NotifyAccess"]) == ("notify", "main")
        assert (unit["Restart"], unit["StartLimitIntervalSec"]) == ("always", "0")
    if " up " in unit["ExecStart"]:
        assert unit["KillMode"] == "mixed"  # the supervisor stops its workers in order
        assert unit["OOMPolicy"] == "continue"
        assert int(unit["WatchdogSec"]) > 10


@pytest.mark.parametrize(
    ("file", "unit"), [("keyfront.toml", "keyfront.service"), ("edge.toml", "keyfront-edge.service")]
)
def test_the_configuration_is_valid_and_the_unit_waits_long_enough(
    tmp_path: Path, file: str, unit: str
) -> None:
    found = read_settings(["--data", str(tmp_path), "--config", str(DEPLOY / "config" / file)])
    assert found.worker.edge.health.targets == (("127.0.0.1", "/healthz"),)
    stop = found.supervision.shutdown_delay + found.worker.limits.drain
    assert stop + 60 < int(Unit(DEPLOY / "systemd" / unit)["TimeoutStopSec"])
    commented = (DEPLOY / "config" / file).read_text()
    (tmp_path / "all.toml").write_text(
        re.sub(r"^# (?=[a-z-]+ = )", "", commented, flags=re.M).replace(
            "/etc/keyfront/certificates", str(tmp_path)
        )
    )
    with pytest.raises(Exception, match="certificate"):  # the rest is valid
        read_settings(["--data", str(tmp_path), "--config", str(tmp_path / "all.toml")])


def test_log_rotation_keeps_what_is_not_written_yet() -> None:
    """`copytruncate` would lose records, and so would compression at once: a worker may still write to the old file."""
    text = (DEPLOY / "config" / "logrotate.conf").read_text()
    words = text.split()
    assert {"delaycompress", "nocreate", "missingok"} <= set(words)
    assert "copytruncate" not in words
    assert "/var/lib/keyfront/logs/access.jsonl" in words


@pytest.mark.parametrize(
    ("file", "unit"), [("keyfront.toml", "keyfront.socket"), ("edge.toml", "keyfront-edge.socket")]
)
def test_the_sockets_have_the_addresses_of_the_configuration(tmp_path: Path, file: str, unit: str) -> None:
    """Keyfront refuses a socket whose address no option names."""
    found = read_settings(["--data", str(tmp_path), "--config", str(DEPLOY / "config" / file)])
    expected = {f"{found.worker.host}:{found.worker.port}"}
    if file == "keyfront.toml":
        expected.add(f"{found.control.host}:{found.control.port}")
    assert set(Unit(DEPLOY / "systemd" / unit).all["ListenStream"]) == expected
