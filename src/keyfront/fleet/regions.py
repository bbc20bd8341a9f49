"""The feeds of several regions, combined into one: each region gets its part of every snapshot, and reports come from
all.

A control plane has its own feed, for its local edges, and can serve other regions through shared folders. Another
region never delays it: if its folder cannot be written to, its edges continue with the snapshot that they have, and
`publish` succeeds for all others; a later call serves the region once it is back. Others can write to a region's
folder, so only numbers, reports, and the invalidations that its own edges have applied are read from it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import msgspec

from keyfront.errors import KeyfrontError, SettingsError
from keyfront.fleet.feed import Report
from keyfront.fleet.file_feed import FileFeed
from keyfront.model.residency import for_region
from keyfront.model.snapshot import Snapshot, differ
from keyfront.private_files import replace_file

log = logging.getLogger("keyfront.fleet")

HIGHEST = 1 << 62
"""Higher than any genuine snapshot number; a number like this in another region's folder is forged."""


class RemoteEdges(Protocol):
    """The edges that follow over HTTPS (`remote/hub.py`), or over NATS (`jetstream/hub.py`), in any region."""

    trouble: str
    """Why none of them gets snapshots; empty if that is possible."""

    @property
    def regions(self) -> set[str]: ...

    def publish(self, whole: Snapshot) -> None: ...

    def number(self) -> int: ...

    def reports(self, now: float) -> list[Report]: ...

    def full_reports(self, now: float) -> list[Report]: ...

    def last_reports(self) -> list[Report]: ...

    def ended(self) -> list[tuple[Path, Report]]: ...

    def forget(self, ended: Path) -> None: ...


class Regions:
    """The feed `own` and the feeds `others`, one for each region.

    :param remotes: the edges that follow over a network. More can be added until something is published.
    :raises SettingsError: if two feeds are for the same region.
    """

    def __init__(
        self, own: FileFeed, others: Iterable[FileFeed] = (), remotes: Iterable[RemoteEdges] = ()
    ) -> None:
        self.own = own
        self.others = tuple(others)
        self.remotes = list(remotes)
        self.feeds = (own, *self.others)
        self._published: dict[str, tuple[int, float]] = {}
        self._marks: dict[str, object] = {}
        self._trouble: dict[str, str] = {}
        names = [feed.region for feed in self.feeds]
        if len(set(names)) != len(names):
            raise SettingsError("two feeds are for the same region")

    def publish(self, whole: Snapshot) -> None:
        """Publish to each region its part of `whole`, unless it already has that part.

        :raises KeyfrontError, OSError: if the own feed fails. Failures of others are logged once, and show in `behind`.
        """
        for remote in self.remotes:
            remote.publish(whole)
        try:
            self._publish(self.own, whole)
        finally:
            for feed in self.others:
                self._try(feed, whole)

    def _try(self, feed: FileFeed, whole: Snapshot) -> None:
        try:
            # The operator creates the folder: it may be the mount point of a file system that is missing now.
            if not feed.folder.is_dir():
                raise FileNotFoundError(f"there is no folder {feed.folder}")
            if not self._untouched(feed):
                refuse_other_region(feed)
            self._publish(feed, whole)
            if self._trouble.pop(feed.region, ""):
                log.warning("region %s has snapshot %s now", feed.region, whole.number)
        except (OSError, KeyfrontError) as error:
            there = feed.published()
            overtaken = there is not None and whole.number < there.number < HIGHEST
            # Another control plane that serves this region was faster; this one will soon see the same changes.
            reason = "" if overtaken else str(error)
            if reason and self._trouble.get(feed.region) != reason:
                log.error("region %s does not get snapshot %s: %s", feed.region, whole.number, reason)
            self._trouble[feed.region] = reason

    def confirm(self, now: float) -> None:
        """Record in each feed that has the last snapshot that there is no later one at `now` (epoch seconds)."""
        for feed in self.feeds:
            if feed.region not in self._trouble:
                feed.confirm(now)

    def _publish(self, feed: FileFeed, whole: Snapshot) -> None:
        identity = (whole.number, whole.created)
        if self._published.get(feed.region) == identity and self._untouched(feed):
            return
        part = for_region(whole, feed.region)
        # A file that this process published itself need not be read.
        before = None if self._untouched(feed) else feed.published()
        if before is None or before.number != part.number or differ(before, part):
            feed.publish(part)
        if feed is not self.own:
            feed.supersede(part)
        self._published[feed.region] = identity
        self._marks[feed.region] = feed.mark()

    def _untouched(self, feed: FileFeed) -> bool:
        """True if the file that this process published last is still there."""
        mark = self._marks.get(feed.region)
        return mark is not None and mark == feed.mark()

    @property
    def names(self) -> set[str]:
        """The names of the regions; the empty name stands for edges without a region."""
        return {feed.region for feed in self.feeds}.union(*(remote.regions for remote in self.remotes))

    @property
    def behind(self) -> bool:
        """True if another region lacks the last snapshot, or an edge has a later one. Costs one `stat` for each
        region."""
        ahead = any(remote.number() > 0 for remote in self.remotes)
        return (
            ahead
            or bool(self._trouble)
            or any(feed.region in self._published and not self._untouched(feed) for feed in self.others)
        )

    def published(self) -> Snapshot | None:
        """The own region's part of the published snapshot; None if there is none, or it cannot be read."""
        return self.own.published()

    def elsewhere(self) -> list[Snapshot]:
        """The snapshots in the other regions' folders, as far as they can be read."""
        found = [feed.published() for feed in self.others]
        return [one for one in found if one is not None and one.number < HIGHEST]

    def number(self) -> int:
        """The highest number that any edge of any region may have seen; 0 if there is none."""
        numbers = [feed.number() for feed in self.others]
        numbers += (remote.number() for remote in self.remotes)
        return max([self.own.number(), *(number for number in numbers if number < HIGHEST)])

    def contradicts(self, whole: Snapshot) -> bool:
        """True if edges of some region may have a different snapshot with the number of `whole`."""
        for feed in self.feeds:
            if feed.number() == whole.number:
                part = feed.published()
                if (
                    part is None
                    or part.number != whole.number
                    or differ(part, for_region(whole, feed.region))
                ):
                    return True
        return False

    def reports(self, now: float | None = None) -> list[Report]:
        """The reports of all live edges; those of edges that follow over a network without counters. Names of edges in
        other regions are prefixed with the region and a slash; `region` is that of the feed."""
        found = self._all(lambda feed: feed.reports(now))
        for remote in self.remotes:
            found += remote.reports(time.time() if now is None else now)
        return found

    def full_reports(self, now: float | None = None) -> list[Report]:
        """Like `reports`, with all counters."""
        found = self._all(lambda feed: feed.reports(now))
        for remote in self.remotes:
            found += remote.full_reports(time.time() if now is None else now)
        return found

    def last_reports(self) -> list[Report]:
        """The last reports of all edges that have not shut down cleanly, live or not, with the names that `reports`
        uses."""
        return self._all(FileFeed.last_reports)

    def _all(self, read: Callable[[FileFeed], list[Report]]) -> list[Report]:
        found = [msgspec.structs.replace(one, region=self.own.region) for one in read(self.own)]
        for feed in self.others:
            with suppress(OSError):  # its folder is not available
                for one in read(feed):
                    name = f"{feed.region}/{one.name}"
                    found.append(msgspec.structs.replace(one, name=name, region=feed.region))
        return found

    def ended(self) -> list[tuple[Path, Report]]:
        """See `FileFeed.ended`."""
        found = self.own.ended()
        for feed in self.others:
            with suppress(OSError):
                found += feed.ended()
        return found

    def forget(self, ended: Path) -> None:
        """See `FileFeed.forget`."""
        self.own.forget(ended)


