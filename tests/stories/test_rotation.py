"""Keys replaced under load with no request refused; and the same rotation on another Keyfront, and on moto's
CloudFront, the closest to Amazon's that a test can have."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from click.testing import CliRunner

from keyfront import sign_url
from keyfront.cli.main import keyfront
from keyfront.cloudfront import key_usage
from keyfront.cloudfront.refusal import Refused
from keyfront.custody import open_key, open_place, open_records
from keyfront.custody.key_record import LEEWAY, RotationPolicy
from keyfront.custody.signers.key_group_signer import KeyGroupSigner, KeySource
from keyfront.lifecycle.cloudfront import CloudFront
from keyfront.lifecycle.executor import RotationExecutor
from tests.application import Response, served
from tests.control.plane import Plane
from tests.keys import public_pem
from tests.up import Up, distribution_config

ENVIRONMENT = {"KEYFRONT_CUSTODY_PASSPHRASE": "of this test alone"}
LIFETIME, STALENESS = 2.0, 0.5
MOMENT = 5.0
"""Seconds by which the executor's view of CloudFront's clock may be behind: a Date header has no fractions, and on a
busy machine it arrives late."""


class Rotated:
    """The key group `films` of a CloudFront, a custody in a folder, and an executor whose clock a test can
    advance."""

    def __init__(self, endpoint: str, credentials: tuple[str, str], folder: Path) -> None:
        self.place = f"file:{folder}/"
        self.records = open_records(self.place, ENVIRONMENT)
        self.leapt = 0.0
        api = CloudFront(endpoint, credentials=credentials)
        self.executor = RotationExecutor(
            api, self.records, ENVIRONMENT, clock=lambda: time.time() + self.leapt
        )

    def start(self) -> None:
        group = self.executor.api.find_key_group("films")
        assert group is not None
        terms = RotationPolicy(
            self.place, overlap=0.0, max_lifetime=LIFETIME, max_staleness=STALENESS, settle=0.0
        )
        self.executor.start(group, terms, {})

    def run(self, apply_snapshot: Any = None) -> list[str]:
        """Take all steps that are possible now. This waits for edges, but not for dates that are more than MOMENT away.
        `apply_snapshot` applies the published snapshot as an edge would, where no edge runs."""
        done: list[str] = []
        for _ in range(2000):
            outcome = self.executor.step("films")
            assert not outcome.error, outcome
            if outcome.taken is not None:
                done.append(f"{outcome.taken.action.value} {outcome.taken.name.rpartition('-')[2]}")
            elif outcome.wait is not None and (outcome.wait.until or 0.0) < self.executor.now() + MOMENT:
                if apply_snapshot is not None:
                    apply_snapshot()
                else:
                    time.sleep(0.1)
            else:
                return done
        raise AssertionError(f"the edges do not apply the change: {done}")

    def let_links_expire(self) -> None:
        """Advance the executor's clock until no link of a replaced key can be valid."""
        self.leapt += LEEWAY + LIFETIME + STALENESS + 1

    def signer(self) -> KeyGroupSigner:
        return KeyGroupSigner(
            "films", KeySource(lambda: self.records, lambda uri: open_key(uri, ENVIRONMENT)), interval=0.2
        )


@pytest.fixture(scope="module")
def origin() -> Iterator[int]:
    with served(lambda _request: Response(b"ok")) as port:
        yield port


class Viewers:
    """Applications that sign with the current key, and viewers that use each link shortly before it expires."""

    def __init__(self, up: Up, host: str, rotated: Rotated) -> None:
        self._up, self._host, self._rotated = up, host, rotated
        self._over = threading.Event()
        self.seen: Counter[tuple[int, str]] = Counter()
        self.used: set[str] = set()
        self.last: dict[str, str] = {}
        self._lock = threading.Lock()
        self._signs: dict[int, str] = {}
        self._unused: Counter[str] = Counter()
        self._threads = [threading.Thread(target=self._live, args=(seed,)) for seed in range(3)]

    def __enter__(self) -> Viewers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)

    def _live(self, seed: int) -> None:
        rng, signer = random.Random(seed), self._rotated.signer()
        held: list[tuple[float, str, str]] = []
        while not self._over.is_set():
            key, now = signer.pinned(), time.time()
            expires = int(now + LIFETIME)
            target = sign_url(f"http://{self._host}/{seed}", key, expires=expires, now=now).removeprefix(
                f"http://{self._host}"
            )
            self.last[key.key_pair_id] = target
            held.append((expires - 0.3 - rng.random(), key.key_pair_id, target))
            with self._lock:
                self._signs[seed] = key.key_pair_id
                self._unused[key.key_pair_id] += 1
            held.sort()
            while held and held[0][0] < now:
                _, id_, target = held.pop(0)
                self._get(id_, target)
                with self._lock:
                    self._unused[id_] -= 1
            time.sleep(0.05)

    def have_moved(self, old: str, new: str) -> bool:
        """Whether every application signs with the new key, and viewers have used every link of the old one."""
        with self._lock:
            return {*self._signs.values()} == {new} and not self._unused[old] and new in self.used

    def _end(self, target: str) -> int:
        return int(target.partition("Expires=")[2].partition("&")[0])

    def _get(self, id_: str, target: str) -> None:
        status = self._up.get(self._host, target).status
        if status == 200 or time.time() < self._end(target):  # otherwise the machine was too slow
            self.seen[status, id_] += 1
            self.used.add(id_)


