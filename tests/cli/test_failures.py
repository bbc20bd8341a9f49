"""Every command in awkward surroundings: one line on standard error that begins with `keyfront:`, exit status 2, and
never a traceback."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from keyfront.cli.main import COMMANDS, PROCESSES, LazyGroup, failure_text, keyfront
from keyfront.control.identity.credentials import load
from keyfront.control.store.store import Store
from keyfront.errors import KeyfrontError
from tests.rows import rows

KEY = Path(__file__).parents[1] / "vectors" / "keys" / "rsa.pem"

INSTALLED = [
    "reload",
    "access key create ci",
    "access key disable AKIA0",
    "access key enable AKIA0",
    "access key list",
    "access key revoke AKIA0",
    "access key rotate ci",
    "access policy attach admin ci",
    "access policy delete p",
    "access policy detach admin ci",
    "access policy list",
    "access policy put p GARBAGE",
    "access policy show none",
    "access simulate ci cloudfront:GetKeyGroup",
    "access user create ci",
    "access user delete nobody",
    "access user list",
    "audit export",
    "audit list",
    "audit verify",
    "backup create --to PLACE --passphrase-file PASSPHRASE",
    "edge enroll-token",
    "edge list",
    "edge revoke nobody",
    "edge rotate-key",
    "env",
    "logs export out.parquet",
    "logs query by-key",
    "logs tail",
    "regions",
    "restart",
    "status",
    "trust",
    "store copy --store postgresql://nobody@127.0.0.1:9/none",
    "up --edge 127.0.0.1:0 --control 127.0.0.1:0 --workers 1",
]
"""Commands that work on a data folder."""
CALLING = [
    "alarm defaults",
    "alarm delete errors",
    "alarm disable errors",
    "alarm enable errors",
    "alarm history",
    "alarm list",
    "alarm put errors --metric 4xxErrorRate --threshold 5",
    "alarm show errors",
    "alarm test errors",
    "apply SITE --yes",
    "key list",
    "key warnings",
    "plan SITE",
    "sharing list",
    "sharing show ada",
    "rotation emergency g K0 --yes",
    "rotation pause g",
    "rotation plan g",
    "rotation resume g",
    "rotation rollback g",
    "rotation rotate g",
    "rotation run g",
    "rotation start g",
    "rotation status",
    "rotation stop g --yes",
    "rotation terms g",
]
"""Commands that call an API, or read the records of one."""
FILES = [
    "agent --socket PLACE/agent --access GARBAGE",
    "backup drill GARBAGE --passphrase-file PASSPHRASE",
    "backup keygen GARBAGE",
    "backup list GARBAGE",
    "backup restore GARBAGE --passphrase-file PASSPHRASE --yes",
    "backup verify GARBAGE --passphrase-file PASSPHRASE",
    "completion tcsh",
    "config check GARBAGE",
    "config show --workers none",
    "custody create file:GARBAGE/x",
    "custody delete file:GARBAGE/x",
    "custody export file:GARBAGE/x --stdout",
    "custody import file:PLACE/x GARBAGE",
    "custody list file:GARBAGE/",
    "custody rewrap file:GARBAGE/ --in-folder",
    "custody show file:GARBAGE/x",
    "custody undelete file:GARBAGE/x",
    "edge join --control https://127.0.0.1:9 --token garbage",
    "edge join --nats nats://127.0.0.1:9 --nats-creds GARBAGE --token garbage",
    "explain not-a-url",
    "key check GARBAGE",
    "sign https://d.test/a --key-pair-id K1 --private-key GARBAGE --expires 1h",
    "sign-cookies https://d.test/* --key-pair-id K1 --private-key GARBAGE --expires 1h",
]
"""Commands that read a file or a folder. GARBAGE is a file that holds no text."""


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Every command below `group`, as its words."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        elif (*path, name)[0] not in PROCESSES:
            yield " ".join((*path, name))


def test_every_command_is_here() -> None:
    for command in commands(keyfront):
        assert any(f"{each} ".startswith(f"{command} ") for each in (*INSTALLED, *CALLING, *FILES)), command


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("AWS_", "KEYFRONT_", "PG")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "none"))
    (tmp_path / "GARBAGE").write_bytes(bytes(range(256)) * 8)
    (tmp_path / "PLACE").mkdir()
    (tmp_path / "PASSPHRASE").write_text("of this test alone, and long enough")
    (tmp_path / "PASSPHRASE").chmod(0o600)
    (tmp_path / "SITE").write_text('name = "site"\n\n[KeyGroup.viewers]\nName = "viewers"\nItems = ["K0"]\n')


def run(command: str, *more: str) -> Result:
    return CliRunner().invoke(keyfront, [*command.split(), *more], input=b"\xff\xfe\x00garbage")


def failed(command: str, *more: str, statuses: tuple[int, ...] = (2,)) -> str:
    """What a command that must fail prints."""
    done = run(command, *more)
    assert done.exit_code in statuses, (command, more, done.output)
    assert "Traceback" not in done.output, command
    assert "fault in Keyfront" not in done.output, (command, done.output)
    lines = done.stderr.splitlines()
    assert len(lines) == 1, (command, done.stderr)
    assert lines[0].startswith("keyfront: "), (command, done.stderr)
    return lines[0]


def nothing(folder: Path) -> Path:
    return folder / "nothing"


def a_file(folder: Path) -> Path:
    return folder / "GARBAGE"


def below_a_file(folder: Path) -> Path:
    return folder / "GARBAGE" / "below"


def a_loop(folder: Path) -> Path:
    (folder / "loop").symlink_to("loop")
    return folder / "loop"


def too_long(folder: Path) -> Path:
    return folder / ("x" * 300)


def a_damaged_record(folder: Path) -> Path:
    data = folder / "data"
    data.mkdir()
    (data / "installation.json").write_text("{")
    (data / "keyfront.db").write_text("garbage\n" * 200)
    (data / "credentials").write_text("garbage")
    return data


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    made: Path = request.param(tmp_path)
    return made


@pytest.mark.parametrize("place", [a_file, below_a_file, a_loop, too_long, a_damaged_record], indirect=True)
@rows("command", INSTALLED)
def test_a_data_folder_that_is_none(place: Path, command: str) -> None:
    failed(command, "--data", str(place))


@rows("command", [each for each in INSTALLED if not each.startswith("up ")])
def test_a_data_folder_where_nothing_was_started(command: str, tmp_path: Path) -> None:
    why = failed(command, "--data", str(nothing(tmp_path)))
    assert "keyfront up --data" in why or command.startswith("store copy"), why
    assert not nothing(tmp_path).exists(), "no command creates what it does not find"


@rows("command", CALLING)
def test_no_keyfront_and_no_amazon(command: str) -> None:
    assert "--aws" in failed(command)


@pytest.mark.parametrize("place", [nothing, a_file, a_loop, too_long, a_damaged_record], indirect=True)
@rows("command", CALLING)
def test_an_account_whose_data_folder_is_none(place: Path, command: str) -> None:
    failed(command, "--data", str(place))


@pytest.fixture
def dead() -> Iterator[str]:
    """An address where nothing listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


