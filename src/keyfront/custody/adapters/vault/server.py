"""The adapters' client of a Vault or OpenBao server: its address, authentication, and how its responses map to errors.

The token comes from VAULT_TOKEN (or BAO_TOKEN), from `token-file`, from ~/.vault-token, or from an AppRole login with
its role ID and secret ID. It is renewed after half its lifetime, if it is renewable. An expired token is replaced: an
AppRole logs in again; a token file is read again, because a Vault Agent writes new tokens there.

Vault returns 403 both for an expired token and for a call that a policy does not allow. The token tells which it is: a
valid token can look itself up.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests
from hvac.adapters import RawAdapter

from keyfront.errors import CustodyError, CustodyUnavailable

OPTIONS = ("address", "namespace", "ca-file", "token-file", "role-id", "secret-id-source", "auth-mount")
"""Options that both kinds of place accept."""

TIMEOUT = (5.0, 20.0)
"""Seconds to wait for a connection, and for a response."""

_ROUTE = re.compile(r"no handler for route")


class Answer(NamedTuple):
    """A response from Vault: its `data` and its status (200, 204, 400, or 404). `errors` is Vault's own text."""

    status: int
    data: dict[str, Any]
    errors: str


class _Token(NamedTuple):
    text: str
    renew_at: float
    """Monotonic time in seconds; infinity for a token that is not renewed."""


