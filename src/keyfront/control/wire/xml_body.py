"""XML bodies: conversion of the model's structures to elements and back.

parse(body)                          -> the document, within limits and without entities
read(shape, element, path, faults)   -> its value in botocore's shape
write(shape, value, name, out)       -> a value's text
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element, ParseError, TreeBuilder  # values only: defusedxml parses

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import XMLParser

from keyfront.control.wire.scalars import Faults, camel, check_length, parse_scalar, scalar_text
from keyfront.errors import ApiError
from keyfront.model.service import NAMESPACE
from keyfront.model.shapes import Shape

BODY_LIMIT = 1024 * 1024
DEPTH_LIMIT = 32
ELEMENT_LIMIT = 50_000
NAME_LIMIT = 256
"""Maximum length of an element's name with its namespace, characters; longer names would inflate messages and
records."""

DECLARATION = '<?xml version="1.0"?>\n'


class _Tree(TreeBuilder):
    """A tree builder that limits depth and size."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = self.size = 0

    def start(self, tag: str, attrs: dict[str, str], /) -> Element:
        self.depth += 1
        self.size += 1
        if self.depth > DEPTH_LIMIT or self.size > ELEMENT_LIMIT:
            raise ParseError("too deep or too many elements")
        if len(tag) > NAME_LIMIT:
            raise ParseError("an element's name is too long")
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> Element:
        self.depth -= 1
        return super().end(tag)


def parse(body: bytes) -> Element:
    """Parse a document.

    :raises ApiError: MalformedInput if it is too long, too deep, not well-formed, or has a DTD.
    """
    if len(body) > BODY_LIMIT:
        raise ApiError("MalformedInput", f"The XML document is longer than {BODY_LIMIT} bytes", status=413)
    parser = XMLParser(target=_Tree(), forbid_dtd=True)
    try:
        parser.feed(body)
        root: Element = parser.close()
    except DefusedXmlException:
        raise ApiError("MalformedInput", "Invalid XML document: a DTD is not allowed") from None
    except (ParseError, ValueError, LookupError) as error:  # the last two: encodings that Python lacks
        raise ApiError("MalformedInput", f"Invalid XML document: {error}") from None
    return root


def local(node: Element) -> str:
    """The node's name without the namespace.

    :raises ApiError: MalformedXML if the namespace is neither CloudFront's nor empty.
    """
    namespace, _, name = node.tag.rpartition("}")
    if namespace not in {"", "{" + NAMESPACE}:
        raise ApiError("MalformedXML", f"The element {name} is in a namespace other than {NAMESPACE}")
    return name


def read(shape: Shape, node: Element, path: str, faults: Faults) -> Any:
    """The value of `node` in the shape. Faults are added to `faults`, located by `path`."""
    if shape.type_name == "structure":
        return structure(shape, shape.members, node, path, faults)
    if shape.type_name == "list":
        children = list(node)
        name = shape.member.traits.get("locationName", "member")
        for child in children:
            if local(child) != name:
                faults.add(path, f"Element {local(child)} is not known here; items are named {name}", None)
        _no_text(node, path, faults)
        return _items(shape, [child for child in children if local(child) == name], path, faults)
    if len(node):
        faults.add(path, f"Element {local(node[0])} is not known here", None)
    return parse_scalar(shape, node.text or "", path, faults)


def structure(
    shape: Shape, members: Mapping[str, Shape], node: Element, path: str, faults: Faults
) -> dict[str, Any]:
    """A structure with `members` only; of an operation's input these are the members in the body."""
    by_name = {_element_name(kind, member): member for member, kind in members.items()}
    found: dict[str, list[Element]] = {}
    for child in node:
        name = local(child)
        if name in by_name:
            found.setdefault(by_name[name], []).append(child)
        elif _requests_something(child):
            faults.unknown(path, name)
    _no_text(node, path, faults)
    value: dict[str, Any] = {}
    for member, kind in members.items():
        inner = f"{path}.{camel(member)}" if path else camel(member)
        nodes = found.get(member)
        if nodes is None:
            if member in shape.required_members:
                faults.null(inner)
        elif _flattened(kind):
            value[member] = _items(kind, nodes, inner, faults)
        elif len(nodes) > 1:
            faults.add(inner, "Member must be given once", None)
        else:
            value[member] = read(kind, nodes[0], inner, faults)
    if shape.traits.get("union") and len(found) != 1:
        faults.add(path, "Exactly one member must be set", None)
    return value


def _requests_something(node: Element) -> bool:
    """True if an unknown element holds anything but empty, false, or no items. Clients send such defaults for all
    members that they know."""
    text = (node.text or "").strip(" \t\r\n")
    if len(node):
        return bool(text) or any(map(_requests_something, node))
    return text not in ({"", "0"} if node.tag.endswith("Quantity") else {"", "false"})


def _items(shape: Shape, nodes: list[Element], path: str, faults: Faults) -> list[Any]:
    check_length(shape, len(nodes), path, faults, None)
    return [
        read(shape.member, node, f"{path}.{number}.member", faults) for number, node in enumerate(nodes, 1)
    ]


def _no_text(node: Element, path: str, faults: Faults) -> None:
    texts = [node.text, *(child.tail for child in node)]
    if any(text and text.strip(" \t\r\n") for text in texts):
        faults.add(path, "Member must not hold text", None)


def _flattened(shape: Shape) -> bool:
    return bool(shape.type_name == "list" and shape.traits.get("flattened"))


def _element_name(shape: Shape, member: str) -> str:
    """A member's name in XML; a flattened list has the name of its items."""
    name = shape.traits.get("locationName", member)
    return str(shape.member.traits.get("locationName", name) if _flattened(shape) else name)


# ---- values to XML

_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write(shape: Shape, value: Any, name: str, out: list[str], attributes: str = "") -> None:
    """Append `value` to `out` as the element `name`, with its members in the model's order.

    :raises KeyError: if a structure has a member that the model lacks.
    """
    if _flattened(shape):
        for item in value:
            write(shape.member, item, name, out)
        return
    out.append(f"<{name}{attributes}>")
    if shape.type_name == "structure":
        unknown = value.keys() - shape.members.keys()
        if unknown:
            raise KeyError(f"{shape.name} has no {', '.join(sorted(unknown))}")
        for member, kind in shape.members.items():
            inner = value.get(member)
            if inner is not None and "location" not in kind.traits:
                write(kind, inner, _element_name(kind, member), out)
    elif shape.type_name == "list":
        item_name = shape.member.traits.get("locationName", "member")
        for item in value:
            write(shape.member, item, item_name, out)
    else:
        out.append(escaped(scalar_text(shape, value)))
    out.append(f"</{name}>")


def escaped(text: str) -> str:
    """`text` escaped for XML: a carriage return becomes a reference, and a character that XML cannot represent becomes
    U+FFFD."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", "&#xD;")
    return _ILLEGAL.sub("\ufffd", text)
