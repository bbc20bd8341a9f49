"""Simulated disk failures: the n-th disk call that a piece of code makes fails, for every n.

    for disk in failing_disks():
        folder = fresh()
        with disk:
            try: work(folder)
            except OSError: ...
        check(folder, disk.struck)

Each iteration moves the failure one call further, in each of WAYS, until the work completes without reaching it. The
failures are injected into the calls of `os` and into the calls that Python's file objects make underneath; SQLite's
writes and syncs fail in its virtual file system (`FailingSqlite`). No part of Keyfront is replaced.
"""

from __future__ import annotations

import _sqlite3
import builtins
import ctypes
import errno
import fcntl
import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any, Self

WRITES = (
    "write",
    "writev",
    "pwrite",
    "fsync",
    "fdatasync",
    "rename",
    "replace",
    "link",
    "mkdir",
    "ftruncate",
    "utime",
    "open",
)
READS = ("pread", "scandir", "stat", "read")

WAYS = {
    "full once": (errno.ENOSPC, False),
    "full from then on": (errno.ENOSPC, True),
    "broken once": (errno.EIO, False),
    "read-only from then on": (errno.EROFS, True),
    "no descriptors": (errno.EMFILE, False),
    "not ours": (errno.EACCES, False),
}
MOST = 400
"""Turns after which the work is taken for endless."""


class FailingDisk:
    """A context manager within which call number `at` (from 0) fails with `code`; with `stays`, so do all later calls.

    Only calls from the thread that entered the context count, unless `threads` is set. Paths and descriptors under
    /dev, /proc and the like are ignored.
    """

    def __init__(
        self, at: int, code: int, *, stays: bool = False, reads: bool = False, threads: bool = False
    ) -> None:
        self.at = at
        self.code = code
        self.stays = stays
        self.threads = threads
        self.names = WRITES + READS if reads else WRITES
        self.calls = 0
        self.struck = False
        self.where = ""
        self._lock = threading.Lock()
        self._owner = 0
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        self._owner = threading.get_ident()
        for name in self.names:
            self._patch(os, name, self._failing(name, getattr(os, name)))
        self._patch(fcntl, "flock", self._failing("flock", fcntl.flock))
        opens = self._opening(io.open)
        for module in (builtins, io):
            self._patch(module, "open", opens)
        self._patch(os, "fdopen", lambda fd, *args, **named: opens(fd, *args, **named))
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def _patch(self, module: ModuleType, name: str, value: Any) -> None:
        before = getattr(module, name)
        setattr(module, name, value)
        self._undo.callback(setattr, module, name, before)

    def _strike(self, name: str) -> None:
        """Count one call, and fail it if it is the chosen one."""
        if not self.threads and threading.get_ident() != self._owner:
            return
        with self._lock:
            number = self.calls
            self.calls += 1
            if number == self.at or (self.stays and number > self.at):
                if not self.struck:
                    self.where = name
                self.struck = True
                raise OSError(self.code, os.strerror(self.code))

    def _failing(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            if name == "open" and (_elsewhere(args[0]) or not _creates(args, named)):
                return real(*args, **named)
            if name in ("stat", "scandir") and args and _elsewhere(args[0]):
                return real(*args, **named)
            if name == "scandir" and not _is_there(args[0]):
                return real(*args, **named)  # a missing file is not a disk failure
            self._strike(name)
            return real(*args, **named)

        return call

    def _opening(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """`open` that returns files whose writes can fail."""

        def call(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **named: Any) -> Any:
            writes = any(letter in mode for letter in "wxa+")
            if not writes or (not isinstance(file, int) and _elsewhere(file)):
                return real(file, mode, buffering, *args, **named)
            if not isinstance(file, int):
                self._strike("open")
            raw = _Raw(
                self, file, mode.replace("b", "").replace("t", ""), **_only(named, "closefd", "opener")
            )
            if buffering == 0:
                return raw
            buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            if "b" in mode:
                return buffered
            return io.TextIOWrapper(buffered, **_only(named, "encoding", "errors", "newline"))

        return call


class _Raw(io.FileIO):
    def __init__(self, disk: FailingDisk, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._disk = disk

    def write(self, data: Any, /) -> int:
        self._disk._strike("write")
        return super().write(data)


_stat = os.stat


def _is_there(path: Any) -> bool:
    try:
        _stat(path)
    except OSError:
        return False
    return True


def _only(named: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in named.items() if name in names}


def _elsewhere(path: Any) -> bool:
    return not isinstance(path, int) and os.fspath(path).startswith(
        ("/dev/", "/proc/", "/sys/", "/usr/", "/etc/")
    )


def _creates(args: tuple[Any, ...], named: dict[str, Any]) -> bool:
    flags = args[1] if len(args) > 1 else named.get("flags", 0)
    return bool(flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR))


def failing_disks(
    ways: tuple[str, ...] = tuple(WAYS), *, reads: bool = False, threads: bool = False
) -> Iterator[FailingDisk]:
    """A disk that fails at its first call, then one that fails at its second, and so on, in each way, until no call
    is left."""
    for way in ways:
        code, stays = WAYS[way]
        for at in range(MOST):
            disk = FailingDisk(at, code, stays=stays, reads=reads, threads=threads)
            yield disk
            if not disk.struck:
                break
        else:
            raise AssertionError(f"{way}: still failing after {MOST} calls")


# ---- SQLite

FULL = 13
IOERR_WRITE = 10 | (3 << 8)
IOERR_FSYNC = 10 | (4 << 8)

_P = ctypes.c_void_p
_OPEN = ctypes.CFUNCTYPE(ctypes.c_int, _P, _P, _P, ctypes.c_int, _P)
_WRITE = ctypes.CFUNCTYPE(ctypes.c_int, _P, _P, ctypes.c_int, ctypes.c_int64)
_TRUNCATE = ctypes.CFUNCTYPE(ctypes.c_int, _P, ctypes.c_int64)
_SYNC = ctypes.CFUNCTYPE(ctypes.c_int, _P, ctypes.c_int)


class _Vfs(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_int),
        ("file_size", ctypes.c_int),
        ("longest", ctypes.c_int),
        ("next", _P),
        ("name", ctypes.c_char_p),
        ("data", _P),
        ("open", _P),
    )


class _Methods(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_int),
        ("close", _P),
        ("read", _P),
        ("write", _P),
        ("truncate", _P),
        ("sync", _P),
        ("rest", _P * 13),
    )


