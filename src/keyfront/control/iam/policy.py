"""IAM policy documents: parsed strictly, evaluated like IAM. Pure.

A call is allowed if a statement in one of the caller's policies allows it and none denies it. If no statement applies,
it is denied (IAM User Guide, "Policy evaluation logic"). A statement applies to a call if its action, its resource, and
all of its conditions match.

A document is parsed when it is stored, and strictly: an unknown member, operator, condition key, or policy variable, a
CloudFront action that does not exist, a malformed ARN, or a repeated member is refused with MalformedPolicyDocument. So
nothing that its author wrote is ever ignored. Actions and resources of other services than CloudFront and CloudWatch
are accepted, since policies are shared with AWS; they have no effect here, which `Policy.notes` says.
"""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec

from keyfront.control.iam import conditions, wildcards
from keyfront.control.iam.conditions import Condition, RequestContext
from keyfront.control.iam.wildcards import Template
from keyfront.errors import ApiError
from keyfront.model import cloudwatch
from keyfront.model.service import service

MAX_CHARACTERS = 6144
"""Maximum number of characters in a document, without white space: IAM's quota for a managed policy."""

_VERSIONS = ("2012-10-17", "2008-10-17")
_MEMBERS = frozenset({"Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition"})
_SID = re.compile(r"[A-Za-z0-9]*")
_VENDOR = re.compile(r"[a-z0-9-]+")
_TYPES = frozenset(
    {
        "anycast-ip-list",
        "cache-policy",
        "connection-function",
        "connection-group",
        "continuous-deployment-policy",
        "distribution",
        "distribution-tenant",
        "field-level-encryption-config",
        "field-level-encryption-profile",
        "function",
        "key-group",
        "key-value-store",
        "origin-access-control",
        "origin-access-identity",
        "origin-request-policy",
        "public-key",
        "realtime-log-config",
        "response-headers-policy",
        "streaming-distribution",
        "trust-store",
        "vpcorigin",
    }
)
"""CloudFront's resource types, as in ARNs. `public-key` and `key-group` are Keyfront's additions."""
_PERMISSION_ONLY = (
    "AllowVendedLogDeliveryForResource",
    "CreateSavingsPlan",
    "GetSavingsPlan",
    "ListDistributionsByLambdaFunction",
    "ListRateCards",
    "ListSavingsPlans",
    "ListUsages",
    "UpdateSavingsPlan",
)
"""CloudFront's actions that are not operations of its API (Service Authorization Reference)."""
OWN_ACTIONS = (
    "EndSession",
    "GetExplanation",
    "GetKeyUse",
    "GetRequest",
    "GetRotation",
    "GetStatus",
    "GetTraffic",
    "ListRequests",
    "ListRotations",
    "ListSessions",
    "ListSharedLinks",
    "ListUsers",
    "LookupEvents",
    "PauseRotation",
    "ReplaceCompromisedKey",
    "ResumeRotation",
    "RollBackRotation",
    "RotateKeyGroup",
    "StartRotation",
    "StopRotation",
)
"""Keyfront's own actions, with the prefix `keyfront:` (`control/own_operations`)."""


class AccessRequest(msgspec.Struct, frozen=True):
    """An action (`cloudfront:GetDistribution`) on a resource (an ARN; `*` for an action without one)."""

    action: str
    resource: str
    context: RequestContext


class Statement(msgspec.Struct, frozen=True):
    """A statement.

    :param name: its Sid, or its location in the document.
    :param not_action: whether it applies to all actions but `actions`; `not_resource` likewise.
    """

    name: str
    allows: bool
    actions: tuple[Template, ...]
    not_action: bool
    resources: tuple[Template, ...]
    not_resource: bool
    conditions: tuple[Condition, ...]

    def applies_to(self, request: AccessRequest) -> bool:
        """True if action, resource, and all conditions match."""

        def lookup(key: str) -> str | None:
            values = conditions.values_of(request.context, conditions.fold(key))
            return values[0] if values else None

        if any(action.matches(request.action, lookup) for action in self.actions) is self.not_action:
            return False
        if (
            any(resource.matches(request.resource, lookup) for resource in self.resources)
            is self.not_resource
        ):
            return False
        return all(condition.holds(request.context) for condition in self.conditions)


