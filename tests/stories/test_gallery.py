"""The whole demo: what `make demo` starts, visited over the wire and in a browser."""

from __future__ import annotations

import contextlib
import html
import json
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from examples.gallery.attempts import ATTEMPTS
from tests.rows import rows

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[2]

MISSING_KEY = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>MissingKey</Code>'
    b"<Message>Missing Key-Pair-Id query parameter or cookie value</Message></Error>"
)
INVALID_KEY = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>InvalidKey</Code>'
    b"<Message>Unknown Key</Message></Error>"
)
ACCESS_DENIED = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>AccessDenied</Code>'
    b"<Message>Access denied</Message></Error>"
)


def lasting_port() -> int:
    """A free port outside the range from which the kernel assigns ephemeral ports."""
    for port in random.sample(range(20_000, 30_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


class Demo:
    """`make demo` on a port of its own, which may be stopped and started again."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self._listen = f"127.0.0.1:{lasting_port()}"

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "examples.gallery", "--data", str(self.data)]
            + ["--edge", self._listen, "--control", "127.0.0.1:0"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.greeting = ""
        for line in self.process.stdout:
            self.greeting += line
            if "Ctrl-C" in line:
                break
        public = re.search(r"http://\S+\.cloudfront\.localhost:\d+(?=/\n)", self.greeting)
        origin = re.search(r"http://127\.0\.0\.1:\d+(?=/: the application)", self.greeting)
        assert public, self.greeting
        assert origin, self.greeting
        self.url, self.origin = public[0], origin[0]

    def stop(self) -> int:
        """Stop it as a process manager does, and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.stdout is not None
        self.process.stdout.read()
        self.process.stdout.close()
        return self.process.wait(20)

    def records(self, request_id: str, seconds: float = 3) -> list[dict[str, Any]]:
        """The access records of one request. They are written a moment after the response is sent."""
        patience = time.monotonic() + seconds
        log = self.data / "keyfront" / "logs" / "access.jsonl"
        while True:
            found = [json.loads(line) for line in log.read_text().splitlines() if request_id in line]
            if found or time.monotonic() > patience:
                return found
            time.sleep(0.02)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    demo = Demo(tmp_path_factory.mktemp("gallery"))
    try:
        demo.start()
        yield demo
    finally:
        if demo.process.poll() is None:
            assert demo.stop() == 0


def test_the_greetings_command_lists_the_keys_as_printed(demo: Demo) -> None:
    command = demo.greeting.partition("by boto3\n")[2].partition("\n\n")[0]
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "gallery" in done.stdout


class ToLoopback(httpx.HTTPTransport):
    """Resolves every name to this machine, as a browser resolves *.localhost."""

    def __init__(self) -> None:
        super().__init__(verify=False)  # plain HTTP: reading the certificates of all authorities takes long

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        here = httpx.Request(
            request.method,
            request.url.copy_with(host="127.0.0.1"),
            headers=request.headers,
            stream=request.stream,
            extensions=request.extensions,
        )
        return super().handle_request(here)


@pytest.fixture
def viewer(demo: Demo) -> Iterator[httpx.Client]:
    """A viewer with a cookie jar and one persistent connection (and so one worker, and one cache)."""
    with httpx.Client(transport=ToLoopback(), base_url=demo.url, timeout=20) as client:
        yield client


@pytest.fixture
def stranger(demo: Demo) -> Iterator[httpx.Client]:
    """Another viewer, with its own cookies only."""
    with httpx.Client(transport=ToLoopback(), base_url=demo.url, timeout=20) as client:
        yield client


def log_in(viewer: httpx.Client, name: str, password: str) -> httpx.Response:
    answer = viewer.post("/login", data={"name": name, "password": password})
    assert answer.status_code == 303
    return viewer.get(answer.headers["location"])


def refusal(answer: httpx.Response) -> bytes:
    """The body of a 403 made by the edge, after checking what all such responses have in common."""
    assert answer.status_code == 403
    assert answer.headers["content-type"] == "text/xml"
    assert answer.headers["x-cache"] == "Error from cloudfront"
    assert answer.headers["server"] == "CloudFront"
    assert answer.headers["content-length"] == str(len(answer.content))
    return answer.content


def test_a_member_sees_the_pictures_and_the_edge_keeps_them(demo: Demo, viewer: httpx.Client) -> None:
    page = log_in(viewer, "ada", "lighthouse")
    assert page.status_code == 200
    given = page.headers.get_list("set-cookie")
    signed = [line for line in given if line.startswith("CloudFront-")]
    assert {line.partition("=")[0] for line in signed} >= {
        "CloudFront-Policy",
        "CloudFront-Signature",
        "CloudFront-Key-Pair-Id",
    }
    assert all("Path=/pictures" in line and "HttpOnly" in line and "Secure" not in line for line in signed)

    first = viewer.get("/pictures/mountains/north-star.jpg")
    assert first.status_code == 200
    assert first.headers["x-cache"] == "Miss from cloudfront"
    assert first.content.startswith(b"\xff\xd8\xff")
    again = viewer.get("/pictures/mountains/north-star.jpg")
    assert again.headers["x-cache"] == "Hit from cloudfront"
    assert again.content == first.content
    assert int(again.headers["age"]) >= 0

    (record,) = demo.records(again.headers["x-amz-cf-id"])
    assert (record["verdict"], record["signed_by"], record["result"]) == ("allowed", "cookies", "Hit")
    assert record["key_pair_id"] == viewer.cookies["CloudFront-Key-Pair-Id"]
    assert record["key_group"]


def test_a_hit_still_needs_a_signature(viewer: httpx.Client, stranger: httpx.Client) -> None:
    log_in(viewer, "ada", "lighthouse")
    path = "/pictures/mountains/pine-fog.jpg"
    assert viewer.get(path).status_code == 200
    body = refusal(stranger.get(path))
    assert body == MISSING_KEY
    assert len(body) == 146


def test_a_guest_sees_the_coast_and_not_the_mountains(demo: Demo, viewer: httpx.Client) -> None:
    log_in(viewer, "guest", "lantern")
    assert viewer.get("/pictures/coast/still-water.jpg").status_code == 200
    answer = viewer.get("/pictures/mountains/blue-hour.jpg")
    assert refusal(answer) == ACCESS_DENIED
    (record,) = demo.records(answer.headers["x-amz-cf-id"])
    assert record["reason"] == "wrong_resource"
    assert viewer.post("/files", data={"file": "prints.zip", "seconds": "60"}).status_code == 403


def test_logging_out_takes_the_cookies_back(viewer: httpx.Client) -> None:
    log_in(viewer, "ada", "lighthouse")
    assert viewer.get("/pictures/coast/ember-bay.jpg").status_code == 200
    assert viewer.post("/logout").status_code == 303
    assert not [name for name in viewer.cookies if name.startswith("CloudFront-")]
    assert refusal(viewer.get("/pictures/coast/ember-bay.jpg")) == MISSING_KEY
    assert viewer.get("/gallery").status_code == 303


def link_to(viewer: httpx.Client, **form: str) -> str:
    page = viewer.post("/files", data=form)
    assert page.status_code == 200
    found = re.search(r'href="([^"]+)" download', page.text)
    assert found
    return html.unescape(found[1])


def test_a_signed_link_opens_one_file_for_anybody(
    demo: Demo, viewer: httpx.Client, stranger: httpx.Client
) -> None:
    log_in(viewer, "ada", "lighthouse")
    link = link_to(viewer, file="portfolio.pdf", seconds="600")
    answer = stranger.get(link)
    assert answer.status_code == 200
    assert answer.content.startswith(b"%PDF")
    assert "portfolio.pdf" in answer.headers["content-disposition"]
    (record,) = demo.records(answer.headers["x-amz-cf-id"])
    assert (record["signed_by"], record["hash_algorithm"]) == ("url", "SHA256")
    assert "Signature" not in json.dumps(record)

    part = stranger.get(link, headers={"Range": "bytes=0-3"})
    assert (part.status_code, part.content) == (206, b"%PDF")

    at = link.index("Signature=") + 30
    spoilt = link[:at] + ("A" if link[at] != "A" else "B") + link[at + 1 :]
    body = refusal(stranger.get(spoilt))
    assert body == ACCESS_DENIED
    assert len(body) == 110
    assert refusal(stranger.get(link.replace("portfolio.pdf", "prints.zip"))) == ACCESS_DENIED
    assert refusal(stranger.get(link.partition("?")[0])) == MISSING_KEY


def test_a_link_can_be_bound_to_an_address(viewer: httpx.Client, stranger: httpx.Client) -> None:
    log_in(viewer, "ada", "lighthouse")
    link = link_to(viewer, file="prints.zip", seconds="60", bound="yes")
    assert "Policy=" in link
    assert stranger.get(link).content.startswith(b"PK")  # the stranger has the same address


def test_the_origin_answers_only_the_edge(demo: Demo) -> None:
    with httpx.Client(trust_env=False, verify=False) as direct:
        for headers in ({}, {"X-Origin-Secret": "guessed"}, {"Host": demo.url.partition("//")[2]}):
            for path in ("/", "/login", "/pictures/coast/first-light.jpg", "/static/style.css", "/nowhere"):
                answer = direct.get(demo.origin + path, headers=headers)
                assert answer.status_code == 403
                assert "This door is for the edge" in answer.text


EXPECTED = {
    "signed": (200, None, None),
    "no-signature": (403, MISSING_KEY, "missing_key_pair_id"),
    "expired": (403, ACCESS_DENIED, "expired"),
    "tampered": (403, ACCESS_DENIED, "signature_mismatch"),
    "another-path": (403, ACCESS_DENIED, "signature_mismatch"),
    "extended": (403, ACCESS_DENIED, "signature_mismatch"),
    "added-query": (403, ACCESS_DENIED, "signature_mismatch"),
    "https": (403, ACCESS_DENIED, "signature_mismatch"),
    "another-group": (403, INVALID_KEY, "unknown_key"),
    "another-address": (403, ACCESS_DENIED, "wrong_ip"),
    "origin": (403, None, None),
}


def test_every_attempt_is_expected() -> None:
    assert [attempt.name for attempt in ATTEMPTS] == list(EXPECTED)


@rows("name", EXPECTED)
def test_the_page_of_refusals_shows_the_reason(demo: Demo, stranger: httpx.Client, name: str) -> None:
    status, body, reason = EXPECTED[name]
    page = stranger.get(f"/refused/{name}")
    assert page.status_code == 200
    text = html.unescape(page.text)
    assert f">{status}</span>" in page.text
    if body is not None:
        assert body.decode() in text
    if reason is not None:
        assert reason in text
        request_id = re.search(r"x-amz-cf-id: (\S+)", text)
        assert request_id
        (record,) = demo.records(request_id[1])
        assert (record["status"], record["verdict"], record["reason"]) == (403, "refused", reason)


def test_a_wrong_password_opens_nothing(viewer: httpx.Client) -> None:
    answer = viewer.post("/login", data={"name": "ada", "password": "lantern"})
    assert answer.status_code == 401
    assert viewer.get("/gallery").status_code == 303


def test_a_restart_keeps_keys_and_name_and_a_stop_leaves_nothing_running(demo: Demo) -> None:
    name, origin = demo.url, demo.origin
    assert demo.stop() == 0
    for url in (origin, f"http://127.0.0.1:{name.rpartition(':')[2]}"):
        with pytest.raises(httpx.ConnectError):
            httpx.get(url, trust_env=False, verify=False)
    for key in (demo.data / "keys").iterdir():
        assert key.stat().st_mode & 0o077 == 0

    demo.start()
    assert demo.url == name
    with httpx.Client(transport=ToLoopback(), base_url=demo.url, timeout=20) as viewer:
        assert log_in(viewer, "ada", "lighthouse").status_code == 200
        assert viewer.get("/pictures/coast/first-light.jpg").status_code == 200


# --- in a browser -------------------------------------------------------------------------------------------

LOADED = "pictures => pictures.filter(p => p.complete && p.naturalWidth > 0).length"


def test_in_a_browser(demo: Demo, chromium: Browser) -> None:
    from playwright.sync_api import expect

    page = chromium.new_page()
    page.goto(demo.url + "/")
    page.get_by_role("link", name="Log in and look").click()
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill("lighthouse")
    page.get_by_role("button", name="Log in", exact=True).click()
    expect(page.get_by_role("heading", name="Pictures")).to_be_visible()
    page.wait_for_load_state("networkidle")
    assert page.locator(".tile img").evaluate_all(LOADED) == 8
    picture = page.locator(".tile a").first
    address = f"{demo.url}{picture.get_attribute('href')}"
    picture.click()
    expect(page.locator("dialog.light img")).to_be_visible()
    page.keyboard.press("Escape")

    page.get_by_role("link", name="Downloads").click()
    page.get_by_role("button", name="Make a link").first.click()
    expect(page.locator("[data-expires]")).to_contain_text("left")
    with page.expect_download() as arriving:
        page.get_by_role("link", name="Download", exact=True).click()
    assert Path(arriving.value.path()).read_bytes().startswith(b"%PDF")

    page.get_by_role("link", name="What was refused, and why").click()
    page.get_by_role("link", name="Too late").click()
    expect(page.locator(".status")).to_have_text("403")
    expect(page.get_by_role("cell", name="expired", exact=True)).to_be_visible()

    page.get_by_role("button", name="Log out").click()
    answer = page.goto(address)
    assert answer is not None
    assert answer.status == 403
    assert answer.body() == MISSING_KEY

    page.goto(demo.url + "/login")
    page.get_by_role("button", name="Log in as Guest").click()
    page.wait_for_load_state("networkidle")
    assert page.locator(".tile img").evaluate_all(LOADED) == 4
    expect(page.locator(".tile.locked")).to_have_count(4)
    page.context.close()


TOO_WIDE = """() => {
    const root = document.documentElement, found = root.scrollWidth > root.clientWidth ? ['the page'] : [];
    for (const each of document.querySelectorAll('body *')) {
        const box = each.getBoundingClientRect();
        if (!box.width || !box.height) continue;
        const beyond = box.left < 0 || box.right > root.clientWidth + 0.5;
        const clipped = each.clientWidth && each.scrollWidth > each.clientWidth + 1;
        if (beyond || clipped) found.push(each.outerHTML.slice(0, 120));
    }
    return found;
}"""
"""What does not fit: an element beyond the edge of the screen, or one whose content is wider than itself."""


def test_nothing_scrolls_sideways_or_is_cut_off_on_a_phone(demo: Demo, chromium: Browser) -> None:
    phone = chromium.new_context(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    page = phone.new_page()
    too_wide = {}

    def measure(name: str) -> None:
        if found := page.evaluate(TOO_WIDE):
            too_wide[name] = found

    for path in ("/", "/gallery", "/nowhere"):  # without a login, the gallery leads to the login page
        page.goto(demo.url + path)
        measure(f"{path} before login")
    page.goto(demo.url + "/login")
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill("lantern")
    page.get_by_role("button", name="Log in", exact=True).click()
    page.locator(".wrong").wait_for()
    measure("a wrong password")
    page.get_by_role("button", name="Log in as Ada").click()
    page.locator(".tile").first.wait_for()
    measure("/gallery")
    page.locator(".tile a").first.click()
    page.locator("dialog.light img").wait_for()
    measure("one picture")
    page.goto(demo.url + "/files")
    measure("/files")
    page.get_by_label("only from my address").first.check()
    page.get_by_role("button", name="Make a link").first.click()
    page.locator("[data-expires]").wait_for()
    measure("a link")
    for path in ("/refused", *(f"/refused/{attempt.name}" for attempt in ATTEMPTS)):
        page.goto(demo.url + path)
        if (record := page.get_by_text("The whole record")).count():
            record.click()
        measure(path)
    phone.close()
    assert not too_wide
