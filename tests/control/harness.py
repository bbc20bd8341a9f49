"""A control plane for tests: the real store and the real feed in a folder, seeded ids, and a manually set clock."""

from __future__ import annotations

import copy
import functools
import random
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keyfront.control.call import Call, Caller
from keyfront.control.iam.roles import ADMIN
from keyfront.control.service import Service, ServiceSettings
from keyfront.control.store.store import Store
from keyfront.errors import ApiError
from keyfront.fleet.file_feed import FileFeed
from keyfront.fleet.regions import Regions
from keyfront.model.kinds import Quotas
from tests.keys import rsa_pem

Config = dict[str, Any]

ACCOUNT = "123456789012"
CALLER = Caller("AKIAEXAMPLE", f"arn:aws:iam::{ACCOUNT}:user/ada", ACCOUNT, "AIDAEXAMPLE", (ADMIN,))
NOW = 1_700_000_000.0


BOTH = ("sqlite", "postgresql")
"""What a test module's `STORES` may be; see conftest.py."""


def where(folder: Path) -> str | Path:
    """The store of a folder: PostgreSQL where the fixture `store_kind` says so, otherwise a file."""
    named = folder / "store"
    return named.read_text() if named.exists() else folder / "keyfront.db"


def save(folder: Path) -> None:
    """Back up the folder's store, which no process has open."""
    if isinstance(store := where(folder), str):
        name = _administer(store)
        _administer(store, f"CREATE DATABASE {name}_saved TEMPLATE {name}")
        return
    with sqlite3.connect(store) as source, sqlite3.connect(folder / "backup.db") as copy:
        source.backup(copy)


def bring_back(folder: Path) -> None:
    """Replace the store with the backup."""
    if isinstance(store := where(folder), str):
        name = _administer(store)
        _administer(
            store, f"DROP DATABASE {name} WITH (FORCE)", f"ALTER DATABASE {name}_saved RENAME TO {name}"
        )
        return
    for path in folder.glob("keyfront.db*"):
        path.unlink()
    (folder / "backup.db").rename(folder / "keyfront.db")


def lose(folder: Path) -> None:
    """Lose the store: an empty database, or none, takes its place."""
    if isinstance(store := where(folder), str):
        name = _administer(store)
        _administer(store, f"DROP DATABASE {name} WITH (FORCE)", f"CREATE DATABASE {name}")
        return
    for path in folder.glob("keyfront.db*"):
        path.unlink()


def _administer(url: str, *statements: str) -> str:
    """Run `statements` beside the database of `url`, and return its name."""
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    parameters = conninfo_to_dict(url)
    name = str(parameters.pop("dbname"))
    with psycopg.connect(**parameters, dbname="postgres", autocommit=True) as connection:  # type: ignore[arg-type]
        for statement in statements:
            connection.execute(statement)
    return name


@functools.cache
def _empty_store() -> bytes:
    """An empty SQLite store. Copying it is faster than migrating one to the current schema."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "keyfront.db"
        Store(file).close()
        return file.read_bytes()


def _prepared(store: str | Path) -> str | Path:
    if isinstance(store, Path) and not store.exists():
        store.touch(0o600)
        store.write_bytes(_empty_store())
    return store


class Harness:
    """`call` returns a call's output, `refused` the error code that the call must end with."""

    def __init__(
        self,
        folder: Path,
        *,
        quotas: Quotas | None = None,
        seed: int = 1,
        audit_reads: bool = True,
        replica: bool | None = None,
        region: str = "",
        elsewhere: Sequence[FileFeed] = (),
    ) -> None:
        self.folder = folder
        self.now = NOW
        self.calls = 0
        self.feed = FileFeed(folder, region)
        self.elsewhere = elsewhere
        self.store = Store(_prepared(where(folder)))
        self.service = Service(
            self.store,
            Regions(self.feed, elsewhere),
            ServiceSettings(
                account=ACCOUNT, quotas=quotas or Quotas(), audit_reads=audit_reads, replica=replica
            ),
            random.Random(seed),
        )
        self.service.start(self.now)

    def close(self) -> None:
        self.store.close()

    def call(self, operation: str, **params: Any) -> Config:
        self.calls += 1
        self.now += 1
        return self.service.run(
            Call(
                operation=operation,
                params=params,
                caller=CALLER,
                source_ip="192.0.2.7",
                user_agent="tests/1",
                request_id=f"00000000-0000-4000-8000-{self.calls:012}",
                now=self.now,
            )
        ).output

    def refused(self, operation: str, **params: Any) -> ApiError:
        try:
            output = self.call(operation, **params)
        except ApiError as error:
            return error
        raise AssertionError(f"{operation} was not refused but answered {output}")

    def report(self, name: str = "edge-1", number: int | None = None) -> None:
        """Let an edge report that it obeys snapshot `number`, by default the published one."""
        self.feed.report(name, self.number() if number is None else number, at=time.time())

    def number(self) -> int:
        published = self.feed.published()
        assert published is not None
        return published.number

    # ---- resources

    def key(self, name: str = "key", pem: str | None = None, **more: Any) -> str:
        config = {"CallerReference": name, "Name": name, "EncodedKey": pem or rsa_pem()} | more
        return str(self.call("CreatePublicKey", PublicKeyConfig=config)["PublicKey"]["Id"])

    def group(self, *keys: str, name: str = "group") -> str:
        config = {"Name": name, "Items": list(keys)}
        return str(self.call("CreateKeyGroup", KeyGroupConfig=config)["KeyGroup"]["Id"])

    def distribution(self, reference: str = "one", **changes: Any) -> Config:
        config = minimal(reference) | changes
        created = self.call("CreateDistribution", DistributionConfig=config)
        found: Config = created["Distribution"]
        return found

    def config(self, id_: str) -> tuple[Config, str]:
        found = self.call("GetDistributionConfig", Id=id_)
        return copy.deepcopy(found["DistributionConfig"]), found["ETag"]

    def etag(self, kind: str, id_: str) -> str:
        return str(self.call(f"Get{kind}", Id=id_)["ETag"])


def minimal(reference: str = "one") -> Config:
    """The parameters that `aws cloudfront create-distribution --origin-domain-name app.example.com` sends."""
    return {
        "CallerReference": reference,
        "Origins": {
            "Quantity": 1,
            "Items": [
                {
                    "Id": "app",
                    "DomainName": "app.example.com",
                    "OriginPath": "",
                    "CustomOriginConfig": {
                        "HTTPPort": 80,
                        "HTTPSPort": 443,
                        "OriginProtocolPolicy": "http-only",
                    },
                }
            ],
        },
        "DefaultCacheBehavior": {
            "TargetOriginId": "app",
            "ForwardedValues": {"QueryString": False, "Cookies": {"Forward": "none"}},
            "TrustedSigners": {"Enabled": False, "Quantity": 0},
            "ViewerProtocolPolicy": "allow-all",
            "MinTTL": 0,
        },
        "Comment": "",
        "Enabled": True,
    }


def many(*items: Any) -> Config:
    return {"Quantity": len(items), "Items": list(items)} if items else {"Quantity": 0}


def trusting(*groups: str) -> Config:
    return {"Enabled": bool(groups)} | many(*groups)
