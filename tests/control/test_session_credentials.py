"""The credentials of the console's sessions: whose they are, and when they end."""

from __future__ import annotations

import itertools

import pytest

from keyfront.control.call import Caller
from keyfront.control.identity import session_credentials as module
from keyfront.control.identity.credentials import Credentials
from keyfront.control.identity.session_credentials import LIFETIME, PER_CALLER, SessionCredentials
from keyfront.errors import ApiError

SECRET = "s" * 40


def caller(key_id: str, name: str) -> Caller:
    return Caller(key_id, f"arn:aws:iam::1:user/{name}", "1")


class Directory:
    """Callers that can change."""

    def __init__(self, *callers: Caller) -> None:
        self.now_known = Credentials((each, SECRET) for each in callers)
        self.uses: list[str] = []

    def current(self, now: float) -> Credentials:
        return self.now_known

    def used(self, key_id: str, now: float) -> None:
        self.uses.append(key_id)


def sessions(*callers: Caller) -> tuple[Directory, SessionCredentials]:
    numbers = itertools.count()
    directory = Directory(*callers)
    return directory, SessionCredentials(directory, lambda: (f"AKIA{next(numbers):016}", "t" * 40))


def test_they_stand_for_the_access_key() -> None:
    directory, found = sessions(caller("AKIAADA", "ada"))
    made = found.open("AKIAADA", SECRET, 0.0, address="192.0.2.1", agent="x" * 1000)
    assert made.id.startswith("ASIA")
    assert made.secret != SECRET
    assert len(made.agent) == 256
    assert SECRET not in repr(made)
    assert made.secret not in repr(made)
    known = found.current(1.0)
    assert known.secret_of(made.id) == made.secret
    assert known.caller(made.id) == caller("AKIAADA", "ada")
    assert known.secret_of("AKIAADA") == SECRET
    found.used(made.id, 1.0)
    assert directory.uses == ["AKIAADA"]
    assert [each.used for each in found.all(1.0)] == [1.0]
    assert found.close(made.id)
    assert not found.close(made.id)
    assert found.current(1.0).secret_of(made.id) is None


def test_wrong_credentials_get_none() -> None:
    _, found = sessions(caller("AKIAADA", "ada"))
    for key_id, secret, code in (
        ("AKIANOBODY", SECRET, "InvalidClientTokenId"),
        ("AKIAADA", "x" * 40, "SignatureDoesNotMatch"),
    ):
        with pytest.raises(ApiError) as refused:
            found.open(key_id, secret, 0.0, address="", agent="")
        assert refused.value.code == code
    assert found.all(0.0) == []


def test_they_end_with_the_key_and_with_time() -> None:
    directory, found = sessions(caller("AKIAADA", "ada"))
    made = found.open("AKIAADA", SECRET, 0.0, address="", agent="")
    assert found.find(made.id, LIFETIME - 1) is not None
    assert found.find(made.id, LIFETIME) is None
    assert found.find(made.id, -1.0) is None, "the clock was set back"
    directory.now_known = Credentials([(caller("AKIAADA", "another"), SECRET)])
    assert found.find(made.id, 1.0) is None, "the key has another owner"
    directory.now_known = Credentials([])
    assert found.find(made.id, 1.0) is None
    with pytest.raises(ApiError) as refused:
        found.current(1.0).caller(made.id)
    assert refused.value.code == "InvalidClientTokenId"


def test_they_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 30)
    _, found = sessions(*(caller(f"AKIA{name}", name) for name in ("a", "b", "c")))
    for number in range(PER_CALLER + 5):
        found.open("AKIAa", SECRET, float(number), address="", agent="")
    assert [each.opened for each in found.all(100.0)] == [float(n) for n in range(24, 4, -1)]
    for number in range(15):
        found.open("AKIAb" if number % 2 else "AKIAc", SECRET, 50.0 + number, address="", agent="")
    left = found.all(100.0)
    assert len(left) == 30
    assert min(each.opened for each in left) == 10.0, "the least recently used ended"
    found.open("AKIAa", SECRET, LIFETIME + 40.0, address="", agent="")
    assert len(found._sessions) == 16, "those that are over are gone"
