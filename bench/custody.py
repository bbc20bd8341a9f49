"""Benchmark of signatures per second for each custody: `python -m bench custody`.

Each custody runs as local software: a folder, SoftHSM, moto for AWS, OpenBao for Vault. For custodies that sign
remotely, the figure is the round trip to the local stand-in, not the speed of the real service; for custodies that give
the key to the process, it is the key's own speed. `open` is the time to the first signature with a key by its URI, in a
process that has opened the custody before. Custodies that are not installed on this machine are skipped with a message.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from keyfront.custody import Handle, open_key, open_place
from keyfront.signing.keys import Algorithm, HashName
from tests import moto, openbao
from tests.custody.softhsm import SoftHsm

SECONDS = 1.0
ROUNDS = 3
THREADS = 4
TEXT = b"x" * 150


class Place(NamedTuple):
    name: str
    uri: str
    environment: Mapping[str, str]


class Row(NamedTuple):
    place: str
    algorithm: Algorithm
    hash_name: HashName
    per_second: float
    threaded: float
    open_ms: float


def _places(stack: ExitStack) -> Iterator[Place]:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    yield Place("file:", f"file:{folder}/keys/", {})
    (folder / "hsm").mkdir()
    try:
        hsm = SoftHsm(folder / "hsm")
    except pytest.skip.Exception as why:
        print(f"left out: pkcs11: ({why})")
    else:
        os.environ["SOFTHSM2_CONF"] = str(hsm.configuration)
        yield Place("pkcs11: (SoftHSM)", hsm.uri(hsm.token("bench")), {})
    if why := moto.unable():
        print(f"left out: AWS ({why})")
    else:
        aws = stack.enter_context(moto.Moto())
        for scheme in ("awskms", "awssm", "awsssm"):
            yield Place(f"{scheme}: (moto)", f"{scheme}:bench/?{aws.options}", aws.environment)
    if why := openbao.unable():
        print(f"left out: Vault ({why})")
    else:
        vault = stack.enter_context(openbao.Bao())
        vault.call("post", "sys/mounts/bench", {"type": "transit"})
        yield Place("vault:kv/ (OpenBao)", f"vault:kv/secret/bench/?address={vault.url}", vault.environment)
        uri = f"vault:transit/bench/?address={vault.url}&notes=secret/notes"
        yield Place("vault:transit/ (OpenBao)", uri, vault.environment)


def _rate(sign: Callable[[], object]) -> float:
    """Signatures per second in the best round."""
    best = 0.0
    for _ in range(ROUNDS):
        began, done = time.perf_counter(), 0
        while time.perf_counter() - began < SECONDS / ROUNDS:
            sign()
            done += 1
        best = max(best, done / (time.perf_counter() - began))
    return best


def _threaded(handle: Handle, hash_name: HashName, pool: ThreadPoolExecutor) -> float:
    def work(_: int) -> int:
        began, done = time.perf_counter(), 0
        while time.perf_counter() - began < SECONDS / ROUNDS:
            handle.sign(TEXT, hash_name)
            done += 1
        return done

    best = 0.0
    for _ in range(ROUNDS):
        began = time.perf_counter()
        done = sum(pool.map(work, range(THREADS)))
        best = max(best, done / (time.perf_counter() - began))
    return best


def rows() -> list[Row]:
    found: list[Row] = []
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(THREADS))
        for name, uri, environment in _places(stack):
            place = open_place(uri, environment)
            for algorithm in place.algorithms:
                held = place.create(f"k-{algorithm}", algorithm, now=time.time())
                hash_name: HashName = "SHA256"
                open_key(held.uri, environment).sign(TEXT, hash_name)
                began = time.perf_counter()
                handle = open_key(held.uri, environment)
                handle.sign(TEXT, hash_name)
                open_ms = (time.perf_counter() - began) * 1e3
                sign = handle.sign
                alone = _rate(lambda sign=sign, hash_name=hash_name: sign(TEXT, hash_name))
                found.append(
                    Row(name, algorithm, hash_name, alone, _threaded(handle, hash_name, pool), open_ms)
                )
    return found


def main() -> list[Row]:
    """Print the table and return its rows."""
    found = rows()
    print(
        f"{'signatures a second, SHA-256':28}{'':12}{'one thread':>12}{f'{THREADS} threads':>12}{'open, ms':>12}"
    )
    for row in found:
        print(
            f"{row.place:28}{row.algorithm:12}{row.per_second:12,.0f}{row.threaded:12,.0f}{row.open_ms:12.1f}"
        )
    return found


if __name__ == "__main__":
    main()
