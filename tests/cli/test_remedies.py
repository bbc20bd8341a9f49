"""Every command that a message prints does what the message promises. A command that is new in the source fails
`test_every_printed_command_has_a_case` until a case runs it."""

from __future__ import annotations

import base64
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from keyfront.cli.edge import edge
from keyfront.cli.main import keyfront
from keyfront.cli.up import up
from keyfront.control.identity.credentials import load
from keyfront.control.store.store import Store
from keyfront.custody import open_records
from keyfront.custody.default_paths import Installation, own_custody
from keyfront.extras import EXTRAS as EXTRAS_OF
from keyfront.lifecycle.findings import Commands
from keyfront.runtime.installation import write_installation
from keyfront.signing.keys import load_public_key, parse_private_key
from tests.control.plane import Plane, distribution_config
from tests.keys import public_pem
from tests.printed import commands_in, printed

ROOT = Path(__file__).parents[2]
KEYS = ROOT / "tests" / "vectors" / "keys"

PLAIN = "test_a_plain_command_does_what_it_says"
EXTRAS = "test_an_extra_that_is_named_exists"
KEY_NOTES = "test_the_notes_on_a_key_file"
ROTATIONS = "test_the_commands_of_key_warnings"
STARTS = "test_a_command_that_starts_keyfront_is_one_that_it_accepts"
ACCESS = "test_the_commands_of_access_and_audit"
CUSTODY = "test_a_deletion_is_canceled_as_it_says"
EDGES = "test_the_commands_for_edges"
CONFIG = "test_a_configuration_file_is_created_as_it_says"
RESTARTS = "stories/test_restart.py::test_restarts_under_load_fail_no_request"
FAILED_LATE = "stories/test_restart.py::test_a_program_that_fails_after_its_trial_leaves_what_runs"
TRUST = "stories/test_local_tls.py::test_clients_trust_it_by_the_line_that_is_printed"
TRUST_EXPORT = "stories/test_local_tls.py::test_its_certificate_is_exported_for_other_machines"
TRUST_STORE = "stories/test_local_tls.py::test_the_system_trusts_it_until_it_is_removed"
UNWATCHED = "test_the_commands_for_records_that_nothing_watches"
SHARING = "stories/test_shared_links.py::test_a_link_that_is_passed_on_is_found"
LOGS = "cli/test_logs.py::test_the_printed_commands"
ALARMS = "stories/test_alarms.py::test_the_command_line"
MENTION = "names a program in a sentence; there is nothing to run"

