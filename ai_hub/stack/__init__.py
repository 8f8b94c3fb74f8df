"""The embedded stack: TimescaleDB, Redis, S3 and MLflow servers without Docker."""
