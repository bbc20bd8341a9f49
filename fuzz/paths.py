"""Fuzzer of paths: whatever file any origin would open for a path needs a signature, and every file name is valid.

    python -m fuzz.paths [--seconds N] [--count N] [--seed N]

Half of the paths are spellings of a secret file's name that some server may accept (`detour`), tried on the sites and
origins of `tests.path_origins`. The other half are file names in any language and with any punctuation, as browsers
and SDKs encode them. Invariants:

- if one of the origins would open a secret file, an unsigned viewer is refused;
- a file's name is never a bad request, whichever client encoded it; if signed, it is granted.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from urllib.parse import quote

from fuzz.runner import Finding, inputs, main

from keyfront.edge.rules.decide import Refusal
from keyfront.edge.rules.routing import Plan, Routing
from tests.path_origins import (
    ENCODERS,
    ENDS,
    FOLDER,
    SLASHES,
    STARTS,
    WORLDS,
    climbs,
    half_open,
    opened,
    spelled,
    verdict,
)

_ALPHABET = (
    *"abcXYZ0189", *"-_.~!$&'()*+,;=:@%#?[]{}<>|^`\" ", "ü", "u\u0308", "é", "ß", "日", "本", "…", "½", "％", "；",
    "а", "ﷺ", "👨\u200d👩", "❤\ufe0f", "\u00a0", "\u3000", "\u2044", "¥", "İ", "ı", "\u212a", "100%", "%25", "%20",
    "..", "v1.0",
)  # fmt: skip


def detour(chance: random.Random, name: str) -> str:
    """A spelling of a file's name (its path, decoded) that some server may read as that name."""
    oddity = chance.choice((0.0, 0.03, 0.1, 0.4))
    made = []
    for char in name:
        if char == "/":
            made.append(chance.choice(SLASHES) if chance.random() < 0.3 else "/")
        elif chance.random() < oddity:
            made.append(spelled(char, chance.randrange(12)))
        else:
            made.append(quote(char))
    text = "".join(made)
    if chance.random() < 0.4:
        text = chance.choice(("/public", "/a.jpg", "/x/y")) + chance.choice(SLASHES) + ".." + text
    elif chance.random() < 0.2:
        text = chance.choice(STARTS) + text
    for _ in range(chance.choice((0, 1, 1, 2, 3))):
        text += chance.choice(ENDS)
    if chance.random() < 0.15:
        # As if another proxy had encoded it first.
        text = text.replace("%", "%25")
    return text if text.startswith("/") else "/" + text


def name(chance: random.Random) -> str:
    """A realistic file name."""
    while True:
        made = "".join(chance.choice(_ALPHABET) for _ in range(chance.randint(1, 30)))
        if made.strip(". ") and not climbs(made):
            return made


def _deceive(chance: random.Random, routings: dict[str, Routing]) -> bool:
    which = chance.choice(sorted(WORLDS))
    world = WORLDS[which]
    target = detour(chance, chance.choice(sorted(world.secret)).decode())
    found = opened(world, target)
    if found and not isinstance(verdict(routings[which], target), Refusal):
        raise Finding(f"{found[0]} opens a secret file of {which!r} for {target!r}")
    return bool(found)


def _be_lawful(chance: random.Random, routing: Routing) -> None:
    file = name(chance)
    encoder = chance.choice(sorted(ENCODERS))
    target = f"/private/{ENCODERS[encoder](file)}.jpg"
    refused = verdict(routing, target)
    if not isinstance(refused, Refusal) or refused.name != "denied":
        raise Finding(f"{target!r} ({encoder}) is {refused!r}")
    if not isinstance(verdict(routing, target, FOLDER), Plan):
        raise Finding(f"{target!r} ({encoder}) is refused with a signature for all of its folder")
    public = verdict(routing, target.replace("/private/", "/public/", 1))
    if isinstance(public, Refusal) and (public.name != "denied" or not re.search(r"%[0-9A-Fa-fuU]", file)):
        raise Finding(f"{target!r} ({encoder}) is refused in an open folder: {public.name}")


def run(
    count: int | None, seconds: float | None, seed: int, tell: Callable[[str], None] = print
) -> tuple[int, int]:
    """Check `count` paths, or as many as `seconds` allow. Returns their number, and how many an origin would have
    opened.

    :raises Finding: at the first one.
    """
    chance = random.Random(seed)
    routings = {which: Routing(world.snapshot) for which, world in WORLDS.items()}
    lawful = Routing(half_open("/private/*"))
    done = reached = 0
    for number in inputs(count, seconds):
        try:
            if number % 2:
                _be_lawful(chance, lawful)
            else:
                reached += _deceive(chance, routings)
        except Exception as error:
            raise Finding(f"seed {seed}, path {number}: {error}") from error
        done += 1
    tell(f"seed {seed}: {done} paths, {reached} of them a secret's at some origin, no finding")
    return done, reached


if __name__ == "__main__":
    main(__doc__, run)