CASES = {
    ("backup.restore.lock", "keyfront runs in {}"): MENTION,
    ("cli.access", "keyfront access key list {}{}"): ACCESS,
    ("cli.access", "keyfront access key revoke {}{}"): ACCESS,
    ("cli.access", "keyfront access"): MENTION,
    ("cli.account", "keyfront up --data {} --records {}"): STARTS,
    ("cli.account", "keyfront up --data {}"): STARTS,
    ("cli.account", "keyfront rotation run{}"): UNWATCHED,
    ("cli.account", "keyfront up"): MENTION,
    ("cli.agent", "keyfront agent ready {}"): MENTION,
    ("cli.audit", "keyfront audit verify{}"): ACCESS,
    ("cli.backup", "keyfront up --data {}"): STARTS,
    ("cli.backup", "keyfront backup"): MENTION,
    ("cli.custody", "keyfront custody undelete {}"): CUSTODY,
    ("backup.restore.plan", "keyfront edge revoke {}"): EDGES,
    ("cli.config", "keyfront config show{} > {}"): CONFIG,
    ("cli.config", "keyfront up"): MENTION,
    ("cli.control_options", "keyfront edge"): MENTION,
    ("cli.up", "keyfront up"): MENTION,
    ("cli.edge", "keyfront edge join --control https"): EDGES,
    ("cli.distribution_source", "keyfront up --data {}"): STARTS,
    ("cli.edge", "keyfront up --data {}"): STARTS,
    ("cli.edge", "keyfront edge enroll-token"): EDGES,
    ("cli.edge", "keyfront edge"): MENTION,
    ("cli.env", "keyfront up --data {}"): STARTS,
    ("cli.fleet_options", "keyfront edge join --control {} --token …"): EDGES,
    ("cli.installation", "keyfront up --data {}"): STARTS,
    ("cli.key", "openssl pkey -in {}"): KEY_NOTES,
    ("cli.key", "base64 -d {} | openssl pkey -inform DER"): KEY_NOTES,
    ("cli.key", "openssl pkey -traditional -in {} -out rsa_key.pem"): KEY_NOTES,
    ("cli.reload", "keyfront up --data {}"): STARTS,
    ("cli.reload", "keyfront restart{}"): RESTARTS,
    ("cli.rotation", "keyfront rotation"): MENTION,
    ("cli.rotation", "keyfront up performs the steps"): MENTION,
    ("cli.rotation", "keyfront rotation run{}"): UNWATCHED,
    ("cli.status", "keyfront status"): MENTION,
    ("cli.status", "keyfront up --data {}"): STARTS,
    ("cli.status", "keyfront rotation run{}"): UNWATCHED,
    ("cli.status", "keyfront rotation stop {}{}"): UNWATCHED,
    ("cli.sharing", "keyfront sharing list{}"): SHARING,
    ("cli.store", "keyfront uses {}"): MENTION,
    ("cli.edge_options", "keyfront trust"): TRUST,
    ("cli.trust", "keyfront up --data {}"): STARTS,
    ("cli.trust", "keyfront trust --install{}"): TRUST_STORE,
    ("cli.trust", "keyfront trust --export {}.pem{}"): TRUST_EXPORT,
    ("cli.trust", "keyfront trust {} --data {}"): TRUST_STORE,
    ("runtime.local_authority", "keyfront trust"): TRUST,
    ("control.audit.rotation_events", "keyfront up"): MENTION,
    ("control.edges.registry", "keyfront up"): MENTION,
    ("control.edges.registry", "keyfront edge enroll-token"): EDGES,
    ("control.edges.registry", "keyfront edge revoke {}"): EDGES,
    ("control.own_operations.requests", "keyfront explain --request-id"): MENTION,
    ("control.process", "keyfront up"): MENTION,
    ("control.identity.sealing", "openssl rand -base64 32"): PLAIN,
    ("custody.adapters.filesystem.envelope", "keyfront custody folder {}"): MENTION,
    ("custody.adapters.filesystem.kek", "openssl rand -base64 32"): PLAIN,
    ("custody.agent.authorization", "openssl rand -hex 32"): PLAIN,
    ("custody.signers.key_group_signer", "keyfront follows {}"): MENTION,
    ("edge.origin.shield_protocol", "openssl rand -hex 32 > {}"): PLAIN,
    ("edge.worker", "ulimit -n"): PLAIN,
    ("fleet.remote.authority", "keyfront edge enroll-token"): EDGES,
    (
        "fleet.remote.connect",
        "keyfront edge join --ca",
    ): MENTION,  # without the file; test_edges.py joins with one
    ("fleet.remote.enrollment", "keyfront edge join"): MENTION,
    ("fleet.remote.follower", "keyfront edge join"): MENTION,
    ("fleet.jetstream.follower", "keyfront edge join"): MENTION,
    ("extras", "pip install 'keyfront[{}]'"): EXTRAS,
    ("lifecycle.executor", "keyfront rotation start {}{}"): ROTATIONS,
    ("lifecycle.executor", "keyfront rotation status {}{}"): ROTATIONS,
    ("lifecycle.findings", "keyfront rotation {}{}"): ROTATIONS,
    ("lifecycle.findings", "aws cloudfront get-public-key --id {} --query ETag --output text"): ROTATIONS,
    ("lifecycle.findings", "keyfront env{}"): ROTATIONS,
    ("lifecycle.findings", "keyfront rotation status {}"): ROTATIONS,
    ("lifecycle.findings", "keyfront rotation start {}"): ROTATIONS,
    ("lifecycle.findings", "keyfront rotation terms {} --every 90d"): ROTATIONS,
    ("lifecycle.findings", "keyfront rotation rotate {}"): ROTATIONS,
    ("lifecycle.findings", "keyfront rotation resume {}"): ROTATIONS,
    ("lifecycle.findings", "keyfront rotation emergency {} {}"): ROTATIONS,
    ("lifecycle.findings", "keyfront rotation stop {}"): ROTATIONS,
    ("lifecycle.findings", "keyfront rotation terms {} --max-lifetime {}"): ROTATIONS,
    ("lifecycle.findings", "keyfront rotation status"): ROTATIONS,
    ("lifecycle.findings", "keyfront rotation run {}"): ROTATIONS,
    ("lifecycle.hooks", "chmod go-w {}"): PLAIN,
    ("control.alarms.evaluator", "keyfront up"): MENTION,
    ("cli.alarm", "keyfront alarm test"): MENTION,
    ("cli.alarm", "keyfront alarm list{}"): ALARMS,
    ("monitoring.exposition", "keyfront up"): MENTION,
    ("cli.logs", "keyfront up --data {}"): STARTS,
    ("cli.logs", "keyfront logs query 'DESCRIBE requests'"): LOGS,
    ("cli.logs", "keyfront logs query 'FROM requests WHERE status = 403 LIMIT 5'"): LOGS,
    ("cli.logs", "keyfront logs query top-denials --since 1d"): LOGS,
    ("monitoring.log_query", "keyfront logs query 'DESCRIBE requests'"): LOGS,
    ("runtime.control_process", "keyfront up"): MENTION,
    ("runtime.metrics_process", "keyfront up"): MENTION,
    (
        "runtime.settings",
        "openssl rand -hex 32",
    ): "control/test_metrics_access.py::test_a_file_that_holds_a_token",
    ("runtime.up", "keyfront ready"): MENTION,
    ("runtime.caretaker", "keyfront restart"): FAILED_LATE,
    ("runtime.up", "keyfront restart"): RESTARTS,
    ("runtime.up", "keyfront uses the data folder {}"): MENTION,
    ("signing.diagnosis.search", "openssl dgst -sign"): MENTION,
    ("signing.keys", "openssl can read it"): MENTION,
    ("signing.keys", "openssl pkey -in private_key.pem -pubout -out public_key.pem"): PLAIN,
    ("signing.keys", "openssl pkey -in KEY -out private_key.pem"): PLAIN,
    ("signing.keys", "openssl genrsa -out private_key.pem 2048"): PLAIN,
    ("signing.keys", "ssh-keygen -p -m PEM -N '' -f COPY_OF_KEY"): PLAIN,
    ("signing.keys", "openssl ecparam -name prime256v1 -genkey -noout -out private_key.pem"): PLAIN,
}
"""Each printed command, by its module below `keyfront`, and the test that runs it."""


