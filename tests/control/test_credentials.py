"""The credentials file: generated once, strong and private; refused when it is not private or is malformed."""

from __future__ import annotations

import re
import stat
import threading
from pathlib import Path

import botocore.configloader
import pytest

from keyfront.control.call import Caller
from keyfront.control.iam.roles import ADMIN
from keyfront.control.identity.credentials import Credentials, load
from keyfront.errors import SettingsError

ACCOUNT = "123456789012"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


def test_made_at_the_first_start_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "data" / "credentials"
    made = load(path, ACCOUNT)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["credentials"]
    text = path.read_text()
    profiles = botocore.configloader.raw_config_parse(str(path))
    assert list(profiles) == ["default"]
    assert re.fullmatch(r"AKIA[A-Z2-7]{16}", profiles["default"]["aws_access_key_id"])
    assert re.fullmatch(r"[A-Za-z0-9+/]{40}", profiles["default"]["aws_secret_access_key"])
    assert profiles["default"]["region"] == "us-east-1"
    key_id = profiles["default"]["aws_access_key_id"]
    for credentials in (made, load(path, ACCOUNT)):
        assert credentials.secret_of(key_id) == profiles["default"]["aws_secret_access_key"]
        caller = credentials.caller(key_id)
        arn = f"arn:aws:iam::{ACCOUNT}:user/default"
        assert caller == Caller(key_id, arn, ACCOUNT, caller.user_id, (ADMIN,))
        assert re.fullmatch(r"AIDA[A-Z2-7]{17}", caller.user_id)
        assert credentials.secret_of("AKIAOTHER") is None
    assert path.read_text() == text
    assert load(tmp_path / "other", ACCOUNT).secret_of(key_id) is None


def test_two_that_start_at_once_agree(tmp_path: Path) -> None:
    path = tmp_path / "credentials"
    found: list[Credentials] = []
    threads = [threading.Thread(target=lambda: found.append(load(path, ACCOUNT))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len({str(vars(credentials)) for credentials in found}) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["credentials"]


def written(tmp_path: Path, text: str, mode: int = 0o600) -> Path:
    path = tmp_path / "credentials"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_several_callers(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        f"# a comment\n[default]\naws_access_key_id=AKIAIOSFODNN7EXAMPLE\naws_secret_access_key={SECRET}\n\n"
        f"[ci@example.com]\naws_access_key_id : AKIAIOSFODNN7EXAMPL2\naws_secret_access_key : {SECRET[::-1]}\n",
    )
    credentials = load(path, ACCOUNT)
    assert len(credentials) == 2
    assert credentials.caller("AKIAIOSFODNN7EXAMPL2").arn == f"arn:aws:iam::{ACCOUNT}:user/ci@example.com"
    assert credentials.secret_of("AKIAIOSFODNN7EXAMPL2") == SECRET[::-1]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644, 0o777])
def test_a_file_that_others_may_touch(tmp_path: Path, mode: int) -> None:
    path = written(
        tmp_path, f"[default]\naws_access_key_id=AKIAIOSFODNN7EXAMPLE\naws_secret_access_key={SECRET}\n"
    )
    path.chmod(mode)
    with pytest.raises(SettingsError, match="chmod 600"):
        load(path, ACCOUNT)


GOOD = f"aws_access_key_id=AKIAIOSFODNN7EXAMPLE\naws_secret_access_key={SECRET}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no caller"),
        (GOOD, "shared-credentials format"),
        (f"[default]\n{SECRET}\n", "shared-credentials format"),
        (f"[default]\n{GOOD}[default]\n{GOOD}", "shared-credentials format"),
        (f"[default]\n{GOOD}[two]\n{GOOD}", "default and two have the same"),
        (f"[a b]\n{GOOD}", "cannot be the name"),
        (f"[default]\n{GOOD}aws_session_token=x\n", "session token"),
        ("[default]\naws_access_key_id=AKIAIOSFODNN7EXAMPLE\n", "needs an aws_secret_access_key"),
        ("[default]\naws_access_key_id=AKIAIOSFODNN7EXAMPLE\naws_secret_access_key=short\n", "32 characters"),
        (f"[default]\naws_secret_access_key={SECRET}\n", "needs an aws_access_key_id"),
        (
            f"[default]\naws_access_key_id=AKIA/SLASH/IN/IT/X\naws_secret_access_key={SECRET}\n",
            "letters and digits",
        ),
    ],
)
def test_files_that_make_no_sense(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        load(written(tmp_path, text), ACCOUNT)
    assert SECRET not in str(caught.value)
    assert (tmp_path / "credentials").read_text() == text


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = written(tmp_path, "")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError):
        load(path, ACCOUNT)


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="cannot be read or made"):
        load(tmp_path / "file" / "credentials", ACCOUNT)
