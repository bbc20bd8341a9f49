"""A rotation started as the README and the guide print it proceeds automatically: the command line and the running
Keyfront watch the same record."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyfront.cli.account import choose, unwatched
from keyfront.custody.default_paths import default_data, default_records, installation
from keyfront.custody.key_record import Stage, load
from keyfront.custody.schemes import open_records
from keyfront.errors import SettingsError
from tests.keys import public_pem
from tests.up import Up

ROOT = Path(__file__).parents[2]
INHERITED = ("PATH", "HOME", "LANG", "TMPDIR")


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    """As the README starts it: its data folder is `./state`."""
    with Up(tmp_path / "state", workers=1) as running:
        yield running


def group(up: Up, name: str) -> None:
    config = {"CallerReference": name, "Name": f"{name}-none", "EncodedKey": public_pem()}
    key = up.client().create_public_key(PublicKeyConfig=config)["PublicKey"]["Id"]
    up.client().create_key_group(KeyGroupConfig={"Name": name, "Items": [key]})


def run(command: str, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """A command as printed on a page, in an environment without any CloudFront settings."""
    words = shlex.split(command.removeprefix(".venv/bin/"))
    assert words[0] == "keyfront", command
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder,
        env={**environment, "XDG_DATA_HOME": str(folder / "none"), **more},
        capture_output=True,
        text=True,
        timeout=100,
    )


def printed(page: str, begins: str) -> list[str]:
    """The commands with these beginnings in a page's indented blocks."""
    text = (ROOT / page).read_text().replace("\\\n", " ")
    found = [line.strip() for line in text.splitlines() if re.match(rf"    (\.venv/bin/)?{begins}", line)]
    assert found, f"{page} prints no command that begins with {begins}"
    return found


def signs(up: Up, name: str) -> bool:
    kept = load(open_records(default_records({}, up.data)), name)
    return kept is not None and any(entry.stage is Stage.SIGNING for entry in kept.succession.entries)


