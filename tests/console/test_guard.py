"""Protection in the browser: headers on every response, and forms from this origin with the session's token only."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from keyfront.console.guard import is_same_origin
from tests.console.harness import HOST, ConsolePlane
from tests.keys import rsa_pem
from tests.rows import rows


@rows(
    ("headers", "same"),
    [
        ({"host": "a.example", "origin": "http://a.example"}, True),
        ({"host": "a.example", "origin": "https://a.example"}, True),
        ({"host": "a.example:80", "origin": "http://a.example"}, True),
        ({"host": "a.example:8081", "origin": "http://a.example:8081"}, True),
        ({"host": "[::1]:8081", "origin": "http://[::1]:8081"}, True),
        ({"host": "a.example", "origin": "http://a.example", "sec-fetch-site": "same-origin"}, True),
        ({"host": "a.example", "sec-fetch-site": "same-origin"}, True),
        ({"host": "a.example"}, False),
        ({"origin": "http://a.example"}, False),
        ({"host": "a.example", "origin": "null"}, False),
        ({"host": "a.example", "origin": ""}, False),
        ({"host": "a.example", "origin": "http://b.example"}, False),
        ({"host": "a.example", "origin": "http://a.example.evil"}, False),
        ({"host": "a.example", "origin": "http://a.example:8081"}, False),
        ({"host": "a.example:8081", "origin": "http://a.example:8082"}, False),
        ({"host": "a.example", "origin": "http://a.example:x"}, False),
        ({"host": "a.example", "origin": "file://a.example"}, False),
        ({"host": "a.example", "sec-fetch-site": "same-site"}, False),
        ({"host": "a.example", "sec-fetch-site": "none"}, False),
        ({"host": "a.example", "origin": "http://a.example", "sec-fetch-site": "cross-site"}, False),
    ],
)
def test_a_form_from_another_origin_is_noticed(headers: dict[str, str], same: bool) -> None:
    assert is_same_origin([(name.encode(), value.encode()) for name, value in headers.items()]) is same


async def test_every_response_has_the_headers(plane: ConsolePlane) -> None:
    browser = plane.browser()
    answers = [
        await browser.get("/console/log-in"),
        await browser.get("/console/"),
        await browser.get("/console"),
        await browser.get("/console/nothing"),
        await browser.post("/console/log-out", Origin="https://evil.example"),
        await browser.get("/console/assets/x/nothing.css"),
        await browser.log_in(plane.owner),
        await browser.get("/console/"),
        await browser.get("/console/nothing"),
        await browser.client.delete("/console/"),
    ]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        if "/assets/" not in str(answer.request.url) and answer.status_code != 308:
            assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "", "Sec-Fetch-Site": ""},
        {"Origin": "", "Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
async def test_forms_of_other_origins_are_refused_even_with_the_token(
    plane: ConsolePlane, headers: dict[str, str]
) -> None:
    browser = plane.browser()
    page = await browser.follow(await browser.log_in(plane.owner))
    token = re.search(r'name="csrf" value="([^"]+)"', page.text)
    assert token is not None
    assert (await browser.post("/console/log-out", {"csrf": token[1]}, **headers)).status_code == 403
    assert (await browser.get("/console/")).status_code == 200
    assert (await browser.post("/console/log-in", {}, **headers)).status_code == 403


async def test_a_form_with_another_sessions_token_changes_nothing(plane: ConsolePlane) -> None:
    browser, other = plane.browser(), plane.browser()
    for each in (browser, other):
        await each.log_in(plane.owner)
    foreign = re.search(r'name="csrf" value="([^"]+)"', (await other.get("/console/keys/new")).text)
    assert foreign is not None
    for token in (foreign[1], "", "ü"):
        fields = {"name": "forged", "pem": rsa_pem(), "csrf": token}
        answer = await browser.post("/console/keys/new", fields)
        assert answer.status_code == 403
        assert "not from this session" in answer.text
    assert "forged" not in (await browser.get("/console/keys")).text


async def test_assets_are_cached_for_good_under_the_name_of_their_version(plane: ConsolePlane) -> None:
    browser = plane.browser()
    page = await browser.get("/console/log-in")
    paths = re.findall(r'(?:href|src)="(/console/assets/[^"]+)"', page.text)
    assert {path.rpartition(".")[2] for path in paths} == {"css", "svg"}
    for path in paths:
        answer = await browser.get(path)
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        again = await browser.get(path, **{"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    old = await browser.get(re.sub("/assets/[0-9a-f]+/", "/assets/0123456789abcdef/", paths[0]))
    assert (old.status_code, old.headers["cache-control"]) == (200, "no-cache")
    assert (await browser.get("/console/assets/x/..%2fapp.py")).status_code in (303, 404)


async def test_the_form_of_a_request_is_bounded(plane: ConsolePlane) -> None:
    browser = plane.browser()
    origin = {"Origin": f"http://{HOST}"}
    long = await browser.client.post("/console/log-in", content=b"a=" + b"x" * 300_000, headers=origin)
    assert long.status_code == 415
    form = origin | {"Content-Type": "application/x-www-form-urlencoded"}
    long = await browser.client.post("/console/log-in", content=b"a=" + b"x" * 300_000, headers=form)
    assert long.status_code == 413
    many = await browser.client.post("/console/log-in", content=b"&".join([b"a=1"] * 3000), headers=form)
    assert many.status_code == 400
    broken = await browser.client.post("/console/log-in", content=b"a=%ff", headers=form)
    assert broken.status_code == 400


async def test_a_failure_of_the_console_is_a_response_with_the_headers(
    plane: ConsolePlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("not meant to happen")

    browser = plane.browser()
    await browser.log_in(plane.owner)
    monkeypatch.setattr("keyfront.console.pages.overview.hit_ratio", fail)
    answer = await browser.get("/console/")
    assert answer.status_code == 500
    assert "not meant to happen" not in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]


async def test_a_control_plane_without_the_console_has_no_pages(tmp_path: Path) -> None:
    plane = ConsolePlane(tmp_path, console=False)
    for path in ("/console", "/console/", "/console/log-in"):
        answer = await plane.browser().get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (400, "text/xml")
    plane.close()
