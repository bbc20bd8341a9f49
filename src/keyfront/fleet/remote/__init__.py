"""The feed over HTTPS: edges on other machines follow their control plane over one WebSocket each, without a shared
file system.

`messages.py` is the protocol, `content.py` the content of a snapshot and what changed in it, `manifest.py` the
signatures, `authority.py` the certificates and tokens; these are pure. `hub.py` is the control plane's side, with
`channel.py` for what a region's edges get, and `connected_edge.py` and `edge_reports.py` for what they report.
`follower.py` is the edge's, `enrollment.py` its files, `connect.py` its connections.
"""

from __future__ import annotations

from pathlib import Path

EDGE_FILE = Path("identity", "edge.json")
"""The file in a data folder that makes it an enrolled edge's (`enrollment.py`)."""


def is_enrolled(data: Path) -> bool:
    """Whether the data folder `data` belongs to an enrolled edge."""
    return (data / EDGE_FILE).exists()
