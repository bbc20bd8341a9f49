"""`keyfront restart` and SIGUSR2: another program, without a refused connection; and systemd's socket activation."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import trustme
from botocore.exceptions import BotoCoreError
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from keyfront import Signer, load_signer, sign_url
from keyfront.runtime.reload import RELOADED, RESTARTED, Result, write_result
from tests.application import Request, Response, served
from tests.stories.conftest import PAGE
from tests.up import PATIENCE, Up, distribution_config, has_exited, suspended

FAULTS = """
import os, sys
folder = os.path.dirname(__file__)
if "edge-worker" in sys.orig_argv and os.path.exists(f"{folder}/no-workers"):
    os._exit(1)
if "KEYFRONT_HANDOVER" in os.environ and os.path.exists(f"{folder}/no-settings"):
    with open(f"{folder}/data/keyfront.toml", "w") as file:
        file.write("[edge]\\nmemory = 0\\n")
"""
"""Loaded by each of Keyfront's processes (`sitecustomize`): what goes wrong after the trial of a new program."""
KEYS = Path(__file__).resolve().parents[1] / "vectors" / "keys"
CACHING_DISABLED = "4135ea2d-6df8-44a3-9df3-4b5a84be39ad"
ALL_VIEWER = "216adef6-5c7f-47e4-b989-5492eafa07d3"
UPLOAD = b"photo" * 5000
ONE = "[supervision]\nworkers = 1\nstuck-after = 5\n[origins]\n"
PAUSE = 0.05
"""Seconds between two requests of a client."""


def started(command: str, data: Path) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "keyfront", command, "--data", str(data)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(command: str, data: Path) -> subprocess.CompletedProcess[str]:
    process = started(command, data)
    output, errors = process.communicate(timeout=6 * PATIENCE)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


class Site:
    """A Keyfront whose settings are in a file, and a distribution that requires signed URLs. `early` is a connection
    from before it started."""

    def __init__(self, up: Up, host: str, signer: Signer, early: socket.socket) -> None:
        self.up = up
        self.early = early
        self.host = host
        self.signer = signer
        self.file = up.data / "keyfront.toml"

    def restart(self, text: str) -> subprocess.CompletedProcess[str]:
        self.file.write_text(text)
        return run("restart", self.up.data)

    def settled(self, workers: int) -> None:
        """Wait until the processes from before a restart have exited."""
        self.up.until(lambda: len(self.up.children()) == workers + 1)

    def target(self, scheme: str = "http") -> str:
        """A signed path and query."""
        url = f"{scheme}://{self.host}"
        return sign_url(f"{url}/a", self.signer, expires=4102444800).removeprefix(url)

    def serves(self) -> bool:
        return self.up.get(self.host, self.target()).body == PAGE

    def reports_cache_status(self) -> bool:
        return "cache-status" in self.up.get(self.host, self.target()).headers


