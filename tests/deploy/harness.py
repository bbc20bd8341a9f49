"""What the tests of `deploy/` share: the command line as they check it, and a Python that installs in seconds."""

from __future__ import annotations

import ensurepip
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import click
import pytest

from keyfront.cli.main import keyfront
from tests.imports import ROOT

BASE = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
"""The interpreter that this environment was made with."""
DEPLOY = ROOT / "deploy"


def refuse_bad_arguments(words: list[str]) -> None:
    """Parse the arguments of a `keyfront` command without running it.

    :raises click.ClickException: if the command line does not accept them.
    """
    command: click.Command = keyfront
    context = click.Context(command, info_name="keyfront")
    rest = list(words)
    while isinstance(command, click.Group):
        name, *rest = rest
        found = command.get_command(context, name)
        if found is None:
            raise click.UsageError(f"there is no command {name}")
        command, context = found, click.Context(found, parent=context, info_name=name)
    given, left, _ = command.make_parser(context).parse_args(rest)
    if left:
        raise click.UsageError(f"too many arguments: {left}")
    for parameter in command.params:
        if parameter.name in given and not isinstance(parameter.type, click.Path):
            parameter.process_value(context, given[parameter.name])


def frugal_python(folder: Path) -> Path:
    """A program `python` in `folder`: the environments that it makes see the packages of this one, and the pip that
    comes with Python, so that pip, with the same commands, has nothing to download."""
    made = folder / "python"
    pip = folder / "pip"
    (wheel,) = (Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(pip)
    made.write_text(
        f"""#!/bin/sh
set -e
if [ "$1 $2" = "-m venv" ]; then
    {BASE} -m venv --without-pip "$3"
    for each in "$3"/lib/python3*/site-packages; do
        printf '%s\\n' {sysconfig.get_paths()["purelib"]} {pip} > "$each/packages.pth"
    done
    printf '#!%s/bin/python\\nfrom pip._internal.cli.main import main\\nraise SystemExit(main())\\n' "$3" > "$3/bin/pip"
    chmod 755 "$3/bin/pip"
else
    exec {BASE} "$@"
fi
"""
    )
    made.chmod(0o755)
    return made


def clean_environment() -> dict[str, str]:
    """This process's environment without what configures Keyfront, AWS, or coverage."""
    prefixes = ("AWS_", "COV_", "COVERAGE_", "KEYFRONT_", "PYTHON", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}


def skip_without_namespaces() -> None:
    """Skip the test where `in_a_copy_of_this_machine` cannot work."""
    probe = subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True, check=False)
    if probe.returncode or not all(map(shutil.which, ("unshare", "setpriv", "ip", "useradd", "runuser"))):
        pytest.skip("this needs root, unshare, setpriv, ip, useradd, and runuser")


def in_a_copy_of_this_machine(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a shell script as root, where `$root` is a copy of this machine's file system that is thrown away, with
    `$folder` mounted at /mnt, without a network."""
    (folder / "script").write_text(
        f"""set -eu
root={folder}/root; layers={folder}/layers
mount --make-rprivate /
mkdir "$root" "$layers"
mount -t tmpfs none "$layers"
mkdir "$layers/upper" "$layers/work"
mount -t overlay overlay -o "lowerdir=/,upperdir=$layers/upper,workdir=$layers/work" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --bind {folder} "$root/mnt"
ip link set lo up
{script}
"""
    )
    argv = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "sh", str(folder / "script")]
    return subprocess.run(
        argv, env=clean_environment(), capture_output=True, text=True, timeout=500, check=False
    )


def readable_by_all(*paths: Path) -> str:
    """Commands that let the image's user reach what is below a folder of root's in this environment."""
    parents = sorted({str(parent) for path in paths for parent in path.parents if parent != Path("/")})
    return "\n".join(f'chmod go+x "$root{parent}"' for parent in parents)
