"""Header blocks of HTTP/2 (RFC 7541): a codec, and what can be read and written without its compression tables. Pure.

Decoding and encoding cost more than the rest of a hit. Three functions spare that when requests and responses repeat:

- `changes` finds where the fields of a block begin and end, and which of them change the decoder's table. Browsers,
  curl, and nghttp2 put what differs between requests (`:path`) into fields that do not. `Codec.state` names the content
  of a table by a digest of everything that has changed it, so equal blocks in equal states are equal header lists.
- `split` cuts the path out of a block. What remains is the same for all requests of a viewer.
- `literals` encodes fields that neither use nor change a table, so the bytes are valid on every connection.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final

from jh2._hazmat import Decoder, Encoder, HPACKError, OversizedHeaderListError

from keyfront.edge.http.request_target import MAX_TARGET
from keyfront.edge.types.messages import Headers

_PATH: Final = re.compile(rb"[\x81-\xfe]*(?:[\x04\x05\x14\x15]|[\x00\x10](?:\x84\xb9\x58\xd3\x3f|\x05:path))")
"""Indexed fields of one byte each, then `:path` as a literal that is not indexed, up to its value: its name by one of
the static table's numbers, or spelled, with or without the Huffman code."""
_NEVER_INDEXED: Final = 0x10


class DecodingError(Exception):
    """A header block cannot be decompressed."""


class OversizedError(Exception):
    """A header list is too large."""


class Codec:
    """A connection's decoder and encoder, with their tables.

    `state` is a digest of everything that has changed the decoder's table: in equal states, equal blocks are equal
    header lists.

    :param most: bytes of a header list (RFC 9113 §6.5.2) up to which it is accepted.
    :param about: goes into the state, too.
    """

    __slots__ = ("_decoder", "_encoder", "_final", "_smallest", "state")

    def __init__(self, most: int, about: bytes = b"") -> None:
        self._decoder = Decoder(most)
        self._encoder = Encoder()
        self._smallest = self._final = -1  # sizes of the encoder's table that the peer has yet to be sent
        self.state = blake2b(about, digest_size=16).digest()

    def decode(self, block: bytes) -> tuple[Headers, bool]:
        """The header list, and whether the block has left the table as it was.

        :raises DecodingError: if it is not valid.
        :raises OversizedError: if the list is too large.
        """
        changing = changes(block)
        headers = _decoded(self._decoder, block)
        if changing:
            self.state = blake2b(self.state + changing, digest_size=16).digest()
        return headers, not changing

    def resize(self, sizes: list[int]) -> None:
        """The peer limits the encoder's table to each of these sizes in turn, in bytes (RFC 7541 §4.2)."""
        for size in (min(sizes), sizes[-1]):
            self._encoder.header_table_size = size
        self._encoder.encode(
            []
        )  # what it would write about that: once for each size, however often they come
        self._smallest = min(sizes) if self._smallest < 0 else min(self._smallest, *sizes)
        self._final = sizes[-1]

    def encode(self, headers: Headers) -> bytes:
        # The request ID is new each time: in the table, it would displace what repeats.
        fields = [(name, value, name == b"x-amz-cf-id") for name, value in headers]
        return self.announced(self._encoder.encode(fields))

    def announced(self, block: bytes) -> bytes:
        """The block, after what the peer must be sent about the table's size before it."""
        if self._final < 0:
            return block
        sizes = {self._smallest: None, self._final: None}
        self._smallest = self._final = -1
        return b"".join([_number(0x20, 5, size) for size in sizes]) + block


_PATHS: Final = Decoder(MAX_TARGET + 64)
"""Decodes fields that do not refer to its table, which stays empty."""


def _decoded(decoder: Decoder, block: bytes) -> Headers:
    try:
        fields = decoder.decode(block, True)
    except HPACKError as error:
        raise DecodingError(str(error)) from error
    except OversizedHeaderListError as error:
        raise OversizedError from error
    except BaseException as error:
        if (
            type(error).__name__ != "PanicException"
        ):  # it is no `Exception`, and has no module to import it from
            raise
        raise DecodingError("the decoder panics") from error
    return [(bytes(name), bytes(value)) for name, value, _ in fields]


