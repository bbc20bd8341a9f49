"""Users, access keys, policies: stored as an operator sets them, and enforced by a control plane in their current
state."""

from __future__ import annotations

import base64
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from keyfront.control.call import Caller
from keyfront.control.iam import policy as iam
from keyfront.control.iam.policy import AccessRequest, Decision
from keyfront.control.iam.roles import ADMIN, ROLES
from keyfront.control.identity import sealing, users
from keyfront.control.identity.credentials import Credentials, load
from keyfront.control.identity.directory import FRESH, USED_EVERY, CallerDirectory
from keyfront.control.identity.sealing import Sealer, sealer
from keyfront.control.identity.users import UserAdmin
from keyfront.control.store.store import Store
from keyfront.errors import ApiError, SettingsError
from tests.control.harness import ACCOUNT, BOTH, where

STORES = BOTH
NOW = 1_700_000_000.0
DENY = '{"Statement": {"Effect": "Deny", "Action": "cloudfront:Delete*", "Resource": "*"}}'


class Desk:
    """A store, an operator's administration of it, and the control plane's view of it. `now` is set by the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = NOW
        self.store = Store(where(folder))
        self.register = self.operator()
        self.file = load(folder / "credentials", ACCOUNT)
        self.access = CallerDirectory(self.store, self.file, ACCOUNT, lambda: sealer(folder, {}, make=False))

    def operator(self, **environment: str) -> UserAdmin:
        return UserAdmin(
            self.store,
            ACCOUNT,
            lambda: sealer(self.folder, environment, make=True),
            by="tests",
            clock=lambda: self.now,
            taken=["default"],
        )

    def current(self) -> Credentials:
        self.now += FRESH
        return self.access.current(self.now)

    def records(self) -> list[dict[str, Any]]:
        with self.store.read() as transaction:
            return [json.loads(row.record) for row in transaction.audit()]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.store.close()


def refused(call: Callable[..., Any], *given: Any, **named: Any) -> str:
    with pytest.raises(ApiError) as caught:
        call(*given, **named)
    return caught.value.code


# ---- users and keys


def test_a_users_life(desk: Desk) -> None:
    register = desk.register
    made = register.create_user("ci", ["key-manager", "auditor"])
    assert made.id.startswith("AIDA")
    assert register.users() == [made]
    assert register.user("ci").policies == ("auditor", "key-manager")
    assert refused(register.create_user, "ci") == "EntityAlreadyExists"
    assert refused(register.create_user, "CI") == "EntityAlreadyExists"  # names must differ by more than case
    assert refused(register.create_user, "Default") == "EntityAlreadyExists"  # the credentials file's user
    for name in ("", "a b", "a/b", "x" * 65, "é", "a\nb"):
        assert refused(register.create_user, name) == "ValidationError"
    assert refused(register.create_user, "other", ["nobody"]) == "NoSuchEntity"
    assert register.users() == [made]
    register.create_key("ci")
    assert refused(register.delete_user, "ci") == "DeleteConflict"
    register.delete_user("ci", with_keys=True)
    assert refused(register.delete_user, "ci") == "NoSuchEntity"
    assert (register.users(), register.keys()) == ([], [])
    again = register.create_user("ci")
    assert again.id != made.id
    assert again.policies == ()


def test_two_keys_at_once_and_no_third(desk: Desk) -> None:
    register = desk.register
    register.create_user("ci", ["auditor"])
    assert refused(register.rotate_key, "ci") == "NoSuchEntity"
    old, secret = register.create_key("ci")
    new, other, replaced = register.rotate_key("ci")
    assert replaced == old
    assert {key.id for key in register.keys("ci")} == {old.id, new.id}
    assert len({old.id, new.id, secret, other}) == 4
    assert refused(register.rotate_key, "ci") == "LimitExceeded"
    assert refused(register.create_key, "ci") == "LimitExceeded"
    current = desk.current()
    assert (current.secret_of(old.id), current.secret_of(new.id)) == (secret, other)
    assert current.caller(new.id) == Caller(
        new.id, f"arn:aws:iam::{ACCOUNT}:user/ci", ACCOUNT, register.user("ci").id, (ROLES["auditor"],)
    )
    register.delete_key(old.id)
    assert desk.current().secret_of(old.id) is None
    assert desk.current().secret_of(new.id) == other
    register.set_active(new.id, active=False)
    assert desk.current().secret_of(new.id) is None
    register.set_active(new.id, active=True)
    assert desk.current().secret_of(new.id) == other
    for call in (register.delete_key, lambda id_: register.set_active(id_, active=True)):
        assert refused(call, old.id) == "NoSuchEntity"
    for ask in (register.create_key, register.rotate_key, register.keys):
        assert refused(ask, "nobody") == "NoSuchEntity"


def test_the_file_goes_first_and_is_always_obeyed(desk: Desk) -> None:
    ((default, secret),) = list(desk.file)
    desk.register.create_user("ci", ["auditor"])
    desk.register.create_key("ci")
    assert desk.current().secret_of(default.access_key_id) == secret
    assert desk.current().caller(default.access_key_id).policies == (ADMIN,)


def test_a_change_counts_within_a_moment_and_not_before_a_look(desk: Desk) -> None:
    desk.register.create_user("ci", ["auditor"])
    key, secret = desk.register.create_key("ci")
    assert desk.access.current(desk.now).secret_of(key.id) == secret
    before = desk.access.current(desk.now)
    desk.register.delete_key(key.id)
    assert desk.access.current(desk.now + FRESH / 2) is before
    assert desk.access.current(desk.now + FRESH).secret_of(key.id) is None
    assert desk.access.current(desk.now - 3600).secret_of(key.id) is None  # the clock was set back
    same = desk.access.current(desk.now)
    assert desk.access.current(desk.now + 10 * FRESH) is same  # nothing changed, so nothing is read


def test_nobody_may_call_if_the_store_does_not_say_who(desk: Desk) -> None:
    desk.access.current(desk.now)
    with desk.store.write() as transaction:
        transaction.connection.exec_driver_sql("DROP TABLE access_attachment")
    desk.register.create_user("ci")
    with pytest.raises(ApiError) as caught:
        desk.current()
    assert caught.value.status == 503


class Slow:
    """A store that fails slowly."""

    def __init__(self) -> None:
        self.reads = 0
        self.begun, self.end = threading.Event(), threading.Event()

    def read(self) -> Any:
        self.reads += 1
        self.begun.set()
        assert self.end.wait(10)
        raise ApiError("ServiceUnavailable", "away", 503)


class Counting:
    """A lock that counts its acquisition attempts."""

    def __init__(self) -> None:
        self.attempts = 0
        self._lock, self._count = threading.Lock(), threading.Lock()

    def __enter__(self) -> None:
        with self._count:
            self.attempts += 1
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_those_who_wait_for_a_store_that_fails_do_not_wait_one_after_the_other(tmp_path: Path) -> None:
    slow: Any = Slow()
    access = CallerDirectory(
        slow, load(tmp_path / "credentials", ACCOUNT), ACCOUNT, lambda: Sealer(bytes(32))
    )
    lock: Any = Counting()
    access._lock = lock
    codes: list[str] = []
    threads = [threading.Thread(target=lambda: codes.append(refused(access.current, NOW))) for _ in range(8)]
    threads[0].start()
    assert slow.begun.wait(10)
    for thread in threads[1:]:
        thread.start()
    while lock.attempts < 8:
        time.sleep(0.001)
    slow.end.set()
    for thread in threads:
        thread.join(10)
    assert codes == ["ServiceUnavailable"] * 8
    assert slow.reads == 1
    assert refused(access.current, NOW) == "ServiceUnavailable"  # later callers try again
    assert slow.reads == 2


def test_the_last_use_is_noted_now_and_then(desk: Desk) -> None:
    desk.register.create_user("ci", ["auditor"])
    key, _ = desk.register.create_key("ci")
    assert desk.register.keys()[0].used is None
    desk.current()
    for later, used in [
        (0, 0),
        (1, 0),
        (USED_EVERY - 1, 0),
        (USED_EVERY, USED_EVERY),
        (3 * USED_EVERY, None),
    ]:
        desk.access.used(key.id, NOW + later)
        assert desk.register.keys()[0].used == NOW + (later if used is None else used)
    ((default, _),) = list(desk.file)
    desk.access.used(default.access_key_id, NOW)  # use of the file's key is not recorded
    desk.access.used("AKIANOBODY", NOW)


# ---- secrets


def test_secrets_are_sealed(desk: Desk) -> None:
    desk.register.create_user("ci", ["auditor"])
    key, secret = desk.register.create_key("ci")
    with desk.store.read() as transaction:
        (sealed,) = users.sealed_keys(transaction)
    assert secret.encode() not in sealed.sealed
    assert not any(secret in json.dumps(record) for record in desk.records())
    assert secret not in repr(desk.current())
    for path in desk.folder.iterdir():
        assert secret.encode() not in path.read_bytes(), path
    assert (desk.folder / "access.key").stat().st_mode & 0o777 == 0o600
    one = sealer(desk.folder, {}, make=False)
    user = desk.register.user("ci")
    assert one.open(sealed.sealed, key.id, user.id) == secret
    spoilt = bytes([sealed.sealed[0] ^ 1]) + sealed.sealed[1:]
    for bytes_, key_id, user_id, by in [
        (sealed.sealed, "AKIAOTHER", user.id, one),
        (sealed.sealed, key.id, "AIDAOTHER", one),
        (spoilt, key.id, user.id, one),
        (sealed.sealed[:20], key.id, user.id, one),
        (b"", key.id, user.id, one),
        (sealed.sealed, key.id, user.id, Sealer(bytes(32))),
    ]:
        with pytest.raises(SettingsError) as caught:
            by.open(bytes_, key_id, user_id)
        assert secret not in str(caught.value)


def test_a_key_of_ones_own_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = base64.b64encode(bytes(range(32))).decode()
    assert sealer(tmp_path, {sealing.VARIABLE: text}, make=True).name == Sealer(bytes(range(32))).name
    assert not (tmp_path / sealing.FILE).exists()
    for bad in ("short", "ü", text[:-4], text + "AAAA", "!" * 44):
        with pytest.raises(SettingsError, match="32 bytes in base64") as caught:
            sealer(tmp_path, {sealing.VARIABLE: bad}, make=True)
        assert bad not in str(caught.value)
    with pytest.raises(SettingsError, match="bring it back"):
        sealer(tmp_path, {}, make=False)
    made = sealer(tmp_path, {}, make=True)
    assert sealer(tmp_path, {}, make=True).name == made.name
    (tmp_path / sealing.FILE).chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        sealer(tmp_path, {}, make=False)


def test_keys_are_sealed_under_one_key(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.register.create_user("ci", ["auditor"])
    key, _ = desk.register.create_key("ci")
    other = desk.operator(**{sealing.VARIABLE: base64.b64encode(bytes(32)).decode()})
    assert refused(other.create_key, "ci") == "InvalidInput"
    wrong = CallerDirectory(desk.store, desk.file, ACCOUNT, lambda: Sealer(bytes(32)))
    none = CallerDirectory(
        desk.store, desk.file, ACCOUNT, lambda: sealer(desk.folder / "lost", {}, make=False)
    )
    with caplog.at_level(logging.ERROR):
        for access in (wrong, none):
            assert access.current(NOW).secret_of(key.id) is None
            assert len(access.current(NOW)) == 1  # the file's own key still authenticates
    assert f"the secret of the access key {key.id} cannot be opened" in caplog.text
    assert "no access key in the store can be used" in caplog.text
    other.delete_key(key.id)
    other.create_key("ci")


# ---- policies


def test_a_policys_life(desk: Desk) -> None:
    register = desk.register
    register.create_user("ci", ["auditor"])
    register.put_policy("no-delete", DENY)
    assert refused(register.put_policy, "bad", "{}") == "MalformedPolicyDocument"
    assert refused(register.put_policy, "admin", DENY) == "EntityAlreadyExists"
    assert refused(register.put_policy, "a b", DENY) == "ValidationError"
    assert refused(register.attach, "nothing", "ci") == "NoSuchEntity"
    assert refused(register.attach, "no-delete", "nobody") == "NoSuchEntity"
    assert refused(register.detach, "no-delete", "ci") == "NoSuchEntity"
    assert register.attach("no-delete", "ci").policies == ("auditor", "no-delete")
    assert register.attach("no-delete", "ci").policies == ("auditor", "no-delete")
    assert refused(register.delete_policy, "no-delete") == "DeleteConflict"
    key, _ = register.create_key("ci")
    assert [policy.name for policy in desk.current().caller(key.id).policies] == ["auditor", "no-delete"]
    changed = DENY.replace("Delete*", "*")
    register.put_policy("no-delete", changed)
    assert [one.text for one in register.documents()] == [changed]
    assert len(desk.current().caller(key.id).policies[1].statements[0].actions[0].text) == len("cloudfront:*")
    assert register.detach("no-delete", "ci").policies == ("auditor",)
    register.delete_policy("no-delete")
    assert refused(register.delete_policy, "no-delete") == "NoSuchEntity"
    assert register.documents() == []
    assert [policy.name for policy in register.policies_of("ci")] == ["auditor"]
    for number in range(9):
        register.put_policy(f"p{number}", DENY)
        register.attach(f"p{number}", "ci")
    assert refused(register.attach, "admin", "ci") == "LimitExceeded"


def test_a_policy_that_cannot_be_read_any_more_denies_everything(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.register.create_user("ci", ["admin"])
    desk.register.put_policy("old", DENY)
    desk.register.attach("old", "ci")
    key, _ = desk.register.create_key("ci")
    with desk.store.write() as transaction:
        transaction.connection.exec_driver_sql("UPDATE access_policy SET document = '{}'")
    with caplog.at_level(logging.ERROR):
        caller = desk.current().caller(key.id)
    assert "old denies everything" in caplog.text
    access = AccessRequest("cloudfront:ListKeyGroups", "*", {})
    decision = iam.evaluate(caller.policies, access)
    assert decision == Decision(allowed=False, policy="old", statement="Statement[0]")


def test_every_change_is_recorded_and_the_chain_is_whole(desk: Desk) -> None:
    register = desk.register
    register.create_user("ci", ["auditor"])
    key, _ = register.create_key("ci")
    register.put_policy("p", DENY)
    register.put_policy("p", DENY)
    register.attach("p", "ci")
    register.set_active(key.id, active=False)
    refused(register.delete_policy, "p")
    register.detach("p", "ci")
    register.delete_policy("p")
    register.delete_key(key.id)
    register.delete_user("ci")
    records = desk.records()
    assert [record["eventName"] for record in records] == [
        "CreateUser",
        "CreateAccessKey",
        "CreatePolicy",
        "CreatePolicyVersion",
        "AttachUserPolicy",
        "UpdateAccessKey",
        "DetachUserPolicy",
        "DeletePolicy",
        "DeleteAccessKey",
        "DeleteUser",
    ]
    first, second = records[:2]
    assert first["eventSource"] == "iam.amazonaws.com"
    assert first["userIdentity"] == {
        "type": "Root",
        "principalId": ACCOUNT,
        "arn": f"arn:aws:iam::{ACCOUNT}:root",
        "accountId": ACCOUNT,
    }
    assert first["requestParameters"] == {"userName": "ci", "policies": ["auditor"]}
    assert second["responseElements"] == {
        "accessKey": {"accessKeyId": key.id, "userName": "ci", "status": "Active"}
    }
    assert (first["readOnly"], first["userAgent"], first["sourceIPAddress"]) == (False, "tests", "local")
    assert "apiVersion" not in first


def test_many_operators_at_once(desk: Desk) -> None:
    desk.register.create_user("ci", ["auditor"])
    outcomes: list[str] = []

    def one() -> None:
        try:
            desk.operator().create_key("ci")
            outcomes.append("made")
        except ApiError as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["LimitExceeded"] * 6 + ["made"] * 2
