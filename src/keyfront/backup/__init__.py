"""Encrypted archives of an installation: create, verify, retain, restore, drill.

`archive/` is the format: the container, age encryption, tables as JSON lines, files, keys. `capture.py` takes a
consistent archive of a running installation; `create.py` writes it to its targets and prunes by `retention.py`;
`restore/` plans and carries out the way back; `drill.py` proves that a restore works. The format in prose:
docs/reference/backup.md. The room knows the store and custody. It never runs inside a request.
"""
