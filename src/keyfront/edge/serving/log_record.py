"""What the record of a request in a standard log contains beyond its access record (`LogRecord`), as members of a JSON
object that begin with a comma.

Nothing is formatted for the standard log while a viewer waits: the edge appends these records to a file (`logs.spool`),
and another process writes the log from them (`logs.delivery`).
"""

from __future__ import annotations

import os
import re
from typing import Final

import msgspec

from keyfront.edge.rules.routing import Site
from keyfront.edge.serving.exchange import Exchange
from keyfront.edge.types.messages import Header, Request
from keyfront.edge.types.shield import SHIELD
from keyfront.edge.types.stored import Stored
from keyfront.model.snapshot import Distribution

LONGEST: Final = 8192
"""Characters of a header's value in a record. No viewer's header section is much longer."""
_RANGE: Final = re.compile(rb"bytes (\d{1,18})-(\d{1,18})/", re.IGNORECASE)
_PROCESS: Final = os.urandom(9).hex()


def text_member(name: str, value: str) -> str:
    """One member; nothing if the value is empty."""
    return f',"{name}":{msgspec.json.encode(value).decode()}' if value else ""


def is_logged(site: Site, request: Request, *, everything: bool) -> bool:
    """Whether a request for this distribution belongs into a standard log. Requests of other edges do not: the edge
    that the viewer is connected to records them.

    :param everything: whether this machine delivers the requests of all distributions.
    """
    return (everything or bool(site.distribution.log_bucket)) and request.scheme != SHIELD


def distribution_fields(one: Distribution) -> str:
    """The members that are the same for all requests of a distribution."""
    return (
        text_member("domain", one.domain_name)
        + text_member("bucket", one.log_bucket)
        + text_member("prefix", one.log_prefix)
    )


def request_fields(request: Request, *, cookies: bool) -> str:
    """The members that follow from the header section of a request.

    :param cookies: whether the distribution's log contains cookies.
    """
    forwarded = b", ".join([value for name, value in request.headers if name == b"x-forwarded-for"])
    fields = text_member("forwarded_for", forwarded.decode("latin-1")[:LONGEST])
    if cookies:
        fields += text_member("cookie", request.cookie[:LONGEST])
    return fields


def query_field(query: str) -> str:
    """The member for the query as sent, with its signature."""
    if not query:
        return ""
    if '"' in query or "\\" in query:
        return text_member("raw_query", query)
    return f',"raw_query":"{query}"'


def connection_field(number: int) -> str:
    """The member that identifies a viewer's connection, over all processes."""
    return f',"connection_id":"{_PROCESS}{number:x}"'


def stored_fields(stored: Stored) -> str:
    """The members that follow from a stored response that is sent unchanged, whole."""
    if not stored.log_fields:
        stored.log_fields = _response_fields(stored.meta.headers, stored.length)
    return stored.log_fields


def log_fields(exchange: Exchange, distribution: Distribution) -> str:
    """All members, for an exchange that has ended."""
    request = exchange.request
    fields = (
        distribution_fields(distribution)
        + query_field(request.target.partition("?")[2])
        + request_fields(request, cookies=distribution.log_cookies)
        + connection_field(request.connection)
    )
    if exchange.hit is not None and exchange.head_bytes:
        fields += stored_fields(exchange.hit)
    elif exchange.reply is not None:
        fields += _response_fields(exchange.reply.headers, exchange.reply.length)
    upstream = exchange.timings.upstream
    if upstream is not None:
        fields += f',"origin_first_us":{int(sum(upstream) * 1e6)}'
    return f'{fields},"head_bytes":{exchange.head_bytes}'


def _response_fields(headers: list[Header] | tuple[Header, ...], length: int | None) -> str:
    fields = "" if length is None else f',"content_length":{length}'
    for name, value in headers:
        if name == b"content-type":
            fields += text_member("content_type", value.decode("latin-1")[:LONGEST])
        elif name == b"content-range" and (found := _RANGE.match(value)) is not None:
            fields += f',"range_start":{int(found[1])},"range_end":{int(found[2])}'
    return fields
