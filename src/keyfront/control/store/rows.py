"""Value types for the store's rows."""

from __future__ import annotations

from typing import Any

import msgspec


class Row(msgspec.Struct, frozen=True):
    """A resource.

    :param created: epoch seconds, as is `modified`.
    :param attributes: output members that are neither config nor common to all kinds (a distribution's DomainName).
    :param snapshot: the number of the first snapshot that contains the resource in its current form.
    """

    kind: str
    id: str
    etag: str
    created: float
    modified: float
    config: dict[str, Any]
    attributes: dict[str, Any]
    snapshot: int


class InvalidationRow(msgspec.Struct, frozen=True):
    """An invalidation.

    :param batch: an InvalidationBatch in the API's shape.
    :param paths: the number of paths without a wildcard.
    :param wildcards: the number of paths with one.
    :param snapshot: the number of the first snapshot that carries it.
    """

    distribution: str
    id: str
    created: float
    batch: dict[str, Any]
    paths: int
    wildcards: int
    snapshot: int


class Load(msgspec.Struct, frozen=True):
    """A distribution's invalidations in progress: batches, paths without a wildcard, and paths with one."""

    batches: int = 0
    paths: int = 0
    wildcards: int = 0


class AuditRow(msgspec.Struct, frozen=True):
    """One record of the audit log: its JSON, and the digest that chains it to the record before
    (`audit/records.py`)."""

    number: int
    record: bytes
    digest: bytes


class AuditIndex(msgspec.Struct, frozen=True):
    """What an audit record can be searched by: time (epoch seconds), event name, the caller's ARN, the id or ARN of the
    resource, and the error code. Empty where there is none."""

    time: float
    name: str
    principal: str
    resource: str
    error: str


class EdgeRow(msgspec.Struct, frozen=True):
    """A live edge of the control plane `replica`, with the number of the snapshot that it uses, and its region; empty:
    none."""

    replica: str
    name: str
    number: int
    region: str = ""
