"""The feeds of several regions as one: each gets its part of every snapshot, and what edges report comes from all.

A control plane has a feed of its own, for the edges beside it, and may serve other regions through folders that they
share with it. Another region is worth nobody's wait: if its folder cannot be written to, its edges go on with what they
have, and `publish` succeeds for all others; whoever calls it again finds it there once it is back. What stands in its
folder was perhaps written by somebody there. So nothing is taken from it but numbers, reports, and which invalidations
its own edges have obeyed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from keyfront.errors import KeyfrontError, SettingsError
from keyfront.fleet.feed import Report
from keyfront.fleet.file_feed import FileFeed
from keyfront.model.residency import for_region
from keyfront.model.snapshot import Snapshot, differ
from keyfront.private_files import replace_file

log = logging.getLogger("keyfront.fleet")

HIGHEST = 1 << 62
"""No control plane gives a number as high as this, so one that is found in another region's folder is made up."""


class Regions:
    """What `control.work.Feed` asks for, over the feed `own` and those of `others`, one a region.

    :raises SettingsError: if two feeds are for one region.
    """

    def __init__(self, own: FileFeed, others: Iterable[FileFeed] = ()) -> None:
        self.own = own
        self.others = tuple(others)
        self.feeds = (own, *self.others)
        self._done: dict[str, tuple[int, float]] = {}
        self._marks: dict[str, object] = {}
        self._trouble: dict[str, str] = {}
        names = [feed.region for feed in self.feeds]
        if len(set(names)) != len(names):
            raise SettingsError("two feeds are for one region")

    def publish(self, whole: Snapshot) -> None:
        """Give each region its part of `whole`; one that has it already is left alone.

        :raises KeyfrontError, OSError: if the own feed does not take it. What happens to others is told in the log,
            once, and in `behind`.
        """
        try:
            self._publish(self.own, whole)
        finally:
            for feed in self.others:
                self._try(feed, whole)

    def _try(self, feed: FileFeed, whole: Snapshot) -> None:
        try:
            if (
                not feed.folder.is_dir()
            ):  # it is the operator's to make: a file system may be meant to be mounted there
                raise FileNotFoundError(f"there is no folder {feed.folder}")
            if not self._untouched(feed):
                refuse_stranger(feed)
            self._publish(feed, whole)
            if self._trouble.pop(feed.region, ""):
                log.warning("region %s has snapshot %s now", feed.region, whole.number)
        except (OSError, KeyfrontError) as error:
            there = feed.published()
            overtaken = there is not None and whole.number < there.number < HIGHEST
            # Another control plane that serves this region was quicker; this one will soon know why.
            said = "" if overtaken else str(error)
            if said and self._trouble.get(feed.region) != said:
                log.error("region %s does not get snapshot %s: %s", feed.region, whole.number, said)
            self._trouble[feed.region] = said

    def _publish(self, feed: FileFeed, whole: Snapshot) -> None:
        identity = (whole.number, whole.created)
        if self._done.get(feed.region) == identity and self._untouched(feed):
            return
        part = for_region(whole, feed.region)
        # Whoever has published here before knows what is there, and need not read it.
        before = None if self._untouched(feed) else feed.published()
        if before is None or before.number != part.number or differ(before, part):
            feed.publish(part)
        if feed is not self.own:
            feed.supersede(part)
        self._done[feed.region] = identity
        self._marks[feed.region] = feed.mark()

    def _untouched(self, feed: FileFeed) -> bool:
        """Does what was published here last still lie there?"""
        mark = self._marks.get(feed.region)
        return mark is not None and mark == feed.mark()

    @property
    def names(self) -> set[str]:
        """The regions; empty stands for edges in none."""
        return {feed.region for feed in self.feeds}

    @property
    def behind(self) -> bool:
        """Does another region lack what was published last? One `stat` for each."""
        return bool(self._trouble) or any(
            feed.region in self._done and not self._untouched(feed) for feed in self.others
        )

    def published(self) -> Snapshot | None:
        """The own region's part of what is published; None if that is nothing or cannot be read."""
        return self.own.published()

    def elsewhere(self) -> list[Snapshot]:
        """What the other regions' folders hold, as far as it can be read."""
        found = [feed.published() for feed in self.others]
        return [one for one in found if one is not None and one.number < HIGHEST]

    def number(self) -> int:
        """The highest number that any edge of any region may have seen. 0 if there is none."""
        numbers = [feed.number() for feed in self.others]
        return max([self.own.number(), *(number for number in numbers if number < HIGHEST)])

    def contradicts(self, whole: Snapshot) -> bool:
        """Do edges of some region perhaps obey something else under `whole`'s number?"""
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
        """The reports of all live edges. Those of other regions have names that begin with the region and a slash, and
        all have the region whose feed they follow."""
        return self._all(lambda feed: feed.reports(now))

    def last_reports(self) -> list[Report]:
        """The last reports of all edges that have not ended in order, live or not, named as by `reports`."""
        return self._all(FileFeed.last_reports)

    def _all(self, asked: Callable[[FileFeed], list[Report]]) -> list[Report]:
        found = [msgspec.structs.replace(one, region=self.own.region) for one in asked(self.own)]
        for feed in self.others:
            with suppress(OSError):  # its folder is away
                for one in asked(feed):
                    named = f"{feed.region}/{one.name}"
                    found.append(msgspec.structs.replace(one, name=named, region=feed.region))
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


def refuse_stranger(feed: FileFeed) -> None:
    """Take care that nothing goes to a region's edges because somebody gave the folder of another one's.

    :raises SettingsError: if the folder of `feed` holds what is for another region.
    """
    held = feed.held()
    if held is not None and held != feed.region:
        raise SettingsError(
            f"{feed.folder} holds what is for {f'region {held}' if held else 'edges in no region'}: "
            f"give region {feed.region} a folder of its own, or remove its file `snapshot` if it changes its region"
        )


def open_regions(data: Path, region: str, folders: Iterable[tuple[str, str]]) -> Regions:
    """The feed of the data folder, for edges in `region`, with those of other regions in `folders`.

    :param folders: names of regions, each with the folder of its feed.
    :raises SettingsError: if two feeds are for one region.
    """
    return Regions(FileFeed(data, region), [FileFeed(folder, name) for name, folder in folders])


class _Place(msgspec.Struct, frozen=True):
    """What `remember` keeps: the region of a data folder's own edges, and the folders of other regions' feeds."""

    region: str = ""
    feeds: tuple[tuple[str, str], ...] = ()


def remember(data: Path, region: str, folders: Iterable[tuple[str, str]]) -> None:
    """Keep in the data folder which regions its control plane serves, for `remembered`.

    :raises OSError: if it cannot be written.
    """
    path = data / "regions.json"
    place = _Place(region, tuple(folders))
    if place == _Place():
        path.unlink(missing_ok=True)
        return
    replace_file(path, msgspec.json.encode(place))


def remembered(data: Path) -> Regions:
    """The feeds that the control plane of this data folder served when it last started.

    :raises SettingsError: if what it kept cannot be read.
    """
    try:
        place = msgspec.json.decode((data / "regions.json").read_bytes(), type=_Place)
    except FileNotFoundError:
        place = _Place()
    except (OSError, msgspec.MsgspecError) as error:
        raise SettingsError(f"{data / 'regions.json'} cannot be read: {error}") from error
    return open_regions(data, place.region, place.feeds)
