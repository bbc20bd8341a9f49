"""What control planes store in NATS: the bucket with the snapshots, and the stream with the reports of edges."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence

from nats.errors import Error as NatsError
from nats.js.api import DiscardPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, BadRequestError, NotFoundError

from keyfront.errors import SettingsError
from keyfront.fleet.jetstream.connection import Connection
from keyfront.fleet.jetstream.head import Base
from keyfront.fleet.jetstream.names import Names

REPORTS_AGE = 86_400.0
"""Seconds for which the stream stores a report; edges send theirs again much sooner."""
REPORTS_BYTES = 256 << 20
"""Bytes that the stream of reports may have."""
UNUSED = 60.0
"""Seconds for which the parts of a replaced base are kept: an edge may be reading them."""
AT_ONCE = 8
"""Parts that are written at the same time."""
WRONG_SEQUENCE = 10071
"""JetStream's error code: another writer was faster."""


class Bucket:
    """The bucket and the stream, over one connection.

    :param replicas: the number of servers that store each of them, when they are created.
    """

    def __init__(self, connection: Connection, names: Names, replicas: int) -> None:
        self._connection = connection
        self._names = names
        self._replicas = replicas
        self._unused: dict[tuple[str, str], float] = {}

    async def prepare(self, owner: bytes) -> None:
        """Create what does not exist.

        :param owner: identifies the control planes' store.
        :raises Unreachable: if that fails.
        :raises SettingsError: if the bucket belongs to others.
        """
        names = self._names
        await self._create(
            StreamConfig(
                name=names.stream,
                description="Keyfront: signed snapshots",
                subjects=[names.all_keys],
                allow_direct=True,
                allow_rollup_hdrs=True,
                deny_delete=True,
                discard=DiscardPolicy.NEW,
                max_msgs_per_subject=1,
                num_replicas=self._replicas,
                storage=StorageType.FILE,
            )
        )
        await self._create(
            StreamConfig(
                name=names.reports,
                description="Keyfront: reports of edges",
                subjects=names.stored_reports,
                allow_direct=True,
                discard=DiscardPolicy.OLD,
                max_age=REPORTS_AGE,
                max_bytes=REPORTS_BYTES,
                max_msgs_per_subject=1,
                num_replicas=self._replicas,
                storage=StorageType.FILE,
            )
        )
        found, sequence = await self._connection.last(names.stream, names.owner)
        if not found and await self.write(names.owner, owner, sequence) is not None:
            return
        found, _ = await self._connection.last(names.stream, names.owner)
        if found != owner:
            raise SettingsError(
                f"the bucket {names.bucket} belongs to another installation of Keyfront: use another one "
                f"(--nats-bucket), or delete the bucket and the stream {names.reports} in NATS if that installation "
                "is gone"
            )

    async def _create(self, config: StreamConfig) -> None:
        js = self._connection.js
        try:
            try:
                await js.stream_info(config.name or "")
            except NotFoundError:
                await js.add_stream(config)
        except (NatsError, APIError, TimeoutError) as error:
            raise self._connection.failure(error, f"the stream {config.name} cannot be created") from error

    async def write(self, key: str, data: bytes, sequence: int) -> int | None:
        """Write a key, unless it has changed since: then the result is None, otherwise its new sequence number.

        :param sequence: of the last message; 0: there is none.
        :raises Unreachable: if that fails.
        """
        expected = {"Nats-Expected-Last-Subject-Sequence": str(sequence)}
        try:
            return (await self._connection.js.publish(key, data, headers=expected)).seq
        except BadRequestError as error:
            if error.err_code == WRONG_SEQUENCE:
                return None
            raise self._connection.failure(error, f"{key} cannot be written") from error
        except (NatsError, APIError, TimeoutError) as error:
            raise self._connection.failure(error, f"{key} cannot be written") from error

    async def upload(self, region: str, base: Base, parts: Sequence[bytes]) -> None:
        """Store a base.

        :raises Unreachable: if that fails.
        """
        limit = asyncio.Semaphore(AT_ONCE)

        async def one(number: int, data: bytes) -> None:
            key = self._names.part(region, base.id, number)
            async with limit:
                try:
                    await self._connection.js.publish(key, data)
                except (NatsError, APIError, TimeoutError) as error:
                    raise self._connection.failure(error, f"{key} cannot be written") from error

        await asyncio.gather(*(one(number, data) for number, data in enumerate(parts)))

    async def sweep(self, regions: Collection[str], used: Mapping[str, str]) -> None:
        """Remove what no edge reads any more: the regions that have no edges, and bases that were replaced a while ago.

        :param used: for each region, the id of its base.
        :raises Unreachable: if that fails.
        """
        names, js, now = self._names, self._connection.js, time.monotonic()
        try:
            info = await js.stream_info(names.stream, subjects_filter=names.snapshots)
            subjects = info.state.subjects or {}
            found: set[tuple[str, str]] = set()
            for subject in subjects:
                region = names.region_of(subject)
                words = subject.split(".")
                content = words[5] if len(words) == 7 and words[4] == "part" else ""
                if region not in regions:
                    found.add((region, ""))
                elif content and used.get(region, content) != content:
                    found.add((region, content))
            self._unused = {each: self._unused.get(each, now) for each in found}
            for (region, content), since in list(self._unused.items()):
                if now - since >= UNUSED:
                    target = names.parts(region, content) if content else names.snapshot(region)
                    await js.purge_stream(names.stream, subject=target)
        except (NatsError, APIError, TimeoutError) as error:
            raise self._connection.failure(error, f"the stream {names.stream} cannot be tidied") from error

    async def forget(self, subject: str) -> None:
        """Remove a report."""
        try:
            await self._connection.js.purge_stream(self._names.reports, subject=subject)
        except (NatsError, APIError, TimeoutError) as error:
            raise self._connection.failure(error, "a report cannot be removed") from error
