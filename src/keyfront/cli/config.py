"""`keyfront config`: check the configuration file of `keyfront up`, and show the values in effect."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, cast

import click

from keyfront.cli.config_file import FILE_NAME, ConfigCommand, ConfigContext, effective
from keyfront.cli.main import FAILED
from keyfront.cli.options import data_words
from keyfront.cli.up import up_settings
from keyfront.custody.default_paths import default_data
from keyfront.errors import DeclarationError, SettingsError


@click.group()
def config() -> None:
    """The configuration file of `keyfront up`."""


@config.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option(
    "--data", type=click.Path(path_type=Path), help="The data folder.  [default: as for the others]"
)
def check(file: Path | None, data: Path | None) -> None:
    """Check FILE, by default DATA/keyfront.toml, as `keyfront up` would. Starts nothing.

    Exit status 0: it can be used; 2: it cannot, and each line names a fault.
    """
    folder = data or default_data()
    if file is None:
        file = folder / FILE_NAME
        if not file.is_file():
            raise SettingsError(
                f"there is no {file}: create it with "
                f"`keyfront config show{data_words(folder.absolute())} > {shlex.quote(str(file))}`"
            )
    try:
        arguments = ["--config", str(file), *(["--data", str(data)] if data else [])]
        with up_settings.make_context("keyfront up", arguments) as ctx:
            up_settings.invoke(ctx)
    except DeclarationError as error:
        for line in str(error).splitlines():
            click.echo(f"keyfront: {line}", err=True)
        raise click.exceptions.Exit(FAILED) from None
    click.echo(f"{file} is valid")


@config.command(cls=ConfigCommand, params=up_settings.params)
@click.pass_context
def show(ctx: click.Context, /, **_: Any) -> None:
    """Print the values that `keyfront up` with the same options would use, and where each comes from.

    The output is a valid configuration file. Options that are not set are comments.
    """
    before = ""
    for table, name, value, origin in effective(cast(ConfigContext, ctx), up_settings):
        if table != before:
            click.echo(f"{chr(10) if before else ''}[{table}]")
            before = table
        if name == "data":
            click.echo(f"# {name} = {value}  # {origin}")
        else:
            click.echo(f"{name} = {value}  # {origin}" if value else f"# {name} =")
