"""Signers that follow a key group's record: which key they sign with, for how long, and when they refuse."""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
import threading
import weakref
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

import keyfront
from keyfront.custody import open_place, open_records
from keyfront.custody.contract import HeldKey, Record
from keyfront.custody.key_record import Entry, KeyGroupRecord, RotationPolicy, Stage, record_name, save
from keyfront.custody.local_handle import LoadedHandle, Watch
from keyfront.custody.signers import key_group_signer
from keyfront.custody.signers.key_group_signer import KeyGroupSigner, KeySource, signer_for
from keyfront.errors import CustodyError, CustodyUnavailable, NoSuchKey, PolicyError, SigningError
from keyfront.signing.keys import Algorithm
from keyfront.signing.sign import Signer, sign_cookies, sign_url
from keyfront.signing.verify import KeyRing
from tests.custody.groups import NOW, URL, Clock, Group, key, key_of, signed, verdict
from tests.custody.memory import MemoryHandle, MemoryPlace
from tests.rows import rows

MAX_STALENESS = 600.0  # a term of `Group`


@pytest.fixture
def place() -> MemoryPlace:
    return MemoryPlace()


@pytest.fixture
def group(place: MemoryPlace) -> Group:
    group = Group(place)
    group.sign_with("KA")
    return group


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_it_is_a_signer_like_any_other(group: Group) -> None:
    signer: Signer = group.signer()
    assert signer.key_pair_id == "KA"
    assert signer.public_key == key("KA").public_key
    assert verdict(signed(signer), group.ring) == "granted"
    cookies = sign_cookies("https://cdn.test/*", signer, expires=timedelta(hours=1), now=NOW)
    assert cookies.values["CloudFront-Key-Pair-Id"] == "KA"
    data = b"anything"
    assert signer.public_key.verify(data, signer.sign(data, "SHA256"), "SHA256")


def test_nothing_is_read_before_the_first_signature_nor_for_those_after(
    place: MemoryPlace, group: Group
) -> None:
    before = place.calls
    signer = group.signer(clock=Clock())
    assert place.calls == before
    for _ in range(100):
        signed(signer)
    assert place.calls == before + 2, "the record, and the key"


def test_it_switches_when_it_has_seen_the_record_and_not_before(group: Group, clock: Clock) -> None:
    signer = group.signer(clock=clock)
    assert key_of(signed(signer)) == "KA"
    group.sign_with("KB", "RSA-2048")
    assert key_of(signed(signer)) == "KA"
    signer.refresh()
    url = signed(signer)
    assert (key_of(url), verdict(url, group.ring)) == ("KB", "granted")
    assert "Hash-Algorithm" not in url


def test_the_thread_follows_by_itself(group: Group) -> None:
    signer = group.signer(background=True, interval=0.01)
    try:
        assert key_of(signed(signer)) == "KA"
        seen = threading.Event()
        group.sign_with("KB")
        group.place.on_ask = lambda: seen.set() if key_of(signed(signer)) == "KB" else None
        assert seen.wait(10)
    finally:
        signer.close()


def test_the_thread_leaves_the_random_numbers_of_the_application_alone(group: Group) -> None:
    """An application may have seeded `random`. Hypothesis does, and fails if another thread draws from it."""
    signer = group.signer(background=True, interval=0.01)
    reads = 0
    several = threading.Event()

    def count() -> None:
        nonlocal reads
        reads += 1
        if reads > 3:
            several.set()

    state = random.getstate()
    try:
        signed(signer)
        group.place.on_ask = count
        assert several.wait(10)
    finally:
        signer.close()
    assert random.getstate() == state


def test_what_is_pinned_stays_itself(group: Group, clock: Clock) -> None:
    signer = group.signer(clock=clock)
    pinned = signer.pinned()
    group.sign_with("KB")
    signer.refresh()
    assert pinned.key_pair_id == "KA"
    assert key("KA").public_key.verify(b"x", pinned.sign(b"x", "SHA256"), "SHA256")
    assert signer.pinned().key_pair_id == "KB"


