"""Fuzzer of access control: whatever an unsigned viewer sends to careless origins, it never gets restricted content.

    python -m fuzz.gate [--seconds N] [--count N] [--seed N]

Each of the origins of `tests.careless` is behind its own edge: `http.server` in HTTP/1.1 and 1.0, one that reads no
bodies, one that ignores `Connection: close`, one that sends announced bodies later, one that responds early and then
again, and an nginx that forwards `$uri`. Viewers send requests with all methods whose bodies are requests for the
secret, and paths that a decoding origin may read as the secret's path. Half of the requests are corrupted. Invariants:

- nothing that a viewer receives, directly or from the cache, contains the secret;
- every public document that is requested afterward is that document.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import uvloop
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fuzz.http1 import ALL, AT_ONCE, LIMITS, PATIENCE, chunks, packets, spoil
from fuzz.paths import detour
from fuzz.runner import Finding, check, inputs, main

from keyfront import LocalSigner, load_private_key, sign_url
from keyfront.model.snapshot import Behavior, KeyGroup, Origin, PublicKey, Snapshot
from tests.careless import KINDS, SECRET, Careless, document, nginx_with_uri
from tests.nginx import BINARY
from tests.sites import site
from tests.viewer import EdgeHarness

OPEN = ("/open/a.txt", "/open/b.txt", "/open/c.txt", "/open/upload")
SECRETS = (
    "/private/secret.txt", "/%70rivate/secret.txt", "/private%2fsecret.txt", "/open/..%2fprivate/secret.txt",
    "/open/%2e%2e/private/secret.txt", "//private/secret.txt", "/private/secret.txt%3f.jpg", "/private/secret.txt%23",
    "/private/secret.txt%20HTTP/1.1%0d%0aX:%20", "/open/a.txt%00/../../private/secret.txt",
    "/open/a.txt%20HTTP/1.1%0d%0aHost:%20o%0d%0a%0d%0aGET%20/private/secret.txt",
    "/open/a.txt%20HTTP/1.1%0d%0aContent-Length:%200%0d%0a%0d%0aGET%20/private/secret.txt%20HTTP/1.1%0d%0aX:%20",
    "/open/a.txt%0d%0aContent-Length:%2044", "/open/%252e%252e/private/secret.txt", "/open/..%5cprivate%5csecret.txt",
)  # fmt: skip
HIDDEN = b"GET /private/secret.txt HTTP/1.1\r\nHost: o\r\n\r\n"


def gated(origin: Origin, signer: LocalSigner) -> Snapshot:
    """A snapshot in which `/private/*` needs a signature; the rest is public and allows every method."""
    return site(
        origin,
        Behavior("/private/*", origin.id, restricted=True, trusted_key_groups=("g",)),
        Behavior("*", origin.id, allowed_methods=ALL, legacy=True),
        public_keys=(PublicKey(signer.key_pair_id, signer.public_key.pem),),
        key_groups=(KeyGroup("g", "g", (signer.key_pair_id,)),),
    )


def request(chance: random.Random, number: int) -> bytes:
    """A request without a signature. Its body, if any, is one or more requests for the secret."""
    method = chance.choice(ALL)
    target = f"{chance.choice(OPEN)}?{number}"
    if chance.random() < 0.25:
        target = detour(chance, "/private/secret.txt") if chance.random() < 0.5 else chance.choice(SECRETS)
    if chance.random() < 0.1:
        target = f"/open/status/{chance.choice((204, 304))}?{number}"
    shown = f"http://d.test{target}" if chance.random() < 0.1 else target
    lines = [f"{method} {shown} HTTP/1.1", "Host: d.test"]
    body = (HIDDEN * chance.randint(1, 8))[chance.choice((0, 0, 0, 1, 5)) :]
    fields = (
        "Connection: Upgrade\r\nUpgrade: h2c", "Connection: content-length", "Expect: 100-continue", "X-A: \x85\xff",
        'If-None-Match: "1"', "Range: bytes=0-1", "Content_Length: 5", "Transfer_Encoding: chunked", "TE: trailers",
    )  # fmt: skip
    lines += chance.sample(fields, chance.choice((0, 0, 1, 2)))
    way = chance.random()
    rest = b""
    if way < 0.4:
        lines.append(f"Content-Length: {len(body)}")
        rest = body
    elif way < 0.7:
        lines = [line for line in lines if "Upgrade" not in line]
        lines.append("Transfer-Encoding: chunked")
        rest = chunks(chance, body)
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + rest


class GateFuzz:
    """Conversations with edges whose origins are careless."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.done = 0
        self.heard = 0  # bytes
        self.signer = LocalSigner("KFUZZ", load_private_key(_pem()))

    async def run(self, count: int | None, seconds: float | None) -> None:
        async with contextlib.AsyncExitStack() as stack:
            origins = {kind: stack.enter_context(Careless(kind)).origin() for kind in KINDS}
            if BINARY is not None:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                origins["nginx with $uri"] = stack.enter_context(nginx_with_uri(folder, OPEN))
            edges = {}
            for kind, origin in origins.items():
                harness = EdgeHarness(gated(origin, self.signer), limits=LIMITS)
                edges[kind] = await stack.enter_async_context(harness)
                url = sign_url(
                    "http://d.test/private/secret.txt", self.signer, expires=int(time.time()) + 3600
                )
                seen = await edges[kind].get(url.removeprefix("http://d.test"))
                check(seen.body == SECRET, "not even a signature opens the secret", kind, seen)
            kinds = list(edges)
            waiting: set[asyncio.Task[None]] = set()
            try:
                for number in inputs(count, seconds):
                    kind = kinds[number % len(kinds)]
                    waiting.add(asyncio.create_task(self._conversation(edges[kind], kind, number)))
                    self.done += 1
                    if len(waiting) >= AT_ONCE:
                        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                        for task in done:
                            task.result()
                await asyncio.gather(*waiting)
            finally:
                for task in waiting:
                    task.cancel()
                await asyncio.gather(*waiting, return_exceptions=True)

    async def _conversation(self, harness: EdgeHarness, kind: str, number: int) -> None:
        chance = random.Random(f"{self.seed} {number}")
        data = b"".join(request(chance, number * 10 + n) for n in range(chance.randint(1, 4)))
        if chance.random() < 0.5:
            data = spoil(chance, data)
        about = (kind, f"seed {self.seed}, conversation {number}", data)
        try:
            async with asyncio.timeout(PATIENCE):
                heard = await self._talk(harness, packets(chance, data))
                check(SECRET not in heard, "the secret, without a signature", *about, heard)
                self.heard += len(heard)
                for path in chance.sample(OPEN, 2):
                    target = f"{path}?{chance.randrange(30)}"
                    seen = await harness.get(target)
                    check(
                        (seen.status, seen.body) == (200, document(path)),
                        "another document",
                        *about,
                        target,
                        seen,
                    )
        except TimeoutError as error:
            raise Finding(f"no end: {about!r}") from error

    async def _talk(self, harness: EdgeHarness, pieces: list[bytes]) -> bytes:
        """Everything that the edge sends until it ends the connection."""
        async with await harness.viewer() as viewer:
            hearing = asyncio.create_task(viewer.at_end())
            try:
                for piece in pieces:
                    await viewer.send(piece)
                viewer.writer.write_eof()
            except OSError:
                pass  # refused halfway
            try:
                return await hearing
            except ConnectionError:
                return b""


def _pem() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def run(count: int | None, seconds: float | None, seed: int, tell: Callable[[str], None] = print) -> int:
    """Run `count` conversations, or as many as `seconds` allow. Returns their number.

    :raises Finding: at the first one.
    """
    fuzz = GateFuzz(seed)
    logging.getLogger("keyfront").setLevel(logging.ERROR)  # many invalid responses are logged
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(fuzz.run(count, seconds))
    finally:
        logging.getLogger("keyfront").setLevel(logging.NOTSET)
    tell(f"seed {seed}: {fuzz.done} conversations, {fuzz.heard} bytes heard, no finding")
    return fuzz.done


if __name__ == "__main__":
    main(__doc__, run)
