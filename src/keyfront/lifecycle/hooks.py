"""Hooks: what an operator's own programs and services are told before and after each step (docs/reference/hooks.md).

    [[hook]]
    when = ["before"]
    groups = ["films", "photos-*"]
    steps = ["switch", "retire"]
    command = ["/usr/local/bin/may-we", "--change"]
    timeout = 30

    [[hook]]
    webhook = "https://ops.example.com/keyfront"
    secret-file = "/etc/keyfront/hook-secret"

A hook is a `Listener` of the journal's: one that fails before a step keeps the step from being taken, and the step
comes up again later; one that fails after it is in the log, and changes nothing. No hook is told a secret, and commands
get only such variables of the environment as they are given.
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
from keyfront.lifecycle.rotation import Action

log = logging.getLogger("keyfront.rotation")

ORDERS = ("start", "rotate", "pause", "resume", "rollback", "emergency", "terms", "stop")
STEPS = (*(action.value for action in Action), *ORDERS)
MOMENTS: tuple[str, ...] = get_args(Phase)

SIGNATURE = "Keyfront-Signature"
"""The header of a webhook's request: `t=EPOCH,v1=HEX`, HMAC-SHA256 under the secret over `EPOCH.BODY`."""

PASSED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")
"""What of the environment every command gets."""
LONGEST_SECRET = 4096
_SHORTEST_SECRET = 16
_MOST_OUTPUT = 4096
_LONGEST_TEXT = 2000
"""Characters of a text that is told."""
_TICK = 0.05
URGENT = 2.0
"""Seconds that all hooks together may take of an emergency, at each moment of each of its steps."""


