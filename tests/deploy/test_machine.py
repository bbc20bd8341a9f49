"""A machine by the deployment guide, with `--long`: `install.sh` as root in a copy of this machine, then the commands
of the units, as their user, and those of the guide, for a control plane and an edge.

A stand-in does what systemd would: it creates users, and starts the command of a unit with its capability, with a
read-only root but for its folders, and waits for READY=1.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.deploy.harness import (
    BASE,
    DEPLOY,
    frugal_python,
    in_a_copy_of_this_machine,
    readable_by_all,
    skip_without_namespaces,
)
from tests.imports import ROOT

SYSTEMCTL = r"""#!/bin/sh
# systemctl: daemon-reload, enable, start UNIT, stop UNIT
set -eu
verb=$1; unit=${2:-}; unit=${unit%.service}
case $verb in
    start)
        file=/etc/systemd/system/$unit.service
        command=$(sed -n 's/^ExecStart=//p' "$file" | sed 's|%S|/var/lib|g; s|%E|/etc|g; s|%t|/run|g')
        mkdir -p /run/keyfront && chown keyfront /run/keyfront
        exec /mnt/python/start.py "$unit" $command
        ;;
    stop)
        kill "$(cat "/run/$unit.pid")"
        while [ -e "/proc/$(cat "/run/$unit.pid")" ]; do sleep 0.1; done
        ;;
esac
"""

SYSUSERS = """#!/bin/sh
id keyfront > /dev/null 2>&1 || useradd --system --home-dir /var/lib/keyfront --no-create-home keyfront
"""

START = r"""
import os, socket, subprocess, sys
unit, *command = sys.argv[1:]
path = f"/run/{unit}.notify"
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
    manager.bind(path)
    os.chmod(path, 0o777)
    log = open(f"/mnt/{unit}.log", "ab")
    drop = ["setpriv", "--reuid=keyfront", "--regid=keyfront", "--clear-groups", "--no-new-privs",
            "--inh-caps=-all,+net_bind_service", "--ambient-caps=+net_bind_service",
            "--bounding-set=-all,+net_bind_service"]
    seal = "for each in /var/lib /run /tmp; do mount --bind $each $each; done; mount -o remount,bind,ro /; exec \"$@\""
    # The supervisor gets its own PID, as setpriv and the shell execute it.
    child = subprocess.Popen(["unshare", "--mount", "sh", "-ec", seal, "sh", *drop, *command], stdout=log, stderr=log,
                             env={"PATH": "/usr/bin:/bin", "NOTIFY_SOCKET": path}, start_new_session=True)
    manager.settimeout(120)
    state = manager.recv(100)
    if state != b"READY=1":
        sys.exit(f"{unit}: {state!r}")
    with open(f"/run/{unit}.pid", "w") as file:
        file.write(str(child.pid))
    os._exit(0)
"""


@pytest.mark.timeout(600)
def test_a_control_plane_and_an_edge(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--long"):
        pytest.skip("runs with --long")
    skip_without_namespaces()
    programs = tmp_path / "python"
    programs.mkdir()
    frugal_python(programs)
    for name, text in (
        ("start.py", f"#!{BASE}{START}"),
        ("systemctl", SYSTEMCTL),
        ("systemd-sysusers", SYSUSERS),
    ):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    install = f"sh {DEPLOY}/install.sh --python /mnt/python/python"
    done = in_a_copy_of_this_machine(
        f"""
{readable_by_all(BASE, Path(sys.prefix) / "lib", programs / "pip")}
mount -t tmpfs none "$root/run"
cat > "$root/mnt/inside" <<'INSIDE'
set -eu
cd {ROOT}
{install} control
keyfront config check /etc/keyfront/keyfront.toml
systemctl start keyfront
keyfront status > /mnt/status
curl --fail --silent --show-error --header 'Host: 127.0.0.1' http://127.0.0.1/healthz > /mnt/health

sed -i 's/^# edges =/edges =/' /etc/keyfront/keyfront.toml
keyfront restart
TOKEN=$(keyfront edge enroll-token)
{install} edge
sed -i 's/0.0.0.0:80"/0.0.0.0:81"/; s/^health-check.*/&\\n cache-disk = 0/' /etc/keyfront/edge.toml
KEYFRONT_DATA=/var/lib/keyfront-edge keyfront edge join --name paris --control https://127.0.0.1:9443 --token "$TOKEN"
systemctl start keyfront-edge
curl --fail --silent --show-error --header 'Host: 127.0.0.1' http://127.0.0.1:81/healthz >> /mnt/health
while ! keyfront edge list | grep -q '  connected  '; do sleep 0.2; done
keyfront edge list > /mnt/edges

release=$(readlink /opt/keyfront/current)
cp -a "/opt/keyfront/$release" /opt/keyfront/next
sed -i "s|/opt/keyfront/$release/|/opt/keyfront/next/|" /opt/keyfront/next/bin/keyfront
for each in next "$release"; do
    ln -sfn "$each" /opt/keyfront/current
    keyfront restart
    tr '\\0' ' ' < "/proc/$(cat /run/keyfront.pid)/cmdline" | cut -d ' ' -f 1 >> /mnt/programs
done

keyfront backup keygen /tmp/recovery.key > /dev/null
grep -o 'age1.*' /tmp/recovery.key > /etc/keyfront/recipients
keyfront backup create --to /var/lib/keyfront-backups --recipients-file /etc/keyfront/recipients > /mnt/backup
printf '[[allow]]\\nuser = "root"\\nkey_groups = ["*"]\\n' > /etc/keyfront/agent.toml
systemctl start keyfront-agent
systemctl stop keyfront-agent

systemctl stop keyfront-edge
systemctl stop keyfront
keyfront status > /dev/null && exit 1 || [ $? = 3 ]
keyfront backup restore /var/lib/keyfront-backups --identity /tmp/recovery.key --plan > /mnt/plan
find /var/lib/keyfront /var/lib/keyfront-edge ! -user keyfront > /mnt/foreign
INSIDE
chroot "$root" env PATH=/mnt/python:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin sh /mnt/inside
""",
        tmp_path,
    )
    logs = "".join(f"{path.name}: {path.read_text()}" for path in sorted(tmp_path.glob("*.log")))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    assert (tmp_path / "health").read_text() == "ok\nok\n"
    assert "paris" in (tmp_path / "edges").read_text()
    there, back = (tmp_path / "programs").read_text().splitlines()
    assert there == "/opt/keyfront/next/bin/python"
    assert back.startswith("/opt/keyfront/0.")
    assert "is verified" in (tmp_path / "backup").read_text()
    assert (tmp_path / "foreign").read_text() == ""
    assert "Traceback" not in logs
