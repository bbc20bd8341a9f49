"""`keyfront completion`: the script with which a shell completes commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from keyfront.errors import SettingsError


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script that makes SHELL complete the commands and options of keyfront.

    \b
        source <(keyfront completion bash)
        source <(keyfront completion zsh)
        keyfront completion fish | source
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise SettingsError(f"there is no completion for {shell}")
    command = ctx.find_root().command
    click.echo(kind(command, {}, "keyfront", "_KEYFRONT_COMPLETE").source())
