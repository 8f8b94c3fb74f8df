"""The end of a tenant, wherever it has something: the registry, TimescaleDB, Redis, exports, keys."""
