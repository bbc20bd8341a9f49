"""Option groups that commands share: one decorator per group, whose values a command gets as one parameter."""

from __future__ import annotations

import functools
import getpass
import inspect
import os
import shlex
import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import click

from keyfront.custody.default_paths import (
    DATA_VARIABLE,
    INSTALLATION,
    default_data,
    local_folder,
    user_folder,
)

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]

_GROUPS: WeakKeyDictionary[click.Parameter, str] = WeakKeyDictionary()


def option_group(
    parameter: str, build: Callable[..., Any], *options: Decorator, names: Iterable[str] = ()
) -> Decorator:
    """A decorator that gives a command `options`, and their values as the one keyword argument `parameter`.

    :param build: called with the options' values, by the options' names; its result is the argument. It can be a
        settings class. The command raises what it raises.
    :param options: `click.option(…)`, in the order of the help text.
    :param names: the options' names, if they are not those of the parameters of `build`.
    """
    names = tuple(names) or tuple(inspect.signature(build).parameters)

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_group(*args: Any, **given: Any) -> Any:
            value = build(**{name: given.pop(name) for name in names})
            return command(*args, **given, **{parameter: value})

        # click collects a function's options in this list, which `functools.wraps` shares with the wrapped function.
        others = set(getattr(command, "__click_params__", ()))
        made = with_options(*options)(with_group)
        for param in set(getattr(made, "__click_params__", ())) - others:
            _GROUPS[param] = parameter.replace("_", "-")
        return made

    return decorate


def group_of(param: click.Parameter) -> str:
    """The group of an option: the name of the parameter that gets its values, with dashes; empty if it is in none."""
    return _GROUPS.get(param, "")


def with_options(*options: Decorator) -> Decorator:
    """A decorator that gives a command several options, in the order of the help text."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FILE_OR_STDIN = click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)

ALGORITHMS = {"ecdsa-p256": "ECDSA-P256", "rsa-2048": "RSA-2048"}
"""The kinds of keys as `--algorithm` names them, and as the signing core does."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print machine-readable output.")


def data_folder(named: Path | None, environment: Mapping[str, str] = os.environ) -> Path:
    """The absolute path of the data folder that a command uses. If it is not named and the choice is not obvious, it is
    printed to standard error.

    :param named: the value of `--data`.
    :raises SettingsError: if no data folder is named and the default cannot be determined.
    """
    if named is not None or environment.get(DATA_VARIABLE):
        return (named or default_data(environment)).absolute()
    here, users = local_folder(), user_folder(environment)
    if here is not None and (users / INSTALLATION).exists():
        click.echo(f"keyfront: using the data folder {here.absolute()}, not {users.absolute()}", err=True)
    return (here or users).absolute()


def data_words(folder: Path, environment: Mapping[str, str] = os.environ) -> str:
    """` --data FOLDER` for a printed command; empty if the command would use the folder anyway."""
    same = default_data(environment).absolute() == folder
    return "" if same else f" --data {shlex.quote(str(folder))}"


data_option = click.option(
    "--data",
    type=click.Path(path_type=Path),
    callback=lambda _, __, value: data_folder(value),
    help=f"The data folder.  [default: {DATA_VARIABLE}, or ./state, or the user's]",
)
"""The absolute path of the data folder as the parameter `data`."""


def login() -> str:
    """`USER@HOST` of the user who runs this command, for audit records."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):
        return f"uid {os.getuid()}@{socket.gethostname()}"
