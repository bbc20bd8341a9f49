"""Rows of the store as values."""

from __future__ import annotations

from typing import Any

import msgspec


class Row(msgspec.Struct, frozen=True):
    """A resource. `created` and `modified` are epoch seconds; `attributes` are output members that are
    neither config nor common to all kinds (a distribution's DomainName); `snapshot` is the number of the
    first snapshot that holds the resource as it is now."""

    kind: str
    id: str
    etag: str
    created: float
    modified: float
    config: dict[str, Any]
    attributes: dict[str, Any]
    snapshot: int


class InvalidationRow(msgspec.Struct, frozen=True):
    """An invalidation. `batch` is an InvalidationBatch in the API's shape, with so many `paths` without a wildcard and
    so many `wildcards`; `snapshot` is the number of the first snapshot that carries it."""

    distribution: str
    id: str
    created: float
    batch: dict[str, Any]
    paths: int
    wildcards: int
    snapshot: int


class Load(msgspec.Struct, frozen=True):
    """How much of a distribution's invalidations is in progress."""

    batches: int = 0
    paths: int = 0
    wildcards: int = 0


class AuditRow(msgspec.Struct, frozen=True):
    """One record of the audit log: `record` is its JSON, `digest` chains it to the one before
    (control/audit/records.py)."""

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
    """A live edge of the control plane `replica`, the number of the snapshot that it obeys, and the region that it is
    in, if it is in one."""

    replica: str
    name: str
    number: int
    region: str = ""
