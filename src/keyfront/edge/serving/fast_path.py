"""The fast path: a request that resembles an earlier one is answered from memory, without parsing it.

Most requests resemble an earlier one. A viewer's requests over one connection have the same header section, byte for
byte, and popular content is requested by the same target. Two things are therefore cached: the header section of a
request without a body, as it was sent, once it has been parsed (`CachedHeaderBlock`), with everything that follows
from it alone; and the plan of each URL (`decide`). If both are found, nothing is left to parse. Over HTTP/2,
`http.http2_known` finds the header section, though its bytes depend on earlier requests. Whatever depends on the
time or the viewer is checked as on the slow path: country, dates, address, cookies, and whether the stored response is
still fresh. Wherever the fast path cannot go on, it returns None without having changed anything, and the request takes
the slow path. It never refuses a request.

The access record of such a request is assembled from prebuilt pieces of JSON. They are cut from a record made by
`access_record`, like all other records.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from math import inf
from time import perf_counter
from typing import Final, NamedTuple

import msgspec

from keyfront.edge.logs.access_log import LONGEST_AGENT, LONGEST_REFERER, AccessLog, shortened
from keyfront.edge.rules.cache_key import key_suffix, query_part
from keyfront.edge.rules.geo_restriction import allowed
from keyfront.edge.rules.redaction import loggable
from keyfront.edge.rules.respond import is_unconditional
from keyfront.edge.rules.response_headers import ResponseHeaders
from keyfront.edge.rules.routing import Plan, Route
from keyfront.edge.serving.access_record import access_record, add_grant
from keyfront.edge.serving.edge import Edge
from keyfront.edge.serving.exchange import Exchange, Timings
from keyfront.edge.serving.log_record import (
    connection_field,
    distribution_fields,
    is_logged,
    query_field,
    request_fields,
    stored_fields,
)
from keyfront.edge.types.messages import Request
from keyfront.edge.types.record import HitCounter, Record, RecordTemplate
from keyfront.edge.types.stored import Stored
from keyfront.errors import Denied, clear_traceback
from keyfront.signing.tables import Key, TwoGenerationCache
from keyfront.signing.verify import Grant, verify

MAX_SECTIONS: Final = 8192
MAX_SECTION_BYTES: Final = 40 << 20
"""The most header sections that each of the table's two generations holds, and the most bytes of them."""
MAX_SEEN_ONCE: Final = 65_536
"""Maximum number of hashes of header sections. A section is cached when it arrives a second time, since many never
do."""

MAX_SUFFIXES: Final = 4
"""For how many behaviors a header section caches its part of the cache key."""
MAX_TEMPLATES: Final = 2048
"""Maximum number of record templates shared among similar plans, at most 2 KB each."""

_LONGEST: Final = {b"user-agent": LONGEST_AGENT, b"referer": LONGEST_REFERER}
# The parts of an encoded record that vary from hit to hit, between its fixed pieces.
_BEFORE: Final = b'{"time":0.0,"request_id":"","client_ip":"","client_port":0,'
_PATH: Final = b',"path":"'
_VERSION: Final = "protocol_version"
_AFTER: Final = b',"bytes":0,"time_taken_us":0,'
_AGES: Final = [b"\r\nAge: %d\r\n\r\n" % age for age in range(3600)]


