"""The pages: what they show, and that hostile names stay text."""

from __future__ import annotations

import html
import re
import time
from typing import Any
from urllib.parse import quote

import click
import pytest

from keyfront.cli.main import keyfront
from keyfront.console.rendering import FOLDER
from tests.console.harness import Browser, ConsolePlane
from tests.keys import rsa_pem

HOSTILE = """"><script>alert(1)</script>'{{7*7}}<img src=x onerror=alert(1)>"""


@pytest.fixture
async def owner(plane: ConsolePlane) -> Browser:
    browser = plane.browser()
    await browser.log_in(plane.owner)
    return browser


async def test_from_a_key_to_a_guarded_path(plane: ConsolePlane, owner: Browser) -> None:
    form = await owner.get("/console/keys/new")
    made = await owner.submit(form, {"name": "press", "pem": rsa_pem(), "comment": HOSTILE[:100]})
    key_page = await owner.follow(made)
    key_id = made.headers["location"].rpartition("/")[2]
    assert "Edges trust it once it is in a key group" in key_page.text
    assert "none: edges do not trust it" in key_page.text

    form = await owner.get("/console/groups/new")
    made = await owner.submit(form, {"name": "press", f"key-{key_id}": "on"})
    group_page = await owner.follow(made)
    group_id = made.headers["location"].rpartition("/")[2]
    assert key_id in group_page.text
    assert "trusted, not rotated" in group_page.text

    distribution = await plane.distribution("guarded", HOSTILE[:100])
    page = await owner.get(f"/console/distributions/{distribution}")
    assert '<span class="state">open</span>' in page.text
    path = f"/console/distributions/{distribution}/behaviors/0"
    asked = await owner.submit(await owner.get(path), {f"group-{group_id}": "on"})
    assert asked.status_code == 200
    assert "open to everyone now" in asked.text
    done = await owner.submit(asked, {}, "/behaviors/0")
    page = await owner.follow(done)
    assert f'<a href="/console/groups/{group_id}">press</a>' in page.text

    asked = await owner.submit(await owner.get(path), {})
    assert "open to everyone, with or without a signature" in asked.text


async def test_a_removed_key_is_announced_with_the_links_that_break(
    plane: ConsolePlane, owner: Browser
) -> None:
    client = plane.client()
    keys = [await plane.key(f"removed-{n}") for n in range(2)]
    config = {"Name": "removal", "Items": keys}
    group = (await client.call("CreateKeyGroup", KeyGroupConfig=config))["KeyGroup"]["Id"]
    plane.report_use(keys[0], requests=40, until=time.time() + 86_400)
    form = await owner.get(f"/console/groups/{group}/change")
    asked = await owner.submit(form, {f"key-{keys[1]}": "on"})
    assert "viewers have links that work until" in asked.text
    assert "40 requests, 100% of all signed ones" in asked.text
    unchanged = await client.call("GetKeyGroup", Id=group)
    assert unchanged["KeyGroup"]["KeyGroupConfig"]["Items"] == keys
    done = await owner.submit(asked, {}, "/change")
    assert done.status_code == 303
    changed = await client.call("GetKeyGroup", Id=group)
    assert changed["KeyGroup"]["KeyGroupConfig"]["Items"] == [keys[1]]

    asked = await owner.get(f"/console/keys/{keys[0]}/delete")
    assert "viewers have links that work until" in asked.text
    again = await owner.follow(await owner.submit(asked, {}, "/delete"))
    assert "was deleted" in again.text
    refused = await owner.submit(await owner.get(f"/console/keys/{keys[1]}/delete"), {}, "/delete")
    assert refused.status_code == 400
    assert (
        "PublicKeyInUse" in refused.text or "in use" in refused.text.lower() or "associated" in refused.text
    )


async def test_an_outdated_form_changes_nothing(plane: ConsolePlane, owner: Browser) -> None:
    client = plane.client()
    key = await plane.key("outdated")
    config = {"Name": "outdated", "Items": [key]}
    made = await client.call("CreateKeyGroup", KeyGroupConfig=config)
    group = made["KeyGroup"]["Id"]
    form = await owner.get(f"/console/groups/{group}/change")
    await client.call(
        "UpdateKeyGroup", Id=group, IfMatch=made["ETag"], KeyGroupConfig=config | {"Comment": "newer"}
    )
    assert (await owner.submit(form, {f"key-{key}": "on"})).status_code == 412
    distribution = await plane.distribution("outdated")
    path = f"/console/distributions/{distribution}/behaviors/0"
    form = await owner.get(path)
    found = await client.call("GetDistributionConfig", Id=distribution)
    found["DistributionConfig"]["Comment"] = "newer"
    await client.call(
        "UpdateDistribution",
        Id=distribution,
        IfMatch=found["ETag"],
        DistributionConfig=found["DistributionConfig"],
    )
    assert (await owner.submit(form, {f"group-{group}": "on"})).status_code == 412


