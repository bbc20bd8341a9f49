"""Callers of the API: users, credentials, and the key that encrypts their secrets."""
