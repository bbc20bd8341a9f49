"""`keyfront explain`: it finds the distribution and its keys by itself, or a recorded request by its ID."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from keyfront import sign_cookies, sign_url
from keyfront.cli.main import keyfront
from keyfront.custody.default_paths import Installation
from keyfront.runtime.installation import write_installation
from keyfront.signing.sign import LocalSigner
from tests.control.plane import Plane, distribution_config
from tests.monitoring.harness import encoded, record, refused, write
from tests.rows import rows
from tests.vectors.corpus import key

HOST = "films.example.com"


class Set(Plane):
    """A control plane with one distribution, whose default behavior trusts one of two keys."""

    trusted: LocalSigner
    other: LocalSigner
    domain: str

    def fill(self) -> None:
        client = self.client()
        ids = [
            client.create_public_key(
                PublicKeyConfig={
                    "CallerReference": name,
                    "Name": name,
                    "EncodedKey": key(name).public_key.pem,
                }
            )["PublicKey"]["Id"]
            for name in ("rsa", "ec")
        ]
        self.trusted, self.other = (
            LocalSigner(id_, key(name)) for id_, name in zip(ids, ("rsa", "ec"), strict=True)
        )
        group = client.create_key_group(KeyGroupConfig={"Name": "films", "Items": ids[:1]})["KeyGroup"]["Id"]
        config = distribution_config("one", [group])
        config |= {
            "Aliases": {"Quantity": 2, "Items": [HOST, "*.wild.example.com"]},
            "DefaultRootObject": "index.html",
        }
        made = client.create_distribution(DistributionConfig=config)["Distribution"]
        self.domain = made["DomainName"]
        write_installation(self.folder, Installation(control=self.endpoint))


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Set]:
    plane = Set(tmp_path_factory.mktemp("plane"))
    with plane:
        plane.fill()
        yield plane


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "none"))
    monkeypatch.delenv("KEYFRONT_DATA", raising=False)


def run(*words: str, status: int) -> Result:
    done = CliRunner().invoke(keyfront, ["explain", *words])
    assert done.exit_code == status, (words, done.output, done.exception)
    return done


def report(*words: str, status: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(*words, "--json", status=status).stdout)
    return found


def signed(plane: Set, path: str = "/a.jpg", host: str = HOST, signer: LocalSigner | None = None) -> str:
    return sign_url(f"https://{host}{path}", signer or plane.trusted, expires=int(time.time()) + 3600)


@pytest.fixture(params=["--data", "--endpoint-url", "the user's Keyfront"])
def place(request: pytest.FixtureRequest, plane: Set, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words that name the place, each of the ways."""
    if request.param == "--data":
        return ["--data", str(plane.folder)]
    if request.param == "--endpoint-url":
        for name, value in plane.environment.items():
            monkeypatch.setenv(name, value)
        return ["--endpoint-url", plane.endpoint]
    monkeypatch.setenv("KEYFRONT_DATA", str(plane.folder))
    return []


def test_distribution_behavior_and_keys_are_found(place: list[str], plane: Set) -> None:
    for host in (HOST, "a.wild.example.com", plane.domain):
        found = report(signed(plane, host=host), *place, status=0)
        assert found["granted"]
        assert found["behavior"] == "*"
        assert found["trusted"] == [plane.trusted.key_pair_id]
        assert set(found["names"]) == {plane.domain, HOST, "*.wild.example.com"}
    assert report(signed(plane, "/"), *place, status=0)["path"] == "/index.html"
    cookies = sign_cookies(f"https://{HOST}/*", plane.trusted, expires=int(time.time()) + 60).header
    assert (
        report(f"https://{HOST}/b", "--cookie", cookies, *place, status=0)["signature"]["mode"] == "cookies"
    )
    preflight = report(f"https://{HOST}/b", "--cookie", cookies, "--method", "OPTIONS", *place, status=1)
    assert "no cookies" in preflight["notes"][0]


def test_what_is_refused_has_its_reason(place: list[str], plane: Set) -> None:
    assert report("https://elsewhere.example.com/a", *place, status=1)["reason"] == "no_distribution"
    assert report(f"https://{HOST}/a", *place, status=1)["reason"] == "missing_key_pair_id"
    assert report(f"https://{HOST}/{'a' * 9000}", *place, status=1)["reason"] == "too_large"
    other = report(signed(plane, signer=plane.other), *place, status=1)
    assert other["reason"] == "unknown_key"
    if place[:1] == ["--endpoint-url"]:  # a snapshot contains only keys that are trusted
        assert [cause["code"] for cause in other["signature"]["causes"]] == ["key_not_trusted"]
    old = report(signed(plane), "--now", "2099-01-01T00:00:00Z", *place, status=1)
    assert old["reason"] == "expired"


def test_what_a_person_sees(plane: Set) -> None:
    url = signed(plane).replace(HOST, plane.domain)
    done = run(url, "--data", str(plane.folder), status=1)
    first, second, third, *rest = done.stdout.splitlines()
    assert first == "refused signature_mismatch (the viewer sees 403 AccessDenied)"
    assert HOST in second
    assert third.startswith("Sign the URL as the viewer will send it")
    assert any(line.startswith("    behavior") and "* for /a.jpg" in line for line in rest)
    assert "✗ signature fits" in rest
    granted = run(signed(plane), "--data", str(plane.folder), status=0).stdout
    assert granted.startswith("granted by the signed url\n")


