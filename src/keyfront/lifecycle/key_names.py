"""The names of a rotation's keys, in custody and at CloudFront."""

from __future__ import annotations

import hashlib
import re

from keyfront.custody.key_record import Entry


def key_name(group: str, key_group_id: str, number: int) -> str:
    """The name of the key with that number, in custody and at CloudFront. It depends only on the group and the number,
    so a key created before a crash is found afterward. Groups with the same name in two accounts get different key
    names."""
    return f"{key_prefix(group, key_group_id)}{number}"


def key_prefix(group: str, key_group_id: str) -> str:
    """The prefix shared by the names of all keys of a group."""
    legible = re.sub(r"[^A-Za-z0-9]+", "-", group)[:32].strip("-")
    digest = hashlib.sha256(f"{group}\0{key_group_id}".encode()).hexdigest()[:8]
    return f"{legible}-{digest}-" if legible else f"{digest}-"


def uri_of(place: str, name: str) -> str:
    """The URI of the key `name` in the custody `place`."""
    path, question, options = place.partition("?")
    return f"{path}{name}{question}{options}"


def name_of(uri: str) -> str:
    """The key's name from its URI."""
    return uri.partition("?")[0].rpartition("/")[2]


def named(entry: Entry) -> str:
    """The key's name in messages."""
    return f"{name_of(entry.uri)} ({entry.key_pair_id})" if entry.key_pair_id else name_of(entry.uri)
