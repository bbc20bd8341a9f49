"""The shapes of an API, which are the types of its values, read from a description in botocore (`service-2.json`).

`botocore.model` reads the same descriptions. Its import brings an HTTP client and a TLS library with it, which every
start of the control plane would wait a quarter of a second for. `tests/model/test_shapes.py` compares the two.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

NOTHING: dict[str, Any] = {"type": "structure", "members": {}}


class Shape:
    """A structure, a list, or a scalar.

    :param traits: everything that the description says about it, in the description's words: `type`, `required`,
        `pattern`, `locationName`, and so on.
    """

    def __init__(self, name: str, traits: dict[str, Any], shapes: Shapes) -> None:
        self.name = name
        self.traits = traits
        self.type_name: str = traits["type"]
        self._shapes = shapes

    @cached_property
    def members(self) -> dict[str, Shape]:
        """A structure's members."""
        return {name: self._shapes.referred(to) for name, to in self.traits["members"].items()}

    @property
    def required_members(self) -> list[str]:
        required: list[str] = self.traits.get("required", [])
        return required

    @cached_property
    def member(self) -> Shape:
        """The shape of a list's items."""
        return self._shapes.referred(self.traits["member"])

    @property
    def enum(self) -> list[str]:
        """The values that a string may have; empty: any."""
        values: list[str] = self.traits.get("enum", [])
        return values


class Shapes:
    """The shapes of one description.

    :param definitions: the traits of each shape by its name.
    """

    def __init__(self, definitions: dict[str, dict[str, Any]]) -> None:
        self.definitions = definitions

    def referred(self, reference: dict[str, Any]) -> Shape:
        """The shape that a member, a list, or an operation refers to. Traits in the reference override the shape's."""
        name: str = reference["shape"]
        return Shape(name, {**self.definitions[name], **reference}, self)
