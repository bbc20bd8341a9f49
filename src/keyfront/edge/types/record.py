"""The access record."""

from __future__ import annotations

import msgspec


class Record(msgspec.Struct, gc=False, omit_defaults=True):
    """What is known of one request when its answer is out. `time` is epoch seconds, `_us` are microseconds.

    `verdict` is `allowed`, `refused` or empty (no signature needed); `reason` names a refusal: a denial's name or
    another rule's; `signed_by` is `url` or `cookies`; `verify_us` the time spent on routing and on the signature, not
    told of a request that was like one before (`quick`);
    `result` CloudFront's x-edge-result-type and `detail` its x-edge-detailed-result-type. `status` 0: the viewer
    left before there was one. 101 is a WebSocket, recorded at its end: `scheme` is then `ws` or `wss`, `bytes` is what
    the viewer was sent over it, `request_bytes` the handshake and what the viewer sent after it, `reason` why the edge
    ended it or which side broke off. `repeats` says how many more refusals like this one, of the same second, address
    and reason, have no record of their own (`Refusals`). `ssl_protocol` and `ssl_cipher` are of the viewer's
    connection, empty on http.
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
    """What hits that count alike are counted as: the names that `Counts` has for a request and for its key."""

    __slots__ = ("hits", "key", "request", "sent", "taken_us")

    def __init__(self, distribution: str, key: tuple[str, str] | None) -> None:
        self.request = (distribution, 200, "Hit", "")
        self.key = None if key is None else (*key, distribution)
        self.hits = self.sent = self.taken_us = 0


class RecordTemplate:
    """What plans that are alike add to the quick way: the three parts of an access record around what varies, and what
    their hits are counted as.

    `spelled` says that the path stands in the first part already, because it cannot stand in JSON as it is. Where
    `plain` is true nothing of the viewer matters but what it asks for. `query_key` is what the URL's own query adds to
    the cache key.
    """

    __slots__ = ("first", "last", "middle", "plain", "query_key", "spelled", "tally")

    def __init__(
        self, parts: tuple[str, str, str], query_key: str, tally: HitCounter, *, plain: bool, spelled: bool
    ) -> None:
        self.first, self.middle, self.last = parts
        self.query_key = query_key
        self.tally = tally
        self.plain = plain
        self.spelled = spelled