def refuse_other_region(feed: FileFeed) -> None:
    """Prevent publishing to the wrong region because its folder was configured for another one.

    :raises SettingsError: if the folder of `feed` holds a snapshot for another region.
    """
    region = feed.published_region()
    if region is not None and region != feed.region:
        raise SettingsError(
            f"{feed.folder} holds a snapshot for {f'region {region}' if region else 'edges without a region'}: "
            f"give region {feed.region} a folder of its own, or remove the file `snapshot` if it "
            "changes its region"
        )


def open_regions(data: Path, region: str, folders: Iterable[tuple[str, str]]) -> Regions:
    """The feed of the data folder, for edges in `region`, with those of other regions.

    :param folders: other regions: name, and folder of the feed.
    :raises SettingsError: if two feeds are for the same region.
    """
    return Regions(FileFeed(data, region), [FileFeed(folder, name) for name, folder in folders])


class _Served(msgspec.Struct, frozen=True):
    """What `remember` stores: the region of a data folder's own edges, and the folders of other regions' feeds."""

    region: str = ""
    feeds: tuple[tuple[str, str], ...] = ()


def remember(data: Path, region: str, folders: Iterable[tuple[str, str]]) -> None:
    """Store in the data folder which regions its control plane serves, for `remembered`.

    :raises OSError: if it cannot be written.
    """
    path = data / "regions.json"
    served = _Served(region, tuple(folders))
    if served == _Served():
        path.unlink(missing_ok=True)
        return
    replace_file(path, msgspec.json.encode(served))


def remembered(data: Path) -> Regions:
    """The feeds that this data folder's control plane served when it last started.

    :raises SettingsError: if the stored regions cannot be read.
    """
    try:
        served = msgspec.json.decode((data / "regions.json").read_bytes(), type=_Served)
    except FileNotFoundError:
        served = _Served()
    except (OSError, msgspec.MsgspecError) as error:
        raise SettingsError(f"{data / 'regions.json'} cannot be read: {error}") from error
    return open_regions(data, served.region, served.feeds)
