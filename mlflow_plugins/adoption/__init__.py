"""Registries that plain MLflow made before: told from ours, and brought into one consistent state."""
