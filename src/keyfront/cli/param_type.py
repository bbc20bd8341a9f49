"""click's parameter types, generic in every supported version: before 8.4, click's own are not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    ParamType = click.ParamType
else:

    class ParamType(click.ParamType):
        """The base class of parameter types. `ParamType[int]` is for type checkers."""

        def __class_getitem__(cls, _item: Any) -> type:
            return cls
