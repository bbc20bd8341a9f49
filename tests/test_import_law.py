"""Which room may import which, two levels deep, and what the hearts must not reach. It is read from the source; no
code runs.

`ROOMS` is the order of the packages, `INNER` the order inside a package that has rooms of its own. Every import
counts, including those inside a function and those for type checkers only. A heart holds rules. Neither it nor
anything that it imports uses a socket, clock, file, thread, random number or event loop.
"""

from __future__ import annotations

import ast
from functools import cache

from tests import imports as source
from tests.imports import imports, inside
from tests.rows import rows

MODULES = {name: path for name, path in source.MODULES.items() if inside(name, "keyfront")}

_RULES = {"errors", "signing", "model"}
_KEYS = {
    "errors",
    "extras",
    "signing",
    "custody",
    "cloudfront",
    "lifecycle",
    "private_files",
    "botocore_session",
}
ROOMS: dict[str, set[str]] = {
    "errors": set(),
    "extras": {"errors"},
    "private_files": {"errors"},
    "botocore_session": set(),
    "uvicorn_server": set(),
    "signing": {"errors"},
    "model": {"errors", "signing"},
    "fleet": _RULES | {"private_files"},
    "monitoring": _RULES | {"fleet", "botocore_session"},
    "cloudfront": {"errors", "botocore_session"},
    "custody": {"errors", "extras", "signing", "private_files", "botocore_session", "uvicorn_server"},
    "lifecycle": _KEYS,
    "edge": _RULES | {"fleet", "private_files"},
    "control": _RULES | _KEYS | {"fleet", "monitoring", "uvicorn_server"},
    "backup": _RULES | _KEYS | {"fleet", "control"},
    "declared": _RULES | {"cloudfront"},
    "console": {"errors", "cloudfront"},
    "runtime": _RULES
    | _KEYS
    | {"fleet", "monitoring", "edge", "control", "console", "backup", "uvicorn_server"},
    "keyfront": {"errors", "signing", "custody"},  # the SDK: `from keyfront import sign_url, signer_for`
}
"""Each package, and those that it may import besides itself. Edge and control never meet, except in `runtime`, which
puts the processes together. The command line, `cli`, may import everything."""
FREE = {"cli", "__main__"}

_EDGE = {"types": set[str](), "semantics": {"types"}, "rules": {"types", "semantics"}}
_EDGE |= {room: {"types", "semantics"} for room in ("limits", "logs", "net")}
_EDGE |= {room: {"types", "semantics", "rules"} for room in ("cache", "transform")}
_EDGE |= {"origin": {"types", "semantics", "rules", "net", "limits"}, "geoip": set()}
_EDGE |= {"serving": set(_EDGE)}
_EDGE |= {"http": {"types", "semantics", "rules", "net", "limits", "serving"}}
_EDGE |= {"follower": {"types", "cache", "logs", "serving"}}
INNER: dict[str, dict[str, set[str]]] = {
    "edge": _EDGE
    | {
        "explain": {"types", "semantics", "rules", "http"},
        "worker": {*_EDGE, "worker_settings"},
        "worker_settings": {"logs", "net", "serving", "http"},
        "asgi_app": {*_EDGE},
        "asgi": {"asgi_app"},
    },
    "control": {
        "iam": set(),
        "call": {"iam"},
        "store": set(),
        "audit": {"call", "store"},
        "publish": {"store"},
        "identity": {"iam", "call", "store", "audit"},
        "edges": {"call", "store", "audit", "identity"},
        "operations": {"iam", "call", "store", "publish"},
        "service": {"iam", "call", "store", "audit", "publish", "operations"},
        "keys": {"store", "audit"},
        "alarms": {"iam", "call", "store", "audit", "operations"},
        "sharing": {"store"},
        "own_operations": {"iam", "call", "store", "audit", "identity", "edges", "keys", "alarms", "sharing"},
        "wire": {
            "iam",
            "call",
            "store",
            "audit",
            "identity",
            "operations",
            "own_operations",
            "keys",
            "alarms",
        },
        "metrics": {"store", "edges"},
        "process": {
            "iam",
            "call",
            "store",
            "audit",
            "identity",
            "edges",
            "service",
            "keys",
            "alarms",
            "sharing",
            "own_operations",
            "wire",
            "metrics",
        },
    },
    "custody": {
        "contract": set(),
        "default_paths": set(),
        "key_import": {"contract"},
        "key_record": {"contract"},
        "key_uri": {"contract"},
        "local_files": set(),
        "local_handle": {"contract"},
        "uri_options": {"contract", "local_handle"},
        "text_custody": {"contract", "local_handle"},
        "adapters": {
            "contract",
            "key_import",
            "key_uri",
            "local_files",
            "local_handle",
            "text_custody",
            "uri_options",
        },
        "schemes": {"contract", "key_uri"},
        "signers": {"contract", "default_paths", "key_record", "key_uri", "schemes"},
        "agent": {"contract", "key_record", "schemes", "signers"},
    },
    "console": {
        "guard": set(),
        "sessions": set(),
        "attempts": set(),
        "assets": set(),
        "mount": {"guard"},
        "rendering": {"guard"},
        "visit": {"guard", "sessions"},
        "pages": {"guard", "visit"},
        "app": {"guard", "sessions", "attempts", "assets", "rendering", "visit", "pages"},
    },
    "backup": {
        "archive": set(),
        "audit": set(),
        "coverage": set(),
        "retention": {"archive"},
        "targets": {"archive"},
        "capture": {"archive", "audit", "coverage"},
        "create": {"archive", "audit", "capture", "retention", "targets"},
        "restore": {"archive", "audit", "capture"},
        "drill": {"archive", "audit", "capture", "coverage", "restore"},
    },
}
"""Inside a package: each room (a folder, or a module that stands by itself), and those that it may import besides
itself. `custody/adapters` has one room per kind of key store; these never import each other."""

