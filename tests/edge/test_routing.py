"""Hosts to sites, paths to behaviors, snapshots to routings: tables, without a socket."""

from __future__ import annotations

import msgspec

from keyfront.edge.rules.decide import Refusal, decide
from keyfront.edge.rules.routing import PLANS_SIZE, Routing
from keyfront.edge.types.messages import Request
from keyfront.model.snapshot import (
    Behavior,
    Distribution,
    Geo,
    Invalidation,
    Origin,
    OriginGroup,
    Select,
    Snapshot,
)
from tests.rows import rows

APP = Origin("app", "127.0.0.1")


def distribution(id_: str, *aliases: str, **members: object) -> Distribution:
    values: dict[str, object] = {"origins": (APP,), "behaviors": (Behavior("*", "app"),), "aliases": aliases}
    return Distribution(id_, "", f"{id_.lower()}.cloudfront.localhost", **(values | members))  # type: ignore[arg-type]


def routing(*distributions: Distribution) -> Routing:
    return Routing(Snapshot(1, 0.0, distributions=distributions))


@rows(
    ("host", "expected"),
    [
        ("e1.cloudfront.localhost", "E1"),
        ("E1.CloudFront.localhost:8080", "E1"),
        ("cdn.example.com", "E1"),
        ("CDN.example.com:443", "E1"),
        ("www.example.com", "E2"),
        ("a.www.example.com", "E2"),
        ("exact.example.com", "E3"),
        ("deep.exact.example.com", "E2"),
        ("x.deep.example.com", "E4"),
        ("example.com", None),
        ("nexample.com", None),
        ("", None),
        (":80", None),
        ("[::1]", "E5"),
        ("[::1]:8080", "E5"),
    ],
)
def test_a_host_leads_to_the_most_exact_name(host: str, expected: str | None) -> None:
    found = routing(
        distribution("E1", "cdn.example.com"),
        distribution("E2", "*.example.com"),
        distribution("E3", "exact.example.com"),
        distribution("E4", "*.deep.example.com"),
        distribution("E5", "[::1]"),
    ).site(host)
    assert (found.distribution.id if found else None) == expected


@rows(
    ("path", "expected"),
    [
        ("/images/a.jpg", "images/*.jpg"),
        ("/images/b/c.jpg", "images/*.jpg"),
        ("/images/a.gif", "/images/*"),
        ("/Images/a.gif", "*"),
        ("/x/../images/a.gif", "/images/*"),
        ("/images/../x", "*"),
        ("//images//a.gif", "/images/*"),
        ("/%69mages/a.gif", "/images/*"),
        ("/images%2Fa.gif", "*"),
        ("/", "*"),
        ("", "*"),
    ],
)
def test_the_first_behavior_that_matches_the_normalised_path(path: str, expected: str) -> None:
    behaviors = tuple(Behavior(pattern, "app") for pattern in ("images/*.jpg", "/images/*", "*"))
    site = routing(distribution("E1", behaviors=behaviors)).site("e1.cloudfront.localhost")
    assert site is not None
    assert site.route(path).behavior.path_pattern == expected


def test_an_origin_group_gives_both_members_and_the_statuses() -> None:
    spare = Origin("spare", "127.0.0.2")
    groups = (
        OriginGroup("other", ("spare", "app"), (404,)),
        OriginGroup("both", ("app", "spare"), (500, 503)),
    )
    made = distribution("E1", origins=(APP, spare), origin_groups=groups, behaviors=(Behavior("*", "both"),))
    site = routing(made).site("e1.cloudfront.localhost")
    assert site is not None
    assert site.route("/").origins == (APP, spare)
    assert site.route("/").failover == {500, 503}


def ask(routed: Routing, target: str = "/a", method: str = "GET", **members: object) -> object:
    request = Request(method, target, "e1.cloudfront.localhost", [], **members)  # type: ignore[arg-type]
    decision = decide(routed, request, 1000.0, lambda ip: {"198.51.100.1": "DE"}.get(ip, ""))
    return decision.name if isinstance(decision, Refusal) else decision[0]


