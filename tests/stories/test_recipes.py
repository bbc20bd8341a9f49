"""docs/guide/recipes, as printed: Django and FastAPI from pip, behind a Keyfront with TLS."""

from __future__ import annotations

import http.client
import http.cookies
import importlib.util
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import trustme

from keyfront import load_private_key
from tests.imports import ROOT
from tests.up import PATIENCE, Up

RECIPES = ROOT / "docs" / "guide" / "recipes"
KEYS = ROOT / "tests" / "vectors" / "keys"
SECRET = "the edge's alone"
CACHING_DISABLED = "4135ea2d-6df8-44a3-9df3-4b5a84be39ad"
CACHING_OPTIMIZED = "658327ea-f89d-4fab-a63d-7e88639e58f6"
ALL_VIEWER_AND_CLOUDFRONT = "33f36d7e-f396-46d9-90e0-52428a34d9dc"
ALL_VIEWER = "216adef6-5c7f-47e4-b989-5492eafa07d3"


def write_blocks(page: str, folder: Path) -> None:
    """Save the programs of a page under the names in their first lines."""
    text = (RECIPES / f"{page}.md").read_text()
    for block in re.findall(r"```(?:python|html)\n(.*?)```", text, re.DOTALL):
        if named := re.match(r"(?:#|<!--) (\w+\.\w+)", block):
            (folder / named[1]).write_text(block)


def needs(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


class Served:
    """An application in a process of its own, on a port that it listens on."""

    def __init__(self, folder: Path, *command: str, **environment: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        words = [word.replace("PORT", str(self.port)) for word in command]
        settings = {
            "ORIGIN_SECRET": SECRET,
            "SESSION_SECRET": "s" * 32,
            "PRIVATE_KEY_FILE": str(KEYS / "rsa.pem"),
        }
        self._log = (folder / "log").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, *words], cwd=folder, env={**os.environ, **settings, **environment},
            stdout=self._log, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def _listens(self) -> bool:
        assert self.process.poll() is None, Path(self._log.name).read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def __enter__(self) -> Served:
        Up.until(self._listens)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)
        self._log.close()


