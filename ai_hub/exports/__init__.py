"""Exports of features to Parquet, as durable jobs."""
