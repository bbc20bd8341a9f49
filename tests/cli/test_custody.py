"""`keyfront custody` as an operator uses it."""

from __future__ import annotations

import json
import stat
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from keyfront.cli.durations import DurationType, duration_text
from keyfront.cli.main import keyfront
from keyfront.custody import open_key, open_place
from keyfront.signing.key_files import load_private_key
from keyfront.signing.keys import load_public_key
from tests.custody.harness import made_elsewhere

SECRET = "a passphrase of this test's"


def run(*argv: str, given: str | None = None, env: dict[str, str] | None = None) -> Result:
    done = CliRunner().invoke(keyfront, ["custody", *argv], input=given, env=env)
    assert "fault in Keyfront" not in done.stderr, done.stderr
    return done


def output_of(*argv: str, given: str | None = None, env: dict[str, str] | None = None) -> str:
    """The standard output of a command that must succeed."""
    done = run(*argv, given=given, env=env)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def refused(*argv: str, given: str | None = None, env: dict[str, str] | None = None) -> str:
    done = run(*argv, given=given, env=env)
    assert done.exit_code != 0, done.output
    return done.output


@pytest.fixture
def place(tmp_path: Path) -> str:
    return f"file:{tmp_path}/keys/"


def test_a_key_is_made_shown_listed_and_signs(place: str) -> None:
    pem = output_of("create", f"{place}photos-1", "--label", "application=gallery")
    public = load_public_key(pem)
    assert public.algorithm == "ECDSA-P256"
    assert open_key(f"{place}photos-1").public_key == public
    assert output_of("show", f"{place}photos-1", "--public-key") == pem
    shown = output_of("show", f"{place}photos-1")
    assert "application=gallery" in shown
    assert public.fingerprint in shown
    made = json.loads(output_of("create", f"{place}films-1", "--algorithm", "rsa-2048", "--json"))
    assert (made["Algorithm"], made["Hashes"], made["DeleteAt"]) == ("RSA-2048", ["SHA1", "SHA256"], None)
    heads, films, photos = output_of("list", place).splitlines()
    assert heads.split("  ")[0] == "name"
    assert films.split()[:2] == ["films-1", "RSA-2048"]
    assert photos.split()[:2] == ["photos-1", "ECDSA-P256"]
    assert (
        json.loads(output_of("list", place, "--json"))[0]
        == made
        == json.loads(output_of("show", made["URI"], "--json"))
    )


def test_an_empty_place(place: str) -> None:
    assert output_of("list", place) == ""
    assert json.loads(output_of("list", place, "--json")) == []
    assert "no key" in refused("show", f"{place}one")


def test_a_key_is_imported_and_given_away(place: str, tmp_path: Path) -> None:
    key = made_elsewhere("ECDSA-P256")
    (tmp_path / "in.pem").write_text(key.to_pem())
    assert load_public_key(output_of("import", f"{place}one", str(tmp_path / "in.pem"))) == key.public_key
    assert output_of("import", f"{place}one", "-", given=key.to_pem()) == key.public_key.pem
    assert "already" in refused("import", f"{place}one", "-", given=made_elsewhere("ECDSA-P256", 1).to_pem())
    assert "not a private key" in refused("import", f"{place}two", "-", given="nonsense")
    out = tmp_path / "out.pem"
    done = run("export", f"{place}one", "--out", str(out))
    assert (done.exit_code, done.stdout) == (0, "")
    assert "anyone who has it can sign" in done.stderr
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert load_private_key(out).public_key == key.public_key
    assert "only written to a new file" in refused("export", f"{place}one", "--out", str(out))
    link = tmp_path / "link.pem"
    link.symlink_to(tmp_path / "elsewhere.pem")
    assert "only written to a new file" in refused("export", f"{place}one", "--out", str(link))
    assert not (tmp_path / "elsewhere.pem").exists()
    assert (
        load_private_key(output_of("export", f"{place}one", "--stdout").encode()).public_key == key.public_key
    )
    for argv in ((), ("--stdout", "--out", str(tmp_path / "more.pem"))):
        assert "--out FILE, or --stdout" in refused("export", f"{place}one", *argv)


def test_an_encrypted_key_is_imported_with_its_passphrase(place: str, tmp_path: Path) -> None:
    key, encrypted, passphrase = tmp_path / "key.pem", tmp_path / "enc.pem", tmp_path / "passphrase"
    key.write_text(made_elsewhere("ECDSA-P256").to_pem())
    passphrase.write_text(SECRET + "\n")
    argv = [
        "openssl",
        "pkcs8",
        "-topk8",
        "-in",
        str(key),
        "-out",
        str(encrypted),
        "-passout",
        f"file:{passphrase}",
    ]
    subprocess.run(argv, check=True, capture_output=True, timeout=30)
    assert "passphrase" in refused("import", f"{place}one", str(encrypted))
    output_of("import", f"{place}one", str(encrypted), "--passphrase-file", str(passphrase))
    output_of("import", f"{place}one", str(encrypted), "--passphrase-file", "-", given=SECRET + "\n")
    assert "cannot be both" in refused("import", f"{place}one", "-", "--passphrase-file", "-", given=SECRET)


