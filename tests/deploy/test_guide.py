"""The commands of docs/guide/deployment.md.

Those of Keyfront and of the shell run as printed, with this test's folders in place of the machine's. What needs
systemd, a container engine, or another machine is compared with the files in `deploy/` and with the command line. A
command that nothing here knows fails.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from keyfront.cli.main import keyfront
from keyfront.cli.up import read_settings
from keyfront.control.identity.credentials import load
from keyfront.custody import open_key, open_place
from keyfront.custody.default_paths import Installation, own_custody
from keyfront.runtime.installation import write_installation
from tests.application import Request, Response, served
from tests.control.plane import Plane
from tests.deploy.harness import DEPLOY, clean_environment, refuse_bad_arguments
from tests.imports import ROOT
from tests.keys import public_pem

DATA = "var/lib/keyfront"
GUIDE = (ROOT / "docs" / "guide" / "deployment.md").read_text()


def commands(chapter: str = "") -> list[str]:
    """The commands of a chapter, or of the page, without `sudo`."""
    text = GUIDE.partition(f"\n{chapter}\n")[2] if chapter else GUIDE
    assert text, chapter
    if chapter:
        text = re.split(rf"\n{'#' * chapter.index(' ')} ", text)[0]
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line.removeprefix("sudo ") for line in lines if line]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file system of a machine with Keyfront's configuration and an empty data folder, which commands use."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "KEYFRONT_")):
            monkeypatch.delenv(name)
    (tmp_path / DATA).mkdir(mode=0o700, parents=True)
    monkeypatch.setenv("KEYFRONT_DATA", str(tmp_path / DATA))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(DEPLOY / "config", tmp_path / "etc" / "keyfront")
    return tmp_path


@contextmanager
def running(folder: Path) -> Iterator[Plane]:
    """The control plane of that machine, with a public key."""
    data = folder / DATA
    load(data / "credentials", "000000000000")
    with Plane(data) as plane:
        edge = "http://127.0.0.1:9"
        write_installation(
            data, Installation(plane.endpoint, own_custody(data), edge=edge, started=time.time())
        )
        config = {"CallerReference": "1", "Name": "one", "EncodedKey": public_pem()}
        plane.client().create_public_key(PublicKeyConfig=config)
        yield plane


def here(command: str, folder: Path) -> str:
    """The command for the machine whose file system is `folder`."""
    command = command.replace("-o keyfront -g keyfront ", "").replace("-o keyfront ", "")
    return re.sub(r"(?<![\w./])/(?=(var|opt|etc|run)/)", f"{folder}/", command)


def run(command: str, folder: Path, status: int = 0) -> str:
    """The output of a `keyfront` command."""
    words = shlex.split(here(command, folder))
    assert words[0] == "keyfront"
    done = CliRunner().invoke(keyfront, words[1:])
    assert done.exit_code == status, (command, done.output)
    return done.output


def in_shell(command: str, folder: Path) -> None:
    argv = ["sh", "-ec", here(command, folder)]
    done = subprocess.run(
        argv, cwd=folder, env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (command, done.stderr)


def test_every_command_is_known() -> None:
    found = commands()
    assert len(found) > 35
    for command in found:
        program, *words = shlex.split(command)
        match program:
            case "keyfront":
                refuse_bad_arguments(words)
            case "systemctl" | "journalctl":
                units = [word for word in words if word.startswith("keyfront")]
                for unit in units:
                    name = unit if "." in unit else f"{unit}.service"
                    assert (DEPLOY / "systemd" / name).exists(), command
                assert units
            case "sh":
                assert words[0] == "deploy/install.sh"
                assert words[1:] in (["control"], ["edge"])
            case "podman":
                container_command(words)
            case "logrotate":
                assert words[-1] in (DEPLOY / "install.sh").read_text().replace("$root", "")
            case _:
                assert program in ("cp", "curl", "install", "ln", "mv", "rm"), command


def container_command(words: list[str]) -> None:
    """Check a command of podman against the files in `deploy/container`."""
    assert (ROOT / words[words.index("-f") + 1]).is_file()
    if words[0] != "compose":
        assert words == [
            "build",
            "--format",
            "docker",
            "-f",
            "deploy/container/Containerfile",
            "-t",
            "keyfront",
            ".",
        ]
        return
    verb, *rest = words[3:]
    services = yaml.safe_load((DEPLOY / "container" / "compose.yaml").read_text())["services"]
    if verb == "exec":
        service, program, *arguments = rest
        assert service in services
        assert program == "keyfront"
        refuse_bad_arguments(arguments)
        if "--control" in arguments:
            host, port = arguments[arguments.index("--control") + 1].removeprefix("https://").split(":")
            assert f"--edges=0.0.0.0:{port}" in services[host]["command"]
    else:
        assert [verb, *rest] == ["up", "-d"]


def test_one_machine_and_three(folder: Path) -> None:
    check, status = [line for line in commands("## One machine") if line.startswith("keyfront")]
    edges = [line for line in commands("## Three machines") if line.startswith("keyfront edge")]
    token, list_ = edges[0], edges[2]
    with running(folder):
        assert not run(check, folder).startswith("keyfront:")
        assert "NOT RUNNING" in run(status, folder, status=3)  # nothing holds the lock on the data folder
        assert run(token, folder).strip()
        assert run(list_, folder).strip() == "none"  # enrollment runs in tests/stories/test_edges.py


def test_the_settings_behind_a_load_balancer(tmp_path: Path) -> None:
    text = GUIDE.partition("## Behind a load balancer")[2].partition("```toml\n")[2].partition("```")[0]
    (tmp_path / "keyfront.toml").write_text(text)
    found = read_settings(["--data", str(tmp_path)])
    assert found.worker.edge.health.targets == (("10.0.0.11", "/healthz"),)
    assert found.supervision.shutdown_delay == 15
    name = re.findall(r'health-check = \["(edge\.health/healthz)"\]', GUIDE)
    (tmp_path / "keyfront.toml").write_text(f'[edge]\nhealth-check = ["{name[0]}"]\n')
    assert read_settings(["--data", str(tmp_path)]).worker.edge.health.targets == (
        ("edge.health", "/healthz"),
    )


def test_the_health_check_by_hand(tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl here")
    (command,) = commands("## Behind a load balancer")
    (target,) = read_settings(
        ["--data", str(tmp_path), "--config", str(DEPLOY / "config" / "edge.toml")]
    ).worker.edge.health.targets
    seen: list[tuple[str, str]] = []

    def respond(request: Request) -> Response:
        seen.append((request.headers["host"], request.path))
        return Response(b"ok\n")

    with served(respond) as port:
        in_shell(command.replace("http://127.0.0.1/", f"http://127.0.0.1:{port}/"), tmp_path)
    assert seen == [target]


def test_a_backup_and_the_way_back(folder: Path) -> None:
    (keygen,) = [line for line in commands("## Backup") if line.startswith("keyfront")]
    create, *_ = [line for line in commands("### One machine") if line.startswith("keyfront")]
    steps = commands("## Downgrade")
    steps = steps[steps.index("systemctl stop keyfront") :]
    assert steps[-1] == "systemctl start keyfront"
    (folder / "etc" / "keyfront" / "recipients").write_text(run(keygen, folder).split()[-1] + "\n")
    for made in ("var/lib/keyfront-backups", "opt/keyfront/0.1.0-1a2b3c4", "run"):
        (folder / made).mkdir(parents=True)
    data = folder / DATA
    held = open_place(own_custody(data)).create("films-1", "ECDSA-P256", now=time.time())
    with running(folder):
        assert "is verified" in run(create, folder)
    (data / "format").write_text("999\n")  # a newer version was here
    for step in steps[1:-1]:
        if step.startswith("keyfront"):
            run(step, folder)
        else:
            in_shell(step, folder)
    assert os.readlink(folder / "opt" / "keyfront" / "current") == "0.1.0-1a2b3c4"
    assert not (folder / "run" / "recovery.key").exists()
    assert not (data / "format").exists()
    assert open_key(held.uri).public_key == held.public_key
    with Plane(data) as restored:
        keys = restored.client().list_public_keys()["PublicKeyList"]
        assert [key["Name"] for key in keys["Items"]] == ["one"]


def test_the_metrics_exist() -> None:
    reference = (ROOT / "docs" / "reference" / "metrics.md").read_text()  # generated from the code
    names = set(re.findall(r"`(keyfront_\w+)", GUIDE))
    assert len(names) > 6
    for name in names:
        assert f"`{name}`" in reference, name
