"""docs/guide/edges.md, run as written: a control plane and an edge on another machine."""

from __future__ import annotations

import ipaddress
import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from keyfront import load_signer, sign_url
from keyfront.cli.main import keyfront
from keyfront.fleet.remote import authority
from tests.up import Up, distribution_config

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "guide" / "edges.md"
KEYS = ROOT / "tests" / "vectors" / "keys"


class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"photo")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def app() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), App)
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


class Operator:
    """Runs the guide's commands, with this test's folders and ports."""

    def __init__(self, folder: Path) -> None:
        self.control, self.edge = folder / "control", folder / "edge"
        self.token = ""
        self.port = 0

    def words(self, beginning: str, option: str = "") -> list[str]:
        """The words of the guide's first command that begins like this and has the option, as a shell reads them."""
        text = GUIDE.read_text()
        commands = [
            line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()
        ]
        command = next(line for line in commands if line.startswith(beginning) and option in line)
        command = command.replace("/srv/keyfront", str(self.control)).replace(
            "/var/lib/keyfront", str(self.edge)
        )
        command = re.sub(r"https://\w+\.example\.com:9443", f"https://127.0.0.1:{self.port}", command)
        script = 'keyfront() { for word; do printf "%s\\0" "$word"; done; }\n' + command
        done = subprocess.run(
            ["sh", "-euc", script], env={"TOKEN": self.token}, capture_output=True, text=True, check=True
        )
        return done.stdout.split("\0")[:-1]

    def run(self, beginning: str, *more: str) -> str:
        """The standard output of the guide's command."""
        done = CliRunner().invoke(keyfront, [*self.words(beginning), *more])
        assert done.exit_code == 0, (done.output, done.exception)
        return done.stdout

    def up(self, beginning: str, data: Path, *, enrolled: bool = False) -> Up:
        """The process that the guide starts, on free ports."""
        words = self.words(beginning)
        assert words[:3] == ["up", "--data", str(data)]
        options = [
            re.sub(r"^0\.0\.0\.0:\d+$", "127.0.0.1:0", word) for word in words[3:] if word != "0.0.0.0:80"
        ]
        return Up(
            data, workers=1, options=tuple(word for word in options if word != "--edge"), enrolled=enrolled
        )


def test_an_edge_on_another_machine(tmp_path: Path, app: int) -> None:
    operator = Operator(tmp_path)
    control = operator.up("keyfront up --data /srv", operator.control)
    with control:
        operator.port = int(re.search(r"edges=https://127\.0\.0\.1:(\d+)", control.log[-1])[1])  # type: ignore[index]
        client = control.client()
        pem = (KEYS / "rsa.pub").read_text()
        config = {"CallerReference": "k", "Name": "k", "EncodedKey": pem}
        key = client.create_public_key(PublicKeyConfig=config)["PublicKey"]["Id"]
        group = client.create_key_group(KeyGroupConfig={"Name": "g", "Items": [key]})["KeyGroup"]["Id"]
        made = client.create_distribution(DistributionConfig=distribution_config("d", app, [group]))[
            "Distribution"
        ]

        operator.token = operator.run("keyfront edge enroll-token").strip()
        operator.run(
            "keyfront edge join --data /var/lib/keyfront --control https://control", "--name", "paris"
        )
        edge = operator.up("keyfront up --data /var/lib", operator.edge, enrolled=True)
        follow_edge(control, edge, operator, client, made, key)


