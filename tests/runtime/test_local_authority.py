"""The local authority: what it issues and renews, and for which names alone it can vouch."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import ssl
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from keyfront.cli.up import read_settings
from keyfront.edge.net.certificates import Certificates
from keyfront.errors import SettingsError
from keyfront.runtime import local_authority
from keyfront.runtime.local_authority import (
    DAY,
    LIFETIME,
    MOST,
    MOST_COMPARISONS,
    MOST_DOMAINS,
    RENEWED,
    RESERVED,
    LocalAuthority,
    dns_names,
    issue,
    issued_folder,
    permitted,
    uncovered,
)
from tests.edge.test_tls import Folder, handshake_error
from tests.rows import rows
from tests.up import PATIENCE

NOW = 1_800_000_000.0
DOMAIN = "*.cloudfront.localhost"


def issued(data: Path) -> dict[str, list[str]]:
    """The names in each file that the authority has issued."""
    return {
        path.name: dns_names(x509.load_pem_x509_certificates(path.read_bytes())[0])
        for path in sorted(issued_folder(data).iterdir())
    }


def test_it_covers_names_once_and_renews_in_time(tmp_path: Path) -> None:
    authority = LocalAuthority(tmp_path)
    assert authority.certificate() is None
    assert authority.cover([DOMAIN, "shop.test"], NOW)
    assert issued(tmp_path) == {"1.pem": [DOMAIN, "shop.test"]}
    first = authority.path.read_bytes()
    assert not authority.cover(["shop.test", DOMAIN], NOW + LIFETIME - RENEWED - 1)
    assert authority.cover([DOMAIN, "shop.test"], NOW + LIFETIME - RENEWED + 1)
    assert authority.path.read_bytes() == first


def test_keys_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    LocalAuthority(tmp_path).cover([DOMAIN], NOW)
    folder = tmp_path / "local-authority"
    assert {path.name: oct(os.stat(path).st_mode & 0o777) for path in sorted(folder.rglob("*"))} == {
        "ca-key.pem": "0o600",
        "ca.pem": "0o644",
        "issued": "0o700",
        "1.pem": "0o600",
    }


def test_names_that_are_gone_are_no_longer_covered(tmp_path: Path) -> None:
    authority = LocalAuthority(tmp_path)
    authority.cover([f"a{number:03}.test" for number in range(MOST + 1)], NOW)
    assert {file: len(names) for file, names in issued(tmp_path).items()} == {"1.pem": MOST, "2.pem": 1}
    assert authority.cover(["a000.test"], NOW)
    assert issued(tmp_path) == {"1.pem": ["a000.test"]}


def test_what_no_certificate_can_name_is_left_out(tmp_path: Path) -> None:
    LocalAuthority(tmp_path).cover(["é.test", "a" * 64 + ".test", "a..test", "b.test"], NOW)
    assert issued(tmp_path) == {"1.pem": ["b.test"]}


def test_a_public_alias_needs_a_new_authority(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authority = LocalAuthority(tmp_path)
    authority.cover([DOMAIN, "shop.test"], NOW)
    before = authority.certificate()
    assert before is not None
    assert "www.shop.com" not in permitted(before)
    with caplog.at_level(logging.WARNING, "keyfront.supervisor"):
        authority.cover([DOMAIN, "www.shop.com", "*.img.shop.com"], NOW)
    after = authority.certificate()
    assert after is not None
    assert after != before
    assert set(permitted(after)) - set(permitted(before)) == {"www.shop.com", "img.shop.com"}
    assert "a new local authority vouches for *.img.shop.com, www.shop.com too" in caplog.text
    assert not authority.cover([DOMAIN, "www.shop.com"], NOW) or authority.certificate() == after


@rows(
    ("name", "is_trusted"),
    [
        ("d1.cloudfront.localhost", True),
        ("shop.test", True),
        ("www.example.com", False),  # the key is stolen, and used for a name that nobody configured
        ("test.example.com", False),
    ],
)
def test_viewers_reject_other_names_even_with_the_authoritys_key(
    tmp_path: Path, name: str, is_trusted: bool
) -> None:
    authority = LocalAuthority(tmp_path)
    authority.cover([DOMAIN], now := time.time())
    certificate, key = authority.load()
    assert certificate is not None
    assert key is not None
    (issued_folder(tmp_path) / "1.pem").write_bytes(issue(certificate, key, [name], now))
    certificates = Certificates(tmp_path / "none", now, print, issued_folder(tmp_path))
    context = ssl.create_default_context(cafile=authority.path)
    assert (handshake_error(certificates, context, name) == "") is is_trusted


@rows("damage", [b"", b"garbage"])
def test_a_damaged_certificate_is_issued_again(tmp_path: Path, damage: bytes) -> None:
    authority = LocalAuthority(tmp_path)
    authority.cover([DOMAIN], NOW)
    (issued_folder(tmp_path) / "1.pem").write_bytes(damage)
    assert authority.cover([DOMAIN], NOW)
    assert issued(tmp_path) == {"1.pem": [DOMAIN]}


@rows("file", ["ca.pem", "ca-key.pem"])
def test_a_damaged_authority_is_reported_and_not_replaced(tmp_path: Path, file: str) -> None:
    """Whoever has trusted it would otherwise get a new one without a word."""
    data = tmp_path / file
    authority = LocalAuthority(data)
    authority.cover([DOMAIN], NOW)
    (data / "local-authority" / file).write_bytes(b"garbage")
    with pytest.raises(SettingsError, match=r"remove the folder .*local-authority for a new authority"):
        authority.cover([DOMAIN], NOW)


def test_a_lost_key_makes_a_new_authority(tmp_path: Path) -> None:
    authority = LocalAuthority(tmp_path)
    authority.cover([DOMAIN], NOW)
    before = authority.path.read_bytes()
    (tmp_path / "local-authority" / "ca-key.pem").unlink()
    assert authority.cover([DOMAIN], NOW)
    assert authority.path.read_bytes() != before
    assert not authority.cover([DOMAIN], NOW + DAY)


def test_a_certificate_of_ones_own_takes_precedence(tmp_path: Path) -> None:
    own = Folder(tmp_path / "certificates")
    local = issued_folder(tmp_path)
    now = time.time()
    LocalAuthority(tmp_path).cover(["a.shop.test", "b.shop.test", "c.test"], now)
    alone = Certificates(own.path, now, own.warnings.append, local)
    assert alone.find("a.shop.test") is alone.find(None)
    own.path.mkdir()
    own.put("shop", "*.shop.test")
    both = Certificates(own.path, now, own.warnings.append, local)
    assert both.find("a.shop.test") is both.find("unknown.test") is both.loaded["shop.crt"]
    assert both.find("c.test") is both.loaded["local-authority/1.pem"]
    # The folder of one's own may appear later.
    alone.poll(now)
    assert alone.poll(now)
    assert alone.find("b.shop.test") is alone.loaded["shop.crt"]
    assert own.warnings == []


def test_a_certificate_that_is_not_valid_yet_is_issued_again(tmp_path: Path) -> None:
    """The clock was a year ahead, and has been corrected."""
    authority = LocalAuthority(tmp_path)
    authority.cover([DOMAIN], NOW + 365 * DAY)
    assert authority.cover([DOMAIN], NOW)
    leaf = x509.load_pem_x509_certificates((issued_folder(tmp_path) / "1.pem").read_bytes())[0]
    certificate = authority.certificate()
    assert certificate is not None
    for each in (leaf, certificate):
        assert each.not_valid_before_utc.timestamp() <= NOW
    assert not authority.cover([DOMAIN], NOW)


def test_thousands_of_names_are_compared_by_their_labels(tmp_path: Path) -> None:
    """Each name against each domain would be millions of comparisons with each new snapshot."""
    authority = LocalAuthority(tmp_path)
    names = [f"www.shop-{number}.com" for number in range(3000)]
    authority.cover(names, NOW)
    began = time.process_time()
    assert not authority.cover(names, NOW)
    assert time.process_time() - began < 1.0  # CPU seconds: about 0.05; each against each takes 4


def test_names_below_others_need_no_constraint_of_their_own(tmp_path: Path) -> None:
    authority = LocalAuthority(tmp_path)
    authority.cover(["shop.com", "*.shop.com", "a.b.shop.com", "other-shop.com", "a.shop.test"], NOW)
    certificate = authority.certificate()
    assert certificate is not None
    assert permitted(certificate) == {*RESERVED, "shop.com", "other-shop.com"}


def test_the_folder_of_issued_certificates_can_be_removed(tmp_path: Path) -> None:
    authority = LocalAuthority(tmp_path)
    authority.cover([DOMAIN], NOW)
    before = authority.path.read_bytes()
    shutil.rmtree(issued_folder(tmp_path))
    assert authority.cover([DOMAIN], NOW)
    assert issued(tmp_path) == {"1.pem": [DOMAIN]}
    assert authority.path.read_bytes() == before


def test_only_the_owner_can_list_the_folders(tmp_path: Path) -> None:
    LocalAuthority(tmp_path / "data").cover([DOMAIN], NOW)
    assert oct((tmp_path / "data" / "local-authority").stat().st_mode & 0o777) == "0o700"


def test_an_authority_without_constraints_is_rejected(tmp_path: Path) -> None:
    """Such as that of another tool, copied to where Keyfront's is."""
    authority = LocalAuthority(tmp_path)
    authority.cover([DOMAIN], NOW)
    certificate, key = authority.load()
    assert certificate is not None
    assert key is not None
    leaf = x509.load_pem_x509_certificates(issue(certificate, key, [DOMAIN], NOW))[0]
    authority.path.write_bytes(leaf.public_bytes(Encoding.PEM))
    with pytest.raises(SettingsError, match=r"may vouch for every host.*remove the folder"):
        authority.certificate()


