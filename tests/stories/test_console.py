"""The console of a running Keyfront in a browser: from a key to a guarded path that rotates, on a phone, by keyboard,
and without JavaScript."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.keys import rsa_pem
from tests.up import PATIENCE, Up

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

PAGES = (
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
    "/keys/new",
    "/groups/new",
)
TOO_WIDE = "document.documentElement.scrollWidth > document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def desktop(chromium: Browser) -> Iterator[BrowserContext]:
    with chromium.new_context() as context:
        context.set_default_timeout(PATIENCE * 1000)
        yield context


def log_in(up: Up, context: BrowserContext) -> Page:
    """A page, logged in as the owner."""
    page = context.new_page()
    key = up.credentials()
    page.goto(f"{up.endpoint}/console/keys")
    page.get_by_label("Access key ID").fill(key["aws_access_key_id"])
    page.get_by_label("Secret access key").fill(key["aws_secret_access_key"])
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("heading", name="Public keys").wait_for()
    return page


def test_from_a_key_to_a_guarded_path_that_rotates(
    shared_up: Up, page_origin: int, desktop: BrowserContext
) -> None:
    from playwright.sync_api import expect

    expect.set_options(timeout=PATIENCE * 1000)
    complaints: list[str] = []
    desktop.on("console", lambda message: complaints.append(message.text))
    desktop.on("weberror", lambda error: complaints.append(str(error.error)))
    made = shared_up.create_distribution(page_origin)
    assert shared_up.get(made["DomainName"], "/a").status == 200

    page = log_in(shared_up, desktop)
    page.get_by_role("link", name="Create a public key").click()
    page.get_by_label("Name").fill("from the console")
    page.get_by_label("Public key in PEM form").fill(rsa_pem())
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_role("status")).to_contain_text("was created")

    page.get_by_role("link", name="Key groups").click()
    page.get_by_role("link", name="Create a key group").click()
    page.get_by_label("Name").fill("console story")
    page.get_by_role("checkbox", name=re.compile("from the console")).check()
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_role("heading", name="console story")).to_be_visible()
    group = page.url

    page.goto(f"{shared_up.endpoint}/console/distributions/{made['Id']}")
    page.get_by_role("link", name="Change who guards *").click()
    page.get_by_role("checkbox", name=re.compile("console story")).check()
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_text("open to everyone now")).to_be_visible()
    assert shared_up.get(made["DomainName"], "/a").status == 200, "nothing has changed yet"
    page.get_by_role("button", name="Change it").click()
    expect(page.get_by_role("link", name="console story")).to_be_visible()
    shared_up.deployed(made["Id"])
    assert shared_up.get(made["DomainName"], "/a").status == 403

    page.goto(group)
    page.get_by_role("link", name="Start its rotation").click()
    page.get_by_role("button", name="Start the rotation").click()
    expect(page.get_by_text("What happens next")).to_be_visible()
    ends = time.monotonic() + PATIENCE
    while not page.get_by_text("SIGNING").count():
        assert time.monotonic() < ends
        page.wait_for_timeout(1000)
        page.reload()
    page.get_by_role("link", name=re.compile("^Compromised")).first.click()
    expect(page.get_by_role("heading", name="What this breaks")).to_be_visible()
    page.get_by_role("link", name="Cancel").click()
    page.get_by_role("link", name="Stop the rotation").click()
    page.get_by_role("button", name="Stop the rotation").click()
    expect(page.get_by_role("status")).to_contain_text("no longer rotated")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    assert complaints == []


def test_nothing_scrolls_sideways_on_a_phone(shared_up: Up, chromium: Browser) -> None:
    with chromium.new_context(
        viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True
    ) as phone:
        phone.set_default_timeout(PATIENCE * 1000)
        page = log_in(shared_up, phone)
        for path in PAGES:
            page.goto(f"{shared_up.endpoint}/console{path}")
            assert not page.evaluate(TOO_WIDE), path


def test_the_keyboard_is_enough(shared_up: Up, desktop: BrowserContext) -> None:
    page = desktop.new_page()
    key = shared_up.credentials()
    page.goto(f"{shared_up.endpoint}/console/")
    page.keyboard.type(key["aws_access_key_id"])  # the field has the focus
    page.keyboard.press("Tab")
    page.keyboard.type(key["aws_secret_access_key"])
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Overview").wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_everything_works_without_javascript(shared_up: Up, chromium: Browser) -> None:
    with chromium.new_context(java_script_enabled=False, color_scheme="dark") as plain:
        plain.set_default_timeout(PATIENCE * 1000)
        page = log_in(shared_up, plain)
        page.get_by_role("link", name="Create a public key").click()
        page.get_by_label("Name").fill("without a script")
        page.get_by_label("Public key in PEM form").fill(rsa_pem())
        page.get_by_role("button", name="Create").click()
        page.get_by_role("link", name="Delete…").click()
        page.get_by_role("button", name="Delete the public key").click()
        assert "was deleted" in page.get_by_role("status").inner_text()
