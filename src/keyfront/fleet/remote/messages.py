"""The messages between an edge and its control plane: msgpack, one message per WebSocket message.

    path       edge                          control plane
    /ca        -                             Authority; the edge compares it with its token
    /enroll    Enroll                        Enrolled, or Refusal
    /feed      Hello                         Welcome
               Status (every two seconds)
               Ended                         Stored
               Renew                         Renewed
               Applied, or Refused           Update, and its Parts; the next one only after the answer

The connection ends with one of the close codes below if the control plane does not accept the edge.
"""

from __future__ import annotations

import msgspec

from keyfront.fleet.remote.manifest import Endorsement, Signed

VERSION = 1
PART = 1 << 18
"""Bytes of content in one message."""
MAX_TO_EDGE = 1 << 20
MAX_TO_CONTROL = 4 << 20
"""Maximum size of a message in bytes."""
STATUS = 2.0
"""Seconds between two messages that tell that an edge's workers are alive."""

EXPIRED = 4401
"""Close code: the certificate with which the edge has connected has expired; it may connect with a newer one."""
REVOKED = 4403
"""Close code: the edge is revoked, or not known."""
REPLACED = 4409
"""Close code: the edge has connected again."""
FULL = 4429
"""Close code: the control plane serves as many edges as it can; try another one."""
AGAIN = 4412
"""Close code: the edge violated the protocol, or did not respond in time; it may try again."""


class Authority(msgspec.Struct, frozen=True, tag=True):
    """The certificate of the control plane's authority, in PEM."""

    certificate: bytes


class Enroll(msgspec.Struct, frozen=True, tag=True):
    """:param secret: of the token. :param csr: DER, signed with the edge's new key. :param name: the wanted one."""

    secret: bytes
    csr: bytes
    name: str


class Enrolled(msgspec.Struct, frozen=True, tag=True):
    """:param certificate: PEM. :param key: the snapshot key to trust, 32 bytes."""

    certificate: bytes
    name: str
    region: str
    key: bytes


class Refusal(msgspec.Struct, frozen=True, tag=True):
    """Why the control plane does not enroll the edge."""

    reason: str


class Hello(msgspec.Struct, frozen=True, tag=True):
    """:param trusts: the id of the snapshot key that the edge trusts.
    :param proof: the last manifest that it accepted; empty: none.
    :param have: the digest of the payload that it has; empty: none.
    """

    version: int
    software: str
    trusts: str
    proof: Signed = Signed()
    have: bytes = b""


class Welcome(msgspec.Struct, frozen=True, tag=True):
    """The first message; another one follows when there is a new snapshot key.

    :param number: of the published snapshot; 0: none.
    :param endorsements: of the snapshot keys after the one that the edge trusts.
    """

    number: int
    endorsements: list[Endorsement] = []


class Update(msgspec.Struct, frozen=True, tag=True):
    """A snapshot, in `size` bytes: the first ones are in `data`, the rest follows in Parts. They are the difference
    from the payload with the digest `base`, or the whole content if that is empty."""

    signed: Signed
    base: bytes
    size: int
    data: bytes


class Part(msgspec.Struct, frozen=True, tag=True):
    """More of the content of an Update. Other messages may come between."""

    data: bytes


class Applied(msgspec.Struct, frozen=True, tag=True):
    """The snapshot is on the edge's disk, where its workers find it."""


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The edge does not accept the snapshot, and keeps the one that it has."""

    reason: str


class WorkerReport(msgspec.Struct, frozen=True):
    """A worker's report (`fleet/feed.py: Report`). `counters` is JSON."""

    name: str
    number: int
    refused: str = ""
    counters: bytes = b"{}"


class Status(msgspec.Struct, frozen=True, tag=True):
    """:param alive: the live workers. :param reports: those of workers whose report has changed."""

    alive: list[str]
    reports: list[WorkerReport] = []


class Ended(msgspec.Struct, frozen=True, tag=True):
    """The last report of a worker that has exited. `id` names it until it is Stored."""

    id: str
    at: float
    report: WorkerReport


class Stored(msgspec.Struct, frozen=True, tag=True):
    """The report `id` is stored: the edge can delete it."""

    id: str


class Renew(msgspec.Struct, frozen=True, tag=True):
    """:param csr: DER, signed with a new key."""

    csr: bytes


class Renewed(msgspec.Struct, frozen=True, tag=True):
    """:param certificate: PEM."""

    certificate: bytes


ToControl = Enroll | Hello | Applied | Refused | Status | Ended | Renew
ToEdge = Authority | Enrolled | Refusal | Welcome | Update | Part | Stored | Renewed

encode = msgspec.msgpack.Encoder().encode
_to_control: msgspec.msgpack.Decoder[ToControl] = msgspec.msgpack.Decoder(ToControl)
_to_edge: msgspec.msgpack.Decoder[ToEdge] = msgspec.msgpack.Decoder(ToEdge)
decode_to_control, decode_to_edge = _to_control.decode, _to_edge.decode
