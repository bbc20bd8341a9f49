"""The explanation of a request: the edge's own decision, whatever the request, and what led to it."""

from __future__ import annotations

import warnings
from typing import Any

from scripts.reasons import PAGE, page

from keyfront import sign_cookies, sign_url
from keyfront.edge.explain import NO_COOKIES, OTHER_READING, Asked, Outcome, explain_request
from keyfront.edge.rules.error_pages import REFUSALS
from keyfront.edge.rules.reasons import REASONS
from keyfront.edge.rules.routing import Routing
from keyfront.errors import Denial, ExpiredWarning
from keyfront.model.snapshot import Behavior, Geo, KeyGroup, Origin
from tests.rows import rows
from tests.sites import ALICE, BOB, MALLORY, keys, site

NOW = 1_700_000_000.0
SOON = int(NOW) + 3600
ORIGIN = Origin("o", "origin.test", path="/bucket")
ROUTING = Routing(
    site(
        ORIGIN,
        Behavior("/open/*", "o", viewer_protocol_policy="redirect-to-https"),
        Behavior("/tls/*", "o", viewer_protocol_policy="https-only"),
        Behavior("*", "o", restricted=True, trusted_key_groups=("G",), allowed_methods=("GET", "HEAD", "OPTIONS")),
        aliases=("films.test", "*.wild.test"),
        default_root_object="index.html",
        geo=Geo("blacklist", ("KP",)),
        public_keys=keys(ALICE, BOB),
        key_groups=(KeyGroup("G", "films", ("KALICE1",)),),
    )
)  # fmt: skip


def explained(url: str, **asked: Any) -> Outcome:
    return explain_request(ROUTING, Asked(url, **asked), NOW, lambda ip: "KP" if ip == "192.0.2.99" else "")


def signed(url: str, signer: Any = ALICE, **terms: Any) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExpiredWarning)
        return sign_url(url, signer, **{"expires": SOON, "now": NOW, **terms})


@rows(
    "url, asked, reason",
    [
        (signed("https://d.test/a.jpg"), {}, ""),
        (signed("https://films.test:8443/a.jpg"), {}, ""),
        (signed("https://x.wild.test/a.jpg"), {}, ""),
        (signed("https://d.test/"), {}, ""),
        ("https://d.test/a.jpg", {}, "missing_key_pair_id"),
        (signed("https://d.test/a.jpg", BOB), {}, "unknown_key"),
        (signed("https://d.test/a.jpg", MALLORY), {}, "signature_mismatch"),
        (signed("https://d.test/a.jpg", expires=int(NOW) - 5), {}, "expired"),
        (signed("https://d.test/a.jpg", starts=int(NOW) + 5), {}, "not_yet_valid"),
        (signed("https://d.test/b", resource="https://d.test/b*").replace("/b?", "/a?"), {}, "wrong_resource"),
        (signed("https://d.test/a.jpg", ip="192.0.2.0/28"), {"client_ip": "198.51.100.1"}, "wrong_ip"),
        (signed("https://d.test/a.jpg", ip="192.0.2.0/28"), {"client_ip": "192.0.2.3"}, ""),
        (signed("https://d.test/a.jpg", ip="192.0.2.0/28"), {}, ""),
        ("https://elsewhere.test/a.jpg", {}, "no_distribution"),
        ("http://d.test/open/a", {}, "redirect_to_https"),
        ("http://d.test/tls/a", {}, "https_only"),
        ("https://d.test/tls/a", {}, ""),
        ("https://d.test/tls/a", {"method": "DELETE"}, "method_not_allowed"),
        ("https://d.test/tls/a", {"client_ip": "192.0.2.99"}, "geo_blocked"),
        ("https://d.test/open/%2e%2e/%2e%2e/a", {}, "ambiguous_path"),
        ("https://d.test/" + "a" * 8200, {}, "too_large"),
        ("https://d_*.test/a", {}, "bad_request"),
        ("https://d.test/open/a b\u00fc", {}, ""),
    ],
)  # fmt: skip
def test_the_reason(url: str, asked: dict[str, Any], reason: str) -> None:
    outcome = explained(url, **asked)
    assert (outcome.reason, outcome.granted) == (reason, not reason)
    if reason:
        assert outcome.cause
        assert outcome.cure == REASONS[reason].cure
        assert outcome.status == REASONS[reason].status
    if reason in {denial.reason for denial in Denial}:
        assert outcome.signature is not None
        assert outcome.signature.denial == reason
        assert outcome.trusted == ("KALICE1",)


def test_what_led_to_it() -> None:
    outcome = explained(signed("https://films.test/"))
    assert outcome.distribution == "ETEST"
    assert outcome.names == ("d.test", "films.test", "*.wild.test")
    assert (outcome.behavior, outcome.path) == ("*", "/index.html")
    assert any("default root object" in note for note in outcome.notes)
    assert explained("https://d.test/tls/a").trusted is None
    assert any("--ip" in note for note in explained("https://d.test/tls/a").notes)


def test_a_preflight_carries_no_cookies() -> None:
    cookies = sign_cookies("https://d.test/*", ALICE, expires=SOON, now=NOW).header
    assert explained("https://d.test/a", cookie=cookies).granted
    outcome = explained("https://d.test/a", cookie=cookies, method="options")
    assert outcome.reason == "missing_key_pair_id"
    assert outcome.notes[0] == NO_COOKIES
    assert explained(signed("https://d.test/a"), method="OPTIONS", cookie=cookies).granted


def test_a_url_signed_for_another_name_of_the_distribution() -> None:
    outcome = explained(signed("https://films.test/a").replace("films.test", "d.test"))
    assert outcome.signature is not None
    assert [cause.code for cause in outcome.signature.causes] == ["host"]
    assert "films.test" in outcome.cause


def test_another_reading_of_the_path_that_the_signature_does_not_cover() -> None:
    outcome = explained(signed("https://d.test/x/../a.jpg", resource="https://d.test/x/*", as_is=True))
    assert (outcome.reason, outcome.code, outcome.cause) == ("wrong_resource", "AccessDenied", OTHER_READING)
    assert outcome.signature is not None
    assert outcome.signature.granted


def test_every_reason_has_a_section_and_every_section_a_reason() -> None:
    """docs/reference/reasons.md is written by `make docs`."""
    known = {denial.reason for denial in Denial} | set(REFUSALS) | {"redirect_to_https"}
    assert set(REASONS) == known
    assert PAGE.read_text() == page()
    sections = [
        line.removeprefix("### `").removesuffix("`") for line in page().splitlines() if line.startswith("###")
    ]
    assert sorted(sections) == sorted(known)
    for reason in REASONS.values():
        assert reason.cause.endswith(".")
        assert reason.cure.endswith(".")
