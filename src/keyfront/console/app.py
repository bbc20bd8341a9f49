"""The console as an application: log-in, sessions, and the dispatch to the pages."""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import parse_qsl, quote

from anyio import to_thread
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from keyfront.cloudfront.in_process import InProcessClient, Origin, load_protocol
from keyfront.cloudfront.refusal import Refused
from keyfront.console.assets import Assets
from keyfront.console.attempts import Attempts
from keyfront.console.guard import BASE, HEADERS, is_same_origin, local_path
from keyfront.console.pages.registry import PAGES
from keyfront.console.rendering import make_environment
from keyfront.console.sessions import Session, Sessions
from keyfront.console.visit import Page, SessionOver, Visit, status_of
from keyfront.errors import ApiError

log = logging.getLogger("keyfront.console")

FORM_LIMIT = 256 << 10
"""Bytes in a form."""
FORM_TIMEOUT = 30.0
"""Seconds within which a form must arrive."""
FIELDS = 2000
LIFETIME = 12 * 3600
"""Seconds after which a browser forgets the token; the session ends then at the latest."""
REFRESH_HEADER = "x-console-refresh"
"""Sent by the console's script when it renews a page by itself, which does not keep a session alive."""


class Opened(Protocol):
    """The credentials of a session."""

    @property
    def id(self) -> str: ...

    @property
    def secret(self) -> str: ...

    @property
    def arn(self) -> str: ...


class Credentials(Protocol):
    """Issues the credentials of sessions; the control plane's `SessionCredentials`."""

    def open(self, access_key_id: str, secret: str, now: float, *, address: str, agent: str) -> Opened: ...

    def close(self, id_: str) -> bool: ...

    def find(self, id_: str, now: float) -> Opened | None: ...