def test_what_is_pinned_does_not_outlive_its_time(group: Group, clock: Clock) -> None:
    """A process that kept it forever would sign with a key that was retired long ago."""
    signer = group.signer(clock=clock)
    pinned = signer.pinned()
    clock.now += MAX_STALENESS - 1
    signer.refresh()
    assert signer.pinned() is pinned
    clock.now += MAX_STALENESS - 1
    pinned.sign(b"x", "SHA256")
    group.sign_with("KB")
    signer.refresh()
    pinned.sign(b"x", "SHA256")
    clock.now += 1
    with pytest.raises(NoSuchKey, match="too long ago"):
        pinned.sign(b"x", "SHA256")
    with pytest.raises(NoSuchKey, match="too long ago"):
        signed(pinned)
    other = signer.pinned()
    group.sign_with("KC", before=Stage.RETIRED)
    signer.refresh()
    with pytest.raises(NoSuchKey):
        other.sign(b"x", "SHA256")


def test_under_load_no_signature_ever_mixes_two_keys(group: Group) -> None:
    """Four threads sign as fast as they can while the key changes twenty times, alternating between RSA and ECDSA."""
    signer = group.signer()
    urls: list[list[str]] = [[] for _ in range(4)]
    ended = threading.Event()

    def sign_on(made: list[str]) -> None:
        while not ended.is_set():
            made.append(signed(signer))

    threads = [threading.Thread(target=sign_on, args=(made,)) for made in urls]
    kinds: tuple[Algorithm, Algorithm] = ("ECDSA-P256", "RSA-2048")
    names = [(f"K{number % 4}", kinds[number % 2]) for number in range(20)]
    for name, algorithm in names[:4]:
        key(name, algorithm)  # generating RSA keys takes time
    signer.refresh()
    for thread in threads:
        thread.start()
    for name, algorithm in names:
        group.sign_with(name, algorithm)
        signer.refresh()
        before = sum(map(len, urls))
        while sum(map(len, urls)) < before + 8:
            ended.wait(0.001)
    ended.set()
    for thread in threads:
        thread.join()
    made = [url for one in urls for url in one]
    assert {key_of(url) for url in made} == {"KA", "K0", "K1", "K2", "K3"}
    assert {verdict(url, group.ring) for url in set(made)} == {"granted"}


# ---- while the place is unreachable


def test_it_goes_on_for_as_long_as_the_terms_allow_and_no_longer(group: Group, clock: Clock) -> None:
    signer = group.signer(clock=clock)
    signed(signer)
    group.place.cut_off = True
    clock.now += MAX_STALENESS - 1
    with pytest.raises(CustodyUnavailable):
        signer.refresh()
    assert verdict(signed(signer), group.ring) == "granted"
    clock.now += 1
    with pytest.raises(CustodyUnavailable, match="could not be read for too long"):
        signed(signer)
    group.place.cut_off = False
    clock.now += 1
    assert verdict(signed(signer), group.ring) == "granted"


def test_a_record_that_takes_too_long_to_read_is_named_as_the_reason(group: Group, clock: Clock) -> None:
    """Nothing failed, so there is no error to quote."""

    class Slow(MemoryPlace):
        def read(self, name: str) -> Record | None:
            clock.now += MAX_STALENESS
            return group.place.read(name)

    slow = Slow()
    source = KeySource(lambda: slow, group.place.handle)
    signer = KeyGroupSigner(group.name, source, clock=clock, background=False)
    with pytest.raises(CustodyUnavailable, match="reading it takes longer than signers may") as refused:
        signed(signer)
    assert "None" not in str(refused.value)


def test_who_signs_does_not_wait_again_and_again_for_a_place_that_is_away(group: Group, clock: Clock) -> None:
    signer = group.signer(clock=clock)
    group.place.cut_off = True
    before = group.place.calls
    for _ in range(50):
        with pytest.raises(CustodyUnavailable):
            signed(signer)
    assert group.place.calls == before + 1
    clock.now += 1
    group.place.cut_off = False
    assert key_of(signed(signer)) == "KA"


def test_a_record_that_is_old_is_read_by_who_signs_where_no_thread_does(group: Group, clock: Clock) -> None:
    """Also if it becomes stale just after the last read."""
    group.write(terms=msgspec.structs.replace(group.terms, max_staleness=0.25))
    signer = group.signer(clock=clock)
    for name in ("KA", "KB", "KC"):
        group.sign_with(name)
        clock.now += 0.25
        assert key_of(signed(signer)) == name


def test_time_counts_from_before_the_record_was_asked_for(group: Group, clock: Clock) -> None:
    def slow() -> None:
        clock.now += 100

    group.place.on_ask = slow
    signer = group.signer(clock=clock)
    signed(signer)  # the record is read at 1000, the key exists at 1200
    group.place.cut_off = True
    clock.now = 1000 + MAX_STALENESS - 1
    signed(signer)
    clock.now = 1000 + MAX_STALENESS
    with pytest.raises(CustodyUnavailable):
        signed(signer)


