"""Authorization: every operation checks its caller's policies, by resource, tags, address and time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from keyfront.control.call import Call, Caller
from keyfront.control.iam import permissions
from keyfront.control.iam import policy as iam
from keyfront.control.iam.roles import ROLES
from keyfront.control.operations.registry import OPERATIONS
from keyfront.errors import ApiError
from keyfront.model.kinds import KINDS
from keyfront.model.service import service
from tests.control.harness import ACCOUNT, CALLER, Harness, minimal
from tests.rows import rows

NOW = 1_700_000_000.0


def refusal_of(harness: Harness, caller: Caller, operation: str, **params: Any) -> ApiError | None:
    """The error code that `caller` gets; None for success."""
    harness.calls += 1
    harness.now += 1
    call = Call(operation, params, caller, "192.0.2.7", "tests/1", f"{harness.calls:036}", harness.now)
    try:
        harness.service.run(call)
    except ApiError as error:
        return error
    return None


def denied(harness: Harness, caller: Caller, operation: str, **params: Any) -> str:
    error = refusal_of(harness, caller, operation, **params)
    assert error is not None
    assert (error.code, error.status) == ("AccessDenied", 403)
    return error.message


def holder(*statements: dict[str, Any]) -> Caller:
    document = json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
    return msgspec.structs.replace(CALLER, policies=(iam.parse("p", document, ACCOUNT),))


def allow(*actions: str, resource: Any = "*", condition: dict[str, Any] | None = None) -> dict[str, Any]:
    found = {
        "Effect": "Allow",
        "Action": [f"cloudfront:{action}" for action in actions],
        "Resource": resource,
    }
    return found | ({"Condition": condition} if condition else {})


def filled(operation: str) -> dict[str, Any]:
    """Parameters that fit the operation's shape and name nothing that exists."""

    def value(shape: Any) -> Any:
        match shape.type_name:
            case "structure":
                return {name: value(shape.members[name]) for name in shape.required_members}
            case "list":
                return []
            case "string":
                return shape.enum[0] if shape.enum else "x"
            case "boolean":
                return False
            case _:
                return 1

    shape = service().operations[operation].input
    found: dict[str, Any] = value(shape)
    return found


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    harness = Harness(tmp_path_factory.mktemp("empty"))
    yield harness
    harness.close()


@rows("operation", sorted(OPERATIONS))
def test_every_operation_is_guarded(empty: Harness, operation: str) -> None:
    """No caller may call it without a policy, nor with a policy that allows everything else."""
    nobody = msgspec.structs.replace(CALLER, policies=())
    needs, params = permissions.needs(operation), filled(operation)
    message = denied(empty, nobody, operation, **params)
    assert f"not authorized to perform: cloudfront:{needs[0].action} " in message
    for need in needs:
        all_but = {"Effect": "Allow", "NotAction": f"cloudfront:{need.action}", "Resource": "*"}
        assert f"cloudfront:{need.action} " in denied(empty, holder(all_but), operation, **params)
    error = refusal_of(empty, holder(allow(*(need.action for need in needs))), operation, **params)
    assert error is None or error.code != "AccessDenied"


def test_arns_are_those_of_the_resources() -> None:
    for kind in KINDS.values():
        assert not kind.arn or kind.arn == permissions.type_of(kind.name)
        assert permissions.type_of(kind.name) in iam._TYPES


def test_the_table_of_permissions() -> None:
    """The table names operations of the model, existing actions, and existing members; and every implemented
    operation has a row, except lists about no single resource."""
    for operation, needs in permissions.NEEDS.items():
        members = service().operations[operation].input.members
        for need in needs:
            assert need.action in iam.actions()
            assert not need.member or need.member in members, (operation, need)
    without = {name for name in OPERATIONS if name not in permissions.NEEDS}
    assert {name for name in without if not name.startswith("ListDistributionsBy")} == set()