def test_every_printed_command_has_a_case() -> None:
    found = {(each.module.removeprefix("keyfront."), each.command) for each in printed()}
    assert found - set(CASES) == set(), "run it in a test, and add it here"
    assert set(CASES) - found == set(), "no longer printed"
    for test in {*CASES.values()} - {MENTION}:
        file, _, name = test.rpartition("::")
        assert name in globals() if not file else f"def {name}(" in (ROOT / "tests" / file).read_text()


def of(test: str) -> list[str]:
    """The commands that a test runs."""
    return sorted({command for (_, command), by in CASES.items() if by == test})


def run(command: str, folder: Path | None = None, given: str | None = None) -> Result:
    """A command of Keyfront's as printed, which must succeed. Where it prompts, `given` is the answer."""
    words = shlex.split(command)
    assert words[0] == "keyfront"
    done = CliRunner().invoke(keyfront, words[1:], input=given)
    assert done.exit_code == 0, (command, done.output)
    return done


def shell(command: str, folder: Path) -> str:
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


# ---- commands that need no Keyfront


@pytest.mark.parametrize("command", of(PLAIN))
def test_a_plain_command_does_what_it_says(command: str, tmp_path: Path) -> None:
    if shutil.which(command.split(maxsplit=1)[0]) is None and command.split(maxsplit=1)[0] != "ulimit":
        pytest.skip(f"no {command.split(maxsplit=1)[0]} on this machine")
    pem = (KEYS / "rsa.pem").read_bytes()
    (tmp_path / "private_key.pem").write_bytes(pem)
    (tmp_path / "KEY").write_bytes(pem)
    key = load_pem_private_key(pem, None)
    openssh = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    (tmp_path / "COPY_OF_KEY").write_bytes(openssh)
    (tmp_path / "COPY_OF_KEY").chmod(0o600)
    (tmp_path / "a file").touch(mode=0o666)
    out = shell(command.replace("{}", "'a file'"), tmp_path)
    if command.startswith("openssl rand -base64"):
        assert len(base64.b64decode(out)) == 32
    elif command.startswith("openssl rand -hex"):
        assert re.fullmatch(r"[0-9a-f]{64}\n", out or (tmp_path / "a file").read_text())
    elif command.startswith("chmod"):
        assert not (tmp_path / "a file").stat().st_mode & 0o022
    elif command.startswith("ssh-keygen"):
        parse_private_key((tmp_path / "COPY_OF_KEY").read_bytes())
    elif "-pubout" in command:
        load_public_key((tmp_path / "public_key.pem").read_bytes())
    elif "private_key.pem" in command:
        parse_private_key((tmp_path / "private_key.pem").read_bytes())


