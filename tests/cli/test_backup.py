"""`keyfront backup` at the command line: what it prints, when it refuses, and its exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from keyfront.backup.restore.lock import RUNNING, held
from keyfront.cli.backup import backup
from keyfront.cli.main import keyfront
from tests.backup.harness import Installed
from tests.cli.test_start import refused

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"


def run(*argv: object) -> Result:
    environment = {"KEYFRONT_STORE": "", "KEYFRONT_RECORDS": ""}
    return CliRunner().invoke(keyfront, ["backup", *map(str, argv)], env=environment)


def why(result: Result) -> str:
    """The reason why it failed."""
    assert result.exit_code == 2, result.output
    return result.stderr


@pytest.fixture
def data(tmp_path: Path) -> Path:
    one = Installed(tmp_path / "data")
    one.harness.close()
    return one.folder


def test_from_keygen_to_restore(data: Path, tmp_path: Path) -> None:
    identity, place = tmp_path / "id", tmp_path / "place"
    recipient = run("keygen", identity).output.strip()
    assert f"there is no folder {place}" in why(run("list", place))
    place.mkdir()
    assert run("list", place).output == "none\n"
    made = run("create", "--data", data, "--to", place, "-r", recipient, "--json")
    assert made.exit_code == 0
    name = json.loads(made.output)["name"]
    assert run("create", "--data", data, "--to", place, "-r", recipient, "--quiet").output == ""
    (row,) = json.loads(run("list", place, "--json").output)
    assert (row["Archive"], row["Snapshot"]) == (name, 3)
    verified = json.loads(run("verify", place / name, "-i", identity, "--json").output)
    assert verified["Contains"]["store/resource"] == 3
    (missing,) = verified["Missing"]
    assert missing.startswith("proof for ")

    plan = run("restore", place, "-i", identity, "--data", tmp_path / "new", "--plan")
    assert plan.exit_code == 0
    assert "+ Distribution" in plan.output
    assert not (tmp_path / "new" / "keyfront.db").exists()
    unconfirmed = run("restore", place, "-i", identity, "--data", tmp_path / "new")
    assert "give --yes" in why(unconfirmed)
    done = run("restore", place, "-i", identity, "--data", tmp_path / "new", "--yes")
    assert done.exit_code == 0
    assert (tmp_path / "new" / "keyfront.db").exists()
    with held(data):
        assert "end it first" in why(run("restore", place, "-i", identity, "--data", data, "--yes"))


def test_an_ssh_key_opens_it(data: Path, tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    (tmp_path / "id").write_bytes(private)
    (tmp_path / "id").chmod(0o600)
    (tmp_path / "recipients").write_bytes(b"# me\n" + public + b" me@here\n\n")
    place = tmp_path / "place"
    made = run("create", "--data", data, "--to", place, "--recipients-file", tmp_path / "recipients")
    assert made.exit_code == 0, made.exception
    assert run("verify", place, "-i", tmp_path / "id").exit_code == 0


def test_exit_status(data: Path, tmp_path: Path) -> None:
    identity, other, place = tmp_path / "id", tmp_path / "other", tmp_path / "place"
    recipient = run("keygen", identity).output.strip()
    run("keygen", other)
    (tmp_path / "file").write_text("")
    made = run("create", "--data", data, "--to", place, "--to", tmp_path / "file", "-r", recipient)
    assert made.exit_code == 3
    assert "cannot be listed" in made.stderr
    (archive,) = place.iterdir()
    assert run("verify", archive, "-i", other).exit_code == 1
    archive.write_bytes(archive.read_bytes()[:-1])
    assert run("verify", archive, "-i", identity).exit_code == 1
    assert run("drill", archive, "-i", identity).exit_code == 1
    assert "damaged" in why(run("restore", archive, "-i", identity, "--data", tmp_path / "new", "--yes"))
    assert not (tmp_path / "new").exists()


def test_the_newest_that_is_whole(data: Path, tmp_path: Path) -> None:
    identity, place = tmp_path / "id", tmp_path / "place"
    recipient = run("keygen", identity).output.strip()
    for _ in range(2):
        assert run("create", "--data", data, "--to", place, "-r", recipient, "--always").exit_code == 0
    older, newer = sorted(place.iterdir())
    newer.write_bytes(newer.read_bytes()[:-1])
    found = run("verify", place, "-i", identity)
    assert (found.exit_code, f"{older.name} is intact" in found.stdout) == (3, True)
    assert f"skipping {newer.name}: " in found.stderr
    planned = run("restore", place, "-i", identity, "--data", tmp_path / "new", "--plan")
    assert (planned.exit_code, f"skipping {newer.name}: " in planned.stderr) == (0, True)
    older.write_bytes(b"")
    assert run("verify", place, "-i", identity).exit_code == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--to", "PLACE"], "give the recipient of the archive"),
        (["--to", "PLACE", "-r", "age1nobody"], "is not a recipient"),
        (["--to", "ftp://x", "-r", "RECIPIENT"], "neither a folder nor s3"),
        (["--to", "PLACE", "-r", "RECIPIENT", "--keep", "last=0"], "keeps nothing at all"),
        (["--to", "PLACE", "-r", "RECIPIENT", "--custody", "file:/k/"], "requires --private-keys"),
        (["--to", "PLACE", "-r", "RECIPIENT", "--proof-url", "https://x/a"], "is not a signed URL"),
    ],
)
def test_what_makes_no_sense(data: Path, tmp_path: Path, argv: list[str], message: str) -> None:
    recipient = run("keygen", tmp_path / "id").output.strip()
    words = {"PLACE": str(tmp_path / "place"), "RECIPIENT": recipient}
    assert message in why(run("create", "--data", data, *(words.get(word, word) for word in argv)))
    assert not (tmp_path / "place").exists()


def test_an_identity_that_others_can_read(data: Path, tmp_path: Path) -> None:
    run("keygen", tmp_path / "id")
    (tmp_path / "id").chmod(0o640)
    assert "chmod 600" in why(run("verify", tmp_path, "-i", tmp_path / "id"))


def test_nothing_starts_on_half_a_restore(data: Path) -> None:
    (data / RUNNING).write_text("{}")
    assert "a restore into" in refused(data)


def test_the_reference_tells_of_everything() -> None:
    section = REFERENCE.read_text().partition("## `keyfront backup`")[2].partition("\n## ")[0]
    for name, command in backup.commands.items():
        assert f"keyfront backup {name}" in section
        for parameter in command.params:
            assert not hasattr(parameter, "help") or any(option in section for option in parameter.opts), (
                parameter
            )
