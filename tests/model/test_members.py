"""Every member of a DistributionConfig, according to the API's own model, is obeyed, refused, or listed as having no
effect."""

from __future__ import annotations

import copy
import gzip
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore
import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel

from keyfront.model import service as service_module
from keyfront.model.service import API_VERSION, read_description, service
from keyfront.model.shapes import Shape
from keyfront.model.supported_members import HARMLESS, OBEYED, REFUSED, WITHOUT_EFFECT, canonical, unobeyed
from tests.model.configs import behavior, config, legacy, many, origin, problems
from tests.rows import rows

MODEL = ServiceModel(Loader().load_service_model("cloudfront", "service-2"))


def leaves(shape: Shape, at: str = "") -> Iterator[str]:
    if shape.type_name == "list":
        yield from leaves(shape.member, f"{at}[]")
    elif shape.type_name == "structure":
        for name, member in shape.members.items():
            if name == "Quantity" and "Items" in shape.members:
                continue
            if name == "Items":
                yield from leaves(member, at)
            else:
                yield from leaves(member, f"{at}.{name}" if at else name)
    else:
        yield at


CONFIG = service().operations["CreateDistribution"].input.members["DistributionConfig"]
MEMBERS = sorted({canonical(path) for path in leaves(CONFIG)})
READ_UP_TO = (1, 44, 8)
"""The last botocore whose members were sorted into the tables. What a later one adds is refused by name."""
LATER = tuple(int(part) for part in botocore.__version__.split(".")[:3]) > READ_UP_TO


def covering(path: str) -> list[str]:
    """The table entries that concern `path`: its own, or one above it."""
    return [
        entry
        for table in (OBEYED, REFUSED, WITHOUT_EFFECT)
        for entry in table
        if path == entry or path.startswith((f"{entry}.", f"{entry}["))
        # AllowedMethods[] are methods, AllowedMethods.CachedMethods is something else
    ]


@rows("path", MEMBERS)
def test_each_member_stands_in_exactly_one_table(path: str) -> None:
    assert len(covering(path)) == 1 or (LATER and not covering(path)), covering(path)


def test_the_tables_name_nothing_else() -> None:
    named = {entry for path in MEMBERS for entry in covering(path)}
    assert (OBEYED | REFUSED.keys() | WITHOUT_EFFECT.keys()) - named == set()
    assert HARMLESS.keys() <= REFUSED.keys()


def test_the_codes_of_refusals_are_errors_of_the_operation() -> None:
    for operation in ("CreateDistribution", "UpdateDistribution"):
        errors = {error.name for error in MODEL.operation_model(operation).error_shapes}
        assert {code for code, _ in REFUSED.values()} <= errors


def test_an_older_description_is_completed_to_the_newest() -> None:
    """The installed botocore's, without what the oldest supported one lacks, is again the installed one's."""
    shapes = Loader().load_service_model("cloudfront", "service-2")["shapes"]
    newest = copy.deepcopy(shapes)
    service_module.add_later_members(newest)
    service_module.add_later_members(newest)  # a second time adds nothing
    oldest = copy.deepcopy(shapes)
    for name, later in service_module.LATER.items():
        if "type" in later:
            oldest.pop(name, None)
            continue
        shape = oldest[name]
        shape["members"] = {
            m: s for m, s in shape.get("members", {}).items() if m not in later.get("members", {})
        }
        shape["enum"] = [value for value in shape.get("enum", ()) if value not in later.get("enum", ())]
    service_module.add_later_members(oldest)
    for name, later in service_module.LATER.items():
        referred = {reference["shape"] for reference in later.get("members", {}).values()}
        assert referred <= service_module.LATER.keys() | {"string", "boolean"}, name
        assert described(oldest[name]) == described(newest[name]), name


def described(shape: dict[str, Any]) -> dict[str, Any]:
    """A shape of a description without prose, in no order."""
    members = {name: reference["shape"] for name, reference in shape.get("members", {}).items()}
    return {"members": members, "enum": sorted(shape.get("enum", ())), "required": shape.get("required", [])}


