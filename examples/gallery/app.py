"""The application: an ordinary Starlette site with a CDN in front of it.

The parts that matter for private content are short and marked below: (1) it responds only to the edge, (2) it signs
cookies for users who have logged in, (3) it signs URLs for single files, (4) it lets the edge cache responses and makes
browsers revalidate them.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates
from starlette.types import ASGIApp as Application
from starlette.types import Receive, Scope, Send

from examples.gallery import attempts
from examples.gallery.pictures import SCENES, Scene
from examples.gallery.provision import SECRET_HEADER, Provisioned, SigningKey
from examples.gallery.shelf import DOWNLOADS, Download
from keyfront import Signer, expired_cookies, load_signer, sign_cookies, sign_url

HERE = Path(__file__).parent
COOKIES_LAST = timedelta(minutes=30)

# (4) The edge may cache a file for a day (s-maxage). A browser also caches it, but revalidates before each use
# (max-age=0), so that a picture becomes unavailable with the cookies, and not an hour later.
KEEP_AT_THE_EDGE = {"Cache-Control": "max-age=0, s-maxage=86400, must-revalidate"}


@dataclass(frozen=True)
class Person:
    """A user who may log in. Their cookies are signed for `/pictures/` followed by `pictures`."""

    name: str
    password: str
    title: str
    may: str
    pictures: str
    downloads: bool


PEOPLE = (
    Person("ada", "lighthouse", "Ada", "a member: every picture, and the downloads", "*", True),
    Person("guest", "lantern", "Guest", "may see the coast, not the mountains", "coast/*", False),
)


@dataclass(frozen=True)
class Harness:
    """Everything that the application needs from its environment; built once, at startup."""

    domain_name: str
    edge: tuple[str, int]
    origin_port: int
    origin_secret: str
    shelf: Path
    access_log: Path
    pictures: SigningKey
    downloads: SigningKey
    pictures_signer: Signer
    downloads_signer: Signer

    @property
    def host(self) -> str:
        """The value of a viewer's Host header."""
        return self.domain_name if self.edge[1] == 80 else f"{self.domain_name}:{self.edge[1]}"

    @property
    def public_url(self) -> str:
        return f"http://{self.host}"

    @property
    def origin_url(self) -> str:
        return f"http://127.0.0.1:{self.origin_port}"


def harness(
    provisioned: Provisioned,
    *,
    edge: tuple[str, int],
    origin_port: int,
    origin_secret: str,
    shelf: Path,
    access_log: Path,
) -> Harness:
    """The harness for a provisioned distribution, with its private keys loaded once for all signatures."""
    return Harness(
        provisioned.domain_name,
        edge,
        origin_port,
        origin_secret,
        shelf,
        access_log,
        provisioned.pictures,
        provisioned.downloads,
        load_signer(provisioned.pictures.id, provisioned.pictures.private_key),
        load_signer(provisioned.downloads.id, provisioned.downloads.private_key),
    )


def create_app(setting: Harness) -> Starlette:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        # Attempts are real requests, like any viewer's; a proxy in the environment is not used.
        async with httpx.AsyncClient(trust_env=False, timeout=10) as viewer:
            app.state.viewer = viewer
            yield

    app = Starlette(
        routes=[
            Route("/", home),
            Route("/login", login, methods=["GET", "POST"]),
            Route("/logout", logout, methods=["POST"]),
            Route("/gallery", gallery),
            Route("/files", files, methods=["GET", "POST"]),
            Route("/refused", refused),
            Route("/refused/{name}", refused),
            Route("/pictures/{album}/{name}", picture),
            Route("/downloads/{name}", download),
            Mount("/static", StaticFiles(directory=HERE / "static")),
        ],
        middleware=[
            Middleware(OnlyTheEdge, setting=setting),
            Middleware(SessionMiddleware, secret_key=secrets.token_hex(32), session_cookie="gallery"),
        ],
        exception_handlers={HTTPException: problem},
        lifespan=lifespan,
    )
    app.state.harness = setting
    return app


