"""The operator's file of origin credentials: how it is parsed, what is refused, and when it is read again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from keyfront.edge.origin.credentials import Endpoint, OriginCredentials, read_file
from keyfront.errors import SettingsError

SECRET = "thissecretmustnotbeinanymessage"
KEYS = f"aws_access_key_id = AKIDEXAMPLE\naws_secret_access_key = {SECRET}\n"


def keys(name: str) -> str:
    return f"aws_access_key_id = {name}\naws_secret_access_key = {SECRET}\n"


class Desk:
    """A file, and the log messages about it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "origin-credentials"
        self.told: list[str] = []

    def write(self, text: str, mode: int = 0o600) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(text)
        new.chmod(mode)
        os.replace(new, self.path)

    def open(self, text: str | None = None, environ: dict[str, str] | None = None) -> OriginCredentials:
        if text is not None:
            self.write(text)
        return OriginCredentials(self.path, environ or {}, self.told.append)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def key_of(found: OriginCredentials, domain_name: str) -> str:
    credentials = found.of(domain_name).credentials
    return credentials.access_key_id if credentials is not None else ""


WHOSE = [
    ("media.s3.eu-central-1.amazonaws.com", "MEDIA"),
    ("MEDIA.S3.eu-central-1.amazonaws.com", "MEDIA"),
    ("other.s3.eu-central-1.amazonaws.com", "FRANKFURT"),
    ("a.b.s3.eu-central-1.amazonaws.com", "FRANKFURT"),
    ("s3.eu-central-1.amazonaws.com", "AMAZON"),
    ("other.s3.us-east-1.amazonaws.com", "AMAZON"),
    ("amazonaws.com", "DEFAULT"),
    ("minio.internal", "DEFAULT"),
    ("::1", "HOME"),
]


@pytest.mark.parametrize(("domain_name", "key"), WHOSE)
def test_the_nearest_section_counts(desk: Desk, domain_name: str, key: str) -> None:
    found = desk.open(
        f"[default]\n{keys('DEFAULT')}"
        f"[*.amazonaws.com]\n{keys('AMAZON')}"
        f"[*.s3.eu-central-1.amazonaws.com]\n{keys('FRANKFURT')}"
        f"[Media.s3.eu-central-1.amazonaws.com]\n{keys('MEDIA')}"
        f"[::1]\n{keys('HOME')}",
        {"AWS_ACCESS_KEY_ID": "ENVIRONMENT", "AWS_SECRET_ACCESS_KEY": SECRET},
    )
    assert key_of(found, domain_name) == key
    assert desk.told == []


def test_each_setting_is_looked_for_by_itself(desk: Desk) -> None:
    found = desk.open(
        f"[a.example.com]\n{keys('A')}aws_session_token = token\n"
        "[b.example.com]\nregion = garage\n"
        "[*.example.com]\nendpoint_url = https://s3.internal\naddressing_style = virtual\n"
        f"[default]\n{keys('DEFAULT')}region = home-1\nendpoint_url = http://weed:8333/\n",
        {"AWS_REGION": "eu-west-3"},
    )
    a, b, c = (found.of(name) for name in ("a.example.com", "b.example.com", "c.test"))
    assert (a.region, a.endpoint) == ("home-1", Endpoint("https", "s3.internal", 443, "virtual"))
    assert a.credentials is not None
    assert (a.credentials.access_key_id, a.credentials.session_token) == ("A", "token")
    assert b.credentials is not None
    assert (b.region, b.credentials.access_key_id, b.credentials.session_token) == ("garage", "DEFAULT", "")
    assert (c.region, c.endpoint) == ("home-1", Endpoint("http", "weed", 8333, "path"))


ENVIRONMENTS: list[tuple[dict[str, str], str, str, bool]] = [
    ({}, "", "", False),
    ({"AWS_ACCESS_KEY_ID": "E", "AWS_SECRET_ACCESS_KEY": SECRET}, "E", "", False),
    ({"AWS_DEFAULT_REGION": "eu-west-1"}, "", "eu-west-1", False),
    ({"AWS_DEFAULT_REGION": "eu-west-1", "AWS_REGION": "eu-west-2"}, "", "eu-west-2", False),
    ({"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9000"}, "", "", True),
    # This endpoint may well be Keyfront's own.
    ({"AWS_ENDPOINT_URL": "http://127.0.0.1:8081"}, "", "", False),
]


@pytest.mark.parametrize(("environ", "key", "region", "endpoint"), ENVIRONMENTS)
def test_the_environment(desk: Desk, environ: dict[str, str], key: str, region: str, endpoint: bool) -> None:
    found = desk.open(environ=environ)
    settings = found.of("x.example.com")
    assert (key_of(found, "x.example.com"), settings.region, settings.endpoint is not None) == (
        key,
        region,
        endpoint,
    )
    assert desk.told == []


@pytest.mark.parametrize(
    "environ",
    [
        {"AWS_ACCESS_KEY_ID": "E"},
        {"AWS_SECRET_ACCESS_KEY": SECRET},
        {"AWS_SESSION_TOKEN": "t"},
        {"AWS_ENDPOINT_URL_S3": f"http://user:{SECRET}@host"},
    ],
)
def test_an_environment_that_makes_no_sense_is_not_used(desk: Desk, environ: dict[str, str]) -> None:
    found = desk.open(environ=environ)
    assert key_of(found, "x.example.com") == ""
    (told,) = desk.told
    assert told.startswith("the environment")
    assert SECRET not in told


