"""The configuration file of `keyfront up`: in TOML, a table for each group of options, with the options' names as keys.

    [edge]
    edge = "0.0.0.0:80"
    trusted-proxies = "10.0.0.0/8"

The options themselves define what the file may contain: a new option is in the file at once, and its type and callback
check both. A value comes from the first of these that sets it: the command line, the environment, the file, the
option's default (docs/decisions/0038-configuration-file.md).
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import click
import msgspec
from click.core import ParameterSource

from keyfront.cli.options import group_of
from keyfront.custody.default_paths import DATA_VARIABLE, RECORDS_VARIABLE, default_data
from keyfront.declared.locations import Places
from keyfront.declared.problems import Faults, nearest
from keyfront.errors import DeclarationError, KeyfrontError, SettingsError
from keyfront.runtime.settings import STORE_VARIABLE

FILE_NAME = "keyfront.toml"
"""The file in the data folder that is used if `--config` names none."""

VARIABLES = {"data": DATA_VARIABLE, "store": STORE_VARIABLE, "records": RECORDS_VARIABLE}
"""Options that click does not read from the environment, because the variable is used in place of the option."""

_OPTION = re.compile(r"--([a-z][a-z-]*)")


class ConfigFile(msgspec.Struct, frozen=True):
    """The file's values that apply, and the line of each, by the options' parameter names.

    The values are those of the file, not yet converted, in the form of click's `default_map`.
    """

    path: Path
    values: dict[str, Any] = {}
    lines: dict[str, int] = {}

    def place(self, parameter: str) -> str:
        """`FILE:LINE` of a value."""
        return f"{self.path}:{self.lines[parameter]}"


class ConfigContext(click.Context):
    """The context of a command with a configuration file.

    - `arguments`: the command line that was parsed.
    - `file`: the configuration file; None if there is none.
    """

    arguments: tuple[str, ...] = ()
    file: ConfigFile | None = None

    def located(self, error: SettingsError) -> SettingsError:
        """The error with the file and line of the first option that it names and that the file sets."""
        if self.file is not None:
            for option in _OPTION.findall(str(error)):
                parameter = option.replace("-", "_")
                if self.get_parameter_source(parameter) is ParameterSource.DEFAULT_MAP:
                    return SettingsError(f"{self.file.place(parameter)}: {error}")
        return error


class ConfigCommand(click.Command):
    """A command whose options can be in a configuration file, and whose help shows them by group."""

    context_class = ConfigContext

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """:raises SettingsError: if the configuration file cannot be read.
        :raises DeclarationError: if it is invalid.
        """
        own = cast(ConfigContext, ctx)
        own.arguments = tuple(args)
        named, _, _ = self.make_parser(ctx).parse_args(list(args))
        if not named.get("help") and not ctx.resilient_parsing:
            own.file = self._file(ctx, named)
            ctx.default_map = None if own.file is None else own.file.values
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SettingsError as error:
            raise cast(ConfigContext, ctx).located(error) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if (record := param.get_help_record(ctx)) is not None:
                groups.setdefault(group_of(param), []).append(record)
        for group in sorted(groups, key=lambda name: not name):
            with formatter.section(f"[{group}]" if group else "Options"):
                formatter.write_dl(groups[group])

    def _file(self, ctx: click.Context, named: Mapping[str, Any]) -> ConfigFile | None:
        config = named.get("config")
        data = Path(str(named["data"])) if "data" in named else None
        if isinstance(config, str):
            return read_file(Path(config), self, ctx, os.environ)
        folder = data or default_data()
        path = folder / FILE_NAME
        try:
            if not path.exists():
                return None
        except OSError as error:
            raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
        return read_file(path, self, ctx, os.environ, of_folder=True)


def keyed(command: click.Command) -> Iterator[tuple[str, str, click.Option]]:
    """Each option that can be in the file, with its table and its key."""
    for param in command.params:
        if isinstance(param, click.Option) and group_of(param):
            yield group_of(param), key(param), param


def key(option: click.Option) -> str:
    """The option's key in the file: its long name."""
    return max(option.opts, key=len).lstrip("-")


