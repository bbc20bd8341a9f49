"""Metrics from what edges counted. Never in the way of a request."""
