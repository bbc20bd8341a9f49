"""The cache: memory, disk, and shared-memory tiers, fills in progress, and purges."""