class BadForm(Exception):
    """A form that cannot be read; `status` is the response's."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Console:
    """The console.

    :param api: the control plane's API.
    :param clock: epoch seconds.
    """

    def __init__(
        self, api: ASGIApp, credentials: Credentials, clock: Callable[[], float] = time.time
    ) -> None:
        self._api = api
        self._credentials = credentials
        self._clock = clock
        self._sessions = Sessions()
        self._attempts = Attempts()
        self._assets = Assets()
        self._templates = make_environment()

    def application(self, pages: Sequence[Page] = PAGES) -> ASGIApp:
        """The console as an application, to be mounted at BASE (`mount.py`)."""
        routes: list[BaseRoute] = [
            Route("/assets/{digest}/{name}", self._assets.serve),
            Route("/log-in", self._log_in, methods=["GET", "POST"]),
            Route("/log-out", self._log_out, methods=["POST"]),
            *(
                Route(page.path, self._endpoint(page), methods=["GET", "POST"] if page.posts else ["GET"])
                for page in pages
            ),
            Route("/{path:path}", self._nothing_there, methods=["GET", "POST"]),
        ]
        return _Guarded(Router(routes=routes))

    # ---- pages

    def _endpoint(self, page: Page) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            return await self._visit(request, page.handle)

        return endpoint

    async def _nothing_there(self, request: Request) -> Response:
        async def nothing(visit: Visit) -> Response:
            return visit.problem("There is no such page", "The address is not one of the console's.", 404)

        return await self._visit(request, nothing)

    async def _visit(self, request: Request, handle: Callable[[Visit], Awaitable[Response]]) -> Response:
        now = self._clock()
        token = _token(request)
        session = self._sessions.find(token, now) if token else None
        if session is None or not await self._is_valid(session, now):
            if token:
                self._end(token)
            return self._to_log_in(request, ended=bool(token))
        if REFRESH_HEADER not in request.headers:
            session.used = now
        await to_thread.run_sync(load_protocol)
        api = InProcessClient(self._api, (session.id, session.secret), _origin(request))
        visit = Visit(request, session, api, _Own(self, session), now, self._render)
        try:
            if request.method == "POST":
                form = await _form(request)
                if not hmac.compare_digest(form.get("csrf", "").encode(), session.csrf.encode()):
                    raise BadForm(
                        "The form is not from this session. Go back, reload the page, and retry.", 403
                    )
                visit.form = form
            return await handle(visit)
        except SessionOver:
            self._end(token)
            return self._to_log_in(request, ended=True)
        except BadForm as error:
            return visit.problem("The form was not accepted", str(error), error.status)
        except Refused as error:
            if error.code == "InvalidClientTokenId":
                self._end(token)
                return self._to_log_in(request, ended=True)
            text = str(error) or error.code
            return visit.problem("The control plane refused this", text, status_of(error.code))

    async def _is_valid(self, session: Session, now: float) -> bool:
        """Whether the session's credentials are still valid; a read of the store at most twice a second."""
        try:
            return await to_thread.run_sync(self._credentials.find, session.id, now) is not None
        except ApiError:
            return True  # the store does not respond: the calls will say so

    def _render(self, visit: Visit, template: str, context: Mapping[str, Any]) -> str:
        return self._templates.get_template(template).render(
            session=visit.session,
            csrf=visit.session.csrf,
            notice=visit.take_notice(),
            pages=[page for page in PAGES if page.label],
            path=visit.path,
            now=visit.now,
            asset=lambda name: BASE + self._assets.path(name),
            **context,
        )

    # ---- log-in and log-out

    def _to_log_in(self, request: Request, *, ended: bool = False) -> Response:
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        to = quote(local_path(path)) if request.method == "GET" else ""
        query = "&".join(filter(None, ("ended=1" if ended else "", f"next={to}" if to else "")))
        response = RedirectResponse(f"{BASE}/log-in" + (f"?{query}" if query else ""), 303)
        if ended:
            _forget_token(request, response)
        return response

    async def _log_in(self, request: Request) -> Response:
        if request.method == "GET":
            ended = "Your session has ended. Log in again." if request.query_params.get("ended") else ""
            return self._log_in_page(ended, request.query_params.get("next", ""))
        try:
            form = await _form(request)
        except BadForm as error:
            return self._log_in_page(str(error), "", status=error.status)
        key_id, secret = form.get("access_key_id", "").strip(), form.get("secret", "").strip()
        to = form.get("next", "")
        origin = _origin(request)
        wait = self._attempts.wait(origin.address, key_id[:128], time.monotonic())
        if wait > 0:
            text = f"Too many failed log-ins. Wait {wait + 1:.0f} seconds."
            return self._log_in_page(text, to, 429, {"Retry-After": f"{wait + 1:.0f}"})
        self._attempts.begun(origin.address, key_id[:128], time.monotonic())
        fault = _fault(key_id, secret) or await self._verified(key_id, secret, origin)
        if fault:
            return self._log_in_page(fault, to, 403, key_id=key_id[:128])
        now = self._clock()
        try:
            opened = await to_thread.run_sync(
                lambda: self._credentials.open(
                    key_id, secret, now, address=origin.address, agent=request.headers.get("user-agent", "")
                )
            )
        except ApiError as error:
            return self._log_in_page(error.message, to, error.status, key_id=key_id[:128])
        self._attempts.succeeded(origin.address, key_id[:128])
        self._end(_token(request))  # a session is never continued under another log-in
        return self._begin(request, opened, now, to)

    def _begin(self, request: Request, opened: Opened, now: float, to: str) -> Response:
        """Begin a session, with a token that no one has seen before."""
        token = secrets.token_urlsafe(32)
        session = Session(
            id=opened.id,
            secret=opened.secret,
            csrf=secrets.token_urlsafe(24),
            arn=opened.arn,
            opened=now,
            used=now,
            address=_origin(request).address,
            user_agent=request.headers.get("user-agent", "")[:256],
        )
        for ended in self._sessions.add(token, session):
            self._credentials.close(ended.id)
        response = RedirectResponse(local_path(to), 303)
        name, secure = _cookie(request)
        response.set_cookie(
            name, token, max_age=LIFETIME, path="/", httponly=True, samesite="strict", secure=secure
        )
        return response

    async def _verified(self, key_id: str, secret: str, origin: Origin) -> str:
        """Why the API does not accept the credentials; empty if it does."""
        await to_thread.run_sync(load_protocol)
        try:
            await InProcessClient(self._api, (key_id, secret), origin).identify()
        except Refused as error:
            if error.code in ("InvalidClientTokenId", "SignatureDoesNotMatch"):
                return (
                    "The access key ID and the secret access key do not belong together, or are not active."
                )
            return str(error) or error.code
        return ""

    def _log_in_page(
        self,
        fault: str,
        to: str,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        key_id: str = "",
    ) -> Response:
        text = self._templates.get_template("log_in.html").render(
            fault=fault,
            next=to if local_path(to) == to else "",
            key_id=key_id,
            asset=lambda name: BASE + self._assets.path(name),
        )
        return Response(text, status, headers, "text/html")

    async def _log_out(self, request: Request) -> Response:
        """End the session. A form without its token is refused, so that no other page can end it."""
        token = _token(request)
        session = self._sessions.find(token, self._clock()) if token else None
        if session is not None:
            try:
                form = await _form(request)
            except BadForm:
                form = {}
            if not hmac.compare_digest(form.get("csrf", "").encode(), session.csrf.encode()):
                return RedirectResponse(BASE + "/", 303)
            self._end(token)
        response = RedirectResponse(f"{BASE}/log-in", 303)
        _forget_token(request, response)
        return response

    def _end(self, token: str) -> None:
        session = self._sessions.end(token) if token else None
        if session is not None:
            self._credentials.close(session.id)

    def sessions_of(self, arn: str) -> list[Session]:
        """The sessions of one user, the last opened first."""
        return self._sessions.of(arn, self._clock())

    def end_session(self, arn: str, id_: str) -> bool:
        """End a session of one user; False if there is no such session."""
        if not any(each.id == id_ for each in self.sessions_of(arn)):
            return False
        self._sessions.end_by_id(id_)
        self._credentials.close(id_)
        return True


