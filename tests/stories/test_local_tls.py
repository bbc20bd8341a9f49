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
from click.testing import CliRunner

from keyfront.cli import trust
from keyfront.cli.main import keyfront
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


def test_status_names_its_certificates(up: Up, host: str) -> None:
    done = CliRunner().invoke(keyfront, ["status", "--data", str(up.data)])
    assert "local-authority/1.pem" in done.stdout


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
