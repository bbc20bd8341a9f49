"""Policies: what they grant and do not grant, and which cannot be stored. Tables of cases."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyfront.control.iam import conditions, wildcards
from keyfront.control.iam import policy as iam
from keyfront.control.iam.permissions import Need
from keyfront.control.iam.policy import AccessRequest, Decision
from keyfront.control.iam.roles import DOCUMENTS, ROLES
from keyfront.control.operations.authorization import source_address
from keyfront.errors import ApiError
from tests.rows import rows

ACCOUNT = "123456789012"
ARN = f"arn:aws:cloudfront::{ACCOUNT}"
E1 = f"{ARN}:distribution/E1"
ADA = {
    "aws:sourceip": ("192.0.2.7",),
    "aws:securetransport": ("false",),
    "aws:currenttime": ("2026-11-22T12:00:00Z",),
    "aws:epochtime": ("1795348800",),
    "aws:username": ("ada",),
    "aws:userid": ("AIDA1",),
    "aws:principalarn": (f"arn:aws:iam::{ACCOUNT}:user/ada",),
    "aws:principalaccount": (ACCOUNT,),
    "aws:principaltype": ("User",),
    "aws:requestedregion": ("us-east-1",),
    "aws:useragent": ("Boto3/1.44.5",),
    "aws:resourcetag/Env": ("prod",),
    "aws:resourcetag/Level": ("7",),
}


def statement(**more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": "*", "Resource": "*"} | more


def policy(*statements: dict[str, Any], name: str = "p") -> iam.Policy:
    return iam.parse(name, json.dumps({"Version": "2012-10-17", "Statement": list(statements)}), ACCOUNT)


def decided(
    *statements: dict[str, Any],
    action: str = "cloudfront:UpdateDistribution",
    resource: str = E1,
) -> bool:
    return iam.evaluate([policy(*statements)], AccessRequest(action, resource, ADA)).allowed


# ---- actions and resources


@rows(
    ("member", "given", "action", "speaks"),
    [
        ("Action", "*", "cloudfront:UpdateDistribution", True),
        ("Action", "cloudfront:*", "cloudfront:UpdateDistribution", True),
        ("Action", "cloudfront:UpdateDistribution", "cloudfront:UpdateDistribution", True),
        ("Action", "CloudFront:updatedistribution", "cloudfront:UpdateDistribution", True),
        ("Action", "cloudfront:Update*", "cloudfront:UpdateDistribution", True),
        ("Action", "cloudfront:*Distribution", "cloudfront:UpdateDistribution", True),
        ("Action", "cloudfront:Update?istribution", "cloudfront:UpdateDistribution", True),
        ("Action", "cloudfront:UpdateDistribution", "cloudfront:UpdateDistributionWithStagingConfig", False),
        ("Action", "cloudfront:Get*", "cloudfront:UpdateDistribution", False),
        ("Action", ["cloudfront:Get*", "cloudfront:Update*"], "cloudfront:UpdateDistribution", True),
        ("Action", "s3:*", "cloudfront:UpdateDistribution", False),
        ("NotAction", "cloudfront:Get*", "cloudfront:UpdateDistribution", True),
        ("NotAction", ["s3:*", "cloudfront:update*"], "cloudfront:UpdateDistribution", False),
    ],
)
def test_actions(member: str, given: Any, action: str, speaks: bool) -> None:
    one = statement()
    del one["Action"]
    assert decided(one | {member: given}, action=action) is speaks


@rows(
    ("member", "given", "resource", "speaks"),
    [
        ("Resource", "*", E1, True),
        ("Resource", "*", "*", True),
        ("Resource", E1, E1, True),
        ("Resource", f"{ARN}:distribution/*", E1, True),
        # A resource that does not exist yet.
        ("Resource", f"{ARN}:distribution/*", f"{ARN}:distribution/*", True),
        ("Resource", E1, f"{ARN}:distribution/*", False),
        ("Resource", f"{ARN}:distribution/*", "*", False),  # a list concerns no single resource
        ("Resource", f"{ARN}:distribution/E?", E1, True),
        ("Resource", f"{ARN}:distribution/E?", f"{E1}1", False),
        ("Resource", f"{ARN}:*", E1, True),
        ("Resource", f"{ARN}:distribution/e1", E1, False),
        ("Resource", "arn:aws:cloudfront::*:distribution/E1", E1, True),
        ("Resource", "arn:*:cloudfront:*:*:distribution/E1", E1, True),
        ("Resource", "arn:aws:cloudfront::999999999999:distribution/E1", E1, False),
        ("Resource", "arn:aws:cloudfront::1*:key-group/E1", E1, False),
        ("Resource", "arn:aws:s3:::*", E1, False),
        ("Resource", [f"{ARN}:key-group/*", E1], E1, True),
        ("Resource", f"{ARN}:distribution/${{aws:username}}-*", f"{ARN}:distribution/ada-1", True),
        ("Resource", f"{ARN}:distribution/${{aws:username}}-*", f"{ARN}:distribution/bob-1", False),
        ("Resource", f"{ARN}:distribution/${{aws:UserName}}", f"{ARN}:distribution/ada", True),
        ("Resource", f"{ARN}:distribution/${{aws:RequestTag/x}}", f"{ARN}:distribution/", False),
        ("Resource", f"{ARN}:distribution/${{aws:RequestTag/x, 'E1'}}", E1, True),
        ("Resource", f"{ARN}:distribution/${{*}}", E1, False),
        ("Resource", f"{ARN}:distribution/${{*}}", f"{ARN}:distribution/*", True),
        ("NotResource", E1, E1, False),
        ("NotResource", E1, f"{E1}1", True),
        ("NotResource", E1, "*", True),
        ("NotResource", [f"{ARN}:key-group/*", f"{ARN}:public-key/*"], E1, True),
    ],
)
def test_resources(member: str, given: Any, resource: str, speaks: bool) -> None:
    one = statement()
    del one["Resource"]
    assert decided(one | {member: given}, resource=resource) is speaks


def test_what_a_variable_stands_for_holds_no_wildcards() -> None:
    found = policy(statement(Resource=f"{ARN}:distribution/${{aws:username}}"))
    access = AccessRequest("cloudfront:GetDistribution", E1, {"aws:username": ("*",)})
    assert not iam.evaluate([found], access).allowed


# ---- conditions

CONDITIONS: list[tuple[dict[str, Any], bool]] = [
    ({}, True),
    ({"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}}, True),
    ({"IpAddress": {"AWS:sourceIP": ["10.0.0.0/8", "192.0.2.7"]}}, True),
    ({"IpAddress": {"aws:SourceIp": "192.0.2.9/24"}}, True),
    ({"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}, False),
    ({"IpAddress": {"aws:SourceIp": "::/0"}}, False),
    ({"NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}}, True),
    ({"NotIpAddress": {"aws:SourceIp": ["10.0.0.0/8", "192.0.2.0/24"]}}, False),
    ({"Bool": {"aws:SecureTransport": "false"}}, True),
    ({"Bool": {"aws:SecureTransport": True}}, False),
    ({"BoolIfExists": {"aws:SecureTransport": "True"}}, False),
    ({"StringEquals": {"aws:username": "ada"}}, True),
    ({"StringEquals": {"aws:username": "Ada"}}, False),
    ({"StringEquals": {"aws:username": "a*"}}, False),
    ({"StringEquals": {"aws:username": ["bob", "ada"]}}, True),
    ({"StringNotEquals": {"aws:username": ["bob", "ada"]}}, False),
    ({"StringNotEquals": {"aws:username": ["bob", "eve"]}}, True),
    ({"StringEqualsIgnoreCase": {"aws:username": "ADA"}}, True),
    ({"StringNotEqualsIgnoreCase": {"aws:username": "ADA"}}, False),
    ({"StringEqualsIgnoreCase": {"aws:username": "A*"}}, False),
    ({"StringLike": {"aws:username": "a?a"}}, True),
    ({"StringLike": {"aws:UserAgent": "Boto3/*"}}, True),
    ({"StringNotLike": {"aws:UserAgent": "*oto*"}}, False),
    ({"StringEquals": {"aws:ResourceTag/Env": "prod"}}, True),
    ({"StringEquals": {"aws:ResourceTag/env": "prod"}}, True),  # a key's case counts only if two differ by it
    ({"StringEquals": {"aws:ResourceTag/Env": "Prod"}}, False),
    ({"StringEquals": {"aws:ResourceTag/Owner": "ada"}}, False),
    ({"StringEqualsIfExists": {"aws:ResourceTag/Owner": "ada"}}, True),
    ({"StringNotEquals": {"aws:ResourceTag/Owner": "ada"}}, True),
    ({"StringNotEquals": {"aws:ResourceTag/Env": "dev"}}, True),
    ({"StringEquals": {"aws:RequestTag/Env": "${aws:ResourceTag/Env}"}}, False),
    ({"StringEquals": {"aws:ResourceTag/Env": "${aws:RequestTag/Env, 'prod'}"}}, True),
    ({"StringEquals": {"aws:ResourceTag/Env": "${aws:ResourceTag/Env}"}}, True),
    ({"NumericGreaterThan": {"aws:ResourceTag/Level": 6}}, True),
    ({"NumericGreaterThan": {"aws:ResourceTag/Level": "7"}}, False),
    ({"NumericGreaterThanEquals": {"aws:ResourceTag/Level": "7.0"}}, True),
    ({"NumericLessThan": {"aws:ResourceTag/Level": "7.5"}}, True),
    ({"NumericLessThanEquals": {"aws:ResourceTag/Level": "6"}}, False),
    ({"NumericEquals": {"aws:ResourceTag/Level": "07"}}, True),
    ({"NumericNotEquals": {"aws:ResourceTag/Level": "7"}}, False),
    ({"NumericEquals": {"aws:ResourceTag/Env": "7"}}, False),  # a value that is not a number is not compared
    ({"NumericLessThan": {"aws:EpochTime": 1795348801}}, True),
    ({"DateLessThan": {"aws:CurrentTime": "2026-11-22T12:00:01Z"}}, True),
    ({"DateLessThan": {"aws:CurrentTime": "2026-11-22T12:00:00Z"}}, False),
    ({"DateLessThanEquals": {"aws:CurrentTime": "2026-11-22T13:00:00+01:00"}}, True),
    ({"DateGreaterThan": {"aws:CurrentTime": "2026-11-22"}}, True),
    ({"DateGreaterThanEquals": {"aws:EpochTime": "1795348800"}}, True),
    ({"DateGreaterThan": {"aws:EpochTime": "2026-11-22T12:00:00Z"}}, False),
    ({"DateEquals": {"aws:CurrentTime": 1795348800}}, True),
    ({"DateNotEquals": {"aws:CurrentTime": "2026-11-22T12:00:00"}}, False),
    ({"ArnEquals": {"aws:PrincipalArn": "arn:aws:iam::*:user/ada"}}, True),
    ({"ArnLike": {"aws:PrincipalArn": f"arn:aws:iam::{ACCOUNT}:user/a*"}}, True),
    ({"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:user/bob"}}, False),
    ({"ArnLike": {"aws:PrincipalArn": "*"}}, True),
    ({"ArnNotLike": {"aws:PrincipalArn": "arn:aws:iam::*:user/bob"}}, True),
    ({"ArnNotEquals": {"aws:PrincipalArn": "arn:aws:iam::*:user/*"}}, False),
    ({"Null": {"aws:RequestTag/Env": "true"}}, True),
    ({"Null": {"aws:RequestTag/Env": False}}, False),
    ({"Null": {"aws:ResourceTag/Env": "false"}}, True),
    ({"Null": {"aws:TagKeys": "true"}}, True),
    # all operators and all keys must match
    ({"IpAddress": {"aws:SourceIp": "192.0.2.7"}, "StringEquals": {"aws:username": "ada"}}, True),
    ({"IpAddress": {"aws:SourceIp": "192.0.2.7"}, "StringEquals": {"aws:username": "bob"}}, False),
    ({"StringEquals": {"aws:username": "ada", "aws:userid": "AIDA2"}}, False),
    # sets: without a value, "all" matches and "any" does not
    ({"ForAllValues:StringEquals": {"aws:TagKeys": ["Env"]}}, True),
    ({"ForAnyValue:StringEquals": {"aws:TagKeys": ["Env"]}}, False),
    ({"ForAnyValue:StringNotEquals": {"aws:TagKeys": ["Env"]}}, False),
    ({"ForAnyValue:StringEqualsIfExists": {"aws:TagKeys": ["Env"]}}, True),
    ({"ForAnyValue:StringEquals": {"aws:username": ["ada", "bob"]}}, True),
]  # fmt: skip


@rows(("condition", "holds"), CONDITIONS, ids=[json.dumps(one) for one, _ in CONDITIONS])
def test_conditions(condition: dict[str, Any], holds: bool) -> None:
    assert decided(statement(Condition=condition)) is holds
    # A deny under the same condition denies where the allow allowed.
    assert decided(statement(), statement(Effect="Deny", Condition=condition)) is not holds


@rows(
    ("comparison", "before", "same", "after"),
    [
        ("Equals", False, True, False),
        ("NotEquals", True, False, True),
        ("LessThan", True, False, False),
        ("LessThanEquals", True, True, False),
        ("GreaterThan", False, False, True),
        ("GreaterThanEquals", False, True, True),
    ],
)
def test_comparisons(comparison: str, before: bool, same: bool, after: bool) -> None:
    """A value before the condition's, the same, and after it."""
    for family, key in (("Numeric", "aws:EpochTime"), ("Date", "aws:CurrentTime"), ("Date", "aws:EpochTime")):
        found = policy(statement(Condition={family + comparison: {key: "1795348800"}}))
        for seconds, holds in ((1795348799, before), (1795348800, same), (1795348801, after)):
            request = AccessRequest("cloudfront:GetDistribution", E1, {key.lower(): (str(seconds),)})
            assert iam.evaluate([found], request).allowed is holds


