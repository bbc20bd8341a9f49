"""What an edge writes about requests: the access log and counters."""
