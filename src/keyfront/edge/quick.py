"""The quick way: a request like one before, answered from memory.

Most requests are like an earlier one. A viewer's requests over one connection have the same header section, byte for
byte, and what is popular is asked for by the same target. So the header section of a request without a body, once
llhttp has read it, is remembered as it was sent (`Section`), with what follows from it alone; and a plan is remembered
by its URL (`decide`). Where both are found again nothing is left to parse. What depends on the moment or on the viewer
is judged as on the long way: country, dates, address, cookies, whether the stored response is still fresh. Wherever
the quick way does not know how to go on it answers None, having changed nothing, and the request takes the long way.
It never refuses.

The access record of such a request is put together from pieces made ahead, by the encoder of all the others.
"""

from __future__ import annotations

from time import perf_counter

import msgspec

from keyfront.edge.accesslog import AccessLog, Record, Tally
from keyfront.edge.decide import loggable
from keyfront.edge.edge import Edge
from keyfront.edge.exchange import Plan, Request, Stored
from keyfront.edge.forward import key_suffix, query_part
from keyfront.edge.geo import allowed
from keyfront.edge.respond import plain
from keyfront.edge.routing import Route
from keyfront.errors import Denied, spent
from keyfront.signing.verify import Grant, Remembered, verify

SECTIONS_KEPT = 16_384
SECTIONS_SIZE = 16 << 20
"""How many header sections are kept of those in use, and how many bytes of them; never more than twice as many."""

_BEFORE = b'{"time":0.0,"request_id":"","client_ip":"","client_port":0,'
_BETWEEN = b',"bytes":0,"time_taken_us":0,'


class Section:
    """A header section that was read before: of an HTTP/1.1 GET without a body that leaves its connection open.

    `request` is the one that it came with. `origin` is scheme and host as they stand before a target, `size` the bytes
    of the request beside its target. `client` is the viewer's address where a trusted proxy has told it, else empty:
    then it is the peer's. `told` is what it adds to an access record.
    """

    __slots__ = (
        "client",
        "cookie",
        "grant",
        "granted",
        "host",
        "number",
        "origin",
        "request",
        "size",
        "suffixes",
        "told",
    )

    def __init__(self, request: Request, client: str) -> None:
        self.request = request
        self.host = request.host
        self.origin = f"{request.scheme}://{request.host}"
        self.cookie = request.cookie
        self.client = client
        self.size = request.wire_bytes - len(request.target)
        said = {
            name.decode().replace("-", "_"): value.decode("latin-1")
            for name, value in request.headers
            if name in (b"user-agent", b"referer")
        }
        self.told = b"".join(_member(name, value) for name, value in said.items() if value)
        self.grant: Grant | None = None  # the last one that its cookies gave, and that in an access record
        self.granted = b""
        self.number = -1  # of the snapshot that the suffixes belong to
        self.suffixes: dict[str, str] = {}
        """What it adds to a cache key, by distribution and path pattern."""


class Caller:
    """Who is at the other end of a connection: address, port, and both with what TLS says as the log tells them."""

    __slots__ = ("address", "port", "tls", "told")

    def __init__(self, address: str, port: int, tls: tuple[str, str] | None) -> None:
        self.address = address
        self.port = port
        self.tls = tls
        self.told = self.tell(address)

    def tell(self, address: str) -> bytes:
        """The same for a viewer behind it."""
        told = b'"client_ip":%b,"client_port":%d' % (msgspec.json.encode(address), self.port)
        if self.tls is not None:
            told += _member("ssl_protocol", self.tls[0]) + _member("ssl_cipher", self.tls[1])
        return told


class Ready:
    """What a plan adds to the quick way, made at its first use: `record` is a `%` template for the access record,
    `query_key` what the URL's own query adds to the cache key, `tally` what its hits are counted as."""

    __slots__ = ("query_key", "record", "tally")

    def __init__(self, record: bytes, query_key: str, tally: Tally) -> None:
        self.record = record
        self.query_key = query_key
        self.tally = tally


