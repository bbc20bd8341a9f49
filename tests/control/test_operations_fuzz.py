"""Whatever params an operation is given, it ends in a Result or an ApiError, and the store stays consistent.

The params are drawn from the API's own model: of the right shape mostly, spoilt in places, and with ids and ETags
that exist now and then, so that calls get past the first look-up.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from keyfront.control import audit
from keyfront.control.codec import write
from keyfront.control.operations import OPERATIONS
from keyfront.errors import ApiError
from keyfront.model.kinds import KINDS
from keyfront.model.service import Shape, service
from tests.control.house import BOTH, House, ec_pem, many, minimal, rsa_pem, trusting

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
    """Draws params for an operation; remembers what answers held, to draw it again."""

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

    def params(self, house: House, operation: str) -> dict[str, Any]:
        """Params that mostly name something that exists, in its present version and with its own config changed."""
        shape = service().operations[operation].input
        drawn = self.draw(shape)
        found: dict[str, Any] = drawn if isinstance(drawn, dict) else {"Id": drawn}
        for name, kind in KINDS.items():
            if name in operation and "Id" in shape.members and self.rng.random() < 0.9:
                with house.store.read() as transaction:
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
        """The config with one member drawn anew."""
        if not isinstance(config, dict) or shape.type_name != "structure":
            return config
        member = self.rng.choice(list(shape.members))
        deeper = config.get(member)
        inner = shape.members[member]
        drawn = self.change(inner, deeper) if self.rng.random() < 0.5 and deeper else self.draw(inner, member)
        return config | {member: drawn}


@pytest.mark.parametrize("seed", range(6))
def test_any_params_end_in_an_answer(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    drawer = Drawer(rng)
    house = House(tmp_path, seed=seed)
    key = house.key()
    config = minimal("trusting")
    config["DefaultCacheBehavior"]["TrustedKeyGroups"] = trusting(house.group(key))
    config["Aliases"] = many("x.example.com")
    drawer.learn(house.call("CreateDistribution", DistributionConfig=config))
    drawer.learn(house.call("GetPublicKey", Id=key))
    names = sorted(OPERATIONS)
    outcomes: dict[str, int] = {}
    for turn in range(250):
        operation = rng.choice(names)
        drawer.spoil = rng.choice([0.0, 0.0, 0.02, 0.2])
        model = service().operations[operation]
        params = drawer.params(house, operation) if rng.random() < 0.98 else {}
        if turn % 10 == 0:
            house.report()
        refused, output = attempt(house, operation, params)
        code = refused.code if refused else ""
        outcomes[code] = outcomes.get(code, 0) + 1
        if refused:
            assert refused.status in {400, 404, 409, 412}, (operation, params, refused)
            assert code in model.errors | {"InvalidArgument"}, (operation, params, refused)
        else:
            write(model, output)  # it can be said in XML
            drawer.learn(output)
    assert len(outcomes) >= 8, outcomes
    consistent(house)
    house.close()


def attempt(house: House, operation: str, params: dict[str, Any]) -> tuple[ApiError | None, dict[str, Any]]:
    try:
        return None, house.call(operation, **params)
    except ApiError as error:
        return error, {}


def consistent(house: House) -> None:
    """What holds of every store: references lead somewhere, unique values are unique, what is stored is published."""
    with house.store.read() as transaction:
        rows = {kind: transaction.page(kind, "", 10_000) for kind in KINDS}
        ids = {(kind, row.id) for kind in rows for row in rows[kind]}
        for name, kind in KINDS.items():
            for reference in kind.refers_to:
                for row in rows[name]:
                    for id_ in reference.ids(row.config):
                        assert reference.kind not in KINDS or (reference.kind, id_) in ids
                        if reference.kind in KINDS:
                            assert row.id in transaction.referrers(reference.kind, id_, name)
            for unique in kind.unique:
                values = [value for row in rows[name] for value in dict.fromkeys(unique.values(row.config))]
                assert len(values) == len(set(values))
                assert set(transaction.owners(name, unique.name, values)) == set(values)
        records = transaction.audit(limit=10_000)
        assert audit.first_break(records) is None
        published = house.feed.published()
        assert published is not None
        assert {found.id for found in published.distributions} == {row.id for row in rows["Distribution"]}
        number = transaction.snapshot_number()
        assert published.number == number
        assert all(row.snapshot <= number for row in rows["Distribution"])
    before = published
    again = House(house.folder, seed=99)
    assert again.feed.published() == before
    again.close()
