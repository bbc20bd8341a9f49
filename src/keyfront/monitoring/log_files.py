"""The log files that a query reads: which there are, and what each holds.

A file's format is recognized by its content. A file that is none of the formats is not read; a file that ends in the
middle of its compressed data is read up to there.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from keyfront.errors import SettingsError
from keyfront.monitoring.log_schema import by_normalized_name, is_record, is_standard

LIVE = "access.jsonl"
"""The access log that an edge writes."""
_ROTATED = re.compile(r"access(?:-.+\.jsonl(?:\.gz)?|\.jsonl[.-].+)", re.DOTALL)
_BEGINNING = 64 * 1024
"""Bytes of a file in which its format must show."""
_PIECE = 1024 * 1024
_DELIMITERS = "\t, ;|"
"""Characters that can separate the values of a standard log, the usual one first."""


class Format(Enum):
    """What a file holds."""

    RECORDS = "records"
    STANDARD_JSON = "standard log, JSON"
    STANDARD_TEXT = "standard log, W3C"
    PARQUET = "parquet"


class Kind(NamedTuple):
    """The format of a file, and for a standard log its fields in order, with the text that separates them; whether the
    file is compressed with gzip."""

    format: Format
    fields: tuple[str, ...] = ()
    delimiter: str = "\t"
    compressed: bool = False


def access_logs(folder: Path) -> list[Path]:
    """The access log in the folder and those that were rotated, the oldest first; empty if there is none.

    :raises SettingsError: if the folder cannot be read.
    """
    try:
        found = {
            path.name: path
            for path in folder.iterdir()
            if path.name == LIVE or (_ROTATED.fullmatch(path.name) and path.is_file())
        }
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise SettingsError(f"{folder} cannot be read: {error.strerror}") from None
    # While a rotated log is compressed, there are both; the compressed one is not complete yet.
    kept = [
        path for name, path in found.items() if name.removesuffix(".gz") == name or name[:-3] not in found
    ]
    return sorted(kept, key=lambda path: (path.name == LIVE, _modified(path), path.name))


def log_files(path: Path) -> list[Path]:
    """The file, or all files in the folder and below it.

    :raises SettingsError: if there is no such file or folder, or no file in it.
    """
    try:
        folder, file = path.is_dir(), path.is_file()
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
    if folder:
        found = sorted(each for each in path.rglob("*") if each.is_file() and not each.name.startswith("."))
        if not found:
            raise SettingsError(f"there is no file in {path}")
        return found
    if not file:
        raise SettingsError(f"there is no file or folder {path}")
    return [path]


def kinds(files: Iterable[Path]) -> tuple[dict[Kind, list[Path]], list[Path]]:
    """The files by what they hold, and those that hold no log in a known format. Empty files are left out.

    :raises SettingsError: if a file cannot be read.
    """
    found: defaultdict[Kind, list[Path]] = defaultdict(list)
    unknown = []
    for file in files:
        try:
            beginning = _beginning(file)
        except FileNotFoundError:
            continue  # rotated since
        except OSError as error:
            raise SettingsError(f"{file} cannot be read: {error.strerror or error}") from None
        if not beginning:
            continue
        kind = kind_of(beginning)
        if kind is None:
            unknown.append(file)
        else:
            found[kind._replace(compressed=is_compressed(file))].append(file)
    return dict(found), unknown


def kind_of(beginning: bytes) -> Kind | None:
    """What a file that begins like this holds, None if it is none of the formats.

    :param beginning: decompressed.
    """
    if beginning.startswith(b"PAR1"):
        return Kind(Format.PARQUET)
    lines = beginning.split(b"\n")
    for number, line in enumerate(lines):
        if line.startswith(b"#Fields:"):
            following = lines[number + 1] if number + 1 < len(lines) else b""
            return _text_kind(line.decode("utf-8", "replace"), following.decode("utf-8", "replace"))
        if line.startswith(b"{"):
            try:
                members = json.loads(line)
            except ValueError:
                continue  # torn
            if is_record(members):
                return Kind(Format.RECORDS)
            if is_standard(by_normalized_name(members)):
                return Kind(Format.STANDARD_JSON, tuple(sorted(members)))
    return None


def _text_kind(header: str, line: str) -> Kind | None:
    """The fields that the header names; the first line with values shows what separates them."""
    fields = tuple(header.removeprefix("#Fields:").split())
    if not is_standard(by_normalized_name(fields)) or len(set(fields)) != len(fields):
        return None
    fitting = (each for each in _DELIMITERS if line.count(each) == len(fields) - 1)
    return Kind(Format.STANDARD_TEXT, fields, next(fitting, "\t"))


def repaired(file: Path, folder: Path) -> Path | None:
    """A decompressed copy of what can be read of a damaged compressed file; None if the file is intact.

    :param folder: where to write the copy.
    """
    copy = folder / f"{file.name.removesuffix('.gz')}.readable"
    with copy.open("wb") as output:
        try:
            for piece in _pieces(file):
                output.write(piece)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            return copy
    copy.unlink()
    return None


def find_record(files: Iterable[Path], request_id: str) -> bytes | None:
    """The line of the access record with this request ID, None if no file has it. The last files are searched first.

    :raises SettingsError: if a file cannot be read.
    """
    member = json.dumps({"request_id": request_id}, separators=(",", ":"))[1:-1].encode()
    for file in reversed(list(files)):
        try:
            found = _line_with(file, member)
        except FileNotFoundError:
            continue  # removed since
        except OSError as error:
            raise SettingsError(f"{file} cannot be read: {error.strerror or error}") from None
        if found is not None:
            return found
    return None


def _line_with(file: Path, text: bytes) -> bytes | None:
    rest = b""
    try:
        for piece in _pieces(file):
            data = rest + piece
            at = data.find(text)
            if at >= 0 and (end := data.find(b"\n", at)) >= 0:
                return data[data.rfind(b"\n", 0, at) + 1 : end]
            # A line that is not finished is searched again with what follows, unless it is too long to be a record.
            rest = data[data.rfind(b"\n") + 1 :]
            if len(rest) > _PIECE:
                rest = b""
    except (EOFError, zlib.error, gzip.BadGzipFile):
        pass
    return rest if text in rest else None


def is_compressed(file: Path) -> bool:
    """Whether the file is compressed with gzip, whatever its name says."""
    with file.open("rb") as raw:
        return raw.read(2) == b"\x1f\x8b"


def opened(file: Path) -> gzip.GzipFile | io.BufferedReader:
    """The file, decompressed if it is compressed."""
    return gzip.open(file, "rb") if is_compressed(file) else file.open("rb")


def _pieces(file: Path) -> Iterator[bytes]:
    with opened(file) as source:
        # read1 returns what there is before it fails, so nothing of a damaged file is lost.
        while piece := source.read1(_PIECE):
            yield piece


def _beginning(file: Path) -> bytes:
    data = b""
    try:
        for piece in _pieces(file):
            data += piece
            if len(data) >= _BEGINNING:
                break
    except (EOFError, zlib.error, gzip.BadGzipFile):
        pass
    return data


def _modified(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return 0.0
