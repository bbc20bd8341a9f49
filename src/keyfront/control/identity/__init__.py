"""Who calls: users, credentials, and the key that seals their secrets."""