def test_a_record_that_takes_longer_to_read_than_it_may_be_old(group: Group, clock: Clock) -> None:
    def slow() -> None:
        clock.now += MAX_STALENESS + 1

    group.place.on_ask = slow
    with pytest.raises(CustodyUnavailable, match="reading it takes longer than signers may") as refused:
        signed(group.signer(clock=clock))
    assert "None" not in str(refused.value)


def test_a_group_without_a_record(place: MemoryPlace) -> None:
    with pytest.raises(CustodyError, match="there is no record of key group 'films'"):
        signed(Group(place).signer())


def test_a_record_that_is_removed_counts_as_not_seen(group: Group, clock: Clock) -> None:
    signer = group.signer(clock=clock)
    signed(signer)
    stored = group.stored()
    assert stored is not None
    group.place.remove(record_name("films"), stored.version)
    with pytest.raises(CustodyError):
        signer.refresh()
    signed(signer)
    clock.now += MAX_STALENESS
    with pytest.raises(CustodyError, match="no record"):
        signed(signer)


def test_an_adapters_own_errors_end_nothing(group: Group, clock: Clock) -> None:
    signer = group.signer(clock=clock)
    signed(signer)

    def broken() -> None:
        raise ZeroDivisionError("a bug")

    group.place.on_ask = broken
    with pytest.raises(CustodyUnavailable, match="ZeroDivisionError"):
        signer.refresh()
    signed(signer)


# ---- records that are not simply the next version


def test_a_return_to_an_earlier_key_is_followed_and_an_old_copy_is_not(group: Group, clock: Clock) -> None:
    signer = group.signer(clock=clock)
    name = record_name("films")
    signer.refresh()
    first = group.place.texts[name]
    group.sign_with("KB")
    signer.refresh()
    group.place.texts[name] = first  # a replica that lags, a restored volume
    with pytest.raises(CustodyUnavailable, match="old copy"):
        signer.refresh()
    assert key_of(signed(signer)) == "KB"
    clock.now += MAX_STALENESS
    with pytest.raises(CustodyUnavailable, match="old copy"):
        signed(signer)
    clock.now += 1
    group.written += 10
    group.sign_with("KA")  # deliberately, through the record
    assert key_of(signed(signer)) == "KA"


def test_two_records_of_one_serial(group: Group, clock: Clock) -> None:
    signer = group.signer(clock=clock)
    signer.refresh()
    stored = group.stored()
    assert stored is not None
    forged = msgspec.structs.replace(stored.record, key_group_id="kg-2")
    group.place.write(record_name("films"), forged.to_bytes(), stored.version)
    with pytest.raises(CustodyUnavailable, match="old copy"):
        signer.refresh()


@pytest.mark.parametrize("data", [b"", b"{}", b'{"group":"films"}', b"\xff" * 100])
def test_a_damaged_record_counts_as_not_seen(group: Group, clock: Clock, data: bytes) -> None:
    signer = group.signer(clock=clock)
    signer.refresh()
    stored = group.stored()
    assert stored is not None
    group.place.write(record_name("films"), data, stored.version)
    with pytest.raises(CustodyError, match="cannot be read"):
        signer.refresh()
    assert key_of(signed(signer)) == "KA"


def test_when_no_key_signs_nobody_does(group: Group, clock: Clock) -> None:
    """An emergency without a successor available: immediately, and not only when the record has become stale."""
    signer = group.signer(clock=clock)
    signed(signer)
    stored = group.stored()
    assert stored is not None
    group.write(tuple(group.into(entry, Stage.RETIRED) for entry in stored.record.entries))
    with pytest.raises(CustodyError, match="no key of key group 'films' signs now"):
        signer.refresh()
    with pytest.raises(CustodyError, match="no key of key group 'films' signs now"):
        signed(signer)
    clock.now += 1
    group.sign_with("KB")
    assert key_of(signed(signer)) == "KB"


# ---- a key that cannot be used