# As in the Service Authorization Reference; public keys, key groups and monitoring have no ARNs there.
RESOURCES = {
    "CreateDistribution": {"CreateDistribution distribution/*"},
    "CreateDistributionWithTags": {"CreateDistribution distribution/*", "TagResource distribution/*"},
    "GetDistributionConfig": {"GetDistributionConfig distribution/ID"},
    "UpdateDistribution": {"UpdateDistribution distribution/ID"},
    "DeleteDistribution": {"DeleteDistribution distribution/ID"},
    "ListDistributions": {"ListDistributions *"},
    "ListDistributionsByKeyGroup": {"ListDistributionsByKeyGroup *"},
    "CreateInvalidation": {"CreateInvalidation distribution/ID"},
    "GetInvalidation": {"GetInvalidation distribution/ID"},
    "ListInvalidations": {"ListInvalidations distribution/ID"},
    "TagResource": {"TagResource ARN"},
    "UntagResource": {"UntagResource ARN"},
    "ListTagsForResource": {"ListTagsForResource ARN"},
    "UpdateKeyGroup": {"UpdateKeyGroup key-group/ID"},
    "DeletePublicKey": {"DeletePublicKey public-key/ID"},
    "GetPublicKeyConfig": {"GetPublicKeyConfig public-key/ID"},
    "CreatePublicKey": {"CreatePublicKey public-key/*"},
    "ListPublicKeys": {"ListPublicKeys *"},
    "UpdateCachePolicy": {"UpdateCachePolicy cache-policy/ID"},
    "GetOriginRequestPolicy": {"GetOriginRequestPolicy origin-request-policy/ID"},
    "DeleteResponseHeadersPolicy": {"DeleteResponseHeadersPolicy response-headers-policy/ID"},
    "GetOriginAccessControl": {"GetOriginAccessControl origin-access-control/ID"},
    "GetCloudFrontOriginAccessIdentityConfig": {"GetCloudFrontOriginAccessIdentityConfig origin-access-identity/ID"},
    "CopyDistribution": {
        "CopyDistribution distribution/ID", "GetDistribution distribution/ID", "CreateDistribution distribution/*",
    },
    "AssociateAlias": {"AssociateAlias distribution/ID", "UpdateDistribution distribution/ID"},
    "ListConflictingAliases": {"ListConflictingAliases distribution/ID"},
}  # fmt: skip


@rows("operation", RESOURCES)
def test_what_an_operation_needs(operation: str) -> None:
    names = ("Id", "DistributionId", "TargetDistributionId", "PrimaryDistributionId")
    params = dict.fromkeys(names, "ID") | {"Resource": "ARN"}
    found = {
        f"{need.action} {need.resource(params, ACCOUNT).removeprefix(f'arn:aws:cloudfront::{ACCOUNT}:')}"
        for need in permissions.needs(operation)
    }
    assert found == RESOURCES[operation]


def test_by_resource(harness: Harness) -> None:
    one, two = harness.group(harness.key("a"), name="one"), harness.group(harness.key("b"), name="two")
    arn = f"arn:aws:cloudfront::{ACCOUNT}:key-group/{one}"
    caller = holder(allow("GetKeyGroup", "UpdateKeyGroup", "DeleteKeyGroup", resource=arn))
    assert refusal_of(harness, caller, "GetKeyGroup", Id=one) is None
    assert f"on resource: arn:aws:cloudfront::{ACCOUNT}:key-group/{two} because" in denied(
        harness, caller, "GetKeyGroup", Id=two
    )
    denied(harness, caller, "GetKeyGroup", Id="nothing")  # not even whether it exists is revealed
    assert "ListKeyGroups because" in denied(harness, caller, "ListKeyGroups")
    etag = harness.etag("KeyGroup", two)
    denied(harness, caller, "DeleteKeyGroup", Id=two, IfMatch=etag)
    assert harness.etag("KeyGroup", two) == etag
    assert (
        refusal_of(harness, caller, "DeleteKeyGroup", Id=one, IfMatch=harness.etag("KeyGroup", one)) is None
    )


