"""The client of a control plane in the same process: calls over ASGI, signed as over the network.

A call takes the same way as one from outside: its signature is verified, IAM authorizes it, and the audit log records
it. Only the socket is missing. The caller's address, User-Agent, and scheme are those of whoever uses the client, so
that conditions in policies compare them.

botocore is imported on first use, because it takes a quarter of a second and few processes need it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

import msgspec

from keyfront.cloudfront.refusal import Refused
from keyfront.errors import AccountError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
App = Callable[
    [Scope, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]
"""An ASGI application."""

T = TypeVar("T")

_REGION = "us-east-1"
_ENDPOINT = "http://keyfront.invalid"
"""What the requests are signed for. Nothing connects to it."""
_TAG = re.compile(rb"<([A-Za-z0-9]+)[ />]")
_CLOUDWATCH = "GraniteServiceVersion20100801"
"""CloudWatch's name in its JSON protocol."""
_IDENTITY = b"Action=GetCallerIdentity&Version=2011-06-15"


class Origin(msgspec.Struct, frozen=True):
    """Whom the calls are made for: address and port, User-Agent, and the scheme that it uses."""

    address: str
    port: int
    user_agent: str
    scheme: str


class Response(msgspec.Struct, frozen=True):
    """A response. Names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class _Protocol:
    """CloudFront's operations in botocore's form. Made once; safe to use from several threads."""

    def __init__(self) -> None:
        from botocore.model import ServiceModel
        from botocore.parsers import create_parser
        from botocore.serialize import create_serializer

        from keyfront.botocore_session import new_session

        loader = new_session().get_component("data_loader")
        self._service = ServiceModel(loader.load_service_model("cloudfront", "service-2"), "cloudfront")
        self._serializer = create_serializer("rest-xml")
        self._parser = create_parser("rest-xml")

    def request(self, operation: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """The request in botocore's form.

        :raises botocore.exceptions.ParamValidationError: if the parameters do not fit the operation.
        """
        model = self._service.operation_model(operation)
        made: dict[str, Any] = self._serializer.serialize_to_request(dict(params), model)
        return made

    def parsed(self, operation: str, response: Response) -> dict[str, Any]:
        """The output, or an error with the member `Error`."""
        from botocore.awsrequest import HeadersDict

        form = {
            "headers": HeadersDict(response.headers),
            "status_code": response.status,
            "body": response.body,
            "context": {"operation_name": operation},
        }
        found: dict[str, Any] = self._parser.parse(
            form, self._service.operation_model(operation).output_shape
        )
        return found


@functools.cache
def load_protocol() -> _Protocol:
    """Load the descriptions of CloudFront's operations. The first call takes a moment."""
    return _Protocol()