def test_the_readme_s_command(up: Up, tmp_path: Path) -> None:
    (command,) = printed("README.md", "keyfront rotation start films")
    group(up, "films")
    done = run(command, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "keyfront up performs the steps" in done.stdout
    assert "querying the Keyfront in" in done.stderr
    up.until(lambda: signs(up, "films"))  # without any `rotation run`


def test_the_guide_s_commands(up: Up, tmp_path: Path) -> None:
    """The first block of the guide, verbatim."""
    group(up, "photos")
    first = printed("docs/guide/rotation.md", "keyfront rotation")[:3]
    assert first[0].endswith("--dry-run")
    assert first[2] == "keyfront rotation status"
    for command in first:
        done = run(command, tmp_path)
        assert done.returncode == 0, done.stderr
    up.until(lambda: signs(up, "photos"))
    assert "SIGNING" in run("keyfront rotation status photos", tmp_path).stdout
    listed = run(printed("docs/guide/keys.md", "keyfront key list")[0], tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert "SIGNING" in listed.stdout
    signed = run("keyfront sign http://d.test/a --key-group photos --expires 1h", tmp_path)
    assert signed.returncode == 0, signed.stderr
    assert "Key-Pair-Id=" in signed.stdout


def test_another_record_than_the_one_that_is_watched_is_a_warning_with_a_remedy(
    up: Up, tmp_path: Path
) -> None:
    group(up, "photos")
    place = f"file:{tmp_path}/elsewhere/"
    begun = run(f"keyfront rotation start photos --records {place} --custody {place}", tmp_path)
    assert begun.returncode == 0, begun.stderr
    assert f"watches the records in file:{up.data}/custody/" in begun.stderr
    assert "Next: keyfront rotation run" in begun.stdout
    (remedy,) = re.findall(r"`(keyfront rotation run [^`]+)`", begun.stderr)
    done = run(f"{remedy} --until-idle", tmp_path)
    assert done.returncode == 0, done.stderr
    kept = load(open_records(place), "photos")
    assert kept is not None
    assert any(entry.stage is Stage.SIGNING for entry in kept.succession.entries)


def test_the_environment_s_record_is_the_one_that_up_watches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`up` was started with KEYFRONT_RECORDS, the command line in another shell without it."""
    place = f"file:{tmp_path}/shared/"
    monkeypatch.setenv("KEYFRONT_RECORDS", place)
    with Up(tmp_path / "state", workers=1) as up:
        monkeypatch.delenv("KEYFRONT_RECORDS")
        group(up, "films")
        done = run(f"keyfront rotation start films --every 90d --custody {place}", tmp_path)
        assert done.returncode == 0, done.stderr
        assert "keyfront up performs the steps" in done.stdout
        up.until(lambda: signs(up, "films"))


# -- the choice -----------------------------------------------------------------------------------------------------


def described(folder: Path, control: str = "http://127.0.0.1:8081", records: str = "file:/kept/") -> Path:
    folder.mkdir(parents=True)
    (folder / "installation.json").write_text(f'{{"control":"{control}","records":"{records}"}}')
    (folder / "credentials").write_text("[default]\naws_access_key_id = AKIAK\naws_secret_access_key = s\n")
    return folder


def test_which_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    users = {"XDG_DATA_HOME": str(tmp_path / "xdg")}
    assert default_data(users) == tmp_path / "xdg" / "keyfront"
    (tmp_path / "state").mkdir()
    assert default_data(users) == tmp_path / "xdg" / "keyfront", "any folder of that name is none"
    (tmp_path / "state" / "keyfront.db").touch()
    assert default_data(users) == Path("state")
    assert default_data({**users, "KEYFRONT_DATA": "/elsewhere"}) == Path("/elsewhere")
    assert installation(tmp_path / "state") is None
    assert default_records(users) == f"file:{tmp_path}/state/custody/"


def test_whom_a_command_asks(tmp_path: Path) -> None:
    folder = described(tmp_path / "data")
    local = {"KEYFRONT_DATA": str(folder)}
    own = ("AKIAK", "s")

    def asked(
        environment: dict[str, str], endpoint: str = "", profile: str = "", aws: bool = False
    ) -> tuple[str, object]:
        found = choose(endpoint, profile, aws, "", None, {**local, **environment})
        return found.endpoint_url, found.credentials

    assert asked({}) == ("http://127.0.0.1:8081", own)
    assert asked({"AWS_PROFILE": "prod"}) == ("", None)
    assert asked({}, profile="prod") == ("", None)
    assert asked({}, aws=True) == ("", None)
    assert asked({}, endpoint="http://127.0.0.1:8081/") == ("http://127.0.0.1:8081", own)
    assert asked({"AWS_ENDPOINT_URL": "http://127.0.0.1:8081"}) == ("http://127.0.0.1:8081", own)
    assert asked({"AWS_ENDPOINT_URL": "http://10.0.0.1:1"}) == ("", None), "botocore reads the variable"
    assert asked({}, endpoint="http://10.0.0.1:1") == ("http://10.0.0.1:1", None)
    named = {"AWS_ENDPOINT_URL": "http://127.0.0.1:8081", "AWS_ACCESS_KEY_ID": "AKIAOTHER"}
    assert asked(named) == ("http://127.0.0.1:8081", None), "whose key is named is whose call it is"
    assert asked({"AWS_ENDPOINT_URL": "http://localhost:8081/"}) == ("http://127.0.0.1:8081", own)
    chosen = choose("http://127.0.0.1:8081", "prod", False, "", None, local)
    assert (chosen.profile, chosen.credentials) == ("prod", None), "a profile that is named is used"
    elsewhere = {"AWS_ENDPOINT_URL": "http://10.0.0.1:1", "AWS_PROFILE": "prod"}
    chosen = choose("", "", False, "", folder, elsewhere)
    assert (chosen.endpoint_url, chosen.credentials) == ("http://127.0.0.1:8081", own), (
        "--data counts before the environment"
    )
    with pytest.raises(SettingsError, match=r"AWS_ENDPOINT_URL names the Keyfront in .*: unset it"):
        asked({"AWS_ENDPOINT_URL": "http://127.0.0.1:8081"}, aws=True)
    with pytest.raises(SettingsError, match="keyfront up --data"):
        choose("", "", False, "", tmp_path / "nothing", {})


def test_nobody_is_sent_to_another_cloudfront_untold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = described(tmp_path / "data")
    for environment, says in (
        (
            {"AWS_ACCESS_KEY_ID": "AKIAOTHER"},
            f"querying the Keyfront in {folder} at http://127.0.0.1:8081; --aws queries",
        ),
        ({"AWS_PROFILE": "prod"}, f"querying Amazon, because AWS_PROFILE is set; --data {folder} queries"),
    ):
        choose("", "", False, "", None, {"KEYFRONT_DATA": str(folder), **environment})
        assert says in capsys.readouterr().err
    choose("", "", False, "", None, {"XDG_DATA_HOME": str(tmp_path / "none"), "AWS_PROFILE": "prod"})
    assert capsys.readouterr().err == "", "where no Keyfront ever was there is nothing to say"


def test_a_record_that_nobody_watches(tmp_path: Path) -> None:
    folder = described(tmp_path / "data")
    environment = {"KEYFRONT_DATA": str(folder)}
    assert unwatched(choose("", "", False, "", None, environment)) == ""
    assert "file:/other/" in unwatched(choose("", "", False, "file:/other/", None, environment))
    assert unwatched(choose("", "", True, "file:/other/", None, environment)) == "", (
        "not this Keyfront's to watch"
    )
