"""The files of an enrolled edge, in its data folder:

    identity/edge.json    its name and region, its control planes, the authority and the snapshot key that it trusts
    identity/edge.pem     its private key and certificate, in one file, so that both are replaced at once
    identity/link.json    whether it is connected, for `keyfront status`
    identity/joining.pem  the private key for an enrollment that has begun; kept until it has succeeded
    feed/snapshot         the last good snapshot, in the form that workers follow (`fleet/file_feed.py`)
    feed/manifest         its signed manifest

All of them are replaced as a whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from keyfront.errors import SettingsError, SnapshotRefused
from keyfront.fleet.jetstream.access import NatsAccess
from keyfront.fleet.remote import EDGE_FILE, authority, content, manifest
from keyfront.fleet.remote.manifest import Endorsement, Manifest, Signed
from keyfront.private_files import create_file, read_private, replace_file


class Edge(msgspec.Struct, frozen=True):
    """What an edge knows of itself and of its control planes.

    :param controls: their URLs, `https://HOST:PORT`, in order of preference.
    :param proxy: the URL of the HTTP proxy to use; empty: that of the environment, if any.
    :param authority: the certificate that it trusts, PEM.
    :param key: the snapshot key that it trusts, 32 bytes in hexadecimal.
    :param ca: the authorities of the control planes' own certificates, PEM or `system`; empty: theirs are of
        `authority`.
    :param nats: how to reach NATS, if the edge follows over NATS; None: it follows over HTTPS.
    """

    name: str
    region: str
    controls: tuple[str, ...]
    proxy: str
    authority: str
    key: str
    ca: str = ""
    nats: NatsAccess | None = None

    @property
    def follows(self) -> str:
        """What it follows, for people."""
        return self.controls[0] if self.nats is None else self.nats.text


class Link(msgspec.Struct, frozen=True):
    """An edge's connection.

    :param control: the URL of the control plane, or of the NATS server, that it is connected to; empty: none.
    :param since: epoch seconds.
    :param trouble: why the last attempt to connect failed.
    """

    control: str
    since: float
    trouble: str = ""


class EdgeFiles:
    """The files of an enrolled edge in the data folder `data`."""

    def __init__(self, data: Path) -> None:
        self._folder = data / "identity"
        self.feed = data / "feed"
        """The folder that workers follow."""
        self.credentials = self._folder / "edge.pem"
        self._edge = data / EDGE_FILE
        self._joining = self._folder / "joining.pem"
        self._link = self._folder / "link.json"

    def edge(self) -> Edge:
        """:raises SettingsError: if it is not enrolled, or the file cannot be read."""
        try:
            return msgspec.json.decode(read_private(self._edge), type=Edge)
        except FileNotFoundError:
            raise SettingsError(
                f"{self._folder.parent} does not belong to an enrolled edge; enroll it with `keyfront edge join`"
            ) from None
        except (OSError, msgspec.MsgspecError) as error:
            raise SettingsError(f"{self._edge} cannot be read: {error}") from error

    def joining_key(self) -> ec.EllipticCurvePrivateKey:
        """The key to enroll with. It is the same until `enrolled` is called, even if the process is killed: a token
        works again for the same key only.

        :raises SettingsError: if it cannot be read. :raises OSError: if it cannot be written.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        create_file(self._joining, authority.key_to_pem(authority.new_key()))
        try:
            return authority.key_from_pem(read_private(self._joining).encode())
        except ValueError as error:
            raise SettingsError(f"{self._joining} cannot be read; remove it, and use a new token") from error

    def enrolled(self, edge: Edge, certificate: bytes) -> None:
        """Store what an enrollment has brought. An older snapshot, of an earlier enrollment, is removed: it may be for
        another region.

        :raises OSError: if it cannot be written.
        """
        key = authority.key_to_pem(self.joining_key())
        previous = None
        with suppress(SettingsError):
            previous = self.edge()
        if previous is not None and (previous.region, previous.authority) != (edge.region, edge.authority):
            for name in ("snapshot", "snapshot.accepted", "manifest"):
                (self.feed / name).unlink(missing_ok=True)
        replace_file(self.credentials, key + certificate)
        self.save(edge)
        self.feed.mkdir(mode=0o700, exist_ok=True)
        self._joining.unlink(missing_ok=True)

    def save(self, edge: Edge) -> None:
        """:raises OSError: if it cannot be written."""
        replace_file(self._edge, msgspec.json.encode(edge))

    def link(self) -> Link | None:
        """The edge's connection, as last stored; None if nothing can be read."""
        try:
            return msgspec.json.decode(self._link.read_bytes(), type=Link)
        except (OSError, msgspec.MsgspecError):
            return None

    def set_link(self, link: Link) -> None:
        """Store the state of the connection, if the disk allows."""
        with suppress(OSError):
            replace_file(self._link, msgspec.json.encode(link), durable=False)

    def renewed(self, key: ec.EllipticCurvePrivateKey, certificate: bytes) -> None:
        """Replace key and certificate.

        :raises OSError: if they cannot be written.
        """
        replace_file(self.credentials, authority.key_to_pem(key) + certificate)


