"""Unattended rotations: `keyfront up` runs them, only one of several instances does, and all notifications are
sent."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.session import Session
from click.testing import CliRunner

from keyfront import sign_url, signer_for
from keyfront.cli.main import keyfront
from keyfront.cloudfront.key_usage import KeyUses, fetch
from keyfront.custody.key_record import KeyGroupRecord, Stage, load
from keyfront.custody.schemes import open_records
from tests.keys import public_pem
from tests.origin import ScriptedOrigin, answer
from tests.postgres import PostgresServer, unable
from tests.up import Up, distribution_config

PASSPHRASE = "correct horse battery staple"
TERMS = ("--overlap", "2s", "--max-lifetime", "30s", "--max-staleness", "5s", "--settle", "0", "--grace", "0")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYFRONT_CUSTODY_PASSPHRASE", PASSPHRASE)
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "KEYFRONT_RECORDS"):
        monkeypatch.delenv(name, raising=False)


def run(up: Up, *argv: str) -> str:
    """A command against this installation that must succeed."""
    with pytest.MonkeyPatch.context() as patched:
        for name, value in up.environment.items():
            patched.setenv(name, value)
        done = CliRunner().invoke(keyfront, [*argv, "--endpoint-url", up.endpoint])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def group_of_one(up: Up, name: str) -> tuple[str, str]:
    """A key group with a public key without a known private half, since CloudFront accepts no empty group. Returns
    their ids."""
    client = up.client()
    config = {"CallerReference": name, "Name": f"{name}-none", "EncodedKey": public_pem()}
    key = client.create_public_key(PublicKeyConfig=config)["PublicKey"]["Id"]
    group = client.create_key_group(KeyGroupConfig={"Name": name, "Items": [key]})["KeyGroup"]["Id"]
    return group, key


def record(place: str, group: str = "films") -> KeyGroupRecord | None:
    kept = load(open_records(place), group)
    return kept.record if kept is not None else None


def signing(place: str) -> str:
    """The id of the key that signs; empty if none does."""
    found = record(place)
    return found.signing.key_pair_id if found is not None and found.signing is not None else ""


def use(up: Up) -> KeyUses:
    lines = (up.data / "credentials").read_text().splitlines()
    said = {k.strip(): v.strip() for k, _, v in (line.partition("=") for line in lines) if v}
    session = Session()
    session.set_credentials(said["aws_access_key_id"], said["aws_secret_access_key"])
    found = fetch(session, up.endpoint)
    assert found is not None
    return found


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    told = tmp_path / "told"
    hooks = data / "hooks.toml"
    hooks.write_text(
        f"""
        [[hook]]
        when = ["before", "after"]
        groups = "films"
        steps = ["create", "switch"]
        command = ["/bin/sh", "-c", "cat >> {told}; echo >> {told}"]

        [[hook]]
        when = "before"
        groups = "barred"
        command = ["/bin/sh", "-c", "echo not on a Sunday >&2; exit 1"]
        retries = 0
        """
    )
    hooks.chmod(0o600)
    with Up(data, workers=1, options=("--cache-disk", "0")) as running:
        yield running


async def test_a_rotation_by_its_schedule(up: Up, tmp_path: Path) -> None:
    place = f"file:{up.data}/custody/"
    group, stranger = group_of_one(up, "films")
    async with ScriptedOrigin() as origin:
        origin.on("/a", answer(200, b"the film", {"Cache-Control": "max-age=600"}))
        client = up.client()
        made = client.create_distribution(
            DistributionConfig=distribution_config("one", origin.port, [group])
        )["Distribution"]
        start = ("rotation", "start", "films", "--custody", place, "--records", place, "--every", "3s")
        run(up, *start, *TERMS)
        up.until(lambda: bool(signing(place)))
        first = signing(place)
        host = made["DomainName"]
        signer = signer_for("films", records=place, interval=0.2)
        import asyncio

        async def see() -> int:
            target = sign_url(f"http://{host}/a", signer, expires=None or _soon()).removeprefix(
                f"http://{host}"
            )
            return (await asyncio.to_thread(up.get, host, target)).status

        links: list[int] = []
        while signing(place) == first or len(links) < 3:
            assert await see() == 200
            links.append(1)
            await asyncio.sleep(0.05)
            assert len(links) < 600, "it does not rotate"
        second = signing(place)
        assert second != first
        signer.refresh()
        assert await see() == 200

    kept = record(place)
    assert kept is not None
    stages = {entry.key_pair_id: entry.stage for entry in kept.entries}
    assert stages[first] is Stage.DRAINING
    items = up.client().get_key_group(Id=group)["KeyGroup"]["KeyGroupConfig"]["Items"]
    assert {stranger, first, second} <= set(items)

    told = [json.loads(line) for line in (tmp_path / "told").read_text().splitlines()]
    assert {each["group"] for each in told} == {"films"}
    assert [(each["moment"], each["action"]) for each in told][:4] == [
        ("before", "create"),
        ("after", "create"),
        ("before", "switch"),
        ("after", "switch"),
    ]
    assert first in {each.get("key_pair_id") for each in told}

    # What edges saw of it, and what deserves a warning.
    up.until(lambda: {first, second} <= {each.key_pair_id for each in use(up).items})
    seen = use(up).of(first)
    assert seen is not None
    assert (list(seen.hashes), list(seen.distributions)) == (["SHA256"], [made["Id"]])
    assert seen.signatures_end > kept.entries[0].draining
    listed = json.loads(run(up, "key", "list", "--records", place, "--json"))
    by_id = {each["Id"]: each for each in listed["Keys"]}
    assert by_id[second]["Stage"] == "SIGNING"
    assert by_id[first]["Stage"] == "DRAINING"
    assert by_id[first]["Groups"] == ["films"]
    assert by_id[first]["Distributions"] == [made["Id"]]
    assert by_id[first]["LastSeen"] is not None
    assert by_id[stranger]["Stage"] is None

    # Each step is a record in the audit log, beside those of the API.
    audited = [
        json.loads(line)
        for line in CliRunner()
        .invoke(keyfront, ["audit", "export", "--data", str(up.data)])
        .stdout.splitlines()
    ]
    steps = [
        each for each in audited if each["eventSource"] == "keyfront" and "Rotation" in each["eventName"]
    ]
    assert "RotationSwitch" in {each["eventName"] for each in steps}
    assert {each["requestParameters"]["keyGroupId"] for each in steps} == {group}
    agents = {each["userAgent"] for each in audited if each["eventName"] == "CreatePublicKey"}
    assert any("keyfront-rotation" in agent for agent in agents)
    assert PASSPHRASE not in "".join(up.log) + json.dumps(audited)


def _soon() -> int:
    import time

    return int(time.time()) + 20


def test_a_hook_that_says_no_keeps_a_step_from_being_taken(up: Up) -> None:
    place = f"file:{up.data}/custody/"
    group_of_one(up, "barred")
    run(up, "rotation", "start", "barred", "--custody", place, "--records", place, "--every", "1h", *TERMS)
    up.until(lambda: any("not on a Sunday" in line for line in up.log))
    found = record(place, "barred")
    assert found is not None
    assert found.entries == ()
    said = [line for line in up.log if "not on a Sunday" in line]
    assert len(said) == 1
    assert up.stop() == 0


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    if why := unable():
        pytest.skip(why)
    with PostgresServer() as running:
        yield running


def test_when_who_leads_dies_another_goes_on(
    server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYFRONT_STORE", server.database())
    monkeypatch.setenv("KEYFRONT_ACCESS_KEY", base64.b64encode(os.urandom(32)).decode())
    place = f"file:{tmp_path}/shared/"
    options = ("--cache-disk", "0", "--records", place)
    machines = [Up(tmp_path / name, workers=1, options=options) for name in ("one", "two")]
    with machines[0], machines[1]:
        group_of_one(machines[0], "films")
        start: tuple[Any, ...] = ("rotation", "start", "films", "--custody", place, "--records", place)
        run(machines[0], *start, "--every", "2s", *TERMS)
        machines[0].until(lambda: bool(signing(place)))

        def took(up: Up) -> bool:
            return any("rotation of films" in line for line in up.log)

        machines[0].until(lambda: took(machines[0]) or took(machines[1]))
        assert took(machines[0]) != took(machines[1]), "only one of them leads"
        leader = machines[0] if took(machines[0]) else machines[1]
        other = machines[1] if leader is machines[0] else machines[0]
        leader.kill()
        other.until(lambda: took(other))
        before = signing(place)
        other.until(lambda: signing(place) not in ("", before))
        assert other.stop() == 0
