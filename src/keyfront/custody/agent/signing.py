"""The agent: it signs for applications that must not hold keys (docs/reference/agent.md).

A request must pass five checks, in this order, before anything is signed:

1. the caller is known: by the kernel's peer credentials of the socket, or by a token (http_app.py);
2. a rule lets the caller sign for the key group;
3. the request is a CloudFront policy that can be read in one way only;
4. a rule lets the caller grant what the policy grants, and the group's terms allow its lifetime;
5. the signature is recorded in the audit file: one that cannot be recorded is not returned.
"""

from __future__ import annotations

import base64
import collections
import contextlib
import functools
import json
import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec

from keyfront.custody.agent.authorization import Caller, Rules, granted, read_policy
from keyfront.custody.key_record import LEEWAY
from keyfront.custody.signers.agent_client import Described, Signed, Wanted
from keyfront.custody.signers.key_group_signer import KeyGroupSigner, PinnedKey
from keyfront.errors import CustodyUnavailable, NoSuchKey, PolicyError
from keyfront.signing.keys import HashName, PublicKey, cf_b64encode
from keyfront.signing.policy import MAX_EPOCH, Statement
from keyfront.signing.sign import hash_for, sign_cookies, sign_url

_MOST_GROUPS = 1000
_MOST_UNTRIED = 32


