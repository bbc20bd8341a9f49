"""The CloudFront API for declared set-ups: it reads the current state and carries out one step. Planning is elsewhere.

It works with Amazon's CloudFront and Keyfront's, with the usual AWS credentials. A change applies only to the config
that the plan was made for: right before it, the config is read again and compared, and the ETag of that read goes into
If-Match. (The plan's own ETag would not work: a change of a key group gives every distribution that trusts it a new
one.)
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from keyfront.cloudfront.cloudwatch import CloudWatchClient
from keyfront.cloudfront.refusal import Refused
from keyfront.cloudfront.session import CloudFrontClient
from keyfront.declared import alarms
from keyfront.declared.desired import Setup
from keyfront.declared.diff import differences
from keyfront.declared.plan import MANAGED, Facts, Found, Named, Step, managed_policies, needed
from keyfront.declared.resources import ROWS, Row

_ABSENT = "UnsupportedOperation"
_HIDDEN = ("AccessDenied", "AccessDeniedException")
"""The error codes for a kind that the API does not implement, and for one that this caller may not list."""


class _NoAlarm(Refused):
    """There is no alarm of that name."""


class Account:
    """One CloudFront account through one endpoint. For one thread: it remembers what it has created."""

    def __init__(
        self, endpoint_url: str = "", profile: str = "", credentials: tuple[str, str] | None = None
    ) -> None:
        """:raises Refused: if botocore cannot create a client from these arguments."""
        self._client = CloudFrontClient(
            endpoint_url, profile, credentials=credentials, user_agent="keyfront-apply"
        )
        self._watch = CloudWatchClient(
            endpoint_url, profile, credentials=credentials, user_agent="keyfront-apply"
        )
        self._arns: dict[str, str] = {}
        self.made: dict[tuple[str, str], str] = {}
        """IDs of the resources that it has created, by kind and label."""
        self.unseen: list[str] = []
        """Titles of kinds that the API does not list to this caller, as of the last `facts`."""

    @property
    def endpoint(self) -> str:
        return self._client.endpoint

    # ---- reading the current state

    def facts(self, setup: Setup, *, adopt: bool = False) -> Facts:
        """The facts about this account that `plan` needs. Kinds that the set-up does not declare may be missing.

        :raises AccountError: if the API refuses or is unavailable.
        """
        declared = {each.kind for each in setup.desired}
        self.unseen.clear()
        facts: dict[str, tuple[Found, ...]] = {kind: managed_policies(kind) for kind in MANAGED}
        for row in ROWS.values():
            try:
                facts[row.name] = tuple(self._list(row))
            except Refused as error:
                if row.name in declared or error.code not in (_ABSENT, *_HIDDEN):
                    raise
                if error.code in _HIDDEN:
                    self.unseen.append(row.title)
                facts.setdefault(row.name, ())
        wanted = {found.id: found for found in needed(setup, facts, adopt=adopt)}
        tagged = {each.kind for each in setup.desired if each.tags is not None}
        return {
            kind: tuple(
                whole
                for found in there
                if (whole := self._whole(found, kind in tagged) if found.id in wanted else found) is not None
            )
            for kind, there in facts.items()
        }

    def _list(self, row: Row) -> Iterator[Found]:
        if row.name == alarms.KIND:
            for alarm in self._watch.items("DescribeAlarms", "MetricAlarms"):
                name, comment = alarm["AlarmName"], alarm.get("AlarmDescription", "")
                yield Found(kind=row.name, id=name, name=name, comment=comment)
            return
        for item in self._client.pages(f"List{row.plural}", f"{row.name}List"):
            yield self._found(row, item)

    def _found(self, row: Row, item: dict[str, Any]) -> Found:
        inner = item.get(row.name) or item
        config = inner.get(row.config) or inner
        if "ARN" in inner:
            self._arns[inner["Id"]] = inner["ARN"]
        created = inner.get("CreatedTime")
        return Found(
            kind=row.name,
            id=inner["Id"],
            name=config.get("Name") or "",
            comment=config.get(row.comment) or "",
            created=created.timestamp() if isinstance(created, datetime) else 0,
            managed=item.get("Type") == "managed",
            aliases=tuple((inner.get("Aliases") or {}).get("Items") or ()),
            domain_name=inner.get("DomainName") or "",
            status=inner.get("Status") or "",
        )

    def _whole(self, found: Found, with_tags: bool) -> Found | None:
        """Return `found` with its config, or None if it was deleted after it was listed."""
        row = ROWS[found.kind]
        try:
            config, _ = self._config(row, found.id)
            tags = None
            if with_tags and row.tagged:
                listed = self._client.call("ListTagsForResource", Resource=self._arns[found.id])["Tags"]
                tags = {tag["Key"]: tag.get("Value", "") for tag in listed.get("Items") or ()}
        except Refused as error:
            if error.code.startswith("NoSuch"):
                return None
            raise
        return Found(
            kind=found.kind,
            id=found.id,
            name=found.name,
            comment=found.comment,
            created=found.created,
            managed=found.managed,
            config=config,
            tags=tags,
            aliases=found.aliases,
            domain_name=found.domain_name,
            status=found.status,
        )

    def _config(self, row: Row, id_: str) -> tuple[dict[str, Any], str]:
        if row.name == alarms.KIND:
            for alarm in self._watch.items("DescribeAlarms", "MetricAlarms", AlarmNames=[id_]):
                return alarms.config_of(alarm), ""
            raise _NoAlarm(f"there is no alarm {id_}", "NoSuchAlarm")
        answer = self._client.call(f"Get{row.config}", Id=id_)
        return answer[row.config], answer["ETag"]

    # ---- carrying out one step

    def take(self, step: Step, timeout: float) -> str:
        """Carry out `step`, and return the id of its resource.

        :param timeout: seconds to wait where the API makes one wait (before a distribution can be deleted).
        :raises AccountError: if it failed and changed nothing, or if a response was lost and it may have changed
            something.
        """
        row = ROWS[step.kind]
        if row.name == alarms.KIND:
            return self._take_alarm(row, step)
        if step.action == "create":
            return self._create(row, step)
        if step.action == "delete":
            self._delete(row, step, timeout)
            return step.id
        if step.differences == () or any(not each.path.startswith("Tags[") for each in step.differences):
            etag = self._unchanged(row, step)
            params = {row.config: self._with_ids(row, step.config), "Id": step.id, "IfMatch": etag}
            self._if_match(step, f"Update{row.name}", params)
        if step.tags:
            self._client.call("TagResource", Resource=self._arn(step.id), Tags=_tags(step.tags))
        if step.untag:
            self._client.call(
                "UntagResource", Resource=self._arn(step.id), TagKeys={"Items": list(step.untag)}
            )
        return step.id

    def _take_alarm(self, row: Row, step: Step) -> str:
        """CloudWatch has no ETags: the alarm is compared with the plan's right before it is replaced."""
        config = alarms.params(self._with_ids(row, step.config))
        name = str(step.id or config["AlarmName"])
        if step.action == "create":
            with contextlib.suppress(_NoAlarm):
                self._config(row, name)
                raise Refused(f"the alarm {name} did not exist when the plan was made: run this again")
        else:
            try:
                self._unchanged(row, step)
            except _NoAlarm:
                if step.action == "update":
                    raise
                return name
        if step.action == "delete":
            self._watch.call("DeleteAlarms", AlarmNames=[name])
        else:
            self._watch.call("PutMetricAlarm", **config)
        return name

    def _create(self, row: Row, step: Step) -> str:
        config = self._with_ids(row, step.config)
        try:
            if step.tags:
                whole = {row.config: config, "Tags": _tags(step.tags)}
                answer = self._client.call(f"Create{row.name}WithTags", **{f"{row.config}WithTags": whole})
            else:
                answer = self._client.call(f"Create{row.name}", **{row.config: config})
        except Refused as error:
            if error.code == f"{row.name}AlreadyExists":
                raise Refused(
                    f"{error}\nIt did not exist when the plan was made: run this again to see the current state. "
                    f"A {row.title} that has lost the mark in its {row.comment} is found with --adopt.",
                    error.code,
                ) from error
            raise
        made = answer[row.name]
        self.made[row.name, step.label] = made["Id"]
        if "ARN" in made:
            self._arns[made["Id"]] = made["ARN"]
        return str(made["Id"])

    def _delete(self, row: Row, step: Step, timeout: float) -> None:
        try:
            if row.tagged:
                self.wait([step.id], timeout)
            etag = self._unchanged(row, step)
            self._if_match(step, f"Delete{row.name}", {"Id": step.id, "IfMatch": etag})
        except Refused as error:
            if not error.code.startswith("NoSuch"):
                raise

    def _unchanged(self, row: Row, step: Step) -> str:
        """The ETag of the config that the plan was made for."""
        config, etag = self._config(row, step.id)
        if differences(step.before, config):
            raise _changed(step)
        return etag

    def _if_match(self, step: Step, operation: str, params: dict[str, Any]) -> None:
        try:
            self._client.call(operation, **params)
        except Refused as error:
            if error.code in ("PreconditionFailed", "InvalidIfMatchVersion"):
                raise _changed(step) from error
            raise

    def _with_ids(self, row: Row, config: dict[str, Any]) -> dict[str, Any]:
        return _replace(copy.deepcopy(config), self.made)  # type: ignore[no-any-return]

    def _arn(self, id_: str) -> str:
        if id_ not in self._arns:
            self._arns[id_] = self._client.call("GetDistribution", Id=id_)["Distribution"]["ARN"]
        return self._arns[id_]

    # ---- waiting for deployment

    def distributions(self, owner: str) -> list[str]:
        """Return the IDs of the distributions that belong to `owner`."""
        return [found.id for found in self._list(ROWS["Distribution"]) if found.owner == owner]

    def wait(self, distributions: Iterable[str], timeout: float) -> None:
        """Wait until all of them are Deployed.

        :param timeout: seconds.
        :raises AccountError: if they are not by then.
        """
        ends = time.monotonic() + timeout
        for id_ in distributions:
            pause = 0.05  # Keyfront needs a moment, CloudFront minutes
            while self._client.call("GetDistribution", Id=id_)["Distribution"]["Status"] != "Deployed":
                if time.monotonic() + pause > ends:
                    raise Refused(f"the distribution {id_} is not Deployed after {timeout:g} seconds")
                time.sleep(pause)
                pause = min(pause * 1.5, 10)


def _changed(step: Step) -> Refused:
    return Refused(
        f"the {ROWS[step.kind].title} {step.label} ({step.id}) was changed by another caller after the plan was made. "
        "That change was not overwritten: run this again to see the current differences",
        "PreconditionFailed",
    )


def _tags(tags: dict[str, str]) -> dict[str, Any]:
    return {"Items": [{"Key": key, "Value": text} for key, text in tags.items()]}


def _replace(value: Any, ids: dict[tuple[str, str], str]) -> Any:
    if isinstance(value, Named):
        return value.prefix + ids[value.kind, value.label]
    if isinstance(value, dict):
        return {key: _replace(inner, ids) for key, inner in value.items()}
    if isinstance(value, list):
        return [_replace(item, ids) for item in value]
    return value
