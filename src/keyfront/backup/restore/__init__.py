"""The restore: the current state, the plan, compromised keys, and the execution of the plan."""
