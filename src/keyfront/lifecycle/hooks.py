"""Hooks: an operator's own commands and webhooks, called before and after each step (docs/reference/hooks.md).

    [[hook]]
    when = ["before"]
    groups = ["films", "photos-*"]
    steps = ["switch", "retire"]
    command = ["/usr/local/bin/may-we", "--change"]
    timeout = 30

    [[hook]]
    webhook = "https://ops.example.com/keyfront"
    secret-file = "/etc/keyfront/hook-secret"

If a hook fails before a step, the step is not taken and is retried later. A failure after the step is logged and has no
other effect. No hook receives a secret, and a command gets only the environment variables that it is allowed.
"""

from __future__ import annotations

import fnmatch
import hashlib
import hmac
import http.client
import logging
import os
import re
import signal
import socket
import ssl
import stat
import subprocess
import threading
import time
import tomllib
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

import msgspec

from keyfront.errors import RotationError, SettingsError
from keyfront.lifecycle.events import Phase, RotationEvent
from keyfront.lifecycle.moves import Action

log = logging.getLogger("keyfront.rotation")

COMMANDS = ("start", "rotate", "pause", "resume", "rollback", "emergency", "terms", "stop")
STEPS = (*(action.value for action in Action), *COMMANDS)
PHASES: tuple[str, ...] = get_args(Phase)

SIGNATURE = "Keyfront-Signature"
"""The header of a webhook's request: `t=EPOCH,v1=HEX`, HMAC-SHA256 under the secret over `EPOCH.BODY`."""

PASSED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")
"""The environment variables that every command receives."""
LONGEST_SECRET = 4096
_SHORTEST_SECRET = 16
_MOST_OUTPUT = 4096
_LONGEST_TEXT = 2000
"""Maximum length of a text in an event, characters."""
_TICK = 0.05
URGENT = 2.0
"""Seconds by which all hooks together may delay an emergency, in each phase of each of its steps."""


class Hook(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """One hook. `when` are phases of a step; `groups` and `steps` are patterns with * and ?, by default all.

    A hook has either a `command` or a `webhook`. A `command` is an absolute path and its arguments; it receives the
    event as JSON on standard input and in KEYFRONT_… variables, in addition to those named in `environment`. A
    `webhook` is an http or https URL that receives the event as the body of a POST, signed if there is a `secret_file`.
    An attempt may take `timeout` seconds. After a failure there are `retries` more attempts, the first one second
    later, with the delay doubling each time.
    """

    when: tuple[str, ...] = ("after",)
    groups: tuple[str, ...] = ("*",)
    steps: tuple[str, ...] = ("*",)
    command: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    webhook: str = ""
    secret_file: str = ""
    timeout: float = 30.0
    retries: int = 2

    @property
    def name(self) -> str:
        """The hook's name in messages: for a webhook only the URL's origin, since the rest may be secret."""
        if self.command:
            return self.command[0]
        parts = urlsplit(self.webhook)
        return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}"

    def matches(self, event: RotationEvent) -> bool:
        return (
            event.moment in self.when
            and any(fnmatch.fnmatchcase(event.group, each) for each in self.groups)
            and any(fnmatch.fnmatchcase(event.action, each) for each in self.steps)
        )


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    hook: tuple[Hook, ...] = ()


# ------------------------------------------------------------------------------------------------------------
# The file


