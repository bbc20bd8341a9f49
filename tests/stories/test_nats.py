"""docs/guide/nats.md, run as written: a control plane at a NATS server, and an edge at its leaf node."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import nats
import pytest
from click.testing import CliRunner

from keyfront import load_signer, sign_url
from keyfront.cli.main import keyfront
from tests.application import Request, Response, served
from tests.nats_server import NatsServer, accepts_leaves, leaf_of, unable
from tests.up import Up, distribution_config, seconds

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "guide" / "nats.md"
KEYS = ROOT / "tests" / "vectors" / "keys"

pytestmark = pytest.mark.skipif(bool(unable()), reason=unable())


class Operator:
    """Runs the guide's commands, with this test's folders and servers."""

    def __init__(self, folder: Path, hub: NatsServer, leaf: NatsServer) -> None:
        self.control, self.edge = folder / "control", folder / "edge"
        self.token = ""
        self._places = {
            "/srv/keyfront": str(self.control),
            "/var/lib/keyfront": str(self.edge),
            "nats://nats.example.com:4222": hub.url,
            "nats://127.0.0.1:4222": leaf.url,
        }

    def words(self, beginning: str, option: str = "") -> list[str]:
        """The words of the guide's first command that begins like this and has the option, as a shell reads them."""
        blocks = re.findall(r"```sh\n(.*?)```", GUIDE.read_text(), re.DOTALL)
        lines = [line for block in blocks for line in block.splitlines()]
        command = next(line for line in lines if line.startswith(beginning) and option in line)
        for place, own in self._places.items():
            command = command.replace(place, own)
        script = 'keyfront() { for word; do printf "%s\\0" "$word"; done; }\n' + command
        done = subprocess.run(
            ["sh", "-euc", script], env={"TOKEN": self.token}, capture_output=True, text=True, check=True
        )
        return done.stdout.split("\0")[:-1]

    def run(self, *words: str) -> str:
        """The standard output of a command."""
        done = CliRunner().invoke(keyfront, words)
        assert done.exit_code == 0, (done.output, done.exception)
        return done.stdout

    def edges(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(
            self.run("edge", "list", "--data", str(self.control), "--json")
        )
        return found


def status(data: Path) -> str:
    """What `keyfront status` prints."""
    return CliRunner().invoke(keyfront, ["status", "--data", str(data)]).stdout


class Viewer:
    """Opens a private photo at an edge, and has its distribution enabled and disabled."""

    def __init__(self, control: Up, edge: Up, origin: int) -> None:
        self._control, self._edge = control, edge
        client = control.client()
        pem = (KEYS / "rsa.pub").read_text()
        key = client.create_public_key(
            PublicKeyConfig={"CallerReference": "k", "Name": "k", "EncodedKey": pem}
        )
        self._key = key["PublicKey"]["Id"]
        group = client.create_key_group(KeyGroupConfig={"Name": "g", "Items": [self._key]})["KeyGroup"]["Id"]
        made = client.create_distribution(DistributionConfig=distribution_config("d", origin, [group]))
        self._id, self._host = made["Distribution"]["Id"], made["Distribution"]["DomainName"]

    def opens(self) -> bool:
        url = sign_url(
            f"http://{self._host}/photo", load_signer(self._key, KEYS / "rsa.pem"), expires=4102444800
        )
        return self._edge.get(self._host, url.removeprefix(f"http://{self._host}")).status == 200

    def enable(self, enabled: bool) -> float:
        """The seconds from the response of the API until the edge obeys."""
        client = self._control.client()
        found = client.get_distribution_config(Id=self._id)
        found["DistributionConfig"]["Enabled"] = enabled
        client.update_distribution(
            Id=self._id, IfMatch=found["ETag"], DistributionConfig=found["DistributionConfig"]
        )
        began = time.monotonic()
        self._control.until(lambda: self.opens() is enabled)
        return time.monotonic() - began

    def is_deployed(self) -> None:
        self._control.deployed(self._id)


def logged(up: Up, *words: str) -> bool:
    return any(all(word in line for word in words) for line in list(up.log))


def photo(_: Request) -> Response:
    return Response(b"photo")


def attack(url: str) -> None:
    """Overwrite the head of the region eu, and announce it."""

    async def overwrite() -> None:
        client = await nats.connect(url, allow_reconnect=False)
        await client.jetstream().publish("$KV.keyfront.snapshot.eu.head", b"garbage")
        await client.publish("keyfront.announce.eu", b"garbage")
        await client.close()

    asyncio.run(overwrite())


def test_an_edge_at_a_leaf_node(tmp_path: Path) -> None:
    hub = NatsServer(tmp_path / "hub", domain="hub")
    hub.configure(accepts_leaves(hub))
    leaf = NatsServer(tmp_path / "leaf", leaf_of(hub), jetstream=False)
    operator = Operator(tmp_path, hub, leaf)
    words = operator.words("keyfront up --data /srv/keyfront")
    control = Up(operator.control, workers=1, options=(*words[3:], "--cache-disk", "0"))
    edge = Up(operator.edge, workers=1, options=("--cache-disk", "0"), enrolled=True)
    with hub, leaf, served(photo) as origin, control:
        operator.token = operator.run(*operator.words("keyfront edge enroll-token")).strip()
        Up.until(
            lambda: "NATS" not in status(operator.control) or f"at {hub.url}" in status(operator.control)
        )
        operator.run(*operator.words("keyfront edge join", "--nats-domain"))
        viewer = Viewer(control, edge, origin)
        with edge:
            story(operator, control, edge, viewer, hub)


def story(operator: Operator, control: Up, edge: Up, viewer: Viewer, hub: NatsServer) -> None:
    Up.until(viewer.opens)
    Up.until(lambda: operator.edges()[0]["connected"])
    (listed,) = operator.edges()
    assert (listed["name"], listed["region"], listed["address"]) == ("paris", "eu", "NATS")
    Up.until(lambda: b"keyfront_edge_signatures_accepted_total{" in control.control("/metrics").body)
    assert f"the bucket keyfront at {hub.url}" in status(operator.control)
    assert "the bucket keyfront at nats://127.0.0.1" in status(operator.edge)

    taken = [viewer.enable(enabled) for enabled in (False, True, False, True)]
    print(f"from the API's response until the edge obeys: {', '.join(f'{one:.3f}' for one in taken)} s")
    assert sorted(taken)[1] < seconds(1.0)
    viewer.is_deployed()

    # The server restarts: the edge serves meanwhile, and gets what was changed.
    hub.kill()
    assert viewer.opens()
    Up.until(lambda: any("over NATS" in note for note in control.health()[1]["notes"]))
    Up.until(lambda: "no control plane for" in status(operator.edge))
    hub.start()
    viewer.enable(False)
    viewer.enable(True)
    Up.until(lambda: control.health()[1]["notes"] == [])

    # The control plane is killed: so is the edge, which serves again what it has.
    control.kill()
    edge.kill()
    edge.start()
    assert viewer.opens()
    attack(hub.url)
    Up.until(lambda: logged(edge, "in NATS", "refused", "it is not a message of Keyfront"))
    assert viewer.opens()
    control.start()
    Up.until(lambda: logged(control, "in NATS", "is written again"))
    viewer.enable(False)
    viewer.enable(True)
    viewer.is_deployed()

    operator.run("edge", "revoke", "paris", "--data", str(operator.control))
    Up.until(lambda: logged(edge, "this edge is revoked"))
    assert "this edge is revoked" in status(operator.edge)
    assert viewer.opens()
