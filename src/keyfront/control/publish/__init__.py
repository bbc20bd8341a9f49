"""From the store to the edges: compiled snapshots and what replicas have published."""