class Load:
    """Clients of all kinds that send requests continuously, without retries. Use as a context manager."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._stop = threading.Event()
        kinds = (self._new_connections, self._uploads, self._tls, self._api)
        self._threads = [threading.Thread(target=self._run, args=(kind,), daemon=True) for kind in kinds]
        self.completed = Counter({kind.__name__: 0 for kind in kinds})
        self.failed: list[str] = []

    def _run(self, kind: Callable[[], Iterator[bool]]) -> None:
        while not self._stop.is_set():
            requests = kind()
            with suppress(StopIteration):
                while not self._stop.is_set():
                    try:
                        if not next(requests):
                            self.failed.append(f"{kind.__name__}: wrong response")
                    except (OSError, httpx.HTTPError, http.client.HTTPException, BotoCoreError):
                        self.failed.append(traceback.format_exc())
                        break
                    self.completed[kind.__name__] += 1
                    time.sleep(PAUSE)

    def _new_connections(self) -> Iterator[bool]:
        target = self._site.target()
        while True:
            yield self._site.up.get(self._site.host, target).body == PAGE

    def _uploads(self) -> Iterator[bool]:
        """POST is not idempotent: no client may repeat it. The connection is used again for as long as the edge
        permits."""
        connection = http.client.HTTPConnection("127.0.0.1", self._site.up.edge_port, timeout=PATIENCE)
        target = self._site.target()
        while True:
            connection.request("POST", target, UPLOAD, {"Host": self._site.host})
            yield connection.getresponse().read() == b"%d" % len(UPLOAD)

    def _tls(self) -> Iterator[bool]:
        """A few requests on a connection."""
        host, url = self._site.host, f"https://127.0.0.1:{self._site.up.tls_port}{self._site.target('https')}"
        with httpx.Client(verify=False, timeout=PATIENCE) as client:
            for _ in range(4):
                found = client.get(url, headers={"Host": host}, extensions={"sni_hostname": host})
                yield found.content == PAGE

    def _api(self) -> Iterator[bool]:
        client = self._site.up.client()
        while True:
            yield client.list_distributions()["DistributionList"]["Quantity"] == 1

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def go_on(self, requests: int = 20) -> None:
        """Wait until each kind of client has completed more requests."""
        before = self.completed.copy()

        def have() -> bool:
            assert self.failed == []
            return all(self.completed[kind] >= count + requests for kind, count in before.items())

        Up.until(have)


def respond(request: Request) -> Response:
    if request.method == "POST":
        return Response(b"%d" % len(request.body))
    return Response(PAGE, {"Cache-Control": "max-age=3600"})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("restart")
    issued = trustme.CA(key_type=trustme.KeyType.ECDSA).issue_cert("*.cloudfront.localhost")
    (folder / "all.pem").write_bytes(issued.private_key_and_cert_chain_pem.bytes())
    (folder / "all.pem").chmod(0o600)
    options = ("--tls", "127.0.0.1:0", "--certificates", str(folder))
    edge, control = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    (folder / "sitecustomize.py").write_text(FAULTS)
    search = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    up = Up(
        folder / "data",
        workers=0,
        options=options,
        sockets=(edge, control),
        environment={"PYTHONPATH": search},
    )
    up.edge_port, up.control_port = edge.getsockname()[1], control.getsockname()[1]
    early = socket.create_connection(edge.getsockname(), PATIENCE)
    early.sendall(b"GET / HTTP/1.1\r\nHost: none.test\r\nConnection: close\r\n\r\n")
    up.data.mkdir(mode=0o700)
    (up.data / "keyfront.toml").write_text("[supervision]\nworkers = 2\n")
    # Left by an earlier run, in which the machine had run for longer than it has now.
    for name in (RELOADED, RESTARTED):
        write_result(up.data, name, Result(time.monotonic() + 1e9, "a result of an earlier run"))
    with served(respond) as port, up:
        edge.close()
        control.close()
        client = up.client()
        config = {"CallerReference": "k", "Name": "k", "EncodedKey": (KEYS / "rsa.pub").read_text()}
        key = client.create_public_key(PublicKeyConfig=config)["PublicKey"]["Id"]
        group = client.create_key_group(KeyGroupConfig={"Name": "g", "Items": [key]})["KeyGroup"]["Id"]
        wanted = distribution_config("d", port, [group])
        methods = ["GET", "HEAD", "OPTIONS", "PUT", "PATCH", "POST", "DELETE"]
        wanted["DefaultCacheBehavior"]["AllowedMethods"] = {"Quantity": len(methods), "Items": methods}
        made = client.create_distribution(DistributionConfig=wanted)["Distribution"]
        up.deployed(made["Id"])
        yield Site(up, made["DomainName"], load_signer(key, KEYS / "rsa.pem"), early)
        assert up.stop() == 0


FILM = os.urandom(1 << 20)


class Slow:
    """An application whose `/film` ends when the test says so, and one that returns each message."""

    def __init__(self, host: str, room: str, go_on: threading.Event) -> None:
        self.host = host
        self.room = room
        self.go_on = go_on


@pytest.fixture
def slow(site: Site) -> Iterator[Slow]:
    go_on = threading.Event()

    class Film(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(FILM)))
            self.end_headers()
            sent = len(FILM) // 2
            self.wfile.write(FILM[:sent])
            while not go_on.wait(0.2):  # the edge gives up on an origin that sends nothing
                self.wfile.write(FILM[sent : sent + 1])
                sent += 1
            self.wfile.write(FILM[sent:])

        def log_message(self, *_: object) -> None:
            pass

    def echo(connection: ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    with ThreadingHTTPServer(("127.0.0.1", 0), Film) as film, serve(echo, "127.0.0.1", 0) as room:
        for server in (film, room):
            threading.Thread(target=server.serve_forever, daemon=True).start()
        hosts = []
        for name, port in (("film", film.server_address[1]), ("room", room.socket.getsockname()[1])):
            config = distribution_config(name, port, [])
            policies = {"CachePolicyId": CACHING_DISABLED, "OriginRequestPolicyId": ALL_VIEWER}
            config["DefaultCacheBehavior"].update(policies)
            made = site.up.client().create_distribution(DistributionConfig=config)["Distribution"]
            site.up.deployed(made["Id"])
            hosts.append(made["DomainName"])
        yield Slow(hosts[0], hosts[1], go_on)
        go_on.set()
        film.shutdown()


def test_a_connection_from_before_the_start_is_served(site: Site) -> None:
    """The service manager listened; now Keyfront alone does."""
    assert site.early.recv(100).startswith(b"HTTP/1.1 403 ")
    site.early.close()
    warning = f"the service manager does not listen on 127.0.0.1:{site.up.tls_port}: connections are refused"
    assert any(warning in line for line in site.up.log)


def test_restarts_under_load_fail_no_request(site: Site) -> None:
    """With fewer workers; with another port, and more workers; the second time, several commands at once."""
    up = site.up
    pid, before = up.pid, up.children()
    with Load(site) as load:
        load.go_on()
        workers, control = up.worker_pids(), up.control_pid()
        site.file.write_text("[supervision]\nworkers = 1\n[control]\naudit-reads = false\n")
        done = run("reload", up.data)
        # Only the control plane has new settings, so the workers stay.
        assert (up.worker_pids(), {control} & {*up.children()}) == (workers, set())
        printed = f"keyfront restart --data {up.data}"
        assert done.stderr == f"keyfront: a restart is needed for --workers: run `{printed}`\n"
        site.file.write_text("[supervision]\nworkers = 1\n[edge]\ncache-status = true\n")
        keyfront = shutil.which("keyfront", path=str(Path(sys.executable).parent))
        assert keyfront is not None
        done = subprocess.run(
            [keyfront, *printed.split()[1:]],
            capture_output=True,
            text=True,
            timeout=6 * PATIENCE,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "restarted\n", "")
        site.settled(1)
        load.go_on()
        assert site.reports_cache_status()
        site.file.write_text('[supervision]\nworkers = 2\n[control]\nedges = "127.0.0.1:0"\n')
        os.kill(up.pid, signal.SIGUSR2)
        # Their signals arrive while the program that received the first is about to be replaced.
        commands = [started("restart", up.data), started("reload", up.data)]
        ended = [(*each.communicate(timeout=6 * PATIENCE), each.returncode) for each in commands]
        assert ended == [("restarted\n", "", 0), ("reloaded\n", "", 0)]
        site.settled(2)
        load.go_on()
    assert load.failed == []
    assert not site.reports_cache_status()
    assert up.pid == pid
    assert not {*before} & {*up.children()}
    assert "edges=https://127.0.0.1:" in [line for line in up.log if line.startswith("keyfront ready")][-1]
    up.well()


def test_a_program_that_cannot_run_changes_nothing(site: Site) -> None:
    up = site.up
    before = set(up.children())
    done = site.restart("[edge]\nmemory = 0\n")
    assert done.returncode == 2
    assert done.stderr.startswith(f"keyfront: {site.file}:2: edge.memory: 0 is not in the range")
    assert set(up.children()) == before
    assert site.serves()
    up.until(lambda: any("Keyfront is not restarted, and goes on as before" in line for line in up.log))


def test_downloads_and_websockets_outlive_a_restart(site: Site, slow: Slow) -> None:
    """New requests go to the new workers, while the old ones finish what they have begun."""
    up = site.up
    before = set(up.worker_pids())
    download = http.client.HTTPConnection("127.0.0.1", up.edge_port, timeout=PATIENCE)
    download.request("GET", "/film", headers={"Host": slow.host})
    response = download.getresponse()
    received = response.read(len(FILM) // 4)
    plain = socket.create_connection(("127.0.0.1", up.edge_port), PATIENCE)
    with connect(f"ws://{slow.room}:{up.edge_port}/", sock=plain, proxy=None) as chat:
        chat.send("before")
        assert chat.recv(PATIENCE) == "before"
        trustme.CA().cert_pem.write_to_path(up.data / "authorities.pem")
        done = site.restart(ONE + 'origin-ca = "authorities.pem"\n')
        assert (done.returncode, done.stderr) == (0, "")
        assert not before & set(up.worker_pids()) or before & set(up.children()), "the old ones drain"
        assert site.serves()
        chat.send("after")
        assert chat.recv(PATIENCE) == "after"
        slow.go_on.set()
        received += response.read()
    assert received == FILM
    download.close()
    site.settled(1)


def test_a_reload_rereads_the_files_of_workers(site: Site) -> None:
    """With another setting of the control plane, and the same ones for the worker, of which one names a file."""
    up = site.up
    before = set(up.children())
    trustme.CA().cert_pem.write_to_path(up.data / "authorities.pem")
    site.file.write_text(ONE + 'origin-ca = "authorities.pem"\n[control]\naudit-reads = false\n')
    done = run("reload", up.data)
    assert (done.returncode, done.stderr) == (0, "")
    site.settled(1)
    assert not before & set(up.children())


def test_a_program_that_fails_after_its_trial_leaves_what_runs(site: Site) -> None:
    """Its settings change in the second between the trial and the takeover. It can neither adopt nor replace what runs,
    but keeps it."""
    up, folder = site.up, site.up.data.parent
    before = set(up.children())
    pid = up.pid
    (folder / "no-settings").touch()
    done = site.restart(ONE)
    (folder / "no-settings").unlink()
    assert (done.returncode, done.stdout) == (2, "")
    assert "the new program could not take over: its log says why" in done.stderr
    up.until(lambda: any("memory: 0 is not in the range" in line for line in up.log))
    assert (up.pid, set(up.children())) == (pid, before)
    assert site.serves()
    assert up.client().list_distributions()["DistributionList"]["Quantity"] >= 1
    # The cause is still there: the next attempt fails in its trial.
    done = run("restart", up.data)
    assert done.returncode == 2
    assert "keyfront.toml:2: edge.memory: 0 is not in the range" in done.stderr
    assert set(up.children()) == before
    # A process that hangs is killed, and a lost process is a reason to try again without being asked.
    site.file.write_text(ONE)
    (worker,) = up.worker_pids()
    os.kill(worker, signal.SIGSTOP)
    up.until(lambda: not before & set(up.children()))
    assert any(f"(pid {worker}) has had no heartbeat for" in line for line in up.log)
    site.settled(1)
    up.well()
    assert site.serves()


def test_processes_that_do_not_start_leave_the_ones_before(site: Site) -> None:
    """A fault that only a worker notices. The program has been replaced by then; the old workers serve on, one that
    hangs is killed, and all are replaced once that is possible."""
    up, folder = site.up, site.up.data.parent
    before = set(up.children())
    (folder / "no-workers").touch()
    done = run("restart", up.data)
    assert done.returncode == 2
    assert "did not start" in done.stderr
    assert set(up.children()) == before
    assert site.serves()
    (folder / "no-workers").unlink()
    (worker,) = up.worker_pids()
    os.kill(worker, signal.SIGSTOP)  # killed, and as nobody can start it again, everything is replaced
    up.until(lambda: not before & set(up.children()))
    assert any(f"(pid {worker}) has had no heartbeat for 5 seconds; killing it" in line for line in up.log)
    site.settled(1)
    up.well()
    assert site.serves()


def test_a_supervisor_that_is_killed_amid_a_restart_leaves_nothing_behind(site: Site) -> None:
    """Neither the old processes nor the new ones run on, and the next start finds everything that was acknowledged."""
    up = site.up
    before = set(up.children())
    with subprocess.Popen(
        [sys.executable, "-m", "keyfront", "restart", "--data", str(up.data)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        new: set[int] = set()

        def has_begun() -> bool:
            new.update(pid for pid in up.worker_pids() if pid not in before)
            return bool(new)

        up.until(has_begun)
        with suspended(*new):  # they are not ready, so the old ones serve
            client = up.client()
            config = {"CallerReference": "2", "Name": "two", "EncodedKey": (KEYS / "rsa.pub").read_text()}
            key = client.create_public_key(PublicKeyConfig=config)["PublicKey"]["Id"]
            up.kill(children=False)
        assert command.wait(PATIENCE) == 2
    up.until(lambda: all(has_exited(pid) for pid in before | new))
    up.start()
    assert site.serves()
    assert key in [each["Id"] for each in up.client().list_public_keys()["PublicKeyList"]["Items"]]
    up.well()
