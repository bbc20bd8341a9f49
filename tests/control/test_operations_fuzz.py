"""For any input, an operation ends in a Result or in an API error, and the store stays consistent.

There are two entry points: params within the process, and requests on the wire. Both begin with valid calls
(tests/control/calls.py) or drawn from the API's own model, and corrupt parts of them; ids and ETags mostly exist, so
that calls get past the first lookup. `--long` runs for minutes, with new seeds.
"""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.serialize import create_serializer

from keyfront.control.audit import records as audit
from keyfront.control.operations.registry import OPERATIONS
from keyfront.control.wire import codec
from keyfront.errors import ApiError
from keyfront.model.kinds import KINDS, Quotas
from keyfront.model.managed import CACHE_POLICIES, ORIGIN_REQUEST_POLICIES, RESPONSE_HEADERS_POLICIES
from keyfront.model.service import error_status, service
from keyfront.model.shapes import Shape
from tests.control.calls import World, call_of
from tests.control.harness import BOTH, Harness, minimal
from tests.keys import ec_pem, rsa_pem

STORES = BOTH

WORDS = [
    "",
    "a",
    "app",
    "index.html",
    "/x",
    "x.example.com",
    "*.example.com",
    "\x00",
    "ü",
    "-1",
    "*",
    "x" * 300,
]