class _File(ctypes.Structure):
    _fields_ = (("methods", ctypes.POINTER(_Methods)),)


class FailingSqlite:
    """A virtual file system for SQLite. Files opened within this context write and sync through it. `fail(at)` makes
    call number `at` fail as on a full disk (`FULL`) or a broken one; with `stays`, all later calls fail too."""

    def __init__(self) -> None:
        self.calls = 0
        self.struck = False
        self._at: int | None = None
        self._code = FULL
        self._stays = False
        self._kept: list[Any] = []
        self._patched: dict[int, Any] = {}

    def fail(self, at: int | None, code: int = FULL, *, stays: bool = False) -> None:
        """Call number `at` fails; None: no call fails any longer."""
        self.calls, self.struck = 0, False
        self._at, self._code, self._stays = at, code, stays

    def _turn(self) -> int:
        number = self.calls
        self.calls += 1
        if self._at is not None and (number == self._at or (self._stays and number > self._at)):
            self.struck = True
            return self._code
        return 0

    def __enter__(self) -> Self:
        library = ctypes.CDLL(_sqlite3.__file__)
        library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
        self._vfs = library.sqlite3_vfs_find(None)
        self._real = self._vfs.contents.open
        real = _OPEN(self._real)

        def opened(vfs: Any, name: Any, file: Any, flags: int, told: Any) -> int:
            status = int(real(vfs, name, file, flags, told))
            found = ctypes.cast(file, ctypes.POINTER(_File)).contents
            if status == 0 and found.methods:
                found.methods = self._methods(found.methods)
            return status

        callback = _OPEN(opened)
        self._kept.append(callback)
        self._vfs.contents.open = ctypes.cast(callback, _P).value
        return self

    def __exit__(self, *_: object) -> None:
        self._vfs.contents.open = self._real
        self._at = None

    def _methods(self, real: Any) -> Any:
        """`real` with our own write and sync functions. SQLite keeps pointers to it, so none of it is ever freed."""
        address = ctypes.addressof(real.contents)
        if address not in self._patched:
            made = _Methods()
            ctypes.memmove(ctypes.byref(made), ctypes.byref(real.contents), ctypes.sizeof(_Methods))
            write, truncate, sync = (
                kind(getattr(real.contents, name))
                for kind, name in ((_WRITE, "write"), (_TRUNCATE, "truncate"), (_SYNC, "sync"))
            )
            callbacks = (
                _WRITE(lambda file, data, size, at: self._turn() or write(file, data, size, at)),
                _TRUNCATE(lambda file, size: self._turn() or truncate(file, size)),
                _SYNC(lambda file, flags: self._turn() or sync(file, flags)),
            )
            for name, callback in zip(("write", "truncate", "sync"), callbacks, strict=True):
                setattr(made, name, ctypes.cast(callback, _P).value)
            _FOREVER.append((made, callbacks, write, truncate, sync))
            self._patched[address] = self._patched[ctypes.addressof(made)] = made
        return ctypes.pointer(self._patched[address])


_FOREVER: list[Any] = []


def left_over(folder: Path) -> list[Path]:
    """Leftover temporary files."""
    return [path for path in folder.rglob("*") if path.name.endswith(".tmp") or path.parent.name == "new"]
