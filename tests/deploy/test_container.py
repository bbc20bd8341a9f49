"""The Containerfile, its steps, and the compose file.

No container engine is needed: `--long` runs the same steps in a copy of this machine's file system, which is thrown
away (an overlay in a mount namespace, without a network), and then the container's command as its user, without
capabilities, on a read-only root.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from keyfront.cli.up import read_settings
from tests.deploy.harness import (
    BASE,
    DEPLOY,
    frugal_python,
    in_a_copy_of_this_machine,
    readable_by_all,
    refuse_bad_arguments,
    skip_without_namespaces,
)
from tests.imports import ROOT

FOLDER = DEPLOY / "container"


class Instruction(NamedTuple):
    """A line of a Containerfile."""

    name: str
    text: str

    @property
    def words(self) -> list[str]:
        """The words of an instruction in JSON form."""
        found: list[str] = json.loads(self.text)
        return found


def instructions() -> list[Instruction]:
    text = re.sub(r"\\\n", "", (FOLDER / "Containerfile").read_text())
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [Instruction(*line.split(" ", 1)) for line in lines]


def stages() -> list[list[Instruction]]:
    """The instructions of each stage, which begins with its FROM."""
    found: list[list[Instruction]] = []
    for one in instructions():
        if one.name == "FROM":
            found.append([])
        if found:
            found[-1].append(one)
    return found


def last(name: str) -> Instruction:
    """The last instruction of this name in the final stage."""
    return [one for one in stages()[-1] if one.name == name][-1]


def environment() -> dict[str, str]:
    """The variables of the final stage."""
    return dict(one.text.split("=", 1) for one in stages()[-1] if one.name == "ENV")


def health_command() -> list[str]:
    found: list[str] = json.loads(last("HEALTHCHECK").text.partition(" CMD ")[2])
    return found


def test_the_image() -> None:
    build, final = stages()
    assert build[0].text.endswith(" AS build")
    assert not any("pip" in one.text for one in final)
    assert last("USER").text == "10001:10001"
    for run in (one.text for one in build if one.name == "RUN" and "pip install" in one.text):
        assert "--require-hashes -r requirements/" in run or "--no-deps --no-build-isolation" in run
    assert environment()["KEYFRONT_DATA"] == last("VOLUME").text
    assert re.search(r"--interval=\d+s --timeout=\d+s", last("HEALTHCHECK").text)


def test_what_is_copied_is_in_the_context() -> None:
    """`.dockerignore` admits nothing but what the build copies: no data folder, no `.git`."""
    admitted = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    copied = set()
    for one in stages()[0]:
        if one.name == "COPY":
            copied |= {source.partition("/")[0] for source in one.text.split()[:-1]}
            assert all((ROOT / source).exists() for source in one.text.split()[:-1])
    assert admitted == copied
    assert (ROOT / ".dockerignore").read_text().startswith("*\n")


def test_the_command_of_the_image(tmp_path: Path) -> None:
    assert last("ENTRYPOINT").words == ["keyfront"]
    command, *words = last("CMD").words
    assert command == "up"
    found = read_settings(["--data", str(tmp_path), *words])
    assert (found.worker.host, str(found.worker.port)) == ("0.0.0.0", environment()["HEALTH_PORT"])
    assert found.worker.edge.health.targets == (("127.0.0.1", "/healthz"),)
    assert set(last("EXPOSE").text.split()) >= {str(found.worker.port), str(found.control.port)}


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    return found


def test_three_machines() -> None:
    assert set(services()) == {"control", "edge-1", "edge-2"}
    volumes = yaml.safe_load((FOLDER / "compose.yaml").read_text())["volumes"]
    for name, service in services().items():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["volumes"] == [f"{name}:{environment()['KEYFRONT_DATA']}"]
        assert name in volumes
        assert (FOLDER / service["build"]["context"]).resolve() == ROOT
        assert (ROOT / service["build"]["dockerfile"]) == FOLDER / "Containerfile"


@pytest.mark.parametrize("name", sorted(services()))
def test_the_command_of_each_machine(tmp_path: Path, name: str) -> None:
    service = services()[name]
    refuse_bad_arguments(service["command"])
    found = read_settings(["--data", str(tmp_path), *service["command"][1:]])
    ports = {found.worker.port, found.control.port, *(found.control.edges or ())}
    assert all(int(port.rpartition(":")[2]) in ports for port in service["ports"])
    assert found.worker.edge.health.targets == (("127.0.0.1", "/healthz"),)
    grace = int(service["stop_grace_period"].removesuffix("m")) * 60
    assert found.supervision.shutdown_delay + found.worker.limits.drain + 30 < grace
    published = {port.rpartition(":")[0] for port in service["ports"]}
    assert len(published) == len(service["ports"])


def test_an_edge_waits_until_it_is_enrolled(tmp_path: Path) -> None:
    """Otherwise `keyfront up` would be a control plane of its own in the edge's folder."""
    shell, option, script, name = services()["edge-1"]["entrypoint"]
    assert (shell, option) == ("sh", "-c")
    assert services()["edge-2"]["entrypoint"] == services()["edge-1"]["entrypoint"]
    program = tmp_path / "keyfront"
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o755)
    variables = {"PATH": f"{tmp_path}:/usr/bin:/bin", "KEYFRONT_DATA": str(tmp_path)}
    argv = [shell, option, script.replace("$$", "$"), name, "up", "--edge=a b"]
    waiting = subprocess.Popen(argv, env=variables, stdout=subprocess.PIPE, text=True)
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(0.2)
    (tmp_path / "identity").mkdir()
    (tmp_path / "identity" / "edge.json").write_text("{}")
    assert waiting.communicate(timeout=60)[0] == "up --edge=a b\n"


