"""Parsing a declaration file: environments, variables, and errors that give their location."""

from __future__ import annotations

from typing import Any

import pytest

from keyfront.declared.locations import Places
from keyfront.errors import DeclarationError
from tests.declared.harness import NAME, read

VARIABLES = """
[variables]
ttl = 60
share = 0.5
whole = { type = "number", default = 2 }
on = false
where = "here"
countries = []
secret = { secret = true }
must = { type = "integer" }

[environments.dev]
ttl = 5
must = 1
[environments.prod]
countries = ["NO", "SE"]
must = 2

[KeyGroup.x]
Items = "${countries}"
"""


def filled(value: str, environment: str = "dev", given: tuple[str, ...] = (), **surroundings: str) -> Any:
    text = f"{NAME}{VARIABLES}[KeyGroup.y]\nvalue = {value}\n"
    return read(text, environment, given, **surroundings).tables["KeyGroup"]["y"]["value"]


@pytest.mark.parametrize(
    ("value", "becomes"),
    [
        ('"${ttl}"', 5),
        ('"${where}"', "here"),
        ('"${on}"', False),
        ('"${share}"', 0.5),
        ('"${whole}"', 2.0),
        ('"${countries}"', []),
        ('"a ${ttl} ${where} ${on}"', "a 5 here false"),
        ('"${name}-${environment}"', "media-dev"),
        ('["${ttl}", { a = "${must}" }]', [5, {"a": 1}]),
        ('"$${ttl} $ {ttl} $x"', "${ttl} $ {ttl} $x"),
        ('"$${ttl}"', "${ttl}"),
        ("7", 7),
    ],
)
def test_what_a_variable_becomes(value: str, becomes: Any) -> None:
    found = filled(value)
    assert found == becomes
    assert type(found) is type(becomes)


def test_the_later_the_stronger() -> None:
    ttl = '"${ttl}"'
    assert filled(ttl, "prod") == 60
    assert filled(ttl, "dev") == 5
    assert filled(ttl, "dev", KEYFRONT_VAR_ttl="6") == 6
    assert filled(ttl, "dev", ("ttl=7",), KEYFRONT_VAR_ttl="6") == 7
    assert filled('"${countries}"', given=('countries=["NO"]',)) == ["NO"]  # in YAML that means false
    assert filled('"${where}"', given=("where=a=b 1",)) == "a=b 1"
    assert filled('"${share}"', given=("share=1",)) == 1.0
    assert filled('"${secret}"', KEYFRONT_VAR_secret="hush", KEYFRONT_VAR_else="x") == "hush"


def test_secrets_are_known() -> None:
    text = NAME + VARIABLES
    assert read(text, "dev", KEYFRONT_VAR_secret="hush").secrets == {"hush"}
    assert read(text, "dev").secrets == frozenset()


