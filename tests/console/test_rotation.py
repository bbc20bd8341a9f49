"""The rotation of a key group from the console: the commands write the record, and the scheduler's executor follows."""

from __future__ import annotations

import time

import pytest

from keyfront.cloudfront.refusal import Refused
from keyfront.cloudfront.rotations import PATH, RotationState
from keyfront.control.audit import search as trail
from keyfront.control.keys.store_api import StoreApi
from keyfront.custody.key_record import RotationPolicy, Stage, load, record_name
from keyfront.custody.schemes import open_place, open_records
from keyfront.lifecycle.executor import RotationExecutor
from tests.console.harness import Browser, ConsolePlane
from tests.control.plane import distribution_config


@pytest.fixture
async def owner(plane: ConsolePlane) -> Browser:
    browser = plane.browser()
    await browser.log_in(plane.owner)
    return browser


async def adopted(plane: ConsolePlane, name: str) -> tuple[str, str]:
    """The ids of a key that signs under rotation, and of its key group."""
    place = f"file:{plane.folder}/custody/"
    held = open_place(place, {}).create(f"{name}-key", "ECDSA-P256", now=time.time(), labels={})
    key = await plane.key(name, EncodedKey=held.public_key.pem)
    config = {"Name": name, "Items": [key]}
    group = (await plane.client().call("CreateKeyGroup", KeyGroupConfig=config))["KeyGroup"]["Id"]
    api = StoreApi(plane.store, "http://here", lambda _: -1, time.time)
    found = api.key_group(group)
    assert found is not None
    terms = RotationPolicy(place, settle=0.0)
    RotationExecutor(api, open_records(place), {}).start(found, terms, {key: f"{place}{name}-key"})
    return key, group


async def test_a_rotation_is_started_commanded_and_stopped(plane: ConsolePlane, owner: Browser) -> None:
    client = plane.client()
    first = await plane.key("rotated")
    made = await client.call("CreateKeyGroup", KeyGroupConfig={"Name": "rotated", "Items": [first]})
    group = made["KeyGroup"]["Id"]
    path = f"/console/groups/{group}"
    records = open_records(f"file:{plane.folder}/custody/")

    page = await owner.get(path)
    assert "Nothing replaces the keys of this group." in page.text
    form = await owner.get(f"{path}/rotation/start")
    wrong = await owner.submit(form, {"every": "soon", "overlap": "30", "lifetime": "7"})
    assert wrong.status_code == 400
    assert "is not a number of days" in wrong.text
    fields = {"every": "90", "overlap": "14", "lifetime": "2", "algorithm": "ECDSA-P256"}
    page = await owner.follow(await owner.submit(form, fields))
    assert "rotated is rotated from now on." in page.text
    assert "every 90\u00a0d" in page.text
    kept = load(records, "rotated")
    assert kept is not None
    assert (kept.record.terms.overlap, kept.record.terms.max_lifetime) == (14 * 86_400, 2 * 86_400)
    assert "What happens next" in page.text
    assert ">create</th>" in page.text
    assert (await owner.get(f"{path}/rotation/start")).status_code == 409

    for command, paused in (("pause", True), ("resume", False)):
        asked = await owner.get(f"{path}/rotation/{command}")
        kept = load(records, "rotated")
        assert kept is not None
        assert kept.record.terms.paused is not paused, "asking changes nothing"
        page = await owner.follow(await owner.submit(asked, {}))
        kept = load(records, "rotated")
        assert kept is not None
        assert kept.record.terms.paused is paused
    refused = await owner.submit(await owner.get(f"{path}/rotation/roll-back"), {})
    assert refused.status_code == 400
    assert "there is no key to go back to" in refused.text

    stopped = await owner.submit(await owner.get(f"{path}/rotation/stop"), {})
    assert "no longer rotated" in (await owner.follow(stopped)).text
    assert load(records, "rotated") is None
    found = [
        (each.record["eventName"], each.record["userIdentity"].get("userName"))
        for each in trail.search(plane.store, trail.AuditQuery(resource=group, writes=True))
        if each.record["eventSource"] == "keyfront" and "errorCode" not in each.record
    ]
    names = ["StartRotation", "PauseRotation", "ResumeRotation", "StopRotation"]
    assert found == [(name, "default") for name in names]


async def test_a_compromised_key_is_replaced_after_the_page_says_what_breaks(
    plane: ConsolePlane, owner: Browser
) -> None:
    key_id, group = await adopted(plane, "exposed")
    path = f"/console/groups/{group}"
    records = open_records(f"file:{plane.folder}/custody/")
    plane.report_use(key_id, requests=7, until=time.time() + 3600)

    assert (await owner.get(f"{path}/rotation/emergency?key=K0")).status_code == 404
    asked = await owner.get(f"{path}/rotation/emergency?key={key_id}")
    assert "viewers have links that work until" in asked.text
    assert "7 requests" in asked.text
    page = await owner.follow(await owner.submit(asked, {}))
    assert "compromised" in page.text
    kept = load(records, "exposed")
    assert kept is not None
    entry = next(each for each in kept.record.entries if each.key_pair_id == key_id)
    assert entry.compromised
    assert entry.stage is Stage.SIGNING
    assert entry.leaving


