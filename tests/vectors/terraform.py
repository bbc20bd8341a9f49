"""Record what Terraform's AWS provider sends for tests/stories/terraform/every.tf, from its first apply to destroy.

    python -m tests.vectors.terraform        writes terraform.json; needs terraform and the provider (TF_PLUGIN_DIR)

Ids that the control plane assigned appear as `<0>`, `<1>`, … in order of assignment, so that the requests can be sent
to another control plane (tests/control/test_terraform_requests.py).
"""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keyfront.control.call import Call, Result
from keyfront.control.wire import codec
from tests.control.plane import Plane
from tests.stories.test_terraform import FLAGS, Keys, Terraform
from tests.vectors.ids import created

HERE = Path(__file__).parent


class Recorder:
    """Sits between the HTTP layer and the service, and records each successful request, except reads."""

    def __init__(self) -> None:
        self._line: tuple[str, str, str] = ("", "", "")
        self._body = b""
        self._ids: list[str] = []
        self.requests: list[dict[str, str]] = []

    def match(self, method: str, path: str, query: str) -> codec.Matched:
        self._line = (method, path, query)
        return _match(method, path, query)

    def read(self, matched: codec.Matched, headers: codec.Headers, body: bytes) -> dict[str, Any]:
        self._body = body
        return _read(matched, headers, body)

    def run(self, run: Callable[[Call], Result], call: Call) -> Result:
        method, path, query = self._line
        body = self._body.decode()
        result = run(call)
        if method != "GET":
            said = {"method": method, "path": path, "query": query, "body": body}
            self.requests.append({name: self._told(text) for name, text in said.items()})
        self._ids += created(call.operation, result.output)
        return result

    def _told(self, text: str) -> str:
        for number, id_ in enumerate(self._ids):
            text = text.replace(id_, f"<{number}>")
        return text


_match, _read = codec.match, codec.read


def main() -> None:
    recorder = Recorder()
    codec.match, codec.read = recorder.match, recorder.read
    with tempfile.TemporaryDirectory() as folder:
        keys = Keys(Path(folder) / "keys")
        keys.make("primary", end="")
        root = Path(folder) / "root"
        root.mkdir()
        (root / "provider.tf").write_text(FLAGS)
        shutil.copy(HERE.parent / "stories" / "terraform" / "every.tf", root)
        (Path(folder) / "data").mkdir()
        with Plane(Path(folder) / "data") as plane:
            run = plane.service.run
            plane.service.run = lambda call: recorder.run(run, call)  # type: ignore[method-assign]
            done = threading.Event()
            edge = threading.Thread(target=lambda: _obey(plane, done))
            edge.start()
            terraform = Terraform(root, plane)
            said: dict[str, Any] = {"keys": str(keys.folder)}
            terraform.init()
            one = ("-parallelism=1",)
            terraform.run("apply", "-auto-approve", "-input=false", *one, **said)
            said |= {"comment": "second", "enabled": False}
            terraform.run("apply", "-auto-approve", "-input=false", *one, **said)
            terraform.run("destroy", "-auto-approve", "-input=false", *one, **said)
            done.set()
            edge.join()
    (HERE / "terraform.json").write_text(json.dumps(recorder.requests, indent=1) + "\n")


def _obey(plane: Plane, done: threading.Event) -> None:
    while not done.wait(0.2):
        plane.obey()


if __name__ == "__main__":
    main()
