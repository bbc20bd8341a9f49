"""The access record of an exchange: one function creates it for all callers."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Final

import msgspec

from keyfront.edge.logs.access_log import LONGEST_AGENT, LONGEST_REFERER, AccessLog, shortened
from keyfront.edge.logs.ledger import CredentialLedger
from keyfront.edge.rules import redaction
from keyfront.edge.rules.redaction import loggable
from keyfront.edge.rules.routing import Route, Site
from keyfront.edge.semantics.websocket import WEBSOCKET
from keyfront.edge.serving.exchange import Exchange
from keyfront.edge.serving.log_record import is_logged, log_fields
from keyfront.edge.types.record import Record
from keyfront.signing.verify import Grant

LONGEST_EXPLANATION: Final = 500
"""Characters of an explanation that an access record holds: part of the text may come from an origin."""


def access_record(  # noqa: PLR0913 - the fields of a record, by keyword
    exchange: Exchange,
    *,
    status: int,
    sent: int,
    result: str,
    detail: str,
    reason: str = "",
    time_taken: float,
    country: Callable[[str], str],
) -> Record:
    """The record of a finished exchange.

    :param status: status of the reply, 0 if the viewer left before there was one.
    :param sent: bytes of the reply's body.
    :param result: CloudFront's x-edge-result-type.
    :param detail: CloudFront's x-edge-detailed-result-type.
    :param reason: the name of the rule that ended the request, if one did; by default the name of the refusal.
    :param time_taken: seconds from the request to the end of the reply.
    :param country: returns the country code of an address, empty if unknown; called if a distribution restricts
        countries.
    """
    request, plan, refusal = exchange.request, exchange.plan, exchange.refusal
    timings = exchange.timings
    path, _, query = request.target.partition("?")
    route: Route | None = None
    site: Site | None = None
    if plan is not None:
        route, site, query = plan.route, plan.route.site, loggable(plan)
    else:
        if refusal is not None:
            route, site = refusal.route, refusal.site
            reason = reason or refusal.name
        query = redaction.loggable_query(query)
    agent = referer = ""
    for name, value in request.headers:
        if name == b"user-agent":
            agent = shortened(value.decode("latin-1"), LONGEST_AGENT)
        elif name == b"referer":
            referer = shortened(value.decode("latin-1"), LONGEST_REFERER)
    # The required fields are positional: naming them too would add 1.3 µs to the struct's cost, as much as everything
    # else here.
    record = Record(
        exchange.now,
        exchange.request_id,
        request.client_ip,
        request.client_port,
        request.method,
        exchange.logged_scheme(status),
        request.host,
        path,
        query,
        request.version,
        status,
        sent,
        int(time_taken * 1e6),
        result,
        detail,
        distribution="" if site is None else site.distribution.id,
        behavior="" if route is None else route.behavior.path_pattern,
        request_bytes=request.wire_bytes + exchange.received,
        first_byte_us=int((timings.first_byte - timings.began) * 1e6) if timings.first_byte else 0,
        user_agent=agent,
        referer=referer,
        country=country(request.client_ip) if site is not None and site.geo is not None else "",
        reason=reason,
    )
    _add_verdict(record, exchange, route)
    if exchange.explanation:
        record.explanation = exchange.explanation[:LONGEST_EXPLANATION]
    elif request.upgrade and request.upgrade != WEBSOCKET and not record.explanation:
        record.explanation = request.upgrade
    if request.tls is not None:
        record.ssl_protocol, record.ssl_cipher = request.tls
    return record


def _add_verdict(record: Record, exchange: Exchange, route: Route | None) -> None:
    """Add the verdict of the signature check, and the key that it is based on."""
    grant, refusal = exchange.grant, exchange.refusal
    if grant is not None:
        add_grant(record, grant, route)
        record.verify_us = int(exchange.timings.verify * 1e6)
    elif refusal is not None:
        record.verdict = "refused"
        denied = refusal.denied
        if denied is None:
            return
        record.reason = denied.denial.reason
        record.explanation = denied.detail
        record.verify_us = int(exchange.timings.verify * 1e6)
        _add_key(record, denied.key_pair_id, route)


def add_grant(record: Record, grant: Grant, route: Route | None) -> None:
    """Add the credentials of an allowed request."""
    record.verdict = "allowed"
    record.signed_by = grant.mode
    record.hash_algorithm = grant.hash_name
    record.remembered = grant.remembered
    _add_key(record, grant.key_pair_id, route)


def _add_key(record: Record, key_id: str, route: Route | None) -> None:
    record.key_pair_id = key_id
    if route is not None and route.keyring is not None:
        record.key_group = route.keyring.groups.get(key_id, "")


class AccessRecorder:
    """Writes one record per exchange to the access log.

    :param country: returns the country code of an address, empty if unknown.
    """

    def __init__(self, log: AccessLog, country: Callable[[str], str]) -> None:
        self.log = log
        self._country = country
        self._spool = log.spool

    def log_access(
        self, exchange: Exchange, status: int, sent: int, result: str, detail: str, reason: str = ""
    ) -> None:
        """Record that the reply was sent, or that the viewer has left (`detail` says so). The parameters are those of
        `access_record`. A health check is not recorded."""
        if exchange.health_check:
            return
        if self.log.ledger is not None and exchange.grant is not None and 0 < status < 400:
            self._count_use(self.log.ledger, exchange, exchange.grant, sent)
        record = access_record(
            exchange,
            status=status,
            sent=sent,
            result=result,
            detail=detail,
            reason=reason,
            time_taken=perf_counter() - exchange.timings.began,
            country=self._country,
        )
        if self._spool is not None:
            plan, refusal = exchange.plan, exchange.refusal
            site = plan.route.site if plan is not None else None if refusal is None else refusal.site
            if site is not None and is_logged(site, exchange.request, everything=self._spool.everything):
                line = msgspec.json.encode(record)[:-1].decode()
                self._spool.add(f"{line}{log_fields(exchange, site.distribution)}}}\n")
        self.log.add(record)

    @staticmethod
    def _count_use(ledger: CredentialLedger, exchange: Exchange, grant: Grant, sent: int) -> None:
        plan, request = exchange.plan, exchange.request
        distribution = "" if plan is None else plan.route.site.distribution.id
        ledger.pending.append((grant, request.client_ip, request, distribution, sent))
