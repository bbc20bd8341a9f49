"""The value types that pass through an edge. No rules, no sockets."""