def test_a_key_that_edges_are_to_trust_no_more_does_not_sign_until_its_successor_does(
    group: Group, clock: Clock
) -> None:
    *others, entry = group.sign_with("K1").entries
    signer = group.signer(clock=clock)
    assert key_of(signed(signer)) == "K1"
    held = signer.pinned()
    group.write(
        (*others, msgspec.structs.replace(entry, compromised=True))
    )  # no other key can sign, and links keep working
    signer.refresh()
    assert key_of(signed(signer)) == "K1"
    group.write((*others, msgspec.structs.replace(entry, compromised=True, leaving=NOW)))
    with pytest.raises(CustodyError, match="is compromised, and its successor does not sign yet"):
        signer.refresh()
    for follower in (signer, group.signer(clock=clock)):
        with pytest.raises(CustodyError, match="is compromised, and its successor does not sign yet"):
            signed(follower)
    with pytest.raises(CustodyError):
        held.sign(b"data", "SHA256")
    group.sign_with("K2")
    clock.now += 2
    signer.refresh()
    assert key_of(signed(signer)) == "K2"


def test_a_key_that_does_not_open_is_not_switched_to(group: Group, clock: Clock) -> None:
    signer = group.signer(clock=clock)
    signed(signer)
    group.sign_with("KB")
    there = group.place.keys.pop("memory:/KB")
    clock.now += 10
    with pytest.raises(NoSuchKey):
        signer.refresh()
    assert key_of(signed(signer)) == "KA", "it drains, and is trusted"
    clock.now += MAX_STALENESS - 10
    with pytest.raises(NoSuchKey):
        signed(signer)
    group.place.keys["memory:/KB"] = there
    clock.now += 1
    assert key_of(signed(signer)) == "KB"


def test_a_key_that_is_trusted_no_more_is_left_even_if_the_next_does_not_open(
    group: Group, clock: Clock
) -> None:
    signer = group.signer(clock=clock)
    signed(signer)
    group.sign_with("KB", before=Stage.RETIRED)
    del group.place.keys["memory:/KB"]
    with pytest.raises(NoSuchKey):
        signer.refresh()
    with pytest.raises(NoSuchKey):
        signed(signer)


def test_a_key_is_tried_before_it_signs(group: Group, clock: Clock) -> None:
    signer = group.signer(clock=clock)
    signed(signer)
    group.sign_with("KB")
    handle = group.place.handle("memory:/KB")
    handle.public_key = key("KC").public_key
    group.place.handle = lambda uri: handle  # type: ignore[method-assign]
    signer._source = KeySource(lambda: group.place, group.place.handle)
    with pytest.raises(CustodyError, match="does not sign as its own public key says"):
        signer.refresh()
    assert key_of(signed(signer)) == "KA"


def test_another_key_than_the_one_that_cloudfront_knows(group: Group, clock: Clock) -> None:
    signer = group.signer(clock=clock)
    stored = group.stored()
    assert stored is not None
    (entry,) = stored.record.entries
    group.write((msgspec.structs.replace(entry, fingerprint=key("KA").public_key.fingerprint),))
    signer.refresh()
    group.write((msgspec.structs.replace(entry, fingerprint="00" * 32, key_pair_id="KX"),))
    with pytest.raises(CustodyError, match="another key than the one that CloudFront calls KX"):
        signer.refresh()


def test_a_key_that_is_gone_from_custody_is_left_in_the_same_breath() -> None:
    """For a KMS, in an emergency: the key was deleted, the record names another one, and this process has not read it
    yet."""
    clock = Clock()
    group = Group(MemoryPlace(remote=True))
    group.sign_with("KA")
    signer = group.signer(clock=clock)
    signed(signer)
    group.sign_with("KB", before=Stage.RETIRED)
    del group.place.keys["memory:/KA"]
    url = signed(signer)
    assert (key_of(url), verdict(url, group.ring)) == ("KB", "granted")
    del group.place.keys["memory:/KB"]
    clock.now += 5
    with pytest.raises(NoSuchKey):
        signed(signer)


def test_a_key_that_asks_its_place_does_so_while_nobody_waits(group: Group, clock: Clock) -> None:
    """A key from Secrets Manager, held in memory and rechecked now and then (loaded.py)."""
    threads: list[str] = []
    held = HeldKey("awssm:k/KA", "KA", key("KA").public_key, NOW, exportable=True)

    def describe() -> HeldKey:
        threads.append(threading.current_thread().name)
        return held

    handle = LoadedHandle(held.uri, key("KA"), Watch(describe, held, 3600.0))
    signer = KeyGroupSigner(
        "films", KeySource(lambda: group.place, lambda _: handle), clock=clock, background=False
    )
    signed(signer)
    assert threads == []
    signer.refresh()
    assert len(threads) == 1
    signed(signer)
    assert len(threads) == 1
    held = msgspec.structs.replace(held, delete_at=NOW)
    with pytest.raises(NoSuchKey):
        signer.refresh()


