"""The store of record: PostgreSQL with pgvector, embedded or external."""
