"""GetKeyUse, which CloudFront does not have: signed, authorized and recorded like all calls, and called as the
lifecycle calls it."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.session import Session

from keyfront.cloudfront.key_usage import PATH, fetch, read_answer
from keyfront.control.audit import search as trail
from keyfront.control.identity.sealing import sealer
from keyfront.control.identity.users import UserAdmin
from keyfront.errors import AccountError
from keyfront.fleet.file_feed import FileFeed
from keyfront.fleet.key_counters import KeyCounts
from tests.control.harness import BOTH
from tests.control.plane import ACCOUNT, Plane
from tests.rows import rows

STORES = BOTH


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    with Plane(tmp_path) as made:
        yield made


def session(key_id: str, secret: str) -> Session:
    found = Session()
    found.set_credentials(key_id, secret)
    found.set_config_variable("region", "eu-central-1")
    return found


def request(plane: Plane, method: str, path: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", plane.port, timeout=10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def test_whoever_may_is_told(plane: Plane) -> None:
    empty = fetch(session(*plane.key), plane.endpoint)
    assert empty is not None
    assert empty.items == ()
    now = time.time()
    counts = KeyCounts("a", [("K1", "SHA1", "E1", 3)], [("K1", int(now) + 900, 900.0, int(now) + 900)])
    FileFeed(plane.folder).report("edge-1", 0, at=now, counters=counts)
    found = fetch(session(*plane.key), plane.endpoint + "/")
    assert found is not None
    use = found.of("K1")
    assert use is not None
    assert (use.requests, use.requests_last_day, use.share) == (3, 3, 1.0)
    assert (use.signatures_end, use.longest_lifetime) == (int(now) + 900, 900.0)
    assert {name: each.requests for name, each in use.hashes.items()} == {"SHA1": 3}
    assert found.of("K2") is None
    (record,) = [
        each.record
        for each in trail.search(plane.store, trail.AuditQuery(event="GetKeyUse"), newest_first=True)
    ][:1]
    assert record["eventSource"] == "keyfront"
    assert record["readOnly"] is True
    assert record["userIdentity"]["userName"] == "default"


@pytest.mark.parametrize(
    ("policy", "allowed"),
    [
        ("auditor", True),
        ("key-manager", True),
        ("edge", False),
        ("", False),
        ('{"Statement": {"Effect": "Allow", "Action": "keyfront:GetKeyUse", "Resource": "*"}}', True),
        ('{"Statement": {"Effect": "Allow", "Action": "cloudfront:*", "Resource": "*"}}', False),
        (
            '{"Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"},'
            ' {"Effect": "Deny", "Action": "keyfront:Get*", "Resource": "*"}]}',
            False,
        ),
    ],
)
def test_policies_say_who_may(plane: Plane, policy: str, allowed: bool) -> None:
    register = UserAdmin(
        plane.store, ACCOUNT, lambda: sealer(plane.folder, {}, make=True), by="tests", clock=time.time
    )
    if policy.startswith("{"):
        register.put_policy("own", policy)
    register.create_user("ci", ["own"] if policy.startswith("{") else [policy] if policy else [])
    key, secret, *_ = register.create_key("ci")
    if allowed:
        assert fetch(session(key.id, secret), plane.endpoint) is not None
        return
    with pytest.raises(AccountError, match=r"AccessDenied: .*keyfront:GetKeyUse"):
        fetch(session(key.id, secret), plane.endpoint)
    refused = [each.record for each in trail.search(plane.store, trail.AuditQuery(event="GetKeyUse"))]
    assert [record.get("errorCode") for record in refused] == ["AccessDenied"]


def test_a_wrong_secret_or_none(plane: Plane) -> None:
    with pytest.raises(AccountError, match="SignatureDoesNotMatch"):
        fetch(session(plane.key[0], "x" * 40), plane.endpoint)
    status, headers, body = request(plane, "GET", PATH)
    assert (status, headers["content-type"]) == (403, "application/json")
    assert b'"MissingAuthenticationToken"' in body


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", PATH, 405, b"MethodNotAllowed"),
        ("GET", PATH + "?all=1", 403, b"MissingAuthenticationToken"),
        ("GET", PATH + "/", 404, b"InvalidURI"),
        ("GET", "/keyfront/", 404, b"InvalidURI"),
    ],
)
def test_what_there_is_not(plane: Plane, method: str, path: str, status: int, code: bytes) -> None:
    answered = request(plane, method, path)
    assert answered[0] == status
    assert code in answered[2]
    assert status != 405 or answered[1]["allow"] == "GET"


@rows(
    ("status", "body"),
    [
        (404, b"<ErrorResponse><Error><Code>NoSuchThing</Code></Error></ErrorResponse>"),
        (404, b""),
        (400, b"<Error/>"),
        (403, b'["Error"]'),
        (403, b"\xff"),
    ],
    ids=str,
)
def test_where_there_is_no_such_thing_it_is_not_known(status: int, body: bytes) -> None:
    assert read_answer(status, body) is None


@rows(
    ("status", "body"),
    [
        (200, b"<html>a proxy</html>"),
        (200, b"{}"),
        (200, b"\xff"),
        (502, b"<html>502 Bad Gateway</html>"),
        (503, b'{"Error": {"Code": "ServiceUnavailable"}}'),
        (500, b""),
        (429, b"<Error/>"),
        (408, b""),
        (301, b""),
        (403, b'{"Error": {"Code": "AccessDenied"}}'),
    ],
    ids=str,
)
def test_what_is_no_answer_is_never_taken_for_nothing_known(status: int, body: bytes) -> None:
    with pytest.raises(AccountError, match="the key usage"):
        read_answer(status, body)


@pytest.mark.parametrize(
    "endpoint", ["", "https://cloudfront.amazonaws.com", "https://cloudfront.cn-northwest-1.amazonaws.com.cn"]
)
def test_amazon_is_not_asked(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    assert fetch(session("AKIAEXAMPLE", "secret"), endpoint) is None


def test_nobody_there(plane: Plane) -> None:
    import socket

    with socket.socket() as held:  # bound and not listening: nothing can answer there
        held.bind(("127.0.0.1", 0))
        with pytest.raises(AccountError, match="cannot be queried"):
            fetch(session(*plane.key), f"http://127.0.0.1:{held.getsockname()[1]}")


def test_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nobody(Session):  # type: ignore[misc]
        def get_credentials(self, *_: Any) -> None:
            return None

    with pytest.raises(AccountError, match="no credentials"):
        fetch(Nobody(), "http://127.0.0.1:1")
