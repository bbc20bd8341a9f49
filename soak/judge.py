"""The judge, which compares each response with the truth. A violation is reported with everything needed to reproduce
it."""

from __future__ import annotations

import hashlib
import re
import time
import zlib
from collections import Counter
from email.utils import parsedate_to_datetime
from typing import Final

import brotli

from soak.objects import Item, body, difference, packed
from soak.origin import error_body
from soak.tickets import Right
from soak.truth import Truth

SLICED: Final = 1 << 20
"""Size in bytes of the largest object that the edges store whole (`--max-object 1`)."""

SLACK: Final = 3.0
"""Seconds by which a response may be older than its lifetime, because of slow origin responses that were shared, whole
seconds in Date and Age, and other load on the machine."""
DENIED: Final = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{}</Code><Message>{}</Message></Error>'
MESSAGES: Final = {
    "MissingKey": "Missing Key-Pair-Id query parameter or cookie value",
    "InvalidKey": "Unknown Key",
    "AccessDenied": "Access denied",
}
_RESULTS: Final = frozenset({"Hit", "Miss", "RefreshHit", "Error"})
_TIMELY: Final = frozenset(
    {
        "no answer",
        "no end",
        "connection error",
        "stale",
        "served after invalidation",
        "served without right",
        "refused with right",
        "5xx without a fault",
        "not deployed",
        "not completed",
        "not started again",
        "the API cannot be reached",
    }
)
"""Violations that a suspended machine could also cause."""
_SHOWN: Final = 12
"""Number of violations of one kind that are printed in full; the others are counted."""