def steps() -> str:
    """The build and the final stage, as shell commands in the copy. Both stages begin with the same image, so what is
    copied from one to the other is there."""
    lines = []
    for stage in stages():
        folder, variables = "/", "PATH=/mnt/bin:$PATH"
        for one in stage:
            match one.name:
                case "WORKDIR":
                    folder = one.text
                    lines.append(f'mkdir -p "$root{folder}"')
                case "COPY" if one.text.startswith("--from=build "):
                    assert len(set(one.text.split()[1:])) == 1
                case "COPY":
                    *sources, target = one.text.split()
                    into = f'"$root{folder}/{target}"'
                    lines.append(f"mkdir -p {into}")
                    for source in sources:
                        whole = "/." if (ROOT / source).is_dir() else ""
                        lines.append(f"cp -R {ROOT / source}{whole} {into}")
                case "RUN":
                    lines.append(
                        f'chroot "$root" env {variables} sh -ec {shlex.quote(f"cd {folder}; {one.text}")}'
                    )
                case "ENV" if not one.text.startswith("PATH="):
                    variables += f" {one.text}"
    return "\n".join(lines)


@pytest.mark.timeout(600)
def test_the_steps_and_the_container(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--long"):
        pytest.skip("runs with --long")
    skip_without_namespaces()
    (tmp_path / "bin").mkdir()
    frugal_python(tmp_path / "bin")
    variables = shlex.join([f"{name}={value}" for name, value in environment().items()])
    user, _, group = last("USER").text.partition(":")
    data = environment()["KEYFRONT_DATA"]
    command = shlex.join([*last("ENTRYPOINT").words, *last("CMD").words])
    user_alone = f"--reuid={user} --regid={group} --clear-groups --no-new-privs"
    inside = f"env -i {variables} setpriv {user_alone} --inh-caps=-all --bounding-set=-all"
    done = in_a_copy_of_this_machine(
        f"""
{readable_by_all(BASE, Path(sys.prefix) / "lib", tmp_path / "bin" / "pip")}
{steps()}
mount -t tmpfs none "$root/tmp"
mount -t tmpfs -o mode=0700,uid={user},gid={group} none "$root{data}"
mount -o remount,ro "$root"
chroot "$root" {inside} sh -c '! touch /x && ! touch /opt/keyfront/x && touch /tmp/x && id -u'
check() {{ chroot "$root" {inside} {shlex.join(health_command())}; }}
! check 2>/dev/null
mkfifo "$root/mnt/lines"
chroot "$root" {inside} {command} > "$root/mnt/lines" &
up=$!
read -r line < "$root/mnt/lines"
echo "$line"
check
chroot "$root" {inside} keyfront status > "$root/mnt/status" || true
kill $up
wait $up
echo "stopped $?"
! check 2>/dev/null
""",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    identity, ready, stopped = done.stdout.splitlines()[-3:]
    assert identity == user
    assert ready.startswith("keyfront ready edge=http://0.0.0.0:8080 control=http://0.0.0.0:8081")
    assert stopped == "stopped 0"
