"""Write docs/reference/reasons.md, the page of every reason with its cause and cure: `make docs`."""

from __future__ import annotations

import textwrap
from pathlib import Path

from keyfront.edge.rules.reasons import REASONS, Reason
from keyfront.errors import Denial

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "reasons.md"
_HEAD = """\
# Reasons

When the edge refuses a request before it looks for a response, the access record names the `reason`. The viewer sees
only CloudFront's message. [`keyfront explain`](../guide/explain.md) tells the reason of a URL, and with `--request-id`
that of a recorded request; [`keyfront logs query top-denials`](../guide/logs.md) counts them.

Limits have names of their own, which [their guide](../guide/limits.md) lists; failures of origins are named after
CloudFront's `x-edge-detailed-result-type`.
"""


def page() -> str:
    signatures = {denial.reason for denial in Denial}
    parts = [_HEAD, "## Signatures\n"]
    parts += [_section(name, reason) for name, reason in REASONS.items() if name in signatures]
    parts.append("## Requests\n")
    parts += [_section(name, reason) for name, reason in REASONS.items() if name not in signatures]
    return "\n".join(parts)


def _section(name: str, reason: Reason) -> str:
    seen = f"{reason.status} {reason.code}".strip()
    texts = (f"**Cause.** {reason.cause}", f"**Cure.** {reason.cure}", f"The viewer sees {seen}.")
    filled = "\n\n".join(
        textwrap.fill(text, 118, break_long_words=False, break_on_hyphens=False) for text in texts
    )
    return f"### `{name}`\n\n{filled}\n"


def main() -> None:
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