class Drawer:
    """Draws params for an operation; remembers values from answers, to draw them again."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.words = [*WORDS, rsa_pem(), ec_pem()]
        self.configs: dict[str, list[Any]] = {"DistributionConfig": [minimal(str(n)) for n in range(3)]}
        self.spoil = 0.0

    def learn(self, output: Any) -> None:
        if isinstance(output, dict):
            for name, value in output.items():
                if name.endswith("Config"):
                    self.configs.setdefault(name, []).append(value)
                self.learn(value)
        elif isinstance(output, list):
            for item in output:
                self.learn(item)
        elif isinstance(output, str) and output not in self.words and len(output) < 100:
            self.words.append(output)

    def params(self, harness: Harness, operation: str) -> dict[str, Any]:
        """Params that mostly name an existing resource, with its current version and its own config changed."""
        shape = service().operations[operation].input
        drawn = self.draw(shape)
        found: dict[str, Any] = drawn if isinstance(drawn, dict) else {"Id": drawn}
        for name, kind in KINDS.items():
            if name in operation and "Id" in shape.members and self.rng.random() < 0.9:
                with harness.store.read() as transaction:
                    rows = transaction.page(name, "", 1000)
                if rows:
                    row = self.rng.choice(rows)
                    found["Id"] = row.id
                    if "IfMatch" in shape.members and self.rng.random() < 0.9:
                        found["IfMatch"] = row.etag
                    if kind.config in shape.members and self.rng.random() < 0.9:
                        found[kind.config] = self.change(shape.members[kind.config], row.config)
        return found

    def draw(self, shape: Shape, name: str = "") -> Any:
        rng = self.rng
        if rng.random() < self.spoil:
            return rng.choice(
                [None, [], {}, "", 0, -1, 1 << 70, True, "\ud800", b"x", object(), {"Items": None}]
            )
        if name in self.configs and rng.random() < 0.8:
            return self.change(shape, rng.choice(self.configs[name]))
        if shape.type_name == "structure":
            if "Quantity" in shape.members and "Items" in shape.members and rng.random() < 0.9:
                return self.counted(shape)
            return {
                member: self.draw(inner, member)
                for member, inner in shape.members.items()
                if member in shape.required_members or rng.random() < 0.4
            }
        if shape.type_name == "list":
            return [self.draw(shape.member) for _ in range(rng.choice([0, 1, 1, 2, 3]))]
        if shape.type_name == "string":
            if shape.enum:
                return rng.choice(shape.enum)
            if name in {"CallerReference", "Name"} and rng.random() < 0.7:
                return f"new-{rng.getrandbits(32)}"
            if name == "EncodedKey" and rng.random() < 0.7:
                return rsa_pem()
            return rng.choice(self.words)
        if shape.type_name == "boolean":
            return rng.random() < 0.3
        return rng.choice([0, 1, 2, 3, 10, 80, 443, 404, 8080, 86400, -1, 1 << 40])

    def counted(self, shape: Shape) -> Any:
        items = self.draw(shape.members["Items"])
        found = {"Quantity": len(items) if isinstance(items, list) else 1, "Items": items}
        for member, inner in shape.members.items():
            if member not in found and (member in shape.required_members or self.rng.random() < 0.5):
                found[member] = self.draw(inner, member)
        return found

    def change(self, shape: Shape, config: Any) -> Any:
        """The config with one member redrawn."""
        if not isinstance(config, dict) or shape.type_name != "structure":
            return config
        member = self.rng.choice(list(shape.members))
        deeper = config.get(member)
        inner = shape.members[member]
        drawn = self.change(inner, deeper) if self.rng.random() < 0.5 and deeper else self.draw(inner, member)
        return config | {member: drawn}


QUOTAS = Quotas(
    public_keys=40, key_groups=30, distributions=25, cache_policies=8, origin_access_identities=6, tags=3
)
"""Enough for calls to succeed, and small enough to be reached."""

MANAGED = CACHE_POLICIES.keys() | ORIGIN_REQUEST_POLICIES.keys() | RESPONSE_HEADERS_POLICIES.keys()


class Bout:
    """One seed's calls against one harness, and their outcomes."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.harness = Harness(folder, seed=seed, quotas=QUOTAS)
        self.drawer = Drawer(self.rng)
        self.world = World(self._prepare, self.harness.report, f"s{seed}")
        self.outcomes: Counter[str] = Counter()
        self.succeeded: set[str] = set()
        self.turns = 0

    def _prepare(self, operation: str, **params: Any) -> dict[str, Any]:
        output = self.harness.call(operation, **params)
        self.drawer.learn(output)
        return output

    def right(self, operation: str) -> dict[str, Any]:
        """A call that succeeds, unless a quota is reached before it."""
        refused = None
        try:
            return call_of(operation, self.world)
        except ApiError as error:
            refused = error
        assert refused.code.startswith("TooMany"), (self.seed, operation, refused)
        return self.drawer.params(self.harness, operation)

    def turn(self) -> None:
        rng = self.rng
        self.turns += 1
        if self.turns % 10 == 0:
            self.harness.report()
        operation = rng.choice(_NAMES)
        self.drawer.spoil = rng.choice([0.0, 0.0, 0.02, 0.2])
        how = rng.random()
        if how < 0.3:
            params = self.right(operation)
            if how < 0.2:
                params = spoilt(rng, service().operations[operation].input, params, self.drawer)
        else:
            params = self.drawer.params(self.harness, operation) if rng.random() < 0.98 else {}
        self.attempt(operation, params if isinstance(params, dict) else {"Id": params})

    def attempt(self, operation: str, params: dict[str, Any]) -> None:
        model = service().operations[operation]
        refused, output = None, {}
        try:
            output = self.harness.call(operation, **params)
        except ApiError as error:
            refused = error
        if refused is not None:
            self.outcomes[refused.code] += 1
            position = (self.seed, self.turns, operation, params, refused)
            assert refused.code in model.errors | {"InvalidArgument"}, position
            assert refused.status == error_status(refused.code), position
            assert refused.message, position
        else:
            codec.write(model, output)  # it can be encoded as XML
            self.outcomes["-"] += 1
            self.succeeded.add(operation)
            self.drawer.learn(output)

    def end(self) -> None:
        consistent(self.harness)
        self.harness.close()


_NAMES = sorted(OPERATIONS)


