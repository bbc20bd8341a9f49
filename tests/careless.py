"""Careless origins: real servers that disagree with the edge about where a message ends.

    with Careless("reads no bodies") as origin:
        ...  # origin.port, origin.asked

Each of `KINDS` is Python's `http.server` with one bad habit. `/private/secret.txt` holds `SECRET`, every other path
holds `document(path)`. Answers are cacheable. `asked` lists the method and target of everything that the server
parsed as a request.
"""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from keyfront.model.snapshot import Origin
from tests.nginx import free_ports, running_nginx

SECRET: Final = b"what only a signature opens"
STOWAWAY: Final = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 8\r\n\r\nSTOWAWAY"
"""The body of `/open/upload`: whoever loses count of messages takes it for an answer."""


def document(path: str) -> bytes:
    """The content of a public path."""
    return STOWAWAY if path == "/open/upload" else b"the document at " + path.encode("latin-1")


class Habit(NamedTuple):
    """The bad habits of a careless server.

    `reads` are the methods whose body it reads, using Content-Length alone. `closes`: it honors `Connection: close`.
    `late`: after a response that has no body (HEAD, 204, 304), it sends a body when the next request arrives;
    except for 204, it announced that body in the head.
    `twice`: it answers a request that has a body once before reading the body, and again afterward.
    `protocol` is the version that it speaks.
    """

    reads: frozenset[str] = frozenset()
    closes: bool = True
    late: bool = False
    twice: bool = False
    protocol: str = "HTTP/1.1"


_UPLOADS: Final = frozenset({"POST", "PUT", "PATCH"})
_ALL: Final = _UPLOADS | {"GET", "HEAD", "OPTIONS", "DELETE"}

KINDS: Final[dict[str, Habit]] = {
    "http.server, whose uploads read their body": Habit(_UPLOADS),
    "reads no bodies": Habit(),
    "reads no bodies and ignores Connection: close": Habit(closes=False),
    "sends announced bodies later": Habit(_ALL, closes=False, late=True),
    "answers early, and again": Habit(_ALL, closes=False, twice=True),
    "http.server in HTTP/1.0": Habit(protocol="HTTP/1.0"),
}


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Careless
    owed = b""
    timeout = 20  # seconds: no thread outlives its test by more than this

    def setup(self) -> None:
        self.protocol_version = self.server.habit.protocol
        super().setup()

    def parse_request(self) -> bool:
        parsed = super().parse_request()
        if parsed and not self.server.habit.closes:
            self.close_connection = False
        return parsed

    def _answer(self) -> None:
        habit = self.server.habit
        self.server.asked.append((self.command, self.path))
        if self.owed:
            self.wfile.write(self.owed)
            self.owed = b""
        length = int(self.headers.get("Content-Length") or 0)
        path = self.path.partition("?")[0]
        if habit.twice and length:
            self._send(413, b"too early")
        if self.command in habit.reads:
            self.rfile.read(length)
        body = SECRET if path == "/private/secret.txt" else document(path)
        status = int(path.rpartition("/")[2]) if path.startswith("/open/status/") else 200
        if status == 304 and "If-None-Match" not in self.headers:
            status = 200
        self._send(status, body)

    def _send(self, status: int, body: bytes) -> None:
        habit = self.server.habit
        bodiless = self.command == "HEAD" or status in (204, 304)
        self.send_response(status)
        self.send_header("Cache-Control", "max-age=60")
        self.send_header("ETag", '"1"')
        unannounced = habit.late and status == 204
        if not unannounced and (not bodiless or habit.late or self.command == "HEAD"):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not bodiless:
            self.wfile.write(body)
        elif habit.late:
            self.owed = body

    do_GET = do_HEAD = do_OPTIONS = do_DELETE = do_POST = do_PUT = do_PATCH = _answer

    def log_message(self, *_: object) -> None:
        pass


class Careless(http.server.ThreadingHTTPServer):
    """A server of one of `KINDS`, on its own port and in its own thread."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, kind: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.habit = KINDS[kind]
        self.asked: list[tuple[str, str]] = []
        self.port: int = self.server_address[1]
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )

    def __enter__(self) -> Careless:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        pass  # the edge closes the connection where it must

    def origin(self) -> Origin:
        return Origin("careless", "127.0.0.1", http_port=self.port, read_timeout=5, connection_attempts=1)


NGINX: Final = """
default_type text/plain;
add_header Cache-Control "max-age=60";
server {{
  listen 127.0.0.1:{port};
  location / {{ proxy_pass http://127.0.0.1:{inner}$uri; proxy_http_version 1.1; }}
}}
server {{ listen 127.0.0.1:{inner}; root {folder}/www; }}
"""


@contextlib.contextmanager
def nginx_with_uri(folder: Path, paths: Iterable[str]) -> Iterator[Origin]:
    """nginx that passes `$uri`, the decoded path, unchanged to a second server: line breaks, spaces, `?` and all.

    :param paths: the paths that hold documents, besides the secret.
    """
    for path, body in [("/private/secret.txt", SECRET), *((path, document(path)) for path in paths)]:
        file = folder / "www" / path[1:]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(body)
    port, inner = free_ports(2)
    with running_nginx(folder, NGINX.format(folder=folder, port=port, inner=inner), [inner]):
        yield Origin("careless", "127.0.0.1", http_port=port, read_timeout=5, connection_attempts=1)
