"""Durable jobs on PostgreSQL: deferred in a transaction and done by workers."""
