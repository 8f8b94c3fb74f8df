"""Newest rows of Postgres into Redis, as the bytes that Feast's own store would write."""
