"""Writes docs/reference/configuration.md from the options of `keyfront up`: `python -m scripts.configuration`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import click

from keyfront.cli.config_file import FILE_NAME, keyed, toml_form, variable_of
from keyfront.cli.up import up_settings

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "configuration.md"

_HEAD = f"""# The configuration file

Written by `make docs` from the options of `keyfront up`. The [guide](../guide/configuration.md) says how the file is
found, checked, and reloaded.

`keyfront up` reads the file that `--config FILE` names, otherwise `{FILE_NAME}` in the data folder. Each table below is
a group of options, and each key has the name and the meaning of the option `--KEY`. A relative path starts at the
folder of the file, except in `region-feed` and `records`.
"""


def page() -> str:
    """The text of the page."""
    parts = [_HEAD]
    for table, options in groupby(keyed(up_settings), key=lambda row: row[0]):
        parts.append(f"\n## `[{table}]`\n\n| key | value | default | meaning |\n| --- | --- | --- | --- |\n")
        parts += (f"| {' | '.join(_row(name, option))} |\n" for _, name, option in options)
    return "".join(parts)


def _row(name: str, option: click.Option) -> Iterator[str]:
    meaning, _, default = (option.help or "").partition("  [")
    named = default.removesuffix("]").removeprefix("default: ") if default.startswith("default") else ""
    variable = variable_of(option)
    yield f"`{name}`"
    yield toml_form(option).replace("|", "\\|")
    yield named or _default(option)
    yield meaning.replace("|", "\\|") + (f" `{variable}` takes precedence." if variable else "")


def _default(option: click.Option) -> str:
    """The default as TOML; empty if there is none."""
    value = option.default
    if not isinstance(value, bool | int | float | str) or value == "":
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    as_number = "number" in toml_form(option) and option.type.name != "size"
    return f"`{float(value):.10g}`" if as_number else f'`"{value}"`'


def main() -> None:
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
