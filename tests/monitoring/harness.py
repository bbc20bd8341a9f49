"""Logs for the tests of what reads them."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import msgspec

from keyfront.edge.types.record import Record

NOON = 1_790_000_000.0
"""Epoch seconds: 2026-09-21T14:13:20Z."""

FIELDS = (
    "date time x-edge-location sc-bytes c-ip cs-method cs(Host) cs-uri-stem sc-status cs(Referer) cs(User-Agent) "
    "cs-uri-query cs(Cookie) x-edge-result-type x-edge-request-id x-host-header cs-protocol cs-bytes time-taken "
    "x-forwarded-for ssl-protocol ssl-cipher x-edge-response-result-type cs-protocol-version fle-status "
    "fle-encrypted-fields c-port time-to-first-byte x-edge-detailed-result-type sc-content-type sc-content-len "
    "sc-range-start sc-range-end"
)
"""cloudfront-semantics §6.1."""
HEADER = f"#Version: 1.0\n#Fields: {FIELDS}\n"
LINE = (
    "2026-09-21\t14:13:21\tFRA56-P1\t1234\t192.0.2.7\tGET\td111.cloudfront.net\t/a%2520b.jpg\t200\t-\t"
    "Mozilla/5.0%20(X11)\tw=1&Signature=abc%7E\t-\tHit\tREQ1==\tmedia.example.com\thttps\t321\t0.005\t-\tTLSv1.3\t"
    "TLS_AES_128_GCM_SHA256\tHit\tHTTP/2.0\t-\t-\t50123\t0.004\tHit\timage/jpeg\t1000\t-\t-\n"
)


def record(**changes: Any) -> Record:
    """An access record of an allowed hit, with some fields changed."""
    fields: dict[str, Any] = {
        "time": NOON,
        "request_id": "R1",
        "client_ip": "192.0.2.7",
        "client_port": 50000,
        "method": "GET",
        "scheme": "https",
        "host": "media.example.com",
        "path": "/films/1.mp4",
        "query": "",
        "protocol_version": "1.1",
        "status": 200,
        "bytes": 1000,
        "time_taken_us": 500,
        "result": "Hit",
        "detail": "Hit",
        "distribution": "E1",
        "verdict": "allowed",
        "signed_by": "url",
        "key_pair_id": "K1",
        "key_group": "films",
        "hash_algorithm": "SHA256",
    }
    return Record(**(fields | changes))


def refused(reason: str, **changes: Any) -> Record:
    fields = {"status": 403, "verdict": "refused", "reason": reason, "result": "Error", "detail": "Error"}
    return record(**(fields | changes))


def encoded(*records: Record) -> bytes:
    return b"".join(msgspec.json.encode(each) + b"\n" for each in records)


def write(path: Path, data: bytes | str) -> Path:
    """A log file, compressed if its name ends with .gz."""
    raw = data.encode() if isinstance(data, str) else data
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path
