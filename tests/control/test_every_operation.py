"""Every implemented operation, through boto3 over the wire, on both stores, with its answer checked against the model.

boto3's parsed answer proves little, since botocore drops unknown elements and does not report missing ones. Therefore
the XML itself is compared with the output's shape: every element is known, occurs once where one is expected, and has
its type; every required member is present.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from xml.etree.ElementTree import Element

import pytest
from botocore.exceptions import ClientError
from defusedxml.ElementTree import fromstring

from keyfront.control.operations.registry import OPERATIONS
from keyfront.model.kinds import KINDS, Kind, Quotas
from keyfront.model.service import NAMESPACE, Operation, service
from keyfront.model.shapes import Shape
from tests.control.calls import CALLS, CONFIGS, World, call_of
from tests.control.harness import BOTH
from tests.control.plane import Plane
from tests.postgres import PostgresServer

ROOMY = Quotas(public_keys=10_000, key_groups=10_000)


class Wire:
    """boto3 over HTTP; `last` is the body of the latest answer."""

    def __init__(self, plane: Plane) -> None:
        self._client = plane.client()
        self._client.meta.events.register("before-parse.cloudfront.*", self._keep)
        self._methods = {name: method for method, name in self._client.meta.method_to_api_mapping.items()}
        self.last = b""
        self.headers: dict[str, str] = {}
        self.status = 0

    def _keep(self, response_dict: dict[str, Any], **_: Any) -> None:
        self.last = response_dict["body"]
        self.headers = {name.lower(): value for name, value in response_dict["headers"].items()}
        self.status = response_dict["status_code"]

    def call(self, operation: str, **params: Any) -> dict[str, Any]:
        answer: dict[str, Any] = getattr(self._client, self._methods[operation])(**params)
        del answer["ResponseMetadata"]
        return answer

    def refused(self, operation: str, **params: Any) -> tuple[str, int]:
        with pytest.raises(ClientError) as caught:
            self.call(operation, **params)
        return caught.value.response["Error"]["Code"], self.status


@pytest.fixture(scope="module", params=BOTH)
def plane(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    folder = tmp_path_factory.mktemp("plane")
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        (folder / "store").write_text(server.database())
    with Plane(folder, quotas=ROOMY) as running:
        yield running


@pytest.fixture(scope="module")
def wire(plane: Plane) -> Wire:
    return Wire(plane)


@pytest.fixture(scope="module")
def world(plane: Plane, wire: Wire) -> World:
    return World(wire.call, plane.obey, reuse=True)


def test_all_that_is_built_has_a_call() -> None:
    """A new operation needs a call in tests/control/calls.py."""
    assert KINDS.keys() <= CONFIGS.keys()
    regular = {
        name
        for kind in KINDS.values()
        for name in (
            *(f"{verb}{kind.name}" for verb in ("Create", "Get", "Update", "Delete")),
            f"Get{kind.config}",
            f"List{kind.plural}",
        )
    }
    assert OPERATIONS.keys() - regular <= CALLS.keys()


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_an_answer_has_the_form_that_the_model_gives_it(name: str, wire: Wire, world: World) -> None:
    operation = service().operations[name]
    answer = wire.call(name, **call_of(name, world))
    assert wire.status == operation.status
    faults: list[str] = []
    judge(operation, wire.last, wire.headers, faults)
    assert not faults
    assert answer.keys() <= operation.output.members.keys()
    if "Location" in answer:
        assert re.fullmatch(
            r"http://127\.0\.0\.1:[0-9]+/2020-05-31/[a-z/-]+/[A-Za-z0-9/-]+", answer["Location"]
        )
    if "ETag" in answer:
        assert re.fullmatch("E[A-Z0-9]{12,13}", answer["ETag"])


def judge(operation: Operation, body: bytes, headers: dict[str, str], faults: list[str]) -> None:
    """Add to `faults` every way in which an answer does not match the operation's output shape."""
    shape = operation.output
    members = shape.members
    carried = {member for member, kind in members.items() if kind.traits.get("location") == "header"}
    for member in carried:
        if members[member].traits.get("locationName", member).lower() not in headers:
            faults.append(f"no header {member}")
    if members.keys() == carried:
        if body:
            faults.append(f"a body where none belongs: {body[:80]!r}")
        return
    payload = shape.traits.get("payload")
    root = fromstring(body)
    if not root.tag.startswith("{" + NAMESPACE):
        faults.append(f"the namespace of {root.tag}")
    conforms(shape if payload is None else members[payload], root, payload or operation.name, faults)


