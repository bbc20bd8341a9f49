"""Fuzzer of processing cost: the work that an input causes stays proportional to its size, whatever its shape.

    python -m fuzz.cost [--seconds N] [--count N] [--seed N]

`SHAPES` are the forms that headers can take, `RULES` what the edge does with the headers of a request, `ANSWERS` what
it does with the headers of an origin's response, and `READERS` everything else that reads untrusted text: targets,
policies, cookies, ranges, API bodies. `tests/test_cost.py` runs each rule on each shape; the fuzzer mixes shapes at
random.

Two measures are taken:

- `opcodes`: the number of bytecode instructions of Keyfront's own code that run. It is the same in every run, so it can
  be compared exactly: four times the input may cost little more than four times the instructions.
- `seconds`: CPU time of this thread, for what happens below the bytecode (regular expressions, copies, searches). The
  best of several runs is compared with a ceiling that is far above linear work and far below quadratic work.
"""

from __future__ import annotations

import base64
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from fuzz.runner import Finding, inputs, main

import keyfront
from keyfront.control.iam import policy as iam
from keyfront.control.iam import wildcards
from keyfront.control.wire import codec, scalars, sigv4, sts, xml_body
from keyfront.edge.http.request_target import host_text, in_origin_form
from keyfront.edge.http.trusted_proxies import TrustedProxies
from keyfront.edge.rules import (
    cache_key,
    encoding,
    freshness,
    origin_request,
    redaction,
    respond,
    selection,
    slicing,
    vary,
    viewer_response,
)
from keyfront.edge.rules.invalidation import cache_tags
from keyfront.edge.rules.response_headers import ResponseHeaders, timed
from keyfront.edge.semantics import structured_fields
from keyfront.edge.semantics.header_limits import too_many_lines
from keyfront.edge.types.messages import Headers, Request
from keyfront.edge.types.stored import Meta
from keyfront.errors import ApiError, Denied, KeyLoadError, PolicyError
from keyfront.model.pattern import compile_pattern, normalise_path
from keyfront.model.snapshot import Behavior, Cors, Origin, ResponseHeader, ResponseHeadersPolicy, Select
from keyfront.signing.keys import cf_b64encode, load_public_key
from keyfront.signing.policy import parse_network, parse_policy
from keyfront.signing.resource import ResourcePattern
from keyfront.signing.sigv4 import EMPTY_SHA256
from keyfront.signing.verify import KeyRing, signing_cookies, split_query, verify

NOW = 1_800_000_000.0
COMPARED = 2_000, 8_000
"""Sizes in bytes of the two inputs whose instructions are compared."""
LARGEST = 5_000, 20_000
"""The same, for longer runs."""
LARGE = 20_000
"""Size in bytes of the input whose time is measured: the maximum size of a head."""
OPCODES_A_BYTE = 100
"""Maximum number of opcodes per byte: four times the cost in a plain request."""
GROWTH = 8.0
"""Maximum cost ratio for four times the input: 4, or twice that if the smaller input fits into a table of cached
results. Quadratic work would be 16."""
CEILING = 0.08
"""Maximum CPU seconds for `LARGE` bytes: 4 microseconds per byte. A plain request takes at least half of that per
byte."""

# -- measuring -----------------------------------------------------------------------------------------------------

_SOURCE = str(Path(keyfront.__file__).parent)


class TooDear(BaseException):
    """Work that exceeded its instruction limit and was stopped."""