def test_what_is_no_address_is_in_no_network() -> None:
    found = policy(statement(Condition={"IpAddress": {"aws:SourceIp": "0.0.0.0/0"}}))
    request = AccessRequest("cloudfront:GetDistribution", E1, {"aws:sourceip": ("unknown",)})
    assert not iam.evaluate([found], request).allowed


@rows(
    ("operator", "keys", "holds"),
    [
        ("ForAllValues:StringEquals", ("Env",), True),
        ("ForAllValues:StringEquals", ("Env", "Owner"), True),
        ("ForAllValues:StringEquals", ("Env", "Cost"), False),
        ("ForAnyValue:StringEquals", ("Env", "Cost"), True),
        ("ForAnyValue:StringEquals", ("Cost",), False),
        ("ForAllValues:StringNotEquals", ("Cost", "Team"), True),
        ("ForAllValues:StringNotEquals", ("Cost", "Env"), False),
        ("ForAnyValue:StringNotEquals", ("Cost", "Env"), True),
        ("ForAnyValue:StringNotEquals", ("Env",), False),
        ("ForAllValues:StringLike", ("Env",), True),
    ],
)
def test_sets_of_values(operator: str, keys: tuple[str, ...], holds: bool) -> None:
    found = policy(statement(Condition={operator: {"aws:TagKeys": ["Env", "Owner"]}}))
    access = AccessRequest("cloudfront:TagResource", E1, ADA | {"aws:tagkeys": keys})
    assert iam.evaluate([found], access).allowed is holds