def test_the_checks_are_in_cloudfronts_order() -> None:
    strict = Behavior("*", "app", viewer_protocol_policy="https-only", restricted=True)
    blocked = distribution("E1", behaviors=(strict,), geo=Geo("blacklist", ("DE",)))
    german = {"client_ip": "198.51.100.1"}
    assert ask(routing()) == "no_distribution"
    assert ask(routing(distribution("E1", enabled=False, geo=blocked.geo)), **german) == "disabled"
    assert ask(routing(blocked), method="POST", **german) == "geo_blocked"
    assert ask(routing(blocked), method="POST") == "https_only"
    assert ask(routing(blocked), method="POST", scheme="https") == "method_not_allowed"
    assert ask(routing(blocked), scheme="https") == "denied"


def test_geo_restriction_is_checked_for_each_viewer_of_a_cached_plan() -> None:
    routed = routing(distribution("E1", geo=Geo("whitelist", ("FR",))))
    assert ask(routed) != "geo_blocked"  # an unknown location is served
    assert ask(routed, client_ip="198.51.100.1") == "geo_blocked"
    assert ask(routed) != "geo_blocked"


@rows(
    ("behavior", "target", "key", "asked"),
    [
        (Behavior("*", "app"), "/a?b=1", "E1/a", "/a"),
        (Behavior("*", "app", forward_query=Select("all")), "/a?b=1", "E1/a", "/a?b=1"),
        (Behavior("*", "app", forward_query=Select("whitelist", ("b",))), "/a?c=2&b=1", "E1/a", "/a?b=1"),
        (Behavior("*", "app", max_ttl=0, default_ttl=0), "/a", None, "/a"),
        (Behavior("*", "app", legacy=True, key_headers=Select("all")), "/a", None, "/a"),
        (Behavior("*", "app"), "/%2e/x//y", "E1/%2e/x//y", "/%2e/x//y"),
    ],
)
def test_a_plan_has_the_key_and_the_raw_target(
    behavior: Behavior, target: str, key: str | None, asked: str
) -> None:
    plan = ask(routing(distribution("E1", behaviors=(behavior,))), target)
    assert (plan.key, plan.target) == (key, asked)  # type: ignore[attr-defined]


def test_options_has_a_key_of_its_own_and_only_if_it_is_cached() -> None:
    methods = ("GET", "HEAD", "OPTIONS")
    cached = Behavior("*", "app", allowed_methods=methods, cached_methods=methods)
    passed = Behavior("*", "app", allowed_methods=methods)
    for behavior, key in ((cached, "OPTIONS E1/a"), (passed, None)):
        plan = ask(routing(distribution("E1", behaviors=(behavior,))), "/a", "OPTIONS")
        assert plan.key == key  # type: ignore[attr-defined]


def test_the_default_root_object_is_gated_as_itself() -> None:
    behaviors = (Behavior("/private/*", "app", restricted=True), Behavior("*", "app"))
    root = distribution("E1", behaviors=behaviors, default_root_object="private/index.html")
    assert ask(routing(root), "/") == "denied"
    assert ask(routing(root), "/other").key == "E1/other"  # type: ignore[attr-defined]