class Policy(msgspec.Struct, frozen=True):
    """A parsed document. `notes` list the parts that have no effect here."""

    name: str
    statements: tuple[Statement, ...]
    notes: tuple[str, ...] = ()


class Decision(msgspec.Struct, frozen=True):
    """The result, with the policy and the statement that decided it; empty if none applied."""

    allowed: bool
    policy: str = ""
    statement: str = ""


def evaluate(policies: Iterable[Policy], request: AccessRequest) -> Decision:
    """Evaluate the policies: an explicit deny wins over an allow; without either, the request is denied."""
    found = Decision(allowed=False)
    for policy in policies:
        for statement in policy.statements:
            if (statement.allows and found.allowed) or not statement.applies_to(request):
                continue
            found = Decision(statement.allows, policy.name, statement.name)
            if not found.allowed:
                return found
    return found


def denied(arn: str, request: AccessRequest, decision: Decision) -> ApiError:
    """The AccessDenied error for the caller `arn`, with IAM's message."""
    resource = "" if request.resource == "*" else f" on resource: {request.resource}"
    because = (
        "with an explicit deny in an identity-based policy"
        if decision.policy
        else f"because no identity-based policy allows the {request.action} action"
    )
    return ApiError(
        "AccessDenied", f"User: {arn} is not authorized to perform: {request.action}{resource} {because}", 403
    )


# ---- documents


def parse(name: str, text: str, account: str) -> Policy:
    """Parse the policy in the JSON `text`.

    :param account: the account that owns all resources, for `Policy.notes`.
    :raises ApiError: LimitExceeded, or MalformedPolicyDocument, which says what is wrong and where.
    """
    if (
        sum(not character.isspace() for character in text[: MAX_CHARACTERS * 16]) > MAX_CHARACTERS
        or len(text) > MAX_CHARACTERS * 16
    ):
        raise ApiError("LimitExceeded", f"A policy document has at most {MAX_CHARACTERS} characters.", 409)
    notes: list[str] = []
    try:
        statements = _document(_json(text), notes, account)
    except ValueError as error:
        raise ApiError("MalformedPolicyDocument", f"The policy is not valid: {error}.", 400) from None
    return Policy(name, statements, tuple(dict.fromkeys(notes)))