def read_file(
    path: Path,
    command: click.Command,
    ctx: click.Context,
    environment: Mapping[str, str],
    *,
    of_folder: bool = False,
) -> ConfigFile:
    """Read the configuration file of `command`, and check each of its values on its own.

    :param of_folder: the file is in the data folder, so it cannot name another one.
    :raises SettingsError: if the file cannot be read.
    :raises DeclarationError: naming file, line, table, and key of each fault.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        top = tomllib.loads(text)
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DeclarationError(f"{path}: this is not UTF-8 text, so it is not TOML") from None
    except tomllib.TOMLDecodeError as error:
        raise DeclarationError(f"{path}: this is not TOML: {error}") from None
    places = Places(text)
    faults = Faults(str(path), places)
    tables: dict[str, dict[str, click.Option]] = {}
    for table, name, option in keyed(command):
        tables.setdefault(table, {})[name] = option
    found = ConfigFile(path.absolute())
    for table, name, value in _entries(top, tables, faults):
        option = tables[table][name]
        parameter = option.name or ""
        if of_folder and parameter == "data":
            faults.add(
                (table, name),
                "this file is in the data folder, so it cannot name one: move it, and use --config",
            )
            continue
        fault, value = _checked(option, value, path, ctx)
        if fault:
            faults.add((table, name), fault)
        elif not _from_environment(option, environment):
            found.values[parameter] = value
            found.lines[parameter] = places.line((table, name)) or 1
    faults.check()
    return found


def _entries(
    top: dict[str, Any], tables: Mapping[str, Mapping[str, click.Option]], faults: Faults
) -> Iterator[tuple[str, str, Any]]:
    """The known keys of the file, each with its table and its value."""
    for table, values in top.items():
        if not isinstance(values, dict):
            homes = [name for name, keys in tables.items() if table in keys]
            if homes:
                faults.add((table,), f"this key belongs in the table [{homes[0]}]")
            elif table in tables:
                faults.add((table,), f"must be a table: [{table}]")
            else:
                faults.unknown((table,), tables, "table or key")
        elif table not in tables:
            faults.unknown((table,), tables, "table")
        else:
            for name, value in values.items():
                if name in tables[table]:
                    yield table, name, value
                    continue
                elsewhere = [other for other, keys in tables.items() if name in keys]
                if elsewhere:
                    faults.add((table, name), f"this key belongs in the table [{elsewhere[0]}]")
                else:
                    every = {other for keys in tables.values() for other in keys}
                    close = nearest(name, tables[table])
                    close = close if "did you mean" in close else nearest(name, every) or close
                    faults.add((table, name), f"there is no such key{close}")


def _checked(option: click.Option, value: Any, path: Path, ctx: click.Context) -> tuple[str, Any]:
    """What is wrong with the value, empty if nothing is, and the value for click: relative paths start at the file."""
    allowed, form = _form(option)
    if not allowed(value):
        return f"must be {form}", value
    if isinstance(option.type, click.Path):
        value = str(path.absolute().parent / value)
    try:
        option.process_value(ctx, value)
    except click.BadParameter as error:
        return error.message.removesuffix("."), value
    except KeyfrontError as error:
        return str(error), value
    return "", value


def _form(option: click.Option) -> tuple[Any, str]:
    """A test of the TOML type of the option's value, and the type in words."""
    if option.multiple:
        return (
            lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value),
            'a list of strings, such as ["…", "…"]',
        )
    if option.is_flag:
        return (lambda value: isinstance(value, bool)), "true or false"
    if option.count or isinstance(option.type, click.IntRange):
        return (lambda value: type(value) is int), "a whole number"
    if isinstance(option.type, click.FloatRange) or option.type.name == "seconds":
        return (lambda value: type(value) in (int, float)), "a number"
    if option.type.name == "size":
        return (lambda value: type(value) in (int, str)), 'a size: "64K", "10G", or a number of bytes'
    return (lambda value: isinstance(value, str)), "a string"


def toml_form(option: click.Option) -> str:
    """The TOML type of the option's value, in words."""
    return _form(option)[1]


def _from_environment(option: click.Option, environment: Mapping[str, str]) -> bool:
    """Whether an environment variable takes precedence over the file."""
    return bool(environment.get(variable_of(option)))


def variable_of(option: click.Option) -> str:
    """The environment variable that sets the option; empty if there is none."""
    return str(option.envvar or VARIABLES.get(option.name or "", ""))


def effective(ctx: ConfigContext, command: click.Command) -> Iterator[tuple[str, str, str, str]]:
    """Each option with its table, its key, its value as TOML (empty if it is not set), and the value's source."""
    for table, name, option in keyed(command):
        parameter = option.name or ""
        source = ctx.get_parameter_source(parameter)
        value = ctx.params[parameter]
        origin = "default"
        variable = variable_of(option)
        if source is ParameterSource.COMMANDLINE:
            origin = "command line"
        elif variable and os.environ.get(variable):
            origin = variable
            value = os.environ[variable]
        elif source is ParameterSource.DEFAULT_MAP and ctx.file is not None:
            origin = ctx.file.place(parameter)
        yield table, name, _toml(option, value), origin


def _toml(option: click.Option, value: Any) -> str:
    from keyfront.cli.sizes import size_text
    from keyfront.runtime.settings import without_any_password

    if value is None or value == "":
        return ""
    if option.name == "store":
        value = without_any_password(str(value))
    if isinstance(value, bool):
        return str(value).lower()
    if option.type.name == "size":
        value = size_text(value)
    elif isinstance(option.type, _duration()):
        value = f"{value:.0f}s"
    elif isinstance(value, int | float):
        return f"{value:.10g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(_string(str(each)) for each in value)}]"
    return _string(str(value))


def _duration() -> type:
    from keyfront.cli.durations import DurationType

    return DurationType


def _string(text: str) -> str:
    """A TOML basic string, which JSON's escapes are valid in."""
    return msgspec.json.encode(text).decode()