async def test_a_private_key_that_was_pasted_by_mistake_is_not_sent_back(owner: Browser) -> None:
    form = await owner.get("/console/keys/new")
    private = "-----BEGIN PRIVATE KEY-----\nMIIsecret\n-----END PRIVATE KEY-----"
    refused = await owner.submit(form, {"name": "oops", "pem": private})
    assert refused.status_code == 400
    assert "MIIsecret" not in refused.text
    assert 'value="oops"' in refused.text


PATHS = (
    "/",
    "/groups",
    "/keys",
    "/distributions",
    "/requests",
    "/explain",
    "/alarms",
    "/shared-links",
    "/audit",
    "/users",
    "/sessions",
    "/groups/new",
    "/keys/new",
)


async def test_hostile_texts_stay_texts_on_every_page(plane: ConsolePlane) -> None:
    browser = plane.browser()
    browser.client.headers["User-Agent"] = HOSTILE
    await browser.log_in(plane.owner, HOSTILE)
    client = plane.client()
    key = await plane.key("hostile", Comment=HOSTILE)
    group = (
        await client.call(
            "CreateKeyGroup", KeyGroupConfig={"Name": "hostile", "Items": [key], "Comment": HOSTILE}
        )
    )["KeyGroup"]["Id"]
    distribution = await plane.distribution("hostile", HOSTILE)
    paths = [
        *PATHS,
        f"/keys/{key}",
        f"/keys/{key}/delete",
        f"/groups/{group}",
        f"/groups/{group}/change",
        f"/groups/{group}/delete",
        f"/distributions/{distribution}",
        f"/distributions/{distribution}/behaviors/0",
        f"/keys/{HOSTILE}",
        f"/{HOSTILE}",
        f"/audit?user={quote(HOSTILE)}&since={quote(HOSTILE)}",
        f"/keys?marker={quote(HOSTILE)}",
    ]
    shown = 0
    for path in paths:
        page = await browser.get(f"/console{path}")
        assert page.status_code in (200, 400, 404), path
        assert "<script>alert" not in page.text, path
        assert "<img src=x" not in page.text, path
        assert "49" not in re.findall(r"\{\{7\*7\}\}|'49", page.text), path
        shown += html.escape(HOSTILE) in page.text or "&lt;script&gt;alert(1)" in page.text
    assert shown >= 7


def test_templates_have_nothing_inline_and_switch_no_escaping_off() -> None:
    found = sorted(FOLDER.glob("*.html"))
    assert found
    for path in found:
        text = path.read_text()
        assert not re.search(r"\|\s*safe|autoescape|<style|\sstyle=|\son[a-z]+=|javascript:", text), path.name
        assert not re.search(r"https?://(?!www\.w3\.org)", text), path.name
        assert not re.search(r"<script(?![^>]*src=)", text), path.name
        for form in re.findall(r'<form[^>]*method="post"[^>]*>.*?</form>', text, re.DOTALL):
            assert "csrf" in form or path.name == "log_in.html", path.name


async def test_every_page_has_landmarks_a_heading_and_labels(plane: ConsolePlane, owner: Browser) -> None:
    await plane.key("labeled")
    for path in PATHS:
        page = (await owner.get(f"/console{path}")).text
        assert len(re.findall(r"<h1", page)) == 1, path
        assert page.count("<main") == page.count("<header") == page.count("<footer") == 1, path
        assert '<html lang="en">' in page
        assert 'class="skip" href="#main"' in page
        ids = re.findall(r'\sid="([^"]+)"', page)
        assert len(ids) == len(set(ids)), path
        labels = set(re.findall(r'<label for="([^"]+)"', page))
        for field in re.findall(r'<(?:input|textarea|select)[^>]*\sid="([^"]+)"', page):
            assert field in labels, (path, field)


def test_commands_in_templates_exist() -> None:
    found = []
    for path in FOLDER.glob("*.html"):
        found += re.findall(r"<code>keyfront ([a-z ]+?)(?: [A-Z]+)?</code>", path.read_text())
    assert len(found) >= 3
    for command in found:
        place: Any = keyfront
        for word in command.split():
            place = place.get_command(click.Context(place), word)
            assert place is not None, command
