"""Keyfront: signed URLs and signed cookies that CloudFront and Keyfront accept.

    from keyfront import load_signer, sign_url

or, where Keyfront rotates the keys,

    from keyfront import sign_url, signer_for

Docs: docs/guide/signing.md
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from keyfront.errors import (
    CustodyError,
    CustodyUnavailable,
    Denial,
    Denied,
    ExpiredWarning,
    KeyfrontError,
    KeyLoadError,
    PolicyError,
    SigningError,
)
from keyfront.signing.key_files import load_private_key
from keyfront.signing.keys import PrivateKey, PublicKey, load_public_key
from keyfront.signing.policy import Policy
from keyfront.signing.sign import (
    CloudFrontSigner,
    LocalSigner,
    SignedCookies,
    Signer,
    expired_cookies,
    load_signer,
    sign_cookies,
    sign_url,
)
from keyfront.signing.verify import Grant, KeyRing, verify

if TYPE_CHECKING:
    from keyfront.custody.signers.key_group_signer import CustodySigner, signer_for
    from keyfront.signing.explain import Cause, Check, Report, explain, explain_url

__all__ = [
    "Cause",
    "Check",
    "CloudFrontSigner",
    "CustodyError",
    "CustodySigner",
    "CustodyUnavailable",
    "Denial",
    "Denied",
    "ExpiredWarning",
    "Grant",
    "KeyLoadError",
    "KeyRing",
    "KeyfrontError",
    "LocalSigner",
    "Policy",
    "PolicyError",
    "PrivateKey",
    "PublicKey",
    "Report",
    "SignedCookies",
    "Signer",
    "SigningError",
    "expired_cookies",
    "explain",
    "explain_url",
    "load_private_key",
    "load_public_key",
    "load_signer",
    "sign_cookies",
    "sign_url",
    "signer_for",
    "verify",
]

if not TYPE_CHECKING:  # otherwise type checkers would accept every misspelled name
    _LOADED_LATER = {
        **dict.fromkeys(("CustodySigner", "signer_for"), "keyfront.custody.signers.key_group_signer"),
        **dict.fromkeys(("Cause", "Check", "Report", "explain", "explain_url"), "keyfront.signing.explain"),
    }

    def __getattr__(name: str) -> Any:
        """Load the code that signs with keys in custody, and the code that explains refusals, on first use: most
        programs need neither."""
        if name not in _LOADED_LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = getattr(import_module(_LOADED_LATER[name]), name)
        return globals()[name]
