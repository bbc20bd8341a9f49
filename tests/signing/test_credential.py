"""What identifies credentials, and the label in their policy."""

from __future__ import annotations

import time
from hashlib import sha256

import pytest

from keyfront import KeyRing, LocalSigner, Policy, sign_cookies, sign_url
from keyfront.signing.credential import LONGEST_LABEL, Credential, credential_of
from keyfront.signing.verify import Grant, verify
from tests.rows import rows
from tests.sites import ALICE, BOB

NOW = time.time()
LATER = int(NOW) + 3600
RING = KeyRing({signer.key_pair_id: signer.public_key for signer in (ALICE, BOB)})


def granted(url: str, cookie: str = "") -> Grant:
    return verify("https", "d.test", url.removeprefix("https://d.test"), cookie, RING, "192.0.2.1", NOW)


def canned(url: str, signer: LocalSigner = ALICE, expires: int = LATER) -> Credential:
    return credential_of(granted(sign_url(url, signer, expires=expires)))


def custom(resource: str, url: str, **terms: object) -> Credential:
    policy = Policy(resource, expires=LATER, **terms)  # type: ignore[arg-type]
    return credential_of(granted(sign_url(url, ALICE, policy=policy)))


def test_it_is_the_same_again_and_with_another_key() -> None:
    one = canned("https://d.test/a")
    assert one == canned("https://d.test/a") == canned("https://d.test/a", BOB)
    assert len(one.id) == 16
    assert int(one.id, 16) >= 0


def test_it_differs_with_url_expiry_and_terms() -> None:
    found = [
        canned("https://d.test/a"),
        canned("https://d.test/b"),
        canned("https://d.test/a?x=1"),
        canned("https://d.test/a", expires=LATER + 1),
        custom("https://d.test/*", "https://d.test/a"),
        custom("https://d.test/*", "https://d.test/a", starts=int(NOW) - 10),
        custom("https://d.test/*", "https://d.test/a", ip="192.0.2.0/24"),
    ]
    assert len({each.id for each in found}) == len(found)


def test_it_is_the_digest_of_the_signed_bytes() -> None:
    policy = Policy("https://d.test/*", expires=LATER).to_bytes(NOW)
    assert custom("https://d.test/*", "https://d.test/a").id == sha256(policy).hexdigest()[:16]
    # Words that Keyfront does not know yet make other credentials of it, and so does white space.
    for other in (policy.replace(b'"Condition"', b'"for":"ada","Condition"'), policy.replace(b",", b", ")):
        grant = granted(sign_url("https://d.test/a", ALICE, policy=other.decode()))
        assert credential_of(grant).id == sha256(other).hexdigest()[:16]


def test_a_custom_policy_with_the_bytes_of_a_canned_one_is_the_same() -> None:
    """Either's signature is valid for the other."""
    assert custom("https://d.test/a", "https://d.test/a") == canned("https://d.test/a")


def test_one_policy_is_one_credential_on_every_page() -> None:
    assert custom("https://d.test/*", "https://d.test/a") == custom(
        "https://d.test/*", "https://d.test/b?c=d"
    )


def test_cookies_have_that_of_their_policy() -> None:
    policy = Policy("https://d.test/*", expires=LATER)
    cookie = sign_cookies(policy, ALICE).header
    grant = granted("https://d.test/a?b=c", cookie)
    assert credential_of(grant) == custom("https://d.test/*", "https://d.test/a")


@rows(
    ("resource", "label"),
    [
        ("https://d.test/a?kf-label=ada", "ada"),
        ("https://d.test/a?x=1&kf-label=ada%40b.test&y=2", "ada%40b.test"),
        ("https://d.test/a?kf-label=", ""),
        ("https://d.test/a?xkf-label=ada", ""),
        ("https://d.test/a?KF-LABEL=ada", ""),
        ("https://d.test/a?kf-label=" + "a" * LONGEST_LABEL, "a" * LONGEST_LABEL),
        ("https://d.test/a?kf-label=" + "a" * (LONGEST_LABEL + 1), ""),
        ('https://d.test/a?kf-label=a"b', "a%22b"),
        ("https://d.test/a?kf-label=one&kf-label=two", "one"),
    ],
)
def test_the_label_of_a_canned_policy(resource: str, label: str) -> None:
    assert canned(resource).label == label


@pytest.mark.parametrize(
    ("resource", "url", "label"),
    [
        ("https://d.test/*?kf-label=ada", "https://d.test/a?kf-label=ada", "ada"),
        ("https://d.test/*?*kf-label=ada", "https://d.test/a?xkf-label=ada", ""),
        ("https://d.test/*?kf-label=ada&*", "https://d.test/a?kf-label=ada&v=1", "ada"),
        ("https://d.test/a?kf-label=ada*", "https://d.test/a?kf-label=ada-and-bob", "ada"),
        # The signature does not cover what the viewer writes here.
        ("https://d.test/*", "https://d.test/a?kf-label=forged", ""),
        ("https://d.test/a?kf-label=*", "https://d.test/a?kf-label=forged", ""),
    ],
)
def test_the_label_of_a_custom_policy_is_what_was_signed(resource: str, url: str, label: str) -> None:
    assert custom(resource, url).label == label