def test_two_tags_that_differ_in_case() -> None:
    tags = {"aws:resourcetag/env": ("dev",), "aws:resourcetag/ENV": ("prod",)}
    for key, value, holds in [("env", "dev", True), ("ENV", "prod", True), ("Env", "dev", False)]:
        found = policy(statement(Condition={"StringEquals": {f"aws:ResourceTag/{key}": value}}))
        assert iam.evaluate([found], AccessRequest("cloudfront:GetDistribution", E1, tags)).allowed is holds


# ---- several statements and policies


def test_an_explicit_deny_wins_and_silence_is_no() -> None:
    allow, deny = policy(statement(Sid="yes"), name="a"), policy(statement(Sid="no", Effect="Deny"), name="d")
    other = policy(statement(Action="cloudfront:GetKeyGroup"), name="o")
    access = AccessRequest("cloudfront:UpdateDistribution", E1, ADA)
    cases = {
        (): Decision(False),
        (other,): Decision(False),
        (allow,): Decision(True, "a", "yes"),
        (other, allow): Decision(True, "a", "yes"),
        (allow, deny): Decision(False, "d", "no"),
        (deny, allow): Decision(False, "d", "no"),
        (allow, deny, allow): Decision(False, "d", "no"),
    }
    for policies, decision in cases.items():
        assert iam.evaluate(policies, access) == decision