class OnlyTheEdge:
    """(1) Refuses every request without the secret header that the edge adds to origin requests.

    Without it, anyone who learns the origin's address can bypass every signature. In production, the origin should also
    be reachable only from the edge.
    """

    def __init__(self, app: Application, setting: Harness) -> None:
        self.app = app
        self.setting = setting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request = Request(scope)
            shown = request.headers.get(SECRET_HEADER, "")
            if not hmac.compare_digest(shown.encode(), self.setting.origin_secret.encode()):
                context = {
                    "header": SECRET_HEADER,
                    "carried": bool(shown),
                    "public_url": self.setting.public_url,
                }
                page = templates.TemplateResponse(request, "elsewhere.html", context, status_code=403)
                await page(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _common(request: Request) -> dict[str, Any]:
    return (
        {"harness": request.app.state.harness, "user": _user(request)} if "session" in request.scope else {}
    )


templates = Jinja2Templates(directory=HERE / "templates", context_processors=[_common])


def _user(request: Request) -> Person | None:
    name = request.session.get("name")
    return next((person for person in PEOPLE if person.name == name), None)


def _until(moment: datetime) -> str:
    return f"{moment:%H:%M:%S} UTC"


async def problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    context = {"status": error.status_code, "detail": error.detail}
    return templates.TemplateResponse(request, "problem.html", context, status_code=error.status_code)


async def home(request: Request) -> Response:
    return templates.TemplateResponse(request, "home.html")


async def login(request: Request) -> Response:
    wrong, name = False, ""
    if request.method == "POST":
        form = await request.form()
        name = str(form.get("name", ""))
        given = str(form.get("password", "")).encode()
        for person in PEOPLE:
            if person.name == name and hmac.compare_digest(person.password.encode(), given):
                request.session.clear()
                request.session["name"] = name
                return RedirectResponse("/gallery", status_code=303)
        wrong = True
    context = {"people": PEOPLE, "wrong": wrong, "name": name}
    return templates.TemplateResponse(request, "login.html", context, status_code=401 if wrong else 200)


async def logout(request: Request) -> Response:
    """Make the browser delete its cookies. A copy of them works until it expires, so keep lifetimes short."""
    request.session.clear()
    answer = RedirectResponse("/", status_code=303)
    for line in expired_cookies(path="/pictures", secure=False, same_site="Lax").set_cookie:
        answer.headers.append("Set-Cookie", line)
    return answer


async def gallery(request: Request) -> Response:
    """(2) Sign one policy with a wildcard for everything that this person may see, for half an hour."""
    person = _user(request)
    if person is None:
        return RedirectResponse("/login", status_code=303)
    setting: Harness = request.app.state.harness
    until = datetime.now(UTC) + COOKIES_LAST
    resource = f"{setting.public_url}/pictures/{person.pictures}"
    albums: dict[str, list[Scene]] = {}
    for scene in SCENES:
        albums.setdefault(scene.album, []).append(scene)
    context = {"albums": albums, "resource": resource, "until": _until(until)}
    answer = templates.TemplateResponse(request, "gallery.html", context)
    # `secure` is on by default. It must be off here, because the demo uses plain HTTP on this machine.
    cookies = sign_cookies(
        resource, setting.pictures_signer, expires=until, path="/pictures", secure=False, same_site="Lax"
    )
    for line in cookies.set_cookie:
        answer.headers.append("Set-Cookie", line)
    return answer


async def files(request: Request) -> Response:
    """(3) Create a link for one file: with a canned policy, or a custom policy if it is bound to an address."""
    person = _user(request)
    if person is None:
        return RedirectResponse("/login", status_code=303)
    link = None
    if request.method == "POST":
        form = await request.form()
        wanted = next((d for d in DOWNLOADS if d.name == form.get("file")), None)
        seconds = {"60": 60, "600": 600, "3600": 3600}.get(str(form.get("seconds")))
        if wanted is None or seconds is None:
            raise HTTPException(400, "There is no such file, or no such time.")
        if not person.downloads:
            raise HTTPException(403, "The application signs no links for guests.")
        address = _viewer_address(request) if form.get("bound") else None
        link = _link(request.app.state.harness, wanted, timedelta(seconds=seconds), address)
    setting: Harness = request.app.state.harness
    listed = [
        {
            "name": d.name,
            "title": d.title,
            "about": d.about,
            "size": f"{(setting.shelf / 'downloads' / d.name).stat().st_size / 1e6:.1f} MB",
        }
        for d in DOWNLOADS
    ]
    return templates.TemplateResponse(request, "files.html", {"files": listed, "link": link})


def _viewer_address(request: Request) -> str:
    """The viewer's address as the edge saw it: the edge adds the last entry of X-Forwarded-For; the rest is
    unverified."""
    return request.headers["x-forwarded-for"].rpartition(",")[2].strip()


def _link(setting: Harness, wanted: Download, lasts: timedelta, address: str | None) -> dict[str, Any]:
    until = datetime.now(UTC) + lasts
    base = f"{setting.public_url}/downloads/{wanted.name}"
    url = sign_url(base, setting.downloads_signer, expires=until, ip=address)
    parts = [tuple(part.split("=", 1)) for part in url.partition("?")[2].split("&")]
    return {
        "title": wanted.title,
        "kind": "custom" if address else "canned",
        "url": url,
        "base": base,
        "parts": parts,
        "spoilt": attempts.spoil(url),
        "expires": int(until.timestamp()),
        "until": _until(until),
        "address": address,
    }


async def refused(request: Request) -> Response:
    outcome = None
    name = request.path_params.get("name")
    if name is not None:
        attempt = next((a for a in attempts.ATTEMPTS if a.name == name), None)
        if attempt is None:
            raise HTTPException(404, "There is nothing here.")
        outcome = await attempts.carry_out(attempt, request.app.state.harness, request.app.state.viewer)
    context = {"attempts": attempts.ATTEMPTS, "outcome": outcome, "told": attempts.TOLD}
    return templates.TemplateResponse(request, "refused.html", context)


async def picture(request: Request) -> Response:
    """Serve a picture. Only the edge requests it, and only after it has verified a signature, so no further check is
    needed."""
    wanted = f"{request.path_params['album']}/{request.path_params['name']}"
    if not any(wanted in (scene.path, scene.small) for scene in SCENES):
        raise HTTPException(404, "There is nothing here.")
    setting: Harness = request.app.state.harness
    return FileResponse(setting.shelf / "pictures" / wanted, headers=KEEP_AT_THE_EDGE)


async def download(request: Request) -> Response:
    name = request.path_params["name"]
    if not any(name == each.name for each in DOWNLOADS):
        raise HTTPException(404, "There is nothing here.")
    setting: Harness = request.app.state.harness
    return FileResponse(setting.shelf / "downloads" / name, filename=name, headers=KEEP_AT_THE_EDGE)