class Hook(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """One hook. `when` are moments of a step, `groups` and `steps` patterns with * and ?, all of them by default.

    Either `command`, an absolute path and its arguments, which gets what is told as JSON on its standard input and in
    KEYFRONT_… variables beside `environment`'s, or `webhook`, an http or https URL that gets it as the body of a POST,
    signed if there is a `secret_file`. An attempt may take `timeout` seconds; after one that fails, `retries` more are
    made, the first a second later, each after twice the time of the one before.
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
        """What messages call it; of a URL only its origin, since the rest may be a secret."""
        if self.command:
            return self.command[0]
        parts = urlsplit(self.webhook)
        return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}"

    def concerns(self, telling: RotationEvent) -> bool:
        return (
            telling.moment in self.when
            and any(fnmatch.fnmatchcase(telling.group, each) for each in self.groups)
            and any(fnmatch.fnmatchcase(telling.action, each) for each in self.steps)
        )


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    hook: tuple[Hook, ...] = ()


# ------------------------------------------------------------------------------------------------------------
# The file


def read_hooks(path: Path) -> tuple[Hook, ...]:
    """The hooks of a file.

    :raises SettingsError: if it cannot be read, anybody but its owner may change it, or something in it makes no sense.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            text = file.read()
    except OSError as error:
        raise SettingsError(f"the hooks {path} cannot be read: {error.strerror}") from error
    if status.st_uid not in (0, os.geteuid()):
        raise SettingsError(f"{path} belongs to somebody else, who could have anything run by it")
    if stat.S_IMODE(status.st_mode) & 0o022:
        raise SettingsError(
            f"others may change {path} (mode {stat.S_IMODE(status.st_mode):04o}), and what it names is run; "
            f"run: chmod go-w {path}"
        )
    return parse_hooks(text, str(path))


def parse_hooks(text: bytes, where: str = "hooks") -> tuple[Hook, ...]:
    """The hooks that a file of TOML names.

    :raises SettingsError: if something in it makes no sense.
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
    """`when = "before"` is as good as `when = ["before"]`."""
    hooks = found.get("hook")
    for hook in hooks if isinstance(hooks, list) else ():
        for name in ("when", "groups", "steps", "environment"):
            if isinstance(hook, dict) and isinstance(hook.get(name), str):
                hook[name] = [hook[name]]
    return found


def _fault(hook: Hook) -> str:
    if bool(hook.command) == bool(hook.webhook):
        return "give it a command or a webhook, and not both"
    if unknown := sorted(set(hook.when) - set(MOMENTS)):
        return f"when is of {', '.join(MOMENTS)}, not {unknown[0]!r}"
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
            return f"the command {hook.command[0]!r} is no absolute path"
        if not os.access(hook.command[0], os.X_OK):
            return f"{hook.command[0]} is no program that can be run"
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
        return f"the webhook is no URL: {error}"
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or re.search(r"[^\x21-\x7e]", hook.webhook)
    ):
        return "the webhook is no http or https URL"
    if parts.username is not None or parts.password is not None:
        return "a webhook's URL holds no password: it is signed with secret-file"
    if not hook.secret_file and parts.scheme == "https":
        return ""
    if not hook.secret_file:
        return "a webhook by plain http needs a secret-file, by which it can be told from anybody else's"
    try:
        _secret(hook.secret_file)
    except (OSError, SettingsError) as error:
        return str(error)
    return ""


def _secret(path: str) -> bytes:
    """:raises SettingsError: if others may read or change it, or it is too short.
    :raises OSError: if it cannot be read."""
    with open(path, "rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        found = file.read(LONGEST_SECRET + 1).strip()
    if mode & 0o077:
        raise SettingsError(f"others may read or change {path} (mode {mode:04o}); run: chmod 600 {path}")
    if not _SHORTEST_SECRET <= len(found) <= LONGEST_SECRET:
        raise SettingsError(f"{path} holds no secret of {_SHORTEST_SECRET} to {LONGEST_SECRET} bytes")
    return found


# ------------------------------------------------------------------------------------------------------------
# Calling them


class HookFailed(RotationError):
    """A hook said no, or could not be asked."""


class Hooks:
    """Calls those that concern what is told, one after the other, in the order of the file.

    :param environment: where commands' variables are taken from.
    :param stopping: if it is set, a hook that is under way is given up: it has failed.
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

    def told(self, telling: RotationEvent) -> None:
        """See `journal.Listener`.

        In an emergency each is called once, and all of them for no longer than `URGENT`.

        :raises HookFailed: before a step, if a hook fails; those that follow it are not called. Not in an emergency.
        """
        ends = time.monotonic() + URGENT
        for hook in self._hooks:
            if not hook.concerns(telling):
                continue
            try:
                self._call(_hastened(hook, ends) if telling.urgent else hook, telling)
            except HookFailed as error:
                if telling.moment == "before" and not telling.urgent:
                    raise
                log.error(
                    "the hook %s %s %s of %s failed: %s",
                    hook.name,
                    telling.moment,
                    telling.action,
                    telling.group,
                    error,
                )

    def _call(self, hook: Hook, telling: RotationEvent) -> None:
        delivery = str(uuid.uuid4())
        pause = 1.0
        for left in range(hook.retries, -1, -1):
            try:
                if hook.command:
                    self._run(hook, telling, delivery)
                else:
                    self._post(hook, telling, delivery)
                return
            except (HookFailed, OSError, http.client.HTTPException, SettingsError) as error:
                if not left or self._stopping.wait(pause):
                    raise HookFailed(f"the hook {hook.name}: {error}") from error
                pause *= 2

    def _run(self, hook: Hook, telling: RotationEvent, delivery: str) -> None:
        given, tells = os.pipe()
        said, says = os.pipe()
        try:
            process = subprocess.Popen(  # noqa: S603 - what an operator's own file names, and no shell
                hook.command,
                stdin=given,
                stdout=subprocess.DEVNULL,
                stderr=says,
                cwd="/",
                env=self._variables(hook, telling, delivery),
                start_new_session=True,
            )
        except BaseException:
            os.close(said)
            os.close(tells)
            raise
        finally:
            os.close(given)
            os.close(says)
        # Whatever it started may hold its end of the pipe for longer than it lives itself: then the thread stays.
        last: list[bytes] = [b""]
        hearing = threading.Thread(target=_hear, args=(said, last), daemon=True)
        hearing.start()
        _tell(tells, _encoded(telling))
        why = self._await(process, hook.timeout)
        if why:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # it has not been waited for, so it is still its own
            process.wait()
            raise HookFailed(why)
        if process.returncode:
            hearing.join(1)
            lines = last[0].decode("utf-8", "replace").strip().splitlines()
            line = re.sub(r"[^\x20-\x7e\xa0-\uffff]", "?", lines[-1])[:200] if lines else ""
            raise HookFailed(f"exit status {process.returncode}" + (f": {line}" if line else ""))

    def _await(self, process: subprocess.Popen[bytes], timeout: float) -> str:
        """Why it has to be ended, empty if it has ended."""
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

    def _variables(self, hook: Hook, telling: RotationEvent, delivery: str) -> dict[str, str]:
        passed = {
            name: self._environment[name]
            for name in (*PASSED, *hook.environment)
            if name in self._environment
        }
        told = {
            f"KEYFRONT_{name.upper()}": str(value).replace("\0", "")[:_LONGEST_TEXT]
            for name, value in msgspec.structs.asdict(telling).items()
        }
        return {**passed, **told, "KEYFRONT_DELIVERY": delivery}

    def _post(self, hook: Hook, telling: RotationEvent, delivery: str) -> None:
        parts = urlsplit(hook.webhook)
        body = _encoded(telling)
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
            raise HookFailed(f"it answered {status}")

    def _answer(
        self,
        connection: http.client.HTTPConnection,
        target: str,
        body: bytes,
        headers: Mapping[str, str],
        timeout: float,
    ) -> int:
        """The status of the answer, within `timeout` seconds in all: a connection's own time-out counts anew with each
        byte that comes.

        :raises OSError, http.client.HTTPException: if there is none.
        """
        answered: list[int | Exception] = []

        def ask() -> None:
            try:
                connection.request("POST", target, body, dict(headers))
                answered.append(connection.getresponse().status)
            except Exception as error:
                answered.append(error)
            finally:
                connection.close()

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        ends = time.monotonic() + timeout
        while True:
            asking.join(_TICK)
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


def _hastened(hook: Hook, ends: float) -> Hook:
    """A hook that has until `ends` (of the monotonic clock), and one attempt.

    :raises HookFailed: if no time is left.
    """
    left = ends - time.monotonic()
    if left <= 0:
        raise HookFailed(f"the hook {hook.name} is not called: an emergency does not wait for it")
    return msgspec.structs.replace(hook, timeout=min(hook.timeout, left), retries=0)


def signature(secret: bytes, body: bytes, now: int) -> str:
    """What `SIGNATURE` says of a body that is sent at `now` (epoch seconds)."""
    digest = hmac.new(secret, b"%d." % now + body, hashlib.sha256).hexdigest()
    return f"t={now},v1={digest}"


def _encoded(telling: RotationEvent) -> bytes:
    """As JSON, and never more than a pipe holds."""
    cut = {
        name: value[:_LONGEST_TEXT]
        for name, value in msgspec.structs.asdict(telling).items()
        if isinstance(value, str)
    }
    return msgspec.json.encode(msgspec.structs.replace(telling, **cut))


def _tell(pipe: int, data: bytes) -> None:
    try:
        os.write(pipe, data)
    except BrokenPipeError:
        pass  # it does not read it
    finally:
        os.close(pipe)


def _hear(pipe: int, last: list[bytes]) -> None:
    """Keep the end of what it says, and never let it wait for a reader."""
    try:
        while piece := os.read(pipe, 65_536):
            last[0] = (last[0] + piece)[-_MOST_OUTPUT:]
    finally:
        os.close(pipe)