def test_a_key_goes_and_comes_back(place: str) -> None:
    output_of("create", f"{place}one")
    done = run("delete", f"{place}one", "--grace", "7d")
    assert done.exit_code == 0
    assert f"keyfront custody undelete {place}one" in done.stderr
    assert json.loads(output_of("show", f"{place}one", "--json"))["DeleteAt"]
    assert len(output_of("list", place).splitlines()) == 2
    assert "to be deleted" in output_of("list", place).splitlines()[0]
    output_of("undelete", f"{place}one")
    assert json.loads(output_of("show", f"{place}one", "--json"))["DeleteAt"] is None
    assert run("delete", f"{place}one", "--grace", "0", given="n\n").exit_code == 1
    output_of("show", f"{place}one")
    assert "is deleted" in run("delete", f"{place}one", "--grace", "0", "--yes").stderr
    assert "no key" in refused("undelete", f"{place}one")
    assert "not a duration" in refused("delete", f"{place}one", "--grace", "soon")


def test_the_key_encrypting_key_is_changed(place: str) -> None:
    output_of("create", f"{place}one")
    uri = output_of("rewrap", place, "--kek", "env:A_PASSPHRASE", env={"A_PASSPHRASE": SECRET}).strip()
    assert uri == f"{place}?kek=env:A_PASSPHRASE"
    at = f"{place}one?kek=env:A_PASSPHRASE"
    assert output_of("show", at) == output_of("show", at, env={"A_PASSPHRASE": "something else"})
    assert "PRIVATE KEY" in output_of("export", at, "--stdout", env={"A_PASSPHRASE": SECRET})
    why = refused("export", at, "--stdout", env={"A_PASSPHRASE": "something else"})
    assert "A_PASSPHRASE does not open" in why
    assert "something else" not in why
    assert "custody.key" in refused("export", f"{place}one", "--stdout")
    assert output_of("rewrap", uri, "--in-folder", env={"A_PASSPHRASE": SECRET}).strip() == place
    assert "PRIVATE KEY" in output_of("export", f"{place}one", "--stdout")
    for argv in ((), ("--kek", "env:A", "--in-folder")):
        assert "--kek SOURCE, or --in-folder" in refused("rewrap", place, *argv)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("create", "files:photos-1"), "is not a custody URI"),
        (("create", "file:/tmp/"), "names a place, not a key"),
        (("create", "file:/tmp/a.b"), "cannot be the name of a key"),
        (("create", "file:photos-1"), "names no folder"),
        (("create", "file:~/keys/a"), "write the path out"),
        (("create", "file:/x/a?kek=nonsense1234"), "never the secret itself"),
        (("create", "file:/x/a?kek=file:relative"), "absolute"),
        (("create", "file:/x/a?kee=env:A"), "kee"),
        (("create", "file:/x/a?kek=env:A&kek=env:B"), "twice"),
        (("create", "file:/x/a", "--label", "x"), "NAME=VALUE"),
        (("create", "file:/x/a", "--label", "x=1", "--label", "x=2"), "twice"),
        (("show", "pkcs11:t/a?module-path=/x&pin=1234"), "never stands in a URI"),
        (("show", "pkcs11:t/a?module-path=/x&pin-source=123456"), "never the PIN itself"),
        (("rewrap", "awskms:a/?region=eu-central-1", "--in-folder"), "only file:"),
    ],
)
def test_what_makes_no_sense(argv: tuple[str, ...], message: str) -> None:
    why = refused(*argv)
    assert message in why
    assert "1234" not in why


def test_each_command_goes_by_its_name() -> None:
    context = click.Context(keyfront)
    for name in keyfront.list_commands(context):
        command = keyfront.get_command(context, name)
        assert command is not None
        assert command.name == name


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("90s", 90), ("1h30m", 5400), ("7d", 604800), ("2w1d", 1296000)]
)
def test_lengths_of_time(text: str, seconds: float) -> None:
    assert DurationType().convert(text, None, None) == seconds
    assert DurationType().convert(duration_text(seconds), None, None) == seconds


def test_a_place_of_the_commands_is_one_of_the_library(place: str) -> None:
    output_of("create", f"{place}one")
    assert [held.name for held in open_place(place).list()] == ["one"]
