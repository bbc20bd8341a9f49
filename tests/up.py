"""A whole Keyfront, started as a user starts it, on its own ports."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

PATIENCE = 60.0
"""Seconds until a test gives up on what takes a moment: a busy machine makes it slow, not red."""


def seconds(promised: float) -> float:
    """How long an operation may take that takes `promised` seconds on an otherwise idle machine. The allowance grows
    with the load per core."""
    of_a_minute, _, _, running, _ = Path("/proc/loadavg").read_text().split()
    busy = max(float(of_a_minute), float(running.partition("/")[0]))
    return promised * max(1.0, 2 * busy / len(os.sched_getaffinity(0)))


class Answer:
    """The response that a viewer received. Header names are lowercase."""

    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status = status
        self.headers = {name.lower(): value for name, value in headers}
        self.body = body

    @property
    def x_cache(self) -> str:
        return self.headers.get("x-cache", "").removesuffix(" from cloudfront")

    def __repr__(self) -> str:
        return f"<{self.status} {self.headers} {self.body[:300]!r}>"


def _command_line(pid: int) -> str:
    """Empty if the process no longer exists."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def has_exited(pid: int) -> bool:
    """Whether the process has exited, even if its parent has not reaped it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return True


@contextlib.contextmanager
def suspended(*pids: int) -> Iterator[None]:
    """Suspend processes with SIGSTOP: they and their sockets exist, but they do nothing."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


ACTIVATED = """
import fcntl, os, sys
given = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in sys.argv[1].split(",")]
for number, fd in enumerate(given):
    os.dup2(fd, 3 + number)
os.environ |= {"LISTEN_FDS": str(len(given)), "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "a:b"}
os.execv(sys.executable, [sys.executable, "-m", "keyfront", *sys.argv[2:]])
"""
"""Starts Keyfront as systemd does, with sockets that are already listening."""


