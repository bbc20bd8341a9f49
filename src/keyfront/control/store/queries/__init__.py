"""The statements of a transaction, one module for each group of tables."""
