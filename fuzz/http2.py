"""Fuzzer of the HTTP/2 session: for any bytes, it ends with a fault of the peer's, and never with one of its own.

    python -m fuzz.http2 [--seconds N] [--count N] [--seed N]

A peer opens streams, sends bodies, resets, updates windows, and floods, in random order; half of what it sends is
corrupted, and everything arrives in random pieces. The sink answers at random. Invariants:

- nothing but `ConnectionFault` is raised;
- no more streams are open than allowed, and no more of bodies waits than the windows allow;
- what is sent is whole frames, never more of bodies than the peer's windows allow, and otherwise in proportion to what
  was received;
- a request that is recognized by its bytes is the one that its header block stands for;
- an uncorrupted, polite peer is never disconnected, and gets what it requested.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

from fuzz.runner import check, inputs, main
from hpack import Decoder, Encoder

from keyfront.edge.http.hpack import decode_path, literals
from keyfront.edge.http.http2_session import (
    CONNECTION_WINDOW,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    STREAMS,
    WINDOW_UPDATE,
    ConnectionFault,
    Session,
    Stream,
    frame,
)
from keyfront.edge.types.messages import Headers

BLOCK = literals([(b":status", b"200")])


class Sink:
    """Answers some requests at once, others later or never, and takes bodies at random."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.session = Session(self)
        self.open: list[Stream] = []
        self.waiting = 0
        self.requests = 0
        self.seen: dict[bytes, Headers] = {}
        """Header lists by their section, apart from the path."""
        self.expected: Headers | None = None
        """What the request must be, if it is decoded."""

    def repeated(self, id_: int, section: bytes, path: bytes) -> bool:
        known = self.seen.get(section)
        self.expected = None
        target = decode_path(path)
        if known is None or target is None:
            return False
        if self.chance.random() < 0.5:  # it is decoded, and compared
            self.expected = [(name, target if name == b":path" else value) for name, value in known]
            return False
        self.requests += 1
        stream = self.session.open(id_)
        if self.chance.random() < 0.5:
            self.session.respond(stream, BLOCK, bytes(min(self.session.room_of(stream), 10)))
        else:
            self.open.append(stream)
        return True

    def request(self, stream: Stream, headers: Headers, ended: bool, section: bytes) -> None:
        check(self.expected in (None, headers), "a repeated request is another one", self.expected, headers)
        self.expected = None
        if section and ended and [name for name, _ in headers].count(b":path") == 1:
            self.seen[section] = headers
        self.requests += 1
        self.open.append(stream)
        if self.chance.random() < 0.5:
            self.answer(stream)

    def body(self, stream: Stream, data: bytes) -> None:
        self.waiting += len(data)
        check(self.waiting <= CONNECTION_WINDOW, "more of bodies than the window")
        if self.chance.random() < 0.9:
            self.waiting -= len(data)
            self.session.consumed(stream, len(data))

    def end(self, stream: Stream) -> None:
        pass

    def gone(self, stream: Stream) -> None:
        self.finish(stream)

    def room(self) -> None:
        pass

    def answer(self, stream: Stream) -> None:
        session = self.session
        if stream.reset or stream not in self.open:
            return
        session.head(stream, 200, [(b"x-for", b"%d" % stream.id)], ended=False)
        session.data(
            stream, bytes(min(session.room_of(stream), self.chance.choice((0, 10, 40_000)))), ended=True
        )
        self.finish(stream)

    def finish(self, stream: Stream) -> None:
        if stream in self.open:
            self.open.remove(stream)
            self.waiting -= stream.unacknowledged
            self.waiting = max(self.waiting, 0)
            self.session.finished(stream)