class LinkState:
    """Stores the state of an edge's connection, and since when it is that.

    :param clock: epoch seconds.
    """

    def __init__(self, files: EdgeFiles, clock: Callable[[], float]) -> None:
        self._files = files
        self._clock = clock
        self._link: Link | None = None

    def set(self, control: str, trouble: str = "") -> None:
        """See `Link`."""
        before = self._link
        since = before.since if before is not None and before.control == control else self._clock()
        self._link = Link(control, since, trouble)
        if self._link != before:
            self._files.set_link(self._link)


class LastGood:
    """The last good snapshot on disk.

    :param folder: the one that workers follow.
    :param region: the edge's.
    :param trusted: the snapshot key that the edge trusts, 32 bytes.
    """

    def __init__(self, folder: Path, region: str, trusted: bytes) -> None:
        self._snapshot = folder / "snapshot"
        self._manifest = folder / "manifest"
        self._region = region
        self.trusted = trusted
        self.proof = Signed()
        self._accepted: Manifest | None = None
        self.have = b""
        """The digest of the payload on disk; empty if there is none."""
        self._load()

    @property
    def number(self) -> int:
        """The number of the last accepted snapshot; 0: none."""
        return self._accepted.number if self._accepted else 0

    def _load(self) -> None:
        """Whatever cannot be read is fetched again."""
        try:
            self.proof = msgspec.msgpack.decode(self._manifest.read_bytes(), type=Signed)
            self._accepted = msgspec.msgpack.decode(self.proof.manifest, type=Manifest)
        except (OSError, msgspec.MsgspecError):
            self.proof, self._accepted = Signed(), None
        with suppress(OSError):
            data = self._snapshot.read_bytes()
            found = hashlib.sha256(memoryview(data)[content.SEAL :]).digest()
            if found == data[content.SEAL - 32 : content.SEAL]:
                self.have = found

    def succeed(self, endorsements: list[Endorsement]) -> bool:
        """Trust the last endorsed snapshot key. True if it is a new one.

        :raises SnapshotRefused: if an endorsement is not valid.
        """
        before, self.trusted = self.trusted, manifest.succeed(self.trusted, endorsements)
        return self.trusted != before

    def accept(self, signed: Signed, base: bytes, body: bytes) -> None:
        """Put a snapshot on disk, where the workers find it, if it is genuine, for this region, and not older than any
        before. The rules of `fleet/feed.py` follow: each worker applies them to the file.

        :param base: the digest of the payload that `body` is the difference from; empty: `body` is the whole content.
        :raises SnapshotRefused: if it is not acceptable. The one before stays.
        :raises OSError: if it cannot be written. The one before stays.
        """
        self.accept_made(signed, lambda offered: self._payload(offered, base, body))

    def accept_made(self, signed: Signed, make: Callable[[Manifest], bytes]) -> None:
        """Like `accept`.

        :param make: returns the payload for the verified manifest; it may raise what this method raises.
        """
        offered = self.check(signed)
        payload = make(offered)
        if hashlib.sha256(payload).digest() != offered.digest:
            raise SnapshotRefused(f"the content of snapshot {offered.number} is not what its manifest says")
        self._store(signed, offered, payload)

    def accept_again(self, signed: Signed) -> None:
        """Like `accept`, for the payload that is on disk: its manifest was signed with a new key."""
        self.accept_made(signed, lambda _: self._snapshot.read_bytes()[content.SEAL :])

    def check(self, signed: Signed) -> Manifest:
        """The manifest, if a snapshot that has it is acceptable.

        :raises SnapshotRefused: if it is not.
        """
        offered = manifest.verify(signed, self.trusted)
        if offered.region != self._region:
            raise SnapshotRefused(
                f"snapshot {offered.number} is for {offered.region or 'no region'}, and this edge is in "
                f"{self._region or 'no region'}"
            )
        before = self._accepted
        if before is not None and offered.number < before.number:
            raise SnapshotRefused(f"snapshot {offered.number} is older than {before.number}, which is in use")
        if before is not None and offered.number == before.number and offered.digest != before.digest:
            raise SnapshotRefused(f"a different snapshot {offered.number} is already in use")
        return offered

    def _payload(self, offered: Manifest, base: bytes, body: bytes) -> bytes:
        if not base:
            return content.unpack_whole(body, offered.size)
        data = self._snapshot.read_bytes()
        if base != self.have:
            raise SnapshotRefused("the difference is from another snapshot")
        return content.apply(memoryview(data)[content.SEAL :], body, offered.size)

    def _store(self, signed: Signed, offered: Manifest, payload: bytes) -> None:
        # If the process is killed between the two, it has the older manifest: it then claims less than it has.
        replace_file(self._snapshot, offered.magic + offered.digest + payload)
        self.have = offered.digest
        replace_file(self._manifest, msgspec.msgpack.encode(signed))
        self.proof, self._accepted = signed, offered
