"""The path of a request through the edge: decide, look up, fill, respond, log."""
