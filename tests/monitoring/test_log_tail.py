"""Following a log: nothing is lost or shown twice across its rotation."""

from __future__ import annotations

from pathlib import Path

from keyfront.monitoring.log_tail import LogFollower
from tests.rows import rows


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


@rows(
    "last, found", [(0, []), (1, [b"c"]), (2, [b"b", b"c"]), (3, [b"a", b"b", b"c"]), (9, [b"a", b"b", b"c"])]
)
def test_the_last_lines(last: int, found: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"a\nb\nc\n")
    assert list(LogFollower(path, last).lines()) == found


def test_the_last_lines_of_a_long_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"".join(b"%d %s\n" % (number, b"x" * 1000) for number in range(2000)))
    lines = list(LogFollower(path, 1000).lines())
    assert [line.split()[0] for line in lines] == [b"%d" % number for number in range(1000, 2000)]


def test_lines_appear_when_they_are_finished(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"old\nhal")
    follower = LogFollower(path)
    assert list(follower.lines()) == []
    append(path, b"f\nnext")
    assert list(follower.lines()) == [b"half"]
    append(path, b"\n")
    assert list(follower.lines()) == [b"next"]


def test_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"1\n")
    follower = LogFollower(path, 10)
    assert list(follower.lines()) == [b"1"]
    path.rename(tmp_path / "log-old")
    append(tmp_path / "log-old", b"2\n")
    assert list(follower.lines()) == [b"2"], "until there is a new file, the old one is followed"
    append(tmp_path / "log-old", b"3\ntorn")
    path.write_bytes(b"4\n")
    assert list(follower.lines()) == [b"3", b"torn", b"4"]
    append(path, b"5\n")
    assert list(follower.lines()) == [b"5"]


def test_a_file_that_appears_or_is_emptied(tmp_path: Path) -> None:
    path = tmp_path / "log"
    follower = LogFollower(path, 10)
    assert list(follower.lines()) == []
    path.write_bytes(b"first line\n")
    assert list(follower.lines()) == [b"first line"]
    path.write_bytes(b"2\n")
    assert list(follower.lines()) == [b"2"]
    follower.close()


def test_a_line_without_an_end_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * 5_000_000 + b"\nend\n")
    lines = list(LogFollower(path, 2).lines())
    assert lines[-1] == b"end"
    assert max(map(len, lines)) < 2_000_000
    assert sum(map(len, lines)) == 5_000_003
