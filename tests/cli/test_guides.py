"""The guides' commands, in the order of the page, word for word, in the folder of a Keyfront whose data folder is
`./state`. Only what stands for something (`age1…`, `/srv/…`) is replaced. Other guides run in `tests/stories`."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from keyfront.cli.main import keyfront
from keyfront.control.identity.credentials import load
from keyfront.custody.default_paths import Installation, own_custody
from keyfront.runtime.installation import write_installation
from tests.control.plane import Plane, distribution_config
from tests.keys import public_pem

GUIDES = Path(__file__).parents[2] / "docs" / "guide"


@pytest.fixture
def plane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plane]:
    """A control plane with the key group `photos`; the working folder is the one above its data folder."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("AWS_", "KEYFRONT_")):
            monkeypatch.delenv(name)
    data = tmp_path / "state"
    data.mkdir(mode=0o700)
    load(data / "credentials", "123456789012")
    with Plane(data) as running:
        write_installation(
            data,
            Installation(
                running.endpoint, own_custody(data), edge="http://127.0.0.1:80", started=time.time()
            ),
        )
        config = {"CallerReference": "1", "Name": "one", "EncodedKey": public_pem()}
        key = running.client().create_public_key(PublicKeyConfig=config)["PublicKey"]["Id"]
        group = running.client().create_key_group(KeyGroupConfig={"Name": "photos", "Items": [key]})
        distribution = distribution_config("site", [group["KeyGroup"]["Id"]])
        running.client().create_distribution(DistributionConfig=distribution)
        running.obey()
        yield running


class Reader:
    """Someone who types a page's commands.

    :param replaced: what stands for something on the page, and for what.
    """

    def __init__(self, page: str, **replaced: str) -> None:
        self.text = (GUIDES / f"{page}.md").read_text()
        self.replaced: dict[str, str | Callable[[], str]] = dict(replaced)
        self.ran: list[str] = []

    def commands(self) -> Iterator[str]:
        """The commands, each with its continuation lines, without comments."""
        text = re.sub(r"```(?!sh\n).*?```", "", self.text.replace("\\\n", " "), flags=re.DOTALL)
        for line in text.splitlines():
            command = line.strip().removeprefix("$ ")
            if line.startswith("    ") and re.match(r"(eval|keyfront|aws|AWS_\w+=\S+) ", command):
                yield re.sub(r"\s+#.*", "", command)

    def run(self, command: str, status: int = 0) -> Result:
        """Run a command of the page; `keyfront` in this process."""
        self.ran.append(command)
        for what, value in self.replaced.items():
            command = command.replace(what, value if isinstance(value, str) else value())
        line, _, output = command.partition(" > ")
        assert line.startswith("keyfront "), line
        done = CliRunner().invoke(keyfront, shlex.split(line)[1:])
        assert done.exit_code == status, (command, done.output)
        if output:
            Path(output).write_text(done.stdout)
        return done


def in_shell(command: str) -> str:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "AWS_PAGER": "",
    }
    done = subprocess.run(
        ["sh", "-c", command], env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


def test_access(plane: Plane) -> None:
    reader = Reader("access")
    document = reader.text.partition("```json\n")[2].partition("```")[0]
    Path("films.json").write_text(document)
    created, environment, call, *policy, rotate, list_, revoke = reader.commands()
    reader.run(created)
    assert '"KeyGroupList"' in in_shell(f"{environment}; {call}")
    for command in policy:
        done = reader.run(command)
    assert done.stdout == "allowed by films (OwnDistributions)\n"
    old = re.findall("AKIA[A-Z0-9]+", Path("ci-credentials").read_text())[0]
    assert old not in reader.run(rotate).stdout
    assert old in reader.run(list_).stdout
    reader.replaced["AKIA…"] = old
    reader.run(revoke)
    assert old not in reader.run(list_).stdout


def test_audit(plane: Plane) -> None:
    reader = Reader("audit")
    for command in reader.commands():
        done = reader.run(command)
        if command == "keyfront audit verify":
            reader.replaced["1234:67d23fa9…"] = done.stdout.strip()
    assert len(reader.ran) == 8
    assert {"audit-2026-11.jsonl.gz", "trail.json.gz"} <= {path.name for path in Path().iterdir()}


def test_backup(plane: Plane, tmp_path: Path) -> None:
    """As printed, but for the second place, which is a folder here, and the restore into PostgreSQL."""
    (tmp_path / "backups").mkdir()
    reader = Reader(
        "backup", **{"/srv/backups": f"{tmp_path}/backups", "s3://backups/keyfront": f"{tmp_path}/other"}
    )
    commands = list(reader.commands())
    keygen, create, drill = commands[:3]
    assert rotation("start photos").exit_code == 0
    reader.replaced["age1…"] = reader.run(keygen).stdout.strip()
    done = reader.run(create)
    assert "is verified" in done.stdout
    plan = next(command for command in commands if command.endswith("--plan"))
    assert "no changes" in reader.run(plan).stdout
    assert (
        drill == "keyfront backup drill /srv/backups --identity recovery.key"
    )  # tests/stories/test_disaster.py
    verify = "keyfront backup verify /srv/backups --identity recovery.key"
    assert "is intact" in reader.run(verify).stdout


def rotation(words: str) -> Result:
    return CliRunner().invoke(keyfront, ["rotation", *words.split()])


def test_keys(plane: Plane) -> None:
    reader = Reader("keys")
    list_, warnings, _ = reader.commands()
    assert "photos" in reader.run(list_).stdout
    assert "keyfront rotation start photos" in reader.run(warnings, status=1).stdout


def test_custody(plane: Plane, tmp_path: Path) -> None:
    """The section on a folder; those on an HSM, AWS and Vault run in `tests/custody`."""
    reader = Reader(
        "custody", **{"/srv/keys": f"{tmp_path}/keys", "photos-1 private_key": "photos-2 private_key"}
    )
    Path("private_key.pem").write_bytes(
        (GUIDES.parents[1] / "tests" / "vectors" / "keys" / "rsa.pem").read_bytes()
    )
    ran = 0
    for command in reader.commands():
        if "file:/srv/keys" in command and "rewrap" not in command:
            reader.run(command)
            ran += 1
    assert ran == 8
    assert Path("photos-1.key").read_text().startswith("-----BEGIN PRIVATE KEY-----")


def test_status(plane: Plane) -> None:
    reader = Reader("status")
    first, second = reader.commands()
    assert "NOT RUNNING" in reader.run(first, status=3).stdout
    reader.run(second.partition(" ||")[0].strip(), status=3)
    assert Path("status.json").exists()