async def test_a_folder_that_is_removed_while_keyfront_runs_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the guide says: remove the folder for a new authority."""
    monkeypatch.setattr(local_authority, "INTERVAL", 0.01)
    settings = read_settings(["--data", str(tmp_path), "--tls", "127.0.0.1:0"])
    covering = asyncio.create_task(local_authority.keep_covered(lambda: settings))
    try:
        async with asyncio.timeout(PATIENCE):
            await exists(issued_folder(tmp_path) / "1.pem")
            before = LocalAuthority(tmp_path).path.read_bytes()
            shutil.rmtree(tmp_path / "local-authority")
            await exists(issued_folder(tmp_path) / "1.pem")
    finally:
        covering.cancel()
        await asyncio.gather(covering, return_exceptions=True)
    assert LocalAuthority(tmp_path).path.read_bytes() != before


async def exists(path: Path) -> None:
    while not path.exists():
        await asyncio.sleep(0.01)


def test_it_vouches_for_servers_only(tmp_path: Path) -> None:
    authority = LocalAuthority(tmp_path)
    authority.cover([DOMAIN], NOW)
    certificate = authority.certificate()
    assert certificate is not None
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]


@rows(
    ("name", "is_covered"),
    [
        ("com", False),
        ("*.com", False),
        ("*.co.uk", False),
        ("*.COM", False),
        ("*.foo.ck", False),  # the list's rule is *.ck
        ("*.github.io", False),  # anybody's sites are below it
        ("*.xn--55qx5d.cn", False),
        ("*.shop.com", True),
        ("me.github.io", True),
        ("www.ck", True),  # an exception in the list
        ("*.localhost", True),
        ("*.cloudfront.localhost", True),
        ("*.test", True),
    ],
)
def test_it_never_vouches_for_everyone_below_a_public_suffix(
    tmp_path: Path, name: str, is_covered: bool
) -> None:
    authority = LocalAuthority(tmp_path)
    authority.cover(["www.example.org", name], NOW)
    certificate = authority.certificate()
    assert certificate is not None
    domain = name.removeprefix("*.")
    assert (any(f".{domain}".endswith(f".{each}") for each in permitted(certificate))) is is_covered
    assert issued(tmp_path) == {"1.pem": sorted(["www.example.org", *([name] if is_covered else [])])}
    assert uncovered(["www.example.org", name]) == (set() if is_covered else {name})


def test_an_authority_that_vouches_for_a_public_suffix_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is from an earlier version."""
    authority = LocalAuthority(tmp_path)
    with monkeypatch.context() as earlier:
        earlier.setattr(local_authority, "_is_public", lambda _: False)
        authority.cover(["*.com"], NOW)
        before = authority.certificate()
    assert before is not None
    assert "com" in permitted(before)
    assert authority.cover(["www.shop.com"], NOW)
    after = authority.certificate()
    assert after is not None
    assert permitted(after) == {*RESERVED, "www.shop.com"}
    assert not authority.cover(["www.shop.com"], NOW)


