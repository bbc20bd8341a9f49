"""The playbook of docs/guide/disaster.md, run as written: a machine is lost, and links work again."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from keyfront.cli.main import keyfront
from keyfront.custody import open_place, open_records
from keyfront.custody.key_record import Entry, KeyGroupRecord, RotationPolicy, Stage, save
from keyfront.signing.sign import LocalSigner, sign_url
from tests.application import Response, served
from tests.up import Up, distribution_config

PLAYBOOK = Path(__file__).resolve().parents[2] / "docs" / "guide" / "disaster.md"
BEFORE, GONE, MISTAKE = "## Before", "## The machine is gone", "## Somebody has deleted the wrong thing"


@pytest.fixture
def app() -> Iterator[int]:
    with served(lambda _request: Response(b"photo")) as port:
        yield port


class Operator:
    """An operator who follows the playbook, whose home folder and archive locations are in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "home" / ".local" / "share" / "keyfront"
        self.environment: dict[str, str | None] = {
            name: None for name in os.environ if name.startswith(("KEYFRONT_", "AWS_", "XDG_"))
        }
        self.environment["HOME"] = str(folder / "home")

    def blocks(self, chapter: str) -> list[str]:
        """The commands of a chapter, one string per block, with this machine's paths."""
        text = PLAYBOOK.read_text().partition(f"\n{chapter}")[2].partition("\n## ")[0]
        assert text, chapter
        found = re.findall(r"^ *```sh\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
        return [
            block.replace("/srv/backups", str(self.folder / "srv")).replace(
                "/mnt/elsewhere", str(self.folder / "mnt")
            )
            for block in found
        ]

    def run(self, script: str) -> str:
        """The output of the script's `keyfront` calls. The shell parses the script and reports the calls; they run in
        this process, since starting Python for each takes longer than the call itself."""
        tell = 'keyfront() { for word; do printf "%s\\0" "$word"; done; printf "\\n"; }\n'
        words = subprocess.run(
            ["sh", "-euc", tell + script], cwd=self.folder, capture_output=True, text=True, check=True
        )
        assert words.stdout
        said = ""
        for call in words.stdout.splitlines():
            done = CliRunner().invoke(keyfront, call.split("\0")[:-1], env=self.environment)
            assert done.exit_code == 0, (call, done.output, done.exception)
            said += done.output
        return said

    def up(self, block: str = "") -> Up:
        """The process that the playbook starts, on its own ports."""
        if block:
            assert shlex.split(block)[:2] == ["keyfront", "up"]
        return Up(self.data, workers=1, options=("--cache-disk", "0"))


@pytest.mark.skipif(
    shutil.which("sh") is None, reason="no sh on this machine: the playbook is written for it"
)
def test_the_playbook(tmp_path: Path, app: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    operator = Operator(tmp_path)
    with operator.up() as up:
        place = f"file:{operator.data}/custody/"
        held = open_place(place).create("photos-1", "ECDSA-P256", now=time.time())
        client = up.client()
        key = {"CallerReference": "1", "Name": "photos-1", "EncodedKey": held.public_key.pem}
        key_id = client.create_public_key(PublicKeyConfig=key)["PublicKey"]["Id"]
        group = {"Name": "photos", "Items": [key_id]}
        group_id = client.create_key_group(KeyGroupConfig=group)["KeyGroup"]["Id"]
        config = distribution_config("1", app, [group_id])
        made = client.create_distribution(DistributionConfig=config)["Distribution"]
        up.deployed(made["Id"])
        entry = Entry(
            held.uri, Stage.SIGNING, held.created, key_id, published=held.created, signing=held.created
        )
        save(
            open_records(place),
            KeyGroupRecord("photos", group_id, RotationPolicy(place), (entry,)),
            None,
            now=time.time(),
        )
        host = made["DomainName"]
        url = f"http://{host}/a.jpg"
        signer = LocalSigner(key_id, open_place(place).export("photos-1"))
        link = sign_url(url, signer, expires=int(time.time()) + 86_400)
        target = link.removeprefix(f"http://{host}")
        assert up.get(host, target).status == 200

        keygen, create, drill = operator.blocks(BEFORE)
        assert operator.run(keygen).startswith("age1")
        assert " is verified, in " in operator.run(create)
        assert "nothing has changed" in operator.run(create)
        said = operator.run(drill)
        assert "FAILED" not in said
        assert f"https://{host}/keyfront-drill (in the archive, key {key_id})" in said
        assert f"https://{host}/keyfront-drill (by the archived key, key {key_id})" in said

        number = made["Id"]
        up.kill()
    shutil.rmtree(operator.data)
    shutil.rmtree(tmp_path / "srv")

    verify, restore, start, audited = operator.blocks(GONE)
    assert "is intact" in operator.run(verify)
    assert f"+ Distribution {number}" in operator.run(restore)
    with operator.up(start) as up:
        assert up.get(host, target).status == 200
        assert up.get(host, target.replace("a.jpg", "b.jpg")).status == 403
        new = operator.run(f"keyfront sign {url} --key-group photos --expires 1h").strip()
        assert up.get(host, new.removeprefix(f"http://{host}")).status == 200
        assert "all intact" in operator.run(audited)
        assert "RestoreBackup" in operator.run("keyfront audit list")

        # Then an operator makes everything public.
        operator.run(create)
        found = up.client().get_distribution_config(Id=number)
        config, etag = found["DistributionConfig"], found["ETag"]
        config["DefaultCacheBehavior"]["TrustedKeyGroups"] = {"Enabled": False, "Quantity": 0}
        up.client().update_distribution(Id=number, IfMatch=etag, DistributionConfig=config)
        up.until(lambda: up.get(host, "/b.jpg").status == 200)
    (again,) = operator.blocks(MISTAKE)
    assert f"~ Distribution {number}" in operator.run(again)
    said = operator.run(again)
    assert "no changes" in said, said
    assert "UpdateDistribution" in operator.run("keyfront audit list")


def test_a_drill_that_fails_says_so(tmp_path: Path) -> None:
    """Links of a key that the archive does not know, of another host, and one that has expired."""
    from tests.backup.harness import IDENTITY, Installed, behavior, make
    from tests.control.harness import ACCOUNT

    one = Installed(tmp_path / "data")
    # Neither a region, a country, nor the origin prevents a drill from testing signatures.
    arn = f"arn:aws:cloudfront::{ACCOUNT}:distribution/{one.id}"
    tags = {"Items": [{"Key": "keyfront:regions", "Value": "eu"}]}
    one.harness.call("TagResource", Resource=arn, Tags=tags)
    config, etag = one.harness.config(one.id)
    config["Restrictions"] = {
        "GeoRestriction": {"RestrictionType": "whitelist", "Quantity": 1, "Items": ["DE"]}
    }
    (origin,) = config["Origins"]["Items"]
    origin |= {
        "DomainName": "bucket.s3.eu-central-1.amazonaws.com",
        "S3OriginConfig": {"OriginAccessIdentity": ""},
    }
    origin.pop("CustomOriginConfig")
    one.harness.call("UpdateDistribution", Id=one.id, IfMatch=etag, DistributionConfig=config)
    # Another one needs signatures, and no link exists for it.
    films = one.harness.distribution("films", DefaultCacheBehavior=behavior(one.group))["DomainName"]
    outcome = make(one.harness.store, one.folder, tmp_path / "archives")
    good = one.link()
    stranger = sign_url(
        "https://elsewhere.example.com/a", LocalSigner(one.key_id, one.key), expires=4_000_000_000
    )
    late = sign_url(f"https://{one.host}/a", LocalSigner(one.key_id, one.key), expires=1_000_000_000)
    one.harness.close()
    (tmp_path / "identity").write_text(str(IDENTITY))
    (tmp_path / "identity").chmod(0o600)
    argv = ["backup", "drill", str(tmp_path / "archives" / outcome.name), "-i", str(tmp_path / "identity")]
    none = CliRunner().invoke(keyfront, argv)
    assert "no signed URL" in none.stderr
    urls = [word for url in (good, stranger, late) for word in ("--url", url)]
    done = CliRunner().invoke(keyfront, [*argv, *urls])
    assert done.exit_code == 1, done.output
    lines = done.stdout.splitlines()
    assert "  opens  " in lines[1]
    assert "no distribution of the archive has this host name" in lines[2]
    assert "refused: expired" in lines[3]
    assert lines[4].startswith(f"  NOT ASKED {films} *")
    assert "Signature" not in done.stdout