def test_by_tags(harness: Harness) -> None:
    arns = {}
    for name, env in [("one", "prod"), ("two", "dev")]:
        tags = {"Items": [{"Key": "Env", "Value": env}]}
        config = {"DistributionConfig": minimal(name), "Tags": tags}
        made = harness.call("CreateDistributionWithTags", DistributionConfigWithTags=config)["Distribution"]
        arns[env] = (made["Id"], made["ARN"])
    caller = holder(
        allow("GetDistribution", "TagResource", condition={"StringEquals": {"aws:ResourceTag/Env": "dev"}}),
        allow("UntagResource", condition={"ForAllValues:StringEquals": {"aws:TagKeys": ["Team"]}}),
        allow("CreateDistribution", "TagResource", resource=f"arn:aws:cloudfront::{ACCOUNT}:distribution/*",
              condition={"StringEquals": {"aws:RequestTag/Env": ["dev", "test"]},
                         "ForAllValues:StringEquals": {"aws:TagKeys": ["Env", "Team"]}}),
    )  # fmt: skip
    assert refusal_of(harness, caller, "GetDistribution", Id=arns["dev"][0]) is None
    denied(harness, caller, "GetDistribution", Id=arns["prod"][0])
    team = {"Items": [{"Key": "Team", "Value": "a"}]}
    assert refusal_of(harness, caller, "TagResource", Resource=arns["dev"][1], Tags=team) is None
    denied(harness, caller, "TagResource", Resource=arns["prod"][1], Tags=team)
    assert (
        refusal_of(harness, caller, "UntagResource", Resource=arns["dev"][1], TagKeys={"Items": ["Team"]})
        is None
    )
    denied(harness, caller, "UntagResource", Resource=arns["dev"][1], TagKeys={"Items": ["Team", "Env"]})

    def made_with(*tags: tuple[str, str]) -> ApiError | None:
        items = [{"Key": key, "Value": value} for key, value in tags]
        config = {"DistributionConfig": minimal(f"with {tags}"), "Tags": {"Items": items}}
        return refusal_of(harness, caller, "CreateDistributionWithTags", DistributionConfigWithTags=config)

    assert made_with(("Env", "test")) is None
    for given in ([], [("Env", "prod")], [("Env", "dev"), ("Cost", "1")], [("Team", "a")]):
        error = made_with(*given)
        assert error is not None
        assert error.code == "AccessDenied"
    # Once its tag changes, the other caller has access.
    prod = {"Items": [{"Key": "Env", "Value": "prod"}]}
    harness.call("TagResource", Resource=arns["dev"][1], Tags=prod)
    denied(harness, caller, "GetDistribution", Id=arns["dev"][0])


@pytest.mark.parametrize(
    ("source", "allowed"),
    [
        ("192.0.2.7", True),
        ("::ffff:192.0.2.7", True),
        ("192.0.3.7", False),
        ("2001:db8::1", True),
        ("2001:db8:1::1", False),
        ("fe80::1%eth0", False),
        ("", False),
        ("nowhere", False),
    ],
)
def test_by_address(harness: Harness, source: str, allowed: bool) -> None:
    condition = {"IpAddress": {"aws:SourceIp": ["192.0.2.0/24", "2001:db8::/48"]}}
    caller = holder(allow("ListKeyGroups", condition=condition))
    call = Call("ListKeyGroups", {}, caller, source, "", "r", NOW)
    if allowed:
        harness.service.run(call)
    else:
        with pytest.raises(ApiError, match="AccessDenied"):
            harness.service.run(call)


def test_by_tls_and_by_time(harness: Harness) -> None:
    caller = holder(
        allow("ListKeyGroups", condition={"Bool": {"aws:SecureTransport": True}}),
        allow("ListPublicKeys", condition={"DateLessThan": {"aws:CurrentTime": "2023-11-14T22:13:20Z"}}),
    )
    for secure in (False, True):
        call = Call("ListKeyGroups", {}, caller, "192.0.2.7", "", "r", NOW, secure)
        if secure:
            harness.service.run(call)
        else:
            with pytest.raises(ApiError, match="AccessDenied"):
                harness.service.run(call)
    harness.service.run(Call("ListPublicKeys", {}, caller, "", "", "r", NOW - 1))
    with pytest.raises(ApiError, match="AccessDenied"):
        harness.service.run(Call("ListPublicKeys", {}, caller, "", "", "r", NOW))


def test_a_denied_call_is_recorded_and_changes_nothing(harness: Harness) -> None:
    auditor = msgspec.structs.replace(CALLER, policies=(ROLES["auditor"],))
    config = {"Name": "g", "Items": [harness.key()]}
    message = denied(harness, auditor, "CreateKeyGroup", KeyGroupConfig=config)
    assert harness.call("ListKeyGroups")["KeyGroupList"]["Quantity"] == 0
    with harness.store.read() as transaction:
        record = json.loads(transaction.audit()[1].record)
    assert (record["eventName"], record["errorCode"]) == ("CreateKeyGroup", "AccessDenied")
    assert record["errorMessage"] == message
    assert record["requestParameters"]["keyGroupConfig"]["name"] == "g"
