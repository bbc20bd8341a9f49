"""Unattended rotations: `keyfront up` runs them, and calls the hooks. For several instances, see test_replicas.py."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator

import pytest
from botocore.session import Session
from click.testing import CliRunner

from keyfront import sign_url, signer_for
from keyfront.cli.main import keyfront
from keyfront.cloudfront.key_usage import KeyUses, fetch
from keyfront.custody.key_record import Stage
from tests.origin import ScriptedOrigin, answer
from tests.stories.rotations import TERMS, group_of_one, record, run, signing
from tests.up import Up, distribution_config

PASSPHRASE = "correct horse battery staple"


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("KEYFRONT_CUSTODY_PASSPHRASE", PASSPHRASE)
        for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "KEYFRONT_RECORDS"):
            patched.delenv(name, raising=False)
        yield


def use(up: Up) -> KeyUses:
    session = Session()
    session.set_credentials(*up.credentials().values())
    found = fetch(session, up.endpoint)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, environment: None) -> Iterator[Up]:
    data = tmp_path_factory.mktemp("scheduler") / "data"
    data.mkdir(mode=0o700)
    calls = data.parent / "hook-calls"
    hooks = data / "hooks.toml"
    hooks.write_text(
        f"""
        [[hook]]
        when = ["before", "after"]
        groups = "films"
        steps = ["create", "switch"]
        command = ["/bin/sh", "-c", "cat >> {calls}; echo >> {calls}"]

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


async def test_a_rotation_by_its_schedule(up: Up) -> None:
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

        async def view() -> int:
            target = sign_url(f"http://{host}/a", signer, expires=int(time.time()) + 20).removeprefix(
                f"http://{host}"
            )
            return (await asyncio.to_thread(up.get, host, target)).status

        links: list[int] = []
        while signing(place) == first or len(links) < 3:
            assert await view() == 200
            links.append(1)
            await asyncio.sleep(0.05)
            assert len(links) < 600, "it does not rotate"
        second = signing(place)
        assert second != first
        signer.refresh()
        assert await view() == 200

    found = record(place)
    assert found is not None
    stages = {entry.key_pair_id: entry.stage for entry in found.entries}
    assert stages[first] is Stage.DRAINING
    items = up.client().get_key_group(Id=group)["KeyGroup"]["KeyGroupConfig"]["Items"]
    assert {stranger, first, second} <= set(items)

    lines = (up.data.parent / "hook-calls").read_text().splitlines()
    calls = [json.loads(line) for line in lines]
    assert {each["group"] for each in calls} == {"films"}
    assert [(each["moment"], each["action"]) for each in calls][:4] == [
        ("before", "create"),
        ("after", "create"),
        ("before", "switch"),
        ("after", "switch"),
    ]
    assert first in {each.get("key_pair_id") for each in calls}

    # What edges saw of it, and what deserves a warning.
    up.until(lambda: {first, second} <= {each.key_pair_id for each in use(up).items})
    seen = use(up).of(first)
    assert seen is not None
    assert (list(seen.hashes), list(seen.distributions)) == (["SHA256"], [made["Id"]])
    assert seen.signatures_end > found.entries[0].draining
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


def test_a_hook_that_fails_prevents_its_step(up: Up) -> None:
    place = f"file:{up.data}/custody/"
    group_of_one(up, "barred")
    run(up, "rotation", "start", "barred", "--custody", place, "--records", place, "--every", "1h", *TERMS)
    up.until(lambda: any("not on a Sunday" in line for line in up.log))
    found = record(place, "barred")
    assert found is not None
    assert found.entries == ()
    assert sum("not on a Sunday" in line for line in up.log) == 1
    assert up.stop() == 0
