"""Every error that Keyfront raises on purpose.

    KeyfrontError
     ├─ SigningError            a request to the SDK that cannot be signed
     │   ├─ KeyLoadError          a key that cannot be read; `hint` says how to fix it
     │   └─ PolicyError           a policy that CloudFront would refuse, or that cannot do what its author intended
     ├─ Denied                  a viewer's credentials were refused; `denial` is the reason
     ├─ CustodyError            a place of private keys refuses a request, or the request is invalid
     │   ├─ CustodyUnavailable    it is unavailable; a retry may help
     │   ├─ NoSuchKey             it has no such key, or the key is scheduled for deletion
     │   ├─ KeyExists             it has another key of that name
     │   ├─ NotExportable         it does not export private keys
     │   └─ RecordChanged         another process changed the record in the meantime
     ├─ RotationError           a command or a step of a rotation that is not possible now
     ├─ SnapshotRefused         invalid bytes, or a snapshot older than the one in use
     ├─ OriginFailure           an origin that could not be reached or did not speak HTTP
     ├─ SettingsError           an invalid command line or setting
     ├─ DeclarationError        an invalid file that declares a set-up
     ├─ BackupError             an archive that cannot be read or verified, or a place that cannot store it
     ├─ AccountError            a CloudFront API refused a request, or was unavailable
     └─ ApiError                an error response of the control API (control/service.py raises it)

Two families reach a person: `Denied` a viewer, `ApiError` an operator. Both carry CloudFront's code and message beside
what Keyfront knows (`denial`, `detail`); only CloudFront's part leaves the process.
"""

from __future__ import annotations

from enum import Enum


class KeyfrontError(Exception):
    """The base class of all errors below."""


class SigningError(KeyfrontError, ValueError):
    """A request to the SDK cannot be signed as given."""


class KeyLoadError(SigningError):
    """A key could not be read. `hint` is a sentence that says how to fix it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}. {hint}" if hint else message)
        self.hint = hint


class PolicyError(SigningError):
    """A policy that CloudFront would refuse, or that cannot do what its author intended."""


class ExpiredWarning(RuntimeWarning):
    """A signature had already expired when it was made: every request with it is refused."""


class Denial(Enum):
    """Why a viewer was refused, and CloudFront's error for it (cloudfront-semantics §4.1).

    The value is `(name, Code, Message)`: the name goes to the log, the metrics and `explain`; the viewer sees only Code
    and Message.
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

    `denial` is the reason, `detail` a sentence for the operator (never sent to a viewer, never a secret), `key_pair_id`
    the key ID in the viewer's credentials, empty if there is none.
    """

    def __init__(self, denial: Denial, detail: str = "", key_pair_id: str = "") -> None:
        super().__init__(detail or denial.reason)
        self.denial = denial
        self.detail = detail
        self.key_pair_id = key_pair_id


class CustodyError(KeyfrontError):
    """A place of private keys refuses a request, or the request is invalid. The message holds no secret."""


class CustodyUnavailable(CustodyError):
    """A place of private keys is unavailable. A retry may help."""


class NoSuchKey(CustodyError):
    """A place of private keys has no key of that name, or the key is scheduled for deletion."""


class KeyExists(CustodyError):
    """A place of private keys has another key of that name."""


class NotExportable(CustodyError):
    """A place does not export its private keys."""


class RecordChanged(CustodyError):
    """The record was changed after it was read, so it was not written."""


class RotationError(KeyfrontError):
    """A command or a step of a key group's rotation is not possible now. Nothing was changed."""


class SnapshotRefused(KeyfrontError):
    """Bytes that are not a snapshot, do not verify, or are older than the snapshot in use."""


class OriginFailure(KeyfrontError):
    """An origin could not be reached, or its response cannot be used.

    `status` is the viewer's (502 or 504; 400 if the request could not be sent to any origin), `kind` the
    x-edge-detailed-result-type of CloudFront's log (cloudfront-semantics §6.2): OriginConnectError, OriginDnsError,
    OriginReadError, OriginCommError, …
    `reason` is Keyfront's own, finer name for the access record, empty if the kind is precise enough.
    """

    def __init__(self, kind: str, status: int, detail: str = "", reason: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind
        self.status = status
        self.detail = detail
        self.reason = reason


def clear_traceback(error: BaseException) -> None:
    """Drop the traceback of an error that has been handled.

    An object that an error ended (a fill, an origin's response) stores the error for later callers. With its traceback,
    the error would hold every frame that it passed through, and those hold the error: a reference cycle that contains
    whole bodies and that only the garbage collector can break.
    """
    error.__traceback__ = error.__cause__ = error.__context__ = None


class SettingsError(KeyfrontError):
    """An invalid command line or setting; the message says which and why."""


class DeclarationError(KeyfrontError):
    """A file that declares a set-up is invalid; each line of the message names file, line, table and key."""


class BackupError(KeyfrontError):
    """An archive cannot be read or verified, or a place of archives refuses a request. The message holds no secret."""


class AccountError(KeyfrontError):
    """A CloudFront API refused a request, or was unavailable."""


class ApiError(KeyfrontError):
    """An error response of the control API, with CloudFront's code and message (cloudfront-semantics §7.1-2).

    `code` is the error's shape or wire name, `status` its HTTP status, `message` the text for the caller.
    """

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status


def os_error_text(error: OSError) -> str:
    """What the system says about the error, with the name of the file, if there is one."""
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename is not None else reason
