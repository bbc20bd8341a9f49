"""`keyfront up --tls` without certificates: HTTPS at once, for every client that trusts the local authority by the
lines that `keyfront trust` prints."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import trustme
from click.testing import CliRunner

from keyfront.cli import trust
from keyfront.cli.main import keyfront
from tests.rows import rows
from tests.stories.conftest import PAGE
from tests.up import PATIENCE, Up, distribution_config

PYTHON = """
import requests
print(requests.get("{url}", headers={{"Host": "{host}"}}).text, end="")
"""
URLLIB = """
from urllib.request import Request, urlopen
print(urlopen(Request("{url}", headers={{"Host": "{host}"}})).read().decode(), end="")
"""
NODE = """
require("https").get("{url}", {{headers: {{Host: "{host}"}}}}, r => r.pipe(process.stdout))
"""
CLIENTS = {
    "CURL_CA_BUNDLE": ["curl", "-sS", "--fail", "-H", "Host: {host}", "{url}"],
    "REQUESTS_CA_BUNDLE": [sys.executable, "-c", PYTHON],
    "SSL_CERT_FILE": [sys.executable, "-c", URLLIB],
    "NODE_EXTRA_CA_CERTS": ["node", "-e", NODE],
}
"""A client for each variable that `keyfront trust` names. It connects to localhost: not every client resolves the names
below it."""


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with Up(tmp_path_factory.mktemp("tls") / "data", options=("--tls", "127.0.0.1:0"), workers=1) as running:
        yield running
        assert running.stop() == 0


@pytest.fixture(scope="module")
def host(up: Up, page_origin: int) -> str:
    return str(up.create_distribution(page_origin)["DomainName"])


def shell(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-ec", script], capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def is_served(curl: str) -> bool:
    return shell(curl).stdout == PAGE.decode()


def printed(up: Up) -> str:
    done = CliRunner().invoke(keyfront, ["trust", "--data", str(up.data)])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("variable", CLIENTS)
def test_clients_trust_it_by_the_line_that_is_printed(up: Up, host: str, variable: str) -> None:
    words = [word.format(url=f"https://localhost:{up.tls_port}/a", host=host) for word in CLIENTS[variable]]
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    client = shlex.join(words)
    (export,) = (line for line in printed(up).splitlines() if f"export {variable}=" in line)
    assert shell(client).returncode != 0
    done = shell(f"{export}\n{client}")
    assert (done.returncode, done.stdout) == (0, PAGE.decode()), done.stderr


def test_aliases_are_covered_as_soon_as_they_exist(up: Up, page_origin: int) -> None:
    """One of them is a public name, so it needs a new authority."""
    config = distribution_config("aliased", page_origin, [])
    config["Aliases"] = {"Quantity": 2, "Items": ["shop.test", "www.shop.com"]}
    made = up.client().create_distribution(DistributionConfig=config)["Distribution"]
    up.deployed(made["Id"])
    authority = up.data / "local-authority" / "ca.pem"
    for name in ("shop.test", "www.shop.com", made["DomainName"]):
        url = f"https://{name}:{up.tls_port}/a"
        curl = f"curl -sS --fail --cacert {authority} --resolve {name}:{up.tls_port}:127.0.0.1 {url}"
        up.until(partial(is_served, curl))
    assert "www.shop.com" in printed(up)
    assert any("a new local authority vouches for www.shop.com too" in line for line in up.log)


def test_the_http_version_of_a_distribution_is_obeyed(up: Up, host: str, page_origin: int) -> None:
    if "HTTP2" not in shell("curl --version").stdout:
        pytest.skip("this curl has no HTTP/2")
    config = {**distribution_config("http/1.1 only", page_origin, []), "HttpVersion": "http1.1"}
    made = up.client().create_distribution(DistributionConfig=config)["Distribution"]
    up.deployed(made["Id"])
    authority = up.data / "local-authority" / "ca.pem"

    def version(name: str) -> str:
        resolve = f"--resolve {name}:{up.tls_port}:127.0.0.1"
        url = f"https://{name}:{up.tls_port}/a"
        return shell(
            f"curl -sS --fail --cacert {authority} {resolve} -o /dev/null -w '%{{http_version}}' {url}"
        ).stdout

    assert (version(made["DomainName"]), version(host)) == ("1.1", "2")
    # Changed while both run: it applies to the next connection.
    found = up.client().get_distribution_config(Id=made["Id"])
    config = {**found["DistributionConfig"], "HttpVersion": "http2and3"}
    up.client().update_distribution(Id=made["Id"], IfMatch=found["ETag"], DistributionConfig=config)
    up.deployed(made["Id"])
    assert version(made["DomainName"]) == "2"


def test_status_names_its_certificates(up: Up, host: str) -> None:
    done = CliRunner().invoke(keyfront, ["status", "--data", str(up.data)])
    assert "local-authority/1.pem" in done.stdout


def test_its_certificate_is_exported_for_other_machines(up: Up, host: str, tmp_path: Path) -> None:
    (command,) = (line.strip() for line in printed(up).splitlines() if "--export" in line)
    path = (
        f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; cd {shlex.quote(str(tmp_path))}"
    )
    assert shell(f"{path}; {command}").returncode == 0
    (file,) = tmp_path.iterdir()
    pem = (up.data / "local-authority" / "ca.pem").read_bytes()
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (pem, 0o644)
    done = CliRunner().invoke(keyfront, ["trust", "--export", "-", "--data", str(up.data)])
    assert (done.exit_code, done.stdout) == (0, pem.decode()), "nothing else, so that it can be piped"


@rows(
    ("options", "message"),
    [
        (["--export", "missing/ca.pem"], "missing/ca.pem cannot be written: No such file or directory"),
        (["--export", "-", "--install"], "--install, --remove, and --export exclude each other"),
    ],
)
def test_an_export_that_is_impossible_says_why(up: Up, options: list[str], message: str) -> None:
    done = CliRunner().invoke(keyfront, ["trust", *options, "--data", str(up.data)])
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr


COUNT = "import ssl; print(len(ssl.create_default_context().get_ca_certs()))"


def test_the_lines_say_that_they_replace_the_systems_authorities(up: Up) -> None:
    """With the line for `ssl`, it knows one authority. That for Node.js stands apart, because it adds one."""
    shown = printed(up)
    (export,) = (line for line in shown.splitlines() if "export SSL_CERT_FILE=" in line)
    done = shell(f"{export}\n{shlex.join([sys.executable, '-c', COUNT])}")
    assert done.stdout == "1\n", done.stderr
    replacing, adding = shown.index("instead of the system's"), shown.index("In addition to")
    assert replacing < shown.index("SSL_CERT_FILE") < adding < shown.index("NODE_EXTRA_CA_CERTS")


def test_both_are_trusted_with_the_lines_of_the_guide(up: Up, host: str, tmp_path: Path) -> None:
    """The guide appends the local authority to a copy of the system's."""
    system = Path("/etc/ssl/certs/ca-certificates.crt")
    if not system.exists():
        pytest.skip(f"there is no {system}")
    guide = (Path(__file__).parents[2] / "docs" / "guide" / "tls.md").read_text()
    lines = [line.strip() for line in guide.splitlines() if "both.pem" in line]
    assert len(lines) == 2
    folders = f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH KEYFRONT_DATA={up.data}"
    client = f"curl -sS --fail https://localhost:{up.tls_port}/a -H 'Host: {host}'"
    count = shlex.join([sys.executable, "-c", COUNT])
    done = shell(f"cd {tmp_path}; {folders}; {'; '.join(lines)}; {client}; {count}")
    page, _, number = done.stdout.rpartition(PAGE.decode())
    assert (done.returncode, page) == (0, ""), done.stderr
    assert int(number) > 1