def opcodes(work: Callable[[], object], most: int = 1 << 60) -> int:
    """The number of bytecode instructions of Keyfront's own modules that `work` runs.

    :raises TooDear: once it has run more than `most`.
    """
    count = 0

    def local(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        if event == "opcode":
            count += 1
            if count > most:
                raise TooDear
        return local

    def begin(frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(_SOURCE):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return local

    before = sys.gettrace()
    sys.settrace(begin)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def seconds(work: Callable[[], object], enough: float, rounds: int = 3) -> float:
    """CPU seconds of this thread: those of the first run that takes no more than `enough`, otherwise the minimum."""
    least = float("inf")
    for _ in range(rounds):
        began = time.thread_time()
        work()
        least = min(least, time.thread_time() - began)
        if least <= enough:
            break
    return least


# -- shapes of headers ---------------------------------------------------------------------------------------------

Shape = Callable[[int], Headers]
"""Returns headers of about the given number of bytes."""


def _lines(name: bytes, value: bytes) -> Shape:
    """The same line, repeated."""
    return lambda size: [(name, value)] * max(1, size // (len(name) + len(value) + 4))


def _different(name: bytes, value: Callable[[int], bytes]) -> Shape:
    """Lines of one name with different values."""

    def make(size: int) -> Headers:
        headers: Headers = []
        while size > 0:
            headers.append((name, value(len(headers))))
            size -= len(name) + len(headers[-1][1]) + 4
        return headers

    return make


def _one(name: bytes, piece: bytes, before: bytes = b"", after: bytes = b"") -> Shape:
    """One line that repeats a piece."""
    return lambda size: [(name, before + piece * (size // len(piece)) + after)]


def _members(name: bytes, member: Callable[[int], bytes], between: bytes = b",") -> Shape:
    """One line that lists different members."""

    def make(size: int) -> Headers:
        members: list[bytes] = []
        while size > 0:
            members.append(member(len(members)))
            size -= len(members[-1]) + len(between)
        return [(name, between.join(members))]

    return make


def _both(*shapes: Shape) -> Shape:
    return lambda size: [header for shape in shapes for header in shape(size // len(shapes))]


SHAPES: dict[str, Shape] = {
    "a browser's": lambda size: [(b"user-agent", b"Mozilla/5.0 " + b"x" * (size - 100)), (b"accept", b"*/*")],
    "connection lines": _lines(b"connection", b"x"),
    "connection lines with different options": _different(b"connection", lambda n: b"x%d" % n),
    "connection options": _members(b"connection", lambda n: b"x%d" % n),
    "connection options and the fields they name": lambda size: [
        (b"connection", b",".join([b"x%d" % n for n in range(size // 16)])),
        *[(b"x%d" % n, b"") for n in range(size // 16)],
    ],
    "unknown lines": _different(b"x", lambda n: b"%d" % n),
    "unknown names": lambda size: [(b"x%d" % n, b"") for n in range(size // 9)],
    "names with underscores": lambda size: [(b"x_%d" % n, b"") for n in range(size // 10)],
    "names with underscores that shadow": _lines(b"x_real_ip", b"1"),
    "accept-encoding lines": _lines(b"accept-encoding", b"gzip"),
    "accept-encoding members": _members(b"accept-encoding", lambda n: b"a%d;q=0.%d" % (n, n)),
    "accept-encoding weights": _one(b"accept-encoding", b"0", b"gzip;q=0."),
    "accept-encoding blanks": _one(b"accept-encoding", b" ", b"gzip;q=0", b"x"),
    "accept-encoding commas": _one(b"accept-encoding", b","),
    "accept-language members": _members(b"accept-language", lambda n: b"a%d;q=0.%d" % (n, n)),
    "cookie pairs": _members(b"cookie", lambda n: b"c%d=1" % n, b"; "),
    "cookie of semicolons": _one(b"cookie", b";"),
    "cookie names for the wildcards": _one(b"cookie", b"a", b"", b"=1"),
    "cookie lines": _lines(b"cookie", b"a=1"),
    "signing cookies": _one(b"cookie", b"CloudFront-Policy=a; "),
    "ranges": _members(b"range", lambda n: b"%d-%d" % (2 * n, 2 * n), b","),
    "range digits": _one(b"range", b"9", b"bytes=0-"),
    "range digits twice": _one(b"range", b"9", b"bytes=", b"-9x"),
    "range commas": _one(b"range", b",", b"bytes=", b"x"),
    "range blanks": _one(b"range", b" ", b"bytes", b"x"),
    "range zeros": _one(b"range", b"0", b"bytes=0-1", b"x"),
    "range lines": _lines(b"range", b"bytes=0-0"),
    "if-none-match tags": _members(b"if-none-match", lambda n: b'"%d"' % n),
    "if-none-match open quotes": _one(b"if-none-match", b'"a '),
    "if-none-match weak marks": _one(b"if-none-match", b"W/"),
    "if-match tags": _members(b"if-match", lambda n: b'W/"%d"' % n),
    "if-modified-since": _one(b"if-modified-since", b"Mon, "),
    "if-range": _one(b"if-range", b'"'),
    "x-forwarded-for chain": _members(b"x-forwarded-for", lambda n: b"10.0.%d.%d" % (n // 250, n % 250)),
    "x-forwarded-for lines": _lines(b"x-forwarded-for", b"10.0.0.1"),
    "x-forwarded-for commas": _one(b"x-forwarded-for", b","),
    "x-forwarded-for of colons": _one(b"x-forwarded-for", b":"),
    "x-forwarded-proto lines": _lines(b"x-forwarded-proto", b"http"),
    "via lines": _lines(b"via", b"1.1 a"),
    "via entries": _members(b"via", lambda n: b"1.1 %d.cloudfront.net (CloudFront)" % n),
    "origin": _one(b"origin", b"a.", b"https://"),
    "origin lines": _lines(b"origin", b"https://a"),
    "access-control-request-headers": _members(b"access-control-request-headers", lambda n: b"x-%d" % n),
    "access-control-request-headers of one letter": _one(b"access-control-request-headers", b"x,"),
    "pragma": _members(b"pragma", lambda n: b"server-timing%d" % n),
    "vary members": _members(b"vary", lambda n: b"x%d" % n),
    "vary members of those sent": lambda size: [
        (b"vary", b",".join([b"x%d" % n for n in range(size // 16)])),
        *[(b"x%d" % n, b"") for n in range(size // 16)],
    ],
    "vary lines": _lines(b"vary", b"a"),
    "vary stars": _one(b"vary", b"*,"),
    "cache-control directives": _members(b"cache-control", lambda n: b"a%d=1" % n),
    "cache-control max-ages": _one(b"cache-control", b"max-age=1,"),
    "cache-control lines": _lines(b"cache-control", b"a"),
    "cache-control fields": _members(b"cache-control", lambda n: b'no-cache="x%d"' % n),
    "cache-control private fields": _members(b"cache-control", lambda n: b'private="x%d"' % n),
    "cache-control field list": _members(b"cache-control", lambda n: b"x%d" % n),
    "cache-control open quotes": _one(b"cache-control", b'a="b,'),
    "cache-control escaped quotes": _one(b"cache-control", b'a="\\",'),
    "cache-control backslashes": _one(b"cache-control", b"\\", b'a="'),
    "cache-control blanks": _one(b"cache-control", b" ", b"max-age", b"="),
    "cache-control equal signs": _one(b"cache-control", b"="),
    "cache-control digits": _one(b"cache-control", b"9", b"max-age="),
    "cdn-cache-control": _members(b"cdn-cache-control", lambda n: b"a%d=1" % n),
    "cdn-cache-control parameters": _one(b"cdn-cache-control", b";a", b"max-age=1"),
    "cdn-cache-control inner list": _one(b"cdn-cache-control", b"1 ", b"a=(", b")"),
    "cdn-cache-control open string": _one(b"cdn-cache-control", b'\\"', b'a="'),
    "cdn-cache-control digits": _one(b"cdn-cache-control", b"9", b"max-age="),
    "cdn-cache-control blanks": _one(b"cdn-cache-control", b" ", b"a", b",b"),
    "cdn-cache-control tabs before nothing": _one(b"cdn-cache-control", b"\t", b"a,"),
    "set-cookie lines": _different(b"set-cookie", lambda n: b"c%d=1" % n),
    "location lines": _different(b"location", lambda n: b"/%d" % n),
    "location dots": _one(b"location", b"../", b"/"),
    "content-location lines": _different(b"content-location", lambda n: b"http://d.test/%d" % n),
    "link lines": _different(b"link", lambda n: b"</%d>" % n),
    "etag": _one(b"etag", b"a", b'"'),
    "age": _one(b"age", b"1,"),
    "dates": _one(b"date", b"Mon, 01 Jan 2024 "),
    "expires": _one(b"expires", b"9"),
    "content-type": _one(b"content-type", b"a/", b"", b";"),
    "content-range": _one(b"content-range", b"9", b"bytes 0-9/"),
    "server-timing lines": _lines(b"server-timing", b"a"),
    "accept-ranges lines": _lines(b"accept-ranges", b"none"),
    "many names at once": _both(
        _lines(b"connection", b"x"),
        _lines(b"accept-encoding", b"br"),
        _lines(b"via", b"a"),
        _members(b"cookie", lambda n: b"c%d=1" % n, b"; "),
    ),
}

# -- processing of headers -----------------------------------------------------------------------------------------

_NAMES = tuple(f"x-{n}" for n in range(10))
_KEYED = Behavior(
    "*",
    "o",
    key_headers=Select("whitelist", ("accept-language", "cloudfront-is-mobile-viewer", "origin", *_NAMES)),
    key_cookies=Select("whitelist", ("session", "a*b*c", "*?a?*", *(f"c*{n}" for n in range(7)))),
    key_query=Select("whitelist", _NAMES),
    forward_headers=Select("allExcept", ("x-not",)),
    forward_cookies=Select("allExcept", ("session", "a*b")),
    forward_query=Select("allExcept", _NAMES),
    accept_gzip=True,
    accept_brotli=True,
    compress=True,
)
_EVERYTHING = Behavior(
    "*",
    "o",
    legacy=True,
    key_headers=Select("all"),
    key_cookies=Select("all"),
    key_query=Select("all"),
    forward_headers=Select("all"),
    forward_cookies=Select("all"),
    forward_query=Select("all"),
)
_PLAIN = Behavior("*", "o", accept_gzip=True, accept_brotli=True)
_ORIGIN = Origin("o", "origin.test", custom_headers=tuple((f"X-Secret-{n}", "s") for n in range(10)))
_POLICY = ResponseHeaders(
    ResponseHeadersPolicy(
        "p",
        headers=(ResponseHeader("x-a", "1", False), ResponseHeader("x-b", "1", True)),
        remove=("server",),
        cors=Cors(("https://a.test", "*.b.test:*"), ("x-*", "content-type"), ("GET",)),
    )
)
_META = Meta(
    200,
    ((b"etag", b'"v"'), (b"content-type", b"text/plain")),
    stored_at=NOW,
    fresh_until=NOW + 60,
    date=NOW,
    etag=b'"v"',
    last_modified=b"Mon, 01 Jan 2024 00:00:00 GMT",
)
_PEERS = TrustedProxies(("10.0.0.0/8",))


def request(headers: Headers, target: str = "/a") -> Request:
    cookies = [value for name, value in headers if name == b"cookie"]
    return Request("GET", target, "d.test", headers, cookie=b"; ".join(cookies).decode("latin-1"))


Rule = Callable[[Headers], object]


def _sent(behavior: Behavior) -> Rule:
    return lambda headers: origin_request.origin_headers(
        behavior, _ORIGIN, request(headers), request_id="i" * 56, via="1.1 k"
    )


def _sliced(headers: Headers) -> None:
    try:
        slicing.first_range(request(headers), 1 << 22)
    except slicing.UnusableError:
        pass


RULES: dict[str, Rule] = {
    "the key": lambda headers: cache_key.key_suffix(_KEYED, request(headers), ""),
    "the key of everything": lambda headers: cache_key.key_suffix(_EVERYTHING, request(headers), ""),
    "the key without headers": lambda headers: cache_key.key_suffix(_PLAIN, request(headers), ""),
    "headers for the origin": _sent(_KEYED),
    "headers for the origin, legacy": _sent(_EVERYTHING),
    "accepted encoding": lambda headers: encoding.accepted_encoding(_KEYED, request(headers)),
    "length of the chain": lambda headers: origin_request.chained_too_long(request(headers)),
    "ranges and conditions": lambda headers: respond.answer(request(headers), _META, b"x" * 100, NOW),
    "slices wanted": _sliced,
    "response headers policy": lambda headers: _POLICY.applied(request(headers), 200, [(b"vary", b"a")]),
    "server timing": lambda headers: _POLICY.sends_server_timing(request(headers), 99.0),
    "the viewer behind a proxy": lambda headers: _PEERS.viewer("10.0.0.1", headers, "http"),
    "too many lines": too_many_lines,
    "what varies": lambda headers: vary.variant_values((b"accept", b"x1", b"x2", b"cookie"), headers),
    "signing cookies": lambda headers: signing_cookies(request(headers).cookie),
}
"""The processing of a request's headers."""


def _admitted(behavior: Behavior) -> Rule:
    return lambda headers: freshness.admit(
        behavior, None, "GET", freshness.ReceivedResponse(200, headers, headers, NOW - 1, NOW)
    )


ANSWERS: dict[str, Rule] = {
    "for the viewer": lambda headers: viewer_response.viewer_headers(_KEYED, headers),
    "for the viewer, legacy": lambda headers: viewer_response.viewer_headers(_EVERYTHING, headers),
    "admitted": _admitted(_KEYED),
    "admitted, legacy": _admitted(_EVERYTHING),
    "revalidated": lambda headers: freshness.revalidated(_KEYED, _META, headers, NOW, NOW - 1, headers),
    "changed targets": lambda headers: freshness.changed_targets("http", "d.test", "/a", headers),
    "compressed": lambda headers: encoding.represented(headers, b"gzip"),
    "compressible": lambda headers: encoding.compressible(_KEYED, 200, headers, 5000),
    "response headers policy": lambda headers: _POLICY.applied(request([]), 200, headers),
    "timed": lambda headers: timed(headers, "Miss", pop="p", request_id="i", taken=0.1, upstream=(0.1, 0.1)),
    "parts of it": lambda headers: respond.answer(
        request([(b"range", b"bytes=0-1,4-5,8-9")]),
        Meta(200, tuple(headers), stored_at=NOW, fresh_until=NOW, date=NOW),
        b"x" * 100,
        NOW,
    ),
}
"""The processing of the headers of an origin's response."""

# -- everything else that reads untrusted text ---------------------------------------------------------------------

Reader = tuple[Callable[[int], Any], Callable[[Any], object]]
"""A function that creates an input of about the given number of bytes, and the function that reads it."""


def quietly(read: Callable[[Any], object]) -> Callable[[Any], object]:
    """`read`, for input that may be refused, which is a valid outcome."""

    def run(text: Any) -> None:
        try:
            read(text)
        except (ApiError, PolicyError, KeyLoadError, Denied, ValueError, slicing.UnusableError):
            pass

    return run


_RING = KeyRing({})


def _policy(resource: str) -> bytes:
    return (
        b'{"Statement":[{"Resource":"%b","Condition":{"DateLessThan":{"AWS:EpochTime":1}}}]}'
        % resource.encode()
    )


def _matched(pattern: str, path: str) -> None:
    """Compile and match a policy's Resource. Only the holder of a trusted key gets this far."""
    ResourcePattern(pattern).matches("http", "d.test", path, "a=1")


def _judged(target: str) -> None:
    verify("http", "d.test", target, "", _RING, "192.0.2.1", NOW)


def _document(element: bytes, open_: bytes = b"<a>", close: bytes = b"</a>") -> Callable[[int], bytes]:
    return lambda size: open_ + element * (size // len(element)) + close


def _signed(headers: Callable[[int], list[tuple[bytes, bytes]]]) -> Callable[[int], Any]:
    return lambda size: ("GET", "/2020-05-31/distribution", "", [(b"host", b"h"), *headers(size)])


def _called(asked: Any) -> None:
    method, path, query, headers = asked
    request = sigv4.SignedRequest(method, path, query, headers, EMPTY_SHA256)
    sigv4.verify(request, lambda key: "s" * 40, NOW)


def _authorization(signed: bytes) -> bytes:
    return (
        b"AWS4-HMAC-SHA256 Credential=A/20270115/us-east-1/cloudfront/aws4_request, SignedHeaders=%b, Signature=%b"
        % (signed, b"0" * 64)
    )


_DATED = (b"x-amz-date", b"20270115T080000Z")


def _statement(member: str) -> Callable[[int], Any]:
    return lambda size: '{"Version":"2012-10-17","Statement":[%s]}' % (member % ("a" * (size - 100)))


READERS: dict[str, Reader] = {
    # targets
    "a plain target": (lambda size: b"/" + b"a" * (size // 3), in_origin_form),
    "a path of slashes": (lambda size: "/" * size, normalise_path),
    "a path of dots": (lambda size: "/.." * (size // 3), normalise_path),
    "a path of folders": (lambda size: "/a" * (size // 2) + "/..", normalise_path),
    "a path of escapes": (lambda size: "/" + "%41" * (size // 3), normalise_path),
    "a pattern of stars": (lambda size: "/" + "ab" * (size // 2), compile_pattern("/" + "*a" * 100 + "*c")),
    "a pattern of question marks": (
        lambda size: "/" + "a" * size,
        compile_pattern("/*" + "?" * 100 + "b*"),
    ),
    "a pattern of both": (lambda size: "/" + "a" * size, compile_pattern("/" + "*?a" * 80 + "*b")),
    "query parameters": (
        lambda size: "&".join(f"a{n}=1" for n in range(size // 8)),
        lambda query: cache_key.query_part(_KEYED, query),
    ),
    "query ampersands": (lambda size: "&" * size, lambda query: cache_key.query_part(_KEYED, query)),
    "query of all but some": (
        lambda size: "&".join(f"a{n}" for n in range(size // 7)),
        lambda query: selection.select_query(_KEYED.forward_query, query),
    ),
    "signing parameters": (lambda size: "Expires=1&" * (size // 10), split_query),
    "signing parameters, encoded": (lambda size: "Policy=" + "%41" * (size // 3), split_query),
    "a query for the log": (lambda size: "%45xpires=1&" * (size // 12), redaction.loggable_query),
    "a host": (lambda size: b"a." * (size // 2), host_text),
    "a host of blanks": (lambda size: b"a" + b" " * size + b"x", host_text),
    "an address": (lambda size: "1." * (size // 2), quietly(parse_network)),
    "an address of colons": (lambda size: ":" * size, quietly(parse_network)),
    # credentials
    "a signed URL": (
        lambda size: "/a?Policy=" + "a" * (size - 50) + "&Signature=a&Key-Pair-Id=K",
        quietly(_judged),
    ),
    "a signed URL of parameters": (
        lambda size: "/a?" + "x&" * (size // 2) + "Expires=1&Signature=a&Key-Pair-Id=K",
        quietly(_judged),
    ),
    "Expires of digits": (
        lambda size: "/a?Expires=" + "9" * size + "&Signature=a&Key-Pair-Id=K",
        quietly(_judged),
    ),
    "a policy": (lambda size: _policy("http://d/" + "a" * size), quietly(parse_policy)),
    "a policy, nested": (lambda size: b"[" * size, quietly(parse_policy)),
    "a policy, nested in a member": (
        lambda size: b'{"Statement":[{"x":' + b"[" * (size // 2) + b"]" * (size // 2) + b"}]}",
        quietly(parse_policy),
    ),
    "a policy with a long number": (
        lambda size: b'{"Statement":[{"Condition":{"DateLessThan":{"AWS:EpochTime":%b}}}]}' % (b"9" * size),
        quietly(parse_policy),
    ),
    "a policy with a long fraction": (
        lambda size: b'{"Statement":[{"Condition":{"DateLessThan":{"AWS:EpochTime":1.%b}}}]}' % (b"9" * size),
        quietly(parse_policy),
    ),
    "a policy with a large exponent": (
        lambda size: b'{"Statement":[{"Condition":{"DateLessThan":{"AWS:EpochTime":1e%b}}}]}' % (b"9" * size),
        quietly(parse_policy),
    ),
    "a policy with many statements": (
        lambda size: b'{"Statement":[' + b"{}," * (size // 3) + b"{}]}",
        quietly(parse_policy),
    ),
    "a policy with many members": (
        lambda size: b"{" + b",".join(b'"a%d":1' % n for n in range(size // 10)) + b"}",
        quietly(parse_policy),
    ),
    "a policy of escapes": (
        lambda size: _policy("http://d/" + "\\u0041" * (size // 6)),
        quietly(parse_policy),
    ),
    "a resource of stars": (
        lambda size: "http://*/" + "*a" * (size // 8),
        lambda pattern: _matched(pattern, "/" + "a" * 3 * len(pattern)),
    ),
    "a resource of question marks": (
        lambda size: "http://*/" + "?" * (size // 4),
        lambda pattern: _matched(pattern, "/" + "a" * 3 * len(pattern)),
    ),
    "a resource of both": (
        lambda size: "http://*/" + "*?a" * (size // 12) + "b",
        lambda pattern: _matched(pattern, "/" + "a" * 3 * len(pattern)),
    ),
    "a resource whose host is question marks": (
        lambda size: "http://*" + "?*" * (size // 4),
        lambda pattern: _matched(pattern, "/" + "a" * 2 * len(pattern)),
    ),
    # structured fields and numbers
    "a dictionary": (
        lambda size: [b",".join(b"a%d" % n for n in range(size // 6))],
        structured_fields.parse_dictionary,
    ),
    "a dictionary of one key": (
        lambda size: [b"a=1," * (size // 4) + b"a"],
        structured_fields.parse_dictionary,
    ),
    "a dictionary of bytes": (lambda size: [b"a=:" + b"A" * size], structured_fields.parse_dictionary),
    # the API
    "an element's siblings": (_document(b"<b/>"), quietly(xml_body.parse)),
    "nested elements": (_document(b"<b>", b"", b""), quietly(xml_body.parse)),
    "attributes": (
        lambda size: b"<a " + b" ".join(b'a%d=""' % n for n in range(size // 9)) + b"/>",
        quietly(xml_body.parse),
    ),
    "namespaces": (
        lambda size: b"<a " + b" ".join(b'xmlns:a%d="u%d"' % (n, n) for n in range(size // 18)) + b"/>",
        quietly(xml_body.parse),
    ),
    "a long attribute": (lambda size: b'<a b="' + b"&#65;" * (size // 5) + b'"/>', quietly(xml_body.parse)),
    "a comment": (lambda size: b"<a><!--" + b"- " * (size // 2) + b"--></a>", quietly(xml_body.parse)),
    "references": (_document(b"&lt;"), quietly(xml_body.parse)),
    "line ends": (_document(b"\r\n"), quietly(xml_body.parse)),
    "a fault for each element": (
        _document(
            b"<b/>",
            b'<PublicKeyConfig xmlns="http://cloudfront.amazonaws.com/doc/2020-05-31/">',
            b"</PublicKeyConfig>",
        ),
        quietly(lambda body: codec.read(codec.match("POST", "/2020-05-31/public-key", ""), (), body)),
    ),
    "a call's parameters": (
        lambda size: "&".join(f"a{n}" for n in range(size // 6)),
        quietly(lambda query: codec.match("POST", "/2020-05-31/distribution", query)),
    ),
    "a call's repeated parameters": (
        lambda size: "MaxItems=1&" * (size // 11),
        quietly(lambda query: codec.read(codec.match("GET", "/2020-05-31/distribution", query), (), b"")),
    ),
    "a call's path": (lambda size: "/a" * (size // 2), quietly(lambda path: codec.match("GET", path, ""))),
    "signed headers": (
        _signed(
            lambda size: [
                (b"authorization", _authorization(b";".join(b"a%07d" % n for n in range(size // 24)))),
                _DATED,
                *[(b"a%07d" % n, b"") for n in range(size // 24)],
            ]
        ),
        quietly(_called),
    ),
    "a claim of commas": (
        _signed(lambda size: [(b"authorization", b"AWS4-HMAC-SHA256 " + b"," * size), _DATED]),
        quietly(_called),
    ),
    "a claim of slashes": (
        _signed(
            lambda size: [
                (
                    b"authorization",
                    b"AWS4-HMAC-SHA256 Credential=" + b"/" * size + b",SignedHeaders=a,Signature=a",
                ),
                _DATED,
            ]
        ),
        quietly(_called),
    ),
    "a date of blanks": (
        _signed(
            lambda size: [(b"authorization", _authorization(b"host")), (b"date", b" ," * (size // 2) + b"1")]
        ),
        quietly(_called),
    ),
    "a date of digits": (
        _signed(
            lambda size: [
                (b"authorization", _authorization(b"host")),
                (b"date", b"Mon, 1 Jan " + b"9" * size),
            ]
        ),
        quietly(_called),
    ),
    "a form": (lambda size: b"Action=a&" * (size // 9), quietly(lambda body: sts.check("", body))),
    "a form of one field": (
        lambda size: b"Action=" + b"%41" * (size // 3),
        quietly(lambda body: sts.check("", body)),
    ),
    "digits": (lambda size: "1" * size + "x", scalars._NUMBER.fullmatch),
    "digits of an integer": (lambda size: "1" * size + "x", scalars._INTEGER.fullmatch),
    "a wildcard of stars": (
        lambda size: "a" * size,
        lambda text: wildcards.template("*a" * 200 + "*b").matches(text, lambda key: None),
    ),
    "an access policy, nested": (
        lambda size: "[" * size,
        quietly(lambda text: iam.parse("p", text, "000000000000")),
    ),
    "an access policy with a long number": (
        _statement(
            '{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"NumericEquals":{"aws:EpochTime":1%s}}}'
        ),
        quietly(lambda text: iam.parse("p", text.replace("a", "9"), "000000000000")),
    ),
    "PEM blocks that never end": (
        lambda size: "-----BEGIN A-----" * (size // 17),
        quietly(load_public_key),
    ),
    "PEM blocks that do not end here": (
        lambda size: "-----BEGIN A-----" * (4090 // 16),
        quietly(load_public_key),
    ),
    "cache tags": (
        lambda size: [(b"cache-tag", b",".join(b"t%d" % n for n in range(size // 6)))],
        lambda headers: cache_tags(b"cache-tag", headers),
    ),
    "cache tag lines": (
        lambda size: [(b"cache-tag", b"t")] * (size // 14),
        lambda headers: cache_tags(b"cache-tag", headers),
    ),
    "base64": (
        lambda size: (
            "/a?Expires=1&Key-Pair-Id=K&Signature=" + cf_b64encode(base64.b64decode("AAAA" * (size // 4)))
        ),
        quietly(_judged),
    ),
}

# -- the fuzzer ----------------------------------------------------------------------------------------------------


def costs(make: Callable[[int], Any], run: Callable[[Any], object], compared: tuple[int, int]) -> list[str]:
    """The problems with the cost of `run` on the inputs that `make` creates; normally none.

    :param compared: two sizes in bytes, the second four times the first.
    """
    small, larger, large = (make(size) for size in (*compared, LARGE))
    most = OPCODES_A_BYTE * compared[1]
    try:
        run(small)  # what is imported or cached once is not part of the input's cost
        first = opcodes(lambda: run(small), most)
        second = opcodes(lambda: run(larger), most)
    except TooDear:
        return [f"more than {OPCODES_A_BYTE} instructions for each byte"]
    wrong = []
    if second > GROWTH * first + 3000:
        wrong.append(
            f"four times the input costs {second / max(1, first):.1f} times as much ({first}, {second})"
        )
    taken = seconds(lambda: run(large), CEILING)
    if taken > CEILING:
        wrong.append(f"{taken * 1000:.0f} ms for {LARGE} bytes")
    return wrong


def _mixed(chance: random.Random) -> Shape:
    """Parts of several shapes, some of their values under other names, in any order."""
    chosen = chance.sample(sorted(SHAPES), chance.randint(1, 4))
    names = [SHAPES[each](100)[0][0] for each in chance.sample(sorted(SHAPES), 4)]
    renamed = chance.random() < 0.3
    order = chance.random()

    def make(size: int) -> Headers:
        headers = [header for each in chosen for header in SHAPES[each](size // len(chosen))]
        if renamed:
            headers = [(names[number % 4], value) for number, (_, value) in enumerate(headers)]
        random.Random(order).shuffle(headers)
        return headers

    return make


def case(seed: int, number: int, compared: tuple[int, int] = LARGEST) -> list[str]:
    """Run one rule on one random shape. Returns the problems with its cost, with everything needed to reproduce
    them."""
    chance = random.Random(f"{seed} {number}")
    shape = _mixed(chance)
    name, rule = chance.choice([*RULES.items(), *ANSWERS.items()])
    found = costs(shape, rule, compared)
    return [f"seed {seed}, case {number}, {name}: {wrong}; {shape(200)!r:.400}" for wrong in found]


def run(count: int | None, seconds: float | None, seed: int, tell: Callable[[str], None] = print) -> int:
    """Measure `count` random shapes, or as many as `seconds` allow. Returns their number.

    :raises Finding: with every shape that costs too much.
    """
    done = 0
    found: list[str] = []
    for number in inputs(count, seconds):
        found += case(seed, number)
        done += 1
    if found:
        raise Finding("\n".join(found))
    tell(f"seed {seed}: {done} shapes, none costs too much")
    return done


if __name__ == "__main__":
    main(__doc__, run)
