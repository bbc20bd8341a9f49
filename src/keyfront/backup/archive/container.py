"""The container format of an archive before encryption: its writer, and a strict reader.

An archive is a tar file in USTAR format, compressed with gzip, so that it can be inspected without Keyfront (`age -d
ARCHIVE | tar tvz`). Its members are the parts of *sections*, one JSON value per line, followed by the manifest, which
holds the length and the SHA-256 of each part:

    store/resource.0001.jsonl  store/resource.0002.jsonl  …  files.0001.jsonl  …  manifest.json

The reader accepts only one encoding: each header must equal, byte by byte, the one that the writer makes from its name
and length. So no member can be a link or a device, or be located elsewhere; nothing is ever unpacked to a path that the
archive chooses. Data after the end, and anything over the limits, is refused.
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
"""The archive format that this version writes, and the highest that it reads."""

PART = 4 << 20
"""Bytes after which a section continues in the next part."""
MEMBER_LIMIT = 64 << 20
"""Maximum bytes of a part that is read. A written part exceeds PART by one line at most."""
TOTAL_LIMIT = 64 << 30
"""Maximum total bytes of all members. They are never all in memory at once."""

MANIFEST = "manifest.json"
_MANIFEST_LIMIT = 16 << 20
_BLOCK = 512
_FEED = 1 << 16
_PART = re.compile(r"((?:store/)?[a-z][a-z_]{0,62})\.([0-9]{4,7})\.jsonl", re.ASCII)


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a section: its `size` in bytes, its number of `lines`, and its SHA-256 in hexadecimal."""

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
    """An archive's description of itself.

    `keyfront` is the version that created it, `taken` the time in epoch seconds, and `host`, `data`, and `store` the
    location. `schema` is the version of the store's tables. `snapshot` is the number of the snapshot that its rows
    produce, and `digest` that snapshot's format and SHA-256. `audit` is the anchor of the audit log (`keyfront audit
    verify`). `records` is the place of the key groups' records (custody), empty if there is none. `missing` lists what
    belongs to the installation but is not in the archive, with the reasons.
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
        """The number of lines in each section."""
        found: dict[str, int] = {}
        for member in self.members:
            name = member.name.partition(".")[0]
            found[name] = found.get(name, 0) + member.lines
        return found


_decoder = msgspec.json.Decoder(Manifest)
_format_decoder = msgspec.json.Decoder(dict[str, object])


class Writer:
    """Takes sections one after the other, and returns the archive's bytes at the end."""

    def __init__(self) -> None:
        self._packer = zlib.compressobj(6, zlib.DEFLATED, 31)
        self._out: list[bytes] = []
        self.members: list[Member] = []

    def section(self, name: str, lines: Iterable[bytes]) -> None:
        """Add a section. `lines` are JSON without line endings. A section without lines adds no member.

        :raises BackupError: if a line is longer than the reader accepts.
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
        """:param manifest: the manifest; its `members` must list what was written."""
        self._write(MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1))
        self._out += [self._packer.compress(bytes(2 * _BLOCK)), self._packer.flush()]
        return b"".join(self._out)


def header(name: str, size: int) -> bytes:
    """Return the only header that a member of that name and size may have."""
    found = tarfile.TarInfo(name)
    found.size = size
    found.mode = 0o600
    return found.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def read_manifest(data: bytes) -> Manifest:
    """Return the manifest of the archive `data`, after checking each member against it.

    :raises BackupError: if `data` is not a complete archive that this version can read.
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
    """Check that the parts of each section are adjacent and numbered from 1."""
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
    """Yield the lines of a section of `data`, which `read_manifest` must have accepted."""
    met = False
    for name, member in _members(data):
        if name.partition(".")[0] == section:
            met = True
            yield from member.split(b"\n")[:-1]
        elif met:
            return


def _members(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the members in order."""
    reader = _Reader(data)
    read = reader.read
    total = 0
    while True:
        block = read(_BLOCK)
        if block == bytes(_BLOCK):
            break
        try:
            parsed = tarfile.TarInfo.frombuf(block, "ascii", "strict")
            name, size = parsed.name, parsed.size
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
    """Decompresses only as much as is requested."""

    def __init__(self, data: bytes) -> None:
        self._unpacker = zlib.decompressobj(31)
        self._data = memoryview(data)
        self._at = 0

    def read(self, size: int) -> bytes:
        """:raises BackupError: if fewer than `size` bytes are left."""
        pieces: list[bytes] = []
        missing = size
        while missing:
            piece = self._some(missing)
            if not piece:
                raise BackupError("it is damaged: it is cut off")
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    def ended(self) -> bool:
        """Whether nothing is left of the archive or of its compressed form."""
        return not self._some(1) and self._at == len(self._data) and not self._unpacker.unused_data

    def _some(self, size: int) -> bytes:
        """Return up to `size` bytes, or none at the end."""
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
