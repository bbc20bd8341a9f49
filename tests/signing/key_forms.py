"""The test keys in every common file format, and what tools do to a PEM text."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import cast
from urllib.parse import quote, quote_plus

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from keyfront.signing.keys import (
    load_public_key,
)
from tests.vectors.corpus import HERE

KEYS = HERE / "keys"

Pair = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

RSA = cast("rsa.RSAPrivateKey", serialization.load_pem_private_key((KEYS / "rsa.pem").read_bytes(), None))

EC = cast(
    "ec.EllipticCurvePrivateKey", serialization.load_pem_private_key((KEYS / "ec.pem").read_bytes(), None)
)

PUBLIC = {name: load_public_key((KEYS / f"{name}.pub").read_bytes()) for name in ("rsa", "ec")}

PASSPHRASE = b"correct horse"


def pem(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, form: PrivateFormat, secret: bytes | None = None
) -> str:
    encryption = NoEncryption() if secret is None else BestAvailableEncryption(secret)
    return key.private_bytes(Encoding.PEM, form, encryption).decode()


PLAIN = {
    "PKCS#1": (pem(RSA, PrivateFormat.TraditionalOpenSSL), "rsa"),
    "PKCS#8, RSA": (pem(RSA, PrivateFormat.PKCS8), "rsa"),
    "SEC1": (pem(EC, PrivateFormat.TraditionalOpenSSL), "ec"),
    "PKCS#8, EC": (pem(EC, PrivateFormat.PKCS8), "ec"),
}


ENCRYPTED = {
    "PKCS#1": (pem(RSA, PrivateFormat.TraditionalOpenSSL, PASSPHRASE), "rsa"),
    "PKCS#8, RSA": (pem(RSA, PrivateFormat.PKCS8, PASSPHRASE), "rsa"),
    "SEC1": (pem(EC, PrivateFormat.TraditionalOpenSSL, PASSPHRASE), "ec"),
    "PKCS#8, EC": (pem(EC, PrivateFormat.PKCS8, PASSPHRASE), "ec"),
}


def wrapped(label: str, text: str) -> str:
    """`text` between another pair of BEGIN and END lines, as base64."""
    body = base64.encodebytes(text.encode()).decode()
    return f"-----BEGIN {label}-----\n{body}-----END {label}-----\n"


# What editors, shells, environment variables and secret stores do to a PEM text.
MANGLED: dict[str, Callable[[str], str | bytes]] = {
    "as it is": lambda text: text,
    "bytes": lambda text: text.encode(),
    "CRLF": lambda text: text.replace("\n", "\r\n"),
    "CR": lambda text: text.replace("\n", "\r"),
    "a byte order mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "UTF-16 with its mark": lambda text: text.encode("utf-16"),
    "UTF-16, big end first": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    "indented": lambda text: "".join(f"    {line}\n" for line in text.splitlines()),
    "escaped newlines": lambda text: text.replace("\n", "\\n"),
    "escaped CRLF": lambda text: text.replace("\n", "\\r\\n"),
    "escaped newlines in quotes": lambda text: '"' + text.replace("\n", "\\n") + '"',
    "blanks for newlines": lambda text: text.replace("\n", " "),
    "newlines lost": lambda text: (
        text.replace("-----\n", "-----").replace("\n", "") if "Proc-Type" not in text else text
    ),
    "base64 in one line": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 in lines": lambda text: base64.encodebytes(text.encode()).decode(),
    "base64 with escaped newlines": lambda text: (
        base64.encodebytes(text.encode()).decode().replace("\n", "\\n")
    ),
    "base64 in quotes": lambda text: f"'{base64.b64encode(text.encode()).decode()}'",
    "no newline at the end": str.strip,
    "text around it": lambda text: f"Bag Attributes\n    friendlyName: x\n{text}\nthe end\n",
    "parameters before it": lambda text: (
        f"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n{text}"
    ),
    "newlines escaped twice": lambda text: text.replace("\n", "\\\\n"),
    "newlines escaped twice, CRLF": lambda text: text.replace("\n", "\\\\r\\\\n"),
    "&#10;": lambda text: text.replace("\n", "&#10;"),
    "&#xA;": lambda text: text.replace("\n", "&#xA;"),
    "&#13;&#10;": lambda text: text.replace("\n", "&#13;&#10;"),
    "&#010;": lambda text: text.replace("\n", "&#010;"),
    "&amp;#10;": lambda text: text.replace("\n", "&amp;#10;"),
    "&NewLine;": lambda text: text.replace("\n", "&NewLine;"),
    "\\u000a": lambda text: text.replace("\n", "\\u000a"),
    "%5Cn": lambda text: text.replace("\n", "%5Cn"),
    "only line ends percent-encoded": lambda text: text.replace("\n", "%0A"),
    "percent-encoded twice": lambda text: quote(quote(text, safe=""), safe=""),
    "base64 without its padding": lambda text: base64.b64encode(text.encode()).decode().rstrip("="),
    "percent-encoded": quote,
    "percent-encoded, slashes too": lambda text: quote(text, safe=""),
    "percent-encoded as a form": quote_plus,
    "percent-encoded, dashes too": lambda text: quote(text, safe="").replace("-", "%2D"),
    "all on one line in quotes": lambda text: '"' + text.strip().replace("\n", " ") + '"',
    "PEM within PEM": lambda text: wrapped("PRIVATE KEY", text),
    "PEM within PEM, RSA": lambda text: wrapped("RSA PRIVATE KEY", text),
    "base64 twice": lambda text: base64.b64encode(base64.b64encode(text.encode())).decode(),
    "blanks of the labels lost": lambda text: (
        text.replace("RSA PRIVATE KEY", "RSAPRIVATEKEY")
        .replace("EC PRIVATE KEY", "ECPRIVATEKEY")
        .replace("BEGIN ", "BEGIN")
        .replace("END ", "END")
    ),
    "in JSON": lambda text: json.dumps({"id": "K1", "private_key": text}),
    "a bytearray": lambda text: bytes(bytearray(text.encode())),
    "a certificate before it": lambda text: (
        f"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n{text}"
    ),
}


def _openssh(key: Pair) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
