"""An edge worker's process under `keyfront up`."""

from __future__ import annotations

import contextlib
import os
import sys

from keyfront.edge.net.certificates import unraisable
from keyfront.edge.worker import run_worker
from keyfront.edge.worker_settings import WorkerSettings


def main(settings: WorkerSettings) -> None:
    """Serve until SIGTERM, or until the parent exits. Two inherited pipes are named in the environment: the lifeline,
    and the one to write to when the worker is ready."""
    sys.unraisablehook = unraisable
    lifeline, ready = int(os.environ["KEYFRONT_LIFELINE"]), int(os.environ["KEYFRONT_READY"])

    def on_ready() -> None:
        with contextlib.suppress(BrokenPipeError):  # the parent is gone: the lifeline ends this process
            os.write(ready, b"ready\n")
        os.close(ready)

    run_worker(settings, on_ready, lifeline)
