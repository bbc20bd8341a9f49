"""The AWS CLI's own program as a long-running process: it reads one command per line as a JSON list and writes one
answer per line.

Python takes most of a second to load the CLI. A test that runs fifty commands pays that cost once.

    python -m tests.awscli  <  '["cloudfront", "list-public-keys"]'  >  {"status": 0, "out": "…", "err": "…"}
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from types import TracebackType
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """The output of a command and its exit status."""

    status: int
    out: str
    err: str


class Aws:
    """The program as a child process. Use it as a context manager."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment

    def __enter__(self) -> Aws:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.awscli"],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def run(self, *argv: str) -> Answer:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(argv) + "\n")
        self._process.stdin.flush()
        return Answer(*json.loads(self._process.stdout.readline()))

    def __call__(self, *argv: str) -> Any:
        """The answer of a `cloudfront` command that must succeed."""
        done = self.run("cloudfront", *argv)
        assert done.status == 0, done.err
        return json.loads(done.out) if done.out.strip() else None

    def refused(self, *argv: str) -> Answer:
        """The error output of a `cloudfront` command that must fail."""
        done = self.run("cloudfront", *argv)
        assert done.status != 0, done.out
        assert done.out == ""
        return done


def main() -> None:
    from awscli.clidriver import create_clidriver

    driver = create_clidriver()
    for line in sys.stdin:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = driver.main(json.loads(line))
            except SystemExit as end:  # how argparse exits
                status = end.code if isinstance(end.code, int) else 1
        print(json.dumps([status, out.getvalue(), err.getvalue()]), flush=True)


if __name__ == "__main__":
    main()
