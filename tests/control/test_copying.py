"""Copying a store's content to another store: all of it, and only into a new one."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from keyfront.control.audit import records as audit
from keyfront.control.store import schema
from keyfront.control.store.copy import copy
from keyfront.control.store.store import Store
from keyfront.errors import SettingsError
from tests.control.harness import BOTH, Harness, where

STORES = BOTH


def content(store: Store) -> dict[str, list[tuple[object, ...]]]:
    with store.read() as transaction:
        return {
            table.name: [tuple(row) for row in transaction.connection.execute(sa.select(table)).all()]
            for table in schema.metadata.sorted_tables
        }


def test_everything_is_there_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    one = Harness(tmp_path / "one")
    key = one.key("ä")
    group = one.group(key)
    id_ = one.distribution()["Id"]
    arn = f"arn:aws:cloudfront::123456789012:distribution/{id_}"
    one.call("TagResource", Resource=arn, Tags={"Items": [{"Key": "a", "Value": "ü"}]})
    one.call(
        "CreateInvalidation",
        DistributionId=id_,
        InvalidationBatch={"CallerReference": "1", "Paths": {"Quantity": 1, "Items": ["/a"]}},
    )
    published = one.feed.published()
    target = Store(where(tmp_path))
    assert copy(one.store, target)["resource"] == 3
    assert {name: sorted(map(repr, rows)) for name, rows in content(target).items()} == {
        name: sorted(map(repr, rows)) for name, rows in content(one.store).items()
    }
    with pytest.raises(SettingsError, match="is not new"):
        copy(one.store, target)
    target.close()
    one.close()

    # The same machine with the other store: edges notice nothing, and everything continues.
    (tmp_path / "one" / "store").write_text(str(where(tmp_path)))
    again = Harness(tmp_path / "one", seed=2)
    assert again.feed.published() == published
    assert (
        again.refused("DeletePublicKey", Id=key, IfMatch=again.etag("PublicKey", key)).code
        == "PublicKeyInUse"
    )
    again.call("DeleteKeyGroup", Id=group, IfMatch=again.etag("KeyGroup", group))
    again.call(
        "CreateInvalidation",
        DistributionId=id_,
        InvalidationBatch={"CallerReference": "2", "Paths": {"Quantity": 1, "Items": ["/b"]}},
    )
    with again.store.read() as transaction:
        assert audit.first_break(transaction.audit(limit=1000)) is None
    again.close()


def test_many_rows(tmp_path: Path) -> None:
    from tests.control.test_store import row

    source, target = Store(tmp_path / "source.db"), Store(where(tmp_path))
    with source.write() as transaction:
        for number in range(1203):
            transaction.insert(row(f"{number:05}"))
    assert copy(source, target)["resource"] == 1203
    with target.read() as transaction:
        assert transaction.count("PublicKey") == 1203
    source.close()
    target.close()
