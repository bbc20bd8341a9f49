"""The `vault:` custody on a Vault or OpenBao server: keys in its KV engine (version 2) or in its transit engine.

    vault:kv/MOUNT/PATH…/NAME       keys stored there that sign in this process, and records  kv.py
    vault:transit/NAME              keys that sign in Vault                                   transit.py

Options: `address`, `namespace`, `ca-file`, and for authentication `token-file`, or `role-id` and `secret-id-source`
(server.py); for kv: `check-every`; for transit: `notes`, `exportable`, `check-every`.
"""

from __future__ import annotations

from collections.abc import Mapping

from keyfront.custody.adapters.vault.kv import KvRecords, KvTexts
from keyfront.custody.adapters.vault.server import OPTIONS, Server
from keyfront.custody.adapters.vault.transit import TransitCustody
from keyfront.custody.text_custody import TextCustody
from keyfront.custody.uri_options import check_every, known, segments, written, yes
from keyfront.errors import CustodyError


def open_vault(
    place: str, options: Mapping[str, str], environment: Mapping[str, str]
) -> TextCustody | TransitCustody:
    """Open the place in Vault that `place` names.

    :raises CustodyError: if it is invalid. Vault is not contacted yet.
    """
    match segments("vault", place):
        case ["kv", mount, *path]:
            return _kv(place, [mount, *path], options, environment)
        case ["transit", *path]:
            return _transit(place, path, options, environment)
    raise CustodyError(
        f"vault:{place} is not a place: use vault:kv/MOUNT/PATH/NAME, vault:transit/NAME or vault:transit/MOUNT/NAME"
    )


def _kv(
    place: str, path: list[str], options: Mapping[str, str], environment: Mapping[str, str]
) -> TextCustody:
    known("vault:kv/", options, (*OPTIONS, "check-every"))
    kept = dict(options)
    server, uri = Server(options, environment), written("vault", place, "", kept)
    mount, prefix = path[0], "".join(f"{segment}/" for segment in path[1:])
    return TextCustody(
        KvTexts(server, mount, prefix, uri),
        KvRecords(server, mount, f"{prefix}_records/", uri),
        lambda name: written("vault", place, name, kept),
        check_every(options),
    )


def _transit(
    place: str, path: list[str], options: Mapping[str, str], environment: Mapping[str, str]
) -> TransitCustody:
    known("vault:transit/", options, (*OPTIONS, "notes", "exportable", "check-every"))
    server, uri = Server(options, environment), written("vault", place, "", options)
    mount, notes = "/".join(path) or "transit", None
    if "notes" in options:
        kv = segments("notes", options["notes"])
        if not kv:
            raise CustodyError("notes=MOUNT/PATH names a KV engine, and where in it")
        prefix = "".join(f"{segment}/" for segment in [*kv[1:], "_transit", *mount.split("/")])
        notes = KvTexts(server, kv[0], prefix, f"the notes on {uri}")
    pattern = written("vault", place, "*", options)
    return TransitCustody(
        server, mount, pattern, notes, check_every(options), exportable=yes(options, "exportable")
    )