@pytest.mark.parametrize("command", CALLING)
def test_an_address_that_does_not_answer(
    command: str, dead: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA0")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")
    done = run(command, "--endpoint-url", dead)
    if command.startswith("rotation") and not command.startswith("rotation start"):
        assert done.exit_code in (0, 1, 2)  # without a record there is nothing to call the API about
        assert "Traceback" not in done.output
        return
    failed(command, "--endpoint-url", dead, statuses=(1, 2))


@pytest.mark.parametrize("command", FILES)
def test_a_file_that_is_none(command: str) -> None:
    failed(command, statuses=(1, 2) if command.split()[1] in ("verify", "drill") else (2,))


@pytest.mark.parametrize("command", [each for each in FILES if "GARBAGE" in each and "keygen" not in each])
@pytest.mark.parametrize("other", ["PLACE", "nothing", "GARBAGE/below"])
def test_a_folder_and_nothing_in_place_of_a_file(command: str, other: str) -> None:
    if "file:" in command and other != "GARBAGE/below":
        pytest.skip("custody creates the folder")
    if command.startswith("backup list") and other == "PLACE":
        pytest.skip("a folder is a place")
    failed(command.replace("GARBAGE", other), statuses=(1, 2))


@pytest.mark.parametrize(
    "command",
    [
        "access policy put p -",
        "custody import file:PLACE/x -",
        "key check -",
        "sign https://d.test/a --key-pair-id K1 --private-key - --expires 1h",
        f"sign https://d.test/a --key-pair-id K1 --private-key {KEY} --policy -",
        "backup restore GARBAGE --passphrase-file PASSPHRASE",
        "rotation stop g",
    ],
)
def test_garbage_on_standard_input(command: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    load(data / "credentials", "000000000000")
    Store(data / "keyfront.db").close()
    more = ("--data", str(data)) if command.startswith(("access", "rotation")) else ()
    failed(command, *more)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc on this machine")
@pytest.mark.parametrize(
    "command",
    [
        "custody create file:FULL/x",
        "backup keygen FULL/identity",
        "audit export --output FULL/log --data data",
        "custody export file:PLACE/x --out FULL/key",
    ],
)
def test_a_file_system_that_takes_nothing(command: str, tmp_path: Path) -> None:
    """/proc accepts no new files, whoever asks."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    load(data / "credentials", "000000000000")
    Store(data / "keyfront.db").close()
    run("custody create file:PLACE/x")
    failed(command.replace("FULL", "/proc"))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["sign"], "Missing argument 'URL'; see `keyfront sign --help`"),
        (["sign", "--nonsense"], "No such option"),
        (["nonsense"], "No such command 'nonsense'; see `keyfront --help`"),
        (["access", "nonsense"], "see `keyfront access --help`"),
        (["up", "--workers", "none"], "Invalid value for '--workers'"),
    ],
)
def test_a_command_line_that_is_none(argv: list[str], message: str) -> None:
    assert message in failed(argv[0], *argv[1:])


def test_a_fault_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def broken() -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr(LazyGroup, "get_command", lambda *_: broken)
    done = run("status")
    assert (done.exit_code, done.stderr) == (
        2,
        "keyfront: this is a fault in Keyfront (ZeroDivisionError: division by zero): set KEYFRONT_TRACEBACK=1, run "
        "the command again, and report what it prints\n",
    )
    monkeypatch.setenv("KEYFRONT_TRACEBACK", "1")
    assert isinstance(run("status").exception, ZeroDivisionError)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (KeyfrontError("one\n  two"), "one two"),
        (PermissionError(13, "Permission denied", "/a"), "/a: Permission denied"),
        (OSError("only a text"), "only a text"),
        (click.UsageError("No."), "No"),
    ],
)
def test_the_text_of_a_failure(error: Exception, text: str) -> None:
    assert failure_text(error) == text


def test_every_command_is_found() -> None:
    assert set(COMMANDS) - set(PROCESSES) == {each.split()[0] for each in commands(keyfront)}