REFUSED: list[tuple[str, str, str]] = [
    ("no section", KEYS, "format"),
    ("torn", "[default\n" + KEYS, "format"),
    ("one twice", f"[default]\n{KEYS}{KEYS}", "format"),
    ("a section twice", f"[a.com]\n{KEYS}[a.com]\n{KEYS}", "format"),
    ("twice but for case", f"[a.com]\n{KEYS}[A.com]\n{KEYS}", "twice"),
    ("no name", f"[a b]\n{KEYS}", "DomainName"),
    ("a star within", f"[a.*.com]\n{KEYS}", "DomainName"),
    ("a url", f"[https://a.com]\n{KEYS}", "DomainName"),
    ("only an id", "[default]\naws_access_key_id = A\n", "both"),
    ("only a secret", f"[default]\naws_secret_access_key = {SECRET}\n", "both"),
    ("only a token", "[default]\naws_session_token = t\n", "both"),
    ("a misspelt name", f"[default]\naws_secret_acces_key = {SECRET}\n", "aws_secret_acces_key"),
    ("what only AWS's tools do", "[default]\ncredential_process = /bin/true\n", "credential_process"),
    (
        "a blank in a secret",
        f"[default]\naws_access_key_id = A\naws_secret_access_key = {SECRET} x\n",
        "character",
    ),
    (
        "a slash in an id",
        f"[default]\naws_access_key_id = A/B\naws_secret_access_key = {SECRET}\n",
        "character",
    ),
    (
        "a letter of another script",
        f"[default]\naws_access_key_id = Ä\naws_secret_access_key = {SECRET}\n",
        "character",
    ),
    ("a region", "[default]\nregion = a/b\n", "region"),
    ("a style", "[default]\naddressing_style = auto\n", "addressing_style"),
    ("an endpoint without scheme", "[default]\nendpoint_url = seaweed:8333\n", "http://"),
    ("an endpoint of another scheme", "[default]\nendpoint_url = ftp://seaweed\n", "http://"),
    ("an endpoint with a path", f"[default]\nendpoint_url = http://seaweed/{SECRET}\n", "nothing else"),
    ("an endpoint with a password", f"[default]\nendpoint_url = http://a:{SECRET}@seaweed\n", "nothing else"),
    ("an endpoint with a query", f"[default]\nendpoint_url = http://seaweed?{SECRET}\n", "nothing else"),
    ("an endpoint without host", "[default]\nendpoint_url = http://:80\n", "no host"),
    ("an endpoint of no host", "[default]\nendpoint_url = http://a_b!\n", "no host"),
    ("an endpoint of no port", f"[default]\nendpoint_url = http://a:{SECRET}\n", "cannot be read"),
    ("an endpoint torn", "[default]\nendpoint_url = http://[::1\n", "cannot be read"),
    (
        "buckets below an address",
        "[default]\nendpoint_url = http://127.0.0.1:9000\naddressing_style = virtual\n",
        "addressing_style",
    ),
]


@pytest.mark.parametrize(("text", "why"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_refused(desk: Desk, text: str, why: str) -> None:
    desk.write(text)
    with pytest.raises(SettingsError) as caught:
        read_file(desk.path)
    assert why in str(caught.value)
    assert SECRET not in str(caught.value)
    found = desk.open()
    assert key_of(found, "a.com") == ""
    assert len(desk.told) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o622])
def test_what_others_may_read_or_change_is_refused(desk: Desk, mode: int) -> None:
    desk.write(f"[default]\n{KEYS}", mode)
    found = desk.open()
    assert "chmod 600" in desk.told[0]
    assert key_of(found, "a.com") == ""
    desk.path.chmod(0o600)
    assert not found.poll()
    assert found.poll()
    assert key_of(found, "a.com") == "AKIDEXAMPLE"


def test_a_change_is_taken_over_once_it_stays(desk: Desk) -> None:
    found = desk.open(f"[default]\n{keys('ONE')}")
    assert not found.poll()
    desk.write(f"[default]\n{keys('TWO')}")
    assert not found.poll(), "it may still be written"
    assert key_of(found, "a.com") == "ONE"
    assert found.poll()
    assert key_of(found, "a.com") == "TWO"
    assert not found.poll()
    assert len(desk.told) == 1
    assert "changed" in desk.told[0]


def test_a_change_that_is_refused_leaves_what_was_there(desk: Desk) -> None:
    found = desk.open(f"[default]\n{keys('ONE')}")
    desk.write(f"[default]\naws_access_key_id = TWO\nx = {SECRET}\n")
    assert not found.poll()
    assert not found.poll()
    assert not found.poll()
    assert key_of(found, "a.com") == "ONE"
    assert len(desk.told) == 1
    assert "stays" in desk.told[0]
    assert SECRET not in desk.told[0]


def test_a_file_that_is_gone_takes_its_credentials_along(desk: Desk) -> None:
    found = desk.open(f"[default]\n{keys('ONE')}")
    desk.path.unlink()
    assert not found.poll()
    assert key_of(found, "a.com") == "ONE", "it may be replaced this very moment"
    assert found.poll()
    assert key_of(found, "a.com") == ""
    assert "gone" in desk.told[0]
    desk.write(f"[default]\n{keys('TWO')}")
    assert not found.poll()
    assert found.poll()
    assert key_of(found, "a.com") == "TWO"


def test_without_a_file_there_is_nothing(desk: Desk) -> None:
    found = desk.open()
    assert key_of(found, "a.com") == ""
    assert not found.poll()
    assert desk.told == []


def test_no_repr_holds_a_secret(desk: Desk) -> None:
    found = desk.open(f"[default]\n{KEYS}")
    assert SECRET not in repr(found.of("a.com")) + repr(found) + repr(read_file(desk.path))
