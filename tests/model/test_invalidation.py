"""Which invalidations a snapshot carries: never less than was invalidated, and never without bound."""

from __future__ import annotations

import random
import time

import pytest

from keyfront.edge.rules.invalidation import Invalidations
from keyfront.model import invalidation
from keyfront.model.invalidation import MAX_CHARACTERS, MAX_PATHS, Carried, carry
from keyfront.model.snapshot import Invalidation, Select
from tests.rows import rows

Steps = list[tuple[int, tuple[str, ...]]]


def after(*steps: tuple[int, tuple[str, ...]]) -> Steps:
    """What is carried after these batches."""
    carried: Carried = ()
    for number, paths in steps:
        carried = carry(carried, paths, number)
    return [(one.number, one.paths) for one in carried]


def test_a_later_one_takes_the_place_of_what_it_covers() -> None:
    assert after((1, ("/a", "/b"))) == [(1, ("/a", "/b"))]
    assert after((1, ("/a", "/b")), (4, ("/b", "/c"))) == [(1, ("/a",)), (4, ("/b", "/c"))]
    assert after((1, ("/a/1", "/a/*", "/b")), (2, ("/a*",))) == [(1, ("/b",)), (2, ("/a*",))]
    assert after((1, ("/a*",)), (2, ("/a/*", "/a"))) == [(1, ("/a*",)), (2, ("/a/*", "/a"))]
    assert after((1, ("/a", "/b/*")), (2, ("/c?x=1",)), (3, ("/*",))) == [(3, ("/*",))]
    assert after((1, ("/a", "/a", "/a*", "/ab"))) == [(1, ("/a*",))]
    assert after((1, ("/a*", "/a*"))) == [(1, ("/a*",))]
    assert after((1, ("/A",)), (2, ("/a*",))) == [(1, ("/A",)), (2, ("/a*",))]
    assert after((1, ("/a?x=1", "/a")), (2, ("/a?*",))) == [(1, ("/a",)), (2, ("/a?*",))]


def test_when_there_are_too_many_the_oldest_become_one_wider_path() -> None:
    carried = tuple(Invalidation(number, (f"/img/{number:05}",)) for number in range(1, MAX_PATHS))
    carried = carry(carried, (f"/img/{MAX_PATHS:05}",), MAX_PATHS)
    assert len(carried) == MAX_PATHS
    carried = carry(carried, ("/other",), MAX_PATHS + 1)
    first, *rest = carried
    assert first.paths == ("/img/0*",)
    assert first.number + len(rest) == MAX_PATHS + 1
    assert len(rest) == MAX_PATHS // 2
    assert rest[-1] == Invalidation(MAX_PATHS + 1, ("/other",))


def test_the_newest_is_never_widened() -> None:
    many = tuple(f"/{number:04}" + "x" * 200 for number in range(3000))
    assert sum(map(len, many)) > MAX_CHARACTERS
    assert carry((), many, 1) == (Invalidation(1, many),)
    wide, newest = carry((Invalidation(1, ("/b/c", "/b/d*")),), many, 2)
    assert (wide, newest) == (Invalidation(1, ("/b/*",)), Invalidation(2, many))


@rows(
    ("one", "other", "expected"),
    [
        ("/a/b", "/a/c", "/a/"),
        ("/a", "/a", "/a"),
        ("/a", "/ab", "/a"),
        ("/a", "/b", "/"),
        ("/a?x=1", "/a?x=2", "/a"),
        ("/caf%C3%A9", "/caf%C3%A8", "/caf%C3"),
        ("/caf%C3%A9", "/caf%C3%B9", "/caf%C3"),
        ("/caf%C3%A9", "/caf%C3x", "/caf%C3"),
        ("/%41", "/%42", "/"),
        ("/a%41", "/a%41b", "/a%41"),
    ],
)
def test_what_paths_have_in_common(one: str, other: str, expected: str) -> None:
    assert invalidation._prefix(*sorted((one, other))) == expected


@pytest.mark.parametrize(
    "select", [Select("all"), Select(), Select("whitelist", ("x",))], ids=lambda s: s.mode
)
def test_nothing_that_was_invalidated_is_forgotten(select: Select, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever single invalidations would end, the carried ones end as well; without widening, nothing more."""
    r = random.Random(7)
    texts = ["/", "/a", "/ab", "/a/b", "/a/b?x=1", "/a?x=1", "/a?y=1", "/%61", "/b/%C3%A9", "/b/%C3%A8?x=%41"]
    patterns = [*texts, *(text + "*" for text in texts), "/a?*", "/*"]
    for bound in (MAX_PATHS, 6):
        monkeypatch.setattr(invalidation, "MAX_PATHS", bound)
        for _ in range(60):
            carried: Carried = ()
            all_of_them = []
            for number in range(1, r.randint(2, 14)):
                paths = tuple(r.choices(patterns[:-1] if r.random() < 0.9 else patterns, k=r.randint(1, 3)))
                carried = carry(carried, paths, number)
                all_of_them.append(Invalidation(number, paths))
            assert [one.number for one in carried] == sorted({one.number for one in carried})
            assert sum(len(one.paths) for one in carried) <= bound + 3
            compiled = Invalidations(carried, lambda _: select, "/a")
            every = Invalidations(all_of_them, lambda _: select, "/a")
            for text in texts:
                path, _, query = text.partition("?")
                key = f"E{path}\nq{len(query)}:{query}" if query else f"E{path}"
                for number in range(15):
                    if every.is_invalidated(key, number):
                        assert compiled.is_invalidated(key, number), (all_of_them, carried, key, number)
                    elif bound == MAX_PATHS:
                        assert not compiled.is_invalidated(key, number)


def test_it_is_quick_at_its_bounds() -> None:
    carried = tuple(Invalidation(number, (f"/img/{number:05}",)) for number in range(1, MAX_PATHS + 1))
    began = time.process_time()
    carry(carried, [f"/x/{number}" for number in range(3000)] + [f"/y/{n}/*" for n in range(15)], 9999)
    assert time.process_time() - began < 0.5
