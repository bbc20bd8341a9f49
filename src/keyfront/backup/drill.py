"""The restore drill: proof that an archive works, by starting a Keyfront from it and sending it requests.

The archive is restored into a folder of its own, and `keyfront up` starts there, on otherwise unused local ports. Then
its edge receives a request for each signed URL that was made no later than the archive, and for the same URL with one
letter of the signature changed. The first must be allowed, by the key that signed it, and the second refused, according
to that edge's access log.

The folder gets only the rows: the drill needs neither the data folder's files, which are mostly secrets, nor access
keys. The folder is removed at the end; the next drill removes what a killed drill has left.

Nothing outside is touched. Distributions keep everything that decides about signatures, and get the drill's own origin,
no geo restriction and no region, so that no real origin is contacted and no secret leaves. Records, hooks, and the
environment's settings are left out, so that nothing rotates.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import sqlalchemy as sa

from keyfront.backup import coverage
from keyfront.backup.archive import keys as archived_keys
from keyfront.backup.archive.container import Proof
from keyfront.backup.audit import AuditActor
from keyfront.backup.capture import Archive
from keyfront.backup.restore.lock import held
from keyfront.backup.restore.restore import Restore, Target
from keyfront.control.store.schema import access_key as _access_key
from keyfront.control.store.schema import tag as _tag
from keyfront.control.store.store import Store
from keyfront.control.store.transaction import Transaction
from keyfront.errors import BackupError, KeyfrontError, SettingsError
from keyfront.model.kinds import DISTRIBUTION
from keyfront.model.quotas import Limits, PolicyLimits
from keyfront.model.residency import TAG
from keyfront.model.snapshot import Snapshot

_START = 60.0
"""Seconds within which Keyfront must start."""
_ANSWER = 20.0
"""Seconds within which it must respond and write its access log."""


class Result(msgspec.Struct, frozen=True):
    """The result for one signed URL. `how` says where it comes from, `where` is the URL without its signature, and
    `fault` is empty if everything is as expected."""

    how: str
    where: str
    key_pair_id: str
    fault: str


class Report(msgspec.Struct, frozen=True):
    """`seconds` is the time from the archive to a Keyfront that responds. `not_asked` are the behaviors that require
    signatures but for which no signed URL is known, so it is unknown whether links to them work."""

    snapshot: int
    seconds: float
    results: tuple[Result, ...]
    not_asked: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every requested URL passed."""
        return bool(self.results) and not any(result.fault for result in self.results)


def drill(
    archive: Archive,
    snapshot: Snapshot,
    urls: Sequence[str],
    teller: AuditActor,
    now: float,
    viewer_ip: str = "",
) -> Report:
    """:param snapshot: the snapshot that the archive's rows compile to (`capture.check`).
    :param urls: additional signed URLs.
    :param viewer_ip: the viewer address to use where a policy names an address.
    :raises SettingsError: if there is no signed URL to request.
    :raises BackupError: if the scratch instance does not start."""
    wanted = [("given", Proof(url)) for url in urls]
    wanted += [("in the archive", proof) for proof in archive.manifest.proofs]
    for row in archive.keys:
        if row.key_pair_id:
            wanted += [
                ("by the archived key", proof) for proof in archived_keys.signed_with(row, snapshot, now)
            ]
    if not wanted:
        raise SettingsError(
            "there is no signed URL to request: the archive holds neither one nor a private key that signs; "
            "give one that an application has made, with --url"
        )
    began = time.monotonic()
    _sweep()
    with _scratch() as scratch, _origin() as port:
        folder = scratch / "data"
        _restored(archive, folder, port, teller, now)
        with _started(folder) as edge:
            seconds = time.monotonic() - began
            client = _DrillClient(edge, folder / "logs" / "access.jsonl", viewer_ip)
            results = [client.check(how, proof) for how, proof in wanted]
    not_asked = coverage.unasked(snapshot, [proof.url for _, proof in wanted])
    return Report(snapshot.number, seconds, tuple(results), tuple(not_asked))


