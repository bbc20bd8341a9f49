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

from math import inf
from time import perf_counter
from typing import NamedTuple

import msgspec

from keyfront.edge.logs.access_log import LONGEST_AGENT, LONGEST_REFERER, AccessLog, shortened
from keyfront.edge.rules.cache_key import key_suffix, query_part
from keyfront.edge.rules.geo_restriction import allowed
from keyfront.edge.rules.redaction import loggable
from keyfront.edge.rules.respond import is_unconditional
from keyfront.edge.rules.response_headers import ResponseHeaders
from keyfront.edge.rules.routing import Plan, Route
from keyfront.edge.serving.edge import Edge
from keyfront.edge.serving.exchange import Exchange
from keyfront.edge.types.messages import Request
from keyfront.edge.types.record import HitCounter, Record, RecordTemplate
from keyfront.edge.types.stored import Stored
from keyfront.errors import Denied, clear_traceback
from keyfront.signing.tables import Remembered
from keyfront.signing.verify import Grant, verify

SECTIONS_KEPT = 8192
SECTIONS_SIZE = 40 << 20
"""How many header sections are kept of those in use, and how many bytes of them; never more than twice as many."""
GLIMPSED = 65_536
"""How many header sections that came once are known by their hashes: what never comes again is not kept."""

MOST_SUFFIXES = 4
"""For how many behaviors a header section remembers what it adds to a cache key."""
MOST_READY = 2048
"""How many sorts of plans are held ready, 2 KB each at most."""

_LONGEST = {b"user-agent": LONGEST_AGENT, b"referer": LONGEST_REFERER}
_BEFORE = b'{"time":0.0,"request_id":"","client_ip":"","client_port":0,'
_PATH = b',"path":"'
_AFTER = b',"bytes":0,"time_taken_us":0,'
_AGES = [b"\r\nAge: %d\r\n\r\n" % age for age in range(3600)]


class CachedHeaderBlock:
    """A header section that was read before: of an HTTP/1.1 GET without a body that leaves its connection open.

    `request` is the one that it came with. `origin` is scheme and host as they stand before a target, `size` the bytes
    of the request beside its target. `client` is the viewer's address where a trusted proxy has told it, else empty:
    then it is the peer's. `told` is what it adds to an access record.
    """

    __slots__ = ("client", "grant", "granted", "number", "origin", "request", "size", "suffixes", "told")

    def __init__(self, request: Request, client: str) -> None:
        self.request = request
        self.origin = f"{request.scheme}://{request.host}"
        self.client = client
        self.size = request.wire_bytes - len(request.target)
        said = {
            name.decode().replace("-", "_"): shortened(value.decode("latin-1"), _LONGEST[name])
            for name, value in request.headers
            if name in _LONGEST
        }
        self.told = "".join([_member(name, value) for name, value in said.items() if value])
        self.grant: Grant | None = None  # the last one that its cookies gave, and that in an access record
        self.granted = ""
        self.number = -1  # of the snapshot that the suffixes belong to
        self.suffixes: dict[str, str] = {}
        """What it adds to a cache key, by distribution and path pattern."""

    def asking(self, target: str, caller: Caller) -> Request:
        """The request with this header section for another target, or from somebody else."""
        one = self.request
        return Request(
            "GET", target, one.host, one.headers, one.scheme, self.client or caller.address, caller.port, "1.1",
            one.cookie, None, one.length, self.size + len(target), caller.tls,
        )  # fmt: skip


def _section_bytes(section: CachedHeaderBlock) -> int:
    """What a header section takes beside its bytes, which are its key: each line once more, as an object, and what it
    adds to access records and cache keys."""
    request = section.request
    lines = sum([len(name) + len(value) + 200 for name, value in request.headers])
    cookie = (2 + MOST_SUFFIXES) * len(request.cookie)
    return 1500 + lines + cookie + len(section.told) + len(request.target)


class Caller:
    """Who is at the other end of a connection: address, port, and both with what TLS says as the log tells them."""

    __slots__ = ("address", "port", "tls", "told")

    def __init__(self, address: str, port: int, tls: tuple[str, str] | None) -> None:
        self.address = address
        self.port = port
        self.tls = tls
        self.told = self.tell(address)

    def tell(self, address: str) -> str:
        """The same for a viewer behind it."""
        told = f'"client_ip":{_text(address)},"client_port":{self.port}'
        if self.tls is not None:
            told += _member("ssl_protocol", self.tls[0]) + _member("ssl_cipher", self.tls[1])
        return told


class ViewerFields(NamedTuple):
    """What the viewer and its cookies come to: parts of the access record, and of the cache key."""

    who: str
    told: str
    tally: HitCounter
    key: str


