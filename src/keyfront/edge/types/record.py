"""The access record."""

from __future__ import annotations

import msgspec


class Record(msgspec.Struct, gc=False, omit_defaults=True):
    """One request, written when its reply is out. `time` is epoch seconds, `_us` are microseconds.

    `result` is CloudFront's x-edge-result-type, `detail` its x-edge-detailed-result-type (cloudfront-semantics §6).
    `status` 0 says that the viewer left before there was one. `verdict` is `allowed`, `refused`, or empty if no
    signature was needed; `signed_by` is `url` or `cookies`; `reason` is the name of the denial or of the rule that
    refused the request. `verify_us` is the time for routing and signature, 0 on the fast path. `ssl_protocol` and
    `ssl_cipher` are those of the viewer's connection, empty on http. `repeats` says how many more refusals of the same
    second, address and reason have no record of their own (`Refusals`).

    Status 101 is a WebSocket, recorded at its end: `scheme` is then `ws` or `wss`, `bytes` what the viewer was sent
    over it, `request_bytes` the handshake and what the viewer sent after it, `reason` why the edge ended it or which
    side broke off.
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


class HitCounter:
    """Hits that count alike, under the names that `Counts` has for their requests and for their key.

    :param key: the key pair's id and the hash algorithm, None if no signature was needed.
    """

    __slots__ = ("hits", "key", "request", "sent", "taken_us")

    def __init__(self, distribution: str, key: tuple[str, str] | None) -> None:
        self.request = (distribution, 200, "Hit", "")
        self.key = None if key is None else (*key, distribution)
        self.hits = self.sent = self.taken_us = 0


class RecordTemplate:
    """What plans that are alike add to the access records of their hits on the fast path: the three pieces of JSON
    around what varies, and the counter of the hits.

    `spelled` says that the first piece holds the path already, because it cannot stand in JSON as it is. `plain` says
    that nothing about the viewer matters but the URL. `query_key` is what the URL's own query adds to the cache key.
    """

    __slots__ = ("counter", "first", "last", "middle", "plain", "query_key", "spelled")

    def __init__(
        self, parts: tuple[str, str, str], query_key: str, counter: HitCounter, *, plain: bool, spelled: bool
    ) -> None:
        self.first, self.middle, self.last = parts
        self.query_key = query_key
        self.counter = counter
        self.plain = plain
        self.spelled = spelled
