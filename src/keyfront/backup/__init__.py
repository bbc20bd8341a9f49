"""Encrypted archives of an installation: create, verify, retain, restore, drill.

`archive/` is the format: the container, age encryption, tables as JSON lines, files, keys. `capture.py` takes a
consistent archive of a running installation; `create.py` writes it to its targets and prunes by `retention.py`;
`restore/` plans and carries out a restore; `drill.py` proves that a restore works. The format is described in
docs/reference/backup.md. The package depends on the store and custody. It never runs inside a request.
"""
