"""Signers for applications: one that follows a key group's rotation, one that calls the agent."""