def spoilt(rng: random.Random, shape: Shape, params: Any, drawer: Drawer) -> Any:
    """A valid input with one member, at any depth, redrawn, removed, or duplicated."""
    if shape.type_name != "structure" or not isinstance(params, dict) or not params:
        return drawer.draw(shape)
    if not params.keys() <= shape.members.keys():
        return params  # it is corrupted already
    member = rng.choice(sorted(params))
    inner = shape.members[member]
    value = params[member]
    if isinstance(value, dict) and rng.random() < 0.8:
        return params | {member: spoilt(rng, inner, value, drawer)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        item = spoilt(rng, inner.member, value[at], drawer)
        return params | {member: rng.choice([value + value[at : at + 1], value[:at], [*value[:at], item]])}
    if rng.random() < 0.2:
        return {name: value for name, value in params.items() if name != member}
    return params | {member: drawer.draw(inner, member)}


def drawn(config: pytest.Config, seed: int, turns: int) -> tuple[int, int]:
    """The seed and its number of iterations: the suite's own, or with `--long` a new seed that runs for minutes."""
    return (time.time_ns() % (1 << 32), 60 * turns) if config.getoption("long") else (seed, turns)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(2))
def test_any_params_end_in_an_answer(tmp_path: Path, pytestconfig: pytest.Config, seed: int) -> None:
    seed, turns = drawn(pytestconfig, seed, 250)
    bout = Bout(tmp_path, seed)
    for _ in range(turns):
        bout.turn()
    bout.end()
    assert len(bout.outcomes) >= 15, bout.outcomes
    assert bout.outcomes["-"] > turns / 10, bout.outcomes
    assert len(bout.succeeded) > len(OPERATIONS) / 2, OPERATIONS.keys() - bout.succeeded


def consistent(harness: Harness) -> None:
    """Invariants of every store: references resolve, unique values are unique, quotas are respected, deleted
    resources leave nothing behind, the audit log is intact, what is stored is published, and a restart changes
    nothing."""
    with harness.store.read() as transaction:
        rows = {kind: transaction.page(kind, "", 10_000) for kind in KINDS}
        ids = {(kind, row.id) for kind in rows for row in rows[kind]}
        for name, kind in KINDS.items():
            assert len(rows[name]) <= getattr(QUOTAS, kind.quota)
            assert len({row.etag for row in rows[name]}) == len(rows[name])
            for reference in kind.refers_to:
                for row in rows[name]:
                    for written in reference.ids(row.config):
                        id_ = written.removeprefix(reference.prefix)
                        assert (reference.kind, id_) in ids or id_ in MANAGED
                        if (reference.kind, id_) in ids:
                            assert row.id in transaction.referrers(reference.kind, id_, name)
            for unique in kind.unique:
                values = [value for row in rows[name] for value in dict.fromkeys(unique.values(row.config))]
                assert len(values) == len(set(values))
                assert set(transaction.owners(name, unique.name, values)) == set(values)
        records = transaction.audit(limit=100_000)
        assert len(records) == harness.calls
        assert audit.first_break(records) is None
        published = harness.feed.published()
        assert published is not None
        assert {found.id for found in published.distributions} == {row.id for row in rows["Distribution"]}
        number = transaction.snapshot_number()
        assert published.number == number
        assert all(row.snapshot <= number for row in rows["Distribution"])
        sql = transaction.connection.exec_driver_sql
        for table, owner in [
            ("unique_value", "kind, id"),
            ("tag", "kind, id"),
            ("reference", "from_kind, from_id"),
            ("invalidation", "kind, distribution"),
            ("carried", "kind, distribution"),
        ]:
            assert {tuple(row) for row in sql(f"SELECT DISTINCT {owner} FROM {table}")} <= ids, table
    again = Harness(harness.folder, seed=99, quotas=QUOTAS)
    assert again.feed.published() == published
    again.close()


# ---- the same over the wire

_MALFORMED = {
    "MalformedXML",
    "MalformedInput",
    "MissingBody",
    "InvalidArgument",
    "InvalidURI",
    "MethodNotAllowed",
}
_SERIALIZER = create_serializer("rest-xml", include_validation=False)
_MODEL = botocore.session.get_session().get_service_model("cloudfront")


