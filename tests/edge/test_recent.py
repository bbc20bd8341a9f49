"""Short-lived caches of recent events: they expire, and they are bounded."""

from keyfront.edge.types.ttl_map import TtlMap


def test_a_value_is_known_until_its_end() -> None:
    recent: TtlMap[str] = TtlMap()
    recent.put("a", "x", 10.0)
    assert recent.get("a", 9.9) == "x"
    assert recent.get("b", 9.9) is None
    assert recent.get("a", 10.0) is None
    assert len(recent) == 0


def test_a_newer_value_takes_the_place_of_the_older() -> None:
    recent: TtlMap[str] = TtlMap()
    recent.put("a", "x", 10.0)
    recent.put("a", "y", 5.0)
    assert recent.get("a", 4.0) == "y"
    recent.drop("a")
    recent.drop("never there")
    assert recent.get("a", 4.0) is None


def test_the_oldest_make_way() -> None:
    recent: TtlMap[int] = TtlMap(3)
    for number in range(5):
        recent.put(str(number), number, 10.0)
    assert [recent.get(str(number), 0.0) for number in range(5)] == [None, None, 2, 3, 4]
    recent.clear()
    assert len(recent) == 0
