"""Signed content through a whole edge: every refusal with CloudFront's bytes, keys that are added and removed, what
is cached."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import msgspec
import pytest

from keyfront import sign_cookies, sign_url
from keyfront.errors import Denial
from keyfront.model.snapshot import Behavior, ErrorResponse, Select, Snapshot
from tests.edge.harness import signed_site
from tests.origin import ScriptedOrigin, answer
from tests.sites import ALICE, BOB, MALLORY, keys, signed, site
from tests.viewer import EdgeHarness, Seen

HOUR = 3600


@pytest.fixture
async def origin() -> AsyncIterator[ScriptedOrigin]:
    async with ScriptedOrigin() as origin:
        for path in ("/a/1", "/a/2", "/b/1", "/open", "/a/q"):
            origin.on(path, answer(200, b"the object " + path.encode(), {"Cache-Control": "max-age=60"}))
        yield origin


@pytest.fixture
async def harness(origin: ScriptedOrigin) -> AsyncIterator[EdgeHarness]:
    async with EdgeHarness(signed_site(origin, "KALICE1")) as harness:
        yield harness


def refused(seen: Seen, denial: Denial) -> bool:
    xml = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{}</Code><Message>{}</Message></Error>'
    assert seen.body == xml.format(denial.code, denial.message).encode()
    assert seen.header("content-type") == "text/xml"
    assert seen.header("server") == "CloudFront"
    assert seen.x_cache == "Error"
    return seen.status == 403


class TestSignedUrls:
    async def test_served_from_the_origin_then_from_the_cache(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        target = signed("/a/1")
        first, second, third = [await harness.get(target) for _ in range(3)]
        assert [first.x_cache, second.x_cache, third.x_cache] == ["Miss", "Hit", "Hit"]
        assert {seen.body for seen in (first, second, third)} == {b"the object /a/1"}
        assert [request.target for request in origin.requests] == ["/a/1"]
        record = await harness.recorded(3)
        assert record["verdict"] == "allowed"
        assert record["key_pair_id"] == "KALICE1"
        assert record["key_group"] == "group-a"
        assert record["signed_by"] == "url"
        assert record["hash_algorithm"] == "SHA1"
        assert "verify_us" in await harness.recorded(1)
        assert "Signature" not in str(record)

    async def test_one_object_for_all_signatures(self, harness: EdgeHarness, origin: ScriptedOrigin) -> None:
        for seconds in range(5):
            await harness.get(signed("/a/1", expires=int(time.time()) + HOUR + seconds))
        assert len(origin.requests) == 1

    async def test_a_hit_needs_a_signature_too(self, harness: EdgeHarness) -> None:
        await harness.get(signed("/a/1"))
        assert refused(await harness.get("/a/1"), Denial.MISSING_KEY_PAIR_ID)

    async def test_own_parameters_reach_the_origin_only_if_forwarded(self, origin: ScriptedOrigin) -> None:
        snapshot = signed_site(origin, "KALICE1", key_query=Select("all"), forward_query=Select("all"))
        async with EdgeHarness(snapshot) as harness:
            target = signed("/a/q?size=%20large&flag")
            assert (await harness.get(target)).status == 200
            assert (await harness.get(target)).x_cache == "Hit"
            other = signed("/a/q?size=small")
            assert (await harness.get(other)).x_cache == "Miss"
        assert [request.target for request in origin.requests] == [
            "/a/q?size=%20large&flag",
            "/a/q?size=small",
        ]

    @pytest.mark.parametrize(
        ("spoil", "denial"),
        [
            (lambda t: t.replace("Signature=", "Signature=A"), Denial.MALFORMED_SIGNATURE),
            (lambda t: t.replace("/a/1", "/a/2"), Denial.SIGNATURE_MISMATCH),
            (lambda t: t.replace("Expires=1", "Expires=2"), Denial.SIGNATURE_MISMATCH),
            (lambda t: t.replace("KALICE1", "KNOBODY"), Denial.UNKNOWN_KEY),
            (lambda t: t.replace("KALICE1", "KBOB1"), Denial.UNKNOWN_KEY),
            (lambda t: t + "&added=1", Denial.SIGNATURE_MISMATCH),
            (lambda t: t + "&Hash-Algorithm=SHA256", Denial.SIGNATURE_MISMATCH),
            (lambda t: t.replace("Key-Pair-Id=KALICE1", "x=y"), Denial.MISSING_KEY_PAIR_ID),
            (lambda t: t.partition("&Signature")[0] + "&Key-Pair-Id=KALICE1", Denial.MISSING_SIGNATURE),
        ],
    )
    async def test_a_corrupted_signature_before_and_after_the_valid_one_is_remembered(
        self, harness: EdgeHarness, spoil: object, denial: Denial
    ) -> None:
        target = signed("/a/1")
        assert callable(spoil)
        assert refused(await harness.get(spoil(target)), denial)
        assert (await harness.get(target)).status == 200
        assert refused(await harness.get(spoil(target)), denial)
        assert (await harness.recorded(3))["reason"] == denial.reason

    async def test_expired_while_remembered(self, harness: EdgeHarness) -> None:
        target = signed("/a/1", expires=int(time.time()) + 2)
        while (seen := await harness.get(target)).status == 200:
            pass
        assert refused(seen, Denial.EXPIRED)

    async def test_not_yet_valid_and_wrong_address(self, harness: EdgeHarness) -> None:
        later = signed("/a/1", starts=int(time.time()) + 100, expires=int(time.time()) + HOUR)
        assert refused(await harness.get(later), Denial.NOT_YET_VALID)
        elsewhere = signed("/a/1", ip="203.0.113.0/24")
        assert refused(await harness.get(elsewhere), Denial.WRONG_IP)
        here = signed("/a/1", ip="127.0.0.0/8")
        assert (await harness.get(here)).status == 200
        assert (await harness.get(here)).status == 200

    async def test_the_address_is_judged_at_each_use_of_a_remembered_url(
        self, origin: ScriptedOrigin
    ) -> None:
        async with EdgeHarness(signed_site(origin, "KALICE1"), trusted=("127.0.0.1",)) as harness:
            target = signed("/a/1", ip="203.0.113.7")
            inside, outside = [("X-Forwarded-For", "203.0.113.7")], [("X-Forwarded-For", "203.0.113.8")]
            assert (await harness.get(target, headers=inside)).status == 200
            assert refused(await harness.get(target, headers=outside), Denial.WRONG_IP)
            assert (await harness.get(target, headers=inside)).x_cache == "Hit"

    async def test_another_key_of_the_same_id_is_no_use(self, harness: EdgeHarness) -> None:
        assert refused(await harness.get(signed("/a/1", MALLORY)), Denial.SIGNATURE_MISMATCH)

    async def test_a_key_of_another_behavior_is_unknown_here(self, harness: EdgeHarness) -> None:
        assert (await harness.get(signed("/b/1", BOB))).status == 200
        assert refused(await harness.get(signed("/a/1", BOB)), Denial.UNKNOWN_KEY)

    @pytest.mark.parametrize("path", ["/b/../a/1", "//a/1", "/%61/1", "/b/%2e%2e/a/1", "/./a/1"])
    async def test_a_detour_in_the_path_does_not_bypass_the_signature_check(
        self, harness: EdgeHarness, path: str
    ) -> None:
        seen = await harness.get(path)
        assert refused(seen, Denial.MISSING_KEY_PAIR_ID)
        assert refused(await harness.get(signed(path, BOB, as_is=True)), Denial.UNKNOWN_KEY)

    async def test_the_open_part_takes_signing_names_for_its_own(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        assert (await harness.get("/open?Expires=1&Signature=x")).status == 200

    async def test_a_scheme_that_was_not_signed(self, origin: ScriptedOrigin) -> None:
        async with EdgeHarness(signed_site(origin, "KALICE1"), scheme="https") as harness:
            assert refused(await harness.get(signed("/a/1")), Denial.SIGNATURE_MISMATCH)
            secure = sign_url("https://d.test/a/1", ALICE, expires=int(time.time()) + HOUR)
            assert (await harness.get(secure.removeprefix("https://d.test"))).status == 200

    async def test_all_four_algorithm_pairs(self, origin: ScriptedOrigin) -> None:
        async with EdgeHarness(signed_site(origin, "KALICE1", "KBOB1")) as harness:
            for signer in (ALICE, BOB):
                for name in ("SHA1", "SHA256"):
                    seen = await harness.get(signed("/a/1", signer, hash_name=name))
                    assert seen.status == 200, (signer, name)


class TestSignedCookies:
    @staticmethod
    def cookies(resource: str = "http://d.test/a/*", **terms: object) -> list[tuple[str, str]]:
        terms.setdefault("expires", int(time.time()) + HOUR)
        made = sign_cookies(resource, ALICE, secure=False, **terms)  # type: ignore[arg-type]
        return [("Cookie", "session=1; " + made.header)]

    async def test_one_policy_opens_all_that_it_covers(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        headers = self.cookies()
        for path in ("/a/1", "/a/2", "/a/1"):
            assert (await harness.get(path, headers=headers)).status == 200
        assert refused(await harness.get("/b/1", headers=headers), Denial.UNKNOWN_KEY)
        record = await harness.recorded(3)
        assert (record["signed_by"], record["result"]) == ("cookies", "Hit")
        assert all(request.header("cookie") is None for request in origin.requests)

    async def test_outside_of_the_resource(self, harness: EdgeHarness) -> None:
        headers = self.cookies("http://d.test/a/1*")
        assert (await harness.get("/a/1", headers=headers)).status == 200
        assert refused(await harness.get("/a/2", headers=headers), Denial.WRONG_RESOURCE)

    async def test_a_url_that_was_opened_by_cookies_is_closed_without_them(
        self, harness: EdgeHarness
    ) -> None:
        assert (await harness.get("/a/1", headers=self.cookies())).status == 200
        assert refused(await harness.get("/a/1"), Denial.MISSING_KEY_PAIR_ID)
        assert refused(
            await harness.get("/a/1", headers=[("Cookie", "session=1")]), Denial.MISSING_KEY_PAIR_ID
        )

    async def test_a_signed_url_wins_over_cookies_even_if_it_is_bad(self, harness: EdgeHarness) -> None:
        seen = await harness.get("/a/1?Signature=x", headers=self.cookies())
        assert refused(seen, Denial.MISSING_KEY_PAIR_ID)

    async def test_a_canned_cookie_opens_one_url(self, harness: EdgeHarness) -> None:
        headers = self.cookies("http://d.test/a/1", canned=True)
        assert (await harness.get("/a/1", headers=headers)).status == 200
        assert (await harness.get("/a/2", headers=headers)).status == 403


class TestKeysThatComeAndGo:
    async def test_a_key_that_left_its_group_is_refused_at_once_though_remembered(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        target = signed("/a/1")
        cookies = TestSignedCookies.cookies()
        assert (await harness.get(target)).status == 200
        assert (await harness.get("/a/2", headers=cookies)).status == 200
        harness.edge.use(signed_site(origin, "KBOB1"))
        assert refused(await harness.get(target), Denial.UNKNOWN_KEY)
        assert refused(await harness.get("/a/2", headers=cookies), Denial.UNKNOWN_KEY)
        harness.edge.use(signed_site(origin, "KALICE1", "KBOB1"))
        assert (await harness.get(target)).x_cache == "Hit"

    async def test_a_key_replaced_under_the_same_id_takes_its_signatures_along(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        target = signed("/a/1")
        assert (await harness.get(target)).status == 200
        before = signed_site(origin, "KALICE1")
        harness.edge.use(Snapshot(2, 0.0, keys(MALLORY, BOB), before.key_groups, before.distributions))
        assert refused(await harness.get(target), Denial.SIGNATURE_MISMATCH)

    async def test_an_unrelated_change_forgets_nothing(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        target = signed("/a/1")
        await harness.get(target)
        keyring = harness.edge.routing.site("d.test").route("/a/1").keyring  # type: ignore[union-attr]
        harness.edge.use(signed_site(origin, "KALICE1"))
        assert harness.edge.routing.site("d.test").route("/a/1").keyring is keyring  # type: ignore[union-attr]
        assert (await harness.get(target)).x_cache == "Hit"
        assert (await harness.recorded(2))["remembered"] is True

    async def test_a_group_without_a_usable_key_refuses_everybody(self, origin: ScriptedOrigin) -> None:
        async with EdgeHarness(signed_site(origin)) as harness:
            assert refused(await harness.get(signed("/a/1")), Denial.UNKNOWN_KEY)
            assert refused(await harness.get("/a/1"), Denial.MISSING_KEY_PAIR_ID)


async def test_credentials_are_not_logged_even_where_none_are_needed(origin: ScriptedOrigin) -> None:
    origin.on("/open", answer(200, b"open"))
    query = signed("/a/1").partition("?")[2]
    async with EdgeHarness(site(origin.origin(), Behavior("*", "scripted"))) as harness:
        for count in (1, 2):
            assert (await harness.get(f"/open?page=2&{query}")).status == 200
            assert (await harness.recorded(count))["query"] == "page=2"


async def test_a_custom_page_for_403_takes_the_place_of_the_refusal(origin: ScriptedOrigin) -> None:
    origin.on("/login.html", answer(200, b"please log in", {"Content-Type": "text/html"}))
    snapshot = signed_site(origin, "KALICE1")
    distribution = snapshot.distributions[0]
    page = ErrorResponse(403, 0, "/login.html", 403)
    distribution = msgspec.structs.replace(distribution, error_responses=(page,))
    snapshot = msgspec.structs.replace(snapshot, distributions=(distribution,))
    async with EdgeHarness(snapshot) as harness:
        seen = await harness.get("/a/1")
        assert (seen.status, seen.body, seen.x_cache) == (403, b"please log in", "Error")
        assert (await harness.recorded(1))["reason"] == "missing_key_pair_id"


async def test_a_restricted_error_page_is_served_to_viewers_without_a_signature(
    origin: ScriptedOrigin,
) -> None:
    """As at CloudFront (§5.6): the edge fetches the page itself. At its own path it remains protected."""
    origin.on("/a/login.html", answer(200, b"please log in", {"Cache-Control": "max-age=60"}))
    snapshot = signed_site(origin, "KALICE1")
    page = ErrorResponse(403, 0, "/a/login.html", 403)
    distribution = msgspec.structs.replace(snapshot.distributions[0], error_responses=(page,))
    snapshot = msgspec.structs.replace(snapshot, distributions=(distribution,))
    async with EdgeHarness(snapshot) as harness:
        for target in ("/a/1", "/a/login.html", "/a/login.html%3f.css", "/b/1"):
            seen = await harness.get(target)
            assert (seen.status, seen.body, seen.x_cache) == (403, b"please log in", "Error")
        assert (await harness.get(signed("/a/login.html"))).status == 200
        assert (await harness.get("/a/login.html")).status == 403


class TestHashAlgorithmAlone:
    """Hash-Algorithm alone makes a URL a signed one, so cookies are ignored (§1.1)."""

    @pytest.mark.parametrize("query", ["Hash-Algorithm=SHA256", "Hash-Algorithm", "x=1&Hash-Algorithm=SHA1"])
    async def test_cookies_do_not_open_it(self, harness: EdgeHarness, query: str) -> None:
        headers = TestSignedCookies.cookies()
        async with await harness.viewer() as viewer:
            for _ in range(4):  # parsed, and remembered
                assert (await viewer.ask("/a/1", "d.test", headers)).status == 200
                seen = await viewer.ask(f"/a/1?{query}", "d.test", headers)
                assert refused(seen, Denial.MISSING_KEY_PAIR_ID)
        assert (await harness.recorded(2)).get("query", "") == ("x=1" if query.startswith("x") else "")

    async def test_where_no_signature_is_needed_it_is_a_parameter(self, harness: EdgeHarness) -> None:
        assert (await harness.get("/open?Hash-Algorithm=SHA256")).status == 200
