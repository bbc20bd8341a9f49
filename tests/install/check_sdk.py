"""Run by the Python of a fresh environment (test_install.py): what the SDK does there, and what it says where an
extra is missing. It imports nothing of the tests. `--beside`: other distributions may be there."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tempfile
import warnings
from importlib.metadata import distributions
from pathlib import Path
from typing import Literal

warnings.simplefilter("error")  # a version that deprecates what Keyfront uses shows itself

from cryptography.hazmat.primitives import serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec, rsa  # noqa: E402

import keyfront  # noqa: E402
from keyfront.cli.main import COMMANDS  # noqa: E402
from keyfront.cli.main import keyfront as command  # noqa: E402

LIGHT = {
    "cffi",
    "click",
    "cryptography",
    "keyfront",
    "msgspec",
    "pip",
    "pycparser",
    "setuptools",
    "typing-extensions",
}
REMEDY = "pip install 'keyfront[server]'"
NEEDS_SERVER = (
    ["up", "--data", "state"],
    ["agent", "--socket", "agent.sock"],
    ["key", "list", "--endpoint-url", "http://127.0.0.1:1"],
    ["plan", "site.toml"],
)
HASHES: tuple[Literal["SHA1", "SHA256"], ...] = ("SHA1", "SHA256")
SITE = 'name = "site"\nendpoint_url = "http://127.0.0.1:1"\n'


def main(beside: bool) -> None:
    present = {(each.metadata["Name"] or "").lower().replace("_", "-") for each in distributions()}
    assert beside or present <= LIGHT, sorted(present - LIGHT)
    keys()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        commands()
        custody()


def keys() -> None:
    for private in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())):
        pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        signer = keyfront.load_signer("K2JCJMDEHXQW5F", pem)
        ring = keyfront.KeyRing({"K2JCJMDEHXQW5F": keyfront.load_private_key(pem).public_key})
        for hash_name in HASHES:
            url = keyfront.sign_url(
                "https://cdn.test/a b", signer, expires=1893456000, hash_name=hash_name, now=1.0
            )
            target = url.removeprefix("https://cdn.test")
            assert keyfront.verify("https", "cdn.test", target, "", ring, "192.0.2.7", 1.0).canned
            report = keyfront.explain_url(url.replace("a%20b", "a+b"), keyring=ring, now=1.0)
            assert not report.granted
            assert report.cause
        cookies = keyfront.sign_cookies("https://cdn.test/*", signer, expires=1893456000, now=1.0)
        assert keyfront.verify("https", "cdn.test", "/x", cookies.header, ring, "192.0.2.7", 1.0)


def run(*arguments: str, status: int = 0) -> tuple[str, str]:
    done = subprocess.run(
        [Path(sys.executable).with_name("keyfront"), *arguments],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == status, (arguments, done.stdout, done.stderr)
    return done.stdout, done.stderr


def commands() -> None:
    """`keyfront sign`, `key check` and `explain` work; every command has its help; the others name the extra."""
    private = ec.generate_private_key(ec.SECP256R1())
    Path("private.pem").write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    public, _ = run("key", "check", "private.pem")
    Path("public.pem").write_text(public)
    url, _ = run(
        "sign", "https://cdn.test/a", "--key-pair-id", "K1", "--private-key", "private.pem", "--expires", "1h"
    )
    report, _ = run("explain", url.strip(), "--public-key", "K1=public.pem")
    assert report.startswith("granted"), report
    for name in COMMANDS:
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            command([name, "--help"], standalone_mode=True)
        assert out.getvalue().startswith("Usage:"), name
    Path("site.toml").write_text(SITE)
    before = sorted(Path().iterdir())
    for arguments in NEEDS_SERVER:
        out_text, err = run(*arguments, status=2)
        assert (out_text, err) == ("", f"keyfront: this needs more than the SDK: {REMEDY}\n"), (
            arguments,
            err,
        )
    assert sorted(Path().iterdir()) == before


def custody() -> None:
    """A signer of a key in an encrypted folder works; a key in AWS names its extra."""
    Path("passphrase").write_text("correct horse battery staple\n")
    Path("passphrase").chmod(0o600)
    place = f"file:{Path.cwd()}/custody/?kek=file:{Path.cwd()}/passphrase"
    run("custody", "create", place.replace("/?", "/films?"))
    signer = keyfront.CustodySigner("K1", place.replace("/?", "/films?"))
    assert "Signature=" in keyfront.sign_url("https://cdn.test/a", signer, expires=1893456000, now=1.0)
    if "botocore" not in {each.metadata["Name"] for each in distributions()}:
        refusal = ""
        try:
            keyfront.CustodySigner("K1", "awskms:keyfront/films?region=eu-central-1").sign(b"", "SHA1")
        except keyfront.CustodyError as error:
            refusal = str(error)
        assert "pip install 'keyfront[aws]'" in refusal, refusal


if __name__ == "__main__":
    main(beside="--beside" in sys.argv)