class Up:
    """`keyfront up` as a child process. Use it as a context manager, or call `start`, `stop`, `kill`. With `feed`, it
    runs only edges, which follow the installation with that data folder; with `enrolled`, they follow over HTTPS.

    :param host: the address to listen on.
    :param within: words before the command, such as those that run it in a network namespace.
    :param sockets: listening sockets that are passed, at the first start, as systemd passes them.
    :param environment: environment variables that it gets in addition.
    """

    def __init__(
        self,
        data: Path,
        *,
        workers: int = 2,
        options: tuple[str, ...] = (),
        feed: Path | None = None,
        enrolled: bool = False,
        host: str = "127.0.0.1",
        within: Sequence[str] = (),
        sockets: Sequence[socket.socket] = (),
        environment: Mapping[str, str] = {},
    ) -> None:
        self.data = data
        self.enrolled = enrolled
        self.feed = feed
        self.workers = workers
        self.options = options
        self.host = host
        self.within = within
        self._sockets = sockets
        self._environment = environment
        self.edge_port = 0
        self.control_port = 0
        self.tls_port = 0
        self.shield_port = 0
        self.metrics_port = 0
        self.log: list[str] = []
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> Up:
        fds = [each.fileno() for each in self._sockets]
        program = ["-c", ACTIVATED, ",".join(map(str, fds))] if fds else ["-m", "keyfront"]
        argv = [*self.within, sys.executable, *program, "up", "--data", str(self.data)]
        argv += ["--edge", f"{self.host}:{self.edge_port}"]
        if self.enrolled:
            pass
        elif self.feed is None:
            argv += ["--control", f"{self.host}:{self.control_port}"]
        else:
            argv += ["--feed", str(self.feed)]
        if self.workers:  # otherwise, the configuration file or the default counts
            argv += ["--workers", str(self.workers)]
        argv += self.options
        self._process = subprocess.Popen(
            argv,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            pass_fds=fds,
            env={**os.environ, **self._environment},
        )
        self._sockets = ()
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.log.append(line)
            if line.startswith("keyfront ready"):
                break
        else:
            self._process.wait(10)
            raise AssertionError("".join(self.log))
        ports = dict(word.split("=", 1) for word in self.log[-1].split() if "=" in word)
        self.edge_port = int(ports["edge"].rpartition(":")[2])
        self.control_port = int(ports.get("control", ":0").rpartition(":")[2])
        self.tls_port = int(ports.get("tls", ":0").rpartition(":")[2])
        self.shield_port = int(ports.get("shield", ":0").rpartition(":")[2])
        self.metrics_port = int(ports.get("metrics", ":0").rpartition(":")[2].partition("/")[0])
        threading.Thread(target=self._drain, args=(self._process.stdout,), daemon=True).start()
        return self

    def _drain(self, stream: Any) -> None:
        self.log.extend(stream)

    def stop(self) -> int:
        """Send SIGTERM, wait, and return the exit status."""
        self.end()
        return self.ended()

    def end(self) -> None:
        """Send SIGTERM without waiting."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def ended(self) -> int:
        """Wait for the process to exit, and return its exit status."""
        assert self._process is not None
        return self._process.wait(PATIENCE)

    def kill(self, *, children: bool = True) -> None:
        """Send SIGKILL to it and to every process that it started, and wait until they are gone, so that their sockets
        are closed."""
        assert self._process is not None
        with contextlib.ExitStack() as ended:
            for pid in [self._process.pid, *(self.children() if children else [])]:
                handle = os.pidfd_open(pid)
                ended.callback(os.close, handle)
                ended.callback(select.select, [handle], [], [])
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        self._process.wait(10)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def children(self) -> list[int]:
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def worker_pids(self) -> list[int]:
        return [pid for pid in self.children() if "edge-worker" in _command_line(pid)]

    def control_pid(self) -> int:
        (pid,) = [pid for pid in self.children() if "control-process" in _command_line(pid)]
        return pid

    def __enter__(self) -> Up:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self.stop()

    # -- as an operator ------------------------------------------------------------------------------------------

    @property
    def endpoint(self) -> str:
        return f"http://{self.host}:{self.control_port}"

    @property
    def environment(self) -> dict[str, str]:
        """An environment for client programs: the credentials of this installation and no others."""
        others = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        return {
            **others,
            "AWS_SHARED_CREDENTIALS_FILE": str(self.data / "credentials"),
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_PAGER": "",
        }

    def credentials(self) -> dict[str, str]:
        """The installation's own access key: `aws_access_key_id` and `aws_secret_access_key`."""
        lines = (self.data / "credentials").read_text().splitlines()
        words = {k.strip(): v.strip() for k, _, v in (line.partition("=") for line in lines) if v}
        return {name: words[name] for name in ("aws_access_key_id", "aws_secret_access_key")}

    def client(self) -> Any:
        """boto3's CloudFront client."""
        return boto3.client(
            "cloudfront",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            config=Config(retries={"max_attempts": 0}),
            **self.credentials(),
        )

    def create_distribution(
        self,
        origin_port: int,
        key_groups: Sequence[str] = (),
        *,
        paths: dict[str, list[str]] | None = None,
        reference: str = "",
    ) -> dict[str, Any]:
        """Create a distribution (see `distribution_config`), wait until every edge has it, and return it."""
        config = distribution_config(
            reference or str(time.time_ns()), origin_port, list(key_groups), paths=paths
        )
        made: dict[str, Any] = self.client().create_distribution(DistributionConfig=config)["Distribution"]
        self.deployed(made["Id"])
        return made

    def deployed(self, distribution_id: str, within: float = PATIENCE) -> float:
        """Wait until the distribution reads Deployed. Returns the seconds that it took."""
        client = self.client()
        began = time.monotonic()
        self.until(
            lambda: client.get_distribution(Id=distribution_id)["Distribution"]["Status"] == "Deployed",
            within,
        )
        return time.monotonic() - began

    def health(self) -> tuple[int, dict[str, Any]]:
        """The status and the body of `/healthz`."""
        found = self.control("/healthz")
        return found.status, json.loads(found.body)

    def well(self) -> None:
        """Wait until all processes run and report healthy. `/healthz` alone does not count a worker that is being
        replaced as a failure."""

        def all_run() -> bool:
            status, body = self.health()
            return status == 200 and all(edge["silent_seconds"] is not None for edge in body["edges"])

        self.until(all_run)

    @staticmethod
    def until(true: Callable[[], bool], within: float = PATIENCE) -> None:
        """Wait until the condition is true. It is checked less and less often, since a check may cost more than what it
        waits for."""
        ends = time.monotonic() + within
        pause = 0.02
        while not true():
            assert time.monotonic() < ends, "the condition did not become true in time"
            time.sleep(pause)
            pause = min(pause * 1.2, 0.2)

    # -- as a viewer ---------------------------------------------------------------------------------------------

    def get(
        self, host: str, target: str, headers: dict[str, str] | None = None, *, method: str = "GET"
    ) -> Answer:
        """One request on its own connection, with its target sent exactly as given."""
        return self._get(self.edge_port, host, target, headers, method)

    def metrics(self, *, control: bool = False) -> dict[str, float]:
        """The samples of the port for metrics, or of the control port, by name with labels."""
        port = self.control_port if control else self.metrics_port
        answer = self._get(port, f"{self.host}:{port}", "/metrics")
        assert answer.status == 200, answer
        lines = (line for line in answer.body.decode().splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def control(self, target: str) -> Answer:
        """The control port's answer to one unsigned GET, such as `/healthz`."""
        return self._get(self.control_port, f"{self.host}:{self.control_port}", target)

    def _get(
        self, port: int, host: str, target: str, headers: dict[str, str] | None = None, method: str = "GET"
    ) -> Answer:
        connection = http.client.HTTPConnection(self.host, port, timeout=PATIENCE)
        try:
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            connection.putheader("Host", host)
            for name, value in (headers or {}).items():
                connection.putheader(name, value)
            connection.endheaders()
            answer = connection.getresponse()
            return Answer(answer.status, answer.getheaders(), answer.read())
        finally:
            connection.close()

    def records(self) -> Iterator[dict[str, Any]]:
        for line in (self.data / "logs" / "access.jsonl").read_text().splitlines():
            yield json.loads(line)


def distribution_config(
    reference: str, origin_port: int, key_groups: list[str], *, paths: dict[str, list[str]] | None = None
) -> dict[str, Any]:
    """A distribution in front of an application server on this machine. The default behavior trusts `key_groups`;
    `paths` maps path patterns to the groups trusted there."""

    def behavior(groups: list[str]) -> dict[str, Any]:
        return {
            "TargetOriginId": "app",
            "ViewerProtocolPolicy": "allow-all",
            "CachePolicyId": "658327ea-f89d-4fab-a63d-7e88639e58f6",
            "TrustedKeyGroups": {"Enabled": bool(groups), "Quantity": len(groups), "Items": groups}
            if groups
            else {"Enabled": False, "Quantity": 0},
        }

    ordered = [{"PathPattern": path, **behavior(groups)} for path, groups in (paths or {}).items()]
    return {
        "CallerReference": reference,
        "Comment": "",
        "Enabled": True,
        "Origins": {
            "Quantity": 1,
            "Items": [
                {
                    "Id": "app",
                    "DomainName": "127.0.0.1",
                    "CustomOriginConfig": {
                        "HTTPPort": origin_port,
                        "HTTPSPort": 443,
                        "OriginProtocolPolicy": "http-only",
                    },
                }
            ],
        },
        "DefaultCacheBehavior": behavior(key_groups),
        "CacheBehaviors": {"Quantity": len(ordered), "Items": ordered} if ordered else {"Quantity": 0},
    }
