"""From a declaration file to API configs: boilerplate added, names and marks filled in, mistakes refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from keyfront.declared import document
from keyfront.declared.desired import NamedReference, owner_of, secret_values, setup
from keyfront.declared.resources import ROWS
from keyfront.errors import DeclarationError
from keyfront.signing.keys import load_public_key
from tests.declared.harness import FILES, NAME, SITE, wish

KEY = load_public_key(FILES["rsa.pem"])
BEHAVIOR = 'DefaultCacheBehavior = { TargetOriginId = "o", ViewerProtocolPolicy = "allow-all" }'
ORIGIN = 'Origins = [{ Id = "o", DomainName = "example.com" }]'


def distribution(*lines: str) -> dict[str, Any]:
    text = "\n".join((NAME, "[Distribution.d]", BEHAVIOR, ORIGIN, *lines))
    return wish(text).desired[-1].config


@pytest.mark.parametrize(
    ("line", "member", "becomes"),
    [
        ('Aliases = ["a", "b"]', "Aliases", {"Quantity": 2, "Items": ["a", "b"]}),
        ("Aliases = []", "Aliases", {"Quantity": 0}),
        ('Aliases = { Items = ["a"] }', "Aliases", {"Quantity": 1, "Items": ["a"]}),
        ("WebACLId = ''", "WebACLId", ""),
        (
            'Restrictions.GeoRestriction = { RestrictionType = "whitelist", Items = ["NO"] }',
            "Restrictions",
            {"GeoRestriction": {"RestrictionType": "whitelist", "Quantity": 1, "Items": ["NO"]}},
        ),
        (
            'CustomErrorResponses = [{ ErrorCode = 404, ResponseCode = "200", ResponsePagePath = "/x" }]',
            "CustomErrorResponses",
            {"Quantity": 1, "Items": [{"ErrorCode": 404, "ResponseCode": "200", "ResponsePagePath": "/x"}]},
        ),
        (
            'OriginGroups = [{ Id = "g", FailoverCriteria.StatusCodes = [500], '
            'Members = [{ OriginId = "o" }, { OriginId = "p" }] }]',
            "OriginGroups",
            {
                "Quantity": 1,
                "Items": [
                    {
                        "Id": "g",
                        "FailoverCriteria": {"StatusCodes": {"Quantity": 1, "Items": [500]}},
                        "Members": {"Quantity": 2, "Items": [{"OriginId": "o"}, {"OriginId": "p"}]},
                    }
                ],
            },
        ),
    ],
)
def test_the_ceremony_is_added(line: str, member: str, becomes: Any) -> None:
    assert distribution(line)[member] == becomes


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ("[]", {"Enabled": False, "Quantity": 0}),
        ('["g"]', {"Enabled": True, "Quantity": 1, "Items": [NamedReference("KeyGroup", "g")]}),
        (
            '{ Items = ["g"], Enabled = false }',
            {"Enabled": False, "Quantity": 1, "Items": [NamedReference("KeyGroup", "g")]},
        ),
    ],
)  # fmt: skip
def test_key_groups_are_enabled_by_being_listed(text: str, becomes: Any) -> None:
    config = distribution(_behavior(text))
    assert config["CacheBehaviors"]["Items"][0]["TrustedKeyGroups"] == becomes


def _behavior(groups: str) -> str:
    return (
        "CacheBehaviors = [{ PathPattern = '/a', TargetOriginId = 'o', ViewerProtocolPolicy = 'allow-all', "
        f"TrustedKeyGroups = {groups} }}]"
    )


def test_methods_are_a_list_or_a_table() -> None:
    both = (
        "CacheBehaviors = [{ PathPattern = '/a', TargetOriginId = 'o', ViewerProtocolPolicy = 'allow-all', "
    )
    plain = distribution(both + 'AllowedMethods = ["GET", "HEAD"] }]')
    table = distribution(
        both + 'AllowedMethods = { Items = ["GET", "HEAD"], CachedMethods = ["GET", "HEAD"] } }]'
    )
    assert plain["CacheBehaviors"]["Items"][0]["AllowedMethods"] == {"Quantity": 2, "Items": ["GET", "HEAD"]}
    assert table["CacheBehaviors"]["Items"][0]["AllowedMethods"]["CachedMethods"]["Quantity"] == 2


def test_what_is_filled_in() -> None:
    key, group, site = wish(SITE).desired
    assert key.identity == f"media-films-{KEY.fingerprint[:8]}"
    assert key.config == {
        "EncodedKey": KEY.pem,
        "Name": key.identity,
        "CallerReference": key.identity,
        "Comment": "(keyfront media)",
    }
    assert group.config == {
        "Items": [NamedReference("PublicKey", "films")],
        "Name": "media-viewers",
        "Comment": "(keyfront media)",
    }
    assert site.identity == site.config["CallerReference"] == "media/site"
    assert site.config["Enabled"] is True
    assert site.config["DefaultCacheBehavior"]["CachePolicyId"] == NamedReference(
        "CachePolicy", "Managed-CachingOptimized"
    )


def test_environments_share_nothing() -> None:
    text = SITE + "[environments.dev]\n[environments.prod]\n"
    names = {
        environment: [d.identity for d in wish(text, environment).desired] for environment in ("dev", "prod")
    }
    assert not set(names["dev"]) & set(names["prod"])
    assert names["prod"][1:] == ["media-prod-viewers", "media/prod/site"]


def test_what_the_file_says_itself() -> None:
    found = wish(
        NAME
        + '[PublicKey.k]\nName = "mine"\nCallerReference = "2020"\nComment = "of old"\nrotation_days = 30\n'
        'EncodedKey = { file = "rsa.pem" }\n'
        '[Distribution.d]\nCallerReference = "tf"\nEnabled = false\nTags = { team = "a" }\n'
        + BEHAVIOR
        + "\n"
        + ORIGIN
    )
    key, site = found.desired
    assert (key.identity, key.chosen, key.rotation_days) == ("mine", True, 30)
    assert key.config["CallerReference"] == "2020"
    assert key.config["Comment"] == "of old (keyfront media)"
    assert (site.identity, site.chosen, site.tags) == ("tf", True, {"team": "a"})
    assert site.config["Enabled"] is False


def test_the_order_is_that_of_making() -> None:
    text = NAME + "[Distribution.d]\n" + BEHAVIOR + "\n" + ORIGIN + '\n[KeyGroup.g]\nItems = ["k"]\n'
    text += '[PublicKey.k]\nEncodedKey = { file = "ec.pem" }'
    assert [d.kind for d in wish(text).desired] == ["PublicKey", "KeyGroup", "Distribution"]


def test_a_file_stands_for_its_text() -> None:
    config = distribution('DefaultRootObject = { file = "secret.txt" }')
    assert config["DefaultRootObject"] == "hush-hush"


@pytest.mark.parametrize(
    ("comment", "owner"),
    [
        ("Films (keyfront media/prod)", "media/prod"),
        ("(keyfront media)", "media"),
        ("Films (keyfront media/prod) edited", ""),
        ("Films(keyfront media)", ""),
        ("", ""),
        ("keyfront media", ""),
    ],
)
def test_whose_it_is(comment: str, owner: str) -> None:
    assert owner_of(comment) == owner


KEY_OF = "[PublicKey.k]\nEncodedKey = "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[KeyGroup.g]\nItem = []", "site.toml:3: KeyGroup.g.Item: there is no such member of KeyGroupConfig: did"),
        ("[KeyGroup.g]\nItem = []", "KeyGroup.g: Items is missing"),
        ("[KeyGroup.g]\nItems = 'k'", "KeyGroup.g.Items: must be a list"),
        ("[KeyGroup.g]\nItems = [1]", 'must be a text, such as "1"'),
        ("[KeyGroup.g]\nItems = [1979-05-27]", "must be a text"),
        ("[KeyGroup.g]\nitems = []", "KeyGroup.g.items: there is no such word for a key group: did you mean Items?"),
        ("KeyGroup.g = 1", "KeyGroup.g: must be a table"),
        ('[KeyGroup."a b"]\nItems = []', "a label is up to 64"),
        ("[KeyGroup.g]\nItems = []\nrotation_days = 3", "rotation_days: there is no such word for a key group"),
        ("[KeyGroup.g]\nItems = []\nComment = 'x (keyfront y)'", "Keyfront itself writes the mark"),
        ("[KeyGroup.g]\nItems = []\nComment = 1", "Comment: must be a text"),
        ("[KeyGroup.g]\nItems = []\nComment = '" + "x" * 112 + "'", "may have 111 characters here"),
        ("[KeyGroup.g]\nItems = []\nName = 'n'\n[KeyGroup.h]\nItems = []\nName = 'n'", "KeyGroup.h: has the same Name"),
        (KEY_OF + "'x'", "not a single PEM block"),
        (KEY_OF + "{ file = 'private.pem' }", "a private key, where a public key is needed"),
        (KEY_OF + "{ file = 'none.pem' }", "site.toml:3: PublicKey.k.EncodedKey: none.pem: No such file"),
        (KEY_OF + "{ file = 'bytes' }", "bytes is not UTF-8 text"),
        (KEY_OF + "{ file = 'large' }", "large: larger than 1 MiB"),
        (KEY_OF + "{ path = 'x' }", 'must be a text, or { file = "…" }'),
        (KEY_OF + "{ file = 'rsa.pem' }\nrotation_days = -1", "must be a whole number of days"),
        (KEY_OF + "{ file = 'rsa.pem' }\nrotation_days = true", "must be a whole number of days"),
        ("[Distribution.d]\nEnabled = 1", "Distribution.d.Enabled: must be true or false"),
        ("[Distribution.d]\nOrigins = []", "Distribution.d: DefaultCacheBehavior is missing"),
        ("[Distribution.d]\nTags = ['x']", "must be a table of texts"),
        ("[Distribution.d]\nPriceClass = 'PriceClass_10'", "must be one of PriceClass_100, "),
        ("[Distribution.d]\nHttpVersion = 'HTTP2'", "did you mean http2?"),
        ("[Distribution.d.Aliases]\nQuantity = 1", "leave it out: Keyfront counts"),
        ("[Distribution.d]\nAliases = 'a'", "Aliases: must be a list"),
        ("[[Distribution.d.Origins]]\nId = 'o'", "site.toml:2: Distribution.d.Origins[0]: DomainName is missing"),
        ("[[Distribution.d.Origins]]\nId = 'o'\nDomanName = 'x'", "site.toml:4: Distribution.d.Origins[0].DomanName"),
        ("[Distribution.d.DefaultCacheBehavior]\nTrustedKeyGroup = ['g']", "did you mean TrustedKeyGroups?"),
        ("[Distribution.d.DefaultCacheBehavior]\nMinTTL = 0.5", "MinTTL: must be a whole number"),
    ],
)  # fmt: skip
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        wish(NAME + text)
    assert message in str(caught.value), caught.value


def test_the_headers_by_which_an_origin_knows_its_edges_are_secret() -> None:
    pairs = [("x-edge", "hush"), ("x", "")]
    headers = ", ".join(f'{{ HeaderName = "{name}", HeaderValue = "{value}" }}' for name, value in pairs)
    origins = f'Origins = [{{ Id = "o", DomainName = "example.com", CustomHeaders = [{headers}] }}]'
    declared = wish(f"{SITE}\n[Distribution.more]\n{origins}\n{BEHAVIOR}")
    assert secret_values(declared) == {"hush"}


def test_no_key_is_shown() -> None:
    secret = FILES["private.pem"].decode().splitlines()[3]
    with pytest.raises(DeclarationError) as caught:
        wish(NAME + KEY_OF + "{ file = 'private.pem' }")
    assert secret not in str(caught.value)


GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "declared.md"


def test_the_guide_says_what_works() -> None:
    text = re.findall(r"```toml\n(.*?)```", GUIDE.read_text(), re.DOTALL)[0]
    found = document.read(text, "site.toml", kinds=ROWS)
    names = [each.identity for each in setup(found, lambda _: FILES["rsa.pem"]).desired]
    assert names == ["media-films-fa01055c", "media-viewers", "media/site"]
    assert all(f"`{kind}`" in GUIDE.read_text() for kind in ROWS)
