"""What a region's snapshot contains, and above all what it does not."""

from __future__ import annotations

import hashlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyfront.errors import SettingsError
from keyfront.model.compile import compile_snapshot
from keyfront.model.residency import (
    MAX_REGIONS,
    NOWHERE,
    TAG,
    fault,
    for_region,
    is_misspelled,
    region,
    regions_of,
    retied,
    tied_keys,
    warnings,
)
from keyfront.model.snapshot import (
    MAGIC,
    MAGIC_OF_REGIONS,
    Behavior,
    Distribution,
    Invalidation,
    KeyGroup,
    Origin,
    PublicKey,
    ResponseHeader,
    ResponseHeadersPolicy,
    Snapshot,
    from_bytes,
)
from tests.rows import rows

EU, US = "eu", "us"


# ---- names and tags


@rows(
    ("value", "expected"),
    [
        ("eu", ("eu",)),
        ("us eu", ("eu", "us")),
        ("  eu   us eu ", ("eu", "us")),
        ("eu-central-1", ("eu-central-1",)),
        (" ".join(f"r{n:02}" for n in range(MAX_REGIONS)), tuple(f"r{n:02}" for n in range(MAX_REGIONS))),
    ],
)
def test_what_a_tag_names(value: str, expected: tuple[str, ...]) -> None:
    assert regions_of(value) == expected


@rows(
    "value",
    [
        "",
        "  ",
        "EU",
        "eu,us",
        "eu/us",
        "-eu",
        "é",
        "?",
        "x" * 33,
        " ".join(f"r{n}" for n in range(MAX_REGIONS + 1)),
    ],
)
def test_a_tag_that_cannot_be_read_is_no_tie(value: str) -> None:
    with pytest.raises(SettingsError):
        regions_of(value)


def test_no_region_is_nowhere() -> None:
    with pytest.raises(SettingsError):
        region(NOWHERE[0])


@rows(
    "key", ["Keyfront:Regions", "keyfront:region", "keyfront-regions", "keyfront:Regions", "keyfrontregion"]
)
def test_keys_that_were_meant_to_tie(key: str) -> None:
    assert is_misspelled(key)


@rows("key", [TAG, "regions", "keyfront:team", "Region", ""])
def test_keys_that_were_not(key: str) -> None:
    assert not is_misspelled(key)


# ---- the part of a region


def distribution(
    name: str, *groups: str, regions: tuple[str, ...] = (), aliases: tuple[str, ...] = (), policy: str = ""
) -> Distribution:
    return Distribution(
        id=f"E{name}",
        arn=f"arn:E{name}",
        domain_name=f"{name}.cloudfront.localhost",
        aliases=aliases,
        origins=(Origin("app", f"{name}.origin", custom_headers=(("x-secret", f"secret-{name}"),)),),
        behaviors=(
            Behavior(
                "*",
                "app",
                restricted=bool(groups),
                trusted_key_groups=groups,
                response_headers_policy_id=policy,
            ),
        ),
        invalidations=(Invalidation(1, (f"/{name}/*",)),),
        regions=regions,
    )


def whole(
    distributions: list[Distribution],
    groups: list[KeyGroup],
    policies: tuple[ResponseHeadersPolicy, ...] = (),
) -> Snapshot:
    keys = [PublicKey(id_, f"pem-{id_}") for id_ in sorted({k for group in groups for k in group.key_ids})]
    return compile_snapshot(distributions, tied_keys(keys, groups), groups, 7, 1.5, policies)


def held(snapshot: Snapshot) -> tuple[list[str], list[str], list[str]]:
    return (
        [one.id for one in snapshot.distributions],
        [one.id for one in snapshot.key_groups],
        [one.id for one in snapshot.public_keys],
    )


def test_where_nothing_is_tied_every_region_has_everything() -> None:
    everything = whole([distribution("a", "g")], [KeyGroup("g", "g", ("K1",))])
    assert for_region(everything, "") is everything
    assert for_region(everything, EU) == msgspec.structs.replace(everything, region=EU)


