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

The same file has the actions of alarms (`alarm_actions.py`).

If a hook fails before a step, the step is not taken and is retried later. A failure after the step is logged and has no
other effect. No hook receives a secret, and a command gets only the environment variables that it is allowed.
"""

from __future__ import annotations

import fnmatch
import logging
import os
import stat
import threading
import time
import tomllib
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec

from keyfront.errors import RotationError, SettingsError
from keyfront.lifecycle.alarm_actions import AlarmAction, action_fault
from keyfront.lifecycle.events import Phase, RotationEvent
from keyfront.lifecycle.moves import Action
from keyfront.lifecycle.outgoing import (
    LONGEST_TEXT,
    Message,
    Outgoing,
    Receiver,
    Undelivered,
    receiver_fault,
)

log = logging.getLogger("keyfront.rotation")

COMMANDS = ("start", "rotate", "pause", "resume", "rollback", "emergency", "terms", "stop")
STEPS = (*(action.value for action in Action), *COMMANDS)
PHASES: tuple[str, ...] = get_args(Phase)

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
    def receiver(self) -> Receiver:
        return Receiver(self.command, self.environment, self.webhook, self.secret_file, self.timeout)

    @property
    def name(self) -> str:
        """The hook's name in messages."""
        return self.receiver.name

    def matches(self, event: RotationEvent) -> bool:
        return (
            event.moment in self.when
            and any(fnmatch.fnmatchcase(event.group, each) for each in self.groups)
            and any(fnmatch.fnmatchcase(event.action, each) for each in self.steps)
        )


class HookFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of the file: hooks, and the actions of alarms."""

    hook: tuple[Hook, ...] = ()
    action: tuple[AlarmAction, ...] = ()


# ------------------------------------------------------------------------------------------------------------
# The file


def read_hooks(path: Path) -> tuple[Hook, ...]:
    """Read the hooks from a file; see `read_hook_file`."""
    return read_hook_file(path).hook


def read_hook_file(path: Path) -> HookFile:
    """Read the hooks and the actions of alarms from a file.

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
    return parse_hook_file(text, str(path))


def parse_hooks(text: bytes, where: str = "hooks") -> tuple[Hook, ...]:
    """Parse the hooks from TOML; see `parse_hook_file`."""
    return parse_hook_file(text, where).hook


def parse_hook_file(text: bytes, where: str = "hooks") -> HookFile:
    """Parse the hooks and the actions of alarms from TOML.

    :raises SettingsError: if it is invalid.
    """
    try:
        found = msgspec.convert(_listed(tomllib.loads(text.decode())), HookFile)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise SettingsError(f"{where}: {error}") from None
    for number, hook in enumerate(found.hook, 1):
        if fault := _fault(hook):
            raise SettingsError(f"{where}: hook {number}: {fault}")
    for number, action in enumerate(found.action, 1):
        if fault := action_fault(action):
            raise SettingsError(f"{where}: action {number}: {fault}")
        if any(other.name == action.name for other in found.action[: number - 1]):
            raise SettingsError(f"{where}: action {number}: another action is named {action.name} already")
    return found


def _listed(found: dict[str, Any]) -> dict[str, Any]:
    """Accept `when = "before"` for `when = ["before"]`."""
    for hook in [*_tables(found.get("hook")), *_tables(found.get("action"))]:
        for name in ("when", "groups", "steps", "environment", "email"):
            if isinstance(hook, dict) and isinstance(hook.get(name), str):
                hook[name] = [hook[name]]
    return found


def _tables(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


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
    return receiver_fault(hook.receiver)


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
        self._stopping = stopping or threading.Event()
        self._outgoing = Outgoing(environment, self._stopping, clock, user_agent="keyfront-hooks")

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
        message = _message(event, str(uuid.uuid4()))
        pause = 1.0
        for left in range(hook.retries, -1, -1):
            try:
                self._outgoing.send(hook.receiver, message)
                return
            except Undelivered as error:
                if not left or self._stopping.wait(pause):
                    raise HookFailed(f"the hook {hook.name}: {error}") from error
                pause *= 2


def _for_emergency(hook: Hook, ends: float) -> Hook:
    """The hook limited to one attempt, which must finish by `ends` (seconds on the monotonic clock).

    :raises HookFailed: if no time is left.
    """
    left = ends - time.monotonic()
    if left <= 0:
        raise HookFailed(f"the hook {hook.name} is not called: an emergency does not wait for it")
    return msgspec.structs.replace(hook, timeout=min(hook.timeout, left), retries=0)


def _message(event: RotationEvent, delivery: str) -> Message:
    """The event as JSON, and as variables. Texts are cut, so that it is never larger than a pipe's buffer."""
    cut = {
        name: value[:LONGEST_TEXT]
        for name, value in msgspec.structs.asdict(event).items()
        if isinstance(value, str)
    }
    return Message(
        msgspec.json.encode(msgspec.structs.replace(event, **cut)),
        {f"KEYFRONT_{name.upper()}": str(value) for name, value in msgspec.structs.asdict(event).items()},
        delivery,
    )
