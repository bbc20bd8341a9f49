"""Hooks: the syntax of their file, and what programs and services receive before and after a step."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from keyfront.errors import SettingsError
from keyfront.lifecycle.events import RotationEvent
from keyfront.lifecycle.hooks import STEPS, Hook, HookFailed, Hooks, parse_hooks, read_hooks
from keyfront.lifecycle.outgoing import SIGNATURE
from tests.rows import rows

EVENT = RotationEvent(
    "before", 1_800_000_000.5, "films", "G1", "switch", key="films-2", key_pair_id="K2", reason="due"
)
SECRET = b"a secret of the operator's"


# ---- the file


def hooks(text: str) -> tuple[Hook, ...]:
    return parse_hooks(text.encode())


def test_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET + b"\n")
    secret.chmod(0o600)
    file = tmp_path / "hooks.toml"
    file.write_text(
        f"""
        [[hook]]
        when = "before"
        groups = ["films", "photos-*"]
        steps = ["switch", "re*"]
        command = ["/bin/sh", "-c", "exit 0"]
        environment = ["OPS_TOKEN"]
        timeout = 5
        retries = 0

        [[hook]]
        webhook = "https://ops.example.com/keyfront?a=1"
        secret-file = "{secret}"
        """
    )
    file.chmod(0o644)
    one, other = read_hooks(file)
    assert one == Hook(
        ("before",), ("films", "photos-*"), ("switch", "re*"), ("/bin/sh", "-c", "exit 0"), ("OPS_TOKEN",),
        timeout=5, retries=0,
    )  # fmt: skip
    assert (other.when, other.groups, other.steps) == (("after",), ("*",), ("*",))
    assert other.name == "https://ops.example.com"
    assert hooks("") == ()


@rows(
    ("text", "why"),
    [
        ("hook = 3", "array"),
        ("[[hook]", "Expected"),
        ("[[hooks]]", "unknown field `hooks`"),
        ('[[hook]]\ncommand = "/bin/true"', "array"),
        ('[[hook]]\ncomand = ["/bin/true"]', "unknown field `comand`"),
        ("[[hook]]", "a command or a webhook"),
        ('[[hook]]\ncommand = ["/bin/true"]\nwebhook = "https://a.test/"', "not both"),
        ('[[hook]]\ncommand = ["true"]', "not an absolute path"),
        ('[[hook]]\ncommand = ["/bin/there-is-none"]', "not a program"),
        ('[[hook]]\ncommand = ["/bin/sh", "a\\u0000b"]', "no NUL"),
        ('[[hook]]\ncommand = ["/bin/sh"]\nsecret-file = "/x"', "for webhooks"),
        ('[[hook]]\ncommand = ["/bin/sh"]\nwhen = "during"', "'during'"),
        ('[[hook]]\ncommand = ["/bin/sh"]\nwhen = []', "never be called"),
        ('[[hook]]\ncommand = ["/bin/sh"]\nsteps = ["swich"]', "no step 'swich'"),
        ('[[hook]]\ncommand = ["/bin/sh"]\ntimeout = 0', "timeout"),
        ('[[hook]]\ncommand = ["/bin/sh"]\ntimeout = 601', "timeout"),
        ('[[hook]]\ncommand = ["/bin/sh"]\nretries = 11', "retries"),
        ('[[hook]]\nwebhook = "ftp://a.test/"', "not an http or https URL"),
        ('[[hook]]\nwebhook = "https:///x"', "not an http or https URL"),
        ('[[hook]]\nwebhook = "https://a.test/a b"', "not an http or https URL"),
        ('[[hook]]\nwebhook = "https://a.test:x/"', "not a URL"),
        ('[[hook]]\nwebhook = "https://me:pass@a.test/"', "no password"),
        ('[[hook]]\nwebhook = "http://a.test/"', "needs a secret-file"),
        ('[[hook]]\nwebhook = "https://a.test/"\nsecret-file = "/there/is/none"', "No such file"),
        ('[[hook]]\nwebhook = "https://a.test/"\nenvironment = ["A"]', "for commands"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, why: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(why)):
        hooks(text)


def test_a_file_that_others_may_change_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "hooks.toml"
    file.write_text("")
    for mode in (0o660, 0o602, 0o666):
        file.chmod(mode)
        with pytest.raises(SettingsError, match="others may change"):
            read_hooks(file)
    file.chmod(0o600)
    assert read_hooks(file) == ()
    if os.geteuid() == 0:
        os.chown(file, 12345, -1)
        with pytest.raises(SettingsError, match="belongs to another user"):
            read_hooks(file)
    with pytest.raises(SettingsError, match="cannot be read"):
        read_hooks(tmp_path / "none")
    file = tmp_path / "binary"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError):
        read_hooks(file)


@pytest.mark.parametrize(
    ("mode", "content", "why"), [(0o640, SECRET, "others may read"), (0o600, b"short", "no secret")]
)
def test_a_secret_that_is_none(tmp_path: Path, mode: int, content: bytes, why: str) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(content)
    secret.chmod(mode)
    with pytest.raises(SettingsError, match=why):
        hooks(f'[[hook]]\nwebhook = "http://a.test/"\nsecret-file = "{secret}"')


def test_the_page_lists_the_steps() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "hooks.md").read_text()
    for step in STEPS:
        assert f"`{step}`" in page


# ---- which hooks apply


@rows(
    ("hook", "concerns"),
    [
        (Hook(when=("before",)), True),
        (Hook(), False),
        (Hook(when=("before", "after")), True),
        (Hook(when=("before",), groups=("films",)), True),
        (Hook(when=("before",), groups=("photos-*",)), False),
        (Hook(when=("before",), groups=("f?lms",), steps=("create", "sw*")), True),
        (Hook(when=("before",), steps=("create",)), False),
    ],
)
def test_whom_it_concerns(hook: Hook, concerns: bool) -> None:
    assert hook.matches(EVENT) is concerns


# ---- commands


def shell(script: str, **more: Any) -> Hook:
    return Hook(when=("before", "after"), command=("/bin/sh", "-c", script), **({"retries": 0} | more))


def test_a_command_is_told(tmp_path: Path) -> None:
    out = tmp_path / "out"
    hook = shell(f'cat > {out}; env | sort > {out}.env; echo "$0"', environment=("OPS_TOKEN",))
    environment = {
        "PATH": os.environ["PATH"],
        "OPS_TOKEN": "x",
        "KEYFRONT_CUSTODY_PASSPHRASE": "secret",
        "PGPASSWORD": "secret",
    }
    Hooks([hook], environment).on_event(EVENT)
    assert msgspec.json.decode(out.read_bytes(), type=RotationEvent) == EVENT
    variables = dict(line.split("=", 1) for line in (tmp_path / "out.env").read_text().splitlines())
    assert "secret" not in variables.values()
    assert variables["OPS_TOKEN"] == "x"
    assert {
        name: variables[f"KEYFRONT_{name}"] for name in ("MOMENT", "GROUP", "ACTION", "KEY_PAIR_ID", "AT")
    } == {
        "MOMENT": "before",
        "GROUP": "films",
        "ACTION": "switch",
        "KEY_PAIR_ID": "K2",
        "AT": "1800000000.5",
    }


def test_who_fails_before_a_step_stops_it(tmp_path: Path) -> None:
    later = tmp_path / "later"
    chain = Hooks([shell("echo first >&2; echo not today >&2; exit 3"), shell(f"touch {later}")])
    with pytest.raises(HookFailed, match=r"/bin/sh: exit status 3: not today$"):
        chain.on_event(EVENT)
    assert not later.exists()


def test_who_fails_after_a_step_is_told_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    later = tmp_path / "later"
    with caplog.at_level(logging.ERROR):
        Hooks([shell("exit 1"), shell(f"touch {later}")]).on_event(
            msgspec.structs.replace(EVENT, moment="after")
        )
    assert "after switch of films failed" in caplog.text
    assert later.exists()


def test_a_command_that_does_not_end_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    hook = shell(f"sleep 600 & echo $! > {pid}.new; mv {pid}.new {pid}; wait", timeout=0.5)
    with pytest.raises(HookFailed, match=r"did not end within 0.5 seconds"):
        Hooks([hook]).on_event(EVENT)
    number = int(pid.read_text())
    for _ in range(200):
        state = Path(f"/proc/{number}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.01)
    else:
        os.kill(number, signal.SIGKILL)
        pytest.fail("it lives on")


def test_what_a_command_leaves_behind_holds_up_nobody() -> None:
    Hooks([shell("sleep 3 & exit 0", timeout=2)]).on_event(EVENT)


def test_a_command_that_reads_nothing_and_says_much() -> None:
    Hooks([shell("head -c 3000000 /dev/zero >&2; head -c 3000000 /dev/zero; exit 0")]).on_event(EVENT)
    long = msgspec.structs.replace(EVENT, error="x" * 1_000_000)
    Hooks([shell("exit 0")]).on_event(long)


def test_another_attempt_helps(tmp_path: Path) -> None:
    once = tmp_path / "once"
    Hooks([shell(f"test -e {once} || {{ touch {once}; exit 1; }}", retries=1)]).on_event(EVENT)


def test_at_the_end_nobody_waits_for_hooks() -> None:
    stopping = threading.Event()
    threading.Timer(0.2, stopping.set).start()
    with pytest.raises(HookFailed, match="Keyfront is ending"):
        Hooks([shell("sleep 60", retries=5, timeout=60)], stopping=stopping).on_event(EVENT)


# ---- webhooks


class Receiver:
    """A server that answers as configured, and records what it received."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                status = receiver.answers.pop(0) if receiver.answers else 204
                if status == 0:
                    receiver.hold.wait(20)
                    return
                if status < 0:  # byte by byte, and never to the end
                    with contextlib.suppress(OSError):
                        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
                        while not receiver.hold.wait(0.05):
                            self.wfile.write(b"a")
                    return
                self.send_response(status)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.hold = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/hook?x=1"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.hold.set()
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(SECRET + b"\n")
    path.chmod(0o600)
    return path


