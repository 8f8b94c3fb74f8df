"""Backups of everything that AI Hub keeps, and their way back into empty servers.

TimescaleDB, MLflow's databases, Feast's registry, the bucket of models and what was exported; what is in
Redis is computed from TimescaleDB. Guide: docs/backup.md.
"""
