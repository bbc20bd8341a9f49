"""One request to a page of the console: who makes it, the client for its calls, and the ways to answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from keyfront.cloudfront.in_process import InProcessClient
from keyfront.cloudfront.refusal import Refused
from keyfront.console.guard import BASE
from keyfront.console.sessions import Notice, Session

T = TypeVar("T")

SESSION_OVER = frozenset({"InvalidClientTokenId", "MissingAuthenticationToken"})
"""The API's error codes when the session's credentials are no longer valid."""
STATUS = {"AccessDenied": 403, "ServiceUnavailable": 503, "PreconditionFailed": 412, "InternalFailure": 500}
"""The status of a page by the API's error code; for others see `status_of`."""


class SessionOver(Exception):
    """The session's credentials are no longer valid: its user, or the access key, was deleted or deactivated."""


class Read(msgspec.Struct, Generic[T], frozen=True):
    """What a call returned; `refusal` is the API's message if it was refused, and empty otherwise."""

    value: T | None = None
    refusal: str = ""
    code: str = ""


class Renderer(Protocol):
    """Renders a template with the layout of a visit."""

    def __call__(self, visit: Visit, template: str, context: Mapping[str, Any]) -> str: ...


class OwnSessions(Protocol):
    """The sessions of the user who visits."""

    def all(self) -> Sequence[Any]: ...

    def end(self, id_: str) -> bool:
        """End one of them; False if it is not the user's."""


class Visit:
    """A request with its session.

    :param api: calls as the user.
    :param own: the sessions of this user.
    :param now: epoch seconds.

    `form` has the fields of a POST, checked for the session's token.
    """

    def __init__(
        self,
        request: Request,
        session: Session,
        api: InProcessClient,
        own: OwnSessions,
        now: float,
        render: Renderer,
    ) -> None:
        self.request = request
        self.session = session
        self.api = api
        self.own = own
        self.form: Mapping[str, str] = {}
        self.now = now
        self._render = render

    @property
    def path(self) -> str:
        """The path below the console's base."""
        return self.request.url.path.removeprefix(BASE)

    def parameter(self, name: str) -> str:
        """A segment of the path."""
        return str(self.request.path_params[name])

    def query(self, name: str, default: str = "") -> str:
        """A parameter of the query, at most 1,024 characters."""
        return self.request.query_params.get(name, default)[:1024]

    def field(self, name: str) -> str:
        """A field of the form, without white space around it."""
        return self.form.get(name, "").strip()

    async def read(self, call: Awaitable[T]) -> Read[T]:
        """Await a call whose refusal the page shows in place of the value.

        :raises SessionOver: if the credentials are no longer valid.
        """
        try:
            return Read(await call)
        except Refused as error:
            if error.code in SESSION_OVER:
                raise SessionOver from error
            return Read(None, str(error) or error.code, error.code)

    def page(self, template: str, status: int = 200, /, **context: Any) -> Response:
        """Render a template."""
        return Response(self._render(self, template, context), status, media_type="text/html")

    def problem(self, title: str, text: str, status: int = 400) -> Response:
        """A page that says why something is not possible."""
        return self.page("problem.html", status, title=title, text=text)

    def refused(self, read: Read[Any]) -> Response:
        """A page that shows the API's refusal."""
        denied = read.code == "AccessDenied"
        title = "You may not see this" if denied else "The control plane refused this"
        return self.problem(title, read.refusal, status_of(read.code))

    def go(self, path: str, notice: str = "", *, good: bool = True) -> Response:
        """Redirect to a page of the console, which shows the notice."""
        if notice:
            self.session.notice = Notice(notice, good)
        return RedirectResponse(BASE + path, 303)

    def take_notice(self) -> Notice | None:
        """The notice to show; it is shown once."""
        found, self.session.notice = self.session.notice, None
        return found


def status_of(code: str) -> int:
    """The status of a page that shows a refusal by the API."""
    return STATUS.get(code) or (404 if code.startswith("NoSuch") else 400)


class Page(msgspec.Struct, frozen=True):
    """A page.

    :param path: below the console's base, in Starlette's syntax.
    :param label: its name in the navigation; empty: it is not there.
    :param posts: whether it also takes forms.
    """

    path: str
    handle: Callable[[Visit], Awaitable[Response]]
    label: str = ""
    posts: bool = False
