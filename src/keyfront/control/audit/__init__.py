"""The audit log: records and their hash chain, the group-commit writer, search, and events from rotations."""