def test_the_clock_is_that_of_the_api(plane: Set, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in plane.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("keyfront.cli.explain.time", SimpleNamespace(time=lambda: time.time() + 86_400))
    url = signed(plane)
    done = run(url, "--endpoint-url", plane.endpoint, status=0)
    assert "This machine's clock is 8640" in done.stdout
    assert "s ahead of the API's" in done.stdout


def test_without_a_keyfront_only_the_signature_counts(plane: Set, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text(key("rsa").public_key.pem)
    trust = f"{plane.trusted.key_pair_id}={tmp_path / 'key.pem'}"
    assert run(signed(plane), "--public-key", trust, status=0).stdout.startswith("granted")
    assert "not checked" in run(signed(plane), status=1).stdout
    cookies = sign_cookies(f"https://{HOST}/*", plane.trusted, expires=int(time.time()) + 60).header
    words = (f"https://{HOST}/a", "--public-key", trust, "--cookie", cookies)
    assert run(*words, status=0)
    assert "carries no cookies" in run(*words, "--method", "OPTIONS", status=1).stderr


@rows(
    "given, text",
    [
        ("https://films.example.com/a.jpg", "exactly the URL that arrived"),
        (
            "https://films.example.com/a.jpg?Expires=1&Signature=x&Key-Pair-Id=K",
            "exactly the URL that arrived",
        ),
        (
            "http://films.example.com/a.jpg",
            "':' where the URL that arrived has 's': character 5, in the protocol",
        ),
        (
            "https://films.example.com/a b.jpg",
            "a blank where the URL that arrived has '.': character 28, in the path",
        ),
        ('{"Statement":[{"Resource":"https://films.example.com/*"}]}', "covers the URL"),
        ('{"Statement":[{"Resource":"https://films.example.org/*"}]}', "in the host"),
    ],
)
def test_what_was_signed_beside_what_arrived(given: str, text: str, plane: Set, tmp_path: Path) -> None:
    (tmp_path / "signed").write_text(f"{given}\n")
    for words in ((given,), (str(tmp_path / "signed"),)):
        done = run(signed(plane), "--data", str(plane.folder), "--signed", *words, status=0)
        assert text in done.stdout
    found = report(signed(plane), "--data", str(plane.folder), "--signed", given, status=0)
    assert text in found["signed"]["text"]


def test_a_difference_is_pointed_at(plane: Set) -> None:
    done = run(
        signed(plane, "/a%20b.jpg"),
        "--data",
        str(plane.folder),
        "--signed",
        f"https://{HOST}/a b.jpg",
        status=0,
    )
    *_, given, arrived, pointer = done.stdout.splitlines()
    assert given == f"    signed    https://{HOST}/a b.jpg"
    assert arrived == f"    arrived   https://{HOST}/a%20b.jpg"
    assert given[pointer.index("^")] == " "
    assert arrived[pointer.index("^")] == "%"


def test_a_recorded_request(tmp_path: Path) -> None:
    logs = tmp_path / "data" / "logs"
    write(logs / "access-1.jsonl.gz", encoded(record(request_id="OLD=="), record(request_id="OLDER")))
    flood = [record(request_id=f"F{number}", user_agent="x" * 1000) for number in range(3000)]
    denied = refused("expired", request_id="NEW==", explanation="It expired 5 s ago.", path="/\x1b[31m")
    write(logs / "access.jsonl", encoded(*flood, denied, record(request_id="LAST")) + b'{"torn')
    data = ("--data", str(tmp_path / "data"))
    shown = run("--request-id", "NEW==", *data, status=1).stdout
    assert shown.startswith("refused expired, status 403, Error\nThe policy has expired.\nSign again.")
    assert "It expired 5 s ago." in shown
    assert "\x1b" not in shown
    for name in ("OLD==", "LAST", "F0", "F2999"):
        found = report("--request-id", name, *data, status=0)
        assert found["record"]["request_id"] == name
        assert found["granted"]
    assert report("--request-id", "NEW==", *data, status=1)["cause"] == "The policy has expired."
    for name in ("NEW", '"', "nothing"):
        assert "no record in" in run("--request-id", name, *data, status=2).stderr
    assert "there is no access log" in run("--request-id", "x", "--data", str(tmp_path), status=2).stderr


@rows(
    "words, why",
    [
        ("", "Give a URL, or --request-id"),
        ("https://x.test/ --request-id R", "Give a URL, or --request-id"),
        ("https://x.test/ --data . --other-host y.test", "--data finds the keys"),
        ("--request-id R --endpoint-url http://127.0.0.1:9", "name it with --data"),
        ("https://x.test/ --data nothing", "keyfront up --data"),
        ("https://x.test/ --signed nothing", "nothing"),
        ("https://x.test/ --method BREW", "BREW"),
    ],
)
def test_what_is_not_possible(words: str, why: str) -> None:
    done = run(*shlex.split(words), status=2)
    assert why in done.stderr
    assert len(done.stderr.splitlines()) == 1