def test_each_region_has_its_own_and_what_is_for_all() -> None:
    everything = whole(
        [
            distribution("all", "g-eu", "g-us", "g-all"),
            distribution("eu", "g-eu", regions=(EU,)),
            distribution("us", "g-us", regions=(US,)),
            distribution("both", "g-all", regions=(EU, US)),
        ],
        [
            KeyGroup("g-eu", "g", ("K1",), (EU,)),
            KeyGroup("g-us", "g", ("K2",), (US,)),
            KeyGroup("g-all", "g", ("K3",)),
        ],
    )
    assert held(for_region(everything, EU)) == (
        ["Eall", "Eboth", "Eeu"],
        ["g-all", "g-eu"],
        ["K1", "K3"],
    )
    assert held(for_region(everything, US)) == (
        ["Eall", "Eboth", "Eus"],
        ["g-all", "g-us"],
        ["K2", "K3"],
    )
    assert held(for_region(everything, "asia")) == (["Eall"], ["g-all"], ["K3"])
    assert held(for_region(everything, "")) == (["Eall"], ["g-all"], ["K3"])
    for name in (EU, US, "asia", ""):
        part = for_region(everything, name)
        assert (part.number, part.created, part.region) == (7, 1.5, name)
        assert fault(part, name) == ""
    assert from_bytes(for_region(everything, EU).to_bytes()) == for_region(everything, EU)


def test_to_list_a_key_once_more_does_not_carry_it_abroad() -> None:
    groups = [KeyGroup("g-eu", "g", ("K1",), (EU,)), KeyGroup("g-all", "g", ("K1", "K2"))]
    everything = whole(
        [distribution("a", "g-all")], groups
    )  # no distribution trusts the tied one, and it ties anyway
    assert held(for_region(everything, EU)) == (["Ea"], ["g-all"], ["K1", "K2"])
    part = for_region(everything, US)
    assert held(part) == (["Ea"], ["g-all"], ["K2"])
    assert part.key_groups[0].key_ids == ("K2",)
    assert everything.to_bytes().startswith(MAGIC_OF_REGIONS)


def test_a_key_of_two_tied_groups_is_for_the_regions_of_both() -> None:
    groups = [KeyGroup("g-eu", "g", ("K1",), (EU,)), KeyGroup("g-us", "g", ("K1",), (US,))]
    everything = whole([distribution("a", "g-eu", "g-us")], groups)
    assert held(for_region(everything, EU)) == (["Ea"], ["g-eu"], ["K1"])
    assert held(for_region(everything, US)) == (["Ea"], ["g-us"], ["K1"])
    assert held(for_region(everything, "")) == (["Ea"], [], [])


def test_a_behavior_whose_group_is_elsewhere_stays_restricted() -> None:
    everything = whole([distribution("a", "g")], [KeyGroup("g", "g", ("K1",), (EU,))])
    (behavior,) = for_region(everything, US).distributions[0].behaviors
    assert behavior.restricted
    assert behavior.trusted_key_groups == ("g",)


def test_a_group_that_only_an_absent_distribution_trusts_does_not_travel() -> None:
    everything = whole([distribution("a", "g", regions=(EU,))], [KeyGroup("g", "g", ("K1",))])
    assert held(for_region(everything, US)) == ([], [], [])


def test_a_policy_that_only_an_absent_distribution_names_does_not_travel() -> None:
    policy = ResponseHeadersPolicy("p", headers=(ResponseHeader("x-eu", "internal", True),))
    everything = whole([distribution("a", regions=(EU,), policy="p")], [], (policy,))
    assert for_region(everything, EU).response_headers_policies == (policy,)
    assert for_region(everything, US).response_headers_policies == ()


def test_what_belongs_nowhere_goes_nowhere() -> None:
    everything = whole([distribution("a", regions=NOWHERE)], [])
    assert [held(for_region(everything, name))[0] for name in ("", EU, US)] == [[], [], []]


