"""The audit log: it contains every call and no secret, and tampering is detected."""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from keyfront.control.audit import records as audit
from keyfront.control.audit.writer import AuditWriter
from keyfront.control.call import Call
from keyfront.control.store.rows import AuditRow
from keyfront.control.store.store import Store
from keyfront.control.store.transaction import Transaction
from tests.control.harness import ACCOUNT, CALLER, Harness, many, minimal


def records(harness: Harness) -> list[dict[str, Any]]:
    with harness.store.read() as transaction:
        return [json.loads(row.record) for row in transaction.audit()]


def test_a_record_has_cloudtrails_shape(harness: Harness) -> None:
    id_ = harness.key("first")
    (record,) = records(harness)
    assert record["requestParameters"]["publicKeyConfig"]["name"] == "first"
    assert record["requestParameters"]["publicKeyConfig"]["encodedKey"].startswith("-----BEGIN PUBLIC KEY")
    assert record | {"requestParameters": 0, "eventID": 0, "responseElements": 0} == {
        "eventVersion": "1.09",
        "userIdentity": {
            "type": "IAMUser",
            "principalId": "AIDAEXAMPLE",
            "arn": f"arn:aws:iam::{ACCOUNT}:user/ada",
            "accountId": ACCOUNT,
            "accessKeyId": "AKIAEXAMPLE",
            "userName": "ada",
        },
        "eventTime": "2023-11-14T22:13:21Z",
        "eventSource": "cloudfront.amazonaws.com",
        "eventName": "CreatePublicKey",
        "awsRegion": "us-east-1",
        "sourceIPAddress": "192.0.2.7",
        "userAgent": "tests/1",
        "requestParameters": 0,
        "responseElements": 0,
        "requestID": "00000000-0000-4000-8000-000000000001",
        "eventID": 0,
        "readOnly": False,
        "eventType": "AwsApiCall",
        "apiVersion": "2020_05_31",
        "managementEvent": True,
        "recipientAccountId": ACCOUNT,
        "eventCategory": "Management",
    }
    elements = record["responseElements"]
    assert elements == {
        "publicKey": {"id": id_},
        "location": f"/2020-05-31/public-key/{id_}",
        "eTag": harness.etag("PublicKey", id_),
    }


def test_every_call_is_recorded_reads_and_refusals_too(harness: Harness) -> None:
    id_ = harness.key()
    harness.call("GetPublicKey", Id=id_)
    harness.refused("GetPublicKey", Id="KNOTHING")
    harness.refused("DeletePublicKey", Id=id_)
    harness.refused("CreateFunction", Name="f")
    found = [
        (record["eventName"], record.get("errorCode"), record["readOnly"]) for record in records(harness)
    ]
    assert found == [
        ("CreatePublicKey", None, False),
        ("GetPublicKey", None, True),
        ("GetPublicKey", "NoSuchPublicKey", True),
        ("DeletePublicKey", "InvalidIfMatchVersion", False),
        ("CreateFunction", "UnsupportedOperation", False),
    ]
    with sqlite3.connect(harness.folder / "keyfront.db") as connection:
        columns = connection.execute("SELECT name, principal, resource, error FROM audit").fetchall()
    assert columns[0] == ("CreatePublicKey", f"arn:aws:iam::{ACCOUNT}:user/ada", id_, "")
    assert columns[2] == ("GetPublicKey", f"arn:aws:iam::{ACCOUNT}:user/ada", "KNOTHING", "NoSuchPublicKey")


def test_reads_that_succeed_can_be_left_out(tmp_path: Path) -> None:
    harness = Harness(tmp_path, audit_reads=False)
    id_ = harness.key()
    harness.call("GetPublicKey", Id=id_)
    harness.refused("GetPublicKey", Id="KNOTHING")
    assert [record["eventName"] for record in records(harness)] == ["CreatePublicKey", "GetPublicKey"]
    harness.close()