@pytest.mark.parametrize(
    ("resource", "decision", "message"),
    [
        (E1, Decision(False), f" on resource: {E1} because no identity-based policy allows the cloudfront:X action"),
        ("*", Decision(False), " because no identity-based policy allows the cloudfront:X action"),
        (E1, Decision(False, "p", "s"), f" on resource: {E1} with an explicit deny in an identity-based policy"),
    ],
)  # fmt: skip
def test_what_is_said(resource: str, decision: Decision, message: str) -> None:
    error = iam.denied("arn:aws:iam::1:user/ada", AccessRequest("cloudfront:X", resource, {}), decision)
    assert (error.code, error.status) == ("AccessDenied", 403)
    assert (
        error.message == f"User: arn:aws:iam::1:user/ada is not authorized to perform: cloudfront:X{message}"
    )


# ---- policies that cannot be stored

ALLOW = {"Effect": "Allow", "Action": "cloudfront:GetDistribution", "Resource": "*"}


def bad(**changes: Any) -> str:
    """A document whose only statement is changed accordingly; None removes a member."""
    one = {name: value for name, value in (ALLOW | changes).items() if value is not None}
    return json.dumps({"Version": "2012-10-17", "Statement": [one]})


REFUSED: dict[str, tuple[str, str]] = {
    "no JSON": ("{", "it is not JSON"),
    "nothing": ("", "it is not JSON"),
    "a list": ("[]", "a policy is a JSON object"),
    "a statement that is no list": (json.dumps({"Statement": ALLOW | {"Effect": "a"}}), "Effect must be"),
    "no statement": ('{"Version": "2012-10-17"}', "needs a Statement"),
    "an empty one": ('{"Statement": []}', "needs a Statement"),
    "a text for one": ('{"Statement": ["Allow"]}', "Statement[0] must be an object"),
    "another member": ('{"Statement": [], "Statment": []}', "no member 'Statment'"),
    "another version": ('{"Version": "2012-10-18", "Statement": []}', "Version must be"),
    "a version that is no text": ('{"Version": 2012, "Statement": []}', "Version must be"),
    "an id that is no text": ('{"Id": 1, "Statement": []}', "Id must be a string"),
    "a member twice": ('{"Statement": {"Effect": "Deny", "Effect": "Allow"}}', "'Effect' is repeated"),
    "very deep": ("[" * 5000, "no JSON|nested too deeply"),
    "NaN": ('{"Statement": NaN}', "needs a Statement"),
    "an effect": (bad(Effect="allow"), "Effect must be Allow or Deny"),
    "no effect": (bad(Effect=None), "Effect must be Allow or Deny"),
    "an unhashable effect": (bad(Effect=["Allow"]), "Effect must be Allow or Deny"),
    "a misspelt condition": (bad(Conditions={}), "no member 'Conditions'"),
    "a principal": (bad(Principal="*"), "should not specify a principal"),
    "a Sid": (bad(Sid="a b"), "Sid must be letters and digits"),
    "no action": (bad(Action=None), "needs Action or NotAction"),
    "both": (bad(NotAction="*"), "and not both"),
    "no resource": (bad(Resource=None), "needs Resource or NotResource"),
    "an empty list of actions": (bad(Action=[]), "string or a list of strings"),
    "an action that is no text": (bad(Action=[1]), "string or a list of strings"),
    "an action without a service": (bad(Action="GetDistribution"), "is not an action"),
    "a wildcard for a service": (bad(Action="cloud*:Get*"), "is not an action"),
    "an action that does not exist": (bad(Action="cloudfront:UpdatKeyGroup"), "has no action"),
    "an action that Keyfront does not have": (bad(Action="keyfront:GetKeyGroup"), "Keyfront has no action"),
    "a pattern of none": (bad(Action="cloudfront:Udpate*"), "has no action"),
    "a variable in an action": (bad(Action="cloudfront:${aws:username}"), "is not an action"),
    "a resource that is no ARN": (bad(Resource="E1"), "six parts"),
    "a short ARN": (bad(Resource="arn:aws:cloudfront:*:distribution/E1"), "six parts"),
    "an ARN that begins with a wildcard": (bad(Resource="*:distribution/E1"), "six parts"),
    "a wildcard for a resource's service": (bad(Resource="arn:aws:*::1:distribution/E1"), "without wildcards"),
    "a region": (bad(Resource=f"arn:aws:cloudfront:us-east-1:{ACCOUNT}:distribution/E1"), "have no region"),
    "a type that does not exist": (bad(Resource=f"{ARN}:keygroup/E1"), "no resource type 'keygroup'"),
    "a type's case": (bad(Resource=f"{ARN}:Distribution/E1"), "no resource type 'Distribution'"),
    "an id without a type": (bad(Resource=f"{ARN}:E1"), "no resource type 'E1'"),
    "a type without an id": (bad(Resource=f"{ARN}:distribution"), "no resource type 'distribution'"),
    "an unknown variable": (bad(Resource=f"{ARN}:distribution/${{aws:usrname}}"), "policy variable"),
    "a variable of many values": (bad(Resource=f"{ARN}:distribution/${{aws:TagKeys}}"), "policy variable"),
    "an open variable": (bad(Resource=f"{ARN}:distribution/${{aws:username"), "not closed"),
    "an empty variable": (bad(Resource=f"{ARN}:distribution/${{}}"), "not a policy variable"),
    "a variable in an old document": (
        json.dumps({"Statement": [ALLOW | {"Resource": f"{ARN}:distribution/${{aws:username}}"}]}),
        'need "Version"',
    ),
    "two Sids": (json.dumps({"Statement": [ALLOW | {"Sid": "a"}] * 2}), "must be unique"),
    "a variable in a condition of an old document": (
        json.dumps({"Statement": [ALLOW | {"Condition": {"StringLike": {"aws:username": "${aws:userid}"}}}]}),
        'need "Version"',
    ),
    "a condition that is a list": (bad(Condition=[]), "an object of operators"),
    "an unknown operator": (bad(Condition={"StringEqual": {"aws:username": "a"}}), "this condition operator"),
    "an operator's case": (bad(Condition={"stringEquals": {"aws:username": "a"}}), "this condition operator"),
    "a set of another kind": (bad(Condition={"ForNoValue:StringEquals": {"aws:TagKeys": "a"}}), "ForAllValues or"),
    "NullIfExists": (bad(Condition={"NullIfExists": {"aws:TagKeys": "true"}}), "this condition operator"),
    "BinaryEquals": (bad(Condition={"BinaryEquals": {"aws:username": "YQ=="}}), "this condition operator"),
    "an operator without keys": (bad(Condition={"StringEquals": {}}), "an object of condition keys"),
    "an unknown key": (bad(Condition={"StringEquals": {"aws:SourceIP2": "a"}}), "this condition key"),
    "another service's key": (bad(Condition={"StringEquals": {"s3:prefix": "a"}}), "this condition key"),
    "a key that no call has": (bad(Condition={"Bool": {"aws:MultiFactorAuthPresent": "true"}}), "condition key"),
    "a tag without a key": (bad(Condition={"StringEquals": {"aws:ResourceTag/": "a"}}), "this condition key"),
    "a key under a wrong operator": (bad(Condition={"IpAddress": {"aws:username": "192.0.2.7"}}), "cannot be used"),
    "a date for an address": (bad(Condition={"DateLessThan": {"aws:SourceIp": "2026-01-01"}}), "cannot be used"),
    "many values as one": (bad(Condition={"StringEquals": {"aws:TagKeys": "a"}}), "ForAllValues:StringEquals or"),
    "no value": (bad(Condition={"StringEquals": {"aws:username": []}}), "has no value"),
    "null": (bad(Condition={"StringEquals": {"aws:username": None}}), "a value is a string"),
    "an object": (bad(Condition={"StringEquals": {"aws:username": {"a": 1}}}), "a value is a string"),
    "no address": (bad(Condition={"IpAddress": {"aws:SourceIp": "192.0.2.0/33"}}), "not an IP address"),
    "a wildcard for an address": (bad(Condition={"IpAddress": {"aws:SourceIp": "192.0.2.*"}}), "not an IP address"),
    "no truth": (bad(Condition={"Bool": {"aws:SecureTransport": "yes"}}), "must be true or false"),
    "no number": (bad(Condition={"NumericEquals": {"aws:EpochTime": "NaN"}}), "not a number"),
    "no date": (bad(Condition={"DateLessThan": {"aws:CurrentTime": "tomorrow"}}), "not a date"),
    "a variable for a date": (bad(Condition={"DateLessThan": {"aws:CurrentTime": "${aws:username}"}}), "cannot hold"),
    "no ARN": (bad(Condition={"ArnLike": {"aws:PrincipalArn": "user/ada"}}), "six parts"),
}  # fmt: skip


