"""The agent as a process, and its clients: callers that are and are not allowed, garbage, kill -9, a switch under
load."""

from __future__ import annotations

import functools
import http.client
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from keyfront.custody import open_place, open_records
from keyfront.custody.agent import signing
from keyfront.custody.agent.audit import Audit
from keyfront.custody.agent.authorization import Caller, Rule, Rules
from keyfront.custody.agent.server import MOST_EACH, bind_unix, peer_of
from keyfront.custody.key_record import Entry, KeyGroupRecord, RotationPolicy, Stage, load, save
from keyfront.custody.signers.agent_client import AgentSigner, address_of
from keyfront.custody.signers.agent_protocol import SignRequest
from keyfront.custody.signers.key_group_signer import signer_for
from keyfront.errors import CustodyError, CustodyUnavailable, PolicyError, SigningError
from keyfront.signing.keys import PublicKey
from keyfront.signing.policy import canned_policy
from keyfront.signing.sign import sign_cookies, sign_url
from keyfront.signing.verify import KeyRing
from tests.custody.groups import NOW, Group
from tests.custody.memory import MemoryPlace
from tests.rows import rows
from tests.signing.harness import reason

URL = "https://cdn.test/films/1.mp4"
TOKEN = "b7" * 32

RULES = f"""
[[allow]]
user = {os.getuid()}
key_groups = ["films", "rsa", "lost", "switch"]

[[allow]]
user = {os.getuid()}
key_groups = ["bounded"]
resources = ["https://cdn.test/films/*", "https://cdn.test/exact"]

[[allow]]
user = {os.getuid() + 1}
key_groups = ["*"]
"""


