"""The operator's file of origin credentials: the keys that sign an edge's requests, and the addresses of its buckets.

The format is that of the AWS shared credentials file. A section name is an origin's DomainName, `*.` followed by the
end of one, or `default`:

    [media.s3.eu-central-1.amazonaws.com]
    aws_access_key_id = …
    aws_secret_access_key = …

    [default]
    endpoint_url = http://seaweed.internal:8333
    region = us-east-1

Each setting is looked up in the origin's own section, then in the `*.…` sections from the longest to the shortest, then
in `default`, and finally in the AWS environment variables. An access key, its secret and its token count as one
setting. None of this can be set through the API or is part of a snapshot, and no message contains a secret.
"""

from __future__ import annotations

import ipaddress
import os
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from keyfront.edge.origin.sigv4 import Credentials
from keyfront.errors import SettingsError
from keyfront.private_files import parse_credentials

_KEYS: Final = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
_KNOWN: Final = frozenset({*_KEYS, "region", "endpoint_url", "addressing_style"})
_STYLES: Final = ("path", "virtual")
_SECTION: Final = re.compile(r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_REGION: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_HOST: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")

Notify = Callable[[str], None]


class Endpoint(msgspec.Struct, frozen=True):
    """The location of an S3 server. With the style `path`, the bucket is the first segment of the path; with `virtual`,
    it is the first label of the host."""

    scheme: str
    host: str
    port: int
    style: str = "path"


class Settings(msgspec.Struct, frozen=True):
    """The settings for one origin; empty or None where not set."""

    credentials: Credentials | None = None
    region: str = ""
    endpoint: Endpoint | None = None


class _Section(msgspec.Struct, frozen=True):
    credentials: Credentials | None
    region: str
    endpoint_url: str
    style: str


_Identity = tuple[int, int, int]
_Sections = dict[str, _Section]


class OriginCredentials:
    """The file at `path`, if it exists, and the AWS variables in `environ`.

    The file is read on construction, and again by `poll` when it has changed. If a file is rejected, the settings read
    before stay in effect. If there were none, the edge has no settings, and requests that need credentials fail.

    :param notify: called with a sentence for each problem or change; it never contains a secret.
    """

    def __init__(self, path: Path | None, environ: Mapping[str, str], notify: Notify) -> None:
        self._path = path
        self._notify = notify
        self._sections: _Sections = {}
        self._found: dict[str, Settings] = {}
        try:
            self._environment = _environment(environ)
        except SettingsError as error:
            self._environment = _Section(None, "", "", "")
            notify(f"{error}; they are not used")
        self._seen = self._read = self._identity()
        self._load()

    def of(self, domain_name: str) -> Settings:
        """The settings for the origin with this DomainName."""
        found = self._found.get(domain_name)
        if found is None:
            if len(self._found) >= 4096:
                self._found.clear()
            found = self._found[domain_name] = self._settings(domain_name.lower())
        return found

    def poll(self) -> bool:
        """Check the file, and apply what changed. Returns True if anything was applied. A change counts only after two
        consecutive polls found the file identical, so that a file that is still being written is not judged."""
        identity = self._identity()
        settled, self._seen = identity == self._seen, identity
        if not settled or identity == self._read:
            return False
        self._read = identity
        changed = self._load()
        if changed and identity is not None:
            self._notify("the origin credentials have changed; the new ones are used from now on")
        return changed

    def _identity(self) -> _Identity | None:
        try:
            found = os.stat(self._path) if self._path is not None else None
        except OSError:
            return None
        # ctime rather than mtime: it also changes when the file's mode does.
        return None if found is None else (found.st_ino, found.st_ctime_ns, found.st_size)

    def _load(self) -> bool:
        if self._read is None or self._path is None:
            if self._sections:
                self._notify("the origin credentials are no longer used: their file is gone")
            changed, self._sections = bool(self._sections), {}
        else:
            try:
                self._sections = read_file(self._path)
                changed = True
            except SettingsError as error:
                kept = ", and what was read before stays" if self._sections else ""
                self._notify(f"the origin credentials are refused{kept}: {error}")
                return False
        self._found.clear()
        return changed

    def _settings(self, name: str) -> Settings:
        sections = [self._sections[title] for title in _titles(name) if title in self._sections]
        sections.append(self._environment)
        credentials = next((s.credentials for s in sections if s.credentials is not None), None)
        region = next((s.region for s in sections if s.region), "")
        url = next((s.endpoint_url for s in sections if s.endpoint_url), "")
        style = next((s.style for s in sections if s.style), "path")
        return Settings(credentials, region, _endpoint(url, style) if url else None)


def _titles(name: str) -> list[str]:
    """The sections that apply to an origin, most specific first."""
    labels = name.split(".")
    return [name, *("*." + ".".join(labels[n:]) for n in range(1, len(labels))), "default"]


def read_file(path: Path) -> _Sections:
    """The sections of the file, by lower-case name.

    :raises SettingsError: if the file cannot be read, if users other than its owner can read or change it, or if its
        contents are invalid. The message never contains a secret.
    """
    try:
        with path.open(encoding="utf-8") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsError(f"{path} cannot be read: {why}") from None
    if mode & 0o077:
        raise SettingsError(f"others may read or change {path} (mode {mode:04o}); run: chmod 600 {path}")
    parser = parse_credentials(text, path)
    found: _Sections = {}
    for title in parser.sections():
        where, name = f"{path}: section {title[:253]!a}", title.lower()
        if not _is_title(name):
            raise SettingsError(f"{where} is named neither by a DomainName, nor *.… and its end, nor default")
        if name in found:
            raise SettingsError(f"{where} is there twice, in different letter case")
        given = dict(parser[title])
        for unknown in sorted(given.keys() - _KNOWN):
            raise SettingsError(f"{where} says {unknown[:64]!a}; known are {', '.join(sorted(_KNOWN))}")
        found[name] = _section(where, given)
    return found


def _is_title(name: str) -> bool:
    return _SECTION.fullmatch(name) is not None or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _section(where: str, given: Mapping[str, str]) -> _Section:
    """The settings in one section.

    :raises SettingsError: if the section is invalid.
    """
    key_id, secret, token = (given.get(name, "") for name in _KEYS)
    if bool(key_id) != bool(secret) or (token and not key_id):
        raise SettingsError(f"{where} needs both {_KEYS[0]} and {_KEYS[1]}, or neither")
    for name, value in zip(_KEYS, (key_id, secret, token), strict=True):
        if not all("!" <= char <= "~" for char in value):
            raise SettingsError(f"{where} has a character in {name} that no key has")
    if any(char in "/," for char in key_id):
        raise SettingsError(f"{where} has a character in {_KEYS[0]} that no key id has")
    region, style = given.get("region", ""), given.get("addressing_style", "")
    if region and not _REGION.fullmatch(region):
        raise SettingsError(f"{where} has an invalid region: {region[:64]!a}")
    if style and style not in _STYLES:
        raise SettingsError(f"{where} has an addressing_style other than {' and '.join(_STYLES)}")
    url = given.get("endpoint_url", "")
    if url:
        try:
            _endpoint(url, style or "path")
        except ValueError as error:
            raise SettingsError(f"{where} has an invalid endpoint_url: {error}") from None
    return _Section(Credentials(key_id, secret, token) if key_id else None, region, url, style)


def _endpoint(url: str, style: str) -> Endpoint:
    """The S3 endpoint at a URL.

    :raises ValueError: if the URL is not the address of a server. The message omits the URL, which may contain a
        secret.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("it cannot be read") from None
    if parts.scheme not in ("http", "https"):
        raise ValueError("it must begin with http:// or https://")
    if parts.username is not None or parts.query or parts.fragment or parts.path not in ("", "/"):
        raise ValueError("it names a server and its port, nothing else")
    host = parts.hostname or ""
    if _is_address(host):
        if style == "virtual":
            raise ValueError("an address has no buckets below it: addressing_style must be path")
    elif not _HOST.fullmatch(host):
        raise ValueError("it names no host")
    return Endpoint(parts.scheme, host, port or (443 if parts.scheme == "https" else 80), style)


def _environment(environ: Mapping[str, str]) -> _Section:
    """The settings in the AWS environment variables.

    :raises SettingsError: if the variables are invalid.
    """
    given = {name: environ.get(name.upper(), "") for name in _KEYS} | {
        "region": environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "",
        "endpoint_url": environ.get("AWS_ENDPOINT_URL_S3", ""),
    }
    return _section("the environment", given)
