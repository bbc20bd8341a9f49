"""`keyfront restart` and SIGUSR2: another program, without a refused connection; and systemd's socket activation."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stories.conftest import PAGE, Viewers
from tests.up import PATIENCE, Up

PROGRAM = [sys.executable, "-m", "keyfront"]


def restart(data: Path) -> subprocess.CompletedProcess[str]:
    argv = [*PROGRAM, "restart", "--data", str(data)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=6 * PATIENCE, check=False)


class Site:
    """A Keyfront whose settings are in a file, and a distribution."""

    def __init__(self, up: Up, host: str) -> None:
        self.up = up
        self.host = host
        self.file = up.data / "keyfront.toml"

    def restart(self, text: str) -> subprocess.CompletedProcess[str]:
        self.file.write_text(text)
        return restart(self.up.data)

    def settled(self, workers: int) -> None:
        """Wait until the processes from before a restart have exited."""
        self.up.until(lambda: len(self.up.children()) == workers + 1)

    def reports_cache_status(self) -> bool:
        return "cache-status" in self.up.get(self.host, "/a").headers


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, page_origin: int) -> Iterator[Site]:
    up = Up(tmp_path_factory.mktemp("restart") / "data", workers=0)
    up.data.mkdir(mode=0o700)
    (up.data / "keyfront.toml").write_text("[supervision]\nworkers = 3\n")
    with up:
        up.well()
        yield Site(up, str(up.create_distribution(page_origin)["DomainName"]))
        assert up.stop() == 0


def test_restarts_under_load_refuse_and_lose_no_request(site: Site) -> None:
    """With fewer workers, with another port, and with more workers than before."""
    up = site.up
    pid, before = up.pid, up.children()
    with Viewers(up, site.host, 2) as viewers:
        viewers.wait_for_answers()
        done = site.restart("[supervision]\nworkers = 1\n[edge]\ncache-status = true\n")
        assert (done.returncode, done.stdout, done.stderr) == (0, "restarted\n", "")
        viewers.wait_for_answers(500)
        site.settled(1)
        viewers.wait_for_answers(500)
        assert site.reports_cache_status()
        done = site.restart('[supervision]\nworkers = 2\n[control]\nedges = "127.0.0.1:0"\n')
        assert (done.returncode, done.stderr) == (0, "")
        site.settled(2)
        viewers.wait_for_answers(500)
    assert (viewers.refused, viewers.lost, viewers.wrong) == (0, 0, [])
    assert not site.reports_cache_status()
    assert up.pid == pid
    assert not {*before} & {*up.children()}
    assert "edges=https://127.0.0.1:" in up.log[-1]
    up.well()
    assert up.client().list_distributions()["DistributionList"]["Quantity"] == 1


def test_a_program_that_cannot_run_changes_nothing(site: Site) -> None:
    up = site.up
    before = set(up.children())
    done = site.restart("[edge]\nmemory = 0\n")
    assert done.returncode == 2
    assert done.stderr.startswith(f"keyfront: {site.file}:2: edge.memory: 0 is not in the range")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = site.restart(f'[control]\nedges = "127.0.0.1:{port}"\n')
    assert done.returncode == 2
    assert f"--edges 127.0.0.1:{port} cannot be used: Address already in use" in done.stderr
    current = (up.data / "format").read_text()
    (up.data / "format").write_text("999\n")
    done = site.restart("")
    (up.data / "format").write_text(current)
    assert done.returncode == 2
    assert "a newer Keyfront has used it. Nothing was changed" in done.stderr
    assert set(up.children()) == before
    assert up.get(site.host, "/a").body == PAGE
    up.until(lambda: any("Keyfront is not restarted, and goes on as before" in line for line in up.log))


def test_processes_that_do_not_start_leave_the_ones_before(site: Site) -> None:
    """A fault that only a worker notices. The program has been replaced by then; the old workers serve on, and are
    replaced once that is possible."""
    up = site.up
    before = set(up.children())
    garbage = up.data / "countries.mmdb"
    garbage.write_bytes(b"garbage")
    settings = "[supervision]\nworkers = 2\n"
    done = site.restart(f'{settings}[edge]\ncountry-db = "countries.mmdb"\n')
    assert done.returncode == 2
    assert "did not start" in done.stderr
    assert set(up.children()) == before
    assert up.get(site.host, "/a").body == PAGE
    site.file.write_text(settings)
    os.kill(up.worker_pids()[0], signal.SIGKILL)  # nobody can start it again: everything is replaced
    up.until(lambda: not before & set(up.children()))
    site.settled(2)
    up.well()
    assert up.get(site.host, "/a").body == PAGE


def test_what_a_reload_cannot_change_is_named_with_the_command(site: Site) -> None:
    """As printed."""
    up = site.up
    site.file.write_text("[supervision]\nworkers = 1\n")
    argv = [*PROGRAM, "reload", "--data", str(up.data)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=4 * PATIENCE, check=False)
    printed = f"keyfront restart --data {up.data}"
    assert done.stderr == f"keyfront: a restart is needed for --workers: run `{printed}`\n"
    keyfront = shutil.which("keyfront", path=str(Path(sys.executable).parent))
    assert keyfront is not None
    subprocess.run([keyfront, *printed.split()[1:]], check=True, timeout=4 * PATIENCE)
    site.settled(1)


def test_sigusr2_restarts_and_requests_that_arrive_meanwhile_wait(site: Site) -> None:
    up = site.up
    ready = sum(line.startswith("keyfront ready") for line in up.log)
    os.kill(up.pid, signal.SIGUSR2)
    up.until(lambda: sum(line.startswith("keyfront ready") for line in up.log) == ready + 1)
    assert json.loads((up.data / "restart.json").read_text())["error"] == ""


ACTIVATED = """
import os, sys
names = os.environ["SOCKETS"].split(",")
for number, name in enumerate(names):
    os.dup2(int(name), 3 + number)
