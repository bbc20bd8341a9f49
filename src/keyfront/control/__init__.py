"""The control plane: CloudFront's REST-XML API over a store, and what publishes snapshots to the edges.

`wire/` turns HTTP and XML into a `call.py` Call and back; `iam/` decides who may make it; `operations/` carries it
out in one transaction of `store/`, together with its record in `audit/`; `publish/` compiles what changed.
`identity/` holds users and credentials, `keys/` watches the keys in use and schedules rotations. `process.py` puts
these together. The control plane knows an edge only by the reports that it receives.
"""
