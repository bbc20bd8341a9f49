"""The `keyfront` command: parse, call, print. One file a command group."""

from __future__ import annotations

import sys

import click

from keyfront.cli.access import access
from keyfront.cli.agent import agent
from keyfront.cli.audit import audit
from keyfront.cli.backup import backup
from keyfront.cli.custody import custody
from keyfront.cli.declared import apply, plan_command
from keyfront.cli.key import key
from keyfront.cli.region_options import regions
from keyfront.cli.rotation import rotation
from keyfront.cli.sign import explain, sign, sign_cookies
from keyfront.cli.store import store_group
from keyfront.cli.up import control_process, edge_worker, up
from keyfront.errors import KeyfrontError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="keyfront")
def keyfront() -> None:
    """A private-content CDN that you run yourself and that speaks CloudFront."""


for command in (
    up,
    sign,
    sign_cookies,
    explain,
    key,
    plan_command,
    apply,
    access,
    audit,
    custody,
    agent,
    rotation,
    backup,
    store_group,
    regions,
    edge_worker,
    control_process,
):
    keyfront.add_command(command)


def main() -> None:
    try:
        keyfront()
    except KeyfrontError as error:
        print(f"keyfront: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
