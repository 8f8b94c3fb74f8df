"""The read path of inference: Redis, then TimescaleDB, then the calendar alone."""
