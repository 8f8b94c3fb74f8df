"""Exports of features to Parquet: durable jobs, the worker that does them, and where the files go."""
