"""Private keys behind URIs: one contract, an adapter a scheme (docs/reference/custody.md).

    from keyfront.custody import open_key, open_place

    place = open_place("vault:transit/?address=https://vault.example.com")   # where keys are made and kept
    held = place.create("photos-1", "ECDSA-P256", now=time.time())
    handle = open_key(held.uri)                                             # what signs with one of them

`contract.py` is what every adapter offers, `schemes.py` says which scheme is whose, `succession.py` is the record of
which key signs for a key group now, which came before and which will come.
"""

from keyfront.custody.contract import Custody, Handle, HeldKey, Record, Records
from keyfront.custody.schemes import SCHEMES, open_key, open_place, open_records, split

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
