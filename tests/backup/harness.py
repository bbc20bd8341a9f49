"""Installations for the archive tests: a store, a feed, a restricted distribution, and the key that opens its
archives."""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyrage

from keyfront.backup import capture
from keyfront.backup.archive import encryption
from keyfront.backup.archive.encryption import Opener, Seal
from keyfront.backup.audit import AuditActor
from keyfront.backup.capture import Archive, CaptureOptions, Source
from keyfront.backup.create import BackupJob, Outcome, create
from keyfront.backup.restore.lock import held
from keyfront.backup.restore.restore import Restore, Target
from keyfront.backup.retention import Rule
from keyfront.backup.targets import Folder, Place
from keyfront.control.audit import search as trail
from keyfront.control.store.store import Store
from keyfront.signing.keys import PrivateKey, generate_private_key
from keyfront.signing.sign import LocalSigner, sign_url
from tests.control.harness import ACCOUNT, Harness, minimal, trusting

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()
TELLER = AuditActor("tests", ACCOUNT, random.Random(7))
IDENTITY = pyrage.x25519.Identity.generate()
SEAL = Seal((str(IDENTITY.to_public()),))
OPENER = Opener((IDENTITY,))
VERSION = "test"
CREDENTIALS = f"[default]\naws_access_key_id = AKIA{'A' * 16}\naws_secret_access_key = {'a' * 40}\n"


class Installed:
    """A harness with a key group, a distribution that trusts it, and the other resources that such an installation
    has."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.harness = Harness(folder)
        self.key: PrivateKey = generate_private_key("ECDSA-P256")
        self.key_id = self.harness.key("first", self.key.public_key.pem)
        self.group = self.harness.group(self.key_id, name="photos")
        made = self.harness.distribution("cdn", DefaultCacheBehavior=behavior(self.group))
        self.id, self.host = made["Id"], made["DomainName"]
        arn = f"arn:aws:cloudfront::{ACCOUNT}:distribution/{self.id}"
        self.harness.call("TagResource", Resource=arn, Tags={"Items": [{"Key": "team", "Value": "ü"}]})
        self.invalidate("one")
        for name, text in (
            ("credentials", CREDENTIALS),
            ("access.key", "a" * 44),
            ("certificates/a.pem", "PEM"),
        ):
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            path.chmod(0o600)

    def invalidate(self, reference: str) -> None:
        batch = {"CallerReference": reference, "Paths": {"Quantity": 1, "Items": [f"/{reference}*"]}}
        self.harness.call("CreateInvalidation", DistributionId=self.id, InvalidationBatch=batch)

    def link(self, path: str = "/a.jpg", scheme: str = "https") -> str:
        signer = LocalSigner(self.key_id, self.key)
        return sign_url(f"{scheme}://{self.host}{path}", signer, expires=4_000_000_000, now=NOW)


def behavior(*groups: str) -> dict[str, Any]:
    found: dict[str, Any] = minimal()["DefaultCacheBehavior"]
    return found | {"TrustedKeyGroups": trusting(*groups), "ViewerProtocolPolicy": "https-only"}


def make(
    store: Store,
    folder: Path,
    *places: Path | Place,
    now: float = NOW,
    wanted: CaptureOptions = CaptureOptions(),
    rule: Rule = Rule(),
    always: bool = False,
    seal: Seal = SEAL,
) -> Outcome:
    there: Sequence[Place] = [Folder(place) if isinstance(place, Path) else place for place in places]
    source = Source(store, folder, ACCOUNT, socket.gethostname(), VERSION, {})
    return create(source, BackupJob(wanted, seal, there, rule, always), TELLER, now=now)


def read(path: Path, opener: Opener = OPENER) -> Archive:
    """The archive at `path`, verified."""
    archive = capture.read(encryption.opened(path.read_bytes(), opener))
    capture.judge(archive, ACCOUNT, VERSION)
    return archive


def restore(archive: Archive, folder: Path, store: str = "", now: float = NOW + 3600) -> list[str]:
    with held(folder), Restore(archive, Target(folder, store), {}) as work:
        return work.run(work.plan(), TELLER, "the archive", now)


def chain(store: Store) -> tuple[int, str]:
    """The number of audit records, and what is wrong with their chain."""
    verdict = trail.verify(store)
    return verdict.count, verdict.fault


def events(store: Store) -> list[str]:
    return [str(found.record["eventName"]) for found in trail.search(store, trail.AuditQuery())]