def _json(text: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            counts = Counter(name for name, _ in pairs)
            twice = next(name for name, count in counts.items() if count > 1)
            raise ValueError(f"the member {twice[:80]!r} is repeated")
        return found

    try:
        return json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _document(given: Any, notes: list[str], account: str) -> tuple[Statement, ...]:
    if not isinstance(given, dict):
        raise ValueError("a policy is a JSON object")
    if unknown := sorted(given.keys() - {"Version", "Id", "Statement"}):
        raise ValueError(f"a policy has no member {unknown[0][:80]!r}")
    version = given.get("Version", _VERSIONS[-1])
    if version not in _VERSIONS:
        raise ValueError('Version must be "2012-10-17"')
    if not isinstance(given.get("Id", ""), str):
        raise ValueError("Id must be a string")
    statements = given.get("Statement")
    if isinstance(statements, dict):
        statements = [statements]
    if not isinstance(statements, list) or not statements:
        raise ValueError("it needs a Statement")
    found = tuple(
        _statement(statement, f"Statement[{number}]", version == _VERSIONS[0], notes, account)
        for number, statement in enumerate(statements)
    )
    sids = [statement["Sid"] for statement in statements if statement.get("Sid")]
    if len(set(sids)) < len(sids):
        raise ValueError("statement IDs (Sid) in a policy must be unique")
    return found


def _statement(given: Any, where: str, variables: bool, notes: list[str], account: str) -> Statement:
    if not isinstance(given, dict):
        raise ValueError(f"{where} must be an object")
    for name in given:
        if name in {"Principal", "NotPrincipal"}:
            raise ValueError(f"{where}: the policy of a user should not specify a principal")
        if name not in _MEMBERS:
            raise ValueError(f"{where} has no member {name[:80]!r}")
    sid = given.get("Sid", "")
    if not isinstance(sid, str) or not _SID.fullmatch(sid):
        raise ValueError(f"{where}.Sid must be letters and digits")
    if given.get("Effect") not in ("Allow", "Deny"):
        raise ValueError(f"{where}.Effect must be Allow or Deny")
    action, actions = _either(given, "Action", where)
    resource, resources = _either(given, "Resource", where)
    return Statement(
        name=sid or where,
        allows=given["Effect"] == "Allow",
        actions=tuple(_action(text, f"{where}.{action}", notes) for text in actions),
        not_action=action == "NotAction",
        resources=tuple(
            _resource(text, f"{where}.{resource}", variables, notes, account) for text in resources
        ),
        not_resource=resource == "NotResource",
        conditions=tuple(conditions.parse(given.get("Condition", {}), f"{where}.Condition", variables)),
    )


def _either(given: dict[str, Any], name: str, where: str) -> tuple[str, list[str]]:
    """Which of `name` and `Not<name>` a statement has, and its texts."""
    names = [one for one in (name, f"Not{name}") if one in given]
    if len(names) != 1:
        raise ValueError(f"{where} needs {name} or Not{name}, and not both")
    found = given[names[0]]
    texts = found if isinstance(found, list) else [found]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{where}.{names[0]} must be a string or a list of strings")
    return names[0], texts


def _action(text: str, where: str, notes: list[str]) -> Template:
    if text == "*":
        return wildcards.template(text)
    vendor, colon, name = text.partition(":")
    if not colon or not _VENDOR.fullmatch(vendor.lower()) or not re.fullmatch(r"[A-Za-z0-9*?]+", name):
        raise ValueError(
            f"{where}: {text[:80]!r} is not an action: write cloudfront:CreateInvalidation, or *"
        )
    found = wildcards.template(text, ignore_case=True)
    if vendor.lower() == "keyfront":
        if not any(found.matches(f"keyfront:{known}", _nothing) for known in OWN_ACTIONS):
            raise ValueError(f"{where}: Keyfront has no action {text[:80]!r}")
    elif vendor.lower() == "cloudwatch":
        if not any(found.matches(f"cloudwatch:{known}", _nothing) for known in cloudwatch.api().operations):
            notes.append(f"{where}: {text} is no operation of CloudWatch's API and has no effect here")
    elif vendor.lower() != "cloudfront":
        notes.append(f"{where}: {text} belongs to another service and has no effect here")
    elif not any(found.matches(f"cloudfront:{known}", _nothing) for known in actions()):
        raise ValueError(f"{where}: CloudFront has no action {text[:80]!r}")
    return found


@functools.cache
def actions() -> tuple[str, ...]:
    """CloudFront's actions, without the prefix."""
    return (*service().operations, *_PERMISSION_ONLY)


def _resource(text: str, where: str, variables: bool, notes: list[str], account: str) -> Template:
    if text == "*":
        return wildcards.template(text)
    if "${" in text and not variables:
        raise ValueError(f'{where}: policy variables need "Version": "2012-10-17"')
    try:
        found = conditions.checked(wildcards.arn(text))
    except ValueError as error:
        raise ValueError(f"{where}: {text[:80]!r}: {error}") from None
    partition, service_, region, owner, resource = _parts(text)
    if service_ == "cloudwatch":
        return found
    if service_ != "cloudfront":
        notes.append(f"{where}: {text} belongs to another service and has no effect here")
        return found
    type_, slash, _ = resource.partition("/")
    if region.strip("*"):
        raise ValueError(
            f"{where}: {text[:80]!r}: CloudFront's ARNs have no region: arn:aws:cloudfront::ACCOUNT:…"
        )
    if not set("*?$") & set(type_) and not (slash and type_ in _TYPES):
        raise ValueError(
            f"{where}: {text[:80]!r}: CloudFront has no resource type {type_[:40]!r}: write distribution/ID"
        )
    ours = wildcards.template(f"{partition}:{owner}")
    if "$" not in partition + owner and not ours.matches(f"aws:{account}", _nothing):
        notes.append(f"{where}: {text} is not in account {account}, which owns everything here")
    return found


def _parts(text: str) -> list[str]:
    """The parts of an ARN after the first. `$` replaces each variable, as variables may contain colons."""
    return wildcards.VARIABLE.sub("$", text).split(":", 5)[1:]


_nothing: wildcards.Lookup = dict[str, str]().get
"""Without any variable."""
