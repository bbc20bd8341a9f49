"""Certificates loaded from a folder, selected by the server name (SNI) and reloaded without closing open connections.

A certificate has one of the following layouts. NAME is the operator's choice; the names that a certificate is valid for
are read from the certificate itself:

    NAME.crt + NAME.key            separate chain and key
    NAME.pem + NAME-key.pem        as written by mkcert
    NAME.pem                       chain and key in one file
    NAME/fullchain.pem + privkey.pem   as in certbot's `live` folder

The certificate named `default` answers viewers that send no server name, or one that no certificate matches. If there
is no `default`, the first certificate that could be read is used. Every handshake therefore gets a certificate, as with
CloudFront and nginx, and a viewer that reached the wrong host can report what is wrong.

A second folder may hold certificates of a local authority (`runtime/local_authority.py`). They are used only for names
that no certificate in the first folder covers.

One listening TLS context lives as long as the process. It holds the session ticket keys, so resumption survives a
certificate change. Each certificate has its own context, and the handshake switches to it once the server name is
known. Changes to the folder do not affect open connections.
"""

from __future__ import annotations

import itertools
import os
import ssl
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from keyfront.errors import SettingsError

if TYPE_CHECKING:
    from cryptography import x509

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Ciphers for TLS 1.2: forward secrecy and authenticated encryption only. TLS 1.3 has no other kind."""

HTTP1 = "http/1.1"
HTTP2 = ("h2", HTTP1)

_LOCAL = "local-authority/"
"""The prefix of the names of certificates from the local authority."""

Notify = Callable[[str], None]


class _Pair(NamedTuple):
    """The two files of a certificate, which may be the same file."""

    chain: Path
    key: Path


_Identity = tuple[tuple[int, int, int], tuple[int, int, int]]


class _Refused(Exception):
    """A pair that cannot be used; the message says why."""


class Certificate:
    """A certificate that is ready to serve: `context` offers HTTP/2 and HTTP/1.1 (ALPN, RFC 7301), and `http1` only
    HTTP/1.1. `names` are its lower-case DNS names. It is valid from `begins` to `ends` (epoch seconds). `in_order`:
    whether its chain is."""

    __slots__ = ("begins", "context", "ends", "http1", "identity", "in_order", "names")

    def __init__(
        self,
        contexts: tuple[ssl.SSLContext, ssl.SSLContext],
        names: frozenset[str],
        begins: float,
        ends: float,
        identity: _Identity,
        in_order: bool,
    ) -> None:
        self.context, self.http1 = contexts
        self.names = names
        self.begins = begins
        self.ends = ends
        self.identity = identity
        self.in_order = in_order

    def amiss(self, now: float) -> str:
        """The problem with its validity dates, or an empty string. `now` is epoch seconds."""
        if now >= self.ends:
            return f"it expired on {_day(self.ends)}"
        return f"it is not valid before {_day(self.begins)}" if now < self.begins else ""


class _Table:
    """Certificates by name. If two share a name, the one that expires later is used."""

    def __init__(self, certificates: Iterable[Certificate]) -> None:
        self._exact: dict[str, Certificate] = {}
        self._wildcards: dict[str, Certificate] = {}
        for certificate in sorted(certificates, key=lambda c: c.ends):
            for name in certificate.names:
                if name.startswith("*."):
                    self._wildcards[name[1:]] = certificate
                else:
                    self._exact[name] = certificate

    @property
    def names(self) -> set[str]:
        return {*self._exact, *("*" + rest for rest in self._wildcards)}

    def find(self, name: str) -> Certificate | None:
        """An exact name takes precedence over a wildcard, which matches one label (RFC 9525 §6.3)."""
        return self._exact.get(name) or self._wildcards.get(name[name.find(".") :] if "." in name else "")


class Certificates:
    """All certificates in `folder`. `context` is the context that a server listens with.

    :param notify: called with a sentence for each problem with a pair, and for each change.
    :param offers_http2: whether a viewer that requests this server name may use HTTP/2.
    :param local: the folder of certificates from a local authority; `folder` may then be empty or missing.
    :raises SettingsError: if a folder cannot be read, or there is no usable certificate.
    """

    def __init__(
        self,
        folder: Path,
        now: float,
        notify: Notify,
        local: Path | None = None,
        offers_http2: Callable[[str | None], bool] = lambda _: True,
    ) -> None:
        self._folder = folder
        self._offers_http2 = offers_http2
        self._local = local
        self._notify = notify
        self._loaded: dict[str, Certificate] = {}
        self._seen: dict[str, _Identity] = {}
        self._reported: dict[str, _Identity] = {}
        self._tables: tuple[_Table, ...] = ()  # in order of precedence
        self._default: Certificate
        self.context = _context(*HTTP2)
        self.context.sni_callback = self._choose
        try:
            found = self._scan()
        except OSError as error:
            raise SettingsError(f"the certificates' folder cannot be read: {error}") from error
        self._seen = {name: identity for name, (_, identity) in found.items()}
        problems: list[str] = []
        self._notify = problems.append
        self._load(found, now)
        self._notify = notify
        if not self._loaded:
            why = f": {'; '.join(problems)}" if problems else ""
            raise SettingsError(f"there is no certificate that can be used in {folder}{why}")
        for problem in problems:
            notify(problem)
        self._index()

    def cover(self, context: ssl.SSLContext, host: str) -> bool:
        """Whether a connection may be used for requests for a host name: its certificate has that name, or is the one
        that another connection would get, too (RFC 9113 section 9.1.1).

        :param context: the connection's, after its handshake.
        :param host: in lower case, without a port.
        """
        name = host.removesuffix(".")
        names = context.names if isinstance(context, _Context) else frozenset[str]()
        if name in names or f"*{name[name.find('.') :]}" in names:
            return True
        other = self.find(name)
        return context in (other.context, other.http1)

    @property
    def names(self) -> frozenset[str]:
        """Every name that has a certificate; wildcards are written as `*.example.org`."""
        return frozenset[str]().union(*(table.names for table in self._tables))

    @property
    def loaded(self) -> Mapping[str, Certificate]:
        """Every certificate in use, by its file or folder name."""
        return self._loaded

    def poll(self, now: float) -> bool:
        """Scan the folder and apply what changed. Returns True if anything was applied.

        A file that is still being written must not be judged, so a pair counts only after two consecutive scans found
        it unchanged.

        :param now: epoch seconds.
        """
        try:
            found = self._scan()
        except OSError:
            return False  # the folder is being replaced; the certificates in use stay
        settled = {name: pair for name, pair in found.items() if self._seen.get(name) == pair[1]}
        gone = [name for name in self._loaded if name not in found and name not in self._seen]
        self._seen = {name: identity for name, (_, identity) in found.items()}
        changed = self._load(settled, now)
        for name in gone:
            if len(self._loaded) == 1:
                break  # the last one: a certificate without files is better than none
            del self._loaded[name]
            self._notify(f"the certificate {name} is no longer used: its files are gone")
            changed = True
        if changed:
            self._index()
        return changed

    def _scan(self) -> dict[str, tuple[_Pair, _Identity]]:
        """Candidate certificates in the folder, by their file or folder name.

        :raises OSError: if the folder cannot be listed.
        """
        found = {}
        for name, pair in self._pairs().items():
            with suppress(OSError):  # deleted since, or a dangling link
                found[name] = (pair, _identity(pair))
        return found

    def _pairs(self) -> dict[str, _Pair]:
        if self._local is None:
            return dict(_pairs_in(self._folder))
        found = {f"{_LOCAL}{name}": pair for name, pair in _pairs_in(self._local)}
        with suppress(FileNotFoundError):
            found |= _pairs_in(self._folder)
        return found

    def _load(self, found: dict[str, tuple[_Pair, _Identity]], now: float) -> bool:
        changed = False
        for name, (pair, identity) in found.items():
            before = self._loaded.get(name)
            if self._reported.get(name) == identity or (before is not None and before.identity == identity):
                continue
            try:
                certificate = _read(pair, identity)
                if not certificate.names and not _is_default(name):
                    raise _Refused("it names no host (no DNS name among its subject alternative names)")
                amiss = certificate.amiss(now)
                if amiss and before is not None:
                    raise _Refused(amiss)
            except _Refused as why:
                kept = " and the one before it stays" if before is not None else ""
                self._notify(f"the certificate {name} is refused{kept}: {why}")
                self._reported[name] = identity
                continue
            except FileNotFoundError:
                continue  # replaced at this moment: the next scan finds the new one
            if amiss:
                self._notify(f"the certificate {name} is used, but viewers will not accept it: {amiss}")
            if not certificate.in_order:
                self._notify(
                    f"the certificate {name} is used, but some viewers will not accept it: in {pair.chain.name}, each "
                    "certificate must be followed by the one that issued it"
                )
            with suppress(OSError):
                if os.stat(pair.key).st_mode & stat.S_IROTH:
                    self._notify(f"every user on this machine can read the private key {pair.key.name}")
            self._reported.pop(name, None)
            self._loaded[name] = certificate
            changed = True
        return changed

    def _index(self) -> None:
        own = [each for name, each in self._loaded.items() if not name.startswith(_LOCAL)]
        local = [each for name, each in self._loaded.items() if name.startswith(_LOCAL)]
        self._tables = (_Table(own), _Table(local))
        first = min(self._loaded, key=lambda name: (name.startswith(_LOCAL), not _is_default(name), name))
        self._default = self._loaded[first]

    def find(self, server_name: str | None) -> Certificate:
        """The certificate for a server name (RFC 6066 §3). The default certificate is returned if nothing matches."""
        if server_name:
            name = server_name.lower().removesuffix(".")
            for table in self._tables:
                found = table.find(name)
                if found is not None:
                    return found
        return self._default

    def _choose(
        self, connection: ssl.SSLObject | ssl.SSLSocket, server_name: str | None, _: ssl.SSLContext
    ) -> None:
        certificate = self.find(server_name)
        offers_http2 = self._offers_http2(server_name)
        connection.context = certificate.context if offers_http2 else certificate.http1


def _pairs_in(folder: Path) -> Iterator[tuple[str, _Pair]]:
    """The pairs in a folder, by their file or folder name.

    :raises OSError: if it cannot be listed.
    """
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    present = set(names)
    for name in names:
        path = folder / name
        stem, dot, suffix = name.rpartition(".")
        if dot and suffix in ("crt", "pem"):
            if name.endswith("-key.pem"):
                continue
            keys = (k for k in (f"{stem}.key", f"{stem}-key.pem") if k in present)
            yield name, _Pair(path, folder / next(keys, name))
        elif (path / "fullchain.pem").is_file() and (path / "privkey.pem").is_file():
            yield name, _Pair(path / "fullchain.pem", path / "privkey.pem")


def unraisable(what: sys.UnraisableHookArgs) -> None:
    """A hook for `sys.unraisablehook`. A server name that is not ASCII already fails its handshake. Python would also
    print a traceback, which would let anyone fill our log."""
    if not (isinstance(what.exc_value, UnicodeDecodeError) and isinstance(what.object, bytes)):
        sys.__unraisablehook__(what)


class _Context(ssl.SSLContext):
    """A context with the names of its certificate."""

    names: frozenset[str] = frozenset()


def _context(*protocols: str) -> _Context:
    """TLS 1.2 and 1.3 with forward secrecy. Each context gets all settings, because some of them follow the certificate
    and some the listener.

    :param protocols: for ALPN, in order of preference. OpenSSL chooses one after the server name is known.
    """
    context = _Context(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(protocols)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    return context


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _is_default(name: str) -> bool:
    return name.removesuffix(".crt").removesuffix(".pem") == "default"


def _identity(pair: _Pair) -> _Identity:
    chain, key = os.stat(pair.chain), os.stat(pair.key)
    return (
        (chain.st_ino, chain.st_mtime_ns, chain.st_size),
        (key.st_ino, key.st_mtime_ns, key.st_size),
    )


def _read(pair: _Pair, identity: _Identity) -> Certificate:
    """Load a pair.

    :raises _Refused: if the files are not a certificate and its key.
    :raises FileNotFoundError: if the files no longer have this identity.
    """
    from cryptography import x509  # not loaded at startup by an edge without TLS

    try:
        chain = x509.load_pem_x509_certificates(pair.chain.read_bytes())
        contexts = (_context(*HTTP2), _context(HTTP1))
        for context in contexts:
            context.load_cert_chain(pair.chain, pair.key, password=_no_password)
            context.names = _names(chain[0])
        same = _identity(pair) == identity
    except ValueError as error:
        raise _Refused(f"{pair.chain.name} holds no certificate in PEM form") from error
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise _Refused(_mismatch(pair, chain)) from error
        if error.reason in _WEAK:
            raise _Refused(f"{_WEAK[error.reason]}: viewers do not accept it") from error
        raise _Refused(f"{pair.chain.name} with {pair.key.name} cannot be used: {error}") from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _Refused(str(error)) from error
    if not same:
        raise FileNotFoundError(pair.chain)
    return Certificate(
        contexts,
        contexts[0].names,
        chain[0].not_valid_before_utc.timestamp(),
        chain[0].not_valid_after_utc.timestamp(),
        identity,
        _is_in_order(chain),
    )


_WEAK = {
    "EE_KEY_TOO_SMALL": "its key is too small: use RSA with 2048 bits or more, or ECDSA P-256",
    "CA_MD_TOO_WEAK": "it is signed with a broken hash algorithm: obtain a new certificate",
}
"""OpenSSL's reasons for a certificate that is too weak."""


def _mismatch(pair: _Pair, chain: list[x509.Certificate]) -> str:
    """Why a key does not belong to the first certificate of a chain."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    public = load_pem_private_key(pair.key.read_bytes(), None).public_key()
    if any(each.public_key() == public for each in chain):
        return (
            f"the certificate of {pair.key.name} is not the first in {pair.chain.name}: put it first, followed by the "
            "intermediate certificates"
        )
    return f"{pair.key.name} is not the key of {pair.chain.name}"


def _is_in_order(chain: list[x509.Certificate]) -> bool:
    """Whether each certificate is followed by that of its issuer (RFC 5246 section 7.4.2). RFC 8446 no longer requires
    this, but viewers with TLS 1.2 may."""
    return all(one.issuer == issuer.subject for one, issuer in itertools.pairwise(chain))


def _names(leaf: x509.Certificate) -> frozenset[str]:
    from cryptography import x509

    try:
        value = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return frozenset()
    return frozenset(name.lower() for name in value.get_values_for_type(x509.DNSName))


def _no_password() -> str:
    raise _Refused("its private key is protected by a passphrase, which cannot be entered here")
