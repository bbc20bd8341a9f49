"""Keys in use: usage from the edges, findings, and the scheduler of rotations."""
