"""What decides whether a program can take over from the one that runs, without either of them."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from keyfront.cli.up import read_settings
from keyfront.edge.net.listen import reserve
from keyfront.errors import SettingsError
from keyfront.runtime.handover import (
    HANDOVER,
    HandedChild,
    HandedListeners,
    HandedPort,
    HandedProcesses,
    Handover,
    duplicated,
    encode,
    release,
    taken,
)
from keyfront.runtime.restart import (
    SIGNALS,
    execute,
    last_message,
    program,
    signals_blocked,
    trial,
    try_settings,
)
from tests.rows import rows

NOBODY = HandedProcesses(7, 3, -1, (HandedChild("edge-1", 4711, 8, 40.0),), ())


def handover(data: Path, *listeners: HandedListeners, ports: tuple[HandedPort, ...] = ()) -> Handover:
    return Handover(1.0, str(data), 9, ports, listeners, NOBODY)


def test_a_handover_survives_the_environment_and_is_read_once(tmp_path: Path) -> None:
    given = handover(tmp_path, HandedListeners("::1", 80, (5, 6), given=True))
    environment = {HANDOVER: encode(given), "HOME": "/"}
    assert taken(environment, HANDOVER) == given
    assert environment == {"HOME": "/"}
    assert taken(environment, HANDOVER) is None
    assert list(given.fds) == [9, 5, 6, 7, 8]


def test_spare_descriptors_hold_what_a_program_that_fails_has_closed(tmp_path: Path) -> None:
    held = [os.open(tmp_path / name, os.O_CREAT) for name in ("lock", "board", "lifeline", "listener")]
    lock, board, lifeline, listener = held
    processes = HandedProcesses(board, 2, -1, (HandedChild("edge-1", 4711, lifeline, 40.0, 1, 10.0),), ())
    one = HandedListeners("::1", 80, (listener,), given=False)
    port = HandedPort("edge", "::1", 80, 80, -1)
    given = Handover(1.0, str(tmp_path), lock, (port,), (one,), processes)
    second = duplicated(given)
    assert sorted(second.spare) == sorted(held)
    assert not {*second.fds} & {*held}
    assert [os.fstat(fd).st_ino for fd in second.fds] == [os.fstat(fd).st_ino for fd in given.fds]
    assert (second.ports, second.processes.shared) == (given.ports, -1)
    assert msgspec.structs.replace(second.processes.edges[0], lifeline=lifeline) == processes.edges[0]
    environment = {HANDOVER: encode(second)}
    release(environment, HANDOVER)
    assert environment == {}
    for fd in held:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    for fd in second.fds:
        os.close(fd)


def test_a_port_with_connections_that_have_ended_can_be_reserved() -> None:
    """They are left of a socket of the service manager, which does not set SO_REUSEPORT."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        with socket.create_connection(address) as viewer:
            accepted, _ = server.accept()
            accepted.close()  # first, so that it is this end that waits (TIME_WAIT)
            assert viewer.recv(1) == b""
        with pytest.raises(OSError, match="Address already in use"):
            reserve(*address)
    with reserve(*address) as held:
        assert held.getsockname() == address


@rows(
    ("output", "message"),
    [
        ("", ""),
        ("keyfront: the port is used\n", "the port is used"),
        ("a warning\nkeyfront: at last\n", "at last"),
        ('{"level": "error", "message": "in JSON"}\n', "in JSON"),
        (
            "ModuleNotFoundError: No module named 'granian'\n",
            "ModuleNotFoundError: No module named 'granian'",
        ),
        ("[1]\n", "[1]"),
    ],
)
def test_why_a_program_failed(output: str, message: str) -> None:
    assert last_message(output) == message


def test_how_the_program_is_started_again(tmp_path: Path) -> None:
    script = tmp_path / "keyfront"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o700)
    link = tmp_path / "current"
    link.symlink_to(script)
    assert program([str(link), "up"]) == [str(link), "up"]  # what the link names then, not now
    assert program(["/lib/keyfront/__main__.py", "up"]) == [sys.executable, "-m", "keyfront", "up"]


async def test_signals_wait_for_the_next_program() -> None:
    seen = []
    signal.signal(signal.SIGUSR2, lambda *_: seen.append("handled"))
    try:
        async with signals_blocked():
            signal.pthread_kill(threading.get_ident(), signal.SIGUSR2)
            assert signal.sigpending() & SIGNALS == {signal.SIGUSR2}
            assert seen == []
        assert seen == ["handled"]
    finally:
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)


async def test_a_program_that_is_gone(tmp_path: Path) -> None:
    read, write = os.pipe()
    nobody = HandedProcesses(read, 1, -1, (), ())
    given = Handover(1.0, str(tmp_path), write, (), (), nobody)
    command = [str(tmp_path / "gone"), "up"]
    with pytest.raises(SettingsError, match="gone: No such file or directory"):
        await trial(command, given)
    with pytest.raises(SettingsError, match="gone: No such file or directory"):
        execute(command, given)
    assert not os.get_inheritable(read)
    os.close(read)
    os.close(write)


async def test_a_program_that_only_fails(tmp_path: Path) -> None:
    script = tmp_path / "program"
    script.write_text("#!/bin/sh\nexit 7\n")
    script.chmod(0o700)
    with pytest.raises(SettingsError, match="the new program ended with 7"):
        await trial([str(script)], handover(tmp_path))


@pytest.fixture
def used() -> Iterator[int]:
    """A port that another program uses."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


def check(data: Path, given: Handover, *options: str) -> None:
    """Try settings with two addresses and these options."""
    addresses = ("--edge", "127.0.0.1:0", "--control", "127.0.0.1:0")
    try_settings(read_settings(["--data", str(data), *addresses, *options]), given)


def test_a_port_that_another_program_uses(tmp_path: Path, used: int) -> None:
    expected = f"--edges 127.0.0.1:{used} cannot be used: Address already in use"
    with pytest.raises(SettingsError, match=expected):
        check(tmp_path, handover(tmp_path), "--edges", f"127.0.0.1:{used}")
    own = HandedListeners("127.0.0.1", used, (5,), given=False)
    check(tmp_path, handover(tmp_path, own), "--edges", f"127.0.0.1:{used}")


def test_an_address_that_moves_to_another_option(tmp_path: Path, used: int) -> None:
    before = HandedPort("shield", "127.0.0.1", used, used, -1)
    own = HandedListeners("127.0.0.1", used, (5,), given=False)
    check(tmp_path, handover(tmp_path, own, ports=(before,)), "--edges", f"127.0.0.1:{used}")


def test_a_socket_of_the_service_manager_that_is_not_needed_any_more(tmp_path: Path, used: int) -> None:
    given = handover(tmp_path, HandedListeners("127.0.0.1", used, (5,), given=True))
    with pytest.raises(
        SettingsError, match=f"the service manager listens on 127.0.0.1:{used}, but no option"
    ):
        check(tmp_path, given)
    check(tmp_path, given, "--edges", f"127.0.0.1:{used}")


def test_another_data_folder(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="which a restart cannot change"):
        check(tmp_path, msgspec.structs.replace(handover(tmp_path), data="/srv/other"))


def test_the_data_folder_of_a_newer_version(tmp_path: Path) -> None:
    (tmp_path / "format").write_text("999\n")
    with pytest.raises(SettingsError, match=r"a newer Keyfront has used it\. Nothing was changed"):
        check(tmp_path, handover(tmp_path))
    assert (tmp_path / "format").read_text() == "999\n"
