"""How snapshots reach the edges, and how edges report what they apply and count.

`feed.py` holds the rules (which snapshot to accept) and is pure; `file_feed.py` carries bytes through a folder.
`heartbeat.py` is how processes of one machine show that they are alive.
"""