def webhook(receiver: Receiver, secret: Path, **more: Any) -> Hook:
    return Hook(when=("before",), webhook=receiver.url, secret_file=str(secret), **({"retries": 0} | more))


def test_a_webhook_is_told_and_can_tell_who_tells_it(receiver: Receiver, secret: Path) -> None:
    Hooks([webhook(receiver, secret)], clock=lambda: 1234.9).on_event(EVENT)
    ((path, headers, body),) = receiver.got
    assert path == "/hook?x=1"
    assert headers["content-type"] == "application/json"
    assert msgspec.json.decode(body, type=RotationEvent) == EVENT
    assert json.loads(body)["moment"] == "before"
    digest = hmac.new(SECRET, b"1234." + body, hashlib.sha256).hexdigest()
    assert headers[SIGNATURE.lower()] == f"t=1234,v1={digest}"


def test_another_attempt_is_the_same_delivery(receiver: Receiver, secret: Path) -> None:
    receiver.answers = [500, 204]
    Hooks([webhook(receiver, secret, retries=1)]).on_event(EVENT)
    first, second = receiver.got
    assert first[1]["keyfront-delivery"] == second[1]["keyfront-delivery"]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (500, "the response is 500"),
        (302, "the response is 302"),
        (0, "no answer within"),
        (-1, "no answer within"),
    ],
)
def test_a_webhook_that_fails_stops_the_step(receiver: Receiver, secret: Path, answer: int, why: str) -> None:
    receiver.answers = [answer]
    with pytest.raises(HookFailed, match=why):
        Hooks([webhook(receiver, secret, timeout=0.5)]).on_event(EVENT)
    assert [path for path, _, _ in receiver.got] == ["/hook?x=1"]