async def test_who_may_only_read_commands_nothing(plane: ConsolePlane, owner: Browser) -> None:
    key = await plane.key("watched")
    config = {"Name": "watched", "Items": [key]}
    group = (await plane.client().call("CreateKeyGroup", KeyGroupConfig=config))["KeyGroup"]["Id"]
    await owner.submit(await owner.get(f"/console/groups/{group}/rotation/start"), {"every": "30"})
    reader = plane.browser()
    await reader.log_in(plane.user("watcher", "auditor"))
    page = await reader.get(f"/console/groups/{group}")
    assert "What happens next" in page.text
    for command in ("rotate", "pause", "stop"):
        asked = await reader.get(f"/console/groups/{group}/rotation/{command}")
        refused = await reader.submit(asked, {})
        assert refused.status_code == 403
        assert "not authorized to perform: keyfront:" in refused.text
    other = await plane.key("unwatched")
    config = {"Name": "unwatched", "Items": [other]}
    group = (await plane.client().call("CreateKeyGroup", KeyGroupConfig=config))["KeyGroup"]["Id"]
    form = await reader.get(f"/console/groups/{group}/rotation/start")
    assert (await reader.submit(form, {"every": "30"})).status_code == 400
    records = open_records(f"file:{plane.folder}/custody/")
    assert load(records, "unwatched") is None


async def test_a_plan_waits_for_the_distributions_that_trust_the_group(plane: ConsolePlane) -> None:
    _, group = await adopted(plane, "deploying")
    client = plane.client()
    ids = []
    for number in range(2):
        config = distribution_config(f"deploying-{number}", [group])
        ids.append((await client.call("CreateDistribution", DistributionConfig=config))["Distribution"]["Id"])
    for deployed, status in ((-1, "InProgress"), (1 << 40, "Deployed")):
        api = StoreApi(plane.store, "http://here", lambda _, number=deployed: number, time.time)  # type: ignore[misc]
        assert [(each.id, each.status) for each in api.distributions(group)] == [
            (id_, status) for id_ in sorted(ids)
        ]
    assert api.distributions("none") == ()
    assert api.key_groups_of(["none"]) == {}
    found = api.find_key_group("deploying")
    assert found is not None
    assert found.id == group
    assert api.find_key_group("none") is None


async def test_a_record_that_cannot_be_read_is_mentioned(plane: ConsolePlane, owner: Browser) -> None:
    _, group = await adopted(plane, "broken")
    assert "cannot be read" not in (await owner.get("/console/groups")).text
    records = open_records(f"file:{plane.folder}/custody/")
    kept = records.read(record_name("broken"))
    assert kept is not None
    records.write(record_name("broken"), b"{}", kept.version)
    try:
        page = await owner.get("/console/groups")
        assert "Some rotation records cannot be read" in page.text
        assert (await owner.get(f"/console/groups/{group}/rotation/pause")).status_code == 404
    finally:
        changed = records.read(record_name("broken"))
        assert changed is not None
        records.write(record_name("broken"), kept.data, changed.version)


async def test_wrong_terms_are_refused_by_the_api(plane: ConsolePlane) -> None:
    client = plane.client()
    made = await client.call(
        "CreateKeyGroup", KeyGroupConfig={"Name": "terms", "Items": [await plane.key("terms")]}
    )
    path = f"{PATH}/{made['KeyGroup']['Id']}"
    for params, text in (
        ({"Every": "soon"}, "a number of seconds"),
        ({"Every": "-1"}, "a number of seconds"),
        ({"Every": "nan"}, "a number of seconds"),
        ({"Every": "1 2 3 4 99"}, "not a schedule"),
        ({"Overlap": True}, "must be a text"),
        ({"Algorithm": "DSA"}, "must be one of"),
        ({"Custody": "file:/etc/"}, "has no parameter"),
    ):
        with pytest.raises(Refused, match=text):
            await client.own("POST", path, RotationState, params)
    assert load(open_records(f"file:{plane.folder}/custody/"), "terms") is None
    started = await client.own("POST", path, RotationState, {"Every": "0 3 1 * *"})
    assert started.terms.every == "0 3 1 * *"
    with pytest.raises(Refused, match="Key is required"):
        await client.own("POST", f"{path}/emergency", RotationState, {})
    with pytest.raises(Refused, match="is rotated already"):
        await client.own("POST", path, RotationState, {"Every": ""})
