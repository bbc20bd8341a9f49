"""ListUsers: users, their access keys without secrets, and the policies."""

from __future__ import annotations

import json

from keyfront.cloudfront.access import PATH, AccessKey, Policy, User, Users
from keyfront.control.call import Call
from keyfront.control.iam.roles import DOCUMENTS
from keyfront.control.identity import users
from keyfront.control.identity.credentials import Credentials, user_arn
from keyfront.control.own_operations.contract import OwnOperation
from keyfront.control.store.store import Store


def list_users(store: Store, file: Credentials, account: str) -> OwnOperation:
    """The operation.

    :param file: the callers in the file `credentials`.
    :param account: the users' 12-digit account number.
    """

    def run(_: Call) -> Users:
        with store.read() as transaction:
            known = users.users(transaction)
            keys = users.keys(transaction)
            documents = users.documents(transaction)
        owners = [
            User(caller.name, caller.arn, ("admin",), (AccessKey(caller.access_key_id, True),))
            for caller, _ in file
        ]
        stored = [
            User(
                user.name,
                user_arn(account, user.name),
                user.policies,
                tuple(
                    AccessKey(key.id, key.active, key.created, key.used)
                    for key in keys
                    if key.owner == user.name
                ),
                user.created,
            )
            for user in known
        ]
        roles = [Policy(name, json.dumps(text, indent=2), role=True) for name, text in DOCUMENTS.items()]
        own = [Policy(each.name, each.text, modified=each.modified) for each in documents]
        return Users((*owners, *stored), (*roles, *own))

    return OwnOperation("ListUsers", "GET", PATH, run)
