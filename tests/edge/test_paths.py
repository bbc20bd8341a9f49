"""Paths that an origin reads differently than this edge, checked against independently written models of origins:
what none of them may open for an unsigned viewer, and what every viewer must get, whatever encoded its name."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterable
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keyfront import sign_cookies
from keyfront.edge.rules.decide import Refusal
from keyfront.edge.rules.path_readings import readings, without_parts
from keyfront.edge.rules.routing import Plan, Routing
from keyfront.errors import Denial
from tests.path_origins import (
    ENCODERS,
    ENDS,
    FOLDER,
    NOW,
    ORIGINS,
    SLASHES,
    STARTS,
    WORLDS,
    climbs,
    half_open,
    opened,
    opened_by_anyone,
    spelled,
    verdict,
)
from tests.rows import rows
from tests.sites import ALICE, signed

ROUTINGS = {name: Routing(world.snapshot) for name, world in WORLDS.items()}


@st.composite
def detours(draw: st.DrawFn, files: Iterable[bytes]) -> str:
    """A spelling of a secret file's name that some server may read as that name."""
    name = draw(st.sampled_from(sorted(files))).decode()
    made = []
    for char in name:
        if char == "/":
            made.append(draw(st.sampled_from(SLASHES)) if draw(st.integers(0, 2)) == 0 else "/")
        elif char == " ":
            made.append(draw(st.sampled_from(["%20", "+", "%2520"])))
        else:
            made.append(spelled(char, draw(st.sampled_from((0,) * 24 + tuple(range(12))))))
    start = draw(st.sampled_from(["", "", "", "/public", "/a.jpg", "/x/..", "/%2e", *STARTS]))
    climb = draw(st.sampled_from(SLASHES)) + ".." if start in ("/public", "/a.jpg") else ""
    text = (
        start
        + climb
        + "".join(made)
        + draw(st.sampled_from(["", *ENDS]))
        + draw(st.sampled_from(["", "", *ENDS]))
    )
    return text if text.startswith("/") else "/" + text


