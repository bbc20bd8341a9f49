"""Tests that the documentation of rotations matches the code: the diagram, the tables, the minimal policy.

`python -m tests.lifecycle.test_reference` prints the generated text that belongs between the markers.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from keyfront.cloudfront import key_usage
from keyfront.custody.key_record import Stage
from keyfront.lifecycle.cloudfront import OPERATIONS
from keyfront.lifecycle.moves import MEANING, MOVES, Action

DOCS = Path(__file__).parents[2] / "docs"


def picture() -> str:
    """The table of moves as a state diagram. A move that keeps the stage appears inside the stage."""
    lines = ["```mermaid", "stateDiagram-v2"]
    for stage, moves in MOVES.items():
        name = stage.value if stage else "[*]"
        for to in Stage:
            actions = [action.value for action, end in moves.items() if end is to and end is not stage]
            if actions:
                lines.append(f"    {name} --> {to.value}: {', '.join(actions)}")
        stays = [action.value for action, end in moves.items() if end is stage]
        if stays:
            lines.append(f"    {name}: {name}\\n{', '.join(stays)}")
    return "\n".join([*lines, "```"])


def table() -> str:
    """Each action, its meaning, and the stages that it leads from and to."""
    lines = ["| step | what happens | stages |", "| --- | --- | --- |"]
    for action in Action:
        moves = [
            f"{stage.value if stage else '–'} → {to[action].value}"
            if to[action] is not stage
            else to[action].value
            for stage, to in MOVES.items()
            if action in to
        ]
        lines.append(f"| `{action.value}` | {MEANING[action]} | {', '.join(moves)} |")
    return "\n".join(lines)


def between(text: str, mark: str) -> str:
    found = re.search(rf"<!-- {mark} -->\n(.*?)\n<!-- end -->", text, re.DOTALL)
    assert found, mark
    return found[1]


def test_the_reference_is_drawn_from_the_table() -> None:
    text = (DOCS / "reference" / "rotation.md").read_text()
    assert between(text, "picture") == picture()
    assert between(text, "steps") == table()


def test_the_least_policy_is_what_is_called() -> None:
    text = (DOCS / "guide" / "rotation.md").read_text()
    policy = json.loads(between(text, "policy").removeprefix("```json").removesuffix("```"))
    actions = [action for statement in policy["Statement"] for action in statement["Action"]]
    assert sorted(actions) == sorted(f"cloudfront:{name}" for name in OPERATIONS)
    assert key_usage.ACTION in text


if __name__ == "__main__":
    print(picture(), table(), sep="\n\n")
