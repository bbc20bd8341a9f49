"""What the tests of `deploy/` share: the command line as they check it, and a Python that installs in seconds."""

from __future__ import annotations

import ensurepip
import os
import sys
import sysconfig
import zipfile
from pathlib import Path

import click

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
