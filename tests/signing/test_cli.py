"""The signing commands as a user types them: one test with the installed `keyfront`, the others in this process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from keyfront.cli.main import keyfront as group
from keyfront.custody import open_records
from keyfront.custody.key_record import Entry, KeyGroupRecord, RotationPolicy, Stage, save
from tests.rows import rows
from tests.signing.harness import EC, RSA, reason
from tests.vectors.corpus import HERE

KEYS = HERE / "keys"
KEYFRONT = Path(sys.executable).parent / "keyfront"
RSA_KEY = ("--key-pair-id", RSA.key_pair_id, "--private-key", str(KEYS / "rsa.pem"))
EC_KEY = ("--key-pair-id", EC.key_pair_id, "--private-key", str(KEYS / "ec.pem"))
TRUST = (
    "--public-key",
    f"{RSA.key_pair_id}={KEYS / 'rsa.pub'}",
    "--public-key",
    f"{EC.key_pair_id}={KEYS / 'ec.pub'}",
)
THEN = "2030-01-01T00:00:00Z"


def keyfront(*arguments: str, code: int = 0, stdin: bytes = b"") -> tuple[str, str]:
    """The command's output on both streams."""
    done = CliRunner().invoke(group, arguments, input=stdin)
    assert done.exit_code == code, done.output
    return done.stdout, done.stderr


def installed(*arguments: str, code: int = 0) -> tuple[str, str]:
    """The same, in a process of its own."""
    done = subprocess.run([KEYFRONT, *arguments], capture_output=True, check=False, timeout=60, text=True)
    assert done.returncode == code, done.stderr or done.stdout
    return done.stdout, done.stderr


def test_a_url_is_signed_and_explained() -> None:
    url = installed("sign", "https://cdn.test/a b?c='d'", *RSA_KEY, "--expires", THEN)[0].strip()
    assert reason(url) == "granted"
    out, _ = installed("explain", url, *TRUST, "--now", "2029-12-31T23:00:00Z")
    assert out.startswith("granted by the signed url")
    out, _ = installed("explain", url, *TRUST, "--now", THEN, code=1)
    assert "refused expired (the viewer sees AccessDenied: Access denied)" in out
    out, _ = installed(
        "explain", url.replace("https", "http"), *TRUST, "--now", "1800000000", "--json", code=1
    )
    assert "signed for https:// and requested by http://" in json.loads(out)["cause"]


def test_without_keys_nothing_is_said_about_the_signer() -> None:
    url = keyfront("sign", "https://cdn.test/a", *RSA_KEY, "--expires", THEN)[0].strip()
    out, _ = keyfront("explain", url, "--now", "2029-12-31T23:00:00Z", code=1)
    assert out.startswith("not checked: no public key was given")
    assert "refused" not in out


def test_signing_what_has_expired_warns(tmp_path: Path) -> None:
    """It is still generated: tests of refusals need it."""
    out, err = keyfront("sign", "https://cdn.test/a", *RSA_KEY, "--expires", "0s")
    assert "already expired" in err
    assert reason(out.strip(), now=time.time() + 1) == "expired"
    policy = tmp_path / "policy.json"
    policy.write_text(
        '{"Statement":[{"Resource":"*","Condition":{"DateLessThan":{"AWS:EpochTime":1600000000}}}]}'
    )
    _, err = keyfront("sign", "https://cdn.test/a", *RSA_KEY, "--policy", str(policy))
    assert "(2020-09-13T12:26:40Z)" in err
    assert keyfront("sign", "https://cdn.test/a", *RSA_KEY, "--expires", "2s")[1] == ""
    _, err = keyfront("sign-cookies", "https://cdn.test/*", *RSA_KEY, "--expires", "1600000000")
    assert "already expired" in err