HEARTS = (
    "keyfront.backup.retention",
    "keyfront.console.attempts",
    "keyfront.console.guard",
    "keyfront.console.pages.chart",
    "keyfront.console.pages.timeline",
    "keyfront.console.sessions",
    "keyfront.control.audit.records",
    "keyfront.control.alarms.definition",
    "keyfront.control.call",
    "keyfront.control.iam",
    "keyfront.control.operations",
    "keyfront.control.own_operations.contract",
    "keyfront.control.sharing.panes",
    "keyfront.control.publish.compiler",
    "keyfront.control.store.config_json",
    "keyfront.control.store.contract",
    "keyfront.control.store.rows",
    "keyfront.control.wire.cloudwatch",
    "keyfront.control.wire.codec",
    "keyfront.control.wire.scalars",
    "keyfront.control.wire.sigv4",
    "keyfront.control.wire.sts",
    "keyfront.control.wire.xml_body",
    "keyfront.custody.adapters.filesystem.key_file",
    "keyfront.custody.contract",
    "keyfront.custody.key_record",
    "keyfront.declared.alarms",
    "keyfront.declared.desired",
    "keyfront.declared.diff",
    "keyfront.declared.document",
    "keyfront.declared.locations",
    "keyfront.declared.plan",
    "keyfront.declared.problems",
    "keyfront.declared.resources",
    "keyfront.declared.translate",
    "keyfront.edge.explain",
    "keyfront.edge.limits",
    "keyfront.edge.origin.egress",
    "keyfront.edge.rules",
    "keyfront.edge.semantics",
    "keyfront.fleet.edge_counters",
    "keyfront.fleet.feed",
    "keyfront.fleet.jetstream.head",
    "keyfront.fleet.jetstream.names",
    "keyfront.fleet.key_counters",
    "keyfront.fleet.remote.content",
    "keyfront.fleet.remote.manifest",
    "keyfront.fleet.remote.messages",
    "keyfront.lifecycle.commands",
    "keyfront.lifecycle.facts",
    "keyfront.lifecycle.findings",
    "keyfront.lifecycle.forecast",
    "keyfront.lifecycle.key_names",
    "keyfront.lifecycle.moves",
    "keyfront.lifecycle.record_changes",
    "keyfront.lifecycle.rotation",
    "keyfront.model",
    "keyfront.monitoring.alarms",
    "keyfront.monitoring.anomalies",
    "keyfront.monitoring.edge_metrics",
    "keyfront.monitoring.exposition",
    "keyfront.monitoring.log_schema",
    "keyfront.monitoring.metric_series",
    "keyfront.monitoring.metrics_access",
    "keyfront.monitoring.statistics",
    "keyfront.monitoring.traffic",
    "keyfront.signing.credential",
    "keyfront.signing.policy",
    "keyfront.signing.verify",
)
"""Modules that hold rules; a package stands for all its modules.

`control/operations` is one as a whole: an operation gets its rows through the protocols of `control/store/contract.py`,
the time from its call, and ids from an argument. The line runs through `control/service.py`, which opens the
transactions, and `control/store/queries`, which is SQL."""

