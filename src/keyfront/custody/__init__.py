"""Private keys behind URIs: one contract, one adapter per scheme (docs/reference/custody.md).

    from keyfront.custody import open_key, open_place

    place = open_place("vault:transit/?address=https://vault.example.com")   # where keys are
    held = place.create("photos-1", "ECDSA-P256", now=time.time())
    handle = open_key(held.uri)                                             # what signs with one of them

`contract.py` is what every adapter offers, `key_uri.py` maps the scheme of a URI to its adapter in `adapters/`, and
`schemes.py` opens places and keys. `key_record.py` is the record of which key signs for a key group now, which came
before, and which comes next; `signers/` follow it, and `agent/` signs for applications that must not hold keys. The
package does not depend on CloudFront's API.
"""

from keyfront.custody.contract import Custody, Handle, HeldKey, Record, Records
from keyfront.custody.key_uri import SCHEMES, split
from keyfront.custody.schemes import open_key, open_place, open_records

__all__ = [
    "SCHEMES",
    "Custody",
    "Handle",
    "HeldKey",
    "Record",
    "Records",
    "open_key",
    "open_place",
    "open_records",
    "split",
]
