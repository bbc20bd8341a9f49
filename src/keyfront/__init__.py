"""Keyfront: signed URLs and signed cookies that CloudFront and Keyfront accept.

    from keyfront import load_signer, sign_url

Docs: docs/guide/signing.md
"""

from keyfront.errors import Denial, Denied, KeyfrontError, KeyLoadError, PolicyError, SigningError
from keyfront.signing.explain import Check, Report, explain, explain_url
from keyfront.signing.keys import PrivateKey, PublicKey, load_private_key, load_public_key
from keyfront.signing.policy import Policy
from keyfront.signing.sign import (
    CloudFrontSigner,
    LocalSigner,
    SignedCookies,
    Signer,
    load_signer,
    sign_cookies,
    sign_url,
)
from keyfront.signing.verify import Grant, KeyRing, verify

__all__ = [
    "Check",
    "CloudFrontSigner",
    "Denial",
    "Denied",
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
    "explain",
    "explain_url",
    "load_private_key",
    "load_public_key",
    "load_signer",
    "sign_cookies",
    "sign_url",
    "verify",
]