def decode_path(value: bytes) -> bytes | None:
    """The path that `split` has cut out. None if it is not valid."""
    try:
        return _decoded(_PATHS, b"\x04" + value)[0][1]
    except (DecodingError, OversizedError):
        return None


def split(block: bytes) -> tuple[bytes, bytes]:
    """What remains of a block without the value of `:path`, and that value, encoded: together they determine the block.
    Both are empty if it has no such value in the usual place, or is cut off."""
    found = _PATH.match(block)
    if found is None:
        return b"", b""
    at = found.end()
    try:
        length, start = block[at] & 0x7F, at + 1
        if length == 0x7F:
            length, start = _integer(block, at, 7)
    except (IndexError, DecodingError):
        return b"", b""
    end = start + length
    if end > len(block) or not length:
        return b"", b""
    return block[:at] + block[end:], block[at:end]


def changes(block: bytes) -> bytes:
    """The fields of a block, and changes of the table's size, that change the decoder's table (RFC 7541 §6).

    :raises DecodingError: if the block does not end where its last field does. The decoder panics at such a block, with
        a message on standard error that a peer could repeat at will.
    """
    changing: list[bytes] = []
    at, end = 0, len(block)
    try:
        while at < end:
            start, first = at, block[at]
            if first & 0x80:  # an indexed field
                at = at + 1 if first != 0xFF else _integer(block, at, 7)[1]
                continue
            if first & 0xE0 == 0x20:
                at = _integer(block, at, 5)[1]
            else:
                name, at = _integer(block, at, 6 if first & 0x40 else 4)
                for _ in range(1 if name else 2):  # the value, after a name that is not in the table
                    length, at = _integer(block, at, 7)
                    at += length
            if first & 0x60:
                changing.append(block[start:at])
    except IndexError:
        at = end + 1
    if at > end:
        raise DecodingError("it is cut off")
    return b"".join(changing)


def _integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    """An integer with a prefix of so many bits (RFC 7541 §5.1), and where it ends.

    :raises IndexError: if it is cut off.
    :raises DecodingError: if it has more than four bytes besides the prefix.
    """
    most = (1 << bits) - 1
    number = block[at] & most
    at += 1
    if number < most:
        return number, at
    for shift in range(0, 28, 7):
        byte = block[at]
        at += 1
        number += (byte & 0x7F) << shift
        if not byte & 0x80:
            return number, at
    raise DecodingError("a number is too large")


def _number(pattern: int, bits: int, number: int) -> bytes:
    """An integer after the pattern that its first byte begins with (RFC 7541 §5.1)."""
    most = (1 << bits) - 1
    if number < most:
        return bytes([pattern | number])
    written = bytearray([pattern | most])
    number -= most
    while number >= 0x80:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def literals(headers: Headers) -> bytes:
    """The fields, each as a number of the static table or as a literal that is not indexed."""
    return b"".join([min(_literal(*field, True), _literal(*field, False), key=len) for field in headers])


def _literal(name: bytes, value: bytes, huffman: bool) -> bytes:
    field: bytes = Encoder().encode([(name, value, True)], huffman)
    if field[0] & 0xF0 == _NEVER_INDEXED:
        # It kept the encoder from indexing the field, and would be a demand to proxies.
        return bytes([field[0] & 0x0F]) + field[1:]
    return field


def literal_start(name: bytes) -> bytes:
    """The start of a literal field with this name, up to the value: see `string`."""
    return _literal(name, b"?", False).removesuffix(b"\x01?")


def string(value: bytes) -> bytes:
    """A value as it is, without the Huffman code."""
    size = len(value)
    return (_SIZES[size] if size < len(_SIZES) else _number(0, 7, size)) + value


_SIZES: Final = [bytes([size]) for size in range(0x7F)]
