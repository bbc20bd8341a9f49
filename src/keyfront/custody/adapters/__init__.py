"""One adapter per URI scheme. Adapters never import each other."""
