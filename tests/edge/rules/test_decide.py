"""Who is served at a second request for a URL, and with what a path may be opened that can be read in several ways."""

from __future__ import annotations

import msgspec

from keyfront import sign_cookies
from keyfront.edge.rules.decide import Refusal, decide, internal_plan
from keyfront.edge.rules.routing import Plan, Routing
from keyfront.edge.types.messages import Request
from keyfront.errors import Denial
from keyfront.model.snapshot import Behavior, Geo, KeyGroup, Origin, Snapshot
from tests.rows import rows
from tests.sites import ALICE, keys, signed, site

NOW = 1_700_000_000.0
LATER = int(NOW) + 3600
GROUPS = (KeyGroup("group-a", "a", (ALICE.key_pair_id,)),)


def private(pattern: str = "*", *more: Behavior, path: str = "") -> Snapshot:
    """A site whose `pattern` needs a signature."""
    behavior = Behavior(pattern, "o", restricted=True, trusted_key_groups=("group-a",))
    origin = Origin("o", "127.0.0.1", path=path)
    return site(origin, behavior, *more, public_keys=keys(ALICE), key_groups=GROUPS)


def decision(routing: Routing, target: str, now: float = NOW, ip: str = "", **members: str) -> object:
    """The plan, or the name of the refusal, or the denial."""
    request = Request(members.pop("method", "GET"), target, "d.test", [], client_ip=ip, **members)  # type: ignore[arg-type]
    found = decide(routing, request, now, lambda each: {"198.51.100.1": "DE"}.get(each, ""))
    if isinstance(found, Refusal):
        return found.name if found.denied is None else found.denied.denial
    return found[0]


def test_a_remembered_plan_is_checked_for_each_viewer() -> None:
    snapshot = private()
    (distribution,) = snapshot.distributions
    distribution = msgspec.structs.replace(distribution, geo=Geo("blacklist", ("DE",)))
    routing = Routing(msgspec.structs.replace(snapshot, distributions=(distribution,)))
    target = signed("/a", expires=LATER, ip="192.0.2.0/24")
    for _ in range(3):
        assert isinstance(decision(routing, target, ip="192.0.2.7"), Plan)
    assert routing.plans.get("http://d.test" + target) is not None
    assert decision(routing, target, ip="198.51.100.1") == "geo_blocked"
    assert decision(routing, target, ip="203.0.113.1") is Denial.WRONG_IP
    assert decision(routing, target, now=LATER - 0.5, ip="192.0.2.7") is not Denial.EXPIRED
    assert decision(routing, target, now=LATER, ip="192.0.2.7") is Denial.EXPIRED


def test_cookies_are_checked_for_each_viewer_of_a_remembered_plan() -> None:
    routing = Routing(private())
    cookie = sign_cookies("http://d.test/*", ALICE, expires=LATER, now=NOW, secure=False).header
    for _ in range(3):
        assert isinstance(decision(routing, "/a", cookie=cookie), Plan)
    assert decision(routing, "/a") is Denial.MISSING_KEY_PAIR_ID
    assert decision(routing, "/a", now=LATER, cookie=cookie) is Denial.EXPIRED


def test_options_of_the_whole_server_goes_to_the_root() -> None:
    behaviors = (Behavior("*", "o", allowed_methods=("GET", "HEAD", "OPTIONS")),)
    plan = decision(Routing(site(Origin("o", "127.0.0.1"), *behaviors)), "*", method="OPTIONS")
    assert isinstance(plan, Plan)
    assert plan.target == "/"


@rows(("method", "expected"), [("GET", "body_with_get"), ("HEAD", "body_with_get"), ("POST", "served")])
def test_a_body_on_a_method_that_reads(method: str, expected: str) -> None:
    async def nothing() -> bytes:
        return b""

    behaviors = (Behavior("*", "o", allowed_methods=("GET", "HEAD", "POST")),)
    routing = Routing(site(Origin("o", "127.0.0.1"), *behaviors))
    request = Request(method, "/a", "d.test", [], body=nothing)  # type: ignore[arg-type]
    found = decide(routing, request, NOW, lambda _: "")
    assert (found.name if isinstance(found, Refusal) else "served") == expected


@rows(("version", "method", "expected"), [
    ("1.1", "GET", "redirect_to_https"), ("1.0", "GET", "redirect_to_https"),
    ("1.1", "POST", "redirect_to_https"), ("1.0", "POST", "https_only"),
])  # fmt: skip
def test_there_is_no_redirect_of_a_post_for_http_1_0(version: str, method: str, expected: str) -> None:
    behavior = Behavior("*", "o", viewer_protocol_policy="redirect-to-https", allowed_methods=("GET", "POST"))
    routing = Routing(site(Origin("o", "127.0.0.1"), behavior))
    assert decision(routing, "/a", method=method, version=version) == expected


def test_a_policy_with_a_wildcard_covers_every_reading_of_a_path_that_climbs() -> None:
    routing = Routing(private("/private/*", Behavior("*", "o")))
    target = "/private/../private/1.mp4"
    for resource, expected in (
        ("http://d.test/private/*", True),
        ("http://d.test/private/../*", False),
        ("http://d.test/private/../private/*", False),
        ("http://d.test/*", True),
    ):
        cookie = sign_cookies(resource, ALICE, expires=LATER, now=NOW, secure=False).header
        found = decision(routing, target, cookie=cookie)
        assert isinstance(found, Plan) is expected, (resource, found)


def test_a_path_with_too_many_readings_is_ambiguous() -> None:
    routing = Routing(private("/private/*", Behavior("*", "o")))
    assert decision(routing, "/" + "%25" * 300 + "%2e") == "ambiguous_path"


def test_an_internal_plan_needs_no_signature() -> None:
    routing = Routing(private())
    found = routing.site("d.test")
    assert found is not None
    request = Request("GET", "/other", "d.test", [])
    plan = internal_plan(found, "/errors/404.html?a=1", request)
    assert (plan.key, plan.target, plan.query) == ("ETEST/errors/404.html", "/errors/404.html", "a=1")
    assert plan.grant is None
    assert internal_plan(found, "/e", Request("POST", "/other", "d.test", [])).key is None