def test_plans_are_bounded_in_bytes_and_what_is_used_stays() -> None:
    routed = routing(distribution("E1"))
    used = ask(routed, "/used")
    for number in range(30_000):
        ask(routed, f"/{number}?{'x' * 3000}")
        if number % 1000 == 0:
            assert ask(routed, "/used") is used
    assert len(routed.plans) <= 2 * (PLANS_SIZE // 3000)
    kept = len(routed.plans)
    ask(routed, "/" + "x" * 8000)
    assert len(routed.plans) == kept  # no path this long is cached


# ---- distributions that exist in other regions only


@rows(
    ("host", "expected"),
    [
        ("www.example.com", "E1"),
        ("private.example.com", None),
        ("Private.Example.com:8080", None),
        ("a.private.example.com", "E1"),
        ("x.eu.example.com", None),
        ("x.y.eu.example.com", None),
        ("eu.example.com", "E1"),
        ("open.eu.example.com", "E2"),
        ("a.inner.eu.example.com", "E3"),
    ],
)
def test_a_wildcard_takes_over_no_name_of_a_distribution_that_is_elsewhere(
    host: str, expected: str | None
) -> None:
    asked = Routing(
        Snapshot(
            1,
            0.0,
            distributions=(
                distribution("E1", "*.example.com"),
                distribution("E2", "open.eu.example.com"),
                distribution("E3", "*.inner.eu.example.com"),
            ),
            region="us",
            reserved=("*.eu.example.com", "private.example.com"),
        )
    )
    site = asked.site(host)
    assert (site and site.distribution.id) == expected


# ---- what edges share


def test_behaviors_are_numbered_in_the_distributions_order() -> None:
    behaviors = tuple(Behavior(pattern, "app") for pattern in ("/a/*", "/b/*", "*"))
    site = routing(distribution("E1", behaviors=behaviors)).sites["E1"]
    found = [site.rule(number) for number in range(-1, 4)]
    assert [rule and rule.behavior for rule in found] == [None, *behaviors, None]


def test_a_digest_covers_all_but_the_invalidations() -> None:
    made = distribution("E1")
    changed = [
        msgspec.structs.replace(made, default_root_object="x"),
        msgspec.structs.replace(made, behaviors=(Behavior("*", "app", max_ttl=1),)),
        msgspec.structs.replace(made, invalidations=(Invalidation(1, ("/*",)),)),
    ]
    site = routing(made).sites["E1"]
    digest = site.digest
    assert site.digest is digest, "it is computed once"
    assert [routing(each).sites["E1"].digest == digest for each in changed] == [False, False, True]
    assert len(digest) == 16


def test_which_snapshots_an_invalidation_follows() -> None:
    ended = distribution("E1", invalidations=(Invalidation(5, ("/a",)), Invalidation(7, ("#tag",))))
    routed = Routing(Snapshot(9, 0.0, distributions=(ended, distribution("E2"))))
    assert [routed.invalidated_since(number) for number in (0, 6, 7)] == [True, True, False]
    assert [routed.is_invalidated("E1/a", number) for number in (4, 5, 9)] == [True, False, False]
    assert [routed.is_invalidated_by_tag("E1/b", number) for number in (6, 7, 9)] == [True, False, False]
    for key in ("E2/a", "E3/a"):
        assert not routed.is_invalidated(key, 0)
        assert not routed.is_invalidated_by_tag(key, 0)
    assert not Routing(Snapshot(9, 0.0, distributions=(distribution("E2"),))).is_invalidated_by_tag("E2/a", 0)


def test_a_name_is_a_domain_name_or_an_alias_without_a_wildcard() -> None:
    routed = routing(distribution("E1", "a.test", "*.b.test"))
    names = ("a.test", "e1.cloudfront.localhost", "x.b.test", "*.b.test", "c.test")
    assert [routed.has_name(name) for name in names] == [True, True, False, False, False]


@rows(
    ("name", "offered"),
    [
        ("new.test", True),
        ("old.test", False),
        ("x.wild.test", False),
        ("unknown.test", False),
        (None, False),
        ("", False),
    ],
)
def test_http2_is_offered_where_the_distribution_has_it(name: str | None, offered: bool) -> None:
    new, old = distribution("E1", "new.test"), distribution("E2", "old.test", "*.wild.test", http2=False)
    assert routing(new, old).offers_http2(name) is offered
    assert routing(new).offers_http2(name)
