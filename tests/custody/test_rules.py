"""The rules that every custody follows, and the files of the one in a folder: values in, values out."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from keyfront.custody.adapters.filesystem.envelope import FolderKey
from keyfront.custody.adapters.filesystem.key_file import open_key_file, read_key_file, sealed_key
from keyfront.custody.contract import (
    MOST_BYTES,
    HeldKey,
    checked_data,
    checked_grace,
    checked_labels,
    checked_name,
    there_already,
)
from keyfront.errors import CustodyError, KeyExists
from keyfront.signing.keys import generate_private_key
from tests.rows import rows

NOW = 1_800_000_000.0
ONE, OTHER = generate_private_key("ECDSA-P256"), generate_private_key("ECDSA-P256")
FOLDER, ELSEWHERE = FolderKey(b"k" * 32, "folder"), FolderKey(b"x" * 32, "elsewhere")
replace = msgspec.structs.replace


@rows("name", ["a", "photos-1", "A_b", "0" * 64])
def test_names(name: str) -> None:
    assert checked_name(name) == name


@rows("name", ["", "-a", "a/b", "a b", "ä", "a" * 65, "a\n"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(CustodyError, match="cannot be a name in custody"):
        checked_name(name)


@rows(
    "labels",
    [None, {}, {"a": ""}, {"app:web/1": "a b=c+d@e"}, {f"l{number}": "x" * 128 for number in range(16)}],
)
def test_labels(labels: dict[str, str] | None) -> None:
    assert checked_labels(labels) == (labels or {})


@rows(
    ("labels", "reason"),
    [
        ({"": "x"}, "cannot be a label"),
        ({"a b": "x"}, "cannot be a label"),
        ({"a" * 65: "x"}, "cannot be a label"),
        ({"a": "x" * 129}, "cannot be a label"),
        ({"a": "ä"}, "cannot be a label"),
        ({f"l{number}": "" for number in range(17)}, "at most 16 labels"),
    ],
)
def test_what_are_no_labels(labels: dict[str, str], reason: str) -> None:
    with pytest.raises(CustodyError, match=reason):
        checked_labels(labels)


def test_a_grace_is_a_length_of_time() -> None:
    assert [checked_grace(grace) for grace in (0.0, 86_400.0)] == [0.0, 86_400.0]
    for grace in (-1.0, float("inf"), float("nan")):
        with pytest.raises(CustodyError, match="makes no sense"):
            checked_grace(grace)


def test_a_record_is_a_short_text() -> None:
    for data in (b"x", "ä".encode(), b"x" * MOST_BYTES):
        assert checked_data(data) == data
    for data, reason in ((b"", "not 0"), (b"x" * (MOST_BYTES + 1), "not 4001"), (b"\xff", "text in UTF-8")):
        with pytest.raises(CustodyError, match=reason):
            checked_data(data)


def test_a_key_is_imported_again_only_if_it_is_the_same() -> None:
    held = HeldKey("file:/k/a", "a", ONE.public_key, NOW, exportable=True)
    assert there_already(held, ONE.public_key) == held
    with pytest.raises(KeyExists, match="is another key"):
        there_already(held, OTHER.public_key)
    with pytest.raises(KeyExists, match="undelete it first"):
        there_already(replace(held, delete_at=NOW), ONE.public_key)


FILE = sealed_key("a", ONE, created=NOW, labels={"app": "web"}, folder_key=FOLDER)
_BOUND = f"{FILE.format}\0a\0{ONE.public_key.fingerprint}".encode()
FORGED = replace(FILE, sealed=FOLDER.seal(OTHER.to_pem().encode(), _BOUND))
"""Sealed by somebody who has the folder's key, with another private half."""


def test_a_key_file_opens_with_its_folders_key() -> None:
    file, public = read_key_file(FILE.to_bytes())
    assert (file, public) == (FILE, ONE.public_key)
    assert open_key_file(file, public, FOLDER).to_pem() == ONE.to_pem()
    assert b"PRIVATE" not in FILE.to_bytes()


@rows(
    "data",
    [
        b"",
        b"\xff",
        b"{}",
        FILE.to_bytes().replace(b'"name": "a"', b'"name": "a/b"'),
        FILE.to_bytes().replace(b'"app"', b'"a b"'),
        FILE.to_bytes().replace(b"BEGIN", b"BEGUN"),
        FILE.to_bytes().replace(b"custody-key-1", b"custody-key-2"),
        b'{"labels":' + b"[" * 100_000,
    ],
)
def test_what_is_no_key_file(data: bytes) -> None:
    with pytest.raises(CustodyError, match="it is not a key file that Keyfront wrote"):
        read_key_file(data)


@rows(
    ("opened", "reason"),
    [
        (lambda: open_key_file(FILE, ONE.public_key, ELSEWHERE), "sealed for another folder"),
        (lambda: open_key_file(FILE, ONE.public_key, FolderKey(b"x" * 32, "folder")), "was changed"),
        (lambda: open_key_file(replace(FILE, name="b"), ONE.public_key, FOLDER), "was changed, or put in"),
        (lambda: open_key_file(FILE, OTHER.public_key, FOLDER), "was changed, or put in"),
        (lambda: open_key_file(FORGED, ONE.public_key, FOLDER), "not the private half of its public key"),
    ],
    ids=["another folder", "another key", "another name", "another public half", "another private half"],
)
def test_a_key_file_that_is_not_what_it_says(opened: Callable[[], object], reason: str) -> None:
    with pytest.raises(CustodyError, match=reason):
        opened()