class Server:
    """One server, in one namespace, with one set of credentials. Safe to use from any thread. Its repr shows no
    secret."""

    def __init__(self, options: Mapping[str, str], environment: Mapping[str, str]) -> None:
        """:raises CustodyError: if an option is invalid. The server is not contacted yet."""
        self.address = _one_of("address", options, environment, "VAULT_ADDR", "BAO_ADDR")
        parts = urlsplit(self.address)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise CustodyError(
                "vault: where is it? Say address=https://… in the URI, or set VAULT_ADDR; no user or password in it"
            )
        if parts.query or parts.fragment:
            raise CustodyError(f"vault: {self.address!r} is not an address of a server")
        self._options = dict(options)
        self._environment = environment
        if ("role-id" in options) is not ("secret-id-source" in options):
            raise CustodyError("vault: role-id and secret-id-source go together: an AppRole needs both")
        authority = _one_of("ca-file", options, environment, "VAULT_CACERT", "BAO_CACERT")
        if authority and not Path(authority).is_file():
            raise CustodyError(f"vault: there is no file {authority} with the certificates to trust")
        namespace = _one_of("namespace", options, environment, "VAULT_NAMESPACE", "BAO_NAMESPACE")
        self._speaks = {"verify": authority or True, "timeout": TIMEOUT, "namespace": namespace or None}
        self._token: _Token | None = None
        self._begin()

    def _begin(self) -> None:
        """Create this process's connections and lock: those from before a fork belong to the parent."""
        self._process = os.getpid()
        self._adapter = self._adapter_to(self.address)
        self._lock = threading.Lock()

    def _adapter_to(self, address: str) -> RawAdapter:
        return RawAdapter(base_uri=address, allow_redirects=False, **self._speaks)

    def __repr__(self) -> str:
        return f"<Server {self.address}>"

    # ---- calls

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Answer:
        """Make one call. The caller interprets a missing resource (404) and an invalid request (400).

        :raises CustodyUnavailable: if Vault cannot be reached, is sealed, or fails.
        :raises CustodyError: if the token is invalid, or its policies do not allow the call.
        """
        if self._process != os.getpid():
            self._begin()
        token = self._current()
        answer = self._send(method, path, body, token)
        if answer.status == 403:
            fresh = self._replaced(token)
            if fresh is None:
                raise CustodyError(
                    f"{self._about(method, path)}: the token's policies do not allow that "
                    "(docs/reference/custody-vault.md has the policy)"
                )
            answer = self._send(method, path, body, fresh)
            if answer.status == 403:
                raise CustodyError(f"{self._about(method, path)}: refused, also with a new token")
        return answer

    def request_ok(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Make a call as `request` does, and accept only success.

        :raises CustodyError: also if Vault refuses.
        """
        answer = self.request(method, path, body)
        if answer.status >= 400:
            raise self.refused(method, path, answer)
        return answer.data

    def refused(self, method: str, path: str, answer: Answer) -> CustodyError:
        if answer.status == 404 and _ROUTE.search(answer.errors):
            return CustodyError(f"{self._about(method, path)}: nothing is mounted there")
        return CustodyError(f"{self._about(method, path)}: {answer.errors or answer.status}")

    def _about(self, method: str, path: str) -> str:
        return f"Vault at {self.address}: {method.upper()} {path}"

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None, token: str) -> Answer:
        about = self._about(method, path)
        headers = {"X-Vault-Token": token} if token else {}
        how = {"headers": headers, "raise_exception": False, "json": body}
        try:
            response = self._adapter.request(method, f"/v1/{path}", **how)
            if response.status_code == 307:  # from a server that is not the active one
                response = self._active(response, about).request(method, f"/v1/{path}", **how)
        except requests.exceptions.SSLError:
            raise CustodyError(
                f"{about}: its certificate is not trusted here: give the authority's with ca-file=…"
            ) from None
        except _CANNOT_BE_SENT as error:
            raise CustodyError(
                f"{about}: {type(error).__name__}: the address or the token is invalid"
            ) from None
        except (requests.exceptions.RequestException, OSError) as error:
            # no cause: it quotes what was sent
            raise CustodyUnavailable(f"{about}: it cannot be reached ({type(error).__name__})") from None
        known = _object(response)
        errors = known.get("errors")
        message = (
            "; ".join(" ".join(str(error).split()) for error in errors) if isinstance(errors, list) else ""
        )
        status = response.status_code
        if status not in (200, 204, 400, 403, 404, 405) and not (status == 500 and _SOFT_DELETED in message):
            raise CustodyUnavailable(f"{about}: {message or status}: it may help to try again")
        if (status == 200 or status >= 400) and not ("request_id" in known or isinstance(errors, list)):
            # A proxy's page, for example: its 404 says nothing about a key, and its 403 nothing about a token.
            raise CustodyUnavailable(f"{about}: the server there is not Vault")
        data = known.get("auth") or known.get("data") or {}
        return Answer(status, data if isinstance(data, dict) else {}, message)

    def _active(self, response: requests.Response, about: str) -> RawAdapter:
        """:raises CustodyError: if the redirect leads from https to an unencrypted connection, which would expose the
        token."""
        target = urlsplit(response.headers.get("Location", ""))
        if target.scheme != "https" and target.scheme != urlsplit(self.address).scheme:
            raise CustodyError(f"{about}: it sends us to another server, which is not reached by https")
        return self._adapter_to(f"{target.scheme}://{target.netloc}")

    # ---- authentication

    def _current(self) -> str:
        with self._lock:
            if self._token is None:
                self._token = self._found()
            elif time.monotonic() >= self._token.renew_at:
                self._token = self._renewed(self._token.text)
            return self._token.text

    def _replaced(self, refused: str) -> str | None:
        """Return another token in place of one that was refused, or None if that one is still valid and a policy
        refused the call.

        :raises CustodyError: if no other token can be obtained.
        """
        with self._lock:
            if self._token is not None and self._token.text != refused:
                return self._token.text  # another thread was faster
            if self._send("get", "auth/token/lookup-self", None, refused).status == 200:
                return None
            self._token = None
            found = self._found()
            if found.text == refused:
                raise CustodyError(
                    f"Vault at {self.address}: the token is wrong, has run out, or was revoked: log in again"
                )
            self._token = found
            return found.text

    def _found(self) -> _Token:
        if "role-id" in self._options:
            return self._logged_in()
        text = self._token_text()
        answer = self._send("get", "auth/token/lookup-self", None, text)
        if answer.status != 200 or not answer.data.get("renewable"):
            return _Token(text, float("inf"))
        return _timed(text, answer.data.get("ttl"))

    def _token_text(self) -> str:
        if "token-file" in self._options:
            return _line_of(Path(self._options["token-file"]), "the token")
        for name in ("VAULT_TOKEN", "BAO_TOKEN"):
            if self._environment.get(name):
                return self._environment[name].strip()
        home = self._environment.get("HOME")
        usual = Path(home) / ".vault-token" if home else None
        if usual is not None and usual.is_file():
            return _line_of(usual, "the token")
        raise CustodyError(
            "vault: no token: set VAULT_TOKEN, or give token-file=… or role-id=… and secret-id-source=… in the URI"
        )

    def _logged_in(self) -> _Token:
        mount = self._options.get("auth-mount", "approle").strip("/")
        path = f"auth/{mount}/login"
        answer = self._send(
            "post", path, {"role_id": self._options["role-id"], "secret_id": self._secret_id()}, ""
        )
        token = answer.data.get("client_token")
        if answer.status != 200 or not isinstance(token, str):
            raise CustodyError(
                f"{self._about('post', path)}: the AppRole cannot log in: {answer.errors or answer.status}"
            )
        return _timed(token, answer.data.get("lease_duration"))

    def _secret_id(self) -> str:
        source = self._options["secret-id-source"]
        kind, _, where = source.partition(":")
        if kind == "env" and where:
            if not self._environment.get(where):
                raise CustodyError(f"vault: the secret id should be in {where}, which is not set")
            return self._environment[where].strip()
        if kind == "file" and where:
            return _line_of(Path(where), "the secret id")
        raise CustodyError("vault: secret-id-source is env:NAME or file:PATH, and not the secret id itself")

    def _renewed(self, token: str) -> _Token:
        answer = self._send("post", "auth/token/renew-self", {}, token)
        if answer.status != 200:  # use the token until it is refused, then replace it
            return _Token(token, float("inf"))
        lasts = answer.data.get("lease_duration")
        if isinstance(lasts, int) and lasts < _SHORT and "role-id" in self._options:
            return self._logged_in()  # renewal is reaching the token's maximum lifetime
        return _timed(token, lasts)


_CANNOT_BE_SENT = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.InvalidHeader,
)
_SOFT_DELETED = "soft-deleted key"
_SHORT = 60


def is_soft_deleted(answer: Answer) -> bool:
    return _SOFT_DELETED in answer.errors


def _object(response: requests.Response) -> dict[str, Any]:
    try:
        found = response.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _timed(token: str, lasts: object) -> _Token:
    """Return the token with its renewal time. `lasts` is in seconds; 0 means that it does not expire."""
    if not isinstance(lasts, int) or lasts <= 0:
        return _Token(token, float("inf"))
    return _Token(token, time.monotonic() + max(1.0, lasts / 2))


def _one_of(option: str, options: Mapping[str, str], environment: Mapping[str, str], *names: str) -> str:
    if option in options:
        return options[option]
    return next((environment[name] for name in names if environment.get(name)), "")


def _line_of(path: Path, what: str) -> str:
    try:
        text = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CustodyError(f"vault: {what} cannot be read from {path}: {type(error).__name__}") from None
    if not text or len(text.split()) != 1:
        raise CustodyError(f"vault: {path} should hold {what} and nothing else")
    return text
