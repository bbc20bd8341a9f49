"""Sketches of distinct values, and what is reported of credentials."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from keyfront.fleet.credential_use import HASH_BITS, Distinct, K

HASHES = st.lists(st.integers(0, (1 << HASH_BITS) - 1), max_size=3 * K)


@given(HASHES)
def test_it_is_exact_below_its_size(hashes: list[int]) -> None:
    few = list(dict.fromkeys(hashes))[: K - 1]
    assert len(Distinct(few + few)) == len(few)


@given(HASHES, HASHES, HASHES)
def test_the_order_of_merging_makes_no_difference_nor_does_repetition(
    one: list[int], two: list[int], three: list[int]
) -> None:
    whole = Distinct(one + two + three).hashes
    assert list(whole) == sorted({*one, *two, *three})[:K]
    first = Distinct([*Distinct(one).hashes, *Distinct(two).hashes])
    second = Distinct([*Distinct(three).hashes, *Distinct(two).hashes])
    assert Distinct([*first.hashes, *second.hashes, *first.hashes]).hashes == whole


def test_the_error_is_what_the_documentation_says() -> None:
    generator = random.Random(1)
    errors = []
    for _ in range(300):
        number = generator.randrange(100, 20_000)
        found = len(Distinct(generator.getrandbits(HASH_BITS) for _ in range(number)))
        errors.append((found - number) / number)
    bias = sum(errors) / len(errors)
    deviation = (sum(error * error for error in errors) / len(errors)) ** 0.5
    assert abs(bias) < 0.03
    assert 0.09 < deviation < 0.16  # 1 / sqrt(62) is 0.127