def test_ten_thousand_aliases_are_accepted_by_viewers(tmp_path: Path) -> None:
    """Each with a constraint of its own. A viewer compares every name of a certificate with every constraint."""
    authority = LocalAuthority(tmp_path)
    now = time.time()
    names = [f"www.shop-{number:05}.com" for number in range(MOST_DOMAINS)]
    assert authority.cover(names, now)
    files = issued(tmp_path)
    certificate = authority.certificate()
    assert certificate is not None
    assert all(len(each) * len(permitted(certificate)) <= MOST_COMPARISONS for each in files.values())
    assert sorted(name for each in files.values() for name in each) == names
    certificates = Certificates(tmp_path / "none", now, print, issued_folder(tmp_path))
    context = ssl.create_default_context(cafile=authority.path)
    for name in (names[0], names[-1]):
        assert handshake_error(certificates, context, name) == ""

    # One more, for private use, changes one certificate; one beyond the limit has none.
    before = {path.name: path.read_bytes() for path in issued_folder(tmp_path).iterdir()}
    assert authority.cover([*names, "one-more.test", "www.zzz.com"], now)
    after = {path.name: path.read_bytes() for path in issued_folder(tmp_path).iterdir()}
    assert len({*before.items()} ^ {*after.items()}) <= 2
    assert uncovered([*names, "one-more.test", "www.zzz.com"]) == {"www.zzz.com"}
    assert certificate == authority.certificate(), "trusted as before"


