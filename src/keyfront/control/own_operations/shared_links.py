"""ListSharedLinks: signed URLs and cookies that are used from many places."""

from __future__ import annotations

from keyfront.cloudfront.shared_links import PATH, SharedLinks
from keyfront.control.call import Call
from keyfront.control.own_operations.contract import OwnOperation
from keyfront.control.sharing import findings
from keyfront.control.store.store import Store


def list_shared_links(store: Store) -> OwnOperation:
    """The operation."""

    def run(_: Call) -> SharedLinks:
        with store.read() as transaction:
            return SharedLinks(tuple(findings.newest(transaction, findings.MOST)))

    return OwnOperation("ListSharedLinks", "GET", PATH, run)
