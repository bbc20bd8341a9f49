"""Distribution of snapshots to the edges, and the edges' reports on what they apply and count.

`feed.py` contains the rules (which snapshot to accept) and is pure; `file_feed.py` carries bytes through a folder.
`heartbeat.py` contains the heartbeats of the processes on one machine.
"""
