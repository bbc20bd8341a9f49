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

One listening TLS context lives as long as the process. It holds the session ticket keys, so resumption survives a
certificate change. Each certificate has its own context, and the handshake switches to it once the server name is
known. Changes to the folder do not affect open connections.
"""

from __future__ import annotations

import os
import ssl
import stat
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from keyfront.errors import SettingsError

if TYPE_CHECKING:
    from cryptography import x509

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Ciphers for TLS 1.2: forward secrecy and authenticated encryption only. TLS 1.3 has no other kind."""

Notify = Callable[[str], None]


class _Pair(NamedTuple):
    """The two files of a certificate, which may be the same file."""

    chain: Path
    key: Path


_Identity = tuple[tuple[int, int, int], tuple[int, int, int]]


class _Refused(Exception):
    """A pair that cannot be used; the message says why."""


class Certificate:
    """A certificate that is ready to serve. `names` are its lower-case DNS names. It is valid from `begins` to `ends`
    (epoch seconds)."""

    __slots__ = ("begins", "context", "ends", "identity", "names")

    def __init__(
        self, context: ssl.SSLContext, names: frozenset[str], begins: float, ends: float, identity: _Identity
    ) -> None:
        self.context = context
        self.names = names
        self.begins = begins
        self.ends = ends
        self.identity = identity

    def amiss(self, now: float) -> str:
        """The problem with its validity dates, or an empty string. `now` is epoch seconds."""
        if now >= self.ends:
            return f"it expired on {_day(self.ends)}"
        return f"it is not valid before {_day(self.begins)}" if now < self.begins else ""


class Certificates:
    """All certificates in `folder`. `context` is the context that a server listens with.

    :param notify: called with a sentence for each problem with a pair, and for each change.
    :raises SettingsError: if the folder cannot be read or holds no usable certificate.
    """

    def __init__(self, folder: Path, now: float, notify: Notify) -> None:
        self._folder = folder
        self._notify = notify
        self._loaded: dict[str, Certificate] = {}
        self._seen: dict[str, _Identity] = {}
        self._reported: dict[str, _Identity] = {}
        self._exact: dict[str, Certificate] = {}
        self._wildcards: dict[str, Certificate] = {}
        self._default: Certificate
        self.context = _context()
        self.context.sni_callback = self._choose
        try:
            found = self._scan()
        except OSError as error:
            raise SettingsError(f"the certificates' folder cannot be read: {error}") from error
        self._seen = {name: identity for name, (_, identity) in found.items()}
        self._load(found, now)
        if not self._loaded:
            raise SettingsError(f"there is no certificate that can be used in {folder}")
        self._index()

    @property
    def names(self) -> frozenset[str]:
        """Every name that has a certificate; wildcards are written as `*.example.org`."""
        return frozenset(self._exact) | {"*" + rest for rest in self._wildcards}

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
        pairs: dict[str, _Pair] = {}
        with os.scandir(self._folder) as entries:
            names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
        present = set(names)
        for name in names:
            path = self._folder / name
            stem, dot, suffix = name.rpartition(".")
            if dot and suffix in ("crt", "pem"):
                if name.endswith("-key.pem"):
                    continue
                keys = (k for k in (f"{stem}.key", f"{stem}-key.pem") if k in present)
                pairs[name] = _Pair(path, self._folder / next(keys, name))
            elif (path / "fullchain.pem").is_file() and (path / "privkey.pem").is_file():
                pairs[name] = _Pair(path / "fullchain.pem", path / "privkey.pem")
        return pairs

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
            with suppress(OSError):
                if os.stat(pair.key).st_mode & stat.S_IROTH:
                    self._notify(f"every user on this machine can read the private key {pair.key.name}")
            self._reported.pop(name, None)
            self._loaded[name] = certificate
            changed = True
        return changed

    def _index(self) -> None:
        """Map names to certificates. If two certificates share a name, the one that expires later is used."""
        exact: dict[str, Certificate] = {}
        wildcards: dict[str, Certificate] = {}
        for certificate in sorted(self._loaded.values(), key=lambda c: c.ends):
            for name in certificate.names:
                if name.startswith("*."):
                    wildcards[name[1:]] = certificate
                else:
                    exact[name] = certificate
        self._exact, self._wildcards = exact, wildcards
        self._default = self._loaded[min(self._loaded, key=lambda name: (not _is_default(name), name))]

    def find(self, server_name: str | None) -> Certificate:
        """The certificate for a server name (RFC 6066 §3). An exact name takes precedence over a wildcard, which
        matches one label (RFC 9525 §6.3). The default certificate is returned if nothing matches."""
        if server_name:
            name = server_name.lower().removesuffix(".")
            found = self._exact.get(name) or self._wildcards.get(
                name[name.find(".") :] if "." in name else ""
            )
            if found is not None:
                return found
        return self._default

    def _choose(
        self, connection: ssl.SSLObject | ssl.SSLSocket, server_name: str | None, _: ssl.SSLContext
    ) -> None:
        connection.context = self.find(server_name).context


def unraisable(what: sys.UnraisableHookArgs) -> None:
    """A hook for `sys.unraisablehook`. A server name that is not ASCII already fails its handshake. Python would also
    print a traceback, which would let anyone fill our log."""
    if not (isinstance(what.exc_value, UnicodeDecodeError) and isinstance(what.object, bytes)):
        sys.__unraisablehook__(what)


def _context() -> ssl.SSLContext:
    """TLS 1.2 and 1.3 with forward secrecy. Each context gets all settings, because some of them follow the certificate
    and some the listener."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
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
        leaf = x509.load_pem_x509_certificates(pair.chain.read_bytes())[0]
        context = _context()
        context.load_cert_chain(pair.chain, pair.key, password=_no_password)
        same = _identity(pair) == identity
    except ValueError as error:
        raise _Refused(f"{pair.chain.name} holds no certificate in PEM form") from error
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise _Refused(f"{pair.key.name} is not the key of {pair.chain.name}") from error
        raise _Refused(f"{pair.chain.name} with {pair.key.name} cannot be used: {error}") from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _Refused(str(error)) from error
    if not same:
        raise FileNotFoundError(pair.chain)
    return Certificate(
        context,
        _names(leaf),
        leaf.not_valid_before_utc.timestamp(),
        leaf.not_valid_after_utc.timestamp(),
        identity,
    )


def _names(leaf: x509.Certificate) -> frozenset[str]:
    from cryptography import x509

    try:
        value = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return frozenset()
    return frozenset(name.lower() for name in value.get_values_for_type(x509.DNSName))


def _no_password() -> str:
    raise _Refused("its private key is protected by a passphrase, which cannot be entered here")
