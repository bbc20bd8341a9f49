"""Where log files are delivered: folders, and buckets with the S3 API."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from keyfront.edge.logs.delivery import DeliveryError, Destination
from keyfront.edge.logs.delivery_settings import LEGACY_LOG, DeliverySettings
from keyfront.errors import SettingsError
from keyfront.private_files import replace_file

AWS = "s3"
_SUFFIX = re.compile(r"\.s3[.-].*amazonaws\.com(\.cn)?$|\.s3$")


def bucket_name(domain: str) -> str:
    """The name of the bucket in a distribution's `Logging`, which names its domain: `logs.s3.amazonaws.com`."""
    return _SUFFIX.sub("", domain)


class LogFolder:
    """A folder, with one folder per bucket in it. Folders are created as needed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """See `Destination`."""
        parts = [part for part in (bucket_name(bucket), *key.split("/")) if part]
        if any(part in (".", "..") or "\0" in part for part in parts):
            raise DeliveryError(f"{bucket}/{key} cannot be a file in a folder")
        path = self._path.joinpath(*parts)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, data, mode=0o640)
        except OSError as error:
            raise DeliveryError(f"{path} cannot be written: {error.strerror}") from error


class LogBucket:
    """The S3 API of AWS, or of `endpoint`. Credentials and region come from the sources that AWS's tools use.

    :param bucket: the bucket for files that name none, and `prefix` for the names of these.
    :raises SettingsError: if it cannot be used.
    """

    def __init__(self, endpoint: str = "", bucket: str = "", prefix: str = "") -> None:
        from botocore.exceptions import BotoCoreError, ClientError  # takes a quarter of a second

        from keyfront.botocore_session import s3_client

        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._errors = (BotoCoreError, ClientError)
        try:
            self._client: Any = s3_client(endpoint, connect=5.0, read=20.0, attempts=2)
        except (*self._errors, ValueError) as error:
            raise SettingsError(f"the S3 API for logs cannot be used: {error}") from error

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """See `Destination`."""
        bucket = bucket_name(bucket) or self._bucket
        try:
            self._client.put_object(
                Bucket=bucket,
                Key=self._prefix + key,
                Body=data,
                ContentMD5=base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode(),
                ContentType="application/octet-stream" if key.endswith(".parquet") else "application/gzip",
            )
        except self._errors as error:
            raise DeliveryError(f"s3://{bucket}/{self._prefix}{key} cannot be written: {error}") from error


def destination(to: str, endpoint: str = "") -> Destination:
    """The destination of a delivery: a folder, or `s3://BUCKET/PREFIX` at `endpoint`.

    :raises SettingsError: if `to` is neither, or cannot be used.
    """
    if "://" not in to:
        return LogFolder(Path(to))
    parts = urlsplit(to)
    if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment:
        raise SettingsError(f"{to!r} is neither a folder nor s3://BUCKET/PREFIX")
    return LogBucket(endpoint, parts.netloc, parts.path)


def legacy_destination(to: str) -> Destination:
    """The destination of the logs that distributions switch on: a folder, `s3`, or the URL of an S3 API.

    :raises SettingsError: if it cannot be used.
    """
    if to == AWS:
        return LogBucket()
    return LogBucket(to) if to.startswith(("http://", "https://")) else LogFolder(Path(to))


def open_destinations(settings: DeliverySettings) -> dict[str, Destination]:
    """The destinations of all deliveries by their names.

    :raises SettingsError: if one of them cannot be used.
    """
    found = {LEGACY_LOG.name: legacy_destination(settings.destination)}
    for one in settings.deliveries:
        found[one.name] = destination(one.to, one.endpoint)
    return found
