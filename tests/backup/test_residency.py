"""A restore where edges are in several regions: all of them received state that the archive does not know."""

from __future__ import annotations

from pathlib import Path

from keyfront.fleet.file_feed import FileFeed
from keyfront.fleet.regions import remember
from tests.backup.harness import CREDENTIALS, make, read, restore
from tests.control.harness import ACCOUNT, Harness, many


def test_what_any_region_ended_since_stays_ended(tmp_path: Path) -> None:
    folder, us = tmp_path / "data", tmp_path / "us"
    for each in (folder, us):
        each.mkdir()
    (folder / "credentials").write_text(CREDENTIALS)
    (folder / "credentials").chmod(0o600)
    remember(folder, "eu", [("us", str(us))])
    one = Harness(folder, region="eu", elsewhere=[FileFeed(us, "us")])
    id_ = one.distribution()["Id"]
    arn = f"arn:aws:cloudfront::{ACCOUNT}:distribution/{id_}"
    one.call("TagResource", Resource=arn, Tags={"Items": [{"Key": "keyfront:regions", "Value": "us"}]})
    make(one.store, folder, tmp_path / "archives")
    (path,) = (tmp_path / "archives").iterdir()
    batch = {"CallerReference": "1", "Paths": many("/gone")}
    one.call("CreateInvalidation", DistributionId=id_, InvalidationBatch=batch)
    seen = one.number()
    one.close()

    restore(read(path), folder)
    again = Harness(folder, seed=2, region="eu", elsewhere=[FileFeed(us, "us")])
    there = FileFeed(us, "us").published()
    assert there is not None
    assert there.number == again.number() > seen
    ((distribution,), own) = (there.distributions, again.feed.published())
    assert distribution.id == id_
    assert [one.paths for one in distribution.invalidations] == [("/gone",)]
    assert own is not None
    assert own.distributions == ()
    again.close()
