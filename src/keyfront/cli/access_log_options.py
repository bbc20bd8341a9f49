"""The options of `keyfront up` for access logs: how long local ones are kept, and where standard logs are delivered."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from keyfront.cli.durations import DurationType
from keyfront.cli.options import FILE, option_group
from keyfront.cli.sizes import SizeType
from keyfront.errors import SettingsError
from keyfront.extras import require_extra

if TYPE_CHECKING:
    from keyfront.edge.logs.append_file import Retention
    from keyfront.edge.logs.delivery_settings import DeliverySettings
    from keyfront.edge.logs.spool import SpoolSettings

MIN_SIZE = 64 << 20
"""Bytes; a log of this size is rotated every 6.4 MB."""


class AccessLogOptions(msgspec.Struct, frozen=True):
    """The options' values: sizes in bytes, durations in seconds."""

    access_log_size: int
    access_log_age: float
    log_destination: str
    log_deliveries: Path | None
    log_interval: float
    log_waiting: int
    mask_signatures: bool

    def retention(self) -> Retention:
        from keyfront.edge.logs.append_file import Retention

        return Retention(self.access_log_size, self.access_log_age)

    def spool(self) -> SpoolSettings:
        from keyfront.edge.logs.spool import SpoolSettings

        return SpoolSettings(everything=self.log_deliveries is not None, most=self.log_waiting)

    def delivery(self, data: Path, location: str) -> DeliverySettings:
        """:param location: the name of the edge location.
        :raises SettingsError: if an option cannot be used.
        """
        from keyfront.edge.logs.delivery_settings import DeliverySettings, read_deliveries

        if not 1 <= self.log_interval <= 3600:
            raise SettingsError("--log-interval must be between 1s and 1h")
        to = self.log_destination or str(data / "logs" / "delivered")
        if to != "s3" and "://" not in to:
            to = str(Path(to).absolute())
        elif to != "s3" and not to.startswith(("http://", "https://")):
            raise SettingsError(
                f"--log-destination {to} is neither a folder, nor s3, nor the URL of an S3 API; buckets are named by "
                "the distributions"
            )
        deliveries = () if self.log_deliveries is None else read_deliveries(self.log_deliveries.absolute())
        if any(one.format == "parquet" for one in deliveries):
            require_extra("logs")
        return DeliverySettings(
            str(data),
            location,
            to,
            self.log_interval,
            self.log_waiting,
            self.mask_signatures,
            deliveries,
        )


access_log_options = option_group(
    "access_logs",
    AccessLogOptions,
    click.option(
        "--access-log-size",
        type=SizeType(MIN_SIZE),
        default="10G",
        show_default=True,
        metavar="SIZE",
        help="Keep this much of the access log, including rotated files; 0 for no limit.",
    ),
    click.option(
        "--access-log-age",
        type=DurationType(),
        default="30d",
        show_default=True,
        metavar="DURATION",
        help="Remove rotated access logs that are older; 0s for no limit.",
    ),
    click.option(
        "--log-destination",
        default="",
        metavar="FOLDER|s3|URL",
        help="Where the buckets of distributions' standard logs are: a folder with one folder per bucket, `s3` for "
        "Amazon's, or the URL of an S3 API.  [default: DATA/logs/delivered]",
    ),
    click.option(
        "--log-deliveries",
        type=FILE,
        metavar="FILE",
        help="Further deliveries, with chosen fields, formats, and paths: a TOML file with tables [[delivery]].",
    ),
    click.option(
        "--log-interval",
        type=DurationType(),
        default="5m",
        show_default=True,
        metavar="DURATION",
        help="Time between two deliveries of standard logs.",
    ),
    click.option(
        "--log-waiting",
        type=SizeType(1 << 20),
        default="1G",
        show_default=True,
        metavar="SIZE",
        help="How much may wait on the disk to be delivered; beyond it, records are dropped and counted.",
    ),
    click.option(
        "--mask-signatures/--log-signatures",
        default=False,
        show_default=True,
        help="Whether policies and signatures in standard logs are masked. CloudFront does not mask them.",
    ),
)
"""Gives a command the options, and their values as the parameter `access_logs` (`AccessLogOptions`)."""