def test_no_secret_enters(harness: Harness) -> None:
    config = minimal()
    header = {"HeaderName": "X-Origin-Secret", "HeaderValue": "hunter2"}
    config["Origins"]["Items"][0]["CustomHeaders"] = many(header)
    id_ = harness.distribution(**config)["Id"]
    config, etag = harness.config(id_)
    harness.refused("UpdateDistribution", Id=id_, IfMatch="E1234567890ABC", DistributionConfig=config)
    harness.call("UpdateDistribution", Id=id_, IfMatch=etag, DistributionConfig=config)
    header["HeaderValue"] = "hunter2" + "x" * 2000
    config["Origins"]["Items"][0]["CustomHeaders"] = many(header)
    harness.refused("CreateDistribution", DistributionConfig=config)
    harness.refused(
        "CreateDistribution", DistributionConfig={"Origins": {"Items": [{"CustomHeaders": "hunter2"}]}}
    )
    with harness.store.read() as transaction:
        rows = transaction.audit()
    assert len(rows) == 6
    assert not any(b"hunter2" in row.record for row in rows)
    sent = json.loads(rows[0].record)["requestParameters"]["distributionConfig"]["origins"]["items"][0]
    assert sent["customHeaders"]["items"] == [
        {"headerName": "X-Origin-Secret", "headerValue": "HIDDEN_DUE_TO_SECURITY_REASONS"}
    ]


def test_the_chain_shows_what_was_tampered_with(harness: Harness) -> None:
    for name in "abcd":
        harness.key(name)
    with harness.store.read() as transaction:
        rows = transaction.audit()
    assert [row.number for row in rows] == [1, 2, 3, 4]
    assert audit.first_break(rows) is None
    assert audit.first_break(rows[2:], head=rows[1]) is None
    changed = msgspec.structs.replace(rows[1], record=rows[1].record.replace(b'"b"', b'"x"'))
    forged = audit.following(rows[0], changed.record)
    cases: dict[str, tuple[list[AuditRow], int]] = {
        "a record changed": ([rows[0], changed, *rows[2:]], 2),
        "a record changed and its digest as well": ([rows[0], forged, *rows[2:]], 3),
        "one dropped": ([rows[0], *rows[2:]], 3),
        "two exchanged": ([rows[0], rows[2], rows[1], rows[3]], 3),
        "the first dropped": (rows[1:], 2),
        "one twice": ([rows[0], *rows], 1),
    }
    for name, (found, number) in cases.items():
        assert audit.first_break(found) == number, name


class Gate:
    """A store whose first write blocks until it is released. `writes` counts the writes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.writes = 0
        self.begun, self.open = threading.Event(), threading.Event()

    @contextlib.contextmanager
    def write(self) -> Iterator[Transaction]:
        self.writes += 1
        self.begun.set()
        assert self.open.wait(10)
        with self._store.write() as transaction:
            yield transaction


def test_calls_that_wait_at_one_time_are_recorded_in_one_transaction(harness: Harness) -> None:
    gate: Any = Gate(harness.store)
    ledger = AuditWriter(gate, random.Random(1))
    call = Call("GetKeyGroup", {"Id": "x"}, CALLER, "192.0.2.7", "t", "r", harness.now)
    threads = [threading.Thread(target=ledger.record, args=(call, {})) for _ in range(9)]
    threads[0].start()
    assert gate.begun.wait(10)
    for thread in threads[1:]:
        thread.start()
    while len(ledger._waiting) < 8:
        time.sleep(0.001)
    assert all(thread.is_alive() for thread in threads)  # no call continues before its record is written
    gate.open.set()
    for thread in threads:
        thread.join(10)
    assert gate.writes == 2
    assert len(records(harness)) == 9
    with harness.store.read() as transaction:
        assert audit.first_break(transaction.audit()) is None


def test_what_cannot_be_recorded_is_told_of_each(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    ledger = AuditWriter(harness.store, random.Random(1))
    with harness.store.write() as transaction:
        transaction.connection.exec_driver_sql("DROP TABLE audit")
    for name in ("GetKeyGroup", "GetPublicKey"):
        ledger.record(Call(name, {"Id": "x"}, CALLER, "192.0.2.7", "t", "r", harness.now), {})
        assert f"no audit record of {name} by {CALLER.arn}" in caplog.text


def test_a_store_that_takes_no_record_takes_no_change_but_answers_reads(harness: Harness) -> None:
    id_ = harness.key()
    with harness.store.write() as transaction:
        transaction._connection.exec_driver_sql(
            "CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
        )
    error = harness.refused("CreateKeyGroup", KeyGroupConfig={"Name": "g", "Items": [id_]})
    assert (error.code, error.status) == ("ServiceUnavailable", 503)
    assert harness.call("ListKeyGroups")["KeyGroupList"]["Quantity"] == 0
    assert harness.call("GetPublicKey", Id=id_)["PublicKey"]["Id"] == id_
