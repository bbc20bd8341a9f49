"""`keyfront completion`: the script with which a shell completes commands and options."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

SHELLS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@click.command()
@click.argument("shell", type=click.Choice(list(SHELLS)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script that makes SHELL complete the commands and options of keyfront.

    \b
        source <(keyfront completion bash)
        source <(keyfront completion zsh)
        keyfront completion fish | source
    """
    command = ctx.find_root().command
    click.echo(SHELLS[shell](command, {}, "keyfront", "_KEYFRONT_COMPLETE").source())
