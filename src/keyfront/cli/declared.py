"""`keyfront plan` and `keyfront apply`: a setup that a file declares, on any CloudFront API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from keyfront.cli.account import Selection, selection_options
from keyfront.cli.options import json_option, option_group, with_options

_FILE = click.Path(path_type=Path)  # its existence is checked later: exit status 2 may mean changes


_plan_options = with_options(
    click.option(
        "-e", "--environment", default="", metavar="NAME", help="Which of the file's [environments]."
    ),
    click.option(
        "--set", "given", multiple=True, metavar="NAME=VALUE", help="A variable's value; repeatable."
    ),
    option_group("selection", Selection, selection_options, names=("endpoint_url", "profile", "aws", "data")),
    click.option(
        "--delete", is_flag=True, help="Also delete resources of this setup that are no longer in FILE."
    ),
    click.option("--destroy", is_flag=True, help="Delete everything that belongs to this setup."),
    click.option(
        "--adopt",
        is_flag=True,
        help="Take over resources that have a name from FILE and do not belong to this setup.",
    ),
    json_option,
)


@click.command("plan")
@click.argument("file", type=_FILE)
@_plan_options
@click.option(
    "--detailed-exitcode", is_flag=True, help="Exit status 0: nothing to do, 1: an error, 2: changes."
)
@click.pass_context
def plan_command(ctx: click.Context, /, **options: Any) -> None:
    """Show what `keyfront apply` would do to reach the setup that FILE declares. Changes nothing.

    \b
        keyfront plan site.toml --environment prod
    """
    from keyfront.cli.apply import show_plan  # loads botocore, which is slow

    ctx.exit(show_plan(**options))


@click.command()
@click.argument("file", type=_FILE)
@_plan_options
@click.option("-y", "--yes", is_flag=True, help="Do not prompt.")
@click.option("--wait", is_flag=True, help="Wait until every distribution is Deployed.")
@click.option(
    "--timeout",
    type=click.FloatRange(1),
    default=1800,
    show_default=True,
    help="How long to wait, in seconds.",
)
@click.pass_context
def apply(ctx: click.Context, /, **options: Any) -> None:
    """Bring keys, key groups, policies and distributions to the state that FILE declares.

    Run it as often as you like: it leaves alone what is already right, and completes what was interrupted.

    \b
        keyfront apply site.toml --environment prod --wait
    """
    from keyfront.cli.apply import apply_plan  # likewise

    ctx.exit(apply_plan(**options))
