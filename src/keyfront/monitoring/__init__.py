"""Metrics from the counters of edges. Reads only reports, and never delays a request."""
