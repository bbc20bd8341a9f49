"""`keyfront regions`: what the edges of each region have, what is withheld from them, and what may be unintended."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click
import msgspec

from keyfront.cli.installation import InstallationOptions, installation_options
from keyfront.cli.options import json_option
from keyfront.cli.output import print_columns, print_json
from keyfront.runtime.settings import ACCOUNT

if TYPE_CHECKING:
    from keyfront.control.store.transaction import Transaction
    from keyfront.model.snapshot import Snapshot


class SeenEdge(msgspec.Struct, frozen=True):
    """A live edge: the number of the snapshot that it has applied, and why it refused a newer one, if known here."""

    name: str
    region: str
    snapshot: int
    refused: str = ""


class Tied(msgspec.Struct, frozen=True):
    """Something that is tied to regions."""

    what: str
    id: str
    name: str
    regions: tuple[str, ...]


class Share(msgspec.Struct, frozen=True):
    """What the edges of a region have, and what is withheld from them, by sorted IDs."""

    region: str
    edges: tuple[SeenEdge, ...]
    distributions: tuple[str, ...]
    key_groups: tuple[str, ...]
    public_keys: tuple[str, ...]
    withheld: dict[str, tuple[str, ...]]

    @property
    def applied(self) -> str:
        """The number of the snapshot that all edges of the region have applied."""
        return str(min(edge.snapshot for edge in self.edges)) if self.edges else "-"


KINDS = ("distributions", "key_groups", "public_keys")


def shares(whole: Snapshot, edges: Iterable[SeenEdge], names: Iterable[str]) -> list[Share]:
    """What each region of `names` gets of the snapshot `whole`; the empty name stands for edges in no region."""
    from keyfront.model.residency import for_region

    seen = tuple(edges)
    found = []
    for name in sorted(set(names)):
        part = for_region(whole, name)
        has = {kind: tuple(one.id for one in getattr(part, kind)) for kind in KINDS}
        lacks = {
            kind: tuple(one.id for one in getattr(whole, kind) if one.id not in set(has[kind]))
            for kind in KINDS
        }
        there = tuple(edge for edge in seen if edge.region == name)
        found.append(Share(name, there, **has, withheld=lacks))
    return found


@click.command()
@installation_options
@json_option
def regions(installation: InstallationOptions, as_json: bool) -> None:
    """Show the regions, what their edges have, and what is withheld from them."""
    from keyfront.backup.capture import compiled
    from keyfront.control.edges.registry import enrolled
    from keyfront.fleet.regions import remembered
    from keyfront.model.residency import warnings

    with installation.opened() as database:
        feeds = remembered(installation.data)
        with database.read() as transaction:
            whole = compiled(transaction, ACCOUNT)
            tied = _tied(transaction)
            reports = transaction.edges() if database.shared else []
            remote = [one for one in enrolled(transaction) if one.is_connected(time.time())]
    if database.shared:  # by all control planes on it
        edges = [SeenEdge(one.name, one.region, one.number) for one in reports]
    else:
        edges = [SeenEdge(one.name, one.region, one.number, one.refused) for one in feeds.reports()]
        edges += [SeenEdge(one.name, one.region, one.number) for one in remote]
    served = {edge.region for edge in edges} | {feed.region for feed in feeds.feeds}
    found = shares(whole, edges, served | {name for one in tied for name in one.regions})
    notes = [*_problems(whole, edges), *warnings(whole, served)]
    if as_json:
        document: dict[str, Any] = {
            "snapshot": whole.number,
            "regions": msgspec.to_builtins(found),
            "tied": msgspec.to_builtins(tied),
            "warnings": notes,
        }
        print_json(document)
        return
    click.echo(f"snapshot {whole.number}")
    print_columns(
        ("region", "edges", "applied", "distributions", "key groups", "public keys", "withheld"),
        [
            (
                share.region or "(none)",
                str(len(share.edges)),
                share.applied,
                str(len(share.distributions)),
                str(len(share.key_groups)),
                str(len(share.public_keys)),
                _withheld(share),
            )
            for share in found
        ],
    )
    if tied:
        click.echo("")
        print_columns(
            ("tied", "id", "name", "to"),
            [(one.what, one.id, one.name, " ".join(one.regions)) for one in tied],
        )
    for line in notes:
        click.echo(f"! {line}")


def _withheld(share: Share) -> str:
    counted = [
        f"{len(ids)} {kind.replace('_', ' ').removesuffix('s')}{'s' if len(ids) > 1 else ''}"
        for kind, ids in share.withheld.items()
        if ids
    ]
    return ", ".join(counted) or "nothing"


def _problems(whole: Snapshot, edges: Iterable[SeenEdge]) -> list[str]:
    found = []
    for edge in edges:
        if edge.refused:
            found.append(
                f"edge {edge.name} has applied snapshot {edge.snapshot} and refused another: {edge.refused}"
            )
        elif edge.snapshot != whole.number:
            found.append(f"edge {edge.name} has applied snapshot {edge.snapshot}, not {whole.number}")
    return found


def _tied(transaction: Transaction) -> list[Tied]:
    """Everything that has the tag, in use or not."""
    from keyfront.errors import SettingsError
    from keyfront.model.kinds import DISTRIBUTION
    from keyfront.model.residency import NOWHERE, TAG, regions_of

    found = []
    for (kind, id_), value in sorted(transaction.tag_values(TAG).items()):
        row = transaction.get(kind, id_)
        if row is None:
            continue
        try:
            where = regions_of(value)
        except SettingsError:
            where = NOWHERE
        if kind == DISTRIBUTION.name:
            aliases = row.config["Aliases"].get("Items") or ()
            found.append(
                Tied("distribution", id_, aliases[0] if aliases else row.attributes["DomainName"], where)
            )
        else:
            found.append(Tied("key group", id_, row.config["Name"], where))
    return found