def conforms(shape: Shape, element: Element, where: str, faults: list[str]) -> None:
    if shape.type_name == "structure":
        found: dict[str, Element] = {}
        for child in element:
            name = child.tag.removeprefix(f"{{{NAMESPACE}}}")
            if name in found:
                faults.append(f"{where}.{name} comes twice")
            found[name] = child
        for member, kind in shape.members.items():
            name = kind.traits.get("locationName", member)
            if name in found:
                conforms(kind, found.pop(name), f"{where}.{member}", faults)
            elif member in shape.required_members:
                faults.append(f"{where}.{member} is missing")
        faults += [f"{where}.{name} is unknown" for name in found]
        items = element.find(f"{{{NAMESPACE}}}Items")
        quantity = element.findtext(f"{{{NAMESPACE}}}Quantity")
        if quantity is not None and int(quantity) != (0 if items is None else len(items)):
            faults.append(f"{where} has the Quantity {quantity}")
    elif shape.type_name == "list":
        name = shape.member.traits.get("locationName", "member")
        for child in element:
            if child.tag != f"{{{NAMESPACE}}}{name}":
                faults.append(f"{where} holds {child.tag}")
            conforms(shape.member, child, f"{where}[]", faults)
    elif len(element) or not _TEXTS[shape.type_name](shape, element.text or ""):
        faults.append(f"{where} is {element.text!r}")


def _text(shape: Shape, text: str) -> bool:
    length = shape.traits.get("min", 0) <= len(text) <= shape.traits.get("max", 1 << 20)
    return length and (not shape.enum or text in shape.enum)


_TEXTS: dict[str, Callable[[Shape, str], Any]] = {
    "string": _text,
    "boolean": lambda _, text: text in {"true", "false"},
    "integer": lambda _, text: re.fullmatch(r"-?[0-9]{1,10}", text),
    "long": lambda _, text: re.fullmatch(r"-?[0-9]{1,19}", text),
    "double": lambda _, text: re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text),
    "float": lambda _, text: re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text),
    "timestamp": lambda _, text: re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text),
}


def test_the_judge_sees_what_is_wrong() -> None:
    body = (
        f'<PublicKey xmlns="{NAMESPACE}"><Id>K1</Id><Id>K2</Id><CreatedTime>yesterday</CreatedTime>'
        "<Odd/><PublicKeyConfig><Name>n</Name><EncodedKey>k</EncodedKey></PublicKeyConfig></PublicKey>"
    )
    faults: list[str] = []
    judge(service().operations["GetPublicKey"], body.encode(), {}, faults)
    assert faults == [
        "no header ETag",
        "PublicKey.Id comes twice",
        "PublicKey.CreatedTime is 'yesterday'",
        "PublicKey.PublicKeyConfig.CallerReference is missing",
        "PublicKey.Odd is unknown",
    ]


# ---- what holds for every kind

_KINDS = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())


@_KINDS
def test_what_was_made_is_read_back_and_can_be_sent_back(kind: Kind, wire: Wire, world: World) -> None:
    made = world.make(kind.name)
    found = made[kind.name]
    read = wire.call(f"Get{kind.name}", Id=found["Id"])
    assert read["ETag"] == made["ETag"]
    assert read[kind.name][kind.config] == found[kind.config]
    config = wire.call(f"Get{kind.config}", Id=found["Id"])
    assert config == {kind.config: found[kind.config], "ETag": made["ETag"]}
    same = wire.call(
        f"Update{kind.name}", Id=found["Id"], IfMatch=made["ETag"], **{kind.config: found[kind.config]}
    )
    assert same[kind.name][kind.config] == found[kind.config]
    assert same["ETag"] != made["ETag"]


