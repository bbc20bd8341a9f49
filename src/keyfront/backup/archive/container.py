"""An archive before it is encrypted, as bytes: what is written, and a reader that takes nothing else.

It is a tar file of USTAR's form, compressed with gzip, so that it can be looked into without Keyfront
(`age -d ARCHIVE | tar tvz`). Its members are the parts of *sections*, JSON a line, and at the end the manifest, which
knows the length and the SHA-256 of each:

    store/resource.0001.jsonl  store/resource.0002.jsonl  …  files.0001.jsonl  …  manifest.json

The reader knows one spelling of everything: a header must be, byte by byte, the one that the writer makes of its name
and its length. So no member can be a link, a device, or lie elsewhere; nothing is ever unpacked to a path of the
archive's choosing. What comes after the end, and what is larger than the limits, is refused.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator

import msgspec

from keyfront.errors import BackupError

FORMAT = 1
"""The form of archives that this version writes, and the highest that it reads."""

PART = 4 << 20
"""Bytes after which a section goes on in the next part."""
MEMBER_LIMIT = 64 << 20
"""The longest part that is read: a part is one line longer than PART at most."""
TOTAL_LIMIT = 64 << 30
"""What all members together may be. They are never in memory together."""

MANIFEST = "manifest.json"
_MANIFEST_LIMIT = 16 << 20
_BLOCK = 512
_FEED = 1 << 16
_PART = re.compile(r"((?:store/)?[a-z][a-z_]{0,62})\.([0-9]{4,7})\.jsonl", re.ASCII)


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a section: `size` in bytes, so many `lines`, its SHA-256 in hexadecimal."""

    name: str
    size: int
    lines: int
    sha256: str


