"""Administration of users, their access keys, and their policies.

Terms and limits are IAM's: a user has at most two access keys, so that one can replace the other, and at most ten
policies. A role (`iam/roles.py`) is attached like a policy. Every change is one transaction with its audit record, and
increments the version by which running control planes detect it (`directory.py`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import sqlalchemy as sa

from keyfront.control.audit import records as audit
from keyfront.control.call import local_call
from keyfront.control.iam import policy as iam
from keyfront.control.iam.policy import Policy
from keyfront.control.iam.roles import ROLES
from keyfront.control.identity.credentials import new_access_key, user_arn
from keyfront.control.identity.sealing import Sealer
from keyfront.control.store.schema import access_attachment as _attachment
from keyfront.control.store.schema import access_key as _key
from keyfront.control.store.schema import access_policy as _policy
from keyfront.control.store.schema import access_user as _user
from keyfront.control.store.schema import counter as _counter
from keyfront.control.store.store import Store
from keyfront.control.store.transaction import Transaction
from keyfront.errors import ApiError

KEYS_PER_USER = 2
POLICIES_PER_USER = 10

_USER = re.compile(r"[A-Za-z0-9+=,.@_-]{1,64}")
_POLICY = re.compile(r"[A-Za-z0-9+=,.@_-]{1,128}")
_BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


class User(msgspec.Struct, frozen=True):
    """A user.

    :param id: IAM's unique id, never reused.
    :param created: epoch seconds.
    :param policies: the names of the attached roles and policies.
    """

    name: str
    id: str
    created: float
    policies: tuple[str, ...]


class Key(msgspec.Struct, frozen=True):
    """An access key without its secret.

    :param used: when it last signed a call, epoch seconds to the minute; None: never.
    """

    id: str
    owner: str
    active: bool
    created: float
    used: float | None


class Document(msgspec.Struct, frozen=True):
    """A stored policy: its JSON as given."""

    name: str
    text: str
    created: float
    modified: float


class SealedKey(msgspec.Struct, frozen=True):
    """An access key as stored. `sealer` is the name of the key that seals its secret."""

    id: str
    owner: str
    active: bool
    sealed: bytes
    sealer: str


# ---- queries


def version(transaction: Transaction) -> int:
    """A number that every change to users, keys, or policies increments."""
    found = transaction.connection.execute(sa.select(_counter.c.value).where(_counter.c.name == "access"))
    return int(found.scalar_one())


def users(transaction: Transaction) -> list[User]:
    """All users, in order of name."""
    attached: dict[str, list[str]] = {}
    for owner, policy in transaction.connection.execute(
        sa.select(_attachment.c.owner, _attachment.c.policy).order_by(_attachment.c.policy)
    ):
        attached.setdefault(owner, []).append(policy)
    rows = transaction.connection.execute(
        sa.select(_user.c.name, _user.c.id, _user.c.created).order_by(_user.c.name)
    )
    return [User(name, id_, created, tuple(attached.get(name, ()))) for name, id_, created in rows]


def keys(transaction: Transaction, owner: str = "") -> list[Key]:
    """The access keys of the user `owner`, or of all, oldest first."""
    query = sa.select(_key.c.id, _key.c.owner, _key.c.active, _key.c.created, _key.c.used)
    if owner:
        query = query.where(_key.c.owner == owner)
    rows = transaction.connection.execute(query.order_by(_key.c.owner, _key.c.created, _key.c.id))
    return [Key(id_, name, bool(active), created, used) for id_, name, active, created, used in rows]


def sealed_keys(transaction: Transaction) -> list[SealedKey]:
    """All access keys with their sealed secrets."""
    rows = transaction.connection.execute(
        sa.select(_key.c.id, _key.c.owner, _key.c.active, _key.c.sealed, _key.c.sealer)
    )
    return [SealedKey(id_, owner, bool(active), sealed, name) for id_, owner, active, sealed, name in rows]


def documents(transaction: Transaction) -> list[Document]:
    """The stored policies, in order of name, without the roles."""
    rows = transaction.connection.execute(sa.select(_policy).order_by(_policy.c.name))
    return [Document(row.name, row.document, row.created, row.modified) for row in rows]


def note_use(transaction: Transaction, key_id: str, now: float) -> None:
    """Record that the access key signed a call at `now` (epoch seconds)."""
    transaction.connection.execute(sa.update(_key).where(_key.c.id == key_id).values(used=now))


# ---- administration


class UserAdmin:
    """An operator's changes to users, keys, and policies.

    :param account: the users' 12-digit account number.
    :param sealer: returns the sealer for secrets; called when a key is created.
    :param by: the user agent in audit records.
    :param clock: epoch seconds.
    :param taken: names that users cannot have: those in the file `credentials`.
    """

    def __init__(
        self,
        store: Store,
        account: str,
        sealer: Callable[[], Sealer],
        *,
        by: str,
        clock: Callable[[], float],
        taken: Collection[str] = (),
        rng: random.Random | None = None,
    ) -> None:
        self._store = store
        self._account = account
        self._sealer = sealer
        self._by = by
        self._clock = clock
        self._taken = {name.lower() for name in taken}
        self._rng = rng or random.SystemRandom()

    # users

    def create_user(self, name: str, policies: Collection[str] = ()) -> User:
        """Create a user with these policies.

        :raises ApiError: ValidationError, EntityAlreadyExists, NoSuchEntity (a policy), or LimitExceeded.
        """
        if not _USER.fullmatch(name):
            raise ApiError(
                "ValidationError", f"{name[:80]!r} cannot be a user's name: 1 to 64 of A-Z a-z 0-9 +=,.@_-"
            )
        given = tuple(sorted(set(policies)))
        with self._change("CreateUser", {"UserName": name, "Policies": list(given)}) as (
            transaction,
            elements,
        ):
            folded = name.lower()
            if folded in self._taken or self._one(
                transaction, sa.select(_user).where(_user.c.folded == folded)
            ):
                raise ApiError("EntityAlreadyExists", f"User with name {name} already exists.", 409)
            user_id = "AIDA" + "".join(self._rng.choice(_BASE32) for _ in range(17))
            now = self._clock()
            transaction.connection.execute(
                sa.insert(_user).values(name=name, folded=folded, id=user_id, created=now)
            )
            elements["User"] = {"UserName": name, "UserId": user_id, "Arn": user_arn(self._account, name)}
            for policy in given:
                self._attach(transaction, policy, name)
        return User(name, user_id, now, given)

    def users(self) -> list[User]:
        """All users, in order of name."""
        with self._store.read() as transaction:
            return users(transaction)

    def user(self, name: str) -> User:
        """One user.

        :raises ApiError: NoSuchEntity.
        """
        with self._store.read() as transaction:
            return _user_of(transaction, name)

    def delete_user(self, name: str, *, with_keys: bool = False) -> None:
        """Delete a user, and with `with_keys` the user's access keys.

        :raises ApiError: NoSuchEntity, or DeleteConflict if the user has access keys and `with_keys` is not set.
        """
        with self._change("DeleteUser", {"UserName": name}) as (transaction, _):
            _user_of(transaction, name)
            if keys(transaction, name) and not with_keys:
                raise ApiError("DeleteConflict", "Cannot delete entity, must delete access keys first.", 409)
            transaction.connection.execute(sa.delete(_key).where(_key.c.owner == name))
            transaction.connection.execute(sa.delete(_user).where(_user.c.name == name))

    # access keys

    def create_key(self, name: str) -> tuple[Key, str]:
        """Create an access key. Returns it with its secret, which cannot be retrieved again.

        :raises ApiError: NoSuchEntity, or LimitExceeded if the user has two.
        :raises SettingsError: if there is no key to seal it with, or it differs from that of the existing keys.
        """
        with self._change("CreateAccessKey", {"UserName": name}) as (transaction, elements):
            return self._new_key(transaction, name, elements)

    def rotate_key(self, name: str) -> tuple[Key, str, Key]:
        """Create a second access key for a user that has one. Returns the new key, its secret, and the old key, which
        stays valid.

        :raises ApiError: NoSuchEntity if there is no such user or it has no key, LimitExceeded if it has two.
        """
        with self._change("CreateAccessKey", {"UserName": name}) as (transaction, elements):
            found = keys(transaction, _user_of(transaction, name).name)
            if not found:
                raise ApiError(
                    "NoSuchEntity", f"The user {name} has no access key that could be rotated.", 404
                )
            if len(found) >= KEYS_PER_USER:
                raise ApiError(
                    "LimitExceeded",
                    f"The user {name} has {KEYS_PER_USER} access keys already, {' and '.join(one.id for one in found)}:"
                    " revoke the one that is no longer used.",
                    409,
                )
            return (*self._new_key(transaction, name, elements), found[0])

    def keys(self, name: str = "") -> list[Key]:
        """The access keys of one user, or of all.

        :raises ApiError: NoSuchEntity if there is no such user.
        """
        with self._store.read() as transaction:
            return keys(transaction, name and _user_of(transaction, name).name)

    def set_active(self, key_id: str, active: bool) -> Key:
        """Activate or deactivate an access key.

        :raises ApiError: NoSuchEntity.
        """
        status = "Active" if active else "Inactive"
        with self._change("UpdateAccessKey", {"AccessKeyId": key_id, "Status": status}) as (transaction, _):
            found = _key_of(transaction, key_id)
            transaction.connection.execute(
                sa.update(_key).where(_key.c.id == key_id).values(active=int(active))
            )
        return msgspec.structs.replace(found, active=active)

    def delete_key(self, key_id: str) -> Key:
        """Revoke an access key for good.

        :raises ApiError: NoSuchEntity.
        """
        with self._change("DeleteAccessKey", {"AccessKeyId": key_id}) as (transaction, _):
            found = _key_of(transaction, key_id)
            transaction.connection.execute(sa.delete(_key).where(_key.c.id == key_id))
        return found

    def _new_key(self, transaction: Transaction, name: str, elements: dict[str, Any]) -> tuple[Key, str]:
        user, others = _user_of(transaction, name), keys(transaction, name)
        if len(others) >= KEYS_PER_USER:
            raise ApiError(
                "LimitExceeded", f"Cannot exceed quota for AccessKeysPerUser: {KEYS_PER_USER}.", 409
            )
        sealer, now = self._sealer(), self._clock()
        if other := [one.id for one in sealed_keys(transaction) if one.sealer != sealer.name]:
            raise ApiError(
                "InvalidInput",
                f"The secret of {other[0]} is sealed with a different key than this installation's; "
                "use the key that it was sealed with, or revoke it first.",
            )
        key_id, secret = new_access_key()
        transaction.connection.execute(
            sa.insert(_key).values(
                id=key_id,
                owner=name,
                active=1,
                created=now,
                used=None,
                sealed=sealer.seal(secret, key_id, user.id),
                sealer=sealer.name,
            )
        )
        elements["AccessKey"] = {"AccessKeyId": key_id, "UserName": name, "Status": "Active"}
        return Key(key_id, name, True, now, None), secret

    # policies

    def put_policy(self, name: str, text: str) -> Policy:
        """Store a policy as `name`, replacing an existing one.

        :raises ApiError: MalformedPolicyDocument, LimitExceeded, ValidationError, or EntityAlreadyExists for a role.
        """
        if not _POLICY.fullmatch(name):
            raise ApiError(
                "ValidationError", f"{name[:80]!r} cannot be a policy's name: 1 to 128 of A-Z a-z 0-9 +=,.@_-"
            )
        if name in ROLES:
            raise ApiError("EntityAlreadyExists", f"{name} is a role, which cannot be changed.", 409)
        policy = iam.parse(name, text, self._account)
        now = self._clock()
        with self._store.read() as transaction:
            known = any(one.name == name for one in documents(transaction))
        event = "CreatePolicyVersion" if known else "CreatePolicy"
        with self._change(event, {"PolicyName": name, "PolicyDocument": text}) as (transaction, _):
            changed = transaction.connection.execute(
                sa.update(_policy).where(_policy.c.name == name).values(document=text, modified=now)
            )
            if not changed.rowcount:
                transaction.connection.execute(
                    sa.insert(_policy).values(name=name, document=text, created=now, modified=now)
                )
        return policy

    def documents(self) -> list[Document]:
        """The stored policies, in order of name."""
        with self._store.read() as transaction:
            return documents(transaction)

    def delete_policy(self, name: str) -> None:
        """Delete a stored policy.

        :raises ApiError: NoSuchEntity, or DeleteConflict while it is attached.
        """
        with self._change("DeletePolicy", {"PolicyName": name}) as (transaction, _):
            if not self._one(transaction, sa.select(_policy).where(_policy.c.name == name)):
                raise ApiError("NoSuchEntity", f"There is no policy {name}.", 404)
            if holders := [user.name for user in users(transaction) if name in user.policies]:
                raise ApiError(
                    "DeleteConflict",
                    f"Cannot delete a policy attached to entities: {', '.join(holders)}.",
                    409,
                )
            transaction.connection.execute(sa.delete(_policy).where(_policy.c.name == name))

    def attach(self, policy: str, name: str) -> User:
        """Attach a policy or role to a user; does nothing if it is already attached.

        :raises ApiError: NoSuchEntity, or LimitExceeded beyond POLICIES_PER_USER.
        """
        with self._change("AttachUserPolicy", {"UserName": name, "PolicyName": policy}) as (transaction, _):
            self._attach(transaction, policy, name)
            return _user_of(transaction, name)

    def _attach(self, transaction: Transaction, policy: str, name: str) -> None:
        user = _user_of(transaction, name)
        known = policy in ROLES or self._one(transaction, sa.select(_policy).where(_policy.c.name == policy))
        if not known:
            raise ApiError("NoSuchEntity", f"There is no policy or role {policy}.", 404)
        if policy in user.policies:
            return
        if len(user.policies) >= POLICIES_PER_USER:
            raise ApiError(
                "LimitExceeded", f"Cannot exceed quota for PoliciesPerUser: {POLICIES_PER_USER}.", 409
            )
        transaction.connection.execute(sa.insert(_attachment).values(owner=name, policy=policy))

    def detach(self, policy: str, name: str) -> User:
        """Detach a policy or role from a user.

        :raises ApiError: NoSuchEntity if there is no such user, or it does not have the policy.
        """
        with self._change("DetachUserPolicy", {"UserName": name, "PolicyName": policy}) as (transaction, _):
            if policy not in _user_of(transaction, name).policies:
                raise ApiError("NoSuchEntity", f"The user {name} does not have the policy {policy}.", 404)
            transaction.connection.execute(
                sa.delete(_attachment).where(_attachment.c.owner == name, _attachment.c.policy == policy)
            )
            return _user_of(transaction, name)

    def policies_of(self, name: str) -> list[Policy]:
        """The user's roles and policies, parsed.

        :raises ApiError: NoSuchEntity.
        """
        with self._store.read() as transaction:
            texts = {one.name: one.text for one in documents(transaction)}
            return [
                ROLES[policy] if policy in ROLES else iam.parse(policy, texts[policy], self._account)
                for policy in _user_of(transaction, name).policies
            ]

    # transactions

    @contextmanager
    def _change(self, event: str, parameters: dict[str, Any]) -> Iterator[tuple[Transaction, dict[str, Any]]]:
        """A transaction that ends by writing its audit record. The dict receives the record's responseElements."""
        elements: dict[str, Any] = {}
        with self._store.write() as transaction:
            yield transaction, elements
            transaction.connection.execute(
                sa.update(_counter).where(_counter.c.name == "access").values(value=_counter.c.value + 1)
            )
            call = local_call(
                event,
                parameters,
                account=self._account,
                by=self._by,
                request_id=f"{self._rng.getrandbits(128):032x}",
                now=self._clock(),
                source="iam.amazonaws.com",
            )
            audit.append(transaction, audit.entry(call, elements, self._rng))

    @staticmethod
    def _one(transaction: Transaction, query: sa.Select[Any]) -> bool:
        return transaction.connection.execute(query).first() is not None


def _user_of(transaction: Transaction, name: str) -> User:
    for user in users(transaction):
        if user.name == name:
            return user
    raise ApiError("NoSuchEntity", f"The user with name {name} cannot be found.", 404)


def _key_of(transaction: Transaction, key_id: str) -> Key:
    for key in keys(transaction):
        if key.id == key_id:
            return key
    raise ApiError("NoSuchEntity", f"The Access Key with id {key_id} cannot be found.", 404)