@rows("name", REFUSED)
def test_documents_that_cannot_be_stored(name: str) -> None:
    text, message = REFUSED[name]
    with pytest.raises(ApiError) as caught:
        iam.parse("p", text, ACCOUNT)
    assert (caught.value.code, caught.value.status) == ("MalformedPolicyDocument", 400)
    assert any(one in caught.value.message for one in message.split("|")), caught.value.message


def test_a_document_that_is_too_long() -> None:
    document = bad(Resource=[f"{ARN}:distribution/E{number:013}" for number in range(120)])
    assert iam.MAX_CHARACTERS < len(document) < 2 * iam.MAX_CHARACTERS
    for text in (document, " " * (iam.MAX_CHARACTERS * 16) + document):
        with pytest.raises(ApiError) as caught:
            iam.parse("p", text, ACCOUNT)
        assert caught.value.code == "LimitExceeded"
    iam.parse("p", document[: document.index(",", 3000)] + "]}]}" + " " * 20_000, ACCOUNT)


def test_what_concerns_nothing_here_is_noted() -> None:
    found = policy(
        statement(Action=["cloudfront:*", "s3:GetObject"], Resource=["*"]),
        statement(Action="acm:ListCertificates", Resource="arn:aws:acm:*:*:certificate/*"),
        statement(Resource=["arn:aws:cloudfront::999999999999:distribution/E1", f"{ARN}:distribution/E1"]),
        statement(Resource=["arn:aws-cn:cloudfront::*:distribution/E1", "arn:aws:cloudfront:*:*:*tion/E1"]),
        statement(
            Resource=[f"{ARN}:${{aws:username}}/x", "arn:aws:cloudfront::${aws:PrincipalAccount}:function/x"]
        ),
    )
    assert [note.partition(":")[0] for note in found.notes] == [
        "Statement[0].Action",
        "Statement[1].Action",
        "Statement[1].Resource",
        "Statement[2].Resource",
        "Statement[3].Resource",
    ]
    assert "aws-cn" in found.notes[4]
    assert "999999999999" in found.notes[3]
    assert policy(statement(Action="cloudfront:ListUsages")).notes == ()
    alarms = statement(
        Action=["cloudwatch:Put*", "cloudwatch:NoSuch*"], Resource="arn:aws:cloudwatch:us-east-1:*:alarm:*"
    )
    (note,) = policy(alarms).notes
    assert "cloudwatch:NoSuch* is no operation of CloudWatch's API" in note


