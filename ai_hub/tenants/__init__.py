"""Removal of a tenant from the registry, TimescaleDB, Redis, exports, keys and logins."""
