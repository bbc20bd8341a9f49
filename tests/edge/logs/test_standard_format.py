"""CloudFront's standard log, byte by byte (cloudfront-semantics §6.1, §6.3)."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from keyfront.edge.logs import standard_format
from keyfront.edge.logs.delivery import render
from keyfront.edge.logs.delivery_settings import LEGACY_LOG
from keyfront.edge.logs.standard_format import FIELDS, LEGACY, escaped, json_lines, masked, separated
from keyfront.edge.types.record import LogRecord
from tests.rows import rows

ENDED = 1_575_418_325.5  # 2019-12-04 00:12:05.5 UTC


def record(**members: Any) -> LogRecord:
    """The record of a hit, with other members."""
    one = LogRecord(
        ENDED - 0.25, "id==", "192.0.2.100", 11040, "GET", "https", "www.example.com", "/view/my/file.html", "",
        "2.0", 200, 350, 250_000, "Hit", "Hit",
        distribution="E1", request_bytes=23, user_agent="Mozilla/5.0 (X11)", domain="d111.cloudfront.net",
        ssl_protocol="TLSv1.3", ssl_cipher="TLS_AES_128_GCM_SHA256", content_type="text/html", content_length=350,
        head_bytes=42,
    )  # fmt: skip
    return msgspec.structs.replace(one, **members)


def value(name: str, **members: Any) -> str | None:
    return FIELDS[name](record(**members), "SOF50-P2")


FIELD_NAMES = (
    "date time x-edge-location sc-bytes c-ip cs-method cs(Host) cs-uri-stem sc-status cs(Referer) cs(User-Agent) "
    "cs-uri-query cs(Cookie) x-edge-result-type x-edge-request-id x-host-header cs-protocol cs-bytes time-taken "
    "x-forwarded-for ssl-protocol ssl-cipher x-edge-response-result-type cs-protocol-version fle-status "
    "fle-encrypted-fields c-port time-to-first-byte x-edge-detailed-result-type sc-content-type sc-content-len "
    "sc-range-start sc-range-end"
)


def test_a_file() -> None:
    import gzip

    data = render([record()], LEGACY_LOG, "SOF50-P2")
    assert data == render([record()], LEGACY_LOG, "SOF50-P2")
    assert gzip.decompress(data).decode() == (
        f"#Version: 1.0\n#Fields: {FIELD_NAMES}\n"
        "2019-12-04\t00:12:05\tSOF50-P2\t392\t192.0.2.100\tGET\td111.cloudfront.net\t/view/my/file.html\t200\t-\t"
        "Mozilla/5.0%20(X11)\t-\t-\tHit\tid==\twww.example.com\thttps\t23\t0.250\t-\tTLSv1.3\t"
        "TLS_AES_128_GCM_SHA256\tHit\tHTTP/2.0\t-\t-\t11040\t0.250\tHit\ttext/html\t350\t-\t-\n"
    )


VALUES: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "a viewer who left before there was a status": ("sc-status", {"status": 0}, "000"),
    "no query": ("cs-uri-query", {}, None),
    "a signed query": ("cs-uri-query", {"raw_query": "Signature=a~_&x"}, "Signature=a~_&x"),
    "a range": ("sc-range-start", {"range_start": 0}, "0"),
    "no range": ("sc-range-end", {}, None),
    "no length": ("sc-content-len", {"content_length": -1}, None),
    "an empty body": ("sc-content-len", {"content_length": 0}, "0"),
    "the first byte of a miss": ("time-to-first-byte", {"first_byte_us": 1500}, "0.002"),
    "a WebSocket": ("cs-protocol", {"scheme": "wss"}, "wss"),
    "http has no cipher": ("ssl-cipher", {"ssl_cipher": ""}, None),
    "seconds": ("timestamp", {}, "1575418325"),
    "milliseconds": ("timestamp(ms)", {}, "1575418325500"),
    "the origin's first byte": ("origin-fbl", {"origin_first_us": 251_000}, "0.251"),
    "no origin": ("origin-fbl", {}, None),
    "no signature needed": ("kf-policy", {"raw_query": "Expires=1"}, None),
    "a canned policy": ("kf-policy", {"verdict": "allowed", "raw_query": "a&Expires=1"}, "canned"),
    "a custom policy": ("kf-policy", {"verdict": "refused", "raw_query": "Policy=1"}, "custom"),
    "cookies": ("kf-policy", {"verdict": "allowed", "cookie": "a; CloudFront-Policy=x"}, "custom"),
    "canned cookies": ("kf-policy", {"verdict": "allowed", "cookie": "CloudFront-Expires=1"}, "canned"),
    "verification": ("kf-verify-us", {"verdict": "allowed", "verify_us": 31}, "31"),
    "the verdict": ("kf-verdict", {"verdict": "refused"}, "refused"),
    "the reason": ("kf-reason", {"reason": "expired"}, "expired"),
}


@rows("case", VALUES)
def test_values(case: str) -> None:
    name, members, expected = VALUES[case]
    assert value(name, **members) == expected


def test_every_field_has_a_value_or_none() -> None:
    for name, reader in FIELDS.items():
        found = reader(record(), "SOF50-P2")
        assert found is None or isinstance(found, str), name
    assert " ".join(LEGACY) == FIELD_NAMES


@rows("code", range(256))
def test_escapes(code: int) -> None:
    """Exactly the bytes and characters that CloudFront escapes."""
    character = chr(code)
    must = code <= 32 or code >= 127 or character in "<>\"#%{}|\\^~[]'`"
    assert escaped(character) == (f"%{code:02X}" if must else character)


MASKED = {
    "a custom policy": (
        "Policy=p&Signature=s&Key-Pair-Id=K",
        "Policy=[masked]&Signature=[masked]&Key-Pair-Id=K",
    ),
    "a canned policy": (
        "Expires=1&Signature=s~_&Key-Pair-Id=K",
        "Expires=1&Signature=[masked]&Key-Pair-Id=K",
    ),
    "another spelling": ("%53ignature=s&SIGNATURE=t", "%53ignature=[masked]&SIGNATURE=[masked]"),
    "no value": ("Signature&x=1", "Signature&x=1"),
    "a value with =": ("Signature=a=b", "Signature=[masked]"),
    "other parameters": ("signatures=1&x=Signature", "signatures=1&x=Signature"),
}


@rows("case", MASKED)
def test_masks_the_query(case: str) -> None:
    given, expected = MASKED[case]
    assert masked(record(raw_query=given)).raw_query == expected
    assert masked(record(referer=f"https://a/b?{given}")).referer == f"https://a/b?{expected}"


def test_masks_cookies() -> None:
    cookie = "a=1; CloudFront-Signature=s; CloudFront-Policy=p; CloudFront-Key-Pair-Id=K"
    expected = "a=1; CloudFront-Signature=[masked]; CloudFront-Policy=[masked]; CloudFront-Key-Pair-Id=K"
    assert masked(record(cookie=cookie)).cookie == expected


def test_json_has_strings_only() -> None:
    fields = ("sc-status", "cs(Cookie)", "cs(User-Agent)", "c-country")
    lines = json_lines([record(country="DE", user_agent="a b\xff")], fields, "SOF50-P2")
    assert json.loads(lines) == {
        "sc-status": "200",
        "cs(Cookie)": "-",
        "cs(User-Agent)": "a b\xff",
        "c-country": "DE",
    }


def test_another_separator_cannot_be_part_of_a_value() -> None:
    line = separated([record(path="/a,b|c")], ("cs-uri-stem", "sc-status"), "SOF50-P2", ",")
    assert line == "/a%2Cb%7Cc,200\n"


def test_the_hour_is_that_of_the_end() -> None:
    assert standard_format.hour(record(time=3599.9, time_taken_us=200_000)) == 1
