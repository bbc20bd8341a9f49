"""Messages to an operator's own commands and webhooks: how hooks and the actions of alarms are carried out.

No shell is involved, a command gets only the environment variables that it is allowed, a webhook is signed under the
operator's secret, and each attempt has a time limit. A message contains no secret, and neither does an error.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import os
import re
import signal
import socket
import ssl
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from urllib.parse import urlsplit

import msgspec

from keyfront.errors import KeyfrontError, SettingsError

SIGNATURE = "Keyfront-Signature"
"""The header of a webhook's request: `t=EPOCH,v1=HEX`, HMAC-SHA256 under the secret over `EPOCH.BODY`."""

PASSED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")
"""The environment variables that every command receives."""
LONGEST_SECRET = 4096
LONGEST_TEXT = 2000
"""Maximum length of a text in a message or a variable, characters."""
LARGEST_BODY = 32_768
"""Maximum length of a message, bytes: it must fit into a pipe's buffer."""
_SHORTEST_SECRET = 16
_MOST_OUTPUT = 4096
_TICK = 0.05


class Undelivered(KeyfrontError):
    """A command or webhook failed, or could not be called."""


class Receiver(msgspec.Struct, frozen=True):
    """A command or a webhook.

    :param command: an absolute path and its arguments; empty: a webhook.
    :param environment: the names of variables that a command gets in addition to PASSED.
    :param webhook: an http or https URL.
    :param secret_file: contains the secret that signs a webhook's request; empty: none.
    :param timeout: seconds for one attempt.
    """

    command: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    webhook: str = ""
    secret_file: str = ""
    timeout: float = 30.0

    @property
    def name(self) -> str:
        """The name in messages: of a webhook only the URL's origin, since the rest may be secret."""
        if self.command:
            return self.command[0]
        parts = urlsplit(self.webhook)
        return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}"


class Message(msgspec.Struct, frozen=True):
    """A message. `variables` are for commands, in addition; `delivery` is the same at each attempt.

    :param body: JSON, at most LARGEST_BODY bytes.
    """

    body: bytes
    variables: Mapping[str, str]
    delivery: str


def receiver_fault(receiver: Receiver) -> str:
    """What is wrong with a receiver that has a command or a webhook; empty if nothing is."""
    if receiver.command:
        if not os.path.isabs(receiver.command[0]):
            return f"the command {receiver.command[0]!r} is not an absolute path"
        if not os.access(receiver.command[0], os.X_OK):
            return f"{receiver.command[0]} is not a program that can be run"
        if any("\0" in part for part in receiver.command):
            return "a command holds no NUL"
        if receiver.secret_file:
            return "secret-file is for webhooks"
        return ""
    if receiver.environment:
        return "environment is for commands"
    try:
        parts = urlsplit(receiver.webhook)
        _ = parts.port
    except ValueError as error:
        return f"the webhook is not a URL: {error}"
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or re.search(r"[^\x21-\x7e]", receiver.webhook)
    ):
        return "the webhook is not an http or https URL"
    if parts.username is not None or parts.password is not None:
        return "a webhook's URL holds no password: it is signed with secret-file"
    if not receiver.secret_file and parts.scheme == "https":
        return ""
    if not receiver.secret_file:
        return "a webhook over plain HTTP needs a secret-file, which proves who sends it"
    try:
        read_secret(receiver.secret_file)
    except (OSError, SettingsError) as error:
        return str(error)
    return ""