class InProcessClient:
    """Calls of one caller.

    :param app: the API.
    :param credentials: access key ID and secret.
    """

    def __init__(self, app: App, credentials: tuple[str, str], origin: Origin) -> None:
        self._app = app
        self._credentials = credentials
        self._origin = origin

    async def call(self, operation: str, **params: Any) -> dict[str, Any]:
        """Call an operation of CloudFront's, and return its output in botocore's form.

        :raises Refused: if it fails, with the API's own code and message.
        """
        from botocore.exceptions import BotoCoreError

        try:
            request = load_protocol().request(operation, params)
        except BotoCoreError as error:
            raise Refused(f"{operation}: {error}", "InvalidArgument") from error
        return _output(operation, await self._send(request, "cloudfront"))

    async def editable(self, get: str, update: str, member: str, id_: str) -> dict[str, Any]:
        """Read a config that is to be changed and sent back whole: the output of `get`.

        A member that this version of botocore does not know would be lost on the way, so such a config is refused.

        :param member: the member of both operations that holds the config.
        :raises Refused: if it fails, or would lose something.
        """
        protocol = load_protocol()
        response = await self._send(protocol.request(get, {"Id": id_}), "cloudfront")
        found = _output(get, response)
        again = protocol.request(update, {"Id": id_, "IfMatch": found["ETag"], member: found[member]})
        lost = set(_TAG.findall(response.body)) - set(_TAG.findall(again["body"]))
        if lost:
            names = ", ".join(sorted(each.decode("latin-1") for each in lost))
            raise Refused(
                f"This configuration has members that the installed botocore does not know: {names}. Change it with "
                "the client that made it, or install a newer botocore.",
                "UnsupportedOperation",
            )
        return found

    async def page(self, operation: str, member: str, **params: Any) -> tuple[list[dict[str, Any]], str]:
        """One page of a list operation: its items, and the marker of the next page (empty if it is the last).

        :param member: the output member that holds the items.
        :raises Refused: as `call` does.
        """
        page = (await self.call(operation, **params))[member]
        return list(page.get("Items") or ()), str(page.get("NextMarker") or "")

    async def own(
        self, method: str, path: str, kind: type[T], params: Mapping[str, str | bool] | None = None
    ) -> T:
        """Call one of Keyfront's own operations.

        :param kind: the type of its output.
        :param params: the query of a GET, or the JSON body of another method.
        :raises Refused: if it fails, with the API's own code and message.
        """
        request: dict[str, Any] = {"method": method, "url_path": path, "query_string": "", "headers": {}}
        request["body"] = b""
        if method == "GET" and params:
            request["url_path"] += f"?{urlencode(params)}"
        elif params is not None:
            request["body"] = msgspec.json.encode(params)
        response = await self._send(request, "cloudfront")
        if response.status != 200:
            raise _refused(response)
        try:
            return msgspec.json.decode(response.body, type=kind)
        except msgspec.MsgspecError as error:
            raise AccountError(f"{path}: the answer cannot be read: {error}") from error

    async def cloudwatch(self, operation: str, **params: Any) -> dict[str, Any]:
        """Call an operation of CloudWatch's, in its JSON protocol: times are epoch seconds.

        :raises Refused: if it fails, with the API's own code and message.
        """
        headers = {"Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": f"{_CLOUDWATCH}.{operation}"}
        request: dict[str, Any] = {"method": "POST", "url_path": "/", "query_string": "", "headers": headers}
        request["body"] = msgspec.json.encode(params)
        response = await self._send(request, "monitoring")
        try:
            found = msgspec.json.decode(response.body or b"{}", type=dict[str, Any])
        except msgspec.MsgspecError:
            found = {}
        if response.status == 200:
            return found
        code = response.headers.get("x-amzn-query-error", "").partition(";")[0]
        raise Refused(str(found.get("message") or f"{operation}: the answer is {response.status}"), code)

    async def identify(self) -> None:
        """Call STS's GetCallerIdentity, which needs no permission.

        :raises Refused: if the credentials are not valid.
        """
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        request = {"method": "POST", "url_path": "/", "query_string": "", "headers": form, "body": _IDENTITY}
        response = await self._send(request, "sts")
        if response.status != 200:
            from botocore.parsers import create_parser

            parsed = create_parser("query").parse(
                {"headers": {}, "status_code": response.status, "body": response.body}, None
            )
            details = parsed.get("Error", {})
            raise Refused(str(details.get("Message", "")), str(details.get("Code", "")))

    async def _send(self, request: dict[str, Any], service: str) -> Response:
        """Sign the request, and pass it to the application."""
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import create_request_object, prepare_request_dict
        from botocore.credentials import Credentials

        prepare_request_dict(request, _ENDPOINT, context={}, user_agent=self._origin.user_agent)
        made = create_request_object(request)
        SigV4Auth(Credentials(*self._credentials), service, _REGION).add_auth(made)
        signed = made.prepare()
        parts = urlsplit(signed.url)
        headers = {name.lower(): value for name, value in signed.headers.items()} | {"host": parts.netloc}
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": signed.method,
            "scheme": self._origin.scheme,
            "path": parts.path,
            "raw_path": parts.path.encode("latin-1"),
            "query_string": parts.query.encode("latin-1"),
            "root_path": "",
            "headers": [(_bytes(name), _bytes(value)) for name, value in headers.items()],
            "client": (self._origin.address, self._origin.port) if self._origin.address else None,
            "server": None,
        }
        return await _exchange(self._app, scope, signed.body or b"")


def _output(operation: str, response: Response) -> dict[str, Any]:
    """:raises Refused: if the response is an error."""
    found = load_protocol().parsed(operation, response)
    if response.status >= 300:
        details = found.get("Error", {})
        raise Refused(str(details.get("Message", "")), str(details.get("Code", "")))
    return found


async def _exchange(app: App, scope: Scope, body: bytes) -> Response:
    """Pass one request to an ASGI application, and return the whole response."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    status, headers, parts = 500, dict[str, str](), list[bytes]()

    async def receive() -> Message:
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
            headers.update(
                {
                    name.decode("latin-1").lower(): value.decode("latin-1")
                    for name, value in message["headers"]
                }
            )
        elif message["type"] == "http.response.body":
            parts.append(message.get("body", b""))

    await app(scope, receive, send)
    return Response(status, headers, b"".join(parts))


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1", "replace")


def _refused(response: Response) -> Refused:
    """The error in a response of Keyfront's own operations."""
    try:
        error = msgspec.json.decode(response.body, type=dict[str, Any])["Error"]
        return Refused(str(error["Message"]), str(error["Code"]))
    except (msgspec.MsgspecError, KeyError, TypeError):
        return Refused(f"the answer is {response.status}")
