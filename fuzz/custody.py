"""Fuzzer of key folders: whatever the files contain, opening a key returns that exact key or raises CustodyError.

    python -m fuzz.custody [--seconds N] [--count N] [--seed N]

It mutates a key's file, the folder's envelope, its key file, and a record: splices them, cuts them, swaps parts between
them, and changes them as JSON. A key that opens must be the one that was stored, whatever happened to the rest.
"""

from __future__ import annotations

import base64
import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz.runner import inputs, main

from keyfront.custody.adapters.filesystem.custody import PRIVATE, FileCustody
from keyfront.custody.adapters.filesystem.envelope import ENVELOPE
from keyfront.custody.adapters.filesystem.folder import RECORD
from keyfront.custody.adapters.filesystem.kek import KEY
from keyfront.custody.contract import HeldKey
from keyfront.custody.schemes import open_place
from keyfront.errors import CustodyError
from keyfront.signing.keys import generate_private_key

Files = dict[str, bytes]

_PIECES = (
    b"{", b"}", b"[", b'"', b",", b":", b"null", b"true", b"1e999", b"-1", b"9" * 400, b"\0", b"\xff", b"\n",
    b"\\u0000", b"\\ud800", b"[" * 3000, b'"sealed":"",', b'"delete_at":1,', b'"labels":{"":""},', b'"n":1048576,',
    b'"type":"key"', b"-----BEGIN PUBLIC KEY-----", b"../", b"keyfront-custody-key-1", b"A" * 5000,
)  # fmt: skip


def seeds(folder: Path) -> tuple[Files, Files, dict[str, HeldKey]]:
    """The files of two valid folders, each with two keys and a record, and the keys of the first."""
    found: list[Files] = []
    held: dict[str, HeldKey] = {}
    for number in (1, 2):
        at = FileCustody(f"{folder}/{number}/", {}, {}, open_place=open_place)
        for name in ("two", "one"):
            made = at.import_key(name, generate_private_key("ECDSA-P256"), now=1.0, labels={"a": "b"})
            if number == 1:
                held[name] = made
        at.records.write("record", b'{"a": [1, 2]}', None)
        found.append({path.name: path.read_bytes() for path in (folder / str(number)).iterdir()})
    return found[0], found[1], held


def mutate(chance: random.Random, files: Files, others: Files) -> Files:
    """One to three changes in one or two of the files."""
    changed = dict(files)
    for _ in range(chance.randint(1, 3)):
        name = chance.choice((f"one{PRIVATE}", f"one{PRIVATE}", ENVELOPE, KEY, f"record{RECORD}"))
        data = changed[name]
        kind = chance.randint(0, 6)
        where = chance.randint(0, len(data))
        end = min(len(data), where + chance.choice((0, 1, 2, 16, 200)))
        if kind == 0:
            data = data[:where] + chance.choice(_PIECES) + data[end:]
        elif kind == 1:
            data = data[:where] + bytes([chance.randrange(256)]) + data[end:]
        elif kind == 2:
            data = data[:where]
        elif kind == 3:
            data = chance.choice(
                (others[name], files[f"two{PRIVATE}"], files[ENVELOPE], others[f"one{PRIVATE}"])
            )
        elif kind == 4:
            data = data[:where] + data[end:] + data[where:end]
        else:
            data = _as_json(chance, data, chance.choice(list(others.values())))
        changed[name] = data
    return changed


def _as_json(chance: random.Random, data: bytes, other: bytes) -> bytes:
    """Replace a member with one from another file, corrupt it, or remove it."""
    try:
        value, more = json.loads(data), json.loads(other)
    except (ValueError, RecursionError):
        return data
    if not isinstance(value, dict) or not isinstance(more, dict):
        return data
    names = sorted(set(value) | set(more))
    if not names:
        return data
    name = chance.choice(names)
    kind = chance.randint(0, 3)
    if kind == 0 and name in more:
        value[name] = more[name]
    elif kind == 1:
        value.pop(name, None)
    elif kind == 2 and isinstance(value.get(name), str):
        value[name] = _spoilt(chance, value[name])
    else:
        strange: tuple[Any, ...] = (
            None,
            0,
            -1,
            1e300,
            "",
            "x",
            [],
            {},
            {"type": "wrapped"},
            {"type": "key"},
            True,
        )
        value[name] = chance.choice(strange)
    return json.dumps(value).encode()


def _spoilt(chance: random.Random, text: str) -> str:
    try:
        data = bytearray(base64.b64decode(text, validate=True))
    except ValueError:
        return text[::-1]
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return base64.b64encode(bytes(data[: chance.choice((len(data), 5, 12))])).decode()


def check(folder: Path, files: Files, held: HeldKey) -> bool:
    """Check the contract. Returns True if the key opened.

    :raises AssertionError: if a key other than `held` opened, or its metadata is wrong.
    """
    for name, data in files.items():
        (folder / name).write_bytes(data)
    at = FileCustody(f"{folder}/", {}, {}, open_place=open_place)
    for ask in (at.records.names, lambda: at.records.read("record"), lambda: list(at.list())):
        try:
            ask()
        except CustodyError:
            continue
    try:
        handle, key = at.handle("one"), at.export("one")
    except CustodyError:
        return False
    assert handle.public_key == key.public_key == held.public_key, "another key than was put there"
    assert held.public_key.verify(b"x", handle.sign(b"x", "SHA256"), "SHA256"), "a key that does not sign"
    return True


def run(count: int | None, seconds: float | None, seed: int, tell: Callable[[str], None] = print) -> int:
    """Mutate and check, `count` times or for `seconds`. Returns the number of inputs that opened nevertheless."""
    chance = random.Random(seed)
    done = opened = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files, others, held = seeds(folder)
        at = folder / "1"
        assert check(at, files, held["one"])
        for number in inputs(count, seconds):
            changed = mutate(chance, files, others)
            try:
                opened += check(at, changed, held["one"])
            except Exception:
                tell(f"seed {seed}, input {number}: {changed!r}")
                raise
            finally:
                for each in set(files) - {
                    path.name for path in at.iterdir()
                }:  # files due for deletion were removed
                    (at / each).touch(0o600)
            done += 1
    tell(f"{done} inputs, {opened} opened although changed, no finding")
    return opened


if __name__ == "__main__":
    main(__doc__, run)
