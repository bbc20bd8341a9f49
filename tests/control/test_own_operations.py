"""Keyfront's own operations: how a request finds one, what it refuses, and the bounds of what it reads."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keyfront.cloudfront import access, audit_events, rotations
from keyfront.cloudfront.access import Users
from keyfront.cloudfront.audit_events import Events
from keyfront.cloudfront.refusal import Refused
from keyfront.control.audit.search import AuditQuery, newest
from keyfront.control.iam.policy import OWN_ACTIONS
from keyfront.control.own_operations.contract import Found, OwnOperation, find
from keyfront.errors import ApiError
from tests.console.harness import ConsolePlane
from tests.rows import rows


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsolePlane]:
    made = ConsolePlane(tmp_path_factory.mktemp("plane"))
    yield made
    made.close()


GET = OwnOperation("GetThing", "GET", "/keyfront/1/things/{Id}", lambda _: {}, ("Since",))
POST = OwnOperation("ChangeThing", "POST", "/keyfront/1/things/{Id}", lambda _: {}, ("Name",))


@rows(
    ("method", "path", "name"),
    [
        ("GET", "/keyfront/1/things/a%2Fb", "GetThing"),
        ("HEAD", "/keyfront/1/things/a", "GetThing"),
        ("POST", "/keyfront/1/things/a", "ChangeThing"),
        ("DELETE", "/keyfront/1/things/a", ("GET", "POST")),
        ("GET", "/keyfront/1/things", ()),
        ("GET", "/keyfront/1/things/", ()),
        ("GET", "/keyfront/1/things/a/b", ()),
    ],
)
def test_a_path_names_an_operation(method: str, path: str, name: object) -> None:
    found = find([GET, POST], method, path)
    assert (found.operation.name if isinstance(found, Found) else found) == name
    if path.endswith("%2Fb"):
        assert isinstance(found, Found)
        assert found.parameters == {"Id": "a/b"}


@rows(
    ("operation", "query", "body", "expected"),
    [
        (GET, "", b"", {}),
        (GET, "Since=a%20b&X-Amz-Date=1", b"", {"Since": "a b"}),
        (GET, "Since=1&Since=2", b"", "must not be repeated"),
        (GET, "Other=1", b"", "has no parameter Other"),
        (GET, "&".join(f"a{n}=1" for n in range(200)), b"", "cannot be read"),
        (GET, f"Since={'x' * 3000}", b"", "at most 2048"),
        (POST, "Other=1", b'{"Name": "x"}', {"Name": "x"}),
        (POST, "", b'{"Name": true}', {"Name": True}),
        (POST, "", b'{"Name": 1}', "must be a boolean, or a text"),
        (POST, "", b'{"Id": "x"}', "has no parameter Id"),
        (POST, "", b"[]", "must be a JSON object"),
        (POST, "", b'{"Name": "\xff"}', "must be a JSON object"),
    ],
)
def test_parameters_are_checked(operation: OwnOperation, query: str, body: bytes, expected: Any) -> None:
    if isinstance(expected, str):
        with pytest.raises(ApiError, match=expected) as refused:
            operation.further_parameters(query, body)
        assert refused.value.code == "InvalidArgument"
        return
    assert operation.further_parameters(query, body) == expected


async def test_every_operation_has_an_action_that_policies_can_name(plane: ConsolePlane) -> None:
    operations = plane.plane.own_operations
    assert {each.name for each in operations} == set(OWN_ACTIONS)
    assert len({(each.method, each.path) for each in operations}) == len(operations)


async def test_users_are_listed_without_secrets(plane: ConsolePlane) -> None:
    key_id, secret = plane.user("listed", "auditor")
    found = await plane.client().own("GET", access.PATH, Users)
    users = {user.name: user for user in found.users}
    assert users["listed"].policies == ("auditor",)
    assert [each.access_key_id for each in users["listed"].access_keys] == [key_id]
    assert users["default"].policies == ("admin",)
    assert secret not in repr(found)
    assert plane.owner[1] not in repr(found)
    assert {each.name for each in found.policies if each.role} >= {"admin", "auditor", "key-manager", "edge"}


async def test_events_are_found_page_by_page(plane: ConsolePlane) -> None:
    client = plane.client()
    for number in range(60):
        with pytest.raises(Refused):
            await client.call("GetPublicKey", Id=f"K{number}")
    query = {"Event": "GetPublicKey", "Errors": "true"}
    first = await client.own("GET", audit_events.PATH, Events, query)
    assert len(first.items) == audit_events.PAGE
    assert first.items[0].record["requestParameters"]["id"] == "K59"
    second = await client.own("GET", audit_events.PATH, Events, {**query, "Marker": first.next})
    names = [each.record["requestParameters"]["id"] for each in second.items]
    assert names == [f"K{number}" for number in range(9, -1, -1)]
    assert second.next == ""
    nobody = await client.own("GET", audit_events.PATH, Events, {"User": "nobody"})
    assert nobody.items == ()
    for wrong in ({"Since": "soon"}, {"Marker": "x"}, {"Marker": "9" * 30}, {"What": "x"}):
        with pytest.raises(Refused) as refused:
            await client.own("GET", audit_events.PATH, Events, wrong)
        assert refused.value.code == "InvalidArgument"


def test_a_search_looks_at_a_bounded_part_of_the_log(plane: ConsolePlane) -> None:
    with plane.store.read() as transaction:
        head = transaction.audit_head()
    assert head is not None
    assert head.number > 60
    page = newest(plane.store, AuditQuery(user="nobody"), limit=10, window=20)
    assert (page.matches, page.following) == ([], head.number - 19)
    page = newest(plane.store, AuditQuery(user="nobody"), before=15, limit=10, window=20)
    assert (page.matches, page.following) == ([], 0)
    page = newest(plane.store, AuditQuery(until=1.0), limit=10, window=20)
    assert (page.matches, page.following) == ([], 0)
    page = newest(plane.store, AuditQuery(since=time.time() + 60), limit=10, window=20)
    assert (page.matches, page.following) == ([], 0)


async def test_a_rotation_of_a_group_that_does_not_exist_is_refused(plane: ConsolePlane) -> None:
    client = plane.client()
    for path in ("/none", "/none/pause", "/none/stop"):
        method = "GET" if path == "/none" else "POST"
        with pytest.raises(Refused) as refused:
            await client.own(method, f"{rotations.PATH}{path}", dict[str, Any])
        assert refused.value.code == "NoSuchResource"


def test_an_empty_log_has_no_pages(tmp_path: Path) -> None:
    made = ConsolePlane(tmp_path)
    assert newest(made.store, AuditQuery(), limit=10, window=20).matches == []
    made.close()
