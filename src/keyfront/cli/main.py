"""The `keyfront` command: parse, call, print. There is one file per command group, loaded when the group is called."""

from __future__ import annotations

import sys
from importlib import import_module

import click

from keyfront.errors import KeyfrontError

COMMANDS = {
    "access": "access:access",
    "agent": "agent:agent",
    "apply": "declared:apply",
    "audit": "audit:audit",
    "backup": "backup:backup",
    "control-process": "up:control_process",
    "custody": "custody:custody",
    "edge-worker": "up:edge_worker",
    "explain": "sign:explain",
    "key": "key:key",
    "plan": "declared:plan_command",
    "regions": "regions:regions",
    "rotation": "rotation:rotation",
    "sign": "sign:sign",
    "sign-cookies": "sign:sign_cookies",
    "store": "store:store_group",
    "up": "up:up",
}
"""Each command: the module below `keyfront.cli` that defines it, and its name there."""


class LazyGroup(click.Group):
    """A group of `COMMANDS` that imports a command's module when the command is looked up, so that no command waits for
    the imports of the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(f"keyfront.cli.{module}"), attribute)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="keyfront")
def keyfront() -> None:
    """A private-content CDN that you run yourself and that speaks CloudFront."""


def main() -> None:
    try:
        keyfront()
    except KeyfrontError as error:
        print(f"keyfront: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
