"""Postgres as the stores use it: sessions, Arrow reads, uploads, writes."""