def read_hooks(path: Path) -> tuple[Hook, ...]:
    """Read the hooks from a file.

    :raises SettingsError: if the file cannot be read or is invalid, or if anyone but its owner can write to it.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            text = file.read()
    except OSError as error:
        raise SettingsError(f"the hooks {path} cannot be read: {error.strerror}") from error
    if status.st_uid not in (0, os.geteuid()):
        raise SettingsError(f"{path} belongs to another user, who could run any program by it")
    if stat.S_IMODE(status.st_mode) & 0o022:
        raise SettingsError(
            f"others may change {path} (mode {stat.S_IMODE(status.st_mode):04o}), and what it names is run; "
            f"run: chmod go-w {path}"
        )
    return parse_hooks(text, str(path))


def parse_hooks(text: bytes, where: str = "hooks") -> tuple[Hook, ...]:
    """Parse the hooks from TOML.

    :raises SettingsError: if it is invalid.
    """
    try:
        found = msgspec.convert(_listed(tomllib.loads(text.decode())), _File)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise SettingsError(f"{where}: {error}") from None
    for number, hook in enumerate(found.hook, 1):
        if fault := _fault(hook):
            raise SettingsError(f"{where}: hook {number}: {fault}")
    return found.hook


def _listed(found: dict[str, Any]) -> dict[str, Any]:
    """Accept `when = "before"` for `when = ["before"]`."""
    hooks = found.get("hook")
    for hook in hooks if isinstance(hooks, list) else ():
        for name in ("when", "groups", "steps", "environment"):
            if isinstance(hook, dict) and isinstance(hook.get(name), str):
                hook[name] = [hook[name]]
    return found


def _fault(hook: Hook) -> str:
    if bool(hook.command) == bool(hook.webhook):
        return "give it a command or a webhook, and not both"
    if unknown := sorted(set(hook.when) - set(PHASES)):
        return f"when is of {', '.join(PHASES)}, not {unknown[0]!r}"
    if not hook.when or not hook.groups or not hook.steps:
        return "when, groups and steps are not empty: it would never be called"
    for pattern in hook.steps:
        if not any(fnmatch.fnmatchcase(step, pattern) for step in STEPS):
            return f"there is no step {pattern!r}; they are {', '.join(STEPS)}"
    if not 0 < hook.timeout <= 600:
        return "timeout is more than 0 and at most 600 seconds"
    if not 0 <= hook.retries <= 10:
        return "retries is 0 to 10"
    if hook.command:
        if not os.path.isabs(hook.command[0]):
            return f"the command {hook.command[0]!r} is not an absolute path"
        if not os.access(hook.command[0], os.X_OK):
            return f"{hook.command[0]} is not a program that can be run"
        if any("\0" in part for part in hook.command):
            return "a command holds no NUL"
        if hook.secret_file:
            return "secret-file is for webhooks"
        return ""
    if hook.environment:
        return "environment is for commands"
    try:
        parts = urlsplit(hook.webhook)
        _ = parts.port
    except ValueError as error:
        return f"the webhook is not a URL: {error}"
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or re.search(r"[^\x21-\x7e]", hook.webhook)
    ):
        return "the webhook is not an http or https URL"
    if parts.username is not None or parts.password is not None:
        return "a webhook's URL holds no password: it is signed with secret-file"
    if not hook.secret_file and parts.scheme == "https":
        return ""
    if not hook.secret_file:
        return "a webhook over plain HTTP needs a secret-file, which proves who sends it"
    try:
        _secret(hook.secret_file)
    except (OSError, SettingsError) as error:
        return str(error)
    return ""


def _secret(path: str) -> bytes:
    """:raises SettingsError: if others can read or write the file, or the secret is too short.
    :raises OSError: if the file cannot be read."""
    with open(path, "rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        found = file.read(LONGEST_SECRET + 1).strip()
    if mode & 0o077:
        raise SettingsError(f"others may read or change {path} (mode {mode:04o}); run: chmod 600 {path}")
    if not _SHORTEST_SECRET <= len(found) <= LONGEST_SECRET:
        raise SettingsError(f"{path} holds no secret of {_SHORTEST_SECRET} to {LONGEST_SECRET} bytes")
    return found


# ------------------------------------------------------------------------------------------------------------
# Calling hooks


class HookFailed(RotationError):
    """A hook rejected a step or could not be called."""


class Hooks:
    """A listener that calls the hooks matching an event, one at a time, in file order.

    :param environment: the source of the commands' variables.
    :param stopping: once set, a running hook is terminated and counts as failed.
    """

    def __init__(
        self,
        hooks: Iterable[Hook],
        environment: Mapping[str, str] = os.environ,
        stopping: threading.Event | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._hooks = tuple(hooks)
        self._environment = environment
        self._stopping = stopping or threading.Event()
        self._clock = clock

    def on_event(self, event: RotationEvent) -> None:
        """See `events.Listener`.

        In an emergency each hook is called once, without retries, and all of them together take at most `URGENT`
        seconds.

        :raises HookFailed: before a step, if a hook fails; later hooks are then not called. Never in an emergency.
        """
        ends = time.monotonic() + URGENT
        for hook in self._hooks:
            if not hook.matches(event):
                continue
            try:
                self._call(_for_emergency(hook, ends) if event.urgent else hook, event)
            except HookFailed as error:
                if event.moment == "before" and not event.urgent:
                    raise
                log.error(
                    "the hook %s %s %s of %s failed: %s",
                    hook.name,
                    event.moment,
                    event.action,
                    event.group,
                    error,
                )

    def _call(self, hook: Hook, event: RotationEvent) -> None:
        delivery = str(uuid.uuid4())
        pause = 1.0
        for left in range(hook.retries, -1, -1):
            try:
                if hook.command:
                    self._run(hook, event, delivery)
                else:
                    self._post(hook, event, delivery)
                return
            except (HookFailed, OSError, http.client.HTTPException, SettingsError) as error:
                if not left or self._stopping.wait(pause):
                    raise HookFailed(f"the hook {hook.name}: {error}") from error
                pause *= 2

    def _run(self, hook: Hook, event: RotationEvent, delivery: str) -> None:
        stdin, event_pipe = os.pipe()
        output, stderr = os.pipe()
        try:
            process = subprocess.Popen(  # noqa: S603 - the operator's own file names it, and there is no shell
                hook.command,
                stdin=stdin,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                cwd="/",
                env=self._variables(hook, event, delivery),
                start_new_session=True,
            )
        except BaseException:
            os.close(output)
            os.close(event_pipe)
            raise
        finally:
            os.close(stdin)
            os.close(stderr)
        # A child of the process may keep the pipe open after the process has exited; the thread waits for that.
        last: list[bytes] = [b""]
        reader = threading.Thread(target=_read_output, args=(output, last), daemon=True)
        reader.start()
        _write_event(event_pipe, _encoded(event))
        why = self._await(process, hook.timeout)
        if why:
            with suppress(ProcessLookupError):
                os.killpg(
                    process.pid, signal.SIGKILL
                )  # not waited for yet, so the process group is still its own
            process.wait()
            raise HookFailed(why)
        if process.returncode:
            reader.join(1)
            lines = last[0].decode("utf-8", "replace").strip().splitlines()
            line = re.sub(r"[^\x20-\x7e\xa0-\uffff]", "?", lines[-1])[:200] if lines else ""
            raise HookFailed(f"exit status {process.returncode}" + (f": {line}" if line else ""))

    def _await(self, process: subprocess.Popen[bytes], timeout: float) -> str:
        """Wait for the process. Returns why it must be killed, empty if it has exited."""
        ends = time.monotonic() + timeout
        while True:
            try:
                process.wait(_TICK)
            except subprocess.TimeoutExpired:
                if time.monotonic() >= ends:
                    return f"it did not end within {timeout:g} seconds"
                if self._stopping.is_set():
                    return "Keyfront is ending"
            else:
                return ""

    def _variables(self, hook: Hook, event: RotationEvent, delivery: str) -> dict[str, str]:
        passed = {
            name: self._environment[name]
            for name in (*PASSED, *hook.environment)
            if name in self._environment
        }
        fields = {
            f"KEYFRONT_{name.upper()}": str(value).replace("\0", "")[:_LONGEST_TEXT]
            for name, value in msgspec.structs.asdict(event).items()
        }
        return {**passed, **fields, "KEYFRONT_DELIVERY": delivery}

    def _post(self, hook: Hook, event: RotationEvent, delivery: str) -> None:
        parts = urlsplit(hook.webhook)
        body = _encoded(event)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "keyfront-hooks",
            "Keyfront-Delivery": delivery,
            "Connection": "close",
        }
        if hook.secret_file:
            headers[SIGNATURE] = signature(_secret(hook.secret_file), body, int(self._clock()))
        host = parts.hostname or ""
        connection = (
            http.client.HTTPSConnection(
                host, parts.port, timeout=hook.timeout, context=ssl.create_default_context()
            )
            if parts.scheme == "https"
            else http.client.HTTPConnection(host, parts.port, timeout=hook.timeout)
        )
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        status = self._answer(connection, target, body, headers, hook.timeout)
        if not 200 <= status < 300:
            raise HookFailed(f"the response is {status}")

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

        :raises HookFailed: if no response arrives in time.
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
            if time.monotonic() >= ends or self._stopping.is_set():
                with suppress(OSError, AttributeError):  # the thread may just have closed it
                    connection.sock.shutdown(socket.SHUT_RDWR)
                why = (
                    "Keyfront is ending"
                    if self._stopping.is_set()
                    else f"no answer within {timeout:g} seconds"
                )
                raise HookFailed(why)
        found = answered[0]
        if isinstance(found, TimeoutError):
            raise HookFailed(f"no answer within {timeout:g} seconds")
        if isinstance(found, Exception):
            raise found
        return found


def _for_emergency(hook: Hook, ends: float) -> Hook:
    """The hook limited to one attempt, which must finish by `ends` (seconds on the monotonic clock).

    :raises HookFailed: if no time is left.
    """
    left = ends - time.monotonic()
    if left <= 0:
        raise HookFailed(f"the hook {hook.name} is not called: an emergency does not wait for it")
    return msgspec.structs.replace(hook, timeout=min(hook.timeout, left), retries=0)


def signature(secret: bytes, body: bytes, now: int) -> str:
    """The value of the `SIGNATURE` header for a body sent at `now` (epoch seconds)."""
    digest = hmac.new(secret, b"%d." % now + body, hashlib.sha256).hexdigest()
    return f"t={now},v1={digest}"


def _encoded(event: RotationEvent) -> bytes:
    """The event as JSON, never larger than a pipe's buffer."""
    cut = {
        name: value[:_LONGEST_TEXT]
        for name, value in msgspec.structs.asdict(event).items()
        if isinstance(value, str)
    }
    return msgspec.json.encode(msgspec.structs.replace(event, **cut))


def _write_event(pipe: int, data: bytes) -> None:
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
