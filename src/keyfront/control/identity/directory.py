"""The current callers of a running control plane: those in the file `credentials`, and the users in the store.

Users are reloaded when they have changed, which is detected within FRESH seconds. A key revoked here or by another
control plane is rejected within that time. While the store does not respond, no call is accepted.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from keyfront.control.call import Caller
from keyfront.control.iam import policy as iam
from keyfront.control.iam.policy import Policy
from keyfront.control.iam.roles import ROLES
from keyfront.control.identity import users
from keyfront.control.identity.credentials import Credentials, user_arn
from keyfront.control.identity.sealing import Sealer
from keyfront.control.store.store import Store
from keyfront.control.store.transaction import Transaction
from keyfront.errors import ApiError, SettingsError

log = logging.getLogger("keyfront.control")

FRESH = 0.5
"""Seconds for which cached callers are used without checking for changes."""
USED_EVERY = 60.0
"""Seconds between two records of an access key's use."""

DENIES_ALL = '{"Statement": {"Effect": "Deny", "Action": "*", "Resource": "*"}}'
"""Replaces a policy that this version of Keyfront cannot parse, because it may deny something."""


class CallerDirectory:
    """The callers. Safe to use from several threads.

    :param file: the callers in the file `credentials`. They take precedence and never change.
    :param account: the users' 12-digit account number.
    :param sealer: returns the sealer that opens the secrets; called only if there are any.
    """

    def __init__(self, store: Store, file: Credentials, account: str, sealer: Callable[[], Sealer]) -> None:
        self._store = store
        self._file = file
        self._account = account
        self._sealer = sealer
        self._lock = threading.Lock()
        self._version = -1
        self._checked = 0.0
        self._failures = 0
        self._current = file
        self._used: dict[str, float] = {}

    def current(self, now: float) -> Credentials:
        """The callers at the time `now` (epoch seconds).

        :raises ApiError: ServiceUnavailable if the store does not respond.
        """
        failures = self._failures
        with self._lock:
            if self._version < 0 or abs(now - self._checked) >= FRESH:
                # If a read failed while this call waited for the lock, another one would only fail again, just as
                # slowly.
                if self._failures != failures:
                    raise ApiError("ServiceUnavailable", "The callers cannot be read from the store.", 503)
                try:
                    self._refresh(now)
                except ApiError:
                    self._failures += 1
                    raise
            return self._current

    def _refresh(self, now: float) -> None:
        with self._store.read() as transaction:
            version = users.version(transaction)
            if version != self._version:
                self._current = self._read(transaction)
        self._version, self._checked = version, now

    def used(self, key_id: str, now: float) -> None:
        """Record that the access key signed a call, at most once every USED_EVERY seconds. If the write fails, the call
        proceeds."""
        if self._file.secret_of(key_id) is not None:
            return
        with self._lock:
            if abs(now - self._used.get(key_id, -USED_EVERY)) < USED_EVERY:
                return
            self._used[key_id] = now
        try:
            with self._store.write_relaxed() as transaction:
                users.note_use(transaction, key_id, now)
        except ApiError as error:
            log.error("the use of the access key %s was not recorded: %s", key_id, error)

    def _read(self, transaction: Transaction) -> Credentials:
        texts = {one.name: one.text for one in users.documents(transaction)}
        policies = dict(ROLES) | {name: self._policy(name, text) for name, text in texts.items()}
        known = {user.name: user for user in users.users(transaction)}
        found = list(self._file)
        names = {caller.name.lower() for caller, _ in found}
        for name in sorted(name for name in known if name.lower() in names):
            log.warning(
                "the user %s and a profile in the file `credentials` have the same name in the audit log",
                name,
            )
        sealed = [key for key in users.sealed_keys(transaction) if key.active]
        try:
            sealer = self._sealer() if sealed else None
        except SettingsError as error:
            log.error("no access key in the store can be used: %s", error)
            sealer = None
        for key in sealed:
            if sealer is None:
                break
            user = known[key.owner]
            caller = Caller(
                access_key_id=key.id,
                arn=user_arn(self._account, user.name),
                account=self._account,
                user_id=user.id,
                policies=tuple(policies.get(name) or self._deny_all(name) for name in user.policies),
            )
            try:
                found.append((caller, sealer.open(key.sealed, key.id, user.id)))
            except SettingsError as error:
                log.error("%s", error)
        self._used = {key.id: self._used[key.id] for key in sealed if key.id in self._used}
        return Credentials(found)

    def _policy(self, name: str, text: str) -> Policy:
        try:
            return iam.parse(name, text, self._account)
        except ApiError as error:
            log.error("the policy %s denies everything, because it cannot be parsed: %s", name, error)
            return self._deny_all(name)

    def _deny_all(self, name: str) -> Policy:
        return iam.parse(name, DENIES_ALL, self._account)
