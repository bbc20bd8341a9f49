"""Conditions of policy statements: the supported keys and operators, and their evaluation. Pure.

The rules are IAM's (IAM User Guide, "Condition operators", "Condition with multiple context keys or values", "Set
operators for multivalued context keys"):

- All conditions of a statement must hold. One of a condition's values must match; with a negated operator, none may.
- If the call lacks the key, a condition does not hold, a negated one does, and so does any with `…IfExists`.
- `ForAllValues:` requires it of each value in the call, and holds if there are none; `ForAnyValue:` requires it of one.

A key or operator that is not in the tables below is refused when the policy is stored. Ignoring a condition would grant
what its author meant to restrict.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from keyfront.control.iam import wildcards
from keyfront.control.iam.wildcards import Lookup, Template

RequestContext = Mapping[str, tuple[str, ...]]
"""IAM's request context: the values of each condition key. Keys are in lower case, except for the key of a tag
(`aws:requesttag/Env`). Keys without a value are absent."""

_TAG_KEYS = "aws:tagkeys"
_TAGGED = ("aws:resourcetag/", "aws:requesttag/")
_TEXT = frozenset({"String"})
_ANY = frozenset({"String", "Numeric", "Date", "Bool", "Arn"})

KEYS: dict[str, frozenset[str]] = {
    "aws:currenttime": _TEXT | {"Date"},
    "aws:epochtime": _TEXT | {"Date", "Numeric"},
    "aws:principalaccount": _TEXT,
    "aws:principalarn": _TEXT | {"Arn"},
    "aws:principaltype": _TEXT,
    "aws:requestedregion": _TEXT,
    "aws:securetransport": _TEXT | {"Bool"},
    "aws:sourceip": _TEXT | {"IpAddress"},
    _TAG_KEYS: _TEXT,
    "aws:useragent": _TEXT,
    "aws:userid": _TEXT,
    "aws:username": _TEXT,
}
"""The condition keys, each with the operator families that it supports. Tags (`aws:ResourceTag/k`, `aws:RequestTag/k`)
support all but IpAddress, and every key supports `Null`."""


class Operator(msgspec.Struct, frozen=True):
    """A condition operator.

    :param compile: turns a value in a policy into a function that tests a value of a call; raises ValueError for an
        invalid value.
    """

    family: str
    compile: Callable[[str], Callable[[str, Lookup], bool]]
    negated: bool = False


class Condition(msgspec.Struct, frozen=True):
    """One key under one operator.

    :param each: the set operator: `ForAllValues`, `ForAnyValue`, or empty.
    :param tests: the compiled values.
    """

    operator: str
    key: str
    negated: bool
    if_exists: bool
    each: str
    tests: tuple[Callable[[str, Lookup], bool], ...]

    def holds(self, context: RequestContext) -> bool:
        """True if the condition holds for the call."""
        values = values_of(context, self.key)

        def lookup(key: str) -> str | None:
            found = values_of(context, fold(key))
            return found[0] if found and len(found) == 1 else None

        if self.operator == "Null":
            return any(test("true" if values is None else "false", lookup) for test in self.tests)
        if values is None:
            return self.if_exists or self.each == "ForAllValues" or (self.negated and not self.each)
        found = (any(test(value, lookup) for test in self.tests) is not self.negated for value in values)
        return any(found) if self.each == "ForAnyValue" else all(found)


def fold(key: str) -> str:
    """A condition key as a `RequestContext` has it: in lower case, but for the key of a tag."""
    name, slash, tag = key.partition("/")
    return name.lower() + slash + tag


def values_of(context: RequestContext, key: str) -> tuple[str, ...] | None:
    """The values of the folded key `key`; None if the call lacks it. The key of a tag matches exactly, or else
    regardless of case if that is unambiguous."""
    if (values := context.get(key)) is not None:
        return values
    if not key.startswith(_TAGGED):
        return None
    folded = key.lower()
    found = [values for name, values in context.items() if name.lower() == folded]
    return found[0] if len(found) == 1 else None


def is_known(key: str) -> bool:
    """True for a folded key that is in KEYS or a tag's."""
    return key in KEYS or any(key.startswith(tag) and len(key) > len(tag) for tag in _TAGGED)


