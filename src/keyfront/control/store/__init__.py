"""The database: schema, transactions, leases, SQLite and PostgreSQL."""
