"""The feed over NATS JetStream: control planes publish signed snapshots to a key-value bucket, edges follow it, and
their reports go back through a stream. NATS carries and stores bytes and is trusted with nothing else.

`names.py` is the subjects and keys, `head.py` what edges read first, `sealed.py` the signed messages of both sides,
`joining.py` the encryption of an enrollment; these are pure. `access.py` is how to reach NATS, `connection.py` a
connection. `hub.py` is the control plane's side, with `bucket.py` for what it stores. `follower.py` is the edge's side,
`join.py` its enrollment. What a snapshot is signed with, and who is an edge, is the same as over HTTPS (`remote`).
"""
