"""One test suite for all adapters: the promises of `custody/contract.py`, sentence by sentence.

For a new kind of place, add a fixture to `conftest.py` that returns a `Harness`, and a row to PLACES (and to KEEPING,
if it stores records).
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from keyfront.custody import Custody, HeldKey, Record, open_key
from keyfront.custody.contract import MOST_BYTES
from keyfront.errors import (
    CustodyError,
    KeyExists,
    KeyfrontError,
    NoSuchKey,
    NotExportable,
    RecordChanged,
    SigningError,
)
from keyfront.signing.keys import Algorithm, HashName, PublicKey
from tests.custody.harness import BOTH, Harness, made_elsewhere

PLACES = (
    "file_place",
    "pkcs11_place",
    "awskms_place",
    "awssm_place",
    "awsssm_place",
    "vault_kv_place",
    "vault_transit_place",
)
KEEPING = ("file_place", "awssm_place", "awsssm_place", "vault_kv_place")
"""Those of them that keep records."""

DAY = 86400.0


@pytest.fixture(params=PLACES)
def harness(request: pytest.FixtureRequest) -> Harness:
    found: Harness = request.getfixturevalue(request.param)
    return found


def quick(harness: Harness) -> Algorithm:
    """The algorithm whose keys it generates fastest."""
    return harness.makes[-1]


def make(harness: Harness, *names: str, place: Custody | None = None) -> list[HeldKey]:
    at = place or harness.place()
    return [at.create(name, quick(harness), now=time.time()) for name in names]


def names(place: Custody) -> list[str]:
    return [held.name for held in place.list()]


def verified_by_openssl(key: PublicKey, data: bytes, signature: bytes, hash_name: HashName) -> None:
    public = serialization.load_pem_public_key(key.pem.encode())
    taken: hashes.HashAlgorithm = hashes.SHA1() if hash_name == "SHA1" else hashes.SHA256()
    if isinstance(public, rsa.RSAPublicKey):
        public.verify(signature, data, padding.PKCS1v15(), taken)
    else:
        assert isinstance(public, ec.EllipticCurvePublicKey)
        public.verify(signature, data, ec.ECDSA(taken))


# ---- generated keys sign


def test_what_it_makes_signs_with_every_hash_that_it_names(harness: Harness) -> None:
    place = harness.place()
    assert place.algorithms == harness.makes
    for algorithm in harness.makes:
        before = time.time()
        held = place.create(f"a-{algorithm}", algorithm, now=before)
        assert (held.name, held.public_key.algorithm) == (f"a-{algorithm}", algorithm)
        assert held.hash_names == harness.hash_names
        assert held.exportable is harness.exports is place.exports
        assert held.delete_at is None
        if harness.created:
            assert abs(held.created - before) < 120
        handle = place.handle(held.name)
        assert (handle.public_key, handle.hash_names) == (held.public_key, held.hash_names)
        for hash_name in handle.hash_names:
            for data in (b"x", b"x" * 150, bytes(range(256)) * 8):
                signature = handle.sign(data, hash_name)
                assert held.public_key.verify(data, signature, hash_name)
                verified_by_openssl(held.public_key, data, signature, hash_name)
            assert not held.public_key.verify(b"other", signature, hash_name)
        for hash_name in set(BOTH) - set(handle.hash_names):
            with pytest.raises(SigningError):
                handle.sign(b"data", hash_name)


def test_a_key_s_uri_opens_it_anywhere(harness: Harness) -> None:
    (held,) = make(harness, "photos-1")
    opened = open_key(held.uri, harness.environment)
    assert (opened.uri, opened.public_key) == (held.uri, held.public_key)
    hash_name = held.hash_names[-1]
    assert held.public_key.verify(b"data", opened.sign(b"data", hash_name), hash_name)
    again = harness.place()
    assert again.describe("photos-1") == held
    assert list(again.list()) == [held]
    assert held.uri.startswith(again.uri.partition("?")[0])
    assert not again.uri.partition("?")[0].removesuffix("/").endswith("photos-1")


def test_any_name_that_the_contract_allows(harness: Harness) -> None:
    allowed = ("0", "Z", "a-", "a_b", "x" * 64, "key")
    made = make(harness, *allowed)
    assert [held.name for held in made] == list(allowed)
    assert names(harness.place()) == sorted(allowed)
    assert len({held.public_key for held in made}) == len(allowed)


NO_NAMES = ("", "-a", "_a", ".", "..", "../a", "a/b", "a b", "a.b", "ä", "x" * 65, "a\n", "a%2f")


def test_no_other_name(harness: Harness) -> None:
    place = harness.place()
    for name in NO_NAMES:
        with pytest.raises(CustodyError):
            place.create(name, quick(harness), now=time.time())
        with pytest.raises(CustodyError):
            place.import_key(name, made_elsewhere(quick(harness)), now=time.time())
        for ask in (place.describe, place.handle, place.export, place.undelete):
            with pytest.raises(CustodyError):
                ask(name)
        with pytest.raises(CustodyError):
            place.delete(name, grace=0, now=time.time())
    assert names(place) == []


def test_a_name_is_taken_once(harness: Harness) -> None:
    place = harness.place()
    (held,) = make(harness, "one", place=place)
    with pytest.raises(KeyExists, match="one"):
        place.create("one", quick(harness), now=time.time())
    assert place.describe("one") == held


def test_of_those_who_race_for_a_name_one_gets_it(harness: Harness) -> None:
    start = threading.Barrier(4)

    def race(_: int) -> PublicKey | None:
        place = harness.place()
        start.wait(20)
        try:
            return place.create("one", quick(harness), now=time.time()).public_key
        except KeyExists:
            return None

    with ThreadPoolExecutor(4) as pool:
        made = [key for key in pool.map(race, range(4)) if key is not None]
    assert made == [harness.place().describe("one").public_key]


def test_labels_are_kept(harness: Harness) -> None:
    labels = {
        "application": "photo gallery, no".replace(",", ""),
        "key-group": "photos",
        "x.y:z/@": "a=b+c@d_e.f:/-",
    }
    held = harness.place().create("one", quick(harness), now=time.time(), labels=labels)
    assert dict(held.labels) == labels
    assert dict(harness.place().describe("one").labels) == labels


def test_labels_that_not_every_place_could_keep(harness: Harness) -> None:
    many = {str(number): "" for number in range(17)}
    for labels in ({"": "x"}, {"a": "\n"}, {"a": "x" * 129}, {"a" * 65: ""}, {"ä": "b"}, many):
        with pytest.raises(CustodyError):
            harness.place().create("one", quick(harness), now=time.time(), labels=labels)
    assert names(harness.place()) == []


# ---- imported keys


def test_a_key_from_elsewhere(harness: Harness) -> None:
    place = harness.place()
    for algorithm in harness.imports:
        key = made_elsewhere(algorithm)
        name = f"b-{algorithm}"
        held = place.import_key(name, key, now=time.time(), labels={"application": "gallery"})
        assert held.public_key == key.public_key
        assert dict(held.labels) == {"application": "gallery"}
        handle = harness.place().handle(name)
        for hash_name in handle.hash_names:
            signature = handle.sign(b"data", hash_name)
            assert key.public_key.verify(b"data", signature, hash_name)
        assert place.import_key(name, key, now=time.time()) == held, "the same key again changes nothing"
        with pytest.raises(KeyExists):
            place.import_key(name, made_elsewhere(algorithm, 1), now=time.time())
        assert place.describe(name) == held


def test_a_key_that_is_to_be_deleted_does_not_stay_by_being_imported(harness: Harness) -> None:
    place = harness.place()
    key = made_elsewhere(harness.imports[-1])
    held = place.import_key("one", key, now=time.time())
    doomed = place.delete("one", grace=20 * DAY, now=time.time())
    for at in (place, harness.place()):
        with pytest.raises(KeyExists, match="to be deleted: undelete it first"):
            at.import_key("one", key, now=time.time())
    assert place.describe("one").delete_at == doomed.delete_at
    place.undelete("one")
    assert place.import_key("one", key, now=time.time()) == held


# ---- listing, description, export


def test_the_list_is_in_order_of_name(harness: Harness) -> None:
    place = harness.place()
    assert list(place.list()) == []
    for held in make(harness, "b", "B", "a-1", "a1", "a0", "10", "9", place=place):
        assert place.describe(held.name) == held
    assert names(place) == ["10", "9", "B", "a-1", "a0", "a1", "b"]


def test_what_is_not_there(harness: Harness) -> None:
    place = harness.place()
    make(harness, "two", place=place)
    for ask in (place.describe, place.handle, place.export, place.undelete):
        with pytest.raises(NotExportable if ask == place.export and not harness.exports else NoSuchKey):
            ask("one")
    with pytest.raises(NoSuchKey):
        place.delete("one", grace=DAY, now=time.time())
    with pytest.raises(NoSuchKey):
        open_key(place.describe("two").uri.replace("two", "one"), harness.environment)


def test_it_gives_keys_away_or_never_does(harness: Harness) -> None:
    place = harness.place()
    (held,) = make(harness, "one", place=place)
    if not harness.exports:
        with pytest.raises(NotExportable):
            place.export("one")
        return
    key = place.export("one")
    assert key.public_key == held.public_key
    assert held.public_key.verify(b"data", key.sign(b"data", "SHA256"), "SHA256")
    for algorithm in harness.imports:
        place.import_key(f"c-{algorithm}", made_elsewhere(algorithm), now=time.time())
        assert place.export(f"c-{algorithm}").to_pem() == made_elsewhere(algorithm).to_pem()


# ---- deletion


def test_a_key_that_is_to_be_deleted_signs_no_more(harness: Harness) -> None:
    place = harness.place()
    make(harness, "one", "two", place=place)
    handle, elsewhere = place.handle("one"), harness.place().handle("one")
    now = time.time()
    held = place.delete("one", grace=20 * DAY, now=now)
    assert held.delete_at is not None
    assert now + 20 * DAY - 120 <= held.delete_at <= now + 31 * DAY
    for signer in (handle, elsewhere):
        with pytest.raises(NoSuchKey):
            signer.sign(b"data", signer.hash_names[-1])
    with pytest.raises(NoSuchKey):
        place.handle("one")
    with pytest.raises(NoSuchKey):
        open_key(held.uri, harness.environment)
    with pytest.raises(KeyExists):
        place.create("one", quick(harness), now=now)
    assert harness.place().describe("one").delete_at == held.delete_at
    assert [one.delete_at for one in harness.place().list()] == [held.delete_at, None]
    assert harness.place().handle("two").sign(b"data", held.hash_names[-1])


def test_a_delete_is_taken_back(harness: Harness) -> None:
    place = harness.place()
    (held,) = make(harness, "one", place=place)
    assert place.undelete("one") == held, "what is not to be deleted stays as it is"
    place.delete("one", grace=20 * DAY, now=time.time())
    assert harness.place().undelete("one") == held
    assert place.describe("one") == held
    hash_name = held.hash_names[-1]
    assert held.public_key.verify(b"data", place.handle("one").sign(b"data", hash_name), hash_name)


def test_of_two_deletes_the_earlier_time_counts(harness: Harness) -> None:
    place = harness.place()
    make(harness, "one", place=place)
    now = time.time()
    first = place.delete("one", grace=20 * DAY, now=now).delete_at
    assert place.delete("one", grace=30 * DAY, now=now).delete_at == first
    sooner = place.delete("one", grace=10 * DAY, now=now).delete_at
    assert first is not None
    assert sooner is not None
    assert sooner < first
    assert place.describe("one").delete_at == sooner


def test_without_grace_it_is_gone_at_once(harness: Harness) -> None:
    place = harness.place()
    (held,) = make(harness, "one", place=place)
    handle = place.handle("one")
    now = time.time()
    gone = place.delete("one", grace=0, now=now)
    assert gone.delete_at is not None
    with pytest.raises(NoSuchKey):
        handle.sign(b"data", held.hash_names[-1])
    if not harness.at_once:
        assert now < gone.delete_at <= now + harness.least_grace + 120
        return
    with pytest.raises(NoSuchKey):
        harness.place().describe("one")
    with pytest.raises(NoSuchKey):
        place.undelete("one")
    assert names(place) == []
    assert place.create("one", quick(harness), now=time.time()).public_key != held.public_key
    with pytest.raises(NoSuchKey):
        handle.sign(b"data", held.hash_names[-1])


def test_a_grace_that_makes_no_sense(harness: Harness) -> None:
    place = harness.place()
    (held,) = make(harness, "one", place=place)
    for grace in (-1.0, float("nan"), float("inf")):
        with pytest.raises(CustodyError):
            place.delete("one", grace=grace, now=time.time())
    assert place.describe("one") == held


# ---- concurrency


def test_a_handle_signs_in_many_threads(harness: Harness) -> None:
    place = harness.place()
    held = make(harness, "one", "two", place=place)
    handles = [place.handle(one.name) for one in held]
    hash_name = held[0].hash_names[-1]

    def sign(number: int) -> bool:
        data, at = b"%d" * 3 % (number, number, number), number % 2
        return held[at].public_key.verify(data, handles[at].sign(data, hash_name), hash_name)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(sign, range(64)))


def test_one_place_in_many_threads(harness: Harness) -> None:
    place = harness.place()

    def live(number: int) -> bool:
        held = place.create(f"k{number}", quick(harness), now=time.time())
        handle = place.handle(held.name)
        fits = held.public_key.verify(b"data", handle.sign(b"data", held.hash_names[-1]), held.hash_names[-1])
        return fits and held in list(place.list())

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(live, range(8)))
    assert names(place) == [f"k{number}" for number in range(8)]


# ---- messages


def test_nothing_that_is_said_holds_a_secret(harness: Harness) -> None:
    place = harness.place()
    (held,) = make(harness, "one", place=place)
    texts = [repr(place), repr(held), repr(place.handle("one")), held.uri, place.uri]
    secrets = list(harness.secrets)
    for algorithm in harness.imports[-1:]:
        key = made_elsewhere(algorithm)
        texts.append(repr(place.import_key("two", key, now=time.time())))
        secrets += key.to_pem().splitlines()[1:-1]
    if harness.exports:
        secrets += place.export("one").to_pem().splitlines()[1:-1]
    for ask in (place.describe, place.handle, place.export, place.undelete):
        try:
            ask("nowhere")
        except KeyfrontError as error:
            texts.append(f"{error!r} {error.__cause__!r}")
    for text in texts:
        for secret in secrets:
            assert secret not in text


# ---- records


@pytest.fixture(params=KEEPING)
def keeping(request: pytest.FixtureRequest) -> Harness:
    found: Harness = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("at", PLACES)
def test_it_keeps_records_or_says_that_it_does_not(at: str, request: pytest.FixtureRequest) -> None:
    harness: Harness = request.getfixturevalue(at)
    assert harness.records is (at in KEEPING)
    if harness.records:
        assert harness.record_store().names() == []
    else:
        with pytest.raises(CustodyError, match="records"):
            harness.record_store()


def test_a_record_is_written_by_who_knows_what_is_there(keeping: Harness) -> None:
    records = keeping.record_store()
    assert records.read("photos") is None
    assert records.names() == []
    first = records.write("photos", b"one", None)
    assert (first.name, first.data) == ("photos", b"one")
    assert keeping.record_store().read("photos") == first
    with pytest.raises(RecordChanged):
        records.write("photos", b"two", None)
    second = records.write("photos", b"two", first.version)
    assert second.version != first.version
    with pytest.raises(RecordChanged):
        records.write("photos", b"three", first.version)
    assert keeping.record_store().read("photos") == second
    back = records.write("photos", b"one", second.version)
    assert back.version not in {first.version, second.version}, "what came back is not what was there before"
    with pytest.raises(RecordChanged):
        records.write("films", b"one", "1")


def test_a_record_is_removed_by_who_knows_what_is_there(keeping: Harness) -> None:
    records = keeping.record_store()
    first = records.write("photos", b"one", None)
    second = records.write("photos", b"two", first.version)
    with pytest.raises(RecordChanged):
        records.remove("photos", first.version)
    assert records.read("photos") == second
    records.remove("photos", second.version)
    assert records.read("photos") is None
    assert keeping.record_store().names() == []
    with pytest.raises(RecordChanged):
        records.remove("photos", second.version)
    with pytest.raises(RecordChanged):
        records.write("photos", b"three", second.version)
    third = records.write("photos", b"one", None)
    assert third.version not in {first.version, second.version}
    assert keeping.record_store().read("photos") == third


def test_what_a_record_may_be(keeping: Harness) -> None:
    records = keeping.record_store()
    texts = {"lines": b"a\r\nb\n\n", "long": b'"\xc3\xa9' * (MOST_BYTES // 3), "one": b"{", "space": b" "}
    for name, text in texts.items():
        records.write(name, text, None)
    again = keeping.record_store()
    assert again.names() == sorted(texts)
    for name, text in texts.items():
        found = again.read(name)
        assert found is not None
        assert found.data == text
    for data in (b"", b"x" * (MOST_BYTES + 1), b"\xff"):
        with pytest.raises(CustodyError):
            records.write("more", data, None)
    for name in ("", "../a", "a/b", ".", "a.b", "x" * 65):
        with pytest.raises(CustodyError):
            records.write(name, b"x", None)
        with pytest.raises(CustodyError):
            records.read(name)
    assert records.names() == sorted(texts)


def test_keys_and_records_of_one_name_are_two(keeping: Harness) -> None:
    place = keeping.place()
    (held,) = make(keeping, "photos", place=place)
    record = keeping.record_store().write("photos", b"one", None)
    assert list(keeping.place().list()) == [held]
    assert keeping.record_store().names() == ["photos"]
    place.delete("photos", grace=0, now=time.time())
    assert keeping.record_store().read("photos") == record


def test_of_those_who_race_to_change_a_record_one_does(keeping: Harness) -> None:
    first = keeping.record_store().write("photos", b"0", None)
    start = threading.Barrier(4)

    def race(number: int) -> Record | None:
        records = keeping.record_store()
        start.wait(20)
        try:
            return records.write("photos", b"%d" % number, first.version)
        except RecordChanged:
            return None

    with ThreadPoolExecutor(4) as pool:
        written = [record for record in pool.map(race, range(4)) if record is not None]
    assert written == [keeping.record_store().read("photos")]


def test_no_change_of_a_record_is_lost(keeping: Harness) -> None:
    keeping.record_store().write("count", b"0", None)

    def count(_: int) -> None:
        records = keeping.record_store()
        done = 0
        while done < 3:
            seen = records.read("count")
            assert seen is not None
            try:
                records.write("count", b"%d" % (int(seen.data) + 1), seen.version)
            except RecordChanged:
                continue
            done += 1

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(count, range(3)))
    last = keeping.record_store().read("count")
    assert last is not None
    assert last.data == b"9"