def custom(**members: Any) -> dict[str, Any]:
    ports = {"HTTPPort": 80, "HTTPSPort": 443, "OriginProtocolPolicy": "https-only"}
    return {"Origins": many(origin(CustomOriginConfig={**ports, **members}))}


REFUSED_EXAMPLES: list[tuple[str, dict[str, Any]]] = [
    ("Origins[].CustomOriginConfig.OriginHttpVersion", custom(OriginHttpVersion="http2")),
    (
        "Origins[].CustomOriginConfig.OriginMtlsConfig",
        custom(OriginMtlsConfig={"ClientCertificateArn": "arn:x"}),
    ),
    ("Origins[].VpcOriginConfig", {"Origins": many(origin(VpcOriginConfig={"VpcOriginId": "vo_1"}))}),
    (
        "OriginGroups[].SelectionCriteria",
        {
            "Origins": many(origin(), origin("b")),
            "OriginGroups": many(
                {
                    "Id": "g",
                    "FailoverCriteria": {"StatusCodes": many(500)},
                    "Members": many({"OriginId": "app"}, {"OriginId": "b"}),
                    "SelectionCriteria": "media-quality-based",
                }
            ),
        },
    ),
    (
        "CacheBehavior.TrustedSigners",
        {"DefaultCacheBehavior": behavior(TrustedSigners={"Enabled": True, **many("self")})},
    ),
    ("CacheBehavior.SmoothStreaming", {"DefaultCacheBehavior": behavior(SmoothStreaming=True)}),
    (
        "CacheBehavior.LambdaFunctionAssociations",
        {
            "DefaultCacheBehavior": behavior(
                LambdaFunctionAssociations=many({"LambdaFunctionARN": "arn:x", "EventType": "viewer-request"})
            )
        },
    ),
    (
        "CacheBehavior.FunctionAssociations",
        {
            "DefaultCacheBehavior": behavior(
                FunctionAssociations=many({"FunctionARN": "arn:x", "EventType": "viewer-request"})
            )
        },
    ),
    ("CacheBehavior.FieldLevelEncryptionId", {"DefaultCacheBehavior": behavior(FieldLevelEncryptionId="C1")}),
    ("CacheBehavior.RealtimeLogConfigArn", {"DefaultCacheBehavior": behavior(RealtimeLogConfigArn="arn:x")}),
    ("CacheBehavior.GrpcConfig", {"DefaultCacheBehavior": behavior(GrpcConfig={"Enabled": True})}),
    ("WebACLId", {"WebACLId": "arn:aws:wafv2:x"}),
    ("ContinuousDeploymentPolicyId", {"ContinuousDeploymentPolicyId": "x"}),
    ("AnycastIpListId", {"AnycastIpListId": "x"}),
    (
        "TenantConfig",
        {
            "TenantConfig": {
                "ParameterDefinitions": [{"Name": "a", "Definition": {"StringSchema": {"Required": True}}}]
            }
        },
    ),
    ("ConnectionMode", {"ConnectionMode": "tenant-only"}),
    (
        "ViewerMtlsConfig",
        {"ViewerMtlsConfig": {"Mode": "required", "TrustStoreConfig": {"TrustStoreId": "t"}}},
    ),
    ("ConnectionFunctionAssociation", {"ConnectionFunctionAssociation": {"Id": "x"}}),
]


def test_each_refusal_has_an_example() -> None:
    assert {path for path, _ in REFUSED_EXAMPLES} == REFUSED.keys()


@rows(("path", "members"), REFUSED_EXAMPLES, ids=[path for path, _ in REFUSED_EXAMPLES])
def test_refused(path: str, members: dict[str, Any]) -> None:
    (found,) = unobeyed(config(**members))
    code, message = REFUSED[path]
    assert found.code == code
    assert found.message.startswith(message)
    assert found.status == MODEL.shape_for(code).metadata["error"]["httpStatusCode"]
    assert found in problems(**members)


