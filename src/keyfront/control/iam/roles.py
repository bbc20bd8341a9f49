"""The built-in roles: named policies that cannot be changed or deleted."""

from __future__ import annotations

import json
from typing import Any

from keyfront.control.iam import policy as iam
from keyfront.control.iam.policy import Policy


def _allow(*actions: str) -> dict[str, Any]:
    statement = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
    return {"Version": "2012-10-17", "Statement": [statement]}


_WATCH = ("cloudwatch:Describe*", "cloudwatch:Get*", "cloudwatch:List*")
"""Reading alarms and metrics."""

DOCUMENTS: dict[str, dict[str, Any]] = {
    "admin": _allow("*"),
    "key-manager": _allow(
        "cloudfront:CreateKeyGroup",
        "cloudfront:CreatePublicKey",
        "cloudfront:DeleteKeyGroup",
        "cloudfront:DeletePublicKey",
        "cloudfront:Get*",
        "cloudfront:List*",
        "cloudfront:UpdateKeyGroup",
        "cloudfront:UpdatePublicKey",
        "keyfront:Get*",
        "keyfront:ListRequests",
        "keyfront:ListRotations",
        "keyfront:PauseRotation",
        "keyfront:ReplaceCompromisedKey",
        "keyfront:ResumeRotation",
        "keyfront:RollBackRotation",
        "keyfront:RotateKeyGroup",
        "keyfront:StartRotation",
        "keyfront:StopRotation",
        *_WATCH,
    ),
    "auditor": _allow(
        "cloudfront:Get*",
        "cloudfront:List*",
        "keyfront:Get*",
        "keyfront:List*",
        "keyfront:LookupEvents",
        *_WATCH,
    ),
    "edge": _allow(
        "cloudfront:GetDistribution",
        "cloudfront:GetDistributionConfig",
        "cloudfront:GetInvalidation",
        "cloudfront:GetKeyGroup*",
        "cloudfront:GetPublicKey*",
        "cloudfront:ListDistributions",
        "cloudfront:ListInvalidations",
        "cloudfront:ListKeyGroups",
        "cloudfront:ListPublicKeys",
    ),
}
"""`admin` may do everything; `key-manager` changes public keys and key groups and reads everything; `auditor` reads
everything; `edge` reads what an edge needs."""

ROLES: dict[str, Policy] = {
    name: iam.parse(name, json.dumps(document), account="") for name, document in DOCUMENTS.items()
}
ADMIN = ROLES["admin"]
