"""Sizes on a command line: `64K`, `32M`, `10G`, `2T`, `0`."""

from __future__ import annotations

import re
from typing import Any

import click

from keyfront.cli.param_type import ParamType

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class SizeType(ParamType[int]):
    """A number of bytes, or of multiples of 1024 with K, M, G or T after it.

    :param least: the smallest size besides 0.
    """

    name = "size"

    def __init__(self, least: int = 0) -> None:
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(r"([0-9]{1,15})([KMGT]?)", str(value).upper())
        if found is None:
            self.fail(f"{value!r} is not a size, such as 64K, 10G or 0", param, ctx)
        size = int(found[1]) * _UNITS[found[2]]
        if 0 < size < self._least:
            self.fail(
                f"{value!r} is too small: the minimum is {size_text(self._least)}, or 0 for none", param, ctx
            )
        return size


def size_text(size: int) -> str:
    """The size as an option accepts it, in the largest unit that needs no fraction."""
    for unit, count in reversed(_UNITS.items()):
        if size and size % count == 0:
            return f"{size // count}{unit}"
    return "0"