@_KINDS
def test_versions_and_what_is_not_there(kind: Kind, wire: Wire, world: World) -> None:
    made = world.make(kind.name)
    id_, config = made[kind.name]["Id"], {kind.config: made[kind.name][kind.config]}
    wrong: list[tuple[dict[str, str], str, int]] = [({}, "InvalidIfMatchVersion", 400)]
    wrong += [({"IfMatch": text}, "InvalidIfMatchVersion", 400) for text in ("*", f'"{made["ETag"]}"', "")]
    wrong += [({"IfMatch": "E2QWRUHAPOMQZL"}, "PreconditionFailed", 412)]
    for version, code, status in wrong:
        assert wire.refused(f"Update{kind.name}", Id=id_, **config, **version) == (code, status)
        assert wire.refused(f"Delete{kind.name}", Id=id_, **version) == (code, status)
    missing = id_[:-4] + ("ZZZZ" if id_[-4:].isupper() else "zzzz")
    for operation in (f"Get{kind.name}", f"Get{kind.config}"):
        assert wire.refused(operation, Id=missing) == (kind.missing, 404)
    etag = {"IfMatch": made["ETag"]}
    assert wire.refused(f"Update{kind.name}", Id=missing, **config, **etag) == (kind.missing, 404)
    assert wire.refused(f"Delete{kind.name}", Id=missing, **etag) == (kind.missing, 404)
    for foreign in ("..%2f", "a b", "é", "x" * 200):
        assert wire.refused(f"Get{kind.name}", Id=foreign) == (kind.missing, 404)


@_KINDS
def test_a_list_is_walked_page_by_page(kind: Kind, wire: Wire, world: World) -> None:
    made = {world.make(kind.name)[kind.name]["Id"] for _ in range(3)}
    size = max(2, wire.call(f"List{kind.plural}")[kind.list]["Quantity"] // 2)
    seen: list[str] = []
    marker: dict[str, str] = {}
    while True:
        found = wire.call(f"List{kind.plural}", MaxItems=str(size), **marker)[kind.list]
        assert int(found["MaxItems"]) == size
        # A policy's summary contains the policy, a key group's the group; the others are the resources that they
        # summarize.
        items = [item.get(kind.name, item)["Id"] for item in found.get("Items", [])]
        assert found["Quantity"] == len(items)
        seen += items
        assert found.get("IsTruncated", "NextMarker" in found) == ("NextMarker" in found)
        assert ("Marker" in found) == kind.marked
        if "NextMarker" not in found:
            break
        marker = {"Marker": found["NextMarker"]}
    assert len(seen) == len(set(seen))
    assert made <= set(seen)
    for wrong in ({"MaxItems": "0"}, {"MaxItems": "-1"}, {"MaxItems": "many"}, {"Marker": "no such marker"}):
        assert wire.refused(f"List{kind.plural}", **wrong) == ("InvalidArgument", 400)


def test_both_waiters(plane: Plane, world: World) -> None:
    client = plane.client()
    config = {"Delay": 0.05, "MaxAttempts": 200}
    id_ = world.distribution()["Id"]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.get_waiter("distribution_deployed").wait, Id=id_, WaiterConfig=config)
        plane.obey()
        waiting.result(20)
        batch = {"Paths": {"Quantity": 1, "Items": ["/*"]}, "CallerReference": "waited"}
        made = client.create_invalidation(DistributionId=id_, InvalidationBatch=batch)["Invalidation"]
        assert made["Status"] == "InProgress"
        waiting = pool.submit(
            client.get_waiter("invalidation_completed").wait,
            DistributionId=id_,
            Id=made["Id"],
            WaiterConfig=config,
        )
        plane.obey()
        waiting.result(20)