@pytest.mark.parametrize(
    ("value", "given", "message"),
    [
        ('"${tll}"', (), "site.toml:23: KeyGroup.y.value: there is no variable tll: did you mean ttl?"),
        ('"${secret}"', (), "has no value: give it by KEYFRONT_VAR_secret or a default"),
        ('"x${countries}"', (), "is a list, which cannot stand within a text"),
        ("1", ("tll=1",), "--set tll: there is no such variable: did you mean ttl?"),
        ("1", ("ttl",), "--set takes NAME=VALUE, not 'ttl'"),
        ("1", ("ttl=abc",), "--set ttl: must be a whole number, as TOML writes it"),
        ("1", ("ttl=true",), "--set ttl: must be a whole number"),
        ("1", ("ttl=1\nx = 2",), "--set ttl: must be a whole number"),
        ("1", ("on=1",), "--set on: must be true or false"),
        ("1", ("countries=NO",), "--set countries: must be a list"),
        ("1", ("secret=hush",), "others on this machine can read a command line; use KEYFRONT_VAR_secret"),
    ],
)
def test_what_a_variable_cannot_become(value: str, given: tuple[str, ...], message: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        filled(value, given=given)
    assert message in str(caught.value)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "environment", "message"),
    [
        ("name = ", "", "site.toml: this is not TOML"),
        ("", "", "site.toml: name: a set-up needs a name"),
        ('name = "a/b"', "", "site.toml:1: name: a set-up needs a name"),
        ("name = 1", "", "site.toml:1: name: must be a text"),
        (NAME + "[PublicKeys.a]", "", "PublicKeys: there is no such table: did you mean PublicKey?"),
        (NAME + "Distribution = []", "", "site.toml:2: Distribution: must be a table"),
        (NAME, "dev", "it has no environments, and --environment dev was asked for"),
        (NAME + "[environments.dev]\n[environments.prod]", "", "say which with --environment: dev, prod"),
        (NAME + "[environments.prod]", "prd", "there is no environment prd: did you mean prod?"),
        (NAME + "[environments.prod]\nttl = 1", "prod", "site.toml:3: environments.prod.ttl: there is no such"),
        (NAME + "[environments.a]\n[environments.b]\nx = 1", "a", "environments.b.x: there is no such variable"),
        (NAME + "environments.prod = 1", "prod", "environments.prod: must be a table of variables"),
        (NAME + '[environments."a b"]', "a b", "a name is up to 32 letters"),
        (NAME + "variables.environment = 1", "", "a variable cannot have this name"),
        (NAME + "variables.a-b = 1", "", "a variable cannot have this name"),
        (NAME + "variables.a = 1979-05-27", "", "a variable's type is one of"),
        (NAME + "variables.a = { sekret = true }", "", "there is no such word for a variable: did you mean secret?"),
        (NAME + "variables.a = { secret = 1 }", "", "must be true or false"),
        (NAME + "variables.a = { secret = true, default = 1 }", "", "a secret is a text"),
        (NAME + 'variables.a = { type = "integer", default = "1" }', "", "must be a whole number"),
        (NAME + "[variables]\na = 1\n[environments.x]\na = true", "x", "site.toml:5: environments.x.a: must be"),
        (NAME + "endpoint_url = [1]", "", "endpoint_url: must be a text"),
        (NAME + 'endpoint_url = "${n}"\nvariables.n = 1', "", "endpoint_url: must be a text"),
    ],
)  # fmt: skip
def test_what_a_file_cannot_say(text: str, environment: str, message: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        read(text, environment)
    assert message in str(caught.value)


def test_bare_asks_for_no_values() -> None:
    from keyfront.declared import document
    from keyfront.declared.resources import ROWS

    text = NAME + '[variables]\nx = { secret = true }\n[KeyGroup.a]\nItems = ["${x}"]'
    found = document.read(text, "f", kinds=ROWS, bare=True)
    assert (found.owner, found.tables) == ("media", {})


def test_all_faults_at_once_and_not_too_many() -> None:
    lines = "\n".join(f"x{at} = 1" for at in range(40))
    with pytest.raises(DeclarationError) as caught:
        read(NAME + lines)
    faults = str(caught.value).splitlines()
    assert len(faults) == 21
    assert faults[-1] == "… and 20 more"


TEXT = '''name = "x"
[A.b]   # a comment
C = 1
D.e = 2
"f g" = """
[A.z]
C = 9
"""
[[A.b.Items]]
Id = "one"
Inner = [
  { K = "v" },
]
[[A.b.Items]]
Id = "two"
[A.b.Items.More]
X = 1
[[A.b.Items.Deep]]
Y = 1
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("name",), 1),
        (("A", "b"), 2),
        (("A", "b", "C"), 3),
        (("A", "b", "D", "e"), 4),
        (("A", "b", "f g"), 5),
        (("A", "z"), None),
        (("A", "b", "Items", 0, "Id"), 10),
        (("A", "b", "Items", 0, "Inner", 0, "K"), 11),
        (("A", "b", "Items", 1, "Id"), 15),
        (("A", "b", "Items", 1, "More", "X"), 17),
        (("A", "b", "Items", 1, "Deep", 0, "Y"), 19),
        (("A", "b", "Items", 1, "Nothing"), 14),
        (("B",), None),
    ],
)
def test_places(path: tuple[str | int, ...], line: int | None) -> None:
    assert Places(TEXT).line(path) == line


@pytest.mark.parametrize("text", ["[", "[[", "= 1", "a.b.=", '"""', "[a]]\n[[b]", "\x00[", "[''']\n'''=1"])
def test_places_never_fail(text: str) -> None:
    assert Places(text).line(("a", "b", 0)) in (None, 1, 2)