def test_values_that_ask_for_nothing_pass() -> None:
    one = behavior(
        TrustedSigners={"Enabled": False, "Quantity": 0},
        SmoothStreaming=False,
        LambdaFunctionAssociations=many(),
        FunctionAssociations={"Quantity": 0, "Items": []},
        FieldLevelEncryptionId="",
        RealtimeLogConfigArn="",
        GrpcConfig={"Enabled": False},
    )
    whole = config(
        DefaultCacheBehavior=one,
        CacheBehaviors=many({**one, "PathPattern": "/a"}),
        WebACLId="",
        ContinuousDeploymentPolicyId="",
        Staging=False,
        AnycastIpListId="",
        TenantConfig={"ParameterDefinitions": []},
        ConnectionMode="direct",
        ViewerMtlsConfig={},
        Origins=many(origin(OriginAccessControlId="", OriginShield={"Enabled": False})),
    )
    assert unobeyed(whole) == []
    assert unobeyed(config(**custom(OriginHttpVersion="http1.1"))) == []


VALUES = {"QueryString": False, "Cookies": {"Forward": "none"}}

UNKNOWN: list[tuple[str, dict[str, Any]]] = [
    ("Nonsense", {"Nonsense": 1}),
    ("Nonsense", {"Nonsense": {"Enabled": False}}),
    ("Origins[].Nonsense", {"Origins": many(origin(Nonsense=""))}),
    ("Origins[].Id", {"Origins": many(origin(Id={"x": 1}))}),
    (
        "DefaultCacheBehavior.ForwardedValues.Nonsense",
        {"DefaultCacheBehavior": legacy(ForwardedValues={**VALUES, "Nonsense": True})},
    ),
    ("CacheBehaviors[].nonsense", {"CacheBehaviors": many(behavior(PathPattern="/a", nonsense={}))}),
]


@rows(("path", "members"), UNKNOWN)
def test_a_member_that_nobody_knows_is_refused(path: str, members: dict[str, Any]) -> None:
    found = problems(**members)
    assert any(one.code == "InvalidArgument" and path in one.message for one in found), found


QUANTITIES: list[dict[str, Any]] = [
    {"Aliases": {"Quantity": 0, "Items": ["a.example.com"]}},
    {"Aliases": {"Quantity": 2, "Items": ["a.example.com"]}},
    {"Aliases": {"Quantity": 1}},
    {"Origins": {"Quantity": 2, "Items": [origin()]}},
    {"DefaultCacheBehavior": behavior(TrustedKeyGroups={"Enabled": False, "Quantity": 1})},
    {"DefaultCacheBehavior": behavior(AllowedMethods={"Quantity": 3, "Items": ["GET", "HEAD"]})},
    {"Restrictions": {"GeoRestriction": {"RestrictionType": "none", "Quantity": 3}}},
]


@rows("members", QUANTITIES)
def test_a_quantity_must_be_the_number_of_items(members: dict[str, Any]) -> None:
    assert [one.code for one in unobeyed(config(**members))] == ["InconsistentQuantities"]


def test_the_documentation_lists_what_is_not_obeyed() -> None:
    page = (Path(__file__).parent.parent.parent / "docs/reference/distribution-config.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    expected = [f"| `{path}` | {code} | {message}. |" for path, (code, message) in REFUSED.items()]
    expected += [f"| `{path}` | {why} |" for path, why in WITHOUT_EFFECT.items()]
    assert rows == expected


def test_the_description_is_read_from_the_installed_botocore(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Distributions of Linux unpack the file that botocore's own package compresses."""
    monkeypatch.delitem(sys.modules, "botocore", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    importlib.invalidate_caches()
    with pytest.raises(ModuleNotFoundError, match="botocore"):
        read_description("cloudfront", API_VERSION)
    folder = tmp_path / "botocore" / "data" / "cloudfront" / API_VERSION
    folder.mkdir(parents=True)
    (tmp_path / "botocore" / "__init__.py").touch()
    importlib.invalidate_caches()
    with pytest.raises(LookupError, match="this botocore has no model of CloudFront"):
        read_description("cloudfront", API_VERSION)
    (folder / "service-2.json").write_bytes(b'{"operations": {}}')
    assert read_description("cloudfront", API_VERSION) == {"operations": {}}
    (folder / "service-2.json.gz").write_bytes(gzip.compress(b'{"shapes": {}}'))
    assert read_description("cloudfront", API_VERSION) == {"shapes": {}}
