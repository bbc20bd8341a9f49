"""Keys in files, encrypted under a key-encryption key."""