class Proof(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A signed URL, made no later than the archive, that Keyfront must still accept after a restore."""

    url: str
    key_pair_id: str = ""
    group: str = ""


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an archive says of itself.

    `keyfront` is the version that took it, `taken` epoch seconds, `host`, `data` and `store` where. `schema` is the
    version of the store's tables, `snapshot` the number of the snapshot that its rows make and `digest` that snapshot's
    form and SHA-256; `audit` the anchor of the audit log (`keyfront audit verify`), `records` the place of the key
    groups' records (custody), empty if there is none. `missing` says what belongs to the installation and is not in
    here, and why.
    """

    format: int
    keyfront: str
    taken: float
    host: str
    data: str
    store: str
    origin: str
    state: str
    schema: int
    snapshot: int
    decided: float
    digest: str
    audit: str
    records: str
    members: tuple[Member, ...]
    proofs: tuple[Proof, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """How many lines each section has."""
        found: dict[str, int] = {}
        for member in self.members:
            name = member.name.partition(".")[0]
            found[name] = found.get(name, 0) + member.lines
        return found


_decoder = msgspec.json.Decoder(Manifest)
_format_decoder = msgspec.json.Decoder(dict[str, object])


class Writer:
    """Takes sections one after the other, and gives the archive's bytes in the end."""

    def __init__(self) -> None:
        self._packer = zlib.compressobj(6, zlib.DEFLATED, 31)
        self._out: list[bytes] = []
        self.members: list[Member] = []

    def section(self, name: str, lines: Iterable[bytes]) -> None:
        """`lines` are JSON, without the line's end. A section without lines leaves nothing.

        :raises BackupError: if one is longer than is ever read.
        """
        part: list[bytes] = []
        size = number = 0
        for line in lines:
            if len(line) >= MEMBER_LIMIT - PART:
                raise BackupError(f"a row of {name} has {len(line)} bytes: too large for an archive")
            part.append(line)
            size += len(line) + 1
            if size >= PART:
                number += 1
                self._part(name, number, part)
                part, size = [], 0
        if part:
            self._part(name, number + 1, part)

    def _part(self, section: str, number: int, lines: list[bytes]) -> None:
        data = b"\n".join([*lines, b""])
        name = f"{section}.{number:04}.jsonl"
        self._write(name, data)
        self.members.append(Member(name, len(data), len(lines), hashlib.sha256(data).hexdigest()))

    def _write(self, name: str, data: bytes) -> None:
        for piece in (header(name, len(data)), data, bytes(-len(data) % _BLOCK)):
            self._out.append(self._packer.compress(piece))

    def finish(self, manifest: Manifest) -> bytes:
        """:param manifest: with the `members` that there are."""
        self._write(MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1))
        self._out += [self._packer.compress(bytes(2 * _BLOCK)), self._packer.flush()]
        return b"".join(self._out)


def header(name: str, size: int) -> bytes:
    """The one header that a member of that name and size may have."""
    found = tarfile.TarInfo(name)
    found.size = size
    found.mode = 0o600
    return found.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def read_manifest(data: bytes) -> Manifest:
    """The manifest of the archive `data`, each of whose members is what it says.

    :raises BackupError: if `data` is anything but an archive, whole, that this version reads.
    """
    met: list[Member] = []
    found: Manifest | None = None
    for name, member in _members(data):
        if found is not None:
            raise BackupError("it is damaged: something follows its manifest")
        if name == MANIFEST:
            found = _manifest(member)
        else:
            lines = member.count(b"\n")
            if not member.endswith(b"\n") or b"\n\n" in member or member.startswith(b"\n"):
                raise BackupError(f"it is damaged: {name} is not made of lines")
            met.append(Member(name, len(member), lines, hashlib.sha256(member).hexdigest()))
    if found is None:
        raise BackupError("it is damaged: it has no manifest")
    if tuple(met) != found.members:
        raise BackupError("it is damaged: its members are not those of its manifest")
    _check_order(member.name for member in met)
    return found


def _manifest(data: bytes) -> Manifest:
    try:
        format_ = _format_decoder.decode(data).get("format")
        if isinstance(format_, int) and format_ != FORMAT:
            raise BackupError(
                f"it has format {format_}, and this Keyfront reads format {FORMAT}: another version of it made this"
            )
        return _decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BackupError(f"its manifest cannot be read: {error}") from error


def _check_order(names: Iterable[str]) -> None:
    """Each section's parts come together, numbered from 1."""
    done: set[str] = set()
    last, number = "", 0
    for name in names:
        section, _, counted = name.removesuffix(".jsonl").partition(".")
        if section != last:
            done.add(last)
            last, number = section, 0
        number += 1
        if section in done or counted != f"{number:04}":
            raise BackupError(f"it is damaged: {name} comes out of turn")


def lines(data: bytes, section: str) -> Iterator[bytes]:
    """The lines of a section of `data`, which `read_manifest` has found whole."""
    met = False
    for name, member in _members(data):
        if name.partition(".")[0] == section:
            met = True
            yield from member.split(b"\n")[:-1]
        elif met:
            return


def _members(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The members in order."""
    reader = _Reader(data)
    read = reader.read
    total = 0
    while True:
        block = read(_BLOCK)
        if block == bytes(_BLOCK):
            break
        try:
            said = tarfile.TarInfo.frombuf(block, "ascii", "strict")
            name, size = said.name, said.size
        except (tarfile.TarError, ValueError) as error:
            raise BackupError(f"it is damaged: a member's header cannot be read ({error})") from error
        total += size
        if not (name == MANIFEST or _PART.fullmatch(name)) or size < 1 or block != header(name, size):
            raise BackupError("it is damaged: a member's header is not one that Keyfront writes")
        if size > (_MANIFEST_LIMIT if name == MANIFEST else MEMBER_LIMIT) or total > TOTAL_LIMIT:
            raise BackupError(f"it is refused: {name} is larger than any archive's of Keyfront's")
        member = read(size)
        if any(read(-size % _BLOCK)):
            raise BackupError(f"it is damaged: what fills up {name} is not empty")
        yield name, member
    if read(_BLOCK) != bytes(_BLOCK) or not reader.ended():
        raise BackupError("it is damaged: something follows its end")


class _Reader:
    """Decompresses as much as is asked for."""

    def __init__(self, data: bytes) -> None:
        self._unpacker = zlib.decompressobj(31)
        self._data = memoryview(data)
        self._at = 0

    def read(self, size: int) -> bytes:
        """:raises BackupError: if there is less."""
        pieces: list[bytes] = []
        wanted = size
        while wanted:
            piece = self._some(wanted)
            if not piece:
                raise BackupError("it is damaged: it is cut off")
            pieces.append(piece)
            wanted -= len(piece)
        return b"".join(pieces)

    def ended(self) -> bool:
        """True if there is nothing more, of the archive and of what it was compressed to."""
        return not self._some(1) and self._at == len(self._data) and not self._unpacker.unused_data

    def _some(self, size: int) -> bytes:
        """Up to `size` bytes, none at the end."""
        while not self._unpacker.eof:
            given = self._unpacker.unconsumed_tail
            if not given and self._at < len(self._data):
                given = bytes(self._data[self._at : self._at + _FEED])
                self._at += len(given)
            try:
                piece = self._unpacker.decompress(given, size)
            except zlib.error as error:
                raise BackupError(f"it is damaged: it cannot be decompressed ({error})") from error
            if piece:
                return piece
            if not given and self._at == len(self._data) and not self._unpacker.eof:
                raise BackupError("it is damaged: it is cut off")
        return b""