os.environ |= {"LISTEN_FDS": str(len(names)), "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "a:b"}
os.execv(sys.executable, [sys.executable, "-m", "keyfront", *sys.argv[1:]])
"""
"""Starts Keyfront as systemd does, with sockets that are already listening."""


def activated(data: Path, sockets: list[socket.socket], *options: str) -> subprocess.Popen[str]:
    fds = [each.fileno() for each in sockets]
    return subprocess.Popen(
        [sys.executable, "-c", ACTIVATED, "up", "--data", str(data), *options],
        env={**os.environ, "SOCKETS": ",".join(map(str, fds))},
        pass_fds=fds,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_sockets_of_the_service_manager(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as edge, socket.create_server(("127.0.0.1", 0)) as control:
        # High numbers, because the program expects its sockets from number 3 on.
        sockets = [
            socket.socket(fileno=os.dup2(each.fileno(), 90 + n)) for n, each in enumerate((edge, control))
        ]
        addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
        early = socket.create_connection(("127.0.0.1", edge.getsockname()[1]))  # before Keyfront starts
        early.sendall(b"GET / HTTP/1.1\r\nHost: none.test\r\nConnection: close\r\n\r\n")
        unused = activated(tmp_path / "other", sockets, "--edge", addresses[0], "--control", "127.0.0.1:0")
        assert (
            f"the service manager listens on {addresses[1]}, but no option names this address"
            in (unused.communicate(timeout=PATIENCE)[1])
        )
        assert unused.returncode == 2
        options = ["--edge", addresses[0], "--control", addresses[1], "--workers", "2", "--cache-disk", "0"]
        running = activated(tmp_path / "data", sockets, *options)
        for each in sockets:
            each.close()
    # Only Keyfront listens there now.
    try:
        assert running.stdout is not None
        assert running.stdout.readline().startswith(f"keyfront ready edge=http://{addresses[0]} ")
        early.settimeout(PATIENCE)
        assert early.recv(100).startswith(b"HTTP/1.1 403 ")
        early.close()
        assert restart(tmp_path / "data").returncode == 0
        with socket.create_connection(("127.0.0.1", int(addresses[0].rpartition(":")[2]))) as viewer:
            viewer.sendall(b"GET / HTTP/1.1\r\nHost: none.test\r\nConnection: close\r\n\r\n")
            viewer.settimeout(PATIENCE)
            assert viewer.recv(100).startswith(b"HTTP/1.1 403 ")
    finally:
        running.terminate()
        running.communicate(timeout=PATIENCE)
    assert running.returncode == 0