class Harness:
    """A custody in a folder, with the records of key groups whose keys are generated when first named."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records = f"file:{folder}/keys/"
        self.place = open_place(self.records)
        self.public: dict[str, PublicKey] = {}

    def sign_with(self, group: str, name: str, algorithm: str = "ECDSA-P256") -> None:
        """From now on `name` signs for `group`, and the previous key drains."""
        now = time.time()
        made = self.place.create(name, algorithm, now=now)  # type: ignore[arg-type]
        self.public[f"ID{name}"] = made.public_key
        records = open_records(self.records)
        loaded = load(records, group)
        entries = [
            msgspec.structs.replace(entry, stage=Stage.DRAINING, draining=now, drain_until=now + 99)
            for entry in (loaded.record.entries if loaded else ())
        ]
        entries.append(Entry(made.uri, Stage.SIGNING, now, f"ID{name}", published=now, signing=now))
        terms = RotationPolicy(
            self.records, max_lifetime=3600.0, max_staleness=0.6
        )  # it polls every 0.2 seconds
        serial = loaded.record.serial if loaded else 0
        save(
            records,
            KeyGroupRecord(group, "kg", terms, tuple(entries), serial),
            loaded and loaded.version,
            now=now,
        )

    def verdict(self, url: str) -> str:
        return reason(url, keys=KeyRing(self.public), now=time.time())


class Agent:
    """`keyfront agent` as a child process."""

    def __init__(self, harness: Harness, *options: str) -> None:
        self.harness = harness
        self.options = options
        self.log = harness.folder / "audit.jsonl"
        self.address = ""

    def start(self) -> Agent:
        """Start it under a service manager, which is told when it is ready."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(address := str(self.harness.folder / f"notify-{time.monotonic_ns()}"))
            self._start({**os.environ, "NOTIFY_SOCKET": address})
            manager.settimeout(20)
            assert manager.recv(100) == b"READY=1"
        return self

    def _start(self, environment: dict[str, str]) -> None:
        argv = [sys.executable, "-m", "keyfront", "agent", "--records", self.harness.records]
        argv += ["--audit-file", str(self.log), *self.options]
        self.process = subprocess.Popen(
            argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.startswith("keyfront agent ready "):
            raise RuntimeError(line + self.process.communicate(timeout=10)[1])
        self.address = line.split()[-1]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        self.process.communicate(timeout=20)
        return self.process.returncode

    @property
    def audit(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def __enter__(self) -> Agent:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Harness:
    harness = Harness(tmp_path_factory.mktemp("agent"))
    harness.sign_with("films", "FILMS")
    harness.sign_with("rsa", "RSA", "RSA-2048")
    harness.sign_with("bounded", "BOUNDED")
    return harness


@pytest.fixture(scope="module")
def agent(harness: Harness) -> Iterator[Agent]:
    rules = harness.folder / "access.toml"
    rules.write_text(RULES)
    with Agent(harness, "--socket", str(harness.folder / "agent.sock"), "--access", str(rules)) as agent:
        yield agent


@pytest.fixture(scope="module")
def tokened(harness: Harness) -> Iterator[Agent]:
    tokens = harness.folder / "tokens"
    tokens.write_text(f"# who asks\nbilling {TOKEN}\n\nother {'c8' * 32}\n")
    tokens.chmod(0o600)
    (harness.folder / "billing").write_text(f"billing {TOKEN}\n")
    (harness.folder / "billing").chmod(0o600)
    options = ("--listen", "127.0.0.1:0", "--tokens", str(tokens), "--allow", "token:billing=films,rsa")
    with Agent(harness, *options) as agent:
        yield agent


class Client:
    """One connection to an agent, and its latest answer."""

    def __init__(self, agent: Agent, token: str | None = None) -> None:
        self.headers = {"Content-Type": "application/json"}
        if token is not None:
            self.headers["Authorization"] = f"Bearer {token}"
        address = agent.address
        if address.startswith("unix:"):
            self.connection = http.client.HTTPConnection("agent", timeout=10)
            self.connection.sock = socket.socket(socket.AF_UNIX)
            self.connection.sock.settimeout(10)
            self.connection.sock.connect(address.removeprefix("unix:"))
        else:
            self.connection = http.client.HTTPConnection(
                "127.0.0.1", int(address.rpartition(":")[2]), timeout=10
            )

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
        data = body if isinstance(body, bytes | str) else json.dumps(body)
        self.connection.request("POST", path, data, {**self.headers, **headers})
        answer = self.connection.getresponse()
        return answer.status, json.loads(answer.read())


def policy(resource: str = URL, lifetime: int = 600) -> str:
    return canned_policy(resource, str(int(time.time()) + lifetime)).decode()


# ---- signing


@pytest.mark.parametrize("group", ["films", "rsa"])
def test_an_application_signs_without_a_key(harness: Harness, agent: Agent, group: str) -> None:
    signer = signer_for(group, agent=agent.address)
    assert signer is signer_for(group, agent=agent.address)
    assert signer.key_pair_id == f"ID{group.upper()}"
    soon = int(time.time()) + 600
    assert harness.verdict(sign_url(URL, signer, expires=soon)) == "granted"
    assert (
        harness.verdict(sign_url(URL, signer, expires=soon, starts=soon - 3600, hash_name="SHA1"))
        == "granted"
    )
    cookies = sign_cookies("https://cdn.test/*", signer, expires=soon, hash_name="SHA256")
    assert reason(URL, cookies.header, keys=KeyRing(harness.public), now=time.time()) == "granted"
    entry = agent.audit[-1]
    assert entry["signed"] == signer.key_pair_id
    assert (entry["caller"], entry["pid"]) == (f"uid:{os.getuid()}", os.getpid())
    assert (entry["key_group"], entry["resource"], entry["expires"]) == (
        group,
        "https://cdn.test/*",
        soon,
    )
    assert cookies.values["CloudFront-Signature"] not in agent.log.read_text()


def test_by_token(harness: Harness, tokened: Agent) -> None:
    address = f"{tokened.address}?token-file={harness.folder}/billing"
    signer = signer_for("films", agent=address)
    assert harness.verdict(sign_url(URL, signer, expires=int(time.time()) + 60)) == "granted"
    assert tokened.audit[-1]["caller"] == "token:billing"
    with pytest.raises(CustodyError, match="token:billing may not sign for key group 'bounded'"):
        signer_for("bounded", agent=address).refresh()


def test_a_hash_of_ones_own(harness: Harness, agent: Agent) -> None:
    for hash_name, named in (("SHA1", False), ("SHA256", True)):
        for group in ("films", "rsa"):
            signer = signer_for(group, agent=agent.address, hash_name=hash_name)  # type: ignore[arg-type]
            url = sign_url(URL, signer, expires=int(time.time()) + 60)
            assert ("Hash-Algorithm=SHA256" in url) is named
            assert harness.verdict(url) == "granted"


def test_by_the_environment(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYFRONT_AGENT", agent.address)
    assert isinstance(signer_for("films"), AgentSigner)
    assert not isinstance(signer_for("films", records="file:/nowhere/"), AgentSigner)


def test_whole_urls_and_cookies_for_those_who_have_no_sdk(harness: Harness, agent: Agent) -> None:
    client = Client(agent)
    status, answer = client.post(
        "/v1/url", {"key_group": "films", "url": "https://cdn.test/a b.jpg", "lifetime": 60}
    )
    assert status == 200
    assert harness.verdict(answer["url"]) == "granted"
    status, answer = client.post(
        "/v1/cookies",
        {"key_group": "rsa", "resource": "https://cdn.test/*", "lifetime": 60, "hash": "SHA256"},
    )
    assert status == 200
    header = "; ".join(f"{name}={value}" for name, value in answer["cookies"].items())
    assert reason(URL, header, keys=KeyRing(harness.public), now=time.time()) == "granted"


def test_from_a_shell(harness: Harness, agent: Agent) -> None:
    """The example in docs/reference/agent.md."""
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("there is no curl")
    path = agent.address.removeprefix("unix:")
    body = '{"key_group": "films", "url": "https://cdn.test/films/1.mp4", "lifetime": 600}'
    argv = [curl, "-sS", "--fail", "--unix-socket", path, "http://agent/v1/url", "--json", body]
    answer = json.loads(subprocess.run(argv, check=True, capture_output=True, timeout=20).stdout)
    assert harness.verdict(answer["url"]) == "granted"


def test_a_ready_made_query(harness: Harness, agent: Agent) -> None:
    expires = int(time.time()) + 60
    text = canned_policy(URL, str(expires)).decode()
    status, answer = Client(agent).post("/v1/sign", {"key_group": "films", "policy": text})
    assert status == 200
    assert harness.verdict(f"{URL}?Expires={expires}&{answer['parameters']}") == "granted"


# ---- refusals

SIGN = "/v1/sign"


def _doubled() -> str:
    return policy(URL).replace('"Condition"', '"Resource":"https://cdn.test/other","Condition"')


REFUSED: dict[str, tuple[str, Callable[[], Any], int, str]] = {
    "a group of others": (SIGN, lambda: {"key_group": "photos", "policy": policy()}, 403, "NotAllowed"),
    "a group that is not there": (
        SIGN,
        lambda: {"key_group": "lost", "policy": policy()},
        502,
        "CustodyRefused",
    ),
    "beyond its bounds": (
        SIGN,
        lambda: {"key_group": "bounded", "policy": policy("https://cdn.test/secret")},
        403,
        "NotAllowed",
    ),
    "everything": (
        "/v1/cookies",
        lambda: {"key_group": "bounded", "resource": "https://cdn.test/*", "lifetime": 9},
        403,
        "NotAllowed",
    ),
    "round the corner": (
        SIGN,
        lambda: {"key_group": "bounded", "policy": policy("https://cdn.test/films/%2e%2e/secret")},
        403,
        "NotAllowed",
    ),
    "for too long": (
        SIGN,
        lambda: {"key_group": "films", "policy": policy(lifetime=3700)},
        400,
        "PolicyRefused",
    ),
    "no policy": (SIGN, lambda: {"key_group": "films", "policy": "sign this"}, 400, "PolicyRefused"),
    "a member twice": (SIGN, lambda: {"key_group": "films", "policy": _doubled()}, 400, "PolicyRefused"),
    "an unknown member": (
        SIGN,
        lambda: {
            "key_group": "films",
            "policy": policy().replace('"Condition"', '"Effect":"Allow","Condition"'),
        },
        400,
        "PolicyRefused",
    ),
    "two statements": (
        SIGN,
        lambda: {
            "key_group": "films",
            "policy": policy().replace("]}", "," + policy().removeprefix('{"Statement":[')),
        },
        400,
        "PolicyRefused",
    ),
    "another key": (
        SIGN,
        lambda: {"key_group": "films", "policy": policy(), "key_pair_id": "IDOTHER"},
        409,
        "KeyChanged",
    ),
    "an unknown hash": (
        SIGN,
        lambda: {"key_group": "films", "policy": policy(), "hash": "MD5"},
        400,
        "Malformed",
    ),
    "a URL that cannot be sent": (
        "/v1/url",
        lambda: {"key_group": "films", "url": "https://cdn.test/../x", "lifetime": 9},
        400,
        "SigningRefused",
    ),
    "both ends": (
        "/v1/url",
        lambda: {"key_group": "films", "url": URL, "lifetime": 9, "expires": 2_000_000_000},
        400,
        "PolicyRefused",
    ),
    **{
        f"{name} of {length} digits at {path}": (
            path,
            functools.partial(
                dict[str, object],
                {
                    "key_group": "films",
                    **({"url": URL} if path == "/v1/url" else {"resource": "https://cdn.test/*"}),
                    **({"lifetime": 9} if name == "starts" else {}),
                    name: 10**length,
                },
            ),
            400,
            "Malformed",
        )
        for path in ("/v1/url", "/v1/cookies")
        for name in ("lifetime", "expires", "starts")
        for length in (10, 400)
    },
    "a lifetime below zero": (
        "/v1/url",
        lambda: {"key_group": "films", "url": URL, "lifetime": -1},
        400,
        "Malformed",
    ),
    "no JSON": (SIGN, lambda: b"\xff\xfe{", 400, "Malformed"),
    "a surrogate": (SIGN, lambda: b'{"key_group":"\\ud800","policy":""}', 400, "Malformed"),
    "an unknown wish": (SIGN, lambda: {"key_group": "films", "policy": policy(), "x": 1}, 400, "Malformed"),
    "deep": (SIGN, lambda: b'{"key_group":' + b"[" * 9000, 400, "Malformed"),
    "too long": (SIGN, lambda: b" " * 20_000, 413, "TooLarge"),
    "elsewhere": ("/v2/sign", dict, 404, "NotFound"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(agent: Agent, name: str) -> None:
    path, body, status, error = REFUSED[name]
    found, answer = Client(agent).post(path, body())
    assert (found, answer["error"]) == (status, error), answer


def test_within_its_bounds(harness: Harness, agent: Agent) -> None:
    client = Client(agent)
    for url in (URL, "https://cdn.test/films/", "https://cdn.test/exact"):
        status, answer = client.post("/v1/url", {"key_group": "bounded", "url": url, "lifetime": 60})
        assert status == 200
        assert harness.verdict(answer["url"]) == "granted"


def test_refusals_are_recorded_one_a_second(agent: Agent) -> None:
    client = Client(agent)
    before = len(agent.audit)
    started = time.time()
    for _ in range(50):
        client.post(SIGN, {"key_group": "photos", "policy": policy()})
    entries = agent.audit[before:]
    assert len(entries) <= time.time() - started + 2
    assert all(line["caller"] == f"uid:{os.getuid()}" for line in entries)


@pytest.mark.parametrize("token", [None, "", "b7" * 31, "B7" * 32, TOKEN + "0", "é"])
def test_without_a_token(tokened: Agent, token: str | None) -> None:
    status, answer = Client(tokened, token and token.encode().decode("latin-1")).post(
        SIGN, {"key_group": "films", "policy": policy()}
    )
    assert (status, answer["error"]) == (401, "NotAllowed")


def test_a_token_that_no_rule_names(tokened: Agent) -> None:
    assert Client(tokened, "c8" * 32).post(SIGN, {"key_group": "films", "policy": policy()})[0] == 403


def test_what_is_no_http_ends_the_connection_and_not_the_agent(agent: Agent) -> None:
    path = agent.address.removeprefix("unix:")
    for garbage in (
        b"\0" * 100,
        b"GET\r\n\r\n",
        b"POST /v1/sign HTTP/1.1\r\nA: " + b"x" * 70_000,
        b"\x16\x03\x01\x02",
    ):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(path)
            sock.sendall(garbage)
            sock.shutdown(socket.SHUT_WR)
            try:
                assert sock.recv(100).startswith((b"HTTP/1.1 400", b""))
            except ConnectionResetError:
                pass
    assert Client(agent).post("/v1/key", {"key_group": "films"})[0] == 200


def test_nobody_takes_all_connections(agent: Agent) -> None:
    held = []
    try:
        for _ in range(MOST_EACH + 20):
            held.append(socket.socket(socket.AF_UNIX))
            held[-1].settimeout(10)
            held[-1].connect(agent.address.removeprefix("unix:"))
        assert held[-1].recv(1) == b"", "one too many is closed at once"
    finally:
        for sock in held:
            sock.close()
    for _ in range(200):  # until the agent has noticed that they are gone
        try:
            assert Client(agent).post("/v1/key", {"key_group": "films"})[0] == 200
            break
        except (ConnectionError, http.client.HTTPException):
            continue
    else:
        pytest.fail("the agent lets nobody in again")


def test_the_kernel_says_who_is_there() -> None:
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        caller = peer_of(one)
    assert caller is not None
    assert (caller.uid, caller.pid) == (os.getuid(), os.getpid())
    assert caller.gids == {os.getegid(), *os.getgroups()}


def test_rules_by_group(harness: Harness, tmp_path: Path) -> None:
    gid = os.getegid()
    absent = next(number for number in range(60_000, 61_000) if number not in {gid, *os.getgroups()})
    options = ("--allow", f"group:{gid}=films", "--allow", f"group:{absent}=rsa")
    with Agent(harness, "--socket", str(tmp_path / "s"), *options) as agent:
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o666
        client = Client(agent)
        assert client.post("/v1/key", {"key_group": "films"})[0] == 200
        assert client.post("/v1/key", {"key_group": "rsa"})[0] == 403


def test_other_methods(agent: Agent) -> None:
    client = Client(agent)
    client.connection.request("GET", SIGN)
    answer = client.connection.getresponse()
    assert answer.status == 405
    assert json.loads(answer.read())["error"] == "NotFound"
    assert (
        client.post(SIGN, {"key_group": "films", "policy": policy()}, **{"Content-Type": "text/plain"})[0]
        == 415
    )


def test_errors_reach_the_application_as_ours(agent: Agent) -> None:
    signer = signer_for("films", agent=agent.address)
    with pytest.raises(PolicyError, match="3600 at most"):
        sign_url(URL, signer, expires=int(time.time()) + 4000)
    with pytest.raises(PolicyError, match="refuses"):
        signer.sign(policy(lifetime=4000).encode(), "SHA256")
    with pytest.raises(SigningError, match="UTF-8"):
        signer.sign(b"\xff", "SHA256")
    with pytest.raises(CustodyError, match="may not sign"):
        signer_for("photos", agent=agent.address).refresh()
    with pytest.raises(CustodyError, match="may not grant"):
        sign_url(
            "https://cdn.test/x", signer_for("bounded", agent=agent.address), expires=int(time.time()) + 9
        )


# ---- the process


def test_under_load_a_switch_mixes_nothing(harness: Harness, agent: Agent) -> None:
    harness.sign_with("switch", "L0")
    signer = signer_for("switch", agent=agent.address)
    urls: list[list[str]] = [[] for _ in range(3)]
    ended = threading.Event()

    def sign_on(made: list[str]) -> None:
        while not ended.is_set():
            made.append(sign_url(URL, signer, expires=int(time.time()) + 60))

    threads = [threading.Thread(target=sign_on, args=(made,)) for made in urls]
    for thread in threads:
        thread.start()
    for name, algorithm in (("L1", "RSA-2048"), ("L2", "ECDSA-P256")):
        harness.sign_with("switch", name, algorithm)
        while not all(made and f"Key-Pair-Id=ID{name}" in made[-1] for made in urls):
            assert all(thread.is_alive() for thread in threads)
            ended.wait(0.01)
    ended.set()
    for thread in threads:
        thread.join()
    assert {harness.verdict(url) for made in urls for url in made} == {"granted"}


def test_kill_9_and_a_new_one_in_its_place(harness: Harness, tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    agent = Agent(harness, "--socket", str(path)).start()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    signer = AgentSigner("films", agent.address)
    assert harness.verdict(sign_url(URL, signer, expires=int(time.time()) + 60)) == "granted"
    with pytest.raises(CustodyError, match="an agent listens"):
        bind_unix(str(path), 0o600)
    agent.stop(signal.SIGKILL)
    assert path.exists()
    with pytest.raises(CustodyUnavailable, match="cannot be reached"):
        sign_url(URL, signer, expires=int(time.time()) + 60)
    with Agent(harness, "--socket", str(path), "--socket-mode", "0660") as second:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert harness.verdict(sign_url(URL, signer, expires=int(time.time()) + 60)) == "granted"
        assert second.stop() == 0
    assert not path.exists()


def test_what_cannot_be_recorded_is_not_signed() -> None:
    group = Group(MemoryPlace())
    group.sign_with("KA")
    caller = Caller(os.getuid())
    rules = Rules((Rule(uid=os.getuid()),))
    wanted = SignRequest("films", canned_policy(URL, str(int(NOW) + 60)).decode())
    for full in (False, True):
        audit = Audit("/dev/full" if full else "/dev/null")
        agent = signing.Agent(rules, lambda _: group.signer(), audit, clock=lambda: NOW)
        if full:
            with pytest.raises(CustodyUnavailable, match="could not be recorded"):
                agent.sign(caller, wanted)
        else:
            assert agent.sign(caller, wanted).key_pair_id == "KA"


def test_a_child_of_a_fork_asks_on_connections_of_its_own(harness: Harness, agent: Agent) -> None:
    signer = AgentSigner("films", agent.address)
    sign_url(URL, signer, expires=int(time.time()) + 60)
    child = os.fork()
    if child == 0:
        good = all(
            harness.verdict(sign_url(URL, signer, expires=int(time.time()) + 60 + number)) == "granted"
            for number in range(20)
        )
        os._exit(0 if good else 1)
    for number in range(20):
        assert harness.verdict(sign_url(URL, signer, expires=int(time.time()) + 60 + number)) == "granted"
    assert os.waitpid(child, 0)[1] == 0


WRONG_STARTS = {
    "neither": ((), "either --socket or --listen"),
    "both": (("--socket", "s", "--listen", "127.0.0.1:0"), "either --socket or --listen"),
    "all the world": (("--listen", "0.0.0.0:0", "--tokens", "TOKENS"), "127.0.0.1 or ::1"),
    "no tokens": (("--listen", "127.0.0.1:0"), "--listen requires --tokens"),
    "tokens that others may read": (("--listen", "127.0.0.1:0", "--tokens", "OPEN"), "others can read it"),
    "tokens that can be guessed": (("--listen", "127.0.0.1:0", "--tokens", "SHORT"), "can be guessed"),
    "a token that is not there": (
        ("--listen", "127.0.0.1:0", "--tokens", "TOKENS", "--allow", "token:x=films"),
        "does not contain",
    ),
    "a token on a socket": (("--socket", "s", "--allow", "token:a=films"), "tokens are for --listen"),
    "a user who is not there": (
        ("--socket", "s", "--allow", "user:nobody-at-all=films"),
        "is not known here",
    ),
    "a rule for no group": (("--socket", "s", "--allow", "user:0="), "names no key_groups"),
    "no rule": (("--socket", "s", "--allow", "root"), "is not a rule"),
    "bounds that bound nothing": (("--socket", "s", "--access", "ACCESS"), "bounds nothing"),
    "a misspelt rule": (("--socket", "s", "--access", "MISSPELT"), "cannot be read"),
    "a file in the way": (("--socket", "OPEN"), "is not a socket"),
    "not a place": (("--socket", "s", "--records", "nothing:/"), "is not a custody URI"),
}


@pytest.mark.parametrize("name", WRONG_STARTS)
def test_what_it_does_not_start_with(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process: it exits before it listens."""
    from keyfront.cli.main import main

    files = {
        "TOKENS": (f"a {TOKEN}\n", 0o600),
        "OPEN": (f"a {TOKEN}\n", 0o644),
        "SHORT": ("a short\n", 0o600),
        "ACCESS": ('[[allow]]\nuser = 0\nkey_groups = ["films"]\nresources = ["films/*"]\n', 0o600),
        "MISSPELT": ('[[allow]]\nuser = 0\nkeygroups = ["films"]\n', 0o600),
    }
    for file, (text, mode) in files.items():
        (tmp_path / file).write_text(text)
        (tmp_path / file).chmod(mode)
    options, message = WRONG_STARTS[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["keyfront", "agent", "--records", f"file:{tmp_path}/keys/", *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


@rows(
    "text",
    [
        "",
        "unix:",
        "unix:relative",
        "http://127.0.0.1:9",
        "http://10.0.0.1:9?token-file=/t",
        "http://localhost:9?token-file=/t",
    ]
    + [
        "https://127.0.0.1:9?token-file=/t",
        "http://127.0.0.1?token-file=/t",
        "http://127.0.0.1:9?token=secret",
    ],
)
def test_no_address_of_an_agent(text: str) -> None:
    with pytest.raises(CustodyError, match="not an agent's address"):
        address_of(text)


def test_a_token_that_others_may_read_is_not_used(tokened: Agent, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    signer = AgentSigner("films", f"{tokened.address}?token-file={file}")
    file.chmod(0o644)
    with pytest.raises(CustodyError, match="others may read it"):
        signer.refresh()
    file.chmod(0o600)
    signer.refresh()
    file.unlink()
    with pytest.raises(CustodyError, match="cannot be read"):
        signer.refresh()
