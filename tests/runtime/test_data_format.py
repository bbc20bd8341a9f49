"""The format of a data folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from keyfront.errors import SettingsError
from keyfront.runtime.data_format import FORMAT, claim, read_format


def test_a_folder_without_a_format_gets_the_current_one(tmp_path: Path) -> None:
    assert read_format(tmp_path) == 0
    claim(tmp_path)
    claim(tmp_path)
    assert read_format(tmp_path) == FORMAT


def test_the_folder_of_a_newer_version_is_refused_unchanged(tmp_path: Path) -> None:
    (tmp_path / "format").write_text(f"{FORMAT + 1}\n")
    with pytest.raises(
        SettingsError, match=f"has format {FORMAT + 1}, and this Keyfront .* up to {FORMAT}: a newer"
    ):
        claim(tmp_path)
    assert (tmp_path / "format").read_text() == f"{FORMAT + 1}\n"


@pytest.mark.parametrize("content", [b"", b"one\n", b"-1\n", b"\xff\xfe"])
def test_what_is_no_format_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "format").write_bytes(content)
    with pytest.raises(SettingsError, match="does not contain the number of a format"):
        claim(tmp_path)
    assert (tmp_path / "format").read_bytes() == content