@rows(
    ("aliases", "here", "reserved"),
    [
        (("private.example.com",), ("*.example.com",), ("private.example.com",)),
        (("*.eu.example.com",), ("*.example.com",), ("*.eu.example.com",)),
        (("a.b.example.com", "other.test"), ("*.example.com",), ("a.b.example.com",)),
        (("*.example.com",), ("a.example.com",), ()),
        (("*.example.com",), ("*.a.example.com",), ()),
        (("private.example.com",), ("www.example.com",), ()),
        (("nexample.com",), ("*.example.com",), ()),
        ((), ("*.localhost",), ("eu.cloudfront.localhost",)),
    ],
)
def test_names_that_a_wildcard_must_not_take_over(
    aliases: tuple[str, ...], here: tuple[str, ...], reserved: tuple[str, ...]
) -> None:
    everything = whole(
        [distribution("eu", regions=(EU,), aliases=aliases), distribution("all", aliases=here)], []
    )
    assert for_region(everything, US).reserved == reserved
    assert for_region(everything, EU).reserved == ()


# ---- the format


def test_the_old_format_is_written_until_something_is_tied() -> None:
    plain = whole([distribution("a")], [])
    assert plain.to_bytes().startswith(MAGIC)
    for other in (
        for_region(plain, EU),
        whole([distribution("a", regions=(EU,))], []),
        whole([distribution("a", "g")], [KeyGroup("g", "g", ("K1",), (EU,))]),
        msgspec.structs.replace(plain, reserved=("a.test",)),
    ):
        assert other.to_bytes().startswith(MAGIC_OF_REGIONS)
        assert from_bytes(other.to_bytes()) == other
    assert len(MAGIC) == len(MAGIC_OF_REGIONS)


def test_a_snapshot_from_before_there_were_regions_is_for_edges_in_none() -> None:
    found = whole([distribution("a", "g")], [KeyGroup("g", "g", ("K1",))])
    raw = msgspec.to_builtins(found)
    for name in ("region", "reserved"):
        del raw[name]
    for one in (*raw["distributions"], *raw["key_groups"], *raw["public_keys"]):
        del one["regions"]
    payload = msgspec.msgpack.encode(raw)
    read = from_bytes(MAGIC + hashlib.sha256(payload).digest() + payload)
    assert read == found
    assert (fault(read, ""), bool(fault(read, EU))) == ("", True)


# ---- what an edge refuses


def test_what_is_not_for_the_region_is_a_fault() -> None:
    everything = whole(
        [distribution("a", "g"), distribution("eu", regions=(EU,))], [KeyGroup("g", "g", ("K1",), (EU,))]
    )
    part = for_region(everything, EU)
    assert fault(part, "") == "it is for region eu, and this edge is in no region"
    assert fault(part, US) == "it is for region eu, and this edge is in region us"
    forged = msgspec.structs.replace(part, region=US)
    assert fault(forged, US) == "distribution Eeu is tied to eu, and this edge is in region us"
    assert "tied to eu" in fault(everything, "")
    only_group = msgspec.structs.replace(forged, distributions=part.distributions[:1])
    assert fault(only_group, US) == "key group g is tied to eu, and this edge is in region us"
    only_key = msgspec.structs.replace(only_group, key_groups=())
    assert fault(only_key, US) == "public key K1 is tied to eu, and this edge is in region us"


# ---- what a change of regions reaches


def test_whose_keys_have_other_regions() -> None:
    sites = [distribution("a", "g"), distribution("b", "h"), distribution("open")]

    def tied(*regions: str) -> Snapshot:
        return whole(sites, [KeyGroup("g", "g", ("K1",), regions), KeyGroup("h", "h", ("K2",))])

    assert retied(tied(), tied()) == set()
    assert retied(tied(EU), tied(EU)) == set()
    assert retied(tied(), tied(EU)) == {"Ea"}
    assert retied(tied(EU), tied()) == {"Ea"}
    assert retied(tied(EU), tied(US)) == {"Ea"}
    added = whole(sites, [KeyGroup("g", "g", ("K3",), (EU,)), KeyGroup("h", "h", ("K2",))])
    assert retied(tied(EU), added) == set(), "a key that is new was nowhere else before"


# ---- warnings


