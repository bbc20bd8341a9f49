"""The agent's HTTP interface: four POST operations with JSON bodies, and the identification of callers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from keyfront.custody.agent.authorization import Caller, Tokens
from keyfront.custody.agent.signing import Agent, Refused
from keyfront.custody.signers.agent_protocol import (
    CookiesRequest,
    KeyRequest,
    Refusal,
    SignRequest,
    UrlRequest,
)
from keyfront.errors import CustodyError, CustodyUnavailable, NoSuchKey, PolicyError, SigningError

MOST_BODY = 16 * 1024
"""Maximum bytes of a request body. Every server refuses a URL that carries a policy a quarter that long."""

BODY_TIMEOUT = 10.0
"""Seconds within which a body must arrive."""

_log = logging.getLogger("keyfront.agent")

Identify = Callable[[Request], Caller]


def by_peer(request: Request) -> Caller:
    """The process at the other end of a Unix socket (`server.peered`).

    :raises Refused: if the kernel does not report it.
    """
    caller: Caller | None = getattr(request.state, "peer", None)
    if caller is None:
        raise Refused(401, "NotAllowed", "the caller cannot be identified")
    return caller


def by_token(tokens: Tokens) -> Identify:
    """Identify callers by their bearer tokens (RFC 6750 section 2.1)."""

    def identify(request: Request) -> Caller:
        caller = tokens.holder(request.headers.get("authorization", ""))
        if caller is None:
            raise Refused(401, "NotAllowed", "a token of this agent is required: Authorization: Bearer TOKEN")
        return caller

    return identify


def build_app(agent: Agent, identify: Identify) -> Starlette:
    """The ASGI application of the agent."""

    def route(path: str, shape: Any, answer: Callable[[Caller, Any], object]) -> Route:
        decoder = msgspec.json.Decoder(shape)

        async def endpoint(request: Request) -> Response:
            caller: Caller | None = None
            body: Any = None
            try:
                try:
                    caller = identify(request)
                    body = decoder.decode(await _body(request))
                    return _json(200, await run_in_threadpool(answer, caller, body))
                except Exception as error:
                    raise _refused(error) from error
            except Refused as refused:
                group = getattr(body, "key_group", None)
                await run_in_threadpool(agent.refused, caller, path, group and group[:200], refused)
                return _json(refused.status, Refusal(refused.error, str(refused)))

        return Route(path, endpoint, methods=["POST"])

    return Starlette(
        routes=[
            route("/v1/sign", SignRequest, agent.sign),
            route("/v1/key", KeyRequest, agent.described),
            route("/v1/url", UrlRequest, agent.url),
            route("/v1/cookies", CookiesRequest, agent.cookies),
        ],
        exception_handlers={HTTPException: _not_found},
    )


def _refused(error: Exception) -> Refused:
    """Return the refusal for an error. Details of an unexpected error go to the log and not to the caller."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, msgspec.MsgspecError):
        return Refused(400, "Malformed", f"the body cannot be read: {error}")
    if isinstance(error, PolicyError):
        return Refused(400, "PolicyRefused", str(error))
    if isinstance(error, SigningError):
        return Refused(400, "SigningRefused", str(error))
    if isinstance(error, CustodyUnavailable | NoSuchKey):
        return Refused(503, "Unavailable", str(error))
    if isinstance(error, CustodyError):
        return Refused(502, "CustodyRefused", str(error))
    if isinstance(error, ValueError):  # a lone surrogate: JSON can hold it, UTF-8 cannot
        return Refused(400, "Malformed", "the body cannot be read")
    _log.exception("a request failed", exc_info=error)
    return Refused(500, "Failed", "the agent failed")


async def _body(request: Request) -> bytes:
    data = bytearray()

    async def read() -> None:
        async for chunk in request.stream():
            data.extend(chunk)
            if len(data) > MOST_BODY:
                raise Refused(413, "TooLarge", f"the body is longer than {MOST_BODY} bytes")

    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, "Malformed", "the body is application/json")
    try:
        await asyncio.wait_for(read(), BODY_TIMEOUT)
    except TimeoutError:
        raise Refused(408, "TooSlow", "the body did not arrive in time") from None
    return bytes(data)


async def _not_found(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    return _json(status, Refusal("NotFound", "POST to /v1/sign, /v1/key, /v1/url or /v1/cookies"))


def _json(status: int, value: object) -> Response:
    headers = {"Cache-Control": "no-store"}
    if status in (408, 413):
        headers["Connection"] = "close"
    return Response(msgspec.json.encode(value), status, headers, "application/json")
