"""The `keyfront` command: parse, call, print. There is one file per command group, loaded when the group is called.

Every failure is one line on standard error that begins with `keyfront:`, and exit status 2, unless the command
documents another. No traceback reaches a user, unless KEYFRONT_TRACEBACK is set.

The modules import what belongs to an extra only inside functions, so that the plain install has every command's help.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from keyfront.errors import KeyfrontError, os_error_text
from keyfront.extras import missing_extra

COMMANDS = {
    "access": "access:access",
    "agent": "agent:agent",
    "alarm": "alarm:alarm",
    "apply": "declared:apply",
    "audit": "audit:audit",
    "backup": "backup:backup",
    "completion": "completion:completion",
    "config": "config:config",
    "custody": "custody:custody",
    "edge": "edge:edge",
    "env": "env:env",
    "explain": "explain:explain",
    "key": "key:key",
    "logs": "logs:logs",
    "plan": "declared:plan_command",
    "regions": "regions:regions",
    "reload": "reload:reload",
    "restart": "reload:restart",
    "rotation": "rotation:rotation",
    "sharing": "sharing:sharing",
    "sign": "sign:sign",
    "sign-cookies": "sign:sign_cookies",
    "status": "status:status",
    "store": "store:store_group",
    "trust": "trust:trust",
    "up": "up:up",
}
"""Each command: the module below `keyfront.cli` that defines it, and its name there."""

TRACEBACK_VARIABLE = "KEYFRONT_TRACEBACK"
FAILED = 2

_NO_ARGUMENTS: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())
"""Before 8.2, click printed the help and raised nothing."""

PROCESSES = {
    "control-process": "control_process:control_process",
    "edge-worker": "edge_worker:edge_worker",
    "feed-process": "feed_process:feed_process",
    "log-process": "log_process:log_process",
    "metrics-process": "metrics_process:metrics_process",
}
"""Commands that `keyfront up` runs, in the same form. The tracebacks of their faults belong in its log. They are not
listed, because their modules import everything that the process needs."""


class LazyGroup(click.Group):
    """A group of commands that imports a command's module when the command is looked up, so that no command waits for
    the imports of the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = COMMANDS.get(cmd_name) or PROCESSES.get(cmd_name)
        if place is None:
            return None
        module, _, attribute = place.partition(":")
        # The cyclic garbage collector takes a fifth of the time of the imports and finds nothing.
        gc.disable()
        try:
            command: click.Command = getattr(import_module(f"keyfront.cli.{module}"), attribute)
        finally:
            gc.freeze()
            gc.enable()
        return command

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line, and exit."""
        words = list(sys.argv[1:] if args is None else args)
        try:
            status = super().main(
                words,
                prog_name or "keyfront",
                complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                **extra,
            )
        except click.Abort:
            click.echo("keyfront: aborted", err=True)
            sys.exit(1)
        except _NO_ARGUMENTS as error:
            error.show()
            sys.exit(FAILED)
        except BrokenPipeError:
            # The reader of the output is gone, such as `head`. Python must not try to flush what remains.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except Exception as error:
            expected = isinstance(error, click.ClickException | KeyfrontError)
            if os.environ.get(TRACEBACK_VARIABLE) or (words[:1] and words[0] in PROCESSES and not expected):
                raise
            click.echo(f"keyfront: {failure_text(error)}", err=True)
            sys.exit(FAILED)
        sys.exit(status if isinstance(status, int) else 0)


def failure_text(error: Exception) -> str:
    """What to print about an error, in one line.

    An error that is neither Keyfront's, click's, nor the system's is a fault in Keyfront.
    """
    if isinstance(error, click.UsageError):
        help_ = f"; see `{error.ctx.command_path} --help`" if error.ctx is not None else ""
        text = f"{error.format_message().removesuffix('.')}{help_}"
    elif isinstance(error, click.ClickException):
        text = error.format_message()
    elif isinstance(error, KeyfrontError):
        text = str(error)
    elif isinstance(error, ModuleNotFoundError) and (missing := missing_extra(error)) is not None:
        text = str(missing)
    elif isinstance(error, OSError):
        text = os_error_text(error)
    else:
        text = (
            f"this is a fault in Keyfront ({type(error).__name__}: {error}): set {TRACEBACK_VARIABLE}=1, run the "
            "command again, and report what it prints"
        )
    return " ".join(line.strip() for line in text.splitlines())


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="keyfront")
def keyfront() -> None:
    """A private-content CDN that you run yourself and that speaks CloudFront."""


def main() -> None:
    if "KEYFRONT_HANDOVER" in os.environ:
        from keyfront.runtime.caretaker import guarded  # for the program that takes over at a restart

        guarded(keyfront)
    else:
        keyfront()


if __name__ == "__main__":
    main()
