"""Keys, their signatures, and the base64 alphabet in which CloudFront writes both (cloudfront-semantics
§3.1-2).

CloudFront supports two types of key, RSA with 2048 bits and ECDSA on P-256, and signs with either over SHA-1 or
SHA-256. RSA signatures are RSASSA-PKCS1-v1_5; ECDSA signatures are ASN.1 DER.

Some systems (RHEL 9, Fedora 41 and later) forbid OpenSSL to use SHA-1 in a signature, yet most clients still sign links
with SHA-1. So the hash is always computed here, by hashlib, and signatures are verified by AWS-LC (awscrt), which has
no such policy and is the fastest at it. Where awscrt is not installed (the SDK does not require it), and for keys that
AWS-LC does not accept, which are RSA keys with an uncommon exponent, OpenSSL does the bare public-key operation, to
which the policy does not apply; for RSA, the result is compared with the complete expected DigestInfo.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import re
from collections.abc import Callable
from typing import Literal, cast
from urllib.parse import unquote_to_bytes

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from keyfront.errors import KeyLoadError, SigningError

HashName = Literal["SHA1", "SHA256"]
Algorithm = Literal["RSA-2048", "ECDSA-P256"]

# ------------------------------------------------------------------------------------------------------------
# CloudFront's base64: `+` `=` `/` become `-` `_` `~`. It is not the URL-safe alphabet of RFC 4648.

_TO_CLOUDFRONT = bytes.maketrans(b"+=/", b"-_~")
_FROM_CLOUDFRONT = bytes.maketrans(b"-_~", b"+=/")


def cf_b64encode(data: bytes) -> str:
    """Return `data` in CloudFront's base64, padded."""
    return binascii.b2a_base64(data, newline=False).translate(_TO_CLOUDFRONT).decode("ascii")


def cf_b64decode(text: str) -> bytes:
    """Return the bytes that `text` encodes.

    Strict: the only text accepted is the one that `cf_b64encode` makes of those bytes. The standard alphabet, missing
    padding, white space, and nonzero trailing bits are all refused, so a signature has only one spelling.

    :raises ValueError: if `text` is anything else.
    """
    encoded = text.encode("ascii")
    data = binascii.a2b_base64(encoded.translate(_FROM_CLOUDFRONT))
    if binascii.b2a_base64(data, newline=False).translate(_TO_CLOUDFRONT) != encoded:
        raise ValueError("not CloudFront base64")
    return data


# ------------------------------------------------------------------------------------------------------------
# Signatures

_PKCS1 = padding.PKCS1v15()
_DER = serialization.Encoding.DER
# RFC 8017 §9.2 note 1: the DER of DigestInfo up to the digest itself.
_DIGEST_INFO: dict[str, bytes] = {
    "SHA1": bytes.fromhex("3021300906052b0e03021a05000414"),
    "SHA256": bytes.fromhex("3031300d060960864801650304020105000420"),
}
_HASHES: dict[str, hashes.HashAlgorithm] = {"SHA1": hashes.SHA1(), "SHA256": hashes.SHA256()}  # noqa: S303 - CloudFront's choice
_ECDSA: dict[str, ec.ECDSA] = {name: ec.ECDSA(Prehashed(hash_)) for name, hash_ in _HASHES.items()}


def digest(data: bytes, hash_name: HashName) -> bytes:
    """Return the hash of `data`, even if the system's policy forbids SHA-1 for security."""
    if hash_name == "SHA1":
        return hashlib.sha1(data, usedforsecurity=False).digest()
    return hashlib.sha256(data).digest()


def digest_info(hashed: bytes, hash_name: HashName) -> bytes:
    """Return a digest with its DigestInfo: the input for a PKCS#1 signer that does not hash (RFC 8017 §9.2)."""
    return _DIGEST_INFO[hash_name] + hashed


_Verifier = Callable[[bytes, bytes, HashName], bool]


