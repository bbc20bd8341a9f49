"""How to reach NATS: servers, credentials, TLS, and the bucket. These are the operator's settings, on both sides."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from keyfront.errors import SettingsError

BUCKET = "keyfront"
"""The default bucket."""
PORT = 4222
"""NATS's port for clients."""

_BUCKET = re.compile(r"[A-Za-z0-9_-]{1,32}")
_DOMAIN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SEED = re.compile(r"SU[A-Z2-7]{56}")


class NatsAccess(msgspec.Struct, frozen=True):
    """How to reach NATS. Paths are absolute; an empty string means "not set".

    :param servers: URLs, in order of preference.
    :param bucket: the key-value bucket; its name also begins the subjects that Keyfront uses.
    :param credentials: a file: JWT credentials, an NKey seed, or `USER:PASSWORD`.
    :param ca: PEM: the authorities of the servers' certificates. Empty: those that the system trusts.
    :param certificate: PEM: a client certificate and its key.
    :param domain: the JetStream domain, if it is not that of the servers: at a leaf node, the hub's.
    """

    servers: tuple[str, ...]
    bucket: str = BUCKET
    credentials: str = ""
    ca: str = ""
    certificate: str = ""
    domain: str = ""

    @property
    def text(self) -> str:
        """For people."""
        return f"the bucket {self.bucket} at {self.servers[0]}"

    def check(self) -> NatsAccess:
        """The access itself.

        :raises SettingsError: if something in it cannot be used; nothing is connected.
        """
        if not _BUCKET.fullmatch(self.bucket):
            raise SettingsError(
                f"--nats-bucket {self.bucket[:64]!r}: 1 to 32 letters, digits, `_`, and `-` are a bucket's name"
            )
        if self.domain and not _DOMAIN.fullmatch(self.domain):
            raise SettingsError(f"--nats-domain {self.domain[:64]!r} is not the name of a JetStream domain")
        self.login()
        self.tls(self.servers[0])
        return self

    def login(self) -> dict[str, Any]:
        """The arguments of `nats.connect` that log in, read from the file, which may be replaced at any time.

        :raises SettingsError: if it cannot be read. The message says nothing of its content.
        """
        if not self.credentials:
            return {}
        try:
            text = Path(self.credentials).read_text("ascii")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise SettingsError(f"--nats-creds: {self.credentials} cannot be read: {reason}") from None
        if "BEGIN NATS USER JWT" in text:
            return {"user_credentials": self.credentials}
        line = text.strip()
        if _SEED.fullmatch(line):
            return {"nkeys_seed_str": line}
        user, colon, password = line.partition(":")
        if not colon or not user or "\n" in line:
            raise SettingsError(
                f"--nats-creds: {self.credentials} contains neither JWT credentials (`nsc generate creds`), nor an "
                "NKey seed (SU…), nor one line USER:PASSWORD"
            )
        return {"user": user, "password": password}

    def tls(self, server: str) -> ssl.SSLContext | None:
        """How to encrypt the connection to `server`; None if it is not required.

        :raises SettingsError: if a file cannot be used.
        """
        if not (self.ca or self.certificate or urlsplit(server).scheme == "tls"):
            return None
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.ca:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            try:
                context.load_verify_locations(self.ca)
            except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
                raise SettingsError(f"--nats-ca: {self.ca} cannot be used: {error}") from error
        if self.certificate:
            try:
                context.load_cert_chain(self.certificate, password=_no_password)
            except (OSError, ValueError) as error:
                raise SettingsError(
                    f"--nats-cert: {self.certificate} cannot be used as a certificate with its key: {error}"
                ) from error
        return context


def server_url(text: str) -> str:
    """The URL of a NATS server, with its port.

    :raises SettingsError: if it is not one, or contains a password, which other users of the machine could read.
    """
    try:
        parts = urlsplit(text if "://" in text else f"nats://{text}")
        valid = parts.scheme in ("nats", "tls") and bool(parts.hostname) and parts.port != 0
        port = parts.port or PORT
    except ValueError:
        valid = False
    if not valid or parts.path.strip("/") or parts.query or parts.fragment:
        shown = text.rpartition("@")[2]
        raise SettingsError(
            f"{shown!r} is not the URL of a NATS server, such as nats://nats.example.com:4222"
        )
    if parts.username is not None:
        raise SettingsError(
            "--nats must not contain a password, because every user on this machine can read command lines: put "
            "USER:PASSWORD into a file for --nats-creds"
        )
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}:{port}"


def _no_password() -> str:
    """Called for an encrypted key, for which OpenSSL would ask on the terminal."""
    raise ValueError("the private key is encrypted")