# ---- terms


def test_nothing_is_signed_for_longer_than_the_terms_allow(group: Group, clock: Clock) -> None:
    signer = group.signer(clock=clock)
    signed(signer, 7200)
    for lifetime in (7201, 10**6):
        with pytest.raises(PolicyError, match="7200 at most"):
            signed(signer, lifetime)
    with pytest.raises(PolicyError, match="at most"):
        sign_url(URL, signer, expires=timedelta(hours=3))
    sign_url(URL, signer, expires=timedelta(hours=2))
    with pytest.raises(PolicyError, match="at most"):
        sign_cookies("https://cdn.test/*", signer, expires=int(NOW) + 7201, now=NOW)
    late = '{"Statement":[{"Resource":"*","Condition":{"DateLessThan":{"AWS:EpochTime":4000000000}}}]}'
    with pytest.raises(PolicyError, match="at most"):
        sign_url(URL, signer, policy=late)
    group.write(terms=msgspec.structs.replace(group.terms, max_lifetime=60.0))
    signer.refresh()
    with pytest.raises(PolicyError, match="60 at most"):
        signed(signer, 61)
    assert verdict(signed(signer, 60), group.ring) == "granted"


@rows(
    ("requested", "terms", "given", "found"),
    [
        (None, None, None, "SHA256"),
        (None, "SHA1", None, None),
        (None, "SHA1", "SHA256", "SHA256"),
        ("SHA1", "SHA256", None, None),
        ("SHA256", "SHA1", None, "SHA256"),
    ],
)
def test_which_hash(requested: str, terms: str, given: str, found: str | None) -> None:
    group = Group(MemoryPlace(), RotationPolicy("memory:/", hash_name=terms))  # type: ignore[arg-type]
    group.sign_with("KA")
    url = signed(group.signer(hash_name=requested), hash_name=given)  # type: ignore[arg-type]
    assert (f"Hash-Algorithm={found}" in url) if found else ("Hash-Algorithm" not in url)
    assert verdict(url, group.ring) == "granted"


def test_a_hash_that_the_key_cannot_use() -> None:
    group = Group(MemoryPlace(), RotationPolicy("memory:/", hash_name="SHA1"))
    group.sign_with("KA")
    handle = group.place.handle("memory:/KA")
    handle.hash_names = ("SHA256",)
    for requested in (None, "SHA1"):
        signer = KeyGroupSigner(
            "films", KeySource(lambda: group.place, lambda _: handle), background=False, hash_name=requested
        )
        if requested is None:
            assert "Hash-Algorithm=SHA256" in signed(signer)
            with pytest.raises(SigningError, match="cannot sign with SHA1"):
                signed(signer, hash_name="SHA1")
        else:
            with pytest.raises(CustodyError, match="cannot sign with SHA1"):
                signed(signer)


# ---- processes and threads


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_of_a_fork_reads_anew(group: Group, clock: Clock) -> None:
    """gunicorn's preload: children open their own handles for what the parent has opened."""
    signer = group.signer(background=True, clock=clock)
    assert key_of(signed(signer)) == "KA"
    group.sign_with("KB")
    signer._lock.acquire()  # held by a thread that the child will not have
    child = os.fork()
    if child == 0:
        os._exit(0 if key_of(signed(signer)) == "KB" and signer._thread is not None else 1)
    signer._lock.release()
    assert os.waitpid(child, 0)[1] == 0
    assert key_of(signed(signer)) == "KA"
    signer.close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_key_in_memory_survives_a_fork_while_its_place_is_away(group: Group, clock: Clock) -> None:
    for in_memory, code in ((True, 0), (False, 1)):
        group.place.in_memory = in_memory
        group.place.cut_off = False
        signer = group.signer(clock=clock)
        signed(signer)
        group.place.cut_off = True
        child = os.fork()
        if child == 0:
            try:
                if key_of(signed(signer)) != "KA":
                    os._exit(2)
                group.place.cut_off = False
                signer.refresh()
                handle = signer.pinned().handle
                os._exit(0 if isinstance(handle, MemoryHandle) and handle.opened_by == os.getpid() else 3)
            except CustodyUnavailable:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == code