def _verifier(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> _Verifier:
    """Return a function that tells whether a signature over a digest is by this key."""
    try:
        from awscrt.crypto import EC, RSA, RSASignatureAlgorithm
    except ImportError:  # not installed, or older than its ECDSA
        if isinstance(key, rsa.RSAPublicKey):
            return functools.partial(_compared, key)
        return functools.partial(_fits_curve, key)

    if isinstance(key, ec.EllipticCurvePublicKey):
        curve = EC.new_key_from_der_data(
            key.public_bytes(_DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        return lambda hashed, signature, hash_name: curve.verify(hashed, signature)
    try:
        modulus = RSA.new_public_key_from_der_data(key.public_bytes(_DER, serialization.PublicFormat.PKCS1))
    except RuntimeError:
        return functools.partial(_compared, key)
    by_name = {"SHA1": RSASignatureAlgorithm.PKCS1_5_SHA1, "SHA256": RSASignatureAlgorithm.PKCS1_5_SHA256}
    return lambda hashed, signature, hash_name: modulus.verify(by_name[hash_name], hashed, signature)


def _compared(key: rsa.RSAPublicKey, hashed: bytes, signature: bytes, hash_name: HashName) -> bool:
    """Verify RSASSA-PKCS1-v1_5 by comparing the complete encoded message (RFC 8017 §8.2.2): OpenSSL checks the padding,
    which must fill all the space that the DigestInfo leaves, and no trailing data is allowed."""
    try:
        encoded = key.recover_data_from_signature(signature, _PKCS1, None)
    except InvalidSignature:
        return False
    return len(signature) == 256 and encoded == _DIGEST_INFO[hash_name] + hashed


def _fits_curve(key: ec.EllipticCurvePublicKey, hashed: bytes, signature: bytes, hash_name: HashName) -> bool:
    """Verify ECDSA over a digest of any hash. P-256 signs the number in the digest's first 256 bits (SEC 1 §4.1.4): a
    shorter digest verifies as the 32 bytes of the same number."""
    try:
        key.verify(signature, hashed[:32].rjust(32, b"\0"), _ECDSA["SHA256"])
    except InvalidSignature:
        return False
    return True


class PublicKey:
    """A public key of a type that CloudFront accepts: RSA-2048 or ECDSA P-256. Immutable.

    `pem` is SubjectPublicKeyInfo ending in a newline; `fingerprint` is the SHA-256 of its DER in hex. Two keys are the
    same key exactly if their fingerprints are equal.
    """

    __slots__ = ("_key", "_verifier", "algorithm", "fingerprint", "pem")

    def __init__(self, key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> None:
        """:raises KeyLoadError: if `key` is of a type or size that CloudFront does not accept."""
        self.algorithm: Algorithm = _algorithm_of(key)
        self._key = key
        self._verifier: _Verifier | None = None
        der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        self.fingerprint = hashlib.sha256(der).hexdigest()
        self.pem = key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ).decode("ascii")

    def verify(self, data: bytes, signature: bytes, hash_name: HashName) -> bool:
        """Whether `signature` over `data` is by this key."""
        if self._verifier is None:
            self._verifier = _verifier(self._key)
        return self._verifier(digest(data, hash_name), signature, hash_name)

    def verify_digest(self, hashed: bytes, signature: bytes) -> bool:
        """Whether an ECDSA `signature` over a digest of any hash is by this key; False for RSA keys."""
        if self.algorithm != "ECDSA-P256":
            return False
        if self._verifier is None:
            self._verifier = _verifier(self._key)
        return self._verifier(hashed, signature, "SHA256")

    def undone(self, signature: bytes) -> bytes | None:
        """Return the result of the bare public-key operation (RFC 8017 §5.2.2) on an RSA signature: 256 bytes that show
        how the signature was made if this key made it, and are random otherwise. None for ECDSA keys and for values
        that do not have a signature's size."""
        if not isinstance(self._key, rsa.RSAPublicKey) or len(signature) != 256:
            return None
        numbers = self._key.public_numbers()
        number = int.from_bytes(signature, "big")
        return pow(number, numbers.e, numbers.n).to_bytes(256, "big") if number < numbers.n else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return f"<PublicKey {self.algorithm} {self.fingerprint[:16]}>"


class PrivateKey:
    """A private key in memory: RSA-2048 or ECDSA P-256. It is checked once, when it is loaded, and can sign any number
    of times, from any thread. Its repr never shows the key."""

    __slots__ = ("_key", "algorithm", "public_key")

    def __init__(self, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> None:
        """:raises KeyLoadError: if `key` is of a type or size that CloudFront does not accept."""
        self.public_key = PublicKey(key.public_key())
        self.algorithm: Algorithm = self.public_key.algorithm
        self._key = key

    def sign(self, data: bytes, hash_name: HashName) -> bytes:
        """Return the signature over `data`: 256 bytes for RSA, DER of up to 72 bytes for ECDSA.

        :raises SigningError: if the system's OpenSSL policy forbids it.
        """
        hashed = digest(data, hash_name)
        key = self._key
        if isinstance(key, ec.EllipticCurvePrivateKey):
            return key.sign(hashed, _ECDSA[hash_name])
        try:
            return key.sign(hashed, _PKCS1, Prehashed(_HASHES[hash_name]))
        except UnsupportedAlgorithm as error:
            return _sign_digest_info(key, _DIGEST_INFO[hash_name] + hashed, error)

    def to_pem(self) -> str:
        """Return the key itself, as unencrypted PKCS#8 in PEM: a secret. For code that stores keys."""
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode("ascii")

    def __repr__(self) -> str:
        return f"<PrivateKey {self.algorithm}, public half {self.public_key.fingerprint[:16]}>"


def generate_private_key(algorithm: Algorithm) -> PrivateKey:
    """Generate a key from the system's randomness. RSA takes a tenth of a second or more."""
    if algorithm == "RSA-2048":
        return PrivateKey(rsa.generate_private_key(65537, 2048))
    return PrivateKey(ec.generate_private_key(ec.SECP256R1()))


def _sign_digest_info(key: rsa.RSAPrivateKey, digest_info: bytes, cause: Exception) -> bytes:
    """Make the same RSA signature where policy forbids OpenSSL the hash: the DigestInfo is built here and signed as
    is."""
    try:
        from cryptography.hazmat.primitives.asymmetric.utils import (
            NoDigestInfo,
        )  # requires a newer version than the oldest supported one
    except ImportError:
        raise SigningError(
            "this system's OpenSSL policy forbids RSA signatures with SHA-1: sign with SHA-256, or use a "
            "newer cryptography package"
        ) from cause
    return key.sign(digest_info, _PKCS1, NoDigestInfo())


_LONGEST_EXPONENT = 64
"""Maximum bits of an RSA public exponent. The usual 65537 has 17; with 64 and a 2048-bit key, verifying a signature
takes 2 ms."""


def _algorithm_of(key: object) -> Algorithm:
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size != 2048:
            raise KeyLoadError(
                f"an RSA key of {key.key_size} bits: CloudFront takes 2048 bits only",
                "Make one with: openssl genrsa -out private_key.pem 2048",
            )
        exponent = key.public_numbers().e
        if exponent < 3 or exponent % 2 == 0:
            raise KeyLoadError(f"an RSA key whose public exponent is {exponent} protects nothing")
        if exponent.bit_length() > _LONGEST_EXPONENT:
            raise KeyLoadError(
                f"an RSA key with a public exponent of {exponent.bit_length()} bits: every signature is slow to check",
                "Make one with: openssl genrsa -out private_key.pem 2048",
            )
        return "RSA-2048"
    if isinstance(key, ec.EllipticCurvePublicKey):
        if not isinstance(key.curve, ec.SECP256R1):
            raise KeyLoadError(
                f"an elliptic-curve key on {key.curve.name}: CloudFront takes P-256 (prime256v1) only",
                "Make one with: openssl ecparam -name prime256v1 -genkey -noout -out private_key.pem",
            )
        return "ECDSA-P256"
    raise KeyLoadError(
        f"a key of type {type(key).__name__.removesuffix('PublicKey')}: "
        "CloudFront takes RSA of 2048 bits or ECDSA on P-256 only",
        "Make one with: openssl genrsa -out private_key.pem 2048",
    )


# ------------------------------------------------------------------------------------------------------------
# Loading

_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+?)-----(.*?)-----END \1-----", re.DOTALL)
_HEADER = re.compile(
    r"\A\s*Proc-Type:\s*(?P<proc>\S+)\s+DEK-Info:\s*(?P<dek>[A-Za-z0-9-]+,[0-9A-Fa-f]+)", re.DOTALL
)
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_PRIVATE_LABELS = ("PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY")

_PUBLIC_HINT = (
    "This is the public half. Signing needs the private key that it was made from; the public half is "
    "what you give to CloudFront"
)
_NOT_PRIVATE: dict[str, tuple[str, str]] = {
    "PUBLIC KEY": ("a public key, where a private key is needed", _PUBLIC_HINT),
    "RSA PUBLIC KEY": ("a public key, where a private key is needed", _PUBLIC_HINT),
    "CERTIFICATE": (
        "a certificate, where a private key is needed",
        "A certificate holds a public key only. Give the private key that it was issued for",
    ),
    "CERTIFICATE REQUEST": (
        "a certificate request, where a private key is needed",
        "Give the private key that the request was made with",
    ),
    "OPENSSH PRIVATE KEY": (
        "a private key in OpenSSH's own format",
        "Convert a copy of it with: ssh-keygen -p -m PEM -N '' -f COPY_OF_KEY",
    ),
    "DSA PRIVATE KEY": (
        "a DSA key: CloudFront takes RSA of 2048 bits or ECDSA on P-256 only",
        "Make one with: openssl genrsa -out private_key.pem 2048",
    ),
}


def parse_private_key(text: bytes | str, passphrase: bytes | str | None = None) -> PrivateKey:
    """Parse the private key that `text` holds.

    A key is PEM (PKCS#1, PKCS#8, SEC1, each also encrypted), DER, or base64 of either in one line. The parser repairs
    what editors, shells, environment variables and forms do to PEM: a byte order mark, UTF-16, CRLF, indentation,
    surrounding quotes, newlines written `\\n` (also escaped twice) or `&#10;`, newlines or spaces lost,
    percent-encoding, base64 of the whole once or more, also within another pair of BEGIN and END lines, and a BEGIN
    line that names another of the formats (PKCS#8 under RSA PRIVATE KEY and the reverse).

    :param passphrase: the passphrase of an encrypted key; ignored if the key is not encrypted.
    :raises KeyLoadError: if the key cannot be read; the message says how to fix it and reveals nothing of the key.
    """
    password = passphrase.encode() if isinstance(passphrase, str) else passphrase
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else bytes(text)
    pem = _private_pem(data)
    try:
        try:
            key = (
                serialization.load_pem_private_key(pem, password)
                if pem is not None
                else serialization.load_der_private_key(data, password)
            )
        except ValueError:
            if pem is None or (other := _relabelled(pem)) is None:
                raise
            key = serialization.load_pem_private_key(other, password)
    except KeyLoadError:
        raise
    except TypeError as error:  # cryptography raises this if the passphrase is missing, or not needed
        if password is None:
            raise KeyLoadError("the key is encrypted", "Give its passphrase") from error
        return parse_private_key(data)
    except UnsupportedAlgorithm as error:
        raise KeyLoadError(f"a key that cannot be used: {error}", _convert_hint()) from error
    except ValueError as error:
        if password is not None:
            raise KeyLoadError(
                "the key cannot be decrypted", "The passphrase is wrong, or the file is damaged"
            ) from error
        raise KeyLoadError(
            "the key cannot be read: its content is damaged or cut short", _convert_hint()
        ) from (error)
    if isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        return PrivateKey(key)
    _algorithm_of(key.public_key())
    raise KeyLoadError("a key of a kind that CloudFront does not take")  # pragma: no cover


def load_public_key(pem: bytes | str) -> PublicKey:
    """Load the public key in `pem`, exactly as CloudFront's CreatePublicKey accepts it: one SubjectPublicKeyInfo block
    (`-----BEGIN PUBLIC KEY-----`) with its line breaks, RSA-2048 or ECDSA P-256.

    :raises KeyLoadError: if it is anything else; the message says how to fix it.
    """
    try:
        text = pem.decode("ascii") if isinstance(pem, bytes) else pem
        encoded = text.encode("ascii")
    except UnicodeError as error:
        raise KeyLoadError("a public key in PEM is plain ASCII text", _PUBLIC_PEM_HINT) from error
    if len(text) > _LONGEST_PUBLIC:
        raise KeyLoadError(f"a text of {len(text)} characters is not a public key", _PUBLIC_PEM_HINT)
    labels = [label for label, _ in _BLOCK.findall(text)]
    stripped = text.strip()
    if labels != ["PUBLIC KEY"] or not (stripped.startswith("-----BEGIN") and stripped.endswith("-----")):
        if any("PRIVATE KEY" in label for label in labels):
            raise KeyLoadError("a private key, where a public key is needed", _PUBLIC_PEM_HINT)
        found = f"found: {', '.join(labels)}" if labels else "found no PEM block"
        raise KeyLoadError(f"not a single PEM block of a public key ({found})", _PUBLIC_PEM_HINT)
    # RFC 7468 §2: lines of 64 characters. CloudFront refuses a key whose line breaks are lost or escaped.
    if any(len(line) > 76 for line in stripped.splitlines()) or "\\" in stripped:
        raise KeyLoadError("the line breaks of the public key are lost", _PUBLIC_PEM_HINT)
    try:
        key = serialization.load_pem_public_key(encoded)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyLoadError("the public key is damaged or of an unknown kind", _PUBLIC_PEM_HINT) from error
    return PublicKey(cast("rsa.RSAPublicKey", key))


_LONGEST_PUBLIC = 4096
"""Maximum characters of a PEM public key. RSA with 2048 bits takes 451."""

_PUBLIC_PEM_HINT = "Make it with: openssl pkey -in private_key.pem -pubout -out public_key.pem"


def _convert_hint() -> str:
    return "If openssl can read it, convert it with: openssl pkey -in KEY -out private_key.pem"


EMPTY_HINT = (
    "Is the environment variable or the secret set under this name? A key in PEM begins with "
    "-----BEGIN PRIVATE KEY-----"
)


def is_key_text(text: str) -> bool:
    """Whether `text` is a key rather than the path of a file: no path is that long, and no key that short."""
    return (
        "-----BEGIN" in text
        or re.search("PRIVATE(?:%20|\\+)KEY", text) is not None
        or "PuTTY-User-Key" in text
        or (len(text) > 160 and _BASE64.fullmatch(_compact(text)) is not None)
    )


# Spellings of line ends where real ones are not possible.
_WRITTEN_LINE_END = re.compile(
    r"\\+(?:[rn]|u000[aAdD])|&(?:amp;)*(?:#(?:0?10|0?13|x0?[AaDd])|NewLine);|<br ?/?>"
)
# A BEGIN or END line whose spaces were lost, doubled, or replaced by underscores.
_LOOSE_LABEL = re.compile(r"-----(BEGIN|END)[ _]*((?:RSA|EC|ENCRYPTED)?)[ _]*PRIVATE[ _]*KEY-----")
# Maximum nesting of base64 within base64.
_DEEPEST = 4


def _compact(text: str) -> str:
    """Remove white space, escaped newlines, and surrounding quotes."""
    return "".join(_WRITTEN_LINE_END.sub("", text.strip().strip("\"'")).split())


def _unwritten(text: str) -> str:
    """Undo percent-encoding and escaped line ends in PEM."""
    # Neither PEM nor base64 contains a percent sign. One round undoes one level of encoding.
    for _ in range(_DEEPEST):
        if not re.search("%[0-9A-Fa-f]{2}", text) or "BEGIN" not in text:
            break
        plain = text.replace("+", " ") if "BEGIN+" in text else text
        text = unquote_to_bytes(plain.encode("latin-1")).decode("latin-1")
    text = _WRITTEN_LINE_END.sub("\n", text)
    return _LOOSE_LABEL.sub(
        lambda match: f"-----{match[1]} {match[2]}{' ' if match[2] else ''}PRIVATE KEY-----", text
    )


def _private_pem(data: bytes, depth: int = 0) -> bytes | None:
    """Return the only private key block in `data`, as well-formed PEM; None if `data` is DER.

    :raises KeyLoadError: if it is recognizably something else.
    """
    if depth > _DEEPEST:
        raise KeyLoadError("base64 within base64 within base64, and no key", _convert_hint())
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):  # written by PowerShell's `>`
        text = data.decode("utf-16", "replace")
    else:
        text = data.removeprefix(b"\xef\xbb\xbf").decode("latin-1")
    if not text.strip().strip("\"'"):
        raise KeyLoadError("the key is empty", EMPTY_HINT)
    text = _unwritten(text)
    if "-----BEGIN" not in text:
        if "PuTTY-User-Key-File" in text:
            raise KeyLoadError(
                "a key in PuTTY's own format",
                "Open it in PuTTYgen and choose Conversions, Export OpenSSH key",
            )
        if text.startswith(("ssh-rsa ", "ecdsa-sha2-", "ssh-ed25519 ")):
            raise KeyLoadError("an OpenSSH public key, where a private key is needed", _PUBLIC_HINT)
        compact = _compact(text)
        if len(compact) > 60 and _BASE64.fullmatch(compact):
            compact = compact.rstrip("=") + "=" * (-len(compact.rstrip("=")) % 4)
            try:
                inner = base64.b64decode(compact, validate=True)
            except ValueError as error:
                raise KeyLoadError("base64 that is damaged or cut short") from error
            if b"-----BEGIN" in inner or b"PuTTY-User-Key" in inner or _is_base64(inner):
                return _private_pem(inner, depth + 1)
            return _wrap_der(inner)
        if data[:1] == b"\x30":  # a DER SEQUENCE
            return None
        raise KeyLoadError(
            "this is not a private key",
            "A key in PEM begins with -----BEGIN PRIVATE KEY----- (or RSA or EC PRIVATE KEY)",
        )
    blocks = _BLOCK.findall(text)
    for label, body in blocks:
        if label in _PRIVATE_LABELS:
            within = _within(body)
            return _private_pem(within, depth + 1) if within is not None else _rewrap(label, body)
    for label, _ in blocks:
        if label in _NOT_PRIVATE:
            raise KeyLoadError(*_NOT_PRIVATE[label])
    if not blocks:
        raise KeyLoadError(
            "the key has a BEGIN line but no matching END line",
            "It was cut short: copy it whole, from -----BEGIN to the dashes after END. In an environment "
            "variable, write its line breaks as \\n, or store it as base64 in one line",
        )
    raise KeyLoadError(f"a PEM block of type {blocks[0][0]}, where a private key is needed", _convert_hint())


def _is_base64(data: bytes) -> bool:
    compact = b"".join(data.split())
    return len(compact) > 60 and _BASE64.fullmatch(compact.decode("latin-1")) is not None


def _within(body: str) -> bytes | None:
    """Return the PEM whose base64 is the body of another PEM block; None if the body is a key's own."""
    try:
        inner = base64.b64decode("".join(body.split()), validate=True)
    except ValueError:
        return None
    return inner if b"-----BEGIN" in inner else None


def _relabelled(pem: bytes) -> bytes | None:
    """Return a key's PEM with the label that matches its content; None if that cannot be determined, or the label is
    already right.

    :raises KeyLoadError: if the content is a public key.
    """
    match = _BLOCK.search(pem.decode("latin-1"))
    if match is None or "Proc-Type" in match[2]:
        return None
    try:
        der = base64.b64decode("".join(match[2].split()), validate=True)
    except ValueError:
        return None
    try:
        other = _wrap_der(der)
    except KeyLoadError as error:
        if error.hint == _PUBLIC_HINT:
            raise
        return None
    return other if other != pem else None


def _wrap_der(der: bytes) -> bytes | None:
    """Return PEM for bare DER of any of the private key formats, by trying which label OpenSSL accepts."""
    for label in ("PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY"):
        pem = _rewrap(label, base64.b64encode(der).decode("ascii"))
        try:
            serialization.load_pem_private_key(pem, None, unsafe_skip_rsa_key_validation=True)
        except TypeError:  # encrypted, and so readable with a passphrase
            return pem
        except (ValueError, UnsupportedAlgorithm):
            continue
        return pem
    try:
        serialization.load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm):
        raise KeyLoadError("base64 of something that is not a private key", _convert_hint()) from None
    raise KeyLoadError(*_NOT_PRIVATE["PUBLIC KEY"])


def _rewrap(label: str, body: str) -> bytes:
    """Return one PEM block with its white space as RFC 7468 and RFC 1421 require."""
    header = ""
    if match := _HEADER.match(body):
        header = f"Proc-Type: {match['proc']}\nDEK-Info: {match['dek']}\n\n"
        body = body[match.end() :]
    compact = "".join(body.split())
    lines = "\n".join(compact[at : at + 64] for at in range(0, len(compact), 64))
    return f"-----BEGIN {label}-----\n{header}{lines}\n-----END {label}-----\n".encode("latin-1")
