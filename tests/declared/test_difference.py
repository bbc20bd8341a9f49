"""What counts as a difference between two configs, and how it is reported."""

from __future__ import annotations

from typing import Any

import pytest

from keyfront.declared.diff import Difference, differences


def counted(*items: Any, **more: Any) -> dict[str, Any]:
    return {"Quantity": len(items), **({"Items": list(items)} if items else {}), **more}


APP, SHOP = {"Id": "app", "DomainName": "a"}, {"Id": "shop", "DomainName": "s"}
DOCS, FILMS = {"PathPattern": "/docs/*", "MinTTL": 0}, {"PathPattern": "/films/*", "MinTTL": 0}

SAME: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "equal": ({"A": 1}, {"A": 1}),
    "nothing and empty": (
        {},
        {"A": "", "B": counted(), "C": False, "D": 0, "E": {"F": counted()}, "G": None},
    ),
    "empty and nothing": ({"A": "", "B": counted()}, {}),
    "an order that means nothing": ({"Aliases": counted("a", "b")}, {"Aliases": counted("b", "a")}),
    "plain lists": ({"Items": ["k", "l"]}, {"Items": ["l", "k"]}),
    "named items in another order": ({"Origins": counted(APP, SHOP)}, {"Origins": counted(SHOP, APP)}),
    "a default not always returned": ({"ConnectionMode": "direct"}, {}),
    "one of them deep down": ({"X": {"IpAddressType": "ipv4"}}, {"X": {}}),
}


@pytest.mark.parametrize("case", SAME)
def test_no_difference(case: str) -> None:
    before, after = SAME[case]
    assert differences(before, after) == []
    assert differences(after, before) == []


def same(path: str, before: Any, after: Any) -> list[tuple[str, Any, Any]]:
    return [(path, before, after)]


DIFFERENT: dict[str, tuple[dict[str, Any], dict[str, Any], list[tuple[str, Any, Any]]]] = {
    "a value": ({"A": 1}, {"A": 2}, same("A", 1, 2)),
    "false is not true": ({"A": True}, {"A": False}, same("A", True, False)),
    "deep": ({"A": {"B": {"C": "x"}}}, {"A": {"B": {"C": "y"}}}, same("A.B.C", "x", "y")),
    "comes": ({}, {"A": {"B": 1, "C": ""}}, same("A.B", None, 1)),
    "goes": ({"A": {"B": 1}}, {}, same("A.B", 1, None)),
    "a list": ({"Aliases": counted("a")}, {"Aliases": counted("b")}, same("Aliases", ["a"], ["b"])),
    "a list that comes": ({"Aliases": counted()}, {"Aliases": counted("b")}, same("Aliases", [], ["b"])),
    "a list of a member that comes": ({}, {"Aliases": counted("b")}, same("Aliases", None, ["b"])),
    "a list beside more": (
        {"Geo": counted("NO", RestrictionType="whitelist")},
        {"Geo": counted("SE", RestrictionType="whitelist")},
        same("Geo.Items", ["NO"], ["SE"]),
    ),
    "a list with its switch": (
        {"TrustedKeyGroups": counted("g", Enabled=True)},
        {"TrustedKeyGroups": counted(Enabled=False)},
        [("TrustedKeyGroups.Enabled", True, False), ("TrustedKeyGroups", ["g"], [])],
    ),
    "within a named item": (
        {"Origins": counted(APP, SHOP)},
        {"Origins": counted({**SHOP, "DomainName": "t"}, APP)},
        same("Origins[shop].DomainName", "s", "t"),
    ),
    "an item goes, in one line": (
        {"Origins": counted(APP, SHOP)},
        {"Origins": counted(APP)},
        same("Origins[shop]", SHOP, None),
    ),
    "an item comes": (
        {"Origins": counted(APP)},
        {"Origins": counted(APP, SHOP)},
        [("Origins[shop].Id", None, "shop"), ("Origins[shop].DomainName", None, "s")],
    ),
    "the order of behaviors": (
        {"CacheBehaviors": counted(DOCS, FILMS)},
        {"CacheBehaviors": counted(FILMS, DOCS)},
        same("CacheBehaviors: order", ["/docs/*", "/films/*"], ["/films/*", "/docs/*"]),
    ),
    "the primary of a group": (
        {"OriginGroups": counted({"Id": "g", "Members": counted({"OriginId": "a"}, {"OriginId": "b"})})},
        {"OriginGroups": counted({"Id": "g", "Members": counted({"OriginId": "b"}, {"OriginId": "a"})})},
        same("OriginGroups[g].Members", [{"OriginId": "a"}, {"OriginId": "b"}], [{"OriginId": "b"}, {"OriginId": "a"}]),
    ),
    "items that bear one name": (
        {"H": counted({"HeaderName": "X", "HeaderValue": "1"}, {"HeaderName": "X", "HeaderValue": "2"})},
        {"H": counted({"HeaderName": "X", "HeaderValue": "1"})},
        same(
            "H",
            [{"HeaderName": "X", "HeaderValue": "1"}, {"HeaderName": "X", "HeaderValue": "2"}],
            [{"HeaderName": "X", "HeaderValue": "1"}],
        ),
    ),
    "a code by its number": (
        {"E": counted({"ErrorCode": 404, "ErrorCachingMinTTL": 10})},
        {"E": counted({"ErrorCode": 404, "ErrorCachingMinTTL": 0})},
        same("E[404].ErrorCachingMinTTL", 10, 0),
    ),
    "not the default": ({"ConnectionMode": "tenant-only"}, {}, same("ConnectionMode", "tenant-only", None)),
    "one type and another": ({"A": "1"}, {"A": {"B": 1}}, same("A", "1", {"B": 1})),
}  # fmt: skip


@pytest.mark.parametrize("case", DIFFERENT)
def test_a_difference(case: str) -> None:
    before, after, expected = DIFFERENT[case]
    assert differences(before, after) == [Difference(*each) for each in expected]