def test_a_name_that_comes_or_goes_changes_few_certificates(tmp_path: Path) -> None:
    authority = LocalAuthority(tmp_path)
    names = [f"a{number:03}.test" for number in range(3 * MOST + 10)]
    authority.cover(names, NOW)

    def contents() -> set[bytes]:
        return {path.read_bytes() for path in issued_folder(tmp_path).iterdir()}

    before = contents()
    authority.cover([*names, "0.test"], NOW)
    assert len(before - contents()) == 1
    before = contents()
    authority.cover(names[1:], NOW)
    assert len(before - contents()) == 2, (
        "the one with the two names that are gone, and the one that was not full"
    )
    assert sorted(name for each in issued(tmp_path).values() for name in each) == names[1:]
    for number in range(50):  # one by one
        authority.cover([*names[1:], *(f"b{each}.test" for each in range(number + 1))], NOW)
    assert len(issued(tmp_path)) == 4


async def test_names_without_a_certificate_are_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(local_authority, "INTERVAL", 0.01)
    monkeypatch.setattr(local_authority, "RENEWAL_INTERVAL", 0.01)  # covered anew at each check
    times = asyncio.Semaphore(0)
    loop = asyncio.get_running_loop()

    def aliases(_: object) -> set[str]:
        loop.call_soon_threadsafe(times.release)
        return {"localhost", "*.com", "*.co.uk"}

    monkeypatch.setattr(local_authority, "names_of", aliases)
    settings = read_settings(["--data", str(tmp_path), "--tls", "127.0.0.1:0"])
    with caplog.at_level(logging.WARNING, "keyfront.supervisor"):
        covering = asyncio.create_task(local_authority.keep_covered(lambda: settings))
        async with asyncio.timeout(PATIENCE):
            for _ in range(4):
                await times.acquire()
        covering.cancel()
        await asyncio.gather(covering, return_exceptions=True)
    (line,) = caplog.messages
    assert line.startswith("the local authority does not vouch for *.co.uk, *.com, as it would")
