"""The restore: what is there now, the plan, compromised keys, and carrying the plan out."""
