"""Countries of addresses, and which countries may view what (cloudfront-semantics §5.14)."""

from __future__ import annotations

from pathlib import Path

import pytest

from keyfront.edge import geoip
from keyfront.edge.geoip import CountryTable
from keyfront.edge.rules.geo_restriction import allowed
from keyfront.errors import SettingsError
from keyfront.model.snapshot import Geo
from tests.edge import mmdb
from tests.rows import rows

RULES = [
    # kind, listed, country, whether it is served
    ("none", (), "DE", True),
    ("none", ("DE",), "DE", True),
    ("whitelist", ("DE", "FR"), "DE", True),
    ("whitelist", ("DE", "FR"), "US", False),
    ("whitelist", (), "US", False),
    ("blacklist", ("DE", "FR"), "DE", False),
    ("blacklist", ("DE", "FR"), "US", True),
    ("blacklist", (), "US", True),
    ("whitelist", ("DE",), "", True),
    ("blacklist", ("DE",), "", True),
]


@rows(("kind", "countries", "country", "served"), RULES)
def test_allowed(kind: str, countries: tuple[str, ...], country: str, served: bool) -> None:
    assert allowed(Geo(kind, countries), country) is served  # type: ignore[arg-type]


BUILT_IN = [
    ("8.8.8.8", "US"),
    ("193.0.6.139", "NL"),
    ("2001:4860:4860::8888", "US"),
    ("::ffff:8.8.8.8", "US"),
    ("::FFFF:8.8.8.8", "US"),
    ("::ffff:808:808", "US"),
    ("0:0:0:0:0:ffff:8.8.8.8", "US"),
    ("::ffff:10.0.0.1", ""),
    ("127.0.0.1", ""),
    ("10.1.2.3", ""),
    ("192.168.0.1", ""),
    ("::1", ""),
    ("fe80::1", ""),
    ("fe80::1%eth0", ""),
    ("", ""),
    ("no address", ""),
    ("8.8.8.8:80", ""),
    ("::ffff:", ""),
    ("ffff:8.8.8.8", ""),
]


@rows(("ip", "country"), BUILT_IN)
def test_the_built_in_table(ip: str, country: str) -> None:
    table = CountryTable()
    assert table.country(ip) == country
    assert table.country(ip) == country


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("geo") / "countries.mmdb"
    path.write_bytes(
        mmdb.write(
            {
                "203.0.113.0/24": {"country": {"iso_code": "DE"}, "continent": {"code": "EU"}},
                "198.51.100.0/25": {"country_code": "fr"},
                "198.51.100.128/25": {"country": "JP"},
                "192.0.2.0/28": {"continent": {"code": "EU"}},
                "192.0.2.16/28": {"country": {"iso_code": "EU"}},
                "192.0.2.32/28": {"country": "Germany"},
                "192.0.2.48/28": "DE",
                "192.0.2.64/28": {"country": {"names": {}}},
                "2001:db8::/32": {"country": {"iso_code": "SE"}},
            }
        )
    )
    return path


FROM_FILE = [
    ("203.0.113.0", "DE"),
    ("203.0.113.255", "DE"),
    ("203.0.114.0", ""),
    ("198.51.100.1", "FR"),
    ("198.51.100.200", "JP"),
    ("192.0.2.1", ""),
    ("192.0.2.17", ""),
    ("192.0.2.33", ""),
    ("192.0.2.49", ""),
    ("192.0.2.65", ""),
    ("2001:db8::1", "SE"),
    ("2001:db9::1", ""),
    ("::ffff:203.0.113.7", "DE"),
    ("::ffff:cb00:7107", "DE"),
    ("8.8.8.8", ""),
    ("no address", ""),
]


@pytest.mark.parametrize(("ip", "country"), FROM_FILE)
def test_a_maxmind_db(database: Path, ip: str, country: str) -> None:
    table = CountryTable(database)
    assert table.country(ip) == country
    table.close()


def test_ipv6_against_a_database_of_ipv4(tmp_path: Path) -> None:
    path = tmp_path / "v4.mmdb"
    path.write_bytes(mmdb.write({"203.0.113.0/24": {"country_code": "DE"}}, ip_version=4))
    table = CountryTable(str(path))
    assert [table.country(ip) for ip in ("203.0.113.1", "2001:db8::1", "::ffff:203.0.113.1")] == [
        "DE",
        "",
        "DE",
    ]
    table.close()


def test_what_is_no_database(tmp_path: Path, database: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "garbage").write_bytes(b"garbage" * 100)
    (tmp_path / "torn").write_bytes(database.read_bytes()[:-60])
    (tmp_path / "folder").mkdir()
    for name in ("absent", "empty", "garbage", "torn", "folder"):
        with pytest.raises(SettingsError, match=name):
            CountryTable(tmp_path / name)


def test_a_corrupted_record_is_not_found(tmp_path: Path, database: Path) -> None:
    path = tmp_path / "spoilt.mmdb"
    path.write_bytes(database.read_bytes().replace(b"iso_code", b"\xff" * 8))
    table = CountryTable(path)
    assert table.country("203.0.113.1") == ""
    table.close()


def test_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geoip, "REMEMBERED", 10)
    table = CountryTable()
    for number in range(250):
        assert table.country(f"8.8.8.{number}") == "US"
        assert table.country("193.0.6.139") == "NL"
        assert len(table._young) + len(table._old) <= 20