def test_aws_own_managed_policies_are_read() -> None:
    """CloudFrontFullAccess and CloudFrontReadOnlyAccess, as AWS publishes them."""
    full = [
        "acm:ListCertificates",
        "cloudfront:*",
        "cloudfront-keyvaluestore:*",
        "iam:ListServerCertificates",
    ]
    read = [
        "cloudfront:Describe*",
        "cloudfront:Get*",
        "cloudfront:List*",
        "waf:ListWebACLs",
        "wafv2:GetWebACL",
    ]
    assert decided(statement(Sid="cfflistbuckets", Action="s3:ListAllMyBuckets", Resource="arn:aws:s3:::*"),
                   statement(Sid="cffullaccess", Action=full))  # fmt: skip
    assert decided(statement(Action=read), action="cloudfront:GetDistribution")
    assert not decided(statement(Action=read), action="cloudfront:DeleteDistribution")


def test_roles() -> None:
    assert set(DOCUMENTS) == {"admin", "key-manager", "auditor", "edge"}
    cases = {
        "GetDistribution": {"admin", "key-manager", "auditor", "edge"},
        "ListTagsForResource": {"admin", "key-manager", "auditor"},
        "CreatePublicKey": {"admin", "key-manager"},
        "UpdateKeyGroup": {"admin", "key-manager"},
        "DeletePublicKey": {"admin", "key-manager"},
        "UpdateDistribution": {"admin"},
        "CreateInvalidation": {"admin"},
        "TagResource": {"admin"},
    }
    for action, allowed in cases.items():
        access = AccessRequest(f"cloudfront:{action}", "*", ADA)
        assert {name for name, role in ROLES.items() if iam.evaluate([role], access).allowed} == allowed


