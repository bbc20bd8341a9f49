"""Who is told of each step of a rotation, and of each order: hooks, the audit log, a file of lines.

A listener is called three times at most for one thing: `before` it, and `after` it or when it has `failed`. What it
raises before a step keeps the step from being taken; what it raises later is logged, and changes nothing.
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
    """What is told. `at` is epoch seconds. `action` is a step's (`rotation.Action`) or an order's (start, rotate,
    pause, resume, rollback, emergency, terms, stop); `by` is who gave the order, empty for a step. `key` is the key's
    name in custody, `key_pair_id` its id at CloudFront, as far as there is one; `error` is why it failed.
    `urgent`: it is an emergency's, which waits for nobody, so that `before` too is told after it. No secret is in it.
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
    def told(self, telling: RotationEvent) -> None:
        """Called in the thread that takes the step, so a step waits for it.

        :raises RotationError: before a step: the step is not taken, and comes up again later.
        """


class Journal:
    """A file of lines, one JSON object each, for whoever has no audit log to look into."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def told(self, telling: RotationEvent) -> None:
        if telling.moment == "before":
            return
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, msgspec.json.encode(telling) + b"\n")
        finally:
            os.close(descriptor)


def notify(listeners: Iterable[Listener], telling: RotationEvent) -> None:
    """Tell all of them.

    :raises RotationError: before a step, if one of them raises anything.
    """
    for listener in listeners:
        try:
            listener.told(telling)
        except Exception as error:
            if telling.moment == "before":
                if isinstance(error, KeyfrontError):
                    raise
                raise RotationError(f"a listener failed: {type(error).__name__}: {error}") from error
            log.error("a listener of %s %s failed: %s", telling.action, telling.group, error)