class CachedHeaderBlock:
    """A header section that was parsed before: of a GET without a body that keeps its connection open.

    `request` is the request that it arrived with. `origin` is scheme and host as they precede a target, `size` the
    request's bytes without its target. `client` is the viewer's address as reported by a trusted proxy; if it is empty,
    the viewer is the peer. `record_fields` is its part of an access record, as members of a JSON object.
    """

    __slots__ = (
        "client",
        "grant",
        "grant_fields",
        "http2",
        "log_fields",
        "number",
        "origin",
        "record_fields",
        "request",
        "size",
        "suffixes",
    )

    def __init__(self, request: Request, client: str) -> None:
        self.request = request
        self.origin = f"{request.scheme}://{request.host}"
        self.client = client
        self.http2 = request.version == "2.0"
        self.size = request.wire_bytes - len(request.target)
        logged = {
            name.decode().replace("-", "_"): shortened(value.decode("latin-1"), _LONGEST[name])
            for name, value in request.headers
            if name in _LONGEST
        }
        members = [_member(name, value) for name, value in logged.items() if value]
        self.record_fields = _member(_VERSION, request.version) + "".join(members)
        self.grant: Grant | None = None
        """The last grant from its cookies. `grant_fields` is the grant's part of an access record."""
        self.grant_fields = ""
        self.number = -1
        """The number of the snapshot that `suffixes` belong to."""
        self.suffixes: dict[str, str] = {}
        """Its part of a cache key, by distribution and path pattern."""
        self.log_fields: list[str | None] = [None, None]
        """Its part of a record for a standard log, without and with cookies."""

    def request_for(self, target: str, caller: Caller) -> Request:
        """The request with this header section for another target, or from another peer."""
        one = self.request
        return Request(
            "GET", target, one.host, one.headers, one.scheme, self.client or caller.address, caller.port,
            one.version, one.cookie, None, one.length, self.size + len(target), caller.tls, "", caller.number,
        )  # fmt: skip


def section_bytes(section: CachedHeaderBlock) -> int:
    """Bytes that a header section is charged in addition to its own bytes, which are its key: every line once more as
    an object, and its parts of access records and cache keys."""
    request = section.request
    lines = sum([len(name) + len(value) + 200 for name, value in request.headers])
    cookie = (3 + MAX_SUFFIXES) * len(request.cookie)
    return 1500 + lines + cookie + len(section.record_fields) + len(request.target)


_NUMBERS: Final = count(1)


class Caller:
    """The peer of a connection: its address and port, and the TLS protocol and cipher. `record_fields` holds all of
    that as members of an access record. `number` is the connection's, in this process."""

    __slots__ = ("address", "number", "port", "record_fields", "tls")

    def __init__(self, address: str, port: int, tls: tuple[str, str] | None) -> None:
        self.number = next(_NUMBERS)
        self.address = address
        self.port = port
        self.tls = tls
        self.record_fields = self.fields_of(address)

    def fields_of(self, address: str) -> str:
        """`record_fields` for a viewer whose address a trusted proxy reports."""
        fields = f'"client_ip":{_text(address)},"client_port":{self.port}'
        if self.tls is not None:
            fields += _member("ssl_protocol", self.tls[0]) + _member("ssl_cipher", self.tls[1])
        return fields


class ViewerFields(NamedTuple):
    """What the viewer and its cookies contribute: members of the access record, the counter of its hits, the cache
    key."""

    client: str
    section: str
    counter: HitCounter
    key: str


