"""`keyfront plan` and `keyfront apply`: a set-up that a file declares, against any CloudFront API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

_FILE = click.Path(path_type=Path)  # whether it is there is looked at later: exit status 2 may mean changes


def _options(command: click.Command) -> click.Command:
    """The options that both commands take."""
    for option in (
        click.option(
            "-e", "--environment", default="", metavar="NAME", help="Which of [environments] it is."
        ),
        click.option("--set", "given", multiple=True, metavar="NAME=VALUE", help="A variable's value."),
        click.option(
            "--endpoint-url",
            default="",
            help="The API's address; default: the file's, AWS_ENDPOINT_URL, or AWS.",
        ),
        click.option("--profile", default="", help="Profile in the credentials file."),
        click.option(
            "--delete", is_flag=True, help="Also delete what is this set-up's and no longer in FILE."
        ),
        click.option("--destroy", is_flag=True, help="Delete all that is this set-up's."),
        click.option("--adopt", is_flag=True, help="Take over what has the names in FILE and is not ours."),
        click.option("--json", "as_json", is_flag=True, help="For programs."),
    ):
        command = option(command)
    return command


@click.command("plan")
@click.argument("file", type=_FILE)
@click.option(
    "--detailed-exitcode", is_flag=True, help="Exit with 0: nothing to do, 1: an error, 2: changes."
)
@click.pass_context
def plan_command(ctx: click.Context, /, **said: Any) -> None:
    """Show what `keyfront apply` would do to reach the set-up that FILE declares. Changes nothing.

    \b
        keyfront plan site.toml --environment prod --endpoint-url http://127.0.0.1:8081
    """
    from keyfront.cli.apply import show_plan  # brings botocore's client, which no other command needs

    ctx.exit(show_plan(**said))


@click.command()
@click.argument("file", type=_FILE)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--wait", is_flag=True, help="Until every distribution is Deployed.")
@click.option(
    "--timeout", type=click.FloatRange(1), default=1800, show_default=True, help="Seconds to wait at most."
)
@click.pass_context
def apply(ctx: click.Context, /, **said: Any) -> None:
    """Make keys, key groups, policies and distributions what FILE declares.

    Run it again whenever you like: what is right already is left alone, and what was interrupted is finished.

    \b
        keyfront apply site.toml --environment prod --endpoint-url http://127.0.0.1:8081 --wait
    """
    from keyfront.cli.apply import carry_out  # as above

    ctx.exit(carry_out(**said))


plan_command = _options(plan_command)
apply = _options(apply)
