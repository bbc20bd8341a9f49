"""The registry of edges on other machines: the keys of the control planes, tokens, and enrolled edges, in the store.

All control planes that share a store share it. Private keys are sealed like secret access keys
(`identity/sealing.py`); of a token, only a digest is stored. Every change is one transaction with its audit record, and
increments the version by which running control planes detect it.
"""

from __future__ import annotations

import random
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keyfront.control.audit import records as audit
from keyfront.control.call import Call, Caller
from keyfront.control.identity.sealing import Sealer
from keyfront.control.store.schema import counter as _counter
from keyfront.control.store.schema import fleet_edge as _edge
from keyfront.control.store.schema import fleet_key as _key
from keyfront.control.store.schema import fleet_seen as _seen
from keyfront.control.store.schema import fleet_token as _token
from keyfront.control.store.store import Store
from keyfront.control.store.transaction import Transaction
from keyfront.errors import SettingsError
from keyfront.fleet.remote import authority, manifest
from keyfront.fleet.remote.authority import EDGE_LIFETIME, Authority, Token
from keyfront.fleet.remote.identity import Enrollment, Identity, Keys, Seen
from keyfront.fleet.remote.manifest import Endorsement
from keyfront.model import residency

AUTHORITY, SNAPSHOT = "authority", "snapshot"
"""The kinds of keys."""
MAX_TOKENS = 10_000
"""Maximum number of tokens that have not expired."""
CONNECTED = 30.0
"""Seconds after which an edge that was connected does not count as connected any more."""
TOKEN_RETENTION = 30 * 86_400.0
"""Seconds after its expiry for which a token is stored."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class EdgeState(msgspec.Struct, frozen=True):
    """An enrolled edge, as listed. Times are epoch seconds.

    :param expires: of its certificate.
    :param seen: when it was last connected; None: never.
    :param number: of the snapshot that its workers had applied then.
    """

    id: str
    name: str
    region: str
    enrolled: float
    expires: float
    revoked: float | None
    seen: float | None
    number: int
    address: str
    software: str

    def is_connected(self, now: float) -> bool:
        """Whether it was connected a moment before `now` (epoch seconds)."""
        return self.revoked is None and self.seen is not None and abs(now - self.seen) <= CONNECTED


def enrolled(transaction: Transaction) -> list[EdgeState]:
    """All edges, in order of name, the revoked ones last."""
    rows = transaction.connection.execute(
        sa.select(_edge, _seen.c.seen, _seen.c.number, _seen.c.address, _seen.c.software)
        .outerjoin(_seen, _seen.c.id == _edge.c.id)
        .order_by(_edge.c.revoked.isnot(None), _edge.c.name, _edge.c.enrolled)
    )
    return [
        EdgeState(
            row.id,
            row.name,
            row.region,
            row.enrolled,
            row.expires,
            row.revoked,
            row.seen,
            row.number or 0,
            row.address or "",
            row.software or "",
        )
        for row in rows
    ]


class EdgeRegistry:
    """See `fleet/remote/identity.py: Registry`, and below for the operator's part.

    :param account: the 12-digit number of the account that owns everything.
    :param sealer: returns the sealer for private keys.
    :param by: the user agent in audit records.
    :param lifetime: of edges' certificates, in seconds.
    """

    def __init__(
        self,
        store: Store,
        account: str,
        sealer: Callable[[], Sealer],
        *,
        by: str,
        lifetime: float = EDGE_LIFETIME,
        rng: random.Random | None = None,
    ) -> None:
        self._store = store
        self._account = account
        self._sealer = sealer
        self._by = by
        self._lifetime = lifetime
        self._rng = rng or random.SystemRandom()

    # ---- for the hub

    def version(self) -> int:
        """See `Registry`."""
        with self._store.read() as transaction:
            return int(
                transaction.connection.execute(
                    sa.select(_counter.c.value).where(_counter.c.name == "fleet")
                ).scalar_one()
            )

    def keys(self) -> Keys:
        """See `Registry`. `prepare` must have been called."""
        with self._store.read() as transaction:
            return self._keys(transaction)

    def identities(self) -> Mapping[str, Identity]:
        """See `Registry`."""
        with self._store.read() as transaction:
            rows = transaction.connection.execute(
                sa.select(_edge.c.id, _edge.c.name, _edge.c.region).where(_edge.c.revoked.is_(None))
            )
            return {id_: Identity(id_, name, region) for id_, name, region in rows}

    def enroll(self, secret: bytes, csr: bytes, name: str, address: str, now: float) -> Enrollment:
        """See `Registry`."""
        key, digest = authority.key_digest(csr), authority.secret_digest(secret)
        with self._store.read() as transaction:  # a stranger does not make others wait for the store
            if (
                transaction.connection.execute(sa.select(_token).where(_token.c.digest == digest)).first()
                is None
            ):
                raise SettingsError("the token is not known here")
        with self._change("EnrollEdge", now, address) as (transaction, parameters):
            connection = transaction.connection
            found = connection.execute(sa.select(_token).where(_token.c.digest == digest)).one()
            if found.expires <= now:
                raise SettingsError("the token has expired; create another one: keyfront edge enroll-token")
            if found.edge and found.key != key:
                raise SettingsError("the token has been used; create another one: keyfront edge enroll-token")
            if found.edge:
                identity = self._accepted(transaction, found.edge)
            else:
                identity = Identity(self._new_id(), found.name or name, found.region)
                self._refuse_taken(transaction, identity.name, now)
                connection.execute(
                    sa.update(_token).where(_token.c.digest == digest).values(edge=identity.id, key=key)
                )
                connection.execute(
                    sa.insert(_edge).values(
                        id=identity.id, name=identity.name, region=identity.region, enrolled=now, expires=now
                    )
                )
            parameters |= {"Id": identity.id, "Name": identity.name, "Region": identity.region}
            return Enrollment(identity, self._issue(transaction, identity.id, csr, now))

    def renew(self, id_: str, csr: bytes, now: float) -> bytes:
        """See `Registry`."""
        with self._change("RenewEdgeCertificate", now, bump=False) as (transaction, parameters):
            identity = self._accepted(transaction, id_)
            parameters |= {"Id": id_, "Name": identity.name}
            return self._issue(transaction, id_, csr, now)

    def seen(self, edges: Iterable[Seen], now: float) -> None:
        """See `Registry`."""
        rows = [{**msgspec.structs.asdict(one), "seen": now} for one in edges]
        if not rows:
            return
        with self._store.write_relaxed() as transaction:
            connection = transaction.connection
            # One writer at a time: over NATS, several control planes see the same edges.
            connection.execute(
                sa.select(_counter.c.value).where(_counter.c.name == "fleet").with_for_update()
            ).first()
            connection.execute(
                sa.delete(_seen).where(_seen.c.id == sa.bindparam("old")),
                [{"old": row["id"]} for row in rows],
            )
            connection.execute(sa.insert(_seen), rows)

    # ---- for operators

    def prepare(self, now: float) -> None:
        """Create the authority and the first snapshot key if there are none, at `now` (epoch seconds).

        :raises SettingsError: if there is no key to seal them with.
        :raises ApiError: if the store does not respond.
        """
        with self._store.read() as transaction:
            if self._has_keys(transaction):
                return
        with self._change("CreateEdgeAuthority", now) as (transaction, _):
            if self._has_keys(transaction):
                return
            made = Authority.create(now)
            self._add_key(transaction, AUTHORITY, now, Endorsement(made.pem), made.key_pem)
            self._add_snapshot_key(transaction, now, None)

    def create_token(self, now: float, lifetime: float, *, name: str = "", region: str = "") -> Token:
        """Create a token that enrolls one edge.

        :param lifetime: seconds.
        :param name: of the edge; empty: the one that it wants.
        :param region: of the edge; empty: none.
        :raises SettingsError: if a name is not valid, or there are too many tokens.
        :raises ApiError: if the store does not respond.
        """
        if name:
            _valid(name)
        if region:
            residency.region(region)
        self.prepare(now)
        with self._change("CreateEdgeToken", now, bump=False) as (transaction, parameters):
            connection = transaction.connection
            connection.execute(sa.delete(_token).where(_token.c.expires < now - TOKEN_RETENTION))
            valid = sa.select(sa.func.count()).select_from(_token).where(_token.c.expires > now)
            if connection.execute(valid).scalar_one() >= MAX_TOKENS:
                raise SettingsError(f"there are {MAX_TOKENS} tokens already; wait until some have expired")
            if name:
                self._refuse_taken(transaction, name, now)
            certificate = self._keys(transaction).authority.certificate
            token = Token(secrets.token_bytes(authority.SECRET), authority.fingerprint(certificate))
            connection.execute(
                sa.insert(_token).values(
                    digest=token.digest,
                    name=name,
                    region=region,
                    created=now,
                    expires=now + lifetime,
                    edge="",
                    key=b"",
                )
            )
            parameters |= {"Name": name, "Region": region, "Expires": int(now + lifetime)}
            return token

    def edges(self) -> list[EdgeState]:
        """All edges, in order of name, the revoked ones last.

        :raises ApiError: if the store does not respond.
        """
        with self._store.read() as transaction:
            return enrolled(transaction)

    def revoke(self, name: str, now: float) -> Identity:
        """Accept the edge with this name or id no longer.

        :raises SettingsError: if there is no such edge.
        :raises ApiError: if the store does not respond.
        """
        with self._change("RevokeEdge", now) as (transaction, parameters):
            found = transaction.connection.execute(
                sa.select(_edge).where(
                    sa.or_(_edge.c.name == name, _edge.c.id == name), _edge.c.revoked.is_(None)
                )
            ).first()
            if found is None:
                raise SettingsError(f"no edge named {name[:64]} is enrolled")
            transaction.connection.execute(sa.update(_edge).where(_edge.c.id == found.id).values(revoked=now))
            parameters |= {"Id": found.id, "Name": found.name}
            return Identity(found.id, found.name, found.region)

    def rotate_snapshot_key(self, now: float) -> str:
        """Replace the key that signs snapshots. Edges follow by its endorsement. Returns the new key's id.

        :raises SettingsError: if the old one cannot be opened.
        :raises ApiError: if the store does not respond.
        """
        self.prepare(now)
        with self._change("RotateSnapshotKey", now) as (transaction, parameters):
            made = self._add_snapshot_key(transaction, now, self._keys(transaction).signer)
            parameters |= {"Id": made}
            return made

    # ---- parts

    @contextmanager
    def _change(
        self, event: str, now: float, address: str = "local", *, bump: bool = True
    ) -> Iterator[tuple[Transaction, dict[str, Any]]]:
        """A transaction that ends by writing its audit record, with the parameters in the dict."""
        parameters: dict[str, Any] = {}
        root = Caller("", f"arn:aws:iam::{self._account}:root", self._account, self._account)
        with self._store.write() as transaction:
            yield transaction, parameters
            if bump:
                transaction.connection.execute(
                    sa.update(_counter).where(_counter.c.name == "fleet").values(value=_counter.c.value + 1)
                )
            call = Call(
                operation=event,
                params=parameters,
                caller=root,
                source_ip=address,
                user_agent=self._by,
                request_id=f"{self._rng.getrandbits(128):032x}",
                now=now,
                source="keyfront",
            )
            audit.append(transaction, audit.entry(call, {}, self._rng))

    def _has_keys(self, transaction: Transaction) -> bool:
        return transaction.connection.execute(sa.select(_key.c.kind).limit(1)).first() is not None

    def _keys(self, transaction: Transaction) -> Keys:
        rows = transaction.connection.execute(sa.select(_key).order_by(_key.c.kind, _key.c.number)).all()
        authorities = [row for row in rows if row.kind == AUTHORITY]
        signers = [row for row in rows if row.kind == SNAPSHOT]
        if not authorities or not signers:
            raise SettingsError("there is no authority for edges; start `keyfront up` with --edges")
        found = Authority.load(authorities[-1].public, self._opened(authorities[-1]).encode())
        chain = tuple(Endorsement(row.public, row.endorsement) for row in signers)
        signer = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(self._opened(signers[-1])))
        return Keys(found, signer, chain)

    def _opened(self, row: Any) -> str:
        """The private half of a key."""
        sealer = self._sealer()
        if row.sealer != sealer.name:
            raise SettingsError(
                "the keys of the edges' authority are sealed under another key than this installation's access.key "
                "(or KEYFRONT_ACCESS_KEY): use the one that they were sealed with"
            )
        return sealer.open(row.sealed, f"fleet-{row.kind}", str(row.number))

    def _add_key(
        self, transaction: Transaction, kind: str, now: float, public: Endorsement, private: bytes
    ) -> None:
        sealer = self._sealer()
        last = sa.select(sa.func.max(_key.c.number)).where(_key.c.kind == kind)
        number = (transaction.connection.execute(last).scalar_one() or 0) + 1
        transaction.connection.execute(
            sa.insert(_key).values(
                kind=kind,
                number=number,
                created=now,
                public=public.public,
                endorsement=public.signature,
                sealed=sealer.seal(private.decode(), f"fleet-{kind}", str(number)),
                sealer=sealer.name,
            )
        )

    def _add_snapshot_key(
        self, transaction: Transaction, now: float, before: Ed25519PrivateKey | None
    ) -> str:
        key = Ed25519PrivateKey.generate()
        public = key.public_key().public_bytes_raw()
        endorsed = Endorsement(public) if before is None else manifest.endorse(public, before)
        self._add_key(transaction, SNAPSHOT, now, endorsed, key.private_bytes_raw().hex().encode())
        return manifest.key_id(public)

    def _issue(self, transaction: Transaction, id_: str, csr: bytes, now: float) -> bytes:
        made = self._keys(transaction).authority.issue_edge(csr, id_, now, self._lifetime)
        transaction.connection.execute(
            sa.update(_edge).where(_edge.c.id == id_).values(expires=now + self._lifetime)
        )
        return made

    def _accepted(self, transaction: Transaction, id_: str) -> Identity:
        row = transaction.connection.execute(
            sa.select(_edge).where(_edge.c.id == id_, _edge.c.revoked.is_(None))
        ).one_or_none()
        if row is None:
            raise SettingsError("this edge is revoked; create another token: keyfront edge enroll-token")
        return Identity(row.id, row.name, row.region)

    def _refuse_taken(self, transaction: Transaction, name: str, now: float) -> None:
        """Refuse a name that an accepted edge has, unless that edge's certificate has expired: it cannot connect any
        more, and gives way to the new one."""
        _valid(name)
        row = transaction.connection.execute(
            sa.select(_edge).where(_edge.c.name == name, _edge.c.revoked.is_(None))
        ).first()
        if row is None:
            return
        if row.expires > now:
            raise SettingsError(
                f"an edge named {name} is enrolled; choose another name with --name, or revoke that one first: "
                f"keyfront edge revoke {name}"
            )
        transaction.connection.execute(sa.update(_edge).where(_edge.c.id == row.id).values(revoked=now))

    def _new_id(self) -> str:
        return f"{self._rng.getrandbits(128):032x}"


def _valid(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"{name[:64]!r} cannot be the name of an edge: 1 to 63 letters, digits, `.`, `_`, and `-`; "
            "choose one with --name"
        )
