"""Policies, parsed and generated; addresses; times."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest

from keyfront.errors import PolicyError
from keyfront.signing.policy import (
    MAX_EPOCH,
    Policy,
    canned_expires,
    canned_policy,
    epoch_of,
    ipv4,
    parse_network,
    parse_policy,
)
from tests.rows import rows
from tests.signing.harness import NOW, SOON

BOTOCORE = '{"Statement":[{"Resource":"http://d/*","Condition":{"DateLessThan":{"AWS:EpochTime":1700003600},"IpAddress":{"AWS:SourceIp":"192.0.2.0/24"},"DateGreaterThan":{"AWS:EpochTime":1600000000}}}]}'


def policy(**condition: object) -> bytes:
    return json.dumps({"Statement": [{"Resource": "http://d/*", "Condition": condition}]}).encode()


def less(value: object) -> dict[str, object]:
    return {"DateLessThan": {"AWS:EpochTime": value}}


@rows(
    "text",
    [
        BOTOCORE,
        BOTOCORE + "\n",
        "\r\n \t" + BOTOCORE,
        json.dumps(json.loads(BOTOCORE), indent=4),
        json.dumps(json.loads(BOTOCORE), indent=4).replace("\n", "\r\n") + "\r\n",
        json.dumps(json.loads(BOTOCORE), sort_keys=True),
        BOTOCORE.replace("http://d/*", "http:\\/\\/d\\/\\u002a"),
        BOTOCORE.replace('"Condition"', '"Sid":"x","Effect":"Allow","Condition"'),
        BOTOCORE.replace('{"Statement"', '{"Version":"2012-10-17","Id":{"a":[1,2,{"b":null}]},"Statement"'),
        BOTOCORE.replace('"IpAddress"', '"StringLike":{"aws:Referer":"x"},"IpAddress"'),
    ],
)
def test_reads_every_way_to_write_it(text: str) -> None:
    statement = parse_policy(text.encode())
    assert statement.resource == "http://d/*"
    assert (statement.expires, statement.not_before) == (1700003600, 1600000000)
    assert statement.network == (0xC0000200, 0xC00002FF)


@rows(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"1",
        b'"x"',
        b"{}",
        b"hello",
        b"\xff\xfe{\x00}\x00",
        b"\xef\xbb\xbf" + BOTOCORE.encode(),
        BOTOCORE.encode()[:-1],
        BOTOCORE.encode() + b"}",
        BOTOCORE.encode() + b"\0",
        BOTOCORE.replace("Statement", "statement").encode(),
        BOTOCORE.replace("Condition", "condition").encode(),
        BOTOCORE.replace("DateLessThan", "dateLessThan").encode(),
        BOTOCORE.replace("AWS:EpochTime", "aws:EpochTime").encode(),
        json.dumps({"Statement": json.loads(BOTOCORE)["Statement"][0]}).encode(),
        json.dumps({"Statement": []}).encode(),
        json.dumps({"Statement": json.loads(BOTOCORE)["Statement"] * 2}).encode(),
        json.dumps({"Statement": [None]}).encode(),
        json.dumps({"Statement": [[]]}).encode(),
        policy(),
        policy(DateGreaterThan={"AWS:EpochTime": 1}),
        policy(DateLessThan=SOON),
        policy(DateLessThan={}),
        policy(DateLessThan=[{"AWS:EpochTime": SOON}]),
        policy(**less(str(SOON))),
        policy(**less(float(SOON))),
        policy(**less(1.5)),
        policy(**less(True)),
        policy(**less(None)),
        policy(**less([SOON])),
        policy(**less(-1)),
        policy(**less(MAX_EPOCH + 1)),
        policy(**less(SOON * 1000)),
        policy(**less(10**30)),
        policy(**less(1)).replace(b": 1}", b": 1e9}"),
        policy(**less(1)).replace(b": 1}", b": 01}"),
        policy(**less(1)).replace(b": 1}", b": +1}"),
        policy(**less(1)).replace(b": 1}", b": 0x1}"),
        policy(**less(SOON), DateGreaterThan={"AWS:EpochTime": "1"}),
        policy(**less(SOON), DateGreaterThan=None),
        policy(**less(SOON), IpAddress={"AWS:SourceIp": ["192.0.2.1"]}),
        policy(**less(SOON), IpAddress={"AWS:SourceIp": None}),
        policy(**less(SOON), IpAddress={"AWS:SourceIp": "2001:db8::/32"}),
        policy(**less(SOON), IpAddress={"AWS:SourceIp": ""}),
        policy(**less(SOON), IpAddress="192.0.2.1"),
        policy(**less(SOON)).replace(b'"http://d/*"', b'["http://d/*"]'),
        policy(**less(SOON)).replace(b'"http://d/*"', b'""'),
        policy(**less(SOON)).replace(b'"http://d/*"', b"null"),
        policy(**less(SOON)).replace(b"d/*", b"d/\xff"),
        policy(**less(SOON)).replace(b"d/*", b"d/\\ud800"),
        b'{"a":' * 100_000,
        b"[" * 100_000,
        b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"," + BOTOCORE.encode()[1:],
    ],
)
def test_refuses_what_cloudfront_calls_malformed(data: bytes) -> None:
    with pytest.raises(PolicyError):
        parse_policy(data)


def test_resource_may_be_left_out() -> None:
    data = json.dumps({"Statement": [{"Condition": less(SOON)}]}).encode()
    assert parse_policy(data).resource is None
    assert parse_policy(data).pattern is None


def test_the_last_second_that_cloudfront_takes() -> None:
    assert parse_policy(policy(**less(MAX_EPOCH))).expires == MAX_EPOCH
    assert canned_expires(str(MAX_EPOCH)) == MAX_EPOCH
    assert canned_expires("0001") == 1


@rows(
    "text",
    [
        "",
        " ",
        "-1",
        "+1",
        "1.0",
        "1e9",
        "0x1",
        " 1",
        "1 ",
        "1_000",
        "²",
        "１",
        str(MAX_EPOCH + 1),
        "9" * 21,
        "9" * 5000,
        "x",
        "1,",
    ],
)
def test_expires_is_digits(text: str) -> None:
    with pytest.raises(PolicyError):
        canned_expires(text)


def test_the_canned_policys_bytes() -> None:
    assert canned_policy("https://d/a?b=1&c", "1700000000") == (
        b'{"Statement":[{"Resource":"https://d/a?b=1&c","Condition":{"DateLessThan":{"AWS:EpochTime":1700000000}}}]}'
    )
    for resource in ('https://d/"', "https://d/\\", 'https://d/\\"', 'https://d/"}]}'):
        assert json.loads(canned_policy(resource, "1"))["Statement"][0]["Resource"] == resource


# ------------------------------------------------------------------------------------------------------------
# Addresses


@rows(
    ("text", "number"),
    [
        ("0.0.0.0", 0),
        ("255.255.255.255", 0xFFFFFFFF),
        ("192.0.2.7", 0xC0000207),
        ("::ffff:192.0.2.7", 0xC0000207),
        ("::FFFF:c000:207", 0xC0000207),
        ("::1", None),
        ("2001:db8::1", None),
        ("::192.0.2.7", None),
        ("192.0.2", None),
        ("192.0.2.7.1", None),
        ("192.0.2.256", None),
        ("192.0.2.07", None),
        ("192.0.2.-7", None),
        ("192.0.2. 7", None),
        ("192.0.2.", None),
        ("192.0.2.²", None),
        ("192.0.2.1234567890", None),
        ("3221225991", None),
        ("", None),
        ("unix:", None),
        ("localhost", None),
    ],
)
def test_ipv4(text: str, number: int | None) -> None:
    assert ipv4(text) == number


@rows(
    ("text", "first", "last"),
    [
        ("192.0.2.7", "192.0.2.7", "192.0.2.7"),
        ("192.0.2.7/32", "192.0.2.7", "192.0.2.7"),
        ("192.0.2.7/24", "192.0.2.0", "192.0.2.255"),
        ("192.0.2.7/0", "0.0.0.0", "255.255.255.255"),
        ("192.0.2.7/31", "192.0.2.6", "192.0.2.7"),
        ("0.0.0.0/00", "0.0.0.0", "255.255.255.255"),
    ],
)
def test_networks(text: str, first: str, last: str) -> None:
    assert parse_network(text) == (ipv4(first), ipv4(last))


@rows(
    "text",
    ["", "/", "192.0.2.7/", "192.0.2.7/33", "192.0.2.7/-1", "192.0.2.7/024", "192.0.2.7/255.255.255.0",
     "192.0.2.0/24/8", " 192.0.2.7", "192.0.2.7 ", "192.0.2.7,192.0.2.8", "::1", "2001:db8::/32", "any",
     "192.0.2.*", "192.0.2.7/²"],
)  # fmt: skip
def test_no_networks(text: str) -> None:
    with pytest.raises(PolicyError):
        parse_network(text)


# ------------------------------------------------------------------------------------------------------------
# Times


@rows(
    ("moment", "seconds"),
    [
        (timedelta(hours=1), SOON),
        (timedelta(seconds=1.9), int(NOW) + 1),
        (datetime.fromtimestamp(SOON, UTC), SOON),
        (datetime.fromtimestamp(SOON, timezone(timedelta(hours=5, minutes=30))), SOON),
        (datetime(2030, 1, 1, 0, 0, 0, 999_999, tzinfo=UTC), 1_893_456_000),
        (SOON, SOON),
        (MAX_EPOCH, MAX_EPOCH),
    ],
)
def test_moments(moment: Any, seconds: int) -> None:
    assert epoch_of(moment, NOW) == seconds


@rows(
    ("moment", "message"),
    [
        (datetime(2030, 1, 1), "without a time zone"),
        (SOON * 1000, f"is in milliseconds: epochs here are seconds, {SOON}"),
        (SOON * 10**6, f"is in microseconds: epochs here are seconds, {SOON}"),
        (SOON * 10**9, f"is in nanoseconds: epochs here are seconds, {SOON}"),
        (3600, "timedelta(seconds=3600)"),
        (SOON // 1000, "do not divide it by 1000"),
        (MAX_EPOCH + 1, "outside the range"),
        (10**30, "outside the range"),
        (0, "outside the range"),
        (-1, "outside the range"),
        (timedelta(days=-40000), "outside the range"),
        (float(SOON), "not float"),
        (True, "not bool"),
        ("2030-01-01", "not str"),
        (date(2030, 1, 1), "not date"),
        (None, "not NoneType"),
    ],
)
def test_moments_that_are_probably_not_meant(moment: Any, message: str) -> None:
    with pytest.raises(PolicyError) as raised:
        epoch_of(moment, NOW)
    assert message in str(raised.value)


# ------------------------------------------------------------------------------------------------------------
# The builder


def test_a_policy_is_written_as_botocore_writes_it() -> None:
    made = Policy("http://d/*", 1700003600, starts=1600000000, ip="192.0.2.0/24")
    assert made.to_bytes(NOW).decode() == BOTOCORE
    assert Policy(None, timedelta(hours=1)).to_bytes(NOW).decode() == (
        '{"Statement":[{"Condition":{"DateLessThan":{"AWS:EpochTime":1700003600}}}]}'
    )
    assert b'"192.0.2.7/32"' in Policy("*", SOON, ip="192.0.2.7").to_bytes(NOW)
    assert repr(made) == "Policy('http://d/*', 1700003600, starts=1600000000, ip='192.0.2.0/24')"


@rows(
    ("resource", "written"),
    [
        ("https://d/*", "https://d/*"),
        ("HTTPS://D.Test/A b/é*", "https://d.test/A%20b/%C3%A9*"),
        ("https://d/a?b='c'", "https://d/a?b=%27c%27"),
        ("https://d/it's?", "https://d/it's?"),
        ("https://d/%c3%a9/%41", "https://d/%C3%A9/A"),
        ("https://d/100%", "https://d/100%25"),
        ("*", "*"),
        ("*d.test", "*d.test"),
        ("http*://d/?/*", "http*://d/?/*"),
        ("https://d", "https://d"),
    ],
)
def test_a_resource_is_written_as_clients_send_it(resource: str, written: str) -> None:
    assert Policy(resource, SOON).resource == written
    assert Policy(written, SOON).resource == written


@rows(
    "resource",
    [
        "",
        "d/*",
        "/a",
        "https://d/#a",
        " https://d/",
        "https://d/\n",
        r"https://d/a\?b",
        "https://é/",
        "https://a b/",
    ],
)
def test_a_resource_that_grants_nothing_is_refused(resource: str) -> None:
    with pytest.raises(PolicyError):
        Policy(resource, SOON)


@rows("ip", ["2001:db8::1", "::/0", "192.0.2", "", "any"])
def test_an_address_that_cloudfront_refuses_is_refused(ip: str) -> None:
    with pytest.raises(PolicyError):
        Policy("*", SOON, ip=ip)


def test_a_policy_ends_after_it_starts() -> None:
    with pytest.raises(PolicyError, match="before it starts"):
        Policy("*", SOON, starts=SOON).to_bytes(NOW)


def test_a_policy_says_what_it_covers() -> None:
    films = Policy("https://cdn.test/films/*", SOON)
    assert films.covers("https://cdn.test/films/a b.mp4?x=1")
    assert films.covers("https://CDN.test:443/films/")
    assert not films.covers("http://cdn.test/films/")
    assert not films.covers("https://cdn.test/film")
    assert Policy(None, SOON).covers("http://any.test/")
