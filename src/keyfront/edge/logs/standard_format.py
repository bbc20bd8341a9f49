"""CloudFront's standard log: the fields of a record as text, the file format of the legacy log, and the formats of
standard logging v2 (cloudfront-semantics §6.1, §6.3).

A field's value is text in which each character is one byte (latin-1), or None if the request has no such value. The
formats say how both are written: the tab-separated ones escape and write `-`, JSON does neither.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from time import gmtime, strftime
from typing import Final
from urllib.parse import unquote

import msgspec

from keyfront.edge.types.record import LogRecord

Value = str | None

EMPTY: Final = "-"
_ESCAPED: Final = re.compile(r"""[\x00-\x20\x7f-\xff<>"#%{}|\\^~\[\]'`]""")
_SIGNATURES: Final = frozenset({"signature", "policy", "cloudfront-signature", "cloudfront-policy"})
"""Parameters and cookies that are masked, in lower case. The policy is masked too: with its signature, it is the
credential, and it is of no use without."""
MASKED: Final = "[masked]"


def ended(record: LogRecord) -> float:
    """When the response ended, epoch seconds: the date and time of the record in a log."""
    return record.time + record.time_taken_us / 1e6


def hour(record: LogRecord) -> int:
    """The hour in whose files the record is: epoch hours, UTC."""
    return int(ended(record) // 3600)


def _seconds(us: int) -> str:
    return f"{us / 1e6:.3f}"


def _first_byte_us(record: LogRecord) -> int:
    """A hit's first byte is sent with its last one, so its record has no time of its own."""
    return record.first_byte_us or record.time_taken_us


def _range(number: int) -> Value:
    return str(number) if number >= 0 else None


def _or_none(text: str) -> Value:
    return text or None


_Field = Callable[[LogRecord, str], Value]

_LEGACY: Final[dict[str, _Field]] = {
    "date": lambda one, _: strftime("%Y-%m-%d", gmtime(ended(one))),
    "time": lambda one, _: strftime("%H:%M:%S", gmtime(ended(one))),
    "x-edge-location": lambda _, location: location,
    "sc-bytes": lambda one, _: str(one.bytes + one.head_bytes),
    "c-ip": lambda one, _: _or_none(one.client_ip),
    "cs-method": lambda one, _: one.method,
    "cs(Host)": lambda one, _: _or_none(one.domain),
    "cs-uri-stem": lambda one, _: one.path,
    "sc-status": lambda one, _: f"{one.status:03}",
    "cs(Referer)": lambda one, _: _or_none(one.referer),
    "cs(User-Agent)": lambda one, _: _or_none(one.user_agent),
    "cs-uri-query": lambda one, _: _or_none(one.raw_query),
    "cs(Cookie)": lambda one, _: _or_none(one.cookie),
    "x-edge-result-type": lambda one, _: one.result,
    "x-edge-request-id": lambda one, _: one.request_id,
    "x-host-header": lambda one, _: _or_none(one.host),
    "cs-protocol": lambda one, _: one.scheme,
    "cs-bytes": lambda one, _: str(one.request_bytes),
    "time-taken": lambda one, _: _seconds(one.time_taken_us),
    "x-forwarded-for": lambda one, _: _or_none(one.forwarded_for),
    "ssl-protocol": lambda one, _: _or_none(one.ssl_protocol),
    "ssl-cipher": lambda one, _: _or_none(one.ssl_cipher),
    "x-edge-response-result-type": lambda one, _: one.result,
    "cs-protocol-version": lambda one, _: f"HTTP/{one.protocol_version}",
    "fle-status": lambda *_: None,
    "fle-encrypted-fields": lambda *_: None,
    "c-port": lambda one, _: str(one.client_port),
    "time-to-first-byte": lambda one, _: _seconds(_first_byte_us(one)),
    "x-edge-detailed-result-type": lambda one, _: one.detail,
    "sc-content-type": lambda one, _: _or_none(one.content_type),
    "sc-content-len": lambda one, _: _range(one.content_length),
    "sc-range-start": lambda one, _: _range(one.range_start),
    "sc-range-end": lambda one, _: _range(one.range_end),
}
_ADDED: Final[dict[str, _Field]] = {
    "timestamp": lambda one, _: str(int(ended(one))),
    "timestamp(ms)": lambda one, _: str(int(ended(one) * 1000)),
    "DistributionId": lambda one, _: one.distribution,
    "c-country": lambda one, _: _or_none(one.country),
    "cache-behavior-path-pattern": lambda one, _: _or_none(one.behavior),
    "origin-fbl": lambda one, _: _seconds(one.origin_first_us) if one.origin_first_us else None,
    "origin-lbl": lambda *_: None,
    "asn": lambda *_: None,
    "connection-id": lambda one, _: _or_none(one.connection_id),
}
_OWN: Final[dict[str, _Field]] = {
    "kf-verdict": lambda one, _: _or_none(one.verdict),
    "kf-reason": lambda one, _: _or_none(one.reason),
    "kf-explanation": lambda one, _: _or_none(one.explanation),
    "kf-key-pair-id": lambda one, _: _or_none(one.key_pair_id),
    "kf-key-group": lambda one, _: _or_none(one.key_group),
    "kf-signed-by": lambda one, _: _or_none(one.signed_by),
    "kf-policy": lambda one, _: _policy_kind(one),
    "kf-hash-algorithm": lambda one, _: _or_none(one.hash_algorithm),
    "kf-verify-us": lambda one, _: str(one.verify_us) if one.verdict else None,
    "kf-origin-us": lambda one, _: str(one.origin_first_us) if one.origin_first_us else None,
}

LEGACY: Final = tuple(_LEGACY)
"""The 33 fields of the legacy log, in order."""
FIELDS: Final = _LEGACY | _ADDED | _OWN
"""All fields by name: those of the legacy log, those that standard logging v2 adds, and Keyfront's own (`kf-…`)."""


def _policy_kind(record: LogRecord) -> Value:
    """`canned` or `custom`, if the request was signed with a URL or with cookies that are in the log."""
    names = [_name(part) for part in record.raw_query.split("&")] + [
        _name(part) for part in record.cookie.split(";")
    ]
    if not record.verdict:
        return None
    if any(name in ("policy", "cloudfront-policy") for name in names):
        return "custom"
    return "canned" if any(name in ("expires", "cloudfront-expires") for name in names) else None


def _name(pair: str) -> str:
    return unquote(pair.partition("=")[0]).strip().lower()


def _masked(text: str, separator: str) -> str:
    parts = text.split(separator)
    return separator.join(
        f"{part.partition('=')[0]}={MASKED}" if "=" in part and _name(part) in _SIGNATURES else part
        for part in parts
    )


def masked(record: LogRecord) -> LogRecord:
    """The record without its policy and signature, which together are a credential."""
    return msgspec.structs.replace(
        record,
        raw_query=_masked(record.raw_query, "&"),
        cookie=_masked(record.cookie, ";"),
        referer=_masked_url(record.referer),
    )


def _masked_url(url: str) -> str:
    base, mark, query = url.partition("?")
    return base + mark + _masked(query, "&")


def escaped(text: str) -> str:
    """A value as the tab-separated formats write it: bytes and characters that could break a line, and some others, are
    percent-encoded."""
    return _ESCAPED.sub(lambda found: f"%{ord(found[0]):02X}", text)


# -- formats -----------------------------------------------------------------------------------------------------


def w3c_head(fields: Sequence[str]) -> str:
    """The first two lines of a file."""
    return f"#Version: 1.0\n#Fields: {' '.join(fields)}" + "\n"


def separated(records: Iterable[LogRecord], fields: Sequence[str], location: str, separator: str) -> str:
    """The lines of a tab-separated format, or one with another separator.

    :param location: the name of the edge location.
    """
    readers = [FIELDS[name] for name in fields]
    lines = []
    for record in records:
        values = [reader(record, location) for reader in readers]
        words = [EMPTY if value is None else escaped(value) for value in values]
        lines.append(separator.join([word.replace(separator, f"%{ord(separator):02X}") for word in words]))
    return "".join([line + "\n" for line in lines])


def json_lines(records: Iterable[LogRecord], fields: Sequence[str], location: str) -> bytes:
    """One JSON object per line; all values are strings, and absent ones are `-` (§6.3)."""
    readers = [(name, FIELDS[name]) for name in fields]
    encode = msgspec.json.encode
    lines = []
    for record in records:
        values = {name: reader(record, location) for name, reader in readers}
        lines.append(encode({name: EMPTY if v is None else v for name, v in values.items()}))
    return b"".join([line + b"\n" for line in lines])