def test_an_extra_that_is_named_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(EXTRAS_OF.values()) <= set(extras)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on this machine")
def test_the_notes_on_a_key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    key = load_pem_private_key((KEYS / "rsa.pem").read_bytes(), None)
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    pkcs8 = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for name, data, results in (
        ("a der", der, ["private_key.pem"]),
        ("b64", base64.encodebytes(der), ["private_key.pem"]),
        ("pkcs8.pem", pkcs8, ["rsa_key.pem"]),
    ):
        (tmp_path / name).write_bytes(data)
        done = run(f"keyfront key check '{name}'")
        commands = re.findall(r"`([^`]+)`", done.stderr)
        assert len(commands) == len(results), done.stderr
        for command, result in zip(commands, results, strict=True):
            shell(command, tmp_path)
            made = (tmp_path / result).read_bytes()
            assert made.startswith(b"-----BEGIN")
            assert parse_private_key(made).public_key == parse_private_key(pkcs8).public_key
            (tmp_path / result).unlink()
        assert ("BEGIN RSA PRIVATE KEY" in done.stderr) is (name == "pkcs8.pem")


@pytest.mark.parametrize("template", of(STARTS))
def test_a_command_that_starts_keyfront_is_one_that_it_accepts(template: str, tmp_path: Path) -> None:
    """The command is parsed with all its options. `tests/stories/test_rotation_by_readme.py` runs one."""
    folder = tmp_path / "a b"
    command = template.format(shlex.quote(str(folder)), shlex.quote(own_custody(folder)))
    context = up.make_context("up", shlex.split(command)[2:])
    assert context.params["data"] == folder
    failed = CliRunner().invoke(keyfront, ["audit", "list", "--data", str(folder)])
    assert f"keyfront up --data '{folder}'" in failed.stderr, "quoted for a shell"


# ---- an installation that is not running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The data folder of a Keyfront that was started once, whose name a shell must quote."""
    data = tmp_path / "my state"
    data.mkdir(mode=0o700)
    load(data / "credentials", "000000000000")
    Store(data / "keyfront.db").close()
    write_installation(data, Installation(control="http://127.0.0.1:9", records=own_custody(data)))
    return data


def test_the_commands_of_access_and_audit(folder: Path) -> None:
    data = f"--data {shlex.quote(str(folder))}"
    made = run(f"keyfront access user create ci --role auditor --key {data}").stdout
    assert "\nregion = " in made, "a profile that is complete"
    done = run(f"keyfront access key rotate ci {data}")
    commands = re.findall(r"`([^`]+)`", done.stderr)
    assert [each.split()[:4] for each in commands] == [
        ["keyfront", "access", "key", "list"],
        ["keyfront", "access", "key", "revoke"],
    ]
    for command in commands:
        run(command)
    assert len(run(f"keyfront access key list ci {data}").stdout.splitlines()) == 2
    failed = CliRunner().invoke(keyfront, shlex.split(f"audit verify --expect x {data}"))
    (command,) = re.findall(r"`([^`]+)`", failed.stderr)
    run(command)