class FastPath:
    """The quick way of one listener. `sections` finds by their bytes the header sections of earlier requests."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._log: AccessLog = edge.log
        self._number = -1  # of the snapshot that `_ready` belongs to
        self._ready: dict[tuple[str, ...], RecordTemplate] = {}
        self._glimpsed: set[int] = set()
        self._millisecond = 0
        self._moment = ""
        self.sections: Remembered[CachedHeaderBlock] = Remembered(
            SECTIONS_KEPT, SECTIONS_SIZE, _section_bytes, edge.tables
        )

    def learn(self, section: bytes, request: Request, client: str = "") -> None:
        """Remember a header section, from the line break that ends the request line to the empty line: the one that
        `request` came with, which was not refused. What was read must have held nothing but this one request, without a
        body."""
        glimpse = hash(section)
        if glimpse not in self._glimpsed:
            if len(self._glimpsed) >= GLIMPSED:
                self._glimpsed.clear()
            self._glimpsed.add(glimpse)
        elif is_unconditional(request) and not self._edge.settings.cache_status:
            self.sections.put(section, CachedHeaderBlock(request, client))

    def answer(
        self, section: CachedHeaderBlock, target: str, caller: Caller
    ) -> tuple[Stored, bytes, bytes, ResponseHeaders | None] | None:
        """What answers a request with this header section for this target: a stored response, the request's id, the
        Age that ends its head, and the policy for the rest of it. The access record is left."""
        began = perf_counter()
        edge = self._edge
        plan = edge.routing.plans.get(section.origin + target)
        if plan is None:
            return None
        ready = plan.ready
        if ready is None:
            ready = self._prepare(plan, section, target)
            if ready is None:
                return None
        now = edge.clock()
        if ready.plain and now < plan.until and not section.client:
            who, told, tally = caller.told, section.told, ready.tally
            key = plan.key
        else:
            judged = self._judge(plan, ready, section, target, caller, now)
            if judged is None:
                return None
            who, told, tally, key = judged
        stored = edge.memory.look(key)  # type: ignore[arg-type]  # a plan that is ready has a key
        if stored is None or now >= stored.quick_until:
            return None
        request_id = edge.request_id()
        self._leave(request_id, plan, ready, section, target, who, told, tally, len(stored.body), now, began)
        return stored, request_id.encode(), aged(stored, now), plan.route.response_headers

    def tell(self, exchange: Exchange, section: CachedHeaderBlock, caller: Caller) -> bool:
        """Leave the access record of a hit that was decided the long way, if it can be done here."""
        plan, stored, grant = exchange.plan, exchange.hit, exchange.grant
        if plan is None or stored is None or plan.route.site.geo is not None:
            return False
        target = exchange.request.target
        ready = plan.ready or self._prepare(plan, section, target)
        if ready is None:
            return False
        verify_us = int(exchange.verify_s * 1e6)
        who = caller.tell(section.client) if section.client else caller.told
        told, tally = f'{section.told},"verify_us":{verify_us}', ready.tally
        if plan.grant is None and grant is not None:
            told += _granted(grant, plan.route)
            tally = self._tally(plan.route, grant)
        size, now, began = len(stored.body), exchange.now, exchange.began
        self._leave(exchange.request_id, plan, ready, section, target, who, told, tally, size, now, began)
        self._log.counts.verify_us += verify_us
        return True

    def _leave(
        self,
        request_id: str,
        plan: Plan,
        ready: RecordTemplate,
        section: CachedHeaderBlock,
        target: str,
        who: str,
        told: str,
        tally: HitCounter,
        size: int,
        now: float,
        began: float,
    ) -> None:
        millisecond = int(now * 1000)
        if millisecond != self._millisecond:
            self._millisecond = millisecond
            self._moment = f'{{"time":{millisecond / 1000:.3f},"request_id":"'
        path = "" if ready.spelled else target[: plan.path_length]
        taken = int((perf_counter() - began) * 1e6)
        tally.hits += 1
        tally.sent += size
        tally.taken_us += taken
        self._log.hit(
            f'{self._moment}{request_id}",{who}{ready.first}{path}{ready.middle}{size},"time_taken_us":{taken},'
            f'"request_bytes":{section.size + len(target)}{told}{ready.last}'
        )

    def _judge(
        self,
        plan: Plan,
        ready: RecordTemplate,
        section: CachedHeaderBlock,
        target: str,
        caller: Caller,
        now: float,
    ) -> ViewerFields | None:
        """The questions whose answers depend on the viewer: country, dates and address, cookies, what of it is in the
        cache key. None: no, or not here."""
        edge, route = self._edge, plan.route
        who, client = caller.told, caller.address
        if section.client:
            client = section.client
            who = caller.tell(client)
        told, tally = section.told, ready.tally
        if route.site.geo is not None:
            country = edge.country(client)
            if not allowed(route.site.geo, country):
                return None
            if country:
                told += _member("country", country)
        try:
            if plan.grant is not None:
                plan.grant.judge(client, now)
            elif route.keyring is not None:
                request = section.request
                grant = verify(
                    request.scheme, request.host, target, request.cookie, route.keyring, client, now
                )
                if grant is not section.grant:
                    self._log.counts.accepted(grant.key_pair_id, grant.expires, now)
                    section.grant = grant
                    section.granted = _granted(grant, route)
                told += section.granted
                tally = self._tally(route, grant)
        except Denied as denied:
            clear_traceback(denied)
            return None
        key = plan.key or ""
        if route.selects:
            if section.number != edge.routing.number:
                section.number = edge.routing.number
                section.suffixes.clear()
            suffix = section.suffixes.get(route.name)
            if suffix is None:
                if len(section.suffixes) >= MOST_SUFFIXES:
                    section.suffixes.clear()
                suffix = section.suffixes[route.name] = key_suffix(route.behavior, section.request, "")
            key += ready.query_key + suffix
        return ViewerFields(who, told, tally, key)

    def _prepare(self, plan: Plan, section: CachedHeaderBlock, target: str) -> RecordTemplate | None:
        """Make a plan ready, if the quick way is open to it."""
        route, grant = plan.route, plan.grant
        if plan.key is None or not route.quick:
            return None
        path, query = target.partition("?")[0], loggable(plan)
        query_key = query_part(route.behavior, plan.query) if plan.query else ""
        plan.path_length = len(path)
        if grant is not None:
            plan.until = grant.expires if grant.simple else 0.0
        else:
            plan.until = inf if route.keyring is None else 0.0
        number = self._edge.routing.number
        if self._number != number or len(self._ready) >= MOST_READY:
            self._number = number
            self._ready.clear()
        spelled = bool(query) or msgspec.json.encode(path) != b'"%b"' % path.encode()
        if spelled or query_key:
            ready = self._make(plan, section, path, query, query_key)
        else:
            name: tuple[str, ...] = (section.origin, route.name)
            if grant is not None:
                name += (grant.key_pair_id, grant.hash_name, "again" if grant.remembered else "")
            found = self._ready.get(name)
            if found is None:
                found = self._ready[name] = self._make(plan, section, "", "", "")
            ready = found
        plan.ready = ready
        return ready

    def _make(
        self, plan: Plan, section: CachedHeaderBlock, path: str, query: str, query_key: str
    ) -> RecordTemplate:
        route, grant, request = plan.route, plan.grant, section.request
        site = route.site
        record = Record(
            0.0, "", "", 0, "GET", request.scheme, request.host, path, query, "1.1", 200, 0, 0, "Hit", "Hit",
            site.distribution.id, route.behavior.path_pattern,
        )  # fmt: skip
        text = msgspec.json.encode(record)
        # No mark can be part of a value: a quotation mark inside one is escaped. The first part ends with the path.
        start, mark, rest = text.removeprefix(_BEFORE).partition(_PATH)
        written = msgspec.json.encode(path)[1:-1]
        middle, _, last = rest.removeprefix(written).partition(_AFTER)
        granted = "" if grant is None else _granted(grant, route)
        parts = (
            "," + (start + mark + written).decode(),
            middle.decode() + ',"bytes":',
            granted + "," + last.decode() + "\n",
        )
        plain_ = site.geo is None and not route.selects
        return RecordTemplate(parts, query_key, self._tally(route, grant), plain=plain_, spelled=bool(path))

    def _tally(self, route: Route, grant: Grant | None) -> HitCounter:
        key = None if grant is None else (grant.key_pair_id, grant.hash_name)
        return self._log.tally(route.site.distribution.id, key)


def aged(stored: Stored, now: float) -> bytes:
    """Age as it ends the head of an answer from memory."""
    age = int(now - stored.born)
    return _AGES[age] if 0 <= age < len(_AGES) else b"\r\nAge: %d\r\n\r\n" % max(age, 0)


def _text(value: str) -> str:
    return msgspec.json.encode(value).decode()


def _member(name: str, value: str) -> str:
    return f',"{name}":{_text(value)}'


def _granted(grant: Grant, route: Route) -> str:
    group = route.keyring.groups.get(grant.key_pair_id, "") if route.keyring is not None else ""
    return "".join(
        (
            ',"verdict":"allowed"',
            _member("signed_by", grant.mode),
            _member("key_pair_id", grant.key_pair_id),
            _member("key_group", group) if group else "",
            _member("hash_algorithm", grant.hash_name),
            ',"remembered":true' if grant.remembered else "",
        )
    )
