"""The logging options, for long-running commands."""

from __future__ import annotations

import logging

import click

from keyfront.cli.options import option_group
from keyfront.runtime.logs import Format, LogSettings

_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)


def log_settings(verbose: int, log_format: Format) -> LogSettings:
    """The values of the options `--verbose` and `--log-format`."""
    return LogSettings(_LEVELS[min(verbose, len(_LEVELS) - 1)], log_format)


logging_options = option_group(
    "logs",
    log_settings,
    click.option(
        "-v",
        "--verbose",
        count=True,
        help="Log what happens, not only warnings; -vv: with details for debugging.",
    ),
    click.option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="Log as text, or as one JSON object per line.",
    ),
)
"""Gives a command the options, and their values as the parameter `logs` (`LogSettings`)."""
