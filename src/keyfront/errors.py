"""Every error that Keyfront raises on purpose.

    KeyfrontError
     ├─ SigningError            the caller of the SDK asked for something that cannot be signed
     │   ├─ KeyLoadError          a key that cannot be read; `hint` says how to fix it
     │   └─ PolicyError           a policy that CloudFront would refuse, or that cannot mean what was meant
     ├─ Denied                  a viewer's credentials were refused; `denial` names why
     ├─ CustodyError            a place of private keys that refuses, or what was asked of it makes no sense
     │   ├─ CustodyUnavailable    it cannot be asked now; it may help to try again
     │   ├─ NoSuchKey             it has no such key, or one that is to be deleted
     │   ├─ KeyExists             it has another key of that name
     │   ├─ NotExportable         it never gives its private keys away
     │   └─ RecordChanged         somebody else has changed the record meanwhile
     ├─ RotationError           an order or a step of a key group's rotation that makes no sense as things are
     ├─ SnapshotRefused         bytes that are no snapshot, or one older than the one in use
     ├─ OriginFailure           an origin that could not be reached or did not speak HTTP
     ├─ SettingsError           a command line or a setting that makes no sense
     ├─ DeclarationError        a file that declares a set-up, and what is wrong with it
     ├─ BackupError             an archive that cannot be read or is not what was taken, or a place that keeps none
     ├─ AccountError            a CloudFront API that refused what a declared set-up needs, or could not be asked
     └─ ApiError                an error answer of the control API (control/service.py raises it)

Two families meet a person: `Denied` a viewer's, `ApiError` an operator's. Both carry what CloudFront would say
(`code`, `message`) beside what Keyfront knows (`denial`, `detail`); only the first half leaves the process.
"""

from __future__ import annotations

from enum import Enum


class KeyfrontError(Exception):
    """The root of everything below."""


class SigningError(KeyfrontError, ValueError):
    """What was asked of the SDK cannot be signed as asked."""


class KeyLoadError(SigningError):
    """A key could not be read. `hint` is a sentence that says what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}. {hint}" if hint else message)
        self.hint = hint


class PolicyError(SigningError):
    """A policy that CloudFront would refuse, or that cannot mean what its author meant."""


class ExpiredWarning(RuntimeWarning):
    """What was signed had expired when it was signed: every request with it is refused."""


class Denial(Enum):
    """Why a viewer was refused, and what CloudFront says then (cloudfront-semantics §4.1).

    The value is `(name, Code, Message)`: the name goes to the log, the metrics and `explain`;
    the viewer sees only Code and Message.
    """

    MISSING_KEY_PAIR_ID = (
        "missing_key_pair_id",
        "MissingKey",
        "Missing Key-Pair-Id query parameter or cookie value",
    )
    UNKNOWN_KEY = ("unknown_key", "InvalidKey", "Unknown Key")
    MISSING_SIGNATURE = ("missing_signature", "MalformedSignature", "Could not unencode Signature")
    MALFORMED_SIGNATURE = ("malformed_signature", "MalformedSignature", "Could not unencode Signature")
    MISSING_POLICY = ("missing_policy", "MalformedPolicy", "Malformed Policy")
    MALFORMED_POLICY = ("malformed_policy", "MalformedPolicy", "Malformed Policy")
    UNSUPPORTED_HASH = ("unsupported_hash", "AccessDenied", "Access denied")
    SIGNATURE_MISMATCH = ("signature_mismatch", "AccessDenied", "Access denied")
    WRONG_RESOURCE = ("wrong_resource", "AccessDenied", "Access denied")
    EXPIRED = ("expired", "AccessDenied", "Access denied")
    NOT_YET_VALID = ("not_yet_valid", "AccessDenied", "Access denied")
    WRONG_IP = ("wrong_ip", "AccessDenied", "Access denied")

    def __init__(self, reason: str, code: str, message: str) -> None:
        self.reason = reason
        self.code = code
        self.message = message


class Denied(KeyfrontError):
    """A viewer's credentials were refused.

    `denial` is the reason, `detail` a sentence for the operator (never sent to a viewer, never a secret),
    `key_pair_id` the key id that the viewer named, if it named one.
    """

    def __init__(self, denial: Denial, detail: str = "", key_pair_id: str = "") -> None:
        super().__init__(detail or denial.reason)
        self.denial = denial
        self.detail = detail
        self.key_pair_id = key_pair_id


class CustodyError(KeyfrontError):
    """A place of private keys refuses, or what was asked of it makes no sense. Its message holds no secret."""


class CustodyUnavailable(CustodyError):
    """A place of private keys cannot be asked now. It may help to try again."""


class NoSuchKey(CustodyError):
    """A place of private keys has no key of that name, or one that is to be deleted."""


class KeyExists(CustodyError):
    """A place of private keys has another key of that name."""


class NotExportable(CustodyError):
    """A place of private keys never gives them away."""


class RecordChanged(CustodyError):
    """The record holds something else than whoever wanted to change it has seen. Nothing was written."""


class RotationError(KeyfrontError):
    """An order or a step of a key group's rotation that makes no sense as things are. Nothing was changed."""


class SnapshotRefused(KeyfrontError):
    """Bytes that are no snapshot, do not verify, or are older than the snapshot in use."""


class OriginFailure(KeyfrontError):
    """An origin that could not be reached, or whose answer cannot be passed on.

    `status` is what the viewer gets (502 or 504; 400 if nobody could be asked so), `kind` the
    x-edge-detailed-result-type of CloudFront's log (cloudfront-semantics §6.2): OriginConnectError, OriginDnsError,
    OriginReadError, OriginCommError, …
    `reason` is Keyfront's own, finer name for the access record, empty where the kind says it all.
    """

    def __init__(self, kind: str, status: int, detail: str = "", reason: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind
        self.status = status
        self.detail = detail
        self.reason = reason


def clear_traceback(error: BaseException) -> None:
    """It has been dealt with: forget where it came from.

    What an error has ended (a fill, an origin's answer) keeps it, for whoever comes to ask. With its traceback it would
    keep all that it has passed through, which keeps the error: a circle with whole bodies in it, which only the garbage
    collector can open.
    """
    error.__traceback__ = error.__cause__ = error.__context__ = None


class SettingsError(KeyfrontError):
    """A command line or a setting that makes no sense; the message says which and why."""


class DeclarationError(KeyfrontError):
    """A file that declares a set-up makes no sense; each line of the message names file, line, table and key."""


class BackupError(KeyfrontError):
    """An archive that cannot be read or is not what was taken, or a place of archives that refuses. Its message holds
    no secret."""


class AccountError(KeyfrontError):
    """A CloudFront API refused what a declared set-up needs, or could not be asked."""


class ApiError(KeyfrontError):
    """An answer of the control API other than success, in CloudFront's own words (cloudfront-semantics §7.1-2).

    `code` is the error's shape or wire name, `status` its HTTP status, `message` the text for the caller.
    """

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
