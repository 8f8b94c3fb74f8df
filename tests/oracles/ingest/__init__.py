"""Slow, obvious truths about ingested series."""