def test_who_ends_waits_for_no_webhook(receiver: Receiver, secret: Path) -> None:
    receiver.answers = [-1]
    stopping = threading.Event()
    threading.Timer(0.2, stopping.set).start()
    with pytest.raises(HookFailed, match="Keyfront is ending"):
        Hooks([webhook(receiver, secret, timeout=60.0)], {}, stopping).on_event(EVENT)


def test_nobody_listens(receiver: Receiver, secret: Path) -> None:
    hook = webhook(receiver, secret)
    receiver.server.shutdown()
    receiver.server.server_close()
    with pytest.raises(HookFailed, match=r"127\.0\.0\.1"):
        Hooks([hook]).on_event(EVENT)


def test_a_secret_that_others_may_read_by_now_is_not_used(receiver: Receiver, secret: Path) -> None:
    hook = webhook(receiver, secret)
    secret.chmod(0o644)
    with pytest.raises(HookFailed, match="others may read"):
        Hooks([hook]).on_event(EVENT)
    assert receiver.got == []


def test_in_an_emergency_each_is_called_once_and_none_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("keyfront.lifecycle.hooks.URGENT", 0.3)
    calls = tmp_path / "calls"
    slow = Hook(
        ("before", "after"),
        command=("/bin/sh", "-c", f"echo >> {calls}; exec sleep 600"),
        timeout=600,
        retries=9,
    )
    never = Hook(("before",), command=("/bin/sh", "-c", f"echo >> {calls}"))
    event = msgspec.structs.replace(EVENT, urgent=True)
    with caplog.at_level(logging.ERROR):
        Hooks((slow, never)).on_event(event)
    assert calls.read_text() == "\n"
    assert "did not end within" in caplog.text
    assert "an emergency does not wait for it" in caplog.text
