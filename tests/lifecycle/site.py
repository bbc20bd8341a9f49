"""A whole control plane, a custody of files, signers that follow the record, and edges that take the newest snapshot
on demand. Time advances only when a test says so."""

from __future__ import annotations

from pathlib import Path

from keyfront.custody import open_key, open_place, open_records
from keyfront.custody.key_record import Entry, KeyGroupRecord, RotationPolicy
from keyfront.custody.signers.key_group_signer import KeyGroupSigner, KeySource
from keyfront.lifecycle.cloudfront import CloudFront
from keyfront.lifecycle.events import Listener
from keyfront.lifecycle.executor import Outcome, RotationExecutor
from keyfront.lifecycle.key_names import key_name
from keyfront.signing.keys import load_public_key
from keyfront.signing.sign import sign_url
from keyfront.signing.verify import KeyRing
from tests.control.plane import Plane, distribution_config
from tests.keys import public_pem
from tests.signing.harness import reason

DAY = 86400.0
HOUR = 3600.0
URL = "https://media.test/films/1.mp4"
ENVIRONMENT = {"KEYFRONT_CUSTODY_PASSPHRASE": "of this test alone"}


class Site:
    """A key group on `plane`, trusted by one distribution, with one key that is not rotated."""

    def __init__(self, plane: Plane, folder: Path, group: str, *listeners: Listener) -> None:
        self.plane, self.group = plane, group
        self.place = f"file:{folder}/"
        self.records = open_records(self.place, ENVIRONMENT)
        self.client = plane.client()
        self.now = 0.0
        self.foreign = self.public_key(f"{group}-by-hand")
        made = self.client.create_key_group(KeyGroupConfig={"Name": group, "Items": [self.foreign]})
        self.id = made["KeyGroup"]["Id"]
        self.now = made["KeyGroup"]["LastModifiedTime"].timestamp()
        self.client.create_distribution(DistributionConfig=distribution_config(group, [self.id]))
        self.ring = KeyRing({})
        self.obey()
        self.api = CloudFront(plane.endpoint, credentials=plane.key)
        self.listeners = listeners

    def public_key(self, name: str) -> str:
        config = {"CallerReference": name, "Name": name, "EncodedKey": public_pem()}
        return str(self.client.create_public_key(PublicKeyConfig=config)["PublicKey"]["Id"])

    @property
    def executor(self) -> RotationExecutor:
        """A newly started one, as after a crash."""
        return RotationExecutor(self.api, self.records, ENVIRONMENT, self.listeners, lambda: self.now)

    def start(self) -> None:
        """Rotated from now on: key 1 exists and signs."""
        name = key_name(self.group, self.id, 1)
        held = open_place(self.place, ENVIRONMENT).create(name, "ECDSA-P256", now=self.now)
        first = self.api.create_public_key(name, held.public_key.pem, "")
        self.change_by_hand([self.foreign, first])
        self.obey()
        found = self.api.key_group(self.id)
        assert found is not None
        terms = RotationPolicy(self.place, every=90 * DAY, settle=60.0)
        self.executor.start(found, terms, {first: f"{self.place}{name}"})

    def step(self) -> Outcome:
        return self.executor.step(self.group)

    def run(self, days: float = 0.01, *, obey: bool = True) -> list[str]:
        """All steps within that many days: actions and the keys' numbers."""
        ends, done = self.now + days * DAY, list[str]()
        while True:
            outcome = self.step()
            assert not outcome.error, outcome
            wait = outcome.wait
            if outcome.taken is not None:
                done.append(f"{outcome.taken.action.value} {outcome.taken.name.rpartition('-')[2]}")
            elif wait is not None and "Deployed" in wait.reason and obey:
                self.obey()
                self.now += 1.0
            elif wait is not None and wait.until is not None and wait.until <= ends:
                self.now = max(self.now, wait.until)
            else:
                self.now = max(self.now, ends)
                return done

    def obey(self) -> None:
        """The edges take the published snapshot, and report it."""
        snapshot = self.plane.obey()
        group = next(each for each in snapshot.key_groups if each.id == self.id)
        keys = {key.id: key.pem for key in snapshot.public_keys}
        self.ring = KeyRing({id_: load_public_key(keys[id_]) for id_ in group.key_ids})

    def link(self, lifetime: float = HOUR) -> str:
        """A link that an application makes now."""
        signer = KeyGroupSigner(
            self.group,
            KeySource(lambda: self.records, lambda uri: open_key(uri, ENVIRONMENT)),
            background=False,
        )
        return sign_url(URL, signer, expires=int(self.now + lifetime), now=self.now)

    def verdict(self, link: str, now: float | None = None) -> str:
        """An edge's decision on it: granted, or the reason for denial."""
        return reason(link, keys=self.ring, now=self.now if now is None else now)

    def items(self) -> list[str]:
        found = self.client.get_key_group(Id=self.id)["KeyGroup"]["KeyGroupConfig"]["Items"]
        return [str(item) for item in found]

    def change_by_hand(self, items: list[str]) -> None:
        found = self.client.get_key_group(Id=self.id)
        config = {"Name": self.group, "Items": items}
        self.client.update_key_group(Id=self.id, IfMatch=found["ETag"], KeyGroupConfig=config)

    @property
    def record(self) -> KeyGroupRecord:
        return self.executor.versioned(self.group).record

    @property
    def stages(self) -> str:
        """`1 DRAINING, 2 SIGNING`."""
        return ", ".join(f"{e.uri.rpartition('-')[2]} {e.stage.value}" for e in self.record.entries)

    def entry(self, number: int) -> Entry:
        return next(entry for entry in self.record.entries if entry.uri.endswith(f"-{number}"))

    def held(self) -> list[str]:
        """Numbers of the keys that custody has and that are not scheduled for deletion."""
        found = open_place(self.place, ENVIRONMENT).list()
        return [held.name.rpartition("-")[2] for held in found if held.delete_at is None]