def test_what_may_not_be_meant() -> None:
    everything = whole(
        [
            distribution("a", "g-eu"),
            distribution("b", "g-all", regions=("mars",)),
            distribution("c", "g-eu", "g-all"),
            distribution("d", "g-us"),
        ],
        [
            KeyGroup("g-eu", "g", ("K1", "K2"), (EU,)),
            KeyGroup("g-all", "g", ("K2",)),
            KeyGroup("g-us", "g", ("K1",), (US,)),
        ],
    )
    refused = [("c", "no region"), ("a", "no region"), ("d", "no region"), ("d", "region eu")]
    refused += [("a", "region us"), ("c", "region us")]
    messages = warnings(everything, (EU, US, ""))
    assert sorted(messages[:6]) == sorted(
        f"distribution E{name}, behavior *: none of its trusted key groups has a key for edges in {where}, "
        "so every signature is refused there"
        for name, where in refused
    )
    assert messages[6:] == [
        "public key K2 of key group g-all is tied to eu by another key group that contains it, and goes nowhere else",
        "public key K1 of key group g-eu, which is tied to eu, is also for us: another key group that contains it is "
        "tied there",
        "public key K1 of key group g-us, which is tied to us, is also for eu: another key group that contains it is "
        "tied there",
        "distribution Eb is tied to mars, where there is no edge, so no edge has it",
    ]
    assert warnings(whole([distribution("a", "g")], [KeyGroup("g", "g", ("K1",))]), (EU,)) == []


# ---- no byte of another region

NAMES = st.sampled_from(["eu", "us", "asia", ""])
TIES = st.lists(st.sampled_from(["eu", "us", "asia"]), unique=True, max_size=2).map(tuple)


@st.composite
def worlds(draw: st.DrawFn) -> Snapshot:
    groups = [
        KeyGroup(
            f"group-{n}", f"name-{n}", tuple(draw(st.sets(st.sampled_from(KEYS), max_size=3))), draw(TIES)
        )
        for n in range(draw(st.integers(0, 3)))
    ]
    made: list[Distribution] = []
    for n in range(draw(st.integers(0, 4))):
        trusted = tuple(group.id for group in groups if draw(st.booleans()))
        alias = draw(
            st.sampled_from(["", f"alias-{n}.example.com", f"*.wild-{n}.example.com", "*.example.com"])
        )
        taken = any(alias in one.aliases for one in made)
        made.append(
            distribution(
                f"dist{n}",
                *trusted,
                regions=draw(TIES),
                aliases=(alias,) if alias and not taken else (),
                policy=f"policy-{n}" if draw(st.booleans()) else "",
            )
        )
    policies = tuple(
        ResponseHeadersPolicy(f"policy-{n}", (ResponseHeader("x", f"said-{n}", True),)) for n in range(4)
    )
    keys = tied_keys([PublicKey(id_, f"pem-of-{id_}") for id_ in KEYS], groups)
    return compile_snapshot(made, keys, groups, 9, 0.0, policies)


KEYS = [f"KEY{n}" for n in range(6)]


@given(worlds(), NAMES)
def test_no_byte_of_what_is_withheld_is_in_a_regions_snapshot(everything: Snapshot, name: str) -> None:
    data = for_region(everything, name).to_bytes()
    part = from_bytes(data)
    assert fault(part, name) == ""
    here = [one for one in everything.distributions if not one.regions or name in one.regions]
    groups = {one.id: one for one in everything.key_groups if not one.regions or name in one.regions}
    withheld = {key.id for key in everything.public_keys if key.regions and name not in key.regions}
    allowed = {
        key
        for one in here
        for behavior in one.behaviors
        for id_ in behavior.trusted_key_groups
        if id_ in groups
        for key in groups[id_].key_ids
        if key not in withheld
    }
    assert {key.id for key in part.public_keys} == allowed  # and nothing is missing
    assert part.distributions == tuple(here)
    for key in KEYS:
        assert (f"pem-of-{key}".encode() in data) == (key in allowed)
        assert (key.encode() in data) == (key in allowed)
    for one in everything.distributions:
        if one not in here:
            (behavior,) = one.behaviors
            for text in (
                one.id,
                one.arn,
                one.origins[0].domain_name,
                one.origins[0].custom_headers[0][1],
                one.invalidations[0].paths[0],
                behavior.response_headers_policy_id.replace("policy", "said"),
            ):
                assert not text or text.encode() not in data
    for group in everything.key_groups:
        if group.id not in groups:
            assert group.name.encode() not in data
