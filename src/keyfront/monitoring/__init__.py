"""Metrics from the counters of edges, and queries over their logs. Reads what edges wrote; never delays a request."""
