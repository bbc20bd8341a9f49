"""The edge's output about requests: the access log and counters."""
