"""The access record of a request, and the templates and counters of hits."""

from __future__ import annotations

import msgspec


class Record(msgspec.Struct, gc=False, omit_defaults=True):
    """One request, recorded when its reply has been sent. `time` is epoch seconds; fields that end in `_us` are
    microseconds.

    `result` is CloudFront's x-edge-result-type, `detail` its x-edge-detailed-result-type (cloudfront-semantics §6).
    `status` 0 means that the viewer left before there was a status. `verdict` is `allowed`, `refused`, or empty if no
    signature was required; `signed_by` is `url` or `cookies`; `reason` is the name of the denial or of the rule that
    refused the request. `verify_us` is the time for routing and signature check, 0 on the fast path. `ssl_protocol` and
    `ssl_cipher` are those of the viewer's connection, empty on http. `repeats` is the number of additional refusals
    with the same second, address and reason that have no record of their own (`Refusals`).

    Status 101 is a WebSocket, recorded at its end: `scheme` is then `ws` or `wss`, `bytes` is what was sent to the
    viewer over it, `request_bytes` is the handshake and what the viewer sent after it, `reason` is why the edge ended
    it or which side failed.
    """

    time: float
    request_id: str
    client_ip: str
    client_port: int
    method: str
    scheme: str
    host: str
    path: str
    query: str
    protocol_version: str
    status: int
    bytes: int
    time_taken_us: int
    result: str
    detail: str
    distribution: str = ""
    behavior: str = ""
    request_bytes: int = 0
    first_byte_us: int = 0
    user_agent: str = ""
    referer: str = ""
    country: str = ""
    verdict: str = ""
    reason: str = ""
    explanation: str = ""
    verify_us: int = 0
    signed_by: str = ""
    key_pair_id: str = ""
    key_group: str = ""
    hash_algorithm: str = ""
    remembered: bool = False
    ssl_protocol: str = ""
    ssl_cipher: str = ""
    repeats: int = 0


class LogRecord(Record, gc=False, omit_defaults=True):
    """An access record with what only a standard log contains (cloudfront-semantics §6.1). It is a credential: `query`
    of the record lacks signatures, `raw_query` has them.

    `domain` is the distribution's domain name. `bucket` and `prefix` say where its standard log goes; without a bucket,
    it has none. `cookie` is the Cookie header if the distribution's log includes cookies. Each character of
    `raw_query`, `cookie`, `forwarded_for` and `content_type` is one byte (latin-1). `head_bytes` is the size of the
    response's head. `content_length` and the range of a 206 are -1 if the response has none. `origin_first_us` is
    microseconds from the start of the request to the origin until its response began; 0 if the origin was not
    contacted. `connection_id` is the same for all requests of a viewer's connection.
    """

    domain: str = ""
    bucket: str = ""
    prefix: str = ""
    raw_query: str = ""
    cookie: str = ""
    forwarded_for: str = ""
    content_type: str = ""
    content_length: int = -1
    range_start: int = -1
    range_end: int = -1
    head_bytes: int = 0
    origin_first_us: int = 0
    connection_id: str = ""


class HitCounter:
    """Hits that are counted together: their number, the bytes of their bodies and of their requests, and the time that
    they took.

    :param key: the key pair's ID, the hash algorithm and the key group, None if no signature was required.
    :param version: the HTTP version.
    """

    __slots__ = ("distribution", "hits", "key", "received", "sent", "taken_us", "version")

    def __init__(self, distribution: str, key: tuple[str, str, str] | None, version: str = "1.1") -> None:
        self.distribution = distribution
        self.key = key
        self.version = version
        self.hits = self.sent = self.received = self.taken_us = 0


class RecordTemplate:
    """The part that similar plans add to the access records of their hits on the fast path: the three pieces of JSON
    around the parts that vary, and the counters of the hits, over HTTP/1.1 and over HTTP/2.

    `spelled` means that the first piece already contains the path, because the path needs escaping in JSON. `plain`
    means that nothing about the viewer matters except the URL. `query_key` is what the URL's own query adds to the
    cache key. `log_fields` is what the distribution adds to the hit's `LogRecord`, as members of a JSON object; None if
    there is no such record. `log_cookies` says that the record contains cookies.
    """

    __slots__ = (
        "counters",
        "first",
        "last",
        "log_cookies",
        "log_fields",
        "middle",
        "plain",
        "query_key",
        "spelled",
    )

    def __init__(
        self,
        parts: tuple[str, str, str],
        query_key: str,
        counters: tuple[HitCounter, HitCounter],
        *,
        plain: bool,
        spelled: bool,
    ) -> None:
        self.log_fields: str | None = None
        self.log_cookies = False
        self.first, self.middle, self.last = parts
        self.query_key = query_key
        self.counters = counters
        self.plain = plain
        self.spelled = spelled