@rows(
    ("pattern", "text", "expected"),
    [
        ("arn:aws:cloudfront::1?3:distribution/E1", "arn:aws:cloudfront::123:distribution/E1", True),
        ("arn:aws:cloudfront::1?3:distribution/E1", "arn:aws:cloudfront::1:3:distribution/E1", False),
        ("arn:aws:cloudfront::?:distribution/E1", "arn:aws:cloudfront:::distribution/E1", False),
        ("arn:aws:cloudfront::1*:distribution/E1", "arn:aws:cloudfront::1:2:distribution/E1", False),
        ("arn:aws:cloudfront::1:distribution/E?", "arn:aws:cloudfront::1:distribution/E:", True),
        ("arn:aws:cloudfront::1:*", "arn:aws:cloudfront::1:distribution/E:1", True),
    ],
)
def test_a_wildcard_reaches_beyond_a_colon_only_in_the_last_part(
    pattern: str, text: str, expected: bool
) -> None:
    assert wildcards.arn(pattern).matches(text, lambda _: None) is expected


# ---- arbitrary input


@given(st.text("ab*?[]^$.\\\n€", max_size=12), st.text("ab[^$.\\\n€", max_size=12))
@settings(max_examples=300, deadline=None)
def test_a_pattern_means_what_a_plain_glob_means(pattern: str, text: str) -> None:
    if "${" in pattern:
        return
    plain = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    found = wildcards.template(pattern).matches(text, lambda _: None)
    assert found is (re.fullmatch(plain, text, re.DOTALL) is not None)
    if not set("[]") & set(pattern):
        assert found is fnmatch.fnmatchcase(text, pattern)


