"""Logs in a bucket: they are downloaded for a query, since DuckDB is given no network."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from keyfront.errors import SettingsError

_PIECE = 1024 * 1024
_HOUR = re.compile(r"\.(\d{4}-\d\d-\d\d-\d\d)\.[^/]*\Z")
_MARGIN = 3600.0
"""Seconds before and after the hour in a file's name in which its requests can be, too: a long one ends later."""


def hour_of(key: str) -> float | None:
    """The beginning of the hour that the name of a standard log file names, in epoch seconds."""
    found = _HOUR.search(key)
    if found is None:
        return None
    try:
        return datetime.strptime(found[1], "%Y-%m-%d-%H").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def download(
    uri: str,
    folder: Path,
    *,
    endpoint: str = "",
    since: float | None = None,
    until: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Download the objects below `s3://BUCKET/PREFIX` into the folder, and return their files. Credentials and region
    come from the sources that AWS's tools use.

    :param endpoint: the endpoint of the S3 API, empty for AWS's.
    :param since: leave out files whose name says that they hold only earlier requests (epoch seconds).
    :param until: the same for later requests.
    :param progress: called with the bytes downloaded so far, and those of all objects.
    :raises SettingsError: if the URI is not valid, the bucket cannot be read, or the disk has no room for its objects.
    """
    parts = urlsplit(uri)
    if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment:
        raise SettingsError(f"{uri!r} is not of the form s3://BUCKET/PREFIX")
    from botocore.exceptions import BotoCoreError, ClientError  # slow to load

    from keyfront.botocore_session import s3_client

    prefix = parts.path.lstrip("/")
    try:
        client = s3_client(endpoint)
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=parts.netloc, Prefix=prefix)
        found = {
            item["Key"]: int(item["Size"])
            for page in pages
            for item in page.get("Contents", ())
            if item["Size"] and _may_hold(item["Key"], since, until)
        }
        if not found:
            raise SettingsError(f"there is no log below {uri} for this time")
        whole, free = sum(found.values()), shutil.disk_usage(folder).free
        if whole > free * 0.9:
            raise SettingsError(
                f"{uri} holds {whole} bytes, and {folder} has room for {free}: name a longer prefix, or --since"
            )
        files, loaded = [], 0
        for number, (key, size) in enumerate(sorted(found.items())):
            # The name ends as the object's, because it says what the object is; the number makes it unique.
            file = folder / f"{number}-{key.rpartition('/')[2][-200:]}"
            with file.open("wb") as output:
                shutil.copyfileobj(client.get_object(Bucket=parts.netloc, Key=key)["Body"], output, _PIECE)
            files.append(file)
            loaded += size
            if progress is not None:
                progress(loaded, whole)
    except (BotoCoreError, ClientError, ValueError) as error:
        raise SettingsError(f"{uri} cannot be read: {error}") from None
    except OSError as error:
        raise SettingsError(f"{uri} cannot be downloaded: {error.strerror or error}") from None
    return files


def _may_hold(key: str, since: float | None, until: float | None) -> bool:
    hour = hour_of(key)
    if hour is None:
        return True
    return (since is None or hour + 3600 + _MARGIN > since) and (until is None or hour - _MARGIN < until)
