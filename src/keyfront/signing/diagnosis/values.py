"""Mistakes in a single value of a signed URL or cookie: an invalid ID, base64 in another alphabet, an invalid policy.
Each function names the mistake and examines only the value."""

from __future__ import annotations

import base64
import json
import re

from keyfront.signing.diagnosis.mistakes import Mistake
from keyfront.signing.keys import cf_b64decode
from keyfront.signing.policy import MAX_EPOCH

WORDS = ("undefined", "null", "None", "NaN", "nil", "[object Object]", "[object Promise]", "false", "true")
"""What programs write when a value is missing."""
_GROUP_ID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def key_id_mistake(id_: str) -> Mistake | None:
    """Return what `id_` is if it cannot be the ID of a public key."""
    if id_ in WORDS or not id_.strip():
        return Mistake(
            "key_id_missing",
            f"The signer had no key id and sent the word {id_}." if id_.strip() else "The key id is blank.",
        )
    if "BEGIN" in id_ or len(id_) > 64:
        return Mistake(
            "key_id_is_a_key",
            "This is no id. Key-Pair-Id is the short Id of the public key (K…), not the key.",
        )
    if _GROUP_ID.fullmatch(id_):
        return Mistake(
            "key_id_is_a_group",
            "This is the id of a key group. Key-Pair-Id is the Id of the public key (K…).",
        )
    if id_.startswith(("AKIA", "ASIA")):
        return Mistake(
            "key_id_is_an_access_key",
            "This is an access key of AWS's APIs (AKIA…, ASIA…). Key-Pair-Id is the Id of the public key in "
            "CloudFront (K…).",
        )
    if id_.startswith("arn:"):
        return Mistake(
            "key_id_is_an_arn", "This is an ARN. Key-Pair-Id is the Id of the public key in CloudFront (K…)."
        )
    if id_[:1] in "\"'":
        return Mistake("quoted", "The key id is in quotes: they count as part of the value.")
    if id_ != id_.strip() or any(char in id_ for char in "\r\n\t "):
        return Mistake("key_id_blanks", "The key id has blanks or a line end in it; they count.")
    if re.fullmatch("E(?=[A-Z]*[0-9])[0-9A-Z]{12,13}", id_):
        return Mistake(
            "key_id_is_a_distribution",
            "This looks like the id of a distribution (E…). Key-Pair-Id is the Id of the public key (K…).",
        )
    return None


def base64_mistake(text: str, name: str, mode: str) -> Mistake:
    """Return why `text`, the value of `name`, is not CloudFront's base64. `mode` is "url" or "cookies"."""
    if text in WORDS:
        return Mistake("value_missing", f"The signer had no {name} and sent the word {text}.")
    if not text:
        return Mistake("value_missing", f"{name} is empty.")
    if text[0] in "{[":
        return Mistake("not_base64", f"{name} is not base64 at all: it was sent as it is.")
    if text[0] in "\"'":
        return Mistake("quoted", f"{name} is in quotes: they count as part of the value.")
    if text.startswith("b'"):
        return Mistake("quoted", f"{name} is Python's way to show bytes (b'…'): decode it to text.")
    if "\n" in text or "\r" in text or re.search(r"%0[AaDd]|\\+[nr]", text):
        return Mistake(
            "base64_line_ends",
            f"{name} has line ends in its base64 (every 60 or 76 characters, or one at the end): take them out "
            "(base64 -w0, Base64.strict_encode64, NO_WRAP, b64encode).",
        )
    if "%" in text:
        return Mistake(
            "percent_encoded_twice" if mode == "url" else "percent_encoded",
            f"{name} is percent-encoded{' twice' if mode == 'url' else ''}: send it as it is.",
        )
    if len(text) >= 64 and re.fullmatch("(?:[0-9a-fA-F]{2})+", text):
        return Mistake("base64_is_hex", f"{name} is in hex; CloudFront takes base64.")
    if text != text.strip(" "):
        return Mistake("base64_line_ends", f"{name} has a blank at its beginning or end: take it out.")
    if re.fullmatch("[A-Za-z0-9_-]+=*", text) and "_" in text.rstrip("_="):
        return Mistake(
            "base64_url_safe",
            f"{name} is in the url-safe base64 of RFC 4648. CloudFront's is another: - for +, _ for = and ~ for /.",
        )
    if any(char in text for char in "+/= "):
        return Mistake(
            "base64_alphabet",
            f"{name} is in the standard base64 alphabet, or only half converted from it. CloudFront writes "
            "- for +, _ for = and ~ for /.",
        )
    if not re.fullmatch("[A-Za-z0-9~_-]+", text):
        return Mistake("base64_damaged", f"{name} is damaged: it has characters that no base64 has.")
    if "_" in text.rstrip("_"):
        if re.fullmatch("[A-Za-z0-9_-]+~{1,2}", text):
            words = f"In {name} _ and ~ are exchanged. CloudFront writes - for +, _ for = and ~ for /."
            return Mistake("base64_alphabet", words)
        return Mistake("base64_damaged", f"{name} is damaged: it has _, which is padding, in its middle.")
    if len(text) % 4:
        return Mistake(
            "base64_padding",
            f"{name} lacks its padding (_ for =), or was cut short: its length is not a multiple of four.",
        )
    return Mistake("base64_damaged", f"{name} is damaged: it is not the base64 of anything.")