def request_of(operation: str, params: dict[str, Any]) -> tuple[str, str, str, bytes]:
    """The method, path, query and body that botocore sends."""
    made = _SERIALIZER.serialize_to_request(params, _MODEL.operation_model(operation))
    path, _, query = made["url_path"].partition("?")
    pairs = [f"{name}={value}" for name, value in made["query_string"].items()]
    body = made["body"]
    body = body.read() if hasattr(body, "read") else body
    return (
        made["method"],
        path,
        "&".join([*pairs, *([query] if query else [])]),
        body.encode() if isinstance(body, str) else body,
    )


def spoilt_text(rng: random.Random, text: str) -> str:
    """XML, or a line of a request, with a random corruption."""
    words = re.findall(r"<[^<>]*>|[^<>]+", text)
    at = rng.randrange(len(words)) if words else 0
    accident = rng.randrange(9)
    if accident == 0 or not words:
        cut = rng.randrange(len(text) + 1)
        return text[:cut]
    if accident == 1:
        words[at] = ""
    elif accident == 2:
        words[at] = words[rng.randrange(len(words))]
    elif accident == 3:
        words[at] += words[at]
    elif accident == 4:
        words[at] = rng.choice(
            ["", " ", "0", "-1", "true", "99999999999999999999", "é", "&lt;", "<!---->", "<a/>"]
        )
    elif accident == 5:
        words[at] = words[at].swapcase()
    elif accident == 6:
        words[at] += rng.choice(
            ["&#0;", "&x;", "\x01", "]]>", "<![CDATA[x]]>", "<?p?>", '<a b="c">', "\ufffe"]
        )
    elif accident == 7:
        other = rng.randrange(len(words))
        words[at], words[other] = words[other], words[at]
    else:
        cut = rng.randrange(len(text) + 1)
        return text[:cut] + chr(rng.choice([0, 9, 34, 38, 39, 60, 62, 0xD800, 0x10FFFF])) + text[cut:]
    return "".join(words)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(100, 101))
def test_any_request_ends_in_an_answer(tmp_path: Path, pytestconfig: pytest.Config, seed: int) -> None:
    seed, turns = drawn(pytestconfig, seed, 400)
    bout = Bout(tmp_path, seed)
    rng = bout.rng
    right = {operation: bout.right(operation) for operation in _NAMES}
    requests = [(request_of(operation, params), params.get("IfMatch")) for operation, params in right.items()]
    for _ in range(turns):
        (method, path, query, body), version = rng.choice(requests)
        if rng.random() < 0.15:
            path = spoilt_text(rng, path)
        if rng.random() < 0.15:
            query = spoilt_text(rng, query or "MaxItems=1&Marker=E1")
        if rng.random() < 0.9:
            body = spoilt_text(rng, body.decode()).encode(errors="surrogatepass")
        headers = [("if-match", version)] if version else []
        bout.outcomes[over_the_wire(bout, method, path, query, headers, body)] += 1
    bout.end()
    assert len(bout.outcomes) >= 12, bout.outcomes


def over_the_wire(
    bout: Bout, method: str, path: str, query: str, headers: list[tuple[str, str]], body: bytes
) -> str:
    """The control plane's HTTP handling of a signed request: returns the error's code, or - for none."""
    known: set[str] = set()
    refused = None
    try:
        matched = codec.match(method, path, query)
        name = matched.operation.name
        params = codec.read(matched, headers, body)
        if name not in OPERATIONS:
            return "UnsupportedOperation"
        known = set(matched.operation.errors)
        codec.write(matched.operation, bout.harness.call(name, **params))
    except ApiError as error:
        refused = error
    if refused is None:
        return "-"
    codec.write_error(refused, "00000000-0000-4000-8000-000000000000")
    assert refused.code in known | _MALFORMED, (bout.seed, method, path, query, headers, body, refused)
    return refused.code
