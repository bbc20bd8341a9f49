"""A control plane over HTTP for tests: the real store, feed and service behind uvicorn on a free port.

`obey()` affects a distribution's status as a live edge does: it takes the feed's snapshot and reports it. Its reports
do not become stale, however long a client takes to start.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from keyfront.control.alarms.api import AlarmApi
from keyfront.control.identity.credentials import load
from keyfront.control.identity.directory import CallerDirectory
from keyfront.control.identity.sealing import sealer
from keyfront.control.keys.usage import KeyUsageCollector
from keyfront.control.own_operations.key_use import get_key_use
from keyfront.control.service import Service, ServiceSettings
from keyfront.control.store.store import Store
from keyfront.control.wire.app import OtherApis, build_app, serve
from keyfront.control.wire.extensions import ExtensionApi
from keyfront.fleet.feed import Report
from keyfront.fleet.file_feed import FileFeed
from keyfront.fleet.regions import Regions
from keyfront.model.kinds import Quotas
from keyfront.model.snapshot import Snapshot
from tests.control.harness import where

ACCOUNT = "123456789012"


class PatientFeed(FileFeed):
    """A feed whose edges stay live without a heartbeat."""

    def reports(self, now: float | None = None) -> list[Report]:
        return self.last_reports()


class Plane:
    """Use as a context manager. `endpoint` is its URL, `environment` what a command-line client needs."""

    def __init__(self, folder: Path, *, quotas: Quotas | None = None) -> None:
        self.folder = folder
        self.quotas = quotas
        self.port = 0
        self._edge = FileFeed(folder)
        self._obeyed: Snapshot | None = None

    def __enter__(self) -> Plane:
        self.credentials = load(self.folder / "credentials", ACCOUNT)
        self.store = Store(where(self.folder))
        self.service = Service(
            self.store,
            Regions(PatientFeed(self.folder)),
            ServiceSettings(account=ACCOUNT, quotas=self.quotas or Quotas()),
        )
        self.service.start(time.time())
        held = socket.create_server(("127.0.0.1", 0))
        self.port = held.getsockname()[1]
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(held, ready)))
        self._thread.start()
        assert ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        self.store.close()

    async def _serve(self, held: socket.socket, ready: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self.listener = held
        access = CallerDirectory(
            self.store, self.credentials, ACCOUNT, lambda: sealer(self.folder, {}, make=False)
        )
        gatherer = KeyUsageCollector(self.store, FileFeed(self.folder))
        extensions = ExtensionApi([get_key_use(self.store, gatherer)], self.service.audit, audit_reads=True)
        alarms = AlarmApi(self.store, ACCOUNT, self.service.audit, random.SystemRandom(), audit_reads=True)
        app = build_app(self.service, access, others=OtherApis(alarms, extensions))
        await serve(app, held, ready.set, stop=self._stop)

    def obey(self) -> Snapshot:
        """Take the newest snapshot and report it, as an edge does."""
        self._obeyed = self._edge.poll(self._obeyed) or self._obeyed
        assert self._obeyed is not None
        self._edge.report("edge-1", self._obeyed.number, at=time.time())
        return self._obeyed

    @contextlib.contextmanager
    def reporting_edge(self) -> Iterator[None]:
        """An edge that applies everything published, while this context lasts."""
        ended = threading.Event()

        def report() -> None:
            while not ended.wait(0.05):
                self.obey()

        thread = threading.Thread(target=report)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def key(self) -> tuple[str, str]:
        """Access key id and secret."""
        lines = (self.folder / "credentials").read_text().splitlines()
        fields = {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)}
        return fields["aws_access_key_id"], fields["aws_secret_access_key"]

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_SHARED_CREDENTIALS_FILE": str(self.folder / "credentials"),
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_PAGER": "",
        }

    def client(self, *, secret: str = "", region: str = "us-east-1", token: str | None = None) -> Any:
        key_id, real = self.key
        return boto3.client(
            "cloudfront",
            endpoint_url=self.endpoint,
            region_name=region,
            aws_access_key_id=key_id,
            aws_secret_access_key=secret or real,
            aws_session_token=token,
            config=Config(retries={"max_attempts": 0}),
        )


def distribution_config(reference: str, groups: list[str], *, enabled: bool = True) -> dict[str, Any]:
    """A small distribution with legacy settings, as the AWS CLI creates them."""
    return {
        "CallerReference": reference,
        "Comment": f"distribution {reference}",
        "Enabled": enabled,
        "Origins": {
            "Quantity": 1,
            "Items": [
                {
                    "Id": "app",
                    "DomainName": "app.example.com",
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
            "ViewerProtocolPolicy": "allow-all",
            "MinTTL": 0,
            "ForwardedValues": {"QueryString": False, "Cookies": {"Forward": "none"}},
            "TrustedKeyGroups": {"Enabled": bool(groups), "Quantity": len(groups), "Items": groups},
        },
    }
