"""The machine on which the pages are followed: a clone with an environment, a home, a shell, and a Python prompt.

It runs in namespaces of its own, so that a page's ports and folders (`0.0.0.0:80`, `/srv/backups`) are free and vanish
afterwards. Every command runs in one bash session, as typed. What runs until it is stopped (`keyfront up`, an origin)
gets a terminal of its own. `keyfront` and `aws` are the real programs, in forks of this process, which has loaded them:
loading them for each of the many commands would take longer than everything else.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import inspect
import io
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
import tty
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.imports import MODULES, ROOT

PATIENCE = 120
"""Seconds until a command or a server is taken for stuck."""

SERVERS = re.compile(
    r"([A-Z_]+=(\$\([^)]*\)|\S)+ )*(\.venv/bin/)?(keyfront up|python3 -m http\.server|python3 echo\.py|weed server) "
)
"""What runs until it is stopped."""

_SHIM = Path(__file__).with_name("shim.py")


class Failed(Exception):
    """A command did not do what its page says."""


def isolate(folder: Path) -> None:
    """Bring up the loopback interface, and put folders of this process's own over those that pages write to."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    scratch = folder / "overlays"
    scratch.mkdir()
    _mount("tmpfs", scratch, "tmpfs", "")
    _mount("tmpfs", Path("/mnt"), "tmpfs", "")
    for place in ("/etc", "/srv", "/var/lib"):
        upper, work = scratch / place.replace("/", "_") / "upper", scratch / place.replace("/", "_") / "work"
        upper.mkdir(parents=True)
        work.mkdir()
        _mount("overlay", Path(place), "overlay", f"lowerdir={place},upperdir={upper},workdir={work}")


def release(folder: Path) -> None:
    """Let go of what `isolate` mounted below the folder, so that it can be removed."""
    ctypes.CDLL(None).umount2(str(folder / "overlays").encode(), 2)  # MNT_DETACH


def _mount(source: str, target: Path, kind: str, data: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), str(target).encode(), kind.encode(), 0, data.encode()) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), str(target))


