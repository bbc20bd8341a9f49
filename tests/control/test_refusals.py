"""Calls by unknown callers in the audit log: each kind is recorded, and a flood is bounded."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from keyfront.control.audit.records import HIDDEN, Entry
from keyfront.control.audit.refused_calls import (
    BURST,
    KINDS,
    PER_MINUTE,
    WINDOW,
    Refusal,
    RefusalLog,
    Refusals,
    network_of,
)
from keyfront.control.store.store import Store
from keyfront.control.wire.sigv4 import claimed_key
from keyfront.errors import ApiError
from tests.rows import rows
from tests.up import Up

KEY = "AKIAIOSFODNN7EXAMPLE"


def refusal(
    now: float, address: str = "203.0.113.1", code: str = "SignatureDoesNotMatch", key: str = KEY
) -> Refusal:
    return Refusal("GetKeyGroup", ApiError(code, "no", 403), key, address, "curl/8", "r", now)


def read(entries: list[Entry]) -> list[dict[str, Any]]:
    return [json.loads(entry.record) for entry in entries]


def test_the_first_is_told_at_once_and_the_others_together() -> None:
    refusals = Refusals(random.Random(1))
    refusals.add(refusal(1000.0))
    first = read(refusals.due(1001.0))[0]
    assert first["sourceIPAddress"] == "203.0.113.1"
    assert first["userIdentity"] == {"type": "Unknown", "principalId": "", "accessKeyId": KEY}
    assert (first["eventName"], first["errorCode"]) == ("GetKeyGroup", "SignatureDoesNotMatch")
    assert first["additionalEventData"]["count"] == 1
    for second in range(50):
        refusals.add(refusal(1001.0 + second))
        assert refusals.due(1001.0 + second) == []
    (later,) = read(refusals.due(1000.0 + WINDOW))
    assert later["additionalEventData"]["count"] == 50
    assert refusals.due(5000.0) == []


def test_what_differs_is_told_apart() -> None:
    refusals = Refusals(random.Random(1))
    refusals.add(refusal(1.0))
    refusals.add(refusal(1.0, address="203.0.113.2"))
    refusals.add(refusal(1.0, code="InvalidClientTokenId"))
    refusals.add(refusal(1.0, key="AKIAIOSFODNN7EXAMPLF"))
    assert len(refusals.due(2.0)) == 4


def test_a_flood_of_addresses_is_bounded_and_nothing_is_left_uncounted() -> None:
    refusals = Refusals(random.Random(1))
    reported = records = 0
    sent = 20_000
    for n in range(sent):
        now = n / 100  # 200 seconds
        refusals.add(refusal(now, address=f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}"))
        if n % 200 == 0:
            entries = refusals.due(now)
            records += len(entries)
            reported += sum(record["additionalEventData"]["count"] for record in read(entries))
        assert len(refusals._kinds) <= KINDS
    entries = refusals.due(sent / 100, everything=True)
    reported += sum(record["additionalEventData"]["count"] for record in read(entries))
    assert reported == sent
    assert records + len(entries) <= BURST + 200 / 60 * PER_MINUTE + 200 / WINDOW + 2


def test_a_clock_that_is_set_back_ends_nothing_for_ever() -> None:
    refusals = Refusals(random.Random(1))
    refusals.add(refusal(100_000.0))
    assert len(refusals.due(100_001.0)) == 1
    refusals.add(refusal(1000.0))
    assert len(refusals.due(1001.0)) == 1


@pytest.mark.parametrize(
    "sent", ["wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "x" * 5000, "\ud800", "a secret"]
)
def test_what_does_not_look_like_a_key_id_is_hidden(sent: str) -> None:
    refusals = Refusals(random.Random(1))
    refusals.add(refusal(1.0, key=sent))
    (entry,) = refusals.due(1.0)
    assert json.loads(entry.record)["userIdentity"]["accessKeyId"] == HIDDEN
    assert len(entry.record) < 2000


def test_a_record_is_bounded_whatever_was_sent() -> None:
    refusals = Refusals(random.Random(1))
    long = "\u00e4" * 60_000
    refusals.add(Refusal("X", ApiError("C", long, 403), long, long, long, "r", 1.0))
    (entry,) = refusals.due(1.0)
    assert len(entry.record) < 4000


def test_addresses_of_one_network_are_one() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff") != network_of("2001:db8:0:1::1")
    assert network_of("::ffff:192.0.2.1") == network_of("192.0.2.1")
    assert network_of("fe80::1%eth0") == "fe80::/64"


@rows(
    ("headers", "query", "found"),
    [
        ([(b"authorization", b"AWS4-HMAC-SHA256 Credential=AKIAX/2026/us, Signature=x")], "", "AKIAX"),
        ([(b"authorization", b"AWS4-HMAC-SHA256 Signature=x")], "", ""),
        ([(b"authorization", b"Basic dXNlcjpwYXNz")], "", ""),
        ([(b"authorization", b"\xff\xfe")], "", ""),
        ([], "X-Amz-Credential=AKIAX%2F2026", "AKIAX"),
        ([], "X-Amz-Credential", ""),
        ([], "%zz&&=", ""),
        ([], "", ""),
    ],
)
def test_the_key_that_a_request_names(headers: list[tuple[bytes, bytes]], query: str, found: str) -> None:
    assert claimed_key(headers, query) == found


def test_what_cannot_be_written_is_written_later(tmp_path: Path) -> None:
    store = Store(tmp_path / "keyfront.db")
    refusals = Refusals(random.Random(1))
    log = RefusalLog(store, refusals)
    refusals.add(refusal(1.0))
    broken = Store(tmp_path / "other.db")
    with broken.write() as other:
        other.connection.exec_driver_sql("DROP TABLE audit")
    with pytest.raises(ApiError), pytest.MonkeyPatch.context() as patch:
        patch.setattr(log, "_store", broken)
        log.write(2.0)
    broken.close()
    log.write(3.0)
    with store.read() as transaction:
        assert len(transaction.audit()) == 1
    store.close()


def test_over_the_wire(tmp_path: Path) -> None:
    def ask(up: Up, key: str, secret: str) -> int:
        request = AWSRequest("GET", f"{up.endpoint}/2020-05-31/public-key")
        SigV4Auth(Credentials(key, secret), "cloudfront", "us-east-1").add_auth(request)
        return httpx.get(request.url, headers=dict(request.headers), timeout=60, trust_env=False).status_code

    with Up(tmp_path / "data", workers=1) as up:
        for _ in range(20):
            assert ask(up, KEY, "wrong") == 403
        own = next(
            line.split(" = ")[1]
            for line in (up.data / "credentials").read_text().splitlines()
            if line.startswith("aws_access_key_id")
        )
        assert ask(up, own, "wrong") == 403
        assert (
            httpx.get(f"{up.endpoint}/2020-05-31/public-key", timeout=60, trust_env=False).status_code == 403
        )

        def records() -> list[dict[str, Any]]:
            store = Store(up.data / "keyfront.db")
            with store.read() as transaction:
                found = [json.loads(row.record) for row in transaction.audit()]
            store.close()
            return [record for record in found if record["userIdentity"]["type"] == "Unknown"]

        up.until(lambda: len(records()) >= 3, 60)
        assert {record["sourceIPAddress"] for record in records()} == {"127.0.0.1"}
        assert {record["userIdentity"].get("accessKeyId") for record in records()} == {KEY, own, None}
        assert up.stop() == 0
        assert sum(record["additionalEventData"]["count"] for record in records()) == 22


def test_counting_a_refusal_costs_microseconds() -> None:
    refusals = Refusals(random.Random(1))
    one = refusal(1.0)
    best = 1.0
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(1000):
            refusals.add(one)
        best = min(best, time.perf_counter() - began)
    assert best / 1000 < 0.001
