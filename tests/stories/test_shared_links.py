"""A signed link that many people use: found in the reports of two workers, shown by the command line and by the
metrics, and not forgotten when processes are killed."""

from __future__ import annotations

import json
import os
import shlex
import signal
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from click.testing import CliRunner, Result

from keyfront import LocalSigner, sign_url
from keyfront.cli.main import keyfront
from keyfront.signing.credential import credential_of
from keyfront.signing.verify import KeyRing, verify
from tests.sites import ALICE
from tests.up import Up
from tests.vectors.corpus import key as private_key

NETWORKS = 8


class Site(NamedTuple):
    up: Up
    host: str
    signer: LocalSigner

    def sign(self, path: str) -> str:
        return sign_url(f"http://{self.host}{path}", self.signer, expires=int(time.time()) + 3600)

    def open(self, url: str, *networks: int) -> None:
        for number in networks:
            target = url.removeprefix(f"http://{self.host}")
            seen = self.up.get(self.host, target, {"X-Forwarded-For": f"198.51.{number}.7"})
            assert seen.status == 200, seen

    def credential(self, url: str) -> str:
        ring = KeyRing({self.signer.key_pair_id: self.signer.public_key})
        target = url.removeprefix(f"http://{self.host}")
        return credential_of(verify("http", self.host, target, "", ring, "192.0.2.1", time.time())).id

    def command(self, *words: str) -> Result:
        return CliRunner().invoke(keyfront, ["sharing", *words, "--data", str(self.up.data)])

    def shared(self) -> set[str]:
        found = self.command("list", "--json")
        assert found.exit_code == 0, found.output
        return {each["Credential"] for each in json.loads(found.stdout)}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, page_origin: int) -> Iterator[Site]:
    options = ("--trusted-proxies", "127.0.0.1", "--shared-networks", str(NETWORKS))
    with Up(tmp_path_factory.mktemp("shared-links") / "data", workers=2, options=options) as up:
        client = up.client()
        pem = ALICE.public_key.pem
        config = {"CallerReference": "k", "Name": "k", "EncodedKey": pem}
        key = client.create_public_key(PublicKeyConfig=config)["PublicKey"]["Id"]
        group = client.create_key_group(KeyGroupConfig={"Name": "g", "Items": [key]})["KeyGroup"]["Id"]
        made = up.create_distribution(page_origin, [group])
        yield Site(up, made["DomainName"], LocalSigner(key, private_key("rsa")))
        assert up.stop() == 0


def test_a_link_that_is_passed_on_is_found(site: Site) -> None:
    shared, own = site.sign("/film?kf-label=ada"), site.sign("/film?kf-label=bob")
    site.open(own, *[1] * (2 * NETWORKS))
    site.open(shared, *range(4 * NETWORKS))
    site.up.until(lambda: site.shared() == {site.credential(shared)})
    assert site.up.metrics(control=True)["keyfront_shared_links"] == 1
    listed = site.command("list")
    assert "ada" in listed.stdout
    assert "bob" not in listed.stdout
    shown = site.command("show", "ada")
    assert f"threshold {NETWORKS}" in shown.stdout, shown.output
    assert site.signer.key_pair_id in shown.stdout
    missing = site.command("show", "bob")
    assert missing.exit_code != 0
    remedy = missing.output.partition("`keyfront ")[2].partition("`")[0]
    assert "ada" in CliRunner().invoke(keyfront, shlex.split(remedy)).stdout, missing.output


def test_killed_processes_forget_no_finding(site: Site) -> None:
    before = site.shared()
    shared = site.sign("/another?kf-label=eve")
    site.open(shared, *range(3))
    for pid in (site.up.worker_pids()[0], site.up.control_pid()):
        os.kill(pid, signal.SIGKILL)
    site.up.well()
    site.up.until(lambda: site.up.get(site.host, "/").status == 403)
    assert site.shared() >= before
    site.open(shared, *range(4 * NETWORKS))
    site.up.until(lambda: site.credential(shared) in site.shared())
