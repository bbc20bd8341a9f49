"""The life of a key: its rotation, and what its dates call for (docs/reference/rotation.md).

`rotation.py` is the table and the rules, `orders.py` what a person may ask for, both pure; `conductor.py` takes the
steps, through `api.py` and custody, and tells `journal.py` of each.
"""
