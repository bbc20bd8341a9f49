"""docs/guide/getting-started.md, executed as written: its commands and its Python, on other ports."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "getting-started.md"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def block(text: str, *beginnings: str) -> list[str]:
    """The indented command lines with these beginnings; each must be present."""
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    found = [line for line in lines if line.startswith(beginnings)]
    assert {begin for begin in beginnings if any(line.startswith(begin) for line in found)} == set(beginnings)
    return found


@pytest.mark.skipif(
    shutil.which("openssl") is None, reason="no openssl on this machine: the guide makes keys with it"
)
def test_the_guide_leads_where_it_says(tmp_path: Path) -> None:
    text = GUIDE.read_text()
    edge, control, files = free_port(), free_port(), free_port()
    for printed, ours in ((8080, edge), (8081, control), (9000, files)):
        assert str(printed) in text
        text = text.replace(str(printed), str(ours))
    python = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    shell = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "NO_PROXY": "*"}
    (environment,) = block(text, 'eval "$(')

    def in_shell(command: str) -> subprocess.CompletedProcess[str]:
        """The command in the shell that the guide prepares."""
        script = f"{environment.replace('.venv/bin/', '')}; {command}"
        return subprocess.run(
            ["sh", "-c", script], cwd=tmp_path, env=shell, capture_output=True, text=True, timeout=100
        )

    (up,) = block(text, ".venv/bin/keyfront up")
    running = []
    try:
        command = [
            *up.replace(".venv/bin/keyfront", f"{sys.executable} -m keyfront").split(),
            "--workers",
            "1",
        ]
        command += ["--edge", f"127.0.0.1:{edge}", "--control", f"127.0.0.1:{control}"]
        keyfront = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        running.append(keyfront)
        assert keyfront.stdout is not None
        assert keyfront.stdout.readline().startswith("keyfront ready")

        for line in block(text, "openssl ", "mkdir "):
            subprocess.run(line, shell=True, check=True, cwd=tmp_path, capture_output=True)
        (server,) = block(text, "python3 -m http.server")
        origin = subprocess.Popen(
            server.replace("python3", sys.executable).split(),
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        running.append(origin)
        (tmp_path / "guide.py").write_text(python)
        done = in_shell("python3 guide.py")
        assert done.returncode == 0, done.stderr
        url = done.stdout.split()[-1]

        def get(address: str) -> httpx.Response:
            target = re.sub(r"^http://[^/]+", f"http://127.0.0.1:{edge}", address)
            return httpx.get(target, headers={"Host": address.split("/")[2]}, trust_env=False)

        patience = time.monotonic() + 10
        while (answer := get(url)).status_code == 502 and time.monotonic() < patience:
            time.sleep(0.1)  # the file server may start more slowly than everything else
        assert (answer.status_code, answer.text) == (200, "for your eyes only\n")
        refused = get(url.replace("letter", "diary"))
        assert refused.status_code == 403
        assert refused.text in text

        (listing,) = block(text, "aws cloudfront list-distributions")
        listed = in_shell(f"{listing} --query 'DistributionList.Items[].Status' --output text")
        assert listed.stdout.split() == ["Deployed"], listed.stderr
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            process.wait(20)
            if process.stdout is not None:
                process.stdout.close()
    assert running[0].returncode == 0