class FastPath:
    """The fast path of one listener. `sections` finds the header sections of earlier requests by their bytes."""

    def __init__(self, edge: Edge) -> None:
        self._active = edge.active
        self._memory = edge.memory
        self._clock = edge.clock
        self._country = edge.country
        self._new_request_id = edge.request_id
        self._log: AccessLog = edge.log
        self._spool = edge.log.spool
        self._ledger = edge.log.ledger
        self.tail_bytes = 0
        """Bytes of a hit's head between what the stored response determines and the request ID."""
        self._enabled = not edge.settings.cache_status
        self._number = -1  # the snapshot that `_templates` belong to
        self._templates: dict[tuple[str, ...], RecordTemplate] = {}
        self._seen_once: set[int] = set()
        self._millisecond = 0
        self._record_start = ""
        self.sections: TwoGenerationCache[CachedHeaderBlock] = TwoGenerationCache(
            MAX_SECTIONS, MAX_SECTION_BYTES, section_bytes, edge.tables
        )

    def learn(self, section: Key, request: Request, client: str = "") -> None:
        """Cache a header section: over HTTP/1.1, the bytes from the line break that ends the request line to the empty
        line; over HTTP/2, the header list without its path.

        :param request: the request that it arrived with. It had no body and was not refused, and nothing else was read
            together with it.
        :param client: the viewer's address, if a trusted proxy reports it.
        """
        fingerprint = hash(section)
        if fingerprint not in self._seen_once:
            if len(self._seen_once) >= MAX_SEEN_ONCE:
                self._seen_once.clear()
            self._seen_once.add(fingerprint)
        elif self._enabled and is_unconditional(request):
            self.sections.put(section, CachedHeaderBlock(request, client))

    def answer(
        self,
        section: CachedHeaderBlock,
        target: str,
        caller: Caller,
        room: float = inf,
        head_bytes: HeadBytes | None = None,
    ) -> tuple[Stored, bytes, float, ResponseHeaders | None] | None:
        """The response to a request with this header section for this target; its access record is then written. The
        result is a stored response, the request ID, the time (epoch seconds) that decides its age, and the response
        headers policy for the rest of the head. None if the request must take the slow path.

        :param room: bytes of a body up to which it can be sent now.
        :param head_bytes: returns the size of a hit's head; by default, of one over HTTP/1.1.
        """
        began = perf_counter()
        plan = self._active.routing.plans.get(section.origin + target)
        if plan is None:
            return None
        template = plan.record_template
        if template is None:
            template = self._prepare(plan, section, target)
            if template is None:
                return None
        now = self._clock()
        if template.plain and now < plan.until and not section.client:
            client, fields = caller.record_fields, section.record_fields
            counter = template.counters[section.http2]
            key = plan.key
        else:
            viewer = self._check_viewer(plan, template, section, target, caller, now)
            if viewer is None:
                return None
            client, fields, counter, key = viewer
        stored = self._memory.get_any_variant(key)  # type: ignore[arg-type]  # a plan with a template has a key
        if stored is None or now >= stored.fast_path_until or len(stored.body) > room:
            return None
        request_id = self._new_request_id()
        name, size = request_id.encode(), 0
        if template.log_fields is not None:
            measure = head_bytes or self._head_bytes
            size = measure(stored, name, now, plan.route.response_headers, section.request)
            if not size:
                return None
        line = self._write_record(
            request_id, plan, template, section, target, client, fields, counter, len(stored.body), now, began
        )
        if template.log_fields is not None:
            self._write_log_record(line, plan, template, section, target, stored, caller.number, size)
        ledger = self._ledger
        if (
            ledger is not None
            and (grant := plan.grant or (section.grant if counter.key else None)) is not None
        ):
            address = section.client or caller.address
            ledger.pending.append((grant, address, section.request, counter.distribution, len(stored.body)))
        return stored, name, now, plan.route.response_headers

    def _head_bytes(
        self, stored: Stored, request_id: bytes, now: float, policy: ResponseHeaders | None, request: Request
    ) -> int:
        start = _head_start(stored, policy, request)
        return start and start + self.tail_bytes + len(request_id) + len(aged(stored, now))

    def log_hit(self, exchange: Exchange, section: CachedHeaderBlock, caller: Caller) -> bool:
        """Write the access record of a hit that was decided on the slow path. Returns False if that is not possible
        here."""
        plan, stored, grant = exchange.plan, exchange.hit, exchange.grant
        if plan is None or stored is None or plan.route.site.geo is not None:
            return False
        target = exchange.request.target
        template = plan.record_template or self._prepare(plan, section, target)
        if template is None:
            return False
        verify_us = int(exchange.timings.verify * 1e6)
        client = caller.fields_of(section.client) if section.client else caller.record_fields
        fields, counter = f'{section.record_fields},"verify_us":{verify_us}', template.counters[section.http2]
        if plan.grant is None and grant is not None:
            fields += _grant_fields(grant, plan.route)
            counter = self._counter(plan.route, grant, section.request.version)
        size, now, began = len(stored.body), exchange.now, exchange.timings.began
        line = self._write_record(
            exchange.request_id, plan, template, section, target, client, fields, counter, size, now, began
        )
        if template.log_fields is not None:
            head_bytes = exchange.head_bytes
            self._write_log_record(line, plan, template, section, target, stored, caller.number, head_bytes)
        if grant is not None:
            self._log.counts.verified(verify_us)
            if self._ledger is not None:
                request = exchange.request
                self._ledger.pending.append((grant, request.client_ip, request, counter.distribution, size))
        return True

    def _write_record(  # noqa: PLR0913 - called for every hit: a value object would cost more than the record
        self,
        request_id: str,
        plan: Plan,
        template: RecordTemplate,
        section: CachedHeaderBlock,
        target: str,
        client: str,
        fields: str,
        counter: HitCounter,
        size: int,
        now: float,
        began: float,
    ) -> str:
        """Write the access record of a hit. Returns its line.

        :param client: the viewer's address and port, as members of a JSON object.
        :param fields: the parts that the header section and the viewer contribute, likewise.
        :param size: bytes of the body.
        """
        millisecond = int(now * 1000)
        if millisecond != self._millisecond:
            self._millisecond = millisecond
            self._record_start = f'{{"time":{millisecond / 1000:.3f},"request_id":"'
        path = "" if template.spelled else target[: plan.path_length]
        taken = int((perf_counter() - began) * 1e6)
        received = section.size + len(target)
        if not counter.hits:
            self._log.touched.append(counter)
        counter.hits += 1
        counter.sent += size
        counter.received += received
        counter.taken_us += taken
        line = (
            f'{self._record_start}{request_id}",{client}{template.first}{path}{template.middle}{size},'
            f'"time_taken_us":{taken},"request_bytes":{received}{fields}{template.last}'
        )
        self._log.hit(line)
        return line

    def _write_log_record(  # noqa: PLR0913 - called for every hit of a distribution with a standard log
        self,
        line: str,
        plan: Plan,
        template: RecordTemplate,
        section: CachedHeaderBlock,
        target: str,
        stored: Stored,
        connection: int,
        head_bytes: int,
    ) -> None:
        """Write the record of a hit for the standard log.

        :param line: its access record, a line of JSON.
        :param connection: the number of the viewer's connection.
        :param head_bytes: the size of the response's head.
        """
        spool = self._spool
        if spool is None:
            return
        cookies = template.log_cookies
        fields = section.log_fields[cookies]
        if fields is None:
            fields = section.log_fields[cookies] = request_fields(section.request, cookies=cookies)
        spool.add(
            f"{line[:-2]}{template.log_fields}{query_field(target[plan.path_length + 1 :])}{fields}"
            f'{connection_field(connection)}{stored_fields(stored)},"head_bytes":{head_bytes}}}\n'
        )

    def _check_viewer(
        self,
        plan: Plan,
        template: RecordTemplate,
        section: CachedHeaderBlock,
        target: str,
        caller: Caller,
        now: float,
    ) -> ViewerFields | None:
        """Check what depends on the viewer: the country, the grant's dates and address, the cookies, and the request's
        part of the cache key. Returns None if a check fails or its result is not known here."""
        route = plan.route
        client, address = caller.record_fields, caller.address
        if section.client:
            address = section.client
            client = caller.fields_of(address)
        fields, counter = section.record_fields, template.counters[section.http2]
        if route.site.geo is not None:
            country = self._country(address)
            if not allowed(route.site.geo, country):
                return None
            if country:
                fields += _member("country", country)
        try:
            if plan.grant is not None:
                plan.grant.judge(address, now)
            elif route.keyring is not None:
                request = section.request
                grant = verify(
                    request.scheme, request.host, target, request.cookie, route.keyring, address, now
                )
                if grant is not section.grant:
                    self._log.counts.accepted(grant.key_pair_id, grant.expires, now)
                    section.grant = grant
                    section.grant_fields = _grant_fields(grant, route)
                fields += section.grant_fields
                counter = self._counter(route, grant, section.request.version)
        except Denied as denied:
            clear_traceback(denied)
            return None
        key = plan.key or ""
        if route.selects:
            number = self._active.routing.number
            if section.number != number:
                section.number = number
                section.suffixes.clear()
            suffix = section.suffixes.get(route.name)
            if suffix is None:
                if len(section.suffixes) >= MAX_SUFFIXES:
                    section.suffixes.clear()
                suffix = section.suffixes[route.name] = key_suffix(route.behavior, section.request, "")
            key += template.query_key + suffix
        return ViewerFields(client, fields, counter, key)

    def _prepare(self, plan: Plan, section: CachedHeaderBlock, target: str) -> RecordTemplate | None:
        """Give a plan its template, if the fast path may serve it."""
        route, grant = plan.route, plan.grant
        if plan.key is None or not route.fast_path:
            return None
        path = target.partition("?")[0]
        query_key = query_part(route.behavior, plan.query) if plan.query else ""
        plan.path_length = len(path)
        if grant is not None:
            plan.until = grant.expires if grant.simple else 0.0
        else:
            plan.until = inf if route.keyring is None else 0.0
        number = self._active.routing.number
        if self._number != number or len(self._templates) >= MAX_TEMPLATES:
            self._number = number
            self._templates.clear()
        spelled = bool(loggable(plan)) or msgspec.json.encode(path) != b'"%b"' % path.encode()
        if spelled or query_key:
            template = self._make(plan, section, path, query_key)
        else:
            name: tuple[str, ...] = (section.origin, route.name)
            if grant is not None:
                name += (grant.key_pair_id, grant.hash_name, "again" if grant.remembered else "")
            found = self._templates.get(name)
            if found is None:
                found = self._templates[name] = self._make(plan, section, "", "")
            template = found
        plan.record_template = template
        return template

    def _make(self, plan: Plan, section: CachedHeaderBlock, path: str, query_key: str) -> RecordTemplate:
        """Cut the record of a hit into the pieces around the parts that vary.

        :param path: the path in the record; if it is empty, each hit fills in its own.
        """
        route, grant, request = plan.route, plan.grant, section.request
        exchange = Exchange(
            Request("GET", path, request.host, [], request.scheme, client_ip=""),
            "",
            0.0,
            Timings(0.0),
            plan,
            grant,
        )
        record = access_record(
            exchange, status=200, sent=0, result="Hit", detail="Hit", time_taken=0.0, country=_no_country
        )
        # No marker can be part of a value: a quotation mark inside a value is escaped. The first piece ends with the
        # path.
        start, mark, rest = msgspec.json.encode(record).removeprefix(_BEFORE).partition(_PATH)
        written = msgspec.json.encode(path)[1:-1]
        middle, _, last = rest.removeprefix(written).partition(_AFTER)
        middle = middle.replace(
            _member(_VERSION, exchange.request.version).encode(), b""
        )  # it is the section's
        parts = (
            "," + (start + mark + written).decode(),
            middle.decode() + ',"bytes":',
            "," + last.decode() + "\n",
        )
        plain = route.site.geo is None and not route.selects
        counters = self._counter(route, grant, "1.1"), self._counter(route, grant, "2.0")
        template = RecordTemplate(parts, query_key, counters, plain=plain, spelled=bool(path))
        if self._spool is not None and is_logged(route.site, request, everything=self._spool.everything):
            distribution = route.site.distribution
            template.log_fields = distribution_fields(distribution)
            template.log_cookies = distribution.log_cookies
        return template

    def _counter(self, route: Route, grant: Grant | None, version: str) -> HitCounter:
        key = None
        if grant is not None:
            group = "" if route.keyring is None else route.keyring.groups.get(grant.key_pair_id, "")
            key = (grant.key_pair_id, grant.hash_name, group)
        return self._log.hit_counter(route.site.distribution.id, key, version)


