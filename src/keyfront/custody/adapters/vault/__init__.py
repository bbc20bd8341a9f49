"""Keys in Vault or OpenBao: the KV and transit engines."""