WORLD = {
    "asyncio",
    "concurrent",
    "maxminddb",
    "multiprocessing",
    "os",
    "random",
    "secrets",
    "select",
    "selectors",
    "shutil",
    "socket",
    "sqlalchemy",
    "sqlite3",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "uvloop",
}
CALLS = {"open", "input", "print", "datetime.now", "datetime.datetime.now", "time.time"}


def room(module: str, level: int = 1) -> str:
    """The room of a module: the part of its name at that level, or the package's own room for an `__init__`."""
    parts = module.split(".")
    return parts[level] if len(parts) > level else parts[-1]


@rows("module", sorted(MODULES))
def test_a_package_imports_only_those_before_it(module: str) -> None:
    own = room(module)
    if own in FREE:
        return
    assert own in ROOMS, f"{own} has no place in ROOMS"
    allowed = ROOMS[own] | {own}
    for name, line in imports(module).items():
        if name.split(".")[0] == "keyfront":
            assert room(name) in allowed, f"{MODULES[module]}:{line} imports {name}"


@rows("module", [m for m in sorted(MODULES) if room(m) in INNER and m.count(".") > 1])
def test_a_room_imports_only_those_before_it(module: str) -> None:
    package = ".".join(module.split(".")[:2])
    order, own = INNER[room(module)], room(module, 2)
    assert own in order, f"{own} has no place in INNER[{room(module)!r}]"
    allowed = order[own] | {own}
    for name, line in imports(module).items():
        if inside(name, package) and name != package:
            assert room(name, 2) in allowed, f"{MODULES[module]}:{line} imports {name}"


@rows("module", [m for m in sorted(MODULES) if inside(m, "keyfront.custody.adapters")])
def test_adapters_never_import_each_other(module: str) -> None:
    adapters = "keyfront.custody.adapters"
    for name, line in imports(module).items():
        if inside(name, adapters) and name != adapters:
            assert room(name, 3) == room(module, 3), f"{MODULES[module]}:{line} imports {name}"


def test_no_circle_of_imports() -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, "a circle: " + " -> ".join([*path[path.index(module) :], module])
        if module in done:
            return
        for name in imports(module):
            if name in MODULES and name != module:
                visit(name, (*path, module))
        done.add(module)

    for module in MODULES:
        visit(module, ())


@cache
def reached(module: str) -> frozenset[str]:
    """`module` and every Keyfront module that it imports, directly or indirectly."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found and name in MODULES:
            found.add(name)
            waiting += imports(name)
    return frozenset(found)


def hearts() -> list[str]:
    return [module for module in sorted(MODULES) if any(inside(module, heart) for heart in HEARTS)]


def test_every_heart_is_there() -> None:
    assert [heart for heart in HEARTS if heart not in MODULES] == []


@cache
def calls(module: str) -> dict[str, int]:
    """Everything that `module` calls, as written in the source, with the line number."""
    nodes = ast.walk(ast.parse(MODULES[module].read_text()))
    return {ast.unparse(node.func): node.lineno for node in nodes if isinstance(node, ast.Call)}


@rows("heart", hearts())
def test_a_heart_reaches_nothing_of_the_world(heart: str) -> None:
    for module in sorted(reached(heart)):
        for name, line in imports(module).items():
            assert name.split(".")[0] not in WORLD, f"{MODULES[module]}:{line} imports {name}"
        for name, line in calls(module).items():
            assert name not in CALLS, f"{MODULES[module]}:{line} calls {name}"