class Ask:
    """A request and its expectations. `name` is the target as the origin should see it; `kind` is the kind of request
    in the tables; `ranges` is the Range field's value; `none_match` and `if_range` are validators that were sent;
    `codings` are the content codings that the viewer accepts; `host_right` says whether the host name is valid."""

    def __init__(  # noqa: PLR0913 - the fields of a value
        self,
        method: str,
        target: str,
        host: str,
        item: Item,
        kind: str,
        right: Right,
        headers: list[tuple[str, str]],
        *,
        name: str = "",
        variant: str = "-",
        payload: bytes | None = None,
        codings: frozenset[str] = frozenset(),
        host_right: Right | None = None,
    ) -> None:
        self.method = method
        self.target = target
        self.host = host
        self.item = item
        self.kind = kind
        self.right = right
        self.headers = headers
        self.name = name or target
        self.variant = variant
        self.payload = payload
        self.chunked = False
        self.codings = codings
        self.host_right = host_right
        self.ranges = ""
        self.if_range = ""
        self.none_match = ""
        self.modified_since = ""
        self.sent = 0.0
        self.viewer = ""
        self.place = ""
        """The request's position among those sent at once, and what was sent before it."""

    def raw(self) -> bytes:
        lines = [f"{self.method} {self.target} HTTP/1.1", f"Host: {self.host}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        payload = self.payload or b""
        if self.chunked:
            lines.append("Transfer-Encoding: chunked")
            pieces = [payload[at : at + 7000] for at in range(0, len(payload), 7000)]
            payload = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        elif self.payload is not None:
            lines.append(f"Content-Length: {len(payload)}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + payload


class Seen:
    """A response as received: header names in lower case, repeated fields joined by a comma. `whole` is false if the
    viewer left, or the connection broke, before the end."""

    def __init__(self, status: int, headers: dict[str, str], answered: float) -> None:
        self.status = status
        self.headers = headers
        self.answered = answered
        self.body = b""
        self.whole = False

    def get(self, name: str) -> str:
        return self.headers.get(name, "")


class Judge:
    def __init__(self, truth: Truth, seed: int) -> None:
        self.truth = truth
        self.seed = seed
        self.counts: Counter[str] = Counter()
        self.violations: Counter[str] = Counter()
        self.results: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()

    # -- reporting ---------------------------------------------------------------------------------------------------

    def violation(self, kind: str, detail: str, ask: Ask | None = None, seen: Seen | None = None) -> None:
        if kind in _TIMELY and self.truth.stood_still(time.time() - 20.0 if ask is None else ask.sent):
            self.counts["not judged, after a standstill"] += 1
            return
        self.violations[kind] += 1
        if self.violations[kind] > _SHOWN:
            return
        now = self._since(None)
        print(f"\nVIOLATION {kind} at {now} s, seed {self.seed}: {detail}", flush=True)
        if ask is not None:
            credentials = "".join(f"\n      {n}: {v}" for n, v in ask.headers)
            print(f"    viewer {ask.viewer} ({ask.place}), sent at {self._since(ask.sent)} s")
            print(f"    {ask.kind}: {ask.right.__dict__}")
            print(f"    {ask.method} {ask.target} HTTP/1.1\n      Host: {ask.host}{credentials}")
            item = ask.item
            print(f"    object {item._replace(area=item.area.name)}")  # type: ignore[arg-type]
            path = item.path
            if self.truth.is_versioned(path):  # a WebSocket's path is not
                current = self.truth.version(path)
                born = self._since(self.truth.born(path, current))
                print(f"    the origin has version {current} since {born} s")
            print(f"    fault now: {self.truth.fault(path) or 'none'}")
        if seen is not None:
            print(f"    answer at {self._since(seen.answered)} s: {seen.status} {seen.headers}")
            print(f"      {len(seen.body)} bytes, whole {seen.whole}: {seen.body[:160]!r}")
        if ask is not None:
            begin = ask.sent - self.truth.began - 10
            recent = [n for n in self.truth.notes if float(n[:8]) >= begin and self._about(n, ask)]
            for line in recent[-12:]:
                print(f"      | {line}")
        print(end="", flush=True)

    def _since(self, moment: float | None) -> str:
        return f"{(time.time() if moment is None else moment) - self.truth.began:.3f}"

    def _about(self, note: str, ask: Ask) -> bool:
        """True if this note concerns the request's path, or everything."""
        found = re.search(r" (/\S+)", note)
        return found is None or found[1].rstrip("*") in ask.item.path or ask.item.path in found[1]

    # -- connections -------------------------------------------------------------------------------------------------

    def broken(self, ask: Ask | None, seen: Seen | None, used: float, failed: float, error: str) -> None:
        """Judge a connection failure: before a request (`ask` None), before a head (`seen` None), or within a body."""
        if "ConnectionRefused" in error:
            # The supervisor owns the listening sockets: whatever is killed or stuck, no connection is refused.
            self.violation("connection refused", error, ask, seen)
            return
        if self.truth.hit_by_kill(used, failed):
            self.counts["connections broken by a kill"] += 1
            return
        if ask is not None and seen is not None and self.truth.troubled(ask.item.path, ask.sent, failed):
            self.counts["answers cut by an origin's fault"] += 1
            self._prefix(ask, seen)
            return
        if ask is not None and seen is not None and self._changed_half_way(ask, seen, failed):
            self.counts["answers cut because their object had changed"] += 1
            self._prefix(ask, seen)
            return
        self.violation("connection error", f"{error}; all was well at {self._since(used)} s", ask, seen)

    def _changed_half_way(self, ask: Ask, seen: Seen, failed: float) -> bool:
        """True if the object changed halfway. An evicted slice is requested again; if the object has another version by
        then, the response cannot be completed, and is cut off rather than mixed (docs/guide/caching.md)."""
        version = seen.get("x-object").partition("|")[2].partition("|")[0]
        if not version.isdigit() or int(version) < 1 or ask.item.size <= SLICED:
            return False
        newer = self.truth.superseded(ask.item.path, int(version))
        return newer is not None and newer <= failed

    def left(self, ask: Ask, seen: Seen) -> None:
        """Judge a response that the viewer left unfinished: what it had received must be correct."""
        self.counts["left in the middle"] += 1
        self._gate(ask, seen)
        self._prefix(ask, seen)

    def _prefix(self, ask: Ask, seen: Seen) -> None:
        if seen.status != 200 or not seen.body or ask.method != "GET" or seen.get("content-encoding"):
            return
        about = self._object(ask, seen)
        if about is not None:
            _, expected = about
            if not expected.startswith(seen.body):
                self.violation("wrong bytes before a cut", difference(expected, seen.body), ask, seen)

    # -- responses ---------------------------------------------------------------------------------------------------

    def answer(self, ask: Ask, seen: Seen) -> None:
        self.counts["answers"] += 1
        self.kinds[ask.kind] += 1
        result = seen.get("x-cache").removesuffix(" from cloudfront")
        self.results[f"{seen.status} {result}"] += 1
        if (
            result not in _RESULTS
            or not seen.get("x-amz-cf-id")
            or not seen.get("via")
            or not seen.get("date")
        ):
            self.violation("headers", "X-Cache, X-Amz-Cf-Id, Via or Date is missing or odd", ask, seen)
        if self._gate(ask, seen):
            return
        status = seen.status
        if status >= 500:
            self._failure(ask, seen)
        elif ask.payload is not None:
            self._echo(ask, seen)
        elif status == ask.item.status:
            self._whole(ask, seen)
        elif status == 206:
            self._part(ask, seen)
        elif status == 304:
            self._not_modified(ask, seen)
        elif status == 416:
            self._no_part(ask, seen)
        else:
            self.violation("status", f"{status} is no answer to this", ask, seen)

    def opened(self, ask: Ask, seen: Seen) -> None:
        """Judge the response to a WebSocket handshake. The talker itself compares the messages."""
        self.kinds[ask.kind] += 1
        result = seen.get("x-cache").removesuffix(" from cloudfront")
        self.results[f"{seen.status} {result}"] += 1
        if not seen.get("x-amz-cf-id") or not seen.get("via"):
            self.violation("headers", "X-Amz-Cf-Id or Via is missing", ask, seen)
        if self._gate(ask, seen):
            return
        if seen.status == 101:
            self.counts["WebSockets"] += 1
        elif seen.status in (502, 504):
            self._failure(ask, seen)
        else:
            self.violation("status", f"{seen.status} is no answer to a handshake", ask, seen)

    def talk_broken(self, ask: Ask, seen: Seen | None, used: float, failed: float, error: str) -> None:
        """Judge a broken WebSocket, or a connection that broke before the upgrade."""
        if self.truth.hit_by_kill(used, failed):
            self.counts["WebSockets broken by a kill"] += 1
        elif seen is not None and seen.status == 101 and self.truth.troubled(ask.item.path, used, failed):
            self.counts["WebSockets cut by the origin's end"] += 1
        else:
            self.violation("connection error", f"WebSocket: {error}", ask, seen)

    def _gate(self, ask: Ask, seen: Seen) -> bool:
        """Check that the request was allowed exactly when it should be. True if it was refused, so that nothing else is
        left to judge."""
        refused = seen.status == 403
        for right, page in ((ask.host_right, True), (ask.right, False)):
            if right is None:
                continue
            verdict, code = right.verdict(ask.sent, seen.answered)
            if verdict is True:
                continue
            if verdict is None:
                self.counts["either way, within a second of a change"] += 1
                return refused
            if not refused:
                self.violation(
                    "served without right", f"expected {code or 'the page of an unknown host'}", ask, seen
                )
                return True
            self.counts["refused, rightly"] += 1
            expected = DENIED.format(code, MESSAGES.get(code, ""))
            wrong = b"Bad request." not in seen.body if page else seen.body != expected.encode()
            if seen.whole and ask.method == "GET" and wrong:
                self.violation("refusal", f"the body is not that of {code or 'an unknown host'}", ask, seen)
            if seen.get("x-cache") != "Error from cloudfront" or "x-object" in seen.headers:
                self.violation("refusal", "headers of a refusal", ask, seen)
            return True
        if refused:
            self.violation("refused with right", "", ask, seen)
        return refused

    def _failure(self, ask: Ask, seen: Seen) -> None:
        troubled = self.truth.troubled(ask.item.path, ask.sent, seen.answered)
        # A connection that the origin has just closed may have been used for a request that cannot be sent twice.
        if not troubled and not (ask.payload is not None and self.truth.hung_up(ask.sent, seen.answered)):
            self.violation("5xx without a fault", "", ask, seen)
            return
        self.counts["5xx of a fault"] += 1
        if seen.status in (500, 503):
            # 502 and 504 come from the edge; these two come from the origin.
            if ask.method == "GET" and seen.body != error_body(ask.item.path, seen.status):
                self.violation("wrong body", "not the origin's error", ask, seen)
        elif seen.status not in (502, 504) or (
            ask.method == "GET" and b"Generated by cloudfront" not in seen.body
        ):
            self.violation("wrong body", "not the edge's page", ask, seen)

    def _echo(self, ask: Ask, seen: Seen) -> None:
        assert ask.payload is not None
        digest = hashlib.sha256(ask.payload).hexdigest()
        expected = f"{ask.method} {ask.name} {len(ask.payload)} {digest}".encode()
        if seen.status != 200 or seen.body != expected:
            self.violation("wrong body", f"expected the echo {expected!r}", ask, seen)

    def _object(self, ask: Ask, seen: Seen, *, age: bool = True) -> tuple[int, bytes] | None:
        """The version and the whole uncompressed body that the response claims to be, if that is an allowed
        response."""
        target, _, rest = seen.get("x-object").partition("|")
        version_text, _, rest = rest.partition("|")
        variant, _, coding = rest.partition("|")
        item = ask.item
        if target != ask.name or variant != ask.variant or not version_text.isdigit():
            self.violation("wrong object", f"asked for {ask.name} variant {ask.variant}", ask, seen)
            return None
        version = int(version_text)
        if not 1 <= version <= self.truth.version(item.path):
            self.violation("wrong object", "a version that does not exist", ask, seen)
            return None
        tag = item.tag(version, variant, coding)
        got = seen.get("etag") or None
        if got != tag and not (coding == "identity" and ask.codings and got == _weak(tag)):
            self.violation("wrong object", f"ETag is not {tag}: of another version?", ask, seen)
        if item.area.name != "pass" and "set-cookie" in seen.headers:
            self.violation("headers", "Set-Cookie though no cookies are forwarded", ask, seen)
        if age:
            self._age(ask, seen, version)
        return version, body(target, version, variant, item.size_of(version))

    def _age(self, ask: Ask, seen: Seen, version: int) -> None:
        """Check that this version is not too old."""
        truth, item = self.truth, ask.item
        floor = truth.floor(item.path, ask.sent)
        if version < floor:
            self.violation(
                "served after invalidation", f"version {version}, {floor} was asked for", ask, seen
            )
        over = truth.superseded(item.path, version)
        if over is None:
            return
        late = ask.sent - over - item.lasts
        if late > SLACK:
            if item.must_revalidate or not truth.troubled(item.path, ask.sent, seen.answered, before=8.0):
                self.violation("stale", f"version {version} is {late:.1f} s beyond its lifetime", ask, seen)
            else:
                self.counts["stale in the place of an error"] += 1

    def _whole(self, ask: Ask, seen: Seen) -> None:
        if ask.if_range and ask.ranges:
            self.counts["whole because of If-Range"] += 1
        about = self._object(ask, seen)
        if about is None:
            return
        _, expected = about
        coding = seen.get("content-encoding")
        if coding and coding not in ask.codings:
            self.violation("coding", f"{coding} was not asked for", ask, seen)
            return
        if ask.method == "HEAD":
            length = seen.get("content-length")
            if length and not coding and int(length) != len(expected):
                self.violation("wrong length", f"HEAD says {length}, it has {len(expected)}", ask, seen)
            if length and coding == "gzip" and ask.item.packed and int(length) != len(packed(expected)):
                self.violation("wrong length", f"HEAD says {length} in gzip", ask, seen)
            return
        got = seen.body
        if coding:
            self.counts[f"in {coding}"] += 1
            try:
                got = _decoded(coding, got)
            except (zlib.error, brotli.error, EOFError) as error:
                self.violation("wrong body", f"{coding} cannot be decoded: {error}", ask, seen)
                return
        if got != expected:
            self.violation("wrong body", difference(expected, got), ask, seen)

    def _part(self, ask: Ask, seen: Seen) -> None:
        if not ask.ranges or ask.method != "GET":
            self.violation("status", "206 that nobody asked for", ask, seen)
            return
        about = self._object(ask, seen)
        if about is None:
            return
        _, whole = about
        if seen.get("content-encoding"):
            self.violation("coding", "a coded part", ask, seen)
            return
        if ask.if_range.startswith('"') and ask.if_range != seen.get("etag"):
            self.violation("wrong part", "If-Range names another version", ask, seen)
        ranges = _satisfiable(ask.ranges, len(whole))
        if len(ranges) == 1:
            first, last = ranges[0]
            if seen.get("content-range") != f"bytes {first}-{last}/{len(whole)}":
                self.violation("wrong part", f"expected bytes {first}-{last}/{len(whole)}", ask, seen)
            elif seen.body != whole[first : last + 1]:
                self.violation("wrong body", difference(whole[first : last + 1], seen.body), ask, seen)
            return
        boundary = seen.get("content-type").partition("boundary=")[2].encode()
        pieces = seen.body.split(b"\r\n--" + boundary) if boundary else []
        if len(pieces) != len(ranges) + 2 or pieces[0] or pieces[-1].strip() != b"--":
            self.violation("wrong part", f"expected {len(ranges)} parts", ask, seen)
            return
        for piece, (first, last) in zip(pieces[1:-1], ranges, strict=True):
            head, _, data = piece.partition(b"\r\n\r\n")
            if data != whole[first : last + 1] or f"bytes {first}-{last}/{len(whole)}".encode() not in head:
                self.violation("wrong body", difference(whole[first : last + 1], data), ask, seen)

    def _not_modified(self, ask: Ask, seen: Seen) -> None:
        about = self._object(ask, seen)
        if about is None:
            return
        version, _ = about
        if ask.none_match:
            asked = {one.strip().removeprefix("W/") for one in ask.none_match.split(",")}
            if seen.get("etag").removeprefix("W/") not in asked:
                self.violation("wrong 304", "its ETag is not the one that was sent", ask, seen)
        elif ask.modified_since:
            born = int(self.truth.born(ask.item.path, version))
            if born > parsedate_to_datetime(ask.modified_since).timestamp():
                self.violation("wrong 304", "it was modified since", ask, seen)
        else:
            self.violation("wrong 304", "no condition was sent", ask, seen)
        if seen.body:
            self.violation("wrong 304", "it has a body", ask, seen)

    def _no_part(self, ask: Ask, seen: Seen) -> None:
        size = seen.get("content-range").removeprefix("bytes */")
        sizes = {ask.item.size_of(v) for v in range(1, self.truth.version(ask.item.path) + 1)}
        if (
            not ask.ranges
            or not size.isdigit()
            or int(size) not in sizes
            or _satisfiable(ask.ranges, int(size))
        ):
            self.violation("wrong 416", f"the object has {sorted(sizes)} bytes", ask, seen)


def _weak(tag: str | None) -> str | None:
    return tag if tag is None or tag.startswith("W/") else "W/" + tag


def _decoded(coding: str, data: bytes) -> bytes:
    if coding == "br":
        return bytes(brotli.decompress(data))
    reader = zlib.decompressobj(31)
    plain = reader.decompress(data) + reader.flush()
    if not reader.eof or reader.unused_data:
        raise EOFError("not one whole gzip member")
    return plain


def _satisfiable(value: str, size: int) -> list[tuple[int, int]]:
    """The byte ranges that a Range field selects from `size` bytes. The soak sends ranges in order."""
    found = []
    for spec in value.removeprefix("bytes=").split(","):
        low, _, high = spec.strip().partition("-")
        if not low:
            first, last = max(0, size - int(high)), size - 1
        else:
            first, last = int(low), min(int(high), size - 1) if high else size - 1
        if first < size and first <= last:
            found.append((first, last))
    return found
