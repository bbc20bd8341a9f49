"""`python -m examples.gallery`: start Keyfront with the gallery behind it, and serve until Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import contextlib
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvicorn
from botocore.exceptions import ClientError
from starlette.applications import Starlette

from examples.gallery import app, provision, shelf

HOST = "127.0.0.1"


class DemoError(RuntimeError):
    """Something that the demo needs did not start, or stopped; the message says what."""


def main() -> int:
    options = _options()
    # Shut down cleanly on every stop signal; the main thread waits for this event below.
    stop = threading.Event()
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, lambda *_: stop.set())
    try:
        with contextlib.ExitStack() as harness:
            return _run(options, harness, stop)
    except (DemoError, OSError, ClientError) as error:
        print(f"The demo has to end: {error}", file=sys.stderr)
        return 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.gallery", description=__doc__)
    parser.add_argument(
        "--edge", default=None, metavar="HOST:PORT", help="where viewers come in (8080 or a free port)"
    )
    parser.add_argument(
        "--control", default=None, metavar="HOST:PORT", help="the control API (8081 or a free port)"
    )
    parser.add_argument(
        "--app-port", type=int, default=0, metavar="PORT", help="the application's own port (a free one)"
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=None,
        metavar="DIR",
        help="keep keys and state there (a temporary folder)",
    )
    return parser.parse_args()


def _run(options: argparse.Namespace, harness: contextlib.ExitStack, stop: threading.Event) -> int:
    if options.data is None:
        data = Path(harness.enter_context(tempfile.TemporaryDirectory(prefix="keyfront-demo-")))
    else:
        data = options.data.resolve()
        data.mkdir(parents=True, exist_ok=True)
    edge = _address(options.edge, 8080)
    control = _address(options.control, 8081)
    door = harness.enter_context(_listen(options.app_port))
    app_port = door.getsockname()[1]

    print("Starting Keyfront and drawing the pictures …", flush=True)
    with ThreadPoolExecutor(1) as painter:
        painting = painter.submit(shelf.fill, data / "shelf")
        child = harness.enter_context(_keyfront(data / "keyfront", edge, control, stop))
        painting.result()
    if stop.is_set():
        return 0

    secret = secrets.token_urlsafe(32)
    credentials = data / "keyfront" / "credentials"
    cloudfront = provision.client(f"http://{control[0]}:{control[1]}", credentials)
    provisioned = provision.provision(cloudfront, data / "keys", app_port, secret)
    setting = app.harness(
        provisioned,
        edge=edge,
        origin_port=app_port,
        origin_secret=secret,
        shelf=data / "shelf",
        access_log=data / "keyfront" / "logs" / "access.jsonl",
    )
    harness.enter_context(_served(app.create_app(setting), door))
    _greet(setting, control, credentials, data if options.data else None)

    while not stop.wait(0.5):
        if child.poll() is not None:
            raise DemoError(f"keyfront ended by itself, status {child.returncode}. {_last_words(data)}")
    print("\nStopping …", flush=True)
    return 0


def _address(text: str | None, usual: int) -> tuple[str, int]:
    """The requested HOST:PORT. Port 0, or a default port that is in use, is replaced by a free one."""
    host, _, port = (text or f"{HOST}:{usual}").rpartition(":")
    if not host or not port.isdigit():
        raise DemoError(f"{text!r} is not HOST:PORT")
    for candidate in (int(port), 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
            except OSError as error:
                if text:
                    raise DemoError(f"cannot listen on {text}: {error.strerror}") from error
                continue
            return host, probe.getsockname()[1]
    raise DemoError(f"no free port on {host}")


def _listen(port: int) -> socket.socket:
    door = socket.socket()
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.bind((HOST, port))
    except OSError as error:
        door.close()
        raise DemoError(f"cannot listen on {HOST}:{port}: {error.strerror}") from error
    door.listen(128)
    return door


@contextlib.contextmanager
def _keyfront(
    data: Path, edge: tuple[str, int], control: tuple[str, int], stop: threading.Event
) -> Iterator[subprocess.Popen[str]]:
    """Run `keyfront up` as a child process that is ready. On exit, send SIGTERM and wait for the process."""
    command = [
        sys.executable, "-m", "keyfront", "up",
        "--data", str(data),
        "--edge", f"{edge[0]}:{edge[1]}",
        "--control", f"{control[0]}:{control[1]}",
    ]  # fmt: skip
    log = data.parent / "keyfront.log"
    with open(log, "w") as errors:
        # In its own session: Ctrl-C in the terminal reaches only this process, which stops the child in order.
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        )
    ready = threading.Event()

    def listen() -> None:
        assert child.stdout is not None
        with open(log, "a", buffering=1) as out:
            for line in child.stdout:
                out.write(line)
                if line.startswith("keyfront ready"):
                    ready.set()

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        patience = 60.0
        while not ready.wait(0.05) and not stop.is_set():
            patience -= 0.05
            if child.poll() is not None or patience <= 0:
                listener.join(1)
                raise DemoError(f"`{shlex.join(command)}` did not become ready. {_last_words(data.parent)}")
        yield child
    finally:
        child.terminate()
        try:
            child.wait(45)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _last_words(data: Path) -> str:
    lines = (data / "keyfront.log").read_text(errors="replace").splitlines()[-12:]
    return "\n".join(("Its last words:", *lines)) if lines else "It said nothing."


@contextlib.contextmanager
def _served(application: Starlette, door: socket.socket) -> Iterator[None]:
    """Serve the application with uvicorn in a thread; signals stay with the main thread."""
    config = uvicorn.Config(
        application, log_level="warning", access_log=False, server_header=False, lifespan="on"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [door]})
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(10)


def _python() -> str:
    """The command for this Python, relative to the current folder if possible."""
    python, here = Path(sys.executable), Path.cwd()
    return shlex.quote(str(python.relative_to(here) if python.is_relative_to(here) else python))


def _greet(setting: app.Harness, control: tuple[str, int], credentials: Path, data: Path | None) -> None:
    line = "─" * 78
    people = "\n".join(f"    {f'{p.name} / {p.password}':<19} {p.may}" for p in app.PEOPLE)
    print(
        f"""
{line}
  A private gallery, behind a real edge

    {setting.public_url}/

  Log in as
{people}

  Try
    · the pictures, then one of their addresses in a private window
    · a download link for a minute, and the same link a minute later
    · {setting.public_url}/refused: what is refused, and why
    · {setting.origin_url}/: the application itself, which answers only the edge

  The keys, by boto3
    AWS_SHARED_CREDENTIALS_FILE={shlex.quote(str(credentials))} \\
      {_python()} -c "import boto3, pprint; pprint.pp(boto3.client('cloudfront', \\
      endpoint_url='http://{control[0]}:{control[1]}').list_public_keys()['PublicKeyList'])"

  A browser that does not find *.localhost names needs this line in its hosts file:
    127.0.0.1 {setting.domain_name}

  Ctrl-C ends it{f"; keys and state stay in {data}" if data else ", and keeps nothing"}.
{line}""",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
