"""The local authority: certificates for HTTPS on a machine for which nobody else issues any, such as a developer's.

Whoever trusts an authority lets it vouch for every host, unless it is constrained (RFC 5280 section 4.2.1.10). This one
may vouch only for names that are reserved for private use, for the installation's own domain, and for aliases of its
distributions. An alias that it may not vouch for yet leads to a new authority, which must be trusted anew. The trust
thus never exceeds what an operator has configured, even if the key is stolen.

A constraint covers a domain and everything below it. An alias such as `*.com` or `co.uk` would thus let the authority
vouch for hosts of strangers. Names that are public suffixes (https://publicsuffix.org/) and wildcards directly below
them get no certificate.

Everything is in the data folder, readable by its owner only:

    local-authority/ca.pem         the authority's certificate
    local-authority/ca-key.pem     its key
    local-authority/issued/        certificates and keys, in the layout of `edge/net/certificates.py`
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import itertools
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Set
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from keyfront.errors import SettingsError
from keyfront.fleet.file_feed import FileFeed
from keyfront.fleet.remote.authority import (
    certificate_builder,
    certificate_to_pem,
    key_from_pem,
    key_to_pem,
    key_usage,
    new_key,
)
from keyfront.private_files import replace_file
from keyfront.runtime.reload import UpSettings

if TYPE_CHECKING:
    from publicsuffixlist import PublicSuffixList

logger = logging.getLogger("keyfront.supervisor")

RESERVED: Final = ("example", "home.arpa", "internal", "invalid", "local", "localhost", "test")
"""Domains in which no public host has a name (RFC 2606, RFC 6761, RFC 6762, RFC 8375, ICANN's `.internal`)."""
DAY: Final = 86_400.0
AUTHORITY_LIFETIME: Final = 3650 * DAY
LIFETIME: Final = 90 * DAY
RENEWED: Final = 30 * DAY
"""Lifetimes in seconds, and the rest of a certificate's lifetime at which it is replaced."""
MOST: Final = 100
"""Names in one certificate."""
MOST_DOMAINS: Final = 10_000
"""Domains for which the authority may vouch, apart from those for private use: its certificate then has 300 kB."""
MOST_COMPARISONS: Final = 250_000
"""A certificate's names times the authority's constraints. Viewers limit it, against certificates that cost them much:
Go's crypto/x509 allows 250,000; OpenSSL and Chromium allow 1,048,576."""
NAMED: Final = 10
"""Names in one message."""
INTERVAL: Final = 1.0
"""Seconds between two checks for a new snapshot."""
RENEWAL_INTERVAL: Final = 3600.0
"""Seconds between two checks for certificates that are about to expire."""


def authority_folder(data: Path) -> Path:
    """The authority's folder in a data folder."""
    return data / "local-authority"


def issued_folder(data: Path) -> Path:
    """The folder of the certificates that it has issued."""
    return authority_folder(data) / "issued"


class LocalAuthority:
    """The local authority in a data folder."""

    def __init__(self, data: Path) -> None:
        self._folder = authority_folder(data)
        self._issued = issued_folder(data)

    @property
    def path(self) -> Path:
        """The file with its certificate."""
        return self._folder / "ca.pem"

    def certificate(self) -> x509.Certificate | None:
        """Its certificate; None if there is no authority.

        :raises SettingsError: if the file cannot be read.
        """
        try:
            certificate = x509.load_pem_x509_certificate(self.path.read_bytes())
            permitted(certificate)
        except FileNotFoundError:
            return None
        except x509.ExtensionNotFound as error:
            raise SettingsError(
                f"{self.path} may vouch for every host, so it is not an authority of Keyfront's: remove the folder "
                f"{self._folder} for a new authority"
            ) from error
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"{self.path} cannot be read: {error}; remove the folder {self._folder} for a new authority"
            ) from error
        return certificate

    def cover(self, names: Collection[str], now: float) -> bool:
        """Issue certificates for these names, unless there are valid ones. Returns whether anything changed.

        :param names: DNS names, also with a wildcard as their first label. Those in `uncovered(names)` are left out.
        :param now: epoch seconds.
        :raises SettingsError: if the authority's files cannot be read.
        :raises OSError: if the files cannot be written.
        """
        wanted = sorted({name for name in names if _is_name(name)} - uncovered(names))
        authority, key = self.load()
        domains = set() if authority is None else permitted(authority)
        missing = [] if authority is None else [name for name in wanted if not _permits(domains, name)]
        is_valid = authority is not None and _is_valid_during(authority, now, now + LIFETIME)
        # One of an earlier version may vouch for a public suffix.
        is_too_wide = any(_is_public(domain) for domain in domains)
        if authority is None or key is None or missing or is_too_wide or not is_valid:
            authority, key = self._create(wanted, now)
            if missing:
                logger.warning(
                    "a new local authority vouches for %s too: trust it with `keyfront trust`",
                    _listed(missing),
                )
        self._issued.mkdir(mode=0o700, exist_ok=True)
        return self._issue_missing(wanted, authority, key, now)

    def _issue_missing(
        self, wanted: list[str], authority: x509.Certificate, key: ec.EllipticCurvePrivateKey, now: float
    ) -> bool:
        """Keep the certificates that are valid and name only wanted names, and issue others for the rest. If any are
        issued, those that are not full are merged, so there are few, and a new name costs few signatures."""
        size = min(MOST, MOST_COMPARISONS // len(permitted(authority)))
        remaining = set(wanted)
        kept: dict[str, list[str]] = {}
        files = sorted(path.name for path in self._issued.iterdir() if path.suffix == ".pem")
        for file in files:
            names = self._valid_names(file, authority, now)
            if names and len(names) <= size and remaining.issuperset(names):
                kept[file] = names
                remaining.difference_update(names)
        if remaining:
            for file in [file for file, names in kept.items() if len(names) < size]:
                remaining.update(kept.pop(file))
        rest = sorted(remaining)
        free = (file for number in itertools.count(1) if (file := f"{number}.pem") not in kept)
        for begin, file in zip(range(0, len(rest), size), free, strict=False):
            batch = rest[begin : begin + size]
            # Not durable: one that a crash damages is issued again.
            replace_file(self._issued / file, issue(authority, key, batch, now), durable=False)
            kept[file] = batch
        gone = [file for file in files if file not in kept]
        for file in gone:
            (self._issued / file).unlink()
        return bool(rest or gone)

    def load(self) -> tuple[x509.Certificate | None, ec.EllipticCurvePrivateKey | None]:
        """Its certificate and key, each None if it is missing, or if they do not belong together.

        :raises SettingsError: if a file cannot be read.
        """
        authority = self.certificate()
        if authority is None:
            return None, None
        path = self._folder / "ca-key.pem"
        try:
            key = key_from_pem(path.read_bytes())
        except FileNotFoundError:
            return authority, None
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"{path} cannot be read: {error}; remove the folder {self._folder} for a new authority"
            ) from error
        return authority, key if key.public_key() == authority.public_key() else None

    def _create(
        self, names: Iterable[str], now: float
    ) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        domains = _shortest((*RESERVED, *(name.removeprefix("*.") for name in names)))
        key = new_key()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Keyfront local authority")])
        everywhere = [x509.IPAddress(ipaddress.ip_network(each)) for each in ("0.0.0.0/0", "::/0")]
        constraints = x509.NameConstraints([x509.DNSName(domain) for domain in domains], everywhere)
        certificate = (
            certificate_builder(name, name, key.public_key(), now, AUTHORITY_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(constraints, critical=True)
            # The constraints do not cover mail addresses and the like; with this, neither does the authority.
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(key_usage(certificates=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        replace_file(self._folder / "ca-key.pem", key_to_pem(key))
        replace_file(self.path, certificate_to_pem(certificate), mode=0o644)
        return certificate, key

    def _valid_names(self, file: str, authority: x509.Certificate, now: float) -> list[str]:
        """The names of an issued certificate; none if it must be replaced."""
        try:
            leaf = x509.load_pem_x509_certificates((self._issued / file).read_bytes())[0]
            leaf.verify_directly_issued_by(authority)
            return dns_names(leaf) if _is_valid_during(leaf, now, now + RENEWED) else []
        except Exception:  # whatever is wrong with the file: it is replaced
            return []


def uncovered(names: Collection[str]) -> set[str]:
    """The names among these for which the local authority does not vouch: what would let it vouch for hosts of
    strangers, and in alphabetical order those beyond `MOST_DOMAINS` domains."""
    public = {name for name in names if _is_name(name) and _is_public(name.removeprefix("*."))}
    others = {name for name in names if _is_name(name) and not _permits(_RESERVED, name)} - public
    if len(others) <= MOST_DOMAINS:
        return public
    permitted = set(_shortest(name.removeprefix("*.") for name in others)[:MOST_DOMAINS])
    return public | {name for name in others if not _permits(permitted, name)}


_RESERVED = frozenset(RESERVED)


def _is_public(domain: str) -> bool:
    """Whether anyone can register names directly below the domain."""
    return not _permits(_RESERVED, domain) and _public_suffixes().is_public(domain.lower())


@functools.cache
def _public_suffixes() -> PublicSuffixList:
    from publicsuffixlist import PublicSuffixList  # 0.15 CPU seconds, for names that are not reserved

    return PublicSuffixList()


def _shortest(domains: Iterable[str]) -> list[str]:
    """The domains without those that are below others of them, sorted."""
    every = set(domains)
    return sorted(domain for domain in every if not _permits(every, domain.partition(".")[2]))


def permitted(authority: x509.Certificate) -> set[str]:
    """The domains for which an authority may vouch."""
    value = authority.extensions.get_extension_for_class(x509.NameConstraints).value
    return {each.value for each in value.permitted_subtrees or () if isinstance(each, x509.DNSName)}


def dns_names(leaf: x509.Certificate) -> list[str]:
    """The names of a certificate, in order."""
    value = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return sorted(value.get_values_for_type(x509.DNSName))


def _permits(domains: Set[str], name: str) -> bool:
    """Whether the name is one of the domains, or below one. There may be thousands of both: the cost is that of the
    name's labels."""
    labels = name.removeprefix("*.").split(".")
    return any(".".join(labels[start:]) in domains for start in range(len(labels)))


def _is_name(name: str) -> bool:
    """Whether a certificate can have the name."""
    return 0 < len(name) <= 253 and name.isascii() and all(0 < len(label) <= 63 for label in name.split("."))


def _is_valid_during(certificate: x509.Certificate, begin: float, end: float) -> bool:
    """Whether it is valid from `begin` to `end`, epoch seconds. After a correction of the clock, it may not be valid
    yet."""
    return (
        certificate.not_valid_before_utc.timestamp() <= begin
        and end <= certificate.not_valid_after_utc.timestamp()
    )


def issue(
    authority: x509.Certificate, authority_key: ec.EllipticCurvePrivateKey, names: list[str], now: float
) -> bytes:
    """A new key and a certificate for `names`, in PEM."""
    key = new_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    leaf = (
        certificate_builder(authority.subject, subject, key.public_key(), now, LIFETIME)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
        )
        .sign(authority_key, hashes.SHA256())
    )
    return certificate_to_pem(leaf) + key_to_pem(key)


def names_of(settings: UpSettings) -> set[str]:
    """The names for which viewers need a certificate: `localhost`, and those of all distributions."""
    found = {"localhost"}
    if not settings.worker.feed:
        found.add(f"*.{settings.control.domain}")
    snapshot = FileFeed(settings.worker.feed or settings.data, settings.worker.region).servable()
    if snapshot is not None:
        for each in snapshot.distributions:
            found |= {f"*.{each.domain_name.partition('.')[2]}", *each.aliases}
    return found


def cover(settings: UpSettings, now: float) -> frozenset[str]:
    """Let the local authority issue all certificates that these settings need.

    :param now: epoch seconds.
    :returns: the names for which it does not vouch.
    :raises SettingsError: if that is impossible.
    """
    tls = settings.worker.tls
    if tls is None or not tls.local:
        return frozenset()
    names = names_of(settings)
    try:
        LocalAuthority(settings.data).cover(names, now)
    except OSError as error:
        raise SettingsError(f"the local authority cannot issue certificates: {error}") from error
    return frozenset(uncovered(names))


async def keep_covered(running: Callable[[], UpSettings]) -> None:
    """Cover new names within a second or two, make a new authority if its folder has been removed, and renew
    certificates, until canceled. Names for which the authority does not vouch are logged once."""
    seen: tuple[int, int] | None = None
    known: frozenset[str] = frozenset()
    while True:
        await asyncio.sleep(INTERVAL)
        settings, now = running(), time.time()
        if settings.worker.tls is None or not settings.worker.tls.local:
            continue
        published = FileFeed(settings.worker.feed or settings.data).published_at()
        state = (published[0] if published is not None else 0, int(now // RENEWAL_INTERVAL))
        if state == seen and LocalAuthority(settings.data).path.exists():
            continue
        try:
            found = await asyncio.to_thread(cover, settings, now)
            seen = state
            for refusal in _refusals(found - known):
                logger.warning("%s", refusal)
            known = found
        except SettingsError as error:
            logger.warning("%s", error)
            await asyncio.sleep(60 * INTERVAL)
        except Exception:
            logger.exception("the local authority failed; trying again")
            await asyncio.sleep(60 * INTERVAL)


def _refusals(names: Set[str]) -> Iterator[str]:
    """Why the authority does not vouch for names, and what to do."""
    public = sorted(name for name in names if _is_public(name.removeprefix("*.")))
    others = sorted(names - {*public})
    folder = "put a certificate of your own into the folder `certificates` in the data folder"
    if public:
        yield (
            f"the local authority does not vouch for {_listed(public)}, as it would then vouch for every host below "
            f"a public suffix: {folder}"
        )
    if others:
        yield (
            f"the local authority vouches for {MOST_DOMAINS} domains at most, and not for {_listed(others)}: {folder}"
        )


def _listed(names: list[str]) -> str:
    more = f", and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