class _Own:
    """The sessions of one user."""

    def __init__(self, console: Console, session: Session) -> None:
        self._console = console
        self._session = session

    def all(self) -> list[Session]:
        return self._console.sessions_of(self._session.arn)

    def end(self, id_: str) -> bool:
        return self._console.end_session(self._session.arn, id_)


def _fault(key_id: str, secret: str) -> str:
    """What is wrong with the fields, before anything is verified."""
    if not key_id or not secret:
        return "Enter the access key ID and the secret access key."
    if not key_id.isascii() or not secret.isascii() or len(key_id) > 128 or len(secret) > 256:
        return "These are not an access key ID and a secret access key."
    if not key_id.replace("_", "").isalnum() or not secret.isprintable():
        return "These are not an access key ID and a secret access key."
    return ""


def _origin(request: Request) -> Origin:
    client = request.client
    agent = request.headers.get("user-agent", "")
    return Origin(
        client.host if client else "",
        client.port if client else 0,
        f"keyfront-console {agent}".strip()[:1024],
        request.scope["scheme"],
    )


def _cookie(request: Request) -> tuple[str, bool]:
    """The cookie's name, and whether it is for TLS only. Over TLS, the prefix keeps other hosts and plain HTTP from
    setting it (RFC 6265bis §4.1.3.2)."""
    secure = request.scope["scheme"] == "https"
    return ("__Host-keyfront-console" if secure else "keyfront-console"), secure


def _token(request: Request) -> str:
    """The token in the request's cookie; empty if there is none, or more than one."""
    name = _cookie(request)[0]
    found = []
    for header in request.headers.getlist("cookie"):
        for pair in header.split(";"):
            key, _, value = pair.strip().partition("=")
            if key == name:
                found.append(value)
    return found[0] if len(found) == 1 else ""


def _forget_token(request: Request, response: Response) -> None:
    name, secure = _cookie(request)
    response.delete_cookie(name, path="/", httponly=True, samesite="strict", secure=secure)


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form; of several with one name, the last.

    :raises BadForm: if it is too large, late, or not a form.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise BadForm("It is not a form.", 415)
    chunks, size = [], 0
    try:
        async with asyncio.timeout(FORM_TIMEOUT):
            async for chunk in request.stream():
                size += len(chunk)
                if size > FORM_LIMIT:
                    raise BadForm(f"It is longer than {FORM_LIMIT} bytes.", 413)
                chunks.append(chunk)
    except TimeoutError:
        raise BadForm("It did not arrive in time.", 408) from None
    try:
        text = b"".join(chunks).decode()
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=FIELDS, errors="strict")
    except ValueError:
        raise BadForm("It cannot be read.", 400) from None
    return dict(pairs)


class _Guarded:
    """Refuses unsafe requests from other origins, and adds the headers of `guard` to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = False

        async def guarded(message: Message) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                began = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS:
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        if scope["method"] not in ("GET", "HEAD") and not is_same_origin(scope["headers"]):
            text = "This request does not come from a page of the console.\n"
            await Response(text, 403, media_type="text/plain")(scope, receive, guarded)
            return
        try:
            await self._app(scope, receive, guarded)
        except Exception:
            log.exception("the console cannot answer")
            if not began:
                text = "The console has failed; the log of the control plane says why.\n"
                await Response(text, 500, media_type="text/plain")(scope, receive, guarded)