def test_a_deletion_is_canceled_as_it_says(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = f"--data {shlex.quote(str(folder))}"
    run(f"keyfront custody create photos {data}")
    (command,) = commands_in(
        run(f"keyfront custody delete photos {data}").stderr.replace(own_custody(folder), "@")
    )
    run(command.replace("@", own_custody(folder)))
    run(f"keyfront custody show photos {data}")


def test_a_configuration_file_is_created_as_it_says(folder: Path) -> None:
    check = ["config", "check", "--data", str(folder)]
    failed = CliRunner().invoke(keyfront, check)
    (command,) = re.findall("`([^`]+)`", failed.stderr)
    line, _, file = command.partition(" > ")
    (path,) = shlex.split(file)
    Path(path).write_text(run(line).stdout)
    assert CliRunner().invoke(keyfront, check).exit_code == 0


def test_the_commands_for_edges(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those for the control plane's machine run there. `tests/stories/test_edges.py` joins and revokes an edge; here
    the printed commands meet their options."""
    monkeypatch.setenv("KEYFRONT_DATA", str(folder))
    made = run("keyfront edge enroll-token")
    (join,) = re.findall("on the edge's machine: (keyfront .*)", made.stderr)
    control = "https://control.test:9443"
    for command in (
        join.replace("https://HOST:PORT", control).replace("TOKEN", made.stdout.strip()),
        f"keyfront edge join --control {control} --token …",
    ):
        words = shlex.split(command)
        assert edge.commands["join"].make_context("join", words[3:]).params["controls"] == (control,)
    assert edge.commands["revoke"].make_context("revoke", ["one"]).params["name"] == "one"


# ---- a control plane


@pytest.fixture
def plane(folder: Path) -> Iterator[Plane]:
    """A control plane with a key group that a distribution trusts, whose name a shell must quote."""
    with Plane(folder) as running:
        write_installation(folder, Installation(control=running.endpoint, records=own_custody(folder)))
        config = {"CallerReference": "1", "Name": "one", "EncodedKey": public_pem()}
        key = running.client().create_public_key(PublicKeyConfig=config)["PublicKey"]["Id"]
        group = running.client().create_key_group(KeyGroupConfig={"Name": "my films", "Items": [key]})
        distribution = distribution_config("site", [group["KeyGroup"]["Id"]])
        running.client().create_distribution(DistributionConfig=distribution)
        running.obey()
        yield running


def test_the_commands_of_key_warnings(plane: Plane, folder: Path, tmp_path: Path) -> None:
    """In an order in which each makes sense."""
    data = f" --data {shlex.quote(str(folder))}"
    commands = Commands.of_keyfront(data)
    ran: set[str] = set()

    def perform(*words: str, given: str | None = None) -> Result:
        command = commands.rotation(*words)
        ran.add(re.sub("K[A-Z0-9]{10,}|my films|8d", "{}", " ".join(["keyfront rotation", *words])))
        if words[0] in ("emergency", "stop"):  # it prompts, which needs a terminal
            command += " --yes"
        return run(command, given=given)

    warned = CliRunner().invoke(keyfront, shlex.split(f"key warnings{data}"))
    assert commands.rotation("start", "my films") in warned.stdout
    refused = CliRunner().invoke(keyfront, shlex.split(f"rotation status 'my films'{data}"))
    (remedy,) = re.findall("`([^`]+)`", refused.stderr)
    run(remedy)
    again = CliRunner().invoke(keyfront, shlex.split(remedy)[1:])
    (remedy,) = re.findall("`([^`]+)`", again.stderr)
    run(remedy)
    run(f"keyfront rotation stop 'my films' --yes{data}")
    with plane.reporting_edge():
        perform("start", "my films")
        perform("run", "my films")
        perform("status")
        perform("status", "my films")
        run(f"keyfront rotation run --until-idle{data}")
        perform("terms", "my films", "--every", "90d")
        perform("terms", "my films", "--max-lifetime", "8d")
        run(f"keyfront rotation pause 'my films'{data}")
        assert (
            commands.rotation("resume", "my films")
            in CliRunner().invoke(keyfront, shlex.split(f"key warnings{data}")).stdout
        )
        perform("resume", "my films")
        perform("rotate", "my films")
        run(f"keyfront rotation run --until-idle{data}")
        keys = re.findall(r"\bK[A-Z0-9]{10,}\b", perform("status", "my films").stdout)
        perform("emergency", "my films", keys[-1])
    perform("stop", "my films")
    ran.add("keyfront rotation {}{}")
    ran |= {"keyfront rotation start {}{}", "keyfront rotation status {}{}"}

    config = {"CallerReference": "2", "Name": "unused", "EncodedKey": (KEYS / "rsa.pub").read_text()}
    unused = plane.client().create_public_key(PublicKeyConfig=config)["PublicKey"]["Id"]
    shown = CliRunner().invoke(keyfront, shlex.split(f"key warnings{data}")).stdout
    delete = commands.delete_public_key(unused)
    assert delete in shown
    if shutil.which("aws", path=str(Path(sys.executable).parent)) is not None:
        shell(f"export PATH={Path(sys.executable).parent}:$PATH; {delete}", tmp_path)
        left = plane.client().list_public_keys()["PublicKeyList"].get("Items", [])
        assert unused not in [key["Id"] for key in left]
    ran |= {"keyfront env{}", "aws cloudfront get-public-key --id {} --query ETag --output text"}
    assert ran == set(of(ROTATIONS))


def test_the_commands_for_records_that_nothing_watches(plane: Plane, folder: Path, tmp_path: Path) -> None:
    data = f"--data {shlex.quote(str(folder))}"
    begun = run(f"keyfront rotation start 'my films' {data}")
    (following,) = re.findall("Next: (.*)", begun.stdout)
    (warned,) = re.findall("`([^`]+)`", begun.stderr)
    assert following == warned == f"keyfront rotation run {data}"
    run(following)
    # The Keyfront now watches other records than those in its data folder.
    write_installation(folder, Installation(control=plane.endpoint, records=f"file:{tmp_path}/others/"))
    shown = CliRunner().invoke(keyfront, shlex.split(f"status {data}"))
    perform, stop = re.findall("`(keyfront rotation [^`]+)`", shown.stdout)
    run(perform)
    run(f"{stop} --yes")
    assert list(open_records(own_custody(folder)).names()) == []
    assert "!" not in CliRunner().invoke(keyfront, shlex.split(f"status {data}")).stdout
