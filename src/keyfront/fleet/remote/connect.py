"""An edge's connections to its control planes: TLS with the pinned authority, through proxies, and enrollment."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI, WebSocketException

from keyfront.errors import SettingsError
from keyfront.fleet.remote import authority, messages
from keyfront.fleet.remote.authority import Token
from keyfront.fleet.remote.enrollment import Edge, EdgeFiles

OPEN = 30.0
"""Seconds to open a connection. Less would make it worse when a whole fleet connects at once: whoever gives up and
tries again has cost the control plane a handshake for nothing."""
_quiet = logging.getLogger("keyfront.fleet.websockets")


class NotAccepted(SettingsError):
    """The control plane does not accept the edge: it is revoked, or its certificate has expired."""


class Unreachable(SettingsError):
    """A control plane cannot be reached."""


def control_url(text: str) -> str:
    """`text` without a trailing slash, if it is the URL of a control plane.

    :raises SettingsError: if it is not.
    """
    try:
        parts = urlsplit(text)
        valid = parts.scheme == "https" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None:
        raise SettingsError(
            f"{text!r} is not the URL of a control plane, such as https://control.example.com:9443"
        )
    return f"https://{parts.netloc}"


SYSTEM = "system"
"""Stands for the authorities that the operating system trusts."""


def pinned(pem: str, credentials: Path | None = None, ca: str = "") -> ssl.SSLContext:
    """A context that trusts the authority `pem` alone. Only control planes have a server certificate of it, so the
    host name does not matter.

    :param ca: trust these authorities instead (PEM, or SYSTEM), for the control plane's host name only: others have
        certificates of them too.
    :raises SettingsError: if the credentials or `ca` cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = bool(ca)
    if ca == SYSTEM:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        try:
            context.load_verify_locations(cadata=ca or pem)
        except (ssl.SSLError, ValueError) as error:
            raise SettingsError(f"there is no certificate of an authority in PEM: {error}") from error
    if credentials is not None:
        try:
            context.load_cert_chain(credentials)
        except OSError as error:  # ssl.SSLError is one
            raise SettingsError(f"{credentials} cannot be used: {error}; enroll this edge again") from error
    return context


async def open_connection(url: str, path: str, context: ssl.SSLContext, proxy: str) -> ClientConnection:
    """Connect to a control plane.

    :param proxy: the URL of an HTTP proxy; empty: that of the environment, if any.
    :raises NotAccepted: if it does not accept the edge. :raises Unreachable: if that fails for another reason.
    """
    try:
        return await connect(
            f"wss{url.removeprefix('https')}{path}",
            ssl=context,
            proxy=proxy or True,
            compression=None,
            open_timeout=OPEN,
            close_timeout=1.0,
            ping_interval=None,  # the follower sends them
            max_size=messages.MAX_TO_EDGE,
            max_queue=(4, 1),
            logger=_quiet,
        )
    except InvalidStatus as error:
        reason = (error.response.body or b"").decode("utf-8", "replace").strip()[:200]
        if error.response.status_code == 403:
            raise NotAccepted(reason) from error
        raise Unreachable(f"it responds with {error.response.status_code} {reason}") from error
    except TimeoutError as error:
        raise Unreachable(f"no response within {OPEN:.0f} seconds") from error
    except (OSError, InvalidHandshake, InvalidURI, WebSocketException, EOFError) as error:
        raise _failure(error) from error


def _failure(error: BaseException) -> SettingsError:
    """What a failed connection means: the TLS error may be the cause of another one."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Unreachable(
                f"its certificate is not of the authority that this edge trusts ({cause.verify_message}); if the "
                "control plane has a certificate of your own, use `keyfront edge join --ca`"
            )
        cause = cause.__cause__ or cause.__context__
    return Unreachable(str(error) or type(error).__name__)


async def join(
    files: EdgeFiles, controls: tuple[str, ...], token: Token, name: str, proxy: str, ca: str = ""
) -> Edge:
    """Enroll this machine as an edge, at the first of the control planes that can be reached.

    :param ca: see `pinned`.
    :raises SettingsError: if none can be reached, or the control plane refuses.
    :raises OSError: if the files cannot be written.
    """
    failures = []
    for url in controls:
        try:
            pem = await _authority(url, token, proxy, ca)
            context = pinned(pem, ca=ca)
            answer = await _enroll(url, context, files, token, name, proxy)
        except Unreachable as error:
            failures.append(f"{url}: {error}")
            continue
        edge = Edge(answer.name, answer.region, controls, proxy, pem, answer.key.hex(), ca)
        files.enrolled(edge, answer.certificate)
        return edge
    raise SettingsError(f"no control plane can be reached: {'; '.join(failures)}")


async def _authority(url: str, token: Token, proxy: str, ca: str) -> str:
    """The authority's certificate, recognized by the fingerprint in the token."""
    if ca:
        context = pinned("", ca=ca)
    else:  # anyone: what comes back is compared, and nothing secret is sent
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    answer = await _one_answer(url, "/ca", context, proxy)
    if not isinstance(answer, messages.Authority):
        raise Unreachable("it is not a control plane of Keyfront")
    try:
        pem = answer.certificate.decode()
        found = authority.fingerprint(x509.load_pem_x509_certificate(answer.certificate))
    except ValueError as error:
        raise Unreachable("it is not a control plane of Keyfront") from error
    if found != token.authority:
        raise SettingsError(
            f"{url} is not the control plane that the token is from: it has another authority. Nothing was sent to it"
        )
    return pem


async def _enroll(
    url: str, context: ssl.SSLContext, files: EdgeFiles, token: Token, name: str, proxy: str
) -> messages.Enrolled:
    csr = authority.request(files.joining_key())
    answer = await _one_answer(
        url, "/enroll", context, proxy, messages.encode(messages.Enroll(token.secret, csr, name))
    )
    if isinstance(answer, messages.Refusal):
        raise SettingsError(f"{url} does not enroll this edge: {answer.reason}")
    if not isinstance(answer, messages.Enrolled) or len(answer.key) != 32:
        raise Unreachable("it is not a control plane of Keyfront")
    return answer


async def _one_answer(
    url: str, path: str, context: ssl.SSLContext, proxy: str, message: bytes = b""
) -> messages.ToEdge:
    connection = await open_connection(url, path, context, proxy)
    try:
        async with asyncio.timeout(OPEN):
            if message:
                await connection.send(message)
            return messages.decode_to_edge(await connection.recv(decode=False))
    except (TimeoutError, ValueError, OSError, WebSocketException) as error:
        raise Unreachable(str(error) or "no response") from error
    finally:
        await connection.close()
