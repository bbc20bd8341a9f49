"""`pkcs11:` beyond the contract: the token's content, PINs, tokens that disappear and return, foreign keys, forks."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from keyfront.custody import open_key, open_place
from keyfront.custody.contract import Custody
from keyfront.errors import CustodyError, CustodyUnavailable, NoSuchKey, NotExportable
from tests.custody.harness import made_elsewhere
from tests.custody.softhsm import PIN, SoftHsm

pkcs11 = pytest.importorskip("pkcs11", reason="needs the package python-pkcs11 (keyfront's extra pkcs11)")
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass  # noqa: E402

DAY = 86400.0


@pytest.fixture(scope="module")
def label(softhsm: SoftHsm) -> str:
    return softhsm.token("keyfront test")


@pytest.fixture
def uri(softhsm: SoftHsm, label: str) -> str:
    return softhsm.uri("keyfront%20test")


@pytest.fixture
def session(softhsm: SoftHsm, label: str, uri: str) -> Iterator[Any]:
    """The token, emptied, as another program in this process sees it."""
    open_place(uri).algorithms  # reading this logs the process in
    module = pkcs11.lib(softhsm.module)
    (token,) = [
        slot.get_token() for slot in module.get_slots(token_present=True) if slot.get_token().label == label
    ]
    opened = token.open(rw=True)
    for each in list(opened.get_objects()):
        each.destroy()
    yield opened
    with contextlib.suppress(pkcs11.PKCS11Error):
        opened.close()


@pytest.fixture
def place(uri: str, session: Any) -> Custody:
    return open_place(uri)


def objects(session: Any, kind: Any) -> list[Any]:
    return list(session.get_objects({Attribute.CLASS: kind}))


@pytest.mark.parametrize("way", ["made", "imported"])
def test_a_private_key_never_leaves_the_token(way: str, place: Custody, session: Any) -> None:
    now = time.time()
    for algorithm in place.algorithms:
        if way == "made":
            place.create(algorithm.lower(), algorithm, now=now)
        else:
            place.import_key(algorithm.lower(), made_elsewhere(algorithm), now=now)
    found = objects(session, ObjectClass.PRIVATE_KEY)
    assert len(found) == 2
    for key in found:
        may = {
            name: key[getattr(Attribute, name)]
            for name in ("SENSITIVE", "EXTRACTABLE", "PRIVATE", "SIGN", "DECRYPT")
        }
        assert may == {
            "SENSITIVE": True,
            "EXTRACTABLE": False,
            "PRIVATE": True,
            "SIGN": True,
            "DECRYPT": False,
        }
        with pytest.raises(pkcs11.PKCS11Error):
            key[Attribute.PRIVATE_EXPONENT if key.key_type == KeyType.RSA else Attribute.VALUE]
    with pytest.raises(NotExportable):
        place.export("rsa-2048")


def test_a_key_that_is_to_be_deleted_is_no_use_to_anybody(place: Custody, session: Any) -> None:
    """The token itself refuses to sign, for every caller."""
    place.create("one", "ECDSA-P256", now=time.time())
    (key,) = objects(session, ObjectClass.PRIVATE_KEY)
    assert key.sign(b"x" * 32, mechanism=Mechanism.ECDSA)
    place.delete("one", grace=DAY, now=time.time())
    with pytest.raises(pkcs11.PKCS11Error):
        key.sign(b"x" * 32, mechanism=Mechanism.ECDSA)
    place.undelete("one")
    assert key.sign(b"x" * 32, mechanism=Mechanism.ECDSA)


def test_what_is_due_is_destroyed_by_whoever_looks(uri: str, place: Custody, session: Any) -> None:
    now = time.time()
    for name in ("one", "two", "three"):
        place.create(name, "ECDSA-P256", now=now)
        place.delete(name, grace=DAY, now=now)
    late = open_place(uri)
    late._clock = lambda: now + DAY  # type: ignore[attr-defined]
    with pytest.raises(NoSuchKey):
        late.describe("one")
    assert len(objects(session, ObjectClass.PRIVATE_KEY)) == 2
    with pytest.raises(NoSuchKey):
        late.undelete("two")
    assert list(late.list()) == []
    for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY, ObjectClass.DATA):
        assert objects(session, kind) == []


def test_nothing_is_left_of_a_deleted_key(place: Custody, session: Any) -> None:
    for name in ("one", "two"):
        place.create(name, "ECDSA-P256", now=time.time(), labels={"a": "b"})
    place.delete("one", grace=DAY, now=time.time())
    place.delete("one", grace=0, now=time.time())
    for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY, ObjectClass.DATA):
        assert [each[Attribute.LABEL] for each in objects(session, kind)] == ["two"]


def _pair(session: Any, label: str, id_: bytes = b"1") -> None:
    parameters = session.create_domain_parameters(
        KeyType.EC, {Attribute.EC_PARAMS: bytes.fromhex("06082a8648ce3d030107")}, local=True
    )
    attributes: Any = {
        "id": id_,
        "label": label,
        "store": True,
        "capabilities": MechanismFlag.SIGN | MechanismFlag.VERIFY,
    }
    parameters.generate_keypair(**attributes)


def test_a_pair_that_another_program_made(uri: str, place: Custody, session: Any) -> None:
    """It can be used, deleted and restored; the token does not say when it was created."""
    _pair(session, "theirs")
    held = place.describe("theirs")
    assert (held.created, dict(held.labels)) == (0.0, {})
    assert list(place.list()) == [held]
    assert held.public_key.verify(b"x", open_key(held.uri).sign(b"x", "SHA1"), "SHA1")
    place.delete("theirs", grace=DAY, now=time.time())
    with pytest.raises(NoSuchKey):
        open_key(held.uri)
    assert place.undelete("theirs") == held


def test_notes_speak_of_their_own_key_only(place: Custody, session: Any) -> None:
    """Another program destroys a key of ours and creates another one of that name, which must not be deleted too."""
    place.create("one", "ECDSA-P256", now=time.time(), labels={"application": "gallery"})
    place.delete("one", grace=DAY, now=time.time())
    for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY):
        for each in objects(session, kind):
            each.destroy()
    with pytest.raises(NoSuchKey):
        place.describe("one")
    _pair(session, "one")
    held = place.describe("one")
    assert (held.created, held.delete_at, dict(held.labels)) == (0.0, None, {})
    assert place.handle("one").sign(b"x", "SHA256")


def test_what_is_no_key_of_ours_is_left_out(place: Custody, session: Any) -> None:
    _pair(session, "not a name")
    _pair(session, "")
    attributes: Any = {"store": True, "capabilities": MechanismFlag.SIGN | MechanismFlag.VERIFY}
    session.generate_keypair(KeyType.RSA, 1024, label="small", **attributes)
    session.create_domain_parameters(
        KeyType.EC, {Attribute.EC_PARAMS: bytes.fromhex("06052b81040022")}, local=True
    ).generate_keypair(label="p384", **attributes)
    place.create("ours", "ECDSA-P256", now=time.time())
    assert [held.name for held in place.list()] == ["ours"]
    for name in ("small", "p384"):
        with pytest.raises(CustodyError, match="CloudFront"):
            place.describe(name)


def test_of_two_keys_with_one_label_none_is_guessed(place: Custody, session: Any) -> None:
    _pair(session, "twins", b"1")
    handle = place.handle("twins")
    assert handle.sign(b"x", "SHA256")
    _pair(session, "twins", b"2")
    for ask in (place.describe, place.handle):
        with pytest.raises(CustodyError, match="2 private keys"):
            ask("twins")
    assert handle.public_key.verify(b"x", handle.sign(b"x", "SHA256"), "SHA256")


def test_a_handle_outlives_the_module(softhsm: SoftHsm, place: Custody) -> None:
    """Other code in this process finalizes the module or reinitializes it: C_Finalize, C_Initialize."""
    held = place.create("one", "RSA-2048", now=time.time())
    handle = place.handle("one")
    module = pkcs11.lib(softhsm.module)
    for upset in (module.reinitialize, module.finalize):
        assert handle.sign(b"x", "SHA256")
        upset()
        assert held.public_key.verify(b"x", handle.sign(b"x", "SHA256"), "SHA256")
        assert list(place.list()) == [held]
    module.finalize()
    place.create("two", "ECDSA-P256", now=time.time())
    assert len(list(place.list())) == 2


def test_many_threads_outlive_the_module(softhsm: SoftHsm, place: Custody) -> None:
    held = place.create("one", "ECDSA-P256", now=time.time())
    handles = [place.handle("one") for _ in range(4)]

    def sign(number: int) -> bool:
        if number % 16 == 9:
            with place._token()._module.lock:  # type: ignore[attr-defined]
                pkcs11.lib(softhsm.module).reinitialize()
        return held.public_key.verify(b"x", handles[number % 4].sign(b"x", "SHA256"), "SHA256")

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(sign, range(64)))


def test_a_token_goes_away_and_comes_back(softhsm: SoftHsm) -> None:
    folder = softhsm.folder / "tokens"
    before = set(folder.iterdir())
    softhsm.token("removable")
    (files,) = set(folder.iterdir()) - before
    place = open_place(softhsm.uri("removable"))
    held = place.create("one", "ECDSA-P256", now=time.time())
    handle = place.handle("one")
    files.rename(softhsm.folder / "drawer")
    pkcs11.lib(softhsm.module).finalize()
    for ask in (
        lambda: handle.sign(b"x", "SHA256"),
        lambda: list(place.list()),
        lambda: place.describe("one"),
    ):
        with pytest.raises(CustodyUnavailable):
            ask()
    (softhsm.folder / "drawer").rename(files)
    assert held.public_key.verify(b"x", handle.sign(b"x", "SHA256"), "SHA256")
    softhsm.forget("removable")


def test_a_token_is_named_by_its_label_or_its_serial_number(
    softhsm: SoftHsm, label: str, place: Custody
) -> None:
    place.create("one", "ECDSA-P256", now=time.time())
    (token,) = [
        slot.get_token()
        for slot in pkcs11.lib(softhsm.module).get_slots(token_present=True)
        if slot.get_token().label == label
    ]
    by_serial = open_place(softhsm.uri(token.serial.decode()))
    assert by_serial.describe("one").public_key == place.describe("one").public_key
    assert by_serial.handle("one").sign(b"x", "SHA256")
    with pytest.raises(CustodyUnavailable, match="no token nobody"):
        list(open_place(softhsm.uri("nobody")).list())


def test_two_tokens_of_one_label_are_told_apart(softhsm: SoftHsm) -> None:
    softhsm.token("twin")
    softhsm.token("twin")
    pkcs11.lib(softhsm.module).finalize()
    with pytest.raises(CustodyError, match="2 tokens are called twin"):
        list(open_place(softhsm.uri("twin")).list())


# ---- PINs


def test_a_pin_is_tried_once(softhsm: SoftHsm, tmp_path: Path) -> None:
    softhsm.token("locked")
    wrong = tmp_path / "pin"
    wrong.write_text("wrong-pin-4711")
    wrong.chmod(0o600)
    uri = softhsm.uri("locked").replace(str(softhsm.pin_file), str(wrong))
    for _ in range(3):
        with pytest.raises(CustodyError, match="not tried again") as caught:
            list(open_place(uri).list())
        assert "4711" not in f"{caught.value!r} {caught.value.__cause__!r}"
    wrong.write_text(PIN)
    place = open_place(uri)
    assert list(place.list()) == []
    wrong.write_text("wrong-pin-4711")
    with pytest.raises(CustodyError, match="another PIN"):
        list(open_place(uri).list())
    environment = dict(os.environ) | {"TOKEN_PIN": PIN}
    by_variable = open_place(uri.replace(f"file:{wrong}", "env:TOKEN_PIN"), environment)
    assert list(by_variable.list()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("pin-source=env:NOBODY", "NOBODY holds no PIN"),
        ("pin-source=file:/nowhere/pin", "No such file"),
        ("pin-source=file:relative", "never the PIN itself"),
        ("pin-source=4711", "never the PIN itself"),
        ("pin-value=4711", "never stands in a URI"),
        ("pin=4711", "never stands in a URI"),
        ("colour=4711", "colour"),
        ("", "requires a PIN"),
    ],
)
def test_a_pin_that_is_none(options: str, message: str, softhsm: SoftHsm) -> None:
    softhsm.token("pinless") if not options else None
    with pytest.raises(CustodyError, match=message) as caught:
        list(open_place(f"pkcs11:pinless/?module-path={softhsm.module}&{options}".rstrip("&")).list())
    assert "4711" not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_a_pin_that_others_may_read_is_refused(softhsm: SoftHsm, label: str, tmp_path: Path) -> None:
    pin = tmp_path / "pin"
    pin.write_text(PIN)
    pin.chmod(0o640)
    with pytest.raises(CustodyError, match="chmod 600"):
        open_place(softhsm.uri("keyfront%20test").replace(str(softhsm.pin_file), str(pin)))


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("pkcs11:/one?module-path=/x.so", "names no token"),
        ("pkcs11:a/b/one?module-path=/x.so", "names no token"),
        ("pkcs11:a/one", "module-path"),
        ("pkcs11:a/one?module-path=x.so", "absolute path"),
        ("pkcs11:a/one?module-path=/nowhere/x.so", "/nowhere/x.so cannot be used"),
    ],
)
def test_a_place_that_is_none(uri: str, message: str, softhsm: SoftHsm) -> None:
    with pytest.raises(CustodyError, match=message):
        open_key(uri)


# ---- processes


def test_a_fork_signs_too(uri: str, place: Custody) -> None:
    """As in servers that load the application and then fork: in both, and again in the parent."""
    held = place.create("one", "ECDSA-P256", now=time.time())
    handle = place.handle("one")
    assert handle.sign(b"x", "SHA256")
    read, write = os.pipe()
    child = os.fork()
    if not child:  # pragma: no cover
        result = "failed"
        try:
            fits = held.public_key.verify(b"y", handle.sign(b"y", "SHA256"), "SHA256")
            result = "signed" if fits and list(open_place(uri).list()) == [held] else "wrong"
        except BaseException as error:  # on any exception, the child must exit here
            result = repr(error)
        finally:
            os.write(write, result.encode())
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        assert pipe.read() == "signed"
    os.waitpid(child, 0)
    assert held.public_key.verify(b"x", handle.sign(b"x", "SHA256"), "SHA256")


def test_another_process_sees_the_same_keys(softhsm: SoftHsm, uri: str, place: Custody) -> None:
    held = place.create("one", "ECDSA-P256", now=time.time(), labels={"application": "gallery"})
    argv = [sys.executable, "-m", "keyfront", "custody"]
    done = subprocess.run(
        [*argv, "list", uri, "--json"],
        env=softhsm.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    (shown,) = json.loads(done.stdout)
    assert (shown["URI"], shown["Labels"], shown["Exportable"]) == (
        held.uri,
        {"application": "gallery"},
        False,
    )
    handle = place.handle("one")
    subprocess.run(
        [*argv, "delete", held.uri], env=softhsm.environment, capture_output=True, timeout=60, check=True
    )
    with pytest.raises(NoSuchKey, match="to be deleted"):
        handle.sign(b"x", "SHA256")