@pytest.mark.parametrize("key", [RSA_KEY, EC_KEY])
def test_every_option_of_sign(key: tuple[str, ...], tmp_path: Path) -> None:
    url = keyfront(
        "sign", "https://cdn.test/a", *key, "--expires", "1h30m", "--starts", "1600000000", "--ip", "192.0.2.7",
        "--resource", "https://cdn.test/*", "--hash", "SHA256",
    )[0].strip()  # fmt: skip
    assert url.endswith("&Hash-Algorithm=SHA256")
    assert reason(url) == "granted"
    assert reason(url, ip="192.0.2.8") == "wrong_ip"
    policy = tmp_path / "policy.json"
    policy.write_text(
        '{"Statement": [{"Resource":"https://cdn.test/*","Condition":{"DateLessThan":{"AWS:EpochTime":1893456000}}}]}\n'
    )
    assert (
        reason(keyfront("sign", "https://cdn.test/a", *key, "--policy", str(policy))[0].strip()) == "granted"
    )
    raw = keyfront("sign", "https://cdn.test/a/../b", *key, "--expires", "1d", "--as-is")[0].strip()
    assert raw.startswith("https://cdn.test/a/../b?")


def test_cookies_in_three_forms() -> None:
    header = keyfront("sign-cookies", "https://cdn.test/*", *EC_KEY, "--expires", THEN, "--format", "cookie")[
        0
    ].strip()
    assert reason("https://cdn.test/x", header.removeprefix("Cookie: ")) == "granted"
    lines = keyfront(
        "sign-cookies",
        "https://cdn.test/*",
        *EC_KEY,
        "--expires",
        THEN,
        "--domain",
        "cdn.test",
        "--same-site",
        "None",
    )[0].splitlines()
    assert len(lines) == 4
    assert all(line.endswith("; Domain=cdn.test; Path=/; Secure; HttpOnly; SameSite=None") for line in lines)
    values = json.loads(
        keyfront(
            "sign-cookies", "https://cdn.test/a", *RSA_KEY, "--canned", "--expires", THEN, "--format", "json"
        )[0]
    )
    assert list(values) == ["CloudFront-Expires", "CloudFront-Signature", "CloudFront-Key-Pair-Id"]
    out, _ = keyfront("explain", "https://cdn.test/x", "--cookie", header, *TRUST, "--now", "1800000000")
    assert out.startswith("granted by the signed cookies")


def test_a_key_from_standard_input_and_with_a_passphrase(tmp_path: Path) -> None:
    encrypted = subprocess.run(
        ["openssl", "pkcs8", "-topk8", "-in", KEYS / "ec.pem", "-passout", "pass:secret"],
        capture_output=True,
        check=True,
    ).stdout
    (tmp_path / "passphrase").write_text("secret\n")
    tail = ("--key-pair-id", "K1", "--private-key", "-", "--expires", "1h")
    keyfront(
        "sign",
        "https://cdn.test/a",
        *tail,
        "--passphrase-file",
        str(tmp_path / "passphrase"),
        stdin=encrypted,
    )
    _, err = keyfront("sign", "https://cdn.test/a", *tail, stdin=encrypted, code=2)
    assert err == "keyfront: the key is encrypted. Give its passphrase\n"


def test_a_key_is_checked_and_its_public_half_printed(tmp_path: Path) -> None:
    out, err = keyfront("key", "check", str(KEYS / "rsa.pem"))
    assert out == (KEYS / "rsa.pub").read_text()
    assert "a private key, RSA-2048" in err
    out, err = keyfront("key", "check", str(KEYS / "ec.pub"))
    assert out == (KEYS / "ec.pub").read_text()
    assert "a public key, ECDSA-P256" in err
    lost = tmp_path / "lost.pem"
    lost.write_text((KEYS / "ec.pem").read_text().replace("\n", "\\n"))
    assert "written as \\n" in keyfront("key", "check", str(lost))[1]
    lost.write_text("nothing")
    assert "not a private key" in keyfront("key", "check", str(lost), code=2)[1]


