"""Which data folder, which CloudFront, and which rotation records a command uses."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from keyfront.cli.account import Account, Selection, choose, refuse_unwatched, unwatched
from keyfront.cli.installation import InstallationOptions
from keyfront.cli.options import data_folder, data_words
from keyfront.custody.default_paths import default_data, default_records, installation
from keyfront.custody.signers.key_group_signer import records_of
from keyfront.errors import SettingsError

LOCAL = "http://127.0.0.1:8081"
OWN = ("AKIAK", "s")


def described(folder: Path, control: str = LOCAL, records: str = "file:/kept/", more: str = "") -> Path:
    folder.mkdir(parents=True)
    (folder / "installation.json").write_text(f'{{"control":"{control}","records":"{records}"{more}}}')
    (folder / "credentials").write_text("[default]\naws_access_key_id = AKIAK\naws_secret_access_key = s\n")
    return folder


@contextmanager
def running(folder: Path) -> Iterator[None]:
    """As if `keyfront up` ran in the folder."""
    with (folder / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return described(tmp_path / "data")


@pytest.fixture
def environment(data: Path) -> dict[str, str]:
    return {"KEYFRONT_DATA": str(data)}


# ---- the data folder


def test_which_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    users = {"XDG_DATA_HOME": str(tmp_path / "xdg")}
    assert default_data(users) == tmp_path / "xdg" / "keyfront"
    (tmp_path / "state").mkdir()
    assert default_data(users) == tmp_path / "xdg" / "keyfront", "any folder of that name is none"
    (tmp_path / "state" / "keyfront.db").touch()
    assert default_data(users) == Path("state")
    assert default_data({**users, "KEYFRONT_DATA": "/elsewhere"}) == Path("/elsewhere")
    assert installation(tmp_path / "state") is None
    assert default_records(users) == f"file:{tmp_path}/state/custody/"


def test_the_choice_between_two_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    described(tmp_path / "state")
    users = {"XDG_DATA_HOME": str(tmp_path / "xdg")}
    assert data_folder(None, users) == tmp_path / "state"
    assert capsys.readouterr().err == "", "there is no other"
    described(tmp_path / "xdg" / "keyfront")
    assert data_folder(None, users) == tmp_path / "state"
    assert capsys.readouterr().err == (
        f"keyfront: using the data folder {tmp_path}/state, not {tmp_path}/xdg/keyfront\n"
    )
    assert data_folder(Path("other"), users) == tmp_path / "other"
    assert data_folder(None, {**users, "KEYFRONT_DATA": "third"}) == tmp_path / "third"
    assert capsys.readouterr().err == "", "it is named"
    assert data_words(tmp_path / "state", users) == ""
    assert data_words(tmp_path / "a b", users) == f" --data '{tmp_path}/a b'"


def test_a_damaged_record_is_not_taken_for_none(data: Path, environment: dict[str, str]) -> None:
    (data / "installation.json").write_text("{")
    with pytest.raises(SettingsError, match="damaged"):
        choose(Selection(), environment)
    (data / "installation.json").unlink()
    (data / "installation.json").mkdir()
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        choose(Selection(), environment)


# ---- the CloudFront


@pytest.mark.parametrize(
    ("more", "selection", "endpoint", "credentials"),
    [
        ({}, Selection(), LOCAL, OWN),
        ({"AWS_PROFILE": "prod"}, Selection(), LOCAL, OWN),
        ({"AWS_ACCESS_KEY_ID": "AKIAOTHER"}, Selection(), LOCAL, OWN),
        ({}, Selection(profile="prod"), "", None),
        ({}, Selection(aws=True), "", None),
        ({}, Selection(endpoint_url=f"{LOCAL}/"), LOCAL, OWN),
        ({}, Selection(endpoint_url=LOCAL, profile="prod"), LOCAL, None),
        ({}, Selection(endpoint_url="http://10.0.0.1:1"), "http://10.0.0.1:1", None),
        ({"AWS_ENDPOINT_URL": LOCAL}, Selection(), LOCAL, OWN),
        ({"AWS_ENDPOINT_URL": "http://localhost:8081/"}, Selection(), LOCAL, OWN),
        ({"AWS_ENDPOINT_URL_CLOUDFRONT": LOCAL}, Selection(), LOCAL, OWN),
        ({"AWS_ENDPOINT_URL": "http://10.0.0.1:1"}, Selection(), "", None),  # botocore reads the variable
        ({"AWS_ENDPOINT_URL": LOCAL, "AWS_ACCESS_KEY_ID": "AKIAOTHER"}, Selection(), LOCAL, None),
    ],
)
def test_which_cloudfront_a_command_uses(
    more: dict[str, str],
    selection: Selection,
    endpoint: str,
    credentials: tuple[str, str] | None,
    environment: dict[str, str],
) -> None:
    found = choose(selection, {**environment, **more})
    assert (found.endpoint_url, found.credentials) == (endpoint, credentials)
    assert (found.local is not None) is (endpoint == LOCAL)
    assert found.profile == selection.profile


def test_the_option_takes_precedence_over_the_environment(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    other = described(tmp_path / "other", "http://127.0.0.1:9")
    elsewhere = {"AWS_ENDPOINT_URL": "http://10.0.0.1:1", "AWS_PROFILE": "prod"}
    chosen = choose(Selection(data=other), {**environment, **elsewhere})
    assert (chosen.endpoint_url, chosen.credentials, chosen.data) == ("http://127.0.0.1:9", OWN, other)


def test_what_contradicts_itself_is_refused(tmp_path: Path, data: Path, environment: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"AWS_ENDPOINT_URL names the Keyfront in .*: unset it"):
        choose(Selection(aws=True), {**environment, "AWS_ENDPOINT_URL": LOCAL})
    with pytest.raises(SettingsError, match="leave out one of them"):
        choose(Selection(aws=True, data=data), {})
    with pytest.raises(SettingsError, match=f"start it with `keyfront up --data {tmp_path}/nothing`"):
        choose(Selection(data=tmp_path / "nothing"), {})


@pytest.mark.parametrize("more", [{}, {"AWS_PROFILE": "prod"}, {"AWS_ACCESS_KEY_ID": "AKIAOTHER"}])
def test_amazon_is_used_only_if_it_is_named(more: dict[str, str], tmp_path: Path) -> None:
    nothing = {"XDG_DATA_HOME": str(tmp_path), **more}
    with pytest.raises(SettingsError, match=r"there is no Keyfront in .*, or use Amazon with --aws"):
        choose(Selection(), nothing)
    with pytest.raises(SettingsError, match="no Keyfront was ever started"):
        choose(Selection(), {**nothing, "KEYFRONT_DATA": str(tmp_path / "typo")})
    assert choose(Selection(aws=True), nothing).endpoint_url == ""


def test_edges_only_have_no_api(tmp_path: Path) -> None:
    folder = described(tmp_path / "edge", "", "", ',"feed":"/srv/feed"')
    with pytest.raises(SettingsError, match="name the address of its control plane with --endpoint-url"):
        choose(Selection(data=folder), {})
    assert choose(Selection(endpoint_url=LOCAL, data=folder), {}).endpoint_url == LOCAL


@pytest.mark.parametrize(
    ("more", "selection", "message"),
    [
        ({}, Selection(), "using the Keyfront in DATA at http://127.0.0.1:8081; --aws uses Amazon"),
        ({}, Selection(aws=True), "using Amazon, not the Keyfront in DATA"),
        ({}, Selection(profile="prod"), "using Amazon with the profile prod, not the Keyfront in DATA"),
        (
            {"AWS_ENDPOINT_URL": "http://10.0.0.1:1"},
            Selection(),
            "using http://10.0.0.1:1, not the Keyfront in DATA",
        ),
        ({}, Selection(endpoint_url=LOCAL), ""),
        ({}, Selection(endpoint_url="http://10.0.0.1:1"), ""),
    ],
)
def test_a_choice_that_the_options_do_not_make_is_printed(
    more: dict[str, str],
    selection: Selection,
    message: str,
    data: Path,
    environment: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    choose(selection, {**environment, **more})
    assert capsys.readouterr().err == (f"keyfront: {message.replace('DATA', str(data))}\n" if message else "")


def test_where_no_keyfront_is_there_is_nothing_to_print(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    choose(Selection(aws=True), {"XDG_DATA_HOME": str(tmp_path / "none"), "AWS_PROFILE": "prod"})
    assert capsys.readouterr().err == ""


def test_the_options_of_a_printed_command_choose_the_same(tmp_path: Path, data: Path) -> None:
    assert choose(Selection(aws=True, profile="a b"), {"XDG_DATA_HOME": str(tmp_path)}).options == (
        " --aws --profile 'a b'"
    )
    assert (
        choose(Selection(data=data, records="file:/r/"), {}).options == f" --data {data} --records file:/r/"
    )


# ---- the rotation records


def test_the_records_that_the_keyfront_watches(data: Path, environment: dict[str, str]) -> None:
    assert choose(Selection(), environment).records == "file:/kept/"
    assert choose(Selection(records="file:/other/"), environment).records == "file:/other/"
    assert records_of(None, data) == "file:/kept/"
    assert records_of("file:/other/", data) == "file:/other/"
    assert InstallationOptions(data, "", None).records("") == "file:/kept/"


def test_a_variable_that_names_others_is_refused_while_it_runs(
    data: Path, environment: dict[str, str]
) -> None:
    other = {**environment, "KEYFRONT_RECORDS": "file:/other/"}
    assert choose(Selection(), other).records == "file:/other/", "the next `keyfront up` watches them, too"
    with running(data):
        with pytest.raises(SettingsError, match="unset KEYFRONT_RECORDS"):
            choose(Selection(), other)
        assert (
            choose(Selection(), {**environment, "KEYFRONT_RECORDS": "file:/kept/"}).records == "file:/kept/"
        )


def test_the_records_of_amazons_key_groups_are_not_the_keyfronts(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    chosen = choose(Selection(aws=True), environment)
    assert chosen.records == ""
    with pytest.raises(SettingsError, match="--records: name the custody"):
        chosen.records_uri()
    named = choose(Selection(aws=True), {**environment, "KEYFRONT_RECORDS": "awsssm:keyfront/"})
    assert named.records_uri() == "awsssm:keyfront/"
    alone = choose(Selection(aws=True), {"XDG_DATA_HOME": str(tmp_path / "none")})
    assert alone.records_uri() == f"file:{tmp_path}/none/keyfront/custody/"


def test_records_that_nothing_watches(tmp_path: Path, data: Path, environment: dict[str, str]) -> None:
    def chosen(records: str = "", aws: bool = False) -> Account:
        return choose(Selection(records=records, aws=aws), environment)

    assert "is not running" in unwatched(chosen())
    refuse_unwatched(chosen("file:/other/"))  # `rotation run` performs the steps
    with running(data):
        assert unwatched(chosen()) == ""
        refuse_unwatched(chosen())
        assert "perform the steps with `keyfront rotation run --records file:/other/`" in unwatched(
            chosen("file:/other/")
        )
        with pytest.raises(SettingsError, match=f"`keyfront up --data {data} --records file:/other/`"):
            refuse_unwatched(chosen("file:/other/"))
        assert unwatched(chosen("file:/other/", aws=True)) == "", "not this Keyfront's to watch"
    by_hand = described(tmp_path / "by-hand", more=',"rotation":false')
    with running(by_hand):
        account = choose(Selection(data=by_hand), {})
        assert f"`keyfront rotation run --data {by_hand}`" in unwatched(account)
        refuse_unwatched(account)


def test_the_store_that_the_keyfront_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KEYFRONT_STORE", raising=False)
    url = "postgresql://kf@db/keyfront"
    folder = described(tmp_path / "d", more=f',"store":"{url}","store_password_file":"/run/pw"')
    assert InstallationOptions(folder, "", None).named_store() == (url, Path("/run/pw"))
    assert InstallationOptions(folder, "", Path("/my/pw")).named_store() == (url, Path("/my/pw"))
    monkeypatch.setenv("KEYFRONT_STORE", "postgresql://kf:s@db/other")
    assert InstallationOptions(folder, "", None).named_store() == ("postgresql://kf:s@db/other", None)
