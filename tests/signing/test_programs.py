"""Interoperability: how other programs handle the same keys, signatures, and URLs: OpenSSL, Node, Java, and the
installed signers."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    PrivateFormat,
)

from keyfront.errors import KeyLoadError
from keyfront.signing.diagnosis.encoders import ENCODERS
from keyfront.signing.key_files import load_private_key
from keyfront.signing.keys import HashName, load_public_key
from keyfront.signing.verify import KeyRing
from tests.keys import rsa_key
from tests.signing.encoding_corpus import TEXTS
from tests.signing.harness import KEYS, many_urls, named, outcome, written
from tests.signing.key_forms import PLAIN, RSA, _openssh, pem
from tests.vectors.corpus import HERE, NODE, PAIRS, load
from tests.vectors.make import SIGNERS, Absent, node_signer

REMEDIES = {
    "an RSA key of 1024 bits": lambda: pem(rsa_key(1024), PrivateFormat.PKCS8),
    "a key on P-384": lambda: pem(ec.generate_private_key(ec.SECP384R1()), PrivateFormat.PKCS8),
    "an OpenSSH key": lambda: _openssh(RSA).decode(),
    "a damaged key": lambda: PLAIN["SEC1"][0].replace("MHcCAQEE", "AAAAAAAA", 1),
}


@pytest.mark.skipif(
    shutil.which("openssl") is None or shutil.which("ssh-keygen") is None, reason="no openssl"
)
@pytest.mark.parametrize("what", REMEDIES)
def test_the_command_of_a_remedy_runs_as_printed(what: str, tmp_path: Path) -> None:
    """Each hint's command runs unchanged, with the file names that it uses, and creates a key that can be loaded."""
    source = REMEDIES[what]()
    with pytest.raises(KeyLoadError) as raised:
        load_private_key(source)
    command = raised.value.hint.partition(": ")[2].splitlines()[0]
    assert command.startswith(("openssl ", "ssh-keygen "))
    readable = PLAIN["PKCS#1"][0] if command.startswith("openssl") else source
    for name in ("KEY", "COPY_OF_KEY"):
        (tmp_path / name).write_text(readable)
        (tmp_path / name).chmod(0o600)
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    made = tmp_path / ("private_key.pem" if command.startswith("openssl") else "COPY_OF_KEY")
    assert load_private_key(made).algorithm in ("RSA-2048", "ECDSA-P256")
    public = "openssl pkey -in private_key.pem -pubout -out public_key.pem"
    with pytest.raises(KeyLoadError, match=public):
        load_public_key("x")
    made.rename(tmp_path / "private_key.pem")
    subprocess.run(["sh", "-c", public], cwd=tmp_path, check=True, timeout=60)
    assert (
        load_public_key((tmp_path / "public_key.pem").read_bytes())
        == load_private_key(tmp_path / "private_key.pem").public_key
    )


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")
def test_the_tls_guides_command_for_a_key_runs_as_printed(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guide" / "tls.md").read_text()
    command = re.search("`(openssl pkcs8 [^`]+)`", guide)
    assert command is not None
    (tmp_path / "privkey.pem").write_text(PLAIN["SEC1"][0])
    subprocess.run(["sh", "-c", command[1]], cwd=tmp_path, check=True, timeout=60)
    assert (tmp_path / "key.pem").read_text().startswith("-----BEGIN PRIVATE KEY-----")


@pytest.mark.parametrize("exponent", [1, 2, 65536])
def test_refuses_an_exponent_that_protects_nothing(exponent: int) -> None:
    modulus = RSA.public_key().public_numbers().n
    der_key = subprocess.run(
        ["openssl", "asn1parse", "-genconf", "/dev/stdin", "-noout", "-out", "/dev/stdout"],
        input=(
            "asn1=SEQUENCE:spki\n[spki]\nalg=SEQUENCE:alg\nkey=BITWRAP,SEQUENCE:rsa\n"
            f"[alg]\noid=OID:rsaEncryption\nnull=NULL\n[rsa]\nn=INTEGER:{modulus}\ne=INTEGER:{exponent}\n"
        ).encode(),
        capture_output=True,
        check=True,
    ).stdout
    text = f"-----BEGIN PUBLIC KEY-----\n{base64.encodebytes(der_key).decode()}-----END PUBLIC KEY-----\n"
    with pytest.raises(KeyLoadError):
        load_public_key(text)


@pytest.mark.parametrize(("name", "hash_name"), PAIRS)
def test_signs_and_verifies_as_openssl_does(name: str, hash_name: HashName, tmp_path: Path) -> None:
    private = load_private_key(HERE / "keys" / f"{name}.pem")
    public = private.public_key
    data = b"some policy"
    signature = private.sign(data, hash_name)
    assert public.verify(data, signature, hash_name)
    assert not public.verify(data + b" ", signature, hash_name)
    assert not public.verify(data, signature, "SHA1" if hash_name == "SHA256" else "SHA256")
    assert not public.verify(data, b"", hash_name)
    assert not public.verify(data, signature + b"\0", hash_name)
    assert not public.verify(data, b"\0" + signature, hash_name)
    assert not public.verify(data, signature[:-1], hash_name)
    (tmp_path / "data").write_bytes(data)
    (tmp_path / "signature").write_bytes(signature)
    verified = subprocess.run(
        ["openssl", "dgst", f"-{hash_name.lower()}", "-verify", HERE / "keys" / f"{name}.pub", "-signature",
         tmp_path / "signature", tmp_path / "data"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert verified.stdout.strip() == "Verified OK"
    undone = public.undone(signature)
    assert (undone is None) == (name != "rsa")
    assert undone is None or undone.endswith(hashlib.new(hash_name, data).digest())
    assert public.verify_digest(hashlib.new(hash_name, data).digest(), signature) == (name != "rsa")


NODE_FUNCTIONS = """
import qs from "node:querystring";
const texts = JSON.parse(process.argv[1]);
const url = new URL("http://h/");
console.log(JSON.stringify(texts.map((text) => {
  url.pathname = "/x" + text + "y";
  url.search = "?x" + text + "y";
  return {
    "JavaScript encodeURI": encodeURI(text),
    "JavaScript encodeURIComponent": encodeURIComponent(text),
    "Node querystring.stringify": qs.stringify({ q: text }).slice(2),
    "JavaScript URLSearchParams": new URLSearchParams([["q", text]]).toString().slice(2),
    "JavaScript escape": escape(text),
    path: url.pathname.slice(2, -1),
    query: url.search.slice(2, -1),
  };
})));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="no Node")
def test_nodes_functions_write_as_their_tables_say() -> None:
    command = ["node", "--input-type=module", "-e", NODE_FUNCTIONS, "--", json.dumps(TEXTS)]
    answer = subprocess.run(command, capture_output=True, check=True, timeout=60)
    for text, wrote in zip(TEXTS, json.loads(answer.stdout), strict=True):
        paths = {
            written(one, text)
            for one in ENCODERS
            if any("URL class" in n for n in one.names) and "path" in one.parts
        }
        if "\\" not in text and "/" not in text and text not in "." and text.strip():
            assert wrote.pop("path") in paths  # Node 20 leaves ^ unencoded, later versions do not
        wrote.pop("path", None)
        assert wrote.pop("query") == written(named("browsers (URL class)", "query"), text)
        for name, result in wrote.items():
            assert written(named(name), text) == result, (name, text)


JAVA = Path(__file__).parents[1] / "vectors" / "Encoders.java"


@pytest.mark.skipif(shutil.which("java") is None, reason="no Java")
def test_javas_functions_write_as_their_tables_say() -> None:
    answer = subprocess.run(["java", JAVA], capture_output=True, check=True, timeout=110)
    for line in answer.stdout.decode().splitlines():
        name, part, text, wrote = json.loads(line)
        assert written(named(name, part), text) == wrote, (name, text)


@pytest.mark.parametrize("signer", SIGNERS)
def test_fresh_signatures_are_judged_like_the_stored(signer: str) -> None:
    """The installed signers sign everything again. RSA signatures must match the stored ones."""
    try:
        fresh = list(SIGNERS[signer]() if signer != "awscli" else SIGNERS[signer](("plain", "UTF-8")))  # type: ignore[call-arg]
    except Absent as absent:
        pytest.skip(f"{signer}: {absent}")
    stored = {vector.name: vector for vector in load(signer)}
    ring = KeyRing(KEYS)
    for vector in fresh:
        assert outcome(vector, ring) == vector.expect, vector.name
        if vector.key == "rsa":
            assert vector == stored[vector.name]


def test_browsers_and_node_send_it_unchanged() -> None:
    """Node's URL implements the URL Standard, which browsers and fetch use."""
    if shutil.which("node") is None or not (NODE / "node_modules" / "@aws-sdk").exists():
        pytest.skip("node: npm ci in tests/node first")
    urls = many_urls()
    assert node_signer([{"kind": "href", "args": {"url": url}} for url in urls]) == urls


def test_the_warning_is_seen_on_standard_error_of_a_program() -> None:
    code = (
        "from keyfront import sign_url; from tests.signing.harness import RSA\n"
        "sign_url('https://cdn.test/a', RSA, expires=1600000000)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, timeout=60, text=True
    )
    assert "ExpiredWarning: this has expired already" in done.stderr