def test_a_machine_with_update_ca_certificates_trusts_it(up: Up, host: str, tmp_path: Path) -> None:
    """In a mount namespace of the test's own, whose system trusts one other authority."""
    if shutil.which("update-ca-certificates") is None:
        pytest.skip("update-ca-certificates is not installed")
    space = ["unshare", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*space, "true"], check=False).returncode:
        pytest.skip("no mount namespace can be created here")
    client = (
        f"curl -sS -o /dev/null -w '%{{http_code}}\n' https://localhost:{up.tls_port}/a -H 'Host: {host}'"
    )
    command = shlex.join([sys.executable, "-m", "keyfront", "trust", "--data", str(up.data)])
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.crt")
    script = f"""
        for folder in /etc/ssl/certs /usr/local/share/ca-certificates; do mount -t tmpfs none $folder; done
        mount --bind /dev/null /etc/ca-certificates.conf  # instead of the distribution's: each costs time
        cp {tmp_path}/other.crt /usr/local/share/ca-certificates
        {client} || true
        {command} --install
        {client}
        {command} --remove
        {client} || true
    """
    done = subprocess.run(
        [*space, "bash", "-ec", script], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "000",
        "this machine trusts the local authority",
        "200",
        "this machine does not trust the local authority",
        "000",
    ]


def test_the_databases_of_browsers_trust_it_by_the_lines_that_are_printed(up: Up, tmp_path: Path) -> None:
    if shutil.which("certutil") is None:
        pytest.skip("certutil is not installed")
    lines = [line.strip() for line in printed(up).splitlines() if ".pki/nssdb" in line]
    done = shell(f"export HOME={tmp_path}; {'; '.join(lines)}; certutil -d sql:$HOME/.pki/nssdb -L")
    assert (done.returncode, done.stdout.split()[-2:]) == (0, ["keyfront-local-authority", "C,,"]), (
        done.stderr
    )


def test_the_system_trusts_it_until_it_is_removed(
    up: Up, host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a store in a folder of the test's own."""
    monkeypatch.setattr(trust, "STORES", ((tmp_path, "a.crt", ("true",)),))
    monkeypatch.setattr(sys, "platform", "linux")
    done = CliRunner().invoke(keyfront, ["trust", "--install", "--data", str(up.data)])
    assert done.stdout == "this machine trusts the local authority\n"
    assert (tmp_path / "a.crt").read_bytes() == (up.data / "local-authority" / "ca.pem").read_bytes()
    done = CliRunner().invoke(keyfront, ["trust", "--remove", "--data", str(up.data)])
    assert done.stdout == "this machine does not trust the local authority\n"
    assert not (tmp_path / "a.crt").exists()
