"""The operations on rotations: ListRotations, GetRotation, and an operator's commands.

A command is one write of the key group's record, as with `keyfront rotation`; the scheduler takes the steps. Each
has an IAM action of its own, on the key group.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

import msgspec

from keyfront.cloudfront.rotations import (
    PATH,
    KeyEnd,
    PlannedStep,
    RotationKey,
    RotationPlan,
    Rotations,
    RotationState,
    RotationTerms,
)
from keyfront.control.call import Call
from keyfront.control.keys.store_api import StoreApi
from keyfront.control.keys.watch import KeyWatch
from keyfront.control.own_operations.contract import OwnOperation
from keyfront.custody.contract import Records
from keyfront.custody.key_record import Entry, KeyGroupRecord, RotationPolicy, Stage, parse_record
from keyfront.errors import ApiError, CustodyError, KeyfrontError
from keyfront.lifecycle.events import Listener
from keyfront.lifecycle.key_names import name_of
from keyfront.lifecycle.rotation import Wait
from keyfront.signing.keys import Algorithm

if TYPE_CHECKING:
    from keyfront.lifecycle.executor import RotationExecutor

_SINCE = {
    Stage.CREATED: "created",
    Stage.PUBLISHED: "published",
    Stage.SIGNING: "signing",
    Stage.DRAINING: "draining",
    Stage.RETIRED: "retired",
}
_DURATIONS = {"Overlap": "overlap", "MaxLifetime": "max_lifetime", "Grace": "grace"}
"""Terms that StartRotation takes, in seconds."""


class RotationOperations:
    """The operations.

    :param listeners: who hears of commands, besides the audit log.
    :param place: the URI of the custody for new keys. No call chooses another one, because this process would open it.
    """

    def __init__(
        self,
        api: StoreApi,
        records: Records,
        watch: KeyWatch,
        listeners: Sequence[Listener],
        place: str,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._api = api
        self._records = records
        self._watch = watch
        self._listeners = listeners
        self._place = place
        self._environment = environment

    def operations(self) -> list[OwnOperation]:
        """All of them."""

        def command(
            name: str, path: str, run: Callable[[RotationExecutor, str, Call], KeyGroupRecord], *members: str
        ) -> OwnOperation:
            return OwnOperation(
                name, "POST", f"{PATH}/{{Id}}{path}", lambda call: self._command(call, run), members, _arn
            )

        return [
            OwnOperation("ListRotations", "GET", PATH, self._list),
            OwnOperation("GetRotation", "GET", f"{PATH}/{{Id}}", self._get, resource=_arn),
            command("StartRotation", "", self._start, "Every", "Algorithm", *_DURATIONS),
            command("RotateKeyGroup", "/rotate", lambda each, group, call: each.rotate(group, _by(call))),
            command("PauseRotation", "/pause", lambda each, group, call: each.pause(group, _by(call))),
            command("ResumeRotation", "/resume", lambda each, group, call: each.resume(group, _by(call))),
            command(
                "RollBackRotation", "/roll-back", lambda each, group, call: each.rollback(group, _by(call))
            ),
            command("ReplaceCompromisedKey", "/emergency", _emergency, "Key", "KeepServing"),
            command("StopRotation", "/stop", lambda each, group, call: each.stop(group, _by(call))),
        ]

    def _executor(self) -> RotationExecutor:
        from keyfront.lifecycle.executor import RotationExecutor  # imports botocore, which few calls need

        return RotationExecutor(self._api, self._records, self._environment, self._listeners)

    def _list(self, call: Call) -> Rotations:
        ends = tuple(KeyEnd(each.key_pair_id, each.ends) for each in self._watch.terms(call.now))
        found, readable = [], True
        try:
            for name in self._records.names():
                record = self._records.read(name)
                try:
                    found += [_state(parse_record(record.data))] if record is not None else []
                except CustodyError:
                    readable = False
        except (CustodyError, OSError):
            readable = False
        return Rotations(tuple(found), ends, readable)

    def _get(self, call: Call) -> RotationPlan:
        with _errors():
            executor = self._executor()
            group = self._group_name(call, executor)
            steps, then = executor.plan(group)
            record = executor.versioned(group).record
        wait = then if isinstance(then, Wait) else None
        return RotationPlan(
            _state(record),
            tuple(
                PlannedStep(each.at, each.step.action.value, each.step.name, each.step.reason)
                for each in steps
            ),
            wait.reason if wait else "",
            wait.until or 0.0 if wait else 0.0,
            wait is not None and wait.attention,
        )

    def _command(
        self, call: Call, run: Callable[[RotationExecutor, str, Call], KeyGroupRecord]
    ) -> RotationState:
        with _errors():
            executor = self._executor()
            return _state(run(executor, self._group_name(call, executor), call))

    def _group_name(self, call: Call, executor: RotationExecutor) -> str:
        """The name of the key group. A rotation outlives its key group, so its record is looked up as well.

        :raises ApiError: NoSuchResource if there is neither.
        """
        id_ = call.params["Id"]
        group = self._api.key_group(id_)
        if group is not None:
            return group.name
        for name in executor.groups():
            if executor.versioned(name).record.key_group_id == id_:
                return name
        raise ApiError("NoSuchResource", f"There is no key group {id_[:100]}.", 404)

    def _start(self, executor: RotationExecutor, name: str, call: Call) -> KeyGroupRecord:
        group = self._api.key_group(call.params["Id"])
        if group is None:
            raise ApiError("NoSuchResource", f"There is no key group {name}.", 404)
        given = call.params
        # Here, Deployed means that every edge has applied it, so nothing needs to settle.
        terms = RotationPolicy(self._place, every=_every(given), settle=0.0)
        changes: dict[str, Any] = {
            name: _seconds(given, member) for member, name in _DURATIONS.items() if _text(given, member)
        }
        if algorithm := _text(given, "Algorithm"):
            if algorithm not in get_args(Algorithm):
                raise ApiError(
                    "InvalidArgument", f"Algorithm must be one of {', '.join(get_args(Algorithm))}."
                )
            changes["algorithm"] = algorithm
        return executor.start(group, msgspec.structs.replace(terms, **changes), {}, _by(call))


def _emergency(executor: RotationExecutor, group: str, call: Call) -> KeyGroupRecord:
    key = _text(call.params, "Key")
    if not key:
        raise ApiError("InvalidArgument", "Key is required: the ID of the compromised public key.")
    keep = call.params.get("KeepServing", False)
    return executor.emergency(group, key, _by(call), keep_serving=keep in (True, "true"))


def _arn(call: Call) -> str:
    return f"arn:aws:cloudfront::{call.caller.account}:key-group/{call.params['Id']}"


def _by(call: Call) -> str:
    return call.caller.arn


def _text(params: Mapping[str, Any], member: str) -> str:
    value = params.get(member, "")
    if not isinstance(value, str):
        raise ApiError("InvalidArgument", f"{member} must be a text.")
    return value


def _seconds(params: Mapping[str, Any], member: str) -> float:
    text = _text(params, member)
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e10:
        raise ApiError("InvalidArgument", f"{member} must be a number of seconds.")
    return seconds


def _every(params: Mapping[str, Any]) -> float | str:
    """Seconds, a cron expression, or empty for rotation on demand."""
    text = _text(params, "Every")
    return _seconds(params, "Every") if text and " " not in text else text


class _errors:
    """Turns Keyfront's errors into those of the API."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, KeyfrontError) and not isinstance(error, ApiError):
            raise ApiError("RotationFailed", str(error), 409) from error


def _state(record: KeyGroupRecord) -> RotationState:
    terms = record.terms
    return RotationState(
        record.group,
        record.key_group_id,
        RotationTerms(
            terms.place,
            terms.algorithm,
            terms.every,
            terms.overlap,
            terms.max_lifetime,
            terms.max_staleness,
            terms.settle,
            terms.grace,
            terms.paused,
        ),
        tuple(_key(entry) for entry in record.entries),
    )


def _key(entry: Entry) -> RotationKey:
    return RotationKey(
        entry.key_pair_id,
        name_of(entry.uri),
        entry.uri,
        entry.stage.value,
        getattr(entry, _SINCE[entry.stage]),
        entry.drain_until if entry.stage is Stage.DRAINING else 0.0,
        entry.compromised,
        bool(entry.leaving),
    )
