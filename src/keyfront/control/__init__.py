"""The control plane: CloudFront's REST-XML API over a store, and the publication of snapshots to the edges.

`wire/` turns HTTP and XML into a `call.py` Call and back. `service.py` runs the call in one transaction of `store/`:
`iam/` decides whether its caller may make it, `operations/` carries it out, `audit/` records it, and `publish/`
compiles what changed. `identity/` holds users and credentials; `keys/` monitors the keys in use and schedules
rotations. `process.py` composes all of these. The control plane knows edges only by their reports.
"""