@rows(
    ("arguments", "message"),
    [
        (("sign", "https://cdn.test/a", *RSA_KEY), "give expires"),
        (("sign", "https://cdn.test/a", *RSA_KEY, "--expires", "2030-01-01"), "2030-01-01T00:00:00Z"),
        (("sign", "https://cdn.test/a", *RSA_KEY, "--expires", "2030-01-01T12:00"), "no time zone"),
        (("sign", "https://cdn.test/a", *RSA_KEY, "--expires", "1893456000000"), "milliseconds"),
        (("sign", "https://cdn.test/a", *RSA_KEY, "--expires", "soon"), "is not a time"),
        (("sign", "https://cdn.test/a", *RSA_KEY, "--expires", ""), "is not a time"),
        (("sign", "https://cdn.test/a", *RSA_KEY, "--expires", "99999999999d"), "too long a duration"),
        (("sign", "https://cdn.test/*", *RSA_KEY, "--expires", "1h"), "not a wildcard"),
        (("sign", "cdn.test/a", *RSA_KEY, "--expires", "1h"), "begins with http"),
        (("explain", "cdn.test/a"), "begins with http"),
        (("explain", "https://cdn.test/a", "--public-key", "K1"), "ID=FILE"),
        (("explain", "https://cdn.test/a", "--public-key", "K1=no/such/file"), "No such file"),
        (("explain", "https://cdn.test/a", "--public-key", f"K1={KEYS / 'rsa.pem'}"), "a private key"),
    ],
)
def test_a_mistake_gets_a_message_that_names_it(arguments: tuple[str, ...], message: str) -> None:
    _, err = keyfront(*arguments, code=2)
    assert message in " ".join(err.split())


# ---- keys in custody


def test_with_a_key_in_custody_and_with_a_key_groups(tmp_path: Path) -> None:
    place = f"file:{tmp_path}/keys/"
    keyfront("custody", "import", f"{place}now", str(KEYS / "ec.pem"))
    command = ("sign", "https://cdn.test/a", "--expires", "1h")
    url, _ = keyfront(*command, "--key", f"{place}now", "--key-pair-id", EC.key_pair_id)
    assert reason(url.strip(), now=time.time()) == "granted"
    now = time.time()
    entry = Entry(f"{place}now", Stage.SIGNING, now, EC.key_pair_id, signing=now)
    record = KeyGroupRecord("films", "kg", RotationPolicy(place, max_lifetime=7200.0), (entry,))
    save(open_records(place), record, None, now=now)
    url, _ = keyfront(*command, "--key-group", "films", "--records", place)
    assert reason(url.strip(), now=time.time()) == "granted"
    cookies, _ = keyfront(
        *("sign-cookies", "https://cdn.test/*", "--expires", "1h", "--format", "cookie"),
        *("--key-group", "films", "--records", place),
    )
    assert reason("https://cdn.test/a", cookies.partition(": ")[2].strip(), now=time.time()) == "granted"
    _, err = keyfront(*command[:2], "--expires", "3h", "--key-group", "films", "--records", place, code=2)
    assert "7200 at most" in err
    _, err = keyfront(*command, "--key-group", "photos", "--records", place, code=2)
    assert "there is no record of key group 'photos'" in err
    _, err = keyfront(*command, "--key-group", "films", "--agent", f"unix:{tmp_path}/none", code=2)
    assert "cannot be reached" in err


@rows(
    ("options", "message"),
    [
        ((), "Name what to sign with"),
        (("--key-group", "films", "--key", "file:/k/a"), "Name what to sign with"),
        (("--key-group", "films", "--key-pair-id", "K1"), "determines the key"),
        (("--key", "file:/k/a"), "--key-pair-id is missing"),
        (("--private-key", str(KEYS / "ec.pem")), "--key-pair-id is missing"),
        (("--key", "file:/k/a", "--key-pair-id", "K1", "--agent", "unix:/a"), "require --key-group"),
        (
            ("--key", "file:/k/a", "--key-pair-id", "K1", "--passphrase-file", str(KEYS / "ec.pem")),
            "requires --private-key",
        ),
        (("--key-group", "films", "--agent", "unix:/a", "--records", "file:/k/"), "give either"),
        (("--key", "file:/k/", "--key-pair-id", "K1"), "names a place, not a key"),
    ],
)
def test_what_to_sign_with_must_be_clear(options: tuple[str, ...], message: str) -> None:
    _, err = keyfront("sign", "https://cdn.test/a", "--expires", "1h", *options, code=2)
    assert message in " ".join(err.split())