def read_secret(path: str, shortest: int = _SHORTEST_SECRET) -> bytes:
    """:raises SettingsError: if others can read or write the file, or the secret is too short.
    :raises OSError: if the file cannot be read."""
    with open(path, "rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        found = file.read(LONGEST_SECRET + 1).strip()
    if mode & 0o077:
        raise SettingsError(f"others may read or change {path} (mode {mode:04o}); run: chmod 600 {path}")
    if not shortest <= len(found) <= LONGEST_SECRET:
        raise SettingsError(f"{path} holds no secret of {shortest} to {LONGEST_SECRET} bytes")
    return found


class Outgoing:
    """Sends messages. Safe to use from several threads.

    :param environment: the source of the commands' variables.
    :param stopping: once set, a running command is terminated and counts as failed.
    :param clock: epoch seconds.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        stopping: threading.Event,
        clock: Callable[[], float] = time.time,
        *,
        user_agent: str,
    ) -> None:
        self._environment = environment
        self.stopping = stopping
        """Once set, whatever is in progress ends."""
        self._clock = clock
        self._user_agent = user_agent

    def send(self, receiver: Receiver, message: Message) -> None:
        """Send a message, in one attempt.

        :raises Undelivered: if it fails.
        """
        try:
            if receiver.command:
                self._run(receiver, message)
            else:
                self._post(receiver, message)
        except (OSError, http.client.HTTPException, SettingsError) as error:
            raise Undelivered(str(error) or type(error).__name__) from error

    def _run(self, receiver: Receiver, message: Message) -> None:
        stdin, body_pipe = os.pipe()
        output, stderr = os.pipe()
        try:
            process = subprocess.Popen(  # noqa: S603 - the operator's own file names it, and there is no shell
                receiver.command,
                stdin=stdin,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                cwd="/",
                env=self._variables(receiver, message),
                start_new_session=True,
            )
        except BaseException:
            os.close(output)
            os.close(body_pipe)
            raise
        finally:
            os.close(stdin)
            os.close(stderr)
        # A child of the process may keep the pipe open after the process has exited; the thread waits for that.
        last: list[bytes] = [b""]
        reader = threading.Thread(target=_read_output, args=(output, last), daemon=True)
        reader.start()
        _write_body(body_pipe, message.body)
        why = self._await(process, receiver.timeout)
        if why:
            with suppress(ProcessLookupError):
                os.killpg(
                    process.pid, signal.SIGKILL
                )  # not waited for yet, so the process group is still its own
            process.wait()
            raise Undelivered(why)
        if process.returncode:
            reader.join(1)
            lines = last[0].decode("utf-8", "replace").strip().splitlines()
            line = re.sub(r"[^\x20-\x7e\xa0-\uffff]", "?", lines[-1])[:200] if lines else ""
            raise Undelivered(f"exit status {process.returncode}" + (f": {line}" if line else ""))

    def _await(self, process: subprocess.Popen[bytes], timeout: float) -> str:
        """Wait for the process. Returns why it must be killed, empty if it has exited."""
        ends = time.monotonic() + timeout
        while True:
            try:
                process.wait(_TICK)
            except subprocess.TimeoutExpired:
                if time.monotonic() >= ends:
                    return f"it did not end within {timeout:g} seconds"
                if self.stopping.is_set():
                    return "Keyfront is ending"
            else:
                return ""

    def _variables(self, receiver: Receiver, message: Message) -> dict[str, str]:
        passed = {
            name: self._environment[name]
            for name in (*PASSED, *receiver.environment)
            if name in self._environment
        }
        texts = {name: text.replace("\0", "")[:LONGEST_TEXT] for name, text in message.variables.items()}
        return {**passed, **texts, "KEYFRONT_DELIVERY": message.delivery}

    def _post(self, receiver: Receiver, message: Message) -> None:
        parts = urlsplit(receiver.webhook)
        body = message.body
        headers = {
            "Content-Type": "application/json",
            "User-Agent": self._user_agent,
            "Keyfront-Delivery": message.delivery,
            "Connection": "close",
        }
        if receiver.secret_file:
            headers[SIGNATURE] = signature(read_secret(receiver.secret_file), body, int(self._clock()))
        host = parts.hostname or ""
        connection = (
            http.client.HTTPSConnection(
                host, parts.port, timeout=receiver.timeout, context=ssl.create_default_context()
            )
            if parts.scheme == "https"
            else http.client.HTTPConnection(host, parts.port, timeout=receiver.timeout)
        )
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        status = self._answer(connection, target, body, headers, receiver.timeout)
        if not 200 <= status < 300:
            raise Undelivered(f"the response is {status}")

    def _answer(
        self,
        connection: http.client.HTTPConnection,
        target: str,
        body: bytes,
        headers: Mapping[str, str],
        timeout: float,
    ) -> int:
        """Return the status of the response, within `timeout` seconds in total. (A connection's own timeout restarts
        with each byte that arrives.)

        :raises Undelivered: if no response arrives in time.
        :raises OSError, http.client.HTTPException: if the request fails.
        """
        answered: list[int | Exception] = []

        def request() -> None:
            try:
                connection.request("POST", target, body, dict(headers))
                answered.append(connection.getresponse().status)
            except Exception as error:
                answered.append(error)
            finally:
                connection.close()

        requesting = threading.Thread(target=request, daemon=True)
        requesting.start()
        ends = time.monotonic() + timeout
        while True:
            requesting.join(_TICK)
            if answered:
                break
            if time.monotonic() >= ends or self.stopping.is_set():
                with suppress(OSError, AttributeError):  # the thread may just have closed it
                    connection.sock.shutdown(socket.SHUT_RDWR)
                why = (
                    "Keyfront is ending"
                    if self.stopping.is_set()
                    else f"no answer within {timeout:g} seconds"
                )
                raise Undelivered(why)
        found = answered[0]
        if isinstance(found, TimeoutError):
            raise Undelivered(f"no answer within {timeout:g} seconds")
        if isinstance(found, Exception):
            raise found
        return found


def signature(secret: bytes, body: bytes, now: int) -> str:
    """The value of the `SIGNATURE` header for a body sent at `now` (epoch seconds)."""
    digest = hmac.new(secret, b"%d." % now + body, hashlib.sha256).hexdigest()
    return f"t={now},v1={digest}"


def _write_body(pipe: int, data: bytes) -> None:
    try:
        os.write(pipe, data)
    except BrokenPipeError:
        pass  # the process does not read its input
    finally:
        os.close(pipe)


def _read_output(pipe: int, last: list[bytes]) -> None:
    """Drain the output and keep its last part, so that the process never blocks on a full pipe."""
    try:
        while piece := os.read(pipe, 65_536):
            last[0] = (last[0] + piece)[-_MOST_OUTPUT:]
    finally:
        os.close(pipe)
