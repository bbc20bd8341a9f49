"""A key's lifecycle as a table: which action is allowed in which stage, and which stage it leads to."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from keyfront.custody.key_record import Stage
from keyfront.errors import RotationError


class Action(Enum):
    CREATE = "create"
    REGISTER = "register"
    PUBLISH = "publish"
    CONFIRM = "confirm"
    SWITCH = "switch"
    RELIEVE = "relieve"
    RELEASE = "release"
    REMOVE = "remove"
    RETIRE = "retire"
    UNREGISTER = "unregister"
    DESTROY = "destroy"


MEANING: Mapping[Action, str] = {
    Action.CREATE: "custody creates a key pair",
    Action.REGISTER: "the public key is created at CloudFront (CreatePublicKey)",
    Action.PUBLISH: "the public key is added to the key group (UpdateKeyGroup)",
    Action.CONFIRM: "all distributions that trust the group are Deployed: every edge trusts the key",
    Action.SWITCH: "the record names it as the signing key; that write is the switch",
    Action.RELIEVE: "the same write ends signing with the previous key",
    Action.RELEASE: "the record states that edges are to stop trusting the key",
    Action.REMOVE: "the public key is removed from the key group (UpdateKeyGroup)",
    Action.RETIRE: "all distributions are Deployed without the key: no edge trusts it",
    Action.UNREGISTER: "the public key is deleted at CloudFront (DeletePublicKey)",
    Action.DESTROY: "custody deletes the private key, after the grace period",
}
MOVES: Mapping[Stage | None, Mapping[Action, Stage]] = {
    None: {Action.CREATE: Stage.CREATED},
    Stage.CREATED: {
        Action.REGISTER: Stage.CREATED,
        Action.PUBLISH: Stage.CREATED,
        Action.CONFIRM: Stage.PUBLISHED,
        Action.SWITCH: Stage.SIGNING,  # in an emergency only
        Action.RELEASE: Stage.CREATED,
        Action.REMOVE: Stage.CREATED,
        Action.RETIRE: Stage.RETIRED,
    },
    Stage.PUBLISHED: {
        Action.PUBLISH: Stage.CREATED,  # it was removed externally: confirm again that edges trust it
        Action.SWITCH: Stage.SIGNING,
        Action.RELEASE: Stage.PUBLISHED,
        Action.REMOVE: Stage.PUBLISHED,
        Action.RETIRE: Stage.RETIRED,
    },
    Stage.SIGNING: {
        Action.PUBLISH: Stage.SIGNING,
        Action.RELIEVE: Stage.DRAINING,
        Action.RELEASE: Stage.SIGNING,  # in an emergency only
        Action.REMOVE: Stage.SIGNING,
    },
    Stage.DRAINING: {
        Action.PUBLISH: Stage.DRAINING,
        Action.SWITCH: Stage.SIGNING,  # a rotation is rolled back
        Action.RELEASE: Stage.DRAINING,
        Action.REMOVE: Stage.DRAINING,
        Action.RETIRE: Stage.RETIRED,
    },
    Stage.RETIRED: {
        Action.REMOVE: Stage.RETIRED,  # it was added back externally
        Action.UNREGISTER: Stage.RETIRED,
        Action.DESTROY: Stage.RETIRED,
    },
}
"""The actions allowed in each stage of a key, and the stage that each leads to. No other transition can be written."""


def move(stage: Stage | None, action: Action) -> Stage:
    """:raises RotationError: if the table has no such move."""
    try:
        return MOVES[stage][action]
    except KeyError:
        raise RotationError(
            f"a key that {'is ' + stage.value if stage else 'does not exist'} does not allow {action.value}"
        ) from None
