"""The data folder of an earlier version, used by this one, and the other way around.

`tests/upgrade` has folders that `scripts/old_data_folder.py` made.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keyfront.fleet.file_feed import FileFeed
from tests.application import Request, Response, served
from tests.up import PATIENCE, Up

ROOT = Path(__file__).parents[2]
COMMIT = "d896196"


class Upgraded:
    """This version, with the data folder of an earlier one.

    :param facts: what is in the folder.
    :param paths: the paths that the origin was asked for.
    """

    def __init__(self, up: Up, facts: dict[str, Any], paths: list[str]) -> None:
        self.up = up
        self.facts = facts
        self.paths = paths

    def keyfront(self, *words: str) -> str:
        """The standard output of a command."""
        argv = [sys.executable, "-m", "keyfront", *words]
        environment = {**os.environ, "KEYFRONT_DATA": str(self.up.data)}
        done = subprocess.run(
            argv, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def upgraded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upgraded]:
    folder = tmp_path_factory.mktemp("upgrade")
    with tarfile.open(ROOT / "tests" / "upgrade" / f"{COMMIT}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    facts = json.loads((folder / "facts.json").read_text())
    data = folder / "data"
    record = data / "custody" / "films.record"
    record.write_text(record.read_text().replace(facts["data"], str(data)))  # it was elsewhere
    paths: list[str] = []

    def respond(request: Request) -> Response:
        paths.append(request.path)
        return Response(b"new", {"Cache-Control": "max-age=3600"})

    with served(respond) as port, Up(data, workers=1, options=("--cache-disk", "64M")) as up:
        client = up.client()
        found = client.get_distribution_config(Id=facts["distribution"])
        assert found["ETag"] == facts["etag"]
        config = found["DistributionConfig"]
        config["Origins"]["Items"][0]["CustomOriginConfig"]["HTTPPort"] = port
        client.update_distribution(Id=facts["distribution"], DistributionConfig=config, IfMatch=found["ETag"])
        up.deployed(facts["distribution"])
        yield Upgraded(up, facts, paths)
        assert up.stop() == 0


def test_the_resources_are_there(upgraded: Upgraded) -> None:
    client, facts = upgraded.up.client(), upgraded.facts
    distribution = client.get_distribution(Id=facts["distribution"])["Distribution"]
    assert distribution["DomainName"] == facts["host"]
    assert distribution["DistributionConfig"]["Comment"] == "of an earlier version"
    tags = client.list_tags_for_resource(Resource=distribution["ARN"])["Tags"]["Items"]
    assert tags == [{"Key": "team", "Value": "films"}]
    group = client.get_key_group(Id=facts["group"])["KeyGroup"]["KeyGroupConfig"]
    assert (group["Name"], group["Items"], group["Comment"]) == ("films", facts["keys"], "of old")
    assert client.get_public_key(Id=facts["key"])["PublicKey"]["PublicKeyConfig"]["Name"] == "first"
    policy = client.get_response_headers_policy(Id=facts["policy"])["ResponseHeadersPolicy"]
    assert policy["ResponseHeadersPolicyConfig"]["Name"] == "marked"
    (invalidation,) = client.list_invalidations(DistributionId=facts["distribution"])["InvalidationList"][
        "Items"
    ]
    assert invalidation["Status"] == "Completed"


def test_an_edge_understands_the_snapshot_of_an_earlier_version(tmp_path: Path) -> None:
    """Edges are upgraded before their control plane."""
    with tarfile.open(ROOT / "tests" / "upgrade" / f"{COMMIT}.tar.gz") as archive:
        archive.extract("data/snapshot", tmp_path, filter="data")
        facts = json.loads((archive.extractfile("facts.json") or io.BytesIO()).read())
    found = FileFeed(tmp_path / "data").poll(None)
    assert found is not None
    assert [one.id for one in found.distributions] == [facts["distribution"]]
    assert {key.id for key in found.public_keys} == {*facts["keys"]}


def test_links_that_were_signed_before_are_accepted(upgraded: Upgraded) -> None:
    up, facts = upgraded.up, upgraded.facts
    found = up.get(facts["host"], facts["link"])
    assert (found.status, found.body, found.headers["x-of"]) == (200, b"new", "old")
    assert up.get(facts["host"], facts["link"].replace("Expires=2", "Expires=3")).status == 403


def test_rotation_and_custody_go_on(upgraded: Upgraded) -> None:
    (before,) = upgraded.facts["rotation"]
    (now,) = json.loads(upgraded.keyfront("rotation", "status", "films", "--json"))
    assert (now["group"], now["key_group_id"]) == (before["group"], before["key_group_id"])
    (old,), (key,) = before["keys"], now["keys"]
    assert {name: key[name] for name in ("name", "id", "stage", "created")} == {
        name: old[name] for name in ("name", "id", "stage", "created")
    }
    url = f"http://{upgraded.facts['host']}/private/b"
    link = upgraded.keyfront("sign", url, "--key-group", "films", "--expires", "1h").strip()
    assert f"Key-Pair-Id={key['id']}" in link
    found = upgraded.up.get(upgraded.facts["host"], link.removeprefix(f"http://{upgraded.facts['host']}"))
    assert (found.status, found.body) == (200, b"new")


def test_users_and_the_audit_log_are_there(upgraded: Upgraded) -> None:
    assert "ci" in upgraded.keyfront("access", "user", "list")
    anchor = upgraded.keyfront("audit", "verify").strip()
    assert int(anchor.partition(":")[0]) > upgraded.facts["audit"]


def test_the_disk_cache_of_another_version_is_emptied_and_not_served(upgraded: Upgraded) -> None:
    up, facts = upgraded.up, upgraded.facts

    def outdated() -> float:
        lines = up.control("/metrics").body.decode().splitlines()
        return sum(
            float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith("keyfront_edge_disk_outdated_total{")
        )

    up.until(lambda: outdated() == facts["cached"])
    for path in ("/a", "/big"):
        found = up.get(facts["host"], path)
        assert (found.body, found.x_cache) == (b"new", "Miss")
        assert path in upgraded.paths
    up.until(lambda: len(list((up.data / "cache").glob("??/*"))) >= 2)
    assert outdated() == facts["cached"]


def test_the_folder_of_a_newer_version_is_refused_and_unchanged(upgraded: Upgraded, tmp_path: Path) -> None:
    data = shutil.copytree(upgraded.up.data, tmp_path / "data")
    (data / "format").write_text("999\n")
    before = contents(data)
    argv = [sys.executable, "-m", "keyfront", "up", "--data", str(data), "--edge", "127.0.0.1:0"]
    done = subprocess.run(
        [*argv, "--control", "127.0.0.1:0"], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"keyfront: the data folder {data} has format 999, and this Keyfront ")
    assert contents(data) == before


def test_an_older_version_refuses_this_versions_folder(
    upgraded: Upgraded, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """With the older program itself."""
    if not request.config.getoption("--long"):
        pytest.skip("runs with --long")
    packed = tmp_path / "source.tar"
    archive = ["git", "-C", str(ROOT), "archive", "-o", str(packed), COMMIT, "src"]
    if subprocess.run(archive, capture_output=True, check=False).returncode:
        pytest.skip(f"there is no commit {COMMIT} here")
    with tarfile.open(packed) as source:
        source.extractall(tmp_path, filter="data")
    data = shutil.copytree(upgraded.up.data, tmp_path / "data")
    before = rows(data / "keyfront.db")
    argv = [sys.executable, "-m", "keyfront", "access", "user", "create", "eve", "--data", str(data)]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src")}
    done = subprocess.run(
        argv, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode != 0
    assert "a newer Keyfront" in done.stderr
    assert rows(data / "keyfront.db") == before


def rows(database: Path) -> list[str]:
    """Everything in a SQLite file, as SQL."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return list(connection.iterdump())


def contents(folder: Path) -> dict[str, str]:
    """The digest of each file in the folder, except the lock."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock"
    }