def test_a_pattern_is_matched_in_little_time() -> None:
    condition = {"StringLike": {"aws:UserAgent": "*a" * 40 + "b"}}
    found = policy(statement(Condition=condition))
    access = AccessRequest("cloudfront:GetDistribution", E1, {"aws:useragent": ("a" * 16_000,)})
    assert not iam.evaluate([found], access).allowed  # with backtracking it would take forever


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["Allow", "Deny", "*", "cloudfront:*", E1, "2012-10-17", "192.0.2.7", "${aws:username}"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["Version", "Statement", "Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition"]
            + [*conditions.OPERATORS, "ForAllValues:StringLike", "aws:SourceIp", "aws:TagKeys", "aws:username"]
        )
        | st.text(max_size=6),
        inner,
        max_size=4,
    ),
    max_leaves=20,
)  # fmt: skip


@given(JSON, st.booleans())
@settings(max_examples=400, deadline=None)
def test_whatever_is_given_is_stored_or_refused_in_order(value: Any, whole: bool) -> None:
    document = value if whole else {"Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"} | value]
                                    if isinstance(value, dict) else value}  # fmt: skip
    with contextlib.suppress(ApiError):
        iam.evaluate(
            [iam.parse("p", json.dumps(document), ACCOUNT)],
            AccessRequest("cloudfront:GetDistribution", E1, ADA),
        )


@rows(
    ("need", "params", "expected"),
    [
        (Need("cloudfront:List"), {}, "*"),
        (Need("cloudfront:Create", "distribution"), {"Id": "E1"}, f"{ARN}:distribution/*"),
        (Need("cloudfront:Get", "distribution", "Id"), {"Id": "E1"}, E1),
        (Need("cloudfront:Get", "distribution", "Id"), {}, f"{ARN}:distribution/"),
        (Need("cloudfront:Get", "distribution", "Id"), {"Id": None}, f"{ARN}:distribution/"),
        (Need("cloudfront:Tag", "", "Resource"), {"Resource": E1}, E1),
    ],
)
def test_the_resource_that_a_call_needs(need: Need, params: dict[str, Any], expected: str) -> None:
    assert need.resource(params, ACCOUNT) == expected


def test_the_name_of_an_unknown_variable_is_cut() -> None:
    found = wildcards.template("${aws:" + "x" * 77 + "}")
    with pytest.raises(ValueError, match=r"variable \$\{aws:x{76}\}$"):
        conditions.checked(found)


@rows(
    ("text", "expected"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::1"),
        ("unix", "unix"),
    ],
)
def test_a_mapped_address_is_compared_as_ipv4(text: str, expected: str) -> None:
    assert source_address(text) == expected
