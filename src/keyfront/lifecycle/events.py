"""Rotation events and their listeners: hooks, the audit log, and a journal file.

A listener receives at most two events for each step and each command: `before`, then `after` or `failed`. If it raises
an error before a step, the step is not taken; an error raised later is logged and has no other effect.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from keyfront.errors import KeyfrontError, RotationError

log = logging.getLogger("keyfront.rotation")

Phase = Literal["before", "after", "failed"]


class RotationEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """A rotation step, or a command to a rotation. It contains no secret.

    `at` is epoch seconds. `action` is a step (`moves.Action`) or a command (start, rotate, pause, resume, rollback,
    emergency, terms, stop). `by` is the user who issued the command, empty for a step. `key` is the key's name in
    custody, `key_pair_id` its id at CloudFront, if it has one. `error` is the reason for a failure. An `urgent` event
    belongs to an emergency, which waits for no listener: even its `before` is sent after the step.
    """

    moment: Phase
    at: float
    group: str
    key_group_id: str
    action: str
    key: str = ""
    key_pair_id: str = ""
    reason: str = ""
    error: str = ""
    by: str = ""
    urgent: bool = False


class Listener(Protocol):
    def on_event(self, event: RotationEvent) -> None:
        """Called in the thread that takes the step, so the step waits for it.

        :raises RotationError: before a step, to prevent it. The step is retried later.
        """


class Journal:
    """A file with one JSON object per line, for rotations that run without an audit log."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_event(self, event: RotationEvent) -> None:
        if event.moment == "before":
            return
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, msgspec.json.encode(event) + b"\n")
        finally:
            os.close(descriptor)


def notify(listeners: Iterable[Listener], event: RotationEvent) -> None:
    """Send the event to all listeners.

    :raises RotationError: before a step, if one of them raises any error.
    """
    for listener in listeners:
        try:
            listener.on_event(event)
        except Exception as error:
            if event.moment == "before":
                if isinstance(error, KeyfrontError):
                    raise
                raise RotationError(f"a listener failed: {type(error).__name__}: {error}") from error
            log.error("a listener of %s %s failed: %s", event.action, event.group, error)
