"""The columns of a log query, and how the fields of each kind of log map to them.

Every log becomes rows of one table, `requests`, whose columns have the names of Keyfront's access records. CloudFront's
standard logs (cloudfront-semantics §6.1) have other names and units for the same facts, and lack some; what a log does
not record is NULL. Types are fixed here, never guessed from the data: guessing costs a pass over the file and can turn
out differently from one day to the next.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple


class Column(NamedTuple):
    """A column of `requests`. `kind` is DuckDB's type. `fields` are the fields of standard logs that record it, the
    preferred one first, as `normalized` writes them."""

    name: str
    kind: str
    meaning: str
    fields: tuple[str, ...] = ()


COLUMNS = (
    Column(
        "timestamp",
        "TIMESTAMP",
        "when the request arrived, in UTC; in standard logs, when the response ended",
    ),
    Column("time", "DOUBLE", "the same in epoch seconds", ("timestamp_ms", "timestamp")),
    Column("request_id", "VARCHAR", "`X-Amz-Cf-Id` of the response", ("x_edge_request_id",)),
    Column("client_ip", "VARCHAR", "the viewer's address", ("c_ip",)),
    Column("client_port", "USMALLINT", "the viewer's port", ("c_port",)),
    Column("method", "VARCHAR", "the method", ("cs_method",)),
    Column("scheme", "VARCHAR", "`http`, `https`, `ws`, or `wss`", ("cs_protocol",)),
    Column("host", "VARCHAR", "the viewer's Host", ("x_host_header", "cs_host")),
    Column("path", "VARCHAR", "the path as requested", ("cs_uri_stem",)),
    Column(
        "query", "VARCHAR", "the query; in access records without the signing parameters", ("cs_uri_query",)
    ),
    Column("protocol_version", "VARCHAR", "the version of HTTP, such as `1.1`", ("cs_protocol_version",)),
    Column("status", "USMALLINT", "the status; 0 if the viewer left before there was one", ("sc_status",)),
    Column("bytes", "UBIGINT", "bytes sent to the viewer", ("sc_bytes",)),
    Column("time_taken_us", "UBIGINT", "microseconds until the last byte", ("time_taken",)),
    Column("result", "VARCHAR", "`x-edge-result-type`: `Hit`, `Miss`, `Error`, …", ("x_edge_result_type",)),
    Column("detail", "VARCHAR", "`x-edge-detailed-result-type`", ("x_edge_detailed_result_type",)),
    Column("distribution", "VARCHAR", "the distribution's ID", ("distribution_id", "distributionid")),
    Column("behavior", "VARCHAR", "the path pattern of the cache behavior", ("cache_behavior_path_pattern",)),
    Column("request_bytes", "UBIGINT", "bytes received from the viewer", ("cs_bytes",)),
    Column("first_byte_us", "UBIGINT", "microseconds until the first byte", ("time_to_first_byte",)),
    Column("user_agent", "VARCHAR", "User-Agent", ("cs_user_agent",)),
    Column("referer", "VARCHAR", "Referer", ("cs_referer",)),
    Column("country", "VARCHAR", "the viewer's country, as an ISO code", ("c_country",)),
    Column("verdict", "VARCHAR", "`allowed`, `refused`, or empty if no signature was required"),
    Column("reason", "VARCHAR", "why the edge refused the request, or what failed"),
    Column("explanation", "VARCHAR", "the reason in a sentence"),
    Column("verify_us", "UBIGINT", "microseconds for routing and the signature check"),
    Column("signed_by", "VARCHAR", "`url` or `cookies`"),
    Column("key_pair_id", "VARCHAR", "the public key's ID in the credentials"),
    Column("key_group", "VARCHAR", "the key group that trusts the key"),
    Column("hash_algorithm", "VARCHAR", "`SHA1` or `SHA256`"),
    Column("remembered", "BOOLEAN", "whether the signature had been verified before"),
    Column("ssl_protocol", "VARCHAR", "such as `TLSv1.3`; empty on http", ("ssl_protocol",)),
    Column("ssl_cipher", "VARCHAR", "the cipher; empty on http", ("ssl_cipher",)),
    Column(
        "repeats",
        "UINTEGER",
        "further refusals of the same second, address, and reason without a row of their own",
    ),
    Column("edge_location", "VARCHAR", "the edge location; standard logs only", ("x_edge_location",)),
    Column(
        "content_type", "VARCHAR", "Content-Type of the response; standard logs only", ("sc_content_type",)
    ),
    Column("forwarded_for", "VARCHAR", "X-Forwarded-For; standard logs only", ("x_forwarded_for",)),
    Column("file", "VARCHAR", "the file that the row is from"),
)
"""In the order of `SELECT *`."""

NAMES = tuple(column.name for column in COLUMNS)
REQUIRED = ("time", "request_id", "method", "status")
"""A line of JSON without one of these is not an access record."""
DERIVED = ("timestamp", "file")
STANDARD_ONLY = ("edge_location", "content_type", "forwarded_for")
MICROSECONDS = ("time_taken_us", "first_byte_us")
"""Standard logs have them in seconds."""
OPTIONAL = NAMES[NAMES.index("distribution") : NAMES.index("edge_location")]
"""An access record leaves them out where they have their default: empty, 0, or false."""

_RECORDED = tuple(name for name in NAMES if name not in (*DERIVED, *STANDARD_ONLY))
_DEFAULTS = {"VARCHAR": "''", "BOOLEAN": "false"}
_PREFIX = re.compile("(?:x_)?(?:keyfront|kf)_")


def normalized(field: str) -> str:
    """A field's name in lowercase with `_` for everything else: `cs(User-Agent)`, `cs-user-agent`, and the
    `cs_User_Agent_` of Parquet files are the same field."""
    return re.sub("[^a-z0-9]+", "_", field.lower()).strip("_")


def literal(text: str) -> str:
    """SQL for a text."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """SQL for a name."""
    return '"' + name.replace('"', '""') + '"'


def record_columns(wanted: Collection[str]) -> dict[str, str]:
    """The members of an access record that must be read for these columns, with their types."""
    names = {*wanted, *REQUIRED}
    return {
        column.name: column.kind for column in COLUMNS if column.name in names and column.name in _RECORDED
    }


def record_select(wanted: Collection[str], present: Collection[str] | None = None) -> str:
    """The SELECT list that makes rows of `requests` from access records.

    :param present: the members that the files have; None for all.
    """
    parts = []
    for column in COLUMNS:
        if column.name not in wanted:
            continue
        name, quoted = column.name, identifier(column.name)
        if name == "timestamp":
            value = _timestamp("time")
        elif name == "file":
            value = "filename"
        elif name not in (present if present is not None else _RECORDED):
            value = f"NULL::{column.kind}"
        elif name in OPTIONAL and present is None:
            value = f"coalesce({quoted}, {_DEFAULTS.get(column.kind, '0')})"
        else:
            value = quoted
        parts.append(f"{value} AS {quoted}")
    missing = " OR ".join(f"{identifier(name)} IS NULL" for name in REQUIRED)
    return ", ".join([*parts, _unreadable(missing)])


def standard_select(wanted: Collection[str], fields: Mapping[str, str], *, escaped: bool) -> str:
    """The SELECT list that makes rows of `requests` from a standard log whose columns are texts.

    :param fields: the log's own name of each field, by its normalized name; `is_standard` holds for them.
    :param escaped: whether values are percent-encoded, as in the W3C format.
    """

    def text(field: str) -> str:
        return f"{identifier(fields[field])}::VARCHAR"

    def decoded(field: str) -> str:
        value = text(field)
        # A byte sequence that is not UTF-8 stays encoded.
        plain = f"coalesce(try(url_decode({value})), {value})" if escaped else value
        if field == "cs_protocol_version":
            plain = f"regexp_replace({plain}, '^HTTP/', '')"
        return f"CASE WHEN {value} = '-' THEN '' ELSE {plain} END"

    def seconds() -> str:
        if "timestamp_ms" in fields:
            return f"TRY_CAST({text('timestamp_ms')} AS DOUBLE) / 1000"
        if "timestamp" in fields:
            return f"TRY_CAST({text('timestamp')} AS DOUBLE)"
        moment = f"{text('date')} || ' ' || {text('time')}"
        return f"epoch(try_strptime({moment}, '%Y-%m-%d %H:%M:%S'))::DOUBLE"

    def value(column: Column) -> str:
        if column.name == "timestamp":
            return _timestamp(seconds())
        if column.name == "time":
            return seconds()
        if column.name == "file":
            return "filename"
        field = next((field for field in (*column.fields, column.name) if field in fields), None)
        if column.name == "distribution" and field is None:
            # PREFIX/E2QWRUHEXAMPLE.2026-12-01-09.UNIQUE.gz
            return r"regexp_extract(filename, '([A-Z0-9]+)\.\d{4}-\d\d-\d\d-\d\d\.[^/]*$', 1)"
        if field is None:
            return f"NULL::{column.kind}"
        if column.kind == "VARCHAR":
            return decoded(field)
        if column.name in MICROSECONDS and field in column.fields:
            return f"TRY_CAST(round(TRY_CAST({text(field)} AS DOUBLE) * 1000000) AS {column.kind})"
        return f"TRY_CAST({text(field)} AS {column.kind})"

    parts = [f"{value(column)} AS {identifier(column.name)}" for column in COLUMNS if column.name in wanted]
    missing = f"{seconds()} IS NULL OR {text('sc_status')} IS NULL"
    return ", ".join([*parts, _unreadable(missing)])


def by_normalized_name(fields: Collection[str]) -> dict[str, str]:
    """Each field's own name by its normalized name. A prefix that marks a field as Keyfront's own is left out."""
    return {_PREFIX.sub("", normalized(field), count=1): field for field in fields}


def is_record(fields: Collection[str]) -> bool:
    """Whether an object or a Parquet file with these members holds access records."""
    return set(REQUIRED) <= set(fields)


def is_standard(fields: Mapping[str, str]) -> bool:
    """Whether these fields, by normalized name, are enough to be a standard log."""
    timed = {"date", "time"} <= set(fields) or "timestamp" in fields or "timestamp_ms" in fields
    return timed and "sc_status" in fields


def _unreadable(condition: str) -> str:
    """`unreadable`: the file of a row that is no record, NULL for others."""
    return f"CASE WHEN {condition} THEN filename END AS unreadable"


def _timestamp(seconds: str) -> str:
    return f"try(make_timestamp(CAST(({seconds}) * 1000000 AS BIGINT)))"