class Refused(Exception):
    """A refused request: the HTTP status, the name of the error, and a message for the caller."""

    def __init__(self, status: int, error: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.error = error


Seconds = Annotated[int, msgspec.Meta(ge=0, le=MAX_EPOCH)]
"""A time in epoch seconds, or a duration in seconds: at most what a policy can hold."""


class WantedUrl(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A URL to sign. `expires` and `starts` are epoch seconds; `lifetime`, instead of `expires`, is seconds from now.
    The other members are `sign_url`'s options."""

    key_group: str
    url: str
    expires: Seconds | None = None
    lifetime: Seconds | None = None
    starts: Seconds | None = None
    ip: str | None = None
    resource: str | None = None
    hash: HashName | None = None


class WantedCookies(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Cookies for the URLs that match `resource`; the other members are as for a URL."""

    key_group: str
    resource: str
    expires: Seconds | None = None
    lifetime: Seconds | None = None
    starts: Seconds | None = None
    ip: str | None = None
    hash: HashName | None = None


class WantedKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key_group: str


class Audit:
    """Writes one line for each signature and each refusal, to a file or to a descriptor. The file is opened for each
    line, so that it can be rotated at any time."""

    def __init__(self, path: str = "", descriptor: int = 2) -> None:
        self._path = path
        self._descriptor = descriptor

    def write(self, now: float, **fields: object) -> None:
        """Write a line with those `fields` that are not None.

        :param now: epoch seconds.
        :raises CustodyUnavailable: if it cannot be written.
        """
        time = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        given = {name: value for name, value in fields.items() if value is not None}
        data = json.dumps({"time": time, **given}).encode() + b"\n"
        try:
            if not self._path:
                written = os.write(self._descriptor, data)
            else:
                descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    written = os.write(descriptor, data)
                finally:
                    os.close(descriptor)
        except OSError as error:
            raise CustodyUnavailable(f"the signature could not be recorded: {error.strerror}") from error
        if written != len(data):
            raise CustodyUnavailable("the signature could not be recorded: the disk is full")


class Agent:
    """Signs for callers by rules, and records each signature. Safe for any thread."""

    def __init__(
        self,
        rules: Rules,
        signer: Callable[[str], KeyGroupSigner],
        audit: Audit,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """:param signer: makes the signer of a key group.
        :param clock: epoch seconds.
        """
        self._rules = rules
        self._new_signer = signer
        self._audit = audit
        self._clock = clock
        self._signers: dict[str, KeyGroupSigner] = {}
        self._untried: collections.OrderedDict[str, KeyGroupSigner] = collections.OrderedDict()
        self._lock = threading.Lock()
        self._refusals: dict[str, tuple[int, int]] = {}

    def described(self, caller: Caller, wanted: WantedKey) -> Described:
        """The key that signs for a group now."""
        return _description(self._for(caller, wanted.key_group).pinned(), wanted.key_group)

    def sign(self, caller: Caller, wanted: Wanted) -> Signed:
        """Sign a policy.

        :raises Refused: if a check refuses it; so do the methods that follow.
        """
        data = wanted.policy.encode()
        signer = self._for(caller, wanted.key_group)
        for last in (False, True):
            key = signer.pinned()
            if wanted.key_pair_id and wanted.key_pair_id != key.key_pair_id:
                raise Refused(409, "KeyChanged", f"{key.key_pair_id} signs for {wanted.key_group!r} now")
            hash_name = hash_for(key, wanted.hash)
            try:
                signature = key.sign(data, hash_name)
            except NoSuchKey:
                if last:
                    raise
                continue
            parameters = f"Signature={cf_b64encode(signature)}&Key-Pair-Id={key.key_pair_id}"
            if hash_name != "SHA1":
                parameters += f"&Hash-Algorithm={hash_name}"
            return Signed(key.key_pair_id, hash_name, base64.b64encode(signature).decode(), parameters)
        raise AssertionError("the second turn is the last")

    def url(self, caller: Caller, wanted: WantedUrl) -> dict[str, object]:
        """Sign a URL."""
        now = self._clock()
        signed = sign_url(
            wanted.url,
            self._for(caller, wanted.key_group),
            expires=_end(wanted, now),
            starts=wanted.starts,
            ip=wanted.ip,
            resource=wanted.resource,
            hash_name=wanted.hash,
            now=now,
        )
        return {"url": signed}

    def cookies(self, caller: Caller, wanted: WantedCookies) -> dict[str, object]:
        """Sign cookies; their values by name."""
        now = self._clock()
        signed = sign_cookies(
            wanted.resource,
            self._for(caller, wanted.key_group),
            expires=_end(wanted, now),
            starts=wanted.starts,
            ip=wanted.ip,
            hash_name=wanted.hash,
            secure=False,  # the application sets the attributes
            now=now,
        )
        return {"cookies": dict(signed.values)}

    def refused(self, caller: Caller | None, path: str, key_group: str | None, refused: Refused) -> None:
        """Record a refusal, at most one per second and caller, so that no caller can fill the disk."""
        now, who = self._clock(), "" if caller is None else str(caller)
        with self._lock:
            second, more = self._refusals.get(who, (0, 0))
            if second == int(now):
                self._refusals[who] = (second, more + 1)
                return
            if len(self._refusals) >= _MOST_GROUPS:
                self._refusals.clear()
            self._refusals[who] = (int(now), 0)
        with contextlib.suppress(CustodyUnavailable):
            self._audit.write(
                now,
                refused=refused.error,
                why=str(refused),
                asked=path,
                key_group=key_group,
                before=more or None,
                **_caller_fields(caller),
            )

    def _for(self, caller: Caller, key_group: str) -> _Gate:
        """Return the signer of a group for a caller, which applies checks 3 to 5.

        :raises Refused: at check 2, whether or not the group exists.
        """
        rules = self._rules.for_group(caller, key_group)
        if not rules:
            raise Refused(403, "NotAllowed", f"{caller} may not sign for key group {key_group[:100]!r}")

        def check(data: bytes, key: PinnedKey, hash_name: HashName) -> Callable[[], None]:
            statement = read_policy(data)
            now = self._clock()
            # The other half of the leeway covers the clock of the rotation that drains the key.
            if statement.expires - now > key.max_lifetime + LEEWAY / 2:
                raise PolicyError(
                    f"this would be valid for {statement.expires - now:.0f} seconds, and {key_group!r} "
                    f"allows {key.max_lifetime:.0f} at most"
                )
            if not granted(rules, statement):
                raise Refused(403, "NotAllowed", f"{caller} may not grant {_resource(statement)[:500]!r}")
            return functools.partial(
                self._audit.write,
                now,
                signed=key.key_pair_id,
                key_group=key_group,
                hash=hash_name,
                resource=_resource(statement),
                expires=statement.expires,
                starts=statement.not_before,
                **_caller_fields(caller),
            )

        return _Gate(self._follower(key_group), check)

    def _follower(self, key_group: str) -> KeyGroupSigner:
        found = self._signers.get(key_group)
        if found is not None:
            return found
        with self._lock:
            tried = self._untried.pop(key_group, None) or self._new_signer(key_group)
            self._untried[key_group] = tried
            old = self._untried.popitem(last=False)[1] if len(self._untried) > _MOST_UNTRIED else None
        if old is not None:
            old.close()
        tried.pinned()  # a signer whose group has no record is closed after a while
        with self._lock:
            if len(self._signers) >= _MOST_GROUPS:
                raise CustodyUnavailable(
                    f"the agent already follows {_MOST_GROUPS} key groups, the most that it can"
                )
            self._untried.pop(key_group, None)
            return self._signers.setdefault(key_group, tried)

    def close(self) -> None:
        """Close all signers."""
        for signer in (*self._signers.values(), *self._untried.values()):
            signer.close()


class _Gate:
    """A Signer that signs only what passes `check`, and returns a signature only once it is recorded."""

    def __init__(
        self, signer: KeyGroupSigner, check: Callable[[bytes, PinnedKey, HashName], Callable[[], None]]
    ) -> None:
        self._signer = signer
        self._check = check

    def pinned(self) -> _GatedKey:
        return _GatedKey(self._signer.pinned(), self._check)

    @property
    def key_pair_id(self) -> str:
        return self._signer.key_pair_id

    @property
    def public_key(self) -> PublicKey:
        return self._signer.public_key

    def sign(self, data: bytes, hash_name: HashName) -> bytes:
        return self.pinned().sign(data, hash_name)


class _GatedKey:
    def __init__(
        self, key: PinnedKey, check: Callable[[bytes, PinnedKey, HashName], Callable[[], None]]
    ) -> None:
        self._key = key
        self._check = check
        self.key_pair_id = key.key_pair_id
        self.public_key = key.public_key
        self.hash_names = key.hash_names
        self.hash_name = key.hash_name
        self.max_lifetime = key.max_lifetime

    def sign(self, data: bytes, hash_name: HashName) -> bytes:
        record = self._check(data, self._key, hash_name)
        signature = self._key.sign(data, hash_name)
        record()
        return signature


def _description(key: _GatedKey, key_group: str) -> Described:
    return Described(
        key_group, key.key_pair_id, key.public_key.pem, key.hash_names, key.max_lifetime, hash_for(key, None)
    )


def _resource(statement: Statement) -> str:
    """The Resource of a policy as text."""
    return (statement.resource or "*").encode("latin-1").decode("utf-8", "replace")


def _caller_fields(caller: Caller | None) -> dict[str, Any]:
    return {"caller": None if caller is None else str(caller), "pid": caller.pid or None if caller else None}


def _end(wanted: WantedUrl | WantedCookies, now: float) -> int | None:
    if wanted.lifetime is None:
        return wanted.expires
    if wanted.expires is not None:
        raise PolicyError("give either expires or lifetime")
    return int(now + wanted.lifetime)