def is_single_valued(key: str) -> bool:
    """True for a folded key with at most one value, which can be used as a policy variable."""
    return is_known(key) and key != _TAG_KEYS


def parse(given: Any, where: str, variables: bool) -> Iterator[Condition]:
    """The conditions in a statement's `Condition` member.

    :param where: its location, for errors.
    :param variables: whether the policy's version has variables.
    :raises ValueError: says what is wrong, and where.
    """
    if not isinstance(given, dict):
        raise ValueError(f"{where} must be an object of operators")
    for name, keys in given.items():
        operator, each, if_exists = _operator(name, f"{where}.{name[:80]}")
        if not isinstance(keys, dict) or not keys:
            raise ValueError(f"{where}.{name} must be an object of condition keys")
        for key, values in keys.items():
            here = f"{where}.{name}.{key[:80]}"
            folded = fold(key)
            if not is_known(folded):
                raise ValueError(f"{here}: Keyfront does not know this condition key")
            families = KEYS.get(folded, _ANY) | {"Null"}
            if operator.family not in families:
                raise ValueError(f"{here}: {name} cannot be used with this key")
            if folded == _TAG_KEYS and not each and operator.family != "Null":
                raise ValueError(
                    f"{here}: this key can have several values; use ForAllValues:{name} or ForAnyValue:{name}"
                )
            tests = tuple(_test(operator, value, here, variables) for value in _values(values, here))
            plain = name.removeprefix(f"{each}:")
            yield Condition(plain, folded, operator.negated, if_exists, each, tests)


def _operator(name: str, where: str) -> tuple[Operator, str, bool]:
    each, colon, plain = name.partition(":")
    if not colon:
        each, plain = "", name
    elif each not in {"ForAllValues", "ForAnyValue"}:
        raise ValueError(f"{where}: a set operator is ForAllValues or ForAnyValue")
    base = plain.removesuffix("IfExists")
    operator = OPERATORS.get(base)
    if operator is None or (base == "Null" and (base != plain or each)):
        raise ValueError(f"{where}: Keyfront does not know this condition operator")
    return operator, each, base != plain


def _values(given: Any, where: str) -> list[str]:
    items = given if isinstance(given, list) else [given]
    if not items:
        raise ValueError(f"{where} has no value")
    found = []
    for item in items:
        if isinstance(item, bool):
            found.append("true" if item else "false")
        elif isinstance(item, int | float):
            found.append(str(item))
        elif isinstance(item, str):
            found.append(item)
        else:
            raise ValueError(f"{where}: a value is a string, a number, true or false")
    return found


def _test(operator: Operator, value: str, where: str, variables: bool) -> Callable[[str, Lookup], bool]:
    if "${" in value:
        if not variables:
            raise ValueError(f'{where}: policy variables need "Version": "2012-10-17"')
        if operator.family not in {"String", "Arn"}:
            raise ValueError(f"{where}: this operator's values cannot hold policy variables")
    try:
        return operator.compile(value)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


# ---- the operators' values


def checked(found: Template) -> Template:
    """The template itself, if all its variables are valid.

    :raises ValueError: if a variable is unknown or can have several values.
    """
    for key in found.variables:
        if not is_single_valued(fold(key)):
            raise ValueError(f"Keyfront does not know the policy variable ${{{key[:80]}}}")
    return found


def _equals(value: str) -> Callable[[str, Lookup], bool]:
    return checked(wildcards.template(value, wildcards=False)).matches


def _equals_ignoring_case(value: str) -> Callable[[str, Lookup], bool]:
    return checked(wildcards.template(value, wildcards=False, ignore_case=True)).matches


