"""Country lookup: which country an IP address belongs to, for geographic restrictions (cloudfront-semantics §5.14)."""

from __future__ import annotations

import ipaddress
import os
from typing import TYPE_CHECKING

import iptocc

from keyfront.errors import SettingsError

if TYPE_CHECKING:
    import maxminddb

REMEMBERED = 65_536
"""Addresses in each of the cache's two generations."""


class CountryTable:
    """Maps addresses to countries, offline: from a table of the registries' allocations, or from a MaxMind DB file.

    :param database: path of a MaxMind DB file with country records (`country.iso_code`, or a flat `country_code`); None
        for the built-in table, which knows where an address was registered, not where it is used.
    :raises SettingsError: if the file cannot be read or is not a MaxMind DB.
    """

    __slots__ = ("_old", "_reader", "_young")

    def __init__(self, database: str | os.PathLike[str] | None = None) -> None:
        self._reader = None if database is None else _open(database)
        self._young: dict[str, str] = {}
        self._old: dict[str, str] = {}

    def country(self, ip: str) -> str:
        """The upper-case ISO 3166-1 alpha-2 code of `ip`; empty if it is unknown, private, or not an address.

        Supports IPv4 and IPv6; an IPv4-mapped IPv6 address is looked up as the embedded IPv4 address.
        """
        known = self._young.get(ip)
        if known is None:
            known = self._old.get(ip)
            if known is None:
                known = self._look_up(ip)
            if len(self._young) >= REMEMBERED:
                self._old, self._young = self._young, {}
            self._young[ip] = known
        return known

    def close(self) -> None:
        """Close the database file."""
        if self._reader is not None:
            self._reader.close()

    def _look_up(self, ip: str) -> str:
        if "ffff:" in ip.lower():
            ip = _unmapped(ip)
        if self._reader is None:
            code = iptocc.country_code(ip)
        else:
            try:
                code = _code_of(self._reader.get(ip))
            except (ValueError, RuntimeError):  # maxminddb.InvalidDatabaseError is a RuntimeError
                code = None
        return "" if code is None or code in _NO_COUNTRY else code.upper()


_NO_COUNTRY = frozenset({"AP", "EU", "ZZ"})
"""Codes that tables use for addresses of a region, or of no particular country."""


def _open(database: str | os.PathLike[str]) -> maxminddb.Reader:
    import maxminddb  # not loaded at startup by an edge with the built-in table

    try:
        # With the C extension, the file is memory-mapped and shared by all workers; replace it only by rename.
        return maxminddb.open_database(database)
    except (OSError, ValueError, maxminddb.InvalidDatabaseError) as error:
        raise SettingsError(f"the country database {os.fspath(database)} cannot be used: {error}") from error


def _unmapped(ip: str) -> str:
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return ip
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return ip if mapped is None else str(mapped)


def _code_of(record: object) -> str | None:
    """The country code in a record: nested in MaxMind's own files, flat in others."""
    if not isinstance(record, dict):
        return None
    country = record.get("country")
    code = record.get("country_code") or (country.get("iso_code") if isinstance(country, dict) else country)
    return code if isinstance(code, str) and len(code) == 2 else None