_SCRATCH, _LOCK = "keyfront-drill-", "lock"


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """Yield a folder that is removed at the end. Its lock is held from before the folder gets its name until this
    process ends, so a folder whose lock is free is abandoned."""
    with tempfile.TemporaryDirectory(prefix=_SCRATCH) as name:
        folder = Path(name).resolve()
        lock = os.open(folder / "new", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (folder / "new").rename(folder / _LOCK)
            yield folder
        finally:
            os.close(lock)


def _sweep() -> None:
    """Remove what killed drills of this user have left."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*"):
        with contextlib.suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(lock)


def _restored(archive: Archive, folder: Path, port: int, teller: AuditActor, now: float) -> None:
    alone = msgspec.structs.replace(archive, files=[], records=[], keys=[])
    with held(folder), Restore(alone, Target(folder), {}) as work:
        work.run(work.plan(), teller, "drill", now)
    store = Store(folder / "keyfront.db")
    try:
        with store.write() as transaction:
            transaction.connection.execute(sa.delete(_access_key))
            _to_origin(transaction, port)
    finally:
        store.close()


def _to_origin(transaction: Transaction, port: int) -> None:
    """Point all distributions at the drill's origin, for all viewers, in every region."""
    transaction.connection.execute(sa.delete(_tag).where(_tag.c.key == TAG))
    for row in transaction.get_many(DISTRIBUTION.name, transaction.versions(DISTRIBUTION.name)):
        config = dict(row.config)
        origins = config["Origins"]
        config["Origins"] = origins | {"Items": [_drilled(origin, port) for origin in origins["Items"]]}
        config["Restrictions"] = {"GeoRestriction": {"RestrictionType": "none", "Quantity": 0}}
        transaction.update(msgspec.structs.replace(row, config=config))


def _drilled(origin: Mapping[str, Any], port: int) -> dict[str, Any]:
    return {
        "Id": origin["Id"],
        "DomainName": "127.0.0.1",
        "OriginPath": "",
        "CustomHeaders": {"Quantity": 0},
        "CustomOriginConfig": {
            "HTTPPort": port,
            "HTTPSPort": 443,
            "OriginProtocolPolicy": "http-only",
            "OriginSslProtocols": {"Quantity": 1, "Items": ["TLSv1.2"]},
            "OriginReadTimeout": 10,
            "OriginKeepaliveTimeout": 5,
        },
        "ConnectionAttempts": 1,
        "ConnectionTimeout": 5,
        "OriginShield": {"Enabled": False},
        "OriginAccessControlId": "",
    }


class _DrillOrigin(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = b"the drill's origin\n"
        self.send_response(200)
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def _origin() -> Iterator[int]:
    """Yield the port of an origin that answers 200 to every request."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _DrillOrigin)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


_WITH_US = """
import os, signal, sys
parent = int(sys.argv.pop(1))
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)
if os.getppid() == parent:
    os.execv(sys.executable, [sys.executable, "-m", *sys.argv[1:]])
"""
"""Runs a Python module in a process that ends when its parent does, even if the parent is killed: 1 is PR_SET_PDEATHSIG
on Linux, which persists across an exec. On other systems the process lives on, without any secret."""


@contextlib.contextmanager
def _started(folder: Path) -> Iterator[int]:
    """Start a Keyfront in `folder`, and yield the port of its edge."""
    roomy = [f"distribution.{name}" for name in Limits.__struct_fields__]
    roomy += [f"policy.{name}" for name in PolicyLimits.__struct_fields__]
    argv = [
        *(
            sys.executable,
            "-c",
            _WITH_US,
            str(os.getpid()),
            "keyfront",
            "up",
            "--data",
            str(folder),
            "--workers",
            "1",
        ),
        *("--edge", "127.0.0.1:0", "--control", "127.0.0.1:0", "--trusted-proxies", "127.0.0.1"),
        *("--cache-disk", "0", "--memory", "16", "--no-rotation"),
        *(word for name in roomy for word in ("--quota", f"{name.replace('_', '-')}=99999999")),
    ]
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("KEYFRONT_", "AWS_", "PG", "VAULT_", "BAO_"))
    }
    ready, theirs = os.pipe()
    with (folder.parent / "errors").open("w+b") as errors:
        process = subprocess.Popen(  # noqa: S603 - ourselves
            argv, env=environment, stdin=subprocess.DEVNULL, stdout=theirs, stderr=errors
        )
        try:
            os.close(theirs)
            match = re.search(rb"edge=http://127\.0\.0\.1:(\d+)", _first_line(ready))
            if match is None:
                errors.seek(0)
                why = errors.read().decode(errors="replace").strip() or "it says nothing"
                raise BackupError(f"a Keyfront restored from it does not start: {why[-1000:]}")
            yield int(match[1])
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(ready)


def _first_line(stream: int) -> bytes:
    """Read up to the end of a line; returns less if that does not arrive."""
    ends = time.monotonic() + _START
    line = b""
    while b"\n" not in line:
        ready, _, _ = select.select([stream], [], [], max(0.0, ends - time.monotonic()))
        piece = os.read(stream, 4096) if ready else b""
        if not piece:
            break
        line += piece
    return line


class _DrillClient:
    """Sends requests to the edge as a viewer does, and reads the verdicts in its access log."""

    def __init__(self, port: int, log: Path, viewer_ip: str) -> None:
        self._port = port
        self._log = log
        self._viewer_ip = viewer_ip
        self._mark = f"keyfront-drill/{random.SystemRandom().getrandbits(48):012x}"
        self._requests = 0

    def check(self, how: str, proof: Proof) -> Result:
        parts = urlsplit(proof.url)
        where = f"{parts.scheme}://{parts.netloc}{parts.path}"
        signed_by = re.search(r"[?&]Key-Pair-Id=([^&#]+)", proof.url)
        key_pair_id = signed_by[1] if signed_by else proof.key_pair_id
        try:
            fault = self._fault(proof.url, key_pair_id)
        except (OSError, http.client.HTTPException, KeyfrontError) as error:
            fault = f"the edge does not answer: {error}"
        return Result(how, where, key_pair_id, fault)

    def _fault(self, url: str, key_pair_id: str) -> str:
        record = self._request(url)
        if record.get("verdict") != "allowed":
            if not record.get("distribution"):
                return "no distribution of the archive has this host name"
            if not record.get("verdict"):
                return f"the edge did not check its signature: it responded with {record.get('status')}"
            return f"refused: {record.get('reason')} {record.get('explanation', '')}".strip()
        if record.get("key_pair_id") != key_pair_id:
            return f"allowed by another key, {record.get('key_pair_id')}"
        if self._request(_spoilt(url)).get("verdict") != "refused":
            return "a spoilt signature is not refused"
        return ""

    def _request(self, url: str) -> dict[str, Any]:
        """Return the access log entry of a request for `url`."""
        parts = urlsplit(url)
        target = url[url.index("/", len(parts.scheme) + 3) :].partition("#")[0] if parts.path else "/"
        self._requests += 1
        agent = f"{self._mark}/{self._requests}"
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_ANSWER)
        try:
            connection.putrequest("GET", target, skip_host=True, skip_accept_encoding=True)
            connection.putheader("Host", parts.netloc)
            connection.putheader("User-Agent", agent)
            connection.putheader("X-Forwarded-Proto", parts.scheme)
            if self._viewer_ip:
                connection.putheader("X-Forwarded-For", self._viewer_ip)
            connection.endheaders()
            connection.getresponse().read()
        finally:
            connection.close()
        return self._record(agent)

    def _record(self, agent: str) -> dict[str, Any]:
        ends = time.monotonic() + _ANSWER
        while time.monotonic() < ends:
            with contextlib.suppress(OSError, msgspec.DecodeError):
                for line in reversed(self._log.read_bytes().splitlines()):
                    record: dict[str, Any] = msgspec.json.decode(line)
                    if record.get("user_agent") == agent:
                        return record
            time.sleep(0.02)
        raise BackupError("it left no access record")


def _spoilt(url: str) -> str:
    """Return `url` with a different letter in the middle of its signature."""
    found = re.search(r"[?&]Signature=([^&#]+)", url)
    if found is None:
        raise BackupError("the URL has no signature")
    at = (found.start(1) + found.end(1)) // 2
    return f"{url[:at]}{'B' if url[at] == 'A' else 'A'}{url[at + 1 :]}"