class Quick:
    """The quick way of one listener. `sections` finds by their bytes the header sections of earlier requests."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._log: AccessLog = edge.log
        self.sections: Remembered[Section] = Remembered(SECTIONS_KEPT, SECTIONS_SIZE)

    def learn(self, section: bytes, request: Request, client: str = "") -> None:
        """Remember a header section, from the line break that ends the request line to the empty line: the one that
        `request` came with. What was read must have held nothing but this one request, without a body."""
        if plain(request) and not self._edge.settings.cache_status:
            self.sections.put(section, Section(request, client))

    def answer(self, section: Section, target: str, caller: Caller) -> tuple[str, Stored, int] | None:
        """A request with this header section for this target: its id, what to answer it with, and Age in seconds.
        Its access record is left."""
        began = perf_counter()
        edge = self._edge
        routing = edge.routing
        plan = routing.plans.get(section.origin + target)
        if plan is None:
            return None
        key = plan.key
        route = plan.route
        if key is None or not route.quick:
            return None
        now = edge.clock()
        who = caller.told
        client = caller.address
        if section.client:
            client = section.client
            who = caller.tell(client)
        told = section.told
        geo = route.site.geo
        if geo is not None:
            country = edge.country(client)
            if not allowed(geo, country):
                return None
            if country:
                told += _member("country", country)
        grant = plan.grant
        if grant is not None:
            if now >= grant.expires or not grant.simple:
                try:
                    grant.judge(client, now)
                except Denied as denied:
                    spent(denied)
                    return None
        elif route.keyring is not None:
            request = section.request
            try:
                grant = verify(
                    request.scheme, section.host, target, section.cookie, route.keyring, client, now
                )
            except Denied as denied:
                spent(denied)
                return None
            if grant is not section.grant:
                section.grant = grant
                section.granted = _granted(grant, route)
            told += section.granted
        decided = perf_counter()
        ready = plan.ready
        if ready is None:
            ready = plan.ready = self._ready(plan, section, target)
        if route.selects:
            if section.number != routing.number:
                section.number = routing.number
                section.suffixes.clear()
            name = route.name
            suffix = section.suffixes.get(name)
            if suffix is None:
                suffix = section.suffixes[name] = key_suffix(route.behavior, section.request, "")
            key = key + ready.query_key + suffix
        stored = edge.memory.look(key)
        if stored is None or now >= stored.quick_until:
            return None
        request_id = edge.request_id()
        meta = stored.meta
        age = int(now - meta.stored_at + meta.initial_age)
        size = len(stored.body)
        taken = int((perf_counter() - began) * 1e6)
        verify_us = int((decided - began) * 1e6)
        tally = ready.tally
        if grant is not None and plan.grant is None:
            tally = self._tally(route, grant)
        record = ready.record % (
            now, request_id.encode(), who, size, taken, section.size + len(target), verify_us, told,
        )  # fmt: skip
        self._log.hit(record, tally, size, taken, verify_us)
        return request_id, stored, age if age > 0 else 0

    def _ready(self, plan: Plan, section: Section, target: str) -> Ready:
        """The pieces that depend on the plan alone."""
        route, grant = plan.route, plan.grant
        distribution = route.site.distribution.id
        record = Record(
            0.0, "", "", 0, "GET", section.request.scheme, section.host, target.partition("?")[0], loggable(plan),
            "1.1", 200, 0, 0, "Hit", "Hit", distribution, route.behavior.path_pattern,
        )  # fmt: skip
        text = msgspec.json.encode(record)
        assert text.startswith(_BEFORE)  # noqa: S101 - the order of Record's members
        # Neither mark can be part of a value: a quotation mark inside one is escaped.
        first, _, last = text[len(_BEFORE) : -1].replace(b"%", b"%%").partition(_BETWEEN)
        granted = b"" if grant is None else _granted(grant, route).replace(b"%", b"%%")
        template = (
            b'{"time":%.6f,"request_id":"%b",%b,' + first + b',"bytes":%d,"time_taken_us":%d,' + last
            + b',"request_bytes":%d,"verify_us":%d%b' + granted + b"}\n"
        )  # fmt: skip
        return Ready(template, query_part(route.behavior, plan.query), self._tally(route, grant))

    def _tally(self, route: Route, grant: Grant | None) -> Tally:
        key = None if grant is None else (grant.key_pair_id, grant.hash_name)
        return self._log.tally(route.site.distribution.id, key)


def _member(name: str, value: str) -> bytes:
    return b',"%b":%b' % (name.encode(), msgspec.json.encode(value))


def _granted(grant: Grant, route: Route) -> bytes:
    group = route.keyring.groups.get(grant.key_pair_id, "") if route.keyring is not None else ""
    return b"".join(
        (
            b',"verdict":"allowed"',
            _member("signed_by", grant.mode),
            _member("key_pair_id", grant.key_pair_id),
            _member("key_group", group) if group else b"",
            _member("hash_algorithm", grant.hash_name),
            b',"remembered":true' if grant.remembered else b"",
        )
    )
