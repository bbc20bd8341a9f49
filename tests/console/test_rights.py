"""A user sees and does nothing more than by the API."""

from __future__ import annotations

import time

import pytest

from keyfront.control.audit import search as trail
from tests.console.harness import Browser, ConsolePlane, forms
from tests.keys import rsa_pem

PATHS = (
    "/",
    "/groups",
    "/keys",
    "/distributions",
    "/requests",
    "/alarms",
    "/shared-links",
    "/audit",
    "/users",
)


async def inside(plane: ConsolePlane, key: tuple[str, str]) -> Browser:
    browser = plane.browser()
    assert (await browser.log_in(key)).status_code == 303
    return browser


async def test_who_may_do_nothing_sees_nothing(plane: ConsolePlane) -> None:
    await plane.key("secret-name")
    browser = await inside(plane, plane.user("nobody"))
    for path in PATHS:
        page = await browser.get(f"/console{path}")
        assert page.status_code == 403, path
        assert "not authorized to perform" in page.text, path
        assert "secret-name" not in page.text
    sessions = await browser.get("/console/sessions")
    assert sessions.status_code == 200, "one's own sessions can always be seen and ended"
    assert "Everyone" not in sessions.text


async def test_who_may_only_read_changes_nothing(plane: ConsolePlane) -> None:
    key_id = await plane.key("read-only")
    config = {"Name": "read-only", "Items": [key_id]}
    group = (await plane.client().call("CreateKeyGroup", KeyGroupConfig=config))["KeyGroup"]["Id"]
    distribution = await plane.distribution("read-only")
    key = plane.user("reader", "auditor")
    browser = await inside(plane, key)
    for path in PATHS:
        assert (await browser.get(f"/console{path}")).status_code == 200, path
    attempts = {
        "/keys/new": {"name": "x", "pem": rsa_pem()},
        "/groups/new": {"name": "x", f"key-{key_id}": "on"},
        f"/groups/{group}/change": {f"key-{key_id}": "on"},
        f"/groups/{group}/delete": {},
        f"/keys/{key_id}/delete": {},
        f"/distributions/{distribution}/behaviors/0": {f"group-{group}": "on"},
    }
    before = number_of_changes(plane)
    for path, fields in attempts.items():
        answer = await browser.submit(await browser.get(f"/console{path}"), fields)
        if "confirm" in answer.text and answer.status_code == 200:
            answer = await browser.submit(answer, {})
        assert answer.status_code in (400, 403), path
        assert "not authorized to perform" in answer.text, path
    assert number_of_changes(plane) == before
    refused = trail.search(plane.store, trail.AuditQuery(user="reader", errors=True))
    assert len(list(refused)) >= len(attempts)


def number_of_changes(plane: ConsolePlane) -> int:
    query = trail.AuditQuery(writes=True)
    return sum("errorCode" not in each.record for each in trail.search(plane.store, query))


async def test_a_page_shows_the_part_that_the_user_may_see(plane: ConsolePlane) -> None:
    policy = '{"Statement": {"Effect": "Allow", "Action": "cloudfront:*", "Resource": "*"}}'
    browser = await inside(plane, plane.user("half", policy))
    page = await browser.get("/console/keys")
    assert page.status_code == 200
    assert page.text.count("Not shown:") == 2, "the use and the rotations of keys"
    only = '{"Statement": {"Effect": "Allow", "Action": "cloudfront:ListPublicKeys", "Resource": "*"}}'
    other = await inside(plane, plane.user("less", only))
    assert (await other.get("/console/keys")).status_code == 200
    assert (await other.get("/console/groups")).status_code == 403


async def test_conditions_on_the_address_hold_in_the_console(plane: ConsolePlane) -> None:
    policy = (
        '{"Statement": {"Effect": "Allow", "Action": "cloudfront:List*", "Resource": "*",'
        ' "Condition": {"IpAddress": {"aws:SourceIp": "198.51.100.0/24"}}}}'
    )
    key = plane.user("placed", policy)
    for address, status in (("198.51.100.9", 200), ("203.0.113.9", 403)):
        browser = plane.browser(address=address)
        await browser.log_in(key)
        assert (await browser.get("/console/keys")).status_code == status


async def test_a_policy_that_is_taken_away_counts_with_the_next_request(plane: ConsolePlane) -> None:
    browser = await inside(plane, plane.user("changing", "auditor"))
    assert (await browser.get("/console/keys")).status_code == 200
    plane.admin.detach("auditor", "changing")
    plane.renew_callers()
    assert (await browser.get("/console/keys")).status_code == 403


async def test_sessions_are_listed_and_ended(plane: ConsolePlane) -> None:
    key = plane.user("sess", "auditor")
    one, two = await inside(plane, key), await inside(plane, key)
    page = await one.get("/console/sessions")
    other = [form for form in forms(page.text) if form["action"] == "/console/sessions"]
    assert len(other) >= 1
    own = [each.id for each in plane.sessions.all(time.time()) if each.arn.endswith("/sess")]
    assert len(own) == 2
    ended = await one.post("/console/sessions", {"csrf": other[0]["fields"]["csrf"], "id": own[1]})
    assert ended.status_code == 303
    alive = [(await each.get("/console/sessions")).status_code for each in (one, two)]
    assert sorted(alive) == [200, 303]


@pytest.mark.parametrize(("policy", "status"), [("auditor", 403), ("admin", 303)])
async def test_only_who_may_end_sessions_ends_those_of_others(
    plane: ConsolePlane, policy: str, status: int
) -> None:
    victim = await inside(plane, plane.user(f"victim-{policy}", "auditor"))
    browser = await inside(plane, plane.user(f"ender-{policy}", policy))
    page = await browser.get("/console/sessions")
    assert f"victim-{policy}" in page.text
    id_ = next(each.id for each in plane.sessions.all(time.time()) if each.arn.endswith(f"victim-{policy}"))
    form = next(each for each in forms(page.text) if each["action"] == "/console/sessions")
    ended = await browser.post("/console/sessions", {"csrf": form["fields"]["csrf"], "id": id_})
    assert ended.status_code == status
    assert (await victim.get("/console/sessions")).status_code == (303 if status == 303 else 200)