class Day:
    """Use as a context manager. With `installed`, the programs are those of that environment, and nothing is shared."""

    def __init__(self, folder: Path, installed: Path | None = None) -> None:
        self.folder = folder
        self.clone = folder / "keyfront"
        self.installed = installed
        self.servers: dict[str, subprocess.Popen[bytes]] = {}
        self._prompt: socket.socket | None = None
        self._shell: subprocess.Popen[bytes] | None = None
        self._count = 0
        self.typed = "y\n"
        """What whoever follows a page types when a program asks."""

    def __enter__(self) -> Day:
        self.clone.mkdir()
        for name in ("docs", "Makefile", "README.md", "pyproject.toml", "src", "soak", "tests"):
            (self.clone / name).symlink_to(ROOT / name)
        (self.clone / "state").mkdir(mode=0o700)
        # The guides together make more keys than the quota allows.
        settings = '[control]\nquota = ["public-keys=100", "key-groups=100"]\n[supervision]\nworkers = 1\n'
        (self.clone / "state" / "keyfront.toml").write_text(settings)
        shutil.copytree(ROOT / "examples", self.clone / "examples")
        programs = self.clone / ".venv" / "bin"
        programs.mkdir(parents=True)
        source = self.installed or Path(sys.executable).parent
        for each in source.iterdir():
            (programs / each.name).symlink_to(each)
        for name in ("lib", "pyvenv.cfg"):
            (programs.parent / name).symlink_to(source.parent / name)
        self._listener = socket.socket(socket.AF_UNIX)
        address = self.folder / "day.sock"
        self._listener.bind(str(address))
        self._listener.listen(64)
        if self.installed is None:
            self._load()
            for name in ("keyfront", "aws"):
                (programs / name).unlink(missing_ok=True)
                (programs / name).write_text(
                    f"#!/bin/sh\n{_exec_up() if name == 'keyfront' else ''}"
                    f'exec {sys.executable} -SIE {_SHIM} {address} {name} "$@"\n'
                )
                (programs / name).chmod(0o755)
            (programs / "activate").unlink()
            (programs / "activate").write_text(f"PATH={programs}:$PATH\n")
        home = self.folder / "home"
        home.mkdir()
        environment = {
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "PATH": f"{programs}:{os.environ['PATH']}",
            "AWS_PAGER": "",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self._environment = environment
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_all()
        self.close_terminal()
        self._listener.close()

    @staticmethod
    def _load() -> None:
        for name in MODULES:
            if name.startswith("keyfront.") and not name.endswith(("__main__", "asgi")):
                with contextlib.suppress(ImportError):  # what belongs to an extra
                    import_module(name)
        session = import_module("keyfront.botocore_session").new_session()
        session.create_client("cloudfront", region_name="us-east-1")  # reads the model, once
        import_module("awscli.clidriver")
        import_module("boto3")
        gc.collect()
        gc.freeze()

    def open_terminal(self) -> None:
        """A new shell in the clone, without what earlier pages have exported."""
        self._status, self._writing = os.pipe()
        self._shell = subprocess.Popen(
            ["bash", "--norc"], stdin=subprocess.PIPE, cwd=self.clone, env=self._environment,
            pass_fds=[self._writing],
        )  # fmt: skip
        os.close(self._writing)

    def close_terminal(self) -> None:
        """Close the shell, and the Python prompt."""
        if self._prompt is not None:
            self._prompt.close()
            self._prompt = None
        if self._shell is not None:
            self._shell.kill()
            self._shell.wait()
            os.close(self._status)
            self._shell = None

    # -- commands --------------------------------------------------------------------------------------------------

    def run(self, script: str, where: str) -> str:
        """The output of commands in the shell.

        :raises Failed: at the first command whose exit status is not 0.
        """
        self._count += 1
        file, out = self.folder / f"{self._count}.sh", self.folder / f"{self._count}.out"
        file.write_text(
            f"set -eo pipefail; trap 'echo \"$BASH_COMMAND\" >{out}.failed' ERR\n{script}\nset +e; trap - ERR\n"
        )
        keyboard, terminal = os.openpty()
        tty.setraw(terminal)
        os.write(keyboard, self.typed.encode() * 20)
        try:
            status = self._in_shell(f". {file} >{out} 2>&1 <{os.ttyname(terminal)} {self._writing}>&-")
        finally:
            os.close(keyboard)
            os.close(terminal)
        output = out.read_text(errors="replace")
        if status != 0:
            failed = Path(f"{out}.failed")
            command = failed.read_text().strip() if failed.exists() else script.strip()
            raise Failed(f"{where}: {command}\nexit status {status}\n{output}")
        return output

    def _in_shell(self, command: str) -> int:
        assert self._shell is not None
        assert self._shell.stdin is not None
        self._shell.stdin.write(f"{command}; echo $? >&{self._writing}\n".encode())
        self._shell.stdin.flush()
        word = self._wait(self._status).decode().strip()
        if word:
            return int(word)
        return self._shell.wait()  # `set -e` ended it

    def _wait(self, descriptor: int) -> bytes:
        """What can be read there. Meanwhile, run the commands that the shims pass on."""
        ends = time.monotonic() + PATIENCE
        while True:
            ready, _, _ = select.select([descriptor, self._listener.fileno()], [], [], 1)
            if self._listener.fileno() in ready:
                self._command()
            if descriptor in ready:
                return os.read(descriptor, 65_536)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            if time.monotonic() > ends:
                raise Failed(f"no answer within {PATIENCE} seconds")

    def _command(self) -> None:
        connection, _ = self._listener.accept()
        if os.fork():
            connection.close()
            return
        status = 1
        try:
            size, descriptors, _, _ = socket.recv_fds(connection, 4, 3)
            call = b""
            while len(call) < int.from_bytes(size, "big"):
                call += connection.recv(65_536)
            words, folder, environment = json.loads(call)
            status = _run(words, folder, environment, descriptors)
        except BaseException:
            traceback.print_exc()
        finally:
            connection.send(bytes([status & 255]))
            os._exit(0)

    def environment(self) -> tuple[dict[str, str], str]:
        """The shell's environment and working folder."""
        file = self.folder / "environment"
        self._in_shell(f"env -0 >{file}; pwd >{file}.cwd")
        pairs = [each.partition("=") for each in file.read_text().split("\0") if each]
        return {name: value for name, _, value in pairs}, Path(f"{file}.cwd").read_text().rstrip("\n")

    # -- what runs until it is stopped ------------------------------------------------------------------------------

    def serve(self, command: str, where: str) -> str:
        """Start a server, unless it runs already, and return its output once it listens."""
        environment, folder = self.environment()
        name = command.replace(".venv/bin/", "").rstrip("& \n")
        if name in self.servers and self.servers[name].poll() is None:
            return ""
        self._count += 1
        out = self.folder / f"{self._count}.out"
        before = _listening()
        with out.open("wb") as log:
            server = subprocess.Popen(
                ["bash", "-c", command.rstrip("& \n")],
                cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.servers[name] = server
        ready: Callable[[], bool] = (
            (lambda: "keyfront ready" in out.read_text())
            if "keyfront up" in name
            else (lambda: bool(_listening() - before))
        )
        ends = time.monotonic() + PATIENCE
        while not ready():
            if server.poll() is not None or time.monotonic() > ends:
                raise Failed(f"{where}: {command}\nexit status {server.poll()}\n{out.read_text()}")
            time.sleep(0.05)
        return out.read_text()

    def stop(self, name: str) -> None:
        """Stop a server by SIGTERM, as Ctrl-C in its terminal would."""
        server = self.servers.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()

    def stop_all(self, *, but: str = "") -> None:
        """Stop all servers but one, the last started first."""
        for name in reversed(list(self.servers)):
            if name != but:
                self.stop(name)

    # -- Python -----------------------------------------------------------------------------------------------------

    def python(self, code: str, where: str) -> str:
        """The output of statements at the page's Python prompt, which was started in the shell as it is now."""
        if self._prompt is None:
            environment, folder = self.environment()
            self._prompt, theirs = socket.socketpair()
            if self.installed is not None:
                source = f"{_IMPORTS}\n{inspect.getsource(_prompt)}\n_prompt(socket.socket(fileno={theirs.fileno()}))"
                subprocess.Popen(
                    [self.installed / "python", "-c", source],
                    cwd=folder, env=environment, pass_fds=[theirs.fileno()],
                )  # fmt: skip
            elif os.fork() == 0:
                _enter(folder, environment)
                _prompt(theirs)
            theirs.close()
        self._prompt.sendall(json.dumps([code, where]).encode() + b"\n")
        said = b""
        while not said.endswith(b"\n"):
            more = self._wait(self._prompt.fileno())
            if not more:
                raise Failed(f"{where}: Python ended\n{code}")
            said += more
        well, output = json.loads(said)
        if not well:
            raise Failed(f"{where}:\n{code}\n{output}")
        return str(output)


def _exec_up() -> str:
    return f'case "$1" in up|agent) exec {sys.executable} -m keyfront "$@";; esac\n'


def _listening() -> set[str]:
    """The sockets of this namespace that listen."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {line[1] for line in lines if line[3] == "0A"}


def _enter(folder: str, environment: dict[str, str]) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path.insert(0, "")


def _run(words: list[str], folder: str, environment: dict[str, str], descriptors: list[int]) -> int:
    """Run a command that is loaded, in a fork of the day's process."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    sys.stdin, sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.FileIO(number, mode), line_buffering=number == 2)
        for number, mode in enumerate(("r", "w", "w"))
    )
    if words[0] == "aws":
        environment["AWS_DATA_PATH"] = os.environ["AWS_DATA_PATH"]  # set when awscli was imported
    _enter(folder, environment)
    sys.argv = words
    main: Callable[[], Any] = (
        import_module("awscli.clidriver").main
        if words[0] == "aws"
        else import_module("keyfront.cli.main").main
    )
    try:
        status = main()
    except SystemExit as ended:
        status = ended.code
    sys.stdout.flush()
    sys.stderr.flush()
    return status if isinstance(status, int) else 0 if status is None else 1


_IMPORTS = """
from __future__ import annotations
import contextlib, io, json, os, socket, traceback
from typing import Any
"""


def _prompt(connection: socket.socket) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    for line in connection.makefile():
        code, where = json.loads(line)
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            try:
                exec(compile(code, where, "exec"), names)
                well = True
            except BaseException:
                traceback.print_exc()
                well = False
        connection.sendall(json.dumps([well, output.getvalue()]).encode() + b"\n")
    os._exit(0)
