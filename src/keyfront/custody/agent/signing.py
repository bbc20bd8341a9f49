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
import threading
import time
from collections.abc import Callable
from typing import Any

from keyfront.custody.agent.audit import Audit
from keyfront.custody.agent.authorization import Caller, Rules, granted, read_policy
from keyfront.custody.key_record import LEEWAY
from keyfront.custody.signers.agent_protocol import (
    CookiesRequest,
    Described,
    KeyRequest,
    Signed,
    SignRequest,
    UrlRequest,
)
from keyfront.custody.signers.key_group_signer import KeyGroupSigner, PinnedKey
from keyfront.errors import CustodyUnavailable, NoSuchKey, PolicyError
from keyfront.signing.keys import HashName, PublicKey, cf_b64encode
from keyfront.signing.policy import Statement
from keyfront.signing.sign import hash_for, sign_cookies, sign_url

_MOST_GROUPS = 1000
_MOST_UNTRIED = 32


class Refused(Exception):
    """A refused request: the HTTP status, the name of the error, and a message for the caller."""

    def __init__(self, status: int, error: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.error = error


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

    def described(self, caller: Caller, request: KeyRequest) -> Described:
        """The key that signs for a group now."""
        return _description(self._for(caller, request.key_group).pinned(), request.key_group)

    def sign(self, caller: Caller, request: SignRequest) -> Signed:
        """Sign a policy.

        :raises Refused: if a check refuses it; so do the methods that follow.
        """
        data = request.policy.encode()
        signer = self._for(caller, request.key_group)
        for last in (False, True):
            key = signer.pinned()
            if request.key_pair_id and request.key_pair_id != key.key_pair_id:
                raise Refused(409, "KeyChanged", f"{key.key_pair_id} signs for {request.key_group!r} now")
            hash_name = hash_for(key, request.hash)
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

    def url(self, caller: Caller, request: UrlRequest) -> dict[str, object]:
        """Sign a URL."""
        now = self._clock()
        signed = sign_url(
            request.url,
            self._for(caller, request.key_group),
            expires=_end(request, now),
            starts=request.starts,
            ip=request.ip,
            resource=request.resource,
            hash_name=request.hash,
            now=now,
        )
        return {"url": signed}

    def cookies(self, caller: Caller, request: CookiesRequest) -> dict[str, object]:
        """Sign cookies; their values by name."""
        now = self._clock()
        signed = sign_cookies(
            request.resource,
            self._for(caller, request.key_group),
            expires=_end(request, now),
            starts=request.starts,
            ip=request.ip,
            hash_name=request.hash,
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


def _end(request: UrlRequest | CookiesRequest, now: float) -> int | None:
    if request.lifetime is None:
        return request.expires
    if request.expires is not None:
        raise PolicyError("give either expires or lifetime")
    return int(now + request.lifetime)
