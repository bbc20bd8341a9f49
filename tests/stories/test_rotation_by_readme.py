"""The command line and the running Keyfront watch the same record of a rotation, wherever it is. `test_first_day.py`
shows that a rotation proceeds by itself if it is started as the pages print it."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from keyfront.cli.main import keyfront
from keyfront.custody.key_record import Stage, load
from keyfront.custody.schemes import open_records
from tests.keys import public_pem
from tests.up import Up


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """As the README starts it: its data folder is `./state`."""
    with Up(tmp_path_factory.mktemp("readme") / "state", workers=1) as running:
        yield running


def group(up: Up, name: str) -> None:
    config = {"CallerReference": name, "Name": f"{name}-none", "EncodedKey": public_pem()}
    key = up.client().create_public_key(PublicKeyConfig=config)["PublicKey"]["Id"]
    up.client().create_key_group(KeyGroupConfig={"Name": name, "Items": [key]})


def run(command: str, folder: Path, **settings: str) -> Result:
    """Run a command as printed on a page, in an environment without any other CloudFront settings."""
    name, *words = shlex.split(command.removeprefix(".venv/bin/"))
    assert name == "keyfront", command
    environment: dict[str, str | None] = {
        name: None for name in os.environ if name.startswith(("AWS_", "KEYFRONT_"))
    }
    environment |= {"XDG_DATA_HOME": str(folder / "none"), **settings}
    with contextlib.chdir(folder):
        return CliRunner(env=environment).invoke(keyfront, words)


def signs(place: str, name: str) -> bool:
    """Whether a key of the group signs, by the records in `place`."""
    found = load(open_records(place), name)
    return found is not None and any(entry.stage is Stage.SIGNING for entry in found.record.entries)


def test_a_rotation_that_no_keyfront_would_perform_is_refused_with_a_remedy(up: Up) -> None:
    group(up, "albums")
    place = f"file:{up.data.parent}/elsewhere/"
    begun = run(f"keyfront rotation start albums --records {place}", up.data.parent)
    assert begun.exit_code == 2
    assert f"watches the records in file:{up.data}/custody/" in begun.stderr
    (remedy,) = re.findall(r"`(keyfront up [^`]+)`", begun.stderr)
    assert remedy == f"keyfront up --data {up.data} --records {place}"
    begun = run("keyfront rotation start albums", up.data.parent, KEYFRONT_RECORDS=place)
    assert begun.exit_code == 2
    assert "unset KEYFRONT_RECORDS" in begun.stderr
    up.stop()
    up.options = tuple(shlex.split(remedy)[4:])
    up.start()
    begun = run("keyfront rotation start albums", up.data.parent)
    assert begun.exit_code == 0, begun.stderr
    assert "keyfront up performs the steps" in begun.stdout
    up.until(lambda: signs(place, "albums"))


def test_the_environment_s_record_is_the_one_that_up_watches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`up` was started with KEYFRONT_RECORDS, the command line in another shell without it."""
    place = f"file:{tmp_path}/shared/"
    monkeypatch.setenv("KEYFRONT_RECORDS", place)
    with Up(tmp_path / "state", workers=1) as up:
        monkeypatch.delenv("KEYFRONT_RECORDS")
        group(up, "films")
        done = run("keyfront rotation start films --every 90d", tmp_path)
        assert done.exit_code == 0, done.stderr
        assert "keyfront up performs the steps" in done.stdout
        up.until(lambda: signs(place, "films"))