class TestBypassingTheSignatureCheck:
    @pytest.mark.parametrize("name", WORLDS)
    @settings(max_examples=40, deadline=None)
    @given(data=st.data())
    def test_what_any_origin_would_open_needs_a_signature(self, name: str, data: st.DataObject) -> None:
        world = WORLDS[name]
        target = data.draw(detours(world.secret))
        found = opened(world, target)
        if found:
            assert isinstance(verdict(ROUTINGS[name], target), Refusal), (target, found)

    @pytest.mark.parametrize("name", WORLDS)
    def test_every_end_and_every_slash_by_itself(self, name: str, pytestconfig: pytest.Config) -> None:
        """And pairs of them: a fifth, with `--long` all."""
        world = WORLDS[name]
        routing = ROUTINGS[name]
        open_targets = 0
        reached: set[str] = set()
        for file in world.secret:
            written = quote(file.decode())
            targets = [written + one + other for one in ENDS for other in ENDS[:14]]
            single = [written + end for end in ENDS]
            single += ["/public" + slash + ".." + slash + written.lstrip("/") for slash in SLASHES]
            single += [written.replace("/", slash) for slash in SLASHES]
            single += [start + written for start in STARTS]
            targets += [start + written + end for start in STARTS for end in ENDS]
            if not pytestconfig.getoption("--long"):
                targets = random.Random(written).sample(targets, len(targets) // 5)
            single += [
                written[:at] + spelled(written[at], way) + written[at + 1 :]
                for at in range(1, len(written))
                for way in range(12)
                if "%" not in written
            ]
            for target in single:
                reached.update(opened(world, "/" + target.removeprefix("/")))
            for target in single + targets:
                target = "/" + target.removeprefix("/")
                # What is refused needs no comparison with the origins.
                if not isinstance(verdict(routing, target), Refusal):
                    open_targets += 1
                    assert not opened(world, target), target
        # The origins are as intended: every one of them can be deceived.
        assert reached == set(ORIGINS)
        assert open_targets

    @rows(
        "target",
        [
            "/private/1.mp4%3f.jpg",
            "/private/1.mp4%3F.jpg",
            "/private/1.mp4%23.jpg",
            "/private/1.mp4%253f.jpg",
            "/private/1.mp4%3fx%23.jpg",
            "/private/a.php/x.jpg",
            "/private/a.PHP%2fx.jpg",
            "/private/1.mp4%20HTTP/1.1%0d%0ax:.jpg",
        ],
    )
    def test_open_pictures_hide_no_film(self, target: str) -> None:
        routing = Routing(WORLDS["open pictures"].snapshot)
        refused = verdict(routing, target)
        assert isinstance(refused, Refusal)
        assert refused.denied is not None
        assert refused.denied.denial is Denial.MISSING_KEY_PAIR_ID
        assert isinstance(verdict(routing, signed(target, as_is=True)), Plan)
        assert isinstance(verdict(routing, "/private/1.jpg"), Plan)
        assert isinstance(verdict(routing, "/private/1.mp4.jpg"), Plan)

    @rows(
        "target",
        [
            "/", "//", "///", "/.", "/./", "/x/..", "/x/../", "/%2e", "/%2E/", "/x/%2e%2e", "//?x", "/?x", "/;a",
            "/;", "/\\",
            "/%5c", "/%20", "/%2f", "/%2F%2f", "/+", "/.%20", "/..;/x/..", "/%3f", "/%23", "/%3fx", "/%252f", "/%c0%ae",
            "/%ef%bc%8f", "/x/..%2f", "/x%2f..", "/%0a", "/%25%32%66", "/index.html", "/index.html/", "//index.html",
            "/index.html%3f", "/%69ndex.html", "/index%2ehtml", "/index.html;x", "/./index.html", "/index.html.",
        ],
    )  # fmt: skip
    def test_nothing_that_is_the_root_leads_to_a_private_root_object(self, target: str) -> None:
        routing = Routing(WORLDS["a private root"].snapshot)
        refused = verdict(routing, target)
        assert isinstance(refused, Refusal)
        assert refused.name in ("denied", "ambiguous_path")
        for method in ("GET", "HEAD"):
            for _ in range(2):
                assert isinstance(verdict(routing, target, method=method), Refusal)
        for other in ("/a", "/a/", "/index", "/index.htm", "/a/index.html", "/..a", "/x/y/.."):
            assert isinstance(verdict(routing, other), Plan), other

    def test_an_open_root_object_is_open_however_the_root_is_written(self) -> None:
        routing = Routing(half_open("/index.html", guarded=False, default_root_object="index.html"))
        assert isinstance(verdict(routing, "/"), Plan)
        # Read literally, these belong to the default behavior, which is private.
        for target in ("//", "/.", "/x/.."):
            assert isinstance(verdict(routing, target), Refusal)

    @rows(
        "target",
        [
            "/../tenant2/x", "/a/../../tenant2/x", "/..%3f/../../tenant2/x", "/..%c0%af..%c0%aftenant2/x",
            "/%u002e%u002e/tenant2/x", "/.%e2%80%8b./tenant2/x", "/..+/tenant2/x", "/%ef%bc%8e%ef%bc%8e/tenant2",
            "/..%2500/tenant2/x", "/.%0a./tenant2/x", "/..%23", "/..%3bx/tenant2/x", "/..%5ctenant2", "/%25%32%65./x",
            "/%c0%ae%c0%ae/tenant2", "/..::$DATA/tenant2/x",
        ],
    )  # fmt: skip
    def test_no_reading_climbs_out_of_the_origins_path(self, target: str) -> None:
        for snapshot in (half_open(path="/tenant1"), half_open("/open/*", guarded=False, path="/tenant1")):
            refused = verdict(Routing(snapshot), target)
            assert isinstance(refused, Refusal)
            assert refused.name == "ambiguous_path"

    @rows(
        "target", ["//x/private/1.mp4", "/public../private/1.mp4", "/(S(a))/private/1.mp4", "/index.php/private/1.mp4",
         "/public/....//private/1.mp4", "/public/..././private/1.mp4"]
    )  # fmt: skip
    def test_a_start_that_an_origin_leaves_out(self, target: str) -> None:
        routing = Routing(half_open("/private/*"))
        refused = verdict(routing, target)
        assert isinstance(refused, Refusal)
        assert refused.denied is not None
        assert refused.denied.denial is Denial.MISSING_KEY_PAIR_ID
        assert isinstance(verdict(routing, signed(target, as_is=True)), Plan)
        assert isinstance(verdict(routing, target.replace("private", "public")), Plan)

    @rows(
        ("pattern", "target"),
        [
            ("/docs/*", "/docs/"),
            ("/docs/*", "/docs/a.b/"),
            ("*/", "/docs/"),
            ("/~bob/*", "/~bob/"),
            ("/index.php/*", "/index.php/route"),
            ("/index.php/*", "/index.php/"),
            ("index.php/*", "/index.php/a/b.c/"),
            ("/app/*", "/app/index.php/route"),
        ],
    )
    def test_what_a_pattern_opens_by_name_is_open_beside_a_private_default(
        self, pattern: str, target: str
    ) -> None:
        routing = Routing(half_open(pattern, guarded=False))
        assert isinstance(verdict(routing, target), Plan)
        assert isinstance(verdict(routing, "/docs"), Refusal)

    def test_a_file_behind_which_a_slash_may_be_left_out_stays_private(self) -> None:
        for pattern in ("/docs", "/report.*f"):
            routing = Routing(half_open(pattern))
            assert isinstance(verdict(routing, "/docs/"), Refusal) == (pattern == "/docs")
            assert isinstance(verdict(routing, "/report.pdf/"), Refusal) == (pattern != "/docs")

    def test_a_folder_with_a_dot_is_no_script(self) -> None:
        routing = Routing(half_open("*.jpg", guarded=False))
        for target in ("/v1.2/a.jpg", "/example.com/x/a.jpg", "/a.b/c.d/e.jpg"):
            assert isinstance(verdict(routing, target), Plan), target
        films = Routing(half_open("*.mp4"))
        assert isinstance(verdict(films, "/v1.2/a.jpg"), Plan)
        assert isinstance(verdict(films, "/1.mp4/a.jpg"), Refusal)


class TestWildcardsOfPolicies:
    @rows(
        "target",
        [
            "/private/1.mp4%3f.png", "/private/1.mp4%3F.png", "/private/1.mp4%23.png", "/private/1.mp4%253f.png",
            "/private/1.mp4%252523.png", "/private/1.mp4%%33f.png", "/private/1.mp4%25%33%66.png",
            "/private/1.mp4%u003f.png",
            "/private/1.mp4%uff1f.png", "/private/1.mp4%ef%bc%9f.png", "/private/1.mp4%c0%bf.png",
            "/private/1.mp4%2500.png",
            "/private/1.mp4%0a.png", "/private/1.mp4%0d.png", "/private/1.mp4;x%3f.png", "/private/1.mp4%3b.png",
            "/private/1.mp4%EF%BC%9B.png", "/private/1.mp4%%33b.png", "/private/a.php/x.png", "/private/a.php%2fx.png",
            "/private/1.mp4%3f/x.png", "/private/1.mp4%23%3f.png", "/private/1.mp4;%2f.png",
        ],
    )  # fmt: skip
    @rows("guarded", ["/private/*", "*.png"])
    def test_do_not_reach_what_an_origin_cuts_off(self, target: str, guarded: str) -> None:
        # The pictures may be private, too, or public; the film behind them is neither.
        snapshot = half_open("/private/*") if guarded == "/private/*" else half_open("*.png", guarded=False)
        routing = Routing(snapshot)
        for resource in (
            "http://d.test/private/*.png",
            "http*://d.test/*.png",
            "*/private/?*.png",
            "http://d.test/*png",
        ):
            cookie = sign_cookies(resource, ALICE, expires=int(NOW) + 3600, now=NOW, secure=False).header
            refused = verdict(routing, target, cookie)
            assert isinstance(refused, Refusal), (target, resource)
            assert refused.denied is not None
            assert refused.denied.denial is Denial.WRONG_RESOURCE
        cookie = sign_cookies(
            "http://d.test/private/*", ALICE, expires=int(NOW) + 3600, now=NOW, secure=False
        ).header
        assert isinstance(verdict(routing, target, cookie), Plan)
        assert isinstance(verdict(routing, signed(target, as_is=True)), Plan)

    @rows(
        ("resource", "target"),
        [
            ("http://d.test/*/public/*", "//public/private/1.mp4"),
            ("*/public/*", "/%2fpublic/private/1.mp4"),
            ("http://d.test/public../*", "/public../private/1.mp4"),
            ("http://d.test/index*", "/index.php/private/1.mp4"),
            ("http://d.test/index*", "/index%2ephp%2fprivate/1.mp4"),
        ],
    )
    def test_do_not_reach_what_is_behind_a_start_that_an_origin_leaves_out(
        self, resource: str, target: str
    ) -> None:
        cookie = sign_cookies(resource, ALICE, expires=int(NOW) + 3600, now=NOW, secure=False).header
        for snapshot in (half_open("/private/*"), half_open("/x", guarded=False)):
            refused = verdict(Routing(snapshot), target, cookie)
            assert isinstance(refused, Refusal)
            assert refused.denied is not None
            assert refused.denied.denial is Denial.WRONG_RESOURCE

    @rows(
        ("pattern", "target"),
        [
            ("/index.php/*", "/index.php/private/1.mp4"),
            ("/private/index.php/*", "/private/index.php/a/b"),
            ("//private/*", "//private/films/1.mp4"),
            ("//*", "//private/films/1.mp4"),
            ("/*.mp4", "//private/films/1.mp4"),
            ("/private/*.png", "/private/a%20b%25.png"),
            ("/private/*.png", "/private/%C3%BC%25.png"),
            ("/private/Song%20%231*", "/private/Song%20%231.mp3"),
            ("/private/what%3F*", "/private/what%3F.mp3"),
            ("/private/what%3F.mp?", "/private/what%3F.mp3"),
            ("/private/a.php/*", "/private/a.php/x/y"),
            ("/private/*?x=*", "/private/1.png?x=%3F.mp4"),
            ("/private/*", "/private/100%25%20(%C3%BC);%20a+b%20%231%3F.png"),
        ],
    )
    def test_cover_what_their_author_wrote(self, pattern: str, target: str) -> None:
        policy = sign_cookies(
            f"http://d.test{pattern}", ALICE, expires=int(NOW) + 3600, now=NOW, secure=False
        )
        assert isinstance(verdict(Routing(half_open("/private/*")), target, policy.header), Plan)

    def test_a_host_that_ends_like_a_script_is_no_script(self) -> None:
        cookie = sign_cookies(
            "http://d.pl/private/*.png", ALICE, expires=int(NOW) + 3600, now=NOW, secure=False
        ).header
        assert isinstance(verdict(Routing(half_open("/private/*")), "/private/a;.png", cookie), Refusal)


# -- legitimate names ------------------------------------------------------------------------------------------

PEOPLE = st.text(
    st.characters(categories=("L", "M", "N", "P", "S", "Zs"), exclude_characters="/\\"),
    min_size=1,
    max_size=40,
)
MARKED = st.lists(
    st.sampled_from(
        ["%", "+", "&", "'", "(", ")", "#", "?", ";", "=", ",", "!", "@", "~", "$", "100%", "50 % off", " ", "ü",
        "u\u0308", "é",
         "日本語", "…", "½", "👨\u200d👩\u200d👧", "❤️", "％", "‘", "ß", "а", "ﷺ", "v1.0", "..", "a", "Z", "9", "-", "_",
         "[", "]",
         "{", "}", "<", ">", "|", "^", "`", '"', ":", "*", "e\u0301", "\u00a0", "\u3000"]
    ),
    min_size=1,
    max_size=30,
).map("".join)  # fmt: skip


NAMES = st.one_of(PEOPLE, MARKED).filter(lambda name: name.strip(". ") != "" and not climbs(name))


class TestFileNames:
    @pytest.mark.parametrize("encoder", ENCODERS)
    @settings(max_examples=25, deadline=None)
    @given(name=NAMES)
    @example("ü%")
    @example("100% (ü)")
    @example("日本語" * 20 + "%")
    @example("1\u2044" * 10)
    def test_are_never_a_bad_request_and_need_a_signature_where_restricted(
        self, encoder: str, name: str
    ) -> None:
        encoded = ENCODERS[encoder](name)
        routing = ROUTINGS["a private folder"]
        for target in (f"/public/{encoded}.jpg", f"/{encoded}", f"/public/{encoded}/1.jpg"):
            found = verdict(routing, target)
            if isinstance(found, Refusal):
                # Refused at most because some origin may find a private file by it.
                assert found.name == "denied", target
                assert re.search(r"%[0-9A-Fa-fuU]", name) or opened_by_anyone(target), target
        target = f"/private/{encoded}.jpg"
        found = verdict(routing, target)
        assert isinstance(found, Refusal)
        assert found.name == "denied", target
        assert isinstance(verdict(routing, target, FOLDER), Plan), target

    @rows(
        "target",
        [
            "/%C3%BC%25.jpg",
            "/%c3%bc%25.jpg",
            "/%FC%25.jpg",
            "/%25%C3%BC.jpg",
            "/100%25%20(%C3%BC).jpg",
            "/%E6%97%A5" * 60 + "%25.jpg",
            "/" + "%E6%97%A5" * 341,
            "/" + "%E6%97%A5%25" * 80,
            "/%F0%9F%91%A8%E2%80%8D%F0%9F%91%A9%25.jpg",
            "/u%CC%88%25.jpg",
            "/%25C3%25BC.jpg",
            "/100%.jpg",
            "/%zz%C3%BC.jpg",
            "/%C2%BD%25.jpg",
        ],
    )
    def test_bytes_beyond_ascii_beside_a_percent_sign(self, target: str) -> None:
        for snapshot in (half_open("/private/*"), half_open("*.mp4"), half_open(path="/tenant")):
            assert isinstance(verdict(Routing(snapshot), target), Plan), target

    def test_a_signed_url_opens_each_of_them(self) -> None:
        routing = Routing(half_open("/private/*"))
        for path in (
            "/private/%C3%BC%25.jpg",
            "/private/100%25%20(%C3%BC);%20a+b%20%231%3F.jpg",
            "/private/%23",
        ):
            for signer in (ALICE,):
                target = signed(path, signer, as_is=True)
                for _ in range(3):
                    assert isinstance(verdict(routing, target), Plan), path

    def test_one_decoding_and_of_bytes(self) -> None:
        found = readings("/%C3%BC%2525.jpg")
        assert found is not None
        assert {"/\xc3\xbc%25.jpg", "/\xc3\xbc%.jpg"} <= found.paths
        assert not any("\xc2" in path for path in found.paths)


def test_the_fuzzer_finds_nothing() -> None:
    """A short run; `make fuzz` takes longer ones."""
    from fuzz.paths import run

    done, reached = run(400, None, 20261130, lambda _: None)
    assert done == 400
    assert reached > 40


class TestCost:
    def test_is_bounded(self) -> None:
        for path in (
            "/" + "%25" * 250, "/%2e" * 250, "/." * 4000, "/" + "a.b/" * 2000, "/" + "a.php/" * 1300, "/" + "+/" * 4000,
            "/" + "%3f%23" * 1300, "/" + "%c0%af" * 1300, "/" + "%u003f" * 1300, "/" + "%ef%bc%8f" * 900,
            "/" + "%E2%80%8B" * 900, "/" + "." * 8000, "/" + " ." * 4000, "/" + ":$" * 4000, "/x" + "%20" * 250 + "/",
            "/" + "%2525252e%253f;\\ " * 50,
        ):  # fmt: skip
            began = time.process_time()
            try:
                found = readings(path)
            except ValueError:
                pass
            else:
                assert found is None or len(found.paths) < 400
            assert time.process_time() - began < 0.1, path[:40]

    def test_of_a_wildcards_coverage_is_bounded(self) -> None:
        routing = Routing(half_open("/private/*"))
        cookie = sign_cookies(
            "http://d.test/private/*.jpg", ALICE, expires=int(NOW) + 3600, now=NOW, secure=False
        ).header
        for path in ("%3f" * 1000, ";%2f" * 100, "a.php/" * 8, "%23;%3f%0a" * 60, "%%33f" * 400):
            began = time.process_time()
            verdict(routing, "/private/" + path + ".jpg", cookie)
            assert time.process_time() - began < 0.5, path[:20]

    def test_a_plain_path_has_one_reading(self) -> None:
        plain = ("/", "/a", "/a/b.jpg", "/a-b_c~d/e.tar.gz", "/a+b/c&d='(1)'.jpg", "/a/b..c", "/a:b")
        for path in plain:
            assert readings(path) is None, path


@rows(
    ("path", "reading"),
    [
        ("/a%C0%AF%C0%AE%C0%AE%C0%AFb", "/a/../b"),
        ("/a%E0%80%AFb", "/a/b"),
        ("/a%F0%80%80%AFb", "/a/b"),
        ("/a%F8%80%80%80%AFb", "/a/b"),
        ("/a%FC%80%80%80%80%AFb", "/a/b"),
        ("/a%FC%80%80%80%80%AF%C0%AEb", "/a/.b"),
    ],
)
def test_overlong_bytes_are_the_ascii_that_they_encode(path: str, reading: str) -> None:
    found = readings(path)
    assert found is not None
    assert reading in found.paths


@rows(
    ("path", "left"),
    [
        ("/a%C0%BBp=1%C0%AFb", "/a%C0%AFb"),
        ("/a%F8%80%80%80%BBp%C0%AFb%C0%BBq", "/a%C0%AFb"),
        ("/a%FC%80%80%80%80%BBp%C0%AFb", "/a%C0%AFb"),
    ],
)
def test_parameters_in_any_spelling_are_left_out(path: str, left: str) -> None:
    assert left in {text for text, _ in without_parts(path, ())}


def test_a_path_may_name_eight_scripts() -> None:
    assert readings("/a.php" * 8 + "/x") is not None
    with pytest.raises(ValueError, match="too many ways"):
        readings("/a.php" * 9 + "/x")


@rows(
    ("path", "reason"),
    [
        ("/a%00.jpg", "the path holds a NUL"),
        ("/a%20\0.jpg", "the path holds a NUL"),
        ("/%" + "25" * 12 + "41", "too many ways"),
        ("/" + ";%2f" * 129, "too many ways"),
        ("/" + "%ef%bc%8f..//a.b" * 14, "too many ways"),
        ("/" + "a" * 3400 + "/%5c%2e%2e;a+/%3f%23x%C3%BC", "too many ways"),
    ],
)
def test_a_path_that_names_no_file_or_too_many_is_refused(path: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        readings(path)


def test_a_front_controller_serves_the_path_without_its_script() -> None:
    assert {"/a.php", "/x"} <= {text for text, _ in without_parts("/a.php/x", ())}


def test_only_four_hexadecimal_digits_are_a_unicode_escape() -> None:
    assert "/a" in {text for text, _ in without_parts("/a%u003bp=1", ())}
    for path in ("/a%u00zz", "/a%u003"):
        assert without_parts(path, ()) == set(), path


def test_more_characters_than_are_remembered() -> None:
    """Each is translated once, and the table is bounded."""
    for start in range(0x4E00, 0x4E00 + 4200, 60):
        name = "".join(map(chr, range(start, start + 60)))
        found = readings("/" + quote(name) + "%25")
        assert found is not None
        assert "/" + name.encode().decode("latin-1") + "%" in found.paths


def test_a_path_that_loses_its_parts_in_too_many_ways_is_refused() -> None:
    with pytest.raises(ValueError, match="too many ways"):
        without_parts("//x" * 40 + ";a?b", ())