def rotator(up: Up) -> tuple[str, str]:
    """The access key of a user that may do what the guide says that a rotation needs, and nothing else."""
    text = (Path(__file__).parents[2] / "docs" / "guide" / "rotation.md").read_text()
    policy = json.loads(text.partition("```json")[2].partition("```")[0])
    policy["Statement"][0]["Action"].append(key_usage.ACTION)

    def access(*words: str, stdin: str = "") -> str:
        done = CliRunner().invoke(keyfront, ["access", *words, "--data", str(up.data)], input=stdin)
        assert done.exit_code == 0, (done.output, done.exception)
        return done.stdout

    access("user", "create", "rotator")
    access("policy", "put", "rotation", "-", stdin=json.dumps(policy))
    access("policy", "attach", "rotation", "rotator")
    key = json.loads(access("key", "create", "rotator", "--json"))
    credentials = key["AccessKeyId"], key["SecretAccessKey"]

    def is_known() -> bool:
        try:
            return CloudFront(up.endpoint, credentials=credentials).find_key_group("films") is not None
        except Refused:
            return False

    up.until(is_known)  # a running control plane learns of a new key within a second
    return credentials


def test_a_rotation_under_load_refuses_no_request(tmp_path: Path, origin: int) -> None:
    with Up(tmp_path / "state", options=("--cache-disk", "0")) as up:
        client = up.client()
        foreign = client.create_public_key(
            PublicKeyConfig={"CallerReference": "f", "Name": "f", "EncodedKey": public_pem()}
        )["PublicKey"]["Id"]
        group = client.create_key_group(KeyGroupConfig={"Name": "films", "Items": [foreign]})["KeyGroup"][
            "Id"
        ]
        made = client.create_distribution(DistributionConfig=distribution_config("site", origin, [group]))[
            "Distribution"
        ]
        up.deployed(made["Id"])
        rotated = Rotated(up.endpoint, rotator(up), tmp_path / "custody")
        rotated.start()
        first = rotated.run()
        assert first == ["create 1", "register 1", "publish 1", "confirm 1", "switch 1"]

        with Viewers(up, made["DomainName"], rotated) as viewers:
            up.until(lambda: bool(viewers.used))
            new = [f"{action} 2" for action in ("create", "register", "publish", "confirm", "switch")]
            old = [f"{action} 1" for action in ("release", "remove", "retire", "unregister", "destroy")]
            (replaced,) = viewers.used
            rotated.executor.rotate("films")
            assert rotated.run() == new
            second = rotated.executor.versioned("films").record.signing
            assert second is not None
            up.until(lambda: viewers.have_moved(replaced, second.key_pair_id))
            rotated.let_links_expire()
            assert rotated.run() == old

        refused = {seen: times for seen, times in viewers.seen.items() if seen[0] != 200}
        assert refused == {}
        assert len(viewers.used) == 2
        assert sum(viewers.seen.values()) > 30
        gone = next(target for id_, target in viewers.last.items() if id_ != second.key_pair_id)
        answer = up.get(made["DomainName"], gone)
        assert (answer.status, b"Unknown Key" in answer.body) == (403, True)
        assert [
            held.name[-1] for held in open_place(rotated.place, ENVIRONMENT).list() if not held.delete_at
        ] == ["2"]


def moto_update_key_group(response: Any) -> Any:
    """UpdateKeyGroup, which moto 5.2.5 lacks."""
    from moto.cloudfront.models import random_id
    from moto.core.responses import ActionResult

    group = response.backend.get_key_group(group_id=response._get_param("Id"))
    assert response._get_param("IfMatch") == group.etag
    items = response._get_param("KeyGroupConfig.Items", [])
    assert items
    group.items, group.etag = items, random_id(length=14)
    return ActionResult({"KeyGroup": group, "ETag": group.etag})


@pytest.fixture(params=["a second Keyfront", "moto"])
def elsewhere(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, tuple[str, str], Any]]:
    """An endpoint, its credentials, and a function that applies its snapshots where no edge runs."""
    if request.param == "moto":
        server = pytest.importorskip(
            "moto.server", reason="moto's server is not installed"
        ).ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        from moto.cloudfront.responses import CloudFrontResponse

        monkeypatch.setattr(CloudFrontResponse, "update_key_group", moto_update_key_group, raising=False)
        server.start()
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}", ("AKIAEXAMPLE", "secret"), None
        server.stop()
    else:
        with Plane(tmp_path / "plane") as plane:
            yield plane.endpoint, plane.key, plane.obey


def test_the_same_rotation_elsewhere(elsewhere: tuple[str, tuple[str, str], Any], tmp_path: Path) -> None:
    endpoint, credentials, apply_snapshot = elsewhere
    client = boto3.client(
        "cloudfront",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=credentials[0],
        aws_secret_access_key=credentials[1],
    )
    config = {"CallerReference": "f", "Name": "f", "EncodedKey": public_pem()}
    foreign = client.create_public_key(PublicKeyConfig=config)["PublicKey"]["Id"]
    group = client.create_key_group(KeyGroupConfig={"Name": "films", "Items": [foreign]})["KeyGroup"]["Id"]
    client.create_distribution(DistributionConfig=distribution_config("site", 80, [group]))
    rotated = Rotated(endpoint, credentials, tmp_path / "custody")
    rotated.start()
    assert rotated.run(apply_snapshot)[-1] == "switch 1"
    rotated.executor.rotate("films")
    assert rotated.run(apply_snapshot)[-1] == "switch 2"
    rotated.let_links_expire()
    assert rotated.run(apply_snapshot) == ["release 1", "remove 1", "retire 1", "unregister 1", "destroy 1"]
    signing = rotated.executor.versioned("films").record.signing
    assert signing is not None
    there = client.get_key_group(Id=group)["KeyGroup"]["KeyGroupConfig"]["Items"]
    assert there == [foreign, signing.key_pair_id]
    assert {key["Id"] for key in client.list_public_keys()["PublicKeyList"]["Items"]} == set(there)