HeadBytes = Callable[[Stored, bytes, float, ResponseHeaders | None, Request], int]
"""Returns the size of the head of a stored response, for a request ID, a time in epoch seconds, a policy, and a
request. 0 if it is not known yet."""


def _head_start(stored: Stored, policy: ResponseHeaders | None, request: Request) -> int:
    """Bytes of the start of a hit's head, 0 if it was not made yet."""
    if policy is None:
        return len(stored.head)
    made = stored.policy_head
    if made is None or made[0] is not policy or made[1] != policy.dependencies_in(request):
        return 0
    return len(made[2])


def aged(stored: Stored, now: float) -> bytes:
    """The Age header that ends the head of a response from memory."""
    age = int(now - stored.born)
    return _AGES[age] if 0 <= age < len(_AGES) else b"\r\nAge: %d\r\n\r\n" % max(age, 0)


def _no_country(address: str) -> str:
    """Each hit adds its own viewer's country."""
    return ""


def _text(value: str) -> str:
    return msgspec.json.encode(value).decode()


def _member(name: str, value: str) -> str:
    return f',"{name}":{_text(value)}'


def _grant_fields(grant: Grant, route: Route) -> str:
    """A grant's part of an access record, as members of a JSON object."""
    record = Record(0.0, "", "", 0, "", "", "", "", "", "", 0, 0, 0, "", "")
    bare = len(msgspec.json.encode(record))
    add_grant(record, grant, route)
    return msgspec.json.encode(record)[bare - 1 : -1].decode()
