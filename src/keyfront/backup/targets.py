"""The places that store archives: a folder, or a bucket with the S3 API.

An archive is stored atomically: a file is written under another name and renamed once it is on disk; an object is a
single PUT. Files and objects whose names are not those of archives are not listed, and never touched.
"""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from keyfront.backup.archive.names import Name, parse
from keyfront.errors import BackupError, SettingsError
from keyfront.private_files import create_file, sync_folder

LARGEST = 4 << 30
"""Maximum bytes of an archive that is read: what one PUT accepts, and what fits into memory."""

_DIGEST = "keyfront-sha256"
"""The object metadata that holds the SHA-256 of what was stored."""


class Place(Protocol):
    """Every method raises BackupError if the place refuses or cannot be reached."""

    @property
    def uri(self) -> str: ...

    def names(self) -> dict[Name, int]:
        """Return the stored archives with their sizes in bytes, oldest first."""

    def put(self, name: str, data: bytes) -> None:
        """Store an archive. It is durable and whole when this returns.

        :raises BackupError: if it cannot be stored. A folder refuses a name that another archive has; a bucket replaces
            that archive.
        """

    def get(self, name: str) -> bytes: ...

    def digest(self, name: str) -> str:
        """Return the SHA-256, in hexadecimal, of the stored archive."""

    def remove(self, name: Name) -> None: ...


class Folder:
    """A folder, which is created if it does not exist."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @property
    def uri(self) -> str:
        return str(self.path)

    def names(self) -> dict[Name, int]:
        found: dict[Name, int] = {}
        try:
            with os.scandir(self.path) as entries:
                for entry in entries:
                    name = parse(entry.name)
                    if name is not None and entry.is_file():
                        found[name] = entry.stat().st_size
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise BackupError(f"{self.path} cannot be listed: {error.strerror}") from error
        return dict(sorted(found.items()))

    def put(self, name: str, data: bytes) -> None:
        path = self.path / name
        try:
            if not create_file(path, data) and path.read_bytes() != data:
                raise BackupError(f"{path} is another archive already, which stays as it is")
        except OSError as error:
            raise BackupError(f"{path} cannot be written: {error.strerror}") from error

    def get(self, name: str) -> bytes:
        try:
            with (self.path / name).open("rb") as file:
                if os.fstat(file.fileno()).st_size > LARGEST:
                    raise BackupError(f"{self.path / name} is larger than any archive")
                return file.read()
        except OSError as error:
            raise BackupError(f"{self.path / name} cannot be read: {error.strerror}") from error

    def digest(self, name: str) -> str:
        return hashlib.sha256(self.get(name)).hexdigest()

    def remove(self, name: Name) -> None:
        try:
            (self.path / str(name)).unlink(missing_ok=True)
            sync_folder(self.path)
        except OSError as error:
            raise BackupError(f"{self.path / str(name)} cannot be removed: {error.strerror}") from error


class Bucket:
    """`s3://BUCKET/PREFIX`, at AWS or at `endpoint`. Credentials and region come from the sources that AWS's tools
    use."""

    def __init__(self, bucket: str, prefix: str, endpoint: str = "") -> None:
        from botocore.exceptions import BotoCoreError, ClientError  # takes a quarter of a second

        from keyfront.botocore_session import s3_client

        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._errors = (BotoCoreError, ClientError)
        try:
            self._client: Any = s3_client(endpoint)
        except (*self._errors, ValueError) as error:
            raise SettingsError(f"the bucket {bucket} cannot be used: {error}") from error

    @property
    def uri(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}"

    def names(self) -> dict[Name, int]:
        found: dict[Name, int] = {}
        try:
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix, Delimiter="/"
            )
            for page in pages:
                for item in page.get("Contents", ()):
                    if (name := parse(item["Key"].removeprefix(self._prefix))) is not None:
                        found[name] = item["Size"]
        except self._errors as error:
            raise BackupError(f"{self.uri} cannot be listed: {error}") from error
        return dict(sorted(found.items()))

    def put(self, name: str, data: bytes) -> None:
        md5 = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        try:
            self._client.put_object(
                Bucket=self._bucket,
                Key=self._prefix + name,
                Body=data,
                ContentMD5=md5,
                ContentType="application/octet-stream",
                Metadata={_DIGEST: hashlib.sha256(data).hexdigest()},
            )
        except self._errors as error:
            raise BackupError(f"{self.uri}{name} cannot be written: {error}") from error

    def get(self, name: str) -> bytes:
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)
            size = answer["ContentLength"]
            if size > LARGEST:
                raise BackupError(f"{self.uri}{name} is larger than any archive")
            data: bytes = answer["Body"].read()
        except (*self._errors, OSError) as error:
            raise BackupError(f"{self.uri}{name} cannot be read: {error}") from error
        if len(data) != size:
            raise BackupError(f"{self.uri}{name} cannot be read: it is cut off")
        return data

    def digest(self, name: str) -> str:
        """Return the digest in the object's metadata, since the server checked it when the whole object was stored. For
        an object stored by other means, return the digest of its content."""
        try:
            metadata = self._client.head_object(Bucket=self._bucket, Key=self._prefix + name)["Metadata"]
        except self._errors as error:
            raise BackupError(f"{self.uri}{name} cannot be read: {error}") from error
        return str(metadata.get(_DIGEST) or hashlib.sha256(self.get(name)).hexdigest())

    def remove(self, name: Name) -> None:
        try:
            self._client.delete_object(Bucket=self._bucket, Key=f"{self._prefix}{name}")
        except self._errors as error:
            raise BackupError(f"{self.uri}{name} cannot be removed: {error}") from error


def open_place(text: str, endpoint: str = "") -> Place:
    """Return the place that `text` names: `s3://BUCKET/PREFIX`, or the path of a folder.

    :param endpoint: the endpoint of the S3 API, empty for AWS's.
    :raises SettingsError: if `text` names neither.
    """
    if "://" not in text:
        return Folder(Path(text))
    parts = urlsplit(text)
    if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment:
        raise SettingsError(f"{text!r} is neither a folder nor s3://BUCKET/PREFIX")
    return Bucket(parts.netloc, parts.path, endpoint)


class Found(NamedTuple):
    """An archive's name and its place."""

    name: str
    place: Place

    def data(self) -> bytes:
        """:raises BackupError: if it cannot be read."""
        return self.place.get(self.name)


def find(text: str, endpoint: str = "", *, now: float) -> tuple[list[Found], list[str]]:
    """Return the archive that `text` names, or all archives in the place that it names, newest first, so that the
    caller can use the first complete one. Also return those that are dated after `now` (epoch seconds),
    which are left out.

    :raises BackupError: if there is none, or the place has archives of several installations.
    """
    folder, slash, name = text.rpartition("/")
    if "://" not in text and not Path(text).is_dir():
        path = Path(text)
        return [Found(path.name, Folder(path.parent))], []
    if "://" in text and parse(name) is not None:
        return [Found(name, open_place(folder + slash, endpoint))], []
    place = open_place(text, endpoint)
    archives = place.names()
    if not archives:
        raise BackupError(f"there is no archive in {place.uri}")
    if len({archive.origin for archive in archives}) > 1:
        raise BackupError(f"archives of several installations lie in {place.uri}: name one of them")
    past = [Found(str(archive), place) for archive in sorted(archives, reverse=True) if archive.taken <= now]
    if not past:
        raise BackupError(
            f"all archives in {place.uri} are dated in the future, as a wrong clock does: name one of them"
        )
    return past, [str(archive) for archive in archives if archive.taken > now]
