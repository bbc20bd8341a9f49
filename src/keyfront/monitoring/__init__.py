"""Metrics from what edges counted. Reads reports, never stands in the way of a request."""
