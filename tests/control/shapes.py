"""Values for the shapes of botocore's model, generated from a seed: the reference for both directions of the
codec."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

# One string that matches each pattern in the model; a new pattern in a newer botocore needs a line here.
EXAMPLES = {
    r"[a-zA-Z0-9-_]{1,64}": "name_1-b",
    r"[a-z]{2}-[a-z]+-\d": "us-east-1",
    r"[a-zA-Z0-9][a-zA-Z0-9-.]{1,126}[a-zA-Z0-9]": "tenant-1.example",
    r"arn:aws:cloudfront::[0-9]{12}:function\/[a-zA-Z0-9-_]{1,64}": (
        "arn:aws:cloudfront::111111111111:function/f"
    ),
    r"arn:aws:cloudfront::[0-9]{12}:key-value-store\/[0-9a-fA-F-]{36}": (
        "arn:aws:cloudfront::123456789012:key-value-store/0123abcd-0123-0123-0123-0123456789ab"
    ),
    r"[a-zA-Z0-9-_]+": "parameter-1",
    r"arn:aws(-cn)?:cloudfront::[0-9]+:.*": "arn:aws:cloudfront::123456789012:distribution/E1 + %2F?&é",
    r"([\p{L}\p{Z}\p{N}_.:/=+\-@]*)": "Ключ ½ a=b+c@d",
}
ALPHABET = "abcXYZ019 /+%&=?#<>\"'\t\né€漢😀\u00a0.~*:;-_"


class Maker:
    """`fullness` is the probability that an optional member is present: 0 gives the minimal input, 1 the full one."""

    def __init__(self, seed: str, fullness: float) -> None:
        self.random = random.Random(seed)
        self.fullness = fullness

    def value(self, shape: Any) -> Any:
        return getattr(self, shape.type_name)(shape)

    def structure(self, shape: Any) -> dict[str, Any]:
        if shape.traits.get("union"):
            member = self.random.choice(sorted(shape.members))
            return {member: self.value(shape.members[member])}
        return {
            member: self.value(kind)
            for member, kind in shape.members.items()
            if member in shape.required_members or self.random.random() < self.fullness
        }

    def list(self, shape: Any) -> list[Any]:
        low = shape.traits.get("min", 0)
        high = shape.traits.get("max", low + 2)
        return [self.value(shape.member) for _ in range(self.random.randint(low, high))]

    def string(self, shape: Any) -> str:
        if shape.enum:
            return str(self.random.choice(shape.enum))
        if "pattern" in shape.traits:
            return EXAMPLES[shape.traits["pattern"]]
        in_line = shape.traits.get("location")
        low = max(shape.traits.get("min", 0), 1 if in_line == "uri" else 0)
        high = min(shape.traits.get("max", 24), 24)
        if in_line == "header":
            return "E" + "".join(self.random.choices("ABC123", k=12))
        text = "".join(self.random.choices(ALPHABET, k=self.random.randint(low, high)))
        return text if text not in {".", ".."} else "x"

    def integer(self, shape: Any) -> int:
        return self.random.randint(shape.traits.get("min", -(2**31)), shape.traits.get("max", 2**31 - 1))

    def long(self, shape: Any) -> int:
        return self.random.randint(-(2**63), 2**63 - 1)

    def double(self, shape: Any) -> float:
        return self.random.uniform(shape.traits.get("min", -1e9), shape.traits.get("max", 1e9))

    float = double

    def boolean(self, shape: Any) -> bool:
        return self.random.random() < 0.5

    def blob(self, shape: Any) -> bytes:
        return self.random.randbytes(self.random.randint(shape.traits.get("min", 0), 40))

    def timestamp(self, shape: Any) -> datetime:
        return datetime(2019, 12, 5, 18, 51, 43, 781000, UTC) + timedelta(
            milliseconds=self.random.randint(0, 10**12)
        )
