"""Features for inference: from Redis, else TimescaleDB, else the calendar alone."""