def restarted_under_load(edge: Up, opens: Callable[[], int]) -> None:
    """A restart of the edge refuses no connection and loses no request: it follows its control plane again."""
    before, statuses, over = set(edge.children()), Counter[int | str](), threading.Event()

    def viewer() -> None:
        while not over.is_set():
            try:
                statuses[opens()] += 1
            except OSError as error:
                statuses[repr(error)] += 1
            over.wait(0.02)

    with ThreadPoolExecutor(1) as viewers:
        viewers.submit(viewer)
        try:
            command = [sys.executable, "-m", "keyfront", "restart", "--data", str(edge.data)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert (done.returncode, done.stdout, done.stderr) == (0, "restarted\n", "")
            edge.until(lambda: not before & set(edge.children()))
            served = statuses.total()
            edge.until(lambda: statuses.total() > served + 10)
        finally:
            over.set()
    assert set(statuses) == {200}, statuses


def status(data: Path) -> dict[str, Any]:
    """What `keyfront status` says."""
    done = CliRunner().invoke(keyfront, ["status", "--data", str(data), "--json"])
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def own_certificate(operator: Operator) -> tuple[Path, tuple[str, ...]]:
    """The file of a company's authority, and the options of a control plane with a certificate of it."""
    now, company, key = time.time(), authority.Authority.create(time.time()), authority.new_key()
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    issued = company._issue(key.public_key(), "c", ExtendedKeyUsageOID.SERVER_AUTH, address, now, 86_400.0)
    folder = operator.control.parent
    (folder / "company.pem").write_bytes(company.pem)
    (folder / "fullchain.pem").write_bytes(authority.certificate_to_pem(issued))
    (folder / "privkey.pem").write_bytes(authority.key_to_pem(key))
    words = operator.words("keyfront up --data /srv", "--edges-tls-cert")[3:]
    options = [str(folder / word) if word.endswith(".pem") else word for word in words]
    return folder / "company.pem", tuple(
        "127.0.0.1:0" if word == "0.0.0.0:9443" else word for word in options
    )


def follow_edge(
    control: Up, edge: Up, operator: Operator, client: Any, made: dict[str, Any], key: str
) -> None:
    host = made["DomainName"]
    signer = load_signer(key, KEYS / "rsa.pem")

    def opens(path: str = "/photo") -> int:
        target = sign_url(f"http://{host}{path}", signer, expires=4102444800).removeprefix(f"http://{host}")
        return edge.get(host, target).status

    edge.start()
    try:
        assert opens() == 200
        assert edge.get(host, "/photo").status == 403
        control.until(lambda: "  connected  " in operator.run("keyfront edge list"))
        (listed,) = json.loads(operator.run("keyfront edge list", "--json"))
        assert (listed["name"], listed["region"], listed["connected"]) == ("paris", "eu", True)
        assert b'edge="paris/' in control.control("/metrics").body

        state = status(operator.control)
        assert [(one["Name"], one["Region"]) for one in state["Edges"]][-1] == ("paris", "eu")

        def warnings() -> list[str]:
            found = [*status(operator.control)["Warnings"], *status(operator.edge)["Warnings"]]
            return [line for line in found if line.startswith(("edge ", "no "))]

        control.until(lambda: not warnings())

        # What the edge has counted arrives, and a change reaches it before it is Deployed.
        control.until(lambda: b"keyfront_edge_signatures_accepted_total{" in control.control("/metrics").body)
        config = client.get_distribution_config(Id=made["Id"])
        config["DistributionConfig"]["Enabled"] = False
        client.update_distribution(
            Id=made["Id"], IfMatch=config["ETag"], DistributionConfig=config["DistributionConfig"]
        )
        control.deployed(made["Id"])
        assert opens() != 200
        config = client.get_distribution_config(Id=made["Id"])
        config["DistributionConfig"]["Enabled"] = True
        client.update_distribution(
            Id=made["Id"], IfMatch=config["ETag"], DistributionConfig=config["DistributionConfig"]
        )
        control.deployed(made["Id"])
        assert opens() == 200

        restarted_under_load(edge, opens)
        control.until(lambda: not warnings())

        # Without its control plane, it serves what it has, also after it was killed.
        control.kill()
        edge.kill()
        ca, with_certificate = own_certificate(operator)
        words = operator.words("keyfront edge join", "--ca")
        words[words.index("system")] = str(ca)
        words[words.index("--token") + 1] = ""
        assert CliRunner().invoke(keyfront, words).exit_code == 0
        edge.start()
        assert opens("/other") == 200
        edge.until(lambda: any("no control plane for" in line for line in status(operator.edge)["Warnings"]))
        # It comes back with a certificate of the operator's, which the edge was told to expect.
        control.options = tuple(word.replace(":0", f":{operator.port}") for word in with_certificate)
        control.start()
        control.until(lambda: b'edge="paris/' in control.control("/metrics").body)

        operator.run("keyfront edge revoke paris")
        control.until(lambda: b'edge="paris/' not in control.control("/metrics").body)
        control.until(
            lambda: any("this edge is revoked" in line or "does not accept" in line for line in edge.log)
        )
        operator.run("keyfront edge join --data /var/lib/keyfront --control https://a")
    finally:
        assert edge.stop() == 0