def _like(value: str) -> Callable[[str, Lookup], bool]:
    return checked(wildcards.template(value)).matches


def _arn(value: str) -> Callable[[str, Lookup], bool]:
    return checked(wildcards.template(value) if value == "*" else wildcards.arn(value)).matches


def _bool(value: str) -> Callable[[str, Lookup], bool]:
    expected = value.lower()
    if expected not in {"true", "false"}:
        raise ValueError("the value must be true or false")
    return lambda text, _: text.lower() == expected


def _ip(value: str) -> Callable[[str, Lookup], bool]:
    try:
        network = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError(f"{value[:80]!r} is not an IP address or a network in CIDR form") from None

    def within(text: str, _: Lookup) -> bool:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return False
        return address.version == network.version and address in network

    return within


def _compared(read: Callable[[str], float], fits: Callable[[float, float], bool]) -> Callable[..., Any]:
    def compile_(value: str) -> Callable[[str, Lookup], bool]:
        bound = read(value)

        def compare(text: str, _: Lookup) -> bool:
            try:
                return fits(read(text), bound)
            except ValueError:
                return False

        return compare

    return compile_


def _number(text: str) -> float:
    if not re.fullmatch(r"[-+]?[0-9]+(\.[0-9]+)?", text):
        raise ValueError(f"{text[:80]!r} is not a number")
    return float(text)


def _moment(text: str) -> float:
    """Epoch seconds of an ISO 8601 date or time (UTC if it has no time zone), or of a text of epoch seconds."""
    if re.fullmatch(r"[0-9]{5,16}(\.[0-9]+)?", text):
        return float(text)
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(f"{text[:80]!r} is not a date: write 2030-01-31T12:00:00Z") from None


def _numeric(fits: Callable[[float, float], bool], *, negated: bool = False) -> Operator:
    return Operator("Numeric", _compared(_number, fits), negated)


def _date(fits: Callable[[float, float], bool], *, negated: bool = False) -> Operator:
    return Operator("Date", _compared(_moment, fits), negated)


OPERATORS: dict[str, Operator] = {
    "StringEquals": Operator("String", _equals),
    "StringNotEquals": Operator("String", _equals, negated=True),
    "StringEqualsIgnoreCase": Operator("String", _equals_ignoring_case),
    "StringNotEqualsIgnoreCase": Operator("String", _equals_ignoring_case, negated=True),
    "StringLike": Operator("String", _like),
    "StringNotLike": Operator("String", _like, negated=True),
    "NumericEquals": _numeric(lambda value, bound: value == bound),
    "NumericNotEquals": _numeric(lambda value, bound: value == bound, negated=True),
    "NumericLessThan": _numeric(lambda value, bound: value < bound),
    "NumericLessThanEquals": _numeric(lambda value, bound: value <= bound),
    "NumericGreaterThan": _numeric(lambda value, bound: value > bound),
    "NumericGreaterThanEquals": _numeric(lambda value, bound: value >= bound),
    "DateEquals": _date(lambda value, bound: value == bound),
    "DateNotEquals": _date(lambda value, bound: value == bound, negated=True),
    "DateLessThan": _date(lambda value, bound: value < bound),
    "DateLessThanEquals": _date(lambda value, bound: value <= bound),
    "DateGreaterThan": _date(lambda value, bound: value > bound),
    "DateGreaterThanEquals": _date(lambda value, bound: value >= bound),
    "Bool": Operator("Bool", _bool),
    "IpAddress": Operator("IpAddress", _ip),
    "NotIpAddress": Operator("IpAddress", _ip, negated=True),
    "ArnEquals": Operator("Arn", _arn),
    "ArnNotEquals": Operator("Arn", _arn, negated=True),
    "ArnLike": Operator("Arn", _arn),
    "ArnNotLike": Operator("Arn", _arn, negated=True),
    "Null": Operator("Null", _bool),
}
"""All of IAM's condition operators but BinaryEquals, which no key supports."""
