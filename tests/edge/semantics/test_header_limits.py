"""How many header lines a message may have."""

from __future__ import annotations

from keyfront.edge.semantics.header_limits import MAX_LINES, MAX_LINES_OF_ONE, too_many_lines


def test_lines_are_counted_in_all_and_of_a_name() -> None:
    assert not too_many_lines([(b"a%d" % n, b"") for n in range(MAX_LINES)])
    assert too_many_lines([(b"a%d" % n, b"") for n in range(MAX_LINES + 1)])
    assert not too_many_lines([(b"a", b"")] * MAX_LINES_OF_ONE)
    assert too_many_lines([(b"a", b"")] * (MAX_LINES_OF_ONE + 1))
    for name in (b"cookie", b"set-cookie"):
        assert not too_many_lines([(name, b"")] * MAX_LINES)
        assert too_many_lines([(name, b"")] * (MAX_LINES + 1))
