"""GetKeyUse: the usage of keys that edges report."""

from __future__ import annotations

import contextlib

from keyfront.cloudfront import key_usage
from keyfront.cloudfront.key_usage import KeyUses
from keyfront.control.call import Call
from keyfront.control.keys.usage import KeyUsageCollector, uses
from keyfront.control.own_operations.contract import OwnOperation
from keyfront.control.store.store import Store
from keyfront.errors import ApiError


def get_key_use(store: Store, usage: KeyUsageCollector) -> OwnOperation:
    """The operation. Its response includes the latest reports of this machine's edges, if the store can still be
    written to."""

    def run(call: Call) -> KeyUses:
        with contextlib.suppress(ApiError):
            usage.gather(call.now)
        with store.read() as transaction:
            return uses(transaction, call.now)

    return OwnOperation("GetKeyUse", "GET", key_usage.PATH, run)
