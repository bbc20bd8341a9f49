"""The edge: what viewers meet. Checks signatures, serves from the cache, fetches from origins, writes the access log.

`rules/` decides and is pure, `serving/` carries the decisions out, `cache/` and `origin/` are its two sides, `http/`
speaks to viewers. `worker.py` runs one process, `follower.py` applies snapshots. An edge needs no control plane to
run: it keeps serving the last snapshot that it accepted.
"""
