"""Log-in, sessions, and their end."""

from __future__ import annotations

import re
import time

import httpx

from keyfront.control.audit import search as trail
from tests.console.harness import Browser, ConsolePlane

COOKIE = "keyfront-console"


async def test_an_access_key_opens_the_console(plane: ConsolePlane) -> None:
    browser = plane.browser()
    away = await browser.get("/console/?x=1")
    assert (away.status_code, away.headers["location"]) == (303, "/console/log-in?next=/console/%3Fx%3D1")
    page = await browser.follow(away)
    inside = await browser.submit(page, {"access_key_id": plane.owner[0], "secret": plane.owner[1]})
    assert (inside.status_code, inside.headers["location"]) == (303, "/console/?x=1")
    cookie = inside.headers["set-cookie"]
    assert all(part in cookie for part in ("HttpOnly", "SameSite=strict", "Path=/"))
    overview = await browser.follow(inside)
    assert overview.status_code == 200
    assert "<h1>Overview</h1>" in overview.text
    assert "default" in overview.text
    assert plane.owner[1] not in overview.text


async def inside(browser: Browser, key: tuple[str, str]) -> httpx.Response:
    """The overview, after a log-in."""
    return await browser.follow(await browser.log_in(key))


async def test_a_log_in_is_in_the_audit_log_and_so_is_every_read(plane: ConsolePlane) -> None:
    key = plane.user("vera", "auditor")
    assert (await inside(plane.browser(address="192.0.2.99"), key)).status_code == 200
    found = {
        each.record["eventName"]: each.record
        for each in trail.search(plane.store, trail.AuditQuery(user="vera"))
    }
    assert set(found) == {"GetCallerIdentity", "GetStatus", "GetTraffic"}
    for record in found.values():
        assert record["userIdentity"]["accessKeyId"] == key[0]
        assert record["sourceIPAddress"] == "192.0.2.99"
        assert record["userAgent"].startswith("keyfront-console tests/1")


async def test_wrong_credentials_open_nothing(plane: ConsolePlane) -> None:
    browser = plane.browser(address="192.0.2.50")
    for key in ((plane.owner[0], "x" * 40), ("AKIA" + "Q" * 16, plane.owner[1])):
        answer = await browser.log_in(key)
        assert answer.status_code == 403
        assert "do not belong together" in answer.text
        assert "set-cookie" not in answer.headers
        assert key[1] not in answer.text
    for key in (("", ""), ("<script>", "x"), ("AKIA" + "Q" * 16, "ü")):
        assert (await browser.log_in(key)).status_code == 403


async def test_failed_log_ins_are_limited_for_each_address(plane: ConsolePlane) -> None:
    browser, wrong = plane.browser(address="192.0.2.51"), ("AKIA" + "R" * 16, "x" * 40)
    statuses = [(await browser.log_in(wrong)).status_code for _ in range(11)]
    assert statuses == [403] * 10 + [429]
    refused = await browser.log_in(plane.owner)
    assert refused.status_code == 429
    assert 0 < int(refused.headers["retry-after"]) <= 17
    assert (await plane.browser(address="192.0.2.52").log_in(plane.owner)).status_code == 303


async def test_a_log_in_never_continues_a_session_that_the_browser_brought(plane: ConsolePlane) -> None:
    attacker, victim = plane.browser(), plane.browser()
    await inside(attacker, plane.owner)
    planted = attacker.client.cookies[COOKIE]
    victim.client.cookies.set(COOKIE, planted)
    made = await victim.log_in(plane.owner)
    token = re.search(rf"{COOKIE}=([^;]+)", made.headers["set-cookie"])
    assert token is not None
    assert token[1] != planted
    assert (await attacker.get("/console/")).status_code == 303, "the planted session is over"
    unknown = plane.browser()
    unknown.client.cookies.set(COOKIE, "A" * 43)
    assert (await unknown.get("/console/")).headers["location"].startswith("/console/log-in?ended=1")


async def test_log_out_ends_the_session(plane: ConsolePlane) -> None:
    browser = plane.browser()
    page = await inside(browser, plane.owner)
    token = browser.client.cookies[COOKIE]
    assert (await browser.post("/console/log-out", {"csrf": "wrong"})).headers["location"] == "/console/"
    assert (await browser.get("/console/")).status_code == 200
    assert (await browser.submit(page, {}, "/log-out")).headers["location"] == "/console/log-in"
    assert COOKIE not in browser.client.cookies
    browser.client.cookies.set(COOKIE, token)
    assert (await browser.get("/console/")).status_code == 303


async def test_a_session_ends_with_its_access_key(plane: ConsolePlane) -> None:
    for name, end in (
        ("otto", lambda key: plane.admin.set_active(key, False)),
        ("olga", lambda key: plane.admin.delete_key(key)),
        ("omar", lambda _: plane.admin.delete_user("omar", with_keys=True)),
    ):
        browser, key = plane.browser(), plane.user(name, "auditor")
        assert (await inside(browser, key)).status_code == 200
        end(key[0])
        plane.renew_callers()
        answer = await browser.get("/console/")
        assert answer.headers["location"].startswith("/console/log-in?ended=1"), name


async def test_a_session_ends_when_it_is_idle_and_after_twelve_hours(plane: ConsolePlane) -> None:
    browser = plane.browser()
    await inside(browser, plane.owner)
    plane.passed = 3500.0
    assert (await browser.get("/console/")).status_code == 200
    plane.passed = 7000.0
    assert (await browser.get("/console/")).status_code == 200
    by_itself = await browser.get("/console/", **{"X-Console-Refresh": "1"})
    assert by_itself.status_code == 200
    plane.passed = 10_700.0
    before = len(plane.sessions.all(time.time()))
    assert (await browser.get("/console/")).status_code == 303, "a page that renews itself is not a user"
    assert len(plane.sessions.all(time.time())) == before - 1, "its credentials end with it"
    plane.passed = 0.0
    await inside(browser, plane.owner)
    for plane.passed in range(0, 12 * 3600, 3000):
        assert (await browser.get("/console/")).status_code == 200
    plane.passed = 12 * 3600.0
    assert (await browser.get("/console/")).status_code == 303
    plane.passed = 0.0


async def test_over_tls_the_cookie_is_bound_to_the_host(plane: ConsolePlane) -> None:
    browser = plane.browser(scheme="https")
    cookie = (await browser.log_in(plane.owner)).headers["set-cookie"]
    assert cookie.startswith("__Host-keyfront-console=")
    assert "Secure" in cookie
    assert "Domain" not in cookie


async def test_nothing_outside_the_console_is_opened_after_log_in(plane: ConsolePlane) -> None:
    for to in (
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "/console//evil.example",
        "/console/../../evil",
        "/console/\tx",
        "/2020-05-31/distribution",
        "javascript:alert(1)",
        "/consoleevil",
    ):
        assert (await plane.browser().log_in(plane.owner, to)).headers["location"] == "/console/", to
    assert (await plane.browser().log_in(plane.owner, "/console/keys?a=b")).headers[
        "location"
    ] == "/console/keys?a=b"
