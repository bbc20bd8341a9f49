"""The registry of edges on other machines, in both kinds of store."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from keyfront.control.edges.registry import EdgeRegistry, enrolled
from keyfront.control.identity.sealing import Sealer
from keyfront.control.store import schema
from keyfront.control.store.store import Store
from keyfront.errors import SettingsError
from keyfront.fleet.remote import authority, manifest
from keyfront.fleet.remote.identity import Seen
from tests.control.harness import BOTH, where

STORES = BOTH
NOW = 1_800_000_000.0


def registry(store: Store, key: bytes = b"k" * 32) -> EdgeRegistry:
    return EdgeRegistry(store, "000000000000", lambda: Sealer(key), by="test", lifetime=1000.0)


def csr() -> bytes:
    return authority.request(authority.new_key())


def test_the_life_of_an_edge(tmp_path: Path) -> None:
    store = Store(where(tmp_path))
    one, other = registry(store), registry(store)  # two control planes on one store
    token = one.create_token(NOW, 60, region="eu")
    before = other.version()
    made = other.enroll(token.secret, csr(), "paris", "192.0.2.1", NOW + 1)
    id_ = made.identity.id
    assert (made.identity.name, made.identity.region) == ("paris", "eu")
    assert one.identities() == {id_: made.identity}
    assert one.version() > before
    assert authority.expiry(made.certificate) == pytest.approx(NOW + 1001, abs=1)
    assert authority.expiry(one.renew(id_, csr(), NOW + 500)) == pytest.approx(NOW + 1500, abs=1)
    for number in (3, 4):
        one.seen([Seen(id_, "192.0.2.1", number, "keyfront 1")], NOW + number)
    with store.read() as transaction:
        (state,) = enrolled(transaction)
    assert (state.number, state.seen, state.address, state.revoked) == (4, NOW + 4, "192.0.2.1", None)
    assert state.is_connected(NOW + 5)
    assert not state.is_connected(NOW + 100)
    assert one.revoke("paris", NOW + 10).id == id_
    assert other.identities() == {}
    with pytest.raises(SettingsError, match="revoked"):
        other.renew(id_, csr(), NOW + 11)
    with pytest.raises(SettingsError, match="no edge named"):
        other.revoke("paris", NOW + 12)
    with store.read() as transaction:
        records = b"".join(
            transaction.connection.execute(
                sa.select(schema.audit.c.record).order_by(schema.audit.c.number)
            ).scalars()
        )
    for event in (
        b"CreateEdgeAuthority",
        b"CreateEdgeToken",
        b"EnrollEdge",
        b"RenewEdgeCertificate",
        b"RevokeEdge",
    ):
        assert event in records
    assert str(token).encode() not in records
    store.close()


def test_an_edge_whose_certificate_has_expired_gives_its_name_to_the_next(tmp_path: Path) -> None:
    store = Store(where(tmp_path))
    one = registry(store)
    old = one.enroll(one.create_token(NOW, 60).secret, csr(), "paris", "", NOW)
    token = one.create_token(NOW + 2000, 60)
    new = one.enroll(token.secret, csr(), "paris", "", NOW + 2001)
    assert list(one.identities()) == [new.identity.id] != [old.identity.id]
    store.close()


def test_keys_are_sealed_and_replaced(tmp_path: Path) -> None:
    store = Store(where(tmp_path))
    one = registry(store)
    one.prepare(NOW)
    first = one.keys()
    one.prepare(NOW + 1)
    assert one.keys().chain == first.chain
    made = one.rotate_snapshot_key(NOW + 2)
    chain = one.keys().chain
    assert manifest.key_id(manifest.succeed(chain[0].public, chain[1:])) == made
    assert one.keys().authority.pem == first.authority.pem
    with pytest.raises(SettingsError, match="sealed under another key"):
        registry(store, b"x" * 32).keys()
    with store.read() as transaction:
        sealed = transaction.connection.execute(sa.select(schema.fleet_key.c.sealed)).scalars().all()
    assert not any(b"PRIVATE KEY" in one for one in sealed)
    store.close()
