"""The options of a custody URI (after the question mark), and the reassembly of a URI from its parts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlencode

from keyfront.custody.local_handle import CHECK_EVERY
from keyfront.errors import CustodyError

SEGMENT = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}"
"""One path segment of a place. It cannot begin like `_records`, under which a place stores its records."""


def known(scheme: str, options: Mapping[str, str], names: tuple[str, ...]) -> None:
    """:raises CustodyError: if there is an option that the scheme does not define."""
    for option in options:
        if option not in names:
            raise CustodyError(f"{scheme}: has no option {option!r}: it has {', '.join(names)}")


def written(scheme: str, place: str, name: str, options: Mapping[str, str]) -> str:
    """Return the URI of a key in a place, or of the place itself if `name` is empty."""
    query = urlencode(options, safe="/:@")
    return f"{scheme}:{place}{name}" + (f"?{query}" if query else "")


def segments(scheme: str, place: str) -> list[str]:
    """Split a place into its segments: `a/b/` → `["a", "b"]`.

    :raises CustodyError: if one of them is not a valid segment.
    """
    inner = place.removesuffix("/")
    found = inner.split("/") if inner else []
    for segment in found:
        if not re.fullmatch(SEGMENT, segment):
            raise CustodyError(
                f"{scheme}:{place} is not a place: between the slashes are letters, digits, _ . and -, "
                "the first a letter or a digit"
            )
    return found


def check_every(options: Mapping[str, str]) -> float:
    """Return the seconds between a handle's checks whether its key may still sign.

    :raises CustodyError: if `check-every` is not a number of seconds.
    """
    text = options.get("check-every")
    if text is None:
        return CHECK_EVERY
    if not re.fullmatch(r"[0-9]{1,6}", text):
        raise CustodyError(f"check-every={text!r} is not a number of seconds")
    return float(text)


def yes(options: Mapping[str, str], option: str) -> bool:
    """:raises CustodyError: if the option is present and is neither `yes` nor `no`."""
    text = options.get(option, "no")
    if text not in ("yes", "no"):
        raise CustodyError(f"{option}={text!r}: say yes or no")
    return text == "yes"
