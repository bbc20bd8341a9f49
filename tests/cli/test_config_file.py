"""The configuration file of `keyfront up`: every option has a key, faults have lines, and who takes precedence."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import trustme
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from scripts.configuration import PAGE, page

from keyfront.cli.config_file import ConfigContext, effective, keyed
from keyfront.cli.main import keyfront
from keyfront.cli.options import group_of
from keyfront.cli.up import read_settings, up, up_settings
from keyfront.errors import DeclarationError, SettingsError
from tests.rows import rows

NOT_IN_THE_FILE = {"config"}


@pytest.fixture(autouse=True)
def _no_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("DATA", "STORE", "STORE_PASSWORD_FILE", "RECORDS"):
        monkeypatch.delenv(f"KEYFRONT_{variable}", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "users"))
    monkeypatch.chdir(tmp_path)


def written(folder: Path, text: str) -> Path:
    file = folder / "site.toml"
    file.write_text(text)
    return file


def values(*arguments: str) -> dict[str, tuple[str, str]]:
    """What is in effect, as TOML, and its source, by key."""
    with up_settings.make_context("up", list(arguments)) as ctx:
        assert isinstance(ctx, ConfigContext)
        return {name: (value, origin) for _, name, value, origin in effective(ctx, up_settings)}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(keyfront, arguments)


def test_every_option_has_a_key() -> None:
    assert {param.name for param in up.params if not group_of(param)} == NOT_IN_THE_FILE
    keys = [name for _, name, _ in keyed(up)]
    assert len(keys) == len(set(keys)) == len(up.params) - len(NOT_IN_THE_FILE)


def test_the_reference_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "out of date: run `make docs`"


def test_the_help_shows_every_option_in_its_group() -> None:
    help_ = run("up", "--help").output
    for group in {group_of(param) for param in up.params} - {""}:
        assert f"\n[{group}]:\n" in help_
    assert help_.index("[limits]:") < help_.index("--head-timeout") < help_.index("[logs]:")
    assert help_.rstrip().splitlines()[-1].endswith("Show this message and exit.")


def test_what_the_file_sets_is_used(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    file = written(
        tmp_path,
        """
        [installation]
        data = "data"
        [edge]
        edge = "127.0.0.1:0"
        memory = 7
        cache-disk = "1G"
        cache-status = true
        [supervision]
        workers = 3
        stuck-after = 2.5
        [control]
        quota = ["public-keys=12"]
        rotation = false
        edge-certificates = "2d"
        [origins]
        origin-ca = "ca.pem"
        [limits]
        head-timeout = 1.5
        upload-buffer = 4096
        [logs]
        verbose = 2
        log-format = "json"
        """,
    )
    found = read_settings(["--config", str(file)])
    assert found.data == tmp_path / "data"
    assert (found.worker.host, found.worker.port) == ("127.0.0.1", 0)
    assert found.worker.edge.memory == 7 << 20
    assert found.worker.edge.cache_disk == 1 << 30
    assert found.worker.edge.cache_status
    assert found.worker.edge.ca_file == str(tmp_path / "ca.pem")
    assert (found.supervision.workers, found.supervision.stuck_after) == (3, 2.5)
    assert found.control.quotas.public_keys == 12
    assert found.control.rotation is False
    assert found.control.edge_lifetime == 2 * 86_400
    assert found.worker.limits.head == 1.5
    assert found.worker.edge.uploads.buffer == 4096
    assert (found.logs.level, found.logs.format) == (10, "json")


def test_command_line_then_environment_then_file_then_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path, '[edge]\nmemory = 7\npop = "A1"\n[control]\nrecords = "file:/one/"\n')
    found = values("--config", str(file), "--memory", "9")
    assert found["memory"] == ("9", "command line")
    assert found["pop"] == ('"A1"', f"{file}:3")
    assert found["records"] == ('"file:/one/"', f"{file}:5")
    assert found["max-object"] == ("1", "default")
    monkeypatch.setenv("KEYFRONT_RECORDS", "file:/two/")
    assert values("--config", str(file))["records"] == ('"file:/two/"', "KEYFRONT_RECORDS")
    assert read_settings(["--config", str(file)]).control.records == "file:/two/"
    assert values("--config", str(file), "--records", "file:/3/")["records"][1] == "command line"


def test_the_file_in_the_data_folder_is_the_default(tmp_path: Path) -> None:
    (tmp_path / "keyfront.toml").write_text("[edge]\nmemory = 7\n")
    assert values("--data", str(tmp_path))["memory"][0] == "7"
    assert values("--data", str(tmp_path / "other"))["memory"][0] == "256"
    other = written(tmp_path, "[edge]\nmemory = 8\n")
    assert values("--data", str(tmp_path), "--config", str(other))["memory"][0] == "8"
    (tmp_path / "keyfront.toml").write_text('[installation]\ndata = "other"\n')
    with pytest.raises(DeclarationError, match=r"keyfront\.toml:2: installation\.data: .*use --config"):
        values("--data", str(tmp_path))


def test_no_password_of_the_store_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYFRONT_STORE", "postgresql://me:secret@db/kf")
    shown = run("config", "show").output
    assert 'store = "postgresql://me@db/kf"  # KEYFRONT_STORE' in shown
    assert "secret@" not in shown


@rows(
    ("text", "message"),
    [
        ("[edge]\nmemroy = 7", "2: edge.memroy: there is no such key: did you mean memory?"),
        ("\n[egde]\nmemory = 7", "2: egde: there is no such table: did you mean edge?"),
        ("[edge]\nworkers = 7", "2: edge.workers: this key belongs in the table [supervision]"),
        ("workers = 7", "1: workers: this key belongs in the table [supervision]"),
        ("edge = 7", "1: edge: this key belongs in the table [edge]"),
        ("logs = 7", "1: logs: must be a table: [logs]"),
        ('[edge]\n\nmemory = "7"', "3: edge.memory: must be a whole number"),
        ("[edge]\nmemory = true", "2: edge.memory: must be a whole number"),
        ("[edge]\nmemory = 0", "2: edge.memory: 0 is not in the range"),
        ("[edge]\npop = 7", "2: edge.pop: must be a string"),
        ("[edge]\npop = 'a b'", "2: edge.pop: 'a b' is not the name of an edge location"),
        ("[edge]\ncache-status = 1", "2: edge.cache-status: must be true or false"),
        ("[edge]\ncache-disk = 1", "2: edge.cache-disk: 1 is too small"),
        ("[edge]\nedge = 'here'", "2: edge.edge: 'here' is not an address of the form HOST:PORT"),
        ("[edge]\ncountry-db = 'none'", "2: edge.country-db: File '"),
        ("[edge]\ntrusted-proxies = 'x'", "2: edge.trusted-proxies: 'x' is not a network"),
        ("[control]\nquota = 'public-keys=1'", "2: control.quota: must be a list of strings"),
        ("[control]\nquota = ['keys=1']", "2: control.quota: 'keys' is not a quota"),
        ("[control]\nmetrics = 'all,off'", "2: control.metrics: --metrics 'all,off' is none of"),
        ("[limits]\nhead-timeout = 0", "2: limits.head-timeout: 0 is not a number of seconds"),
        ("[limits]\nhead-timeout = '5s'", "2: limits.head-timeout: must be a number"),
        ("[logs]\nlog-format = 'xml'", "2: logs.log-format: 'xml' is not one of"),
        ("[logs]\nverbose = -1", "2: logs.verbose: -1 is not in the range"),
        ("[origins]\nallow-origins = ['10.0.0.0/33']", "2: origins.allow-origins: '10.0.0.0/33' is not"),
        ("[installation]\nstore = 'mysql://x'", "2: installation.store: the store's URL is not"),
        ("[installation]\nstore = 'postgresql://a:b@c/d'", "2: installation.store: --store must not contain"),
        ("[edge]\npop = ", " this is not TOML: "),
    ],
)
def test_a_fault_has_a_file_and_a_line(text: str, message: str, tmp_path: Path) -> None:
    file = written(tmp_path, text)
    with pytest.raises(DeclarationError) as raised:
        values("--config", str(file))
    assert str(raised.value).startswith(f"{file}:{message}")


@rows(
    ("text", "message"),
    [
        ("[edge]\ncertificates = '.'", "2: --certificates requires --tls"),
        ("[supervision]\nstuck-after = 1", "2: --stuck-after: less than 2 seconds"),
        ("[control]\nedge-certificates = '1s'", "2: --edge-certificates must be between"),
        ("[control]\nedges-tls-key = 'site.toml'", "2: --edges-tls-key requires --edges-tls-cert"),
        ("[control]\nedges-tls-cert = 'site.toml'", "2: --edges-tls-cert requires --edges"),
        ("[nats]\nnats-bucket = 'other'", "2: --nats-bucket requires --nats"),
        ("[nats]\nnats = ['nats://a']\nnats-bucket = 'a.b'", "3: --nats-bucket 'a.b': 1 to 32 letters"),
        ("[nats]\nnats = ['nats://a']\nnats-creds = 'site.toml'", "3: --nats-creds: "),
        (
            "[control]\nedges-tls-cert = 'site.toml'\nedges = '127.0.0.1:0'",
            "2: --edges-tls-cert: the certificate",
        ),
        ("[fleet]\nshield = '127.0.0.1:0'", "2: --shield and --origin-shield need --shield-secret"),
        ("[control]\ncontrol = '127.0.0.1:0'\n[fleet]\nfeed='.'", "2: --control is for a control plane"),
    ],
)
def test_a_fault_of_several_options_has_the_line_of_one(text: str, message: str, tmp_path: Path) -> None:
    file = written(tmp_path, text)
    with pytest.raises(SettingsError) as raised:
        read_settings(["--config", str(file), "--data", str(tmp_path / "data")])
    assert str(raised.value).startswith(f"{file}:{message}")


def test_check_names_every_fault_on_a_line_of_its_own(tmp_path: Path) -> None:
    file = written(tmp_path, "[edge]\nmemory = 0\n[limits]\nidle = 3\n")
    done = run("config", "check", str(file))
    assert done.exit_code == 2
    lines = done.stderr.splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["keyfront", "keyfront"]
    assert f"{file}:2" in lines[0]
    assert f"{file}:4" in lines[1]


@pytest.fixture
def unusable(tmp_path: Path) -> Path:
    """A folder with files of each kind that cannot be used."""
    folder = tmp_path
    made = trustme.CA().issue_cert("site.test")
    for name in ("other-key", "passphrase", "nothing", "garbage"):
        (folder / name).mkdir()
    (folder / "nothing" / "readme.txt").touch()
    chain = b"".join(pem.bytes() for pem in made.cert_chain_pems)
    other = trustme.CA().issue_cert("site.test").private_key_pem.bytes()
    key = load_pem_private_key(made.private_key_pem.bytes(), None)
    sealed = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    for name, private in (("other-key", other), ("passphrase", sealed)):
        (folder / name / "a.crt").write_bytes(chain)
        (folder / name / "a.key").write_bytes(private)
    (folder / "garbage" / "a.pem").write_bytes(b"garbage")
    (folder / "garbage.pem").write_bytes(b"garbage")
    (folder / "garbage.pem").chmod(0o600)
    return folder


TLS = "[edge]\ntls = '127.0.0.1:0'\ncertificates = "
EDGES = "[control]\nedges = '127.0.0.1:0'\nedges-tls-cert = "
NONE = "3: --certificates: there is no certificate that can be used in {}"


@rows(
    ("text", "message"),
    [
        (TLS + "'nothing'", NONE + "/nothing"),
        (
            TLS + "'other-key'",
            NONE + "/other-key: the certificate a.crt is refused: a.key is not the key of a.crt",
        ),
        (
            TLS + "'passphrase'",
            NONE + "/passphrase: the certificate a.crt is refused: its private key is protected",
        ),
        (TLS + "'garbage'", NONE + "/garbage: the certificate a.pem is refused: a.pem holds no certificate"),
        (EDGES + "'garbage.pem'", "3: --edges-tls-cert: the certificate in {}/garbage.pem with the key in"),
        (
            EDGES + "'other-key/a.crt'\nedges-tls-key = 'other-key/a.key'",
            "3: --edges-tls-cert: the certificate in {}/other-key/a.crt with the key in {}/other-key/a.key cannot",
        ),
        (
            "[origins]\norigin-ca = 'garbage.pem'",
            "2: --origin-ca: no certificate authorities in {}/garbage.pem",
        ),
        ("[edge]\ncountry-db = 'garbage.pem'", "2: --country-db: "),
    ],
)
def test_check_names_a_file_that_cannot_be_used(text: str, message: str, unusable: Path) -> None:
    file = written(unusable, text)
    done = run("config", "check", str(file))
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"keyfront: {file}:{message.replace('{}', str(unusable))}"), done.stderr
    assert done.stderr.count("\n") == 1


def test_check_of_a_valid_file(tmp_path: Path) -> None:
    done = run("config", "check", str(written(tmp_path, "[edge]\nmemory = 7\n")))
    assert (done.exit_code, done.output) == (0, f"{tmp_path}/site.toml is valid\n")
    assert not (tmp_path / "users").exists(), "a check changes nothing"


def test_check_without_a_file_says_how_to_make_one(tmp_path: Path) -> None:
    done = run("config", "check", "--data", str(tmp_path))
    assert done.exit_code == 2
    printed = done.stderr.split("`")[1]
    command, _, target = printed.partition(" > ")
    assert command.startswith("keyfront config show")
    Path(target).write_text(run(*command.split()[1:]).output)
    assert run("config", "check", "--data", str(tmp_path)).exit_code == 0


def test_what_show_prints_is_a_file_with_the_same_values(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        '[edge]\nmemory = 7\ncache-disk = "65M"\n[logs]\nverbose = 1\n'
        '[control]\nquota = ["public-keys=1"]\nrotation = false\n',
    )
    shown = run("config", "show", "--config", str(file)).output
    assert tomllib.loads(shown)["edge"]["cache-disk"] == "65M"
    again = tmp_path / "again.toml"
    again.write_text(shown)
    assert read_settings(["--config", str(again)]) == read_settings(["--config", str(file)])
