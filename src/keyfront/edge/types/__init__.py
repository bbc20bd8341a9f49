"""The values that pass through an edge. No rule, no socket."""
