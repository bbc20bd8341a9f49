"""An HTTP application behind an edge, in threads of the test's own process.

    def respond(request: Request) -> Response:
        return Response(b"hello", {"Cache-Control": "max-age=60"})

    with served(respond) as port:
        ...

It is well-behaved: for an origin that breaks the protocol, see `tests/origin.py`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import NamedTuple


class Request(NamedTuple):
    """A request as the application received it."""

    method: str
    target: str
    headers: Message
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


class Response(NamedTuple):
    """A response. With `chunk_size` (bytes), the body is sent with chunked coding, in chunks of that size."""

    body: bytes = b""
    headers: Mapping[str, str] = {}
    status: int = 200
    chunk_size: int = 0


@contextlib.contextmanager
def served(respond: Callable[[Request], Response], host: str = "127.0.0.1") -> Iterator[int]:
    """Serve the application on a port of `host`, and yield the port. `respond` is called in a thread for each
    connection."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            response = respond(Request(self.command, self.path, self.headers, body))
            self.send_response(response.status)
            for name, value in response.headers.items():
                self.send_header(name, value)
            if response.chunk_size:
                self.send_header("Transfer-Encoding", "chunked")
            else:
                self.send_header("Content-Length", str(len(response.body)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # the edge may stop reading
                self.wfile.write(b"" if self.command == "HEAD" else _framed(response))

        do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((host, 0), Handler)
    Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def _framed(response: Response) -> bytes:
    size, body = response.chunk_size, response.body
    if not size:
        return body
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in [*chunks, b""])
