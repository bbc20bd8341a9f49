"""`keyfront status`: what runs in a data folder, and what needs attention (docs/guide/status.md).

Everything that can be read is shown; what cannot be read is a warning. Exit status: 0 all is well; 1 something needs
attention; 2 the command failed; 3 it is not running.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from keyfront.cli.account import Account, Selection, choose, unwatched
from keyfront.cli.durations import duration_text
from keyfront.cli.installation import InstallationOptions
from keyfront.cli.options import data_folder, data_words, json_option
from keyfront.cli.output import iso_text, minute_text, print_columns
from keyfront.custody.default_paths import Installation, installation, own_custody
from keyfront.errors import KeyfrontError, SettingsError
from keyfront.runtime.installation import is_running

if TYPE_CHECKING:
    from keyfront.control.identity.sealing import Sealer
    from keyfront.fleet.feed import Report

ATTENTION, NOT_RUNNING = 1, 3

CERTIFICATE_DAYS = 14
"""Days before its end from which a certificate is a warning. ACME clients renew theirs 30 days before."""
HEALTH_TIMEOUT = 10.0
"""Seconds to wait for /healthz, whose slowest check takes five."""


class Edge(msgspec.Struct, frozen=True):
    """An edge worker, and the number of the snapshot that it applies; None if it has applied none. `reported` is the
    epoch second of its last report."""

    name: str
    region: str
    snapshot: int | None
    reported: float


class Rotation(msgspec.Struct, frozen=True):
    """A rotated key group: the key that signs, and what comes next. `due` is epoch seconds; None if a step is due
    now, or no step is known."""

    group: str
    signing: str
    next: str
    due: float | None
    attention: bool


class Certificate(msgspec.Struct, frozen=True):
    """`ends` is epoch seconds."""

    name: str
    hosts: tuple[str, ...]
    ends: float


class Ringing(msgspec.Struct, frozen=True):
    """An alarm in the state ALARM, `since` an epoch second."""

    name: str
    since: float
    reason: str


class Disk(msgspec.Struct, frozen=True):
    """The file system of the data folder, in bytes, and how much of it each part of the data folder takes."""

    free: int
    total: int
    used: dict[str, int]


class Status(msgspec.Struct):
    """What a data folder's Keyfront does. `version` is the version that runs, `snapshot` the number of the published
    snapshot, `follows` what an enrolled edge follows."""

    data: str
    running: bool
    version: str
    command_version: str
    found: Installation
    snapshot: int | None = None
    counts: dict[str, int] = {}
    follows: str = ""
    edges: tuple[Edge, ...] = ()
    rotations: tuple[Rotation, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    disk: Disk | None = None
    alarms: tuple[Ringing, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def may_open_store(self) -> bool:
        """Whether the running Keyfront has the schema of this version; opening the store upgrades an older one."""
        return self.running and self.version == self.command_version

    @property
    def exit_status(self) -> int:
        return NOT_RUNNING if not self.running else ATTENTION if self.warnings else 0


@click.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="The data folder.  [default: KEYFRONT_DATA, or ./state, or the user's]",
)
@json_option
def status(data: Path | None, as_json: bool) -> None:
    """Show what runs, what the edges apply, rotations, certificates, disk space, and what needs attention.

    Exit status 0: all is well; 1: something needs attention; 3: it is not running.
    """
    folder = data_folder(data)
    found = installation(folder)
    if found is None:
        raise SettingsError(
            f"no Keyfront was ever started in {folder}: start it with "
            f"`keyfront up --data {shlex.quote(str(folder))}`"
        )
    shown = survey(folder, found, time.time())
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(status_json(shown))).decode())
    else:
        print_status(shown, time.time())
    sys.exit(shown.exit_status)


# ---- collecting


def survey(folder: Path, found: Installation, now: float) -> Status:
    """Collect everything about the Keyfront of a data folder.

    :param now: epoch seconds.
    """
    from importlib.metadata import version

    running = is_running(folder)
    own = version("keyfront")
    result = Status(str(folder), running, found.version, own, found)
    warnings: list[str] = []
    if running and found.version != own:
        warnings.append(f"Keyfront {found.version or '(older)'} runs, and {own} is installed: restart it")
    _snapshot_and_edges(folder, result, warnings, now)
    result.follows = _follows(folder)
    if running:
        warnings += _link(folder, now)
    if found.control:
        if running:
            warnings += _health(found.control)
        _rotations(folder, result, warnings, now)
        _alarms(folder, result, warnings)
    if found.certificates:
        _certificates(result, warnings, now)
    _disk(folder, result, warnings)
    warnings += log_warnings(folder, now)
    result.warnings = tuple(dict.fromkeys(warnings))
    return result


def _follows(folder: Path) -> str:
    """The control plane, or the bucket in NATS, that an enrolled edge follows; empty if it is not one."""
    from keyfront.fleet.remote import is_enrolled

    if not is_enrolled(folder):
        return ""
    from keyfront.fleet.remote.enrollment import EdgeFiles

    try:
        return EdgeFiles(folder).edge().follows
    except SettingsError:
        return ""  # it does not run either


def _link(folder: Path, now: float) -> list[str]:
    """Why an enrolled edge has no connection to a control plane."""
    from keyfront.fleet.remote import is_enrolled

    if not is_enrolled(folder):
        return []
    from keyfront.fleet.remote.enrollment import EdgeFiles

    link = EdgeFiles(folder).link()
    if link is None or link.control:
        return []
    return [f"no control plane for {duration_text(max(now - link.since, 0))}: {link.trouble}"]


def _health(control: str) -> list[str]:
    """The reasons for which the running Keyfront reports itself as failing."""
    import urllib.error
    import urllib.request

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        try:
            with opener.open(f"{control}/healthz", timeout=HEALTH_TIMEOUT) as response:
                body = response.read()
        except urllib.error.HTTPError as error:  # 503, with the reasons
            body = error.read()
        answer = msgspec.json.decode(body)
        reasons = [f"{name}: {reason}" for name, all_ in answer["reasons"].items() for reason in all_]
        return [*reasons, *answer.get("notes", ())]
    except (OSError, ValueError, KeyError, AttributeError, TypeError, msgspec.MsgspecError) as error:
        reason = getattr(error, "reason", None) or error
        return [f"the control plane at {control} does not answer: {reason}"]


def _snapshot_and_edges(folder: Path, result: Status, warnings: list[str], now: float) -> None:
    from keyfront.fleet.file_feed import FileFeed
    from keyfront.fleet.regions import remembered

    try:
        feeds = (FileFeed(result.found.feed),) if result.found.feed else remembered(folder).feeds
    except KeyfrontError as error:
        warnings.append(str(error))
        return
    own = feeds[0].published()
    reports = [report for feed in feeds for report in feed.reports()]
    if own is not None:
        result.snapshot = own.number
        result.counts = {
            "distributions": len(own.distributions),
            "key_groups": len(own.key_groups),
            "public_keys": len(own.public_keys),
        }
    result.edges = (
        *(_edge(each) for each in reports),
        *_edges_of_others(folder, result, warnings, reports),
        *_enrolled(folder, result, warnings, now),
    )
    if not result.running:
        return
    for report in reports:
        if report.refused:
            warnings.append(f"edge {report.name} refused a snapshot: {report.refused}")
    for edge in result.edges:
        if result.snapshot is not None and edge.snapshot != result.snapshot:
            warnings.append(
                f"edge {edge.name} applies snapshot {edge.snapshot or 'none'}, not {result.snapshot}"
            )
    if not result.edges:
        warnings.append("no edge has reported in the last seconds")


def _edge(report: Report) -> Edge:
    return Edge(report.name, report.region, report.number or None, report.at)


def _enrolled(folder: Path, result: Status, warnings: list[str], now: float) -> list[Edge]:
    """The edges on other machines that follow over HTTPS, and warnings about those that are not connected."""
    from keyfront.control.edges.registry import EdgeRegistry
    from keyfront.runtime.settings import ACCOUNT

    if result.found.feed or not result.may_open_store:
        return []
    try:
        with InstallationOptions(folder, "", None).opened() as store:
            found = EdgeRegistry(store, ACCOUNT, _no_secrets, by="keyfront status").edges()
    except (KeyfrontError, OSError) as error:
        warnings.append(f"the enrolled edges cannot be read: {error}")
        return []
    there = [one for one in found if one.revoked is None]
    for one in there:
        if not one.is_connected(now):
            warnings.append(f"edge {one.name} is not connected; last seen: {minute_text(one.seen, 'never')}")
    return [
        Edge(one.name, one.region, one.number or None, one.seen or 0.0)
        for one in there
        if one.is_connected(now)
    ]


def _no_secrets() -> Sealer:
    raise SettingsError("the status needs no secrets")


def _edges_of_others(folder: Path, result: Status, warnings: list[str], known: list[Report]) -> list[Edge]:
    """The edges of the other control planes that share the store."""
    if not result.found.store or not result.may_open_store:
        return []
    names = {report.name for report in known}
    try:
        with (
            InstallationOptions(folder, "", None).opened() as store,
            store.read() as transaction,
        ):
            rows = transaction.edges() if store.shared else ()
            return [Edge(row.name, row.region, row.number, 0.0) for row in rows if row.name not in names]
    except (KeyfrontError, OSError) as error:
        warnings.append(f"the store: {error}")
        return []


def _alarms(folder: Path, result: Status, warnings: list[str]) -> None:
    """The alarms that ring, each of which is a warning."""
    from keyfront.control.alarms.definition import KIND

    if not result.may_open_store:
        return
    try:
        with InstallationOptions(folder, "", None).opened() as store, store.read() as transaction:
            rows = transaction.get_many(KIND, transaction.versions(KIND))
    except (KeyfrontError, OSError) as error:
        warnings.append(f"the alarms cannot be read: {error}")
        return
    result.alarms = tuple(
        Ringing(row.id, row.attributes["StateTransitioned"], row.attributes["StateReason"])
        for row in rows
        if row.attributes["StateValue"] == "ALARM"
    )
    for each in result.alarms:
        warnings.append(f"the alarm {each.name} rings since {minute_text(each.since, '-')}: {each.reason}")


def _rotations(folder: Path, result: Status, warnings: list[str], now: float) -> None:
    """The rotations that the Keyfront watches, warnings about keys, and records that nothing watches."""
    from keyfront.custody.schemes import open_records
    from keyfront.lifecycle.findings import Severity, findings
    from keyfront.lifecycle.inventory import Account as Inventory
    from keyfront.lifecycle.inventory import survey as keys_of

    selection = Selection(data=folder)
    try:
        account = choose(selection)
        account = msgspec.structs.replace(account, options=data_words(folder))
    except KeyfrontError as error:
        warnings.append(str(error))
        return
    _unwatched(account, result, warnings)
    if not result.running:
        return
    try:
        api = Inventory(account.endpoint_url, account.profile, credentials=account.credentials)
        facts = keys_of(api, open_records(account.records), os.environ, warnings.append, account.commands())
        for each in findings(facts, now):
            if each.severity >= Severity.WARNING:
                warnings.append(f"{each.sentence}. {each.advice}")
        result.rotations = tuple(_rotation_states(account, warnings))
    except (KeyfrontError, OSError) as error:
        warnings.append(str(error))


def _rotation_states(account: Account, warnings: list[str]) -> list[Rotation]:
    from keyfront.custody.schemes import open_records
    from keyfront.lifecycle.cloudfront import CloudFront
    from keyfront.lifecycle.executor import RotationExecutor
    from keyfront.lifecycle.key_names import name_of
    from keyfront.lifecycle.rotation import Step, Wait, next_step

    api = CloudFront(account.endpoint_url, account.profile, credentials=account.credentials)
    executor = RotationExecutor(api, open_records(account.records), os.environ, options=account.options)
    states = []
    for group in executor.groups():
        try:
            facts = executor.facts(executor.versioned(group))
            following = next_step(facts, executor.now())
        except KeyfrontError as error:
            warnings.append(f"the rotation of {group}: {error}")
            continue
        signing = facts.record.signing
        name = name_of(signing.uri) if signing is not None else ""
        if isinstance(following, Step):
            text = f"{following.action.value} {following.name}: {following.reason}"
            states.append(Rotation(group, name, text, None, False))
        elif isinstance(following, Wait):
            states.append(Rotation(group, name, following.reason, following.until, following.attention))
            if following.attention:
                warnings.append(f"the rotation of {group}: {following.reason}")
        else:
            states.append(Rotation(group, name, "nothing to do", None, False))
    return states


def _unwatched(account: Account, result: Status, warnings: list[str]) -> None:
    """Records that exist, but whose steps no running Keyfront performs."""
    found = result.found
    if result.running and (why := unwatched(account)) and _groups(account.records, warnings):
        warnings.append(why)
    own = own_custody(account.data)
    if found.records != own and (account.data / "custody").is_dir():
        # Records of before `--records` was given, or of a command that did not know about it.
        for group in _groups(own, warnings):
            options = f"{account.options} --records {shlex.quote(own)}"
            warnings.append(
                f"nothing watches the rotation of {group} in {own}, because Keyfront watches {found.records}: "
                f"perform its steps with `keyfront rotation run{options}`, or end it with "
                f"`keyfront rotation stop {shlex.quote(group)}{options}`"
            )


def _groups(uri: str, warnings: list[str]) -> list[str]:
    from keyfront.custody.schemes import open_records
    from keyfront.lifecycle.inventory import read_records

    try:
        return [each.group for each in read_records(open_records(uri), warnings.append) or ()]
    except KeyfrontError as error:
        warnings.append(str(error))
        return []


def _certificates(result: Status, warnings: list[str], now: float) -> None:
    from keyfront.edge.net.certificates import Certificates

    try:
        local = result.found.local_certificates
        loaded = Certificates(
            Path(result.found.certificates), now, warnings.append, Path(local) if local else None
        ).loaded
    except KeyfrontError as error:
        warnings.append(str(error))
        return
    result.certificates = tuple(
        Certificate(name, tuple(sorted(each.names)), each.ends) for name, each in sorted(loaded.items())
    )
    for each in result.certificates:
        left = each.ends - now
        if 0 < left < CERTIFICATE_DAYS * 86400:
            warnings.append(f"the certificate {each.name} expires on {minute_text(each.ends, '')}")


def log_warnings(folder: Path, now: float) -> list[str]:
    """What is wrong with the delivery of standard logs.

    :param now: epoch seconds.
    """
    from keyfront.edge.logs.delivery import STATUS_FILE, read_status

    status = read_status(folder)
    if status is None:
        return []
    warnings = []
    if status.problem:
        since = f" for {duration_text(max(now - status.waiting_since, 0))}" if status.waiting_since else ""
        warnings.append(f"{status.waiting_files} log files wait to be delivered{since}: {status.problem}")
    if status.dropped:
        warnings.append(
            f"{status.dropped} records for standard logs were dropped, because more than --log-waiting waited; to "
            f"forget this, remove {folder / STATUS_FILE} while Keyfront is stopped"
        )
    return warnings


def _disk(folder: Path, result: Status, warnings: list[str]) -> None:
    from keyfront.runtime.machine_trouble import is_nearly_full

    try:
        system = os.statvfs(folder)
    except OSError as error:
        warnings.append(f"the data folder {folder}: {error.strerror}")
        return
    free, total = system.f_bavail * system.f_frsize, system.f_blocks * system.f_frsize
    parts = {
        "store": ["keyfront.db", "keyfront.db-wal"],
        "cache": ["cache"],
        "logs": ["logs"],
        "custody": ["custody"],
    }
    used = {part: sum(_size(folder / name) for name in names) for part, names in parts.items()}
    result.disk = Disk(free, total, used)
    if is_nearly_full(free, total):
        warnings.append(f"the disk of {folder} has {_bytes_text(free)} free, of {_bytes_text(total)}")


def _size(path: Path) -> int:
    """The bytes on disk of a file, or of all files below a folder; what cannot be read counts as nothing."""
    try:
        if not path.is_dir():
            return path.stat().st_blocks * 512
    except OSError:
        return 0
    found = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                found += os.lstat(os.path.join(folder, name)).st_blocks * 512
            except OSError:
                continue
    return found


# ---- printing


def status_json(found: Status) -> dict[str, Any]:
    """The status as `--json` prints it. Times are ISO 8601, sizes bytes."""
    about = found.found
    return {
        "Data": found.data,
        "Running": found.running,
        "Version": found.version,
        "CommandVersion": found.command_version,
        "Started": iso_text(about.started),
        "Control": about.control or None,
        "Edge": about.edge or None,
        "Tls": about.tls or None,
        "Feed": about.feed or None,
        "Follows": found.follows or None,
        "Nats": about.nats or None,
        "Store": about.store or (str(Path(found.data) / "keyfront.db") if about.control else None),
        "Records": about.records or None,
        "Rotates": about.rotation and bool(about.control),
        "Snapshot": found.snapshot,
        "Counts": found.counts,
        "Edges": [
            {
                "Name": each.name,
                "Region": each.region or None,
                "Snapshot": each.snapshot,
                "Reported": iso_text(each.reported),
            }
            for each in found.edges
        ],
        "Rotations": [
            {
                "Group": each.group,
                "Signing": each.signing or None,
                "Next": each.next,
                "Due": iso_text(each.due),
                "Attention": each.attention,
            }
            for each in found.rotations
        ],
        "Certificates": [
            {"Name": each.name, "Hosts": list(each.hosts), "Ends": iso_text(each.ends)}
            for each in found.certificates
        ],
        "Disk": msgspec.to_builtins(found.disk),
        "Alarms": [
            {"Name": each.name, "Since": iso_text(each.since), "Reason": each.reason} for each in found.alarms
        ],
        "Warnings": list(found.warnings),
    }


def print_status(found: Status, now: float) -> None:
    about = found.found
    since = (
        f" for {duration_text(int(max(now - about.started, 1)))}" if found.running and about.started else ""
    )
    _line("keyfront", f"{found.version or 'unknown'} {'running' + since if found.running else 'NOT RUNNING'}")
    _line("data", found.data)
    if about.control:
        _line("control", about.control)
        _line("store", about.store or "keyfront.db in the data folder")
        if about.nats:
            _line("nats", about.nats)
        _line("records", f"{about.records}{'' if about.rotation else ' (--no-rotation: not watched)'}")
    else:
        _line("feed", found.follows or about.feed)
    _line("edge", " ".join(each for each in (about.edge, about.tls) if each) or "unknown")
    if found.snapshot is not None:
        counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in found.counts.items())
        _line("snapshot", f"{found.snapshot}: {counts}")
    if found.disk is not None:
        used = ", ".join(f"{name} {_bytes_text(size)}" for name, size in found.disk.used.items() if size)
        _line("disk", f"{_bytes_text(found.disk.free)} free of {_bytes_text(found.disk.total)}; {used}")
    _table(
        ("edge", "region", "snapshot"),
        [(each.name, each.region or "-", str(each.snapshot or "-")) for each in found.edges],
    )
    _table(
        ("rotation", "signs", "until", "next"),
        [
            (each.group, each.signing or "-", minute_text(each.due, "-"), each.next)
            for each in found.rotations
        ],
    )
    _table(
        ("certificate", "ends", "hosts"),
        [(each.name, minute_text(each.ends, "-"), " ".join(each.hosts)) for each in found.certificates],
    )
    if found.warnings:
        click.echo("")
    for text in found.warnings:
        click.echo(f"! {text}")


def _line(name: str, text: str) -> None:
    click.echo(f"{name:10}{text}")


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    if rows:
        click.echo("")
        print_columns(heads, rows)


def _bytes_text(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
