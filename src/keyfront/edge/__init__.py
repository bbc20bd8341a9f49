"""The edge: serves viewers. It checks signatures, serves from the cache, fetches from origins, and writes the access
log.

`rules/` makes the decisions and is pure; `serving/` carries them out; `cache/` and `origin/` provide the responses;
`http/` talks to viewers. `worker.py` runs one process, `follower.py` applies snapshots. An edge needs no control plane
to run: it continues to serve the last snapshot that it accepted.
"""