class Site:
    """A Keyfront with TLS, and the key that its distributions trust."""

    def __init__(self, up: Up, ca: trustme.CA) -> None:
        self.up = up
        self.tls = ssl.create_default_context()
        ca.configure_trust(self.tls)
        client = up.client()
        config = {
            "CallerReference": "1",
            "Name": "one",
            "EncodedKey": load_private_key(KEYS / "rsa.pem").public_key.pem,
        }
        self.key = str(client.create_public_key(PublicKeyConfig=config)["PublicKey"]["Id"])
        group = client.create_key_group(KeyGroupConfig={"Name": "one", "Items": [self.key]})
        self.group = str(group["KeyGroup"]["Id"])

    def distribution(
        self, port: int, private: str, *, policy: str = ALL_VIEWER_AND_CLOUDFRONT, errors: Any = None
    ) -> str:
        """The host of a distribution in front of an application, as the recipes configure it."""

        def behavior(**members: Any) -> dict[str, Any]:
            return {"TargetOriginId": "app", "ViewerProtocolPolicy": "redirect-to-https", **members}

        every = ["GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"]
        pages = behavior(
            CachePolicyId=CACHING_DISABLED,
            OriginRequestPolicyId=policy,
            AllowedMethods={"Quantity": 7, "Items": every},
        )
        trusted = {"Enabled": True, "Quantity": 1, "Items": [self.group]}
        behaviors = [
            behavior(PathPattern=private, CachePolicyId=CACHING_OPTIMIZED, TrustedKeyGroups=trusted),
            behavior(PathPattern="/errors/*", CachePolicyId=CACHING_OPTIMIZED),
        ]
        secret = {"HeaderName": "X-Origin-Secret", "HeaderValue": SECRET}
        origin = {
            "Id": "app",
            "DomainName": "127.0.0.1",
            "CustomHeaders": {"Quantity": 1, "Items": [secret]},
            "CustomOriginConfig": {
                "HTTPPort": port,
                "HTTPSPort": 443,
                "OriginProtocolPolicy": "http-only",
            },
        }
        config: dict[str, Any] = {
            "CallerReference": f"{port} {policy} {errors is None}",
            "Comment": "",
            "Enabled": True,
            "Origins": {"Quantity": 1, "Items": [origin]},
            "DefaultCacheBehavior": pages,
            "CacheBehaviors": {"Quantity": 2, "Items": behaviors},
        }
        if errors is not None:
            config["CustomErrorResponses"] = errors
        made = self.up.client().create_distribution(DistributionConfig=config)["Distribution"]
        self.up.deployed(made["Id"])
        return str(made["DomainName"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("recipes")
    ca = trustme.CA()
    certificates = folder / "certificates"
    certificates.mkdir()
    ca.issue_cert("*.cloudfront.localhost").private_key_and_cert_chain_pem.write_to_path(
        certificates / "any.pem"
    )
    (certificates / "any.pem").chmod(0o600)
    options = ("--tls", "127.0.0.1:0", "--certificates", str(certificates), "--cache-disk", "0")
    with Up(folder / "state", workers=1, options=options) as up:
        yield Site(up, ca)


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.text = response.read().decode()


class Browser:
    """A viewer with cookies, at `https://HOST`, as browsers treat them: Secure ones over TLS, each below its path."""

    def __init__(self, site: Site, host: str) -> None:
        self.site = site
        self.host = host
        self.cookies: dict[str, http.cookies.Morsel[str]] = {}

    def get(self, path: str, **headers: str) -> Answer:
        return self._request("GET", path, None, headers)

    def post(self, path: str, origin: str = "", **form: str) -> Answer:
        headers = {
            "Origin": origin or f"https://{self.host}",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        return self._request("POST", path, urlencode(form), headers)

    def _request(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", timeout=PATIENCE)
        plain = socket.create_connection(("127.0.0.1", self.site.up.tls_port), PATIENCE)
        connection.sock = self.site.tls.wrap_socket(plain, server_hostname=self.host)
        sent = [c for c in self.cookies.values() if path.startswith(c["path"] or "/")]
        cookie = "; ".join(f"{each.key}={each.coded_value}" for each in sent)
        more = {"Cookie": cookie} if sent else {}
        connection.request(method, path, body, {"Host": self.host, **headers, **more})
        answer = Answer(connection.getresponse())
        connection.close()
        for line in answer.headers.get_all("Set-Cookie") or []:
            assert "; secure" in line.lower()
            self.cookies |= http.cookies.SimpleCookie(line)
        return answer


def reasons(site: Site, host: str) -> list[tuple[str, str]]:
    """The verdict and the reason of every 403 at a host, from the access log."""
    found = [each for each in site.up.records() if each["host"] == host and each["status"] == 403]
    return [(each.get("verdict", ""), each.get("reason", "")) for each in found]


# -- Django ------------------------------------------------------------------------------------------------------------

SETTINGS = """
from edge_settings import *

SECRET_KEY = "for the test"
ROOT_URLCONF = "urls"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"]
SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
AUTHENTICATION_BACKENDS = ["users.Anybody"]
MIDDLEWARE = FIRST_MIDDLEWARE + [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
USE_TZ = True
"""

URLS = """
from django.contrib.auth import login
from django.http import HttpResponse, HttpResponseRedirect
from django.middleware.csrf import get_token
from django.urls import path

import users
import views


def log_in(request):
    if request.method == "POST":
        login(request, users.ADA)
        return HttpResponseRedirect(request.build_absolute_uri("/gallery"))
    return HttpResponse(get_token(request))


urlpatterns = [
    path("login", log_in),
    path("gallery", views.gallery),
    path("pictures/a.jpg", lambda request: HttpResponse("a picture")),
]
"""

USERS = """
class User:
    pk = 1
    is_authenticated = True
    is_active = True
    backend = "users.Anybody"

    class _meta:
        class pk:
            value_to_string = staticmethod(lambda user: "1")
            to_python = staticmethod(int)

    def save(self, **fields):
        pass  # Django notes the time of a login


ADA = User()


class Anybody:
    def get_user(self, pk):
        return ADA
"""


@pytest.fixture(scope="module")
def django(tmp_path_factory: pytest.TempPathFactory, site: Site) -> Iterator[Served]:
    needs("django")
    folder = tmp_path_factory.mktemp("django")
    write_blocks("django", folder)
    for name, text in (("settings", SETTINGS), ("urls", URLS), ("users", USERS)):
        (folder / f"{name}.py").write_text(text)
    command = ("-m", "django", "runserver", "--noreload", "--skip-checks", "127.0.0.1:PORT")
    with Served(folder, *command, DJANGO_SETTINGS_MODULE="settings", KEY_PAIR_ID=site.key) as served:
        yield served


def test_django(site: Site, django: Served) -> None:
    host = site.distribution(django.port, "/pictures/*")
    plain = site.up.get(host, "/login")
    assert (plain.status, plain.headers["location"]) == (301, f"https://{host}/login")
    viewer = Browser(site, host)
    assert viewer.get("/pictures/a.jpg").status == 403
    sent_away = viewer.get("/gallery")
    assert (sent_away.status, sent_away.headers["Location"]) == (302, "/login?next=/gallery")
    token = viewer.get("/login").text
    assert viewer.post("/login", "https://evil.example", csrfmiddlewaretoken=token).status == 403
    entered = viewer.post("/login", csrfmiddlewaretoken=token)
    assert (entered.status, entered.headers["Location"]) == (302, f"https://{host}/gallery")
    assert viewer.get("/gallery").status == 200
    assert viewer.get("/pictures/a.jpg").text == "a picture"
    Up.until(lambda: ("refused", "missing_key_pair_id") in reasons(site, host))


def test_django_without_the_header_refuses_every_form(site: Site, django: Served) -> None:
    """With the policy AllViewer, Django does not know the scheme, and viewers cannot state it."""
    viewer = Browser(site, site.distribution(django.port, "/pictures/*", policy=ALL_VIEWER))
    token = viewer.get("/login", **{"CloudFront-Forwarded-Proto": "https"}).text
    refused = viewer.post("/login", csrfmiddlewaretoken=token)
    assert (refused.status, "CSRF verification failed" in refused.text) == (403, True)


def test_django_answers_nobody_but_the_edge(django: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", django.port, timeout=PATIENCE)
    connection.request("GET", "/login", headers={"CloudFront-Forwarded-Proto": "https"})
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (403, b"This server answers the edge only.")
    connection.close()


# -- FastAPI -----------------------------------------------------------------------------------------------------------

MORE = """
import app
from fastapi.responses import FileResponse, PlainTextResponse

page = app.app


@page.get("/film/{name}")
def film(name: str):
    return PlainTextResponse("a segment")


@page.get("/forbidden")
def forbidden():
    return PlainTextResponse("you may not edit this album", 403)


@page.get("/errors/403.html")
def refused():
    return FileResponse("403.html")
"""


def custom_error_response() -> Any:
    """As the page configures it."""
    text = (RECIPES / "login.md").read_text()
    names: dict[str, Any] = {"config": {}}
    exec(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0], names)
    return names["config"]["CustomErrorResponses"]


@pytest.fixture(scope="module")
def fastapi(tmp_path_factory: pytest.TempPathFactory, site: Site) -> Iterator[Served]:
    needs("fastapi")
    folder = tmp_path_factory.mktemp("fastapi")
    write_blocks("fastapi", folder)
    write_blocks("film", folder)
    text = (RECIPES / "login.md").read_text()
    (folder / "403.html").write_text(re.findall(r"```html\n(.*?)```", text, re.DOTALL)[0])
    (folder / "more.py").write_text(MORE)
    command = ("-m", "uvicorn", "more:page", "--port", "PORT")
    with Served(folder, *command, KEY_PAIR_ID=site.key, LIFETIME="3") as served:
        yield served


@pytest.fixture(scope="module")
def host(site: Site, fastapi: Served) -> str:
    return site.distribution(fastapi.port, "/film/*", errors=custom_error_response())


def test_fastapi(site: Site, host: str, fastapi: Served) -> None:
    viewer = Browser(site, host)
    assert viewer.get("/watch").status == 401
    assert viewer.post("/login", "https://evil.example", name="ada").status == 400
    entered = viewer.post("/login?next=//evil.example/", name="ada")
    assert (entered.status, entered.headers["Location"]) == (303, "/watch")
    assert "<video" in viewer.get("/watch").text
    assert viewer.get("/film/1.ts").text == "a segment"


def test_a_film_goes_on_for_as_long_as_its_page_renews_the_cookies(site: Site, host: str) -> None:
    viewer = Browser(site, host)
    viewer.post("/login", name="ada")
    viewer.get("/film/1.ts")
    Up.until(lambda: viewer.get("/film/1.ts").status == 403)  # the cookies expire, as for a closed page
    Up.until(lambda: ("refused", "expired") in reasons(site, host))
    assert viewer.post("/renew").text == "renewed"
    assert viewer.get("/film/1.ts").text == "a segment"
    assert viewer.post("/renew", "https://evil.example").status == 400
    assert Browser(site, host).post("/renew").status == 401


def test_a_refused_viewer_gets_the_login_page_and_so_does_one_whom_the_application_refuses_by_403(
    site: Site, host: str, fastapi: Served
) -> None:
    stranger = Browser(site, host)
    refused = stranger.get("/film/1.ts")
    assert (refused.status, "Please log in" in refused.text) == (403, True)
    swallowed = stranger.get("/forbidden")
    assert (swallowed.status, "Please log in" in swallowed.text) == (403, True)
    Up.until(lambda: ("", "") in reasons(site, host))  # the application's, as the page says
    assert stranger.get("/watch").text == '{"detail":"Unauthorized"}'  # 401 passes
    assert stranger.get("/nowhere").text == '{"detail":"Not Found"}'  # as does 404
    plain = Browser(site, site.distribution(fastapi.port, "/film/*"))  # a distribution without the response
    assert plain.get("/forbidden").text == "you may not edit this album"


CHROMIUM = next(
    filter(
        None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome"))
    ),
    None,
)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_in_a_browser_the_refusal_leads_to_the_login_and_back(site: Site, host: str) -> None:
    from playwright.sync_api import sync_playwright  # a heavy import, needed only by this test

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        arguments.append(f"--host-resolver-rules=MAP {host}:443 127.0.0.1:{site.up.tls_port}")
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        page = browser.new_context(ignore_https_errors=True).new_page()
        page.goto(f"https://{host}/film/1.ts?Expires=1")
        page.get_by_role("link", name="Log in").click()
        assert page.url == f"https://{host}/login?next=%2Ffilm%2F1.ts"
        page.locator("input").fill("ada")
        page.get_by_role("button").click()
        page.wait_for_url(f"https://{host}/film/1.ts")
        assert page.text_content("body") == "a segment"
        page.goto(f"https://{host}/watch")
        # It speaks HTTP/2 with the edge, whose fast path answers what it requests again.
        assert page.evaluate("performance.getEntries()[0].nextHopProtocol") == "h2"
        again = "fetch('/film/1.ts', {cache: 'no-store'}).then(response => response.text())"
        assert [page.evaluate(again) for _ in range(5)] == ["a segment"] * 5
        with page.expect_response("**/renew") as renewed:
            page.evaluate("renew()")
        assert renewed.value.status == 200
        page.context.clear_cookies()
        page.evaluate("renew()")
        page.wait_for_url(f"https://{host}/login?next=/watch")
        browser.close()
