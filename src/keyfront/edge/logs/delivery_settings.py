"""Which log files are delivered, in which format and to which place."""

from __future__ import annotations

import tomllib
from pathlib import Path
from time import gmtime, strftime
from typing import Final, Literal

import msgspec

from keyfront.edge.logs.standard_format import FIELDS, LEGACY
from keyfront.edge.types.record import LogRecord
from keyfront.errors import SettingsError

Format = Literal["w3c", "plain", "json", "raw", "parquet"]

_VARIABLES: Final = ("{DistributionId}", "{distributionid}", "{yyyy}", "{MM}", "{dd}", "{HH}", "{accountid}")
_HIVE: Final = {
    "{DistributionId}": "DistributionId",
    "{distributionid}": "distributionid",
    "{yyyy}": "year",
    "{MM}": "month",
    "{dd}": "day",
    "{HH}": "hour",
    "{accountid}": "accountid",
}


_SEPARATORS: Final = ("\t", " ", ",", ";", "|", "^", "~")


class Delivery(msgspec.Struct, frozen=True):
    """One delivery of standard logging v2 (cloudfront-semantics §6.3).

    - `name`: what the delivery is called.
    - `to`: the folder or `s3://BUCKET/PREFIX` that the files go to. `endpoint`: the S3 API's URL; empty for AWS's.
    - `distributions`: the IDs of the distributions; empty for all.
    - `format`: `w3c` and `plain` are lines of escaped values separated by `separator`, with and without a head; `raw`
      is `plain`; `json` is one object per line; `parquet` has one column of strings per field.
    - `fields`: in the order of the columns.
    - `path`: the folder of a file, with variables; `hive`: each variable is written as `NAME=VALUE`.
    - `account`: the account number in the path.
    """

    name: str
    to: str = ""
    endpoint: str = ""
    distributions: tuple[str, ...] = ()
    format: Format = "w3c"
    fields: tuple[str, ...] = LEGACY
    separator: str = "\t"
    path: str = ""
    hive: bool = False
    account: str = "000000000000"

    def takes(self, record: LogRecord) -> bool:
        """Whether it delivers this record."""
        if self is LEGACY_LOG:
            return bool(record.bucket)
        return not self.distributions or record.distribution in self.distributions

    def key(self, prefix: str, distribution: str, hour: int, stem: str) -> str:
        """The name of a file, with `/` between folders.

        :param prefix: the prefix of a legacy log.
        :param hour: epoch hours.
        :param stem: the name without folder and extension.
        """
        name = f"{stem}.{'parquet' if self.format == 'parquet' else 'gz'}"
        if self is LEGACY_LOG:
            return f"{prefix}{'/' if prefix and not prefix.endswith('/') else ''}{name}"
        values = dict(
            zip(
                _VARIABLES,
                (
                    distribution,
                    distribution.lower(),
                    *strftime("%Y %m %d %H", gmtime(hour * 3600)).split(),
                    self.account,
                ),
                strict=True,
            )
        )
        path = self.path
        for variable, value in values.items():
            path = path.replace(variable, f"{_HIVE[variable]}={value}" if self.hive else value)
        return f"{path.strip('/')}/{name}" if path.strip("/") else name


LEGACY_LOG: Final = Delivery("standard log")
"""The legacy log, which `Logging` of a distribution switches on. It says where the log goes."""


class DeliverySettings(msgspec.Struct, frozen=True):
    """Settings of the process that delivers logs.

    - `data`: the data folder; `location`: the name of the edge location.
    - `destination`: where buckets of legacy logs are: a folder with one folder per bucket, or the URL of an S3 API, or
      `s3` for AWS's.
    - `interval`: seconds between two deliveries.
    - `most`: bytes of files that may wait.
    - `mask`: whether policies and signatures are masked.
    """

    data: str
    location: str
    destination: str
    interval: float = 300.0
    most: int = 1 << 30
    mask: bool = False
    deliveries: tuple[Delivery, ...] = ()


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    delivery: tuple[dict[str, object], ...] = ()


def read_deliveries(path: Path) -> tuple[Delivery, ...]:
    """The deliveries in a TOML file: tables `[[delivery]]` with the members of `Delivery`.

    :raises SettingsError: if the file cannot be used; the message says why.
    """
    try:
        text = path.read_text()
        tables = msgspec.convert(tomllib.loads(text), _File).delivery
    except (OSError, ValueError, msgspec.ValidationError) as error:
        raise SettingsError(f"{path}: {error}") from None
    found: list[Delivery] = []
    for number, table in enumerate(tables, 1):
        where = f"{path}: delivery {number}"
        unknown = set(table) - set(Delivery.__struct_fields__)
        if unknown:
            raise SettingsError(
                f"{where}: {', '.join(sorted(unknown))} is not known; use {', '.join(Delivery.__struct_fields__)}"
            )
        try:
            one = msgspec.convert(table, Delivery)
        except msgspec.ValidationError as error:
            raise SettingsError(f"{where}: {error}") from None
        _check(one, where)
        if one.name in (LEGACY_LOG.name, *(other.name for other in found)):
            raise SettingsError(f"{where}: the name {one.name!r} is taken; each delivery needs its own")
        found.append(one)
    if not found:
        raise SettingsError(f"{path} has no [[delivery]]")
    return tuple(found)


def _check(one: Delivery, where: str) -> None:
    """:raises SettingsError: if its members cannot be used together."""
    if not one.name or not one.to:
        raise SettingsError(f"{where}: name and to are required")
    unknown = [name for name in one.fields if name not in FIELDS]
    if unknown or not one.fields or len(set(one.fields)) < len(one.fields):
        raise SettingsError(
            f"{where}: fields: {f'{unknown[0]!r} is not a field' if unknown else 'each once, and at least one'}; "
            f"there are {', '.join(FIELDS)}"
        )
    if one.separator not in _SEPARATORS:
        raise SettingsError(
            f"{where}: separator must be a tab, a space, or one of {' '.join(_SEPARATORS[2:])}"
        )
    rest = one.path
    for variable in _VARIABLES:
        rest = rest.replace(variable, "")
    if "{" in rest or "}" in rest or any(part in (".", "..") for part in one.path.split("/")):
        raise SettingsError(f"{where}: path may contain {', '.join(_VARIABLES)}, and no other braces")