def policy_mistake(policy: bytes, message: str) -> Mistake:
    """Return why `policy` is not a valid policy. `message` is the parser's error message."""
    if policy[:3] == b"\xef\xbb\xbf":
        return Mistake("policy_bom", "The policy begins with a byte order mark: save it as plain UTF-8.")
    if policy[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in policy[:4]:
        return Mistake("policy_charset", "The policy is in UTF-16: write it in UTF-8.")
    try:
        value = json.loads(policy)
    except (ValueError, RecursionError):
        return _no_json(policy)
    statements = value.get("Statement") if isinstance(value, dict) else None
    if isinstance(statements, dict):
        return Mistake("policy_statement", "Statement must be an array with one object in it: [{…}].")
    if isinstance(statements, list) and len(statements) > 1:
        return Mistake("policy_statement", "CloudFront takes exactly one statement in a policy.")
    if isinstance(statements, list) and statements and isinstance(statements[0], dict):
        statement = statements[0]
        condition = statement.get("Condition")
        if not isinstance(condition, dict) or "DateLessThan" not in condition:
            return Mistake(
                "policy_date",
                "The policy has no DateLessThan condition; it is the one that every policy must have.",
            )
        if isinstance(statement.get("Resource"), list):
            return Mistake("policy_resource", "Resource is one text, not a list.")
        for name in ("DateLessThan", "DateGreaterThan"):
            moment = condition.get(name)
            epoch = moment.get("AWS:EpochTime") if isinstance(moment, dict) else None
            if isinstance(epoch, str):
                return Mistake("policy_time", f"The time in {name} is in quotes; it must be a bare number.")
            if isinstance(epoch, float):
                return Mistake("policy_time", f"The time in {name} has a fraction; it must be whole seconds.")
            if isinstance(epoch, int) and epoch > MAX_EPOCH:
                return epoch_mistake(str(epoch))
    return Mistake("policy_malformed", f"{message[:1].upper()}{message[1:]}.")


def _no_json(policy: bytes) -> Mistake:
    twice = b""
    for decode in (cf_b64decode, base64.b64decode):
        try:
            twice = decode(policy.decode("ascii").strip())
        except ValueError:
            continue
        if twice.lstrip()[:1] == b"{":
            return Mistake("policy_base64_twice", "The policy was put into base64 twice.")
    if policy.lstrip()[:9].lower() == b"%7b%22sta":
        return Mistake(
            "policy_percent_encoded", "The policy was percent-encoded before it was put into base64."
        )
    if policy.lstrip()[:2] == b"{'":
        return Mistake(
            "policy_quotes",
            "The policy is written with single quotes, as Python shows a dict; JSON needs double ones.",
        )
    return Mistake("policy_not_json", "The policy is not JSON.")


def epoch_mistake(text: str) -> Mistake:
    """Return why `text` is not a time in whole epoch seconds."""
    if text in WORDS:
        return Mistake("value_missing", f"The signer had no time and sent the word {text}.")
    if text[:1] in ("'", '"'):
        return Mistake("quoted", "The time is in quotes: they count as part of the value.")
    if text.isascii() and text.isdigit() and len(text) <= 20:
        for unit, scale in (("milliseconds", 10**3), ("microseconds", 10**6), ("nanoseconds", 10**9)):
            if 10**9 <= int(text) // scale <= MAX_EPOCH // 2:
                return Mistake(
                    "milliseconds", f"The time is in {unit}; CloudFront takes seconds: {int(text) // scale}."
                )
        return Mistake("time_out_of_range", "The time is beyond what CloudFront takes (the year 2262).")
    if re.fullmatch(r"\d+\.\d+", text):
        return Mistake("time_format", "The time has a fraction; it must be whole seconds.")
    return Mistake("time_format", "The time must be digits only: seconds since 1970.")


def shape_mistake(text: str, signature: bytes, algorithm: str) -> Mistake | None:
    """Return what the size of a signature, sent as `text`, reveals compared with a key of `algorithm`."""
    size = len(signature)
    if re.fullmatch("(?:[0-9a-fA-F]{2}){64,}", text):  # it can also be read as base64
        words = "The signature is in hex; CloudFront takes base64, with - for +, _ for = and ~ for /."
        return Mistake("base64_is_hex", words)
    if algorithm == "ECDSA-P256":
        if size == 64:
            return Mistake(
                "ecdsa_raw",
                "It has the 64 bytes of a raw r and s pair; CloudFront takes ECDSA signatures as ASN.1 DER.",
            )
        if size in (128, 256, 512):
            return Mistake(
                "signature_kind", "It has the size of an RSA signature, but the key is an ECDSA key."
            )
    if algorithm == "RSA-2048":
        if 64 <= size <= 72:
            return Mistake(
                "signature_kind", "It has the size of an ECDSA signature, but the key is an RSA key."
            )
        if size in (16, 20, 28, 32, 48):
            return Mistake(
                "signature_is_a_hash",
                f"It has {size} bytes, the size of a hash: an HMAC or a digest is no signature. Sign with the private "
                "key.",
            )
        if size != 256:
            return Mistake(
                "signature_size",
                f"It has {size} bytes; an RSA key of 2048 bits makes 256 (another size of key, or cut short).",
            )
    return None
