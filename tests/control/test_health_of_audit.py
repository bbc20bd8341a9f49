"""`/healthz` names an audit record that could not be written, whichever part of the control plane wrote it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from prometheus_client import CollectorRegistry

from keyfront.cloudfront.key_usage import PATH
from keyfront.control.identity.credentials import load
from keyfront.control.process import ControlPlane, ControlPlaneSettings, Resources, Supervision
from keyfront.control.store.store import Store
from keyfront.control.wire import health
from keyfront.custody.schemes import open_records
from keyfront.fleet.regions import open_regions
from keyfront.lifecycle.events import RotationEvent

ACCOUNT = "123456789012"


@pytest.fixture
def plane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ControlPlane]:
    """A control plane as `run_control` composes it, whose store takes no audit record."""
    monkeypatch.setattr(health, "FRESH", 0.0)  # check each time
    store = Store(tmp_path / "keyfront.db")
    with socket.create_server(("127.0.0.1", 0)) as sock:
        resources = Resources(
            load(tmp_path / "credentials", ACCOUNT),
            open_regions(tmp_path, "", ()),
            open_records(f"file:{tmp_path}/custody/"),
            store,
            sock,
        )
        settings = ControlPlaneSettings(data=tmp_path, domain="cloudfront.localhost", account=ACCOUNT)
        made = ControlPlane(settings, resources, Supervision(), CollectorRegistry())
        assert audit_reasons(made) == []
        with store.write() as transaction:
            transaction.connection.exec_driver_sql(
                "CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
            )
        yield made
    store.close()


def audit_reasons(plane: ControlPlane) -> list[str]:
    reasons: dict[str, list[str]] = asyncio.run(plane.health.answer())[1]["reasons"]
    return reasons.get("audit", [])


def test_a_rotation_step(plane: ControlPlane) -> None:
    assert plane.rotations is not None
    for listener in plane.rotations.listeners():
        listener.on_event(
            RotationEvent("after", 1_800_000_000.0, "films", "G1", "switch", "films-2", "K2", "due")
        )
    (reason,) = audit_reasons(plane)
    assert "the last record could not be written" in reason


def test_a_call_of_keyfronts_own(plane: ControlPlane, tmp_path: Path) -> None:
    request = AWSRequest(method="GET", url=f"http://plane{PATH}")
    owner, secret = next(iter(load(tmp_path / "credentials", ACCOUNT)))
    SigV4Auth(Credentials(owner.access_key_id, secret), "cloudfront", "us-east-1").add_auth(request)

    async def call() -> int:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(plane.app)) as client:
            return (await client.get(request.url, headers=dict(request.headers))).status_code

    assert asyncio.run(call()) == 200  # a read is answered without its record
    (reason,) = audit_reasons(plane)
    assert "the last record could not be written" in reason
