"""Compiles snapshots from the store, publishes them, and follows their deployment."""