def test_a_signer_that_is_forgotten_leaves_no_thread(group: Group) -> None:
    signer = group.signer(background=True, interval=0.01)
    signed(signer)
    thread, known = signer._thread, weakref.ref(signer)
    assert thread is not None
    del signer
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()
    assert known() is None


def test_a_signer_that_is_closed_signs_no_more(group: Group) -> None:
    signer = group.signer(background=True)
    signed(signer)
    thread = signer._thread
    assert thread is not None
    signer.close()
    thread.join(10)
    assert not thread.is_alive()
    with pytest.raises(CustodyError, match="closed"):
        signed(signer)


# ---- one key


def test_one_key_in_custody(tmp_path: Path) -> None:
    made = open_place(f"file:{tmp_path}/keys/").create("a", "RSA-2048", now=NOW)
    signer: Signer = keyfront.CustodySigner("KA", made.uri)
    assert verdict(signed(signer), KeyRing({"KA": made.public_key})) == "granted"
    assert verdict(signed(signer, hash_name="SHA256"), KeyRing({"KA": made.public_key})) == "granted"
    with pytest.raises(NoSuchKey):
        keyfront.CustodySigner("KB", f"file:{tmp_path}/keys/b")
    with pytest.raises(SigningError, match="not a key pair id"):
        keyfront.CustodySigner("K B", made.uri)
    with pytest.raises(AttributeError):
        keyfront.custody_signer  # type: ignore[attr-defined]


# ---- signer_for


def test_signer_for_gives_the_same_signer_again_and_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_group_signer, "_signers", {})
    monkeypatch.delenv("KEYFRONT_AGENT", raising=False)
    monkeypatch.setenv("KEYFRONT_RECORDS", "file:/nowhere/custody/")
    signer = signer_for("films")
    assert keyfront.signer_for is signer_for
    assert signer is signer_for("films")
    assert signer is signer_for("films", records="file:/nowhere/custody/")
    assert signer is not signer_for("photos")
    monkeypatch.setenv("KEYFRONT_RECORDS", "file:/elsewhere/custody/")
    assert signer is not signer_for("films")
    monkeypatch.delenv("KEYFRONT_RECORDS")
    monkeypatch.setenv("XDG_DATA_HOME", "/home/of")
    with pytest.raises(CustodyError, match="/home/of/keyfront/custody/"):
        signer_for("films").refresh()


@rows(
    ("arguments", "error"),
    [
        ({"records": "nothing:/k/"}, CustodyError),
        ({"agent": "tcp:9"}, CustodyError),
        ({"agent": "unix:/a", "records": "file:/k/"}, CustodyError),
        ({"hash_name": "MD5"}, SigningError),
        ({"interval": 0}, CustodyError),
    ],
)
def test_what_signer_for_cannot_mean(arguments: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        signer_for("films", **arguments)  # type: ignore[arg-type]


def test_to_import_keyfront_loads_no_custody() -> None:
    code = (
        "import sys, keyfront; assert not any('custody' in name for name in sys.modules); "
        "keyfront.signer_for('x', records='file:/nowhere/'); import threading; assert threading.active_count() == 1; "
        "assert 'http.client' not in sys.modules and 'botocore' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_keys_are_opened_only_where_they_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write access to a record must not decide what this process loads."""
    monkeypatch.setattr(key_group_signer, "_signers", {})
    own, theirs = f"file:{tmp_path}/own/", f"file:{tmp_path}/theirs/"
    made = open_place(own).create("a", "ECDSA-P256", now=NOW)
    other = open_place(theirs).create("b", "ECDSA-P256", now=NOW)
    record = KeyGroupRecord(
        "films", "kg", RotationPolicy(own), (Entry(made.uri, Stage.SIGNING, NOW, "KA", signing=NOW),)
    )
    stored = save(open_records(own), record, None, now=NOW)
    for places in ([own], [f"file:{tmp_path}/./own/"], [theirs, own], []):
        signer_for("films", records=own, places=places).refresh()
    monkeypatch.setenv("KEYFRONT_PLACES", f"{own} pkcs11:token/")
    signer = signer_for("films", records=own)
    signer.refresh()
    entry = Entry(other.uri, Stage.SIGNING, NOW, "KB", signing=NOW)
    save(open_records(own), msgspec.structs.replace(stored.record, entries=(entry,)), stored.version, now=NOW)
    with pytest.raises(CustodyError, match="not one of the places where this signer may open keys"):
        signer.refresh()
    with pytest.raises(CustodyError, match="names a key"):
        signer_for("films", records=own, places=[made.uri])