def sent_by(chance: random.Random, polite: bool) -> tuple[bytes, int]:
    """What a peer sends, and how many requests are in it."""
    encoder = Encoder()
    indexed = chance.choice((0.0, 0.3, 1.0))  # how many of the paths go into the table
    settings = [(4, chance.choice((0, 100, 65535, 1 << 20)))]
    settings += [(1, chance.choice((0, 50, 4096, 65536))) for _ in range(chance.choice((0, 0, 1, 3)))]
    data = PREFACE + frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *setting) for setting in settings))
    stream, requests = 1, 0
    for _ in range(chance.randrange(1, 60)):
        kind = chance.randrange(9)
        if kind < 4:
            method = chance.choice((b"GET", b"POST"))
            fields = [
                (b":method", method, False),
                (b":scheme", b"https", False),
                (b":path", b"/%d" % (stream if chance.random() < 0.5 else 1), chance.random() >= indexed),
                (b":authority", b"d.test", False),
            ]
            if chance.random() < 0.5:
                fields += [
                    (b"x-%d" % chance.randrange(9), b"y" * chance.randrange(200), chance.random() < 0.2)
                    for _ in range(chance.randrange(4))
                ]
            if chance.random() < 0.05:
                encoder.header_table_size = chance.choice((0, 100, 4096))
            block = encoder.encode(fields, huffman=chance.random() < 0.5)
            ended = END_STREAM if method == b"GET" else 0
            if chance.random() < 0.2 and len(block) > 3:
                data += frame(HEADERS, ended, stream, block[:3]) + frame(9, END_HEADERS, stream, block[3:])
            else:
                data += frame(HEADERS, ended | END_HEADERS, stream, block)
            if not ended:
                for _ in range(chance.randrange(4)):
                    data += frame(DATA, 0, stream, bytes(chance.choice((1, 100, FRAME))))
                data += frame(DATA, END_STREAM | PADDED, stream, b"\x02x\0\0")
            stream += 2
            requests += 1
        elif kind == 4:
            data += frame(PING, chance.randrange(2), 0, bytes(8))
        elif kind == 5:
            data += frame(
                WINDOW_UPDATE,
                0,
                chance.choice((0, max(stream - 2, 1) if stream > 1 else 0)),
                struct.pack(">I", chance.randrange(1, 9999)),
            )
        elif kind == 6:
            data += frame(PRIORITY, 0, stream, bytes(5))
        elif kind == 7 and stream > 1:
            data += frame(RST_STREAM, 0, chance.randrange(1, stream, 2), struct.pack(">I", 8))
        elif not polite:
            data += frame(
                chance.randrange(14),
                chance.randrange(256),
                chance.randrange(stream + 2),
                bytes(chance.randrange(20)),
            ) * chance.choice((1, 3, 1200))
    return data, requests


def spoilt(chance: random.Random, data: bytes) -> bytes:
    """With a few bytes changed, removed, or repeated, mostly after the preface."""
    for _ in range(chance.randint(1, 5)):
        first = len(PREFACE) if chance.random() < 0.9 else 0
        at = chance.randrange(min(first, len(data)), len(data) + 1)
        length = chance.choice((0, 1, 4, 9, 100))
        new = chance.choice((b"", bytes([chance.randrange(256)]), data[at : at + length] * 2))
        data = data[:at] + new + data[at + length :]
    return data


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """The frames in what a session sent."""
    found = []
    while data:
        check(len(data) >= 9, "half a frame", data)
        size = int.from_bytes(data[:3], "big")
        check(size <= FRAME and len(data) >= 9 + size, "half a frame, or one that is too large", data[:9])
        found.append((data[3], data[9 : 9 + size]))
        data = data[9 + size :]
    return found


def conversation(chance: random.Random) -> bool:
    """One peer's connection. Returns whether it was disconnected."""
    polite = chance.random() < 0.5
    data, requests = sent_by(chance, polite)
    if not polite and chance.random() < 0.7:
        data = spoilt(chance, data)
    sink = Sink(chance)
    output, rest = b"", data
    try:
        while rest:
            size = chance.choice((1, 7, 100, 5000, len(rest)))
            sink.session.receive(rest[:size])
            rest = rest[size:]
            check(
                len(sink.session.streams) <= STREAMS, "more streams than allowed", len(sink.session.streams)
            )
            output += sink.session.taken()
            for stream in list(sink.open):
                if chance.random() < 0.3:
                    sink.answer(stream)
    except ConnectionFault as fault:
        check(not polite, "a polite peer is disconnected", str(fault), data)
        sink.session.goaway(fault.code)
        output += sink.session.taken()
        check(frames(output)[-1][0] == GOAWAY, "no word about the end")
        return True
    output += sink.session.taken()
    found = frames(output)
    bodies = sum(len(payload) for kind, payload in found if kind == DATA)
    check(len(output) - bodies <= 4 * len(data) + 1000, "much for little", len(output), len(data))
    decoder = Decoder()
    for kind, payload in found:
        if kind == HEADERS:
            fields = [(name, value) for name, value in decoder.decode(payload, raw=True)]
            check((b":status", b"200") in fields, "a head that cannot be read", payload)
    if polite:
        check(sink.requests == requests, "requests are missing", sink.requests, requests)
    return False


def run(count: int | None, seconds: float | None, seed: int, report: Callable[[str], None] = print) -> int:
    """Run `count` conversations, or as many as `seconds` allow. Returns their number.

    :raises Finding: at the first one.
    """
    done = ended = 0
    for number in inputs(count, seconds):
        try:
            ended += conversation(random.Random(f"{seed} {number}"))
        except Exception as error:
            check(False, f"seed {seed}, conversation {number}: {error!r}")
        done += 1
    report(f"seed {seed}: {done} conversations, {ended} ended by a fault of the peer's, no finding")
    return done


if __name__ == "__main__":
    main(__doc__, run)
